"""Parquet files: features that are read in blocks, and batches of rows."""

import glob
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils import Bunch, check_random_state

from ..utils.validation import check_choice, check_whole
from ._batches import Chosen, batch_of, chosen_columns
from ._tag_tables import read_tags

__all__ = ["ParquetFeatures", "load_parquet", "stream_parquet"]

Paths = str | os.PathLike | Sequence[str | os.PathLike]


def load_parquet(
    paths: Paths,
    *,
    features: str | Sequence[str] | None = None,
    tags: str | None = None,
    ids: str | None = None,
    separator: str = ",",
) -> Bunch:
    """Load features, tags and ids from Parquet files; features stay on the disk.

    Parameters
    ----------
    paths : path, pattern, folder, or list of paths
        ``"shard-*.parquet"`` is all that match, a folder all ``.parquet`` files in it, by name.
    features : str or list of str, default=None
        A column of lists of one length, or several columns of numbers; None is a column of a usual
        name: features, embedding, embeddings, feature, vector.
    tags : str, default=None
        A column of lists or of texts; None is tags, tag, keywords or hashtags, where there is one.
    ids : str, default=None
        None is id, ids, key or __key__; where there is none, rows are numbered from 0.
    separator : str, default=","
        Between the tags of a text.

    Returns
    -------
    Bunch
        ``data``, an object with ``shape`` and ``dtype`` that gives rows by slices, which ``fit``,
        ``transform``, ``encode_to`` and others read in blocks; ``tags``, a list of lists of str, or
        None; ``ids``, a list.

    Raises
    ------
    ImportError
        Where pyarrow is missing: ``pip install "skwsdhq[parquet]"``.
    FileNotFoundError
        If there is no file.
    ValueError
        If a file is no Parquet file, or lacks a column; if vectors are missing or of several
        lengths.

    See Also
    --------
    stream_parquet : Batches of rows, shuffled if wished, of pictures as well.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import pyarrow, pyarrow.parquet
    >>> from skwsdhq.datasets import load_parquet
    >>> table = pyarrow.table({"embedding": [[1.0, 0.0], [0.0, 1.0]], "tags": ["sea, sun", "dog"]})
    >>> path = Path(tempfile.mkdtemp(), "rows.parquet")
    >>> pyarrow.parquet.write_table(table, path)
    >>> rows = load_parquet(path)
    >>> rows.data.shape, rows.tags, rows.ids
    ((2, 2), [['sea', 'sun'], ['dog']], [0, 1])
    """
    files = _Files(paths)
    # No pictures here: they have no width.
    chosen = files.choose(features, None, tags, ids)
    if chosen.features is None:
        raise ValueError(
            f"{files.paths[0]!r} has pictures in column {chosen.images!r} and no features; "
            "stream_parquet reads pictures."
        )
    found_tags: list[list[str]] | None = None if chosen.tags is None else []
    found_ids: list[Any] = []
    for number in range(len(files.parts)):
        names = [name for name in (chosen.tags, chosen.ids) if name is not None]
        place, first = files.place(number)
        table = files.read(number, names) if names else {}
        if found_tags is not None and chosen.tags is not None:
            found_tags += [
                read_tags(cell, separator, f"{place}, row {first + i},")
                for i, cell in enumerate(table[chosen.tags])
            ]
        if chosen.ids is not None:
            found_ids += table[chosen.ids]
    if chosen.ids is None:
        found_ids = list(range(len(files)))
    data = ParquetFeatures(files.paths, chosen.features)
    return Bunch(data=data, tags=found_tags, ids=found_ids)


