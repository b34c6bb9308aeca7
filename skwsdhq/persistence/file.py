"""Safetensors files with a seal: arrays by name, one JSON text, a checksum over all of it.

Any reader of safetensors opens them. What is our own is the beginning of the header, whose
places are fixed, so that a file is judged before any JSON is parsed::

    {"__metadata__":{"skwsdhq_format":"2","nbytes":"<length of the file>","sha256":"<64 digits>",

``sha256`` is that of the whole file with these 64 digits zeros.

A change that older versions can't read raises ``FORMAT``; the reader keeps reading all formats
from 1 on. To raise it:

1. add 1 to ``FORMAT``;
2. beside each class whose record has changed, write a function from the old parameters and
   attributes to the new ones, and name it in its ``@saved(upgrade={old: ...})``;
3. run ``tests/data/make_frozen.py`` when nothing will change any more, and keep its files for ever.
"""

import hashlib
import json
import math
import os
import re
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from ..utils.files import replacing

__all__ = ["FORMAT", "LoadError", "SealedFile", "parse_json", "write_sealed"]

FORMAT = 2
_LENGTH = struct.Struct("<Q")
_MAX_HEADER = 100_000_000  # safetensors' own limit
_ALIGNMENT = 64  # at which arrays begin, so that a reader may map the file and use them there
_ZEROS = b"0" * 64
_SEAL = re.compile(
    rb'\{"__metadata__":\{"skwsdhq_format":"([1-9][0-9]{0,8})",'
    rb'"nbytes":"([0-9]{20})","sha256":"([0-9a-f]{64})",'
)
_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
    "BOOL": "|b1",
}
Place = tuple[np.dtype, tuple[int, ...], int]  # dtype, shape, and where its bytes begin
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}


class LoadError(ValueError):
    """Tell why a file can't be loaded: cut short, damaged, foreign, too new, untrue to itself.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import skwsdhq
    >>> path = Path(tempfile.mkdtemp(), "model")
    >>> _ = path.write_bytes(b"no model")
    >>> try:
    ...     skwsdhq.load(path)
    ... except skwsdhq.persistence.LoadError:
    ...     print("it is none")
    it is none
    """


