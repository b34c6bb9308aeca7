"""Search over codes: look-up tables, exact ranking, an index to keep codes in."""

from ..utils.public import named_here
from ._index import CodeIndex
from ._inverted import InvertedCodeIndex
from ._tables import lookup_table, rerank

__all__ = [
    "CodeIndex",
    "InvertedCodeIndex",
    "lookup_table",
    "rerank",
]

named_here(__name__)
