"""Binary codes from tags, to compare with: CCA-ITQ, and weakly supervised hashing (WDHT)."""

from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from scipy import sparse
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin, clone
from sklearn.utils import check_consistent_length, check_random_state
from sklearn.utils._param_validation import HasMethods, Interval
from sklearn.utils.validation import check_is_fitted, validate_data

from . import _training, losses
from ._embedder import as_rows_of_tags
from ._losses_input import check_number
from ._tag_enhancer import TagEnhancer
from .sphere import normalize_rows
from .utils._threads import as_outside

__all__ = ["CCAITQ", "WDHTHasher", "canonical_directions", "itq_rotation"]


def itq_rotation(projections: np.ndarray, *, n_iter: int = 50, random_state: Any = None) -> Any:
    """Rotation after which the signs of centred rows stand for them best.

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
    if n_iter < 0:
        raise ValueError(f"n_iter={n_iter} should be >= 0.")
    n_bits = rows.shape[1]
    start = check_random_state(random_state).standard_normal((n_bits, n_bits))
    rotation, _ = np.linalg.qr(start)
    for _ in range(n_iter):
        signs = np.where(rows @ rotation >= 0, 1.0, -1.0)
        left, _, right = np.linalg.svd(rows.T @ signs)
        rotation = left @ right
    return rotation


def canonical_directions(
    rows: np.ndarray, views: np.ndarray, n_directions: int, *, ridge: float = 1.0
) -> np.ndarray:
    """Directions of rows that correlate most with another view of the same samples.

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
    n = max(1, len(rows))
    whiten = _inverse_root(rows.T @ rows / n, ridge)  # (d, d)
    across = whiten @ (rows.T @ views / n) @ _inverse_root(views.T @ views / n, ridge)
    left, correlations, _ = np.linalg.svd(across, full_matrices=False)
    return whiten @ left[:, :n_directions] * correlations[:n_directions]


def _inverse_root(covariance: np.ndarray, ridge: float) -> np.ndarray:
    """(covariance + ridge · mean variance · I)^(−1/2)."""
    values, vectors = np.linalg.eigh(covariance)
    values = values.clip(0) + ridge * max(float(values.mean()), np.finfo(np.float64).tiny)
    return vectors / np.sqrt(values) @ vectors.T


class _TagHasher(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """What hashers do alike: features and tags in, signs and packed bits out."""

    def transform(self, X):
        """Signs of the bits.

        Parameters
        ----------
        X : array-like of shape (n, d)

        Returns
        -------
        ndarray of shape (n, n_bits), float32
            1 and -1. The inner product of two rows is n_bits − 2 times their Hamming distance,
            so every function of :mod:`skwsdhq.metrics` ranks them as Hamming distance does.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        return np.where(self._project(X) >= 0, np.float32(1), np.float32(-1))

    def encode(self, X):
        """Bits, eight to a byte, the first the highest.

        Parameters
        ----------
        X : array-like of shape (n, d)

        Returns
        -------
        ndarray of shape (n, ceil(n_bits / 8)), uint8
            As faiss's binary indices take them.
        """
        return np.packbits(self.transform(X) > 0, axis=1)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.one_d_labels = True
        tags.target_tags.two_d_labels = True
        tags.target_tags.multi_output = True
        tags.transformer_tags.preserves_dtype = []
        return tags

    @property
    def _n_features_out(self):
        return self.n_bits

    def _read(self, X, y):
        """Features, fitted enhancer and indicator (n, C) of the concepts."""
        self._validate_params()
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None: it "
                "learns from tags."
            )
        X = validate_data(self, X, dtype=[np.float64, np.float32])
        tags = as_rows_of_tags(y)
        check_consistent_length(X, tags)
        enhancer = TagEnhancer() if self.tag_enhancer is None else clone(self.tag_enhancer)
        enhancer = enhancer.fit(tags, None)
        indicator = sparse.csr_array(enhancer.transform(tags))
        if not indicator.nnz:
            raise ValueError(
                f"none of the {len(X)} rows has a tag; there is nothing to learn from."
            )
        return X, enhancer, indicator


class CCAITQ(_TagHasher):
    """Binary codes from what features and tags have in common: CCA, rotated by ITQ.

    Linear, and fitted in closed form but for the rotation.

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
        tag_enhancer=None,
        *,
        n_bits=32,
        n_components=512,
        ridge=1.0,
        n_iter=50,
        random_state=None,
    ):
        self.tag_enhancer = tag_enhancer
        self.n_bits = n_bits
        self.n_components = n_components
        self.ridge = ridge
        self.n_iter = n_iter
        self.random_state = random_state

    def fit(self, X, y=None):
        """Learn the projection from features and tags.

        Parameters
        ----------
        X : array-like of shape (n, d)
        y : tags of n rows
            In any form that :func:`skwsdhq.tags.check_tags` reads. Rows without tags take no part.

        Returns
        -------
        self
        """
        X, enhancer, indicator = self._read(X, y)
        mean = X.mean(axis=0, dtype=np.float64)
        tagged = np.diff(indicator.indptr) > 0
        rows = _training.prepare_inputs(X[tagged].astype(np.float64), mean)
        views = normalize_rows(
            np.asarray(indicator @ enhancer.concept_vectors_, np.float64)[tagged]
        )
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

        self.tag_enhancer_ = enhancer
        self.feature_mean_ = mean
        self.projection_ = directions @ rotation
        self.intercept_ = -centre @ self.projection_
        return self

    def _project(self, X):
        rows = _training.prepare_inputs(X.astype(np.float64), self.feature_mean_)
        return rows @ self.projection_ + self.intercept_


