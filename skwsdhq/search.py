"""Search over codes: look-up tables, exact ranking, an index to keep them in."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ._search_engines import BucketEngine, Engine, NumpyEngine, score_codes

__all__ = ["CodeIndex", "lookup_table"]


def lookup_table(embeddings: np.ndarray, codebooks: np.ndarray) -> np.ndarray:
    """Inner products of embeddings with every codeword.

    The similarity of an embedding and a code is the sum of M entries, one a codebook: the inner
    product with the decoded code [1]_.

    Parameters
    ----------
    embeddings : ndarray of shape (q, D)
    codebooks : ndarray of shape (M, K, D)

    Returns
    -------
    ndarray of shape (q, M, K)
        In the common float dtype of both.

    References
    ----------
    .. [1] Jegou, Douze and Schmid, "Product Quantization for Nearest Neighbor Search", 2011,
       section III; Babenko and Lempitsky, "Additive Quantization", 2014, equation 8.

    Examples
    --------
    >>> import numpy as np
    >>> codebooks = np.array([[[1.0, 0.0], [0.0, 1.0]], [[0.5, 0.5], [-0.5, 0.5]]])
    >>> lookup_table(np.array([[2.0, 1.0]]), codebooks)
    array([[[ 2. ,  1. ],
            [ 1.5, -0.5]]])
    """
    embeddings, codebooks = np.asarray(embeddings), np.asarray(codebooks)
    if codebooks.ndim != 3:
        raise ValueError(f"codebooks should have shape (M, K, D); got {codebooks.shape}.")
    if embeddings.ndim != 2 or embeddings.shape[1] != codebooks.shape[2]:
        raise ValueError(
            f"embeddings should have shape (q, D={codebooks.shape[2]}), the D of the codebooks; "
            f"got {embeddings.shape}."
        )
    n_codebooks, n_codewords, n_dims = codebooks.shape
    # for q: for m: for k: table[q, m, k] = embeddings[q] @ codebooks[m, k]
    table = embeddings @ codebooks.reshape(-1, n_dims).T
    return table.reshape(len(embeddings), n_codebooks, n_codewords)


class CodeIndex:
    """Exact search among codes; see `search`."""

    def __init__(
        self,
        codebooks: np.ndarray,
        codes: np.ndarray,
        *,
        ids: Any = None,
        engine: str = "auto",
        n_jobs: int | None = None,
    ) -> None:
        self.codebooks = np.array(codebooks, dtype=np.float32, order="C")
        self.codes = np.array(codes, order="C")
        self.ids = np.arange(len(codes)) if ids is None else np.array(ids)
        self.engine = engine
        self.n_jobs = n_jobs
        self._engine: Engine | None = None

    def __len__(self) -> int:
        return len(self.codes)

    def _columns(self) -> np.ndarray:
        return np.ascontiguousarray(self.codes.T)

    def _get_engine(self) -> Engine:
        if self._engine is None:
            few = self.codebooks.shape[1] ** self.codebooks.shape[0] <= 2**16
            self._engine = (
                BucketEngine(self._columns(), self.codebooks.shape[1])
                if few and len(self)
                else NumpyEngine(self._columns())
            )
        return self._engine

    def _rank(
        self, embeddings: np.ndarray, k: int, excluded_rows: np.ndarray | None = None
    ) -> Iterator[tuple[slice, np.ndarray, np.ndarray, np.ndarray]]:
        """Blocks of queries with their tables (B, M, K), similarities and rows (B, k)."""
        k = min(k, len(self) - (excluded_rows is not None))
        for start in range(0, len(embeddings), 256):
            block = slice(start, min(start + 256, len(embeddings)))
            tables = lookup_table(embeddings[block].astype(np.float32), self.codebooks)
            if excluded_rows is None:
                yield block, tables, *self._get_engine().search(tables, k)
                continue
            similarities, rows = self._get_engine().search(tables, k + 1)
            kept = rows != excluded_rows[block, None]
            kept[kept.all(axis=1), -1] = False  # not among the first: drop the last instead
            yield block, tables, similarities[kept].reshape(-1, k), rows[kept].reshape(-1, k)

    def _similarities(self, table: np.ndarray) -> np.ndarray:
        """Similarities of every row to one query, float32 (n,); table is (M, K)."""
        return score_codes(table, self._columns())

    def search(
        self, embeddings: np.ndarray, k: int, *, exclude_self: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Similarities (q, k) and ids (q, k) of the k nearest codes of each embedding."""
        excluded = np.arange(len(embeddings)) if exclude_self else None
        k = max(min(k, len(self) - exclude_self), 0)
        similarities = np.zeros((len(embeddings), k), dtype=np.float32)
        rows = np.zeros((len(embeddings), k), dtype=np.int64)
        for block, _, values, found in self._rank(embeddings, k, excluded):
            similarities[block], rows[block] = values, found
        return similarities, self.ids[rows]
