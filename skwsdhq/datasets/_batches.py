"""Batches of features or pictures with their tags and ids, whatever they are read from."""

import contextlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import Bunch

from ..images.reading import read_image
from ..utils.validation import check_choice
from ._tag_tables import read_tags

__all__ = ["TAGS", "Chosen", "Unreadable", "batch_of", "chosen_columns", "grouped", "mixed"]

# Names that columns usually have, in lower case.
FEATURES = ("features", "embedding", "embeddings", "feature", "vector")
IMAGES = ("image", "img", "jpg", "jpeg", "png", "webp", "picture")
TAGS = ("tags", "tag", "keywords", "hashtags")
IDS = ("id", "ids", "__key__", "key")


class Unreadable(ValueError):
    """Tell which row can't be read, and why."""


class Chosen(NamedTuple):
    """Hold the names of the columns that are read."""

    features: str | tuple[str, ...] | None
    images: str | None
    tags: str | None
    ids: str | None

    @property
    def names(self) -> list[str]:
        """Return all of them, each once."""
        features = self.features if isinstance(self.features, tuple) else (self.features,)
        wanted = (*features, self.images, self.tags, self.ids)
        return list(dict.fromkeys(name for name in wanted if name is not None))


def chosen_columns(
    columns: Sequence[str],
    place: str,
    features: str | Sequence[str] | None,
    images: str | None,
    tags: str | None,
    ids: str | None,
) -> Chosen:
    """Return the columns to read: those that are named, else those of usual names.

    Raises
    ------
    ValueError
        If a column that is named is not there, if both features and images are, or if neither can
        be found.
    """
    if features is not None and images is not None:
        raise ValueError("features and images are both given; a batch holds one of them.")
    named = [features] if isinstance(features, str) else list(features or ())
    for name in (*named, images, tags, ids):
        if name is not None and name not in columns:
            raise ValueError(f"{place} has no column {name!r}; it has {list(columns)}.")
    by_lower = {str(name).lower(): name for name in reversed(columns)}

    def usual(names: tuple[str, ...]) -> str | None:
        return next((by_lower[name] for name in names if name in by_lower), None)

    if features is None and images is None:
        features = usual(FEATURES)
        images = None if features is not None else usual(IMAGES)
        if features is None and images is None:
            raise ValueError(
                f"{place} has no column of features or pictures of a usual name "
                f"({', '.join((*FEATURES, *IMAGES))}); it has {list(columns)}. Name one by "
                "features= or images=."
            )
    kept = features if features is None or isinstance(features, str) else tuple(features)
    return Chosen(kept, images, tags or usual(TAGS), ids or usual(IDS))


def batch_of(
    columns: Mapping[str, Any],
    chosen: Chosen,
    place: str,
    numbers: Sequence[int],
    *,
    separator: str = ",",
    on_error: str = "raise",
    names: Sequence[str] | None = None,
) -> Bunch:
    """Return a batch with ``data``, ``tags`` and ``ids``.

    Parameters
    ----------
    columns : mapping of str to sequence
        What is chosen, row by row.
    chosen : Chosen
    place : str
        Where rows are from, for errors.
    numbers : sequence of int
        Of the rows there; they are the ids where no column is.
    separator : str
        Between tags of one text.
    on_error : {"raise", "skip"}
        What becomes of pictures that can't be read.
    names : sequence of str, default=None
        Of classes, where tags are their numbers.

    Returns
    -------
    Bunch
        ``data`` (b, d) of float32 or float64, or a list of b pictures (H, W, 3) of uint8; ``tags``
        a list of lists of str, or None; ``ids`` a list.
    """
    kept = list(range(len(numbers)))
    if chosen.features is not None:
        data: Any = _features_of(columns, chosen.features, place, numbers)
    else:
        assert chosen.images is not None
        data, kept = _pictures_of(columns[chosen.images], place, numbers, on_error)
    tags = None
    if chosen.tags is not None:
        cells = [_plain(columns[chosen.tags][i]) for i in kept]
        if names is not None:
            cells = [_by_name(cell, names) for cell in cells]
        tags = [
            read_tags(cell, separator, f"{place}, row {numbers[i]},")
            for i, cell in zip(kept, cells, strict=True)
        ]
    ids = numbers if chosen.ids is None else columns[chosen.ids]
    return Bunch(data=data, tags=tags, ids=[_plain(ids[i]) for i in kept])


def _plain(value: Any) -> Any:
    """Return numpy's arrays and numbers as Python's."""
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def _by_name(cell: Any, names: Sequence[str]) -> Any:
    """Return names of classes for their numbers."""
    if isinstance(cell, list):
        return [_by_name(item, names) for item in cell]
    return names[cell] if isinstance(cell, int) and 0 <= cell < len(names) else cell


def _features_of(
    columns: Mapping[str, Any], name: Any, place: str, numbers: Sequence[int]
) -> np.ndarray:
    """Return (b, d) of a column of vectors, or of several columns of numbers."""
    if isinstance(name, tuple):
        return _floats(np.stack([np.asarray(columns[part]) for part in name], axis=1), place)
    values = columns[name]
    if isinstance(values, np.ndarray) and values.ndim == 2:
        return _floats(values, place)
    width = None
    for number, row in zip(numbers, values, strict=True):
        n = np.size(row) if row is not None else None
        width = n if width is None else width
        if n is None or n != width or not n:
            said = "no features" if not n else f"{n} features, and others have {width}"
            raise ValueError(f"{place}, row {number}, has {said}.")
    return _floats(np.stack([np.ravel(row) for row in values]), place)


def _floats(rows: np.ndarray, place: str) -> np.ndarray:
    if rows.dtype.kind not in "biuf":
        raise ValueError(f"{place} has features of dtype {rows.dtype}; they should be numbers.")
    return rows if rows.dtype in (np.float32, np.float64) else rows.astype(np.float32)


def _pictures_of(
    values: Sequence[Any], place: str, numbers: Sequence[int], on_error: str
) -> tuple[list[np.ndarray], list[int]]:
    """Return pictures that can be read, and which of the rows these are."""
    check_choice("on_error", on_error, ("raise", "skip"))
    found, kept = [], []
    for i, value in enumerate(values):
        try:
            with _told(f"{place}, row {numbers[i]},"):
                found.append(np.asarray(read_image(_opened(value))))
        except Unreadable:
            if on_error == "raise":
                raise
            continue
        kept.append(i)
    return found, kept


@contextlib.contextmanager
def _told(place: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, TypeError, SyntaxError) as error:
        raise Unreadable(
            f"{place} has no readable picture: {error}; on_error='skip' leaves such rows out."
        ) from error


def _opened(value: Any) -> Any:
    """Return what :func:`read_image` takes, of bytes, a dict of these and a path, and others."""
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if value is None:
        raise ValueError("it is missing")
    if isinstance(value, (bytes, bytearray, memoryview)):
        from PIL import Image

        return Image.open(io.BytesIO(value))
    return value


def mixed(rows: Iterable[Any], n_held: int, random: np.random.RandomState) -> Iterator[Any]:
    """Yield rows in another order: each is drawn from so many that are held."""
    held: list[Any] = []
    for row in rows:
        if len(held) < n_held:
            held.append(row)
            continue
        at = random.randint(n_held)
        held[at], row = row, held[at]
        yield row
    for at in random.permutation(len(held)):
        yield held[at]


def grouped(rows: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Yield lists of so many rows; the last may be shorter."""
    rows = iter(rows)
    while group := list(islice(rows, size)):
        yield group
