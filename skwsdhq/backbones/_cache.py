"""Features of images kept on disk, a row an image, so that a network sees each image once.

A folder for each network holds a file ``rows-WIDTH`` that only grows, of records of one size: the
image's key, its features, and a checksum of both and of the folder's name. A record that was cut,
changed or moved fails its checksum: it counts as missing, and is computed again. Processes take
turns by a lock on a second file.
"""

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..images.keys import KEY_BYTES
from ..utils.files import turn
from ..utils.warn import warn_caller

__all__ = ["FeatureCache"]

logger = logging.getLogger("skwsdhq.images")

_CHECK_BYTES = 16


class FeatureCache:
    """Keep rows of features by key.

    Where the disk can't be read or written, as when it is full, there is a warning, and features
    are computed and not kept.

    Parameters
    ----------
    folder : Path
        Made where it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def features(
        self,
        keys: Sequence[bytes],
        compute: Callable[[list[int]], np.ndarray],
        n_at_once: int,
        begin: Callable[[int], None] = lambda n_missing: None,
    ) -> np.ndarray:
        """Return the features of n images, computed where they are not known yet.

        Parameters
        ----------
        keys : sequence of n bytes
        compute : callable
            From positions (b,) in ``keys`` to their features (b, d).
        n_at_once : int
            Images that are computed before they are written and others get their turn.
        begin : callable
            Takes the number of images to compute, before the first of them.

        Returns
        -------
        ndarray of shape (n, d), float32
        """
        first: dict[bytes, int] = {}  # equal images are computed once
        for i, key in enumerate(keys):
            first.setdefault(key, i)
        found = self._read(first, warn=True)
        missing = [i for key, i in first.items() if key not in found]
        if missing:
            begin(len(missing))
        for start in range(0, len(missing), n_at_once):
            batch = missing[start : start + n_at_once]
            with self._turn() as may_write:
                # The turn may have been long in coming.
                if start or len(found) < len(first):  # others may have computed some meanwhile
                    found.update(self._read([keys[i] for i in batch]))
                batch = [i for i in batch if keys[i] not in found]
                if not batch:
                    continue
                rows = np.ascontiguousarray(compute(batch), dtype="<f4")
                added = {keys[i]: row for i, row in zip(batch, rows, strict=True)}
                found.update(added)
                if may_write:
                    self._append(added)
        # Files of several widths lie side by side; a call sees one network, and one width.
        widths = {len(row) for row in found.values()}
        if len(widths) > 1:
            raise ValueError(
                f"the backbone gives {' and '.join(map(str, sorted(widths)))} features an image, "
                f"of which some are kept in {self.folder}; delete it if the backbone has changed."
            )
        return np.array([found[key] for key in keys], dtype=np.float32)

    def _read(self, keys: Any, warn: bool = False) -> dict[bytes, np.ndarray]:
        """Read the rows of those keys that are kept whole."""
        found: dict[bytes, np.ndarray] = {}
        n_damaged = 0
        for path, width in self._files():
            size = KEY_BYTES + 4 * width + _CHECK_BYTES
            with self._warned(path, "read"), open(path, "rb", buffering=0) as file:
                places: dict[bytes, list[int]] = {}
                # Keys first, rows when asked for: a cache may be larger than memory.
                for place in range(0, os.fstat(file.fileno()).st_size - size + 1, size):
                    file.seek(place)
                    places.setdefault(file.read(KEY_BYTES), []).append(place)
                for key in keys:
                    for place in reversed(places.get(key, ())):  # the last one was added
                        file.seek(place)
                        record = file.read(size)
                        told = memoryview(record)[:-_CHECK_BYTES]
                        if told[:KEY_BYTES] == key and self._check(told) == record[len(told) :]:
                            row = np.frombuffer(record, "<f4", width, KEY_BYTES)
                            found[key] = row
                            break
                        n_damaged += 1
        if n_damaged and warn:
            logger.warning(
                "%d rows of features in %s were damaged; they are computed again.",
                n_damaged,
                self.folder,
            )
        return found

    def _append(self, rows: dict[bytes, np.ndarray]) -> None:
        """Add rows at the end of their file; the caller has the turn."""
        width = len(next(iter(rows.values())))
        path = self.folder / f"rows-{width}"
        records = [key + row.tobytes() + self._check(key, row.data) for key, row in rows.items()]
        with self._warned(path, "written"), open(path, "ab") as file:
            end = os.fstat(file.fileno()).st_size
            end -= end % len(records[0])  # what a crash may have left half written
            file.truncate(end)
            try:
                file.write(b"".join(records))
                file.flush()
            except OSError:  # a full disk: nothing half written stays
                with contextlib.suppress(OSError):
                    os.ftruncate(file.fileno(), end)
                raise

    def _check(self, *parts: bytes | memoryview) -> bytes:
        """Return the checksum of a record, which is one of this folder alone."""
        # The name is that of the network: a record that was copied elsewhere is no row there.
        name = self.folder.name.encode(errors="surrogatepass")
        digest = hashlib.blake2b(name + b"\0", digest_size=_CHECK_BYTES)
        for part in parts:
            digest.update(part)
        return digest.digest()

    def _files(self) -> list[tuple[Path, int]]:
        """List the files of rows and their widths."""
        with contextlib.suppress(OSError):
            names = sorted(os.listdir(self.folder))
            widths = [(name, name.removeprefix("rows-")) for name in names]
            return [
                (self.folder / name, int(width))
                for name, width in widths
                if name != width and width.isdecimal() and 0 < int(width) < 2**31
            ]
        return []

    @contextlib.contextmanager
    def _turn(self) -> Iterator[bool]:
        """Hold this process's turn to compute; yield False where there can be no lock."""
        with contextlib.ExitStack() as stack:
            locked = False
            with self._warned(self.folder / "lock", "locked"):
                self.folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(turn(self.folder / "lock"))
                locked = True
            yield locked

    @contextlib.contextmanager
    def _warned(self, path: Path, what: str) -> Iterator[None]:
        """Turn errors of the disk into a warning: features are computed, kept or not."""
        try:
            yield
        except OSError as error:
            warn_caller(f"features are not kept: {str(path)!r} can't be {what}: {error}")
