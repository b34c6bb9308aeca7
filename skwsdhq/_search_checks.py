"""Checks of what an index is made of."""

from typing import Any

import numpy as np

__all__ = ["check_codebooks", "check_k", "check_shortlist", "check_unique", "next_id"]


def check_codebooks(codebooks: Any) -> np.ndarray:
    array = np.asarray(codebooks)
    if array.ndim != 3 or 0 in array.shape:
        raise ValueError(
            f"codebooks should have shape (M, K, D), none of them 0; got {array.shape}."
        )
    if array.dtype.kind not in "biuf":
        raise TypeError(f"codebooks should be numbers; got dtype {array.dtype}.")
    if array.shape[1] > 2**16:
        raise ValueError(f"n_codewords={array.shape[1]} should be <= {2**16}; use more codebooks.")
    with np.errstate(over="ignore"):
        kept = np.array(array, dtype=np.float32, order="C")
    if not np.isfinite(kept).all():
        raise ValueError("codebooks contain NaN or infinity, or exceed float32.")
    return kept


def check_unique(ids: np.ndarray, n: int) -> None:
    if len(ids) != n:
        raise ValueError(f"ids should be {n}, one for each row of codes; got {len(ids)}.")
    unique, counts = np.unique(ids, return_counts=True)
    if len(unique) != n:
        raise ValueError(f"ids should be distinct; {unique[counts > 1][0].item()!r} comes twice.")


def next_id(ids: np.ndarray | None, n: int) -> int:
    if ids is None:
        return n
    return int(ids.max()) + 1 if len(ids) and ids.dtype.kind == "i" else 0


def check_k(k: Any, name: str) -> int:
    if isinstance(k, bool) or not isinstance(k, int | np.integer):
        raise TypeError(f"{name}={k!r} should be an integer.")
    if k < 1:
        raise ValueError(f"{name}={k} should be at least 1.")
    return int(k)


def check_shortlist(shortlist: Any, k: int, has_second_stage: bool, stages: str) -> int:
    """Rows that the first stage finds: the shortlist of a second one, or k."""
    if not has_second_stage:
        if shortlist is not None:
            raise ValueError(f"shortlist needs a second stage: give {stages} as well.")
        return k
    depth = max(10 * k, 100) if shortlist is None else check_k(shortlist, "shortlist")
    if depth < k:
        raise ValueError(f"shortlist={depth} should be at least k={k}.")
    return depth
