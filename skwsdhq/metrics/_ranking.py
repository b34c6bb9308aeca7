"""Rankings of a database for blocks of queries, and what is counted in them."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..search import CodeIndex
from ..search.ranking import rank_blocks as rank_codes
from ..search.topk import top_k as _top_k
from ..utils.validation import as_numbers, check_finite, check_whole
from ..utils.warn import warn_caller
from ._precision import (
    check_top_k,
    expected_average_precision,
    ranked_average_precision,
    tie_groups,
)
from ._relevance import Relevance, relate

__all__ = [
    "Block",
    "block_average_precision",
    "block_precision_recall",
    "check_cuts",
    "check_levels",
    "check_weights",
    "interpolate_precision",
    "rank_blocks",
    "relate_rows",
    "warn_undefined",
    "weighted_mean",
]

# Scores held at once: 2**25 float32 are 128 MB. Products of many queries are faster.
_BLOCK_SCORES = 2**25
# Places ranked at once, few enough for the arrays of what follows to stay in cache.
_BLOCK_RANKED = 2**17


@dataclass
class Block:
    """Hold the rankings of B queries, R rows deep."""

    queries: slice
    relevance: np.ndarray  # (B, R) bool
    totals: np.ndarray | None  # (B,) relevant rows in the database, where asked for
    similarities: np.ndarray  # (B, R)
    # With ties: size and hits of all rows, within R and past it, that are as similar as the last.
    last_group: np.ndarray | None  # (B, 2)


def relate_rows(
    queries: Any, database: Any, query_labels: Any, database_labels: Any, exclude_self: bool
) -> Relevance:
    """Relate rows by labels; check the lengths of everything."""
    relation = relate(query_labels, database_labels)
    n_queries, n_rows = len(queries), len(database)
    if relation.n_queries != n_queries:
        raise ValueError(
            f"query_labels have {relation.n_queries} rows but queries have {n_queries}."
        )
    if relation.n_rows != n_rows:
        raise ValueError(f"database_labels have {relation.n_rows} rows but database has {n_rows}.")
    # Query i is row i: without as many of each that can't be meant.
    if exclude_self and n_queries != n_rows:
        raise ValueError(
            f"exclude_self=True takes query i for row i, but there are {n_queries} queries and "
            f"{n_rows} rows."
        )
    return relation


def check_weights(sample_weight: Any, n_queries: int) -> np.ndarray | None:
    """Return the weights (q,) of queries, or None."""
    if sample_weight is None:
        return None
    weights = np.asarray(sample_weight, dtype=np.float64)
    if weights.shape != (n_queries,):
        raise ValueError(f"sample_weight should have shape ({n_queries},); got {weights.shape}.")
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError("sample_weight should be finite and not negative.")
    return weights


def check_cuts(k: Any) -> np.ndarray:
    """Return ranks k as an integer array of their own shape."""
    cuts = np.asarray(k)
    # An empty list has no largest k, so no ranking to make.
    if cuts.dtype.kind not in "iu" or not cuts.size:
        raise TypeError(f"k={k!r} should be an integer or a list of integers.")
    if cuts.min() < 1:
        raise ValueError(f"k={cuts.min()} should be at least 1.")
    return cuts.astype(np.int64)


def check_levels(recall_levels: Any, ties: str) -> np.ndarray | None:
    """Return recall levels as an array, or None."""
    if recall_levels is None:
        return None
    if ties == "expected":
        raise ValueError('ties="expected" has no closed form with recall_levels; leave one out.')
    if isinstance(recall_levels, int | np.integer) and not isinstance(recall_levels, bool):
        return np.linspace(0, 1, check_whole("recall_levels", recall_levels, 2))
    levels = np.asarray(recall_levels, dtype=np.float64)
    if levels.ndim != 1 or not ((levels >= 0) & (levels <= 1)).all():
        raise ValueError(f"recall_levels={recall_levels!r} should be levels from 0 to 1.")
    return levels


def _check_embeddings(embeddings: Any, name: str) -> np.ndarray:
    """Return embeddings (rows, D) as float32 or float64."""
    array = as_numbers(name, embeddings, "(rows, D)")
    if array.dtype != np.float32:
        array = array.astype(np.float64)
    return check_finite(name, array, verb="contains")


def rank_blocks(
    queries: Any,
    database: Any,
    relation: Relevance,
    top_k: int | None,
    exclude_self: bool,
    needs_totals: bool,
    ties: str,
) -> Iterator[Block]:
    """Rank the database for blocks of queries; queries × database is never held at once."""
    depth = check_top_k(top_k, relation.n_rows)
    # A query that leaves itself out has one row fewer to rank.
    depth = min(depth, max(relation.n_rows - exclude_self, 0))
    if isinstance(database, CodeIndex):
        ranked = rank_codes(database, queries, depth, exclude_self=exclude_self)
    else:
        ranked = _rank_embeddings(queries, database, depth, exclude_self)
    for block, similarities, rows, tied_rows in ranked:
        numbers = np.arange(block.start, block.stop)
        relevance = relation.of_ranked(numbers, rows)
        totals = relation.totals(numbers) if needs_totals else None
        if totals is not None and exclude_self:
            totals = totals - relation.of_ranked(numbers, numbers[:, None])[:, 0]
        last_group = None
        if ties == "expected":
            last_group = np.zeros((len(rows), 2), dtype=np.int64)
            if depth:
                for b, tied in enumerate(tied_rows()):
                    # A query that is left out of its own ranking does not tie in it either.
                    tied = tied[tied != numbers[b]] if exclude_self else tied
                    hits = relation.of_ranked(numbers[b : b + 1], tied[None])
                    last_group[b] = len(tied), np.count_nonzero(hits)
        yield Block(block, relevance, totals, similarities, last_group)


def _rank_embeddings(
    queries: Any, database: Any, depth: int, exclude_self: bool
) -> Iterator[tuple[slice, np.ndarray, np.ndarray, Any]]:
    """Do what `skwsdhq.search.ranking.rank_blocks` does, for a database of embeddings."""
    queries = _check_embeddings(queries, "queries")
    database = _check_embeddings(database, "database")
    if queries.shape[1] != database.shape[1]:
        raise ValueError(
            f"queries have {queries.shape[1]} dimensions but database has {database.shape[1]}."
        )
    # One dtype for both: the scores of all blocks share one room of it.
    if queries.dtype != database.dtype:
        queries, database = queries.astype(np.float64), database.astype(np.float64)
    size = int(np.clip(_BLOCK_SCORES // max(len(database), 1), 1, 1024))
    n_ranked = int(np.clip(_BLOCK_RANKED // max(depth, 1), 1, size))
    # One room for the scores of all blocks: fresh memory costs as much as a product in few
    # dimensions.
    room = np.empty((min(size, len(queries)), len(database)), dtype=database.dtype)
    for first in range(0, len(queries), size):
        product = room[: min(size, len(queries) - first)]
        np.matmul(queries[first : first + size], database.T, out=product)  # (B, n)
        for start in range(first, first + len(product), n_ranked):
            block = slice(start, min(start + n_ranked, first + len(product)))
            scores = product[start - first : block.stop - first]
            if exclude_self:
                numbers = np.arange(block.start, block.stop)
                scores[numbers - start, numbers] = -np.inf  # last, and depth is at most n - 1
            # One query at a time: sorting few rows of each beats sorting all rows of all.
            rows = np.empty((len(scores), depth), dtype=np.int64)
            similarities = np.empty((len(scores), depth), dtype=scores.dtype)
            for b, row_scores in enumerate(scores):
                rows[b] = _top_k(row_scores, depth)
                similarities[b] = row_scores.take(rows[b])
            yield block, similarities, rows, partial(_tied_columns, scores, similarities[:, -1:])


def _tied_columns(scores: np.ndarray, values: np.ndarray) -> list[np.ndarray]:
    """Return for each row of scores (B, n) the columns that equal its value (B, 1)."""
    return [np.flatnonzero(equal) for equal in scores == values]


def block_average_precision(block: Block, depth: int, normalizer: str, ties: str) -> np.ndarray:
    """Return the AP of the first rows of each ranking of a block, NaN where N is 0."""
    depth = min(depth, block.relevance.shape[1])
    totals = np.zeros(len(block.relevance)) if block.totals is None else block.totals
    if ties == "index":
        return ranked_average_precision(block.relevance[:, :depth], totals, normalizer)
    values = np.empty(len(block.relevance))
    for b, (sizes, hits) in enumerate(_block_tie_groups(block)):
        values[b] = expected_average_precision(sizes, hits, depth, int(totals[b]), normalizer)
    return values


def block_precision_recall(
    block: Block, cuts: np.ndarray, ties: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return precision and recall (B, len(cuts)) at cuts, NaN for queries without relevant rows."""
    assert block.totals is not None
    n_queries, depth = block.relevance.shape
    cuts = np.minimum(cuts, depth)
    if ties == "index":
        found = np.zeros((n_queries, depth + 1))
        np.cumsum(block.relevance, axis=1, out=found[:, 1:])
        found = found[:, cuts]
    else:
        # Among equal rows in random order relevant ones come evenly: the mean number found is
        # linear in the rank from one group's end to the next.
        found = np.empty((n_queries, len(cuts)))
        for b, (sizes, hits) in enumerate(_block_tie_groups(block)):
            ends = np.concatenate([[0], np.cumsum(sizes)])
            found[b] = np.interp(cuts, ends, np.concatenate([[0], np.cumsum(hits)]))
    # NaN runs through every sum, and `weighted_mean` decides whether such queries count.
    totals = np.where(block.totals > 0, block.totals, np.nan)[:, None]
    undefined = np.where(block.totals > 0, 0.0, np.nan)[:, None]
    return found / np.maximum(cuts, 1) + undefined, found / totals


