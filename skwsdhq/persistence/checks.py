"""Checks of what a file says of a fitted estimator, so that its methods can trust it.

Each raises :class:`LoadError` unless a value is what its name says. The check of a whole class
stands beside the class and is made of these. Attributes that a later version adds are plain values
to it.
"""

from typing import Any

import numpy as np

from .file import LoadError
from .registry import Saved

__all__ = [
    "check_attributes",
    "check_count",
    "check_epochs",
    "check_floats",
    "check_history",
    "check_integers",
    "check_matrix",
    "check_nested",
    "check_texts",
    "check_vector",
    "need",
]


def check_attributes(estimator: Any, entry: Saved) -> None:
    """Raise LoadError where a fitted estimator can't be one of its class."""
    name = entry.own.__name__
    known = set(vars(estimator))
    fitted = {key for key in known if key.endswith("_") and not key.startswith("_")}
    if "n_features_in_" in fitted:
        check_count(estimator.n_features_in_, f"n_features_in_ of {name}", least=1)
    if "feature_names_in_" in fitted:
        names = check_texts(estimator.feature_names_in_, f"feature_names_in_ of {name}")
        need(len(names) == getattr(estimator, "n_features_in_", -1), "feature names per column")
    if not fitted:
        return
    # First that all are there: checks read attributes without asking.
    if not entry.required <= known:
        raise LoadError(f"its {name} lacks {', '.join(sorted(entry.required - known))}.")
    if entry.check is not None:
        entry.check(estimator)


def need(condition: Any, what: str) -> None:
    """Raise LoadError, which says what a file should hold, unless the condition is true."""
    if not condition:
        raise LoadError(f"it should hold {what}, and does not.")


def check_count(value: Any, name: str, least: int = 0) -> None:
    """Check a whole number; a bool is none."""
    # A bool is an int to isinstance.
    need(type(value) is int and value >= least, f"a whole number >= {least} as {name}")


def check_floats(array: Any, name: str, n_axes: int) -> None:
    """Check an array of finite numbers."""
    need(
        isinstance(array, np.ndarray) and array.ndim == n_axes, f"an array of {n_axes} axes {name}"
    )
    need(array.dtype in (np.float32, np.float64), f"numbers of 4 or 8 bytes as {name}")
    for row in array:  # one by one, so that no mask of the whole is made
        need(np.isfinite(row).all(), f"finite numbers as {name}")


def check_matrix(
    array: Any,
    name: str,
    n_rows: int | None = None,
    n_columns: int | None = None,
    unit: bool = False,
) -> None:
    """Check a matrix of finite numbers, of that many rows and columns; `unit` rows of length 1."""
    check_floats(array, name, 2)
    need(n_rows is None or len(array) == n_rows, f"{n_rows} rows as {name}")
    need(array.shape[1] >= 1, f"columns in {name}")
    need(n_columns is None or array.shape[1] == n_columns, f"{n_columns} columns as {name}")
    if unit:
        norms = np.sqrt(np.einsum("nd,nd->n", array, array, dtype=np.float64))
        # A mean of opposite vectors is a row of zeros. Rows of float32 are unit to some 1e-7; a
        # thousandth leaves room for what other machines wrote.
        need(((np.abs(norms - 1) < 1e-3) | (norms == 0)).all(), f"unit rows as {name}")


def check_vector(array: Any, name: str, length: int) -> None:
    """Check a vector of finite numbers."""
    check_floats(array, name, 1)
    need(len(array) == length, f"{length} numbers as {name}")


def check_integers(array: Any, name: str, shape: tuple[int, ...], limit: int | None) -> None:
    """Check whole numbers from 0 to below a limit, if there is one."""
    is_whole = isinstance(array, np.ndarray) and array.dtype.kind in "iu"
    need(is_whole and array.shape == shape, f"whole numbers of shape {shape} as {name}")
    if array.size:
        below = limit is None or array.max() < limit
        need(array.min() >= 0 and below, f"numbers from 0 to below {limit} as {name}")


def check_texts(array: Any, name: str) -> np.ndarray:
    """Check an array of texts, and return it."""
    need(isinstance(array, np.ndarray) and array.ndim == 1, f"texts as {name}")
    # An empty list of texts may have come as an array of floats.
    need(array.dtype.kind in "OU" or not len(array), f"texts as {name}")
    return array


def check_history(history: Any) -> None:
    """Check lists of numbers by name."""
    lists = isinstance(history, dict) and all(
        isinstance(key, str) and isinstance(values, list) for key, values in history.items()
    )
    need(lists, "lists of numbers in history_")
    plain = all(isinstance(v, (int, float)) for values in history.values() for v in values)
    need(plain, "lists of numbers in history_")


def check_epochs(estimator: Any) -> None:
    """Check a history with a loss for each epoch; codebooks alone have turns and no loss."""
    check_count(estimator.n_iter_, "n_iter_")
    check_history(estimator.history_)
    # Codebooks alone count turns in n_iter_, and have no losses.
    losses = estimator.history_.get("loss", [])
    need(not losses or len(losses) == estimator.n_iter_, "a loss for each of n_iter_ epochs")


def check_nested(estimator: Any, name: str, width: int | None) -> None:
    """Check a nested estimator; with `width`, one that has concepts of so many dimensions."""
    need(hasattr(estimator, "get_params"), f"an estimator as {name}")
    if width is not None:
        inner = getattr(estimator, "estimator", estimator)
        vectors = getattr(inner, "concept_vectors_", None)
        need(
            isinstance(vectors, np.ndarray) and vectors.shape[1] == width,
            f"concepts of {width} dimensions in {name}",
        )
