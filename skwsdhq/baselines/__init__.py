"""Binary codes from tags, to compare with: CCA-ITQ, and weakly supervised hashing (WDHT)."""

from ._itq import CCAITQ, canonical_directions, itq_rotation
from ._wdht import WDHTHasher

__all__ = ["CCAITQ", "WDHTHasher", "canonical_directions", "itq_rotation"]
