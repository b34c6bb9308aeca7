"""Scorers for model selection: how well an estimator's codes retrieve, as one number."""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from scipy import sparse

from .. import codebooks, search
from ..tags import check_tags, tags_to_lists
from ..tags.reading import read_matrix
from ..utils.validation import check_choice
from ._precision import NORMALIZERS, TIES, ZERO_RELEVANCE, check_top_k
from ._scores import mean_average_precision

__all__ = ["RetrievalScorer", "TagsWithLabels", "attach_labels", "make_retrieval_scorer"]


class TagsWithLabels(list):
    """Hold the tags of one row, a list of str, with ``labels`` to judge it by."""

    labels: Any = None


def attach_labels(tags: Any, labels: Any) -> list[TagsWithLabels]:
    """Attach labels to judge by to tags to learn from, through every split and process.

    scikit-learn slices y with each fold, but nothing that stands beside it. Estimators see lists
    of tags in what this returns; ``make_retrieval_scorer(labels="attached")`` sees the labels.

    Parameters
    ----------
    tags : tags of n rows
        In any form that :func:`skwsdhq.tags.check_tags` reads.
    labels : array-like of shape (n,) or (n, L), sparse matrix, or list of n collections
        A row of a matrix is an array of 0 and 1, which is never a list of labels.

    Returns
    -------
    list of n lists of str
        With an attribute ``labels`` each.

    Examples
    --------
    >>> from skwsdhq.metrics import attach_labels
    >>> y = attach_labels([["puppy", "cute"], ["car"]], ["dog", "vehicle"])
    >>> y[1], y[1].labels
    (['car'], 'vehicle')
    """
    # In whatever form tags come, the estimator gets lists: those every tool slices.
    indicator, names = check_tags(tags, lowercase=False)
    lists = tags_to_lists(indicator, names) if indicator.shape[0] else []
    rows = [TagsWithLabels(row) for row in lists]
    own = _rows_of_labels(labels)
    if len(own) != len(rows):
        raise ValueError(f"there are {len(rows)} rows of tags but {len(own)} of labels.")
    for row, label in zip(rows, own, strict=True):
        row.labels = label
    return rows


def _rows_of_labels(labels: Any) -> list:
    """Return the labels of each row: a class, a collection, or an indicator's row as an array."""
    if sparse.issparse(labels):
        labels = labels.toarray()
    elif hasattr(labels, "__array__"):
        matrix = read_matrix(labels, name="labels")
        labels = np.asarray(labels) if matrix is None else matrix[0]
        if labels.ndim == 2 and labels.shape[1] == 1 and matrix is None:  # a column of classes
            labels = labels[:, 0]
    if isinstance(labels, str | bytes | Mapping) or not isinstance(labels, Iterable):
        raise TypeError(f"labels should have an entry a row; got {type(labels).__name__}.")
    return list(labels)


