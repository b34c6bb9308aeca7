"""The index object: codes, ids and the engines that rank them."""

import os
from collections.abc import Iterator
from typing import Any, Self

import numpy as np

from ._search_checks import (
    check_codebooks,
    check_k,
    check_shortlist,
    check_unique,
    next_id,
)
from ._search_engines import Engine
from ._search_ids import as_ids, find_rows, read_excluded, read_filter
from ._search_select import build_engine, choose_engine, drop_rows, search_each
from ._search_tables import decode_rows, lookup_table, rerank, rerank_codes

__all__ = ["CodeIndex"]

ENGINES = ("auto", "buckets", "scan", "pairs", "faiss", "numpy")

# Queries whose look-up tables are computed together. The last bits of a matrix product depend on
# its shape, so the number is the same for all engines and any n_jobs.
BLOCK = 64
_BLOCK_RESULTS = 2**23  # rows ranked at once: 64 MB of row numbers


class CodeIndex:
    """Exact search among codes by inner product with the decoded rows.

    The similarity of an embedding and a row is the float32 sum of M look-up table entries in the
    order of the codebooks. Larger is closer; rows of equal similarity come in order of row number.
    All engines return the same ranking, to the last bit.

    Parameters
    ----------
    codebooks : array-like of shape (M, K, D)
        Kept as float32.
    codes : array-like of shape (n, M)
        Integers from 0 to K - 1; kept as uint8, or uint16 where K > 256.
    ids : array-like of shape (n,), default=None
        Distinct integers or strings; what `search` returns. None numbers the rows, and goes on
        numbering in `add`.
    engine : {"auto", "buckets", "scan", "pairs", "faiss", "numpy"}, default="auto"
        ``"buckets"`` scores distinct codes once (8 and 16 bits), ``"scan"`` scores many queries in
        one pass, ``"pairs"`` a few, each by tables of two codebooks at once; ``"faiss"`` is the
        product-quantization scan of faiss (at most 1024 codewords), ``"numpy"`` the reference.
        ``"auto"`` chooses by size and number of queries, and never faiss.
    n_jobs : int, default=None
        Threads over blocks of 64 queries, by joblib; None is 1 unless joblib's context says
        otherwise. Within a block torch and faiss run on that one thread; how many they use
        elsewhere in the process stays as it is.

    Attributes
    ----------
    codebooks : ndarray of shape (M, K, D)
    codes : ndarray of shape (n, M)
        Read-only.
    ids : ndarray of shape (n,)

    Examples
    --------
    >>> import numpy as np
    >>> codebooks = np.array([[[1.0, 0.0], [0.0, 1.0]]])
    >>> index = CodeIndex(codebooks, [[0], [1], [0]], ids=["a", "b", "c"])
    >>> similarities, ids = index.search(np.array([[0.6, 0.8]]), k=2)
    >>> ids
    array([['b', 'a']], dtype='<U1')
    >>> similarities
    array([[0.8, 0.6]], dtype=float32)
    """

    codebooks: np.ndarray
    codes: np.ndarray

    def __init__(
        self,
        codebooks: Any,
        codes: Any,
        *,
        ids: Any = None,
        engine: str = "auto",
        n_jobs: int | None = None,
    ) -> None:
        self.codebooks = check_codebooks(codebooks)
        self.codes = self._check_codes(codes)
        self._set_engine(engine, n_jobs)
        self._ids: np.ndarray | None = None
        if ids is not None:
            self._ids = as_ids(ids).copy()
            check_unique(self._ids, len(self.codes))
        self._next_id = next_id(self._ids, len(self.codes))

    def _set_engine(self, engine: str, n_jobs: int | None) -> None:
        if engine not in ENGINES:
            raise ValueError(f"engine={engine!r} should be one of {', '.join(map(repr, ENGINES))}.")
        self.engine = engine
        self.n_jobs = n_jobs
        self._engines: dict[Any, Any] = {}

    def _check_codes(self, codes: Any, name: str = "codes") -> np.ndarray:
        n_codebooks, n_codewords, _ = self.codebooks.shape
        array = np.asarray(codes)
        if array.ndim != 2 or array.shape[1] != n_codebooks:
            raise ValueError(
                f"{name} should have shape (n, M={n_codebooks}), a column for each codebook; got "
                f"{array.shape}."
            )
        if array.dtype.kind not in "iu" and array.size:
            raise TypeError(f"{name} should be integers; got dtype {array.dtype}.")
        if array.size and (array.min() < 0 or array.max() >= n_codewords):
            wrong = array.min() if array.min() < 0 else array.max()
            raise ValueError(
                f"{name} should lie from 0 to {n_codewords - 1}, K={n_codewords} codewords; "
                f"got {wrong}."
            )
        kept = np.array(array, dtype=np.uint8 if n_codewords <= 256 else np.uint16, order="C")
        kept.flags.writeable = False
        return kept

    def __len__(self) -> int:
        return len(self.codes)

    def __repr__(self) -> str:
        n_codebooks, n_codewords, n_dims = self.codebooks.shape
        return (
            f"CodeIndex({len(self)} rows, n_codebooks={n_codebooks}, n_codewords={n_codewords}, "
            f"n_dims={n_dims}, engine={self.engine!r})"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_engines": {}}  # built again at the first search

    @property
    def ids(self) -> np.ndarray:
        """Ids of the rows, (n,)."""
        return np.arange(len(self)) if self._ids is None else self._ids

    def add(self, codes: Any, ids: Any = None) -> Self:
        """Append rows.

        Parameters
        ----------
        codes : array-like of shape (n_new, M)
        ids : array-like of shape (n_new,), default=None
            None goes on numbering after the largest integer id there has been.

        Returns
        -------
        self
        """
        new = self._check_codes(codes)
        own = self._ids
        if ids is None:
            if own is not None and own.dtype.kind == "U" and len(new):
                raise ValueError("The index has string ids; give ids= for the new rows as well.")
            added = np.arange(self._next_id, self._next_id + len(new))
            plain = own is None and self._next_id == len(self)
        else:
            added, plain = as_ids(ids), False
            if len(self) and len(added) and added.dtype.kind != self.ids.dtype.kind:
                raise TypeError("ids should be of one kind, all integers or all strings.")
            check_unique(added, len(new))
            if len(self) and (find_rows(own, len(self), added) >= 0).any():
                twice = added[find_rows(own, len(self), added) >= 0][0].item()
                raise ValueError(f"ids should be new; {twice!r} is in the index, remove it first.")
        if not len(new):
            return self
        if not plain:
            self._ids = np.concatenate([self.ids, added]) if len(self) else added.copy()
        self.codes = np.concatenate([self.codes, new])
        self.codes.flags.writeable = False
        self._next_id = max(self._next_id, next_id(added, 0))
        self._engines = {}
        return self

    def remove(self, ids: Any) -> Self:
        """Remove rows by id; the others keep their ids and their order.

        Parameters
        ----------
        ids : array-like of shape (n_old,)
            An id that isn't in the index is an error.

        Returns
        -------
        self
        """
        wanted = as_ids(ids)
        rows = find_rows(self._ids, len(self), wanted)
        if (rows < 0).any():
            raise ValueError(f"ids should be in the index; {wanted[rows < 0][0].item()!r} is not.")
        if not len(rows):
            return self
        kept = np.ones(len(self), dtype=bool)
        kept[rows] = False
        self._ids = self.ids[kept]
        self.codes = self.codes[kept]
        self.codes.flags.writeable = False
        self._engines = {}
        return self

    def search(
        self,
        embeddings: Any,
        k: int,
        *,
        exclude: Any = None,
        exclude_self: bool = False,
        filter: Any = None,
        n_codebooks: int | None = None,
        vectors: Any = None,
        shortlist: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest rows of each embedding.

        Parameters
        ----------
        embeddings : array-like of shape (q, D)
        k : int
            More than there are rows to find gives as many as there are.
        exclude : array-like of shape (q,) or list of q lists of ids, default=None
            Ids that each query leaves out; unknown ones are ignored.
        exclude_self : bool, default=False
            Query i is row i, and leaves it out.
        filter : array-like, default=None
            What may be found: a bool for each row (n,), or a list of ids; or a list with one of
            these for each query. Unknown ids are ignored.
        n_codebooks : int, default=None
            Look for the shortlist with the first codebooks only, then rank it by all of them.
        vectors : array-like of shape (n, D), default=None
            Exact embeddings of the rows, float16 or a memory map at will, that rank the shortlist
            at last.
        shortlist : int, default=None
            Rows that a second stage (`n_codebooks`, `vectors`) ranks again; None is 10 k, at least
            100.

        Returns
        -------
        similarities : ndarray of shape (q, k')
            float32, descending. k' is k, or the largest number of rows that a query may find.
        ids : ndarray of shape (q, k')
            Where a filter leaves a query fewer rows than others, the similarity is -inf and the
            id -1 or ''.
        """
        queries = self._check_embeddings(embeddings)
        k = check_k(k, "k")
        excluded = read_excluded(exclude, exclude_self, self._ids, len(self), len(queries))
        allowed = read_filter(filter, self._ids, len(self), len(queries))
        has_second_stage = n_codebooks is not None or vectors is not None
        depth = check_shortlist(shortlist, k, has_second_stage, "n_codebooks or vectors")
        first = self if n_codebooks is None else self.prefix(n_codebooks)
        depth = min(depth, first._n_findable(len(queries), excluded, allowed))
        similarities = np.empty((len(queries), min(k, depth)), dtype=np.float32)
        rows = np.empty((len(queries), min(k, depth)), dtype=np.int64)
        for block, tables, values, found in first._rank(queries, depth, excluded, allowed):
            if first is not self:
                tables = lookup_table(queries[block], self.codebooks)
                keep = depth if vectors is not None else k
                values, found = rerank_codes(tables, found, self.codes, keep)
            if vectors is not None:
                values, found = rerank(queries[block], found, self._check_vectors(vectors), k)
            similarities[block], rows[block] = values, found
        return similarities, self._ids_of(rows)

    def search_codes(self, codes: Any, k: int, **options: Any) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest rows of each code: symmetric search, both sides quantized.

        Parameters
        ----------
        codes : array-like of shape (q, M)
        k : int
        **options
            As in `search`.

        Returns
        -------
        similarities, ids : ndarray of shape (q, k')
        """
        return self.search(decode_rows(self._check_codes(codes), self.codebooks), k, **options)

    def range_search(
        self,
        embeddings: Any,
        threshold: Any,
        *,
        exclude: Any = None,
        exclude_self: bool = False,
        filter: Any = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All rows whose similarity is at least a threshold.

        Parameters
        ----------
        embeddings : array-like of shape (q, D)
        threshold : float or array-like of shape (q,)
            Compared in float32.
        exclude, exclude_self, filter
            As in `search`.

        Returns
        -------
        starts : ndarray of shape (q + 1,)
            Query i found entries ``starts[i]:starts[i + 1]`` of the other two, nearest first.
        similarities, ids : ndarray of shape (n_found,)

        Examples
        --------
        >>> import numpy as np
        >>> index = CodeIndex(np.array([[[1.0], [2.0], [3.0]]]), [[0], [1], [2]])
        >>> index.range_search(np.array([[1.0], [-1.0]]), 1.5)
        (array([0, 2, 2]), array([3., 2.], dtype=float32), array([2, 1]))
        """
        queries = self._check_embeddings(embeddings)
        thresholds = np.asarray(threshold, dtype=np.float32)
        if thresholds.shape not in ((), (len(queries),)) or np.isnan(thresholds).any():
            raise ValueError(
                f"threshold should be a number or one for each of {len(queries)} queries."
            )
        thresholds = np.broadcast_to(thresholds, len(queries))
        excluded = read_excluded(exclude, exclude_self, self._ids, len(self), len(queries))
        allowed = read_filter(filter, self._ids, len(self), len(queries))
        counts = np.zeros(len(queries) + 1, dtype=np.int64)
        values, rows = [np.zeros(0, np.float32)], [np.zeros(0, np.int64)]
        for start in range(0, len(queries), BLOCK):
            block = slice(start, start + BLOCK)
            tables = lookup_table(queries[block], self.codebooks)
            engine = self._get_engine(len(queries))
            for b, (scores, found) in enumerate(engine.above(tables, thresholds[block]), start):
                kept = np.ones(len(found), dtype=bool)
                if allowed is not None:
                    kept &= np.isin(found, allowed[b] if isinstance(allowed, list) else allowed)
                if excluded is not None:
                    kept &= ~np.isin(found, excluded[b])
                values.append(scores[kept])
                rows.append(found[kept])
                counts[b + 1] = len(rows[-1])
        return np.cumsum(counts), np.concatenate(values), self._ids_of(np.concatenate(rows))

    def reconstruct(self, ids: Any = None) -> np.ndarray:
        """Decoded rows, float32 (n, D), of all rows or of the given ids in their order."""
        if ids is None:
            return decode_rows(self.codes, self.codebooks)
        wanted = as_ids(ids)
        rows = find_rows(self._ids, len(self), wanted)
        if (rows < 0).any():
            raise ValueError(f"ids should be in the index; {wanted[rows < 0][0].item()!r} is not.")
        return decode_rows(self.codes[rows], self.codebooks)

    def prefix(self, n_codebooks: int) -> "CodeIndex":
        """The same rows with only their first codebooks: a coarser, shorter code.

        Parameters
        ----------
        n_codebooks : int
            From 1 to M.
        """
        limit = len(self.codebooks)
        if not 1 <= n_codebooks <= limit:
            raise ValueError(f"n_codebooks={n_codebooks} should lie from 1 to M={limit}.")
        key = ("prefix", n_codebooks)
        if key not in self._engines:
            short = CodeIndex._of_arrays(
                self.codebooks[:n_codebooks],
                np.ascontiguousarray(self.codes[:, :n_codebooks]),
                self._ids,
                self._next_id,
                self.engine,
                self.n_jobs,
            )
            self._engines[key] = short
        return self._engines[key]

    def save(self, path: str | os.PathLike) -> None:
        """Write the index to a file of its own format, whole or not at all.

        Parameters
        ----------
        path : path
            A file that is there is replaced in one step.
        """
        from ._search_store import save_arrays

        arrays = {"codebooks": self.codebooks, "codes": self.codes}
        if self._ids is not None:
            arrays["ids"] = self._ids
        save_arrays(path, arrays, {"kind": "CodeIndex", "next_id": int(self._next_id)})

    @classmethod
    def load(
        cls,
        path: str | os.PathLike,
        *,
        mmap: bool = True,
        verify: bool = True,
        engine: str = "auto",
        n_jobs: int | None = None,
    ) -> Self:
        """An index from a file of `save`.

        Parameters
        ----------
        path : path
        mmap : bool, default=True
            Leave codes and ids in the file, to be read as they are needed.
        verify : bool, default=True
            Compare checksums, which reads the file once. Whether the file is whole is always
            checked. Nothing in it is ever run.
        engine, n_jobs
            As in the constructor.
        """
        from ._search_store import load_arrays

        arrays, extra = load_arrays(path, mmap=mmap, verify=verify)
        if extra.get("kind") != "CodeIndex" or not {"codebooks", "codes"} <= arrays.keys():
            raise ValueError(f"{path} is not a saved CodeIndex.")
        return cls._of_arrays(
            arrays["codebooks"],
            arrays["codes"],
            arrays.get("ids"),
            extra["next_id"],
            engine,
            n_jobs,
        )

    @classmethod
    def _of_arrays(
        cls,
        codebooks: np.ndarray,
        codes: np.ndarray,
        ids: np.ndarray | None = None,
        next_id: int | None = None,
        engine: str = "auto",
        n_jobs: int | None = None,
    ) -> Self:
        """An index over arrays that are known to be right, without copying the codes."""
        index = object.__new__(cls)
        index.codebooks = np.array(codebooks)
        index.codes = codes
        index.codes.flags.writeable = False
        index._ids = ids
        index._next_id = len(codes) if next_id is None else next_id
        index._set_engine(engine, n_jobs)
        return index

    def to_numpy(self) -> dict[str, np.ndarray]:
        """Copies of all there is: ``codebooks`` (M, K, D), ``codes`` (n, M) and ``ids`` (n,)."""
        return {
            "codebooks": self.codebooks.copy(),
            "codes": np.array(self.codes),
            "ids": np.array(self.ids),
        }

    def to_faiss(self, form: str = "additive") -> Any:
        """A faiss index over the same codes, by inner product; it needs nothing of this package.

        Parameters
        ----------
        form : {"additive", "product"}, default="additive"
            ``"additive"`` is an ``IndexResidualQuantizer`` over D dimensions. ``"product"`` is an
            ``IndexPQ`` over M · D, some 2.5 times faster, which is searched with
            ``np.tile(queries, (1, M))``.

        Returns
        -------
        faiss.Index
            Within an ``IndexIDMap`` where the index has ids of its own, which must be integers.
        """
        from ._search_faiss import build_faiss

        if form not in ("additive", "product"):
            raise ValueError(f"form={form!r} should be 'additive' or 'product'.")
        if self._ids is not None and self._ids.dtype.kind == "U":
            raise TypeError(
                "faiss has integer ids only; use CodeIndex(index.codebooks, index.codes)"
                ".to_faiss(), whose rows number index.ids."
            )
        return build_faiss(self.codebooks, np.asarray(self.codes), self._ids, form)

    @classmethod
    def from_faiss(
        cls,
        index: Any,
        *,
        repeated_query: bool = False,
        engine: str = "auto",
        n_jobs: int | None = None,
    ) -> Self:
        """An index with the codes of a faiss index.

        Parameters
        ----------
        index : faiss.Index
            An ``IndexResidualQuantizer``, ``IndexLocalSearchQuantizer`` or ``IndexPQ`` by inner
            product, or an ``IndexIDMap`` over one.
        repeated_query : bool, default=False
            Whether an ``IndexPQ`` is searched with the query repeated M times, as the product form
            of `to_faiss` is.
        engine, n_jobs
            As in the constructor.
        """
        from ._search_faiss import read_faiss

        codebooks, codes, ids = read_faiss(index, repeated_query)
        return cls(codebooks, codes, ids=ids, engine=engine, n_jobs=n_jobs)

    def _check_embeddings(self, embeddings: Any) -> np.ndarray:
        array = np.asarray(embeddings)
        n_dims = self.codebooks.shape[2]
        if array.ndim != 2 or array.shape[1] != n_dims:
            raise ValueError(
                f"embeddings should have shape (q, D={n_dims}), the D of the codebooks; got "
                f"{array.shape}."
            )
        if array.dtype.kind not in "biuf":
            raise TypeError(f"embeddings should be numbers; got dtype {array.dtype}.")
        if array.dtype != np.float32:
            with np.errstate(over="ignore"):
                array = np.asarray(array, dtype=np.float32)
        if not np.isfinite(array).all():
            raise ValueError("embeddings contain NaN or infinity, or exceed float32.")
        return array

    def _check_vectors(self, vectors: Any) -> Any:
        shape = (len(self), self.codebooks.shape[2])
        if np.shape(vectors) != shape:
            raise ValueError(f"vectors should have shape (n, D)={shape}; got {np.shape(vectors)}.")
        return vectors

    def _ids_of(self, rows: np.ndarray) -> np.ndarray:
        if self._ids is None:
            return rows
        if not len(self):
            return np.zeros(rows.shape, dtype=self._ids.dtype)
        found = self._ids[rows]
        found[rows < 0] = -1 if self._ids.dtype.kind == "i" else ""
        return found

    def _n_findable(self, n_queries: int, excluded: np.ndarray | None, allowed: Any) -> int:
        """The largest number of rows that a query may find."""
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

    def _get_engine(self, n_queries: int) -> Engine:
        name = self.engine
        if name == "auto":
            name = choose_engine(len(self), self.codebooks.shape, n_queries)
        if name not in self._engines:
            self._engines[name] = build_engine(name, self.codes, self.codebooks.shape[1])
        return self._engines[name]

    def _rank(
        self,
        queries: np.ndarray,
        k: int,
        excluded: np.ndarray | None = None,
        allowed: np.ndarray | list[np.ndarray] | None = None,
    ) -> Iterator[tuple[slice, np.ndarray, np.ndarray, np.ndarray]]:
        """For blocks of queries look-up tables (B, M, K), similarities and rows (B, k), filled up
        with -inf and -1."""
        engine: Engine | None = None
        if allowed is None:
            engine = self._get_engine(len(queries))
        elif not isinstance(allowed, list):
            shape = self.codebooks.shape
            name = choose_engine(len(allowed), shape, len(queries))
            engine = build_engine(name, self.codes[allowed], shape[1])

        size = max(min(_BLOCK_RESULTS // max(k, 1), BLOCK), 1)  # deep rankings: fewer

        def rank_block(start: int) -> tuple[slice, np.ndarray, np.ndarray, np.ndarray]:
            first = start - start % BLOCK
            block = slice(start, min(start + size, first + BLOCK, len(queries)))
            tables = lookup_table(queries[first : first + BLOCK], self.codebooks)
            tables = tables[start - first : block.stop - first]
            left_out = None if excluded is None else excluded[block]
            n_more = k + (0 if left_out is None else left_out.shape[1])
            if engine is not None:
                n_rows = len(self) if allowed is None else len(allowed)
                values, rows = engine.search(tables, min(n_more, n_rows))
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
        if len(starts) == 1:
            yield rank_block(starts[0])
            return
        from joblib import Parallel, delayed, effective_n_jobs

        if effective_n_jobs(self.n_jobs) > 1:
            parallel = Parallel(n_jobs=self.n_jobs, backend="threading", return_as="generator")
            yield from parallel(delayed(rank_block)(start) for start in starts)
        else:
            yield from map(rank_block, starts)

    def _tied_rows(self, tables: np.ndarray, similarities: np.ndarray) -> list[np.ndarray]:
        """For each query of a block the rows whose similarity is exactly the given one (B, 1)."""
        similarities = similarities[:, 0]
        found = self._get_engine(len(tables)).above(tables, similarities)
        return [rows[scores == s] for (scores, rows), s in zip(found, similarities, strict=True)]
