"""Compact image-retrieval codes learned from images with messy tags and no labels."""

from ._version import __version__
from .backbones.loader import ImageLoader
from .collection import Collection
from .embedding import HypersphereEmbedder, TagKernelRegressor
from .persistence import load
from .quantization import WSDHQuantizer
from .tags.enhancer import TagEnhancer
from .utils.public import named_here

__all__ = [
    "Collection",
    "HypersphereEmbedder",
    "ImageLoader",
    "TagEnhancer",
    "TagKernelRegressor",
    "WSDHQuantizer",
    "__version__",
    "load",
]

named_here(__name__)
