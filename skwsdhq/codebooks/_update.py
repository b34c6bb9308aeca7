"""The best codebooks for given codes, from counts of codes and sums of vectors.

Both statistics add up over parts of the data, so that one part at a time need be at hand.
"""

from __future__ import annotations

import numpy as np

from ..utils.threads import on_one_thread, product
from ..utils.validation import check_number, check_whole
from ._init import sums_by_code
from .inputs import MAX_CODEWORDS, as_codes, as_embeddings, prefix_shares

__all__ = ["codebook_statistics", "solve_codebooks", "update_codebooks"]


def codebook_statistics(
    embeddings: np.ndarray, codes: np.ndarray, n_codewords: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return what the best codebooks for given codes depend on; that of parts of the data adds up.

    With B (n, M·K) the codes as one-hot rows, these are BᵀB and BᵀZ.

    Parameters
    ----------
    embeddings : ndarray of shape (n, D)
    codes : ndarray of shape (n, M)
    n_codewords : int
        K.

    Returns
    -------
    counts : ndarray of shape (M·K, M·K), float64
        How often codewords occur together; codeword k of codebook m is number m·K + k.
    sums : ndarray of shape (M·K, D), float64
        Sum of the embeddings that use a codeword.

    Examples
    --------
    >>> import numpy as np
    >>> counts, sums = codebook_statistics(np.array([[1.0], [2.0]]), np.array([[0], [0]]), 2)
    >>> counts, sums
    (array([[2., 0.],
           [0., 0.]]), array([[3.],
           [0.]]))
    """
    rows = as_embeddings(embeddings, is_finite=True)
    n_codewords = check_whole("n_codewords", n_codewords, 1, MAX_CODEWORDS)
    return _statistics(rows, as_codes(codes, n_codewords, n_samples=len(rows)), n_codewords)


def _statistics(
    rows: np.ndarray, codes: np.ndarray, n_codewords: int
) -> tuple[np.ndarray, np.ndarray]:
    n_codebooks = codes.shape[1]
    counts = np.zeros((n_codebooks, n_codewords, n_codebooks, n_codewords))
    diagonal = np.arange(n_codewords)
    wide = codes.T.astype(np.intp)  # m * K + codes would overflow in uint8
    for m in range(n_codebooks):
        counts[m, diagonal, m, diagonal] = np.bincount(wide[m], minlength=n_codewords)
        for other in range(m):
            # for n: counts[m, codes[n, m], other, codes[n, other]] += 1
            pairs = np.bincount(wide[m] * n_codewords + wide[other], minlength=n_codewords**2)
            counts[m, :, other] = pairs.reshape(n_codewords, n_codewords)
            counts[other, :, m] = counts[m, :, other].T
    size = n_codebooks * n_codewords
    sums = sums_by_code(rows, codes, n_codewords)
    if not np.isfinite(sums).all():
        as_embeddings(rows)  # says so
    return counts.reshape(size, size), sums


@on_one_thread
def solve_codebooks(
    counts: np.ndarray,
    sums: np.ndarray,
    n_codebooks: int,
    ridge: float = 1e-3,
    prefix_weight: float = 0.0,
    *,
    centre: bool = False,
) -> np.ndarray:
    """Solve for codebooks of least squared error: (counts + ridge·I)⁻¹ sums, in float64.

    Parameters
    ----------
    counts : ndarray of shape (M·K, M·K)
    sums : ndarray of shape (M·K, D)
        Both as by `codebook_statistics`, or sums of several such.
    n_codebooks : int
        M.
    ridge : float, default=1e-3
        Above 0: counts lack M − 1 ranks, since adding a vector to all codewords of one codebook
        and taking it from another's changes no sum.
    prefix_weight : float, default=0.0
        As in `update_codebooks`.
    centre : bool, default=False
        Whether the ridge pulls codes to the mean of the rows instead of to 0: better where rows
        have much in common. Where shorter codes count the first codebook holds the mean.

    Returns
    -------
    ndarray of shape (M, K, D), float64
        A codeword that nobody uses is 0.

    Examples
    --------
    >>> import numpy as np
    >>> solve_codebooks(np.diag([2.0, 0.0]), np.array([[3.0], [0.0]]), 1, ridge=1e-9).round(6)
    array([[[1.5],
            [0. ]]])
    """
    import torch

    ridge = check_number("ridge", ridge, above=0)
    counts, sums = np.asarray(counts, np.float64), np.asarray(sums, np.float64)
    n_codebooks = check_whole("n_codebooks", n_codebooks, 1)
    if sums.ndim != 2 or counts.shape != (len(sums), len(sums)) or len(sums) % n_codebooks:
        raise ValueError(
            f"counts {counts.shape} and sums {sums.shape} should be (M·K, M·K) and (M·K, D), "
            f"with M = n_codebooks = {n_codebooks}."
        )
    shape = (n_codebooks, len(sums) // n_codebooks, sums.shape[1])
    is_used = counts.diagonal().reshape(shape[:2]) > 0
    if centre:
        return _solve_centred(counts, sums, is_used, ridge, prefix_weight)
    shares = prefix_shares(prefix_weight, n_codebooks)
    if shares is not None:
        each = np.repeat(shares, shape[1])
        # for a, b: counts[a, b] *= number of codes that include both codebooks, with weights
        counts, sums = counts * np.minimum(each[:, None], each), sums * each[:, None]
    # A row has one codeword of the first codebook, so that its block is diagonal and can be
    # eliminated by division; a Cholesky factor is needed of the remaining blocks only.
    k = shape[1]
    scale = 1 / (counts.diagonal()[:k] + ridge)  # (K,)
    first = scale[:, None] * sums[:k]
    if n_codebooks == 1:
        return first.reshape(shape)
    half = np.sqrt(scale)[:, None] * counts[:k, k:]
    rest = counts[k:, k:] - product(half.T, half)
    rest[np.diag_indices_from(rest)] += ridge
    factor, failed = torch.linalg.cholesky_ex(torch.from_numpy(rest))
    if failed:
        raise ValueError(
            f"ridge={ridge:g} is too small for counts up to {counts.max():g}; raise it."
        )
    solved = np.empty_like(sums)
    half *= np.sqrt(scale)[:, None]
    right = sums[k:] - product(half.T, sums[:k])
    solved[k:] = torch.cholesky_solve(torch.from_numpy(right), factor).numpy()
    solved[:k] = first - product(half, solved[k:])
    solved = solved.reshape(shape)
    return _balance(solved, is_used) if shares is None else solved


def _solve_centred(
    counts: np.ndarray, sums: np.ndarray, is_used: np.ndarray, ridge: float, prefix_weight: float
) -> np.ndarray:
    """Solve for codebooks of rows less their mean, which the ridge then does not pull to 0."""
    n_codebooks, n_codewords = is_used.shape
    n_rows, total = counts.diagonal()[:n_codewords].sum(), sums[:n_codewords].sum(axis=0)
    mean = total / max(n_rows, 1)
    # Bᵀ(Z − 1 meanᵀ), since Bᵀ1 counts how often each codeword is used.
    centred_sums = sums - counts.diagonal()[:, None] * mean
    solved = solve_codebooks(counts, centred_sums, n_codebooks, ridge, prefix_weight)
    if prefix_weight == 0 and is_used.any(axis=1).all():  # as `_balance` has it
        parts = 1 / is_used.sum(axis=1)
        solved += is_used[:, :, None] * (parts / parts.sum())[:, None, None] * mean
    else:
        solved[0][is_used[0]] += mean
    return solved


def _balance(codebooks: np.ndarray, is_used: np.ndarray) -> np.ndarray:
    """Return codebooks (M, K, D) that decode to the same and whose used codewords have one sum.

    The exact solution with a ridge has one as well. Rounding spoils it: the counts say nothing
    about shifts of a whole codebook against another, so that these come out divided by the ridge.
    """
    n_used = is_used.sum(axis=1)[:, None]  # (M, 1)
    if (n_used == 0).any():
        return codebooks
    sums = (codebooks * is_used[:, :, None]).sum(axis=1)  # (M, D)
    common = (sums / n_used).sum(axis=0) / (1 / n_used).sum()
    shifts = (common - sums) / n_used  # add up to 0
    codebooks += shifts[:, None] * is_used[:, :, None]
    return codebooks


def update_codebooks(
    embeddings: np.ndarray,
    codes: np.ndarray,
    n_codewords: int,
    *,
    ridge: float = 1e-3,
    prefix_weight: float = 0.0,
) -> np.ndarray:
    """Return the codebooks of least squared error for given codes.

    C = (BᵀB + ridge·I)⁻¹ BᵀZ, with B the codes as one-hot rows. The same codebooks are best in
    every metric of full rank: it cancels.

    Parameters
    ----------
    embeddings : ndarray of shape (n, D)
    codes : ndarray of shape (n, M)
    n_codewords : int
        K.
    ridge : float, default=1e-3
        Above 0.
    prefix_weight : float, default=0.0
        How much the squared error of each shorter code (the first 1, 2, ... M − 1 codewords)
        counts beside that of the whole code.

    Returns
    -------
    ndarray of shape (M, K, D)
        float64 for float64 embeddings, else float32. A codeword that nobody uses is 0, see
        `refill_empty_codewords`.

    References
    ----------
    Wang et al., AAAI 2021, the update of the codebooks.

    Examples
    --------
    >>> import numpy as np
    >>> z = np.array([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0]])
    >>> update_codebooks(z, np.array([[0], [0], [1]]), 2, ridge=1e-9).round(6)
    array([[[2., 0.],
            [0., 5.]]])
    """
    rows = as_embeddings(embeddings, is_finite=True)
    n_codewords = check_whole("n_codewords", n_codewords, 1, MAX_CODEWORDS)
    codes = as_codes(codes, n_codewords, n_samples=len(rows))
    counts, sums = _statistics(rows, codes, n_codewords)
    solved = solve_codebooks(counts, sums, codes.shape[1], ridge, prefix_weight)
    return solved.astype(rows.dtype)
