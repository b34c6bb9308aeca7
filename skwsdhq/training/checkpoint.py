"""The state of a training on disk, so that a run that was killed goes on where it was."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import joblib
import numpy as np

from .._version import __version__
from ..persistence.file import LoadError, SealedFile, parse_json, write_sealed
from ..persistence.reader import Reader
from ..persistence.writer import Writer

__all__ = ["Checkpoint", "fingerprint"]

_FEW = 1000  # numbers of an array that counts as their list does, as a parameter may be either


def fingerprint(*parts: Any) -> str:
    """A hash, 32 digits, of values; equal ones have the same whatever kind of object they are.

    Numbers, texts, paths, arrays, and lists, tuples, sets or dictionaries of them count by what
    they hold: ``np.int64(16)`` is 16, a tuple is the list of its items. Any other object counts by
    its pickle. The version of this package counts as well: another one may train otherwise.
    """
    seal = hashlib.sha256()
    for part in (__version__, *parts):
        _add(seal, part)
    return seal.hexdigest()[:32]


def _add(seal: Any, part: Any) -> None:
    if isinstance(part, np.ndarray) and part.ndim == 0:
        part = part.item()
    if isinstance(part, np.generic):
        part = part.item()
    if isinstance(part, np.ndarray) and part.ndim == 1 and part.size <= _FEW:
        part = part.tolist() if part.dtype.kind in "iubU" else part
    if isinstance(part, np.ndarray) and part.dtype != object:
        little = np.ascontiguousarray(part, dtype=part.dtype.newbyteorder("<"))
        seal.update(f"array {little.dtype.str} {part.shape} ".encode())
        seal.update(little.reshape(-1).view(np.uint8).data)
    elif isinstance(part, dict):
        seal.update(f"dict {len(part)} ".encode())
        for key, value in part.items():
            _add(seal, key)
            _add(seal, value)
    elif isinstance(part, (list, tuple, np.ndarray)):
        seal.update(f"list {len(part)} ".encode())
        for item in part:
            _add(seal, item)
    elif isinstance(part, (set, frozenset)):
        _add(seal, sorted(part, key=repr))
    elif part is None or isinstance(part, (bool, int, float, complex, str, bytes)):
        text = repr(part).encode()
        seal.update(b"%d " % len(text) + text)
    elif isinstance(part, os.PathLike):
        _add(seal, os.fspath(part))
    else:
        _add(seal, [type(part).__qualname__, joblib.hash(part)])


class Checkpoint:
    """A file in a folder, named by what the run is: other parameters or data use another one.

    Parameters
    ----------
    folder : str or PathLike
        Made where it is not there.
    name : str
        From :func:`fingerprint`.
    """

    def __init__(self, folder: str | os.PathLike, name: str) -> None:
        self.path = Path(folder) / f"{name}.safetensors"
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def load(self) -> dict[str, Any] | None:
        """The state that was saved last; None where there is none.

        Raises
        ------
        LoadError
            If the file is damaged.
        """
        if not self.path.exists():
            return None
        try:
            with open(self.path, "rb") as file:
                sealed = SealedFile(file)
                state = parse_json(sealed.metadata.get("state", "null"), "its state")
                return Reader(sealed.array, sealed.format).value(state)
        except (
            LoadError, ValueError, TypeError, AttributeError, OverflowError, RecursionError,
        ) as error:  # fmt: skip
            raise self.refusal(error) from error

    def refusal(self, error: Exception) -> LoadError:
        """What to raise of a file that is damaged, or that contradicts itself or the run."""
        return LoadError(
            f"checkpoint {self.path} can't be loaded: {error} Delete it to start anew."
        )

    def save(self, state: dict[str, Any]) -> None:
        """Replace the state at once: a crash leaves the earlier one."""
        writer = Writer()
        text = json.dumps(writer.value(state, "state"), allow_nan=False)
        write_sealed(self.path, writer.arrays, {"state": text})
