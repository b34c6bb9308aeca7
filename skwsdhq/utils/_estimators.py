"""What several estimators do alike."""

import copy
from typing import Any

from sklearn.base import BaseEstimator

__all__ = ["clone_sharing", "forget_features"]


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
    for name in ("n_features_in_", "feature_names_in_"):
        if hasattr(estimator, name):
            delattr(estimator, name)
