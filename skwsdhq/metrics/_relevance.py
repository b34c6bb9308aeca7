"""Which database rows are relevant to a query: those that share at least one label with it."""

from collections.abc import Iterable, Iterator
from numbers import Real
from typing import Any

import numpy as np
from scipy import sparse

from ..tags.reading import is_missing, is_row, read_indicator, read_matrix, read_rows

__all__ = ["Relevance", "relate"]

# Up to this many labels a row's labels are a few machine words; beyond it, lists of rows win.
_MAX_MASK_LABELS = 512


class Relevance:
    """Tell which database rows are relevant to queries; never hold a queries × database matrix.

    ``n_queries`` and ``n_rows`` are its two lengths. `mask` gives all rows for one query,
    `of_ranked` the rows of a ranking, `totals` how many relevant rows each query has.
    """

    n_queries: int
    n_rows: int

    def mask(self, query: int) -> np.ndarray:
        """Return the relevance of every row to one query, bool (n,)."""
        raise NotImplementedError

    def of_ranked(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the relevance of ranked rows (B, R) to queries (B,), bool (B, R)."""
        return np.array(
            [self.mask(q)[r] for q, r in zip(queries, rows, strict=True)], dtype=bool
        ).reshape(rows.shape)

    def totals(self, queries: np.ndarray) -> np.ndarray:
        """Count the relevant rows of each of the queries (B,), int64 (B,)."""
        return np.array([np.count_nonzero(self.mask(q)) for q in queries], dtype=np.int64)


class _ClassRelevance(Relevance):
    """Compare one class a row: rows of the same class are relevant."""

    def __init__(self, queries: np.ndarray, rows: np.ndarray) -> None:
        # (q,), (n,): the same numbering in both, below 0 where a row has no class
        # A row without a class gets -2, so that it is not equal to a query without one.
        self.queries, self.rows = queries, np.where(rows < 0, -2, rows)
        self.n_queries, self.n_rows = len(queries), len(rows)
        # Classes that only queries have count 0 rows.
        n_classes = int(max(queries.max(initial=-1), rows.max(initial=-1))) + 1
        counts = np.bincount(rows[rows >= 0], minlength=n_classes)
        self.counts = np.append(counts, 0)  # the last one is that of -1

    def mask(self, query: int) -> np.ndarray:
        return self.rows == self.queries[query]

    def of_ranked(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return self.rows[rows] == self.queries[queries][:, None]

    def totals(self, queries: np.ndarray) -> np.ndarray:
        return self.counts[self.queries[queries]].astype(np.int64)


class _MaskRelevance(Relevance):
    """Compare few labels: each row's labels are bits of W words, and sharing is a bitwise and."""

    def __init__(self, queries: Any, rows: Any) -> None:
        self.queries, self.rows = pack_bits(queries), pack_bits(rows)  # (W, q), (W, n)
        self.n_queries, self.n_rows = self.queries.shape[1], self.rows.shape[1]

    def mask(self, query: int) -> np.ndarray:
        shared = np.zeros(self.n_rows, dtype=np.uint64)
        for query_word, row_words in zip(self.queries[:, query], self.rows, strict=True):
            if query_word:  # most words of a query are empty
                shared |= query_word & row_words
        return shared != 0

    def of_ranked(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        shared = np.zeros(rows.shape, dtype=np.uint64)
        for query_words, row_words in zip(self.queries[:, queries], self.rows, strict=True):
            # for b: for r: shared[b, r] |= query_words[b] & row_words[rows[b, r]]
            shared |= query_words[:, None] & row_words.take(rows)
        return shared != 0


class _ListRelevance(Relevance):
    """Compare many labels, few a row: keep the rows of each label as a list."""

    def __init__(self, queries: Any, rows: Any) -> None:
        self.queries, self.columns = queries.tocsr(), rows.tocsc()  # (q, L), (n, L)
        self.n_queries, self.n_rows = queries.shape[0], rows.shape[0]

    def mask(self, query: int) -> np.ndarray:
        found = np.zeros(self.n_rows, dtype=bool)
        # The union of the lists of the query's labels; a row in two of them is set twice.
        labels = self.queries.indices[self.queries.indptr[query] : self.queries.indptr[query + 1]]
        starts = self.columns.indptr
        for label in labels:
            found[self.columns.indices[starts[label] : starts[label + 1]]] = True
        return found


def pack_bits(indicator: Any) -> np.ndarray:
    """Pack sparse 0/1 rows (n, L) into words of 64 labels, uint64 (ceil(L / 64), n)."""
    n, n_labels = indicator.shape
    words = np.zeros((max(-(-n_labels // 64), 1), n), dtype=np.uint64)
    entries = indicator.tocoo()
    # for n, l in entries: words[l // 64, n] |= 1 << (l % 64)
    # One index into the flat words, which `at` wants; several labels may share a word.
    cells = (entries.col // 64).astype(np.int64) * n + entries.row
    np.bitwise_or.at(words.reshape(-1), cells, np.uint64(1) << (entries.col % 64).astype(np.uint64))
    return words


def relate(query_labels: Any, database_labels: Any) -> Relevance:
    """Relate two sets of labels, in any of the forms that labels come in.

    They are read as tags are, see :func:`skwsdhq.tags.check_tags`: names differ neither by case nor
    by blanks, and what is missing or blank is no label.

    Parameters
    ----------
    query_labels, database_labels : array-like, sparse matrix or list of collections
        Both in the same form: dense or sparse 0/1 indicators (rows, L) with the same columns;
        one class a row (numbers or strings); or a collection of strings or numbers a row.

    Returns
    -------
    Relevance
    """
    queries, rows = (
        _Labels(query_labels, "query_labels"),
        _Labels(database_labels, "database_labels"),
    )
    if queries.form != rows.form and _EMPTY not in (queries.form, rows.form):
        raise ValueError(
            f"query_labels are {queries.form} but database_labels are {rows.form}; give both in "
            "one form: 0/1 indicators, one class a row, or a list of strings a row."
        )
    if len(queries.kinds | rows.kinds) > 1:
        raise TypeError(
            "query_labels and database_labels should be all numbers or all strings; got both."
        )
    # No rows at all are of no form: the other side says which it is.
    form = rows.form if queries.form == _EMPTY else queries.form
    if form == _INDICATORS:
        return _of_indicators(*_same_columns(queries, rows))
    if form == _COLLECTIONS:
        return _of_indicators(*_joint_indicators(queries.rows, rows.rows))
    numbers: dict[Any, int] = {}
    return _ClassRelevance(queries.numbered(numbers), rows.numbered(numbers))


def _of_indicators(queries: Any, rows: Any) -> Relevance:
    """Return the relevance of indicators by whichever is faster for so many labels."""
    few = rows.shape[1] <= _MAX_MASK_LABELS
    return _MaskRelevance(queries, rows) if few else _ListRelevance(queries, rows)


_INDICATORS, _CLASSES, _COLLECTIONS = "0/1 indicators", "one class a row", "collections"
_EMPTY = "empty"


class _Labels:
    """Read labels as they came: which form, which kinds of names, and the labels of the rows."""

    def __init__(self, labels: Any, name: str) -> None:
        self.name = name
        self.kinds: set[str] = set()
        self.columns: list[str] | None = None
        self.rows: Any = []
        if isinstance(labels, Iterator):  # which can be gone through once only
            labels = list(labels)
        matrix = None if isinstance(labels, str | bytes) else read_matrix(labels, name=name)
        if matrix is not None:
            self.form, self.columns = _INDICATORS, matrix[1]
            self.indicator = read_indicator(matrix[0], name=name)
            return
        labels = self._as_rows(labels)
        if not len(labels):
            self.form = _EMPTY
            return
        # One collection makes all rows collections: a bare string among them is a slip.
        if any(is_row(row) for row in labels):
            self._read_collections(labels)
            return
        self.form = _CLASSES
        numeric = isinstance(labels, np.ndarray) and labels.dtype.kind in "biuf"
        # All entries of a numeric array are of one kind; objects are looked at one by one.
        self._look(labels[:1] if numeric else labels)
        if not self.kinds:
            raise TypeError(
                f"{name} should be numbers or strings, at least one of them; all {len(labels)} are "
                "missing."
            )
        self.rows = labels

    def _read_collections(self, labels: Any) -> None:
        """Read a collection of names for each row, or nothing."""
        self.form = _COLLECTIONS
        for row in labels:
            if is_row(row):
                self._look(row)
            elif not is_missing(row):
                raise TypeError(
                    f"{self.name} mixes collections with single labels; use lists only."
                )
        self.rows = read_rows(labels, name=self.name)

    def _as_rows(self, labels: Any) -> Any:
        """Return labels that are no indicator as an array or a list; refuse the rest."""
        if hasattr(labels, "to_list"):  # a Series, where a missing number is NaN
            return labels.to_list()
        if hasattr(labels, "__array__") and not isinstance(labels, list | tuple):
            labels = np.asarray(labels)
            if labels.ndim == 2 and labels.shape[1] == 1:
                labels = labels[:, 0]
            self._check_array(labels)
            return labels
        if isinstance(labels, str | bytes | dict) or not isinstance(labels, Iterable):
            raise TypeError(
                f"{self.name} should be an array, a sparse matrix or a list with an entry a row; "
                f"got {type(labels).__name__}."
            )
        return list(labels)

    def _check_array(self, labels: np.ndarray) -> None:
        """Refuse an array of classes that are NaN, or neither numbers nor strings."""
        if labels.dtype.kind == "f" and np.isnan(labels).any():
            raise ValueError(f"{self.name} contains NaN; a row without a class is None in a list.")
        if labels.dtype.kind not in "biufUO":
            raise TypeError(f"{self.name} should be numbers or strings; got dtype {labels.dtype}.")

    def _look(self, values: Iterable) -> None:
        """Note whether labels are numbers or strings."""
        for value in values:
            if isinstance(value, str):
                if value.strip():
                    self.kinds.add("strings")
            elif isinstance(value, Real | np.bool_ | np.number):
                if not is_missing(value):
                    self.kinds.add("numbers")
            elif not is_missing(value):
                raise TypeError(
                    f"{self.name} should hold numbers or strings, all of one kind; got "
                    f"{type(value).__name__}."
                )

    def numbered(self, numbers: dict[Any, int]) -> np.ndarray:
        """Give each row the number of its class, the same for equal ones, -1 for none."""
        rows = self.rows
        # Names are made of distinct values only, of which there are few.
        if isinstance(rows, np.ndarray) and rows.dtype.kind != "O":
            rows, inverse = np.unique(rows, return_inverse=True)
        else:
            values = dict.fromkeys(value for value in rows if not is_missing(value))
            place = {value: i for i, value in enumerate(values)}
            inverse = np.array([-1 if is_missing(v) else place[v] for v in rows], dtype=np.int64)
            rows = list(values)
        codes = np.full(len(rows) + 1, -1, dtype=np.int64)  # the last one is that of the missing
        for i, names in enumerate(read_rows(rows, name=self.name) if len(rows) else []):
            for name in names:
                codes[i] = numbers.setdefault(name, len(numbers))
        return codes[inverse]


def _same_columns(queries: _Labels, rows: _Labels) -> tuple[Any, Any]:
    """Return both indicators, if they have the same columns; an empty one fits all."""
    if _EMPTY in (queries.form, rows.form):
        shape = (0, (rows if queries.form == _EMPTY else queries).indicator.shape[1])
        empty = sparse.csr_array(shape, dtype=np.float32)
        return tuple(empty if x.form == _EMPTY else x.indicator for x in (queries, rows))
    if queries.indicator.shape[1] != rows.indicator.shape[1]:
        raise ValueError(
            f"query_labels have {queries.indicator.shape[1]} columns but database_labels have "
            f"{rows.indicator.shape[1]}; the columns of both should be the same labels."
        )
    if queries.columns and rows.columns and queries.columns != rows.columns:
        raise ValueError(
            f"query_labels have the columns {queries.columns[:5]} but database_labels "
            f"{rows.columns[:5]}; the columns of both should be the same labels in one order."
        )
    return queries.indicator, rows.indicator


def _joint_indicators(queries: list, rows: list) -> tuple[Any, Any]:
    """Return collections of strings as CSR indicators over the strings of both."""
    vocabulary: dict[str, int] = {}
    indicators = []
    # The database first, so that its columns do not depend on the queries.
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
