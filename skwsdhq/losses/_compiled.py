"""Hinges that numba compiles, see ``_hinge``: each is made, counted and forgotten."""

import numpy as np

from ..utils.compiled import compiled

__all__ = ["count_active", "try_out"]


@compiled
def count_active(similarities, positive, margin, margin_row, counts, first, active, per_pair):  # type: ignore[no-untyped-def]
    """Put the sum of its hinges in the place of each similarity, and count the active ones.

    To the last bit as numpy does it in ``_hinge``. ``active`` (r, C) holds zeros before.
    """
    n_rows, n_negatives = similarities.shape
    hinges = np.empty(n_negatives, similarities.dtype)
    zero, one = similarities.dtype.type(0), similarities.dtype.type(1)
    for n in range(n_rows):
        of_row, counted = similarities[n], active[n]
        hinges[:] = zero
        for pair in range(first[n], first[n] + counts[n]):
            margins, own = margin[margin_row[pair]], positive[pair]
            number = np.int32(0)  # as wide as the floats, or nothing goes side by side
            for j in range(n_negatives):
                hinge = margins[j] + of_row[j] - own
                # What is no number stays to be seen.
                hinges[j] += zero if hinge <= zero else hinge
                counted[j] += one if hinge > zero else zero
                number += np.int32(1) if hinge > zero else np.int32(0)
            per_pair[pair] = number
        of_row[:] = hinges


def try_out() -> None:
    """Call what is compiled here."""
    matrix, one = np.zeros((1, 1), np.float32), np.zeros(1, np.int64)
    number = np.zeros(1, np.float32)
    count_active(matrix.copy(), number, matrix, one, one, one, matrix.copy(), number)
