"""How good a ranking is: relevance by shared labels, average precision, precision and recall."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ._metrics_precision import (
    NORMALIZERS,
    TIES,
    ZERO_RELEVANCE,
    average_precision,
    check_choice,
    check_top_k,
    expected_average_precision,
    ranked_average_precision,
    tie_groups,
)
from ._metrics_relevance import Relevance, relate
from ._search_topk import top_k as _top_k
from .search import CodeIndex

__all__ = ["average_precision", "mean_average_precision"]

# Scores held at once: 2**24 float32 are 64 MB.
_BLOCK_SCORES = 2**24


@dataclass
class _Block:
    """Rankings of B queries, R rows deep."""

    queries: slice
    relevance: np.ndarray  # (B, R) bool
    totals: np.ndarray | None  # (B,) relevant rows in the database, where asked for
    similarities: np.ndarray  # (B, R)
    # With ties: size and hits of all rows, within R and past it, that are as similar as the last.
    last_group: np.ndarray | None  # (B, 2)


def mean_average_precision(
    queries: Any,
    database: Any,
    query_labels: Any,
    database_labels: Any,
    *,
    top_k: int | None = 5000,
    normalizer: str = "retrieved",
    zero_relevance: str = "skip",
    ties: str = "index",
    exclude_self: bool = False,
    sample_weight: Any = None,
) -> float:
    """Mean over the queries of the average precision of their first R rows, mAP@R.

    A row is relevant to a query when it shares at least one label with it.

    Parameters
    ----------
    queries : array-like of shape (q, D)
        Embeddings.
    database : array-like of shape (n, D) or CodeIndex
        Embeddings, compared by inner product, or codes, compared by the inner product of the exact
        query with the decoded row (asymmetric).
    query_labels, database_labels : array-like, sparse matrix or list of collections
        Labels of the q queries and the n rows, both in the same form: 0/1 indicators (rows, L),
        dense or sparse; one class a row; or a list of strings a row.
    top_k : int, default=5000
        R; more than n is n, None is n.
    normalizer : {"retrieved", "relevant", "min"}, default="retrieved"
        What a query's sum of precisions is divided by: its relevant rows within R, all its
        relevant rows, or the smaller of R and all of them.
    zero_relevance : {"skip", "zero"}, default="skip"
        Whether queries for which that number is 0 are left out or count 0.
    ties : {"index", "expected"}, default="index"
        Rows of equal similarity in order of row number, or the expected value over their random
        orders. Short codes tie all the time.
    exclude_self : bool, default=False
        Query i is row i of the database and is left out of its own ranking.
    sample_weight : array-like of shape (q,), default=None
        Weights of the queries in the mean.

    Returns
    -------
    float
        From 0 to 1; 0 with a warning when no query counts.

    See Also
    --------
    average_precision : The formula, with its sources.
    ranking_scores : Several scores from one pass.

    Examples
    --------
    >>> import numpy as np
    >>> database = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    >>> labels = [["cat"], ["dog"], ["cat", "grass"]]
    >>> mean_average_precision(np.array([[1.0, 0.0]]), database, [["cat"]], labels)
    0.8333...
    """
    check_choice(normalizer, NORMALIZERS, "normalizer")
    check_choice(zero_relevance, ZERO_RELEVANCE, "zero_relevance")
    check_choice(ties, TIES, "ties")
    relation = _relate(queries, database, query_labels, database_labels, exclude_self)
    weights = _check_weights(sample_weight, relation.n_queries)
    values = np.full(relation.n_queries, np.nan)
    needs_totals = normalizer != "retrieved"
    for block in _rank(queries, database, relation, top_k, exclude_self, needs_totals, ties):
        values[block.queries] = _block_average_precision(block, normalizer, ties)
    return _weighted_mean(values, weights, zero_relevance, "Mean average precision")


def _block_average_precision(block: _Block, normalizer: str, ties: str) -> np.ndarray:
    """AP of each ranking of a block, NaN where the normaliser is 0."""
    totals = np.zeros(len(block.relevance)) if block.totals is None else block.totals
    if ties == "index":
        return ranked_average_precision(block.relevance, totals, normalizer)
    assert block.last_group is not None
    values = np.empty(len(block.relevance))
    for b, (relevance, scores) in enumerate(zip(block.relevance, block.similarities, strict=True)):
        sizes, hits = tie_groups(relevance, scores)
        if len(sizes):
            sizes[-1], hits[-1] = block.last_group[b]
        values[b] = expected_average_precision(
            sizes, hits, block.relevance.shape[1], int(totals[b]), normalizer
        )
    return values


def _weighted_mean(
    values: np.ndarray, weights: np.ndarray | None, zero_relevance: str, name: str
) -> float:
    """Mean of the values that count; NaN marks queries without a relevant row."""
    if zero_relevance == "zero":
        values = np.nan_to_num(values, nan=0.0)
    counted = ~np.isnan(values)
    weights = np.ones(len(values)) if weights is None else weights
    total = weights[counted].sum()
    if total > 0:
        return float((values[counted] * weights[counted]).sum() / total)
    import warnings

    from sklearn.exceptions import UndefinedMetricWarning

    warnings.warn(
        f"{name} is set to 0.0: no query with a weight has a relevant row.",
        UndefinedMetricWarning,
        stacklevel=3,
    )
    return 0.0


def _relate(
    queries: Any, database: Any, query_labels: Any, database_labels: Any, exclude_self: bool
) -> Relevance:
    """Relevance by labels, with the lengths of everything checked."""
    relation = relate(query_labels, database_labels)
    n_queries, n_rows = len(queries), len(database)
    if relation.n_queries != n_queries:
        raise ValueError(
            f"query_labels have {relation.n_queries} rows but queries have {n_queries}."
        )
    if relation.n_rows != n_rows:
        raise ValueError(f"database_labels have {relation.n_rows} rows but database has {n_rows}.")
    if exclude_self and n_queries != n_rows:
        raise ValueError(
            f"exclude_self=True takes query i for row i, but there are {n_queries} queries and "
            f"{n_rows} rows."
        )
    return relation


def _check_weights(sample_weight: Any, n_queries: int) -> np.ndarray | None:
    if sample_weight is None:
        return None
    weights = np.asarray(sample_weight, dtype=np.float64)
    if weights.shape != (n_queries,):
        raise ValueError(f"sample_weight should have shape ({n_queries},); got {weights.shape}.")
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError("sample_weight should be finite and not negative.")
    return weights


def _rank(
    queries: Any,
    database: Any,
    relation: Relevance,
    top_k: int | None,
    exclude_self: bool,
    needs_totals: bool,
    ties: str,
) -> Iterator[_Block]:
    """Rank the database for blocks of queries; queries × database is never held at once."""
    depth = check_top_k(top_k, relation.n_rows)
    depth = min(depth, max(relation.n_rows - exclude_self, 0))
    ranked = _rank_codes if isinstance(database, CodeIndex) else _rank_embeddings
    for block, similarities, rows, tied_rows in ranked(queries, database, depth, exclude_self):
        numbers = np.arange(block.start, block.stop)
        relevance = relation.of_ranked(numbers, rows)
        totals = relation.totals(numbers) if needs_totals else None
        if totals is not None and exclude_self:
            totals = totals - [relation.mask(i)[i] for i in numbers]
        last_group = None
        if ties == "expected":
            last_group = np.zeros((len(rows), 2), dtype=np.int64)
            if depth:
                for b, tied in enumerate(tied_rows()):
                    tied = tied[tied != numbers[b]] if exclude_self else tied
                    hits = relation.of_ranked(numbers[b : b + 1], tied[None])
                    last_group[b] = len(tied), np.count_nonzero(hits)
        yield _Block(block, relevance, totals, similarities, last_group)


def _rank_codes(
    queries: Any, index: CodeIndex, depth: int, exclude_self: bool
) -> Iterator[tuple[slice, np.ndarray, np.ndarray, Any]]:
    """Similarities, rows, and a function that gives for each query of the block all rows, within
    R and past it, that are exactly as similar as its last."""
    queries = index._check_embeddings(queries)
    excluded = np.arange(len(queries))[:, None] if exclude_self else None
    for block, tables, similarities, rows in index._rank(queries, depth, excluded):
        yield block, similarities, rows, partial(index._tied_rows, tables, similarities[:, -1:])


def _rank_embeddings(
    queries: Any, database: Any, depth: int, exclude_self: bool
) -> Iterator[tuple[slice, np.ndarray, np.ndarray, Any]]:
    """As `_rank_codes`, for a database of embeddings."""
    queries = _check_embeddings(queries, "queries")
    database = _check_embeddings(database, "database")
    if queries.shape[1] != database.shape[1]:
        raise ValueError(
            f"queries have {queries.shape[1]} dimensions but database has {database.shape[1]}."
        )
    if queries.dtype != database.dtype:
        queries, database = queries.astype(np.float64), database.astype(np.float64)
    size = int(np.clip(_BLOCK_SCORES // max(len(database), 1), 1, 1024))
    for start in range(0, len(queries), size):
        block = slice(start, min(start + size, len(queries)))
        scores = queries[block] @ database.T  # (B, n)
        if exclude_self:
            numbers = np.arange(block.start, block.stop)
            scores[numbers - block.start, numbers] = -np.inf  # last, and depth is at most n - 1
        rows = np.empty((len(scores), depth), dtype=np.int64)
        for b, row_scores in enumerate(scores):
            rows[b] = _top_k(row_scores, depth)
        similarities = np.take_along_axis(scores, rows, axis=1)
        yield block, similarities, rows, partial(_tied_columns, scores, similarities[:, -1:])


def _tied_columns(scores: np.ndarray, values: np.ndarray) -> list[np.ndarray]:
    """For each row of scores (B, n) the columns that equal its value (B, 1)."""
    return [np.flatnonzero(equal) for equal in scores == values]


def _check_embeddings(embeddings: Any, name: str) -> np.ndarray:
    array = np.asarray(embeddings)
    if array.ndim != 2:
        raise ValueError(f"{name} should have shape (rows, D); got {array.shape}.")
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} should be numbers; got dtype {array.dtype}.")
    if array.dtype != np.float32:
        array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} contains NaN or infinity.")
    return array