def _block_tie_groups(block: Block) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield sizes and hits of the groups of equal rows of each query, the last one whole."""
    assert block.last_group is not None
    for b, (relevance, scores) in enumerate(zip(block.relevance, block.similarities, strict=True)):
        sizes, hits = tie_groups(relevance, scores)
        # R may cut through the last group: the engine has counted all of its rows.
        if len(sizes):
            sizes[-1], hits[-1] = block.last_group[b]
        yield sizes, hits


def interpolate_precision(
    precision: np.ndarray, recall: np.ndarray, levels: np.ndarray
) -> np.ndarray:
    """Return the highest precision (B, L) at any rank whose recall reaches each level.

    precision, recall : (B, R).  levels : (L,).
    """
    # From the last rank back: best[b, r] is the highest precision from rank r on.
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    best = np.concatenate([best, np.zeros((len(best), 1))], axis=1)
    # for b: for l: best[b, first rank with recall[b] >= levels[l]]
    # A recall of 1/3 may be a last bit below the level that is meant by it.
    first = [np.searchsorted(row, levels - 1e-12) for row in np.nan_to_num(recall)]
    return np.take_along_axis(best, np.array(first).reshape(len(best), -1), axis=1)


def weighted_mean(
    values: np.ndarray, weights: np.ndarray | None, zero_relevance: str, name: str
) -> float:
    """Return the mean of the values that count; NaN marks queries without a relevant row."""
    if zero_relevance == "zero":
        values = np.nan_to_num(values, nan=0.0)
    counted = ~np.isnan(values)
    weights = np.ones(len(values)) if weights is None else weights
    total = weights[counted].sum()
    if total > 0:
        return float((values[counted] * weights[counted]).sum() / total)
    warn_undefined(f"{name} is")
    return 0.0


def warn_undefined(what: str) -> None:
    """Warn that no query counts, as scikit-learn does for an undefined metric."""
    from sklearn.exceptions import UndefinedMetricWarning

    warn_caller(
        f"{what} set to 0.0: no query with a weight has a relevant row.",
        UndefinedMetricWarning,
    )
