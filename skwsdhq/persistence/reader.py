"""JSON values and arrays as estimators again, with nothing executed on the way.

:mod:`~skwsdhq.persistence.writer` describes the JSON. What a file says is not believed: each value
is checked before it is used, and what no file of :func:`~skwsdhq.persistence.save` could hold is a
LoadError.
"""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline

from ..utils._compat import MetadataRequest
from ._device import mend_device
from .checks import check_attributes, need
from .file import FORMAT, LoadError
from .registry import Saved, looks_like_path, saved_by_name, saved_of
from .writer import METHODS, is_wasteful

__all__ = ["Reader"]

_NAME = re.compile(r"[a-z_][a-z0-9_]*\Z")
_OUTPUTS = ("default", "pandas", "polars", None)


class Reader:
    """Turn JSON back into values.

    Parameters
    ----------
    get_array : callable
        Gives an array by its name.
    format : int, default=FORMAT
        Of the file.
    """

    def __init__(self, get_array: Callable[[str], np.ndarray], format: int = FORMAT) -> None:
        self._get_array = get_array
        self._format = format
        self._finished: list[Any] = []  # estimators by the number that "same" refers to

    def value(self, record: Any) -> Any:
        """Return the value that JSON describes.

        Parameters
        ----------
        record : object
            From :func:`json.loads`.

        Returns
        -------
        object
            A plain value, an array or an estimator.

        Raises
        ------
        LoadError
            If it describes nothing that a Writer writes.
        """
        if record is None or isinstance(record, (bool, int, float, str)):
            return record
        if isinstance(record, list):
            return [self.value(item) for item in record]
        # An object names its kind by its first key; what has no method of that name is unknown.
        kind = next(iter(record), None)
        read = getattr(self, f"_{kind}", None) if kind in _KINDS else None
        if read is None or set(record) != {kind, *_MORE_KEYS.get(str(kind), ())}:
            raise LoadError(f"its header describes something unknown, {str(record)[:60]}.")
        return read(*record.values())

    def estimator(self, record: Any) -> Any:
        """Return the estimator that JSON describes; LoadError where it is another value."""
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
        if is_wasteful(array):
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
        # scipy's loops in C read where these point, so that a lie would leave the arrays.
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
        # Numpy trusts what it is given here, hence the checks above.
        random_state.set_state(("MT19937", keys, position, has_gauss, gauss))
        return random_state

    def _same(self, number: Any) -> Any:
        if type(number) is not int or not 0 <= number < len(self._finished):
            raise LoadError(f"it refers to estimator {number!r}, of {len(self._finished)}.")
        return self._finished[number]

    def _frozen(self, record: Any) -> Any:
        frozen = FrozenEstimator(self.estimator(record))
        self._finished.append(frozen)  # counts by itself, as in Writer.estimator
        return frozen

    def _pipeline(self, records: Any) -> Any:
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
        entry = saved_by_name(record["class"])
        if entry is None:
            raise LoadError(f"it holds a {record['class']!r}, which load does not know.")
        name = entry.own.__name__
        parameters, attributes = (
            self._values(record[part], f"{part} of its {name}")
            for part in ("parameters", "attributes")
        )
        _check_paths(name, parameters)
        if self._format < FORMAT:
            parameters, attributes = _upgraded(entry, parameters, attributes, self._format)
        estimator = _built(entry, parameters)
        for key, value in attributes.items():
            _set_attribute(estimator, entry, key, value)
        check_attributes(estimator, entry)
        mend_device(estimator)  # after the checks: a device from elsewhere is no lie
        self._finished.append(estimator)
        return estimator

    def _values(self, record: Any, what: str) -> dict[str, Any]:
        if not isinstance(record, dict):
            raise LoadError(f"the {what} are none.")
        return {name: self.value(value) for name, value in record.items()}


def _check_paths(name: str, parameters: dict[str, Any]) -> None:
    """Raise LoadError where a parameter leads to a place on the reader's machine."""
    for parameter, value in parameters.items():
        if isinstance(value, str) and looks_like_path(value):
            raise LoadError(
                f"its {name} has the path {value!r} as {parameter}, which it may not: a model from "
                "elsewhere should name no place on this machine."
            )


