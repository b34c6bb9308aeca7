"""Losses that pull an embedding to the vectors of its tags, and the rivals' losses.

Everything here is a function of tensors (torch) that gives a scalar; `adaptive_margin` also takes
arrays. n samples, C concepts, D dimensions, P pairs of a sample and one of its concepts.
"""

from ..utils.public import named_here
from ._functions import (
    adaptive_margin,
    binarization_loss,
    contrastive_loss,
    cosine_margin_loss,
    fixed_margin_loss,
    mean_tag_hinge_loss,
    quantization_loss,
    tag_distance_loss,
)
from .objects import AdaptiveMargin, Contrastive, FixedMargin, MeanTagHinge

__all__ = [
    "AdaptiveMargin",
    "Contrastive",
    "FixedMargin",
    "MeanTagHinge",
    "adaptive_margin",
    "binarization_loss",
    "contrastive_loss",
    "cosine_margin_loss",
    "fixed_margin_loss",
    "mean_tag_hinge_loss",
    "quantization_loss",
    "tag_distance_loss",
]

named_here(__name__)
