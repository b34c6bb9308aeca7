"""An inverted file: rows in lists by place on the sphere, of which a query visits a few."""

import os
from typing import Any, Self

import numpy as np

from ._search_checks import check_k
from ._search_engines import score_codes
from ._search_ids import read_excluded
from ._search_index import BLOCK, CodeIndex
from ._search_tables import decode_rows, lookup_table
from ._search_topk import top_k

__all__ = ["InvertedCodeIndex"]

_TRAINING_ROWS = 64  # for each list
_BLOCK_ROWS = 2**14


class InvertedCodeIndex:
    """Search in the most promising lists of rows only, for tens of millions of them.

    Rows are divided among lists by their nearest of `n_lists` directions, found by spherical
    k-means. A query looks at the rows of its `n_probe` nearest lists, and there finds what
    `CodeIndex` would find: the same similarities, the same order of equal ones. What is in other
    lists it misses. Codes stand for whole vectors. Codes of what is left after subtracting a list's
    direction would find a little more of the exact neighbours, but need codebooks of their own;
    ranking a longer list again by exact embeddings finds several times as many.

    Parameters
    ----------
    index : CodeIndex
        Its codebooks, codes and ids are taken as they are now.
    n_lists : int, default=None
        None is about 2 · sqrt(n): building costs as their number times n.
    vectors : array-like of shape (n, D), default=None
        Exact embeddings of the rows (float16 or a memory map at will), by which rows are divided
        more truly; None takes the decoded rows.
    n_iter : int, default=10
        Iterations of k-means, over at most 64 rows a list.
    random_state : int, RandomState instance or None, default=None
    n_jobs : int, default=None
        Threads over blocks of 64 queries; None is 1 unless joblib's context says otherwise.

    Attributes
    ----------
    directions : ndarray of shape (n_lists, D)
        Unit rows.
    sizes : ndarray of shape (n_lists,)
        Rows in each list.

    Examples
    --------
    >>> import numpy as np
    >>> codebooks = np.array([[[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]])
    >>> index = CodeIndex(codebooks, [[0], [1], [0], [2]])
    >>> inverted = InvertedCodeIndex(index, n_lists=2, random_state=0)
    >>> inverted.search(np.array([[0.0, 1.0]]), k=2, n_probe=1)[1]
    array([[1, 3]])
    """

    def __init__(
        self,
        index: CodeIndex,
        n_lists: int | None = None,
        *,
        vectors: Any = None,
        n_iter: int = 10,
        random_state: Any = None,
        n_jobs: int | None = None,
    ) -> None:
        n = len(index)
        if n == 0:
            raise ValueError("index has no rows; add rows before dividing them among lists.")
        n_lists = min(round(2 * n**0.5), n) if n_lists is None else check_k(n_lists, "n_lists")
        if n_lists > n:
            raise ValueError(f"n_lists={n_lists} should be <= n={n} rows; lower n_lists.")
        if vectors is not None:
            vectors = index._check_vectors(vectors)
        self.n_jobs = n_jobs
        self.directions = _train_directions(index, n_lists, vectors, n_iter, random_state)
        nearest = np.empty(n, dtype=np.int32)
        for start in range(0, n, _BLOCK_ROWS):
            part = slice(start, min(start + _BLOCK_ROWS, n))
            nearest[part] = (_rows(index, vectors, part) @ self.directions.T).argmax(axis=1)
        order = np.argsort(nearest, kind="stable")  # ascending rows within a list
        self._rows = order.astype(np.int32 if n < 2**31 else np.int64)
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(nearest, minlength=n_lists))])
        self._sorted = CodeIndex(index.codebooks, index.codes[order])
        self._ids = None if index._ids is None else np.array(index._ids)

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"InvertedCodeIndex({len(self)} rows in {len(self.directions)} lists)"

    @property
    def sizes(self) -> np.ndarray:
        """Rows in each list, (n_lists,)."""
        return np.diff(self._starts)

    def search(
        self,
        embeddings: Any,
        k: int,
        *,
        n_probe: int = 16,
        exclude: Any = None,
        exclude_self: bool = False,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest rows of each embedding among those of its nearest lists.

        Parameters
        ----------
        embeddings : array-like of shape (q, D)
        k : int
        n_probe : int, default=16
            Lists that a query visits; all of them give the ranking of `CodeIndex`.
        exclude, exclude_self
            As in `CodeIndex.search`.

        Returns
        -------
        similarities : ndarray of shape (q, min(k, n))
            float32, descending; -inf where a query's lists have no more rows.
        ids : ndarray of shape (q, min(k, n))
            -1 or '' where there is none.
        """
        from joblib import Parallel, delayed, effective_n_jobs

        queries = self._sorted._check_embeddings(embeddings)
        k = min(check_k(k, "k"), len(self))
        n_probe = min(check_k(n_probe, "n_probe"), len(self.directions))
        excluded = read_excluded(exclude, exclude_self, self._ids, len(self), len(queries))
        similarities = np.full((len(queries), k), -np.inf, dtype=np.float32)
        rows = np.full((len(queries), k), -1, dtype=np.int64)

        def search_block(start: int) -> None:
            part = slice(start, start + BLOCK)
            tables = lookup_table(queries[part], self._sorted.codebooks)
            nearness = queries[part] @ self.directions.T
            for b, (table, near) in enumerate(zip(tables, nearness, strict=True), start):
                left_out = None if excluded is None else excluded[b]
                values, found = self._search_lists(table, top_k(near, n_probe), k, left_out)
                similarities[b, : len(found)], rows[b, : len(found)] = values, found

        starts = range(0, len(queries), BLOCK)
        if len(starts) > 1 and effective_n_jobs(self.n_jobs) > 1:
            Parallel(n_jobs=self.n_jobs, backend="threading")(
                delayed(search_block)(start) for start in starts
            )
        else:
            for start in starts:
                search_block(start)
        if self._ids is None:
            return similarities, rows
        found = self._ids[rows]
        found[rows < 0] = -1 if self._ids.dtype.kind == "i" else ""
        return similarities, found

    def _search_lists(
        self, table: np.ndarray, lists: np.ndarray, k: int, left_out: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Similarities and rows of the k best in some lists; table is (M, K)."""
        parts = [slice(self._starts[i], self._starts[i + 1]) for i in lists]
        codes = np.concatenate([self._sorted.codes[part] for part in parts])
        rows = np.concatenate([self._rows[part] for part in parts])
        scores = score_codes(table, np.ascontiguousarray(codes.T))
        n_more = k if left_out is None else k + len(left_out)
        if n_more < len(rows):
            # Rows come by list: everything as good as the k-th, then by row.
            kept = np.flatnonzero(scores >= scores[top_k(scores, n_more)[-1]])
            scores, rows = scores[kept], rows[kept]
        if left_out is not None:
            kept = np.flatnonzero(~np.isin(rows, left_out))
            scores, rows = scores[kept], rows[kept]
        order = np.lexsort((rows, -scores))[:k]
        return scores[order], rows[order]

    def save(self, path: str | os.PathLike) -> None:
        """Write the index to a file, as `CodeIndex.save` does."""
        from ._search_store import save_arrays

        arrays = {
            "codebooks": self._sorted.codebooks,
            "codes": self._sorted.codes,
            "rows": self._rows,
            "starts": self._starts,
            "directions": self.directions,
        }
        if self._ids is not None:
            arrays["ids"] = self._ids
        save_arrays(path, arrays, {"kind": "InvertedCodeIndex"})

    @classmethod
    def load(
        cls,
        path: str | os.PathLike,
        *,
        mmap: bool = True,
        verify: bool = True,
        n_jobs: int | None = None,
    ) -> Self:
        """An index from a file of `save`; `mmap` and `verify` as in `CodeIndex.load`."""
        from ._search_store import load_arrays

        arrays, extra = load_arrays(path, mmap=mmap, verify=verify)
        if extra.get("kind") != "InvertedCodeIndex":
            raise ValueError(f"{path} is not a saved InvertedCodeIndex.")
        index = object.__new__(cls)
        index.n_jobs = n_jobs
        index.directions = np.array(arrays["directions"])
        index._rows, index._starts = arrays["rows"], np.array(arrays["starts"])
        index._sorted = CodeIndex._of_arrays(arrays["codebooks"], arrays["codes"])
        index._ids = arrays.get("ids")
        return index


def _rows(index: CodeIndex, vectors: Any, part: Any) -> np.ndarray:
    """Vectors of some rows, float32: the given ones or decoded codes."""
    if vectors is None:
        return decode_rows(index.codes[part], index.codebooks)
    return np.asarray(vectors[part], dtype=np.float32)


def _train_directions(
    index: CodeIndex, n_lists: int, vectors: Any, n_iter: int, random_state: Any
) -> np.ndarray:
    """Unit centroids (n_lists, D) of spherical k-means over a sample of the rows."""
    import faiss
    from sklearn.utils import check_random_state

    rng = check_random_state(random_state)
    n_sampled = min(len(index), max(_TRAINING_ROWS * n_lists, 256))
    sampled = np.sort(rng.choice(len(index), n_sampled, replace=False))
    points = _rows(index, vectors, sampled)
    norms = np.linalg.norm(points, axis=1, keepdims=True)
    points = np.ascontiguousarray(points / np.where(norms > 0, norms, 1))
    kmeans = faiss.Kmeans(
        points.shape[1],
        n_lists,
        niter=n_iter,
        spherical=True,
        seed=int(rng.randint(2**31 - 1)),
        min_points_per_centroid=1,  # else faiss prints a warning
        max_points_per_centroid=_TRAINING_ROWS * 256,
    )
    kmeans.train(points)
    return np.array(kmeans.centroids)
