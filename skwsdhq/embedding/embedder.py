"""HypersphereEmbedder: from images or features to unit vectors near their tags' concepts."""

import os
from collections.abc import Iterator, Sequence
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state

from ..backbones.features import features_and_skipped
from ..backbones.networks import resolve_backbone
from ..backbones.saved import network_name
from ..images import input_kind
from ..losses.objects import NAMES as LOSS_NAMES
from ..losses.objects import loss_of
from ..persistence import PersistenceMixin
from ..persistence.registry import as_text, saved
from ..sphere import normalize_rows
from ..tags.concepts import concepts_to_learn, learn_concepts, read_concepts
from ..training.companion import Companion
from ..training.fixed import turned_towards
from ..training.network import BLOCK, check_layer_sizes, forward
from ..training.optimizer import AdamSchedule
from ..training.scaling import FeatureScaler, Scaling
from ..training.session import fit_by
from ..training.stopping import EarlyStopping
from ..training.trunk import FineTuning
from ..utils._compat import (
    CallbackSupportMixin,
    HasMethods,
    Interval,
    StrOptions,
    num_samples,
    with_callbacks,
)
from ..utils.estimators import (
    check_part,
    clone_sharing,
    fitted_now,
    forget_features,
    renamed,
    validate_later,
)
from ..utils.rows import LazyRows, as_rows, joined_blocks, room_for
from ..utils.threads import as_outside
from ..utils.validation import check_choice
from ._reading import check_tags_given, warn_of_one_concept
from ._saved import REQUIRED, check_embedder, from_format_1
from ._training import EmbedderTraining, Material, Parts, network_with
from ._upgrade import NEW_NAMES
from .regressor import TagKernelRegressor, kernel_of, placed

__all__ = ["HypersphereEmbedder"]


