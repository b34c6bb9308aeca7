"""Compact image-retrieval codes learned from images with messy tags and no labels."""

from ._version import __version__
from .backbones.loader import ImageLoader
from .embedding.embedder import HypersphereEmbedder
from .persistence import load
from .quantization.quantizer import WSDHQuantizer
from .tags.enhancer import TagEnhancer
from .utils.public import named_here

__all__ = [
    "HypersphereEmbedder",
    "ImageLoader",
    "TagEnhancer",
    "WSDHQuantizer",
    "__version__",
    "load",
]

named_here(__name__)
