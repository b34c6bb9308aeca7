"""Curves of a ranking's quality: precision against recall, and among the first k."""

from typing import Any, ClassVar, Self

import numpy as np

from .. import metrics
from ._drawing import LineDisplay, database_of, pair

__all__ = ["PrecisionAtKDisplay", "PrecisionRecallDisplay"]


class _CurveDisplay(LineDisplay):
    """Make a display from a fitted quantizer, as displays of one ranking do."""

    from_predictions: ClassVar[Any]

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        query_labels: Any,
        database_labels: Any,
        *,
        name: str | None = None,
        **kwargs: Any,
    ) -> Self:
        """Make a display of images that query the fitted rows of a quantizer, by their codes.

        Parameters
        ----------
        estimator : WSDHQuantizer, or a Pipeline that ends in one
            Fitted.
        X : images or features of the queries
        query_labels, database_labels : labels of the queries and of the fitted rows
        name : str, default=None
            None is the estimator's class.
        **kwargs
            As in `from_predictions`.

        Returns
        -------
        display
            Of this class.
        """
        return cls.from_predictions(
            *(estimator.transform(X), database_of(estimator), query_labels, database_labels),
            name=type(estimator).__name__ if name is None else name,
            **kwargs,
        )


class PrecisionRecallDisplay(_CurveDisplay):
    """Draw precision against recall, a mean over the queries.

    Parameters
    ----------
    precision, recall : array-like of shape (n_points,)
        As :func:`skwsdhq.metrics.precision_recall_curve` gives them.
    name : str, default=None
        In the legend; None is no legend.

    Attributes
    ----------
    line_ : matplotlib line
    ax_ : matplotlib axes
    figure_ : matplotlib figure

    See Also
    --------
    skwsdhq.metrics.precision_recall_curve : The figures.

    Examples
    --------
    >>> import numpy as np
    >>> from skwsdhq.plotting import PrecisionRecallDisplay
    >>> database = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    >>> display = PrecisionRecallDisplay.from_predictions(
    ...     np.array([[1.0, 0.0]]), database, [0], [0, 1, 0], recall_levels=3
    ... )
    >>> display.precision
    array([1.        , 1.        , 0.66666667])
    """

    def __init__(self, precision: Any, recall: Any, *, name: str | None = None):
        self.precision, self.recall = pair(precision=precision, recall=recall)
        self.name = name

    @classmethod
    def from_predictions(
        cls,
        queries: Any,
        database: Any,
        query_labels: Any,
        database_labels: Any,
        *,
        recall_levels: Any = 21,
        top_k: int | None = None,
        name: str | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> "PrecisionRecallDisplay":
        """Make a display from embeddings of queries and embeddings or codes of a database.

        Parameters
        ----------
        queries, database, query_labels, database_labels : array-like
        recall_levels : int or array-like of float, default=21
        top_k : int, default=None
            As in :func:`skwsdhq.metrics.precision_recall_curve`; ``recall_levels=None`` has a
            point for each rank.
        name : str, default=None
        ax : matplotlib axes, default=None
            To draw on; None makes a figure.
        **kwargs
            Of matplotlib's ``plot``.

        Returns
        -------
        PrecisionRecallDisplay
        """
        precision, recall = metrics.precision_recall_curve(
            queries,
            database,
            query_labels,
            database_labels,
            recall_levels=recall_levels,
            top_k=top_k,
        )
        display = cls(precision, recall, name=name)
        return display.plot(ax=ax, **kwargs)

    def plot(self, ax: Any = None, *, name: str | None = None, **kwargs: Any) -> Any:
        """Draw the line.

        Parameters
        ----------
        ax : matplotlib axes, default=None
            None makes a figure.
        name : str, default=None
            In place of the display's.
        **kwargs
            Of matplotlib's ``plot``.

        Returns
        -------
        self
            With ``line_``, ``ax_`` and ``figure_``.
        """
        name = self.name if name is None else name
        self._draw(self.recall, self.precision, ax, name, ("Recall", "Precision"), kwargs)
        self.ax_.set(xlim=(-0.01, 1.01))  # a line along the edge would be half hidden
        return self


class PrecisionAtKDisplay(_CurveDisplay):
    """Draw the precision among the first k, a mean over the queries, against k.

    Parameters
    ----------
    k : array-like of shape (n_points,)
    precision : array-like of shape (n_points,)
    name : str, default=None
        In the legend; None is no legend.

    Attributes
    ----------
    line_ : matplotlib line
    ax_ : matplotlib axes
    figure_ : matplotlib figure

    See Also
    --------
    skwsdhq.metrics.precision_at_k : The figures.

    Examples
    --------
    >>> import numpy as np
    >>> from skwsdhq.plotting import PrecisionAtKDisplay
    >>> database = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    >>> display = PrecisionAtKDisplay.from_predictions(
    ...     np.array([[1.0, 0.0]]), database, [0], [0, 1, 0], k=[1, 2]
    ... )
    >>> display.precision
    array([1. , 0.5])
    """

    def __init__(self, k: Any, precision: Any, *, name: str | None = None):
        self.k, self.precision = pair(k=k, precision=precision)
        self.name = name

    @classmethod
    def from_predictions(
        cls,
        queries: Any,
        database: Any,
        query_labels: Any,
        database_labels: Any,
        *,
        k: Any = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
        name: str | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> "PrecisionAtKDisplay":
        """Make a display from embeddings of queries and embeddings or codes of a database.

        Parameters
        ----------
        queries, database, query_labels, database_labels : array-like
        k : array-like of int
            As in :func:`skwsdhq.metrics.precision_at_k`. A k past the database's rows is left out.
        name : str, default=None
        ax : matplotlib axes, default=None
            To draw on; None makes a figure.
        **kwargs
            Of matplotlib's ``plot``.

        Returns
        -------
        PrecisionAtKDisplay
        """
        n_rows = len(database)
        cuts = np.atleast_1d(np.asarray(k))
        # Past the last row precision falls by definition alone, which says nothing of the ranking.
        cuts = cuts[cuts <= max(n_rows, 1)]
        precision = metrics.precision_at_k(queries, database, query_labels, database_labels, k=cuts)
        display = cls(cuts, precision, name=name)
        return display.plot(ax=ax, **kwargs)

    def plot(self, ax: Any = None, *, name: str | None = None, **kwargs: Any) -> Any:
        """Draw the line, with k on a logarithmic scale.

        Parameters
        ----------
        ax : matplotlib axes, default=None
            None makes a figure.
        name : str, default=None
            In place of the display's.
        **kwargs
            Of matplotlib's ``plot``.

        Returns
        -------
        self
            With ``line_``, ``ax_`` and ``figure_``.
        """
        name = self.name if name is None else name
        self._draw(self.k, self.precision, ax, name, ("k", "Precision at k"), kwargs)
        self.ax_.set(xscale="log")  # the first ranks matter most, and are few
        return self
