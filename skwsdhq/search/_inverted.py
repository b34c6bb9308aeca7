"""An inverted file: rows in lists by place on the sphere, of which a query visits a few."""

import itertools
import os
from typing import Any, Self

import numpy as np

from ..codebooks.decoding import decode_rows
from ._engines import score_codes
from ._ids import ids_of, read_excluded
from ._index import CodeIndex
from ._lists import assign_rows, learn_residual_codes, train_directions
from ._load import check_lists, check_rows
from ._pairs import pair_columns, pair_tables, rough_scores, rough_slack
from ._rows import BLOCK, Rows, map_by_threads
from ._store import load_arrays, save_arrays
from ._tables import finite_products, rerank
from .checks import check_embeddings, check_k, check_shortlist, check_vectors
from .topk import order_by_score, reaching_top, top_k

__all__ = ["InvertedCodeIndex"]

_GROUP_ROWS = 2**17  # scored at once for a query
_MIN_PAIR_ROWS = 2**14

# Kinds of files. Versions that know no residuals take the second for no index of theirs, and don't
# read its codes as those of vectors.
_OF_VECTORS, _OF_RESIDUALS = "InvertedCodeIndex", "InvertedCodeIndex of residuals"


class InvertedCodeIndex:
    """Search in the most promising lists of rows only, for tens of millions of them.

    Each row goes to the list of its nearest of `n_lists` directions, which spherical k-means finds.
    A direction that is no row's nearest has no list. A query looks at the rows of its `n_probe`
    nearest lists. Where these hold fewer rows than it asks for, it goes on to further lists. It
    misses what other lists hold.

    With exact embeddings the codes are those of residuals: a row less the center of its list, the
    mean of the list's rows. The same number of bytes says more of a small residual than of a whole
    vector. The similarity of a query and a row is then its inner product with the center plus the
    sum of look-up table entries. Codes of vectors (``residuals=False``) give the similarities and
    the order of equal ones that `CodeIndex` gives.

    Either finds several times as many of the exact neighbours when exact embeddings rank a longer
    list again, `vectors` in `search`: by 32 bits, of the ten nearest among 10 million rows, .56
    instead of .15, and .41 instead of .12 with codes of vectors.

    The lists never change: threads may share them, and rows that are added to the `CodeIndex`
    afterwards are not in them.

    Parameters
    ----------
    index : CodeIndex
        Its codebooks, codes and ids are taken as they are now.
    n_lists : int, default=None
        At most so many; equal rows share one. None is about 2 · sqrt(n): building costs as their
        number times n.
    vectors : array-like of shape (n, D), default=None
        Exact embeddings of the rows (float16 or a memory map at will, read in blocks), by which
        rows are divided more truly, and of which residuals are made; None takes the decoded rows.
    residuals : bool, default=None
        Codes of residuals, made anew with codebooks of their own: as many as the index has, of as
        many codewords (of n, where n is smaller), learned from a sample of the rows. None is
        wherever there are `vectors`; True is an error without.
    n_iter : int, default=10
        Iterations of k-means, over at most 64 rows a list.
    random_state : int, RandomState instance or None, default=None
    n_jobs : int, default=None
        Threads over blocks of 64 queries, and of 16,384 rows whose residuals are encoded; None is 1
        unless joblib's context says otherwise.

    Attributes
    ----------
    directions : ndarray of shape (n_lists, D)
        Unit rows.
    sizes : ndarray of shape (n_lists,)
        Rows in each list, at least one.
    codebooks : ndarray of shape (M, K, D)
        Of the codes that are searched: the index's, or those of residuals.
    centers : ndarray of shape (n_lists, D) or None
        What residuals are left from. None with codes of vectors.

    Examples
    --------
    >>> import numpy as np
    >>> codebooks = np.array([[[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]])
    >>> index = CodeIndex(codebooks, [[0], [1], [0], [2]])
    >>> inverted = InvertedCodeIndex(index, n_lists=2, random_state=0)
    >>> inverted.search(np.array([[0.0, 1.0]]), k=2, n_probe=1)[1]
    array([[1, 3]])

    With exact embeddings come codes of residuals, and similarities that are nearer to the exact
    ones, 0.9 and 0.7 here.

    >>> vectors = np.array([[0.9, 0.1], [0.1, 0.9], [1.0, 0.0], [0.7, 0.7]], dtype=np.float16)
    >>> inverted = InvertedCodeIndex(index, n_lists=2, vectors=vectors, random_state=0)
    >>> similarities, ids = inverted.search(np.array([[0.0, 1.0]]), k=2, n_probe=1)
    >>> similarities.round(2)
    array([[0.87, 0.7 ]], dtype=float32)
    """

    def __init__(
        self,
        index: CodeIndex,
        n_lists: int | None = None,
        *,
        vectors: Any = None,
        residuals: bool | None = None,
        n_iter: int = 10,
        random_state: Any = None,
        n_jobs: int | None = None,
    ) -> None:
        from sklearn.utils import check_random_state

        whole = index._rows  # read once: other threads may add to the index
        n = len(whole)
        n_lists = _check_lists(n_lists, n)
        if residuals not in (None, True, False):
            raise TypeError(f"residuals={residuals!r} should be True, False or None.")
        if vectors is not None:
            vectors = check_vectors(vectors, (n, whole.codebooks.shape[2]))
        elif residuals:
            raise ValueError(
                "residuals=True needs exact embeddings to subtract centers from; give vectors= as "
                "well."
            )

        def get_rows(part: Any) -> np.ndarray:
            """Return the vectors of some rows as float32: the given ones or decoded codes."""
            if vectors is None:
                return decode_rows(whole.codes[part], whole.codebooks)
            return _finite(vectors, part, n)

        rng = check_random_state(random_state)
        self.n_jobs = n_jobs
        directions = train_directions(get_rows, n, n_lists, n_iter, rng)
        nearest, centers = assign_rows(get_rows, n, directions)
        codebooks, codes = whole.codebooks, whole.codes
        has_residuals = residuals or (residuals is None and vectors is not None)
        if has_residuals:
            codebooks, codes = learn_residual_codes(
                get_rows, nearest, centers, len(codebooks), codebooks.shape[1], rng, n_jobs
            )
        order = np.argsort(nearest, kind="stable")  # ascending rows within a list
        starts = np.concatenate([[0], np.cumsum(np.bincount(nearest, minlength=n_lists))])
        self._set_lists(starts, directions, centers if has_residuals else None)
        self._rows = order.astype(np.int32 if n < 2**31 else np.int64)
        # Rows of a list lie side by side: a visit reads one stretch of memory.
        self._sorted = Rows(codebooks, codes[order])
        self._ids = whole.own_ids

    def _set_lists(
        self, starts: np.ndarray, directions: np.ndarray, centers: np.ndarray | None
    ) -> None:
        """Keep the lists that hold rows: an empty one would use up a visit."""
        kept = np.diff(starts) > 0
        self._starts = np.append(starts[:-1][kept], starts[-1])
        self.directions = directions[kept]
        self.centers = None if centers is None else centers[kept]

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        kind = "vectors" if self.centers is None else "residuals"
        return (
            f"InvertedCodeIndex({len(self)} rows in {len(self.directions)} lists, codes of {kind})"
        )

    @property
    def sizes(self) -> np.ndarray:
        """Return the number of rows in each list, (n_lists,)."""
        return np.diff(self._starts)

    @property
    def codebooks(self) -> np.ndarray:
        """Return the codebooks of the codes that are searched, (M, K, D)."""
        return self._sorted.codebooks

    def search(
        self,
        embeddings: Any,
        k: int,
        *,
        n_probe: int = 16,
        exclude: Any = None,
        exclude_self: bool = False,
        vectors: Any = None,
        shortlist: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the k nearest rows of each embedding among those of its nearest lists.

        Parameters
        ----------
        embeddings : array-like of shape (q, D)
        k : int
        n_probe : int, default=16
            Lists that a query visits, the nearest first; where these hold fewer than k rows beside
            those that it leaves out, it goes on until there are as many. With codes of vectors all
            lists give the ranking of `CodeIndex`.
        exclude : array-like of shape (q,) or list of q lists of ids, default=None
        exclude_self : bool, default=False
            As in `CodeIndex.search`.
        vectors : array-like of shape (n, D), default=None
            Exact embeddings of the rows, float16 or a memory map at will, that rank the shortlist
            again.
        shortlist : int, default=None
            How many of the best `vectors` rank again; None is 10 k, at least 100.

        Returns
        -------
        similarities : ndarray of shape (q, min(k, n))
            float32, descending; -inf where a query leaves out so many that no more are there.
        ids : ndarray of shape (q, min(k, n))
            -1 or '' where there is none.
        """
        queries = check_embeddings(embeddings, self.codebooks.shape[2])
        k = check_k(k, "k")
        depth = check_shortlist(shortlist, k, vectors is not None, "vectors")
        k, depth = min(k, len(self)), min(depth, len(self))
        if vectors is not None:
            vectors = check_vectors(vectors, (len(self), self.codebooks.shape[2]))
        n_probe = min(check_k(n_probe, "n_probe"), len(self.directions))
        excluded = read_excluded(exclude, exclude_self, self._ids, len(self), len(queries))
        similarities = np.full((len(queries), k), -np.inf, dtype=np.float32)
        rows = np.full((len(queries), k), -1, dtype=np.int64)

        def search_block(start: int) -> None:
            part = slice(start, min(start + BLOCK, len(queries)))
            values = np.full((part.stop - start, depth), -np.inf, dtype=np.float32)
            found = np.full(values.shape, -1, dtype=np.int64)
            tables = self._sorted.tables(queries[part])
            nearness = finite_products(queries[part], self.directions)
            offsets = None
            if self.centers is not None:
                offsets = finite_products(queries[part], self.centers)
            for b, table in enumerate(tables):
                left_out = None if excluded is None else excluded[start + b]
                lists = self._choose_lists(nearness[b], n_probe, k, left_out)
                own = None if offsets is None else offsets[b, lists]
                best = self._search_lists(table, lists, own, depth, left_out)
                values[b, : len(best[1])], found[b, : len(best[1])] = best
            # Exact vectors put the shortlist in its final order, and cut it to k.
            if vectors is not None:
                values, found = rerank(queries[part], found, vectors, k)
            similarities[part], rows[part] = values, found

        for _ in map_by_threads(search_block, range(0, len(queries), BLOCK), self.n_jobs):
            pass  # each block has written its own part
        return similarities, ids_of(rows, self._ids)

    def _choose_lists(
        self, nearness: np.ndarray, n_probe: int, k: int, left_out: np.ndarray | None
    ) -> np.ndarray:
        """Choose the nearest lists: n_probe, or as many as hold k rows beside those left out."""
        n_rows = k if left_out is None else k + int((left_out >= 0).sum())
        lists = top_k(nearness, n_probe)
        if self.sizes[lists].sum() >= n_rows:  # as a rule: no need to sort all lists
            return lists
        # Few rows, or many of them left out: go on through all lists, the nearest first.
        lists = order_by_score(nearness)
        n_needed = int(np.searchsorted(np.cumsum(self.sizes[lists]), n_rows)) + 1
        return lists[: max(n_probe, n_needed)]

    def _search_lists(
        self,
        table: np.ndarray,
        lists: np.ndarray,
        offsets: np.ndarray | None,
        k: int,
        left_out: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return similarities and rows of the k best in some lists.

        table : (M, K).  offsets : (n_probe,), the query's inner products with the lists' centers.
        """
        starts, stops = self._starts[lists], self._starts[lists + 1]
        ends = np.cumsum(stops - starts)
        n_more = k if left_out is None else k + len(left_out)
        # Of many rows most are known to be too far by sums of pairs, in another order.
        pairs = pair_tables(table) if ends[-1] >= _MIN_PAIR_ROWS else None
        margin = 0.0
        if pairs is not None:
            margin = 2 * rough_slack(table, 0.0 if offsets is None else float(abs(offsets).max()))
        best: list[tuple[np.ndarray, np.ndarray]] = []
        # Some lists at a time, whose scores stay in the cache and in memory that is mapped already.
        bounds = np.flatnonzero(np.diff(ends // _GROUP_ROWS)) + 1
        for first, last in itertools.pairwise([0, *bounds, len(lists)]):
            parts = [slice(starts[i], stops[i]) for i in range(first, last)]
            codes = np.concatenate([self._sorted.codes[part] for part in parts])
            sizes = stops[first:last] - starts[first:last]
            added = None if offsets is None else np.repeat(offsets[first:last], sizes)
            kept, scores = _best_codes(table, pairs, codes, added, n_more, margin)
            # for i in kept: i - (rows of the lists before its own) + (where its own begins)
            own_ends = np.cumsum(sizes)
            own = np.searchsorted(own_ends, kept, side="right")
            best.append((scores, self._rows[kept + (stops[first:last] - own_ends)[own]]))
        scores, rows = (np.concatenate(parts) for parts in zip(*best, strict=True))
        if left_out is not None:
            kept = np.flatnonzero(~np.isin(rows, left_out))
            scores, rows = scores[kept], rows[kept]
        order = np.lexsort((rows, -scores))[:k]
        return scores[order], rows[order]

    def save(self, path: str | os.PathLike) -> None:
        """Write the index to a file, as `CodeIndex.save` does.

        Parameters
        ----------
        path : path
            A file that is there is replaced in one step.
        """
        arrays = {
            "codebooks": self.codebooks,
            "codes": self._sorted.codes,
            "rows": self._rows,
            "starts": self._starts,
            "directions": self.directions,
        }
        if self.centers is not None:
            arrays["centers"] = self.centers
        if self._ids is not None:
            arrays["ids"] = self._ids
        kind = _OF_VECTORS if self.centers is None else _OF_RESIDUALS
        save_arrays(path, arrays, {"kind": kind})

    @classmethod
    def load(
        cls,
        path: str | os.PathLike,
        *,
        mmap: bool = True,
        verify: bool = True,
        n_jobs: int | None = None,
    ) -> Self:
        """Load an index from a file of `save`.

        Parameters
        ----------
        path : path
        mmap, verify : bool, default=True
            As in `CodeIndex.load`.
        n_jobs : int, default=None
            As in the constructor.

        Returns
        -------
        InvertedCodeIndex

        Raises
        ------
        LoadError
            As `CodeIndex.load`.
        """
        needed = ("codebooks", "codes", "rows", "starts", "directions")
        kinds = {_OF_VECTORS: needed, _OF_RESIDUALS: (*needed, "centers")}
        arrays, _ = load_arrays(path, kinds, mmap=mmap, verify=verify)
        index = object.__new__(cls)
        rows = check_rows(path, arrays)
        check_lists(path, arrays)
        index._sorted, index._ids = Rows(rows.codebooks, rows.codes), rows.own_ids
        index._rows = arrays["rows"]
        index._set_lists(arrays["starts"], arrays["directions"], arrays.get("centers"))
        index.n_jobs = n_jobs
        return index


def _check_lists(n_lists: int | None, n: int) -> int:
    """Return how many lists n rows are divided among at most."""
    if n == 0:
        raise ValueError("index has no rows; add rows before dividing them among lists.")
    n_lists = min(round(2 * n**0.5), n) if n_lists is None else check_k(n_lists, "n_lists")
    if n_lists > n:
        raise ValueError(f"n_lists={n_lists} should be <= n={n} rows; lower n_lists.")
    return n_lists


def _best_codes(
    table: np.ndarray,
    pairs: list[np.ndarray] | None,
    codes: np.ndarray,
    offsets: np.ndarray | None,
    k: int,
    margin: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Return positions, ascending, and similarities of the k best codes, of ties, and of more.

    table : (M, K).  pairs : its `pair_tables`, to look through many codes by; margin is what their
    sums may miss.  codes : (n, M).  offsets : (n,), part of the similarity of each.
    """
    if pairs is None:
        scores = score_codes(table, np.ascontiguousarray(codes.T))
    else:
        scores = rough_scores(pairs, pair_columns(codes))
    if offsets is not None:
        scores += offsets
    kept = reaching_top(scores, k, margin) if k < len(scores) else np.arange(len(scores))
    if pairs is None:
        return kept, scores[kept]
    # Scored again in the order of the codebooks, so that the numbers are those of every engine.
    exact = score_codes(table, codes[kept].T)
    if offsets is not None:
        exact += offsets[kept]
    return kept, exact


def _finite(vectors: Any, part: Any, n: int) -> np.ndarray:
    """Return some rows of the vectors as float32; raise ValueError where they are no numbers."""
    with np.errstate(over="ignore"):
        rows = np.asarray(vectors[part], dtype=np.float32)
    good = np.isfinite(rows).all(axis=1)
    if not good.all():
        wrong = np.arange(n)[part][~good][0]
        raise ValueError(f"vectors contain NaN or infinity, or exceed float32, in row {wrong}.")
    return rows
