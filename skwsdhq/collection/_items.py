"""Items of a collection: ids, tags and columns as users give them, and rows of the tables."""

import json
import math
import os
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np

from ..tags import check_tags, tags_to_lists
from ..utils.text import clean_name
from ._store import Store

__all__ = [
    "Item",
    "delete_items",
    "insert_items",
    "items_of",
    "plain",
    "read_columns",
    "read_ids",
    "read_tag_rows",
    "rows_of_ids",
    "set_columns",
    "set_tags",
]


class Item(NamedTuple):
    """Hold what a collection knows of an image.

    Parameters
    ----------
    id : str
    path : str or None
        None where it came as an array or as features.
    tags : list of str
    columns : dict of str to str, int or float

    Examples
    --------
    >>> from skwsdhq.collection import Item
    >>> Item("7", "dog.jpg", ["dog"], {"year": 2020}).columns["year"]
    2020
    """

    id: str
    path: str | None
    tags: list[str]
    columns: dict[str, Any]


def read_ids(ids: Any, n: int | None = None) -> list[str]:
    """Return ids as distinct texts; whole numbers become texts."""
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise TypeError(f"ids should be a list of ids; got {ids!r}.")
    texts = [_id(value) for value in ids]
    if n is not None and len(texts) != n:
        raise ValueError(f"there are {len(texts)} ids for {n} images; give one for each.")
    seen: set[str] = set()
    for text in texts:
        if text in seen:
            raise ValueError(f"ids should be distinct; {text!r} comes twice.")
        seen.add(text)
    return texts


def _id(value: Any) -> str:
    if isinstance(value, Integral) and not isinstance(value, bool | np.bool_):
        return str(int(value))
    if not isinstance(value, str):
        raise TypeError(f"an id should be a text or a whole number; got {value!r}.")
    text = str(value)
    # SQLite ends a text at NUL in some of its functions.
    if not text or "\0" in text:
        raise ValueError(f"an id should be a text without NUL that is not empty; got {text!r}.")
    _check_unicode("an id", text)
    return text


def _check_unicode(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} should be valid Unicode; got {text!r}.") from None


def read_tag_rows(tags: Any, n: int) -> list[list[str]]:
    """Return the tags of n items as lists of clean names, in the order in which they came."""
    if tags is None:
        return [[] for _ in range(n)]
    indicator, names = check_tags(tags)
    if indicator.shape[0] != n:
        raise ValueError(f"there are {indicator.shape[0]} rows of tags for {n} images.")
    rows = tags_to_lists(indicator, names)
    if isinstance(tags, list | tuple):
        for own, given in zip(rows, tags, strict=True):
            if isinstance(given, list | tuple):
                # A row of our reader is sorted; people put what matters first.
                order = {clean_name(str(tag)): t for t, tag in reversed(list(enumerate(given)))}
                own.sort(key=lambda tag: order.get(tag, len(order)))
    for row in rows:
        for tag in row:
            _check_unicode("a tag", tag)
    return rows


def read_columns(columns: Any, n: int) -> list[dict[str, Any]]:
    """Return for each of n items its values by column, those that are missing left out.

    ``columns`` is a mapping of names to n values, as a data frame is, or a list of n mappings.
    """
    if columns is None:
        return [{} for _ in range(n)]
    if isinstance(columns, Sequence) and not isinstance(columns, str):
        if len(columns) != n:
            raise ValueError(f"there are {len(columns)} rows of columns for {n} images.")
        return [_plain_of(row) for row in columns]
    if not hasattr(columns, "items"):
        raise TypeError(f"columns should be a mapping of names to values; got {columns!r}.")
    rows: list[dict[str, Any]] = [{} for _ in range(n)]
    for key, values in columns.items():
        values = list(values)
        if len(values) != n:
            raise ValueError(f"the column {key!r} has {len(values)} values for {n} images.")
        for row, value in zip(rows, values, strict=True):
            value = plain(_name(key), value)
            if value is not None:
                row[_name(key)] = value
    return rows


def _plain_of(row: Any) -> dict[str, Any]:
    if not isinstance(row, Mapping):
        raise TypeError(f"a row of columns should be a mapping; got {row!r}.")
    values = {_name(key): plain(key, value) for key, value in row.items()}
    return {key: value for key, value in values.items() if value is not None}


def _name(key: Any) -> str:
    if not isinstance(key, str) or not key:
        raise TypeError(f"the name of a column should be a text; got {key!r}.")
    _check_unicode("the name of a column", key)
    return key


