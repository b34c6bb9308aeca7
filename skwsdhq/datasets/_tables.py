"""What the loaders of sets on disk have in common."""

from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils import Bunch, check_random_state

from ..utils.text import clean_name, split_lines

__all__ = [
    "check_whole",
    "first_folder",
    "label_indicator",
    "read_lines",
    "split_rows",
    "tidy_tag",
]


def label_indicator(labels: Sequence[Sequence[str]]) -> tuple[np.ndarray, list[str]]:
    """Return a 0/1 table (n, L) of the labels of each row, int64, and their names in order."""
    names = sorted({name for row in labels for name in row})
    columns = {name: k for k, name in enumerate(names)}
    table = np.zeros((len(labels), len(names)), dtype=np.int64)
    for n, row in enumerate(labels):
        table[n, [columns[name] for name in row]] = 1
    return table, names


def tidy_tag(tag: str) -> str:
    """Return a tag in lower case and composed Unicode, with single spaces for underscores."""
    return clean_name(tag.replace("_", " "))


def check_whole(name: str, value: Any, lowest: int) -> None:
    """Refuse a parameter that is no whole number, or below the lowest one."""
    # True is an Integral, and as a count a mistake.
    if not isinstance(value, Integral) or isinstance(value, bool) or value < lowest:
        raise ValueError(f"{name}={value!r} should be a whole number >= {lowest}.")


def split_rows(
    candidates: np.ndarray,
    trainable: np.ndarray,
    n_query: int,
    n_train: int | None,
    random_state: Any,
) -> Any:
    """Draw row numbers of queries, database and training.

    Parameters
    ----------
    candidates : ndarray of bool (n,)
        Rows that take part.
    trainable : ndarray of bool (n,)
        Rows that may be in the training set, as those with tags.
    n_query : int
        Queries; the other candidates are the database.
    n_train : int or None
        Rows of the database to train on; None takes all that are trainable.
    random_state : int, RandomState instance or None

    Returns
    -------
    Bunch
        ``train``, ``query`` and ``database``, each sorted; train lies within database.
    """
    rows = np.flatnonzero(candidates)
    if not 0 <= n_query < len(rows):
        raise ValueError(
            f"n_query={n_query} should be less than the {len(rows)} images that take part; lower "
            "n_query."
        )
    # One draw for all: the queries do not depend on how many rows train.
    order = check_random_state(random_state).permutation(rows)
    query, database = order[:n_query], order[n_query:]
    # In the drawn order still, so that a part of it is a random one.
    train = database[trainable[database]]
    if n_train is not None:
        if n_train > len(train):
            raise ValueError(
                f"n_train={n_train} should be <= {len(train)}, the images of the database that "
                "have tags; lower n_train, or take all by None."
            )
        train = train[:n_train]
    return Bunch(train=np.sort(train), query=np.sort(query), database=np.sort(database))


def read_lines(path: Path) -> list[str]:
    """Read the lines of a text file without their ends; Latin-1 where it is no UTF-8."""
    if not path.is_file():
        raise FileNotFoundError(f"{str(path)!r} is not there.")
    content = path.read_bytes()
    try:
        return split_lines(content.decode("utf-8-sig"))  # with or without a byte order mark
    except UnicodeDecodeError:
        return split_lines(content.decode("latin-1"))


def first_folder(home: Path, names: Sequence[str], holds: str, what: str) -> Path:
    """Return the first of some folders of ``home`` that holds a file by a pattern."""
    for name in names:
        folder = home / name
        # One look, not a list: a folder may hold a hundred thousand files.
        if folder.is_dir() and next(folder.glob(holds), None) is not None:
            return folder
    raise FileNotFoundError(
        f"{what} are not in {str(home)!r}: no {holds} in {', '.join(map(repr, names))}."
    )
