"""The rows of an index at one moment, and how they are ranked."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from ._bounded import BoundedEngine
from ._engines import Engine
from ._ids import Choice, as_ids, find_rows
from ._select import bounds_pay, build_engine, choose_engine, drop_rows, may_compile, search_each
from ._sorted import SortedCodes, compiled_walk
from ._tables import columns_of, finite_table, table_of_one
from .checks import check_unique, next_id, number_ids

__all__ = ["BLOCK", "Rows", "map_by_threads"]

# Queries whose look-up tables are computed together. The last bits of a matrix product depend on
# its shape, so the number is the same for all engines and any n_jobs.
BLOCK = 64
_BLOCK_RESULTS = 2**23  # rows ranked at once: 64 MB of row numbers


class Rows:
    """Keep codes and ids that belong together and never change.

    An index that grows or shrinks gets new ones, in one assignment. So a search that reads them
    once is right whatever other threads do meanwhile, and what fails halfway has changed nothing.
    Engines are built when a search needs them, and stay with the codes that they were built from.

    Parameters
    ----------
    codebooks : ndarray of shape (M, K, D), float32
    codes : ndarray of shape (n, M)
    ids : ndarray of shape (n,), int64 or strings, or None
        None numbers the rows.
    next_id : int or None
        The number that comes after all ids there have been; None finds it.
    """

    def __init__(
        self,
        codebooks: np.ndarray,
        codes: np.ndarray,
        ids: np.ndarray | None = None,
        next_id_: int | None = None,
    ) -> None:
        self.codebooks = _read_only(codebooks)
        self.codes = _read_only(codes)
        self.own_ids = None if ids is None else _read_only(ids)
        self.next_id = next_id(ids, len(codes)) if next_id_ is None else next_id_
        self._engines: dict[str, Engine] = {}
        self._columns: np.ndarray | None = None
        # An order of earlier rows, the numbers that they have now, and how many are left of them.
        self._earlier: tuple[SortedCodes, np.ndarray | None, int] | None = None
        self._prefixes: dict[int, Rows] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Rows, (self.codebooks, self.codes, self.own_ids, self.next_id)

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def ids(self) -> np.ndarray:
        """Return the ids (n,); row numbers where the rows have none of their own."""
        return _read_only(np.arange(len(self))) if self.own_ids is None else self.own_ids

    def with_added(self, codes: np.ndarray, ids: np.ndarray | None) -> "Rows":
        """Return these rows and new ones behind them; codes and ids have their final dtypes."""
        own = self.own_ids
        plain = False
        if ids is None:
            if own is not None and own.dtype.kind == "U" and len(codes):
                raise ValueError("The index has string ids; give ids= for the new rows as well.")
            ids = number_ids(self.next_id, len(codes))
            # Ids that are still the row numbers need no memory.
            plain = own is None and self.next_id == len(self)
        else:
            self._check_new(ids, len(codes))
        if not len(codes):
            return self
        kept = None
        if not plain:
            kept = np.concatenate([self.ids, ids]) if len(self) else ids.copy()
        after = max(self.next_id, next_id(ids, 0))
        more = Rows(self.codebooks, np.concatenate([self.codes, codes]), kept, after)
        more._earlier = self._known_order()
        return more

    def _known_order(self) -> tuple[SortedCodes, np.ndarray | None, int] | None:
        """Return what is known of the order of these rows, so that others need not be sorted."""
        engine = self._engines.get("bounded")
        order = engine.order_if_known() if isinstance(engine, BoundedEngine) else None
        return self._earlier if order is None else (order, None, len(self))

    def _check_new(self, ids: np.ndarray, n: int) -> None:
        """Refuse ids that are not n, not of the kind of those there, or there already."""
        if len(self) and len(ids) and ids.dtype.kind != self.ids.dtype.kind:
            raise TypeError("ids should be of one kind, all integers or all strings.")
        check_unique(ids, n)
        if not len(self):
            return
        known = find_rows(self.own_ids, len(self), ids) >= 0
        if known.any():
            twice = ids[known][0].item()
            raise ValueError(f"ids should be new; {twice!r} is in the index, remove it first.")

    def without(self, ids: np.ndarray) -> "Rows":
        """Return the rows that have none of these ids."""
        gone = self.find(ids)
        if not len(gone):
            return self
        kept = np.ones(len(self), dtype=bool)
        kept[gone] = False
        fewer = Rows(self.codebooks, self.codes[kept], self.ids[kept], self.next_id)
        known = self._known_order()
        if known is not None:
            order, moved, n_earlier = known
            # for row: its new number, -1 for one that is gone
            numbers = np.where(kept, np.cumsum(kept) - 1, -1)
            if moved is None:
                moved = numbers[:n_earlier]
            else:
                moved = np.where(moved < 0, -1, numbers[moved])
            fewer._earlier = order, moved, int(kept[:n_earlier].sum())
        return fewer

    def with_ids(self, ids: Any) -> "Rows":
        """Return the same rows under other ids; engines know no ids, and are shared."""
        own = as_ids(ids).copy()
        check_unique(own, len(self))
        named = Rows(self.codebooks, self.codes, own)
        named._engines = self._engines
        return named

    def find(self, wanted: np.ndarray) -> np.ndarray:
        """Return the row of each id; raise ValueError for one that isn't there."""
        rows = find_rows(self.own_ids, len(self), wanted)
        if (rows < 0).any():
            raise ValueError(f"ids should be in the index; {wanted[rows < 0][0].item()!r} is not.")
        return rows

    def prefix(self, n_codebooks: int) -> "Rows":
        """Return the same rows with their first codebooks only; the same object each time."""
        if n_codebooks not in self._prefixes:
            codes = np.ascontiguousarray(self.codes[:, :n_codebooks])
            short = Rows(self.codebooks[:n_codebooks], codes, self.own_ids, self.next_id)
            self._prefixes.setdefault(n_codebooks, short)
        return self._prefixes[n_codebooks]

    def engine(self, name: str, n_queries: int) -> Engine:
        """Return an engine by name, "auto" for the fastest one; build it at the first call."""
        name = self._engine_name(name, n_queries)
        if name not in self._engines:
            # Without a lock, which a forked process might find held: two threads that come at
            # once both build one, and both use the first.
            built = build_engine(name, self.codes, self.codebooks.shape[1])
            if isinstance(built, BoundedEngine) and self._earlier is not None:
                built.learn_order(*self._earlier)
            self._engines.setdefault(name, built)
        return self._engines[name]

    def _engine_name(self, name: str, n_queries: int) -> str:
        """Return the name of an engine, for "auto" that of the fastest one."""
        if name != "auto":
            return name
        shape = self.codebooks.shape
        is_compiled = compiled_walk(n_queries if may_compile(len(self), shape) else 0) is not None
        if bounds_pay(len(self), shape, n_queries, is_compiled):
            return "bounded"
        return choose_engine(len(self), shape, n_queries)

    @property
    def columns(self) -> np.ndarray:
        """Return the codewords as columns, (D, M · K): a single query is multiplied faster."""
        if self._columns is None:
            self._columns = columns_of(self.codebooks)
        return self._columns

    def tables(self, queries: np.ndarray) -> np.ndarray:
        """Return the look-up tables of a block of queries; refuse what exceeds float32."""
        return finite_table(queries, self.codebooks, self.columns)

    def n_findable(self, n_queries: int, excluded: np.ndarray | None, allowed: Any) -> int:
        """Return the largest number of rows that a query may find."""
        if excluded is None and not isinstance(allowed, list):
            return len(self) if allowed is None else len(allowed)
        if allowed is None and excluded is not None and n_queries:
            return len(self) - int((excluded >= 0).sum(axis=1).min())
        most = 0
        for q in range(n_queries):
            own = allowed[q] if isinstance(allowed, list) else allowed
            n_left_out = 0
            if excluded is not None:
                n_left_out = int(own.has(excluded[q][excluded[q] >= 0]).sum())
            most = max(most, len(own) - n_left_out)
        return most

    def nearest(self, query: Any, k: int, engine: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Rank the rows for one embedding (1, D), as `rank` does but with no step too many.

        Return None for what is not as usual: more queries or none, another dtype, numbers that are
        not finite, another engine, or one that is still to be built.
        """
        is_usual = type(query) is np.ndarray and query.dtype == np.float32 and type(k) is int
        shape = (1, self.codebooks.shape[2])
        if not is_usual or query.shape != shape or not 0 < k <= len(self.codes):
            return None
        bounded = self._engines.get("bounded") if engine in ("auto", "bounded") else None
        if not isinstance(bounded, BoundedEngine):
            return None
        return bounded.search_one(table_of_one(query, self.columns), k)

    def rank(
        self,
        queries: np.ndarray,
        k: int,
        excluded: np.ndarray | None = None,
        allowed: Choice | list[Choice] | None = None,
        *,
        engine: str = "auto",
        n_jobs: int | None = None,
    ) -> Iterator[tuple[slice, np.ndarray, np.ndarray, np.ndarray]]:
        """Rank rows for blocks of queries.

        Yield the block, its look-up tables (B, M, K), and similarities and rows (B, k), filled up
        with -inf and -1.
        """
        search = self._search_of(engine, len(queries), allowed)
        size = max(min(_BLOCK_RESULTS // max(k, 1), BLOCK), 1)  # deep rankings: fewer

        def rank_block(start: int) -> tuple[slice, np.ndarray, np.ndarray, np.ndarray]:
            # Tables of the whole block, even for a part: a product's last bits depend on its shape.
            first = start - start % BLOCK
            block = slice(start, min(start + size, first + BLOCK, len(queries)))
            tables = self.tables(queries[first : first + BLOCK])
            tables = tables[start - first : block.stop - first]
            left_out = None if excluded is None else excluded[block]
            values, rows = search(tables, k, block, left_out)
            return block, tables, values, rows

        blocks = range(0, len(queries), BLOCK)
        starts = [i for b in blocks for i in range(b, min(b + BLOCK, len(queries)), size)]
        yield from map_by_threads(rank_block, starts, n_jobs)

    def _search_of(
        self, engine: str, n_queries: int, allowed: Choice | list[Choice] | None
    ) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
        """Return what ranks the rows for a block: of its tables, k, its slice, what it leaves out.

        Where an engine takes no filters, other codes are searched, or more rows and some dropped.
        """
        name = self._engine_name(engine, n_queries)
        if allowed is None or name == "bounded":
            chosen = self.engine(name, n_queries)
            if isinstance(chosen, BoundedEngine) and chosen.takes_filters:
                return partial(_search_filtered, chosen, allowed)
            if allowed is None:
                return partial(_search_dropping, partial(_search_all, chosen, len(self), None))
        if isinstance(allowed, list):
            return partial(_search_dropping, partial(search_each, self.codes, allowed))
        shape = self.codebooks.shape
        name = choose_engine(len(allowed), shape, n_queries)
        part = build_engine(name, self.codes[allowed.rows], shape[1])
        return partial(_search_dropping, partial(_search_all, part, len(allowed), allowed.rows))

    def reaching(
        self,
        queries: np.ndarray,
        thresholds: np.ndarray,
        excluded: np.ndarray | None = None,
        allowed: Choice | list[Choice] | None = None,
        *,
        engine: str = "auto",
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield for each query similarities and rows of all that reach its threshold, ranked."""
        chosen = self.engine(engine, len(queries))
        for start in range(0, len(queries), BLOCK):
            block = slice(start, start + BLOCK)
            tables = self.tables(queries[block])
            left_out = None if excluded is None else excluded[block]
            own = allowed[block] if isinstance(allowed, list) else allowed
            if isinstance(chosen, BoundedEngine) and chosen.takes_filters:
                yield from _reaching_filtered(chosen, own, tables, thresholds[block], left_out)
                continue
            for b, (scores, found) in enumerate(chosen.above(tables, thresholds[block])):
                kept = np.ones(len(found), dtype=bool)
                if own is not None:
                    kept &= (own[b] if isinstance(own, list) else own).has(found)
                if left_out is not None:
                    kept &= ~np.isin(found, left_out[b])
                yield scores[kept], found[kept]

    def tied_rows(
        self, tables: np.ndarray, similarities: np.ndarray, engine: str = "auto"
    ) -> list[np.ndarray]:
        """Return for each query of a block the rows of exactly the given similarity (B, 1)."""
        similarities = similarities[:, 0]
        found = self.engine(engine, len(tables)).above(tables, similarities)
        return [rows[scores == s] for (scores, rows), s in zip(found, similarities, strict=True)]


def _search_filtered(
    engine: BoundedEngine,
    allowed: Choice | list[Choice] | None,
    tables: np.ndarray,
    k: int,
    block: slice,
    left_out: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Rank by an engine that takes filters."""
    if not isinstance(allowed, list):
        return engine.search(tables, k, allowed, left_out)
    found = [
        engine.search(tables[b : b + 1], k, own, None if left_out is None else left_out[b : b + 1])
        for b, own in enumerate(allowed[block])
    ]
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))  # type: ignore[return-value]


def _reaching_filtered(
    engine: BoundedEngine,
    allowed: Choice | list[Choice] | None,
    tables: np.ndarray,
    thresholds: np.ndarray,
    left_out: np.ndarray | None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield what reaches each threshold, by an engine that takes filters."""
    for b in range(len(tables)):
        one = slice(b, b + 1)
        own = allowed[b] if isinstance(allowed, list) else allowed
        gone = None if left_out is None else left_out[one]
        yield from engine.above(tables[one], thresholds[one], own, gone)


def _search_dropping(
    search: Callable[..., tuple[np.ndarray, np.ndarray]],
    tables: np.ndarray,
    k: int,
    block: slice,
    left_out: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Rank more rows than are asked for, and drop those that are left out."""
    if left_out is None:
        return search(tables, k, block)
    return drop_rows(*search(tables, k + left_out.shape[1], block), left_out, k)


def _search_all(
    engine: Engine, n: int, numbers: np.ndarray | None, tables: np.ndarray, k: int, block: slice
) -> tuple[np.ndarray, np.ndarray]:
    """Rank by an engine, whose n rows have other numbers where these are given."""
    values, rows = engine.search(tables, min(k, n))
    return values, rows if numbers is None else numbers[rows]


def map_by_threads(
    work: Callable[[int], Any], starts: Sequence[int], n_jobs: int | None
) -> Iterator[Any]:
    """Yield what ``work`` gives for each start, in their order, by joblib's threads."""
    if len(starts) == 1:  # as of a single query, which should not wait for joblib's import
        yield work(starts[0])
        return
    from joblib import Parallel, delayed, effective_n_jobs

    if effective_n_jobs(n_jobs) > 1:
        parallel = Parallel(n_jobs=n_jobs, backend="threading", return_as="generator")
        yield from parallel(delayed(work)(start) for start in starts)
    else:
        yield from map(work, starts)


def _read_only(array: np.ndarray) -> np.ndarray:
    """Return a view that can't be written to; the given array's own flags stay as they are."""
    view = array.view()
    view.flags.writeable = False
    return view
