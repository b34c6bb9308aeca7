"""A fit whose passes over the rows are made by a cluster."""

from typing import Any

from ..embedding import HypersphereEmbedder
from ._chunks import as_paths, of_dask
from ._sources import ClusterPaths, ClusterRows, tags_at_hand

__all__ = ["fit"]


def fit(model: Any, X: Any, y: Any = None) -> Any:
    """Fit a model to rows that stay where they are.

    Workers extract features, sum up the kernel regression over blocks, encode, and sum up what
    codebooks are learned from; sums are added as a tree. What comes here are tags, landmarks, a
    sample for the codebooks, sums and codes. The model is that of ``model.fit`` in one process, to
    float precision.

    Parameters
    ----------
    model : WSDHQuantizer, HypersphereEmbedder or TagKernelRegressor
        Fitted in place. A network is not learned so: its embedder has ``kernel_weight=1``, or the
        quantizer is one of ``"passthrough"``.
    X : dask.array of shape (n, d), or dask.bag or column of a dask.dataframe of paths
        In chunks of known sizes. It is gone through several times: ``X.persist()`` where it takes
        long to make.
    y : tags of n rows
        As for ``model.fit``, or held by Dask.

    Returns
    -------
    model
        Fitted.

    Raises
    ------
    ImportError
        If Dask is missing.
    ValueError
        If chunks are of unknown sizes, or a network would have to learn.

    See Also
    --------
    skwsdhq.distributed.fit : A network too, by processes that ``torchrun`` starts.

    Examples
    --------
    >>> import dask.array as da
    >>> from skwsdhq import TagKernelRegressor
    >>> from skwsdhq.dask import fit
    >>> from skwsdhq.datasets import make_tagged_images
    >>> made = make_tagged_images(100, random_state=0)
    >>> X = da.from_array(made.data, chunks=(40, -1))
    >>> model = fit(TagKernelRegressor(random_state=0), X, made.tags)
    >>> model.transform(made.data[:2]).shape
    (2, 20)
    """
    of_dask()
    _refuse_network(model)
    rows = ClusterRows(X) if as_paths(X) is None else ClusterPaths(X)
    return model.fit(rows, tags_at_hand(y))


def _refuse_network(model: Any) -> None:
    """Refuse a model whose network would read its batches, one by one, through the cluster."""
    embedder = model
    if hasattr(model, "embedder"):
        embedder = HypersphereEmbedder() if model.embedder is None else model.embedder
    if not getattr(embedder, "has_no_network", True):
        raise ValueError(
            "a cluster fits the kernel regression and codebooks, and trains no network; give a "
            "HypersphereEmbedder(kernel_weight=1), or fit in one process, or in several by "
            "skwsdhq.distributed.fit."
        )
