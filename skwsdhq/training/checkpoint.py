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
from ..utils.rows import LazyRows, MappedRows, row_blocks

__all__ = ["Checkpoint", "fingerprint"]

_FEW = 1000  # numbers of an array that counts as their list does, as a parameter may be either


def fingerprint(*parts: Any) -> str:
    """Return a hash, 32 digits, of values: equal ones have the same, whatever kind they are.

    Numbers, texts, paths, arrays, and lists, tuples, sets or dictionaries of them count by what
    they hold: ``np.int64(16)`` is 16, a tuple is the list of its items. Any other object counts by
    its pickle. The version of this package counts as well: another one may train otherwise.
    """
    seal = hashlib.sha256()
    for part in (__version__, *parts):
        _add(seal, part)
    return seal.hexdigest()[:32]


def _plain(part: Any) -> Any:
    """Return what numpy holds as Python does, where a parameter may be either."""
    if isinstance(part, np.ndarray) and part.ndim == 0:
        part = part.item()
    if isinstance(part, np.generic):  # also what an array of objects held
        part = part.item()
    if isinstance(part, os.PathLike):
        return os.fspath(part)
    if not isinstance(part, np.ndarray):
        return part
    # Floats stay an array: a list of them would not tell float32 from float64.
    is_short = part.ndim == 1 and part.size <= _FEW and part.dtype.kind in "iubU"
    return part.tolist() if is_short else part


def _add(seal: Any, part: Any) -> None:
    """Have a seal hash a value, and what it holds."""
    part = _plain(part)
    # Kind and length come first: [[1], 2] and [[1, 2]] would read alike without.
    if isinstance(part, np.ndarray) and part.dtype != object:
        # Of one order of bytes, so that a folder may move to another kind of machine.
        little = np.ascontiguousarray(part, dtype=part.dtype.newbyteorder("<"))
        seal.update(f"array {little.dtype.str} {part.shape} ".encode())
        seal.update(little.reshape(-1).view(np.uint8).data)
    elif isinstance(part, (LazyRows, MappedRows)):  # as the array that they stand for
        seal.update(f"array {part.dtype.newbyteorder('<').str} {part.shape} ".encode())
        for block in row_blocks(part):
            little = np.ascontiguousarray(block, dtype=block.dtype.newbyteorder("<"))
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
        _add(seal, sorted(part, key=repr))  # the order of a set differs between processes
    elif part is None or isinstance(part, (bool, int, float, complex, str, bytes)):
        text = repr(part).encode()
        seal.update(b"%d " % len(text) + text)
    else:
        # Anything else by its pickle.
        _add(seal, [type(part).__qualname__, joblib.hash(part)])


class Checkpoint:
    """Keep a run's state in a file named by what the run is: other parameters use another one.

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
        """Return the state that was saved last; None where there is none.

        Raises
        ------
        LoadError
            If the file is damaged.
        """
        # A first run, or one with other parameters or data.
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
            # All come from bytes that are not what was written: one error tells the way out.
            raise self.refusal(error) from error

    def refusal(self, error: Exception) -> LoadError:
        """Return the error for a file that is damaged, or contradicts itself or the run."""
        return LoadError(
            f"checkpoint {self.path} can't be loaded: {error} Delete it to start anew."
        )

    def save(self, state: dict[str, Any]) -> None:
        """Replace the state at once: a crash leaves the earlier one."""
        # As models are saved: nothing in the file is run when it is read.
        writer = Writer()
        text = json.dumps(writer.value(state, "state"), allow_nan=False)
        write_sealed(self.path, writer.arrays, {"state": text})
