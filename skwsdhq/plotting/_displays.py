"""Plots of retrieval quality, as scikit-learn's displays: figures first, axes later.

A display holds the figures that it shows. ``from_predictions`` computes them from vectors and
``from_estimator`` from fitted estimators, both draw them, and ``plot(ax=…)`` draws them again.
matplotlib is imported by ``plot`` alone.
"""

from typing import Any, ClassVar, Self

import numpy as np

from .. import metrics
from ..search import CodeIndex

__all__ = ["CodeLengthDisplay", "PrecisionAtKDisplay", "PrecisionRecallDisplay"]


def _axes(ax: Any) -> Any:
    """Return axes to draw on, new ones for None."""
    try:  # heavy, and whoever draws nothing need not have it
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            "plots need matplotlib, which is not installed; pip install matplotlib."
        ) from error
    return plt.subplots()[1] if ax is None else ax


def _one_line(name: str, values: Any) -> np.ndarray:
    """Return finite floats (p,)."""
    line = np.asarray(values, dtype=np.float64)
    if line.ndim != 1:
        raise ValueError(f"{name} has shape {line.shape}, should be (n_points,).")
    # matplotlib leaves gaps where there is no number, which look like data.
    if not np.isfinite(line).all():
        raise ValueError(f"{name} should be finite; got {line[~np.isfinite(line)][0]}.")
    return line


def _pair(**lines: Any) -> list[np.ndarray]:
    """Return two lines, if they are of equal length."""
    # By keyword, so that a message can name both.
    (first, x), (second, y) = ((name, _one_line(name, line)) for name, line in lines.items())
    if len(x) != len(y):
        raise ValueError(f"{first} has {len(x)} points and {second} {len(y)}; should be equal.")
    return [x, y]


def _database(estimator: Any) -> CodeIndex:
    """Return an index of the rows that an estimator, or a pipeline's last step, was fitted on."""
    last = estimator[-1] if hasattr(estimator, "steps") else estimator
    # By what it holds, not by its class: a user's own quantizer will do.
    if not (hasattr(last, "codebooks_") and hasattr(last, "codes_")):
        raise TypeError(
            f"{type(last).__name__} holds no codes of fitted rows; fit a WSDHQuantizer, or use "
            "from_predictions with embeddings."
        )
    # A quantizer keeps its index, with what searches are prepared by: two plots share it.
    return last.index() if hasattr(last, "index") else CodeIndex(last.codebooks_, last.codes_)


class _Display:
    """Draw one line with its legend, as all displays do."""

    line_: Any
    ax_: Any
    figure_: Any

    def _draw(
        self, x: Any, y: Any, ax: Any, name: str | None, labels: tuple[str, str], kw: Any
    ) -> None:
        axes = _axes(ax)
        if name is not None:
            kw = {"label": name, **kw}  # a label of the caller's own comes last, and wins
        (self.line_,) = axes.plot(x, y, **kw)  # one line, so that it can be changed afterwards
        axes.set(xlabel=labels[0], ylabel=labels[1])
        # matplotlib's own names of unnamed lines begin with an underscore.
        if self.line_.get_label()[:1] != "_":
            axes.legend(loc="best")
        self.ax_, self.figure_ = axes, axes.figure


class _CurveDisplay(_Display):
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
            *(estimator.transform(X), _database(estimator), query_labels, database_labels),
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
        self.precision, self.recall = _pair(precision=precision, recall=recall)
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
        self.k, self.precision = _pair(k=k, precision=precision)
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


