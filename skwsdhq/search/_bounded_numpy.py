"""The search by bounds in numpy, for installations that compile nothing."""

import numpy as np

from ._engines import MIN_SCAN_QUERIES, Engine
from ._pairs import PairEngine, rough_slack
from ._scan import ScanEngine
from ._sorted import SortedCodes
from .topk import order_by_score

__all__ = ["SampledBounds"]

_MAX_SAMPLE = 4096
_MIN_SAMPLED = 4  # rank in the sample, below which a threshold is mere luck
_MOST_ROWS = 8  # a query that has to look at one row in so many is better off with a scan
_ROWS_A_NEIGHBOR = 512  # where fewer rows are there for each of the k, most queries have to


class SampledBounds:
    """Find the k best by bounds on the scores of all rows whose codes begin alike.

    A sample of the rows tells a number that the beginnings of a thousand rows, or of some k, reach.
    The k-th best of these rows is a threshold. Rows of beginnings whose bound reaches it are
    scored; what reaches the threshold itself is ranked. Sums are those of the other engines. Where
    that would be most rows a scan takes over.

    codes : (n, M).  order : the same, sorted.
    """

    def __init__(self, codes: np.ndarray, order: SortedCodes) -> None:
        self.codes, self.n_codewords = codes, order.n_codewords
        self.n_leading = codes.shape[1] - order.rest.shape[1]
        self.rows, self.starts, self.rest = order.rows, order.starts, order.rest
        self.sizes = np.diff(order.starts)
        # Beginnings of some rows, in their order: each is there by its size.
        places = np.arange(0, len(codes), max(1, len(codes) // _MAX_SAMPLE))
        self.sample = np.searchsorted(order.starts, places, side="right") - 1
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
        codes = self.rest.take(places, axis=0)
        for entries, column in zip(table[self.n_leading :], codes.T, strict=True):
            scores += entries.take(column)
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
