"""Arrays in a file of our own: memory-mapped, checksummed, written whole or not at all.

Layout, all numbers little-endian:

========  ==========================================================================
bytes     content
========  ==========================================================================
0 – 7     ``SKWSDHQ`` and a zero byte
8 – 11    format number, uint32
12 – 15   length H of the header, uint32
16 – 47   SHA-256 of the header
48 –      header: H bytes of JSON with the length of the file and, for each array, its name, dtype,
          shape, place and SHA-256; then the arrays, each at a multiple of 64
========  ==========================================================================
"""

import hashlib
import json
import os
import re
import stat
import struct
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..persistence.file import LoadError, parse_json
from ..utils.files import replacing

__all__ = ["FORMAT", "load_arrays", "save_arrays"]

FORMAT = 1
_MAGIC = b"SKWSDHQ\0"
_PREFIX = struct.Struct("<8sII32s")
_ALIGNMENT = 64
_MAX_HEADER = 2**20  # what we write takes a thousandth of it
# Of each array, dtypes and number of dimensions. Nothing but numbers and strings: objects would be
# pointers.
_LAYOUT = {
    "codebooks": (r"<f4", 3),
    "codes": (r"\|u1|<u2", 2),
    "ids": (r"<i8|<U[1-9][0-9]{0,8}", 1),
    "rows": (r"<i4|<i8", 1),
    "starts": (r"<i8", 1),
    "directions": (r"<f4", 2),
    "centers": (r"<f4", 2),
}


def save_arrays(path: str | os.PathLike, arrays: Mapping[str, np.ndarray], extra: dict) -> None:
    """Write arrays and a dict of JSON values to a file; replace one that is there at once.

    See `skwsdhq.utils.files.replacing`: a crash leaves the old one as it was.
    """
    # Bytes are the same on every machine: little-endian and contiguous.
    entries: list[dict[str, Any]] = []
    contents = []
    for name, array in arrays.items():
        if array.dtype.kind not in "iufUb":
            raise TypeError(f"{name} of dtype {array.dtype} can't be saved.")
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        data = _bytes(little)
        contents.append(data)
        entries.append(
            {
                "name": name,
                "dtype": little.dtype.str,
                "shape": list(array.shape),
                "nbytes": little.nbytes,
                "sha256": hashlib.sha256(data).hexdigest(),
            }
        )
    # Offsets count from the end of the header, which therefore may contain them.
    place = 0
    for entry in entries:
        entry["offset"] = place
        place = _aligned(place + entry["nbytes"])
    header = json.dumps({"arrays": entries, "extra": extra, "nbytes": place}).encode()
    start = _aligned(_PREFIX.size + len(header))
    with replacing(path) as file:
        digest = hashlib.sha256(header).digest()
        file.write(_PREFIX.pack(_MAGIC, FORMAT, len(header), digest))
        file.write(header)
        for entry, data in zip(entries, contents, strict=True):
            file.seek(start + entry["offset"])
            file.write(data)
        file.truncate(start + place)  # the room that aligns what would come next belongs to it


def load_arrays(
    path: str | os.PathLike, kinds: Mapping[str, Collection[str]], *, mmap: bool, verify: bool
) -> tuple[dict[str, np.ndarray], dict]:
    """Read arrays and extra values from a file of `save_arrays`.

    Everything is read or mapped from one open handle: where the file is replaced meanwhile, all of
    it is still the old one. The header is never trusted. It is compared with what such an index
    holds and with the length of the file before anything is mapped or allocated.

    Parameters
    ----------
    path : path
    kinds : dict of str to list of str
        Kinds of index that are asked for, and the arrays that each needs; ids may come with any.
    mmap, verify : bool

    Returns
    -------
    arrays : dict of str to ndarray
    extra : dict

    Raises
    ------
    LoadError
        If the file is cut short, damaged, foreign or contradicts itself.
    OSError
        If the system can't open or read it.
    """
    path = Path(path)
    what = next(iter(kinds))
    if not stat.S_ISREG(os.stat(path).st_mode) and not path.is_dir():  # which could block
        raise LoadError(f"{path} is not a saved {what}, but no regular file at all.")
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        fields, start = _read_header(file, size, path, what)
        extra = fields["extra"]
        entries = {entry["name"]: entry for entry in fields["arrays"]}
        if not _is_of_kind(entries.keys(), extra.get("kind"), kinds):
            raise LoadError(f"{path} is not a saved {what}.")
        arrays = {}
        for name, entry in entries.items():
            array = _read_array(file, entry, start + entry["offset"], mmap)
            if array is None:
                raise LoadError(f"{path} became shorter while it was read.")
            if verify and hashlib.sha256(_bytes(array)).hexdigest() != entry["sha256"]:
                raise LoadError(f"{path} is damaged: the checksum of {name} does not fit.")
            arrays[name] = array
    return arrays, extra


def _is_of_kind(names: Collection[str], kind: Any, kinds: Mapping[str, Collection[str]]) -> bool:
    """Tell whether these are the arrays of a kind that is asked for; ids may come with any."""
    needed = set(kinds.get(kind, ())) if isinstance(kind, str) else set()
    return bool(needed) and needed | {"ids"} == set(names) | {"ids"}


