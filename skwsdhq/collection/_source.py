"""Images that come into a collection, and the features that are kept of them."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ..backbones import extract_features
from ..datasets import load_tagged_folder
from ..images import input_kind
from ._items import read_columns, read_ids, read_tag_rows
from ._store import Store

__all__ = ["Arrivals", "Reading", "features_of_rows", "kept_features"]

_AT_ONCE = 256  # images whose features are kept in one transaction


class Reading:
    """Tell how a collection makes features of images.

    Parameters
    ----------
    backbone : str or None
        None is none: what comes in are features.
    dtype : str, default="float16"
        In which they are kept.
    n_features : int, default=None
        None until the first are known.
    n_jobs, device
        As for :func:`skwsdhq.backbones.extract_features`.
    """

    def __init__(
        self,
        backbone: str | None,
        dtype: str = "float16",
        n_features: int | None = None,
        n_jobs: int | None = None,
        device: Any = None,
    ) -> None:
        self.backbone, self.n_jobs, self.device = backbone, n_jobs, device
        self.dtype, self.n_features = np.dtype(dtype), n_features

    def features(self, images: Any, on_error: str = "raise") -> tuple[np.ndarray, np.ndarray]:
        """Return features (b, d) as they are kept, and which of the images they are of."""
        rows = np.arange(len(images))
        if input_kind(images) == "features":
            self._check_kind(is_features=True)
            found = np.asarray(images)
        else:
            self._check_kind(is_features=False)
            found = extract_features(
                images, self.backbone, n_jobs=self.n_jobs, device=self.device, on_error=on_error
            )
            if on_error == "skip":  # all of them, perhaps
                # Those that could be read.
                found, rows = found
        if not len(rows):
            return np.zeros((0, self.n_features or 0), dtype=self.dtype), rows
        return self.kept(found), rows

    def kept(self, found: np.ndarray) -> np.ndarray:
        """Return features (b, d) of at least one image as they are kept."""
        if found.dtype.kind not in "iuf" or (self.n_features or found.shape[1]) != found.shape[1]:
            raise ValueError(
                f"features should be numbers of shape (n, {self.n_features}); got {found.dtype} "
                f"of shape {found.shape}."
            )
        with np.errstate(over="ignore"):  # looked for below
            kept = found.astype(self.dtype)
        if not np.isfinite(kept).all():
            raise ValueError(
                f"features should be finite and lie within {self.dtype}, as this collection keeps "
                "them; scale them."
            )
        # The first image decides how many there are.
        self.n_features = kept.shape[1]
        return kept

    def one(self, image: Any) -> np.ndarray:
        """Return the features (1, d) of one image, or of one row of features."""
        if getattr(image, "ndim", 0) == 1 or (
            isinstance(image, list | tuple) and image and np.isscalar(image[0])
        ):
            return self.features(np.asarray(image)[None])[0]
        if getattr(image, "ndim", 0) == 2 and len(image) == 1 and image.dtype.kind == "f":
            return self.features(image)[0]
        return self.features([image])[0]

    def _check_kind(self, is_features: bool) -> None:
        if is_features and self.backbone is not None:
            raise ValueError(
                f"this collection is one of images, read by {self.backbone!r}; give images, not "
                "features."
            )
        if not is_features and self.backbone is None:
            raise ValueError("this collection is one of features; give features, not images.")


class Arrivals:
    """Hold images with ids, tags and columns, all of one length.

    Parameters
    ----------
    images : str, PathLike, or images or features
        A folder is read by :func:`skwsdhq.datasets.load_tagged_folder`.
    tags, ids, columns, separator : default=None
        As for :meth:`Collection.create`.
    """

    def __init__(
        self, images: Any, tags: Any, ids: Any, columns: Any, separator: str | None = None
    ) -> None:
        names: list[str] | None = None
        own: dict[str, list] = {}  # columns of the folder's table
        if isinstance(images, str | os.PathLike):
            # Ids are names within the folder: it can be moved, and they stay.
            images, names, tags, own = _of_folder(images, tags, separator)
        elif separator is not None:
            raise ValueError(
                f"separator={separator!r} is for the table of a folder; give the tags of images as "
                "lists."
            )
        self.images, self.kind = images, input_kind(images)
        if self.kind == "features":
            self.images = images = np.asarray(images)
            if images.ndim != 2:
                raise ValueError(f"features should have 2 dimensions; got shape {images.shape}.")
        n = len(images)
        if not n:
            raise ValueError("there are no images.")
        self.paths = [None] * n if self.kind != "paths" else [os.fspath(p) for p in images]
        if ids is not None:
            self.ids = read_ids(ids, n)
        elif self.kind == "paths":
            self.ids = read_ids(map(_as_text, names or self.paths))
        else:
            self.ids = []  # numbered, once it is known what there is
        self.tags = read_tag_rows(tags, n)
        given = read_columns(columns, n)
        # What the call says counts more than what the table says.
        self.columns = [a | b for a, b in zip(read_columns(own, n), given, strict=True)]

    def __len__(self) -> int:
        return len(self.images)

    def numbered(self, first: int) -> None:
        """Give ids where there are none."""
        self.ids = self.ids or [str(first + i) for i in range(len(self))]

    def read(
        self, rows: list[int], reading: Reading, on_error: str, verbose: int
    ) -> Iterator[tuple[list[int], np.ndarray]]:
        """Yield some of the rows, and their features."""
        if hasattr(self.images, "features_in_parts"):  # read elsewhere
            options = {"device": reading.device, "on_error": on_error}
            for some, found in self.images.features_in_parts(rows, reading.backbone, **options):
                if some:
                    yield some, reading.kept(found)
            return
        with tqdm(total=len(rows), desc="features", unit="img", disable=not verbose) as bar:
            for start in range(0, len(rows), _AT_ONCE):
                some = rows[start : start + _AT_ONCE]
                features, read = reading.features(self._pick(some), on_error)
                if len(read):
                    yield [some[i] for i in read], features
                bar.update(len(some))

    def _pick(self, rows: list[int]) -> Any:
        # Arrays take a list of rows at once; lists and tables of paths one by one.
        if hasattr(self.images, "shape"):
            return self.images[rows]
        return [self.images[i] for i in rows]


def _of_folder(
    folder: str | os.PathLike, tags: Any, separator: str | None
) -> tuple[list[str], list[str], Any, dict[str, list]]:
    """Return paths and names of a folder's images, their tags, and the table's other columns."""
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"{os.fspath(folder)!r} is no folder of images.")
    if tags is not None and not isinstance(tags, str | os.PathLike):
        raise TypeError(
            "tags of a folder should be the path of a table, 'sidecar', 'embedded' or None; give a "
            "list of paths to name tags for each image."
        )
    found = load_tagged_folder(folder, tags, separator="," if separator is None else separator)
    columns = {name: list(map(_flat, values)) for name, values in found.columns.items() if name}
    return found.images, found.names, found.tags, columns


def _flat(value: Any) -> Any:
    """Return a value of a table as a column keeps it: lists and objects of JSON are text."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def _as_text(name: Any) -> str:
    """Return a file's name as a text, also where its bytes are none."""
    return os.fsencode(os.fspath(name)).decode("utf-8", "backslashreplace")


def features_of_rows(store: Store, rows: np.ndarray, reading: Reading) -> np.ndarray:
    """Return the kept features (n, d) of rows, in their order."""
    # In whatever order the database gives them.
    found = dict(
        store.select("SELECT row, feature FROM features WHERE row IN ({})", map(int, rows))
    )
    features = np.empty((len(rows), reading.n_features or 0), dtype=reading.dtype)
    for i, row in enumerate(rows.tolist()):
        features[i] = np.frombuffer(found[row], dtype=reading.dtype)
    return features


def kept_features(store: Store, reading: Reading) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows (n,) of all items, ascending, and their features (n, d)."""
    (n,) = store.connection.execute("SELECT count(*) FROM features").fetchone()
    # Filled row by row: a list of all would take as much again.
    rows = np.empty(n, dtype=np.int64)
    features = np.empty((n, reading.n_features or 0), dtype=reading.dtype)
    found = store.connection.execute("SELECT row, feature FROM features ORDER BY row")
    for i, (row, feature) in enumerate(found):
        rows[i], features[i] = row, np.frombuffer(feature, dtype=reading.dtype)
    return rows, features
