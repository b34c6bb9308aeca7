"""Binary codes from tags, to compare with: CCA-ITQ, and weakly supervised hashing (WDHT)."""

from ..utils.public import named_here
from ._itq import CCAITQ, canonical_directions, itq_rotation
from ._wdht import WDHTHasher

__all__ = ["CCAITQ", "WDHTHasher", "canonical_directions", "itq_rotation"]

named_here(__name__)
