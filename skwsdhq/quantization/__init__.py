"""Codes of images: the quantizer, and codes that follow a training."""

from ..utils.public import named_here
from .quantizer import WSDHQuantizer

__all__ = ["WSDHQuantizer"]

named_here(__name__)
