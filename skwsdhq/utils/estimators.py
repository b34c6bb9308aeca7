"""What several estimators do alike."""

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
    """An unfitted clone that shares one parameter, a large object that nobody edits.

    scikit-learn's clone would copy it, for every fold and candidate of a search.
    """
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
    """What scikit-learn remembers of a feature matrix, by the name of the attribute."""
    return {name: getattr(estimator, name) for name in _COLUMNS if hasattr(estimator, name)}


def snapshot(estimator: Any) -> Any:
    """The estimator as it is now, which a fit in another thread does not change any more.

    Attributes are shared: they are replaced by a fit, never edited.
    """
    twin = object.__new__(type(estimator))
    twin.__dict__ = estimator.__dict__.copy()
    return twin


def fitted_now(estimator: Any) -> Any:
    """A :func:`snapshot` of an estimator that is fitted, else scikit-learn's NotFittedError."""
    now = snapshot(estimator)
    check_is_fitted(now)
    return now


@contextlib.contextmanager
def fitted_at_once(estimator: Any) -> Iterator[Any]:
    """A twin to be fitted, whose attributes become the estimator's when the block ends.

    They do so by one assignment: a thread that transforms meanwhile sees the old model or the new
    one, and an error leaves the old one as it was.
    """
    before = estimator.__dict__.copy()
    twin = snapshot(estimator)
    yield twin
    now = estimator.__dict__.copy()
    for name in before.keys() - twin.__dict__.keys():
        now.pop(name, None)
    for name, value in twin.__dict__.items():
        if name not in before or value is not before[name]:
            now[name] = value
    estimator.__dict__ = now
