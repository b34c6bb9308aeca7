"""First codebooks: k-means on what is left of the vectors, or on slices of their dimensions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..utils.threads import product

__all__ = ["refill", "residual_codebooks", "subspace_codebooks", "sums_by_code"]

CHUNK_ROWS = 2048
ROWS_PER_CODEWORD = 256  # more rows than that make k-means slower, but hardly better


def sums_by_code(rows: np.ndarray, codes: np.ndarray, n_codewords: int) -> np.ndarray:
    """Return the float64 sums (M·K, D) of the rows that use each codeword.

    for n: for m: sums[m * K + codes[n, m]] += rows[n]
    """
    from scipy.sparse import csc_array  # heavy: those that only encode do without

    n_rows, n_codebooks = codes.shape
    sums = np.zeros((n_codebooks * n_codewords, rows.shape[1]))
    # m * K + codes would overflow in uint8.
    columns = codes.astype(np.int64) + np.arange(n_codebooks) * n_codewords
    # Some 64 rows for each codeword are few enough to be added in their own precision.
    step = max(CHUNK_ROWS, 64 * n_codewords)
    for a in range(0, n_rows, step):
        chunk = columns[a : a + step]
        indptr = np.arange(len(chunk) + 1) * n_codebooks
        one_hot = csc_array(
            (np.ones(chunk.size, rows.dtype), chunk.ravel(), indptr),
            shape=(len(sums), len(chunk)),
        )
        sums += one_hot @ rows[a : a + step]
    return sums


def refill(
    codewords: np.ndarray,
    is_empty: np.ndarray,
    residuals: np.ndarray,
    of_row: np.ndarray,
    taken: np.ndarray,
    tie_break: np.ndarray,
) -> np.ndarray:
    """Put the codewords (K, D) that no row uses where rows fit worst.

    Rows go by decreasing error, equal ones in the order of `tie_break`. An empty codeword becomes
    the row's present codeword plus what is missing, so that choosing it leaves no error. Rows
    that were taken before, or fit already, are passed over: `taken` is brought up to date.
    """
    empty = np.flatnonzero(is_empty)
    errors = np.einsum("nd,nd->n", residuals, residuals)
    errors[taken] = 0
    worst = tie_break[np.argsort(-errors[tie_break], kind="stable")[: len(empty)]]
    worst = worst[errors[worst] > 0]
    # There may be fewer rows with an error than empty codewords: the rest stays empty.
    codewords = codewords.copy()
    codewords[empty[: len(worst)]] = codewords[of_row[worst]] + residuals[worst]
    taken[worst] = True
    return codewords


def _nearest(rows: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Return the index (n,) of the nearest center; the lowest on ties."""
    nearest = np.empty(len(rows), np.intp)
    # The nearest is the least ‖c‖² / 2 − x·c: the length of x is the same for all centers.
    half_norms = np.einsum("kd,kd->k", centers, centers) / 2
    step = max(32, (1 << 18) // len(centers))
    for a in range(0, len(rows), step):
        costs = product(rows[a : a + step], centers.T)
        np.subtract(half_norms, costs, out=costs).argmin(axis=1, out=nearest[a : a + step])
    return nearest


def _kmeans(
    rows: np.ndarray, n_codewords: int, n_iter: int, random: np.random.RandomState
) -> np.ndarray:
    """Return centers (K, D) by Lloyd's iterations from random rows."""
    n_rows = len(rows)
    if n_rows > ROWS_PER_CODEWORD * n_codewords:
        chosen = random.choice(n_rows, ROWS_PER_CODEWORD * n_codewords, replace=False)
        rows = rows[np.sort(chosen)]
        n_rows = len(rows)
    centers = rows[random.choice(n_rows, n_codewords, replace=False)]
    before = None
    for _ in range(n_iter):
        nearest = _nearest(rows, centers)
        if before is not None and (nearest == before).all():
            break  # nothing moves any more
        before = nearest
        counts = np.bincount(nearest, minlength=n_codewords)
        sums = sums_by_code(rows, nearest[:, None], n_codewords)
        is_empty = counts == 0
        means = (sums / np.maximum(counts, 1)[:, None]).astype(rows.dtype)
        centers = np.where(is_empty[:, None], centers, means)
        if is_empty.any():
            residuals = rows - centers[nearest]
            taken = np.zeros(n_rows, np.bool_)
            tie_break = random.permutation(n_rows)
            centers = refill(centers, is_empty, residuals, nearest, taken, tie_break)
    return centers


def residual_codebooks(
    rows: np.ndarray,
    n_codebooks: int,
    n_codewords: int,
    random: np.random.RandomState,
    n_iter: int = 10,
) -> np.ndarray:
    """Return codebooks (M, K, D), each by k-means on what those before it leave of the rows."""
    codebooks = np.empty((n_codebooks, n_codewords, rows.shape[1]), rows.dtype)
    for m in range(n_codebooks):
        codebooks[m] = _kmeans(rows, n_codewords, n_iter, random)
        if m < n_codebooks - 1:
            rows = rows - codebooks[m][_nearest(rows, codebooks[m])]
    return codebooks


def subspace_codebooks(
    rows: np.ndarray,
    n_codebooks: int,
    n_codewords: int,
    random: np.random.RandomState,
    n_iter: int = 10,
) -> np.ndarray:
    """Return codebooks (M, K, D), each by k-means on its share of the dimensions, else zero."""
    codebooks = np.zeros((n_codebooks, n_codewords, rows.shape[1]), rows.dtype)
    for m, dims in enumerate(np.array_split(np.arange(rows.shape[1]), n_codebooks)):
        codebooks[m][:, dims] = _kmeans(
            np.ascontiguousarray(rows[:, dims]), n_codewords, n_iter, random
        )
    return codebooks


METHODS: dict[str, Callable[..., np.ndarray]] = {
    "residual": residual_codebooks,
    "subspace": subspace_codebooks,
}
