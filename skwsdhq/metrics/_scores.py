"""How good a ranking is: relevance by shared labels, average precision, precision and recall."""

from typing import Any

import numpy as np

from ..utils.validation import check_choice
from ._precision import (
    NORMALIZERS,
    TIES,
    ZERO_RELEVANCE,
    average_precision,
    check_top_k,
)
from ._ranking import (
    block_average_precision,
    block_precision_recall,
    check_cuts,
    check_levels,
    check_weights,
    interpolate_precision,
    rank_blocks,
    relate_rows,
    warn_undefined,
    weighted_mean,
)

__all__ = [
    "average_precision",
    "mean_average_precision",
    "precision_at_k",
    "precision_recall_curve",
    "ranking_scores",
    "recall_at_k",
]


def mean_average_precision(  # noqa: PLR0913 - options by keyword, as the field has them
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
    """Compute mAP@R, the mean over the queries of the average precision of their first R rows.

    A row is relevant to a query when it shares at least one label with it.

    Parameters
    ----------
    queries : array-like of shape (q, D)
        Embeddings.
    database : array-like of shape (n, D) or CodeIndex
        Embeddings, compared by inner product, or codes, compared by the inner product of the exact
        query with the decoded row (asymmetric). Rows of equal codes tie exactly; equal embeddings
        may differ in the last bit of a matrix product.
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
    check_choice("normalizer", normalizer, NORMALIZERS)
    check_choice("zero_relevance", zero_relevance, ZERO_RELEVANCE)
    check_choice("ties", ties, TIES)
    relation = relate_rows(queries, database, query_labels, database_labels, exclude_self)
    weights = check_weights(sample_weight, relation.n_queries)
    values = np.full(relation.n_queries, np.nan)
    # Counting all relevant rows takes as long as ranking: only two normalisers ask for it.
    needs_totals = normalizer != "retrieved"
    for block in rank_blocks(queries, database, relation, top_k, exclude_self, needs_totals, ties):
        values[block.queries] = block_average_precision(block, relation.n_rows, normalizer, ties)
    return weighted_mean(values, weights, zero_relevance, "Mean average precision")


def precision_at_k(  # noqa: PLR0913 - options by keyword, as the field has them
    queries: Any,
    database: Any,
    query_labels: Any,
    database_labels: Any,
    *,
    k: Any = 10,
    zero_relevance: str = "zero",
    ties: str = "index",
    exclude_self: bool = False,
    sample_weight: Any = None,
) -> float | np.ndarray:
    """Compute the share of relevant rows among the first k, as a mean over the queries.

    Parameters
    ----------
    queries, database, query_labels, database_labels : array-like
        As in `mean_average_precision`.
    k : int or array-like of int, default=10
        More than n is n.
    zero_relevance : {"skip", "zero"}, default="zero"
        Whether queries without a relevant row in the database are left out or count 0.
    ties : {"index", "expected"}, default="index"
    exclude_self : bool, default=False
    sample_weight : array-like of shape (q,), default=None
        As in `mean_average_precision`.

    Returns
    -------
    float, or ndarray of the shape of `k`
        From 0 to 1; 0 with a warning when no query counts.

    Examples
    --------
    >>> import numpy as np
    >>> database = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    >>> precision_at_k(np.array([[1.0, 0.0]]), database, [0], [0, 1, 0], k=[1, 2])
    array([1. , 0.5])
    """
    data = (queries, database, query_labels, database_labels)
    return _scores_at_k("precision", data, k, zero_relevance, ties, exclude_self, sample_weight)


def recall_at_k(  # noqa: PLR0913 - options by keyword, as the field has them
    queries: Any,
    database: Any,
    query_labels: Any,
    database_labels: Any,
    *,
    k: Any = 10,
    zero_relevance: str = "skip",
    ties: str = "index",
    exclude_self: bool = False,
    sample_weight: Any = None,
) -> float | np.ndarray:
    """Compute the share of the relevant rows that are among the first k, as a mean.

    Parameters
    ----------
    queries, database, query_labels, database_labels : array-like
        As in `mean_average_precision`.
    k : int or array-like of int, default=10
        More than n is n.
    zero_relevance : {"skip", "zero"}, default="skip"
        Whether queries without a relevant row in the database are left out or count 0.
    ties : {"index", "expected"}, default="index"
    exclude_self : bool, default=False
    sample_weight : array-like of shape (q,), default=None
        As in `mean_average_precision`.

    Returns
    -------
    float, or ndarray of the shape of `k`
        From 0 to 1; 0 with a warning when no query counts.

    Examples
    --------
    >>> import numpy as np
    >>> database = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    >>> recall_at_k(np.array([[1.0, 0.0]]), database, [0], [0, 1, 0], k=2)
    0.5
    """
    data = (queries, database, query_labels, database_labels)
    return _scores_at_k("recall", data, k, zero_relevance, ties, exclude_self, sample_weight)


def _scores_at_k(
    kind: str,
    data: tuple[Any, Any, Any, Any],
    k: Any,
    zero_relevance: str,
    ties: str,
    exclude_self: bool,
    sample_weight: Any,
) -> float | np.ndarray:
    """Return the mean precision or recall at each k."""
    queries, database, query_labels, database_labels = data
    check_choice("zero_relevance", zero_relevance, ZERO_RELEVANCE)
    check_choice("ties", ties, TIES)
    relation = relate_rows(queries, database, query_labels, database_labels, exclude_self)
    weights = check_weights(sample_weight, relation.n_queries)
    cuts = check_cuts(k)
    values = np.full((relation.n_queries, cuts.size), np.nan)
    depth = int(cuts.max(initial=1))
    for block in rank_blocks(queries, database, relation, depth, exclude_self, True, ties):
        precision, recall = block_precision_recall(block, cuts.ravel(), ties)
        values[block.queries] = precision if kind == "precision" else recall
    # A mean for each k, since k decides which queries' values are defined.
    means = [weighted_mean(v, weights, zero_relevance, f"Mean {kind}") for v in values.T]
    return float(means[0]) if cuts.ndim == 0 else np.array(means).reshape(cuts.shape)


def precision_recall_curve(  # noqa: PLR0913 - options by keyword, as the field has them
    queries: Any,
    database: Any,
    query_labels: Any,
    database_labels: Any,
    *,
    top_k: int | None = None,
    recall_levels: Any = None,
    zero_relevance: str = "skip",
    ties: str = "index",
    exclude_self: bool = False,
    sample_weight: Any = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Compute precision against recall, as a mean over the queries.

    Parameters
    ----------
    queries, database, query_labels, database_labels : array-like
        As in `mean_average_precision`.
    top_k : int, default=None
        Ranks to go through; None is all n.
    recall_levels : int or array-like of float, default=None
        None gives the mean precision and the mean recall at each rank, as papers on codes plot
        them. Levels (a number of equally spaced ones from 0 to 1, or the levels themselves) give
        interpolated precision: the highest at any rank whose recall reaches the level, 0 where
        none does.
    zero_relevance : {"skip", "zero"}, default="skip"
        Whether queries without a relevant row in the database are left out or count 0.
    ties : {"index", "expected"}, default="index"
        ``"expected"`` only without levels.
    exclude_self : bool, default=False
    sample_weight : array-like of shape (q,), default=None
        As in `mean_average_precision`.

    Returns
    -------
    precision, recall : ndarray of shape (R,) or (n_levels,)
        Means over the queries, at each rank or at each level.

    References
    ----------
    .. [1] Manning, Raghavan and Schuetze, "Introduction to Information Retrieval", 2008,
       section 8.4, for interpolated precision.

    Examples
    --------
    >>> import numpy as np
    >>> database = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    >>> precision, recall = precision_recall_curve(
    ...     np.array([[1.0, 0.0]]), database, [0], [0, 1, 0]
    ... )
    >>> precision
    array([1.        , 0.5       , 0.66666667])
    >>> recall
    array([0.5, 0.5, 1. ])
    """
    check_choice("zero_relevance", zero_relevance, ZERO_RELEVANCE)
    check_choice("ties", ties, TIES)
    levels = check_levels(recall_levels, ties)
    relation = relate_rows(queries, database, query_labels, database_labels, exclude_self)
    weights = check_weights(sample_weight, relation.n_queries)
    weights = np.ones(relation.n_queries) if weights is None else weights
    # Curves are summed block by block: one a query of a large database would not fit into memory.
    depth = min(check_top_k(top_k, relation.n_rows), max(relation.n_rows - exclude_self, 0))
    cuts = np.arange(1, depth + 1)
    sums = np.zeros((2, depth if levels is None else len(levels)))
    total = 0.0
    for block in rank_blocks(queries, database, relation, depth or 1, exclude_self, True, ties):
        precision, recall = block_precision_recall(block, cuts, ties)
        assert block.totals is not None
        weight = np.where(block.totals > 0, weights[block.queries], 0.0)
        # With "zero" a query without relevant rows counts, and adds nothing to the sums.
        total += weight.sum() if zero_relevance == "skip" else weights[block.queries].sum()
        if levels is None:
            sums += weight @ np.nan_to_num(precision), weight @ np.nan_to_num(recall)
        else:
            sums[0] += weight @ interpolate_precision(np.nan_to_num(precision), recall, levels)
    if total == 0:
        warn_undefined("Precision and recall are")
    mean = sums / total if total else sums
    return mean[0], mean[1] if levels is None else levels


def ranking_scores(  # noqa: PLR0913 - options by keyword, as the field has them
    queries: Any,
    database: Any,
    query_labels: Any,
    database_labels: Any,
    *,
    top_k: int | None = 5000,
    k: Any = (1, 10, 100),
    normalizer: str = "retrieved",
    zero_relevance: str = "skip",
    ties: str = "index",
    exclude_self: bool = False,
    sample_weight: Any = None,
) -> dict[str, Any]:
    """Compute mean average precision, precision and recall at several k, in one pass.

    Parameters
    ----------
    queries, database, query_labels, database_labels : array-like
        As in `mean_average_precision`.
    top_k : int, default=5000
        R of the mean average precision.
    k : int or array-like of int, default=(1, 10, 100)
        Ranks of precision and recall.
    normalizer : {"retrieved", "relevant", "min"}, default="retrieved"
        As in `mean_average_precision`.
    zero_relevance : {"skip", "zero"}, default="skip"
        For all scores, so that the precision is that of ``precision_at_k(…, zero_relevance=…)``
        with the same choice.
    ties : {"index", "expected"}, default="index"
    exclude_self : bool, default=False
    sample_weight : array-like of shape (q,), default=None
        As in `mean_average_precision`.

    Returns
    -------
    dict
        ``"map"``, a float; ``"precision"`` and ``"recall"``, of the shape of `k`.

    Examples
    --------
    >>> import numpy as np
    >>> database = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    >>> scores = ranking_scores(np.array([[1.0, 0.0]]), database, [0], [0, 1, 0], k=[1, 2])
    >>> scores["precision"]
    array([1. , 0.5])
    """
    check_choice("normalizer", normalizer, NORMALIZERS)
    check_choice("zero_relevance", zero_relevance, ZERO_RELEVANCE)
    check_choice("ties", ties, TIES)
    relation = relate_rows(queries, database, query_labels, database_labels, exclude_self)
    weights = check_weights(sample_weight, relation.n_queries)
    cuts = check_cuts(k)
    depth = check_top_k(top_k, max(relation.n_rows, 1))
    values = np.full((relation.n_queries, 1 + 2 * cuts.size), np.nan)
    # One ranking, as deep as the deepest score wants it; the others take its beginning.
    deepest = max(depth, int(cuts.max(initial=1)))
    for block in rank_blocks(queries, database, relation, deepest, exclude_self, True, ties):
        values[block.queries, 0] = block_average_precision(block, depth, normalizer, ties)
        values[block.queries, 1:] = np.hstack(block_precision_recall(block, cuts.ravel(), ties))
    means = np.array([weighted_mean(v, weights, zero_relevance, "A score") for v in values.T])
    precision, recall = means[1:].reshape(2, *cuts.shape)
    return {"map": float(means[0]), "precision": precision[()], "recall": recall[()]}
