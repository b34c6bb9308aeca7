"""How a training went, epoch by epoch."""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from ..utils.estimators import last_step
from ._drawing import BLUE, GREY, ORANGE, one_line

__all__ = ["TrainingHistoryDisplay"]

_COLOURS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#000000", GREY)
_MARKERS = "os^Dv<"
_NAMES = {"quantization_error": "quantization error", "quantization_loss": "quantization loss"}


class TrainingHistoryDisplay:
    """Draw what a fit has kept of each epoch, each kind of figure on axes of its own.

    A loss and a learning rate differ by orders of magnitude, so each has a panel and a scale. The
    panels stand above each other and share the epochs.

    Parameters
    ----------
    history : mapping of str to sequence of float
        As ``history_`` of a fitted estimator. What has no finite value is left out.
    name : str, default=None
        In the legend; None is no legend.

    Attributes
    ----------
    lines_ : dict of str to matplotlib line
    axes_ : ndarray of matplotlib axes
        From top to bottom.
    ax_ : matplotlib axes
        The first of them.
    figure_ : matplotlib figure

    Examples
    --------
    >>> from skwsdhq.plotting import TrainingHistoryDisplay
    >>> display = TrainingHistoryDisplay({"loss": [0.5, 0.3], "learning_rate": [1e-3, 1e-3]})
    >>> list(display.history)
    ['loss', 'learning_rate']
    """

    lines_: dict[str, Any]
    axes_: Any
    ax_: Any
    figure_: Any

    def __init__(self, history: Any, *, name: str | None = None) -> None:
        if not isinstance(history, Mapping):
            raise TypeError(f"history should be a mapping of names to values; got {history!r}.")
        self.history = {}
        for key, values in history.items():
            line = np.asarray(values, dtype=np.float64)
            # Figures that an epoch had none of are NaN, as an error before there are codes.
            known = np.where(np.isfinite(line), line, 0)
            one_line(str(key), known)
            if np.isfinite(line).any():
                self.history[str(key)] = line
        if not self.history:
            raise ValueError("history holds no epoch; draw it after a fit that trains.")
        self.name = name

    @classmethod
    def from_predictions(cls, history: Any, *, name: str | None = None, ax: Any = None) -> Self:
        """Make a display from a history.

        Parameters
        ----------
        history : mapping of str to sequence of float
        name : str, default=None
        ax : matplotlib axes, default=None
            As for `plot`.

        Returns
        -------
        TrainingHistoryDisplay
        """
        return cls(history, name=name).plot(ax)

    @classmethod
    def from_estimator(cls, estimator: Any, *, name: str | None = None, ax: Any = None) -> Self:
        """Make a display from a fitted estimator.

        Parameters
        ----------
        estimator : WSDHQuantizer, HypersphereEmbedder, or a Pipeline that ends in one
            Fitted.
        name : str, default=None
            None is the estimator's class.
        ax : matplotlib axes, default=None
            As for `plot`.

        Returns
        -------
        TrainingHistoryDisplay
        """
        last = last_step(estimator)
        if not hasattr(last, "history_"):
            raise TypeError(
                f"{type(last).__name__} has no history_; fit a WSDHQuantizer or "
                "HypersphereEmbedder, or use from_predictions."
            )
        return cls(last.history_, name=type(last).__name__ if name is None else name).plot(ax)

    def plot(self, ax: Any = None, *, name: str | None = None) -> Self:
        """Draw the lines.

        Parameters
        ----------
        ax : matplotlib axes or sequence of them, default=None
            One for each kind of figure, or one alone, which the first kind is drawn on; None makes
            a figure.
        name : str, default=None
            In place of the display's.

        Returns
        -------
        self
            With ``lines_``, ``axes_``, ``ax_`` and ``figure_``.
        """
        name = self.name if name is None else name
        drawn = list(self.history.items())
        if ax is None:
            panels = _panels(len(drawn))
        else:
            panels = np.atleast_1d(np.asarray(ax, dtype=object)).ravel()
            if len(panels) not in (1, len(drawn)):
                raise ValueError(
                    f"ax has {len(panels)} axes, should be 1 or {len(drawn)}: "
                    f"{', '.join(self.history)}."
                )
        self.lines_ = {}
        n_epochs = max(map(len, self.history.values()))
        for i, (panel, (key, values)) in enumerate(zip(panels, drawn, strict=False)):
            style = {"color": _COLOURS[i % 6], "marker": _MARKERS[i % 6], "markersize": 4}
            label = {} if name is None else {"label": name}
            # What began later, as codes do, ends with the last epoch all the same.
            epochs = np.arange(len(values)) + 1 + n_epochs - len(values)
            (line,) = panel.plot(epochs, values, **style, **label)
            panel.set_ylabel(_NAMES.get(key, key.replace("_", " ")), fontsize=9)
            panel.xaxis.get_major_locator().set_params(integer=True)
            panel.margins(y=0.15)
            known = np.flatnonzero(np.isfinite(values))
            if len(known) == 1 and n_epochs > 1:  # an axis of one point would say nothing of it
                told, at = values[known[0]], (epochs[known[0]], values[known[0]])
                panel.set_ylim(*sorted((0, 2 * told)) if told else (-1, 1))
                panel.annotate(f"{told:.4g}", at, (-8, 0), textcoords="offset points",
                               ha="right", va="center", fontsize=9)  # fmt: skip
            self.lines_[key] = line
        panels[len(self.lines_) - 1].set_xlabel("Epoch")
        if name is not None:
            panels[0].legend(loc="best")
        self.axes_, self.ax_, self.figure_ = panels, panels[0], panels[0].figure
        return self


def _panels(n: int) -> Any:
    """Return axes of a new figure, above each other."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            "plots need matplotlib, which is not installed; pip install matplotlib."
        ) from error
    size = (6.4, 1.2 + 1.5 * n)
    figure, panels = plt.subplots(n, 1, sharex=True, figsize=size, layout="constrained")
    figure.align_ylabels()
    return np.atleast_1d(panels)
