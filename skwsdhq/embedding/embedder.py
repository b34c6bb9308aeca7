"""HypersphereEmbedder: from images or features to unit vectors near their tags' concepts."""

import dataclasses
import os
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import torch
from scipy import sparse
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_consistent_length, check_random_state
from sklearn.utils.validation import validate_data
from tqdm.auto import tqdm

from ..backbones.features import extract_features, features_and_skipped
from ..backbones.networks import load_backbone, name_of, resolve_backbone, resolve_device
from ..backbones.run import compute_dtype
from ..backbones.saved import network_name
from ..images import ResizedImages, input_kind
from ..persistence import PersistenceMixin
from ..persistence.registry import as_text, saved
from ..sphere import normalize_rows
from ..tags.enhancer import TagEnhancer
from ..tags.reading import as_rows_of_tags
from ..training import loop as _training
from ..training.checkpoint import Checkpoint, fingerprint
from ..training.session import Run, Stage
from ..training.stopping import ValidationStop, hold_out
from ..utils._compat import (
    CallbackSupportMixin,
    EpochTasks,
    HasMethods,
    Interval,
    StrOptions,
    with_callbacks,
)
from ..utils.estimators import (
    clone_sharing,
    columns_seen,
    fitted_at_once,
    fitted_now,
    forget_features,
)
from ..utils.threads import as_outside
from ..utils.warn import warn_caller
from ._kernel import fit_regression, kernel_embeddings
from ._later import knows_tags, later_embeddings
from ._saved import REQUIRED, check_embedder, from_format_1

__all__ = ["HypersphereEmbedder"]

# Parameters that leave a run what it is, or that enter its fingerprint by what they give: concepts,
# features and a seed.
_NOT_IN_FINGERPRINT = (
    "backbone", "cache_dir", "checkpoint_dir", "device", "random_state", "tag_enhancer", "verbose",
    "warm_start",
)  # fmt: skip


