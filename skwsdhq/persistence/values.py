"""Estimators as JSON values and arrays, and back, with nothing executed on the way.

JSON has no tuples, sets, arrays or numbers as keys, so these are objects of one key, as
``{"tuple": [...]}``. Estimators are ``{"estimator": {"class", "parameters", "attributes"}}``;
one that occurs twice is ``{"same": number}`` the second time, in the order in which they end.
"""

import inspect
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from ..utils.warn import warn_caller
from ._checks import check_estimator
from .file import LoadError

__all__ = ["Reader", "Writer", "estimator_classes", "looks_like_path", "mend_device"]

_NAME = re.compile(r"[a-z_][a-z0-9_]*\Z")
_FILE_SUFFIXES = (
    ".bin", ".csv", ".gz", ".kv", ".model", ".npy", ".npz", ".pkl", ".pickle", ".pt", ".pth",
    ".safetensors", ".txt", ".vec", ".w2v", ".wordvectors",
)  # fmt: skip
_OUTPUTS = ("default", "pandas", "polars", None)
_UNSAVED = (
    "_skl_callbacks", "_skl_callbacks_to_teardown", "_callback_fit_ctx", "_parent_callback_ctx",
)  # fmt: skip
_METHODS = ("fit", "partial_fit", "transform", "inverse_transform", "score")


def estimator_classes() -> dict[str, type]:
    """The classes that may be saved, by name."""
    from ..backbones.loader import ImageLoader
    from ..embedding.embedder import HypersphereEmbedder
    from ..quantization.quantizer import WSDHQuantizer
    from ..tags.enhancer import TagEnhancer

    known = (TagEnhancer, HypersphereEmbedder, WSDHQuantizer, ImageLoader)
    return {known_class.__name__: known_class for known_class in known}


def looks_like_path(text: str) -> bool:
    """Whether a parameter's text names a place on a machine rather than a model.

    Its letters say so: what files there are where a model is loaded should make no difference.
    """
    is_marked = text.startswith(("~", ".")) or any(c in text for c in "/\\\0@")
    return is_marked or os.path.splitext(text)[1].lower() in _FILE_SUFFIXES


