"""Checks of what the codebook functions accept, and numbers brought into range for them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..utils.threads import one_openmp_thread
from ..utils.validation import as_numbers, check_finite, check_number, check_whole

__all__ = [
    "as_codebooks",
    "as_codes",
    "as_embeddings",
    "as_metric",
    "centred",
    "code_dtype",
    "factor_of",
    "in_range",
    "most_rows",
    "prefix_shares",
]

MAX_CODEWORDS = 2**16  # what uint16 can number
MIN_ROWS = 8192  # from which on codebooks may be learned from a part of the rows
_MOST_ROWS_PER_CODEWORD = 512
CHUNK = 4096  # rows that are looked at at once
_FAR = 16.0  # spreads from which on what codewords share is taken from them


def most_rows(n_codewords: int) -> int:
    """Return how many rows codebooks are learned from at most."""
    return max(_MOST_ROWS_PER_CODEWORD * n_codewords, MIN_ROWS)


def prefix_shares(prefix_weight: Any, n_codebooks: int) -> np.ndarray | None:
    """Return the weights (M,) of all codes that include a codebook, summed; None if all are 1.

    The whole code weighs 1, each of the M − 1 shorter ones `prefix_weight`.
    """
    weight = check_number("prefix_weight", prefix_weight, minimum=0)
    if weight == 0:
        return None
    return 1 + weight * np.arange(n_codebooks - 1, -1, -1)


def code_dtype(n_codewords: int) -> type[np.unsignedinteger[Any]]:
    """Return the dtype of codes: uint8 for up to 256 codewords, else uint16."""
    n_codewords = check_whole("n_codewords", n_codewords, 1, MAX_CODEWORDS)
    return np.uint8 if n_codewords <= 256 else np.uint16


def _as_floats(array: np.ndarray) -> np.ndarray:
    """Return float64 as it is, everything else as float32; what exceeds that is infinite."""
    with np.errstate(over="ignore"):
        return array.astype(np.float64 if array.dtype == np.float64 else np.float32, copy=False)


def as_embeddings(embeddings: Any, *, is_finite: bool = False) -> np.ndarray:
    """Return embeddings (n, D) as float32 or float64.

    is_finite : tells that a finite result will prove the rows finite, so nobody need look here.
    """
    rows = _as_floats(as_numbers("embeddings", embeddings, "(n, D)"))
    remedy = "; remove or fill such rows first"
    return rows if is_finite else check_finite("embeddings", rows, remedy)


def as_codebooks(codebooks: Any, n_dims: int | None = None) -> np.ndarray:
    """Return codebooks (M, K, D) as float32 or float64, with the embeddings' number of dims."""
    codebooks = _as_floats(as_numbers("codebooks", codebooks, "(M, K, D)"))
    check_finite("codebooks", codebooks)
    if 0 in codebooks.shape[:2]:
        raise ValueError(f"codebooks have shape {codebooks.shape}, should hold a codeword.")
    code_dtype(codebooks.shape[1])
    if n_dims is not None and codebooks.shape[2] != n_dims:
        raise ValueError(
            f"codebooks have {codebooks.shape[2]} dimensions, should have the embeddings' {n_dims}."
        )
    return codebooks


def as_codes(
    codes: Any,
    n_codewords: int,
    *,
    n_samples: int | None = None,
    n_codebooks: int | None = None,
    name: str = "codes",
) -> np.ndarray:
    """Return codes (n, M), whole numbers below n_codewords, in the dtype that they came in.

    Parameters
    ----------
    codes : array-like of shape (n, M)
    n_codewords : int
        K.
    n_samples, n_codebooks : int, default=None
        What n and M should be; None is any.
    name : str, default="codes"
        What the messages call them.
    """
    codes = np.asarray(codes)
    if codes.ndim != 2 or (n_codebooks is not None and codes.shape[1] != n_codebooks):
        wanted = "(n, M)" if n_codebooks is None else f"(n, M={n_codebooks})"
        raise ValueError(
            f"{name} should have shape {wanted}, a column for each codebook; got {codes.shape}."
        )
    if n_samples is not None and len(codes) != n_samples:
        raise ValueError(f"{name} have {len(codes)} rows, should have {n_samples}.")
    is_whole = codes.dtype.kind in "iu"
    if not codes.size:  # an empty list is an array of floats
        return codes if is_whole else codes.astype(code_dtype(n_codewords))
    if not is_whole:
        raise TypeError(f"{name} should be integers; got dtype {codes.dtype}.")
    low, high = codes.min(), codes.max()
    if low < 0 or high >= n_codewords:
        raise ValueError(
            f"{name} should lie from 0 to {n_codewords - 1}, K={n_codewords} codewords; "
            f"got {low if low < 0 else high}."
        )
    return codes


def as_metric(metric: Any, n_dims: int) -> np.ndarray | None:
    """Return a metric (D, D) as float64, symmetric and positive definite.

    A metric that is only semidefinite gets a millionth of its mean diagonal added. A multiple of
    the identity becomes None: it chooses the same codes.
    """
    if metric is None:
        return None
    metric = np.asarray(metric, dtype=np.float64)
    if metric.shape != (n_dims, n_dims):
        raise ValueError(f"metric has shape {metric.shape}, should be ({n_dims}, {n_dims}).")
    if not np.isfinite(metric).all():
        raise ValueError("metric holds NaN or infinity.")
    size = np.abs(metric).max(initial=0)
    asymmetry = np.abs(metric - metric.T).max(initial=0)
    if asymmetry > 1e-5 * size:
        raise ValueError(
            f"metric differs from its transpose by {asymmetry:.3g}, should be symmetric; "
            "(metric + metric.T) / 2 is."
        )
    if size and metric[0, 0] > 0 and (metric == metric[0, 0] * np.eye(n_dims)).all():
        return None
    return metric if factor_of(metric)[1] else _lifted(metric, size)


