"""Rows of features that are read in blocks: of memory maps, and of lazy objects that slice.

What is in memory stays what it is. All else is copied block by block, checked on the way, and what
a memory map has read of its file is given back, so that the process does not grow by the file.
"""

import contextlib
import functools
import mmap
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from sklearn.utils.validation import validate_data

from .validation import check_finite

__all__ = [
    "LazyRows",
    "MappedRows",
    "as_rows",
    "is_lazy",
    "joined_blocks",
    "mapped_rows",
    "release",
    "room_for",
    "row_blocks",
    "sum_blocks",
]

_HELD = 1 << 26  # bytes of a memory map that may be mapped before they are given back
_AROUND = 1 << 16  # bytes that a system maps around one that is looked at
_BLOCK = 4096
_IN_MEMORY = 1 << 30  # bytes up to which rows that are made on the way are held in memory


class LazyRows:
    """Stand for a feature matrix of which a block at a time is in memory.

    Parameters
    ----------
    source : memory map, or object with ``shape`` (n, d) that gives arrays for slices of rows
    dtype : dtype
        Of the blocks; other numbers are converted.
    """

    ndim = 2

    def __init__(self, source: Any, dtype: Any) -> None:
        self._source, self.dtype = source, np.dtype(dtype)
        self.shape: tuple[int, int] = (int(source.shape[0]), int(source.shape[1]))
        self._held = 0

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Return rows by a slice or by an array of numbers, as a checked array of their own."""
        if isinstance(rows, slice):
            found = self._checked(self._source[rows])
            touched = found.nbytes
        elif hasattr(self._source, "taken"):
            return self.taken(rows, _itself)
        elif len(rows) and rows[-1] - rows[0] == len(rows) - 1 and (np.diff(rows) == 1).all():
            return self[int(rows[0]) : int(rows[-1]) + 1]
        else:
            found = self._checked(self._gathered(np.asarray(rows)))
            touched = len(found) * max(_AROUND, found[:1].nbytes)
        self._held += touched
        if self._held > _HELD:
            release(self._source)
            self._held = 0
        return found

    def taken(self, numbers: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> Any:
        """Return what a function makes of rows: where they are, if that is known."""
        if hasattr(self._source, "taken"):
            return self._source.taken(numbers, _Then(self._checked, function))
        return function(self[numbers])

    def sum_blocks(self, function: Callable, aligned: Sequence = (), **options: Any) -> Any:
        """Sum up what a function makes of blocks: where they are, if that is known."""
        if hasattr(self._source, "sum_blocks"):
            return self._source.sum_blocks(_Then(self._checked, function), aligned, **options)
        return _summed(self, function, aligned, **options)

    def of_part(self, function: Callable[[np.ndarray], np.ndarray]) -> Any:
        """Have each process of a team, see :attr:`team`, make something of its own rows."""
        return self._source.of_part(_Then(self._checked, function))

    @property
    def team(self) -> Any:
        """Processes among which the rows are divided; None where there is this one alone."""
        return getattr(self._source, "team", None)

    @property
    def _checked(self) -> Callable[[Any], np.ndarray]:
        return functools.partial(_as_block, dtype=self.dtype, width=self.shape[1])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Return all rows, for those that can't do with less."""
        return np.asarray(self[:], dtype=dtype)

    def _gathered(self, numbers: np.ndarray) -> np.ndarray:
        """Return rows by number, in any order and as often as they are asked for."""
        if isinstance(self._source, np.ndarray):
            return np.asarray(self._source[numbers], dtype=self.dtype)
        # Lazy objects of all kinds know slices; what lies near is read at once.
        found = np.empty((len(numbers), self.shape[1]), self.dtype)
        order = np.argsort(numbers, kind="stable")
        for at in np.array_split(order, np.flatnonzero(np.diff(numbers[order]) > 64) + 1):
            if len(at):
                low, high = int(numbers[at[0]]), int(numbers[at[-1]])
                for start in range(low, high + 1, _BLOCK):
                    block = np.asarray(self._source[start : min(start + _BLOCK, high + 1)])
                    own = at[(numbers[at] >= start) & (numbers[at] < start + len(block))]
                    found[own] = block[numbers[own] - start]
        return found


