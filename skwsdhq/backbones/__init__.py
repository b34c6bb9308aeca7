"""Pretrained networks that turn images into features, and how they are found."""

from .features import extract_features
from .networks import Backbone, load_backbone, resolve_auto

__all__ = [
    "Backbone",
    "extract_features",
    "load_backbone",
    "resolve_auto",
]
