"""Compact image-retrieval codes learned from images with messy tags and no labels."""

from ._version import __version__

__all__ = ["__version__"]