class WDHTHasher(_TagHasher):
    """Binary codes by a network that hears of tags: WDHT, weakly supervised deep hashing.

    One network gives bits and a vector. Vectors should be nearer to the mean of their own image's
    tags than to those of the other images of the batch; bits of two images should differ as far
    as their tags do; and bits should be near 0 or 1.

    Parameters
    ----------
    tag_enhancer : TagEnhancer or None, default=None
        What makes vectors of tags; cloned in ``fit``. None is a ``TagEnhancer()``.
    n_bits : int, default=32
    margin : float, default=1.0
        Of the hinge, see :func:`skwsdhq.losses.mean_tag_hinge_loss`.
    hinge_weight : float, default=10.0
        Weight of the hinge.
    distance_weight : float, default=10.0
        Weight of :func:`skwsdhq.losses.tag_distance_loss`.
    binarization_weight : float, default=1.0
        Weight of :func:`skwsdhq.losses.binarization_loss`.
    hidden_layer_sizes : tuple of int, default=(1024,)
    dropout : float, default=0.5
    max_iter : int, default=100
        Epochs.
    batch_size : int, default=64
    learning_rate : float, default=1e-3
        Adam's, halved three times.
    random_state : int, RandomState instance or None, default=None

    Attributes
    ----------
    tag_enhancer_ : TagEnhancer
        Fitted.
    n_iter_ : int
        Epochs.
    loss_curve_ : list of float
        Loss of each epoch.
    coefs_, intercepts_ : list of ndarray
        Weights (in, out) and bias (out,) of each layer; the last layer's first n_bits columns
        give the bits.
    feature_mean_ : ndarray of shape (d,)
    n_features_in_ : int

    Notes
    -----
    The weights of hinge and binarization are the published program's. There the margin is 0.2 and
    the distances weigh 1; these and the other defaults were found on validation rows of the emoji
    set.
    The program fine-tunes the network below, which here is frozen, takes the dot product with a
    vector of any length where this takes the cosine, and defines a term for balanced bits without
    using it.

    References
    ----------
    Gattupalli, Zhuo and Li, "Weakly Supervised Deep Image Hashing through Tag Embeddings",
    CVPR 2019, arXiv 1806.05804.

    Examples
    --------
    >>> from skwsdhq.baselines import WDHTHasher
    >>> from skwsdhq.datasets import make_tagged_images
    >>> made = make_tagged_images(100, random_state=0)
    >>> hasher = WDHTHasher(n_bits=16, max_iter=5, random_state=0).fit(made.data, made.tags)
    >>> hasher.transform(made.data).shape
    (100, 16)
    """

    _parameter_constraints: dict = {
        "tag_enhancer": [HasMethods(["fit", "transform"]), None],
        "n_bits": [Interval(Integral, 1, None, closed="left")],
        "margin": [Interval(Real, 0, None, closed="left")],
        "hinge_weight": [Interval(Real, 0, None, closed="left")],
        "distance_weight": [Interval(Real, 0, None, closed="left")],
        "binarization_weight": [Interval(Real, 0, None, closed="left")],
        "hidden_layer_sizes": ["array-like"],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        tag_enhancer=None,
        *,
        n_bits=32,
        margin=1.0,
        hinge_weight=10.0,
        distance_weight=10.0,
        binarization_weight=1.0,
        hidden_layer_sizes=(1024,),
        dropout=0.5,
        max_iter=100,
        batch_size=64,
        learning_rate=1e-3,
        random_state=None,
    ):
        self.tag_enhancer = tag_enhancer
        self.n_bits = n_bits
        self.margin = margin
        self.hinge_weight = hinge_weight
        self.distance_weight = distance_weight
        self.binarization_weight = binarization_weight
        self.hidden_layer_sizes = hidden_layer_sizes
        self.dropout = dropout
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.random_state = random_state

    @as_outside
    def fit(self, X, y=None):
        """Train the network on features and tags.

        Parameters
        ----------
        X : array-like of shape (n, d)
        y : tags of n rows
            In any form that :func:`skwsdhq.tags.check_tags` reads. Rows without tags take no part.

        Returns
        -------
        self

        Raises
        ------
        FloatingPointError
            If the loss is no longer finite.
        """
        X, enhancer, indicator = self._read(X, y)
        seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        mean = X.mean(axis=0, dtype=np.float64).astype(X.dtype)
        means = np.asarray(indicator @ enhancer.concept_vectors_, dtype=np.float32)
        means = torch.from_numpy(normalize_rows(means))
        generator = torch.Generator().manual_seed(seed)
        sizes = (X.shape[1], *self.hidden_layer_sizes, self.n_bits + means.shape[1])
        network = _training.build_network(sizes, self.dropout, generator)

        def loss(outputs, rows):
            # (tanh(x) + 1) / 2 is the sigmoid of 2x: one network serves bits and vectors.
            bits = (outputs[:, : self.n_bits] + 1) / 2
            vectors, targets = outputs[:, self.n_bits :], means[rows]
            return (
                self.hinge_weight * losses.mean_tag_hinge_loss(vectors, targets, margin=self.margin)
                + self.distance_weight * losses.tag_distance_loss(bits, targets)
                + self.binarization_weight * losses.binarization_loss(bits)
            )

        inputs = _training.prepare_inputs(X, mean).astype(np.float32, copy=False)
        epochs = _training.train(
            _training.FixedInputs(network, inputs, generator.device),
            _training.make_optimizer(network, self.learning_rate, 1.0, 0.0),
            np.diff(indicator.indptr) > 0,
            loss,
            n_epochs=self.max_iter,
            batch_size=self.batch_size,
            generator=generator,
            decay=0.5,
            n_drops=3,
        )
        curve = [figures["loss"] for figures in epochs]
        arrays = _training.network_arrays(network)

        self.tag_enhancer_ = enhancer
        self.feature_mean_ = mean
        self.coefs_ = [weights for weights, _ in arrays]
        self.intercepts_ = [bias for _, bias in arrays]
        self.loss_curve_ = curve
        self.n_iter_ = len(curve)
        return self

    def _project(self, X):
        arrays = list(zip(self.coefs_, self.intercepts_, strict=True))
        inputs = _training.prepare_inputs(X, self.feature_mean_)
        return _training.forward(inputs, arrays)[:, : self.n_bits]
