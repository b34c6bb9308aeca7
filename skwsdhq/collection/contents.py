"""All that a collection holds at one moment, for packages that show it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ._items import Item, items_of
from ._source import features_of_rows

__all__ = ["Contents", "contents_of", "features_of_images"]


class Contents(NamedTuple):
    """Hold items of a collection, with what they are found by."""

    quantizer: Any
    items: list[Item]
    features: np.ndarray  # (n, d) as they are kept
    codes: np.ndarray  # (n, M)
    places: np.ndarray  # (n,) of the items among all, in the order of their coming
    n_items: int  # of the collection


def contents_of(collection: Any, choose: Callable[[int], np.ndarray]) -> Contents:
    """Return those items of a collection whose places ``choose`` gives, of so many in all."""
    with collection._seen() as now:
        places = choose(len(now))
        rows = now.rows[places]
        items = items_of(collection._store, rows)
        features = features_of_rows(collection._store, rows, collection._reading)
        codes = now.codes_of(rows)
        return Contents(now.quantizer, items, features, codes, places, len(now))


def features_of_images(collection: Any, images: Any) -> np.ndarray:
    """Return features (n, d) of images that need not be in a collection, as it would make them."""
    return collection._reading.features(images)[0]
