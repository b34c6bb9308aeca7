"""Tags as arrays: indicators, co-occurrence, vectors, the correlation graph, concepts.

All functions are pure: they take arrays (T tags, C concepts, D dimensions, n samples) and
return arrays. :class:`~skwsdhq.TagEnhancer` is the estimator made of them.
"""

import numpy as np
from scipy import sparse

from ._tags_read import check_tags, tags_to_lists
from ._tags_vectors import (
    join_vectors,
    ppmi,
    remove_common_components,
    tag_cooccurrence,
    tag_vectors,
    vectors_from_cooccurrence,
    vectors_from_neighbors,
)
from .sphere import normalize_rows, spherical_mean
from .utils._text import split_words

__all__ = [
    "check_tags",
    "concept_vectors",
    "correlation_graph",
    "enhance_vectors",
    "join_vectors",
    "merge_tags",
    "ppmi",
    "remove_common_components",
    "split_words",
    "tag_cooccurrence",
    "tag_vectors",
    "tags_to_lists",
    "vectors_from_cooccurrence",
    "vectors_from_neighbors",
]

_BLOCK = 1024  # rows of a similarity block: 1024 × 10,000 tags are 40 MB


def correlation_graph(
    vectors: np.ndarray, tau: float, n_neighbors: int | None = None
) -> sparse.csr_array:
    """Tag correlation graph: which tags mean nearly the same, and how nearly.

    Tags i and j are neighbours when their cosine is at least ``tau`` and, where
    ``n_neighbors`` is given, one is among the other's nearest. A tag is its own neighbour.

    Parameters
    ----------
    vectors : ndarray of shape (T, D)
        Tag vectors of any length.
    tau : float
        Smallest cosine of neighbours.
    n_neighbors : int, default=None
        Nearest tags that a tag may choose, itself not counted; None is no limit. Of equal
        cosines the lower row is nearer.

    Returns
    -------
    csr_array of shape (T, T), float32
        Cosines of neighbours, symmetric, with ones on the diagonal. Similarities are computed
        in blocks of rows, so memory grows with the edges, not with T².

    Notes
    -----
    Edges of negative weight (possible where ``tau`` < 0) are left out: a mean weighted by
    them need not exist.
    """
    unit = normalize_rows(np.asarray(vectors, dtype=np.float32))
    n_tags = len(unit)
    parts = []
    for start in range(0, max(n_tags, 1), _BLOCK):
        cosines = unit[start : start + _BLOCK] @ unit.T
        np.fill_diagonal(cosines[:, start:], -np.inf)  # oneself comes last, with exactly 1
        keep = (cosines >= tau) & (cosines > 0)
        if n_neighbors is not None and n_neighbors < n_tags - 1:
            order = np.argsort(-cosines, axis=1, kind="stable")[:, :n_neighbors]
            nearest = np.zeros_like(keep)
            np.put_along_axis(nearest, order, True, axis=1)
            keep &= nearest
        i, j = np.nonzero(keep)
        parts.append((i + start, j, cosines[i, j]))
    i, j, weight = (np.concatenate(part) for part in zip(*parts, strict=True))
    graph = sparse.csr_array((weight, (i, j)), shape=(n_tags, n_tags))
    graph = graph.maximum(graph.T)  # either of the two may have chosen the other
    graph = sparse.csr_array(graph + sparse.eye_array(n_tags, dtype=np.float32, format="csr"))
    graph.sort_indices()
    return graph


def enhance_vectors(vectors: np.ndarray, graph: sparse.csr_array) -> np.ndarray:
    """Each tag vector as the similarity-weighted mean of its neighbours' vectors.

    Parameters
    ----------
    vectors : ndarray of shape (T, D)
        Tag vectors; unit length is made first.
    graph : csr_array of shape (T, T)
        See :func:`correlation_graph`.

    Returns
    -------
    ndarray of shape (T, D), float32
        Unit rows.
    """
    # for i: enhanced[i] = sum_j graph[i, j] vectors[j] / sum_j graph[i, j], then unit length,
    # which makes the division superfluous.
    return normalize_rows(graph @ normalize_rows(np.asarray(vectors, dtype=np.float32)))


def merge_tags(enhanced: np.ndarray, eps: float, min_samples: int = 1) -> np.ndarray:
    """Concept of each tag: DBSCAN over the enhanced vectors, with cosine distance.

    Parameters
    ----------
    enhanced : ndarray of shape (T, D)
        Unit rows.
    eps : float
        Largest cosine distance, 1 − cos, of direct neighbours; 0 or less merges nothing.
    min_samples : int, default=1
        Tags within ``eps``, oneself included, that make a tag a core point.

    Returns
    -------
    ndarray of shape (T,), int64
        Concepts numbered from 0 in the order of their first tag; noise points are concepts
        of their own.
    """
    n_tags = len(enhanced)
    if eps <= 0 or n_tags < 2:
        return np.arange(n_tags)
    from sklearn.cluster import DBSCAN

    labels = DBSCAN(eps=eps, min_samples=min_samples, metric="cosine").fit_predict(enhanced)
    noise = labels < 0
    labels[noise] = labels.max(initial=-1) + 1 + np.arange(noise.sum())
    _, first, labels = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[labels]


def concept_vectors(enhanced: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Normalised mean of the members of each concept.

    Parameters
    ----------
    enhanced : ndarray of shape (T, D)
        Unit rows.
    labels : ndarray of shape (T,)
        Concept of each tag, from 0 to C − 1, each in use.

    Returns
    -------
    ndarray of shape (C, D)
        Unit rows.
    """
    return spherical_mean(enhanced, labels, int(labels.max(initial=-1)) + 1)