def stream_parquet(  # noqa: PLR0913 - options by keyword
    paths: Paths,
    *,
    features: str | Sequence[str] | None = None,
    images: str | None = None,
    tags: str | None = None,
    ids: str | None = None,
    batch_size: int = 1024,
    separator: str = ",",
    shuffle: bool = False,
    on_error: str = "raise",
    random_state: Any = None,
) -> Iterator[Bunch]:
    """Return batches of features or pictures, with tags and ids, of Parquet files, one by one.

    Parameters
    ----------
    paths : path, pattern, folder, or list of paths
        See :func:`load_parquet`.
    features : str or list of str, default=None
        See :func:`load_parquet`.
    images : str, default=None
        A column of pictures: bytes of files, paths, or structs with ``bytes`` and ``path``, as
        Hugging Face writes them. None is a column of a usual name where there are no features.
    tags, ids : str, default=None
        See :func:`load_parquet`.
    batch_size : int, default=1024
        Rows of a batch; the last of a row group may be shorter.
    separator : str, default=","
        Between the tags of a text.
    shuffle : bool, default=False
        Whether row groups come in a random order, and their rows too.
    on_error : {"raise", "skip"}, default="raise"
        What becomes of pictures that can't be read: an error, or left out.
    random_state : int, RandomState instance or None, default=None
        Draws the order.

    Returns
    -------
    iterator of Bunch
        ``data`` (b, d), or a list of b pictures (H, W, 3) of uint8; ``tags``, a list of lists of
        str, or None where no column has any; ``ids``.

    Raises
    ------
    ImportError, FileNotFoundError, ValueError
        As :func:`load_parquet` does, when it is called; and when a batch can't be read.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import pyarrow, pyarrow.parquet
    >>> from skwsdhq.datasets import stream_parquet
    >>> table = pyarrow.table({"embedding": [[1.0, 0.0], [0.0, 1.0]], "tags": ["sea, sun", "dog"]})
    >>> path = Path(tempfile.mkdtemp(), "rows.parquet")
    >>> pyarrow.parquet.write_table(table, path)
    >>> [batch.tags for batch in stream_parquet(path, batch_size=1)]
    [[['sea', 'sun']], [['dog']]]
    """
    check_whole("batch_size", batch_size)
    check_choice("on_error", on_error, ("raise", "skip"))
    random = check_random_state(random_state) if shuffle else None
    files = _Files(paths)
    chosen = files.choose(features, images, tags, ids)
    # Looked at when it is called, not when the first batch is asked for.
    return _stream(files, chosen, int(batch_size), separator, on_error, random)


def _stream(
    files: "_Files", chosen: Chosen, size: int, separator: str, on_error: str, random: Any
) -> Iterator[Bunch]:
    order = range(len(files.parts))
    for number in order if random is None else random.permutation(len(order)):
        place, first = files.place(number)
        columns = files.read(number, chosen.names, chosen.features)
        n_rows = files.parts[number][2]
        rows = np.arange(n_rows) if random is None else random.permutation(n_rows)
        for start in range(0, n_rows, size):
            part = rows[start : start + size]
            taken = {
                name: values[part] if isinstance(values, np.ndarray) else [values[i] for i in part]
                for name, values in columns.items()
            }
            numbers = [int(first + i) for i in part]
            batch = batch_of(taken, chosen, place, numbers, separator=separator, on_error=on_error)
            if len(batch.ids):
                yield batch


class ParquetFeatures:
    """Stand for the features of Parquet files, of which one row group is in memory.

    Parameters
    ----------
    paths : list of str
    column : str or tuple of str
        Of lists, or several of numbers.
    """

    ndim = 2

    def __init__(self, paths: list[str], column: str | tuple[str, ...]) -> None:
        self._files, self._column = _Files(paths), column
        self._starts = np.cumsum([0, *(n for _, _, n in self._files.parts)])
        self._lock = threading.Lock()
        self._last: tuple[int, np.ndarray] | None = None
        first = self._rows_of(0) if len(self) else np.empty((0, 0), np.float32)
        self.shape: tuple[int, int] = (len(self), first.shape[1])
        self.dtype = first.dtype

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Return rows by a slice, or one by its number."""
        if not isinstance(rows, slice):
            at = range(len(self))[rows]
            return self[at : at + 1][0]
        start, stop, step = rows.indices(len(self))
        if step != 1:
            numbers = range(start, stop, step)
            found = [self[i : i + 1] for i in numbers]
            return np.concatenate(found) if found else np.empty((0, self.shape[1]), self.dtype)
        parts = [np.empty((0, self.shape[1]), self.dtype)]
        first = int(np.searchsorted(self._starts, start, "right")) - 1
        for number in range(first, len(self._files.parts)):
            low = int(self._starts[number])
            if low >= stop:
                break
            parts.append(self._rows_of(number)[max(start - low, 0) : stop - low])
        # A copy: the row group is held for the next block.
        return np.concatenate(parts)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Return all rows, for those that can't do with less."""
        return np.asarray(self[:], dtype=dtype)

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self._files.paths, "column": self._column}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def _rows_of(self, number: int) -> np.ndarray:
        """Return the rows of a row group, which blocks after each other share."""
        with self._lock:
            if self._last is not None and self._last[0] == number:
                return self._last[1]
            self._last = None
        place, first = self._files.place(number)
        chosen = Chosen(self._column, None, None, None)
        columns = self._files.read(number, chosen.names, self._column)
        numbers = range(first, first + self._files.parts[number][2])
        rows = batch_of(columns, chosen, place, numbers).data
        if hasattr(self, "shape") and rows.shape[1] != self.shape[1]:
            raise ValueError(
                f"{place} has vectors of {rows.shape[1]} features; the first file has "
                f"{self.shape[1]}."
            )
        with self._lock:
            self._last = number, rows
        return rows


