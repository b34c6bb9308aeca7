"""Anything with columns, as a Hugging Face dataset, a data frame or an Arrow table, in batches."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from sklearn.utils import Bunch, check_random_state

from ..utils.validation import check_choice, check_whole
from ._batches import Chosen, batch_of, chosen_columns, grouped, mixed

__all__ = ["stream_columns"]

_HELD = 1000  # rows that wait for their turn where what comes row by row is shuffled


def stream_columns(  # noqa: PLR0913 - options by keyword
    table: Any,
    *,
    features: str | Sequence[str] | None = None,
    images: str | None = None,
    tags: str | None = None,
    ids: str | None = None,
    batch_size: int = 256,
    separator: str = ",",
    shuffle: bool = False,
    on_error: str = "raise",
    random_state: Any = None,
) -> Iterator[Bunch]:
    """Return batches of features or pictures, with tags and ids, of anything with columns.

    Parameters
    ----------
    table : Hugging Face dataset, data frame, Arrow table, mapping of columns, or iterable of rows
        ``datasets.Dataset`` and ``IterableDataset``, frames of pandas and polars,
        ``pyarrow.Table``, a dict of sequences of one length, or an iterable of dicts, each a row.
    features : str or list of str, default=None
        A column of vectors, or several of numbers; None is a column of a usual name: features,
        embedding, embeddings, feature, vector.
    images : str, default=None
        A column of pictures: Pillow images, arrays, paths, bytes, or dicts with ``bytes`` and
        ``path``. None is a column of a usual name where there are no features.
    tags : str, default=None
        A column of lists or texts; None is tags, tag, keywords or hashtags, where there is one.
        Numbers of classes that the table names (``ClassLabel``) become their names.
    ids : str, default=None
        None is id, ids, key or __key__; where there is none, rows are numbered from 0.
    batch_size : int, default=256
        The last one may be shorter.
    separator : str, default=","
        Between the tags of a text.
    shuffle : bool, default=False
        Whether batches come in a random order, and rows within them too; rows that come one by one
        are drawn from a thousand that wait.
    on_error : {"raise", "skip"}, default="raise"
        What becomes of pictures that can't be read: an error, or left out.
    random_state : int, RandomState instance or None, default=None
        Draws the order.

    Returns
    -------
    iterator of Bunch
        ``data`` (b, d), or a list of b pictures (H, W, 3) of uint8; ``tags``, a list of lists of
        str, or None; ``ids``.

    Raises
    ------
    TypeError
        If it is nothing of these.
    ValueError
        If a column is missing, or columns differ in length; if vectors do.

    Examples
    --------
    >>> from skwsdhq.datasets import stream_columns
    >>> table = {"embedding": [[1.0, 0.0], [0.0, 1.0]], "tags": ["sea, sun", "dog"]}
    >>> batch = next(stream_columns(table))
    >>> batch.data.shape, batch.tags, batch.ids
    ((2, 2), [['sea', 'sun'], ['dog']], [0, 1])
    """
    check_whole("batch_size", batch_size)
    check_choice("on_error", on_error, ("raise", "skip"))
    random = check_random_state(random_state) if shuffle else None
    columns = _columns_of(table)
    asked = (features, images, tags, ids)
    if columns is None:
        if isinstance(table, (str, bytes)) or not isinstance(table, Iterable):
            raise TypeError(
                f"table is a {type(table).__name__}; it should have columns, as a data frame, or "
                "give rows as dicts."
            )
        rows = iter(table)
        first = next(rows, None)
        if first is None:
            return iter(())
        if not isinstance(first, Mapping):
            raise TypeError(
                f"table gives rows of type {type(first).__name__}; each should be a dict."
            )
        chosen = chosen_columns(list(first), "the first row", *asked)
        blocks = _row_blocks(chain([first], rows), chosen, int(batch_size), random)
    else:
        n_rows = _length(table, columns)
        chosen = chosen_columns(columns, "the table", *asked)
        blocks = _blocks(table, n_rows, chosen, int(batch_size), random)
    return _batches(blocks, chosen, _names_of(table, chosen.tags), separator, on_error)


Block = tuple[list[int], dict[str, Any]]


def _batches(
    blocks: Iterable[Block], chosen: Chosen, names: Any, separator: str, on_error: str
) -> Iterator[Bunch]:
    for numbers, block in blocks:
        batch = batch_of(
            block,
            chosen,
            "the table",
            numbers,
            separator=separator,
            on_error=on_error,
            names=names,
        )
        if batch.ids:
            yield batch


def _columns_of(table: Any) -> list[str] | None:
    """Return the names of a table's columns; None where it has none."""
    if isinstance(table, Mapping):
        return list(table)
    names = getattr(table, "column_names", None)
    if names is None:
        names = getattr(table, "columns", None)
    # An IterableDataset knows names, and gives rows alone.
    if names is None or not hasattr(table, "__len__"):
        return None
    return [str(name) for name in names]


def _length(table: Any, columns: list[str]) -> int:
    if not isinstance(table, Mapping):
        return len(table)
    lengths = {name: len(table[name]) for name in columns}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns differ in length: {lengths}.")
    return next(iter(lengths.values()), 0)


def _blocks(table: Any, n_rows: int, chosen: Chosen, size: int, random: Any) -> Iterator[Block]:
    """Yield rows' numbers and columns."""
    starts = np.arange(0, n_rows, size)
    for start in starts if random is None else random.permutation(starts):
        stop = min(start + size, n_rows)
        block = _slice(table, chosen.names, int(start), int(stop))
        order = np.arange(stop - start) if random is None else random.permutation(stop - start)
        yield (
            [int(start + i) for i in order],
            {name: [values[i] for i in order] for name, values in block.items()},
        )


def _slice(table: Any, names: list[str], start: int, stop: int) -> dict[str, Sequence]:
    """Return columns of some rows, as sequences."""
    if hasattr(table, "to_pydict") and hasattr(table, "slice"):  # Arrow
        return table.select(names).slice(start, stop - start).to_pydict()
    if isinstance(table, Mapping):
        return {name: table[name][start:stop] for name in names}
    if hasattr(table, "iloc"):  # pandas, whose labels of rows are its own
        return {name: table[name].iloc[start:stop].tolist() for name in names}
    if hasattr(table, "column_names"):  # datasets.Dataset: a slice is a dict of columns
        chosen = table.select_columns(names) if hasattr(table, "select_columns") else table
        block = chosen[start:stop]
        return {name: block[name] for name in names}
    return {name: table[name][start:stop].to_list() for name in names}


def _row_blocks(rows: Iterator[Mapping], chosen: Chosen, size: int, random: Any) -> Iterator[Block]:
    numbered: Iterable[Any] = enumerate(rows)
    if random is not None:
        numbered = mixed(numbered, _HELD, random)
    for group in grouped(numbered, size):
        for number, row in group:
            missing = [name for name in chosen.names if name not in row]
            if missing:
                raise ValueError(f"row {number} has no {missing[0]!r}; it has {list(row)}.")
        numbers = [number for number, _ in group]
        yield numbers, {name: [row[name] for _, row in group] for name in chosen.names}


def _names_of(table: Any, tags: str | None) -> Sequence[str] | None:
    """Return the names of classes, where a table has them for its column of tags."""
    features = getattr(table, "features", None)
    if tags is None or not isinstance(features, Mapping):
        return None
    kind = features.get(tags)
    if isinstance(kind, list) and kind:
        kind = kind[0]
    return getattr(getattr(kind, "feature", kind), "names", None)
