"""Work on a cluster: what Dask holds in chunks goes through a model where the chunks are.

Arrays, bags of paths and columns of data frames are taken as they are, lazily; the model is sent
once to each worker. ``pip install skwsdhq[dask]``.
"""

from ..utils.public import named_here
from ._collection import create_collection
from ._fit import fit
from ._search import PartitionedIndex
from ._transform import encode, suggest_tags, transform

__all__ = [
    "PartitionedIndex",
    "create_collection",
    "encode",
    "fit",
    "suggest_tags",
    "transform",
]

named_here(__name__)
