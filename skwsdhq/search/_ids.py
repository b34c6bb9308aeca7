"""A user's own ids, and which rows a query may find."""

from collections.abc import Iterable
from typing import Any

import numpy as np

__all__ = ["Choice", "as_ids", "find_rows", "ids_of", "read_excluded", "read_filter"]

_MAX_ID = 2**63 - 1
_NONE = object()  # for "none found", which no id can be equal to


class Choice:
    """Rows that may be found, ascending, or a mask of them; either is made when it is asked for.

    A mask of a million rows is read in a moment, and the numbers of half of them are not.
    """

    def __init__(self, n: int, rows: np.ndarray) -> None:
        """Take rows of n, ascending, or a mask."""
        is_mask = rows.dtype == bool
        self._n, self._size = n, int(np.count_nonzero(rows)) if is_mask else len(rows)
        self._mask: np.ndarray | None = rows if is_mask else None
        self._rows: np.ndarray | None = None if is_mask else rows

    def __len__(self) -> int:
        return self._size

    @property
    def rows(self) -> np.ndarray:
        """Return the rows, (m,) int64, ascending."""
        if self._rows is None:
            self._rows = np.flatnonzero(self.mask)
        return self._rows

    @property
    def mask(self) -> np.ndarray:
        """Return a mask of all rows, (n,)."""
        if self._mask is None:
            mask = np.zeros(self._n, dtype=np.bool_)
            mask[self.rows] = True
            self._mask = mask
        return self._mask

    def has(self, rows: np.ndarray) -> np.ndarray:
        """Tell of each of some rows whether it may be found."""
        return self.mask[rows]


def as_ids(ids: Any, name: str = "ids") -> np.ndarray:
    """Return ids as a 1-D array of int64 or of strings.

    An array says what it holds by its dtype. Elsewhere each id is looked at, since numpy makes
    strings of whatever stands beside one.
    """
    if isinstance(ids, str | bytes):
        raise TypeError(f"{name} should be a list of ids; got one {type(ids).__name__}, {ids!r}.")
    # A mask would be lost in an array, and its places become ids.
    if np.ma.is_masked(ids):
        raise TypeError(f"{name} should be all integers or all strings; some are masked.")
    array = np.asarray(ids) if hasattr(ids, "__array__") else None
    if array is not None and array.ndim != 1:
        raise ValueError(f"{name} should have 1 dimension; got shape {array.shape}.")
    if array is None or array.dtype.kind in "OT":  # objects, and numpy's strings of any length
        return _of_elements(list(ids if array is None else array), name)
    return _of_array(array, name)


def _of_array(array: np.ndarray, name: str) -> np.ndarray:
    """Return an array of integers as int64, or of strings as it is; refuse all else."""
    if array.dtype.kind == "U":
        return array.astype(array.dtype.newbyteorder("="))
    if array.dtype.kind not in "iu" and len(array):
        raise TypeError(f"{name} should be all integers or all strings; got dtype {array.dtype}.")
    if array.dtype.kind == "u" and len(array) and array.max() > _MAX_ID:
        raise ValueError(f"{name} should lie within int64; got {array.max()}.")
    return array.astype(np.int64)


def _of_elements(ids: list, name: str) -> np.ndarray:
    """Do what `as_ids` does, for Python's objects."""
    kinds = set(map(type, ids))
    if ids and all(issubclass(kind, str) for kind in kinds):
        return _of_strings(ids, name)
    _refuse_mixed(ids, kinds, name)
    try:
        return np.array([int(entry) for entry in ids], dtype=np.int64)
    except OverflowError:
        beyond = next(entry for entry in ids if not -_MAX_ID - 1 <= entry <= _MAX_ID)
        raise ValueError(f"{name} should lie within int64; got {beyond}.") from None


def _of_strings(ids: list[str], name: str) -> np.ndarray:
    """Return strings as an array, in which they stay different from each other."""
    # numpy takes zeros at the end for no part of a string: two ids would be one.
    ends = [entry for entry in ids if entry.endswith("\0")] if "\0" in "".join(ids) else None
    if ends:
        raise ValueError(f"{name} should not end in a NUL character; got {ends[0]!r}.")
    return np.array(ids, dtype=str)


def _refuse_mixed(ids: list, kinds: set[type], name: str) -> None:
    """Refuse ids of which one is no integer, and name it."""
    wrong = {kind for kind in kinds if not issubclass(kind, str | int | np.integer)} | {bool}
    found = next((entry for entry in ids if type(entry) in wrong), _NONE)
    if found is not _NONE:
        raise TypeError(f"{name} should be all integers or all strings; got {found!r}.")
    if any(issubclass(kind, str) for kind in kinds):
        raise TypeError(f"{name} should be all integers or all strings; got some of both.")