class Writer:
    """Turns values into JSON; arrays are gathered in ``arrays`` by the name of their place."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self._names: dict[int, str] = {}
        self._finished: dict[int, int] = {}
        self._kept: list[Any] = []  # so that no id is given twice
        self._classes = estimator_classes()

    def estimator(self, estimator: Any, place: str) -> dict:
        from sklearn.frozen import FrozenEstimator
        from sklearn.pipeline import Pipeline

        if id(estimator) in self._finished:
            return {"same": self._finished[id(estimator)]}
        if isinstance(estimator, FrozenEstimator):
            record: dict[str, Any] = {"frozen": self.estimator(estimator.estimator, place)}
        elif type(estimator) is Pipeline:
            record = {"pipeline": self._pipeline(estimator, place)}
        elif self._classes.get(type(estimator).__name__) is type(estimator):
            record = {"estimator": self._own(estimator, place)}
        else:
            raise TypeError(
                f"{place or 'the estimator'} is a {type(estimator).__name__}, which save does not "
                f"know; it knows {', '.join(self._classes)} and a Pipeline of them. Use joblib or "
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

    def _own(self, estimator: Any, place: str) -> dict:
        dot = f"{place}." if place else ""
        parameters = estimator.get_params(deep=False)
        record: dict[str, Any] = {"class": type(estimator).__name__}
        record["parameters"] = {
            name: self.value(_portable(estimator, name, value), f"{dot}{name}")
            for name, value in parameters.items()
        }
        record["attributes"] = attributes = {}
        for name, value in vars(estimator).items():
            if name in parameters or name in _UNSAVED:
                continue
            if name == "_metadata_request":
                value = _requests_to_dict(value)
            elif name == "backbone_":
                value = _portable(estimator, name, value)
            attributes[name] = self.value(value, f"{dot}{name}")
        return record

    def value(self, value: Any, place: str) -> Any:
        """JSON for a value; TypeError where there is none."""
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or isinstance(value, (bool, int)):
            return value
        if isinstance(value, str):
            return str(value)
        if isinstance(value, float):
            return value if math.isfinite(value) else {"float": repr(value)}
        if isinstance(value, list):
            return [self.value(item, f"{place}.{k}") for k, item in enumerate(value)]
        if isinstance(value, tuple):
            return {"tuple": [self.value(item, f"{place}.{k}") for k, item in enumerate(value)]}
        if isinstance(value, (set, frozenset)) and all(isinstance(item, str) for item in value):
            return {"set": sorted(value)}
        if isinstance(value, Mapping):
            items = [(self.value(k, place), k, v) for k, v in value.items()]
            return {"dict": [[key, self.value(v, f"{place}.{k}")] for key, k, v in items]}
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
        raise TypeError(
            f"{place} is a {type(value).__name__}, which save can't write; give another value by "
            "set_params, or use joblib."
        )

    def _array(self, array: np.ndarray, place: str) -> dict:
        if array.dtype.kind in "OU":
            if not all(isinstance(item, str) for item in array.flat):
                raise TypeError(f"{place} holds other objects than strings; save can't write it.")
            texts = array.ravel().tolist()
            kind = "strings" if array.dtype.kind == "U" and not _is_wasteful(texts) else "objects"
            return {kind: texts, "shape": list(array.shape)}
        if id(array) not in self._names:
            while place in self.arrays:  # as of the keys 0 and "0" of a dictionary
                place += "'"
            self._names[id(array)] = place
            self._kept.append(array)
            self.arrays[place] = array
        return {"array": self._names[id(array)]}


def _is_wasteful(texts: Sequence[str] | np.ndarray) -> bool:
    """Whether an array of texts, each as wide as the longest, is much larger than they are."""
    lengths = [len(text) for text in texts]
    return len(lengths) * max(lengths, default=0) > 8 * (sum(lengths) + 8 * len(lengths))


def _portable(estimator: Any, name: str, value: Any) -> Any:
    """A parameter as it may leave this machine."""
    if name in ("backbone", "backbone_") and value is not None:
        if not isinstance(value, str) or looks_like_path(value):
            raise TypeError(
                f"{name}={value!r} of {type(estimator).__name__} can't be saved: only networks "
                "with a name can. Extract features first (backbones.extract_features), fit on "
                "these and set backbone='auto'; or use joblib, which pickles the network."
            )
    elif name == "word_vectors":
        # A file of that name is what fit has read, whatever model may be called so elsewhere.
        is_name = isinstance(value, str) and not looks_like_path(value)
        return value if is_name and not os.path.exists(value) else None
    elif name in ("memory", "checkpoint_dir", "cache_dir"):
        return None
    elif name == "device" and value is not None:
        return str(value)
    return value


def _requests_to_dict(requests: Any) -> dict:
    return {
        method: dict(getattr(requests, method).requests)
        for method in _METHODS
        if getattr(requests, method).requests
    }


class Reader:
    """Turns JSON back into values; ``get_array`` gives an array by name."""

    def __init__(self, get_array: Callable[[str], np.ndarray]) -> None:
        self._get_array = get_array
        self._finished: list[Any] = []
        self._classes = estimator_classes()

    def value(self, record: Any) -> Any:
        if record is None or isinstance(record, (bool, int, float, str)):
            return record
        if isinstance(record, list):
            return [self.value(item) for item in record]
        kind = next(iter(record), None)
        read = getattr(self, f"_{kind}", None) if kind in _KINDS else None
        if read is None or set(record) != {kind, *_MORE_KEYS.get(str(kind), ())}:
            raise LoadError(f"its header describes something unknown, {str(record)[:60]}.")
        return read(*record.values())

    def estimator(self, record: Any) -> Any:
        value = self.value(record)
        if not hasattr(value, "get_params"):
            raise LoadError("it holds no estimator.")
        return value

    def _float(self, text: Any) -> float:
        if text not in ("nan", "inf", "-inf"):
            raise LoadError(f"{text!r} is no number.")
        return float(text)

    def _tuple(self, items: Any) -> tuple:
        return tuple(self.value(_listed(items)))

    def _set(self, items: Any) -> set:
        return set(_strings(items))

    def _dict(self, items: Any) -> dict:
        found: dict[Any, Any] = {}
        for item in _listed(items):
            if len(_listed(item)) != 2 or not isinstance(item[0], (str, int, float, type(None))):
                raise LoadError("a dictionary of it has an impossible key.")
            if item[0] in found:
                raise LoadError(f"a dictionary of it has the key {item[0]!r} twice.")
            found[item[0]] = self.value(item[1])
        return found

    def _array(self, name: Any) -> np.ndarray:
        if not isinstance(name, str):
            raise LoadError(f"{name!r} is no name of an array.")
        return self._get_array(name)

    def _strings(self, items: Any, shape: Any) -> np.ndarray:
        array = self._objects(items, shape)
        if _is_wasteful(array):
            raise LoadError("its texts would take much more memory than the file.")
        return array.astype(str)

    def _objects(self, items: Any, shape: Any) -> np.ndarray:
        items = _strings(items)
        if shape != [len(items)]:
            raise LoadError(f"{len(items)} texts can't have the shape {shape}.")
        array = np.empty(len(items), dtype=object)
        array[:] = items
        return array

    def _csr(self, fields: Any) -> sparse.csr_array:
        if not isinstance(fields, dict) or set(fields) != {"shape", "data", "indices", "indptr"}:
            raise LoadError("it holds an incomplete sparse matrix.")
        shape = fields["shape"]
        parts = [self.value(fields[name]) for name in ("data", "indices", "indptr")]
        if not all(isinstance(part, np.ndarray) and part.ndim == 1 for part in parts):
            raise LoadError("it holds a sparse matrix that is none.")
        data, indices, indptr = parts
        possible = (
            isinstance(shape, list)
            and len(shape) == 2
            and all(type(n) is int and 0 <= n < 2**31 for n in shape)
            and indices.dtype.kind == indptr.dtype.kind == "i"
            and data.dtype.kind in "fiub"
            and len(indptr) == shape[0] + 1
            and len(data) == len(indices) == indptr[-1]
            and indptr[0] == 0
            and (indptr[1:] >= indptr[:-1]).all()
            and (not len(indices) or (indices.min() >= 0 and indices.max() < shape[1]))
        )
        if not possible:
            raise LoadError("it holds a sparse matrix whose indices leave its shape.")
        return sparse.csr_array((data, indices, indptr), shape=tuple(shape))

    def _random_state(self, fields: Any) -> np.random.RandomState:
        keys, position, has_gauss, gauss = self.value(_listed(fields))
        random_state = np.random.RandomState(0)
        possible = (
            isinstance(keys, np.ndarray)
            and keys.dtype == np.uint32
            and keys.shape == (624,)
            and type(position) is int
            and 0 <= position <= 624  # beyond it the generator would read past its state
            and has_gauss in (0, 1)
            and isinstance(gauss, float)
        )
        if not possible:
            raise LoadError("its random state is none.")
        random_state.set_state(("MT19937", keys, position, has_gauss, gauss))
        return random_state

    def _same(self, number: Any) -> Any:
        if type(number) is not int or not 0 <= number < len(self._finished):
            raise LoadError(f"it refers to estimator {number!r}, of {len(self._finished)}.")
        return self._finished[number]

    def _frozen(self, record: Any) -> Any:
        from sklearn.frozen import FrozenEstimator

        frozen = FrozenEstimator(self.estimator(record))
        self._finished.append(frozen)
        return frozen

    def _pipeline(self, records: Any) -> Any:
        from sklearn.pipeline import Pipeline

        steps = []
        for record in _listed(records):
            if len(_listed(record)) != 2 or not isinstance(record[0], str) or "__" in record[0]:
                raise LoadError("its pipeline has a step without a possible name.")
            step = record[1]
            if step is not None and step != "passthrough":
                step = self.estimator(step)
            steps.append((record[0], step))
        if not steps or len(dict(steps)) != len(steps):
            raise LoadError("its pipeline has no steps, or two of one name.")
        pipeline = Pipeline(steps)
        self._finished.append(pipeline)
        return pipeline

    def _estimator(self, record: Any) -> Any:
        if not isinstance(record, dict) or set(record) != {"class", "parameters", "attributes"}:
            raise LoadError("it holds an incomplete estimator.")
        name = record["class"]
        if not isinstance(name, str) or name not in self._classes:
            raise LoadError(f"it holds a {name!r}, which load does not know.")
        own = self._classes[name]
        estimator = own(**self._parameters(own, record["parameters"]))
        try:
            estimator._validate_params()
        except ValueError as error:
            raise LoadError(f"it holds an impossible parameter: {error}") from error
        attributes = record["attributes"]
        if not isinstance(attributes, dict):
            raise LoadError(f"the attributes of its {name} are none.")
        for key, value in attributes.items():
            if not _may_be_attribute(own, key):
                raise LoadError(f"its {name} can't have an attribute {key!r}.")
            self._set_attribute(estimator, key, self.value(value))
        check_estimator(estimator)
        mend_device(estimator)
        self._finished.append(estimator)
        return estimator

    def _parameters(self, own: type, record: Any) -> dict:
        known = own._get_param_names()  # type: ignore[attr-defined]
        if not isinstance(record, dict):
            raise LoadError(f"the parameters of its {own.__name__} are none.")
        parameters = {}
        for name, value in record.items():
            if name not in known:
                raise LoadError(
                    f"its {own.__name__} has a parameter {name!r}, which this version does not "
                    "know; update skwsdhq."
                )
            parameters[name] = value = self.value(value)
            if isinstance(value, str) and looks_like_path(value):
                raise LoadError(
                    f"its {own.__name__} has the path {value!r} as {name}, which it may not: a "
                    "model from elsewhere should name no place on this machine."
                )
            plain = value is None or isinstance(value, str)
            if name in ("word_vectors", "backbone", "device") and not plain:
                raise LoadError(f"{name} of its {own.__name__} should be a name or null.")
            if name == "memory" and value is not None:
                raise LoadError(f"memory of its {own.__name__} should be null.")
        return parameters

    def _set_attribute(self, estimator: Any, name: str, value: Any) -> None:
        if name == "_sklearn_output_config":
            if not isinstance(value, dict) or set(value) - {"transform"}:
                raise LoadError("its output configuration is unknown.")
            if any(output not in _OUTPUTS for output in value.values()):
                raise LoadError("its output configuration is unknown.")
        elif name == "_metadata_request":
            value = _dict_to_requests(estimator, value)
        setattr(estimator, name, value)


_KINDS = (
    "float", "tuple", "set", "dict", "array", "strings", "objects", "csr", "random_state", "same",
    "frozen", "pipeline", "estimator",
)  # fmt: skip
_MORE_KEYS: dict[str, tuple[str, ...]] = {"strings": ("shape",), "objects": ("shape",)}


def _may_be_attribute(own: type, name: str) -> bool:
    """Whether an attribute is data of a fitted estimator, not a method or scikit-learn's."""
    if name in ("_sklearn_output_config", "_metadata_request"):
        return True
    named = name.endswith("_") or name.startswith("_")
    foreign = name.startswith(("__", "_sk", "_repr", "_parameter", "_estimator"))
    return bool(_NAME.match(name)) and named and not foreign and not hasattr(own, name)


