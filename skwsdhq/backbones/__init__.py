"""Pretrained networks that turn images into features, and how they are found."""

from ..utils.public import named_here
from .features import extract_features
from .networks import Backbone, load_backbone, resolve_auto

__all__ = [
    "Backbone",
    "extract_features",
    "load_backbone",
    "resolve_auto",
]

named_here(__name__)
