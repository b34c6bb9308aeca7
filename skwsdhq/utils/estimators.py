"""Helpers of estimators: copies that share, and fits that other threads see whole or not."""

import contextlib
import copy
import functools
import inspect
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any, TypeVar

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from .rows import as_rows

__all__ = [
    "check_part",
    "check_unchanged",
    "clone_sharing",
    "columns_seen",
    "fitted_at_once",
    "fitted_now",
    "forget_features",
    "last_step",
    "renamed",
    "snapshot",
    "takes_tags",
    "unfrozen",
    "validate_later",
    "with_attributes",
]

_Function = TypeVar("_Function", bound=Callable)

_MAX_FEW = 2**16  # numbers that are looked at in a moment
_COLUMNS = ("n_features_in_", "feature_names_in_")


def last_step(estimator: Any) -> Any:
    """Return an estimator, or the last step of a pipeline."""
    return estimator[-1] if hasattr(estimator, "steps") else estimator


def unfrozen(estimator: Any) -> Any:
    """Return what is in a FrozenEstimator, or the estimator itself."""
    return getattr(estimator, "estimator", estimator)


def clone_sharing(estimator: Any, parameter: str) -> Any:
    """Return an unfitted clone that shares one parameter, a large object that nobody edits.

    scikit-learn's clone would copy it, for every fold and candidate of a search.
    """
    # The clone is made without the parameter, which comes back by reference.
    light = copy.copy(estimator)
    setattr(light, parameter, None)
    twin = BaseEstimator.__sklearn_clone__(light)
    setattr(twin, parameter, getattr(estimator, parameter))
    return twin


def forget_features(estimator: Any) -> None:
    """Forget the columns of an earlier fit on a feature matrix; images have none."""
    for name in _COLUMNS:
        if hasattr(estimator, name):
            delattr(estimator, name)


def columns_seen(estimator: Any) -> dict[str, Any]:
    """Return what scikit-learn remembers of a feature matrix, by the name of the attribute."""
    return {name: getattr(estimator, name) for name in _COLUMNS if hasattr(estimator, name)}


def snapshot(estimator: Any) -> Any:
    """Return the estimator as it is now; a later fit, in another thread too, does not change it.

    The copy shares the attributes: a fit replaces them and never edits them.
    """
    # Without __init__, which a subclass may have given other parameters.
    twin = object.__new__(type(estimator))
    twin.__dict__ = estimator.__dict__.copy()
    return twin


def fitted_now(estimator: Any) -> Any:
    """Return a :func:`snapshot` of a fitted estimator; raise NotFittedError for another."""
    now = snapshot(estimator)
    check_is_fitted(now)
    return now


def with_attributes(estimator: Any, attributes: dict[str, Any]) -> Any:
    """Return a twin of an estimator with these attributes; the estimator stays as it is."""
    twin = snapshot(estimator)
    for name, value in attributes.items():
        setattr(twin, name, value)
    return twin


def takes_tags(estimator: Any) -> bool:
    """Tell whether an estimator's transform takes the tags of later images."""
    transform = getattr(estimator, "transform", None)
    # What a method is bound to takes no part in its signature, which takes long to read.
    function = getattr(transform, "__func__", transform)
    if isinstance(function, FunctionType):
        return _has_tags(function)
    return callable(transform) and "tags" in inspect.signature(transform).parameters


@functools.lru_cache(maxsize=64)
def _has_tags(function: Callable) -> bool:
    return "tags" in inspect.signature(function).parameters


def validate_later(estimator: Any, X: Any, kinds: list) -> Any:
    """Check features of later rows as scikit-learn does; a few plain ones in a moment.

    Parameters
    ----------
    estimator : estimator
        Fitted to features, whose names and number are compared.
    X : array-like of shape (n, d)
    kinds : list of dtypes
        That are kept; other numbers become the first of these.

    Returns
    -------
    ndarray or LazyRows of shape (n, d)
        See :func:`~skwsdhq.utils.rows.as_rows`.
    """
    is_plain = type(X) is np.ndarray and X.ndim == 2 and 0 < X.size <= _MAX_FEW
    if (
        is_plain
        and X.dtype in kinds
        and X.shape[1] == getattr(estimator, "n_features_in_", None)
        and not hasattr(estimator, "feature_names_in_")
        and np.isfinite(X).all()
    ):
        return X  # nothing is to be converted, and there are no names to warn of
    return as_rows(estimator, X, kinds, reset=False)


def check_part(name: str, part: Any) -> None:
    """Check the parameters of an estimator's part; one of a user's own may check them, or not."""
    # A class has the methods that are asked for, and none of them can be called.
    if isinstance(part, type):
        raise TypeError(
            f"{name} is the class {part.__name__}; give an object of it, as {part.__name__}()."
        )
    if hasattr(part, "_parameter_constraints"):
        part._validate_params()


def check_unchanged(name: str, value: Any, fitted: Any) -> None:
    """Check that a parameter still fits what was learned, where a fit goes on from there."""
    if value != fitted:
        raise ValueError(
            f"{name}={value} can't go on from a fit with {name}={fitted}; set it back, or call fit "
            "with warm_start=False to begin anew."
        )


def renamed(new_names: dict[str, str]) -> Callable[[_Function], _Function]:
    """Return a decorator of a constructor, which tells who uses an old name of the new one.

    Parameters
    ----------
    new_names : dict of str to str
        By the old name of a parameter, what to write in its place.
    """

    def decorate(init: _Function) -> _Function:
        @functools.wraps(init)
        def tell(*args: Any, **kwargs: Any) -> Any:
            for name in kwargs:
                if name in new_names:
                    raise TypeError(f"{name} is now given as {new_names[name]}.")
            return init(*args, **kwargs)

        return tell  # type: ignore[return-value]

    return decorate


@contextlib.contextmanager
def fitted_at_once(estimator: Any) -> Iterator[Any]:
    """Yield a twin to fit; give its attributes to the estimator when the block ends.

    One assignment does that: a thread that transforms meanwhile sees the old model or the new one.
    An error leaves the old one as it was.
    """
    before = estimator.__dict__.copy()
    twin = snapshot(estimator)
    yield twin
    # What another thread set on the estimator meanwhile stays; only what the fit changed moves.
    now = estimator.__dict__.copy()
    for name in before.keys() - twin.__dict__.keys():
        now.pop(name, None)
    for name, value in twin.__dict__.items():
        if name not in before or value is not before[name]:
            now[name] = value
    estimator.__dict__ = now
