"""Search over codes: look-up tables, exact ranking, an index to keep codes in."""

from ._search_index import CodeIndex
from ._search_inverted import InvertedCodeIndex
from ._search_tables import lookup_table, rerank

__all__ = ["CodeIndex", "InvertedCodeIndex", "lookup_table", "rerank"]
