"""Keys that tell one picture from another."""

import hashlib
import os
from typing import Any

import numpy as np

from .reading import check_file, orientation_of

__all__ = ["KEY_BYTES", "image_key", "safe_image_key"]

KEY_BYTES = 32


def image_key(source: Any) -> bytes:
    """Return 32 bytes that tell a picture from others.

    Pixels count, or a file's name, size and time of change.


    Raises
    ------
    OSError, ValueError
        If a path is no file, or the pixels can't be had.
    """
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
    if isinstance(source, (str, os.PathLike)):
        # Not its content: reading a hundred thousand files takes as long as using them.
        status = check_file(os.fspath(source))
        path = os.fsencode(os.path.abspath(os.fspath(source)))
        digest.update(f"file {status.st_size} {status.st_mtime_ns} ".encode() + path)
    elif hasattr(source, "getbands"):
        pixels = source.tobytes()
        # Equal bytes are other pictures under another palette, rotation or transparent colour.
        palette = source.palette.getdata() if source.palette else None
        clear = source.info.get("transparency")
        told = (source.mode, source.size, orientation_of(source), palette, clear)
        digest.update(f"picture {told} ".encode())
        digest.update(pixels)
    else:
        array = np.asarray(source)
        if array.dtype.hasobject:
            raise ValueError(f"an image should be uint8; got {array.dtype}.")
        digest.update(f"array {array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.digest()


def safe_image_key(source: Any) -> bytes:
    """Return the key of an image; for what can't be read, one that tells the reason."""
    try:
        return image_key(source)
    except Exception as error:  # whatever it is, reading the image will say it
        told = f"unreadable {type(error).__name__} {error}".encode(errors="surrogatepass")
        return hashlib.blake2b(told, digest_size=KEY_BYTES).digest()
