"""Plots of retrieval quality, as scikit-learn's displays: figures first, axes later.

A display holds the figures that it shows. ``from_predictions`` computes them from vectors and
``from_estimator`` from fitted estimators, both draw them, and ``plot(ax=…)`` draws them again.
matplotlib is imported by ``plot`` alone.
"""

from ..utils.public import named_here
from ._displays import CodeLengthDisplay, PrecisionAtKDisplay, PrecisionRecallDisplay
from ._neighbors import NeighborsDisplay, plot_neighbors

__all__ = [
    "CodeLengthDisplay",
    "NeighborsDisplay",
    "PrecisionAtKDisplay",
    "PrecisionRecallDisplay",
    "plot_neighbors",
]

named_here(__name__)
