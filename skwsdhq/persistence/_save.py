"""Save fitted estimators to safetensors files, and load them without running anything from them.

A file holds arrays by name and a JSON text with parameters and attributes. Loading checks it
against itself before it is believed: length, checksum, format, dtypes, shapes, and that codes,
layers, vectors and concepts fit together. What fails is a :class:`LoadError`.
"""

import json
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from scipy.sparse import csr_array
from sklearn.exceptions import InconsistentVersionWarning

from .._version import __version__
from ..utils.warn import warn_caller
from ._device import mend_device
from .file import FORMAT, LoadError, SealedFile, parse_json, write_sealed
from .reader import Reader
from .writer import Writer

__all__ = ["FORMAT", "LoadError", "PersistenceMixin", "load", "save"]


def save(estimator: Any, path: str | os.PathLike) -> None:
    """Save an estimator, fitted or not, to a file that :func:`load` reads.

    It leaves out what depends on this machine: word vectors that are an object or a path come back
    as None (the fitted enhancer does not need them; give them again before the next ``fit``), and
    so do ``memory``, ``checkpoint_dir``, ``cache_dir`` and callbacks. Numpy scalars come back as
    Python's numbers.

    Parameters
    ----------
    estimator : TagEnhancer, HypersphereEmbedder, WSDHQuantizer, ImageLoader or Pipeline of them
        Any of them may be in a :class:`~sklearn.frozen.FrozenEstimator`.
    path : str or PathLike
        A file that is there is replaced when the new one is complete. ``.safetensors`` is the
        usual suffix; none is added.

    Raises
    ------
    TypeError
        If a part can't be saved, as a network given as an object; the message says which, and
        the way out.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from skwsdhq import TagEnhancer, load
    >>> from skwsdhq.persistence import save
    >>> enhancer = TagEnhancer().fit([["dog", "puppy"], ["dog"], ["car"], ["car", "road"]])
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "enhancer.safetensors"
    >>> save(enhancer, path)
    >>> list(load(path).concept_names_) == list(enhancer.concept_names_)
    True
    """
    writer = Writer()
    # All is JSON before the file is opened: what can't be saved leaves no half of one.
    model = writer.estimator(estimator, "")
    metadata = {"versions": json.dumps(_versions()), "model": json.dumps(model, allow_nan=False)}
    write_sealed(path, writer.arrays, metadata)


def load(path: str | os.PathLike) -> Any:
    """Load an estimator that :func:`save` or its method ``save`` wrote.

    It runs nothing from the file, and takes no more memory than the size of the file justifies.

    Parameters
    ----------
    path : str or PathLike
        A file of this or of an earlier version.

    Returns
    -------
    estimator
        Of the class that was saved; its codes, scores and neighbours are the same.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    LoadError
        If the file is cut short, damaged, foreign, of a newer format, or contradicts itself; a
        ``ValueError``.

    Warns
    -----
    InconsistentVersionWarning
        If another version of skwsdhq saved it.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import skwsdhq
    >>> path = Path(tempfile.mkdtemp(), "tags.safetensors")
    >>> skwsdhq.TagEnhancer().fit([["sea", "beach"], ["dog"]]).save(path)
    >>> list(skwsdhq.load(path).vocabulary_)
    ['beach', 'dog', 'sea']
    """
    try:
        with open(path, "rb") as file:
            sealed = SealedFile(file)
            versions, model = (sealed.metadata.get(key, "null") for key in ("versions", "model"))
            saved_by = parse_json(versions, "its list of versions")
            reader = Reader(sealed.array, sealed.format)
            estimator = reader.estimator(parse_json(model, "its model"))
            # What nobody asks for may be anything; a file of ours holds nothing of the kind.
            if sealed.unread:
                raise LoadError(f"it holds arrays of no use, as {sorted(sealed.unread)[0]!r}.")
    except LoadError as error:
        raise LoadError(f"{Path(path)} can't be loaded: {error}") from error
    except (ValueError, TypeError, OverflowError, RecursionError, AttributeError) as error:
        # Lies that nobody thought of; a header is never trusted.
        raise LoadError(f"{Path(path)} can't be loaded: it contradicts itself: {error}") from error
    # Where the block has ended: a warning may be an error for the user, which is none of the file.
    version = saved_by.get("skwsdhq") if isinstance(saved_by, dict) else None
    _warn_of_version(estimator, str(version))
    return estimator


class PersistenceMixin:
    """Give an estimator ``save``, and pickles that know the version they are from.

    Examples
    --------
    >>> from skwsdhq import TagEnhancer
    >>> from skwsdhq.persistence import PersistenceMixin
    >>> issubclass(TagEnhancer, PersistenceMixin)
    True
    """

    def save(self, path: str | os.PathLike) -> None:
        """Save to a safetensors file, see :func:`skwsdhq.persistence.save`.

        Parameters
        ----------
        path : str or PathLike
            :func:`skwsdhq.load` reads it.
        """
        save(self, path)

    def __getstate__(self) -> dict:
        state = dict(super().__getstate__())  # type: ignore[call-overload]
        # skops knows arrays, but not scipy's sparse arrays.
        matrices = {name: value for name, value in state.items() if isinstance(value, csr_array)}
        for name, value in matrices.items():
            state[name] = (value.data, value.indices, value.indptr, value.shape)
        return {**state, "_skwsdhq_version": __version__, "_skwsdhq_csr": list(matrices)}

    def __setstate__(self, state: dict) -> None:
        state = dict(state)  # pickle's own dict is left as it is
        version = state.pop("_skwsdhq_version", "unknown")
        for name in state.pop("_skwsdhq_csr", ()):
            *parts, shape = state[name]
            state[name] = csr_array(tuple(parts), shape=shape)
        _warn_of_version(self, version)
        super().__setstate__(state)  # type: ignore[misc]
        mend_device(self)


def _versions() -> dict[str, str]:
    """Return the versions that a file tells, for people who look into it."""
    return {
        "skwsdhq": __version__,
        "scikit-learn": sklearn.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def _warn_of_version(estimator: Any, version: str) -> None:
    """Warn where another version has written an estimator, as scikit-learn does."""
    if version != __version__:
        warn_caller(
            InconsistentVersionWarning(
                estimator_name=type(estimator).__name__,
                current_sklearn_version=f"{__version__} of skwsdhq",
                original_sklearn_version=f"{version} of skwsdhq",
            )
        )