class MappedRows:
    """Stand for what a function makes of rows, each by itself, when these are asked for.

    Parameters
    ----------
    rows : LazyRows or MappedRows
    function : callable
        From rows (b, d) to rows.
    dtype : dtype
        Of what it gives.
    width : int, default=None
        Columns of what it gives; None is d.
    """

    ndim = 2

    def __init__(
        self,
        rows: Any,
        function: Callable[[np.ndarray], np.ndarray],
        dtype: Any,
        width: int | None = None,
    ) -> None:
        self._rows, self.dtype = rows, np.dtype(dtype)
        self._function = _Then(function, functools.partial(_of_kind, dtype=self.dtype))
        self.shape: tuple[int, int] = (len(rows), rows.shape[1] if width is None else width)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Return rows by a slice or by an array of numbers."""
        if isinstance(rows, slice):
            return self._function(self._rows[rows])
        return self.taken(rows, _itself)

    def taken(self, numbers: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> Any:
        """Return what a function makes of these rows, see :class:`LazyRows`."""
        return self._rows.taken(numbers, _Then(self._function, function))

    def sum_blocks(self, function: Callable, aligned: Sequence = (), **options: Any) -> Any:
        """Sum up what a function makes of blocks of these rows, see :class:`LazyRows`."""
        return self._rows.sum_blocks(_Then(self._function, function), aligned, **options)

    def of_part(self, function: Callable[[np.ndarray], np.ndarray]) -> Any:
        """Have each process of a team make something of its own rows."""
        return self._rows.of_part(_Then(self._function, function))

    @property
    def team(self) -> Any:
        """Processes among which the rows are divided, see :class:`LazyRows`."""
        return self._rows.team

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Return all rows."""
        return np.asarray(joined_blocks(row_blocks(self), len(self)), dtype=dtype)


class _Then:
    """Do one thing after the other; pickles where both do."""

    def __init__(self, first: Callable, then: Callable) -> None:
        self.first, self.then = first, then

    def __call__(self, rows: Any, *others: Any) -> Any:
        return self.then(self.first(rows), *others)


def _as_block(rows: Any, *, dtype: np.dtype, width: int) -> np.ndarray:
    """Return rows as a checked array of their own."""
    found = np.array(rows, dtype=dtype, ndmin=2)
    if found.shape[1:] != (width,):
        raise ValueError(f"X gave rows of shape {found.shape[1:]}, expected {(width,)}.")
    return check_finite("X", found, verb="contains")