def find_rows(ids: np.ndarray | None, n: int, wanted: np.ndarray) -> np.ndarray:
    """Return the row of each wanted id, -1 where there is none; ids None are the row numbers."""
    if not len(wanted):
        return np.zeros(0, dtype=np.int64)
    kind = "i" if ids is None else ids.dtype.kind
    if wanted.dtype.kind != kind:
        raise TypeError(
            f"The index has {'string' if kind == 'U' else 'integer'} ids; got {wanted[0].item()!r}."
        )
    if ids is None:
        return np.where((wanted >= 0) & (wanted < n), wanted, -1)
    if not len(ids):
        return np.full(len(wanted), -1, dtype=np.int64)
    # Sorted once, all wanted ids are found by bisection.
    order = np.argsort(ids, kind="stable")
    places = np.minimum(np.searchsorted(ids, wanted, sorter=order), len(ids) - 1)
    rows = order[places]
    return np.where(ids[rows] == wanted, rows, -1)


def ids_of(rows: np.ndarray, ids: np.ndarray | None) -> np.ndarray:
    """Return the ids of row numbers, -1 or '' for -1; where ids are None, rows are their own."""
    if ids is None:
        return rows
    if not len(ids):
        return np.zeros(rows.shape, dtype=ids.dtype)
    found = np.asarray(ids)[rows]
    # Row -1 has taken the last id: put none in its place.
    found[rows < 0] = -1 if ids.dtype.kind == "i" else ""
    return found


def read_excluded(
    exclude: Any, exclude_self: bool, ids: np.ndarray | None, n: int, n_queries: int
) -> np.ndarray | None:
    """Return rows that each query leaves out, (q, E) filled up with -1; None for no rows at all."""
    per_query = [] if exclude is None else _rows_of_each(exclude, ids, n, n_queries)
    if exclude_self:
        if n_queries != n:
            raise ValueError(
                f"exclude_self=True takes query i for row i, but there are {n_queries} queries "
                f"and {n} rows; give exclude= the ids to leave out."
            )
        own = np.arange(n, dtype=np.int64)[:, None]
        if exclude is None:
            return own
        per_query = [np.append(rows, q) for q, rows in enumerate(per_query)]
    if not per_query:
        return None
    # An id that comes twice leaves out one row, and unknown ones none.
    unique = [np.unique(rows[rows >= 0]) for rows in per_query]
    width = max(len(rows) for rows in unique)
    excluded = np.full((n_queries, width), -1, dtype=np.int64)
    for q, rows in enumerate(unique):
        excluded[q, : len(rows)] = rows
    return excluded if width else None


def _rows_of_each(exclude: Any, ids: np.ndarray | None, n: int, n_queries: int) -> list[np.ndarray]:
    """Return for each query the rows of the ids that it leaves out; -1 for unknown ones."""
    entries = list(exclude)
    if len(entries) != n_queries:
        raise ValueError(
            f"exclude should have an entry for each of {n_queries} queries; got {len(entries)}."
        )
    lists = [[entry] if _is_id(entry) else list(entry) for entry in entries]
    # All ids are looked up at once: sorting them for each query would take longer than the search.
    flat = as_ids([i for entry in lists for i in entry], "exclude")
    bounds = np.cumsum([len(entry) for entry in lists])[:-1]
    return np.split(find_rows(ids, n, flat), bounds) if lists else []


def read_filter(
    filter: Any, ids: np.ndarray | None, n: int, n_queries: int
) -> Choice | list[Choice] | None:
    """Return rows that may be found: one choice for all queries, or one for each."""
    if filter is None:
        return None
    if isinstance(filter, str | bytes | dict) or not isinstance(filter, Iterable):
        raise TypeError(
            f"filter should be a mask or ids, for all queries or for each; got {filter!r}."
        )
    entries = filter if isinstance(filter, np.ndarray) else list(filter)
    if _is_for_all(entries):
        return _allowed_rows(entries, ids, n)
    # Neither a mask nor ids: then it is a list with one of these for each query.
    if len(entries) != n_queries:
        raise ValueError(
            f"filter should have an entry for each of {n_queries} queries; got {len(entries)}."
        )
    return [
        _allowed_rows(entry if isinstance(entry, np.ndarray) else list(entry), ids, n)
        for entry in entries
    ]


def _is_for_all(entries: Any) -> bool:
    """Tell whether a filter is a mask or ids for all queries, not one of these for each."""
    if isinstance(entries, np.ndarray) and entries.ndim == 1 and entries.dtype != object:
        return True
    return _is_mask(entries) or all(_is_id(entry) for entry in entries)


def _allowed_rows(entries: Any, ids: np.ndarray | None, n: int) -> Choice:
    """Return the rows that a mask or a list of ids allows."""
    if not _is_mask(entries):
        rows = find_rows(ids, n, as_ids(entries, "filter"))
        return Choice(n, np.unique(rows[rows >= 0]))
    mask = np.asarray(entries)
    if mask.shape != (n,):
        raise ValueError(f"A mask should have an entry for each of {n} rows; got {mask.shape}.")
    return Choice(n, np.ascontiguousarray(mask))


def _is_id(entry: Any) -> bool:
    return isinstance(entry, str | int | np.integer) or np.ndim(entry) == 0


def _is_mask(entries: Any) -> bool:
    """Tell whether this is a mask over the rows; of numpy's arrays the dtype alone is asked."""
    if isinstance(entries, np.ndarray) and entries.dtype != object:
        return entries.ndim == 1 and entries.dtype == bool
    return len(entries) > 0 and all(isinstance(entry, bool | np.bool_) for entry in entries)
