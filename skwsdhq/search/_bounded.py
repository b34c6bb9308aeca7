"""Search that looks at few rows: codes sorted by their first codewords, and a bound for each.

All rows whose codes begin alike lie together. Their scores are at most the sum of the entries of
that beginning plus the largest entry of each other codebook. Once k rows are known, beginnings
whose bound is below the k-th best of them hold none of the k best, and their rows are never looked
at: of a million 32-bit codes of real embeddings, about one in four hundred is.
"""

from typing import Any

import numpy as np

from ..utils.compiled import kernels
from ._bounded_numpy import SampledBounds
from ._ids import Choice
from ._scan import ScanEngine
from ._sorted import SortedCodes, compiled_walk, n_leading
from ._tables import refuse_overflow
from .topk import sampled_rank

__all__ = ["BoundedEngine"]

_MANY = "skwsdhq.search._kernels_many"
_MAX_ROWS = 2**31 - 1  # as the numbers that are compiled for
# What a walk may cost, in parts of the look-ups of a scan of all rows: for one query, and for each
# of many that can share a scan, of which some tell whether the others should walk at all.
_SHARE, _SHARE_OF_MANY, _SHARE_OF_MANY_LONG = 0.7, 0.06, 0.2
_N_TRIED = 2, 4
_ROWS_A_NEIGHBOR = 128  # with fewer rows for each of the k, most are looked at anyway
_MAX_SAMPLE = 8192
# Of codes of more than four codebooks, whose tables have steps of five bits: from the second of
# these k on, and from the first where there are so few rows for each of the k.
_DEEP, _DEEP_ROWS = (64, 1500), 300
_MIN_SIDE_BY_SIDE = 8  # queries that share a scan; fewer are faster by one each
_MIN_LEFT = 24  # of those whose walks were given up; fewer are faster by longer walks
_MAX_ENTRIES = 2**14  # of tables, for 64 queries in a core's cache
_UNROLLED = (4, 8)  # the usual lengths; each takes a compiler some seconds
_ROWS_ALONE = (
    16  # so many rows that may be found, squared, for each of k · n are scored by themselves
)


