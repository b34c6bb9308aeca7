"""Helpers of estimators: copies that share, and fits that other threads see whole or not."""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

__all__ = [
    "clone_sharing",
    "columns_seen",
    "fitted_at_once",
    "fitted_now",
    "forget_features",
    "snapshot",
]

_COLUMNS = ("n_features_in_", "feature_names_in_")


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