def _dict_to_requests(estimator: Any, value: Any) -> Any:
    from ..utils._compat import MetadataRequest

    requests = MetadataRequest(owner=estimator)
    if not isinstance(value, dict) or set(value) - set(_METHODS):
        raise LoadError("its metadata requests are unknown.")
    for method, aliases in value.items():
        if not isinstance(aliases, dict):
            raise LoadError("its metadata requests are unknown.")
        for parameter, alias in aliases.items():
            try:
                getattr(requests, method).add_request(param=parameter, alias=alias)
            except (ValueError, TypeError, AttributeError) as error:
                raise LoadError(f"its metadata requests are unknown: {error}") from error
    return requests


def mend_device(estimator: Any) -> None:
    """Where a fitted model names a device that is not here, say so and forget it."""
    import torch

    device = getattr(estimator, "device", None)
    if device is None or not any(name.endswith("_") for name in vars(estimator)):
        return
    kind = str(device).split(":")[0]
    missing = (kind == "cuda" and not torch.cuda.is_available()) or (
        kind == "mps" and not torch.backends.mps.is_available()
    )
    if missing:
        warn_caller(
            f"{type(estimator).__name__} was fitted on device={str(device)!r}, which this machine "
            "does not have; device=None is used in its place."
        )
        estimator.device = None


def _listed(value: Any) -> list:
    if not isinstance(value, list):
        raise LoadError(f"its header has {str(value)[:40]!r} where a list should be.")
    return value


def _strings(value: Any) -> list[str]:
    if not all(isinstance(item, str) for item in _listed(value)):
        raise LoadError("its header has other values than texts where texts should be.")
    return value