class _Files:
    """Hold which Parquet files there are, and where their row groups begin."""

    def __init__(self, paths: Paths) -> None:
        self.paths = _found(paths)
        self.columns: list[list[str]] = []
        # File, row group, rows, first row of its file.
        self.parts: list[tuple[int, int, int]] = []
        self._firsts: list[int] = []
        for i, path in enumerate(self.paths):
            with _opened(path) as file:
                self.columns.append(file.schema_arrow.names)
                first = 0
                for group in range(file.metadata.num_row_groups):
                    n_rows = file.metadata.row_group(group).num_rows
                    if n_rows:
                        self.parts.append((i, group, n_rows))
                        self._firsts.append(first)
                    first += n_rows

    def __len__(self) -> int:
        return sum(n_rows for _, _, n_rows in self.parts)

    def place(self, number: int) -> tuple[str, int]:
        """Return the file of a row group, for errors, and its first row there."""
        return repr(self.paths[self.parts[number][0]]), self._firsts[number]

    def choose(self, features: Any, images: Any, tags: Any, ids: Any) -> Chosen:
        """Return the columns to read, which each file should have."""
        chosen = None
        for path, columns in zip(self.paths, self.columns, strict=True):
            if chosen is None:
                chosen = chosen_columns(columns, repr(path), features, images, tags, ids)
            missing = [name for name in chosen.names if name not in columns]
            if missing:
                raise ValueError(f"{path!r} has no column {missing[0]!r}; it has {columns}.")
        assert chosen is not None
        return chosen

    def read(self, number: int, names: list[str], features: Any = ()) -> dict[str, Any]:
        """Return columns of a row group: lists, and vectors as an array."""
        i, group, _ = self.parts[number]
        vectors = (features,) if isinstance(features, str) else features or ()
        with _opened(self.paths[i]) as file:
            table = file.read_row_group(group, columns=names)
        found = {name: table.column(name) for name in names}
        return {
            name: _vectors(values) if name in vectors else values.to_pylist()
            for name, values in found.items()
        }


def _vectors(column: Any) -> Any:
    """Return a column as an array where it has no gaps: (n, d) of lists of one length."""
    import pyarrow as pa

    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if isinstance(array, pa.ChunkedArray):  # of no chunks
        return column.to_pylist()
    if not pa.types.is_nested(array.type):
        return array.to_numpy(zero_copy_only=False)
    is_list = isinstance(array, (pa.ListArray, pa.LargeListArray, pa.FixedSizeListArray))
    if not is_list or array.null_count or not len(array):
        return array.to_pylist()
    values = array.flatten()
    lengths = array.value_lengths().to_numpy(zero_copy_only=False)
    # What is irregular is told by whoever looks at the rows.
    if values.null_count or (lengths != lengths[0]).any() or not lengths[0]:
        return array.to_pylist()
    if not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type)):
        return array.to_pylist()
    return values.to_numpy(zero_copy_only=False).reshape(len(array), -1)


def _found(paths: Paths) -> list[str]:
    """Return the files that paths, patterns and folders name."""
    given = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    found: list[str] = []
    for path in (str(os.fspath(path)) for path in given):
        if os.path.isdir(path):
            names = sorted(str(file) for file in Path(path).glob("*.parquet"))
        elif os.path.exists(path):
            names = [path]
        else:
            names = sorted(glob.glob(path))
        if not names:
            raise FileNotFoundError(f"{path!r} is no Parquet file, nor a folder or pattern of any.")
        found += names
    if not found:
        raise ValueError("paths is empty; name at least one Parquet file.")
    return found


def _opened(path: str) -> Any:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ImportError(
            'Parquet files are read by pyarrow: pip install "skwsdhq[parquet]".'
        ) from error
    try:
        return pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path!r} is no readable Parquet file: {error}") from error
