"""What displays share: axes, checks of figures, colours that all eyes tell apart."""

from typing import Any

import numpy as np

from ..search import CodeIndex
from ..tags import check_tags, tags_to_lists
from ..utils.estimators import last_step

__all__ = [
    "BLUE",
    "GREY",
    "ORANGE",
    "LineDisplay",
    "database_of",
    "listed_tags",
    "new_axes",
    "one_line",
    "pair",
    "shortened",
]

# Of Okabe and Ito; no display tells things apart by colour alone.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#999999"


def new_axes(ax: Any) -> Any:
    """Return axes to draw on, new ones for None."""
    try:  # heavy, and whoever draws nothing need not have it
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            "plots need matplotlib, which is not installed; pip install matplotlib."
        ) from error
    return plt.subplots()[1] if ax is None else ax


def one_line(name: str, values: Any) -> np.ndarray:
    """Return finite floats (p,)."""
    line = np.asarray(values, dtype=np.float64)
    if line.ndim != 1:
        raise ValueError(f"{name} has shape {line.shape}, should be (n_points,).")
    # matplotlib leaves gaps where there is no number, which look like data.
    if not np.isfinite(line).all():
        raise ValueError(f"{name} should be finite; got {line[~np.isfinite(line)][0]}.")
    return line


def pair(**lines: Any) -> list[np.ndarray]:
    """Return two lines, if they are of equal length."""
    # By keyword, so that a message can name both.
    (first, x), (second, y) = ((name, one_line(name, line)) for name, line in lines.items())
    if len(x) != len(y):
        raise ValueError(f"{first} has {len(x)} points and {second} {len(y)}; should be equal.")
    return [x, y]


def shortened(name: Any, longest: int = 22) -> str:
    """Return a name of some letters, on one line: people's tags may be of any length."""
    text = " ".join(str(name).split())
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"


def listed_tags(name: str, tags: Any, n: int) -> list[list[str]]:
    """Return the tags of n rows as lists."""
    indicator, names = check_tags(tags)
    if indicator.shape[0] != n:
        raise ValueError(f"there are {indicator.shape[0]} rows of {name}, should be {n}.")
    return tags_to_lists(indicator, names)


def database_of(estimator: Any) -> CodeIndex:
    """Return an index of the rows that an estimator, or a pipeline's last step, was fitted on."""
    last = last_step(estimator)
    # By what it holds, not by its class: a user's own quantizer will do.
    if not (hasattr(last, "codebooks_") and hasattr(last, "codes_")):
        raise TypeError(
            f"{type(last).__name__} holds no codes of fitted rows; fit a WSDHQuantizer, or use "
            "from_predictions with embeddings."
        )
    # A quantizer keeps its index, with what searches are prepared by: two plots share it.
    return last.index() if hasattr(last, "index") else CodeIndex(last.codebooks_, last.codes_)


class LineDisplay:
    """Draw one line with its legend, as all displays do."""

    line_: Any
    ax_: Any
    figure_: Any

    def _draw(
        self, x: Any, y: Any, ax: Any, name: str | None, labels: tuple[str, str], kw: Any
    ) -> None:
        axes = new_axes(ax)
        if name is not None:
            kw = {"label": name, **kw}  # a label of the caller's own comes last, and wins
        (self.line_,) = axes.plot(x, y, **kw)  # one line, so that it can be changed afterwards
        axes.set(xlabel=labels[0], ylabel=labels[1])
        # matplotlib's own names of unnamed lines begin with an underscore.
        if self.line_.get_label()[:1] != "_":
            axes.legend(loc="best")
        self.ax_, self.figure_ = axes, axes.figure