class CodeLengthDisplay(_Display):
    """Draw a score, mAP as a rule, against the bits of a code.

    Parameters
    ----------
    n_bits : array-like of shape (n_points,)
    scores : array-like of shape (n_points,)
    spread : array-like of shape (n_points,), default=None
        Drawn as a band of that much on both sides, such as a deviation over seeds.
    uncompressed : float, default=None
        The score without codes, drawn as a dotted line of the same colour.
    name : str, default=None
        In the legend; None is no legend.
    score_name : str, default="mAP"
        Of the axis.

    Attributes
    ----------
    line_ : matplotlib line
    ax_ : matplotlib axes
    figure_ : matplotlib figure

    Examples
    --------
    >>> from skwsdhq.plotting import CodeLengthDisplay
    >>> display = CodeLengthDisplay([8, 16, 32], [0.58, 0.6, 0.61], name="codes")
    >>> float(display.scores.max())
    0.61
    """

    def __init__(
        self,
        n_bits: Any,
        scores: Any,
        *,
        spread: Any = None,
        uncompressed: float | None = None,
        name: str | None = None,
        score_name: str = "mAP",
    ):
        self.n_bits, self.scores = _pair(n_bits=n_bits, scores=scores)
        self.spread = None if spread is None else _pair(scores=scores, spread=spread)[1]
        self.uncompressed = uncompressed
        self.name = name
        self.score_name = score_name

    @classmethod
    def from_predictions(
        cls,
        queries: Any,
        databases: Any,
        query_labels: Any,
        database_labels: Any,
        *,
        uncompressed: Any = None,
        top_k: int | None = 5000,
        name: str | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> "CodeLengthDisplay":
        """Make a display from embeddings of queries and a database of each number of bits.

        Parameters
        ----------
        queries : array-like of shape (q, D)
        databases : dict of int to (CodeIndex or array-like of shape (n, D))
            Number of bits: codes, or what they decode to.
        query_labels, database_labels : array-like
            As in :func:`skwsdhq.metrics.mean_average_precision`.
        uncompressed : array-like of shape (n, D), default=None
            The database's own embeddings, to draw what codes lose.
        top_k : int, default=5000
            As in :func:`skwsdhq.metrics.mean_average_precision`.
        name : str, default=None
        ax : matplotlib axes, default=None
            To draw on; None makes a figure.
        **kwargs
            Of matplotlib's ``plot``.

        Returns
        -------
        CodeLengthDisplay
        """

        def score(database: Any) -> float:
            return metrics.mean_average_precision(
                queries, database, query_labels, database_labels, top_k=top_k
            )

        bits = sorted(databases)  # the line goes from left to right
        display = cls(
            bits,
            [score(databases[n_bits]) for n_bits in bits],
            uncompressed=None if uncompressed is None else score(uncompressed),
            name=name,
            score_name="mAP" if top_k is None else f"mAP@{top_k}",
        )
        return display.plot(ax=ax, **kwargs)

    @classmethod
    def from_estimator(
        cls,
        estimators: Any,
        X: Any,
        query_labels: Any,
        database_labels: Any,
        *,
        top_k: int | None = 5000,
        name: str | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> "CodeLengthDisplay":
        """Make a display from fitted quantizers, each of other codes, that images query.

        Parameters
        ----------
        estimators : sequence of WSDHQuantizer, or of Pipelines that end in one
            Fitted on the same rows.
        X : images or features of the queries
        query_labels, database_labels : labels of the queries and of the fitted rows
        top_k : int, default=5000
        name : str, default=None
            None is the first estimator's class.
        ax : matplotlib axes, default=None
        **kwargs
            As in `from_predictions`.

        Returns
        -------
        CodeLengthDisplay
        """
        # A Pipeline has a length too: only lists and tuples hold several.
        estimators = list(estimators) if isinstance(estimators, (list, tuple)) else [estimators]
        found = {}
        for estimator in estimators:
            last = estimator[-1] if hasattr(estimator, "steps") else estimator
            found[last.n_bits_] = metrics.mean_average_precision(
                *(estimator.transform(X), _database(estimator), query_labels, database_labels),
                top_k=top_k,
            )
        bits = sorted(found)
        display = cls(
            bits,
            [found[n_bits] for n_bits in bits],
            name=type(estimators[0]).__name__ if name is None and estimators else name,
            score_name="mAP" if top_k is None else f"mAP@{top_k}",
        )
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
        kwargs = {"marker": "o", **kwargs}  # few lengths: the points themselves should be seen
        self._draw(self.n_bits, self.scores, ax, name, ("Bits", self.score_name), kwargs)
        # Band and dotted line belong to the line: all three in its colour.
        colour = self.line_.get_color()
        if self.spread is not None:
            low, high = self.scores - self.spread, self.scores + self.spread
            self.ax_.fill_between(self.n_bits, low, high, color=colour, alpha=0.2, linewidth=0)
        if self.uncompressed is not None:
            self.ax_.axhline(self.uncompressed, color=colour, linestyle=":")
        # Lengths that codes have, not the round numbers that matplotlib would choose.
        ticks = np.union1d(self.n_bits, [t for t in self.ax_.get_xticks() if t in _USUAL_BITS])
        self.ax_.set_xticks(ticks)
        return self


_USUAL_BITS = (8, 16, 24, 32, 64)  # ticks that stay where no point is
