"""TagKernelRegressor: from features to unit vectors near their tags' concepts, without training."""

from numbers import Integral, Real
from typing import Any, Self

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state

from ..images import input_kind
from ..persistence import PersistenceMixin
from ..persistence.registry import saved
from ..sphere import normalize_rows
from ..tags.concepts import concepts_to_learn, learn_concepts, read_concepts
from ..training.network import BLOCK
from ..training.scaling import FeatureScaler, Scaling
from ..utils._compat import HasMethods, Interval, StrOptions
from ..utils.estimators import check_part, fitted_at_once, fitted_now, validate_later
from ..utils.rows import as_rows, is_lazy, joined_blocks, mapped_rows, room_for, row_blocks
from ..utils.threads import as_outside
from ._fitting import fit_regression
from ._kernel import kernel_embeddings, rbf_kernel
from ._later import knows_tags, later_embeddings
from ._reading import check_tags_given, warn_of_one_concept
from ._saved_kernel import REQUIRED_OF_REGRESSOR, check_regressor
from ._stream import go_on

__all__ = ["TagKernelRegressor", "fit_kernel_to", "go_on_with_kernel", "kernel_of", "placed"]

_KINDS = [np.float32, np.float64]  # of features in a fit; other numbers become float32
_KINDS_LATER = [*_KINDS, np.float16]  # which becomes float32 block by block


