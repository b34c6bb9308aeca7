"""Keep what depends on scikit-learn's version, or on its privates, in one place.

No other module imports a private name of scikit-learn: when a release moves one, this file alone
changes.
"""

from collections.abc import Callable
from typing import Any

from sklearn.utils import _safe_indexing as rows_by_number
from sklearn.utils._metadata_requests import MetadataRequest
from sklearn.utils._param_validation import (
    HasMethods,
    Interval,
    StrOptions,
    validate_parameter_constraints,
)
from sklearn.utils.validation import _check_feature_names_in as check_feature_names_in
from sklearn.utils.validation import _num_samples as num_samples

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # before scikit-learn 1.9

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stand in for a class of later releases; this scikit-learn has no callbacks."""

    def with_callbacks(method: Callable) -> Callable:
        """Return the method as it is: this scikit-learn has no callbacks."""
        return method


__all__ = [
    "CALLBACK_ATTRIBUTES",
    "CallbackSupportMixin",
    "EpochTasks",
    "HasMethods",
    "Interval",
    "MetadataRequest",
    "StrOptions",
    "callbacks_of",
    "check_feature_names_in",
    "num_samples",
    "rows_by_number",
    "validate_parameter_constraints",
    "with_callbacks",
]

# What scikit-learn keeps of callbacks on an estimator; none of it belongs to a saved model.
CALLBACK_ATTRIBUTES = (
    "_skl_callbacks", "_skl_callbacks_to_teardown", "_callback_fit_ctx", "_parent_callback_ctx",
)  # fmt: skip


def callbacks_of(estimator: Any) -> list[Any]:
    """Return an estimator's callbacks."""
    return list(getattr(estimator, CALLBACK_ATTRIBUTES[0], None) or ())


class EpochTasks:
    """Tell an estimator's callbacks of a fit and of its epochs; do nothing where it has none.

    Parameters
    ----------
    estimator : estimator
    n_epochs : int or None
    X, y : object
        What is fitted.
    """

    def __init__(self, estimator: Any, n_epochs: int | None, X: Any, y: Any) -> None:
        self._estimator, self._data = estimator, {"X": X, "y": y}
        self._context: Any = None
        self._epoch: Any = None
        self._n_left = float("inf") if n_epochs is None else n_epochs
        # scikit-learn gives this method to estimators with callbacks, from 1.9 on.
        if hasattr(estimator, "_init_callback_context"):
            self._context = estimator._init_callback_context(max_subtasks=n_epochs)
            self._context.call_on_fit_task_begin(estimator=estimator, **self._data)

    def begin(self) -> None:
        """Tell that an epoch begins."""
        # A training that does not tell whether it has more is asked for one more than it has.
        self._epoch = None
        if self._context is not None and self._n_left:
            self._n_left -= 1
            self._epoch = self._context.subcontext(task_name="epoch")
            self._epoch.call_on_fit_task_begin(estimator=self._estimator, **self._data)

    def end(self, attributes: Callable[[], dict]) -> bool:
        """Tell that an epoch has ended; return whether a callback asks to stop.

        ``attributes`` gives what a fit that stopped here would have set. scikit-learn calls it
        only where a callback looks.
        """
        if self._epoch is None:  # no callbacks, or no epoch has begun
            return False
        return bool(
            self._epoch.call_on_fit_task_end(
                estimator=self._estimator, **self._data, reconstruction_attributes=attributes
            )
        )

    def close(self) -> None:
        """Tell that the fit has ended and the estimator is fitted."""
        if self._context is not None:
            fitted = {k: v for k, v in vars(self._estimator).items() if k.endswith("_")}
            self._context.call_on_fit_task_end(
                estimator=self._estimator, **self._data, reconstruction_attributes=fitted
            )