def _read_header(file: BinaryIO, size: int, path: Path, what: str) -> tuple[dict[str, Any], int]:
    """Return the header's fields, found true to the file, and where its arrays begin."""
    fields, start = _read_fields(file, size, path, what)
    entries, extra, nbytes = fields["arrays"], fields["extra"], fields["nbytes"]
    if not (isinstance(entries, list) and isinstance(extra, dict) and _is_count(nbytes)):
        raise LoadError(f"{path} is damaged: its header makes no sense.")
    if size != start + nbytes:
        raise LoadError(
            f"{path} is cut short or has been added to: {size} bytes instead of "
            f"{start + nbytes}; save the index again."
        )
    # Arrays lie one behind the other, so that where each begins is known before it is read.
    place = 0
    names = set()
    for entry in entries:
        wrong = _wrong_entry(entry, place, size)
        if wrong is None and entry["name"] in names:
            wrong = f"two arrays are {entry['name']}"
        if wrong is not None:
            raise LoadError(f"{path} is damaged: {wrong}.")
        names.add(entry["name"])
        place = _aligned(place + entry["nbytes"])
    if place != nbytes:
        raise LoadError(f"{path} is damaged: its arrays do not fill it.")
    return fields, start


def _read_fields(file: BinaryIO, size: int, path: Path, what: str) -> tuple[dict[str, Any], int]:
    """Read the header whose checksum fits; return its fields and where the arrays begin."""
    prefix = file.read(_PREFIX.size)
    if prefix[: len(_MAGIC)] != _MAGIC[: len(prefix)] or not prefix:
        raise LoadError(f"{path} is not a saved {what}.")
    if len(prefix) < _PREFIX.size:
        raise LoadError(f"{path} is cut short: {size} bytes; save the index again.")
    _, number, length, digest = _PREFIX.unpack(prefix)
    if number != FORMAT:
        raise LoadError(
            f"{path} has format {number}, but this version reads format {FORMAT}; "
            "load it with the version that saved it, or update skwsdhq."
        )
    # Before anything of that length is read: a damaged number could ask for all memory.
    if length > min(size - _PREFIX.size, _MAX_HEADER):
        raise LoadError(
            f"{path} is cut short or damaged: a header of {length} bytes in a file of {size}; "
            "save the index again."
        )
    header = file.read(length)
    if hashlib.sha256(header).digest() != digest:
        raise LoadError(f"{path} is damaged: the checksum of its header does not fit.")
    fields = parse_json(header, f"{path} is damaged: its header")
    start = _aligned(_PREFIX.size + length)
    if not isinstance(fields, dict) or fields.keys() != {"arrays", "extra", "nbytes"}:
        raise LoadError(f"{path} is damaged: its header says too little or too much.")
    return fields, start


def _wrong_entry(entry: Any, place: int, size: int) -> str | None:
    """Tell what can't be true of an array that should begin at a place; None where all can."""
    keys = {"name", "dtype", "shape", "nbytes", "sha256", "offset"}
    if not isinstance(entry, dict) or entry.keys() != keys:
        return "an array lacks its name, dtype, shape, place or checksum"
    return _wrong_kind(entry) or _wrong_place(entry, place, size)


def _wrong_kind(entry: dict[str, Any]) -> str | None:
    """Tell what no array of its name can have; None where name, dtype and shape are possible."""
    name, dtype, shape = entry["name"], entry["dtype"], entry["shape"]
    if not isinstance(name, str) or name not in _LAYOUT:
        return f"an index has no array {name!r}"
    pattern, n_dims = _LAYOUT[name]
    if not isinstance(dtype, str) or re.fullmatch(pattern, dtype, re.ASCII) is None:
        return f"{name} can't have dtype {dtype!r}"
    if not (isinstance(shape, list) and len(shape) == n_dims and all(map(_is_count, shape))):
        return f"{name} can't have shape {shape!r}"
    return None


def _wrong_place(entry: dict[str, Any], place: int, size: int) -> str | None:
    """Tell why an array of a possible kind can't lie at its place in a file of this size."""
    name, dtype, shape = entry["name"], entry["dtype"], entry["shape"]
    n_bytes = np.dtype(dtype).itemsize
    if n_bytes > size:  # of which numpy allocates one even for none
        return f"{name} can't have dtype {dtype!r} in a file of {size} bytes"
    for length in shape:
        n_bytes *= length
    if entry["nbytes"] != n_bytes or not _is_count(entry["nbytes"]):
        return f"{name} of shape {tuple(shape)} takes {n_bytes} bytes, not {entry['nbytes']!r}"
    if entry["offset"] != place or not _is_count(entry["offset"]):
        return f"{name} should begin at {place}, not {entry['offset']!r}"
    if max(shape) > size or place + n_bytes > size:
        return f"{name} reaches beyond the end"
    if not isinstance(entry["sha256"], str):
        return f"{name} has no checksum"
    return None


def _read_array(file: BinaryIO, entry: dict[str, Any], place: int, mmap: bool) -> Any:
    """Map or read an array; return None where the file ends before it."""
    dtype, shape = np.dtype(entry["dtype"]), tuple(entry["shape"])
    if entry["nbytes"] == 0:  # which mmap refuses
        return np.zeros(shape, dtype=dtype)
    if os.fstat(file.fileno()).st_size < place + entry["nbytes"]:
        return None
    if mmap:
        return np.memmap(file, dtype, "r", place, shape)
    array = np.empty(shape, dtype=dtype)
    file.seek(place)
    n_read = file.readinto(_bytes(array))  # type: ignore[attr-defined]
    return array if n_read == entry["nbytes"] else None


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _bytes(array: np.ndarray) -> Any:
    """Return the memory of a contiguous array, for hashing, reading and writing."""
    return np.asarray(array).reshape(-1).view(np.uint8).data if array.nbytes else b""


def _aligned(place: int) -> int:
    return -(-place // _ALIGNMENT) * _ALIGNMENT
