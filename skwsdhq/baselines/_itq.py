"""CCA-ITQ: binary codes from the directions that images and tags share."""

from numbers import Integral, Real
from typing import Any, Self

import numpy as np
from sklearn.utils import check_random_state

from ..sphere import normalize_rows
from ..training.scaling import prepare_inputs
from ..utils._compat import HasMethods, Interval
from ..utils.validation import check_number, check_whole
from ._hasher import TagHasher

__all__ = ["CCAITQ", "canonical_directions", "itq_rotation"]


def itq_rotation(projections: np.ndarray, *, n_iter: int = 50, random_state: Any = None) -> Any:
    """Find the rotation after which the signs of centred rows stand for them best.

    Minimises ``‖sign(V·R) − V·R‖²`` over orthogonal R by turns of signs and of the orthogonal
    Procrustes solution, from a random rotation.

    Parameters
    ----------
    projections : ndarray of shape (n, b)
        V; centred, of one scale.
    n_iter : int, default=50
    random_state : int, RandomState instance or None, default=None

    Returns
    -------
    ndarray of shape (b, b), float64
        R, orthogonal.

    References
    ----------
    Gong, Lazebnik, Gordo and Perronnin, "Iterative Quantization: A Procrustean Approach to
    Learning Binary Codes for Large-scale Image Retrieval", TPAMI 2013, section 3.2.

    Examples
    --------
    >>> import numpy as np
    >>> rotation = itq_rotation(np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
    >>> bool(np.allclose(rotation @ rotation.T, np.eye(2)))
    True
    """
    rows = np.asarray(projections, dtype=np.float64)
    if rows.ndim != 2:
        raise ValueError(f"projections have shape {rows.shape}, should be (n, b).")
    n_iter = check_whole("n_iter", n_iter, 0)
    n_bits = rows.shape[1]
    # The Q of a Gaussian matrix is a random rotation: a start without any order of its own.
    start = check_random_state(random_state).standard_normal((n_bits, n_bits))
    rotation, _ = np.linalg.qr(start)
    for _ in range(n_iter):
        # The best signs for this rotation, then the best rotation for these signs.
        signs = np.where(rows @ rotation >= 0, 1.0, -1.0)
        left, _, right = np.linalg.svd(rows.T @ signs)
        rotation = left @ right
    return rotation


def canonical_directions(
    rows: np.ndarray, views: np.ndarray, n_directions: int, *, ridge: float = 1.0
) -> np.ndarray:
    """Find directions of rows that correlate most with another view of the same samples.

    Canonical correlation analysis in closed form: the singular vectors of the cross-covariance of
    both views, each whitened. Each direction is scaled by its correlation, so that signs are
    spent on what the other view knows.

    Parameters
    ----------
    rows : ndarray of shape (n, d)
        Centred.
    views : ndarray of shape (n, t)
        Centred.
    n_directions : int
        c; there are at most min(d, t).
    ridge : float, default=1.0
        Added to both covariances, as a multiple of their mean variance; above 0.

    Returns
    -------
    ndarray of shape (d, c), float64
        The most correlated direction first.

    References
    ----------
    Gong, Lazebnik, Gordo and Perronnin, TPAMI 2013, section 3.3.

    Examples
    --------
    >>> import numpy as np
    >>> rows = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    >>> directions = canonical_directions(rows, rows[:, :1], 1, ridge=0.1)
    >>> (directions**2).round(2)  # the second says nothing
    array([[0.75],
           [0.  ]])
    """
    rows, views = np.asarray(rows, dtype=np.float64), np.asarray(views, dtype=np.float64)
    check_number("ridge", ridge, above=0)
    if len(rows) != len(views):
        raise ValueError(f"rows has {len(rows)} samples and views {len(views)}; should be equal.")
    n = max(1, len(rows))  # no rows have a covariance of 0, not of NaN
    # Both views whitened, a singular value of what they share is a correlation.
    whiten = _inverse_root(rows.T @ rows / n, ridge)  # (d, d)
    across = whiten @ (rows.T @ views / n) @ _inverse_root(views.T @ views / n, ridge)
    left, correlations, _ = np.linalg.svd(across, full_matrices=False)
    return whiten @ left[:, :n_directions] * correlations[:n_directions]


def _inverse_root(covariance: np.ndarray, ridge: float) -> np.ndarray:
    """Return (covariance + ridge · mean variance · I)^(−1/2)."""
    values, vectors = np.linalg.eigh(covariance)
    # Rounding leaves eigenvalues below 0; features that never vary leave 0.
    values = values.clip(0) + ridge * max(float(values.mean()), np.finfo(np.float64).tiny)
    return vectors / np.sqrt(values) @ vectors.T  # V · diag(values)^(−1/2) · Vᵀ


