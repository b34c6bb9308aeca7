"""Resized pictures in a file, each with a checksum, so that nothing else is ever taken for them."""

import contextlib
import io
import os
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from ..utils.files import replacing

__all__ = ["PictureFile"]


class PictureFile:
    """Keep pictures in a file of numpy's own format, with checksums behind its end.

    The pictures are (n, size, size, 3) uint8, the checksums (n,) uint32: CRC-32 of the fingerprint,
    the row number and the picture, or 0 for a row that could not be read.

    Parameters
    ----------
    folder : Path
    fingerprint : str
        Of what the pictures are.
    n_images, size : int
    """

    def __init__(self, folder: Path, fingerprint: str, n_images: int, size: int) -> None:
        self.path = folder / f"images-{size}-{fingerprint}.npy"
        self._fingerprint = fingerprint
        self._shape = (n_images, size, size, 3)
        # The header is written anew and compared, not parsed: a file with another one is not ours.
        file = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": self._shape}
        )
        self._header = file.getvalue()
        self._row_bytes = 3 * size**2
        self.n_bytes = len(self._header) + n_images * (self._row_bytes + 4)
        self._checksums: np.ndarray | None = None

    def open(self) -> bool:
        """Tell whether the file is there and whole, as far as header and size say."""
        self._checksums = None
        try:
            with open(self.path, "rb") as file:
                begins = file.read(len(self._header)) == self._header
                if not begins or os.fstat(file.fileno()).st_size != self.n_bytes:
                    return False
                # Readers of .npy files stop before what stands behind the array.
                file.seek(-4 * self._shape[0], os.SEEK_END)
                checksums = np.frombuffer(file.read(), "<u4")
        except FileNotFoundError:
            return False
        if len(checksums) != self._shape[0]:  # it was cut after its size had been asked for
            return False
        self._checksums = checksums
        return True

    def missing(self) -> np.ndarray:
        """Return the numbers of the rows that could not be read when the file was made."""
        assert self._checksums is not None
        return np.flatnonzero(self._checksums == 0)

    def rows(self, numbers: np.ndarray, empty: np.ndarray) -> np.ndarray | None:
        """Return pictures (b, size, size, 3); None where a row is damaged.

        ``empty`` takes the place of a picture that could not be read.
        """
        assert self._checksums is not None
        batch = np.empty((len(numbers), *self._shape[1:]), dtype=np.uint8)
        try:
            # Not mapped into memory: who touches a mapped file that was cut ends the process.
            with open(self.path, "rb", buffering=0) as file:
                for row, picture in zip(numbers.tolist(), batch, strict=True):
                    if not self._checksums[row]:
                        picture[:] = empty
                        continue
                    file.seek(len(self._header) + row * self._row_bytes)
                    n_read = file.readinto(picture.data.cast("B"))
                    if n_read != self._row_bytes or self._check(row, picture) != int(
                        self._checksums[row]
                    ):
                        return None
        except FileNotFoundError:
            return None
        return batch

    def write(
        self, batches: Iterable[tuple[np.ndarray, np.ndarray]], is_missing: Callable[[int], bool]
    ) -> None:
        """Make the file from row numbers and pictures, in order."""
        checksums = np.zeros(self._shape[0], dtype="<u4")
        with contextlib.suppress(OSError):
            self.path.with_suffix(".part").unlink()  # what older versions left
        with replacing(self.path) as file:
            file.write(self._header)
            for numbers, pictures in batches:
                for row, picture in zip(numbers.tolist(), pictures, strict=True):
                    file.write(picture.data)
                    # What could not be read is known only once its batch has been made.
                    if not is_missing(row):
                        checksums[row] = self._check(row, picture)
            file.write(checksums.tobytes())

    def _check(self, row: int, picture: np.ndarray) -> int:
        """Return the checksum of a row; 1 in place of 0, which stands for no picture."""
        seed = zlib.crc32(f"{self._fingerprint} {row}".encode())
        return zlib.crc32(picture.data, seed) or 1
