"""Collections of images on disk: codes, tags and columns, searched while they grow."""

from ..utils.public import named_here
from ._items import Item
from ._results import Found, Results
from .collection import Collection

__all__ = ["Collection", "Found", "Item", "Results"]

named_here(__name__)
