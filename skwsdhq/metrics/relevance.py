"""Which of the rows that were found are relevant, for packages that show them."""

from typing import Any

import numpy as np

from ._relevance import relate

__all__ = ["found_relevant"]


def found_relevant(query_labels: Any, database_labels: Any, rows: np.ndarray) -> np.ndarray:
    """Tell which found rows (q, k) share a label with their query: (q, k) bool.

    Labels are what :func:`skwsdhq.metrics.mean_average_precision` takes.
    """
    relevance = relate(query_labels, database_labels)
    found = np.asarray(rows)
    if found.ndim != 2 or len(found) != relevance.n_queries:
        raise ValueError(
            f"there are labels of {relevance.n_queries} queries, and rows of shape {found.shape}; "
            "give labels of as many queries."
        )
    return relevance.of_ranked(np.arange(len(found)), found)