class CCAITQ(TagHasher):
    """Learn binary codes from what features and tags have in common: CCA, rotated by ITQ.

    The codes are signs of a linear map, in closed form but for the rotation.

    Parameters
    ----------
    tag_enhancer : TagEnhancer or None, default=None
        What makes vectors of tags; cloned in ``fit``. An image's second view is the mean vector
        of its concepts. None is a ``TagEnhancer()``.
    n_bits : int, default=32
    n_components : int, default=512
        Principal components of the features that take part.
    ridge : float, default=1.0
        See :func:`canonical_directions`.
    n_iter : int, default=50
        Turns of the rotation.
    random_state : int, RandomState instance or None, default=None

    Attributes
    ----------
    tag_enhancer_ : TagEnhancer
        Fitted.
    feature_mean_ : ndarray of shape (d,)
        Subtracted from features, which are then scaled to one length.
    projection_ : ndarray of shape (d, n_bits)
        Whose signs are the bits.
    intercept_ : ndarray of shape (n_bits,)
    n_features_in_ : int

    References
    ----------
    Gong, Lazebnik, Gordo and Perronnin, "Iterative Quantization: A Procrustean Approach to
    Learning Binary Codes for Large-scale Image Retrieval", TPAMI 2013.

    Examples
    --------
    >>> from skwsdhq.baselines import CCAITQ
    >>> from skwsdhq.datasets import make_tagged_images
    >>> made = make_tagged_images(100, random_state=0)
    >>> hasher = CCAITQ(n_bits=16, random_state=0).fit(made.data, made.tags)
    >>> hasher.encode(made.data).shape
    (100, 2)
    """

    _parameter_constraints: dict = {
        "tag_enhancer": [HasMethods(["fit", "transform"]), None],
        "n_bits": [Interval(Integral, 1, None, closed="left")],
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "ridge": [Interval(Real, 0, None, closed="neither")],
        "n_iter": [Interval(Integral, 0, None, closed="left")],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        tag_enhancer: Any = None,
        *,
        n_bits: int = 32,
        n_components: int = 512,
        ridge: float = 1.0,
        n_iter: int = 50,
        random_state: Any = None,
    ) -> None:
        self.tag_enhancer = tag_enhancer
        self.n_bits = n_bits
        self.n_components = n_components
        self.ridge = ridge
        self.n_iter = n_iter
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn the projection from features and tags.

        Parameters
        ----------
        X : array-like of shape (n, d)
        y : tags of n rows
            In any form that :func:`skwsdhq.tags.check_tags` reads. Rows without tags take no part.

        Returns
        -------
        self
            Fitted.
        """
        X, enhancer, indicator = self._read(X, y)
        # Over all rows: what tags say nothing of is an image like others all the same.
        mean = X.mean(axis=0, dtype=np.float64)
        tagged = np.diff(indicator.indptr) > 0
        rows = prepare_inputs(X[tagged].astype(np.float64), mean)
        views = normalize_rows(
            np.asarray(indicator @ enhancer.concept_vectors_, np.float64)[tagged]
        )
        # Rows without tags took no part, so that the mean has moved.
        centre = rows.mean(axis=0)
        rows, views = rows - centre, views - views.mean(axis=0)
        # Principal axes (d, p) from whichever of the two Gram matrices is smaller.
        _, _, axes = np.linalg.svd(rows, full_matrices=False)
        axes = axes[: self.n_components].T
        directions = axes @ canonical_directions(rows @ axes, views, self.n_bits, ridge=self.ridge)
        # With fewer directions than bits the rotation spreads them over all bits.
        directions = np.pad(directions, ((0, 0), (0, self.n_bits - directions.shape[1])))
        rotation = itq_rotation(
            rows @ directions, n_iter=self.n_iter, random_state=self.random_state
        )

        # All at the end: an error on the way leaves an earlier fit as it was.
        self.tag_enhancer_ = enhancer
        self.feature_mean_ = mean
        self.projection_ = directions @ rotation
        self.intercept_ = -centre @ self.projection_
        return self

    def _project(self, X: np.ndarray) -> np.ndarray:
        """Return the features' projections (n, n_bits), whose signs are the bits."""
        rows = prepare_inputs(X.astype(np.float64), self.feature_mean_)
        return rows @ self.projection_ + self.intercept_
