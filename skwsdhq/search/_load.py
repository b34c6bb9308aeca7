"""Checks that the arrays of an index file fit together, so that a search can trust them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..codebooks.inputs import MAX_CODEWORDS, code_dtype
from ..persistence.file import LoadError
from ._rows import Rows
from .checks import check_unique, next_id

__all__ = ["check_lists", "check_rows"]

_BLOCK_BYTES = 2**22  # looked at together, so that a mapped file is never copied whole
_MAX_CHARACTER = 0x10FFFF


def check_rows(path: Any, arrays: dict[str, np.ndarray], next_id_: Any = None) -> Rows:
    """Return the rows of a file whose arrays are each of a possible dtype and number of dims.

    Parameters
    ----------
    path : path
        For the message.
    arrays : dict of str to ndarray
        ``codebooks``, ``codes`` and perhaps ``ids``.
    next_id_ : object
        None where the file need not say it.

    Raises
    ------
    LoadError
    """
    codebooks, codes, ids = np.array(arrays["codebooks"]), arrays["codes"], arrays.get("ids")
    n_codebooks, n_codewords, _ = codebooks.shape
    _need(
        0 not in codebooks.shape and n_codewords <= MAX_CODEWORDS,
        path,
        "its codebooks have no shape",
    )
    _need(bool(np.isfinite(codebooks).all()), path, "its codebooks contain NaN or infinity")
    _need(codes.shape[1] == n_codebooks, path, "its codes do not fit its codebooks")
    _need(codes.dtype == code_dtype(n_codewords), path, "its codes have a wrong dtype")
    # Where every number of the dtype names a codeword there is nothing to look for.
    if n_codewords < 256**codes.dtype.itemsize:
        for part in _blocks(codes):
            _need(part.max() < n_codewords, path, f"it has codes beyond K={n_codewords}")
    if ids is not None:
        _need(len(ids) == len(codes), path, "it has not as many ids as codes")
        if ids.dtype.kind == "U":
            for part in _blocks(ids):
                # Numbers beyond Unicode make a string that Python can't show.
                characters = np.ascontiguousarray(part).view(np.uint32)
                _need(characters.max() <= _MAX_CHARACTER, path, "its ids are no text")
        try:
            check_unique(ids, len(codes))
        except ValueError as error:
            raise LoadError(f"{Path(path)} contradicts itself: {error}") from None
    least = next_id(ids, len(codes))
    if next_id_ is not None:
        fits = type(next_id_) is int and least <= next_id_ <= 2**63
        _need(fits, path, f"its next id can't be {next_id_!r}")
    return Rows(codebooks, codes, ids, next_id_)


def check_lists(path: Any, arrays: dict[str, np.ndarray]) -> None:
    """Raise LoadError where rows are not divided among lists, each row into one."""
    starts, directions, rows = arrays["starts"], arrays["directions"], arrays["rows"]
    n, n_dims = len(arrays["codes"]), arrays["codebooks"].shape[2]
    n_lists = len(directions)
    _need(n > 0 and n_lists > 0, path, "it has no rows or no lists")
    _need(len(starts) == n_lists + 1, path, "it has not as many lists as directions")
    is_whole = starts[0] == 0 and starts[-1] == n and (starts[1:] >= starts[:-1]).all()
    _need(bool(is_whole), path, "its lists overlap or leave gaps")
    for name in ("directions", "centers"):
        if name in arrays:
            _need(arrays[name].shape == (n_lists, n_dims), path, f"its {name} have another shape")
            _need(bool(np.isfinite(arrays[name]).all()), path, f"its {name} are no numbers")
    _need(len(rows) == n, path, "it has not as many rows as codes")
    seen = np.zeros(n, dtype=bool)
    for part in _blocks(rows):
        _need(part.min() >= 0 and part.max() < n, path, "it names rows that it does not have")
        seen[part] = True
    _need(bool(seen.all()), path, "it names a row twice")


def _blocks(array: np.ndarray) -> Iterator[np.ndarray]:
    """Yield parts of an array that has entries, none of them empty."""
    if array.size:
        step = max(_BLOCK_BYTES // (array.nbytes // len(array)), 1)
        for start in range(0, len(array), step):
            yield np.asarray(array[start : start + step])


def _need(fact: Any, path: Any, otherwise: str) -> None:
    if not fact:
        raise LoadError(f"{Path(path)} contradicts itself: {otherwise}.")
