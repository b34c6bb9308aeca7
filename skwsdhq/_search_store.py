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
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["FORMAT", "load_arrays", "save_arrays"]

FORMAT = 1
_MAGIC = b"SKWSDHQ\0"
_PREFIX = struct.Struct("<8sII32s")
_ALIGNMENT = 64


def save_arrays(path: str | os.PathLike, arrays: Mapping[str, np.ndarray], extra: dict) -> None:
    """Write arrays and a dict of JSON values to a file; a file that is there is replaced at once.

    The file is written beside its place and renamed, so that a crash leaves the old one as it was.
    """
    path = Path(path)
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
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}.part")
    try:
        with open(temporary, "xb") as file:
            digest = hashlib.sha256(header).digest()
            file.write(_PREFIX.pack(_MAGIC, FORMAT, len(header), digest))
            file.write(header)
            for entry, data in zip(entries, contents, strict=True):
                file.seek(start + entry["offset"])
                file.write(data)
            file.truncate(start + place)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load_arrays(
    path: str | os.PathLike, *, mmap: bool, verify: bool
) -> tuple[dict[str, np.ndarray], dict]:
    """Arrays and extra values of a file of `save_arrays`; ValueError where it is not whole."""
    path = Path(path)
    size = path.stat().st_size
    with open(path, "rb") as file:
        prefix = file.read(_PREFIX.size)
        if prefix[: len(_MAGIC)] != _MAGIC[: len(prefix)] or not prefix:
            raise ValueError(f"{path} is not a saved CodeIndex.")
        if len(prefix) < _PREFIX.size:
            raise ValueError(f"{path} is cut short: {size} bytes; save the index again.")
        _, number, length, digest = _PREFIX.unpack(prefix)
        if number != FORMAT:
            raise ValueError(
                f"{path} has format {number}, but this version reads format {FORMAT}; "
                "load it with the version that saved it, or update skwsdhq."
            )
        header = file.read(length)
    if len(header) < length:
        raise ValueError(f"{path} is cut short: {size} bytes; save the index again.")
    if hashlib.sha256(header).digest() != digest:
        raise ValueError(f"{path} is damaged: the checksum of its header does not fit.")
    fields = json.loads(header)
    start = _aligned(_PREFIX.size + length)
    if size != start + fields["nbytes"]:
        raise ValueError(
            f"{path} is cut short or has been added to: {size} bytes instead of "
            f"{start + fields['nbytes']}; save the index again."
        )
    arrays = {}
    for entry in fields["arrays"]:
        dtype, shape = np.dtype(entry["dtype"]), tuple(entry["shape"])
        array: np.ndarray
        if entry["nbytes"] == 0:  # which mmap refuses
            array = np.zeros(shape, dtype=dtype)
        else:
            array = np.memmap(path, dtype, "r", start + entry["offset"], shape)
        if verify and hashlib.sha256(_bytes(array)).hexdigest() != entry["sha256"]:
            raise ValueError(f"{path} is damaged: the checksum of {entry['name']} does not fit.")
        arrays[entry["name"]] = array if mmap else np.array(array)
    return arrays, fields["extra"]


def _bytes(array: np.ndarray) -> Any:
    """The memory of a contiguous array, for hashing and writing."""
    return np.asarray(array).reshape(-1).view(np.uint8).data if array.nbytes else b""


def _aligned(place: int) -> int:
    return -(-place // _ALIGNMENT) * _ALIGNMENT
