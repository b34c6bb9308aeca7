"""Train in several processes that ``torchrun`` starts, on one machine or on many.

For networks: a cluster of Dask's is the simpler way to fit a regression and codebooks.
"""

from ..utils.public import named_here
from ._fit import fit

__all__ = ["fit"]

named_here(__name__)
