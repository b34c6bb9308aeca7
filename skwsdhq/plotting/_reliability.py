"""How far the probabilities of suggested tags can be trusted."""

from typing import Any, Self

import numpy as np

from ..utils.estimators import last_step, unfrozen
from ._drawing import BLUE, GREY, listed_tags, new_axes

__all__ = ["TagReliabilityDisplay"]


class TagReliabilityDisplay:
    """Draw how often suggested tags are right against how likely they were said to be.

    Suggestions are put in groups of equal size by their scores. Each group is a point: its mean
    score, and the share of it that is right. On the diagonal what is said is true; below it too
    much is said, above it too little. The bars are 95 % intervals of the share (Wilson's).

    Parameters
    ----------
    scores : array-like of shape (n_groups,)
        Mean score of each group.
    shares : array-like of shape (n_groups,)
        Share of each group that is right.
    n_suggestions : array-like of shape (n_groups,), default=None
        In each group, for the bars; None draws none.
    name : str, default=None
        In the legend; None is no legend.

    Attributes
    ----------
    line_ : matplotlib line
    ax_ : matplotlib axes
    figure_ : matplotlib figure

    See Also
    --------
    skwsdhq.WSDHQuantizer.suggest_tags : Suggests tags.

    Examples
    --------
    >>> from skwsdhq.plotting import TagReliabilityDisplay
    >>> display = TagReliabilityDisplay.from_predictions(
    ...     [0.1, 0.2, 0.8, 0.9], [False, False, True, True], n_groups=2
    ... )
    >>> display.scores, display.shares
    (array([0.15, 0.85]), array([0., 1.]))
    """

    line_: Any
    ax_: Any
    figure_: Any

    def __init__(
        self, scores: Any, shares: Any, *, n_suggestions: Any = None, name: str | None = None
    ) -> None:
        self.scores, self.shares = _shares("scores", scores), _shares("shares", shares)
        if len(self.scores) != len(self.shares):
            raise ValueError(
                f"there are {len(self.scores)} scores and {len(self.shares)} shares; should be "
                "equal."
            )
        self.n_suggestions = None
        if n_suggestions is not None:
            self.n_suggestions = np.asarray(n_suggestions, dtype=np.int64)
            if self.n_suggestions.shape != self.scores.shape or (self.n_suggestions < 1).any():
                raise ValueError("n_suggestions should be 1 or more for each group.")
        self.name = name

    @classmethod
    def from_predictions(
        cls,
        scores: Any,
        is_right: Any,
        *,
        n_groups: int = 10,
        name: str | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Make a display from scores of suggestions, and which of them are right.

        Parameters
        ----------
        scores : array-like of any shape
            From 0 to 1.
        is_right : array-like of bool of that shape
        n_groups : int, default=10
            At most as many as there are suggestions.
        name : str, default=None
        ax : matplotlib axes, default=None
            To draw on; None makes a figure.
        **kwargs
            Of matplotlib's ``errorbar``.

        Returns
        -------
        TagReliabilityDisplay
        """
        told = _shares("scores", np.asarray(scores, dtype=np.float64).ravel())
        right = np.asarray(is_right).ravel()
        if len(told) != len(right) or not len(told):
            raise ValueError(
                f"there are {len(told)} scores, and {len(right)} marks of what is right; give as "
                "many of both, and one at least."
            )
        if n_groups < 1:
            raise ValueError(f"n_groups={n_groups} should be >= 1.")
        order = np.argsort(told, kind="stable")
        parts = np.array_split(order, min(n_groups, len(order)))
        display = cls(
            [told[part].mean() for part in parts],
            [right[part].astype(bool).mean() for part in parts],
            n_suggestions=[len(part) for part in parts],
            name=name,
        )
        return display.plot(ax, **kwargs)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        tags: Any,
        *,
        n_tags: int = 5,
        n_groups: int = 10,
        name: str | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Make a display of suggestions for images whose tags are known.

        A suggestion is right where the image carries any tag of that concept.

        Parameters
        ----------
        estimator : WSDHQuantizer
            Fitted, on other images: their own tags it has learned.
        X : images or features
        tags : tags of n rows
            Those that are true. Rows without any are left out.
        n_tags : int, default=5
            Suggestions for each image.
        n_groups : int, default=10
        name : str, default=None
            None is the estimator's class.
        ax : matplotlib axes, default=None
        **kwargs
            As for `from_predictions`.

        Returns
        -------
        TagReliabilityDisplay
        """
        last = last_step(estimator)
        if not hasattr(last, "suggest_tags"):
            raise TypeError(
                f"{type(last).__name__} suggests no tags; give a fitted WSDHQuantizer, or use "
                "from_predictions."
            )
        rows = X if last is estimator else estimator[:-1].transform(X)
        listed = listed_tags("tags", tags, len(rows))
        suggested, scores = last.suggest_tags(rows, n_tags)
        enhancer = unfrozen(last.tag_enhancer_)
        own = [set(row) for row in enhancer.inverse_transform(enhancer.transform(listed))]
        told = [i for i, row in enumerate(own) if row]
        right = [[tag in own[i] for tag in suggested[i]] for i in told]
        return cls.from_predictions(
            scores[told],
            right,
            n_groups=n_groups,
            name=type(last).__name__ if name is None else name,
            ax=ax,
            **kwargs,
        )

    def plot(self, ax: Any = None, *, name: str | None = None, **kwargs: Any) -> Self:
        """Draw the points and the diagonal.

        Parameters
        ----------
        ax : matplotlib axes, default=None
            None makes a figure.
        name : str, default=None
            In place of the display's.
        **kwargs
            Of matplotlib's ``errorbar``.

        Returns
        -------
        self
            With ``line_``, ``ax_`` and ``figure_``.
        """
        ax = new_axes(ax)
        name = self.name if name is None else name
        ax.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, zorder=0)
        bars = None if self.n_suggestions is None else _wilson(self.shares, self.n_suggestions)
        label = {} if name is None else {"label": name}
        style = {"color": BLUE, "marker": "o", "capsize": 2, **label, **kwargs}
        self.line_ = ax.errorbar(self.scores, self.shares, yerr=bars, **style)[0]
        ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        ax.set(xlabel="Probability of a suggestion", ylabel="Share that is right")
        if name is not None:
            ax.legend(loc="upper left")
        self.ax_, self.figure_ = ax, ax.figure
        return self


def _shares(name: str, values: Any) -> np.ndarray:
    """Return numbers from 0 to 1, (p,)."""
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or not ((found >= 0) & (found <= 1)).all():
        raise ValueError(f"{name} should be numbers from 0 to 1 of shape (n,).")
    return found


def _wilson(shares: np.ndarray, counts: np.ndarray, z: float = 1.96) -> np.ndarray:
    """Return how far Wilson's interval goes below and above each share, (2, p)."""
    middle = (shares + z**2 / (2 * counts)) / (1 + z**2 / counts)
    half = np.sqrt(shares * (1 - shares) / counts + (z / (2 * counts)) ** 2)
    half = z * half / (1 + z**2 / counts)
    return np.maximum([shares - (middle - half), (middle + half) - shares], 0)
