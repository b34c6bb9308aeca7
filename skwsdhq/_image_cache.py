"""Features of images kept on disk, a row an image, so that a network sees each image once.

A folder for each network holds two files that only grow: ``rows.f4``, features, and ``keys``, 32
bytes for each row. Rows are written before their keys, so that what a crash leaves half written
has no key and is written over. Processes take turns by a lock on a third file.
"""

import hashlib
import importlib.metadata
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .utils._files import turn

__all__ = ["FeatureCache", "image_key", "network_key"]

_KEY_BYTES = 32
_FORMAT = "1"


def image_key(source: Any) -> bytes:
    """32 bytes that tell a picture from others: by its pixels, or by a file's name, size and time.

    Raises
    ------
    FileNotFoundError
        If a path does not exist.
    """
    digest = hashlib.blake2b(digest_size=_KEY_BYTES)
    if isinstance(source, (str, os.PathLike)):
        path = os.path.abspath(os.fspath(source))
        if not os.path.exists(path):
            raise FileNotFoundError(f"image {os.fspath(source)!r} does not exist.")
        status = os.stat(path)
        digest.update(f"file {status.st_size} {status.st_mtime_ns} {path}".encode())
    elif hasattr(source, "getbands"):
        digest.update(f"picture {source.mode} {source.size}".encode())
        digest.update(source.tobytes())
    else:
        pixels = np.ascontiguousarray(source)
        digest.update(f"array {pixels.dtype.str} {pixels.shape}".encode())
        digest.update(pixels.reshape(-1).view(np.uint8).data if pixels.nbytes else b"")
    return digest.digest()


def network_key(backbone: Any, size: int | None, *settings: Any) -> str:
    """Hex digits that tell a network, at an image size and in other settings, from others.

    A name counts with the versions of the packages that give the network, and with size and time of
    a file that it names; a module by its
    structure and weights; a function by its module, name and code, but not by what it closes
    over; any other callable by its pickle.
    """
    from .backbones import Backbone, file_stamp

    digest = hashlib.blake2b(digest_size=16)
    parts: list[Any] = [_FORMAT, size, *settings]
    if isinstance(backbone, Backbone):
        parts += [backbone.size, backbone.mean, backbone.std]
        backbone = backbone.module
    if isinstance(backbone, str):
        parts += [backbone, *(_version(name) for name in ("torchvision", "timm"))]
        stamp = file_stamp(backbone)
        parts += [stamp] if stamp else []
    elif hasattr(backbone, "state_dict"):
        parts.append(repr(backbone))
        for name, tensor in backbone.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    elif hasattr(backbone, "__code__"):
        parts += [backbone.__module__, backbone.__qualname__, _code_parts(backbone.__code__)]
    else:
        import joblib

        parts.append(joblib.hash(backbone))
    digest.update(repr(parts).encode())
    return digest.hexdigest()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _code_parts(code: Any) -> list:
    """What a function does, without where it stands: constants may be code themselves."""
    constants = [_code_parts(c) if hasattr(c, "co_code") else repr(c) for c in code.co_consts]
    return [code.co_code.hex(), code.co_names, constants]


class FeatureCache:
    """Rows of features by key.

    Parameters
    ----------
    folder : Path
        Made where it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._rows: dict[bytes, int] = {}

    def features(
        self, keys: Sequence[bytes], compute: Callable[[list[int]], np.ndarray], n_at_once: int
    ) -> np.ndarray:
        """Features of n images, computed where they are not known yet.

        Parameters
        ----------
        keys : sequence of n bytes
        compute : callable
            From positions (b,) in ``keys`` to their features (b, d).
        n_at_once : int
            Images that are computed before they are written and others get their turn.

        Returns
        -------
        ndarray of shape (n, d), float32
        """
        missing = self._missing(keys)
        for start in range(0, len(missing), n_at_once):
            with turn(self.folder / "lock"):
                self._read_keys()  # others may have computed some meanwhile
                batch = [i for i in missing[start : start + n_at_once] if keys[i] not in self._rows]
                if batch:
                    added = [keys[i] for i in batch]
                    self._append(added, compute(batch))
                    self._read_keys()
                    if not self._rows.keys() >= set(added):
                        raise ValueError(f"{self.folder} is damaged; delete it.")
        width = int((self.folder / "width").read_text())
        wanted = [self._rows[key] for key in keys]
        path = self.folder / "rows.f4"
        n_rows = path.stat().st_size // (4 * width)
        if wanted and max(wanted) >= n_rows:
            raise ValueError(f"{path} is shorter than it should be; delete {self.folder}.")
        return np.array(np.memmap(path, "<f4", "r", shape=(n_rows, width))[wanted], dtype="f4")

    def _missing(self, keys: Sequence[bytes]) -> list[int]:
        """The first position of each key that has no row."""
        self._read_keys()
        first: dict[bytes, int] = {}
        for i, key in enumerate(keys):
            if key not in self._rows:
                first.setdefault(key, i)
        return list(first.values())

    def _read_keys(self) -> None:
        """Read what this process or others added."""
        path = self.folder / "keys"
        if not path.exists():
            return
        with open(path, "rb") as file:
            file.seek(len(self._rows) * _KEY_BYTES)
            added = file.read()
        for start in range(0, len(added) - _KEY_BYTES + 1, _KEY_BYTES):
            self._rows[added[start : start + _KEY_BYTES]] = len(self._rows)

    def _append(self, keys: list[bytes], features: np.ndarray) -> None:
        rows = np.ascontiguousarray(features, dtype="<f4")
        width = self.folder / "width"
        if not width.exists():
            width.write_text(str(rows.shape[1]))
        elif int(width.read_text()) != rows.shape[1]:
            raise ValueError(
                f"the backbone gives {rows.shape[1]} features, but {width.read_text()} are kept in "
                f"{self.folder}; delete it."
            )
        _write_at(self.folder / "rows.f4", len(self._rows) * rows.shape[1] * 4, rows.tobytes())
        _write_at(self.folder / "keys", len(self._rows) * _KEY_BYTES, b"".join(keys))


def _write_at(path: Path, place: int, content: bytes) -> None:
    with open(path, "r+b" if path.exists() else "xb") as file:
        file.truncate(place)  # what a crash may have left
        file.seek(place)
        file.write(content)
