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
    "check_positive",
    "check_whole",
    "code_dtype",
    "prefix_shares",
]


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
    check_whole("n_codewords", n_codewords, 1, 65536)
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