def write_sealed(
    path: str | os.PathLike, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Write arrays and texts; a file that is there is replaced at once (`replacing`)."""
    little = {}
    for name, array in arrays.items():
        dtype = array.dtype.newbyteorder("<")
        if dtype not in _NAMES:
            raise TypeError(f"{name} of dtype {array.dtype} can't be saved.")
        little[name] = np.asarray(array, dtype=dtype, order="C")  # keeps 0 axes
    # Wide numbers first keeps each array at a multiple of its item's size.
    names = sorted(little, key=lambda name: -little[name].dtype.itemsize)
    fields: dict[str, Any] = {"skwsdhq_format": str(FORMAT), "nbytes": "0" * 20}
    header: dict[str, Any] = {"__metadata__": {**fields, "sha256": _ZEROS.decode(), **metadata}}
    place = 0
    for name in names:
        array = little[name]
        header[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [place, place + array.nbytes],
        }
        place += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(_LENGTH.size + len(text)) % _ALIGNMENT)
    if len(text) > _MAX_HEADER:
        raise ValueError(f"the header takes {len(text)} bytes; safetensors allows {_MAX_HEADER}.")
    total = _LENGTH.size + len(text) + place
    # Places of a fixed width are filled in last, so that neither changes the length.
    text = text.replace(b'"nbytes":"' + b"0" * 20, b'"nbytes":"%020d' % total, 1)
    seal = hashlib.sha256(_LENGTH.pack(len(text)) + text)
    for name in names:
        seal.update(_memory(little[name]))
    text = text.replace(b'"sha256":"' + _ZEROS, b'"sha256":"' + seal.hexdigest().encode(), 1)
    with replacing(path) as file:
        file.write(_LENGTH.pack(len(text)) + text)
        for name in names:
            file.write(_memory(little[name]))


class SealedFile:
    """Read a file of `write_sealed`, found whole and true to its header before any array.

    Parameters
    ----------
    file : binary file, open for reading
        Stays the caller's, and has to be open while arrays are read.

    Attributes
    ----------
    format : int
    metadata : dict of str to str
    unread : set of str
        Names of arrays that nobody asked for yet.

    Raises
    ------
    LoadError
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        size = os.fstat(file.fileno()).st_size
        header = self._sealed_header(size)
        start = _LENGTH.size + len(header)
        fields = parse_json(header, "its header")
        if not isinstance(fields, dict):
            raise LoadError("its header is no JSON object.")
        metadata = fields.pop("__metadata__")
        if not all(isinstance(value, str) for value in metadata.values()):
            raise LoadError("its metadata are not all texts.")
        self.metadata: dict[str, str] = metadata
        self._places = _check_places(fields, start, size)
        self._read: dict[str, np.ndarray] = {}
        self.unread = set(self._places)

    def _sealed_header(self, size: int) -> bytes:
        """Return the header's bytes, once the checksum of the whole file is found right."""
        prefix = self._file.read(_LENGTH.size)
        length = _LENGTH.unpack(prefix)[0] if len(prefix) == _LENGTH.size else 0
        beginning = self._file.read(min(256, max(size - _LENGTH.size, 0)))
        match = _SEAL.match(beginning)
        if match is None:
            raise LoadError("it was not saved by skwsdhq, or it is damaged.")
        self.format, nbytes, digest = int(match[1]), int(match[2]), match[3]
        if self.format > FORMAT:
            raise LoadError(
                f"it has format {self.format}, but this version reads formats up to {FORMAT}; "
                "update skwsdhq."
            )
        if size != nbytes:
            what = "is cut short" if size < nbytes else "has been added to"
            raise LoadError(f"it {what}: {size} bytes instead of {nbytes}; save it again.")
        if not match.end() < length <= min(_MAX_HEADER, size - _LENGTH.size):
            raise LoadError(f"its header can't be {length} bytes long.")
        # The header is read whole; what follows only goes through a buffer, however much it is.
        self._file.seek(_LENGTH.size)
        header = self._file.read(length)
        zeroed = header[: match.start(3)] + _ZEROS + header[match.end(3) :]
        seal = hashlib.sha256(prefix)
        seal.update(zeroed)
        buffer = bytearray(min(1 << 16, max(size - _LENGTH.size - length, 1)))
        while n_read := self._file.readinto(buffer):  # type: ignore[attr-defined]
            seal.update(memoryview(buffer)[:n_read])
        if seal.hexdigest().encode() != digest:
            raise LoadError("it is damaged: its checksum does not fit.")
        return header

    def array(self, name: str) -> np.ndarray:
        """Return an array by name; the same object each time."""
        if name in self._read:
            return self._read[name]
        if name not in self._places:
            raise LoadError(f"it holds no array {name!r}.")
        dtype, shape, place = self._places[name]
        array = np.empty(shape, dtype=dtype)
        if array.nbytes:
            self._file.seek(place)
            memory = array.reshape(-1).view(np.uint8).data
            if self._file.readinto(memory) != array.nbytes:  # type: ignore[attr-defined]
                raise LoadError("it became shorter while it was read.")
        # Another byte would be neither true nor false to numpy.
        if dtype == np.bool_ and array.nbytes and array.view(np.uint8).max() > 1:
            raise LoadError(f"{name} holds other bytes than 0 and 1.")
        self._read[name] = array
        self.unread.discard(name)
        return array


def _check_places(entries: dict, start: int, size: int) -> dict[str, Place]:
    """Return dtype, shape and place of each array, which together fill the file without a gap."""
    places = {}
    spans = []
    for name, entry in entries.items():
        dtype, shape, offsets = _entry(name, entry, size)
        spans.append(offsets)
        places[name] = (dtype, shape, start + offsets[0])
    end = 0
    # Without gaps nothing hides between arrays, and without overlaps no array stands for another.
    for begin, stop in sorted(spans):
        if begin != end:
            raise LoadError("its arrays overlap or leave gaps.")
        end = stop
    if start + end != size:
        raise LoadError(f"its arrays end at {start + end}, the file at {size} bytes.")
    return places


def _entry(name: str, entry: Any, size: int) -> tuple[np.dtype, tuple[int, ...], list[int]]:
    """Return dtype, shape and the two ends of an array, where the file may hold it."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise LoadError(f"its header does not say dtype, shape and place of {name!r}.")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise LoadError(f"{name} has the unknown dtype {dtype!r}.")
    if not _are_counts(shape) or len(shape) > 8 or not _are_counts(offsets):
        raise LoadError(f"{name} has no possible shape or place.")
    if len(offsets) != 2 or any(n > size for n in (*shape, *offsets)):
        raise LoadError(f"{name} has a shape or place beyond the file's end.")
    # By Python's numbers, which don't overflow.
    n_bytes = np.dtype(_DTYPES[dtype]).itemsize * math.prod(shape)
    if offsets[1] - offsets[0] != n_bytes:
        raise LoadError(
            f"{name} of shape {tuple(shape)} takes {n_bytes} bytes, but has "
            f"{offsets[1] - offsets[0]}."
        )
    return np.dtype(_DTYPES[dtype]), tuple(shape), offsets


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(n) is int and n >= 0 for n in values)


def parse_json(text: str | bytes, what: str) -> Any:
    """Read JSON without duplicate keys and without NaN; raise LoadError for all else."""

    # json itself would keep the last of two equal keys, another reader the first.
    def pairs(items: list) -> dict:
        found = dict(items)
        if len(found) != len(items):
            keys = [key for key, _ in items]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise LoadError(f"{what} has the key {twice!r} twice.")
        return found

    def constant(name: str) -> Any:
        raise LoadError(f"{what} holds {name}, which JSON does not have.")

    try:
        return json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
    except LoadError:
        raise
    except (ValueError, RecursionError) as error:
        raise LoadError(f"{what} is no readable JSON: {error}") from error


def _memory(array: np.ndarray) -> Any:
    return array.reshape(-1).view(np.uint8).data if array.nbytes else b""
