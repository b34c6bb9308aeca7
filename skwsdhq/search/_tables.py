"""Look-up tables, and the second look at a shortlist."""

from typing import Any

import numpy as np
import torch
from scipy.linalg.blas import sgemv

from ..utils.validation import as_numbers, check_whole
from ._engines import score_codes

__all__ = [
    "columns_of",
    "finite_products",
    "finite_table",
    "lookup_table",
    "refuse_overflow",
    "rerank",
    "rerank_codes",
    "table_of_one",
]

_ALONE = 2**14  # numbers that torch works on by one thread


def lookup_table(embeddings: np.ndarray, codebooks: np.ndarray) -> np.ndarray:
    """Compute the inner products of embeddings with every codeword.

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
    codebooks = as_numbers("codebooks", codebooks, "(M, K, D)")
    n_codebooks, n_codewords, n_dims = codebooks.shape
    embeddings = as_numbers("embeddings", embeddings, f"(q, D={n_dims})", n_columns=n_dims)
    # for q: for m: for k: table[q, m, k] = embeddings[q] @ codebooks[m, k]
    if len(embeddings) == 1 and embeddings.dtype == codebooks.dtype == np.float32:
        table = table_of_one(embeddings, columns_of(codebooks))
    else:
        table = embeddings @ codebooks.reshape(-1, n_dims).T
    return table.reshape(len(embeddings), n_codebooks, n_codewords)


def finite_table(
    embeddings: np.ndarray, codebooks: np.ndarray, columns: np.ndarray | None = None
) -> np.ndarray:
    """Return the `lookup_table`; raise ValueError if a sum of its entries exceeds float32.

    columns : (D, M · K), the same codewords, by which that of a single embedding is made.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        if columns is not None and len(embeddings) == 1:
            table = table_of_one(embeddings, columns).reshape(1, *codebooks.shape[:2])
        else:
            table = lookup_table(embeddings, codebooks)
        # The largest sum that any code could have: finite, no engine meets an infinity.
        largest = np.maximum(table.max(axis=2), -table.min(axis=2)).sum(axis=1)
    _check_range(largest)
    return table


def columns_of(codebooks: np.ndarray) -> np.ndarray:
    """Return codewords (M, K, D) as columns (D, M · K)."""
    return np.ascontiguousarray(codebooks.reshape(-1, codebooks.shape[2]).T)


def table_of_one(embedding: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the products (1, M · K) of one embedding (1, D) with codewords as columns (D, M · K).

    All searches for one query make its table so: last bits of a product depend on how it is made.
    """
    # numpy would look for overflow, or be told not to, which takes as long as the product of few.
    return sgemv(1.0, columns.T, embedding[0])[None]


def finite_products(embeddings: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Multiply embeddings (q, D) with rows (n, D) to (q, n); raise ValueError beyond float32."""
    with np.errstate(over="ignore", invalid="ignore"):
        products = embeddings @ rows.T
    _check_range(products)
    return products


def _check_range(products: np.ndarray) -> None:
    """Refuse similarities that are beyond float32, and tell the way out."""
    if not np.isfinite(products).all():
        refuse_overflow()


def refuse_overflow() -> None:
    """Raise the error of similarities that are beyond float32."""
    raise ValueError("similarities would exceed float32; scale embeddings or codebooks down.")


def rerank(
    embeddings: np.ndarray, rows: np.ndarray, vectors: Any, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rank a shortlist of rows again, by inner product with exact vectors.

    Parameters
    ----------
    embeddings : ndarray of shape (q, D)
    rows : ndarray of shape (q, s)
        Row numbers for each query; -1 stands for none.
    vectors : array-like of shape (n, D)
        Anything that a 1-D integer array can index, a float16 memory map for instance: only the
        rows of the shortlist are read.
    k : int
        More than s is s.

    Returns
    -------
    similarities : ndarray of shape (q, min(k, s))
        float32, descending; -inf where there is no row.
    rows : ndarray of shape (q, min(k, s))
        Smaller row first among equals; -1 where there is none.

    Examples
    --------
    >>> import numpy as np
    >>> vectors = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]], dtype=np.float16)
    >>> similarities, rows = rerank(np.array([[0.0, 1.0]]), np.array([[0, 2, 1]]), vectors, 2)
    >>> rows
    array([[1, 2]])
    """
    embeddings, rows = np.asarray(embeddings, dtype=np.float32), np.asarray(rows)
    if embeddings.ndim != 2 or rows.ndim != 2 or len(rows) != len(embeddings):
        raise ValueError(
            f"embeddings (q, D) and rows (q, s) should have one q; got {embeddings.shape} and "
            f"{rows.shape}."
        )
    k = check_whole("k", k)

    def exact(q: int, found: np.ndarray) -> np.ndarray:
        # Not a matrix product: its last bits would depend on what else is in the shortlist.
        return np.einsum("sd,d->s", _as_single(vectors[found]), embeddings[q])

    return _rank_shortlists(rows, exact, k)


def _as_single(rows: Any) -> np.ndarray:
    """Return rows as float32."""
    rows = np.asarray(rows)
    if rows.dtype != np.float16:
        return np.asarray(rows, dtype=np.float32)
    # numpy takes seven times as long as torch, which uses several threads for more than a part.
    single = np.empty(rows.shape, np.float32)
    step = max(1, _ALONE // max(1, rows.shape[1]))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        # A copy, since torch warns of arrays that can't be written to.
        torch.from_numpy(single[part]).copy_(torch.from_numpy(np.array(rows[part])))
    return single


def rerank_codes(
    tables: np.ndarray, rows: np.ndarray, codes: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rank again as `rerank` does, by whole codes: tables (q, M, K), rows (q, s), codes (n, M)."""
    return _rank_shortlists(rows, lambda q, found: score_codes(tables[q], codes[found].T), k)


def _rank_shortlists(rows: np.ndarray, score: Any, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k best rows of each shortlist by ``score(q, rows)``, with their scores."""
    k = min(k, rows.shape[1])
    similarities = np.full((len(rows), k), -np.inf, dtype=np.float32)
    ranked = np.full((len(rows), k), -1, dtype=np.int64)
    for q, shortlist in enumerate(rows):
        found = np.sort(shortlist[shortlist >= 0])  # ascending, so that ties come by row
        scores = score(q, found)
        order = np.argsort(-scores, kind="stable")[:k]
        similarities[q, : len(order)] = scores[order]
        ranked[q, : len(order)] = found[order]
    return similarities, ranked
