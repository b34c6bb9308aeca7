"""A collection of images that a cluster reads."""

import os
from typing import Any

from ..collection import Collection
from ._chunks import of_dask
from ._sources import ClusterPaths, tags_at_hand

__all__ = ["create_collection"]


def create_collection(
    path: str | os.PathLike, images: Any, tags: Any = None, **options: Any
) -> Collection:
    """Make a collection of images whose features a cluster extracts.

    Workers read the partitions; features are kept here as these are done. If the process is
    killed, the same call goes on with the images that are left.

    Parameters
    ----------
    path : str or PathLike
        Directory to make, here.
    images : dask.bag, or column of a dask.dataframe, of n paths
        Which every worker can open.
    tags : tags of n rows, default=None
        As for :meth:`Collection.create`, or held by Dask.
    **options : dict
        Other arguments of :meth:`Collection.create`; ``ids`` and ``columns`` may be held by Dask.

    Returns
    -------
    Collection
        Open.

    Raises
    ------
    ImportError
        If Dask is missing.
    TypeError
        If images are no bag or column of paths.

    Examples
    --------
    >>> import dask.bag
    >>> from skwsdhq.dask import create_collection
    >>> items = dask.bag.read_text("items/*.json").map(json.loads)  # doctest: +SKIP
    >>> photos = create_collection(
    ...     "photos.skwsdhq", items.pluck("path"), items.pluck("tags")
    ... )  # doctest: +SKIP
    """
    of_dask()
    options = {name: tags_at_hand(value) for name, value in options.items()}
    return Collection.create(path, ClusterPaths(images), tags_at_hand(tags), **options)
