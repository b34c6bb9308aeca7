"""The index object: codes, ids and the engines that rank them."""

import os
import threading
import weakref
from typing import Any, Self

import numpy as np

from ..codebooks.decoding import decode_rows
from ..utils.validation import check_choice
from ._faiss import build_faiss, read_faiss
from ._ids import as_ids, ids_of, read_excluded, read_filter
from ._load import check_rows
from ._rows import Rows
from ._select import BUILDERS
from ._store import load_arrays, save_arrays
from ._tables import rerank, rerank_codes
from .checks import (
    check_codebooks,
    check_codes,
    check_embeddings,
    check_k,
    check_shortlist,
    check_unique,
    check_vectors,
)

__all__ = ["CodeIndex"]

_KIND = "CodeIndex"  # of a file
ENGINES = ("auto", *BUILDERS)


class CodeIndex:
    """Search exactly among codes, by inner product with the decoded rows.

    The similarity of an embedding and a row is the float32 sum of M look-up table entries in the
    order of the codebooks. Larger is closer; rows of equal similarity come in order of row number.
    All engines return the same ranking, to the last bit.

    Threads may share an index, also while one of them adds or removes rows. A writer never changes
    codes and ids but replaces both in one step: a search, save or export sees the rows as they
    were when it began. Writers wait for each other. One that fails or is interrupted leaves the
    index as it was. Between two reads, of `codes` and of `ids` for instance, a writer may come:
    `to_numpy` gives what belongs together.

    Parameters
    ----------
    codebooks : array-like of shape (M, K, D)
        Kept as float32.
    codes : array-like of shape (n, M)
        Integers from 0 to K - 1; kept as uint8, or uint16 where K > 256.
    ids : array-like of shape (n,), default=None
        Distinct integers or strings; what `search` returns. None numbers the rows, and goes on
        numbering in `add`. -1 and '' are ids like others, though they also stand for none where
        the similarity is -inf.
    engine : {"auto", "buckets", "bounded", "scan", "pairs", "faiss", "numpy"}, default="auto"
        ``"buckets"`` scores distinct codes once (8 and 16 bits), ``"bounded"`` sorts codes by their
        first codewords and looks at those alone that may hold one of the k best, by code that numba
        compiles when some queries have come (where numba is missing, by numpy); ``"scan"`` scores
        many queries in one pass, ``"pairs"`` a few, each by tables of two codebooks at once;
        ``"faiss"`` is the product-quantization scan of faiss (at most 1024 codewords), ``"numpy"``
        the reference.
        ``"auto"`` chooses by size and number of queries, and never faiss.
    n_jobs : int, default=None
        Threads over blocks of 64 queries, by joblib; None is 1 unless joblib's context says
        otherwise. Within a block torch and faiss run on that one thread; how many they use
        elsewhere in the process stays as it is.

    Attributes
    ----------
    codebooks : ndarray of shape (M, K, D)
    codes : ndarray of shape (n, M)
    ids : ndarray of shape (n,)
        All three are read-only.

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

    def __init__(
        self,
        codebooks: Any,
        codes: Any,
        *,
        ids: Any = None,
        engine: str = "auto",
        n_jobs: int | None = None,
    ) -> None:
        codebooks = check_codebooks(codebooks)
        codes = check_codes(codes, codebooks.shape)
        if ids is not None:
            ids = as_ids(ids).copy()
            check_unique(ids, len(codes))
        self._begin(Rows(codebooks, codes, ids), engine, n_jobs)

    def _begin(self, rows: Rows, engine: str, n_jobs: int | None) -> None:
        self.engine = check_choice("engine", engine, ENGINES)
        self.n_jobs = n_jobs
        # What is read more than once is read from one `Rows`: the next moment there may be others.
        self._rows = rows
        self._writing = threading.RLock()
        _INDEXES.add(self)

    @classmethod
    def _over(cls, rows: Rows, engine: str = "auto", n_jobs: int | None = None) -> Self:
        """Return an index over rows that are known to be right, and that others may hold too."""
        index = object.__new__(cls)  # __init__ would check and copy what is right already
        index._begin(rows, engine, n_jobs)
        return index

    @property
    def codebooks(self) -> np.ndarray:
        """Return the codebooks, (M, K, D)."""
        return self._rows.codebooks

    @property
    def codes(self) -> np.ndarray:
        """Return the codes of the rows, (n, M)."""
        return self._rows.codes

    @property
    def ids(self) -> np.ndarray:
        """Return the ids of the rows, (n,)."""
        return self._rows.ids

    def __len__(self) -> int:
        return len(self._rows)

    def copy(self, ids: Any = None) -> Self:
        """Return an index of its own over the same rows, which costs next to nothing.

        The two share memory, and what searches are prepared by. What is added to one of them, or
        removed from it, the other does not see.

        Parameters
        ----------
        ids : array-like of shape (n,), default=None
            Distinct integers or strings in place of the ids; None keeps these.

        Returns
        -------
        CodeIndex
            With the engine and the threads of this one.

        Examples
        --------
        >>> import numpy as np
        >>> index = CodeIndex(np.array([[[1.0], [2.0]]]), [[0], [1]])
        >>> index.copy(ids=["a", "b"]).search(np.array([[1.0]]), k=1)[1]
        array([['b']], dtype='<U1')
        """
        rows = self._rows
        return self._over(rows if ids is None else rows.with_ids(ids), self.engine, self.n_jobs)

    def __repr__(self) -> str:
        rows = self._rows
        n_codebooks, n_codewords, n_dims = rows.codebooks.shape
        return (
            f"CodeIndex({len(rows)} rows, n_codebooks={n_codebooks}, n_codewords={n_codewords}, "
            f"n_dims={n_dims}, engine={self.engine!r})"
        )

    def __getstate__(self) -> dict[str, Any]:
        # A lock can't be pickled; engines are built again at the first search.
        state = dict(self.__dict__)
        del state["_writing"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._writing = threading.RLock()
        _INDEXES.add(self)

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
            The same index, with more rows.
        """
        # Checked outside of the lock, which should be held for moments only.
        codes = check_codes(codes, self._rows.codebooks.shape)
        ids = None if ids is None else as_ids(ids)
        with self._writing:
            self._rows = self._rows.with_added(codes, ids)
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
            The same index, with fewer rows.
        """
        ids = as_ids(ids)
        with self._writing:
            self._rows = self._rows.without(ids)
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
        """Find the k nearest rows of each embedding.

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
        whole = self._rows
        if exclude is filter is n_codebooks is None and not exclude_self:
            best = self._nearest(whole, embeddings, k, vectors, shortlist)
            if best is not None:
                return best[0], ids_of(best[1], whole.own_ids)
        queries = check_embeddings(embeddings, whole.codebooks.shape[2])
        k = check_k(k, "k")
        if n_codebooks is not None:
            _check_prefix(n_codebooks, len(whole.codebooks))
        if vectors is not None:
            vectors = check_vectors(vectors, (len(whole), whole.codebooks.shape[2]))
        excluded = read_excluded(exclude, exclude_self, whole.own_ids, len(whole), len(queries))
        allowed = read_filter(filter, whole.own_ids, len(whole), len(queries))
        has_second_stage = n_codebooks is not None or vectors is not None
        depth = check_shortlist(shortlist, k, has_second_stage, "n_codebooks or vectors")
        first = whole if n_codebooks is None else whole.prefix(n_codebooks)
        # No query finds more than it may: the result is as narrow as the widest of them.
        depth = min(depth, first.n_findable(len(queries), excluded, allowed))
        similarities = np.empty((len(queries), min(k, depth)), dtype=np.float32)
        found = np.empty((len(queries), min(k, depth)), dtype=np.int64)
        ranked = first.rank(
            queries, depth, excluded, allowed, engine=self.engine, n_jobs=self.n_jobs
        )
        for block, tables, values, rows in ranked:
            if first is not whole:
                tables = whole.tables(queries[block])
                # Exact vectors come last, and choose from the whole shortlist.
                keep = depth if vectors is not None else k
                values, rows = rerank_codes(tables, rows, whole.codes, keep)
            if vectors is not None:
                values, rows = rerank(queries[block], rows, vectors, k)
            similarities[block], found[block] = values, rows
        return similarities, ids_of(found, whole.own_ids)

    def _nearest(
        self, whole: Rows, embeddings: Any, k: int, vectors: Any, shortlist: int | None
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Search for one embedding without a step too many; None for what is not as usual."""
        if vectors is None:
            return whole.nearest(embeddings, k, self.engine) if shortlist is None else None
        if type(k) is not int or k < 1:
            return None
        vectors = check_vectors(vectors, (len(whole), whole.codebooks.shape[2]))
        depth = check_shortlist(shortlist, k, True, "vectors")
        best = whole.nearest(embeddings, min(depth, len(whole)), self.engine)
        return None if best is None else rerank(embeddings, best[1], vectors, k)

    def search_codes(self, codes: Any, k: int, **options: Any) -> tuple[np.ndarray, np.ndarray]:
        """Find the k nearest rows of each code: symmetric search, both sides quantized.

        Parameters
        ----------
        codes : array-like of shape (q, M)
        k : int
        **options
            As in `search`.

        Returns
        -------
        similarities, ids : ndarray of shape (q, k')
            As `search` gives them.
        """
        codebooks = self._rows.codebooks
        return self.search(
            decode_rows(check_codes(codes, codebooks.shape), codebooks), k, **options
        )

    def range_search(
        self,
        embeddings: Any,
        threshold: Any,
        *,
        exclude: Any = None,
        exclude_self: bool = False,
        filter: Any = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find all rows whose similarity is at least a threshold.

        Parameters
        ----------
        embeddings : array-like of shape (q, D)
        threshold : float or array-like of shape (q,)
            Compared in float32.
        exclude : array-like of shape (q,) or list of q lists of ids, default=None
        exclude_self : bool, default=False
        filter : array-like, default=None
            As in `search`.

        Returns
        -------
        starts : ndarray of shape (q + 1,)
            Query i found entries ``starts[i]:starts[i + 1]`` of the other two, nearest first.
        similarities, ids : ndarray of shape (n_found,)
            Of all queries, one after the other.

        Examples
        --------
        >>> import numpy as np
        >>> index = CodeIndex(np.array([[[1.0], [2.0], [3.0]]]), [[0], [1], [2]])
        >>> index.range_search(np.array([[1.0], [-1.0]]), 1.5)
        (array([0, 2, 2]), array([3., 2.], dtype=float32), array([2, 1]))
        """
        whole = self._rows
        queries = check_embeddings(embeddings, whole.codebooks.shape[2])
        # In float32, as similarities are: a row's own similarity as threshold finds the row.
        thresholds = np.asarray(threshold, dtype=np.float32)
        if thresholds.shape not in ((), (len(queries),)) or np.isnan(thresholds).any():
            raise ValueError(
                f"threshold should be a number or one for each of {len(queries)} queries."
            )
        thresholds = np.broadcast_to(thresholds, len(queries))
        excluded = read_excluded(exclude, exclude_self, whole.own_ids, len(whole), len(queries))
        allowed = read_filter(filter, whole.own_ids, len(whole), len(queries))
        counts = np.zeros(len(queries) + 1, dtype=np.int64)
        values, rows = [np.zeros(0, np.float32)], [np.zeros(0, np.int64)]
        reaching = whole.reaching(queries, thresholds, excluded, allowed, engine=self.engine)
        for b, (scores, found) in enumerate(reaching):
            values.append(scores)
            rows.append(found)
            counts[b + 1] = len(found)
        return (
            np.cumsum(counts),
            np.concatenate(values),
            ids_of(np.concatenate(rows), whole.own_ids),
        )

    def reconstruct(self, ids: Any = None) -> np.ndarray:
        """Decode all rows, or those of the given ids in their order.

        Parameters
        ----------
        ids : array-like of shape (n_chosen,), default=None
            None is all rows.

        Returns
        -------
        ndarray of shape (n, D) or (n_chosen, D)
            float32.
        """
        whole = self._rows
        if ids is None:
            return decode_rows(whole.codes, whole.codebooks)
        return decode_rows(whole.codes[whole.find(as_ids(ids))], whole.codebooks)

    def prefix(self, n_codebooks: int) -> "CodeIndex":
        """Return the same rows with their first codebooks only: a coarser, shorter code.

        Parameters
        ----------
        n_codebooks : int
            From 1 to M.

        Returns
        -------
        CodeIndex
            Over the same memory, with the same ids.
        """
        whole = self._rows
        _check_prefix(n_codebooks, len(whole.codebooks))
        return CodeIndex._over(whole.prefix(int(n_codebooks)), self.engine, self.n_jobs)

    def save(self, path: str | os.PathLike) -> None:
        """Write the index to a file of its own format, whole or not at all.

        Parameters
        ----------
        path : path
            A file that is there is replaced in one step.
        """
        rows = self._rows
        arrays = {"codebooks": rows.codebooks, "codes": rows.codes}
        if rows.own_ids is not None:
            arrays["ids"] = rows.own_ids
        save_arrays(path, arrays, {"kind": _KIND, "next_id": int(rows.next_id)})

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
        """Load an index from a file of `save`.

        Parameters
        ----------
        path : path
        mmap : bool, default=True
            Leave codes and ids in the file, to be read as they are needed.
        verify : bool, default=True
            Compare checksums, which reads the file once more. Loading always checks that the file
            is whole and does not contradict itself: codes name codewords, and no id comes twice.
            Nothing in it is ever run.
        engine : str, default="auto"
        n_jobs : int, default=None
            As in the constructor.

        Returns
        -------
        CodeIndex
            What the file held when it was opened, also where it is replaced meanwhile.

        Raises
        ------
        LoadError
            If the file is cut short, damaged, foreign, of a newer format, or contradicts itself; a
            ``ValueError``.
        """
        kinds = {_KIND: ("codebooks", "codes")}
        arrays, extra = load_arrays(path, kinds, mmap=mmap, verify=verify)
        rows = check_rows(path, arrays, extra.get("next_id", ""))
        return cls._over(rows, engine, n_jobs)

    def to_numpy(self) -> dict[str, np.ndarray]:
        """Copy all there is into arrays that belong together.

        Returns
        -------
        dict of str to ndarray
            ``codebooks`` (M, K, D), ``codes`` (n, M) and ``ids`` (n,).
        """
        rows = self._rows
        return {
            "codebooks": rows.codebooks.copy(),
            "codes": np.array(rows.codes),
            "ids": np.array(rows.ids),
        }

    def to_faiss(self, form: str = "additive") -> Any:
        """Build a faiss index over the same codes, by inner product; faiss alone can use it.

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
        check_choice("form", form, ("additive", "product"))
        rows = self._rows
        if rows.own_ids is not None and rows.own_ids.dtype.kind == "U":
            raise TypeError(
                "faiss has integer ids only; use CodeIndex(index.codebooks, index.codes)"
                ".to_faiss(), whose rows number index.ids."
            )
        return build_faiss(rows.codebooks, np.asarray(rows.codes), rows.own_ids, form)

    @classmethod
    def from_faiss(
        cls,
        index: Any,
        *,
        repeated_query: bool = False,
        engine: str = "auto",
        n_jobs: int | None = None,
    ) -> Self:
        """Make an index with the codes of a faiss index.

        Parameters
        ----------
        index : faiss.Index
            An ``IndexResidualQuantizer``, ``IndexLocalSearchQuantizer`` or ``IndexPQ`` by inner
            product, or an ``IndexIDMap`` over one.
        repeated_query : bool, default=False
            Whether an ``IndexPQ`` is searched with the query repeated M times, as the product form
            of `to_faiss` is.
        engine : str, default="auto"
        n_jobs : int, default=None
            As in the constructor.

        Returns
        -------
        CodeIndex
        """
        codebooks, codes, ids = read_faiss(index, repeated_query)
        return cls(codebooks, codes, ids=ids, engine=engine, n_jobs=n_jobs)


# Locks that another thread holds at the moment of a fork would stay held in the child.
_INDEXES: weakref.WeakSet[CodeIndex] = weakref.WeakSet()


def _free_locks() -> None:
    """Give each index a new lock, in the child of a fork."""
    for index in _INDEXES:
        index._writing = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free_locks)


def _check_prefix(n_codebooks: Any, limit: int) -> None:
    """Refuse a number of first codebooks that there are not."""
    if check_k(n_codebooks, "n_codebooks") > limit:
        raise ValueError(f"n_codebooks={n_codebooks} should lie from 1 to M={limit}.")
