"""ImageLoader: images in any form to features of a frozen network, as a pipeline's first step."""

import dataclasses
import os
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data
from tqdm.auto import tqdm

from ..images import ResizedImages, input_kind
from ..images.keys import image_key, safe_image_key
from ..persistence import PersistenceMixin
from ..persistence.registry import as_text, saved
from ..utils._compat import (
    CallbackSupportMixin,
    EpochTasks,
    Interval,
    StrOptions,
    check_feature_names_in,
    with_callbacks,
)
from ..utils.estimators import clone_sharing, forget_features
from ..utils.progress import LongRun
from ..utils.warn import warn_caller
from ._cache import FeatureCache
from ._key import UnknownStateError, network_key
from .features import features_and_skipped
from .networks import load_backbone, name_of, resolve_backbone, resolve_device
from .run import DTYPES, extraction_of
from .saved import REQUIRED, check_loader, network_name

__all__ = ["ImageLoader"]

_SIZE = 224  # of pictures where no network says its own


@saved(
    required=REQUIRED,
    check=check_loader,
    local=("memory",),
    names={"backbone": network_name, "backbone_": network_name, "device": as_text},
)
class ImageLoader(PersistenceMixin, CallbackSupportMixin, TransformerMixin, BaseEstimator):
    """Turn images into features by a frozen pretrained network.

    Feature matrices pass through unchanged, so that one pipeline takes images and features.

    Parameters
    ----------
    backbone : str, torch.nn.Module, callable, Backbone or None, default="auto"
        The network, see :func:`skwsdhq.backbones.load_backbone`; ``"auto"`` is the best one that
        is installed. None gives pictures, read and resized, for a later step to embed.
    size : int or None, default=None
        Pixels of a side that images are resized to; None is what the network was trained with
        (224 without a network).
    batch_size : int or None, default=None
        Images that go through the network at once; None is what is fast, 4 on a CPU.
    n_jobs : int or None, default=None
        Threads that read and resize images; None is 1, -1 all cores.
    memory : str, PathLike, joblib.Memory or None, default=None
        Where to keep features, by image: the network then sees each image once, whatever folds,
        candidates and processes ask for it. Pixels tell an image from others, or its path, size and
        time of change; all that a network holds tells it from others. Where nothing tells it, there
        is a warning, and nothing is kept. Damaged rows are computed again. The ``memory`` of a
        Pipeline keeps the output of each fold as a whole; this one serves the test rows too.
    device : str, torch.device or None, default=None
        Where the network runs; None is CUDA where there is one, else the CPU.
    dtype : {"float32", "bfloat16", "auto"}, default="float32"
        What the network computes in, see :func:`skwsdhq.backbones.extract_features`.
    background : str or (red, green, blue), default="white"
        Colour behind transparent images.
    on_error : {"raise", "skip"}, default="raise"
        What to do about an image that can't be read: raise an error that names the file; or put a
        blank picture in its place, so that rows stay with their tags, and warn of these rows. To
        leave them out, with their tags, ask
        :func:`skwsdhq.images.unreadable_images` before.
    ten_crop : bool, default=False
        Whether features are the mean over ten crops, see
        :func:`skwsdhq.backbones.extract_features`. Needs a network.
    features : {"auto", "final", "stages"}, default="auto"
        What the network's last layer gives, or what its later stages see beside it, see
        :func:`skwsdhq.backbones.extract_features`. ``"auto"`` is the stages with
        ``backbone="auto"``, and else what the backbone is.
    verbose : int, default=0
        1 shows progress, with images a second.

    Attributes
    ----------
    backbone_ : str, torch.nn.Module, callable, Backbone or None
        The network in use; None for feature matrices and for pictures.
    n_features_out_ : int or None
        Features of an image; None for pictures.
    skipped_ : dict of int to str
        With ``on_error="skip"``: rows of the last ``transform`` that could not be read, and why.
    n_features_in_ : int
        Where X is a feature matrix.

    See Also
    --------
    skwsdhq.backbones.extract_features : The same as a function.

    Examples
    --------
    >>> import numpy as np
    >>> from skwsdhq import ImageLoader
    >>> images = np.zeros((3, 10, 8, 3), dtype=np.uint8)
    >>> ImageLoader(backbone=None, size=4).fit_transform(images).shape
    (3, 4, 4, 3)
    >>> def mean_colour(batch):
    ...     return batch.mean(axis=(1, 2))
    >>> ImageLoader(mean_colour).fit_transform(images).shape
    (3, 3)
    """

    _parameter_constraints: dict = {
        "backbone": "no_validation",
        "size": [Interval(Integral, 1, None, closed="left"), None],
        "batch_size": [Interval(Integral, 1, None, closed="left"), None],
        "n_jobs": [Integral, None],
        "memory": "no_validation",
        "device": "no_validation",
        "dtype": [StrOptions(set(DTYPES))],
        "background": "no_validation",
        "on_error": [StrOptions({"raise", "skip"})],
        "ten_crop": ["boolean"],
        "features": [StrOptions({"auto", "final", "stages"})],
        "verbose": ["verbose"],
    }

    def __init__(  # noqa: PLR0913 - the parameters of the estimator
        self,
        backbone: Any = "auto",
        *,
        size: int | None = None,
        batch_size: int | None = None,
        n_jobs: int | None = None,
        memory: Any = None,
        device: Any = None,
        dtype: str = "float32",
        background: Any = "white",
        on_error: Any = "raise",
        ten_crop: bool = False,
        features: str = "auto",
        verbose: int = 0,
    ) -> None:
        self.backbone = backbone
        self.size = size
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.memory = memory
        self.device = device
        self.dtype = dtype
        self.background = background
        self.on_error = on_error
        self.ten_crop = ten_crop
        self.features = features
        self.verbose = verbose

    @with_callbacks
    def fit(self, X: Any, y: Any = None) -> Self:
        """Find the network, and how many features it gives.

        Parameters
        ----------
        X : array-like of shape (n, d), or images
            Features; or images as an array (n, H, W, 3) of uint8, a list of arrays of unequal
            sizes, or a list of paths. Of images only the first is read.
        y : ignored
            For a Pipeline's sake.

        Returns
        -------
        self
            Fitted.

        Raises
        ------
        ImportError, OSError, ValueError
            If the network can't be had, or the first image can't be read.
        """
        self._validate_params()
        tasks = EpochTasks(self, 0, X, y)
        self._fit(X)
        tasks.close()
        return self

    def _fit(self, X: Any) -> None:
        """Set the attributes, by X and the network."""
        if input_kind(X) == "features":
            X = validate_data(self, X, dtype=[np.float64, np.float32])
            self.backbone_, self.n_features_out_ = None, X.shape[1]
            self._passes = True  # features go through as they are
            return
        backbone = resolve_backbone(self.backbone, self.features)
        if backbone is None and self.ten_crop:
            raise ValueError("ten_crop=True needs a network; backbone is None.")
        width = None
        # One image tells the width, and that the network runs.
        if backbone is not None:
            width = self._extract(_first(X), backbone)[0].shape[1]
        forget_features(self)
        self.backbone_, self.n_features_out_ = backbone, width
        self._passes = False

    def transform(self, X: Any) -> np.ndarray:
        """Turn images into features.

        Parameters
        ----------
        X : as for ``fit``
            Of the kind that ``fit`` saw: images, or features.

        Returns
        -------
        ndarray of shape (n, d)
            float32; a feature matrix in its own float dtype. (n, size, size, 3) of uint8 with
            ``backbone=None``.

        Raises
        ------
        ValueError
            If X is of another kind than ``fit`` saw.
        OSError
            If an image can't be read, unless ``on_error="skip"``; the message names it.
        """
        check_is_fitted(self)
        is_features = input_kind(X) == "features"
        if self._passes:
            if not is_features:
                raise ValueError(
                    f"X holds images, but fit saw a feature matrix of {self.n_features_in_} "
                    "columns; pass features, or fit on images."
                )
            return validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        if is_features:
            raise ValueError(
                f"X is no images, as fit saw, but a feature matrix of shape {np.shape(X)}; pass "
                "images."
            )
        if self.backbone_ is None:
            return self._pictures(X)
        features, skipped = self._extract(X, self.backbone_)
        self._tell(skipped)
        if features.shape[1] != self.n_features_out_:
            raise ValueError(
                f"the backbone gives {features.shape[1]} features; {self.n_features_out_} were "
                "fitted."
            )
        return features

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return the names of the output's columns.

        Parameters
        ----------
        input_features : array-like of str or None, default=None
            Names of a feature matrix's columns, which stay what they are; ignored for images.

        Returns
        -------
        ndarray of shape (d,), object
            ``"imageloader0"`` and so on where a network gives them.

        Raises
        ------
        ValueError
            If the output is pictures.
        """
        check_is_fitted(self)
        if self._passes:
            return check_feature_names_in(self, input_features)
        if self.n_features_out_ is None:
            raise ValueError("pictures have no columns to name; give ImageLoader a backbone.")
        return np.array([f"imageloader{k}" for k in range(self.n_features_out_)], dtype=object)

    def __sklearn_clone__(self) -> Self:
        """Return an unfitted clone."""
        # Clones share a network that was given as an object: it is frozen, and it is large.
        return clone_sharing(self, "backbone")

    def __sklearn_tags__(self) -> Any:
        """Return what scikit-learn should know of this estimator."""
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    # --- helpers ------------------------------------------------------------------------

    def _pictures(self, X: Any) -> np.ndarray:
        """Return pictures (n, size, size, 3), uint8."""
        # scikit-learn would fail on them with a message about dimensions.
        configured = getattr(self, "_sklearn_output_config", {}).get("transform", "default")
        if configured not in ("default", None):
            raise ValueError(
                f"pictures can't be a {configured} data frame; give ImageLoader a backbone, or "
                "leave its set_output at 'default'."
            )
        pictures = ResizedImages(
            X,
            self.size or _SIZE,
            n_jobs=self.n_jobs,
            background=self.background,
            on_error=self.on_error,
        )
        batch = pictures.rows(range(len(pictures)))
        self._tell(pictures.skipped_)
        return batch

    def _tell(self, skipped: dict[int, str]) -> None:
        """Say which rows could not be read."""
        if self.on_error == "raise":
            return
        self.skipped_ = dict(sorted(skipped.items()))
        if skipped:
            first = [f"row {row}: {reason}" for row, reason in list(self.skipped_.items())[:5]]
            more = ", ..." if len(skipped) > len(first) else ""
            warn_caller(
                f"{len(skipped)} images can't be read and count as blank; {'; '.join(first)}{more}"
                " (all of them: skipped_)."
            )

    def _extract(self, X: Any, backbone: Any) -> tuple[np.ndarray, dict[int, str]]:
        """Return features (n, d) float32, kept ones where there are any, and rows not readable."""
        location = _location(self.memory)
        name = None if location is None else self._network_key(backbone)
        if location is None or name is None:
            return self._compute(X, backbone, None, self.verbose, is_announced=True)
        return self._kept(X, backbone, FeatureCache(location / "skwsdhq-features" / name))

    def _compute(
        self,
        X: Any,
        backbone: Any,
        rows: Sequence[int] | None,
        verbose: int = 0,
        is_announced: bool = False,
    ) -> tuple[np.ndarray, dict[int, str]]:
        """Run the network over some rows; None is all."""
        network = load_backbone(backbone)
        if self.size is not None:
            network = dataclasses.replace(network, size=int(self.size))
        return features_and_skipped(
            X,
            network,
            batch_size=self.batch_size,
            device=self.device,
            dtype=self.dtype,
            n_jobs=self.n_jobs,
            background=self.background,
            on_error=self.on_error,
            ten_crop=self.ten_crop,
            rows=rows,
            is_announced=is_announced,
            verbose=verbose,
        )

    def _network_key(self, backbone: Any) -> str | None:
        """Return a name for the features of this network; None, with a warning, without one."""
        # Defaults add nothing, so that features kept before there was a parameter are found.
        settings = [] if self.dtype == "float32" else [self.dtype]
        settings += [] if self.background == "white" else [self.background]
        settings += ["ten_crop"] if self.ten_crop else []
        try:
            return network_key(backbone, self.size, *settings)
        except UnknownStateError as error:
            warn_caller(
                "features are not kept: nothing tells the state of the backbone from others, as "
                f"it holds {error}. Give a torch.nn.Module, or a function of plain values."
            )
            return None

    def _kept(
        self, X: Any, backbone: Any, cache: FeatureCache
    ) -> tuple[np.ndarray, dict[int, str]]:
        """Return features from a cache, after adding to it those that it lacks."""
        images = X.iloc if hasattr(X, "iloc") else X
        keys = [self._key(images[i]) for i in range(len(X))]
        with tqdm(total=len(X), desc="features", unit="img", disable=not self.verbose) as bar:
            run: LongRun | None = None
            n_computed = 0

            def begin(n_missing: int) -> None:
                nonlocal run
                run = extraction_of(n_missing, name_of(backbone), resolve_device(self.device))

            def compute_at(positions: list[int]) -> np.ndarray:
                nonlocal n_computed
                features, skipped = self._compute(X, backbone, positions)
                # What could not be read is kept as NaN, which no network gives for a whole row.
                features[np.isin(positions, list(skipped))] = np.nan
                bar.update(len(positions))
                n_computed += len(positions)
                if run is not None:
                    run.advance(n_computed)
                return features

            # Several batches at once: each write takes the lock once.
            features = cache.features(keys, compute_at, 4 * (self.batch_size or 16), begin)
            bar.update(len(X) - bar.n)
        # And read again each time: the disk may be back.
        blank = np.flatnonzero(np.isnan(features).all(axis=1)).tolist()
        skipped: dict[int, str] = {}
        if blank:
            features[blank], skipped = self._compute(X, backbone, blank)
        return features, skipped

    def _key(self, source: Any) -> bytes:
        # A file that is not there ends it at once, before others are computed.
        is_strict = self.on_error == "raise" and isinstance(source, (str, os.PathLike))
        return image_key(source) if is_strict else safe_image_key(source)


def _first(X: Any) -> list:
    """Return the first image, as a sequence of one."""
    return [X.iloc[0] if hasattr(X, "iloc") else X[0]]


def _location(memory: Any) -> Path | None:
    """Return the folder of a path or of joblib's Memory; None where nothing is to be kept."""
    if memory is None:
        return None
    if hasattr(memory, "cache"):  # joblib.Memory
        return None if memory.location is None else Path(memory.location)
    try:
        return Path(memory)
    except TypeError as error:
        raise TypeError(
            f"memory should be a path, a joblib.Memory or None; got {type(memory).__name__}."
        ) from error
