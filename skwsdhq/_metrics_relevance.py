"""Which database rows are relevant to a query: those that share at least one label with it."""

from collections.abc import Iterable
from typing import Any

import numpy as np

__all__ = ["Relevance", "relate"]

# Up to this many labels a row's labels are a few machine words; beyond it, lists of rows win.
_MAX_MASK_LABELS = 512


class Relevance:
    """Relevance of database rows to queries, never held as a queries × database matrix.

    ``n_queries`` and ``n_rows`` are its two lengths. `mask` gives all rows for one query,
    `of_ranked` the rows of a ranking, `totals` how many relevant rows each query has.
    """

    n_queries: int
    n_rows: int

    def mask(self, query: int) -> np.ndarray:
        """Relevance of every row to one query, bool (n,)."""
        raise NotImplementedError

    def of_ranked(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Relevance of ranked rows (B, R) to queries (B,), bool (B, R)."""
        return np.array(
            [self.mask(q)[r] for q, r in zip(queries, rows, strict=True)], dtype=bool
        ).reshape(rows.shape)

    def totals(self, queries: np.ndarray) -> np.ndarray:
        """Number of relevant rows of each of the queries (B,), int64 (B,)."""
        return np.array([np.count_nonzero(self.mask(q)) for q in queries], dtype=np.int64)


class _ClassRelevance(Relevance):
    """One class a row: relevant when the classes are the same."""

    def __init__(self, queries: np.ndarray, rows: np.ndarray) -> None:
        self.queries, self.rows = queries, rows  # (q,), (n,): the same numbering in both
        self.n_queries, self.n_rows = len(queries), len(rows)
        n_classes = int(max(queries.max(initial=-1), rows.max(initial=-1))) + 1
        self.counts = np.bincount(rows, minlength=n_classes)

    def mask(self, query: int) -> np.ndarray:
        return self.rows == self.queries[query]

    def of_ranked(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return self.rows[rows] == self.queries[queries][:, None]

    def totals(self, queries: np.ndarray) -> np.ndarray:
        return self.counts[self.queries[queries]].astype(np.int64)


class _MaskRelevance(Relevance):
    """Few labels: each row's labels are bits of W words, and sharing is a bitwise and."""

    def __init__(self, queries: Any, rows: Any) -> None:
        self.queries, self.rows = pack_bits(queries), pack_bits(rows)  # (W, q), (W, n)
        self.n_queries, self.n_rows = self.queries.shape[1], self.rows.shape[1]

    def mask(self, query: int) -> np.ndarray:
        shared = np.zeros(self.n_rows, dtype=np.uint64)
        for query_word, row_words in zip(self.queries[:, query], self.rows, strict=True):
            if query_word:
                shared |= query_word & row_words
        return shared != 0

    def of_ranked(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        shared = np.zeros(rows.shape, dtype=np.uint64)
        for query_words, row_words in zip(self.queries[:, queries], self.rows, strict=True):
            # for b: for r: shared[b, r] |= query_words[b] & row_words[rows[b, r]]
            shared |= query_words[:, None] & row_words.take(rows)
        return shared != 0


class _ListRelevance(Relevance):
    """Many labels, few a row: the rows of each label as a list."""

    def __init__(self, queries: Any, rows: Any) -> None:
        self.queries, self.columns = queries.tocsr(), rows.tocsc()  # (q, L), (n, L)
        self.n_queries, self.n_rows = queries.shape[0], rows.shape[0]

    def mask(self, query: int) -> np.ndarray:
        found = np.zeros(self.n_rows, dtype=bool)
        labels = self.queries.indices[self.queries.indptr[query] : self.queries.indptr[query + 1]]
        starts = self.columns.indptr
        for label in labels:
            found[self.columns.indices[starts[label] : starts[label + 1]]] = True
        return found


def pack_bits(indicator: Any) -> np.ndarray:
    """Sparse 0/1 rows (n, L) as words of 64 labels, uint64 (ceil(L / 64), n)."""
    n, n_labels = indicator.shape
    words = np.zeros((max(-(-n_labels // 64), 1), n), dtype=np.uint64)
    entries = indicator.tocoo()
    # for n, l in entries: words[l // 64, n] |= 1 << (l % 64)
    cells = (entries.col // 64).astype(np.int64) * n + entries.row
    np.bitwise_or.at(words.reshape(-1), cells, np.uint64(1) << (entries.col % 64).astype(np.uint64))
    return words


def relate(query_labels: Any, database_labels: Any) -> Relevance:
    """Relevance between two sets of labels, in any of the forms that labels come in.

    Parameters
    ----------
    query_labels, database_labels : array-like, sparse matrix or list of collections
        Both in the same form: dense or sparse 0/1 indicators (rows, L) with the same columns;
        one class a row (numbers or strings); or a collection of strings a row.

    Returns
    -------
    Relevance
    """
    queries, query_form = _read_labels(query_labels, "query_labels")
    rows, row_form = _read_labels(database_labels, "database_labels")
    if query_form != row_form and "empty" not in (query_form, row_form):
        raise ValueError(
            f"query_labels are {query_form} but database_labels are {row_form}; give both in one "
            "form: 0/1 indicators, one class a row, or a list of strings a row."
        )
    form = row_form if query_form == "empty" else query_form
    if form == "0/1 indicators":
        queries, rows = (_empty_like(a, b) for a, b in ((queries, rows), (rows, queries)))
        if queries.shape[1] != rows.shape[1]:
            raise ValueError(
                f"query_labels have {queries.shape[1]} columns but database_labels have "
                f"{rows.shape[1]}; the columns of both should be the same labels."
            )
        few = rows.shape[1] <= _MAX_MASK_LABELS
        return _MaskRelevance(queries, rows) if few else _ListRelevance(queries, rows)
    if form == "collections":
        return relate(*_joint_indicators(list(queries), list(rows)))
    kinds = {labels.dtype.kind in "biuf" for labels in (queries, rows) if len(labels)}
    if len(kinds) > 1:
        raise TypeError("The classes should be all numbers or all strings.")
    _, numbers = np.unique(np.concatenate([queries, rows]), return_inverse=True)
    return _ClassRelevance(numbers[: len(queries)], numbers[len(queries) :])


def _empty_like(labels: Any, other: Any) -> Any:
    """No rows in the form of the other labels; labels that have rows are kept."""
    from scipy import sparse

    return labels if sparse.issparse(labels) else sparse.csr_array((0, other.shape[1]))


def _read_labels(labels: Any, name: str) -> tuple[Any, str]:
    """Labels as CSR indicators, an array of classes or a list of collections, and which it is."""
    from scipy import sparse

    if sparse.issparse(labels):
        return _check_indicator(sparse.csr_array(labels), name), "0/1 indicators"
    if isinstance(labels, str | bytes | dict) or not isinstance(labels, Iterable):
        raise TypeError(
            f"{name} should be an array, a sparse matrix or a list with an entry a row; "
            f"got {type(labels).__name__}."
        )
    if hasattr(labels, "to_numpy"):  # pandas, polars
        labels = labels.to_numpy()
    if not isinstance(labels, np.ndarray) or labels.dtype == object:
        labels = list(labels)
        if not labels:
            return np.zeros(0, dtype=np.int64), "empty"
        if any(_is_collection(row) for row in labels):
            if not all(_is_collection(row) for row in labels):
                raise TypeError(f"{name} mixes collections with single labels; use lists only.")
            if any(isinstance(label, str) for row in labels for label in row) or all(
                len(row) == 0 for row in labels
            ):
                return labels, "collections"
            try:
                labels = np.array([np.asarray(row) for row in labels])
            except ValueError:
                raise TypeError(
                    f"{name} holds rows of unequal length that are not strings; collections "
                    "should hold strings, indicators should be equally long."
                ) from None
        else:
            labels = np.asarray(labels)
            if labels.dtype == object:
                raise TypeError(f"{name} should hold numbers or strings, all of one kind.")
    if labels.ndim == 1:
        if labels.dtype.kind not in "biufU":
            raise TypeError(f"{name} should be numbers or strings; got dtype {labels.dtype}.")
        if labels.dtype.kind == "f" and np.isnan(labels).any():
            raise ValueError(
                f"{name} contains NaN; give rows without a class a class of their own."
            )
        return labels, "classes" if len(labels) else "empty"
    if labels.ndim != 2:
        raise ValueError(f"{name} should have 1 or 2 dimensions; got {labels.ndim}.")
    if labels.dtype.kind not in "biuf":
        raise TypeError(f"{name} with 2 dimensions should be 0/1; got dtype {labels.dtype}.")
    return _check_indicator(labels, name), "0/1 indicators"


def _check_indicator(labels: Any, name: str) -> Any:
    """0/1 indicators as CSR without stored zeros."""
    from scipy import sparse

    values = labels.data if sparse.issparse(labels) else labels
    if not np.isin(values, (0, 1)).all():
        wrong = values[~np.isin(values, (0, 1))].ravel()[0]
        raise ValueError(
            f"{name} with 2 dimensions should hold only 0 and 1; got {wrong}. Classes as numbers "
            "should have 1 dimension."
        )
    indicator = sparse.csr_array(labels, copy=True)
    indicator.eliminate_zeros()
    return indicator


def _is_collection(row: Any) -> bool:
    return isinstance(row, list | tuple | set | frozenset | np.ndarray) and not (
        isinstance(row, np.ndarray) and row.ndim == 0
    )


def _joint_indicators(queries: list, rows: list) -> tuple[Any, Any]:
    """Collections of strings as CSR indicators over the strings of both."""
    from scipy import sparse

    vocabulary: dict[str, int] = {}
    indicators = []
    for collections in (rows, queries):
        lengths = [len(set(row)) for row in collections]
        columns = [
            vocabulary.setdefault(tag, len(vocabulary)) for r in collections for tag in set(r)
        ]
        indicators.append((np.cumsum([0, *lengths]), columns))
    shape = max(len(vocabulary), 1)
    database, query = (
        sparse.csr_array(
            (np.ones(len(columns), dtype=np.int8), np.array(columns, dtype=np.int64), starts),
            shape=(len(starts) - 1, shape),
        )
        for starts, columns in indicators
    )
    return query, database