def factor_of(metric: np.ndarray) -> tuple[np.ndarray, bool]:
    """Return the lower Cholesky factor (D, D) of a metric, and whether there is one.

    By torch: numpy's threads wait for each other, for half a second where the machine is busy.
    """
    import torch

    with one_openmp_thread("torch"):
        factor, failed = torch.linalg.cholesky_ex(torch.tensor(metric))
    return factor.numpy(), not failed


def _lifted(metric: np.ndarray, size: float) -> np.ndarray:
    """Return a metric that is only semidefinite, with a little of the identity added."""
    lowest = np.linalg.eigvalsh(metric)[0]
    # Below rounding, or all zeros: no metric at all.
    if lowest < -1e-5 * size or size == 0:
        raise ValueError(
            f"metric has the eigenvalue {lowest:.3g}, should be positive definite; "
            "add a multiple of the identity."
        ) from None
    n_dims = len(metric)
    lift = 1e-6 * np.trace(metric) / n_dims - min(0.0, float(lowest))
    return metric + lift * np.eye(n_dims)


def centred(
    embeddings: np.ndarray, *, if_far: bool = False
) -> tuple[np.ndarray, np.ndarray, float]:
    """Move rows (n, D) around 0 and to the order of 1, in float32, to learn codebooks from.

    An additive code can hold what all rows share, but a ridge would pull it to 0, and costs that
    are differences of large numbers would lose what tells rows apart.

    Parameters
    ----------
    embeddings : ndarray of shape (n, D)
    if_far : bool, default=False
        Leave dimensions as they are, to the bit, whose numbers lie around 0 anyway.

    Returns
    -------
    rows : ndarray of shape (n, D), float32
        (embeddings − mean) · factor.
    mean : ndarray of shape (D,), float64
    factor : float
        A power of two; 1 where the numbers are of an ordinary size.
    """
    mean = np.zeros(embeddings.shape[1])
    for start in range(0, len(embeddings), CHUNK):
        # Each row is divided before it is added: a sum of all could overflow.
        mean += (embeddings[start : start + CHUNK] / np.float64(len(embeddings))).sum(axis=0)
    if if_far and len(embeddings):
        spread = embeddings.max(axis=0).astype(np.float64) - embeddings.min(axis=0)
        mean = np.where(np.abs(mean) > _FAR * spread, mean, 0)
    factor = _factor(_largest(embeddings), 20)
    rows = np.empty(embeddings.shape, np.float32)
    for start in range(0, len(embeddings), CHUNK):
        block = slice(start, start + CHUNK)
        rows[block] = embeddings[block].astype(np.float64) * factor - mean * factor
    return rows, mean, factor


def in_range(
    rows: np.ndarray, codebooks: np.ndarray, metric: np.ndarray | None, has_prefixes: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray]:
    """Return rows, codebooks and metric for which the same codes are best, fit to compute with.

    A vector that all codewords of a codebook share is taken from them and from the rows; the last
    array (D,) is the sum of these. Where shorter codes count as well, that is done in the first
    codebook alone, which all of them have.
    Numbers whose squares would leave the range of floats become float64, with codewords of the
    order of 1.
    """
    if metric is not None:
        metric = metric * _factor(float(np.abs(metric).max()), 20)
    limit = 1e15 if rows.dtype == np.float32 else 1e140
    size = _largest(codebooks)
    top = max(_largest(rows), size)
    if top > limit or 0 < size < 1 / limit:
        factor = min(_factor(size, 0), 1e150 / top)
        rows, codebooks = rows.astype(np.float64) * factor, codebooks.astype(np.float64) * factor
    used = codebooks[:1] if has_prefixes else codebooks
    means = used.mean(axis=1, dtype=np.float64)  # (M, D)
    spread = np.abs(used - means[:, None]).max(axis=1)
    shifts = np.where(np.abs(means) > _FAR * spread, means, 0)
    if shifts.any():
        wide = codebooks.astype(np.float64)
        wide[: len(shifts)] -= shifts[:, None]
        codebooks = wide.astype(codebooks.dtype)
        rows = (rows - shifts.sum(axis=0)).astype(rows.dtype)
    return rows, codebooks, metric, shifts.sum(axis=0).astype(rows.dtype)


def _largest(rows: np.ndarray) -> float:
    """Return the largest size of an entry; 0 for none."""
    return max(float(rows.max(initial=0)), -float(rows.min(initial=0)))


def _factor(size: float, n_free: int) -> float:
    """Return a power of two that brings a size near 1; 1 within 2^±n_free of it, and for 0."""
    if size == 0:
        return 1.0
    # Powers of two change no digit of a number, so that results stay what they were.
    exponent = math.frexp(size)[1]
    return 1.0 if abs(exponent) <= n_free else 2.0 ** max(-1000, min(1000, -exponent))
