"""Rankings of an index, block after block: what measures of a whole ranking are made from."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from ._index import CodeIndex
from .checks import check_embeddings

__all__ = ["rank_blocks"]


def rank_blocks(
    index: CodeIndex, queries: Any, k: int, *, exclude_self: bool = False
) -> Iterator[tuple[slice, np.ndarray, np.ndarray, Callable[[], list[np.ndarray]]]]:
    """Rank the rows of an index for blocks of queries; never hold queries × rows at once.

    Parameters
    ----------
    index : CodeIndex
        Ranked as it is when the first block is asked for, whatever other threads add meanwhile.
    queries : array-like of shape (q, D)
    k : int
        Rows to rank, at most those that are there.
    exclude_self : bool, default=False
        Query i is row i, and leaves it out.

    Yields
    ------
    block : slice
        The queries that follow, B of them.
    similarities, rows : ndarray of shape (B, k)
        The nearest first; row numbers, whatever ids the index has.
    tied_rows : callable
        Returns for each query of the block all rows, among the k and beyond, that are exactly as
        similar as its last one. A scan of its own, so that only who needs it pays.
    """
    rows_now, engine = index._rows, index.engine
    queries = check_embeddings(queries, rows_now.codebooks.shape[2])
    excluded = np.arange(len(queries))[:, None] if exclude_self else None
    ranked = rows_now.rank(queries, k, excluded, engine=engine, n_jobs=index.n_jobs)
    for block, tables, similarities, rows in ranked:
        tied_rows = partial(rows_now.tied_rows, tables, similarities[:, -1:], engine)
        yield block, similarities, rows, tied_rows
