"""Pictures of one size by row number, read as they are asked for or kept on disk."""

import contextlib
import hashlib
import logging
import os
import queue
import shutil
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from joblib import effective_n_jobs

from ..utils.files import turn
from ..utils.pool import end_of, mapped
from ..utils.warn import warn_caller
from ._kept import PictureFile
from .keys import safe_image_key
from .kind import input_kind
from .reading import blank, resized, rgb_of

__all__ = [
    "ResizedImages",
    "prefetched",
    "resized_batches",
    "side_for_crops",
    "ten_crops",
    "unreadable_images",
]

logger = logging.getLogger(__name__)

_FORMAT = "2"  # of the cache; another one is another file
_ROWS_AT_ONCE = 256  # while the cache is written
_READ_ERRORS = (OSError, ValueError)  # what `read_image` raises


class ResizedImages:
    """Give pictures of one size by row numbers in any order, for a network to learn from.

    Parameters
    ----------
    images : ndarray of shape (n, H, W, 3), or sequence of n pictures or paths
        See :func:`input_kind`; uint8 pixels. Nothing of it is copied.
    size : int
        Pixels of a side. The shorter side is resized to it (bicubic), the middle cut out. Arrays
        of this size already are sliced as they are.
    cache_dir : str, PathLike or None, default=None
        Folder in which to keep the resized pictures, ``3 * size ** 2`` bytes each: each is then
        read and resized once for all epochs and processes. The first call of :meth:`rows` reads
        them all, in bounded memory. The images name the file: their paths, sizes and times of
        change, or their pixels. Each row has a checksum, and a damaged file is made anew. Where
        the folder can't be used, as on a full disk, there is a warning and no cache.
    n_jobs : int, default=None
        Threads that read and resize; None is 1, -1 all cores.
    background : str or (red, green, blue), default="white"
        Colour behind transparent pictures.
    on_error : {"raise", "skip"}, default="raise"
        What to do about an image that can't be read: raise an error that names the file, or give a
        picture of the background's colour in its place and put its row number into ``skipped_``.

    Attributes
    ----------
    skipped_ : dict of int to str
        Rows that could not be read so far, and the reasons.

    Raises
    ------
    TypeError
        If ``images`` is a matrix of features.

    Examples
    --------
    >>> import numpy as np
    >>> from skwsdhq.images import ResizedImages
    >>> pictures = [np.zeros((9, 7, 3), dtype=np.uint8), np.ones((5, 8, 3), dtype=np.uint8)]
    >>> rows = ResizedImages(pictures, 4)
    >>> len(rows), rows.rows([1, 0, 1]).shape
    (2, (3, 4, 4, 3))
    """

    def __init__(
        self,
        images: Any,
        size: int,
        *,
        cache_dir: str | os.PathLike | None = None,
        n_jobs: int | None = None,
        background: str | Sequence[int] = "white",
        on_error: str = "raise",
    ) -> None:
        if size < 1:
            raise ValueError(f"size={size} should be >= 1 pixel.")
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error={on_error!r} should be 'raise' or 'skip'.")
        kind = input_kind(images)
        if kind == "features" and len(images):
            raise TypeError(
                "images should be an array (n, H, W, 3) of uint8, a list of pictures or a list of "
                f"paths; got what looks like features: {type(images).__name__}."
            )
        self.size = int(size)
        self.n_jobs = n_jobs
        self.background = rgb_of(background)
        self.on_error = on_error
        self.skipped_: dict[int, str] = {}
        self._images = images.iloc if hasattr(images, "iloc") else images
        self._n_images = len(images)
        shape = getattr(images, "shape", None)
        # Slices of an array of the right size are as fast as any cache.
        self._is_ready = kind == "array" and tuple(shape[1:3]) == (size, size)  # type: ignore[index]
        self._folder = None if cache_dir is None or self._is_ready else Path(cache_dir)
        self._kept: PictureFile | None = None

    def __len__(self) -> int:
        """Return n."""
        return self._n_images

    def rows(self, indices: Any) -> np.ndarray:
        """Return the pictures of some rows.

        Parameters
        ----------
        indices : array-like of shape (b,), int
            Row numbers in any order, which may repeat; negative ones count from the end.

        Returns
        -------
        ndarray of shape (b, size, size, 3), uint8
            An array of its own.

        Raises
        ------
        IndexError
            If a row does not exist.
        OSError, ValueError
            If an image can't be read; the message names the file.
        """
        numbers = self._row_numbers(indices)
        if self._is_ready and isinstance(self._images, np.ndarray):
            return np.array(self._images[numbers])  # a copy: callers may write to it
        if self._folder is None or not self._n_images:
            return self._read(numbers)
        found = self._from_cache(numbers)
        return self._read(numbers) if found is None else found

    def _row_numbers(self, indices: Any) -> np.ndarray:
        numbers = np.asarray(indices)
        if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
            raise IndexError(
                f"indices should be row numbers of shape (b,); got {numbers.dtype} of shape "
                f"{numbers.shape}."
            )
        numbers = numbers.astype(np.intp)
        outside = (numbers < -self._n_images) | (numbers >= self._n_images)
        if outside.any():
            raise IndexError(f"there are {self._n_images} images; got row {numbers[outside][0]}.")
        return np.where(numbers < 0, numbers + self._n_images, numbers)

    def _read(self, numbers: np.ndarray, errors: list[Exception] | None = None) -> np.ndarray:
        """Read (b, size, size, 3) from the images themselves; put an error into ``errors`` too."""
        batch = np.empty((len(numbers), self.size, self.size, 3), dtype=np.uint8)

        def read(place: int) -> None:
            row = int(numbers[place])
            try:
                batch[place] = resized(self._images[row], self.size, self.background)
            except _READ_ERRORS as error:
                if self.on_error == "skip":
                    self.skipped_[row] = str(error)
                elif isinstance(self._images[row], (str, os.PathLike)):
                    raise  # which names the file
                else:
                    kind = OSError if isinstance(error, OSError) else ValueError
                    raise kind(f"row {row}: {error}") from error
                batch[place] = blank(self.size, self.background)

        try:
            _in_threads(read, len(numbers), self.n_jobs)
        except _READ_ERRORS as error:
            if errors is not None:
                errors.append(error)
            raise
        return batch

    # --- the cache ----------------------------------------------------------------------

    def _from_cache(self, numbers: np.ndarray) -> np.ndarray | None:
        """Return (b, size, size, 3); None, with a warning, where there can be no cache."""
        assert self._folder is not None
        reading: list[Exception] = []  # errors of the images, which are not of the cache
        empty = blank(self.size, self.background)
        reason = "what is written there is not what is read"
        try:
            kept = self._kept
            # Once more after it was made anew: then what is read is what was written.
            for is_last in (False, True):
                if kept is None:
                    kept = self._open(reading)
                found = kept.rows(numbers, empty)
                if found is not None:
                    self._kept = kept
                    return found
                kept = None
                if not is_last:
                    logger.warning("The cache of images in %s was damaged.", self._folder)
                    with turn(self._folder / "images.lock"):
                        self._write(self._new_file(), reading)
        except OSError as error:
            if error in reading:  # an image is at fault, and the caller should know
                raise
            reason = str(error)
        warn_caller(
            f"resized images are not kept: cache_dir={str(self._folder)!r} can't be used: {reason}"
        )
        self._folder = None
        return None

    def _new_file(self) -> PictureFile:
        if not hasattr(self, "_fingerprint"):  # it takes a look at every image
            self._fingerprint = self._make_fingerprint()
        assert self._folder is not None
        return PictureFile(self._folder, self._fingerprint, self._n_images, self.size)

    def _make_fingerprint(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        # Another Pillow may decode otherwise, so its version counts.
        digest.update(repr((_FORMAT, PIL.__version__, self.size, self.background)).encode())
        for row in range(self._n_images):
            digest.update(safe_image_key(self._images[row]))
        return digest.hexdigest()

    def _open(self, reading: list[Exception]) -> PictureFile:
        """Return the file of pictures, after making it where there is none that is whole."""
        kept = self._new_file()
        if not kept.open():
            kept.path.parent.mkdir(parents=True, exist_ok=True)
            with turn(kept.path.parent / "images.lock"):
                # Another process may have made it while this one waited.
                if not kept.open():
                    self._write(kept, reading)
        missing = kept.missing()
        self._read(missing, reading)  # raises, or says in `skipped_` why they are
        if not self.skipped_.keys() >= set(missing.tolist()):
            # What could not be read, as from a disk that was away, now can.
            with turn(kept.path.parent / "images.lock"):
                self._write(kept, reading)
        return kept

    def _write(self, kept: PictureFile, reading: list[Exception]) -> None:
        # Said before hours of reading, not after.
        free = shutil.disk_usage(kept.path.parent).free
        if free < kept.n_bytes:
            raise OSError(
                f"it has {free / 1e9:.1f} GB free; {self._n_images} images of {self.size} pixels "
                f"take {kept.n_bytes / 1e9:.1f} GB. Name another folder, or lower the size."
            )
        steps = range(0, self._n_images, _ROWS_AT_ONCE)
        parts = (np.arange(i, min(i + _ROWS_AT_ONCE, self._n_images)) for i in steps)
        batches = ((numbers, self._read(numbers, reading)) for numbers in parts)
        kept.write(batches, self.skipped_.__contains__)
        if not kept.open():
            raise OSError("what is written there is not what is read")

    def __getstate__(self) -> dict:
        """Return the state without the open cache, which the other process opens by itself."""
        return {**self.__dict__, "_kept": None}


def _in_threads(work: Callable[[int], Any], n_calls: int, n_jobs: int | None) -> None:
    """Call ``work`` with 0 to n_calls - 1; the first error in that order is raised."""
    n_threads = max(1, min(effective_n_jobs(n_jobs), n_calls))
    for _ in mapped(lambda _, place: work(place), range(n_calls), range(n_threads)):
        pass


def resized_batches(
    images: Sequence | Any,
    size: int,
    *,
    batch_size: int = 64,
    n_jobs: int | None = None,
    background: str | Sequence[int] = "white",
) -> Iterator[np.ndarray]:
    """Yield batches of pictures of one size, read as they are needed.

    Parameters
    ----------
    images : array of shape (n, H, W, 3), sequence of n pictures or paths
        See :func:`input_kind`.
    size : int
        Pixels of a side. The shorter side is resized to it (bicubic), the middle cut out.
    batch_size : int, default=64
        Pictures of a batch; no more than one batch is held at once.
    n_jobs : int, default=None
        Threads that read and resize; None is 1, -1 all cores.
    background : str or (red, green, blue), default="white"
        Colour behind transparent pictures.

    Yields
    ------
    ndarray of shape (b, size, size, 3), uint8
        With b = ``batch_size`` but for the last.

    Examples
    --------
    >>> import numpy as np
    >>> from skwsdhq.images import resized_batches
    >>> pictures = [np.zeros((30, 40, 3), np.uint8)] * 3
    >>> [batch.shape for batch in resized_batches(pictures, 16, batch_size=2)]
    [(2, 16, 16, 3), (1, 16, 16, 3)]
    """
    yield from in_order(
        ResizedImages(images, size, n_jobs=n_jobs, background=background), batch_size
    )


def side_for_crops(size: int) -> int:
    """Return the side of pictures to cut crops of ``size`` from: 256 for 224, and for 227."""
    return 256 if size == 227 else round(int(size) * 8 / 7)


def ten_crops(batch: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Yield the four corners and the middle of pictures, and the mirror image of each.

    Parameters
    ----------
    batch : ndarray of shape (b, side, side, 3)
    size : int
        At most the side.

    Yields
    ------
    ndarray of shape (b, size, size, 3)
        Ten times, each an array of its own.
    """
    spare = batch.shape[1] - size
    middle = spare // 2
    for top, left in ((0, 0), (0, spare), (spare, 0), (spare, spare), (middle, middle)):
        crop = batch[:, top : top + size, left : left + size]
        yield np.ascontiguousarray(crop)
        yield np.ascontiguousarray(crop[:, :, ::-1])


def in_order(
    pictures: ResizedImages, batch_size: int, rows: Sequence[int] | None = None
) -> Iterator[np.ndarray]:
    """Yield all rows, or those that are given, (b, size, size, 3) at a time."""
    numbers = np.arange(len(pictures)) if rows is None else np.asarray(rows)
    for start in range(0, len(numbers), batch_size):
        yield pictures.rows(numbers[start : start + batch_size])


def prefetched(batches: Iterator, n_ahead: int = 1) -> Generator:
    """Yield the same batches, made in a thread while the caller works on those before.

    Parameters
    ----------
    batches : iterator
        Only this thread asks it.
    n_ahead : int, default=1
        Batches that may wait to be asked for; with the one in the making and the one in use,
        ``n_ahead + 2`` are held at once.

    Yields
    ------
    object
        In order; an error in the thread is raised here. The thread ends with this generator, which
        does not wait long for one that hangs, as on a disk that is away.

    Examples
    --------
    >>> from skwsdhq.images import prefetched
    >>> sum(prefetched(iter([1, 2, 3])))
    6
    """
    waiting: queue.Queue = queue.Queue(n_ahead)
    stopped = threading.Event()
    end = object()  # no batch can be mistaken for it

    # A plain put would wait for ever on a caller that has gone.
    def put(item: Any) -> bool:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                waiting.put(item, timeout=0.1)
                return True
        return False

    def make() -> None:
        try:
            for batch in batches:
                if not put((batch, None)):
                    return
            put((end, None))
        except BaseException as error:
            put((end, error))

    # A daemon: the interpreter's end does not wait for a disk that is away.
    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        while True:
            batch, error = waiting.get()
            if error is not None:
                raise error
            if batch is end:
                return
            yield batch
    finally:
        stopped.set()
        end_of([thread])


def unreadable_images(images: Any, *, n_jobs: int | None = None) -> dict[int, str]:
    """Find images that can't be read, to leave them out with their tags before fitting.

    Parameters
    ----------
    images : ndarray of shape (n, H, W, 3), or sequence of n pictures or paths
        See :func:`input_kind`.
    n_jobs : int, default=None
        Threads that read; None is 1, -1 all cores. Every image is read once.

    Returns
    -------
    dict of int to str
        Row number to the message of the error, in order of the rows.

    Examples
    --------
    >>> from skwsdhq.images import unreadable_images
    >>> unreadable_images(["nowhere.jpg"])
    {0: "image 'nowhere.jpg' does not exist."}
    """
    # One pixel: decoding is what can fail, and takes the time.
    pictures = ResizedImages(images, 1, n_jobs=n_jobs, on_error="skip")
    for _ in in_order(pictures, _ROWS_AT_ONCE):
        pass
    return dict(sorted(pictures.skipped_.items()))
