"""What a report is made of: rows with vectors, codes, tags and pictures, whoever holds them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from ..collection.contents import contents_of, features_of_images
from ..images import input_kind
from ..tags import check_tags, tags_to_lists
from ..utils.estimators import last_step, unfrozen

__all__ = ["Material", "of_collection", "of_estimator"]


@dataclass
class Material:
    """Hold n rows, as an estimator or a collection finds them."""

    quantizer: Any
    embedder: Any  # the step that learned the embedding, or None
    features: np.ndarray  # (n, d) that duplicates are looked for by
    inputs: Any  # what the embedder takes: images or features of n rows
    embeddings: np.ndarray  # (n, D) float32, exact: the queries
    codes: np.ndarray  # (n, M)
    images: Any  # n pictures, or None
    names: list[str]
    tags: list[list[str]]
    judged: sparse.csr_array | None  # (n, L) labels, or tags where there are none
    judged_names: list[str]
    is_judged: np.ndarray  # (n,) bool: rows that take part in the score
    by_labels: bool
    rows: np.ndarray  # (n,) numbers of the rows among those that were given
    n_given: int  # rows that were given

    @property
    def enhancer(self) -> Any:
        """The fitted TagEnhancer, or None."""
        for holder in (self.quantizer, self.embedder):
            found = getattr(holder, "tag_enhancer_", None)
            if found is not None:
                return unfrozen(found)
        return None


def of_estimator(
    estimator: Any, X: Any, tags: Any, labels: Any, images: Any, names: Any, most: int
) -> Material:
    """Read rows X by an estimator, as its ``score`` does."""
    last = last_step(estimator)
    if not hasattr(last, "encode_embeddings"):
        raise TypeError(
            f"{type(last).__name__} makes no codes; give a fitted WSDHQuantizer, a Pipeline that "
            "ends in one, or a Collection."
        )
    if X is None:
        raise ValueError("X is None; a report of an estimator needs images or features.")
    n = X.shape[0] if hasattr(X, "shape") else len(X)
    rows = _drawn(n, most)
    own = _some(X, rows)
    kept = Given(n, rows, tags, labels, names)
    if images is None and input_kind(own) != "features":
        images = own
    elif images is not None:
        images = _some_images(images, rows, n)
    inputs, embedder, before = _before_last(estimator, own)
    if embedder is None:
        embedder = getattr(last, "embedder_", None)
        embedder = unfrozen(embedder)
        before = inputs = _features(embedder, inputs)
    embeddings = np.asarray(last.transform(inputs), dtype=np.float32)
    is_matrix = input_kind(before) == "features" and not sparse.issparse(before)
    return Material(
        quantizer=last,
        embedder=None if isinstance(embedder, str) else embedder,
        features=np.asarray(before, dtype=np.float32) if is_matrix else embeddings,
        inputs=before,
        embeddings=embeddings,
        codes=last.encode_embeddings(embeddings),
        images=images,
        **kept.read(getattr(last, "tag_enhancer_", None), own),
    )


def of_collection(
    collection: Any, X: Any, tags: Any, labels: Any, images: Any, names: Any, most: int
) -> Material:
    """Read the items of a collection, or other rows X by its model."""
    if X is not None:
        shown = X if images is None and input_kind(X) != "features" else images
        features = features_of_images(collection, X).astype(np.float32)
        return of_estimator(collection.quantizer, features, tags, labels, shown, names, most)
    found = contents_of(collection, lambda n: _drawn(n, most))
    ids, rows, n = [item.id for item in found.items], found.places, found.n_items
    kept = Given(n, rows, tags, labels, names)
    if isinstance(labels, Mapping):
        # As Collection.evaluate: items that a mapping leaves out take no part.
        kept.is_judged = np.array([name in labels for name in ids], dtype=bool)
        if not kept.is_judged.any():
            raise ValueError(f"none of the {len(labels)} ids of labels is in the collection.")
        kept.labels = [labels.get(name) for name in ids]
    if tags is None:
        kept.tags = [item.tags for item in found.items]
    if images is None:
        images = [item.path for item in found.items]
    else:
        images = _some_images(images, rows, n)
    features = found.features.astype(np.float32)
    embedder = found.quantizer.embedder_
    return Material(
        quantizer=found.quantizer,
        embedder=unfrozen(embedder),
        features=features,
        inputs=features,
        # As a search for what is like an item has them.
        embeddings=found.quantizer.embed_query(features),
        codes=found.codes,
        images=images if any(image is not None for image in images) else None,
        **(kept.read(found.quantizer.tag_enhancer_, None) | ({} if names else {"names": ids})),
    )


@dataclass
class Given:
    """Hold what was given beside n pictures, to be read for some rows of them."""

    n: int
    rows: np.ndarray
    tags: Any
    labels: Any
    names: Any
    is_judged: np.ndarray | None = None

    def read(self, enhancer: Any, X: Any) -> dict[str, Any]:
        """Return tags, labels and names of the rows, as `Material` holds them."""
        enhancer = unfrozen(enhancer)
        tags: list[list[str]] = [[] for _ in self.rows]
        judged, judged_names = None, np.zeros(0, dtype=object)
        if self.tags is not None:
            lowercase = bool(getattr(enhancer, "lowercase", True))
            tags = tags_to_lists(*self._table("tags", self.tags, lowercase))
            judged, judged_names = self._table("tags", self.tags, True)
        if self.labels is not None:
            judged, judged_names = self._table("labels", self.labels, True)
        is_judged = self.is_judged
        if is_judged is None:
            is_judged = np.full(len(self.rows), judged is not None)
        return {
            "tags": tags,
            "judged": judged,
            "judged_names": [str(name) for name in judged_names],
            "is_judged": is_judged,
            "by_labels": self.labels is not None,
            "names": self._names(X),
            "rows": self.rows,
            "n_given": self.n,
        }

    def _table(self, name: str, values: Any, lowercase: bool) -> tuple[sparse.csr_array, Any]:
        """Return the indicator of the rows, and the names of its columns."""
        indicator, names = check_tags(values, lowercase=lowercase)
        if indicator.shape[0] == len(self.rows) < self.n:  # what a collection holds of these rows
            return indicator, names
        if indicator.shape[0] != self.n:
            raise ValueError(f"there are {indicator.shape[0]} rows of {name}, should be {self.n}.")
        return indicator[self.rows], names

    def _names(self, X: Any) -> list[str]:
        """Return names of the rows: given ones, paths, or numbers."""
        if self.names is not None:
            names = [str(name) for name in self.names]
            if len(names) != self.n:
                raise ValueError(f"there are {len(names)} names, should be {self.n}.")
            return [names[i] for i in self.rows]
        if X is not None and len(self.rows) and input_kind(X) == "paths":
            return [str(path) for path in X]
        return [str(i) for i in self.rows]


def _before_last(estimator: Any, X: Any) -> tuple[Any, Any, Any]:
    """Return what the last step takes, the step that learned of tags, and what that one takes."""
    embedder, before, rows = None, X, X
    for _, step in estimator.steps[:-1] if hasattr(estimator, "steps") else ():
        if step is None or isinstance(step, str):  # passed over
            continue
        inner = unfrozen(step)
        if hasattr(inner, "tag_enhancer_"):
            # Its network runs once.
            rows = _features(inner, rows)
            embedder, before = inner, rows
        rows = step.transform(rows)
    return rows, embedder, before


def _features(embedder: Any, X: Any) -> Any:
    """Return features in place of images where an embedder has a network for them."""
    if input_kind(X) == "features" or not hasattr(embedder, "features_of"):
        return X
    return X if getattr(embedder, "ten_crop", False) else embedder.features_of(X)


def _drawn(n: int, most: int) -> np.ndarray:
    """Return rows, ascending: all, or so many drawn at random, the same each time."""
    if n <= most:
        return np.arange(n)
    return np.sort(np.random.RandomState(0).permutation(n)[:most])


def _some(values: Any, rows: np.ndarray) -> Any:
    """Return some rows of anything that has rows."""
    if hasattr(values, "iloc"):
        return values.iloc[rows]
    if hasattr(values, "tocsr"):
        return values.tocsr()[rows]
    return values[rows] if hasattr(values, "shape") else [values[i] for i in rows]


def _some_images(images: Any, rows: np.ndarray, n: int) -> list[Any]:
    """Return some pictures of n."""
    if len(images) != n:
        raise ValueError(f"there are {len(images)} images, should be {n}.")
    if hasattr(images, "iloc"):
        return list(images.iloc[rows])
    return [images[i] for i in rows]
