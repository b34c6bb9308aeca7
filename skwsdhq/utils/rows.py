"""Rows of features that are read in blocks: of memory maps, and of lazy objects that slice.

What is in memory stays what it is. All else is copied block by block, checked on the way, and what
a memory map has read of its file is given back, so that the process does not grow by the file.
"""

import contextlib
import mmap
from typing import Any

import numpy as np
from sklearn.utils.validation import validate_data

from .validation import check_finite

__all__ = ["LazyRows", "as_rows", "is_lazy", "release"]

_HELD = 1 << 26  # bytes of a memory map that may be mapped before they are given back


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

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Return a slice of rows, as a checked array of its own."""
        found = np.array(self._source[rows], dtype=self.dtype, ndmin=2)
        if found.shape[1:] != self.shape[1:]:
            raise ValueError(f"X gave rows of shape {found.shape[1:]}, expected {self.shape[1:]}.")
        self._held += found.nbytes
        if self._held > _HELD:
            release(self._source)
            self._held = 0
        return check_finite("X", found, verb="contains")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Return all rows, for those that can't do with less."""
        return np.asarray(self[:], dtype=dtype)


def is_lazy(X: Any) -> bool:
    """Tell whether X is a feature matrix that should be read in blocks."""
    if isinstance(X, LazyRows):
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
    rows = X if isinstance(X, LazyRows) else LazyRows(X, X.dtype if kept else kinds[0])
    # One row tells of columns; scikit-learn would look at all of them.
    first = rows[:1] if len(rows) else np.empty(rows.shape, rows.dtype)
    validate_data(estimator, first, dtype=kinds, reset=reset)
    return rows


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
