"""Query expansion: a query joined by what it finds first.

What comes first in a ranking mostly belongs to what was looked for. A query moved half of the way
to the mean of its first k results then ranks by what they have in common (Chum et al., Total
recall, ICCV 2007), here by codes alone.
"""

from typing import Any

import numpy as np

from ..codebooks import decode
from ..sphere import normalize_rows
from ..utils.validation import check_whole
from ._index import CodeIndex

__all__ = ["expand_queries", "joined"]

_BLOCK = 1024  # queries whose results are decoded at once


def expand_queries(
    queries: np.ndarray, index: CodeIndex, n_expansion: Any, **options: Any
) -> np.ndarray:
    """Return queries (q, D), each joined by the mean of its first results.

    Parameters
    ----------
    queries : ndarray of shape (q, D)
    index : CodeIndex
        Whose ids are the numbers of its rows.
    n_expansion : int
        Results of each query; 0 leaves queries as they are.
    **options
        As for :meth:`CodeIndex.search`: which rows may join.
    """
    n_expansion = check_whole("n_expansion", n_expansion, 0)
    if not n_expansion:
        return queries
    similarities, near = index.search(queries, n_expansion, **options)
    found = np.empty_like(queries)
    for start in range(0, len(queries), _BLOCK):
        block = slice(start, start + _BLOCK)
        is_there = np.isfinite(similarities[block])
        rows = np.where(is_there, near[block], 0)
        # A query may be alone: one of an index whose rows are all left out.
        decoded = decode(index.codes[rows.ravel()], index.codebooks)
        shape = *rows.shape, decoded.shape[1]
        found[block] = joined(queries[block], decoded.reshape(shape), is_there)
    return found


def joined(queries: np.ndarray, decoded: np.ndarray, is_there: np.ndarray) -> np.ndarray:
    """Return queries (q, D) joined by the mean direction of rows (q, k, D), as long as they were.

    ``is_there`` (q, k) tells rows from what fills a query that has found fewer.
    """
    units = normalize_rows(decoded.reshape(-1, decoded.shape[2])).reshape(decoded.shape)
    counts = np.maximum(is_there.sum(axis=1, keepdims=True), 1)
    means = np.einsum("qkd,qk->qd", units, is_there.astype(units.dtype)) / counts
    lengths = np.linalg.norm(queries, axis=1, keepdims=True)
    both = normalize_rows(normalize_rows(queries) + means.astype(queries.dtype))
    return both * lengths.astype(queries.dtype)
