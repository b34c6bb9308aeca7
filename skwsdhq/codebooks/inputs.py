"""What the codebook functions accept, and the errors about it."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np

__all__ = [
    "as_codebooks",
    "as_codes",
    "as_embeddings",
    "as_metric",
    "centred",
    "check_positive",
    "check_whole",
    "code_dtype",
    "in_range",
    "prefix_shares",
]

CHUNK = 4096  # rows that are looked at at once
_FAR = 16.0  # spreads from which on what codewords share is taken from them


def check_whole(name: str, value: Any, minimum: int, maximum: int | None = None) -> int:
    """A whole number from minimum to maximum."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise TypeError(f"{name}={value!r} should be a whole number.")
    value = int(value)
    if value < minimum or (maximum is not None and value > maximum):
        limit = f">= {minimum}" if maximum is None else f"from {minimum} to {maximum}"
        raise ValueError(f"{name}={value} should be {limit}.")
    return value


def check_positive(name: str, value: Any) -> float:
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(f"{name}={value!r} should be a number.")
    if not (math.isfinite(value) and float(value) > 0):
        raise ValueError(f"{name}={value!r} should be finite and > 0.")
    return float(value)


def prefix_shares(prefix_weight: Any, n_codebooks: int) -> np.ndarray | None:
    """(M,) sum of the weights of the codes that include a codebook; None where all are 1.

    The whole code weighs 1, each of the M − 1 shorter ones `prefix_weight`.
    """
    if not isinstance(prefix_weight, numbers.Real) or isinstance(prefix_weight, bool):
        raise TypeError(f"prefix_weight={prefix_weight!r} should be a number.")
    if not (math.isfinite(prefix_weight) and float(prefix_weight) >= 0):
        raise ValueError(f"prefix_weight={prefix_weight!r} should be finite and >= 0.")
    if prefix_weight == 0:
        return None
    return 1 + float(prefix_weight) * np.arange(n_codebooks - 1, -1, -1)


def code_dtype(n_codewords: int) -> type[np.unsignedinteger[Any]]:
    """uint8 for up to 256 codewords, else uint16."""
    n_codewords = check_whole("n_codewords", n_codewords, 1, 65536)
    return np.uint8 if n_codewords <= 256 else np.uint16


def _as_floats(
    name: str, array: Any, n_axes: int, shape: str, check_finite: bool = True
) -> np.ndarray:
    """float64 stays what it is, everything else becomes float32."""
    array = np.asarray(array)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} are {array.dtype}, should be real numbers.")
    if array.ndim != n_axes:
        raise ValueError(f"{name} have shape {array.shape}, should be {shape}.")
    array = array.astype(np.float64 if array.dtype == np.float64 else np.float32, copy=False)
    if not check_finite:
        return array
    # A sum is finite when all entries are, save for an overflow that the second look sorts out.
    with np.errstate(over="ignore", invalid="ignore"):
        is_suspect = not np.isfinite(array.sum())
    if is_suspect and not np.isfinite(array).all():
        raise ValueError(f"{name} hold NaN or infinity; remove or fill such rows first.")
    return array


def as_embeddings(embeddings: Any, *, check_finite: bool = True) -> np.ndarray:
    """(n, D) float32 or float64."""
    return _as_floats("embeddings", embeddings, 2, "(n_samples, n_dims)", check_finite)


def as_codebooks(codebooks: Any, n_dims: int | None = None) -> np.ndarray:
    """(M, K, D) float32 or float64."""
    codebooks = _as_floats("codebooks", codebooks, 3, "(n_codebooks, n_codewords, n_dims)")
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
) -> np.ndarray:
    """(n, M) whole numbers below n_codewords, of the dtype they came in."""
    codes = np.asarray(codes)
    if codes.dtype.kind not in "iu":
        raise TypeError(f"codes are {codes.dtype}, should be whole numbers.")
    if codes.ndim != 2:
        raise ValueError(f"codes have shape {codes.shape}, should be (n_samples, n_codebooks).")
    for axis, name, wanted in ((0, "rows", n_samples), (1, "codebooks", n_codebooks)):
        if wanted is not None and codes.shape[axis] != wanted:
            raise ValueError(f"codes have {codes.shape[axis]} {name}, should have {wanted}.")
    if codes.size:
        low, high = codes.min(), codes.max()
        if low < 0 or high >= n_codewords:
            worst = low if low < 0 else high
            raise ValueError(f"codes hold {worst}, should lie in 0..{n_codewords - 1}.")
    return codes


def as_metric(metric: Any, n_dims: int) -> np.ndarray | None:
    """(D, D) float64, symmetric and positive definite.

    One that is only semidefinite gets a millionth of its mean diagonal added. A multiple of the
    identity is None: it chooses the same codes.
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
    try:
        np.linalg.cholesky(metric)
    except np.linalg.LinAlgError:
        lowest = np.linalg.eigvalsh(metric)[0]
        if lowest < -1e-5 * size or size == 0:
            raise ValueError(
                f"metric has the eigenvalue {lowest:.3g}, should be positive definite; "
                "add a multiple of the identity."
            ) from None
        lift = 1e-6 * np.trace(metric) / n_dims - min(0.0, float(lowest))
        return metric + lift * np.eye(n_dims)
    return metric


def centred(
    embeddings: np.ndarray, *, if_far: bool = False
) -> tuple[np.ndarray, np.ndarray, float]:
    """Rows (n, D) around 0 and of the order of 1, in float32, for codebooks to be learned from.

    An additive code can hold what all rows share, but a ridge would pull it to 0, and costs that
    are differences of large numbers would lose what tells rows apart.

    if_far : leaves dimensions as they are, to the bit, whose numbers lie around 0 anyway.

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
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Rows, codebooks and metric for which the same codes are best, fit to be computed with.

    A vector that all codewords of a codebook share is taken from these and from the rows; in the
    first codebook alone where shorter codes count as well, since that is in all of them. What is
    so large or small that squares would leave the range of floats is computed in float64, with
    codewords of the order of 1.
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
    return rows, codebooks, metric


def _largest(rows: np.ndarray) -> float:
    """Largest size of an entry; 0 for none."""
    return max(float(rows.max(initial=0)), -float(rows.min(initial=0)))


def _factor(size: float, n_free: int) -> float:
    """Power of two that brings a size near 1; 1 within 2^±n_free of it, and for 0."""
    if size == 0:
        return 1.0
    exponent = math.frexp(size)[1]
    return 1.0 if abs(exponent) <= n_free else 2.0 ** max(-1000, min(1000, -exponent))
