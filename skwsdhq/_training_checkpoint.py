"""The state of a training on disk, so that a run that was killed goes on where it was."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from ._persistence_file import LoadError, SealedFile, parse_json, write_sealed
from ._persistence_values import Reader, Writer

__all__ = ["Checkpoint", "fingerprint"]


def fingerprint(*parts: Any) -> str:
    """A hash, 32 digits, of arrays, numbers, texts, and lists, tuples or dictionaries of them."""
    seal = hashlib.sha256()
    for part in parts:
        _add(seal, part)
    return seal.hexdigest()[:32]


def _add(seal: Any, part: Any) -> None:
    if isinstance(part, np.ndarray) and part.dtype != object:
        seal.update(f"array {part.dtype.str} {part.shape} ".encode())
        seal.update(np.ascontiguousarray(part).view(np.uint8).reshape(-1).data)
    elif isinstance(part, dict):
        seal.update(f"dict {len(part)} ".encode())
        for key, value in part.items():
            _add(seal, key)
            _add(seal, value)
    elif isinstance(part, (list, tuple)):
        seal.update(f"list {len(part)} ".encode())
        for item in part:
            _add(seal, item)
    else:
        text = repr(part).encode()
        seal.update(b"%d " % len(text) + text)


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
                return Reader(sealed.array).value(state)
        except (LoadError, ValueError, TypeError, AttributeError) as error:
            raise LoadError(
                f"checkpoint {self.path} can't be loaded: {error} Delete it to start anew."
            ) from error

    def save(self, state: dict[str, Any]) -> None:
        """Replace the state at once: a crash leaves the earlier one."""
        writer = Writer()
        text = json.dumps(writer.value(state, "state"), allow_nan=False)
        write_sealed(self.path, writer.arrays, {"state": text})
