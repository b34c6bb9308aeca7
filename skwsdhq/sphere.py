"""Vectors on the unit sphere: normalisation and means."""

import numpy as np

__all__ = ["normalize_rows", "spherical_mean"]

_BLOCK = 4096  # rows: a few megabytes, which stay in the cache from step to step


def normalize_rows(vectors: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Scale rows to unit length; leave a row of zeros as it is.

    Parameters
    ----------
    vectors : ndarray of shape (n, D)
        Any float dtype, which the result keeps.
    out : ndarray of shape (n, D), default=None
        Where to write the result, which may be ``vectors``; None is a new array.

    Returns
    -------
    ndarray of shape (n, D)
        Rows of length 1, or of zeros.

    Examples
    --------
    >>> import numpy as np
    >>> from skwsdhq.sphere import normalize_rows
    >>> normalize_rows(np.array([[3.0, 4.0], [0.0, 0.0]]))
    array([[0.6, 0.8],
           [0. , 0. ]])
    """
    unit = np.empty_like(vectors, order="C") if out is None else out
    for start in range(0, len(vectors), _BLOCK):  # so that no copy of all is made on the way
        rows = vectors[start : start + _BLOCK]
        # Scaling by the largest entry first keeps squares of huge and tiny rows in range.
        scale = np.abs(rows).max(axis=1, keepdims=True, initial=0)
        scaled = rows / np.where(scale > 0, scale, 1)
        norms = np.sqrt(np.einsum("nd,nd->n", scaled, scaled))[:, None]
        np.divide(scaled, np.where(norms > 0, norms, 1), out=unit[start : start + _BLOCK])
    return unit


def spherical_mean(vectors: np.ndarray, groups: np.ndarray, n_groups: int) -> np.ndarray:
    """Return the normalised mean of the vectors of each group.

    Parameters
    ----------
    vectors : ndarray of shape (n, D)
        Unit rows.
    groups : ndarray of shape (n,)
        Group of each row, from 0 to ``n_groups - 1``.
    n_groups : int
        Number of groups. A group without rows, or whose rows cancel out, gets zeros.

    Returns
    -------
    ndarray of shape (n_groups, D)
        Unit rows, or rows of zeros.

    Examples
    --------
    >>> import numpy as np
    >>> from skwsdhq.sphere import spherical_mean
    >>> rows = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    >>> spherical_mean(rows, np.array([0, 0, 1]), 2).round(3)
    array([[0.707, 0.707],
           [0.   , 1.   ]])
    """
    sums = np.zeros((n_groups, vectors.shape[1]), dtype=vectors.dtype)
    # Dividing by the sizes of the groups would not change the directions.
    np.add.at(sums, groups, vectors)  # for n: sums[groups[n]] += vectors[n]
    return normalize_rows(sums)