class RetrievalScorer:
    """Score an estimator by how well it retrieves; `make_retrieval_scorer` makes these.

    A class, not a closure, so that processes of a search can be sent one.
    """

    def __init__(
        self,
        *,
        top_k: int | None,
        labels: Any,
        database: tuple[Any, Any] | None,
        asymmetric: bool,
        normalizer: str,
        zero_relevance: str,
        ties: str,
    ) -> None:
        self.top_k = top_k
        self.labels = labels
        self.database = database
        self.asymmetric = asymmetric
        self.options = {"normalizer": normalizer, "zero_relevance": zero_relevance, "ties": ties}

    def __call__(self, estimator: Any, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Return the mean average precision of an estimator on a fold."""
        judged = self._labels_of(X, y)
        embed, quantizer = _parts(estimator)
        queries = embed(X)
        if self.database is None:
            rows, row_labels = queries, judged
        else:
            rows, row_labels = embed(self.database[0]), self.database[1]
        database: Any = rows
        # A database of codes when there are codes: what a served index would be asked.
        if quantizer is not None:
            index = search.CodeIndex(quantizer.codebooks_, quantizer.encode_embeddings(rows))
            database = index
            if not self.asymmetric:
                queries = codebooks.decode(
                    quantizer.encode_embeddings(queries), quantizer.codebooks_
                )
        return mean_average_precision(
            queries,
            database,
            judged,
            row_labels,
            top_k=self.top_k,
            exclude_self=self.database is None,  # rows of a fold should not find themselves
            sample_weight=sample_weight,
            **self.options,
        )

    def _labels_of(self, X: Any, y: Any) -> Any:
        """Return what the rows of a fold are judged by."""
        if callable(self.labels):
            return self.labels(X, y)
        if isinstance(self.labels, Mapping):
            return _together([self._looked_up(row) for row in X])
        if y is None:
            raise ValueError("the scorer judges by y, which is None; give tags, or labels=.")
        if self.labels is None:
            return y
        try:
            return _together([row.labels for row in y])
        except AttributeError:
            raise ValueError(
                "labels='attached', but y has none; make y = metrics.attach_labels(tags, labels)."
            ) from None

    def _looked_up(self, row: Any) -> Any:
        """Return the label of a path."""
        if not isinstance(row, str | os.PathLike):
            raise ValueError(
                "labels are a mapping, which needs X to be paths; for other forms, attach labels "
                "to y by metrics.attach_labels."
            )
        # A mapping may have paths or texts as keys, whatever X has.
        for key in (row, os.fspath(row)):
            if key in self.labels:
                return self.labels[key]
        raise ValueError(f"labels have none for {os.fspath(row)!r}.")

    def __repr__(self) -> str:
        parts = [f"top_k={self.top_k}"]
        if self.labels is not None:
            named = isinstance(self.labels, str)
            parts.append(f"labels={(self.labels if named else type(self.labels).__name__)!r}")
        if self.database is not None:
            parts.append("database=...")
        if not self.asymmetric:
            parts.append("asymmetric=False")
        return f"make_retrieval_scorer({', '.join(parts)})"


def make_retrieval_scorer(
    *,
    top_k: int | None = 5000,
    labels: str | Mapping | Callable | None = None,
    database: tuple[Any, Any] | None = None,
    asymmetric: bool = True,
    normalizer: str = "retrieved",
    zero_relevance: str = "skip",
    ties: str = "index",
) -> RetrievalScorer:
    """Make a scorer for ``scoring=`` of scikit-learn's searches and validations: mAP@``top_k``.

    It scores a :class:`~skwsdhq.WSDHQuantizer`, a Pipeline that ends in one, or a search over
    either, by their codes; and whatever else transforms, by its exact embeddings.

    Parameters
    ----------
    top_k : int or None, default=5000
        R of the mean average precision.
    labels : "attached", mapping, callable or None, default=None
        What makes rows relevant to each other. None is y, the tags themselves. An array of labels
        would not know which rows are in a fold, so give ``"attached"`` for those that
        :func:`attach_labels` put into y; a mapping from path to label, where X is paths; or a
        function of the fold's (X, y) that returns labels.
    database : tuple (X, labels) or None, default=None
        What the rows that are scored are looked up in, with labels in the same form as theirs.
        None is these rows themselves, each without itself.
    asymmetric : bool, default=True
        Whether a query's exact embedding is compared with codes; else its own code's is.
    normalizer, zero_relevance, ties : str
        As in :func:`mean_average_precision`.

    Returns
    -------
    callable
        ``(estimator, X, y, sample_weight=None) -> float``; it can be pickled, and be one of
        several in a dict.

    Examples
    --------
    >>> from sklearn.model_selection import cross_val_score
    >>> from skwsdhq import WSDHQuantizer
    >>> from skwsdhq.datasets import make_tagged_images
    >>> from skwsdhq.metrics import attach_labels, make_retrieval_scorer
    >>> made = make_tagged_images(120, random_state=0)
    >>> y = attach_labels(made.tags, made.target)  # noisy tags to learn, clean labels to judge
    >>> quantizer = WSDHQuantizer(n_codewords=16, random_state=0)
    >>> scorer = make_retrieval_scorer(labels="attached")
    >>> scores = cross_val_score(quantizer, made.data, y, cv=2, scoring=scorer)
    >>> bool((scores > 0.8).all())
    True
    """
    check_choice("normalizer", normalizer, NORMALIZERS)
    check_choice("zero_relevance", zero_relevance, ZERO_RELEVANCE)
    check_choice("ties", ties, TIES)
    check_top_k(top_k, 1)  # now, not in every fold of a search
    _check_judge(labels)
    if database is not None and (not isinstance(database, tuple | list) or len(database) != 2):
        raise ValueError(f"database should be (X, labels); got {type(database).__name__}.")
    return RetrievalScorer(
        top_k=top_k,
        labels=labels,
        database=None if database is None else (database[0], database[1]),
        asymmetric=bool(asymmetric),
        normalizer=normalizer,
        zero_relevance=zero_relevance,
        ties=ties,
    )


def _check_judge(labels: Any) -> None:
    """Refuse labels that no fold could be judged by, as an array, of which no row knows its own."""
    known = labels is None or callable(labels) or isinstance(labels, Mapping)
    if not known and not (isinstance(labels, str) and labels == "attached"):
        shown = repr(labels) if isinstance(labels, str) else type(labels).__name__
        raise ValueError(
            f"labels should be 'attached', a mapping, a function of (X, y) or None; got {shown}. "
            "An array can't be split with a fold: attach it, y = metrics.attach_labels(tags, "
            "labels)."
        )


def _together(labels: list) -> Any:
    """Return labels of single rows as labels of all: arrays of numbers are an indicator's rows."""
    arrays = [isinstance(row, np.ndarray) and row.ndim == 1 and row.dtype.kind in "biuf"
              for row in labels]  # fmt: skip
    if not labels or not all(arrays):
        return labels
    if len({len(row) for row in labels}) > 1:
        raise ValueError(
            "the labels are arrays of numbers of different lengths; rows of 0 and 1 should have "
            "one length, and several classes a row be a list."
        )
    return np.stack(labels)


def _parts(estimator: Any) -> tuple[Callable[[Any], np.ndarray], Any]:
    """Return a function that embeds, and the quantizer at the end where there is one."""
    estimator = getattr(estimator, "best_estimator_", estimator)
    last = estimator
    while hasattr(last, "steps"):  # a Pipeline may end in another one
        last = last.steps[-1][1]
    quantizer = last if hasattr(last, "codebooks_") else None
    return lambda X: np.asarray(estimator.transform(X)), quantizer
