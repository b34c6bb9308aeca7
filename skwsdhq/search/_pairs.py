"""Scan for one query: the entries of two codebooks are looked up at once, as their sum."""

import numpy as np

from ._engines import NumpyEngine, score_codes
from .topk import order_by_score, reaching, sampled_rank

__all__ = ["PairEngine", "pair_columns", "pair_tables", "rough_scores", "rough_slack"]

_MAX_CODEWORDS = 256
_CHUNK_ROWS = 2**16  # whose scores stay in the cache, in memory that is mapped once
_MAX_SAMPLE = 8192


def pair_tables(table: np.ndarray) -> list[np.ndarray]:
    """Sum the entries of codebooks 0 and 1, 2 and 3, ...; leave the last alone where M is odd.

    table : (M, K).  Returns arrays of K · 256 entries, for ``code + 256 · next code``; beyond 256
    codewords those of each codebook alone.
    """
    n_codewords = table.shape[1]
    if n_codewords > _MAX_CODEWORDS:
        return list(table)
    tables = []
    for m in range(0, len(table) - 1, 2):
        sums = np.zeros((n_codewords, 256), dtype=np.float32)
        # for k: for l: sums[l, k] = table[m, k] + table[m + 1, l]
        np.add(table[m + 1][:, None], table[m][None, :], out=sums[:, :n_codewords])
        tables.append(sums.reshape(-1))
    if len(table) % 2:
        tables.append(table[-1])
    return tables


def pair_columns(codes: np.ndarray) -> list[np.ndarray]:
    """Return what `pair_tables` are indexed by, (n,) each: a view of contiguous codes (n, M).

    They are uint8 for up to 256 codewords, and only then.
    """
    n_codebooks = codes.shape[1]
    if codes.dtype != np.uint8:
        return list(codes.T)
    columns = []
    if n_codebooks > 1:
        # Two bytes side by side are one number: first + 256 · second, without a copy.
        pairs = codes[:, : n_codebooks - n_codebooks % 2].view("<u2")
        columns = list(pairs.T)
    if n_codebooks % 2:
        columns.append(codes[:, -1])
    return columns


def rough_scores(tables: list[np.ndarray], columns: list[np.ndarray]) -> np.ndarray:
    """Score rows but for `rough_slack`: by the same entries, added in another order."""
    scores = tables[0].take(columns[0], mode="clip")
    for entries, column in zip(tables[1:], columns[1:], strict=True):
        scores += entries.take(column, mode="clip")
    return scores


def rough_slack(table: np.ndarray, largest_offset: float = 0.0) -> float:
    """Return how much two float32 sums of M entries, in different order, differ at most.

    An offset may be one more of the numbers that are added.
    """
    largest = np.abs(table).max(axis=1).sum(dtype=np.float64) + largest_offset
    return 2.0**-23 * (len(table) + 1) * float(largest)


class PairEngine:
    """Find the k best by rough scores; score again what could be as good.

    As in `ScanEngine`, a threshold is guessed low from a sample, and whether k rows reach it is
    then known. A row whose exact score is among the k best has a rough score of at least the k-th
    best rough one less twice the slack.

    codes : (n, M), contiguous, uint8 for up to 256 codewords and only then.
    """

    def __init__(self, codes: np.ndarray) -> None:
        self.codes = codes
        self.columns = [np.ascontiguousarray(column) for column in pair_columns(codes)]
        step = max(-(-len(codes) // _MAX_SAMPLE), 16)
        self.sample = [np.ascontiguousarray(column[::step]) for column in self.columns]
        self.reference = NumpyEngine(codes.T)

    def search(self, tables: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        n, n_sampled = len(self.codes), len(self.sample[0])
        rank = sampled_rank(k, n, n_sampled) if n else 0
        if k > n // 8 or rank >= n_sampled:
            return self.reference.search(tables, k)  # most rows are candidates anyway
        similarities = np.empty((len(tables), k), dtype=np.float32)
        rows = np.empty((len(tables), k), dtype=np.int64)
        for b, table in enumerate(tables):
            pairs = pair_tables(table)
            sampled = rough_scores(pairs, self.sample)
            threshold = np.partition(sampled, n_sampled - rank)[n_sampled - rank]
            values, found = self._above(pairs, threshold - 2 * rough_slack(table))
            if np.count_nonzero(values >= threshold) < k:
                one = self.reference.search(table[None], k)
                similarities[b], rows[b] = one[0][0], one[1][0]
                continue
            scores = score_codes(table, self.codes[found].T)
            order = order_by_score(scores)[:k]
            similarities[b], rows[b] = scores[order], found[order]
        return similarities, rows

    def above(
        self, tables: np.ndarray, thresholds: np.ndarray
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        found = []
        for table, threshold in zip(tables, thresholds, strict=True):
            _, rows = self._above(pair_tables(table), threshold - 2 * rough_slack(table))
            scores = score_codes(table, self.codes[rows].T)
            kept = reaching(scores, threshold)
            found.append((scores[kept], rows[kept]))
        return found

    def _above(self, pairs: list[np.ndarray], bound: float) -> tuple[np.ndarray, np.ndarray]:
        """Return rough scores and rows, ascending, of all that reach a bound."""
        values, rows = [np.zeros(0, np.float32)], [np.zeros(0, np.int64)]
        for start in range(0, len(self.codes), _CHUNK_ROWS):
            part = slice(start, start + _CHUNK_ROWS)
            scores = rough_scores(pairs, [column[part] for column in self.columns])
            hits = np.flatnonzero(scores >= bound)
            values.append(scores[hits])
            rows.append(hits + start)
        return np.concatenate(values), np.concatenate(rows)