@saved(
    required=REQUIRED,
    check=check_embedder,
    local=("checkpoint_dir",),
    names={"backbone": network_name, "backbone_": network_name, "device": as_text},
    upgrade={1: from_format_1},
)
class HypersphereEmbedder(
    PersistenceMixin,
    CallbackSupportMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    BaseEstimator,
):
    """Embed images on the unit sphere, near the concepts that their tags name.

    Two learners look at the same features (given, or those of a pretrained network), and an
    embedding is the normalised mean of what they say. One is a small network that ends in tanh. It
    learns by the adaptive cosine margin loss: an image's own concepts should be nearer than all
    others, by a margin that grows with how unlike the two are. The other is kernel ridge
    regression of the mean tag vector, which has a closed form. It trusts a tag as far as images
    that look alike have similar ones, and with few images it is the better of the two.

    What most people tune are parameters here; the rest are parameters of parts (``loss``,
    ``kernel``, ``scaler``, ``optimizer``, ``finetune``, ``early_stopping``), which a grid search
    reaches as ``optimizer__weight_decay`` where the part is given.

    Parameters
    ----------
    tag_enhancer : TagEnhancer or None, default=None
        What makes concepts of tags; cloned in ``fit``, so a fitted one is used as it is only in
        a :class:`~sklearn.frozen.FrozenEstimator`. None is a ``TagEnhancer()``.
    backbone : str, torch.nn.Module, callable or None, default="auto"
        The network that gives features where X is images, see
        :func:`skwsdhq.backbones.load_backbone`; ``"auto"`` is the best one that is installed.
        Feature matrices need none.
    features : {"auto", "final", "stages"}, default="auto"
        What the network's last layer gives, or what its later stages see beside it, see
        :func:`skwsdhq.backbones.extract_features`. ``"auto"`` is the stages with
        ``backbone="auto"`` where the network stays as it is, and else what the backbone is.
    loss : {"adaptive_margin", "fixed_margin", "wdht", "contrastive"} or loss, \
default="adaptive_margin"
        What the network learns by: :class:`skwsdhq.losses.AdaptiveMargin`, the paper's;
        :class:`~skwsdhq.losses.FixedMargin`, the same with one margin;
        :class:`~skwsdhq.losses.MeanTagHinge`, the hinge of an image against the mean of its tags;
        :class:`~skwsdhq.losses.Contrastive`, the same with a softmax. A name is the default one
        of these. An object of your own needs a method ``start(concept_vectors, indicator,
        device)`` that returns the loss as a function of a batch's outputs (b, D) and rows (b,).
    hidden_layer_sizes : tuple of int, default=(1024,)
        Units of the hidden layers; ``()`` is one linear layer.
    dropout : float, default=0.5
        Probability that a hidden unit is left out of a step.
    max_iter : int, default=25
        Epochs; those of ``FineTuning(head_iter=)`` not counted.
    batch_size : int, default=256
        Images of a step.
    learning_rate : float, default=1e-3
        Adam's, before ``optimizer`` lets it fall. At most 1e6.
    kernel : TagKernelRegressor or None, default=None
        Parameters of the kernel regression; None is a ``TagKernelRegressor()``. Its enhancer,
        scaler and random state are the embedder's.
    kernel_weight : float, default=0.9
        Share of the kernel regression in the embedding. 0 is the network alone, 1 the regression
        alone: no network is built then, and a fit takes a second.
    scaler : FeatureScaler or None, default=None
        How features are scaled before both learners; None is a
        :class:`~skwsdhq.embedding.FeatureScaler`.
    optimizer : AdamSchedule or None, default=None
        When the learning rate falls, and what else moves the weights; None is an
        :class:`~skwsdhq.embedding.AdamSchedule`.
    finetune : {"last", "all"}, FineTuning or None, default=None
        What of the backbone learns too: None is nothing, ``"last"`` and ``"all"`` are a
        :class:`~skwsdhq.embedding.FineTuning` of these layers. It needs images.
    ten_crop : bool, default=False
        Whether the embedding of a picture is the mean over ten crops (four corners, the middle,
        and their mirror images) of what the network gives, which takes ten times as long. Training
        itself does without.
    early_stopping : bool or EarlyStopping, default=False
        Whether to keep some tagged images apart, stop when their loss falls no more, and take the
        weights of the epoch where it was lowest; True is an
        :class:`~skwsdhq.embedding.EarlyStopping`.
    checkpoint_dir : str, PathLike or None, default=None
        Folder in which ``fit`` keeps its state after each epoch. A run that was killed goes on
        from there when the same ``fit`` is called again, and ends as one that was never stopped.
        Needs a ``random_state``. Other parameters or data use another file; delete the folder
        when it is of no use any more.
    device : str, torch.device or None, default=None
        Where to train; None is CUDA where there is one, else the CPU.
    random_state : int, RandomState instance or None, default=None
        Draws weights, batches, masks, crops and landmarks.
    warm_start : bool, default=False
        Whether ``fit`` goes on from the weights, concepts, moments of Adam and random state of the
        last one: two fits in a row, at a rate that does not fall, are one of as many epochs.
    verbose : int, default=0
        1 shows progress.

    Attributes
    ----------
    tag_enhancer_ : TagEnhancer
        Fitted.
    n_iter_ : int
        Epochs trained.
    history_ : dict of str to list of float
        ``"loss"`` and ``"learning_rate"`` of each epoch; with early stopping
        ``"validation_loss"`` too.
    coefs_, intercepts_ : list of ndarray
        Weights (in, out) and bias (out,) of each layer; empty with ``kernel_weight=1``.
    kernel_ : dict
        Of the regression: ``"landmarks"`` (m, d) unit rows, ``"coefs"`` (m, D), ``"gamma"``, its
        share in the embedding ``"weight"``, the ``"consistency"`` of tags and the ridge ``"alpha"``
        that it was fitted with, and what places later images by their tags: the ``"noise"`` (m,) of
        landmarks, ``"mean_target"`` (D,), ``"mean_trust"`` and the ``"word_weights"`` (C,) of
        concepts; empty where there is none.
    feature_power_ : float
        To which features are raised first.
    feature_mean_ : ndarray of shape (d,) or None
        Subtracted from features so raised, which are then scaled to unit length; None where they
        enter as they are.
    backbone_ : str, torch.nn.Module, callable or None
        The network in use; None for feature matrices.
    backbone_state_ : dict of str to ndarray
        What the network has learned, by the name of its parameter; empty where it is frozen.
    n_features_in_ : int
        d, where X is a feature matrix.

    See Also
    --------
    TagKernelRegressor : The regression alone, on features.
    WSDHQuantizer : Codes of what this gives.

    References
    ----------
    Wang et al., "Weakly Supervised Deep Hyperspherical Quantization for Image Retrieval", AAAI
    2021, section "Hyperspherical embedding".

    Examples
    --------
    >>> from skwsdhq import HypersphereEmbedder
    >>> from skwsdhq.datasets import make_tagged_images
    >>> made = make_tagged_images(100, random_state=0)
    >>> embedder = HypersphereEmbedder(max_iter=5, random_state=0).fit(made.data, made.tags)
    >>> embedder.transform(made.data).shape
    (100, 20)
    """

    _parameter_constraints: dict = {
        "tag_enhancer": [HasMethods(["fit", "transform"]), None],
        "backbone": "no_validation",
        "features": [StrOptions({"auto", "final", "stages"})],
        "loss": [StrOptions(set(LOSS_NAMES)), HasMethods(["start"])],
        "hidden_layer_sizes": ["array-like"],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        # A limit of 64 bits, since float16 can't hold 1e6; beyond it float32 would overflow.
        "learning_rate": [Interval(Real, 0, np.float64(1e6), closed="right")],
        "kernel": [TagKernelRegressor, None],
        "kernel_weight": [Interval(Real, 0, 1, closed="both")],
        "scaler": [FeatureScaler, None],
        "optimizer": [AdamSchedule, None],
        "finetune": [StrOptions({"last", "all"}), FineTuning, None],
        "ten_crop": ["boolean"],
        "early_stopping": ["boolean", EarlyStopping],
        "checkpoint_dir": [str, os.PathLike, None],
        "device": "no_validation",
        "random_state": ["random_state"],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
    }

    # What a fit keeps for the next one that goes on from it: moments of Adam, state of torch's
    # generator. None where no fit is meant to.
    _optimizer_state: dict[str, Any] | None
    _generator_state: np.ndarray | None

    # Tags of later images reach transform through a Pipeline where routing is on.
    __metadata_request__transform = {"tags": True}

    @renamed(NEW_NAMES)
    def __init__(  # noqa: PLR0913 - the parameters of the estimator
        self,
        tag_enhancer: Any = None,
        *,
        backbone: Any = "auto",
        features: str = "auto",
        loss: Any = "adaptive_margin",
        hidden_layer_sizes: Sequence[int] = (1024,),
        dropout: float = 0.5,
        max_iter: int = 25,
        batch_size: int = 256,
        learning_rate: float = 1e-3,
        kernel: TagKernelRegressor | None = None,
        kernel_weight: float = 0.9,
        scaler: FeatureScaler | None = None,
        optimizer: AdamSchedule | None = None,
        finetune: str | FineTuning | None = None,
        ten_crop: bool = False,
        early_stopping: bool | EarlyStopping = False,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        device: Any = None,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
    ) -> None:
        self.tag_enhancer = tag_enhancer
        self.backbone = backbone
        self.features = features
        self.loss = loss
        self.hidden_layer_sizes = hidden_layer_sizes
        self.dropout = dropout
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.kernel = kernel
        self.kernel_weight = kernel_weight
        self.scaler = scaler
        self.optimizer = optimizer
        self.finetune = finetune
        self.ten_crop = ten_crop
        self.early_stopping = early_stopping
        self.checkpoint_dir = checkpoint_dir
        self.device = device
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose

    @with_callbacks
    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn the embedding from images and their tags.

        Parameters
        ----------
        X : array-like of shape (n, d), or images
            Features; or images as an array (n, H, W, 3) of uint8, a list of arrays of unequal
            sizes, or a list of paths.
        y : tags of n rows
            In any form that :func:`skwsdhq.tags.check_tags` reads. Images without tags take no
            part in the loss.

        Returns
        -------
        self
            Fitted.

        Raises
        ------
        ValueError
            If X and y differ in length, features are not finite, or no image has a tag.
        FloatingPointError
            If the loss of a batch is not finite; the estimator is fitted as it was after the last
            epoch, if there was one.

        Warns
        -----
        ConvergenceWarning
            If it is interrupted (Ctrl-C) after the first epoch; the estimator is that of the last
            epoch.
        """
        parts = self._parts()
        resume = "fit" if self.warm_start else None

        # A twin: what a fit that fails has set should not be seen on this estimator.
        def start(twin: Any) -> EmbedderTraining:
            return EmbedderTraining(twin, parts, twin._material(X, y, resume), resume=resume)

        return fit_by(start, self, X, y, self.max_epochs)

    @with_callbacks
    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """Train the network one more epoch, over these images only; add them to the regression.

        The first call fixes the concepts: they are those of its tags (give ``tag_enhancer`` a
        ``vocabulary``, or freeze a fitted one, where later batches bring others). The learning
        rate stays what it is, and Adam's moments are kept from call to call. The kernel regression
        goes on as :meth:`TagKernelRegressor.partial_fit` tells: behind all batches it is near that
        of a fit to all images (and is given up where the backbone learns along).

        Parameters
        ----------
        X : array-like of shape (n, d), or images
            As for ``fit``.
        y : tags of n rows
            As for ``fit``.

        Returns
        -------
        self
            Fitted.
        """
        parts = self._parts()

        def start(twin: Any) -> EmbedderTraining:
            material = twin._material(X, y, "partial")
            return EmbedderTraining(twin, parts, material, resume="partial")

        return fit_by(start, self, X, y, 1)

    @as_outside
    def start_training(
        self,
        X: Any,
        y: Any,
        *,
        companion: Companion | None = None,
        resume: str | None = None,
    ) -> EmbedderTraining:
        """Start a training that is gone through from outside, epoch by epoch.

        This is how a quantizer learns along. The estimator is not fitted by it: set what
        ``attributes()`` of the training gives.

        Parameters
        ----------
        X : array-like of shape (n, d), or images
            As for ``fit``.
        y : tags of n rows
            As for ``fit``.
        companion : Companion, default=None
            What learns along, see :class:`skwsdhq.embedding.Companion`.
        resume : {None, "fit", "partial"}, default=None
            None begins anew. ``"fit"`` goes on from the fitted attributes, as with
            ``warm_start``; ``"partial"`` for one epoch over these images only.

        Returns
        -------
        iterator
            Gives the figures of each epoch; its ``attributes()`` are those of a fit that ended
            now, its ``outputs()`` (n, D) those of X before normalisation.

        Examples
        --------
        >>> from skwsdhq import HypersphereEmbedder
        >>> from skwsdhq.datasets import make_tagged_images
        >>> made = make_tagged_images(100, random_state=0)
        >>> training = HypersphereEmbedder(max_iter=3).start_training(made.data, made.tags)
        >>> [sorted(figures) for figures in training][0]
        ['learning_rate', 'loss']
        >>> training.attributes()["n_iter_"]
        3
        """
        if resume is not None:
            check_choice("resume", resume, ("fit", "partial"))
        parts = self._parts()
        material = self._material(X, y, resume)
        return EmbedderTraining(self, parts, material, companion=companion, resume=resume)

    def transform(self, X: Any, *, tags: Any = None) -> np.ndarray:
        """Embed images.

        Parameters
        ----------
        X : array-like of shape (n, d), or images
            As for ``fit``.
        tags : tags of n rows, default=None
            Own tags of images that came after the fit, in any form that ``fit`` takes: each image
            is then placed where a fit of the kernel regression that includes it would place it. A
            tag counts as far as what the image looks like agrees with it; unknown tags, and images
            without any, change nothing. Images that ``fit`` has seen need none: theirs are in the
            model. Where scikit-learn's metadata routing is on, a Pipeline passes them on.

        Returns
        -------
        ndarray of shape (n, D)
            Unit rows; float64 where X is float64 features, else float32.

        Raises
        ------
        ValueError
            If there are tags and no kernel regression (``kernel_weight=0``), or one that an older
            version has fitted.
        """
        outputs = self.outputs(X, tags=tags)
        return normalize_rows(outputs, out=outputs)

    def outputs(self, X: Any, *, tags: Any = None) -> np.ndarray:
        """Embed images without the last step, that brings rows to unit length.

        Parameters
        ----------
        X : array-like of shape (n, d), or images
            As for ``fit``.
        tags : tags of n rows, default=None
            As for ``transform``.

        Returns
        -------
        ndarray of shape (n, D)
            What the last layer gives, turned to what the regression says.
        """
        input_kind(X)  # refuses what has no rows
        return joined_blocks(self.iter_outputs(X, tags=tags), num_samples(X))

    def iter_outputs(self, X: Any, *, tags: Any = None) -> Iterator[np.ndarray]:
        """Embed images as ``outputs`` does, some thousand rows at a time.

        Parameters
        ----------
        X : array-like of shape (n, d), or images
            As for ``fit``.
        tags : tags of n rows, default=None
            As for ``transform``.

        Yields
        ------
        ndarray of shape (b, D)
            Of consecutive rows.
        """
        # Of one moment, where another thread fits meanwhile.
        now = fitted_now(self)
        own = None if tags is None else now._own_concepts(X, tags)
        if not now.ten_crop or input_kind(X) == "features" or now.backbone_ is None:
            yield from now.outputs_of_features(now._features(X), own)
            return
        if own is not None:
            raise ValueError("tags can't be taken along with ten_crop=True; set ten_crop=False.")

        def embedded(features: np.ndarray) -> np.ndarray:
            return np.concatenate(list(now.outputs_of_features(features)))

        network = network_with(now.backbone_, now.backbone_state_)
        options = {"device": now.device, "verbose": now.verbose}
        # The mean over crops is of what the network gives, so it embeds each crop within.
        yield features_and_skipped(X, network, ten_crop=True, then=embedded, **options)[0]

    def outputs_of_features(
        self, features: np.ndarray, own: sparse.csr_array | None = None
    ) -> Iterator[np.ndarray]:
        """Embed what the backbone gives, some thousand rows at a time.

        Parameters
        ----------
        features : ndarray of shape (n, d)
            Floats, not scaled.
        own : csr_array of shape (n, C), default=None
            Concepts of rows that came after the fit, where they are known.

        Yields
        ------
        ndarray of shape (b, D)
            Of consecutive rows; float64 where features are, else float32.
        """
        self._check_width(features)
        wide = np.float64 if features.dtype == np.float64 else np.float32
        # In blocks, so that nothing as large as all features is made.
        for start in range(0, max(len(features), 1), BLOCK):
            rows = slice(start, start + BLOCK)
            inputs = self._scaling.inputs(features[rows].astype(wide, copy=False))
            yield self._embedded(inputs, None if own is None else own[rows])

    def features_of(self, X: Any) -> np.ndarray:
        """Return features of images, by the network of the fit; features stay as they are.

        Parameters
        ----------
        X : array-like of shape (n, d), or images
            As for ``fit``.

        Returns
        -------
        ndarray of shape (n, d)
            Which every method takes in the place of the images.
        """
        return fitted_now(self)._features(X)

    def kernel_rows(self, X: Any) -> np.ndarray:
        """Return the kernel of images with the rows that the regression was fitted to.

        Parameters
        ----------
        X : array-like of shape (n, d), or images
            As for ``fit``.

        Returns
        -------
        ndarray of shape (n, m), float32
            exp(-gamma·(1 − cosine)) of their features with those of the m landmarks.
        """
        now = fitted_now(self)
        if not now.kernel_:
            raise ValueError(f"this {type(self).__name__} has no regression: kernel_weight is 0.")
        features = np.asarray(now._features(X), dtype=np.float32)
        return kernel_of(now._scaling.inputs(features), now.kernel_)

    def set_params(self, **params: Any) -> Self:
        """Set parameters, those of parts as ``optimizer__decay``.

        Parameters
        ----------
        **params : dict
            By name.

        Returns
        -------
        self
            With these parameters.
        """
        for name in params:
            # scikit-learn would only say that there is no such parameter.
            if name in NEW_NAMES:
                raise ValueError(f"{name} is now given as {NEW_NAMES[name]}.")
        return super().set_params(**params)

    def __sklearn_clone__(self) -> Self:
        # Clones share a network that was given as an object: it is large, and a copy of it learns.
        return clone_sharing(self, "backbone")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.one_d_labels = True
        tags.target_tags.two_d_labels = True
        tags.target_tags.multi_output = True
        tags.input_tags.three_d_array = False
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @property
    def max_epochs(self) -> int:
        """Epochs of a fit, at most; those of the head before the backbone's included."""
        # A fit without a network has no epochs for callbacks to count.
        if self.has_no_network:
            return 0
        tuning = self._tuning
        # Numbers of numpy's would overflow where they are of few bits.
        return int(self.max_iter) + (0 if tuning is None else int(tuning.head_iter))

    @property
    def has_no_network(self) -> bool:
        """Whether the kernel regression is all there is."""
        return self.kernel_weight == 1 and self.finetune is None

    # --- helpers ------------------------------------------------------------------------

    @property
    def _n_features_out(self) -> int:
        return self._width[1]

    @property
    def _width(self) -> tuple[int, int]:
        """Features that are taken, and dimensions that are given."""
        if self.coefs_:
            return len(self.coefs_[0]), self.coefs_[-1].shape[1]
        return self.kernel_["landmarks"].shape[1], self.kernel_["coefs"].shape[1]

    @property
    def _scaling(self) -> Scaling:
        return Scaling(self.feature_mean_, self.feature_power_)

    @property
    def _tuning(self) -> FineTuning | None:
        return FineTuning(self.finetune) if isinstance(self.finetune, str) else self.finetune

    def _parts(self) -> Parts:
        """Return the objects that the parameters stand for, all parameters checked."""
        self._validate_params()
        check_layer_sizes(self.hidden_layer_sizes)
        stopping = EarlyStopping() if self.early_stopping is True else self.early_stopping
        parts = Parts(
            loss=loss_of(self.loss),
            kernel=TagKernelRegressor() if self.kernel is None else self.kernel,
            scaler=FeatureScaler() if self.scaler is None else self.scaler,
            optimizer=AdamSchedule() if self.optimizer is None else self.optimizer,
            tuning=self._tuning,
            stopping=stopping if isinstance(stopping, EarlyStopping) else None,
        )
        # The loss alone may be of any class, and so the class itself; the others have been asked.
        for part in parts:
            check_part("loss", part)
        # One of these in the kernel would be ignored in silence.
        for name in ("tag_enhancer", "scaler", "random_state"):
            if getattr(parts.kernel, name) is not None:
                raise ValueError(
                    f"kernel has a {name} of its own, which is not used here; set "
                    f"kernel__{name}=None and give it to the {type(self).__name__}."
                )
        return parts

    def _material(self, X: Any, y: Any, resume: str | None) -> Material:
        """Read what there is to learn from."""
        check_tags_given(self, y)
        goes_on = resume is not None and hasattr(self, "coefs_")
        if resume == "partial" and goes_on and self.has_no_network and not self.kernel_:
            raise ValueError(
                "kernel_weight=1 can't go on from a fit without a regression; call fit, or lower "
                "kernel_weight."
            )
        kind = input_kind(X)
        if self.finetune is not None and kind == "features":
            layers = self.finetune if isinstance(self.finetune, str) else self.finetune.layers
            raise ValueError(
                f"finetune={layers!r} trains a network on images, but X is a feature "
                "matrix; pass images, or set finetune=None."
            )
        # Features by the network as the last fit has left it.
        backbone = self.backbone_ if goes_on else self._resolved_backbone(kind)
        features = self._features(X) if goes_on else self._new_features(X, backbone)
        # One seed: torch, landmarks and held-out rows all draw from it.
        seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        if goes_on:
            # Concepts and scale are fixed by the first fit: the layers know no others.
            enhancer, scaling = self.tag_enhancer_, self._scaling
            indicator = concepts_to_learn(X, y, enhancer)
        else:
            enhancer, indicator = learn_concepts(X, y, self.tag_enhancer)
            scaler = FeatureScaler() if self.scaler is None else self.scaler
            scaling = scaler.scaling_of(features)
        warn_of_one_concept(enhancer, indicator)
        return Material(X, features, backbone, enhancer, indicator, scaling, seed)

    def _resolved_backbone(self, kind: str) -> Any:
        """Return the network for input of this kind; None for features."""
        if kind == "features":
            return None
        if self.features == "stages" and self.finetune is not None:
            raise ValueError(
                "features='stages' are those of a network that stays as it is; set "
                "features='final' with finetune."
            )
        features = "final" if self.finetune is not None else self.features
        backbone = resolve_backbone(self.backbone, features)
        if backbone is None:
            raise ValueError("X holds images, but there is no backbone given.")
        return backbone

    def _new_features(self, X: Any, backbone: Any) -> Any:
        """Return features (n, d) to begin with: X itself, or what a network makes of images."""
        if backbone is None:
            # Other numbers become float32.
            return as_rows(self, X, [np.float32, np.float64], reset=True)
        forget_features(self)
        return self._extracted(X, backbone)

    def _extracted(self, X: Any, backbone: Any) -> Any:
        """Return features (n, d) of images; those of very many are not held in memory."""
        if hasattr(X, "features_by"):  # images that are elsewhere, where they are read
            return LazyRows(X.features_by(backbone, self.device), np.float32)
        options = {"device": self.device, "verbose": self.verbose}
        return features_and_skipped(X, backbone, room=room_for, **options)[0]

    def _features(self, X: Any) -> np.ndarray:
        """Return features (n, d) of X, as fit has seen them."""
        if input_kind(X) == "features":
            # float16 becomes float32 block by block.
            kinds = [np.float32, np.float64, np.float16]
            features = validate_later(self, X, kinds)
            # Fitted to images: scikit-learn has no count of columns to compare with.
            if not hasattr(self, "n_features_in_"):
                self._check_features_of_images(features)
            return features
        if self.backbone_ is None:
            raise ValueError(
                f"X holds images, but fit saw feature matrices of {self._width[0]} columns; "
                "pass such features of the images, or fit on images."
            )
        network = network_with(self.backbone_, self.backbone_state_)
        features = self._extracted(X, network)
        self._check_width(features)
        return features

    def _check_features_of_images(self, features: np.ndarray) -> None:
        """Take features by a model of images where they may be those of its own network."""
        if features.shape[1] != self._width[0]:
            raise ValueError(
                f"X is a feature matrix of shape {features.shape}, but fit saw images, which have "
                f"{self._width[0]} features each; pass images."
            )

    def _check_width(self, features: np.ndarray) -> None:
        """Raise an error where the backbone gives other features than in the fit."""
        if features.shape[1] != self._width[0]:
            raise ValueError(
                f"the backbone gives {features.shape[1]} features; {self._width[0]} were fitted."
            )

    def _own_concepts(self, X: Any, tags: Any) -> sparse.csr_array:
        """Return the concepts (n, C) of images that came after the fit."""
        if not self.kernel_:
            raise ValueError(
                "tags of later images are placed by the kernel regression, and this "
                f"{type(self).__name__} has none; set kernel_weight above 0 and fit it anew, or "
                "leave tags out."
            )
        input_kind(X)  # refuses what has no rows
        return read_concepts(X, tags, self.tag_enhancer_)

    def _embedded(self, inputs: np.ndarray, own: sparse.csr_array | None) -> np.ndarray:
        """Return (b, D) of scaled features: the network's outputs, turned to the regression's."""
        # No network: the regression's rows are of unit length as they are.
        if not self.coefs_:
            return placed(inputs, self.kernel_, own, self.tag_enhancer_)
        outputs = forward(inputs, list(zip(self.coefs_, self.intercepts_, strict=True)))
        if not self.kernel_:
            return outputs
        # The network's length stays: the published codes, without normalisation, hold it.
        lengths = np.linalg.norm(outputs, axis=1, keepdims=True)
        rows = placed(inputs, self.kernel_, own, self.tag_enhancer_)
        return turned_towards(outputs, rows, self.kernel_["weight"], lengths)
