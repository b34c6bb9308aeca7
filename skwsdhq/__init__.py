"""Compact image-retrieval codes learned from images with messy tags and no labels."""

from ._embedder import HypersphereEmbedder
from ._quantizer import WSDHQuantizer
from ._tag_enhancer import TagEnhancer
from ._version import __version__

__all__ = ["HypersphereEmbedder", "TagEnhancer", "WSDHQuantizer", "__version__"]
