"""Search over codes that a cluster holds: an index for each chunk, their best rows merged."""

from typing import Any

import numpy as np

from ..search import CodeIndex
from ..search.checks import check_codebooks, check_embeddings, check_k
from ..search.topk import order_rows_by_score
from ._chunks import computed, of_dask, quiet, rows_of, shared, with_known_rows

__all__ = ["PartitionedIndex"]


class PartitionedIndex:
    """Search exactly among codes in partitions, as one :class:`~skwsdhq.search.CodeIndex` does.

    Each chunk becomes an index of its own, which stays with a worker; queries go to all of them,
    and the k best rows of each come back and are merged. Similarities, and the order of rows of
    equal ones, are those of one index of all codes.

    Parameters
    ----------
    codebooks : array-like of shape (M, K, D)
        As ``codebooks_`` of a quantizer.
    codes : dask.array of shape (n, M)
        In chunks of known sizes, as :func:`skwsdhq.dask.encode` gives them.

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

    def __init__(self, codebooks: Any, codes: Any) -> None:
        dask = of_dask("dask")
        codes = with_known_rows(rows_of(codes, "codes"), "codes")
        self._codebooks = check_codebooks(codebooks)
        sizes = [int(size) for size in codes.chunks[0]]
        held, build = shared(self._codebooks), dask.delayed(CodeIndex, pure=False)
        blocks = codes.to_delayed()[:, 0]
        parts = [build(held, block) for block, size in zip(blocks, sizes, strict=True) if size]
        self._starts = np.concatenate([[0], np.cumsum([size for size in sizes if size])])
        # Where there is a cluster its workers make them now, and keep them.
        with quiet():
            self._parts = list(dask.persist(*parts))

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
        held, work = shared(queries), of_dask("dask").delayed(_best, pure=False)
        found = computed(*(work(part, held, k) for part in self._parts))
        similarities = np.concatenate([values for values, _ in found], axis=1)
        places = zip(found, self._starts[:-1], strict=True)
        rows = np.concatenate([own + start for (_, own), start in places], axis=1)
        # Partitions stand in the order of their rows, and so do equals within each.
        best = order_rows_by_score(similarities)[:, :k]
        return np.take_along_axis(similarities, best, 1), np.take_along_axis(rows, best, 1)


def _best(index: CodeIndex, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    return index.search(queries, k)
