"""Plots of retrieval quality, as scikit-learn's displays: figures first, axes later.

A display holds the figures that it shows. ``from_predictions`` computes them from vectors and
``from_estimator`` from fitted estimators, both draw them, and ``plot(ax=…)`` draws them again.
matplotlib is imported by ``plot`` alone.
"""

from ..utils.public import named_here
from ._codewords import CodebookUsageDisplay
from ._concepts import ConceptGraphDisplay
from ._displays import PrecisionAtKDisplay, PrecisionRecallDisplay
from ._history import TrainingHistoryDisplay
from ._lengths import CodeLengthDisplay
from ._neighbors import NeighborsDisplay, plot_neighbors
from ._reliability import TagReliabilityDisplay
from ._retrieval import RetrievalDisplay
from ._sphere import SphereDisplay

__all__ = [
    "CodeLengthDisplay",
    "CodebookUsageDisplay",
    "ConceptGraphDisplay",
    "NeighborsDisplay",
    "PrecisionAtKDisplay",
    "PrecisionRecallDisplay",
    "RetrievalDisplay",
    "SphereDisplay",
    "TagReliabilityDisplay",
    "TrainingHistoryDisplay",
    "plot_neighbors",
]

named_here(__name__)
