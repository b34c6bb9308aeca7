"""How good a ranking is: relevance by shared labels, average precision, precision and recall."""

from ..utils.public import named_here
from ._precision import average_precision
from ._scorer import attach_labels, make_retrieval_scorer
from ._scores import (
    mean_average_precision,
    precision_at_k,
    precision_recall_curve,
    ranking_scores,
    recall_at_k,
)

__all__ = [
    "attach_labels",
    "average_precision",
    "make_retrieval_scorer",
    "mean_average_precision",
    "precision_at_k",
    "precision_recall_curve",
    "ranking_scores",
    "recall_at_k",
]

named_here(__name__)
