"""An engine for short codes, of which many rows share the same one."""

import numpy as np

from ._engines import MIN_SCAN_QUERIES, Engine
from ._pairs import PairEngine
from ._scan import ScanEngine
from .topk import order_rows_by_score

__all__ = ["BucketEngine", "distinct_codes"]

# Up to this many distinct codes, all of them are sorted at once for a whole block of queries.
_MAX_SORTED = 2048


def distinct_codes(columns: np.ndarray, n_codewords: int) -> tuple[np.ndarray, ...]:
    """Find distinct codes, in the order of their first row, and the rows of each.

    Parameters
    ----------
    columns : ndarray of shape (M, n)
    n_codewords : int

    Returns
    -------
    distinct : ndarray of shape (M, U)
        Codes by codebook; U is the number of distinct ones.
    rows : ndarray of shape (n,)
        All rows, those of one code together and ascending.
    starts, sizes : ndarray of shape (U,)
        ``rows[starts[u]:starts[u] + sizes[u]]`` have code u.

    Examples
    --------
    >>> import numpy as np
    >>> distinct, rows, starts, sizes = distinct_codes(np.array([[7, 0, 7]]), 8)
    >>> distinct, rows, starts, sizes
    (array([[7, 0]]), array([1, 0, 2]), array([1, 0]), array([2, 1]))
    """
    n = columns.shape[1]
    bits = max(int(n_codewords - 1).bit_length(), 1)
    keys: np.ndarray
    if bits * len(columns) <= 63:
        keys = np.zeros(n, dtype=np.int64)
        for column in columns:
            keys <<= bits
            keys |= column
        if bits * len(columns) <= 16:
            keys = keys.astype(np.uint16)  # which numpy sorts by radix
    else:
        # Too wide for one integer: sort whole codes as records, which is slower.
        packed = np.ascontiguousarray(columns.T)
        keys = packed.view([("", packed.dtype)] * len(columns)).reshape(-1)
    rows = np.argsort(keys, kind="stable")
    ordered = keys[rows]
    starts = np.flatnonzero(np.concatenate([np.ones(min(n, 1), bool), ordered[1:] != ordered[:-1]]))
    sizes = np.diff(np.concatenate([starts, [n]]))
    # In the order of their first row, so that equal scores come in order of row.
    by_first = np.argsort(rows[starts])
    starts, sizes = starts[by_first], sizes[by_first]
    return np.ascontiguousarray(columns[:, rows[starts]]), rows, starts, sizes


class BucketEngine:
    """Score distinct codes once, then put their rows in their place.

    The k best rows lie in the k best distinct codes, when codes of equal similarity are ordered by
    their first row: a code in front of a row's own has a row in front of it.

    columns : (M, n), codes by codebook.
    """

    def __init__(self, columns: np.ndarray, n_codewords: int) -> None:
        distinct, self.rows, self.starts, self.sizes = distinct_codes(columns, n_codewords)
        self.distinct = distinct
        codes = np.ascontiguousarray(distinct.T)
        self.scan = ScanEngine(codes, n_codewords)
        self.one_by_one = PairEngine(codes)

    def search(self, tables: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        n_distinct = self.distinct.shape[1]
        n_best = min(k, n_distinct)
        if n_best == 0:
            empty = np.zeros((len(tables), 0))
            return empty.astype(np.float32), empty.astype(np.int64)
        engine: Engine
        # Of few distinct codes all are sorted for the whole block, which numpy does at once.
        if n_distinct <= _MAX_SORTED:
            # for b: for u: scores[b, u] = tables[b, 0, distinct[0, u]] + …
            scores = tables[:, 0].take(self.distinct[0], axis=1)
            for m in range(1, tables.shape[1]):
                scores += tables[:, m].take(self.distinct[m], axis=1)
            queries = np.arange(len(tables))
            first = scores.argmax(axis=1)
            largest = scores[queries, first][:, None]
            if (self.sizes[first] >= k).all() and (scores == largest).sum() == len(tables):
                # One code holds the k best of each query: the others needn't be ordered.
                return largest.repeat(k, axis=1), self.rows[
                    self.starts[first][:, None] + np.arange(k)
                ]
            best = order_rows_by_score(scores)[:, :n_best]
            # for b: scores[b] = scores[b, best[b]]
            scores = scores[queries[:, None], best]
        else:
            engine = self.scan if len(tables) >= MIN_SCAN_QUERIES else self.one_by_one
            scores, best = engine.search(tables, n_best)
        return self._expand(scores, best, k)

    def _expand(
        self, scores: np.ndarray, best: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return rows (B, k) for ranked distinct codes (B, j); codes of equal score mix by row."""
        sizes = self.sizes[best]  # (B, j)
        before = np.cumsum(sizes, axis=1) - sizes
        taken = np.minimum(np.maximum(k - before, 0), sizes)  # what is still missing of the k
        equal = scores[:, 1:] == scores[:, :-1]
        tied = np.zeros(best.shape, dtype=bool)
        if equal.any():
            # Codes of one score may each give up to k rows, if their group is needed at all.
            tied[:, 1:] |= equal
            tied[:, :-1] |= equal
            first = np.zeros(best.shape, dtype=np.int64)  # where each code's group begins
            first[:, 1:] = np.where(equal, 0, np.arange(1, best.shape[1]))
            first = np.maximum.accumulate(first, axis=1)
            tied &= np.take_along_axis(before, first, axis=1) < k
            taken = np.where(tied, np.minimum(sizes, k), taken)
        flat = taken.ravel()
        ends = np.cumsum(flat)
        # for b: for j: the first taken[b, j] rows of code best[b, j]
        places = np.arange(ends[-1]) - np.repeat(ends - flat - self.starts[best].ravel(), flat)
        rows = self.rows[places]
        values = np.repeat(scores.ravel(), flat)
        bounds = np.concatenate([[0], ends.reshape(best.shape)[:, -1]])
        # Only queries with ties need their rows sorted again, and there are few.
        for b in np.flatnonzero(tied.any(axis=1)):
            part = slice(bounds[b], bounds[b + 1])
            order = np.lexsort((rows[part], -values[part]))
            rows[part], values[part] = rows[part][order], values[part][order]
        picked = bounds[:-1, None] + np.arange(k)
        return values[picked], rows[picked]

    def above(
        self, tables: np.ndarray, thresholds: np.ndarray
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        found = []
        for scores, codes in self.scan.above(tables, thresholds):
            sizes = self.sizes[codes]
            ends = np.cumsum(sizes)
            n_found = int(ends[-1]) if len(ends) else 0
            # for u: rows[starts[u]:starts[u] + sizes[u]]
            places = np.arange(n_found) - np.repeat(ends - sizes - self.starts[codes], sizes)
            rows, values = self.rows[places], np.repeat(scores, sizes)
            order = np.lexsort((rows, -values))
            found.append((values[order], rows[order]))
        return found
