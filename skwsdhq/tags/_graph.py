"""Tags as arrays: indicators, co-occurrence, vectors, the correlation graph, concepts.

All functions are pure: they take arrays (T tags, C concepts, D dimensions, n samples) and
return arrays. :class:`~skwsdhq.TagEnhancer` is the estimator made of them.
"""

from collections.abc import Iterator

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from ..sphere import normalize_rows, spherical_mean
from ..utils.text import split_words
from ..utils.threads import on_one_thread, product
from ._vectors import (
    join_vectors,
    ppmi,
    remove_common_components,
    tag_cooccurrence,
    tag_vectors,
    vectors_from_cooccurrence,
    vectors_from_neighbors,
)
from .reading import check_tags, tags_to_lists

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

_BLOCK = 512  # rows of a tile of similarities
_COLUMNS = 4096  # its columns: 8 MB, which stay in the cache
_MAX_EDGES = 1 << 23  # of a graph, beyond which each tag keeps its nearest neighbours only
_PAIRS_AT_ONCE = 1 << 20


def _tiles(unit: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield first row, first column and cosines of tiles that cover the pairs i < j of unit rows.

    A tile on the diagonal has −inf in place of the pairs that are not.
    """
    for start in range(0, len(unit), _BLOCK):
        for first in range(start, len(unit), _COLUMNS):
            cosines = product(unit[start : start + _BLOCK], unit[first : first + _COLUMNS].T)
            if first == start:
                cosines[np.tril_indices(len(cosines), m=cosines.shape[1])] = -np.inf
            yield start, first, cosines


def _pairs(unit: np.ndarray, least: float) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield pairs i < j of unit rows whose cosine is at least that, and the cosines."""
    for start, first, cosines in _tiles(unit):
        # for i: for j > i: if cosine[i, j] >= least: (i, j, cosine[i, j])
        cells = np.flatnonzero(cosines >= least)
        if len(cells):
            i, j = np.divmod(cells, cosines.shape[1])
            yield i + start, j + first, cosines.ravel()[cells]


@on_one_thread
def correlation_graph(
    vectors: np.ndarray, tau: float, n_neighbors: int | None = None
) -> sparse.csr_array:
    """Build the tag correlation graph: which tags mean nearly the same, and how nearly.

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
        in blocks, so memory grows with the edges, not with T².

    Notes
    -----
    Where more than 8 million entries would be stored, as of thousands of tags that all mean
    nearly the same, each tag chooses its nearest only: 4 million in all, and at least 16 each.

    Edges of negative weight (possible where ``tau`` < 0) are left out: a mean weighted by
    them need not exist.

    Examples
    --------
    >>> import numpy as np
    >>> from skwsdhq.tags import correlation_graph
    >>> vectors = np.array([[1.0, 0.0], [4.0, 3.0], [0.0, 1.0]])
    >>> correlation_graph(vectors, tau=0.7).toarray().round(1).tolist()
    [[1.0, 0.8..., 0.0], [0.8..., 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    unit = normalize_rows(np.asarray(vectors, dtype=np.float32))
    n_tags = len(unit)
    if n_neighbors is None:
        # Where most tags mean the very same, a graph of the different ones is quickly made.
        first, same = _equal_rows(unit)
        size = np.bincount(same) if n_tags else same
        if len(first) < n_tags / 2:
            graph = correlation_graph(unit[first], tau)
            if size @ (graph > 0) @ size <= _MAX_EDGES:
                member = sparse.csr_array((np.ones(n_tags, np.float32), (np.arange(n_tags), same)))
                graph = sparse.csr_array(member @ graph @ member.T)
                graph.sort_indices()
                return graph
    least = max(float(tau), float(np.finfo(np.float32).tiny))
    parts = _edges(unit, least, n_neighbors)
    none = np.zeros(0, dtype=np.int64)
    parts.append((none, none, none.astype(np.float32)))  # concatenate wants one at least
    i, j, weight = (np.concatenate(part) for part in zip(*parts, strict=True))
    graph = sparse.csr_array((weight, (i, j)), shape=(n_tags, n_tags))
    graph = graph.maximum(graph.T)  # either of the two may have chosen the other
    graph = sparse.csr_array(graph + sparse.eye_array(n_tags, dtype=np.float32, format="csr"))
    graph.sort_indices()
    return graph


def _edges(unit: np.ndarray, least: float, n_neighbors: int | None) -> list[tuple[np.ndarray, ...]]:
    """Return the pairs of neighbours; of too many each tag's nearest alone."""
    n_tags = len(unit)
    if n_neighbors is not None and n_neighbors < n_tags - 1:
        return list(_nearest_pairs(unit, least, int(n_neighbors)))
    parts: list[tuple[np.ndarray, ...]] = []
    n_edges = 0
    for part in _pairs(unit, least):
        parts.append(part)
        n_edges += 2 * len(part[0])
        if n_edges > _MAX_EDGES:
            del parts  # their memory is needed for those that take their place
            return list(_nearest_pairs(unit, least, max(16, _MAX_EDGES // (2 * n_tags))))
    return parts


def _nearest_pairs(
    unit: np.ndarray, least: float, n_neighbors: int
) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield pairs (i, j) of which j is among the nearest of i, and their cosines."""
    step = max(1, min(_BLOCK, (_BLOCK * _COLUMNS) // max(1, len(unit))))
    for start in range(0, len(unit), step):
        cosines = product(unit[start : start + step], unit.T)
        np.fill_diagonal(cosines[:, start:], -np.inf)
        keep = cosines >= least
        for r in np.flatnonzero(np.count_nonzero(keep, axis=1) > n_neighbors):
            row = cosines[r]
            last = np.partition(row, -n_neighbors)[-n_neighbors]
            keep[r] = row > last
            ties = np.flatnonzero(row == last)  # of equal cosines the lower row is nearer
            keep[r, ties[: n_neighbors - np.count_nonzero(keep[r])]] = True
        i, j = np.nonzero(keep)
        yield i + start, j, cosines[i, j]


def enhance_vectors(vectors: np.ndarray, graph: sparse.csr_array) -> np.ndarray:
    """Replace each tag vector by the similarity-weighted mean of its neighbours' vectors.

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

    Examples
    --------
    >>> import numpy as np
    >>> from skwsdhq.tags import correlation_graph, enhance_vectors
    >>> vectors = np.array([[1.0, 0.0], [0.8, 0.6]])
    >>> enhanced = enhance_vectors(vectors, correlation_graph(vectors, tau=0.7))
    >>> bool(enhanced[0] @ enhanced[1] > vectors[0] @ vectors[1])  # nearer than before
    True
    """
    # for i: enhanced[i] = sum_j graph[i, j] vectors[j] / sum_j graph[i, j], then unit length,
    # which makes the division superfluous.
    return normalize_rows(graph @ normalize_rows(np.asarray(vectors, dtype=np.float32)))


@on_one_thread
def merge_tags(enhanced: np.ndarray, eps: float, min_samples: int = 1) -> np.ndarray:
    """Merge tags into concepts: DBSCAN over the enhanced vectors, with cosine distance.

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
        of their own. Clusters are found block by block, without a list of all pairs.

    Examples
    --------
    >>> import numpy as np
    >>> from skwsdhq.tags import merge_tags
    >>> merge_tags(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), eps=0.1)
    array([0, 1, 0])
    """
    n_tags = len(enhanced)
    if eps <= 0 or n_tags < 2:
        return np.arange(n_tags)
    unit = normalize_rows(np.asarray(enhanced))
    least = 1 - float(eps)
    if min_samples == 1:
        # Equal vectors are one concept whatever else: look for neighbours of one of each.
        first, same = _equal_rows(unit)
        if len(first) < n_tags:
            return merge_tags(unit[first], eps)[same] if len(first) > 1 else np.zeros_like(same)
    core = np.ones(n_tags, dtype=bool)  # with min_samples=1 every tag is
    if min_samples > 1:
        n_near = np.ones(n_tags, dtype=np.int64)
        for i, j, _ in _pairs(unit, least):
            n_near += np.bincount(i, minlength=n_tags) + np.bincount(j, minlength=n_tags)
        core = n_near >= min_samples
    labels = _components(unit, least, core)
    if not core.all():
        labels = _with_borders(labels, unit, least, core)
    # Numbered in the order of their first tag, so that the same tags give the same concepts.
    _, first, labels = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[labels]


def _with_borders(
    labels: np.ndarray, unit: np.ndarray, least: float, core: np.ndarray
) -> np.ndarray:
    """Return labels (T,) in which others joined the first cluster with a core point near them."""
    n_tags = len(labels)
    cluster = np.full(n_tags, n_tags)
    for i, j, _ in _pairs(unit, least):
        for inner, outer in ((i, j), (j, i)):
            border = core[inner] & ~core[outer]
            np.minimum.at(cluster, outer[border], labels[inner[border]])
    return np.where(~core & (cluster < n_tags), cluster, labels)


def _equal_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first row of each group of equal ones, in order, and the group of each row."""
    numbers: dict[bytes, int] = {}
    group = np.array([numbers.setdefault(row.tobytes(), len(numbers)) for row in rows], np.int64)
    return np.unique(group, return_index=True)[1], group


def _components(unit: np.ndarray, least: float, core: np.ndarray) -> np.ndarray:
    """Return the first member (T,) of each row's component, by pairs of core rows that are near.

    Pairs are forgotten as soon as they have joined two components: of T rows that are all near
    each other, T² pairs are never held.
    """
    labels = np.arange(len(unit))
    waiting: list[np.ndarray] = []
    n_waiting = 0
    for i, j, _ in _pairs(unit, least):
        both = core[i] & core[j]
        ends = labels[np.stack([i[both], j[both]])]
        ends = ends[:, ends[0] != ends[1]]
        waiting.append(ends)
        n_waiting += ends.shape[1]
        if n_waiting > _PAIRS_AT_ONCE:
            labels, waiting, n_waiting = _join(labels, waiting), [], 0
    return _join(labels, waiting)


def _join(labels: np.ndarray, pairs: list[np.ndarray]) -> np.ndarray:
    """Return labels (T,) after more pairs; a component goes by its first member."""
    if not pairs:
        return labels
    i, j = np.concatenate(pairs, axis=1)
    n = len(labels)
    edges = sparse.coo_array((np.ones(len(i), dtype=bool), (i, j)), shape=(n, n))
    _, component = connected_components(edges, directed=False)
    first = np.full(n, n)
    np.minimum.at(first, component, np.arange(n))
    return first[component][labels]


def concept_vectors(enhanced: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the normalised mean of the members of each concept.

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

    Examples
    --------
    >>> import numpy as np
    >>> from skwsdhq.tags import concept_vectors
    >>> concept_vectors(np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), np.array([0, 1, 1]))
    array([[1., 0.],
           [0., 1.]])
    """
    return spherical_mean(enhanced, labels, int(labels.max(initial=-1)) + 1)
