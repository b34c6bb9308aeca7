"""Checks of what an index is made of."""

from typing import Any

import numpy as np

__all__ = [
    "check_codebooks",
    "check_codes",
    "check_embeddings",
    "check_k",
    "check_shortlist",
    "check_unique",
    "check_vectors",
    "code_dtype",
    "next_id",
    "number_ids",
]

_MAX_ID = 2**63 - 1


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


def code_dtype(n_codewords: int) -> np.dtype:
    return np.dtype(np.uint8 if n_codewords <= 256 else np.uint16)


def check_codes(codes: Any, shape: tuple[int, ...], name: str = "codes") -> np.ndarray:
    """A copy of codes (n, M) of codebooks of a shape (M, K, D)."""
    n_codebooks, n_codewords, _ = shape
    array = np.asarray(codes)
    if array.ndim != 2 or array.shape[1] != n_codebooks:
        raise ValueError(
            f"{name} should have shape (n, M={n_codebooks}), a column for each codebook; got "
            f"{array.shape}."
        )
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(f"{name} should be integers; got dtype {array.dtype}.")
    if array.size and (array.min() < 0 or array.max() >= n_codewords):
        wrong = array.min() if array.min() < 0 else array.max()
        raise ValueError(
            f"{name} should lie from 0 to {n_codewords - 1}, K={n_codewords} codewords; "
            f"got {wrong}."
        )
    return np.array(array, dtype=code_dtype(n_codewords), order="C")


def check_embeddings(embeddings: Any, n_dims: int) -> np.ndarray:
    """Embeddings (q, D) as float32."""
    array = np.asarray(embeddings)
    if array.ndim != 2 or array.shape[1] != n_dims:
        raise ValueError(
            f"embeddings should have shape (q, D={n_dims}), the D of the codebooks; got "
            f"{array.shape}."
        )
    if array.dtype.kind not in "biuf":
        raise TypeError(f"embeddings should be numbers; got dtype {array.dtype}.")
    if array.dtype != np.float32:
        with np.errstate(over="ignore"):
            array = np.asarray(array, dtype=np.float32)
    if not np.isfinite(array).all():
        raise ValueError("embeddings contain NaN or infinity, or exceed float32.")
    return array


def check_vectors(vectors: Any, shape: tuple[int, int]) -> Any:
    if np.shape(vectors) != shape:
        raise ValueError(f"vectors should have shape (n, D)={shape}; got {np.shape(vectors)}.")
    return vectors


def check_unique(ids: np.ndarray, n: int) -> None:
    if len(ids) != n:
        raise ValueError(f"ids should be {n}, one for each row of codes; got {len(ids)}.")
    if (ids[1:] > ids[:-1]).all():  # as most are: no need to sort
        return
    keys = np.sort(_keys(ids))
    if (keys[1:] != keys[:-1]).all():
        return
    ordered = np.sort(ids)
    twice = np.flatnonzero(ordered[1:] == ordered[:-1])
    if len(twice):
        raise ValueError(f"ids should be distinct; {ordered[twice[0]].item()!r} comes twice.")


def _keys(ids: np.ndarray) -> np.ndarray:
    """Numbers that are equal for equal ids, and hardly ever for others: they sort much faster."""
    if ids.dtype.kind != "U":
        return ids
    keys = np.zeros(len(ids), dtype=np.uint64)
    characters = np.ascontiguousarray(ids).view(np.uint32).reshape(len(ids), -1)
    factors = np.random.RandomState(0).randint(1, 2**63, characters.shape[1], dtype=np.uint64)
    # for n: keys[n] = Σ_i factors[i] · characters[n, i], modulo 2**64
    for column, factor in zip(characters.T, factors, strict=True):
        keys += np.multiply(column, factor, dtype=np.uint64)
    return keys


def next_id(ids: np.ndarray | None, n: int) -> int:
    """The number that comes after all integer ids."""
    if ids is None:
        return n
    return int(ids.max()) + 1 if len(ids) and ids.dtype.kind == "i" else 0


def number_ids(first: int, n: int) -> np.ndarray:
    if first + n - 1 > _MAX_ID:
        raise ValueError(f"There is no integer id after {first - 1}; give ids= for the new rows.")
    return np.arange(first, first + n) if n else np.zeros(0, dtype=np.int64)


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
