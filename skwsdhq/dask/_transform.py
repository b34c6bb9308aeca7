"""Embeddings, codes and suggestions of what Dask holds, lazily."""

from typing import Any

import numpy as np
from joblib import parallel_config
from sklearn.utils.validation import check_is_fitted

from ..codebooks.inputs import code_dtype
from ..search.checks import check_k
from ..utils.estimators import unfrozen
from ._chunks import as_paths, of_dask, rows_of, shared

__all__ = ["encode", "suggest_tags", "transform"]

_SUGGESTION = np.dtype([("name", object), ("score", np.float32)])


def transform(model: Any, X: Any) -> Any:
    """Embed rows where they are.

    Parameters
    ----------
    model : WSDHQuantizer, HypersphereEmbedder or TagKernelRegressor
        Fitted; sent once to each worker.
    X : dask.array of shape (n, d), or dask.bag or column of a dask.dataframe of paths
        Features, or images where the model takes these.

    Returns
    -------
    dask.array of shape (n, D)
        What ``model.transform`` gives, computed when it is asked for. Its chunks are the rows of
        those of X, of unknown size where these are partitions of paths.

    Raises
    ------
    ImportError
        If Dask is missing.

    Examples
    --------
    >>> import dask.array as da
    >>> from skwsdhq import WSDHQuantizer
    >>> from skwsdhq.dask import transform
    >>> from skwsdhq.datasets import make_tagged_images
    >>> made = make_tagged_images(100, random_state=0)
    >>> model = WSDHQuantizer(n_codebooks=2, n_codewords=16, random_state=0)
    >>> model = model.fit(made.data, made.tags)
    >>> embeddings = transform(model, da.from_array(made.data, chunks=(40, -1)))
    >>> embeddings.shape, embeddings.chunks[0]
    ((100, 20), (40, 40, 20))
    """
    check_is_fitted(model)
    is_wide = getattr(X, "dtype", None) == np.float64
    width = len(model.get_feature_names_out())
    return _by_chunks(model, "transform", X, width, np.float64 if is_wide else np.float32)


def encode(model: Any, X: Any) -> Any:
    """Code rows where they are.

    Parameters
    ----------
    model : WSDHQuantizer
        Fitted; sent once to each worker.
    X : dask.array of shape (n, d), or dask.bag or column of a dask.dataframe of paths
        As for :func:`transform`.

    Returns
    -------
    dask.array of shape (n, M), uint8 (uint16 where K > 256)
        What ``model.encode`` gives, computed when it is asked for.

    Examples
    --------
    >>> import dask.array as da
    >>> from skwsdhq import WSDHQuantizer
    >>> from skwsdhq.dask import encode
    >>> from skwsdhq.datasets import make_tagged_images
    >>> made = make_tagged_images(100, random_state=0)
    >>> model = WSDHQuantizer(n_codebooks=2, n_codewords=16, random_state=0)
    >>> model = model.fit(made.data, made.tags)
    >>> codes = encode(model, da.from_array(made.data, chunks=(40, -1)))
    >>> bool((codes.compute() == model.encode(made.data)).all())
    True
    """
    check_is_fitted(model)
    _check_quantizer(model, "encode")
    n_codebooks, n_codewords, _ = model.codebooks_.shape
    return _by_chunks(model, "encode", X, n_codebooks, code_dtype(n_codewords))


def suggest_tags(model: Any, X: Any, n_tags: int = 5, **options: Any) -> tuple[Any, Any]:
    """Suggest tags for images where they are.

    Parameters
    ----------
    model : WSDHQuantizer
        Fitted; sent once to each worker.
    X : dask.array of shape (n, d), or dask.bag or column of a dask.dataframe of paths
        As for :func:`transform`.
    n_tags : int, default=5
        Of each image.
    **options : dict
        ``prior_weight``, as for :meth:`WSDHQuantizer.suggest_tags`.

    Returns
    -------
    names : dask.array of shape (n, t), object
        The most likely first; t is ``n_tags``, or the number of concepts.
    scores : dask.array of shape (n, t), float32
        Probabilities. Compute both at once: ``dask.compute(names, scores)``.

    Examples
    --------
    >>> import dask
    >>> import dask.array as da
    >>> from skwsdhq import WSDHQuantizer
    >>> from skwsdhq.dask import suggest_tags
    >>> from skwsdhq.datasets import make_tagged_images
    >>> made = make_tagged_images(100, random_state=0)
    >>> model = WSDHQuantizer(n_codebooks=2, n_codewords=16, random_state=0)
    >>> model = model.fit(made.data, made.tags)
    >>> names, scores = dask.compute(
    ...     *suggest_tags(model, da.from_array(made.data, chunks=(40, -1)), 3)
    ... )
    >>> names.shape, scores.shape
    ((100, 3), (100, 3))
    """
    check_is_fitted(model)
    _check_quantizer(model, "suggest_tags")
    enhancer = unfrozen(model.tag_enhancer_)
    n_concepts = len(getattr(enhancer, "concept_names_", ()))
    width = min(check_k(n_tags, "n_tags"), n_concepts) if n_concepts else check_k(n_tags, "n_tags")
    both = _by_chunks(model, "suggest_tags", X, width, _SUGGESTION, n_tags=n_tags, **options)
    return both["name"], both["score"]


def _check_quantizer(model: Any, method: str) -> None:
    if not hasattr(model, method) or not hasattr(model, "codebooks_"):
        raise TypeError(f"{method} needs a WSDHQuantizer; got a {type(model).__name__}.")


def _by_chunks(model: Any, method: str, X: Any, width: int, dtype: Any, **options: Any) -> Any:
    """Return a dask.array (n, width) of what a method makes of each chunk."""
    da = of_dask("dask.array")
    delayed = of_dask("dask").delayed
    meta = np.empty((0, width), dtype=dtype)
    parts = as_paths(X)
    if parts is None:
        rows = rows_of(X)
        call = {"model": shared(model), "method": method, "nothing": meta, "options": options}
        # The size of a chunk of rows stays; that of its columns does not.
        return da.map_blocks(
            _called, rows, **call, dtype=dtype, chunks=(rows.chunks[0], (width,)), meta=meta
        )
    held, work = shared(model), delayed(_called, pure=False)
    blocks = [
        da.from_delayed(work(part, held, method, meta, options), shape=(np.nan, width), meta=meta)
        for part in parts
    ]
    return da.concatenate(blocks, allow_unknown_chunksizes=True)


def _called(
    rows: Any, model: Any, method: str, nothing: np.ndarray, options: dict[str, Any]
) -> np.ndarray:
    """Return what a method of the model makes of a chunk; a partition may be empty."""
    if not len(rows):
        return nothing
    # A task is one thread of a worker's.
    with parallel_config("sequential"):
        found = getattr(model, method)(rows, **options)
    if method != "suggest_tags":
        return np.asarray(found)
    names, scores = found
    both = np.empty(names.shape, dtype=nothing.dtype)
    both["name"], both["score"] = names, scores
    return both
