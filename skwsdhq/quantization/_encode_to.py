"""Codes of more rows than memory holds: written to a file in blocks, gone on with after a stop.

The name appears when all codes are there. Until then they stand in ``NAME.part``, and
``NAME.progress`` tells how many rows are done and what they are of: a hash of the model and one of
the rows, so that a run goes on with what it was begun with or not at all.
"""

import contextlib
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ..utils.files import replacing
from ..utils.rows import release

__all__ = ["Rows", "write_codes"]

logger = logging.getLogger("skwsdhq.quantization")

_SAVED_EVERY_S = 2.0  # what a stop loses at most
_FORMAT = 1


class Rows:
    """Give blocks of images with their own tags, and bytes that tell them from others.

    Parameters
    ----------
    X : images or features
        Sliced, never taken as a whole.
    tags : csr_array of shape (n, C) or None
        Concepts of the rows.
    n_rows : int
    step : int
        Rows of a block.
    """

    def __init__(self, X: Any, tags: Any, n_rows: int, step: int) -> None:
        self._X, self._tags, self.n_rows, self.step = X, tags, n_rows, step

    def block(self, start: int) -> tuple[Any, Any]:
        """Return a block of X, and its tags."""
        rows = slice(start, min(start + self.step, self.n_rows))
        source = self._X.iloc if hasattr(self._X, "iloc") else self._X
        return source[rows], None if self._tags is None else self._tags[rows]

    def add_to(self, digest: bytes, block: Any, own: Any) -> bytes:
        """Return the digest of the rows before a block, with the block's added."""
        seal = hashlib.blake2b(digest, digest_size=16)
        if hasattr(block, "shape") and getattr(getattr(block, "dtype", None), "kind", "") != "O":
            _add_array(seal, np.asarray(block))
        else:
            for one in block:
                if isinstance(one, (str, os.PathLike)):
                    seal.update(os.fsencode(one) + b"\0")
                else:
                    _add_array(seal, np.asarray(one))
        if own is not None:
            _add_array(seal, own.indptr)
            _add_array(seal, own.indices)
        return seal.digest()


def _add_array(seal: Any, array: np.ndarray) -> None:
    seal.update(f"{array.dtype.str} {array.shape} ".encode())
    seal.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def write_codes(
    path: Any,
    rows: Rows,
    encode: Callable[[Any, Any], np.ndarray],
    model: str,
    *,
    shape: tuple[int, Any],
    verbose: int = 0,
) -> np.memmap:
    """Write the codes of rows to a file, from where an earlier call was stopped.

    Parameters
    ----------
    path : str or PathLike
    rows : Rows
    encode : callable
        From a block and its tags to codes (b, M).
    model : str
        What tells the model from others.
    shape : (int, dtype)
        M, and the dtype of codes.
    verbose : int, default=0
        1 shows a bar with the rows a second.

    Returns
    -------
    memmap of shape (n, M)
        The file, to be read.
    """
    target = _target(path)
    part, told = _beside(target, ".part"), _beside(target, ".progress")
    n_codebooks, dtype = shape
    known = {"format": _FORMAT, "model": model, "n_rows": rows.n_rows, "step": rows.step}
    n_done, digest = 0, b""
    if told.exists() and part.exists():
        n_done, digest = _read_progress(told, known, target)
    codes = _opened(part, (rows.n_rows, n_codebooks), dtype, n_done)
    with tqdm(total=rows.n_rows, unit=" rows", disable=not verbose, desc="encoding") as bar:
        seen, start, since = b"", 0, time.monotonic()
        while start < rows.n_rows:
            block, own = rows.block(start)
            stop = min(start + rows.step, rows.n_rows)
            seen = rows.add_to(seen, block, own)
            if stop > n_done:
                codes[start:stop] = encode(block, own)
            elif start == 0:
                _check_codes(encode(block, own), codes[:stop], told, part)
            if stop == n_done and seen != digest:
                raise _refusal(told, part, "X, or its tags, are not those that it was begun with")
            if stop > n_done and (stop == rows.n_rows or time.monotonic() - since > _SAVED_EVERY_S):
                codes.flush()
                release(codes)
                _write_progress(told, {**known, "n_done": stop, "rows": seen.hex()})
                since = time.monotonic()
            bar.update(stop - start)
            start = stop
    logger.info("%d codes are in %s", rows.n_rows, target)
    del codes
    os.replace(part, target)
    with contextlib.suppress(OSError):
        told.unlink()
    return np.load(target, mmap_mode="r")


def _target(path: Any) -> Path:
    """Return where codes should go, if a file can be written there."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path={path!r} should be the path of a .npy file.")
    target = Path(os.path.realpath(os.fsdecode(path)))
    if target.suffix != ".npy":
        raise ValueError(f"path={os.fspath(path)!r} should end in .npy, as codes.npy.")
    if target.is_dir():
        raise IsADirectoryError(f"{target} is a folder; name a file to write.")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"the folder {str(target.parent)!r} does not exist; make it first.")
    return target


def _beside(target: Path, suffix: str) -> Path:
    return target.with_name(target.name + suffix)


def _refusal(told: Path, part: Path, why: str) -> ValueError:
    return ValueError(
        f"{str(part)!r} can't be gone on with: {why}. Delete it and {told.name!r} to begin anew, "
        "or name another path."
    )


def _read_progress(told: Path, known: dict[str, Any], target: Path) -> tuple[int, bytes]:
    """Return how many rows are done, and their digest; refuse those of another model or number."""
    part = _beside(target, ".part")
    try:
        found = json.loads(told.read_text(encoding="utf-8"))
        n_done, digest = found["n_done"], bytes.fromhex(found["rows"])
        whole = n_done == known["n_rows"] or n_done % known["step"] == 0
        if not (type(n_done) is int and n_done >= 0 and whole):
            raise ValueError(f"n_done={n_done!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise _refusal(told, part, f"{told.name!r} can't be read ({error})") from error
    if found.get("model") != known["model"]:
        raise _refusal(told, part, "another model has begun it")
    if found.get("n_rows") != known["n_rows"]:
        raise _refusal(
            told, part, f"it was begun for {found.get('n_rows')} rows, X has {known['n_rows']}"
        )
    if any(found.get(name) != value for name, value in known.items()) or n_done > known["n_rows"]:
        raise _refusal(told, part, "another version has begun it")
    return n_done, digest


def _opened(part: Path, shape: tuple[int, int], dtype: Any, n_done: int) -> np.memmap:
    """Open the codes that are there, or a new file of them."""
    if not n_done:
        # Of an earlier file: it would tell of rows that the new one does not have.
        _beside(part.with_suffix(""), ".progress").unlink(missing_ok=True)
        return np.lib.format.open_memmap(part, mode="w+", dtype=dtype, shape=shape)
    try:
        codes = np.lib.format.open_memmap(part, mode="r+")
        if codes.shape != shape or codes.dtype != dtype:
            raise ValueError(f"it holds {codes.dtype} of shape {codes.shape}")
    except ValueError as error:
        raise _refusal(_beside(part.with_suffix(""), ".progress"), part, str(error)) from error
    return codes


def _check_codes(own: np.ndarray, there: np.ndarray, told: Path, part: Path) -> None:
    """Refuse codes that this model would not give: its embedder is another one."""
    # Not to the last: near ties may fall otherwise where threads or processor are others.
    if np.mean((own != there).any(axis=1)) > 0.02:
        raise _refusal(told, part, "another model has begun it, or X is not what it was")


def _write_progress(told: Path, state: dict[str, Any]) -> None:
    with replacing(told) as file:
        file.write(json.dumps(state).encode())
