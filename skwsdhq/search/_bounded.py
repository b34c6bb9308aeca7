"""Search that looks at few rows: codes sorted by their first codewords, and a bound for each.

All rows whose codes begin alike lie together. Their scores are at most the sum of the entries of
that beginning plus the largest entry of each other codebook. Once k rows are known, beginnings
whose bound is below the k-th best of them hold none of the k best, and their rows are never looked
at: of a million 32-bit codes of real embeddings, about one in a hundred is.
"""

import numpy as np

from ._engines import MIN_SCAN_QUERIES, Engine
from ._pairs import PairEngine, rough_slack
from ._scan import ScanEngine
from .topk import order_by_score

__all__ = ["BoundedEngine", "n_leading"]

_MAX_BEGINNINGS = 2**16
_MAX_SAMPLE = 4096
_MIN_SAMPLED = 4  # rank in the sample, below which a threshold is mere luck
_MOST_ROWS = 8  # a query that has to look at one row in so many is better off with a scan
_ROWS_A_NEIGHBOR = 512  # where fewer rows are there for each of the k, most queries have to


def n_leading(n_codebooks: int, n_codewords: int) -> int:
    """Return how many codebooks a beginning has: as many as give at most 65,536 beginnings.

    One codebook is left over at least. Return 0 where there is no such number.
    """
    count = 0
    while count < n_codebooks - 1 and n_codewords ** (count + 1) <= _MAX_BEGINNINGS:
        count += 1
    return count


class BoundedEngine:
    """Find the k best by bounds on the scores of all rows whose codes begin alike.

    A sample of the rows tells a number that the beginnings of a thousand rows, or of some k, reach.
    The k-th best of these rows is a threshold. Rows of beginnings whose bound reaches it are
    scored; what reaches the threshold itself is ranked. Sums are those of the other engines. Where
    that would be most rows a scan takes over.

    codes : (n, M), of which `n_leading` is above 0.
    """

    def __init__(self, codes: np.ndarray, n_codewords: int) -> None:
        n, n_codebooks = codes.shape
        self.codes, self.n_codewords = codes, n_codewords
        self.n_leading = n_leading(n_codebooks, n_codewords)
        # The first codewords of a row as one number, as digits of base K.
        keys = np.zeros(n, dtype=np.int64)
        for m in range(self.n_leading):
            keys *= n_codewords
            keys += codes[:, m]
        short = keys.astype(np.uint16)  # which numpy sorts by radix
        order = np.argsort(short, kind="stable")  # rows of a beginning are ascending
        self.rows = order.astype(np.int32 if n < 2**31 else np.int64)
        self.sizes = np.bincount(keys, minlength=n_codewords**self.n_leading)
        self.starts = np.cumsum(self.sizes) - self.sizes
        self.columns = [
            np.ascontiguousarray(codes[order, m]) for m in range(self.n_leading, n_codebooks)
        ]
        self.sample = short[:: max(1, n // _MAX_SAMPLE)].copy()
        self._scans: dict[bool, Engine] = {}

    def search(self, tables: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        similarities = np.empty((len(tables), k), dtype=np.float32)
        rows = np.empty((len(tables), k), dtype=np.int64)
        left = []
        for b, table in enumerate(tables):
            found = self._best(table, k)
            if found is None:
                left.append(b)
            else:
                similarities[b], rows[b] = found
        if left:
            similarities[left], rows[left] = self._scan(len(left)).search(tables[left], k)
        return similarities, rows

    def above(
        self, tables: np.ndarray, thresholds: np.ndarray
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        found: list[tuple[np.ndarray, np.ndarray]] = []
        for b, table in enumerate(tables):
            sums = self._beginnings(table)
            hits = self._reaching(table, sums, float(thresholds[b]))
            if hits is None:
                found += self._scan(1).above(tables[b : b + 1], thresholds[b : b + 1])
            else:
                scores, rows = self._scored(table, sums, hits)
                found.append(_ranked(scores, rows, float(thresholds[b]), len(rows)))
        return found

    def _best(self, table: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Return similarities and rows of the k best; None where that means most of the rows."""
        n = len(self.rows)
        if k == 0 or k * _ROWS_A_NEIGHBOR > n:
            return None
        sums = self._beginnings(table)
        sampled = sums[self.sample]
        rank = max(_MIN_SAMPLED, -(-2 * k * len(sampled) // n))
        scores = np.zeros(0, np.float32)
        while len(scores) < k:
            if rank >= len(sampled):
                return None
            least = np.partition(sampled, len(sampled) - rank)[len(sampled) - rank]
            scores, _ = self._scored(table, sums, np.flatnonzero(sums >= least))
            rank *= 4  # the sample was lucky: fewer than k rows reach its number
        threshold = float(np.partition(scores, len(scores) - k)[len(scores) - k])
        hits = self._reaching(table, sums, threshold)
        if hits is None:
            return None
        return _ranked(*self._scored(table, sums, hits), threshold, k)

    def _beginnings(self, table: np.ndarray) -> np.ndarray:
        """Sum the entries of each beginning in float32, in the order of the codebooks."""
        sums = table[0]
        for entries in table[1 : self.n_leading]:
            sums = (sums[:, None] + entries).reshape(-1)
        return sums

    def _reaching(self, table: np.ndarray, sums: np.ndarray, threshold: float) -> np.ndarray | None:
        """Return beginnings whose bound reaches a threshold; None where they hold too many rows."""
        # No ending adds more than the largest entry of each codebook that is left.
        rest = table[self.n_leading :].max(axis=1).sum(dtype=np.float64)
        least = np.nextafter(np.float32(threshold - rest - rough_slack(table)), -np.float32(np.inf))
        hits = np.flatnonzero(sums >= least)
        return hits if self.sizes[hits].sum() * _MOST_ROWS <= len(self.rows) else None

    def _scored(
        self, table: np.ndarray, sums: np.ndarray, hits: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Score all rows of some beginnings; return scores and rows."""
        sizes = self.sizes[hits]
        ends = np.cumsum(sizes)
        total = int(ends[-1]) if len(ends) else 0
        # for h: starts[h] … starts[h] + sizes[h]
        places = np.arange(total) + np.repeat(self.starts[hits] - ends + sizes, sizes)
        scores = np.repeat(sums[hits], sizes)
        for entries, column in zip(table[self.n_leading :], self.columns, strict=True):
            scores += entries.take(column.take(places))
        return scores, self.rows.take(places)

    def _scan(self, n_queries: int) -> Engine:
        """Return the engine for queries that look at most rows anyway."""
        many = n_queries >= MIN_SCAN_QUERIES
        if many not in self._scans:  # two threads that come at once use the first
            built: Engine
            if many:
                built = ScanEngine(self.codes, self.n_codewords)
            else:
                built = PairEngine(np.ascontiguousarray(self.codes))
            self._scans.setdefault(many, built)
        return self._scans[many]


def _ranked(
    scores: np.ndarray, rows: np.ndarray, threshold: float, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rank the k best that reach a threshold, equal ones by row; return scores and rows."""
    kept = np.flatnonzero(scores >= threshold)
    kept = kept[np.argsort(rows[kept], kind="stable")]
    order = order_by_score(scores[kept])[:k]
    return scores[kept][order], rows[kept][order].astype(np.int64)
