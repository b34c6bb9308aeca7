"""Exact top-k over codes: one definition of similarity, several ways to find the largest.

The similarity of a query and a code is the float32 sum of its look-up table entries in the order
of the codebooks. Every engine returns these very numbers, so all rankings are the same: larger
similarity first, smaller row first among equals.
"""

from typing import Protocol

import numpy as np

from .topk import reaching, top_k

__all__ = ["Engine", "NumpyEngine", "score_codes"]

# From this many queries on, one pass for all of them is faster than a scan for each.
MIN_SCAN_QUERIES = 5


class Engine(Protocol):
    """Rank all n rows for a block of B queries, given their look-up tables (B, M, K)."""

    def search(self, tables: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return similarities (B, k) and rows (B, k); k is at most n."""
        ...

    def above(
        self, tables: np.ndarray, thresholds: np.ndarray
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return for each query similarities and rows of all that reach its threshold, ranked."""
        ...


def score_codes(table: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Score codes for one query, by float32 sums in the order of the codebooks.

    table : (M, K) float32.  columns : (M, n), codes by codebook.  Returns (n,) float32.
    """
    # for n: scores[n] = (table[0, columns[0, n]] + table[1, columns[1, n]]) + …
    # Float addition is not associative: another order would be another number.
    scores = table[0].take(columns[0])
    for entries, column in zip(table[1:], columns[1:], strict=True):
        scores += entries.take(column)
    return scores


class NumpyEngine:
    """Score every row and keep the k largest: the reference of all engines.

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

    def above(
        self, tables: np.ndarray, thresholds: np.ndarray
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        found = []
        for table, threshold in zip(tables, thresholds, strict=True):
            scores = score_codes(table, self.columns)
            rows = reaching(scores, threshold)
            found.append((scores[rows], rows))
        return found
