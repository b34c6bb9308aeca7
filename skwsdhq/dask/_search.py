"""Search over codes that a cluster holds: indexes of parts of them, their best rows merged."""

from typing import Any

import numpy as np

from ..search import CodeIndex
from ..search.checks import check_codebooks, check_embeddings, check_k
from ..search.topk import order_rows_by_score
from ..utils.validation import check_whole
from ._chunks import computed, n_cluster_threads, of_dask, quiet, rows_of, shared, with_known_rows

__all__ = ["PartitionedIndex"]


class PartitionedIndex:
    """Search exactly among codes in chunks, as one :class:`~skwsdhq.search.CodeIndex` does.

    Workers make indexes of neighbouring chunks, and keep them; queries go to all of them, and the
    k best rows of each come back and are merged. Similarities, and the order of rows of equal ones,
    are those of one index of all codes.

    Parameters
    ----------
    codebooks : array-like of shape (M, K, D)
        As ``codebooks_`` of a quantizer.
    codes : dask.array of shape (n, M)
        In chunks of known sizes, as :func:`skwsdhq.dask.encode` gives them.
    n_indexes : int, default=None
        None is one for each thread of the cluster's workers, and one where there is no cluster:
        the time of a search hardly grows with the rows of an index, but with their number. At most
        one for each chunk.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> from skwsdhq.dask import PartitionedIndex
    >>> codebooks = np.array([[[1.0, 0.0], [0.0, 1.0]]])
    >>> codes = da.from_array(np.array([[0], [1], [0]], dtype=np.uint8), chunks=(2, -1))
    >>> index = PartitionedIndex(codebooks, codes)
    >>> index.search(np.array([[0.6, 0.8]]), k=2)[1]
    array([[1, 0]])
    """

    def __init__(self, codebooks: Any, codes: Any, *, n_indexes: int | None = None) -> None:
        dask = of_dask("dask")
        codes = with_known_rows(rows_of(codes, "codes"), "codes")
        self._codebooks = check_codebooks(codebooks)
        n_threads = n_cluster_threads()
        n = max(1, n_threads) if n_indexes is None else check_whole("n_indexes", n_indexes)
        sizes = np.array(codes.chunks[0], dtype=np.int64)
        blocks = codes.to_delayed()[:, 0]
        held, build = shared(self._codebooks), dask.delayed(_index_of, pure=False)
        # Chunks go to the index in whose share of all rows their middle lies.
        middles = np.cumsum(sizes) - sizes / 2
        share = np.minimum(middles * n // max(sizes.sum(), 1), n - 1)
        groups = [np.flatnonzero((share == i) & (sizes > 0)) for i in range(n)]
        groups = [group for group in groups if len(group)]
        self._starts = np.cumsum([0, *(int(sizes[group].sum()) for group in groups)])
        parts = [build(held, [blocks[i] for i in group]) for group in groups]
        self._is_here = not n_threads
        with quiet():
            # A cluster's workers make them now, and keep them.
            self._parts = list((dask.compute if self._is_here else dask.persist)(*parts))

    def __len__(self) -> int:
        return int(self._starts[-1])

    def search(self, embeddings: Any, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Find the k nearest rows of each embedding.

        Parameters
        ----------
        embeddings : array-like of shape (q, D)
        k : int
            More than there are rows gives as many as there are.

        Returns
        -------
        similarities : ndarray of shape (q, k'), float32
            Descending.
        rows : ndarray of shape (q, k')
            Numbers of rows; of equal similarities the smaller first.
        """
        queries = check_embeddings(embeddings, self._codebooks.shape[2])
        k = min(check_k(k, "k"), len(self))
        if not self._parts or not len(queries):
            return np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        if self._is_here:
            found = tuple(_best(part, queries, k) for part in self._parts)
        else:
            work = of_dask("dask").delayed(_best, pure=False)
            found = computed(*(work(part, queries, k) for part in self._parts))
        if len(found) == 1:
            return found[0]
        similarities = np.concatenate([values for values, _ in found], axis=1)
        places = zip(found, self._starts[:-1], strict=True)
        rows = np.concatenate([own + start for (_, own), start in places], axis=1)
        # Partitions stand in the order of their rows, and so do equals within each.
        best = order_rows_by_score(similarities)[:, :k]
        return np.take_along_axis(similarities, best, 1), np.take_along_axis(rows, best, 1)


def _index_of(codebooks: np.ndarray, blocks: list[np.ndarray]) -> CodeIndex:
    return CodeIndex(codebooks, np.concatenate(blocks))


def _best(index: CodeIndex, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    return index.search(queries, k)
