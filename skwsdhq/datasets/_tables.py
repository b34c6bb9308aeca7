"""What the loaders of sets on disk have in common."""

from collections.abc import Sequence

import numpy as np

__all__ = ["label_indicator", "tidy_tag"]


def label_indicator(labels: Sequence[Sequence[str]]) -> tuple[np.ndarray, list[str]]:
    """0/1 table (n, L) of the labels of each row, int64, and their names in order."""
    names = sorted({name for row in labels for name in row})
    columns = {name: k for k, name in enumerate(names)}
    table = np.zeros((len(labels), len(names)), dtype=np.int64)
    for n, row in enumerate(labels):
        table[n, [columns[name] for name in row]] = 1
    return table, names


def tidy_tag(tag: str) -> str:
    """Lower-case, underscores as spaces, no space twice or at an end."""
    return " ".join(tag.replace("_", " ").lower().split())
