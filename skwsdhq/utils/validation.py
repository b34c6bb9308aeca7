"""Checks of numbers and arrays that several rooms make, with one wording.

Each check returns what it checked in the one form in which the caller goes on with it.
"""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np

__all__ = [
    "as_numbers",
    "check_choice",
    "check_finite",
    "check_number",
    "check_share",
    "check_whole",
]


def check_whole(name: str, value: Any, minimum: int = 1, maximum: int | None = None) -> int:
    """Return a whole number, or raise an error that names it.

    Parameters
    ----------
    name : str
        Name of the parameter, which the message begins with.
    value : object
        True and False are refused: as a number they are mistakes.
    minimum : int, default=1
    maximum : int, default=None
        None is no limit.

    Returns
    -------
    int

    Raises
    ------
    TypeError
        If the value is no whole number.
    ValueError
        If it lies outside the limits.
    """
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise TypeError(f"{name}={value!r} should be an integer.")
    value = int(value)  # numpy's integers overflow, Python's do not
    if value < minimum or (maximum is not None and value > maximum):
        limit = f"at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
        raise ValueError(f"{name}={value} should be {limit}.")
    return value


def check_number(
    name: str, value: Any, *, minimum: float = -math.inf, above: float = -math.inf
) -> float:
    """Return a finite real number, or raise an error that names it.

    Parameters
    ----------
    name : str
    value : object
    minimum, above : float, default=-inf
        The smallest value that is allowed; the largest one that is not.

    Returns
    -------
    float

    Raises
    ------
    TypeError
        If the value is no real number.
    ValueError
        If it is not finite, or beyond the limit.
    """
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(f"{name}={value!r} should be a number.")
    if not math.isfinite(value) or value < minimum or value <= above:
        limit = f">= {minimum:g}" if minimum > -math.inf else f"> {above:g}"
        raise ValueError(f"{name}={value!r} should be finite and {limit}.")
    return float(value)


def check_share(name: str, value: Any) -> float:
    """Return a number from 0 to 1, or raise an error that names it."""
    share = check_number(name, value, minimum=0)
    if share > 1:
        raise ValueError(f"{name}={value!r} should lie from 0 to 1.")
    return share


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """Return a string that is one of the choices; raise ValueError for all else."""
    # Arrays compare with a string entry by entry: ask for the type first.
    if not (isinstance(value, str) and value in choices):
        raise ValueError(f"{name}={value!r} should be one of {', '.join(map(repr, choices))}.")
    return value


def as_numbers(name: str, array: Any, shape: str, *, n_columns: int | None = None) -> np.ndarray:
    """Return an array of real numbers, of whatever dtype, or raise an error that names it.

    Parameters
    ----------
    name : str
        In the plural, as "embeddings".
    array : array-like
    shape : str
        What the array should look like, as "(n, D=4)": it has as many axes as commas and one.
    n_columns : int, default=None
        Length of the last axis; None is any.

    Returns
    -------
    ndarray

    Raises
    ------
    TypeError
        If the array holds something else than real numbers.
    ValueError
        If it has another shape.
    """
    array = np.asarray(array)
    is_shaped = array.ndim == shape.count(",") + 1
    if not is_shaped or (n_columns is not None and array.shape[-1] != n_columns):
        raise ValueError(f"{name} should have shape {shape}; got {array.shape}.")
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} should be numbers; got dtype {array.dtype}.")
    return array


def check_finite(
    name: str, array: np.ndarray, remedy: str = "", *, verb: str = "contain"
) -> np.ndarray:
    """Return the array, if all its numbers are finite; else raise ValueError with the remedy."""
    # A sum is finite when all entries are, save for an overflow that the second look sorts out:
    # one pass without an array of booleans is several times as fast.
    with np.errstate(over="ignore", invalid="ignore"):
        is_suspect = not np.isfinite(array.sum())
    if is_suspect and not np.isfinite(array).all():
        raise ValueError(f"{name} {verb} NaN or infinity{remedy}.")
    return array
