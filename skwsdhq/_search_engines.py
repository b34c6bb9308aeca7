"""Exact top-k over codes: one definition of similarity, several ways to find the largest.

The similarity of a query and a code is the float32 sum of its look-up table entries in the order
of the codebooks. Every engine returns these very numbers, so all rankings are the same: larger
similarity first, smaller row first among equals.
"""

from typing import Protocol

import numpy as np

from ._search_topk import sort_keys_2d, top_k

__all__ = ["BucketEngine", "Engine", "NumpyEngine", "distinct_codes", "score_codes"]


class Engine(Protocol):
    """What can rank all rows for a block of queries."""

    def search(self, tables: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Similarities (B, k) and rows (B, k) for look-up tables (B, M, K); k <= n."""
        ...


def score_codes(table: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Similarities of codes to one query: float32 sums in the order of the codebooks.

    table : (M, K) float32.  columns : (M, n), codes by codebook.  Returns (n,) float32.
    """
    # for n: scores[n] = table[0, columns[0, n]] + table[1, columns[1, n]] + …, from the left
    scores = table[0].take(columns[0])
    for entries, column in zip(table[1:], columns[1:], strict=True):
        scores += entries.take(column)
    return scores


def distinct_codes(columns: np.ndarray, n_codewords: int) -> tuple[np.ndarray, ...]:
    """Distinct codes in the order of their first row, and the rows of each.

    Parameters
    ----------
    columns : ndarray of shape (M, n)
    n_codewords : int

    Returns
    -------
    distinct : ndarray of shape (M, U)
        Codes by codebook; U is the number of distinct ones.
    rows : ndarray of shape (n,)
        Rows, grouped by distinct code, ascending within a group.
    starts : ndarray of shape (U + 1,)
        ``rows[starts[u]:starts[u + 1]]`` have code u.
    """
    n = columns.shape[1]
    bits = max(int(n_codewords - 1).bit_length(), 1)
    if bits * len(columns) <= 63:
        keys = np.zeros(n, dtype=np.int64)
        for column in columns:
            keys <<= bits
            keys |= column
    else:
        packed = np.ascontiguousarray(columns.T)
        keys = packed.view([("", packed.dtype)] * len(columns)).reshape(-1)
    _, first, inverse, counts = np.unique(
        keys, return_index=True, return_inverse=True, return_counts=True
    )
    order = np.argsort(first)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    rows = np.argsort(rank[inverse], kind="stable")
    starts = np.concatenate([[0], np.cumsum(counts[order])])
    return np.ascontiguousarray(columns[:, first[order]]), rows, starts


class NumpyEngine:
    """The reference: score every row, keep the k largest.

    columns : (M, n), codes by codebook.
    """

    def __init__(self, columns: np.ndarray) -> None:
        self.columns = columns

    def search(self, tables: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        similarities = np.empty((len(tables), k), dtype=np.float32)
        rows = np.empty((len(tables), k), dtype=np.int64)
        for b, table in enumerate(tables):
            scores = score_codes(table, self.columns)
            rows[b] = top_k(scores, k)
            similarities[b] = scores[rows[b]]
        return similarities, rows


class BucketEngine:
    """Distinct codes scored once, then replaced by their rows.

    The k best rows lie in the k best distinct codes, when equal similarities are ordered by first
    row: a code in front of a row's own has a row in front of it.

    columns : (M, n), codes by codebook.
    """

    def __init__(self, columns: np.ndarray, n_codewords: int) -> None:
        self.distinct, self.rows, self.starts = distinct_codes(columns, n_codewords)
        self.scan = NumpyEngine(self.distinct)

    def search(self, tables: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        n_distinct = self.distinct.shape[1]
        n_best = min(k, n_distinct)
        if n_distinct <= 2048:
            # for b: for u: scores[b, u] = sum of tables[b, m, distinct[m, u]] over m
            scores = tables[:, 0].take(self.distinct[0], axis=1)
            for m in range(1, tables.shape[1]):
                scores += tables[:, m].take(self.distinct[m], axis=1)
            best = sort_keys_2d(scores)[:, :n_best]
            scores = np.take_along_axis(scores, best, axis=1)
        else:
            scores, best = self.scan.search(tables, n_best)
        return self._expand(scores, best, k)

    def _expand(
        self, scores: np.ndarray, best: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows (B, k) of ranked distinct codes (B, j); equal scores of codes merge by row."""
        sizes = self.starts[best + 1] - self.starts[best]  # (B, j)
        before = np.cumsum(sizes, axis=1) - sizes
        tied = np.zeros(best.shape, dtype=bool)
        equal = scores[:, 1:] == scores[:, :-1]
        tied[:, 1:] |= equal
        tied[:, :-1] |= equal
        # A code alone gives what is still missing; codes that tie may each give up to k rows.
        taken = np.clip(k - before, 0, sizes)
        if equal.any():
            # Start of each code's group of equals decides whether the group is needed at all.
            group_start = np.zeros(best.shape, dtype=np.int64)
            group_start[:, 1:] = np.where(equal, 0, np.arange(1, best.shape[1]))
            group_start = np.maximum.accumulate(group_start, axis=1)
            needed = np.take_along_axis(before, group_start, axis=1) < k
            taken = np.where(tied & needed, np.minimum(sizes, k), taken)
        flat = taken.ravel()
        ends = np.cumsum(flat)
        # for b: for j: rows of code best[b, j], the first taken[b, j] of them
        offsets = np.arange(ends[-1]) - np.repeat(ends - flat, flat)
        rows = self.rows[np.repeat(self.starts[best].ravel(), flat) + offsets]
        values = np.repeat(scores.ravel(), flat)
        bounds = np.concatenate([[0], ends.reshape(best.shape)[:, -1]])
        for b in np.flatnonzero((tied & (taken > 0)).any(axis=1)):
            part = slice(bounds[b], bounds[b + 1])
            order = np.lexsort((rows[part], -values[part]))
            rows[part], values[part] = rows[part][order], values[part][order]
        picked = bounds[:-1, None] + np.arange(k)
        return values[picked], rows[picked]
