"""Features as the learners take them: raised to a power, centred, scaled to one length."""

import functools
from numbers import Real
from typing import Any, NamedTuple, Self

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from ..persistence.registry import saved
from ..sphere import normalize_rows
from ..utils._compat import Interval
from ..utils.rows import mapped_rows, sum_blocks

__all__ = ["FeatureScaler", "Scaling", "prepare_inputs", "raised"]

_SOFT = 1e-4  # how far from 0 a power of features starts


def raised(features: Any, power: float) -> Any:
    """Return sign(x)·|x|^power, softened near 0 so that its slope stays finite."""
    if power == 1:
        return features
    # Below 1 a few large features no longer outvote the many small ones.
    # The slope of |x|^p at 0 is infinite for p < 1, and a network below would get it as a gradient.
    size = abs(features)
    size = (size + _SOFT) ** power - _SOFT**power
    return size * (np.sign(features) if isinstance(features, np.ndarray) else features.sign())


def prepare_inputs(features: np.ndarray, mean: np.ndarray | None, power: float = 1.0) -> np.ndarray:
    """Return centred rows (n, d) of length √d, so that a feature is of the order of 1; dtype kept.

    Features are raised to ``power`` first (:func:`raised`); ``mean`` is that of raised ones. None
    leaves them where they are, and as long as they are.
    """
    if mean is None:
        return raised(features, power)
    # A float64 mean would turn float32 features into float64.
    mean = mean.astype(features.dtype, copy=False)
    centred = raised(features, power) - mean
    return normalize_rows(centred) * features.dtype.type(features.shape[1] ** 0.5)


def _summed(features: np.ndarray, power: float) -> np.ndarray:
    return raised(features, power).sum(axis=0, dtype=np.float64)


class Scaling(NamedTuple):
    """Keep what a :class:`FeatureScaler` has learned: the mean (d,) of raised features, or None."""

    mean: np.ndarray | None
    power: float

    def inputs(self, features: Any) -> Any:
        """Prepare features (n, d), see :func:`prepare_inputs`; lazy ones when asked for."""
        return mapped_rows(
            features, functools.partial(prepare_inputs, mean=self.mean, power=self.power)
        )


@saved(required={"mean_"})
class FeatureScaler(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Scale features so that no few of them outvote the others, and no row the other rows.

    A feature x becomes sign(x)·abs(x)^power; the mean over all rows is taken off, and each row is
    scaled to length √d.

    Parameters
    ----------
    power : float, default=0.5
        Below 1 the few large features no longer outvote the many small ones; 1 leaves them as
        they are. At most 16.
    scale : bool, default=True
        Whether to centre and scale. False passes raised features on as they are, as from a
        network's last hidden layer to the next (the paper's).

    Attributes
    ----------
    mean_ : ndarray of shape (d,) or None
        Of raised features; None without ``scale``.
    n_features_in_ : int
        d.

    Examples
    --------
    >>> import numpy as np
    >>> from skwsdhq.embedding import FeatureScaler
    >>> FeatureScaler(power=1).fit_transform(np.array([[1.0, 0.0], [3.0, 4.0]]))
    array([[-0.63245553, -1.26491106],
           [ 0.63245553,  1.26491106]])
    """

    _parameter_constraints: dict = {
        "power": [Interval(Real, 0, 16, closed="right")],
        "scale": ["boolean"],
    }

    def __init__(self, power: float = 0.5, *, scale: bool = True) -> None:
        self.power = power
        self.scale = scale

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn the mean of the features.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Features.
        y : object, default=None
            Not used.

        Returns
        -------
        self
            Fitted.
        """
        self._validate_params()
        X = validate_data(self, X, dtype=[np.float32, np.float64])
        self.mean_ = self.scaling_of(X).mean
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Scale features.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Features.

        Returns
        -------
        ndarray of shape (n, d)
            Rows of length √d; float64 where X is, else float32.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float32, np.float64], reset=False)
        return prepare_inputs(X, self.mean_, float(self.power))

    def scaling_of(self, features: Any) -> Scaling:
        """Return what a fit to these features would learn, without a look at them.

        Parameters
        ----------
        features : ndarray or LazyRows of shape (n, d)
            Finite floats.

        Returns
        -------
        Scaling
            Mean and power.
        """
        power = float(self.power)
        if not self.scale:
            return Scaling(None, power)
        # Summed in float64: millions of float32 rows would lose digits.
        if isinstance(features, np.ndarray):
            mean = raised(features, power).mean(axis=0, dtype=np.float64)
        else:
            mean = sum_blocks(features, functools.partial(_summed, power=power)) / len(features)
        return Scaling(mean.astype(features.dtype), power)

    def __sklearn_is_fitted__(self) -> bool:
        # mean_ may be None in a fitted one.
        return hasattr(self, "n_features_in_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
