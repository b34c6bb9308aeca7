"""Compact image-retrieval codes learned from images with messy tags and no labels."""

from ._embedder import HypersphereEmbedder
from ._image_loader import ImageLoader
from ._quantizer import WSDHQuantizer
from ._tag_enhancer import TagEnhancer
from ._version import __version__
from .persistence import load

__all__ = [
    "HypersphereEmbedder",
    "ImageLoader",
    "TagEnhancer",
    "WSDHQuantizer",
    "__version__",
    "load",
]