def plain(name: str, value: Any) -> str | int | float | None:
    """Return a column's value as the database keeps it: a text, a number, or None."""
    if value is None or isinstance(value, str):
        if value is not None:
            _check_unicode(f"a value of {name!r}", value)
        return None if value is None else str(value)
    if isinstance(value, bool | np.bool_):
        # Bools are integers to Python, and SQLite has none.
        return int(value)
    if isinstance(value, Integral):
        if not -(2**63) <= int(value) < 2**63:
            raise ValueError(f"a value of {name!r} should lie within 64 bits; got {value}.")
        return int(value)
    if isinstance(value, Real):
        # What is no number is how tables say that a value is missing.
        return None if math.isnan(value) else float(value)
    raise TypeError(f"a value of {name!r} should be a text, a number or None; got {value!r}.")


def stored_path(path: str | os.PathLike | None) -> str | bytes | None:
    """Return an absolute path as the database keeps it: bytes where it is no valid text."""
    if path is None:
        return None
    # The directory that the process is in will be another one.
    text = os.path.abspath(os.fspath(path))
    try:
        text.encode()
    except UnicodeEncodeError:
        # Names on disk are bytes, which need not be UTF-8.
        return os.fsencode(text)
    return text


def insert_items(
    store: Store,
    items: Iterable[tuple[str, Any, list[str], dict[str, Any]]],
    features: np.ndarray,
) -> np.ndarray:
    """Insert (id, path, tags, columns) of items and their features; return their rows.

    Raises ValueError where an id is there already.
    """
    connection = store.connection
    rows = []
    for (name, path, tags, columns), feature in zip(items, features, strict=True):
        try:
            row = connection.execute(
                "INSERT INTO items (id, path, tags) VALUES (?, ?, ?)",
                (name, stored_path(path), json.dumps(tags, ensure_ascii=False)),
            ).lastrowid
        except sqlite3.IntegrityError:
            raise ValueError(
                f"the collection has an item {name!r} already; remove it first, or give another id."
            ) from None
        connection.execute(
            "INSERT INTO features VALUES (?, ?)", (row, np.ascontiguousarray(feature).tobytes())
        )
        _insert_tags(connection, row, tags)
        _insert_columns(connection, row, columns)
        rows.append(row)
    return np.array(rows, dtype=np.int64)


def _insert_tags(connection: sqlite3.Connection, row: Any, tags: list[str]) -> None:
    connection.executemany("INSERT INTO tags VALUES (?, ?)", [(tag, row) for tag in tags])


def set_tags(store: Store, row: int, tags: list[str]) -> None:
    """Write other tags of an item."""
    # Deleted by what they are: the table is in order of tags, not of rows.
    (old,) = store.connection.execute("SELECT tags FROM items WHERE row = ?", (row,)).fetchone()
    store.connection.executemany(
        "DELETE FROM tags WHERE tag = ? AND row = ?", [(tag, row) for tag in json.loads(old)]
    )
    _insert_tags(store.connection, row, tags)
    text = json.dumps(tags, ensure_ascii=False)
    # They are not those that the model has learned from, any more.
    store.connection.execute("UPDATE items SET tags = ?, fitted = 0 WHERE row = ?", (text, row))


def _insert_columns(connection: sqlite3.Connection, row: Any, columns: dict[str, Any]) -> None:
    values = [(key, value, row) for key, value in columns.items()]
    connection.executemany("INSERT INTO columns VALUES (?, ?, ?)", values)


def set_columns(store: Store, row: int, columns: dict[str, Any]) -> None:
    """Write other columns of an item."""
    store.connection.execute("DELETE FROM columns WHERE row = ?", (row,))
    _insert_columns(store.connection, row, columns)


def delete_items(store: Store, rows: np.ndarray) -> None:
    """Delete items, with all that belongs to them but their codes."""
    connection = store.connection
    for row in rows.tolist():
        set_tags(store, row, [])
        # Names of our own tables, none of a user's.
        for table in ("columns", "features", "items"):
            connection.execute(f"DELETE FROM {table} WHERE row = ?", (row,))


def rows_of_ids(store: Store, ids: list[str]) -> np.ndarray:
    """Return the rows of ids, in their order; raise KeyError for one that is not there."""
    found = dict(store.select("SELECT id, row FROM items WHERE id IN ({})", ids))
    # All are looked up before anything is done: one error, and no half of a change.
    missing = [name for name in ids if name not in found]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise KeyError(f"the collection has no item {missing[0]!r}{more}.")
    return np.array([found[name] for name in ids], dtype=np.int64)


def items_of(store: Store, rows: Iterable[int]) -> list[Item]:
    """Return the items of rows, in their order."""
    rows = [int(row) for row in rows]
    found = {
        row: Item(
            name, os.fsdecode(path) if isinstance(path, bytes) else path, json.loads(tags), {}
        )
        for row, name, path, tags in store.select(
            "SELECT row, id, path, tags FROM items WHERE row IN ({})", rows
        )
    }
    for row, name, value in store.select(
        "SELECT row, name, value FROM columns WHERE row IN ({}) ORDER BY row, name", rows
    ):
        found[row].columns[name] = value
    return [found[row] for row in rows]