def _of_kind(rows: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return rows.astype(dtype, copy=False)


def _itself(rows: np.ndarray) -> np.ndarray:
    return rows


def mapped_rows(
    rows: Any,
    function: Callable[[np.ndarray], np.ndarray],
    dtype: Any = None,
    width: int | None = None,
) -> Any:
    """Return what a function makes of rows: at once of an array, and else when asked for."""
    if not is_lazy(rows):
        return function(rows)
    if not isinstance(rows, (LazyRows, MappedRows)):
        rows = LazyRows(rows, rows.dtype)
    return MappedRows(rows, function, rows.dtype if dtype is None else dtype, width)


def joined_blocks(
    blocks: Iterable[np.ndarray],
    n_rows: int,
    room: Callable[[tuple[int, ...], Any], np.ndarray] = np.empty,
) -> np.ndarray:
    """Return blocks of so many rows as one array, without a second copy of all.

    ``room`` makes that array, as :func:`room_for` does where it is none of the user's.
    """
    n_done, whole = 0, None
    for block in blocks:
        # One block is all: no copy.
        if len(block) == n_rows:
            return block
        if whole is None:
            whole = room((n_rows, *block.shape[1:]), block.dtype)
        whole[n_done : n_done + len(block)] = block
        n_done += len(block)
    assert whole is not None
    return whole


def is_lazy(X: Any) -> bool:
    """Tell whether X is a feature matrix that should be read in blocks."""
    if isinstance(X, (LazyRows, MappedRows)):
        return True
    if isinstance(X, np.ndarray):
        return X.ndim == 2 and X.dtype.kind in "biuf" and _map_of(X) is not None
    shape = getattr(X, "shape", None)
    known = isinstance(shape, tuple) and len(shape) == 2 and hasattr(X, "__getitem__")
    # Frames have columns; sparse matrices and tensors are in memory.
    others = ("iloc", "columns", "nnz", "column_names", "data_ptr", "__array_interface__")
    is_other = any(hasattr(X, name) for name in others)
    kind = getattr(getattr(X, "dtype", None), "kind", "")
    return known and not is_other and kind in ("b", "i", "u", "f")


def as_rows(estimator: Any, X: Any, kinds: list, *, reset: bool) -> Any:
    """Check features in an estimator's name: as scikit-learn does, or block by block as they come.

    Parameters
    ----------
    estimator : estimator
        That remembers, or compares, the number of columns.
    X : array-like of shape (n, d)
    kinds : list of dtypes
        That are kept; other numbers become the first of these.
    reset : bool
        Whether it is a fit.

    Returns
    -------
    ndarray or LazyRows
        The second where X is a memory map, or an object with ``shape`` and ``dtype`` that slices.
    """
    if not is_lazy(X):
        return validate_data(estimator, X, dtype=kinds, reset=reset)
    kept = np.dtype(X.dtype) in [np.dtype(kind) for kind in kinds]
    rows = (
        X if isinstance(X, (LazyRows, MappedRows)) else LazyRows(X, X.dtype if kept else kinds[0])
    )
    # One row tells of columns; scikit-learn would look at all of them.
    first = rows[:1] if len(rows) else np.empty(rows.shape, rows.dtype)
    validate_data(estimator, first, dtype=kinds, reset=reset)
    return rows


def row_blocks(rows: Any, n_rows: int | None = None) -> Iterator[np.ndarray]:
    """Yield consecutive rows of an array or of :class:`LazyRows`, so many at a time."""
    n_rows = _BLOCK if n_rows is None else n_rows
    for start in range(0, len(rows), n_rows):
        yield rows[start : start + n_rows]


def sum_blocks(rows: Any, function: Callable, aligned: Sequence = (), **options: Any) -> Any:
    """Return the sum of what a function makes of blocks of rows, added up in their order.

    Parameters
    ----------
    rows : ndarray, LazyRows or MappedRows
        A source of lazy ones that has a method of this name does the work where its rows are.
    function : callable
        Takes rows (b, d), and the same rows of each of the others; gives what can be added.
    aligned : sequence, default=()
        What else has such rows, and slices.
    **options : dict
        ``n_rows`` of a block, which leaves the sum as it is to float precision.
    """
    own = getattr(rows, "sum_blocks", None)
    return (
        _summed(rows, function, aligned, **options)
        if own is None
        else own(function, aligned, **options)
    )


def _summed(
    rows: Any,
    function: Callable,
    aligned: Sequence = (),
    *,
    n_rows: int | None = None,
) -> Any:
    """Sum up in this process."""
    n_rows = _BLOCK if n_rows is None else n_rows
    total = None
    for start in range(0, len(rows), n_rows):
        part = slice(start, start + n_rows)
        found = function(rows[part], *(other[part] for other in aligned))
        total = found if total is None else total + found
    return total


def room_for(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return an array to be filled; beyond a gigabyte a memory map of a file that has no name.

    The file is in the folder for temporary files, and gone with the last array that looks at it.
    """
    if int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize <= _IN_MEMORY:
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile(prefix="skwsdhq-") as file:
        return np.memmap(file, dtype=dtype, mode="w+", shape=shape)


def release(array: Any) -> None:
    """Give back what a memory map has read of its file; it is read again when it is asked for."""
    mapped, mode = _map_of(array), getattr(array, "mode", None)
    while mode is None and isinstance(array, np.ndarray):  # a plain view of a memory map
        array = array.base
        mode = getattr(array, "mode", None)
    # Pages that a process has of its own (mode "c") would be lost.
    if mapped is None or mode not in ("r", "r+", "w+"):
        return
    if hasattr(mmap, "MADV_DONTNEED"):
        with contextlib.suppress(OSError, ValueError):
            mapped.madvise(mmap.MADV_DONTNEED)


def _map_of(array: Any) -> Any:
    """Return the map that an array is a view of; None for what is in memory."""
    while isinstance(array, np.ndarray):
        array = array.base
    return array if isinstance(array, mmap.mmap) else None
