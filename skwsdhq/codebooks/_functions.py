"""Additive codes: codebooks learned from vectors, vectors encoded by them, codes decoded.

A code names one codeword of each codebook, and stands for their sum. n samples, D dimensions,
M codebooks of K codewords; codes are (n, M), codebooks (M, K, D). All of it is numpy; float64 in
is computed in float64, everything else in float32, and equations are solved in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..utils.threads import on_one_thread, product
from ..utils.validation import check_choice, check_number, check_whole
from ._encode import Lengths, choose_codes
from ._init import METHODS, refill
from ._update import codebook_statistics, solve_codebooks, update_codebooks
from .decoding import decode_rows
from .inputs import (
    MAX_CODEWORDS,
    MIN_ROWS,
    as_codebooks,
    as_codes,
    as_embeddings,
    as_metric,
    centred,
    code_dtype,
    factor_of,
    in_range,
    most_rows,
    prefix_shares,
)

__all__ = [
    "codebook_statistics",
    "decode",
    "encode",
    "init_codebooks",
    "learn_codebooks",
    "quantization_error",
    "refill_empty_codewords",
    "solve_codebooks",
    "update_codebooks",
]

CHUNK_ROWS = 4096
# Ridge that learning begins with, as a share of the mean number of rows of a codeword.
FIRST_RIDGE = 0.2
# Noise on codewords that it begins with, as a share of the deviation of a dimension of the errors.
FIRST_NOISE = 0.2
# Rows for each codeword that are enough for a turn before the last third.
ROWS_PER_CODEWORD = 40


@on_one_thread
def init_codebooks(
    embeddings: np.ndarray,
    n_codebooks: int,
    n_codewords: int,
    *,
    method: str = "residual",
    random_state: Any = None,
) -> np.ndarray:
    """Make codebooks to start from.

    Parameters
    ----------
    embeddings : ndarray of shape (n, D)
    n_codebooks : int
        M, at least 1.
    n_codewords : int
        K, from 1 to 65536 and at most n.
    method : {"residual", "subspace"}, default="residual"
        Each codebook is k-means on what the ones before it leave of the vectors; or k-means on
        its own slice of D / M dimensions, and zero in the others.
    random_state : int, RandomState or None, default=None
        Chooses the first centers (and, of more than 256·K rows, the ones that are looked at).

    Returns
    -------
    ndarray of shape (M, K, D), float32
        Finite even where fewer than K rows are distinct; some codewords are then equal.

    Raises
    ------
    ValueError
        For fewer rows than codewords, or fewer dimensions than subspaces.

    References
    ----------
    Chen, Guan and Wang, Approximate Nearest Neighbor Search by Residual Vector Quantization,
    Sensors 2010; Jégou, Douze and Schmid, Product Quantization for Nearest Neighbor Search,
    PAMI 2011.

    Examples
    --------
    >>> import numpy as np
    >>> codebooks = init_codebooks(np.array([[0.0, 1.0], [4.0, 1.0]]), 1, 2, random_state=0)
    >>> sorted(codebooks[0].tolist())
    [[0.0, 1.0], [4.0, 1.0]]
    """
    from sklearn.utils import check_random_state

    embeddings = as_embeddings(embeddings)
    n_codebooks, n_codewords = _check_sizes(embeddings, n_codebooks, n_codewords)
    _check_method(method, embeddings.shape[1], n_codebooks)
    rows, mean, factor = centred(embeddings, if_far=True)
    codebooks = METHODS[method](rows, n_codebooks, n_codewords, check_random_state(random_state))
    return _uncentred(codebooks, mean, factor, method)


@on_one_thread
def encode(  # noqa: PLR0913 - options by keyword, as the field has them
    embeddings: np.ndarray,
    codebooks: np.ndarray,
    *,
    metric: np.ndarray | None = None,
    n_sweeps: int = 3,
    beam_size: int | None = None,
    codes: np.ndarray | None = None,
    prefix_weight: float = 0.0,
    length_weight: float = 0.0,
    random_state: Any = None,
) -> np.ndarray:
    """Encode embeddings: choose codes whose sums of codewords are near them.

    Lowers (z − Σ_m c_m)ᵀ metric (z − Σ_m c_m) for each row by iterated conditional modes: a sweep
    visits every codebook and takes the best of its codewords given the others'. No sweep ever
    raises the error; among equal codewords the lowest index is taken.

    Parameters
    ----------
    embeddings : ndarray of shape (n, D)
    codebooks : ndarray of shape (M, K, D)
    metric : ndarray of shape (D, D), default=None
        Symmetric and positive definite (one that is only semidefinite gets a millionth of its
        mean diagonal added); None is Euclidean.
    n_sweeps : int, default=3
        At least 0. Three are as good as ten on all data tried.
    beam_size : int, default=None
        How many beginnings of a code are kept while codebooks are gone through in turn, before
        the sweeps. None or 1 keeps the best only. More is better and slower, in proportion.
    codes : ndarray of shape (n, M), default=None
        Codes to improve by the sweeps, in place of a new start; then beam_size is not used.
    prefix_weight : float, default=0.0
        How much the error of each shorter code, of the first 1, 2, ... M − 1 codewords, counts
        beside that of the whole code.
    length_weight : float, default=0.0
        How much it counts that the sum r of a code's codewords is as long as its row z: this times
        (‖r‖² − ‖z‖²)² / ‖z‖² is added to the squared error. Least error makes rows short that the
        codebooks fit badly, and by inner products these are then found too late.
    random_state : int, RandomState or None, default=None
        The order of each sweep is its next ``permutation(M)``, the same for all rows.

    Returns
    -------
    ndarray of shape (n, M), uint8, or uint16 where K > 256
        Codes of the rows, in their order.

    References
    ----------
    Besag, On the Statistical Analysis of Dirty Pictures, JRSS B 1986 (ICM); Babenko and
    Lempitsky, Additive Quantization for Extreme Vector Compression, CVPR 2014 (beam search).

    Examples
    --------
    >>> import numpy as np
    >>> codebooks = np.array([[[0.0, 0.0], [4.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]])
    >>> encode(np.array([[3.9, 1.2], [0.3, 0.2]]), codebooks)
    array([[1, 1],
           [0, 0]], dtype=uint8)
    """
    from sklearn.utils import check_random_state

    rows = as_embeddings(embeddings)
    codebooks = as_codebooks(codebooks, rows.shape[1])
    n_codebooks, n_codewords, n_dims = codebooks.shape
    n_sweeps = check_whole("n_sweeps", n_sweeps, 0)
    if beam_size is not None:
        beam_size = check_whole("beam_size", beam_size, 1)
    metric = as_metric(metric, n_dims)
    if codes is not None:
        codes = as_codes(codes, n_codewords, n_samples=len(rows), n_codebooks=n_codebooks)
    dtype = np.result_type(rows, codebooks)
    rows, codebooks = rows.astype(dtype, copy=False), codebooks.astype(dtype, copy=False)
    random = check_random_state(random_state)
    # The same orders for all rows, so that a code does not depend on the rows around it.
    orders = [random.permutation(n_codebooks) for _ in range(n_sweeps)]
    shares = prefix_shares(prefix_weight, n_codebooks)
    length_weight = check_number("length_weight", length_weight, minimum=0)
    rows, codebooks, metric, shift = in_range(rows, codebooks, metric, shares is not None)
    if shares is not None:
        shares = shares.astype(codebooks.dtype)
    # zᵀ metric c for all z is a plain product with metric·c: only codewords need the metric.
    duals = codebooks
    if metric is not None:
        flat = product(codebooks.reshape(-1, n_dims).astype(np.float64), metric)
        duals = flat.astype(codebooks.dtype).reshape(codebooks.shape)
    kind = code_dtype(n_codewords)
    lengths = None
    if length_weight:
        # As large as errors are in the metric.
        scale = 1.0 if metric is None else float(np.trace(metric)) / n_dims
        lengths = Lengths(codebooks, shift, length_weight * scale)
    return choose_codes(
        rows, codebooks, duals, orders, beam_size, codes, kind, shares=shares, lengths=lengths
    )


def decode(codes: np.ndarray, codebooks: np.ndarray) -> np.ndarray:
    """Decode codes: sum the codewords that they name.

    Parameters
    ----------
    codes : ndarray of shape (n, M)
    codebooks : ndarray of shape (M, K, D)

    Returns
    -------
    ndarray of shape (n, D)
        float64 for float64 codebooks, else float32.

    Raises
    ------
    ValueError
        When a code isn't a number of a codeword.

    Examples
    --------
    >>> import numpy as np
    >>> decode(np.array([[1, 0]]), np.array([[[1.0, 0.0], [2.0, 0.0]], [[0.0, 5.0], [0.0, 7.0]]]))
    array([[2., 5.]])
    """
    codebooks = as_codebooks(codebooks)
    codes = as_codes(codes, codebooks.shape[1], n_codebooks=len(codebooks))
    return decode_rows(codes, codebooks)


def quantization_error(
    embeddings: np.ndarray,
    codes: np.ndarray,
    codebooks: np.ndarray,
    *,
    metric: np.ndarray | None = None,
) -> float:
    """Return the mean squared error of the codes of rows, (z − r)ᵀ metric (z − r).

    Parameters
    ----------
    embeddings : ndarray of shape (n, D)
    codes : ndarray of shape (n, M)
    codebooks : ndarray of shape (M, K, D)
    metric : ndarray of shape (D, D), default=None
        As in `encode`; None is Euclidean, a sum over dimensions.

    Returns
    -------
    float
        0.0 for no rows.

    Examples
    --------
    >>> import numpy as np
    >>> quantization_error(np.array([[3.0, 4.0]]), np.array([[0]]), np.zeros((1, 1, 2)))
    25.0
    """
    rows = as_embeddings(embeddings)
    codebooks = as_codebooks(codebooks, rows.shape[1])
    codes = as_codes(codes, codebooks.shape[1], n_samples=len(rows), n_codebooks=len(codebooks))
    metric = as_metric(metric, rows.shape[1])
    total = 0.0
    for a in range(0, len(rows), CHUNK_ROWS):
        error = rows[a : a + CHUNK_ROWS] - decode_rows(codes[a : a + CHUNK_ROWS], codebooks)
        if error.dtype == np.float32 and np.abs(error).max(initial=0) > 1e15:
            error = error.astype(np.float64)  # squares of which float32 does not hold
        weighted = error if metric is None else error @ metric
        total += float(np.einsum("nd,nd->n", error, weighted).sum(dtype=np.float64))
    return total / max(1, len(rows))


def refill_empty_codewords(
    embeddings: np.ndarray, codebooks: np.ndarray, codes: np.ndarray, *, random_state: Any = None
) -> np.ndarray:
    """Move codewords that no row uses to where rows fit worst.

    The rows of largest squared error come first. An empty codeword becomes such a row's present
    codeword of that codebook plus the row's whole error: choosing it would meet the row exactly.
    No row serves twice, nor one without error. Codewords left over stay as they are.

    Parameters
    ----------
    embeddings : ndarray of shape (n, D)
    codebooks : ndarray of shape (M, K, D)
    codes : ndarray of shape (n, M)
    random_state : int, RandomState or None, default=None
        Order of rows of equal error.

    Returns
    -------
    ndarray of shape (M, K, D), a copy
        Codewords that are in use are unchanged.

    Examples
    --------
    >>> import numpy as np
    >>> z = np.array([[0.0], [1.0], [9.0]])
    >>> refill_empty_codewords(z, np.array([[[1.0], [7.0]]]), np.array([[0], [0], [0]]))
    array([[[1.],
            [9.]]])
    """
    from sklearn.utils import check_random_state

    rows = as_embeddings(embeddings)
    codebooks = as_codebooks(codebooks, rows.shape[1]).copy()
    n_codebooks, n_codewords, _ = codebooks.shape
    codes = as_codes(codes, n_codewords, n_samples=len(rows), n_codebooks=n_codebooks)
    used = [np.bincount(codes[:, m], minlength=n_codewords) > 0 for m in range(n_codebooks)]
    # Residuals of all rows take as long as decoding them: most often nothing is empty.
    if all(u.all() for u in used) or len(rows) == 0:
        return codebooks
    residuals = rows - decode_rows(codes, codebooks)
    taken = np.zeros(len(rows), np.bool_)
    tie_break = check_random_state(random_state).permutation(len(rows))
    for m in range(n_codebooks):
        if not used[m].all():
            codebooks[m] = refill(codebooks[m], ~used[m], residuals, codes[:, m], taken, tie_break)
    return codebooks


@on_one_thread
def learn_codebooks(  # noqa: PLR0913 - options by keyword, as the field has them
    embeddings: np.ndarray,
    n_codebooks: int,
    n_codewords: int,
    *,
    metric: np.ndarray | None = None,
    n_iter: int = 20,
    n_sweeps: int = 3,
    beam_size: int | None = 8,
    method: str = "residual",
    ridge: float = 0.03,
    prefix_weight: float = 0.0,
    random_state: Any = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Learn codebooks and codes, by turns of encoding and of closed-form codebooks.

    Rows are centred first: a ridge would pull codewords to 0 and not to the rows' mean. In the end
    the first codebook holds that mean. The closed form begins with a large ridge, which falls to
    `ridge` in the last turn, and with noise on the codewords, which falls to none. Both lead to a
    lower error. Before the last third of the turns half the beam does as well as the whole, and a
    random part of many rows as well as all.

    Parameters
    ----------
    embeddings : ndarray of shape (n, D)
        Of more than 512 rows for each codeword, so many at random are learned from.
    n_codebooks, n_codewords : int
        M, and K, which is at most n.
    metric : ndarray of shape (D, D), default=None
        In which codes are chosen, as in `encode`.
    n_iter : int, default=20
        Turns, at least 0.
    n_sweeps : int, default=3
        As in `encode`.
    beam_size : int, default=8
        As in `encode`, from which None is taken as well. A beam is worth a longer training.
    method : {"residual", "subspace"}, default="residual"
        Start with one codebook after the other, each by k-means on what a beam search leaves, all
        fitted anew each time; or with k-means on slices of the dimensions (`init_codebooks`).
    ridge : float, default=0.03
        As in `update_codebooks`. With few rows for each codeword less of it lets codewords grow
        against each other, and encoding no longer finds the codes that they were made for.
    prefix_weight : float, default=0.0
        As in `encode`, for codes and codebooks: above 0 the first codewords of a code are a code
        that is useful by itself.
    random_state : int, RandomState or None, default=None

    Returns
    -------
    codebooks : ndarray of shape (M, K, D), float32
        The first holds the rows' mean.
    codes : ndarray of shape (n, M)
        Of the embeddings, by these codebooks.

    Raises
    ------
    ValueError
        For fewer rows than codewords, and as the functions that it calls.

    Notes
    -----
    float64 embeddings are learned from in float32.

    Examples
    --------
    >>> import numpy as np
    >>> z = np.random.default_rng(0).normal(size=(100, 4))
    >>> codebooks, codes = learn_codebooks(z, 2, 16, random_state=0)
    >>> codebooks.shape, codes.shape, codes.dtype
    ((2, 16, 4), (100, 2), dtype('uint8'))
    """
    from sklearn.utils import check_random_state

    random = check_random_state(random_state)
    embeddings = as_embeddings(embeddings)
    n_codebooks, n_codewords = _check_sizes(embeddings, n_codebooks, n_codewords)
    rows, mean, factor = centred(_some(embeddings, most_rows(n_codewords), random))
    n_iter = check_whole("n_iter", n_iter, 0)
    ridge = check_number("ridge", ridge, above=0)
    _check_method(method, rows.shape[1], n_codebooks)
    metric = as_metric(metric, rows.shape[1])
    if beam_size is not None:
        beam_size = check_whole("beam_size", beam_size, 1)
    options = {
        "metric": metric,
        "n_sweeps": n_sweeps,
        "prefix_weight": prefix_weight,
        "random_state": random,
    }
    first = {**options, "beam_size": None if beam_size is None else -(-beam_size // 2)}
    last = {**options, "beam_size": beam_size}
    few = min(len(rows), max(ROWS_PER_CODEWORD * n_codewords, MIN_ROWS))
    # A part of many rows does for the start, and for the turns before the last third.
    part = _some(rows, few, random)
    if method == "residual":
        codebooks, codes = _staged(part, n_codebooks, n_codewords, ridge, first)
    else:
        codebooks = init_codebooks(
            part, n_codebooks, n_codewords, method=method, random_state=random
        )
        codes = encode(part, codebooks, **first)
        codebooks = update_codebooks(
            part, codes, n_codewords, ridge=ridge, prefix_weight=prefix_weight
        )
    for i in range(n_iter):
        # Codewords held back and shaken at first, less with every turn, end in better places.
        left = 1 - (i + 1) / n_iter
        is_late = 3 * i >= 2 * n_iter
        codebooks = refill_empty_codewords(part, codebooks, codes, random_state=random)
        if is_late and len(part) < len(rows):
            part = rows
        elif not is_late:
            part = _some(rows, few, random)
        codes = encode(part, codebooks, **(last if is_late else first))
        hold = FIRST_RIDGE * len(part) / n_codewords * left**2
        codebooks = update_codebooks(
            part, codes, n_codewords, ridge=ridge + hold, prefix_weight=prefix_weight
        )
        if left > 0:
            errors = part - decode_rows(codes, codebooks)
            shake = FIRST_NOISE * left * errors.std(axis=0)
            codebooks += (shake * random.standard_normal(codebooks.shape)).astype(np.float32)
    codebooks = _uncentred(codebooks, mean, factor)
    return codebooks, encode(embeddings, codebooks, **last)


def _some(rows: np.ndarray, n_chosen: int, random: np.random.RandomState) -> np.ndarray:
    """Return so many rows at random, in their order."""
    if n_chosen >= len(rows):
        return rows
    return rows[np.sort(random.choice(len(rows), n_chosen, replace=False))]


def _staged(
    rows: np.ndarray,
    n_codebooks: int,
    n_codewords: int,
    ridge: float,
    options: dict[str, Any],
) -> tuple[np.ndarray, np.ndarray]:
    """Learn codebooks and codes, one codebook more at a time, all fitted anew each time."""
    metric, random = options["metric"], options["random_state"]
    factor = None if metric is None else factor_of(metric)[0].astype(rows.dtype)
    codebooks = np.zeros((0, n_codewords, rows.shape[1]), rows.dtype)
    rest = rows
    for m in range(n_codebooks):
        # k-means sees the metric as well; its clusters' means are codewords in the rows' space.
        white = rest if factor is None else product(rest, factor)
        centers = init_codebooks(white, 1, n_codewords, random_state=random)
        if factor is not None:
            clusters = encode(white, centers)
            centers = update_codebooks(rest, clusters, n_codewords, ridge=ridge)
        codebooks = np.concatenate([codebooks, centers])
        codes = encode(rows, codebooks, **options)
        codebooks = update_codebooks(
            rows,
            codes,
            n_codewords,
            ridge=max(ridge, 1.0),
            prefix_weight=options["prefix_weight"],
        )
        if m < n_codebooks - 1:
            codebooks = refill_empty_codewords(rows, codebooks, codes, random_state=random)
            rest = rows - decode_rows(codes, codebooks)
    return codebooks, codes


def _uncentred(
    codebooks: np.ndarray, mean: np.ndarray, factor: float, method: str = "residual"
) -> np.ndarray:
    """Return codebooks of embeddings from those of their `centred` rows.

    The mean is in the first codewords, so that shorter codes have it as well; or in all, each with
    its own dimensions.
    """
    wide = codebooks / np.float64(factor)
    if method == "subspace":
        for m, dims in enumerate(np.array_split(np.arange(len(mean)), len(codebooks))):
            wide[m][:, dims] += mean[dims]
    else:
        wide[0] += mean
    return wide.astype(np.float32)


def _check_sizes(rows: np.ndarray, n_codebooks: int, n_codewords: int) -> tuple[int, int]:
    """Return M and K, if there are as many rows as codewords."""
    n_codebooks = check_whole("n_codebooks", n_codebooks, 1)
    n_codewords = check_whole("n_codewords", n_codewords, 1, MAX_CODEWORDS)
    if len(rows) < n_codewords:
        raise ValueError(
            f"n_samples={len(rows)} should be >= n_codewords={n_codewords}; lower n_codewords."
        )
    return n_codebooks, n_codewords


def _check_method(method: str, n_dims: int, n_codebooks: int) -> None:
    """Refuse a start that does not exist, or that has more subspaces than dimensions."""
    check_choice("method", method, tuple(METHODS))
    if method == "subspace" and n_dims < n_codebooks:
        raise ValueError(
            f"n_dims={n_dims} should be >= n_codebooks={n_codebooks}; "
            'lower n_codebooks, or use method="residual".'
        )
