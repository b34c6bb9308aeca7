"""Filters: which items may be found, by their tags and by their columns."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..utils.text import clean_name
from ._items import plain
from ._store import Store

__all__ = ["allowed_rows"]

# By what users write; never a user's own text in a statement.
_OPERATORS = {"==": "=", "=": "=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}


def allowed_rows(store: Store, where: Any, has_tags: Any) -> np.ndarray | None:
    """Return the rows, ascending, that pass all conditions; None where there are none to pass."""
    found: np.ndarray | None = None
    for statement, values, is_kept in [*_by_columns(store, where), *_by_tags(has_tags)]:
        rows = store.connection.execute(statement, values).fetchall()
        # Ascending, as sets of rows are compared here.
        own = np.unique(np.array(rows, dtype=np.int64).ravel())
        if not is_kept:
            everything = store.connection.execute("SELECT row FROM items ORDER BY row").fetchall()
            own = np.setdiff1d(np.array(everything, dtype=np.int64).ravel(), own)
        found = own if found is None else np.intersect1d(found, own)
    return found


def _by_columns(store: Store, where: Any) -> Iterable[tuple[str, list, bool]]:
    if where is None:
        return
    if not isinstance(where, Mapping):
        raise TypeError(
            'where should be a mapping, as {"year": (">=", 2020), "place": "Oslo"}; got '
            f"{where!r}."
        )
    for name, condition in where.items():
        known = store.connection.execute(
            "SELECT 1 FROM columns WHERE name = ? LIMIT 1", (name,)
        ).fetchone()
        if not isinstance(name, str) or known is None:
            columns = store.connection.execute("SELECT DISTINCT name FROM columns").fetchall()
            names = ", ".join(repr(column) for (column,) in columns) or "none"
            raise ValueError(f"no item has a column {name!r}; there are: {names}.")
        yield _condition(name, condition)


def _condition(name: str, condition: Any) -> tuple[str, list, bool]:
    """Return a statement that finds the rows of a condition, or those that fail it."""
    operator, value = "==", condition
    if isinstance(condition, tuple):
        if len(condition) != 2 or not isinstance(condition[0], str):
            raise ValueError(f"where[{name!r}] should be a value or (operator, value).")
        operator, value = condition
    select = "SELECT row FROM columns WHERE name = ?"
    if operator in ("in", "not in"):
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise TypeError(f"where[{name!r}] should list the values after {operator!r}.")
        values = [plain(name, one) for one in value]
        marks = ",".join("?" * len(values))
        return f"{select} AND value IN ({marks})", [name, *values], operator == "in"
    if operator not in (*_OPERATORS, "!="):
        known = ", ".join((*_OPERATORS, "!=", "in", "not in"))
        raise ValueError(f"where[{name!r}] has the operator {operator!r}; there are {known}.")
    value = plain(name, value)
    if value is None:  # items without a value
        if operator not in ("==", "=", "!="):
            raise ValueError(f"where[{name!r}] compares with nothing by {operator!r}.")
        return select, [name], operator == "!="
    if operator == "!=":
        return f"{select} AND value = ?", [name, value], False
    # A text is larger than any number to SQLite: compare with values of the same kind alone.
    kind = "= 'text'" if isinstance(value, str) else "!= 'text'"
    return (
        f"{select} AND value {_OPERATORS[operator]} ? AND typeof(value) {kind}",
        [name, value],
        True,
    )


def _by_tags(has_tags: Any) -> Iterable[tuple[str, list, bool]]:
    if has_tags is None:
        return
    tags = [has_tags] if isinstance(has_tags, str) else list(has_tags)
    for tag in tags:
        if not isinstance(tag, str) or not tag.strip(" -"):
            raise ValueError(f"has_tags should hold texts that are not empty; got {tag!r}.")
        is_kept = not tag.strip().startswith("-")
        name = clean_name(tag if is_kept else tag.strip()[1:])
        # Tags of items are kept clean, so that "Beach " finds "beach".
        yield "SELECT row FROM tags WHERE tag = ?", [name], is_kept
