"""A score against the bits of a code."""

from typing import Any

import numpy as np

from .. import metrics
from ..utils.estimators import last_step
from ._drawing import LineDisplay, database_of, pair

__all__ = ["CodeLengthDisplay"]

_USUAL_BITS = (8, 16, 24, 32, 64)  # ticks that stay where no point is


class CodeLengthDisplay(LineDisplay):
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
        self.n_bits, self.scores = pair(n_bits=n_bits, scores=scores)
        self.spread = None if spread is None else pair(scores=scores, spread=spread)[1]
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
            last = last_step(estimator)
            found[last.n_bits_] = metrics.mean_average_precision(
                *(estimator.transform(X), database_of(estimator), query_labels, database_labels),
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
