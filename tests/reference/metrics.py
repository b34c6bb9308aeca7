"""Ranking metrics as loops, written from the definitions."""

import itertools
import math


def labels_of(row):
    """Names of the labels that a 0/1 row carries."""
    return {i for i, carried in enumerate(row) if carried}


def is_relevant(query_labels, row_labels):
    """Whether two collections share at least one label."""
    return any(label in row_labels for label in query_labels)


def average_precision(relevance, depth, n_relevant, normalizer):
    """Sum over relevant places of the precision there, divided by the normaliser; NaN for 0."""
    total, found = 0.0, 0
    for place, relevant in enumerate(relevance[:depth], start=1):
        if relevant:
            found += 1
            total += found / place
    count = {"retrieved": found, "relevant": n_relevant, "min": min(depth, n_relevant)}[normalizer]
    return total / count if count else math.nan


def tied_orders(similarities):
    """All orders of the rows in which similarities descend."""
    rows = range(len(similarities))
    for order in itertools.permutations(rows):
        ranked = [similarities[row] for row in order]
        if ranked == sorted(ranked, reverse=True):
            yield order


def expected_average_precision(relevance, similarities, depth, normalizer):
    """Mean over all orders of tied rows; an order without a relevant row counts 0.

    NaN when that goes for all of them.
    """
    values = [
        average_precision([relevance[row] for row in order], depth, sum(relevance), normalizer)
        for order in tied_orders(similarities)
    ]
    if all(math.isnan(value) for value in values):
        return math.nan
    return sum(0.0 if math.isnan(value) else value for value in values) / len(values)


def expected_hits(relevance, similarities, depth):
    """Mean number of relevant rows among the first, over all orders of tied rows."""
    hits = [sum(relevance[r] for r in order[:depth]) for order in tied_orders(similarities)]
    return sum(hits) / len(hits)


def rank(query, database, skipped=None):
    """Rows by descending inner product with the query, smaller row first among equals."""
    products = [
        sum(float(a) * float(b) for a, b in zip(query, row, strict=True)) for row in database
    ]
    rows = [row for row in range(len(database)) if row != skipped]
    return sorted(rows, key=lambda row: (-products[row], row)), products


def weighted_mean(values, weights, zero_relevance):
    """Mean of the values; NaN is left out ("skip") or 0 ("zero")."""
    total = count = 0.0
    for value, weight in zip(values, weights, strict=True):
        if math.isnan(value):
            if zero_relevance == "skip":
                continue
            value = 0.0
        total += weight * value
        count += weight
    return total / count if count else 0.0


def mean_average_precision(
    queries,
    database,
    query_labels,
    database_labels,
    *,
    top_k,
    normalizer="retrieved",
    zero_relevance="skip",
    exclude_self=False,
    weights=None,
):
    """mAP@R with collections of labels."""
    values = []
    for q, query in enumerate(queries):
        order, _ = rank(query, database, q if exclude_self else None)
        relevance = [is_relevant(query_labels[q], database_labels[row]) for row in order]
        depth = min(top_k, len(order))
        values.append(average_precision(relevance, depth, sum(relevance), normalizer))
    return weighted_mean(values, weights or [1.0] * len(values), zero_relevance)


def precision_recall(queries, database, query_labels, database_labels, depth, exclude_self=False):
    """(precision, recall) of each query at a rank; NaN where nothing is relevant."""
    results = []
    for q, query in enumerate(queries):
        order, _ = rank(query, database, q if exclude_self else None)
        relevance = [is_relevant(query_labels[q], database_labels[row]) for row in order]
        if not any(relevance):
            results.append((math.nan, math.nan))
            continue
        cut = min(depth, len(order))
        hits = sum(relevance[:cut])
        results.append((hits / cut, hits / sum(relevance)))
    return results


def interpolated_precision(relevance, level):
    """Highest precision at any rank whose recall is at least a level."""
    best = 0.0
    for depth in range(1, len(relevance) + 1):
        hits = sum(relevance[:depth])
        if hits >= level * sum(relevance) - 1e-9:
            best = max(best, hits / depth)
    return best
