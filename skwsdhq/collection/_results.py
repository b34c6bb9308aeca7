"""What a search in a collection finds."""

from collections.abc import Sequence
from typing import Any, NamedTuple, overload

import numpy as np

from ._items import Item

__all__ = ["Found", "Results"]


class Found(NamedTuple):
    """Hold one item that was found, with its similarity.

    Parameters
    ----------
    id : str
    similarity : float
        To what was looked for; larger is nearer.
    path : str or None
        None where it came as an array or as features.
    tags : list of str
    columns : dict of str to str, int or float

    Examples
    --------
    >>> from skwsdhq.collection import Found
    >>> found = Found("7", 0.9, "dog.jpg", ["dog"], {"year": 2020})
    >>> found.path, found.similarity
    ('dog.jpg', 0.9)
    """

    id: str
    similarity: float
    path: str | None
    tags: list[str]
    columns: dict[str, Any]


class Results(Sequence[Found]):
    """Hold items that were found, the nearest first, as a sequence of :class:`Found`.

    Parameters
    ----------
    items : list of Item
    similarities : ndarray of shape (k,)

    Examples
    --------
    >>> import numpy as np
    >>> from skwsdhq.collection import Item, Results
    >>> results = Results([Item("7", "dog.jpg", ["dog"], {})], np.array([0.9]))
    >>> [(found.id, found.similarity) for found in results]
    [('7', 0.9)]
    """

    def __init__(self, items: list[Item], similarities: np.ndarray) -> None:
        # An array, for those who go on with numbers.
        self.similarities = np.asarray(similarities)
        self._rows = [
            Found(item.id, float(value), item.path, item.tags, item.columns)
            for item, value in zip(items, similarities, strict=True)
        ]

    @property
    def ids(self) -> list[str]:
        """Ids of the items."""
        return [row.id for row in self._rows]

    @property
    def paths(self) -> list[str | None]:
        """Paths of the items; None where they came as arrays or features."""
        return [row.path for row in self._rows]

    @property
    def tags(self) -> list[list[str]]:
        """Tags of the items."""
        return [row.tags for row in self._rows]

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, place: int) -> Found: ...
    @overload
    def __getitem__(self, place: slice) -> list[Found]: ...
    def __getitem__(self, place: int | slice) -> Found | list[Found]:
        return self._rows[place]

    def __repr__(self) -> str:
        lines = [f"{row.similarity:6.3f}  {row.id}  {', '.join(row.tags)}" for row in self._rows]
        return "\n".join([f"Results({len(self)} items)", *lines])
