"""Tags as an embedder reads them: there, and able to tell images apart."""

from typing import Any

import numpy as np
from scipy import sparse

from ..utils.warn import warn_caller

__all__ = ["check_tags_given", "warn_of_one_concept"]


def check_tags_given(estimator: Any, y: Any) -> None:
    """Raise an error that names the estimator where there are no tags."""
    if y is None:
        raise ValueError(
            f"{type(estimator).__name__} requires y to be passed, but the target y is None: it "
            "learns from tags."
        )


def warn_of_one_concept(enhancer: Any, indicator: sparse.csr_array) -> None:
    """Warn where several images have tags, and all of these are one concept."""
    # One tagged image alone is a fair use: it can't be told apart from others anyway.
    if indicator.shape[1] == 1 and np.count_nonzero(np.diff(indicator.indptr)) > 1:
        warn_caller(
            f"all tags are one concept, {enhancer.concept_names_[0]!r}: nothing tells images "
            "apart, and the loss is 0. Give more tags, or let tag_enhancer merge fewer."
        )
