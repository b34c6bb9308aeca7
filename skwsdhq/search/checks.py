"""Checks of what an index is made of."""

from typing import Any

import numpy as np

from ..codebooks.inputs import MAX_CODEWORDS, as_codes, code_dtype
from ..utils.validation import as_numbers, check_finite, check_whole

__all__ = [
    "check_codebooks",
    "check_codes",
    "check_embeddings",
    "check_k",
    "check_shortlist",
    "check_unique",
    "check_vectors",
    "next_id",
    "number_ids",
]

_MAX_ID = 2**63 - 1


def check_codebooks(codebooks: Any) -> np.ndarray:
    """Return a copy of codebooks (M, K, D) as float32."""
    array = as_numbers("codebooks", codebooks, "(M, K, D)")
    if 0 in array.shape:
        raise ValueError(
            f"codebooks should have shape (M, K, D), none of them 0; got {array.shape}."
        )
    if array.shape[1] > MAX_CODEWORDS:
        raise ValueError(
            f"n_codewords={array.shape[1]} should be <= {MAX_CODEWORDS}; use more codebooks."
        )
    with np.errstate(over="ignore"):
        kept = np.array(array, dtype=np.float32, order="C")
    return check_finite("codebooks", kept, ", or exceed float32")


def check_codes(codes: Any, shape: tuple[int, ...], name: str = "codes") -> np.ndarray:
    """Return a copy of codes (n, M) of codebooks of a shape (M, K, D), in as few bytes as do."""
    n_codebooks, n_codewords, _ = shape
    array = as_codes(codes, n_codewords, n_codebooks=n_codebooks, name=name)
    return np.array(array, dtype=code_dtype(n_codewords), order="C")


def check_embeddings(embeddings: Any, n_dims: int) -> np.ndarray:
    """Return embeddings (q, D) as float32."""
    array = as_numbers("embeddings", embeddings, f"(q, D={n_dims})", n_columns=n_dims)
    with np.errstate(over="ignore"):
        array = np.asarray(array, dtype=np.float32)
    return check_finite("embeddings", array, ", or exceed float32")


def check_vectors(vectors: Any, shape: tuple[int, int]) -> Any:
    """Refuse vectors of another shape; don't read them, since they may be a file of gigabytes."""
    if np.shape(vectors) != shape:
        raise ValueError(f"vectors should have shape (n, D)={shape}; got {np.shape(vectors)}.")
    return vectors


def check_unique(ids: np.ndarray, n: int) -> None:
    """Refuse ids that are not n, or of which one comes twice."""
    if len(ids) != n:
        raise ValueError(f"ids should be {n}, one for each row of codes; got {len(ids)}.")
    if (ids[1:] > ids[:-1]).all():  # as most are: no need to sort
        return
    keys = np.sort(_keys(ids))
    if (keys[1:] != keys[:-1]).all():
        return
    # Two keys are equal: the ids themselves tell whether they are, and which.
    ordered = np.sort(ids)
    twice = np.flatnonzero(ordered[1:] == ordered[:-1])
    if len(twice):
        raise ValueError(f"ids should be distinct; {ordered[twice[0]].item()!r} comes twice.")


def _keys(ids: np.ndarray) -> np.ndarray:
    """Return numbers that are equal for equal ids, and hardly ever for others.

    They sort much faster than strings do.
    """
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
    """Return the number that comes after all integer ids."""
    if ids is None:
        return n
    return int(ids.max()) + 1 if len(ids) and ids.dtype.kind == "i" else 0


def number_ids(first: int, n: int) -> np.ndarray:
    """Return n ids from the first on, if there are so many."""
    if first + n - 1 > _MAX_ID:
        raise ValueError(f"There is no integer id after {first - 1}; give ids= for the new rows.")
    return np.arange(first, first + n) if n else np.zeros(0, dtype=np.int64)


def check_k(k: Any, name: str) -> int:
    """Return a number of rows, lists or codebooks, which is at least 1."""
    return check_whole(name, k, 1)


def check_shortlist(shortlist: Any, k: int, has_second_stage: bool, stages: str) -> int:
    """Return how many rows the first stage finds: the shortlist of a second one, or k."""
    if not has_second_stage:
        if shortlist is not None:
            raise ValueError(f"shortlist needs a second stage: give {stages} as well.")
        return k
    depth = max(10 * k, 100) if shortlist is None else check_k(shortlist, "shortlist")
    if depth < k:
        raise ValueError(f"shortlist={depth} should be at least k={k}.")
    return depth
