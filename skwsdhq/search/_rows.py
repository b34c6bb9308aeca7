"""The rows of an index at one moment, and how they are ranked."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ._engines import Engine
from ._ids import as_ids, find_rows
from ._select import bounds_pay, build_engine, choose_engine, drop_rows, search_each
from ._tables import finite_table
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
        return Rows(self.codebooks, np.concatenate([self.codes, codes]), kept, after)

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
        return Rows(self.codebooks, self.codes[kept], self.ids[kept], self.next_id)

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
        if name == "auto":
            work = (len(self), self.codebooks.shape, n_queries)
            name = "bounded" if bounds_pay(*work) else choose_engine(*work)
        if name not in self._engines:
            # Without a lock, which a forked process might find held: two threads that come at
            # once both build one, and both use the first.
            built = build_engine(name, self.codes, self.codebooks.shape[1])
            self._engines.setdefault(name, built)
        return self._engines[name]

    def n_findable(self, n_queries: int, excluded: np.ndarray | None, allowed: Any) -> int:
        """Return the largest number of rows that a query may find."""
        if excluded is None and not isinstance(allowed, list):
            return len(self) if allowed is None else len(allowed)
        if allowed is None and excluded is not None and n_queries:
            return len(self) - int((excluded >= 0).sum(axis=1).min())
        most = 0
        for q in range(n_queries):
            own = allowed[q] if isinstance(allowed, list) else allowed
            n_left_out = 0 if excluded is None else np.isin(excluded[q], own).sum()
            most = max(most, len(own) - int(n_left_out))
        return most

    def rank(
        self,
        queries: np.ndarray,
        k: int,
        excluded: np.ndarray | None = None,
        allowed: np.ndarray | list[np.ndarray] | None = None,
        *,
        engine: str = "auto",
        n_jobs: int | None = None,
    ) -> Iterator[tuple[slice, np.ndarray, np.ndarray, np.ndarray]]:
        """Rank rows for blocks of queries.

        Yield the block, its look-up tables (B, M, K), and similarities and rows (B, k), filled up
        with -inf and -1.
        """
        chosen: Engine | None = None
        if allowed is None:
            chosen = self.engine(engine, len(queries))
        elif not isinstance(allowed, list):
            shape = self.codebooks.shape
            name = choose_engine(len(allowed), shape, len(queries))
            chosen = build_engine(name, self.codes[allowed], shape[1])

        size = max(min(_BLOCK_RESULTS // max(k, 1), BLOCK), 1)  # deep rankings: fewer

        def rank_block(start: int) -> tuple[slice, np.ndarray, np.ndarray, np.ndarray]:
            # Tables of the whole block, even for a part: a product's last bits depend on its shape.
            first = start - start % BLOCK
            block = slice(start, min(start + size, first + BLOCK, len(queries)))
            tables = finite_table(queries[first : first + BLOCK], self.codebooks)
            tables = tables[start - first : block.stop - first]
            left_out = None if excluded is None else excluded[block]
            n_more = k + (0 if left_out is None else left_out.shape[1])
            if chosen is not None:
                n_rows = len(self) if allowed is None else len(allowed)
                values, rows = chosen.search(tables, min(n_more, n_rows))
                if isinstance(allowed, np.ndarray):
                    rows = allowed[rows]
            else:
                assert isinstance(allowed, list)
                values, rows = search_each(tables, self.codes, allowed[block], n_more)
            if left_out is not None:
                values, rows = drop_rows(values, rows, left_out, k)
            return block, tables, values, rows

        blocks = range(0, len(queries), BLOCK)
        starts = [i for b in blocks for i in range(b, min(b + BLOCK, len(queries)), size)]
        yield from map_by_threads(rank_block, starts, n_jobs)

    def tied_rows(
        self, tables: np.ndarray, similarities: np.ndarray, engine: str = "auto"
    ) -> list[np.ndarray]:
        """Return for each query of a block the rows of exactly the given similarity (B, 1)."""
        similarities = similarities[:, 0]
        found = self.engine(engine, len(tables)).above(tables, similarities)
        return [rows[scores == s] for (scores, rows), s in zip(found, similarities, strict=True)]


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
