"""Whether results are equal as far as it is promised: but for ties, and for float32's rounding.

Products of matrices round differently by where arrays lie in memory, by the processor and by the
number of threads: ``TOLERANCE`` is some eight units in the last place of numbers around 1.
"""

import numpy as np

TOLERANCE = 1e-6


def assert_equal_neighbors(first, second, tolerance=TOLERANCE):
    """Two (similarities, ids): the same numbers, and the same ids but where these are ties."""
    (values, ids), (others, other_ids) = first, second
    assert ids.shape == other_ids.shape
    np.testing.assert_allclose(
        values, others, rtol=0, atol=tolerance * max(1, np.abs(values).max())
    )
    for row, row_ids, row_others in zip(values, ids, other_ids, strict=True):
        gaps = np.flatnonzero(np.diff(row) < -2 * tolerance) + 1
        # What follows the last gap may tie with rows that were not returned.
        groups = zip(np.split(row_ids, gaps)[:-1], np.split(row_others, gaps)[:-1], strict=True)
        for group, other in groups:
            assert set(group.tolist()) == set(other.tolist())


def assert_equal_codes(codes, others, embeddings, codebooks, tolerance=TOLERANCE):
    """The same codes, but where two stand equally well for an embedding."""
    assert codes.shape == others.shape
    assert codes.dtype == others.dtype
    for row in np.flatnonzero((codes != others).any(axis=1)):
        errors = [
            np.square(embeddings[row] - sum(codebooks[m, k] for m, k in enumerate(code))).sum()
            for code in (codes[row], others[row])
        ]
        assert abs(errors[0] - errors[1]) < 4 * tolerance
