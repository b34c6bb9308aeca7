"""Queries and their nearest in pictures, each query with its average precision."""

from typing import Any, Self

import numpy as np

from .. import metrics
from ..metrics.relevance import found_relevant
from ..search import CodeIndex
from ..utils._compat import rows_by_number
from ..utils.estimators import last_step
from ._drawing import listed_tags
from ._neighbors import NeighborsDisplay

__all__ = ["RetrievalDisplay"]


class RetrievalDisplay(NeighborsDisplay):
    """Draw queries beside the rows found for them, with tags, hits and average precision.

    As :class:`NeighborsDisplay`, and each query has its AP above it: of its whole ranking, not of
    the few rows that are shown.

    Parameters
    ----------
    query_images : sequence of q pictures
    images : sequence of q sequences of pictures
    similarities : sequence of q sequences of float
        These three as of :class:`NeighborsDisplay`.
    average_precision : sequence of q float, default=None
        NaN where nothing is relevant; None is told of none.
    **options
        ``query_names``, ``names``, ``kinds`` and ``levels``, as of :class:`NeighborsDisplay`.

    Attributes
    ----------
    axes_ : ndarray of matplotlib axes, of shape (lines, columns)
    legend_ : matplotlib legend or None
    figure_ : matplotlib figure

    See Also
    --------
    NeighborsDisplay : The same without judging, of words and collections too.
    skwsdhq.metrics.average_precision : The formula.

    Examples
    --------
    >>> import numpy as np
    >>> from skwsdhq.plotting import RetrievalDisplay
    >>> red, blue = np.zeros((2, 8, 8, 3), dtype=np.uint8)
    >>> red[..., 0] = blue[..., 2] = 200
    >>> embeddings = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    >>> display = RetrievalDisplay.from_predictions(
    ...     embeddings[:1], embeddings, [["red"]], [["red"], ["blue"], ["red"]],
    ...     [red], [red, blue, red], exclude_self=False, n_neighbors=3,
    ... )
    >>> display.average_precision
    array([0.83333333])
    """

    def __init__(
        self, query_images: Any, images: Any, similarities: Any, *, average_precision: Any = None,
        **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(query_images, images, similarities, **options)
        self.average_precision = None
        if average_precision is not None:
            self.average_precision = np.asarray(average_precision, dtype=np.float64)
            if self.average_precision.shape != (len(self.query_images),):
                raise ValueError(
                    f"average_precision has shape {self.average_precision.shape} for "
                    f"{len(self.query_images)} queries; should be one for each."
                )

    @classmethod
    def from_predictions(  # type: ignore[override]  # noqa: PLR0913 - of both sides
        cls,
        queries: Any,
        database: Any,
        query_tags: Any,
        database_tags: Any,
        query_images: Any,
        images: Any,
        *,
        labels: Any = None,
        n_neighbors: int = 8,
        top_k: int | None = 5000,
        exclude_self: bool = False,
        figure: Any = None,
    ) -> Self:
        """Make a display from embeddings of queries, and embeddings or codes of a database.

        Parameters
        ----------
        queries : array-like of shape (q, D)
        database : CodeIndex, or array-like of shape (n, D)
        query_tags, database_tags : tags of q and of n rows
            Shown; and they judge where there are no labels.
        query_images, images : sequence of q and of n pictures
            None is none for all of them.
        labels : pair of labels of the queries and of the database, default=None
            Judge in place of the tags.
        n_neighbors : int, default=8
            Shown of each query.
        top_k : int, default=5000
            R of the average precision; None is all rows.
        exclude_self : bool, default=False
            Query i is row i of the database, and is left out.
        figure : matplotlib figure, default=None
            To draw on; None makes one.

        Returns
        -------
        RetrievalDisplay
        """
        own = np.arange(len(queries)) if exclude_self else None
        rows = _as_index(database)
        shown = listed_tags("query_tags", query_tags, len(queries))
        names = listed_tags("database_tags", database_tags, len(rows))
        judged = (shown, names) if labels is None else labels
        depth = len(rows) if top_k is None else min(top_k, len(rows))
        depth = max(depth - (own is not None), 1)
        similarities, found = rows.search(queries, depth, exclude=own)
        relevant = found_relevant(judged[0], judged[1], found)
        precision = metrics.average_precision(relevant) if depth else np.zeros(len(queries))
        precision = np.where(relevant.any(axis=1), precision, np.nan)
        found, similarities = found[:, :n_neighbors], similarities[:, :n_neighbors]
        if images is None:
            images = [None] * len(rows)
        display = cls(
            [None] * len(shown) if query_images is None else query_images,
            [[images[i] for i in row] for row in found],
            similarities,
            query_names=shown,
            names=[[names[i] for i in row] for row in found],
            kinds=relevant[:, :n_neighbors].tolist(),
            average_precision=precision,
        )
        return display.plot(figure)

    @classmethod
    def from_estimator(  # type: ignore[override]
        cls,
        estimator: Any,
        X: Any,
        tags: Any,
        images: Any = None,
        *,
        queries: Any = (0, 1, 2, 3, 4),
        labels: Any = None,
        n_neighbors: int = 8,
        figure: Any = None,
    ) -> Self:
        """Make a display of some rows that look for their like among all others.

        Parameters
        ----------
        estimator : WSDHQuantizer, or a Pipeline that ends in one
            Fitted.
        X : images or features of n rows
            Each is coded, and some of them are queries, as in :meth:`WSDHQuantizer.score`.
        tags : tags of n rows
        images : sequence of n pictures, default=None
            None is X, where that holds pictures.
        queries : sequence of int, default=(0, 1, 2, 3, 4)
            Rows.
        labels : labels of n rows, default=None
            Judge in place of the tags.
        n_neighbors : int, default=8
        figure : matplotlib figure, default=None

        Returns
        -------
        RetrievalDisplay
        """
        last = last_step(estimator)
        if not hasattr(last, "encode_embeddings"):
            raise TypeError(
                f"{type(last).__name__} makes no codes; give a fitted WSDHQuantizer, or use "
                "from_predictions."
            )
        embeddings = estimator.transform(X)
        n = len(embeddings)
        rows = np.atleast_1d(np.asarray(queries))
        if rows.dtype.kind not in "iu" or rows.ndim != 1 or not len(rows):
            raise ValueError(f"queries should be numbers of rows; got {queries!r}.")
        if rows.min() < 0 or rows.max() >= n:
            raise ValueError(f"queries should be rows from 0 to {n - 1}; got {rows.tolist()}.")
        if images is None and not (hasattr(X, "ndim") and X.ndim == 2):
            images = X
        own = listed_tags("tags", tags, n)
        judged = own if labels is None else labels
        index = CodeIndex(last.codebooks_, last.encode_embeddings(embeddings))
        similarities, found = index.search(embeddings[rows], max(n - 1, 1), exclude=rows)
        kept = found_relevant(_some(judged, rows), judged, found)
        precision = metrics.average_precision(kept)
        precision = np.where(kept.any(axis=1), precision, np.nan)
        shown = found[:, :n_neighbors]
        pictures = [None] * n if images is None else images
        display = cls(
            [pictures[i] for i in rows],
            [[pictures[i] for i in row] for row in shown],
            similarities[:, :n_neighbors],
            query_names=[own[i] for i in rows],
            names=[[own[i] for i in row] for row in shown],
            kinds=kept[:, :n_neighbors].tolist(),
            average_precision=precision,
        )
        return display.plot(figure)

    def plot(self, figure: Any = None) -> Self:
        """Draw the pictures, and above each query its average precision.

        Parameters
        ----------
        figure : matplotlib figure or subfigure, default=None
            To draw on, whose size stays; None makes one that is large enough.

        Returns
        -------
        self
            With ``axes_``, ``legend_`` and ``figure_``.
        """
        super().plot(figure)
        if self.average_precision is not None:
            heads = [axis for axis in self.axes_[:, 0] if axis is not None]
            for axis, value in zip(heads, self.average_precision, strict=True):
                told = "nothing relevant" if np.isnan(value) else f"AP {value:.2f}"
                axis.set_title(told, fontsize=8, pad=3, fontweight="bold")
        return self


def _some(labels: Any, rows: np.ndarray) -> Any:
    """Return some rows of labels, in the form in which these came."""
    return rows_by_number(labels.tocsr() if hasattr(labels, "tocsr") else labels, rows)


def _as_index(database: Any) -> CodeIndex:
    """Return an index; embeddings are one codebook each of which is one row's."""
    if isinstance(database, CodeIndex):
        return database
    rows = np.asarray(database, dtype=np.float32)
    return CodeIndex(rows[None], np.arange(len(rows))[:, None])