@saved(
    required=REQUIRED,
    check=check_embedder,
    local=("cache_dir", "checkpoint_dir"),
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

    Parameters
    ----------
    tag_enhancer : TagEnhancer or None, default=None
        What makes concepts of tags; cloned in ``fit``, so a fitted one is used as it is only in
        a :class:`~sklearn.frozen.FrozenEstimator`. None is a ``TagEnhancer()``.
    backbone : str, torch.nn.Module, callable or None, default="auto"
        The network that gives features where X is images, see
        :func:`skwsdhq.backbones.load_backbone`; ``"auto"`` is the best one that is installed.
        Feature matrices need none.
    finetune : {"head", "last", "all"}, default="head"
        What is trained: the layers on top of frozen features; also the last layers of the
        backbone, as many as hold a quarter of its parameters; or all of it. The last two need
        images. They train the head alone first (``head_iter``), then everything for ``max_iter``
        epochs. Normalisation layers keep their statistics.
    loss : {"adaptive_margin", "fixed_margin", "wdht", "contrastive"}, default="adaptive_margin"
        ``"adaptive_margin"`` is the paper's; ``"fixed_margin"`` the same with one margin;
        ``"wdht"`` the hinge of an image against the mean of its tags with the batch's other
        images as negatives (arXiv 1806.05804); ``"contrastive"`` the same with a softmax. With more
        than 8,192 concepts a margin loss holds a batch, or each part of one that has many, against
        its own concepts and some 500 others.
    gamma : float, default=1.0
        Exponent of the adaptive margin.
    kernel_weight : float, default=0.8
        Share of the kernel regression in the embedding. 0 is the network alone, 1 the regression
        alone: no network is trained then, and a fit takes a second.
    kernel_gamma : float, default=2.0
        The kernel of two images is exp(-kernel_gamma·(1 − cosine of their features)).
    kernel_alpha : float, default=1.0
        Ridge: how noisy an image's mean tag vector is, against how much one differs from another.
    tag_consistency : "auto" or float, default="auto"
        A tag counts exp(tag_consistency·cosine) in the regression, by the cosine of its vector to
        what a first regression without the image says of it. 0 trusts all tags alike; ``"auto"``
        is 10·w·(1 − w), with w the share of wrong tags, which is estimated from these cosines.
    max_landmarks : int, default=4096
        Images that the kernel compares with. With more tagged ones, so many are drawn, and the
        regression is fitted to all of them by Nyström's approximation.
    margin : float, default=0.5
        Margin of ``"fixed_margin"`` and ``"wdht"``.
    temperature : float, default=0.3
        Of ``"contrastive"``.
    n_hard_negatives : int, default=None
        Only so many negatives of each image, the nearest, enter the margin losses; None is all.
    feature_power : float, default=0.5
        Features x enter as sign(x)·abs(x)^power, centred and scaled to unit length: below 1 the few
        large ones no longer outvote the many small ones. 1 leaves them as they are; at most 16.
    feature_scaling : bool, default=True
        Whether features are centred and scaled to unit length. False passes them on as they are,
        as from a network's last hidden layer to the next (the paper's).
    hidden_layer_sizes : tuple of int, default=(1024,)
        Units of the hidden layers; ``()`` is one linear layer.
    dropout : float, default=0.5
        Probability that a hidden unit is left out of a step.
    max_iter : int, default=25
        Epochs; those of ``head_iter`` not counted.
    head_iter : int, default=20
        With ``finetune="last"`` or ``"all"``, epochs of the head alone on frozen features before
        the backbone learns along.
    batch_size : int, default=256
    learning_rate : float, default=1e-3
        Adam's.
    last_layer_factor : float, default=1.0
        The last layer's rate is that many times ``learning_rate``, its bias's twice that. 10 is
        what the published runs, which fine-tune all layers, were meant to use.
    backbone_factor : float, default=0.1
        The backbone's rate is that many times ``learning_rate``.
    learning_rate_decay : float, default=0.5
        Factor of a step of the learning rate.
    n_drops : int, default=3
        Steps of the learning rate, at equal distances within ``max_iter``.
    drop_period : int or None, default=None
        Batches from one step of the learning rate to the next, in place of ``n_drops``.
    weight_decay : float, default=0.0
        Decoupled, per step, times the learning rate; not of biases below the head's.
    max_grad_norm : float or None, default=None
        Gradients of all parameters together are shortened to that norm.
    augment : bool, default=True
        Whether a backbone that learns sees random crops (of 7/8 of the picture's side) and mirror
        images.
    crop_size : int or None, default=None
        Side, in pixels, of the pictures that a backbone learns from; None is that of its input.
        Smaller ones take less time, and serve as well where the network takes any size: 128 for
        160, say. Features are always those of pictures of its input's size.
    ten_crop : bool, default=False
        Whether the embedding of a picture is the mean over ten crops (four corners, the middle,
        and their mirror images) of what the network gives, which takes ten times as long. Training
        itself does without.
    micro_batch_size : int or None, default=None
        Images that go through a backbone that learns at once, where memory does not hold
        ``batch_size`` of them; the loss is that of the whole batch all the same, at the price of
        a second pass.
    dtype : {"auto", "float32", "bfloat16"}, default="auto"
        In which a backbone that learns multiplies; ``"auto"`` is bfloat16 where the device is
        faster by it (a CPU with instructions for it, in steps of 32 images and more), else float32.
    early_stopping : bool, default=False
        Whether to keep ``validation_fraction`` of the tagged images apart, stop when their loss
        falls no more, and take the weights of the epoch where it was lowest. ``partial_fit``
        takes no part in it.
    validation_fraction : float, default=0.1
    n_iter_no_change : int, default=10
        Epochs in a row without progress after which to stop.
    tol : float, default=1e-4
        A smaller fall of the loss is no progress.
    checkpoint_dir : str, PathLike or None, default=None
        Folder in which ``fit`` keeps its state after each epoch. A run that was killed goes on
        from there when the same ``fit`` is called again, and ends as one that was never stopped.
        Needs a ``random_state``. Other parameters or data use another file; delete the folder
        when it is of no use any more.
    cache_dir : str, PathLike or None, default=None
        Folder for resized pictures, so that a backbone that learns reads each file once.
    device : str, torch.device or None, default=None
        Where to train; None is CUDA where there is one, else the CPU.
    random_state : int, RandomState instance or None, default=None
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
        Weights (in, out) and bias (out,) of each layer.
    kernel_ : dict
        Of the regression: ``"landmarks"`` (m, d) unit rows, ``"coefs"`` (m, D), ``"gamma"``, its
        share in the embedding ``"weight"``, the ``"consistency"`` of tags and the ridge ``"alpha"``
        that it was fitted with, and what places later images by their tags: the ``"noise"`` (m,) of
        landmarks, ``"mean_target"`` (D,) and ``"mean_trust"``; empty where there is none.
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
        "finetune": [StrOptions({"head", "last", "all"})],
        "loss": [StrOptions({"adaptive_margin", "fixed_margin", "wdht", "contrastive"})],
        "gamma": [Interval(Real, 0, None, closed="left")],
        "kernel_weight": [Interval(Real, 0, 1, closed="both")],
        # A limit of 64 bits, since float16 can't hold 1e6 and warns where it meets a plain one.
        "kernel_gamma": [Interval(Real, 0, np.float64(1e6), closed="right")],
        "kernel_alpha": [Interval(Real, 0, None, closed="neither")],
        "tag_consistency": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
        "max_landmarks": [Interval(Integral, 1, None, closed="left")],
        "margin": [Interval(Real, 0, None, closed="left")],
        "temperature": [Interval(Real, 0, None, closed="neither")],
        "n_hard_negatives": [Interval(Integral, 1, None, closed="left"), None],
        "feature_power": [Interval(Real, 0, 16, closed="right")],
        "feature_scaling": ["boolean"],
        "hidden_layer_sizes": ["array-like"],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "head_iter": [Interval(Integral, 0, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "last_layer_factor": [Interval(Real, 0, None, closed="neither")],
        "backbone_factor": [Interval(Real, 0, None, closed="neither")],
        "learning_rate_decay": [Interval(Real, 0, 1, closed="right")],
        "n_drops": [Interval(Integral, 0, None, closed="left")],
        "drop_period": [Interval(Integral, 1, None, closed="left"), None],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "max_grad_norm": [Interval(Real, 0, None, closed="neither"), None],
        "augment": ["boolean"],
        "crop_size": [Interval(Integral, 1, None, closed="left"), None],
        "ten_crop": ["boolean"],
        "micro_batch_size": [Interval(Integral, 1, None, closed="left"), None],
        "dtype": [StrOptions({"auto", "float32", "bfloat16"})],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "checkpoint_dir": [str, os.PathLike, None],
        "cache_dir": [str, os.PathLike, None],
        "device": "no_validation",
        "random_state": ["random_state"],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
    }

    # Tags of later images reach transform through a Pipeline where routing is on.
    __metadata_request__transform = {"tags": True}

    def __init__(
        self,
        tag_enhancer: Any = None,
        *,
        backbone: Any = "auto",
        finetune: str = "head",
        loss: str = "adaptive_margin",
        gamma: float = 1.0,
        kernel_weight: float = 0.8,
        kernel_gamma: float = 2.0,
        kernel_alpha: float = 1.0,
        tag_consistency: float | str = "auto",
        max_landmarks: int = 4096,
        margin: float = 0.5,
        temperature: float = 0.3,
        n_hard_negatives: int | None = None,
        feature_power: float = 0.5,
        feature_scaling: bool = True,
        hidden_layer_sizes: Sequence[int] = (1024,),
        dropout: float = 0.5,
        max_iter: int = 25,
        head_iter: int = 20,
        batch_size: int = 256,
        learning_rate: float = 1e-3,
        last_layer_factor: float = 1.0,
        backbone_factor: float = 0.1,
        learning_rate_decay: float = 0.5,
        n_drops: int = 3,
        drop_period: int | None = None,
        weight_decay: float = 0.0,
        max_grad_norm: float | None = None,
        augment: bool = True,
        crop_size: int | None = None,
        ten_crop: bool = False,
        micro_batch_size: int | None = None,
        dtype: str = "auto",
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        tol: float = 1e-4,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        device: Any = None,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
    ) -> None:
        self.tag_enhancer = tag_enhancer
        self.backbone = backbone
        self.finetune = finetune
        self.loss = loss
        self.gamma = gamma
        self.kernel_weight = kernel_weight
        self.kernel_gamma = kernel_gamma
        self.kernel_alpha = kernel_alpha
        self.tag_consistency = tag_consistency
        self.max_landmarks = max_landmarks
        self.margin = margin
        self.temperature = temperature
        self.n_hard_negatives = n_hard_negatives
        self.feature_power = feature_power
        self.feature_scaling = feature_scaling
        self.hidden_layer_sizes = hidden_layer_sizes
        self.dropout = dropout
        self.max_iter = max_iter
        self.head_iter = head_iter
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.last_layer_factor = last_layer_factor
        self.backbone_factor = backbone_factor
        self.learning_rate_decay = learning_rate_decay
        self.n_drops = n_drops
        self.drop_period = drop_period
        self.weight_decay = weight_decay
        self.max_grad_norm = max_grad_norm
        self.augment = augment
        self.crop_size = crop_size
        self.ten_crop = ten_crop
        self.micro_batch_size = micro_batch_size
        self.dtype = dtype
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.checkpoint_dir = checkpoint_dir
        self.cache_dir = cache_dir
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
        self._validate_params()
        tasks = EpochTasks(self, self._n_epochs, X, y)
        with fitted_at_once(self) as twin:
            _, failure = twin._fit(X, y, tasks=tasks)
        tasks.close()
        if failure is not None:
            raise failure
        return self

    @with_callbacks
    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """One more epoch, over these images only.

        The first call fixes the concepts: they are those of its tags (give ``tag_enhancer`` a
        ``vocabulary``, or freeze a fitted one, where later batches bring others). The learning
        rate stays what it is, and Adam's moments are kept from call to call. The network alone
        learns: the kernel regression stays that of the last ``fit`` (and is given up where the
        backbone learns along).

        Parameters
        ----------
        X, y : as for ``fit``

        Returns
        -------
        self
        """
        self._validate_params()
        tasks = EpochTasks(self, 1, X, y)
        with fitted_at_once(self) as twin:
            _, failure = twin._fit(X, y, partial=True, go_on=hasattr(self, "coefs_"), tasks=tasks)
        tasks.close()
        if failure is not None:
            raise failure
        return self

    def transform(self, X: Any, *, tags: Any = None) -> np.ndarray:
        """Embed images.

        Parameters
        ----------
        X : as for ``fit``
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
        outputs = fitted_now(self)._outputs(X, tags)
        return normalize_rows(outputs, out=outputs)

    def __sklearn_clone__(self):
        # Clones share a network that was given as an object: it is large, and a copy of it learns.
        return clone_sharing(self, "backbone")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.one_d_labels = True
        tags.target_tags.two_d_labels = True
        tags.target_tags.multi_output = True
        tags.input_tags.three_d_array = False
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @property
    def _n_features_out(self):
        return self.coefs_[-1].shape[1]

    @property
    def _n_epochs(self):
        """Of a fit, at most."""
        if self._kernel_only:
            return 0
        return self.max_iter + (0 if self.finetune == "head" else self.head_iter)

    # --- helpers ------------------------------------------------------------------------

    @property
    def _kernel_only(self):
        return self.kernel_weight == 1 and self.finetune == "head"

    @as_outside
    def _fit(self, X, y, *, alternation=None, partial=False, go_on=None, tasks=None, outer=None):
        """``fit``, with codebooks that are learned along where an alternation is given.

        ``outer`` makes, of what would be set here, what an estimator around this one would set;
        the tasks are its then. Returns the embeddings of the training rows (of unit length, unless
        the alternation wants them as they are), and the error of a loss that was no number (all
        is set as it was after the last epoch then) or None.
        """
        self._validate_params()
        sizes = check_layer_sizes(self.hidden_layer_sizes)
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None: it "
                "learns from tags."
            )
        if partial and self._kernel_only:
            raise ValueError(
                "partial_fit trains the network, which kernel_weight=1 does without; lower "
                "kernel_weight."
            )
        go_on = self.warm_start and hasattr(self, "coefs_") if go_on is None else go_on
        if go_on:
            fitted = tuple(len(bias) for bias in self.intercepts_[:-1])
            check_unchanged("hidden_layer_sizes", sizes, fitted)
        tags = as_rows_of_tags(y)
        kind = input_kind(X)
        check_consistent_length(X, tags)
        if self.finetune != "head" and kind == "features":
            raise ValueError(
                f"finetune={self.finetune!r} trains a network on images, but X is a feature "
                "matrix; pass images, or set finetune='head'."
            )
        features, backbone = self._features(X, reset=not go_on)
        random_state = check_random_state(self.random_state)
        seed = random_state.randint(np.iinfo(np.int32).max)
        if go_on:
            enhancer, mean, power = self.tag_enhancer_, self.feature_mean_, self.feature_power_
        else:
            enhancer = TagEnhancer() if self.tag_enhancer is None else clone(self.tag_enhancer)
            enhancer = enhancer.fit(tags, None)  # a FrozenEstimator wants a y
            power = float(self.feature_power)
            mean = None
            if self.feature_scaling:
                mean = _training.raised(features, power).mean(axis=0, dtype=np.float64)
                mean = mean.astype(features.dtype)
        indicator = sparse.csr_array(enhancer.transform(tags))
        tagged = np.diff(indicator.indptr) > 0
        if not tagged.any():
            raise ValueError(
                f"none of the {len(features)} images has a tag that is known; there is nothing "
                "to learn from."
            )
        concepts = enhancer.concept_vectors_
        if len(concepts) == 1 and tagged.sum() > 1:
            warn_caller(
                f"all tags are one concept, {enhancer.concept_names_[0]!r}: nothing tells images "
                "apart, and the loss is 0. Give more tags, or let tag_enhancer merge fewer."
            )
        kernel = self.kernel_ if partial and go_on and self.finetune == "head" else {}
        if self.finetune == "head" and not partial:
            kernel = self._new_kernel(features, (mean, power), indicator, concepts, seed)
        if alternation is not None:
            alternation.start(metric_vectors(enhancer, alternation.normalize))
        checkpoint = None
        if self.checkpoint_dir is not None and not partial and not go_on:
            checkpoint = self._checkpoint(features, indicator, concepts, seed, alternation)
        run = self._new_run(
            X, features, backbone, (mean, power), concepts, indicator, seed, kernel,
            alternation=alternation, partial=partial, go_on=go_on, checkpoint=checkpoint,
        )  # fmt: skip

        seen = None  # the features that a network which learned gives last

        def learned(state=None):
            """What is set at the end, with the weights as they are, or with others."""
            nonlocal seen
            model = run.stage.model
            if state is not None:
                model.restore(state)
            arrays = _training.network_arrays(model.head)
            tuned = isinstance(model, _training.FineTuned)
            last = kernel
            if self.finetune != "head" and not partial:
                seen = model.features() if tuned else features
                last = self._new_kernel(seen, (mean, power), indicator, concepts, seed)
            return {
                **columns_seen(self),
                "kernel_": last,
                "tag_enhancer_": enhancer,
                "feature_mean_": mean,
                "feature_power_": power,
                "backbone_": backbone,
                "backbone_state_": model.trunk_state() if tuned else self._trunk_state(go_on),
                "coefs_": [weights for weights, _ in arrays],
                "intercepts_": [bias for _, bias in arrays],
            }

        failure = self._watch(run, learned, tasks, outer)
        stop = run.stage.stop
        for name, value in learned(None if stop is None else stop.best).items():
            setattr(self, name, value)
        self._set_history(run.figures, alternation, stop, go_on)
        keep = partial or self.warm_start
        self._optimizer_state = run.stage.optimizer.state() if keep else None
        self._generator_state = run.generator.get_state().numpy().copy() if keep else None
        if self.ten_crop or (self.backbone_state_ and seen is None):
            outputs = self._outputs(X)
        elif self.finetune == "head" and features.dtype == np.float32:
            outputs = run.stage.model.embeddings(normalize=False)  # their regression is at hand
        else:
            outputs = self._forward(features if seen is None else seen)
        normalize = alternation is None or alternation.normalize
        return normalize_rows(outputs) if normalize else outputs, failure

    def _checkpoint(self, features, indicator, concepts, seed, alternation):
        """Where this run keeps its state: another file for other parameters, data or seed."""
        if self.random_state is None:
            raise ValueError(
                "checkpoint_dir needs a random_state: without one a run that goes on can't be "
                "told from a new one."
            )
        parameters = self.get_params(deep=False)
        for name in _NOT_IN_FINGERPRINT:
            parameters.pop(name)
        codes = None if alternation is None else alternation.parameters()
        rows = (indicator.indptr, indicator.indices)
        return Checkpoint(
            self.checkpoint_dir, fingerprint(parameters, features, rows, concepts, seed, codes)
        )

    def _new_run(
        self, X, features, backbone, scaling, concepts, indicator, seed, kernel, *, alternation,
        partial, go_on, checkpoint,
    ):  # fmt: skip
        """The stages of a fit: the head on fixed features, then network and head together."""
        tagged = np.diff(indicator.indptr) > 0
        device = resolve_device(self.device)
        generator = torch.Generator(device).manual_seed(seed)
        state = self._generator_state if go_on else None
        if state is not None and state.size == generator.get_state().numel():  # of this device
            generator.set_state(torch.from_numpy(np.array(state)))
        tunes = self.finetune != "head"
        held = stop = None
        if self.early_stopping and not partial:
            held = hold_out(tagged, self.validation_fraction, np.random.RandomState(seed))
            stop = ValidationStop(self.n_iter_no_change, self.tol)
        sizes = (features.shape[1], *check_layer_sizes(self.hidden_layer_sizes), concepts.shape[1])
        arrays = list(zip(self.coefs_, self.intercepts_, strict=True)) if go_on else None
        head = _training.build_network(sizes, self.dropout, generator, arrays)
        loss = _training.make_loss(
            self.loss,
            concepts,
            indicator,
            device,
            gamma=self.gamma,
            margin=self.margin,
            temperature=self.temperature,
            n_hard_negatives=self.n_hard_negatives,
        )

        def stage(model, n_epochs, *, last):
            optimizer = _training.make_optimizer(
                head,
                self.learning_rate,
                self.last_layer_factor,
                self.weight_decay,
                getattr(model, "parameters", ()),
                self.backbone_factor,
            )
            if go_on and self._optimizer_state is not None:
                optimizer.restore(self._optimizer_state)
            options = {
                "n_epochs": n_epochs,
                "batch_size": self.batch_size,
                "generator": generator,
                "decay": self.learning_rate_decay,
                "n_drops": 0 if partial else self.n_drops,
                "drop_period": None if partial else self.drop_period,
                "max_norm": self.max_grad_norm,
                "alternation": alternation if last else None,
                "held": held,
                "doing": f"fine-tuning {name_of(backbone)}" if last and tunes else None,
            }

            def epochs(first):
                return _training.train(model, optimizer, tagged, loss, first=first, **options)

            if not last:
                return Stage(model, optimizer, n_epochs, epochs)
            return Stage(model, optimizer, n_epochs, epochs, alternation, stop)

        n_epochs = 1 if partial else 0 if self._kernel_only else self.max_iter
        stages = []
        if self.finetune == "head" or not (go_on or partial):
            inputs = _training.prepare_inputs(features, *scaling).astype(np.float32, copy=False)
            joined = (_regressed(inputs, kernel), kernel["weight"]) if kernel else ()
            model = _training.FixedInputs(head, inputs, device, *joined)
            if self.finetune == "head":
                stages.append(stage(model, n_epochs, last=True))
            elif self.head_iter:
                stages.append(stage(model, self.head_iter, last=False))
        if tunes:
            tuned = self._fine_tuned(X, head, backbone, scaling, device, generator, go_on)
            stages.append(stage(tuned, n_epochs, last=True))
        return Run(stages, generator, checkpoint)

    def _new_kernel(self, features, scaling, indicator, concepts, seed):
        """What ``kernel_`` is, fitted to these rows."""
        if not self.kernel_weight:
            return {}
        fitted = fit_regression(
            normalize_rows(_training.prepare_inputs(features, *scaling)),
            indicator,
            concepts,
            gamma=float(self.kernel_gamma),
            alpha=float(self.kernel_alpha),
            consistency=self.tag_consistency,
            max_landmarks=self.max_landmarks,
            random_state=np.random.RandomState(seed),
        )
        return {
            "landmarks": fitted.landmarks,
            "coefs": fitted.coefs,
            "gamma": float(self.kernel_gamma),
            "weight": float(self.kernel_weight),
            "consistency": fitted.consistency,
            "alpha": float(self.kernel_alpha),
            "noise": fitted.noise,
            "mean_target": fitted.mean_target,
            "mean_trust": fitted.mean_trust,
        }

    def _fine_tuned(self, X, head, backbone, scaling, device, generator, go_on):
        network = load_backbone(self._network(backbone, self._trunk_state(go_on)))
        if not isinstance(network.module, torch.nn.Module):
            raise TypeError(
                f"finetune={self.finetune!r} needs a network of torch; backbone is a "
                f"{type(network.module).__name__}. Set finetune='head'."
            )

        def embed_features(state):
            return features_and_skipped(
                X, self._network(backbone, state), device=self.device, is_announced=False
            )[0]

        size = network.size if self.crop_size is None else self.crop_size
        side = _training.FineTuned.side(size, self.augment)
        return _training.FineTuned(
            head,
            dataclasses.replace(network, size=size),
            ResizedImages(X, side, cache_dir=self.cache_dir),
            scaling[0],
            power=scaling[1],
            embed_features=embed_features,
            device=device,
            generator=generator,
            finetune=self.finetune,
            augment=self.augment,
            micro_batch_size=self.micro_batch_size,
            dtype=compute_dtype(self.dtype, device, self.micro_batch_size or self.batch_size),
        )

    def _watch(self, run, learned, tasks, outer):
        """Go through the epochs; returns the error of a loss that is no number, if there is one.

        Where an epoch breaks off, by such a loss or by Ctrl-C, all is as after the last one.
        """
        inner = learned if outer is None else lambda: outer(learned())
        epochs = run.epochs()
        failure = None
        with tqdm(desc="training", total=run.n_epochs, disable=not self.verbose) as bar:
            try:
                while run.has_more:
                    if tasks is not None:
                        tasks.begin()
                    row = next(epochs)
                    bar.set_postfix(loss=f"{row['loss']:.4f}", refresh=False)
                    bar.update(len(run.figures) - bar.n)
                    asked = tasks is not None and tasks.end(inner)
                    stop = run.stage.stop
                    stopped = stop is not None and stop.update(
                        row["validation_loss"], run.stage.model.state
                    )
                    run.is_over = asked or stopped
                next(epochs, None)  # so that the last state is saved
            except (KeyboardInterrupt, FloatingPointError) as error:
                if not run.figures:
                    raise
                run.back_to_last_epoch()
                if isinstance(error, FloatingPointError):
                    failure = error
                else:
                    warn_caller(
                        f"training was interrupted after {len(run.figures)} of {run.n_epochs} "
                        "epochs; the estimator is that of the last one.",
                        ConvergenceWarning,
                    )
        return failure

    def _set_history(self, figures, alternation, stop, go_on):
        history = {name: [row[name] for row in figures] for name in ("loss", "learning_rate")}
        if alternation is not None:
            history["quantization_loss"] = [row["quantization_loss"] for row in figures]
        if stop is not None:
            history["validation_loss"] = [
                row["validation_loss"] for row in figures if "validation_loss" in row
            ]
        if go_on:
            before = self.history_
            history = {k: before.get(k, []) + values for k, values in history.items()}
        self.history_ = history
        self.n_iter_ = len(history["loss"])

    def _trunk_state(self, go_on):
        """What an earlier fit taught the network, by the name of the parameter."""
        return dict(self.backbone_state_) if go_on else {}

    def _network(self, backbone, state):
        """The backbone, with what it has learned."""
        if not state:
            return backbone
        network = load_backbone(backbone)
        return dataclasses.replace(
            network, module=_training.load_trunk_state(network.module, state)
        )

    def _features(self, X, reset):
        """(n, d) features, X itself or what a network makes of images, and that network."""
        if input_kind(X) == "features":
            # Other numbers become float32; float16 does so block by block.
            kinds = [np.float32, np.float64] if reset else [np.float32, np.float64, np.float16]
            features = validate_data(self, X, dtype=kinds, reset=reset)
            if not reset and not hasattr(self, "n_features_in_"):
                self._check_features_of_images(features)
            return features, None
        backbone = resolve_backbone(self.backbone) if reset else self.backbone_
        if backbone is None and reset:
            raise ValueError("X holds images, but there is no backbone given.")
        if backbone is None:
            raise ValueError(
                f"X holds images, but fit saw feature matrices of {len(self.coefs_[0])} columns; "
                "pass such features of the images, or fit on images."
            )
        if reset:
            forget_features(self)
        network = self._network(backbone, self._trunk_state(not reset))
        features = extract_features(X, network, device=self.device, verbose=self.verbose)
        if not reset:
            self._check_width(features)
        return features, backbone

    def _check_features_of_images(self, features):
        """Features are taken by a model of images where they may be those of its own network."""
        if features.shape[1] != len(self.coefs_[0]):
            raise ValueError(
                f"X is a feature matrix of shape {features.shape}, but fit saw images, which have "
                f"{len(self.coefs_[0])} features each; pass images."
            )

    def _check_width(self, features):
        if features.shape[1] != len(self.coefs_[0]):
            raise ValueError(
                f"the backbone gives {features.shape[1]} features; {len(self.coefs_[0])} were "
                "fitted."
            )

    def _outputs(self, X, tags=None):
        """(n, D) what the last layer gives, tanh, before it is normalised."""
        indicator = None if tags is None else self._own_tags(X, tags)
        if not self.ten_crop or input_kind(X) == "features" or self.backbone_ is None:
            return self._forward(self._features(X, reset=False)[0], indicator)
        if indicator is not None:
            raise ValueError("tags can't be taken along with ten_crop=True; set ten_crop=False.")
        network = self._network(self.backbone_, self._trunk_state(True))
        options = {"device": self.device, "verbose": self.verbose}
        outputs, _ = features_and_skipped(X, network, ten_crop=True, then=self._forward, **options)
        return outputs

    def _own_tags(self, X, tags):
        """Concepts (n, C) of images that came after the fit."""
        if not knows_tags(self.kernel_):
            raise ValueError(
                "tags of later images are placed by the kernel regression, and this "
                f"{type(self).__name__} has none that takes them; set kernel_weight above 0 and "
                "fit it anew, or leave tags out."
            )
        tags = as_rows_of_tags(tags)
        input_kind(X)
        check_consistent_length(X, tags)
        return sparse.csr_array(self.tag_enhancer_.transform(tags))

    def _forward(self, features, indicator=None):
        """(n, D) tanh of the last layer, turned to the kernel's, from features as they are.

        indicator : (n, C) concepts of rows that came after the fit, where they are known.
        """
        self._check_width(features)
        arrays = list(zip(self.coefs_, self.intercepts_, strict=True))
        dtype = np.float64 if features.dtype == np.float64 else np.float32
        all_outputs = np.empty((len(features), self._n_features_out), dtype)
        # In the blocks of `forward`, so that nothing as large as all features is made.
        for start in range(0, len(features), _training.BLOCK):
            block = slice(start, start + _training.BLOCK)
            rows = features[block].astype(dtype, copy=False)
            inputs = _training.prepare_inputs(rows, self.feature_mean_, self.feature_power_)
            outputs = _training.forward(inputs, arrays)
            if kernel := self.kernel_:
                lengths = np.linalg.norm(outputs, axis=1, keepdims=True)
                if indicator is None:
                    rows = _regressed(inputs, kernel)
                else:
                    concepts = self.tag_enhancer_.concept_vectors_
                    units = normalize_rows(inputs)
                    rows = later_embeddings(units, indicator[block], concepts, kernel)
                outputs = _training.joined(outputs, rows, kernel["weight"], lengths)
            all_outputs[block] = outputs
        return all_outputs


def _regressed(inputs, kernel):
    """(n, D) unit rows by the kernel regression, from inputs of the network."""
    units = normalize_rows(inputs)
    return kernel_embeddings(units, kernel["landmarks"], kernel["coefs"], kernel["gamma"])


def check_layer_sizes(sizes):
    """Units of the hidden layers as a tuple of ints."""
    sizes = tuple(np.asarray(sizes, dtype=object).ravel())
    for size in sizes:
        if isinstance(size, (bool, np.bool_)) or not isinstance(size, Integral) or size < 1:
            raise ValueError(
                f"hidden_layer_sizes={sizes} should hold whole numbers >= 1; () is one linear "
                "layer without any hidden one."
            )
    return tuple(int(size) for size in sizes)


def check_unchanged(name, value, fitted):
    """Whether a parameter still fits what was learned, where a fit goes on from there."""
    if value != fitted:
        raise ValueError(
            f"{name}={value} can't go on from a fit with {name}={fitted}; set it back, or call fit "
            "with warm_start=False to begin anew."
        )


def metric_vectors(enhancer, normalize):
    """Concept vectors that errors are measured by, (C, D).

    Unit rows; without ``normalize`` as long as their tags' vectors are on average.
    """
    vectors = enhancer.concept_vectors_
    if normalize:
        return vectors
    lengths = np.linalg.norm(enhancer.tag_vectors_.astype(np.float64), axis=1)
    sums = np.bincount(enhancer.labels_, lengths, minlength=len(vectors))
    means = sums / np.bincount(enhancer.labels_, minlength=len(vectors))
    return vectors * means[:, None].astype(vectors.dtype)