def _upgraded(
    entry: Saved, parameters: dict[str, Any], attributes: dict[str, Any], number: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return parameters and attributes, of a file of format `number`, as they are named today."""
    for step in range(number, FORMAT):
        if step not in entry.upgrade:  # nothing of this class has changed then
            continue
        try:
            parameters, attributes = entry.upgrade[step](parameters, attributes)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            # The function takes for granted what `save` wrote then; other files are lies.
            raise LoadError(f"its {entry.own.__name__} is none of format {step}: {error}") from None
    _check_parts(parameters)
    return parameters, attributes


def _check_parts(parameters: dict[str, Any]) -> None:
    """Check parts that an upgrade made of flat parameters: no record of theirs was checked."""
    for value in parameters.values():
        entry = saved_of(type(value))
        if entry is not None:
            inner = value.get_params(deep=False)
            _built(entry, inner)
            _check_parts(inner)


def _built(entry: Saved, parameters: dict[str, Any]) -> Any:
    """Return an unfitted object of these parameters, each of which is one that it may have."""
    own = entry.own
    known = own._get_param_names()  # type: ignore[attr-defined]
    _check_paths(own.__name__, parameters)
    for name, value in parameters.items():
        if name not in known:
            raise LoadError(
                f"its {own.__name__} has a parameter {name!r}, which this version does not know; "
                "update skwsdhq."
            )
        if name in entry.local and value is not None:
            raise LoadError(f"{name} of its {own.__name__} should be null.")
        if name in entry.names and not _is_name(value):
            raise LoadError(f"{name} of its {own.__name__} should be a name or null.")
    estimator = own(**parameters)
    try:
        estimator._validate_params()
    except ValueError as error:
        raise LoadError(f"it holds an impossible parameter: {error}") from error
    return estimator


def _is_name(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not looks_like_path(value))


def _set_attribute(estimator: Any, entry: Saved, name: str, value: Any) -> None:
    """Set what a file gives as an attribute, where it may."""
    if not _may_be_attribute(entry.own, name):
        raise LoadError(f"its {entry.own.__name__} can't have an attribute {name!r}.")
    if name in entry.names:
        need(_is_name(value), f"a name as {name}")
    if name == "_sklearn_output_config":
        _check_output(value)
    elif name == "_metadata_request":
        value = _requests(estimator, value)
    setattr(estimator, name, value)


def _check_output(config: Any) -> None:
    """Raise LoadError unless it is what ``set_output`` leaves."""
    known = isinstance(config, dict) and not set(config) - {"transform"}
    if not known or any(output not in _OUTPUTS for output in config.values()):
        raise LoadError("its output configuration is unknown.")


# Methods of Reader by their names without the underscore.
_KINDS = (
    "float", "tuple", "set", "dict", "array", "strings", "objects", "csr", "random_state", "same",
    "frozen", "pipeline", "estimator",
)  # fmt: skip
_MORE_KEYS: dict[str, tuple[str, ...]] = {"strings": ("shape",), "objects": ("shape",)}


def _may_be_attribute(own: type, name: str) -> bool:
    """Tell whether an attribute is data of a fitted estimator, not a method or scikit-learn's."""
    if name in ("_sklearn_output_config", "_metadata_request"):
        return True
    # What the class defines is code; a value in its place would be called by scikit-learn.
    named = name.endswith("_") or name.startswith("_")
    foreign = name.startswith(("__", "_sk", "_repr", "_parameter", "_estimator"))
    return bool(_NAME.match(name)) and named and not foreign and not hasattr(own, name)


def _requests(estimator: Any, value: Any) -> Any:
    """Return metadata requests of their names in a file."""
    requests = MetadataRequest(owner=estimator)
    if not isinstance(value, dict) or set(value) - set(METHODS):
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


def _listed(value: Any) -> list:
    if not isinstance(value, list):
        raise LoadError(f"its header has {str(value)[:40]!r} where a list should be.")
    return value


def _strings(value: Any) -> list[str]:
    if not all(isinstance(item, str) for item in _listed(value)):
        raise LoadError("its header has other values than texts where texts should be.")
    return value