class BoundedEngine:
    """Find the k best by bounds on the scores of all rows whose codes begin alike.

    A compiled walk looks at beginnings from the best bound on until it falls below the k-th best so
    far. Where that would be most rows, a scan of all takes over, which then knows what a row has to
    reach; many such queries share one. Where nothing can be compiled, numpy takes a threshold from
    a sample instead. Sums are those of the other engines.

    codes : (n, M), of which `n_leading` is above 0.
    """

    def __init__(self, codes: np.ndarray, n_codewords: int) -> None:
        self.codes, self.n_codewords = codes.view(), n_codewords
        self.codes.flags.writeable = False  # one kind of array is compiled for
        n_codebooks = codes.shape[1]
        n_first = n_leading(n_codebooks, n_codewords)
        # Sums of either group are sorted for each query: both should be few.
        self.groups = (n_first - n_first // 2, n_first)
        # Loops over so many codebooks are unrolled; for all other numbers there is one that is not.
        self.tuples: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
        if n_codebooks in _UNROLLED and n_first == 2:
            self.tuples = ((0,) * (n_codebooks - 2), (0,) * n_codebooks)
        self._order: SortedCodes | None = None
        self._by_numpy: SampledBounds | None = None
        self._scan: ScanEngine | None = None
        self._of_one: tuple[Any, ...] | None = None

    @property
    def order(self) -> SortedCodes:
        """Return the sorted codes; a filter that leaves few rows needs none."""
        # Two threads that come at once both make them.
        if self._order is None:
            self._order = SortedCodes.of(self.codes, self.n_codewords)
        return self._order

    def order_if_known(self) -> SortedCodes | None:
        """Return the sorted codes where a search has needed them."""
        return self._order

    def learn_order(self, order: SortedCodes, moved: np.ndarray | None, n_earlier: int) -> None:
        """Take the order of earlier rows over, where most rows are among them.

        moved : see `SortedCodes.changed`.  n_earlier : how many of these rows are among them.
        """
        if 2 * n_earlier > len(self.codes):
            self._order = order.changed(moved, self.codes)

    @property
    def _cells(self) -> tuple[np.ndarray, ...]:
        order = self.order
        return order.starts, order.rows, order.rest, self.codes, order.nexts

    @property
    def takes_filters(self) -> bool:
        """Tell whether searches are compiled: those of numpy know no filters."""
        return self.walk(0) is not None

    def walk(self, n_queries: int) -> Any:
        """Return the compiled search, None for that of numpy."""
        return compiled_walk(n_queries) if len(self.codes) <= _MAX_ROWS else None

    def search(
        self,
        tables: np.ndarray,
        k: int,
        choice: Choice | None = None,
        left_out: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return similarities (B, k) and rows (B, k) of the best, as other engines do.

        choice : rows that may be found.  left_out : (B, E), rows that each query leaves out,
        ascending, and -1 behind them. Both are for the compiled search alone. Where fewer than k
        rows are left, -inf and -1 fill up.
        """
        walk = self.walk(len(tables))
        if k == 0 or walk is None:
            return self._numpy().search(tables, k)
        if left_out is None:
            left_out = np.empty((len(tables), 0), np.int64)
        values = np.empty((len(tables), k), np.float32)
        rows = np.empty((len(tables), k), np.int64)
        status = np.empty(len(tables), np.int64)
        if choice is not None and len(choice) ** 2 <= _ROWS_ALONE * k * len(self.codes):
            results = values, rows, status
            walk.among(tables, k, choice.rows, self.codes, left_out, self.tuples[1], results)
            return values, rows
        mask = np.empty(0, np.bool_) if choice is None else choice.mask
        many = self._side_by_side(len(tables))
        results = values, rows, status
        is_hopeless = not self._budget(_SHARE, k) and self._scans_all(k, mask, left_out)
        if many is not None and is_hopeless:
            return self._scanned(tables, k)
        if many is None:
            self._walk(walk, tables, (mask, left_out), results, _SHARE, True)
        else:
            self._walk_or_share(walk, many, tables, (mask, left_out), results)
        if (status == walk.NOT_FINITE).any():
            refuse_overflow()
        return values, rows

    def _side_by_side(self, n_queries: int) -> Any:
        """Return the compiled scan for many queries at once; None where it does not pay."""
        n_entries = self.codes.shape[1] * self.n_codewords
        if n_queries < _MIN_SIDE_BY_SIDE or n_entries > _MAX_ENTRIES:
            return None
        many = kernels(_MANY)
        return many if self.codes.shape[1] <= getattr(many, "MAX_CODEBOOKS", 0) else None

    def search_one(self, table: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Do what `search` does for one query without a filter, in as few steps as there are.

        Return None where nothing is compiled, or an entry, or a sum, is not finite.

        table : (1, M · K).
        """
        if self._of_one is None:
            walk = self.walk(1)
            if walk is None:
                return None
            self._of_one = walk.best_of_one, (*self._cells, self.tuples), walk.DONE
        best_of_one, given, done = self._of_one
        results = np.empty((1, k), np.float32), np.empty((1, k), np.int64)
        is_done = best_of_one(table, *given, self._budget(_SHARE, k), results) == done
        return results if is_done else None

    def _budget(self, share: float, k: int) -> int:
        """Return how many look-ups a walk for k rows may cost."""
        # Of few rows for each of the k, most would be looked at anyway.
        return int(share * self.codes.size) if k * _ROWS_A_NEIGHBOR <= len(self.codes) else 0

    def _walk(
        self, walk: Any, tables: np.ndarray, choice: Any, results: Any, share: float, goes_on: bool
    ) -> None:
        """Search for each query by itself."""
        n, k = len(self.codes), results[0].shape[1]
        budget = self._budget(share, k)
        plan = (budget, min(budget, n) // walk.ESTIMATE_AT, goes_on)
        walk.best(tables, k, self.groups, self._cells, choice, plan, self.tuples, results)

    def _walk_or_share(
        self, walk: Any, many: Any, tables: np.ndarray, choice: Any, results: Any
    ) -> None:
        """Search for each query by itself, and for those that look at many rows side by side."""
        # By steps of five bits the scan lets more rows through, and takes longer.
        share = _SHARE_OF_MANY if self.codes.shape[1] <= 4 else _SHARE_OF_MANY_LONG
        done, status = 0, results[2]
        for stop in (*_N_TRIED, len(tables)):
            part = slice(done, stop)
            some = tuple(x[part] for x in results)
            self._walk(walk, tables[part], (choice[0], choice[1][part]), some, share, False)
            done = stop
            # No more walks where half of them look at too many: the others will hardly fare better.
            if 2 * np.count_nonzero(status[:done] == walk.TOO_MANY) >= len(status[:done]):
                results[0][done:, 0], status[done:] = -np.inf, walk.TOO_MANY
                break
        left = np.flatnonzero(results[2] == walk.TOO_MANY)
        for start in range(0, len(left), many.WIDTH):
            own = left[start : start + many.WIDTH]
            found = tuple(x[own] for x in results)
            own_choice = choice[0], choice[1][own]
            if len(own) >= _MIN_LEFT:
                self._share(walk, many, tables[own], own_choice, found)
            else:  # too many for a query among others may be few for one by itself
                self._walk(walk, tables[own], own_choice, found, _SHARE, True)
            _put(results, own, found)

    def _share(self, walk: Any, many: Any, tables: np.ndarray, choice: Any, results: Any) -> None:
        """Search for up to 64 queries side by side, from what their walks found that rows reach."""
        k, every = results[0].shape[1], self.tuples[1]
        if self._scans_all(k, *choice):
            results[0][:], results[1][:] = self._scanned(tables, k)
            return
        thresholds = results[0][:, 0].copy()
        # A sample tells what almost surely k rows reach, beside those that are left out.
        n = int(np.count_nonzero(choice[0])) if len(choice[0]) else len(self.codes)
        step = max(len(self.codes) // _MAX_SAMPLE, 4)
        rank = sampled_rank(k + choice[1].shape[1], max(n, 1), n // step)
        if rank < n // step:
            many.sampled(tables, rank, self.codes, step, choice[0], thresholds, every)
        shared = np.flatnonzero(np.isfinite(thresholds))
        found = tuple(x[shared] for x in results[:2])
        own = choice[0], choice[1][shared]
        many.scan_many(tables[shared], k, self.codes, own, thresholds[shared], every, found)
        _put(results[:2], shared, found)
        # Where the sample misled, which is seldom, or said nothing, each query has a scan.
        alone = np.flatnonzero(~np.isfinite(thresholds) | (results[1][:, -1] < 0))
        found = tuple(x[alone] for x in results)
        self._walk(walk, tables[alone], (choice[0], choice[1][alone]), found, 0.0, True)
        _put(results, alone, found)

    def _scans_all(self, k: int, mask: np.ndarray, left_out: np.ndarray) -> bool:
        """Tell whether so many rows are asked for that tables of bytes let too many through."""
        n, n_codebooks = self.codes.shape
        is_deep = k >= n // 8
        if n_codebooks > 4:
            is_deep = is_deep or k >= min(max(_DEEP[0], n / _DEEP_ROWS), _DEEP[1])
        return is_deep and not len(mask) and not left_out.shape[1]

    def _scanned(self, tables: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        if self._scan is None:  # two threads that come at once both make one
            self._scan = ScanEngine(self.codes, self.n_codewords)
        return self._scan.search(tables, k)

    def above(
        self,
        tables: np.ndarray,
        thresholds: np.ndarray,
        choice: Choice | None = None,
        left_out: np.ndarray | None = None,
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return for each query similarities and rows of all that reach its threshold, ranked.

        choice, left_out : as in `search`.
        """
        walk = self.walk(len(tables))
        if walk is None:
            return self._numpy().above(tables, thresholds)
        mask = np.empty(0, np.bool_) if choice is None else choice.mask
        budget = int(_SHARE * self.codes.size)
        none = np.empty(0, np.int64)
        return [
            walk.reaching(
                table,
                np.float32(threshold),
                self.groups,
                self._cells,
                (mask, none if left_out is None else left_out[b]),
                budget,
                self.tuples,
            )
            for b, (table, threshold) in enumerate(zip(tables, thresholds, strict=True))
        ]

    def _numpy(self) -> SampledBounds:
        if self._by_numpy is None:
            self._by_numpy = SampledBounds(self.codes, self.order)
        return self._by_numpy


def _put(results: tuple[np.ndarray, ...], queries: np.ndarray, found: tuple) -> None:
    """Write what was found for some queries into their places."""
    for whole, part in zip(results, found, strict=True):
        whole[queries] = part
