"""What a file holds of a TagEnhancer."""

import os
from typing import Any

import numpy as np
from scipy import sparse

from ..persistence.checks import check_floats, check_integers, check_matrix, check_texts, need
from ..persistence.registry import looks_like_path

__all__ = ["REQUIRED", "check_enhancer", "from_format_1", "vectors_name"]

REQUIRED = {
    "vocabulary_", "tag_vectors_", "graph_", "enhanced_vectors_", "labels_", "concept_vectors_",
    "concept_names_", "emphasis_", "tag_counts_", "missing_tags_", "_kept_columns",
}  # fmt: skip


def vectors_name(word_vectors: Any) -> str | None:
    """Return the name of a model of word vectors; None where they are an object or a file."""
    if not isinstance(word_vectors, str) or looks_like_path(word_vectors):
        return None
    # A file of that name is what fit has read, whatever model may be called so elsewhere.
    return None if os.path.exists(word_vectors) else word_vectors


def from_format_1(parameters: dict, attributes: dict) -> tuple[dict, dict]:
    """Return what format 1 holds of an enhancer as format 2 does.

    The first files know of no missing tags, and name the columns of a matrix in a way that
    nothing reads any more.
    """
    if "vocabulary_" not in attributes:
        return parameters, attributes
    added = {"emphasis_": None, "missing_tags_": np.array([], dtype=object), "_kept_columns": None}
    kept = {name: value for name, value in attributes.items() if name != "_column_names"}
    return parameters, {**added, **kept}


def check_enhancer(enhancer: Any) -> None:
    """Raise LoadError where tags, vectors, graph and concepts do not fit together."""
    vocabulary = enhancer.vocabulary_
    is_dict = isinstance(vocabulary, dict) and all(isinstance(tag, str) for tag in vocabulary)
    need(is_dict, "tags in vocabulary_")
    n_tags = len(vocabulary)
    need(list(vocabulary.values()) == list(range(n_tags)), "one row for each tag of vocabulary_")
    check_matrix(enhancer.tag_vectors_, "tag_vectors_", n_rows=n_tags)
    n_dims = enhancer.tag_vectors_.shape[1]
    check_matrix(enhancer.enhanced_vectors_, "enhanced_vectors_", n_tags, n_dims, unit=True)
    check_matrix(enhancer.concept_vectors_, "concept_vectors_", None, n_dims, unit=True)
    _check_emphasis(enhancer.emphasis_, n_dims)
    n_concepts = len(enhancer.concept_vectors_)
    check_integers(enhancer.labels_, "labels_", (n_tags,), n_concepts)
    check_integers(enhancer.tag_counts_, "tag_counts_", (n_tags,), None)
    names = check_texts(enhancer.concept_names_, "concept_names_")
    need(len(names) == n_concepts, "a name for each concept")
    graph = enhancer.graph_
    need(isinstance(graph, sparse.csr_array) and graph.shape == (n_tags, n_tags), "a (T, T) graph_")
    need(np.isfinite(graph.data).all(), "finite values in graph_")
    check_texts(enhancer.missing_tags_, "missing_tags_")
    kept = enhancer._kept_columns
    if kept is not None:
        check_integers(kept, "_kept_columns", (n_tags,), getattr(enhancer, "n_features_in_", 0))


def _check_emphasis(emphasis: Any, n_dims: int) -> None:
    """Check what concept vectors were multiplied by."""
    if emphasis is None:
        return
    is_whole = isinstance(emphasis, dict) and set(emphasis) == {"strengths", "map"}
    need(is_whole, "strengths and a map in emphasis_")
    check_matrix(emphasis["map"], "map of emphasis_", n_dims, n_dims)
    strengths = emphasis["strengths"]
    check_floats(strengths, "strengths of emphasis_", 1)
    need(len(strengths) <= n_dims, "at most D strengths of emphasis_")
