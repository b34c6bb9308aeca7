"""Estimators as JSON values and arrays.

JSON has no tuples, sets, arrays or numbers as keys, so these are objects of one key, as
``{"tuple": [...]}``. Estimators are ``{"estimator": {"class", "parameters", "attributes"}}``;
one that occurs twice is ``{"same": number}`` the second time, in the order in which they end.
"""

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
from scipy import sparse
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline

from ..utils._compat import CALLBACK_ATTRIBUTES
from .registry import Saved, class_names, saved_of

__all__ = ["METHODS", "Writer", "is_wasteful"]

METHODS = ("fit", "partial_fit", "transform", "inverse_transform", "score")  # that take metadata


class Writer:
    """Turn values into JSON; arrays are gathered in ``arrays`` by the name of their place."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self._names: dict[int, str] = {}
        self._finished: dict[int, int] = {}
        self._kept: list[Any] = []  # so that no id is given twice

    def estimator(self, estimator: Any, place: str) -> dict:
        """Return the JSON of an estimator.

        Parameters
        ----------
        estimator : estimator
            Of a class that is registered, a Pipeline of them, or one in a FrozenEstimator.
        place : str
            Where it stands in another one; "" for the whole.

        Returns
        -------
        dict
            What :func:`json.dumps` takes.

        Raises
        ------
        TypeError
            If a file can't hold it, or a part of it; the message says which.
        """
        # One enhancer may serve a quantizer and its embedder, and should be one when it comes back.
        if id(estimator) in self._finished:
            return {"same": self._finished[id(estimator)]}
        if isinstance(estimator, FrozenEstimator):
            record: dict[str, Any] = {"frozen": self.estimator(estimator.estimator, place)}
        elif type(estimator) is Pipeline:  # a subclass would come back as a Pipeline
            record = {"pipeline": self._pipeline(estimator, place)}
        elif (entry := saved_of(type(estimator))) is not None:
            record = {"estimator": self._own(estimator, entry, place)}
        else:
            raise TypeError(
                f"{place or 'the estimator'} is a {type(estimator).__name__}, which save does not "
                f"know; it knows {', '.join(class_names())} and a Pipeline of them. Use joblib or "
                "skops."
            )
        self._finished[id(estimator)] = len(self._finished)
        self._kept.append(estimator)
        return record

    def _pipeline(self, pipeline: Any, place: str) -> list:
        steps: list[list] = []
        for name, step in pipeline.steps:
            whole = step is not None and not isinstance(step, str)
            steps.append([name, self.estimator(step, f"{place}{name}") if whole else step])
        return steps

    def _own(self, estimator: Any, entry: Saved, place: str) -> dict:
        dot = f"{place}." if place else ""
        parameters = estimator.get_params(deep=False)
        record: dict[str, Any] = {"class": entry.own.__name__, "parameters": {}, "attributes": {}}
        for name, value in parameters.items():
            value = _portable(entry, name, value)
            record["parameters"][name] = self.value(value, f"{dot}{name}")
        # Attributes in the order in which they were set, so that equal models make equal files.
        for name, value in vars(estimator).items():
            if name in parameters or name in CALLBACK_ATTRIBUTES:
                continue
            if name == "_metadata_request":
                value = _requests_to_dict(value)
            value = _portable(entry, name, value)
            record["attributes"][name] = self.value(value, f"{dot}{name}")
        return record

    def value(self, value: Any, place: str) -> Any:
        """Return the JSON of a value.

        Parameters
        ----------
        value : object
        place : str
            Where it stands in the estimator; names its arrays, and tells the user of a refusal.

        Returns
        -------
        object
            What :func:`json.dumps` takes.

        Raises
        ------
        TypeError
            If a file can't hold it.
        """
        if isinstance(value, np.generic):
            value = value.item()  # numpy's scalars come back as Python's
        if value is None or isinstance(value, (bool, int, float, str)):
            return _scalar(value)
        if isinstance(value, (list, tuple, set, frozenset, Mapping)):
            return self._container(value, place)
        if isinstance(value, np.ndarray):
            return self._array(value, place)
        if sparse.issparse(value) and value.format == "csr":
            return {
                "csr": {
                    "shape": [int(n) for n in value.shape],
                    "data": self._array(value.data, f"{place}.data"),
                    "indices": self._array(value.indices, f"{place}.indices"),
                    "indptr": self._array(value.indptr, f"{place}.indptr"),
                }
            }
        if isinstance(value, np.random.RandomState):
            _, keys, *rest = value.get_state(legacy=True)
            return {"random_state": [self._array(np.asarray(keys), f"{place}.keys"), *rest]}
        if hasattr(value, "get_params") and not inspect.isclass(value):
            return self.estimator(value, place)
        _refuse(value, place)

    def _container(self, value: Any, place: str) -> Any:
        if isinstance(value, list):
            return [self.value(item, f"{place}.{k}") for k, item in enumerate(value)]
        if isinstance(value, tuple):
            return {"tuple": [self.value(item, f"{place}.{k}") for k, item in enumerate(value)]}
        if isinstance(value, Mapping):
            items = [(self.value(k, place), k, v) for k, v in value.items()]
            return {"dict": [[key, self.value(v, f"{place}.{k}")] for key, k, v in items]}
        if all(isinstance(item, str) for item in value):
            return {"set": sorted(value)}  # sorted, so that equal models make equal files
        _refuse(value, place)

    def _array(self, array: np.ndarray, place: str) -> dict:
        # safetensors holds numbers only; texts stand in the JSON.
        if array.dtype.kind in "OU":
            if not all(isinstance(item, str) for item in array.flat):
                raise TypeError(f"{place} holds other objects than strings; save can't write it.")
            texts = array.ravel().tolist()
            kind = "strings" if array.dtype.kind == "U" and not is_wasteful(texts) else "objects"
            return {kind: texts, "shape": list(array.shape)}
        # One array under two names is written once, and is one when it comes back.
        if id(array) not in self._names:
            while place in self.arrays:  # as of the keys 0 and "0" of a dictionary
                place += "'"
            self._names[id(array)] = place
            self._kept.append(array)
            self.arrays[place] = array
        return {"array": self._names[id(array)]}


def _scalar(value: Any) -> Any:
    if isinstance(value, str):
        return str(value)  # no subclass, as numpy's
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}  # JSON has no word for it
    return value


def _refuse(value: Any, place: str) -> NoReturn:
    raise TypeError(
        f"{place} is a {type(value).__name__}, which save can't write; give another value by "
        "set_params, or use joblib."
    )


def _portable(entry: Saved, name: str, value: Any) -> Any:
    """Return a parameter or an attribute as it may leave this machine."""
    if name in entry.local:
        return None
    if name not in entry.names:
        return value
    try:
        return entry.names[name](value)
    except TypeError as error:
        raise TypeError(
            f"{name}={value!r} of {entry.own.__name__} can't be saved: {error}"
        ) from None


def is_wasteful(texts: Sequence[str] | np.ndarray) -> bool:
    """Tell whether an array of texts, each as wide as the longest, is much larger than they are."""
    lengths = [len(text) for text in texts]
    # 8 times what they need, and 8 letters each: no file of ours is refused for short texts.
    return len(lengths) * max(lengths, default=0) > 8 * (sum(lengths) + 8 * len(lengths))


def _requests_to_dict(requests: Any) -> dict:
    """Return the metadata requests of an estimator that differ from none, by method."""
    return {
        method: dict(getattr(requests, method).requests)
        for method in METHODS
        if getattr(requests, method).requests
    }