@saved(required=REQUIRED_OF_REGRESSOR, check=check_regressor)
class TagKernelRegressor(
    PersistenceMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator
):
    """Embed features on the unit sphere near the concepts of their tags, in closed form.

    Regresses the mean of an image's concept vectors on its features, by kernel ridge regression.
    It trusts a tag as far as images that look alike have similar ones. A fit takes seconds, and
    finds nearly as much as :class:`HypersphereEmbedder`, which joins a network with it.

    Parameters
    ----------
    tag_enhancer : TagEnhancer or None, default=None
        What makes concepts of tags; cloned in ``fit``, so a fitted one is used as it is only in
        a :class:`~sklearn.frozen.FrozenEstimator`. None is a ``TagEnhancer()``.
    gamma : float, default=2.0
        The kernel of two images is exp(-gamma·(1 − cosine of their features)). At most 1e6.
    alpha : "auto" or float, default="auto"
        Ridge: how noisy an image's mean tag vector is, against how much one differs from another.
        ``"auto"`` follows the noise: the root of the ridge under which the tags are likeliest, in
        closed form, from 0.5 to 2. At most 1e6.
    consistency : "auto" or float, default="auto"
        A tag counts exp(consistency·cosine), by the cosine of its vector to what a first
        regression without the image says of it. 0 trusts all tags alike; ``"auto"`` is
        10·w·(1 − w), with w the share of wrong tags, which is estimated from these cosines. At
        most 64.
    specificity : float, default=0.5
        A tag counts by what its word tells of an image: the divergence of the tags beside it from
        those of all images, raised to this power. 0 counts all alike, above 0 less of words that
        stand beside any other, as sky does.
    max_landmarks : int, default=4096
        Images that the kernel compares with. With more tagged ones, so many are drawn, and the
        regression is fitted to all of them by Nyström's approximation.
    scaler : FeatureScaler or None, default=None
        How features are scaled; None is a ``FeatureScaler()``.
    random_state : int, RandomState instance or None, default=None
        Draws landmarks, and the exchange of tags by which wrong ones are estimated.

    Attributes
    ----------
    tag_enhancer_ : TagEnhancer
        Fitted.
    kernel_ : dict
        ``"landmarks"`` (m, d) unit rows, ``"coefs"`` (m, D), ``"gamma"``, the ``"consistency"`` of
        tags and the ridge ``"alpha"``; and what places later images by their tags: the
        ``"noise"`` (m,) of landmarks, ``"mean_target"`` (D,), ``"mean_trust"`` and the
        ``"word_weights"`` (C,) of concepts.
    feature_mean_ : ndarray of shape (d,) or None
        Subtracted from features that are raised to ``feature_power_``; None without scaling.
    feature_power_ : float
        To which features are raised first.
    n_features_in_ : int
        d.

    See Also
    --------
    HypersphereEmbedder : The same joined with a network, for images too.

    References
    ----------
    Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006.

    Examples
    --------
    >>> from skwsdhq import TagKernelRegressor
    >>> from skwsdhq.datasets import make_tagged_images
    >>> made = make_tagged_images(100, random_state=0)
    >>> TagKernelRegressor(random_state=0).fit_transform(made.data, made.tags).shape
    (100, 20)
    """

    _parameter_constraints: dict = {
        "tag_enhancer": [HasMethods(["fit", "transform"]), None],
        # A limit of 64 bits, since float16 can't hold 1e6 and warns where it meets a plain one.
        "gamma": [Interval(Real, 0, np.float64(1e6), closed="right")],
        "alpha": [StrOptions({"auto"}), Interval(Real, 0, np.float64(1e6), closed="right")],
        "consistency": [StrOptions({"auto"}), Interval(Real, 0, 64, closed="both")],
        "specificity": [Interval(Real, 0, 16, closed="both")],
        "max_landmarks": [Interval(Integral, 1, None, closed="left")],
        "scaler": [HasMethods(["scaling_of"]), None],
        "random_state": ["random_state"],
    }

    # Tags of later images reach transform through a Pipeline where routing is on.
    __metadata_request__transform = {"tags": True}

    def __init__(
        self,
        tag_enhancer: Any = None,
        *,
        gamma: float = 2.0,
        alpha: float | str = "auto",
        consistency: float | str = "auto",
        specificity: float = 0.5,
        max_landmarks: int = 4096,
        scaler: Any = None,
        random_state: Any = None,
    ) -> None:
        self.tag_enhancer = tag_enhancer
        self.gamma = gamma
        self.alpha = alpha
        self.consistency = consistency
        self.specificity = specificity
        self.max_landmarks = max_landmarks
        self.scaler = scaler
        self.random_state = random_state

    @as_outside
    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn the regression from features and tags.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Features.
        y : tags of n rows
            In any form that :func:`skwsdhq.tags.check_tags` reads. Rows without tags take no part.

        Returns
        -------
        self
            Fitted.

        Raises
        ------
        ValueError
            If X and y differ in length, features are not finite, or no row has a known tag.
        """
        self._validate_params()
        check_part("scaler", self.scaler)
        check_tags_given(self, y)
        _refuse_images(X)
        # Attributes appear all at once: threads that transform see the old model or the new one.
        with fitted_at_once(self) as twin:
            features = as_rows(twin, X, _KINDS, reset=True)
            # As an embedder draws its own, so that both have the same landmarks.
            seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
            enhancer, indicator = learn_concepts(features, y, self.tag_enhancer)
            warn_of_one_concept(enhancer, indicator)
            scaler = FeatureScaler() if self.scaler is None else self.scaler
            scaling = scaler.scaling_of(features)
            inputs = scaling.inputs(features)
            twin.kernel_ = fit_kernel_to(inputs, indicator, enhancer.concept_vectors_, self, seed)
            twin.__dict__.pop("_kernel_stream", None)
            twin.tag_enhancer_ = enhancer
            twin.feature_mean_, twin.feature_power_ = scaling.mean, scaling.power
        return self

    @as_outside
    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """Go on with more rows, which are not kept: the end is near that of a fit to all of them.

        The first call fixes the concepts (give ``tag_enhancer`` a ``vocabulary``, or freeze a
        fitted one, where later batches bring others) and how features are scaled. Up to
        ``max_landmarks`` tagged rows all are landmarks, and the regression is that of ``fit``; from
        then on landmarks, drawn from the rows so far, and how far tags are trusted are fixed, and
        sums are kept. Behind ``fit`` its landmarks are. A first batch of some thousand rows of all
        kinds is best.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Features.
        y : tags of n rows
            As for ``fit``.

        Returns
        -------
        self
            Fitted.
        """
        self._validate_params()
        check_tags_given(self, y)
        _refuse_images(X)
        with fitted_at_once(self) as twin:
            goes_on = hasattr(twin, "kernel_")
            features = as_rows(twin, X, _KINDS, reset=not goes_on)
            seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
            if goes_on:
                enhancer = twin.tag_enhancer_
                scaling = Scaling(twin.feature_mean_, twin.feature_power_)
                indicator = concepts_to_learn(features, y, enhancer)
                before = twin.kernel_, getattr(twin, "_kernel_stream", None)
            else:
                enhancer, indicator = learn_concepts(features, y, self.tag_enhancer)
                scaler = FeatureScaler() if self.scaler is None else self.scaler
                scaling, before = scaler.scaling_of(features), ({}, None)
            warn_of_one_concept(enhancer, indicator)
            inputs, vectors = scaling.inputs(features), enhancer.concept_vectors_
            twin.kernel_, twin._kernel_stream = go_on_with_kernel(
                before, inputs, indicator, vectors, self, seed
            )
            twin.tag_enhancer_ = enhancer
            twin.feature_mean_, twin.feature_power_ = scaling.mean, scaling.power
        return self

    def transform(self, X: Any, *, tags: Any = None) -> np.ndarray:
        """Embed features.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Features.
        tags : tags of n rows, default=None
            Own tags of images that came after the fit, see :meth:`HypersphereEmbedder.transform`.

        Returns
        -------
        ndarray of shape (n, D)
            Unit rows; float64 where X is float64, else float32.
        """
        now = fitted_now(self)
        _refuse_images(X)
        features = validate_later(now, X, _KINDS_LATER)
        own = None if tags is None else read_concepts(features, tags, now.tag_enhancer_)
        scaling = Scaling(now.feature_mean_, now.feature_power_)
        wide = np.float64 if features.dtype == np.float64 else np.float32
        # In blocks: the kernel of all rows with all landmarks would take more memory than X.
        embeddings = np.empty((len(features), now._n_features_out), wide)
        for start in range(0, len(features), BLOCK):
            block = slice(start, start + BLOCK)
            inputs = scaling.inputs(features[block].astype(wide, copy=False))
            embeddings[block] = placed(
                inputs, now.kernel_, None if own is None else own[block], now.tag_enhancer_
            )
        return embeddings

    def kernel_rows(self, X: Any) -> np.ndarray:
        """Return the kernel of features with the rows that the regression was fitted to.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Features.

        Returns
        -------
        ndarray of shape (n, m), float32
            exp(-gamma·(1 − cosine)) with the m landmarks.
        """
        now = fitted_now(self)
        _refuse_images(X)
        features = np.asarray(validate_later(now, X, _KINDS_LATER), dtype=np.float32)
        return kernel_of(
            Scaling(now.feature_mean_, now.feature_power_).inputs(features), now.kernel_
        )

    @property
    def _n_features_out(self) -> int:
        return self.kernel_["coefs"].shape[1]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.one_d_labels = True
        tags.target_tags.two_d_labels = True
        tags.target_tags.multi_output = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _refuse_images(X: Any) -> None:
    """Raise an error that says where images go."""
    if input_kind(X) != "features":
        raise ValueError(
            "X holds images, but TagKernelRegressor takes features (n, d); put an ImageLoader "
            "before it in a Pipeline, or use HypersphereEmbedder."
        )


def fit_kernel_to(
    inputs: Any,
    indicator: sparse.csr_array,
    concept_vectors: np.ndarray,
    kernel: TagKernelRegressor,
    seed: int,
) -> dict[str, Any]:
    """Return ``kernel_`` of a regression with these parameters, from scaled features (n, d)."""
    units = mapped_rows(inputs, normalize_rows)
    fitted = fit_regression(units, indicator, concept_vectors, **_options(kernel, seed))
    return fitted.as_kernel(float(kernel.gamma))


def go_on_with_kernel(
    before: tuple[dict[str, Any], Any],
    inputs: Any,
    indicator: sparse.csr_array,
    concept_vectors: np.ndarray,
    kernel: TagKernelRegressor,
    seed: int,
) -> tuple[dict[str, Any], Any]:
    """Return ``kernel_`` with these rows added, and what it goes on from next time.

    ``before`` is what the last call returned; an empty dict and None at first.
    """
    so_far, stream = before
    if so_far and not knows_tags(so_far):
        return before  # an older version did not keep what it takes
    units = mapped_rows(inputs, normalize_rows)
    found = go_on(so_far, stream, units, indicator, concept_vectors, **_options(kernel, seed))
    # What was begun with one kernel is gone on with by it; rows that are all there begin anew.
    is_fixed = so_far and (stream is None or "gram" in stream)
    gamma = so_far["gamma"] if is_fixed else float(kernel.gamma)
    return found.regression.as_kernel(gamma), found.stream


def _options(kernel: TagKernelRegressor, seed: int) -> dict[str, Any]:
    return {
        "gamma": float(kernel.gamma),
        "alpha": kernel.alpha if isinstance(kernel.alpha, str) else float(kernel.alpha),
        "consistency": kernel.consistency,
        "specificity": float(kernel.specificity),
        "max_landmarks": kernel.max_landmarks,
        # A generator of its own: how many numbers it draws changes nobody else's.
        "random_state": np.random.RandomState(seed),
    }


def kernel_of(inputs: np.ndarray, kernel: dict[str, Any]) -> np.ndarray:
    """Return the kernel (n, m) of scaled features (n, d) with a regression's landmarks."""
    return rbf_kernel(normalize_rows(inputs), kernel["landmarks"], kernel["gamma"])


def placed(
    inputs: Any,
    kernel: dict[str, Any],
    own: sparse.csr_array | None = None,
    enhancer: Any = None,
) -> np.ndarray:
    """Return unit rows (n, D) by a regression, from scaled features (n, d).

    ``own`` (n, C) are the concepts of rows that came after the fit, where they are known.
    """
    if is_lazy(inputs) and own is None:
        blocks = (placed(block, kernel) for block in row_blocks(inputs))
        return joined_blocks(blocks, len(inputs), room_for)
    # The kernel is of cosines.
    units = normalize_rows(inputs)
    if own is None:
        return kernel_embeddings(units, kernel["landmarks"], kernel["coefs"], kernel["gamma"])
    if not knows_tags(kernel):
        raise ValueError(
            "tags of later images are placed by the kernel regression, and this one was fitted by "
            "an older version that did not keep what it takes; fit it anew, or leave tags out."
        )
    return later_embeddings(units, own, enhancer.concept_vectors_, kernel)
