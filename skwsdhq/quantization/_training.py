"""The training of a WSDHQuantizer: that of its embedder, with codes that learn along."""

import copy
import functools
import inspect
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils import check_consistent_length, check_random_state

from ..embedding import HypersphereEmbedder
from ..embedding.left_out import LeftOut, left_out, left_out_concepts, word_directions
from ..images import input_kind
from ..search import CodeIndex
from ..sphere import normalize_rows
from ..tags.concepts import read_concepts
from ..tags.enhancer import concept_lengths
from ..tags.reading import as_rows_of_tags
from ..utils._compat import num_samples
from ..utils.estimators import (
    check_unchanged,
    columns_seen,
    forget_features,
    takes_tags,
    with_attributes,
)
from ..utils.rows import as_rows, is_lazy, mapped_rows
from ..utils.threads import as_outside
from ._codes import CodeAlternation
from ._earlier import Earlier
from ._suggest import learn_calibration
from .lengths import code_size

__all__ = [
    "IMAGES_PASS_NOT_THROUGH",
    "KINDS",
    "QuantizerTraining",
    "embeddings_by",
    "inner_of",
    "offers_training",
    "scaled",
]

KINDS = [np.float32, np.float64, np.float16]  # of feature matrices; other numbers become float32
_LENGTH_WEIGHT = 2.0
IMAGES_PASS_NOT_THROUGH = (
    'X holds images, but embedder="passthrough" takes embeddings (n, D); name another embedder, or '
    "put one before the quantizer in a Pipeline."
)


class QuantizerTraining:
    """Train a quantizer, epoch by epoch of its embedder.

    Parameters
    ----------
    quantizer : WSDHQuantizer
        With the parameters of the training, and the attributes that it goes on from.
    X, y : images and tags
        As for ``fit``.
    resume : {None, "fit", "partial"}, default=None
        As for :meth:`HypersphereEmbedder.start_training`.
    """

    def __init__(self, quantizer: Any, X: Any, y: Any, *, resume: str | None = None) -> None:
        self._quantizer, self._X, self._y = quantizer, X, y
        self._is_partial = resume == "partial"
        if y is None and quantizer.__sklearn_tags__().target_tags.required:
            raise ValueError(
                f"{type(quantizer).__name__} requires y to be passed, but the target y is None: it "
                "learns from tags."
            )
        # A first partial_fit, or a warm start without a fit, begins anew.
        self._resume = resume if hasattr(quantizer, "codebooks_") else None
        input_kind(X)  # refuses what has no rows
        n_rows = num_samples(X)
        if self._resume:
            self._shape = _shape_to_go_on(quantizer)
        else:
            given = quantizer.n_bits, quantizer.n_codebooks, quantizer.n_codewords
            self._shape = code_size(*given, n_rows)
        random_state = check_random_state(quantizer.random_state)
        # Embedder and codes share it: one random_state makes both repeatable.
        seed = random_state.randint(np.iinfo(np.int32).max)
        self._codes = _new_codes(quantizer, self._shape, seed, bool(self._resume))
        if n_rows < self._shape[1] and not self._resume:
            raise ValueError(
                f"n_samples={n_rows} should be >= n_codewords={self._shape[1]}; lower n_codewords."
            )
        rows = _checked(quantizer, X, reset=not self._resume)
        if isinstance(quantizer.embedder, str):  # "passthrough"
            self._embedder: Any = quantizer.embedder
            # No network learns: the codebooks are all there is to do.
            self._inner: Any = _Given(scaled(rows, quantizer.normalize))
            self._enhancer = self._own_enhancer(rows, y)
        else:
            self._embedder = _embedder_to_fit(quantizer, seed, bool(self._resume))
            self._inner = self._started(X, y, resume)
            # The embedder's, once it is fitted.
            self._enhancer = None
        self._earlier: Earlier | None = None
        if self._is_partial and self._resume:
            # Before an epoch has moved the embeddings.
            self._earlier = Earlier.of(quantizer, np.asarray(self._embeddings(self._embedder)))

    def __iter__(self) -> Iterator[dict[str, float]]:
        """Train, and give the figures of each epoch."""
        return iter(self._inner)

    @property
    def has_more(self) -> bool:
        """Whether an epoch is left, as far as the embedder's training tells."""
        return getattr(self._inner, "has_more", True)

    @property
    def team(self) -> Any:
        """Processes that train together; None where there is this one alone."""
        return getattr(self._inner, "team", None)

    @property
    def failure(self) -> Exception | None:
        """What went wrong in the embedder's training, once it is as it was before."""
        return getattr(self._inner, "failure", None)

    @as_outside
    def attributes(self) -> dict[str, Any]:
        """Return what a fit that ended now would set, by name. Nothing here is changed."""
        quantizer = self._quantizer
        embedder, enhancer = self._embedder, self._enhancer
        history: dict[str, list[float]] = {}
        if not isinstance(embedder, str):
            embedder = with_attributes(embedder, self._inner.attributes())
            inner = inner_of(embedder)
            enhancer = getattr(inner, "tag_enhancer_", None)
            history = getattr(embedder, "history_", {}) if inner is embedder else {}
        # Of a copy: callbacks ask in the middle, and the training goes on.
        codes = copy.deepcopy(self._codes)
        if enhancer is not None and codes.metric is None and not isinstance(embedder, str):
            # An embedder that trains alone has told the codes of no concepts.
            codes.start(inner_of(enhancer).concept_vectors_, concept_lengths(enhancer))
        if getattr(self._inner, "ends_elsewhere", False):
            # Codes have followed outputs that are no more: they begin anew.
            codes.forget()
        # A turn a batch; the sums of earlier batches count along.
        n_turns = 1 if self._is_partial else int(quantizer.codebook_iters)
        embeddings, earlier = self._embeddings(embedder), None
        if self._earlier is not None:
            embeddings = np.asarray(embeddings)  # a batch is no more than memory holds
            codes.codebooks, earlier = self._earlier.moved(embeddings)
        sums, error = codes.finish(embeddings, n_turns, earlier)
        if self._earlier is not None:
            codes.codes = np.concatenate([self._earlier.codes, codes.codes])
        return {
            **columns_seen(quantizer),
            "embedder_": embedder,
            "tag_enhancer_": enhancer,
            "codebooks_": codes.codebooks,
            "codes_": codes.codes,
            "metric_": codes.metric,
            "prefix_weight_": float(quantizer.prefix_weight),
            "length_weight_": codes.length_weight,
            "n_bits_": self._shape[0] * math.ceil(math.log2(self._shape[1])),
            "history_": {**history, "quantization_error": error},
            # Epochs where there were any, else turns of the codebooks.
            "n_iter_": len(history.get("loss", ())) or max(1, n_turns),
            "_statistics": sums if self._is_partial else None,
            **self._of_words(embedder, enhancer, codes, embeddings),
        }

    def _of_words(
        self, embedder: Any, enhancer: Any, codes: Any, embeddings: np.ndarray
    ) -> dict[str, Any]:
        """Return what is learned of words: where to look for them, and when they are probable."""
        found: dict[str, Any] = {"tag_calibration_": None, "tag_directions_": None}
        vectors = getattr(inner_of(enhancer), "concept_vectors_", None)
        if vectors is None or self._y is None:
            return found
        indicator = read_concepts(self._X, self._y, enhancer)
        tagged = np.flatnonzero(np.diff(indicator.indptr))
        if embeddings.shape[1] != vectors.shape[1]:
            return found
        left, likely = self._left_out(embedder, len(tagged)), None
        if left is not None:
            found["tag_directions_"] = word_directions(left, indicator[tagged], vectors)
            likely = left_out_concepts(left, indicator[tagged])
            # Rows without tags take no part in what is learned of them.
            embeddings = np.zeros(embeddings.shape, dtype=left.embeddings.dtype)
            embeddings[tagged] = left.embeddings
        if self._earlier is not None:
            # What they carry counts; how near they are is learned from images that are at hand.
            indicator = self._earlier.with_concepts(indicator)
            found["tag_directions_"] = self._earlier.turned(embeddings)
        index = CodeIndex(codes.codebooks, codes.codes)
        found["tag_calibration_"] = learn_calibration(embeddings, indicator, vectors, index, likely)
        return found

    def _left_out(self, embedder: Any, n_tagged: int) -> LeftOut | None:
        """Return rows as if training had not seen them, where these are at hand."""
        # One from before this call, as that of a frozen embedder, knows other rows.
        is_of_now = inner_of(embedder) is embedder and not self._is_partial
        is_of_now &= offers_training(embedder) or not self._resume
        kernel: Any = getattr(embedder, "kernel_", None) if is_of_now else None
        if not isinstance(kernel, dict) or n_tagged != len(kernel.get("landmarks", ())):
            return None
        return left_out(kernel)

    def _embeddings(self, embedder: Any) -> np.ndarray:
        """Return what the embedder makes of X as it is now, to be quantized."""
        if hasattr(self._inner, "outputs"):  # at hand, so that nobody computes them again
            return scaled(self._inner.outputs(), self._quantizer.normalize)
        return embeddings_by(embedder, self._X, self._quantizer.normalize)

    def _started(self, X: Any, y: Any, resume: str | None) -> Any:
        """Return the training of the embedder; one without epochs where it does not offer any."""
        quantizer, embedder = self._quantizer, self._embedder
        if offers_training(embedder):
            if quantizer.random_state is None and getattr(embedder, "checkpoint_dir", None):
                raise ValueError("checkpoint_dir needs a random_state of the quantizer too.")
            resume = resume if self._resume or resume == "partial" else None
            return _started_by(embedder, X, y, companion=self._codes, resume=resume)
        # A frozen one, or any other transformer: codebooks are learned afterwards.
        if not self._resume:
            embedder.fit(X, y)
        embeddings = embeddings_by(embedder, X, quantizer.normalize)
        return _Given(scaled(embeddings, quantizer.normalize))

    def _own_enhancer(self, rows: np.ndarray, y: Any) -> Any:
        """Return the quantizer's own enhancer, which gives embeddings a metric."""
        quantizer = self._quantizer
        if quantizer.tag_enhancer is None:
            return None
        tags = as_rows_of_tags(y)
        check_consistent_length(rows, tags)
        if self._resume:
            enhancer = quantizer.tag_enhancer_
        else:
            enhancer = clone(quantizer.tag_enhancer).fit(tags, None)
        if enhancer.concept_vectors_.shape[1] == rows.shape[1]:
            self._codes.start(enhancer.concept_vectors_, concept_lengths(enhancer))
        return enhancer


class _Given:
    """Stand for a training where embeddings are there, and no epoch is left."""

    has_more = False

    def __init__(self, embeddings: np.ndarray) -> None:
        self._embeddings = embeddings

    def __iter__(self) -> Iterator[dict[str, float]]:
        return iter(())

    def attributes(self) -> dict[str, Any]:
        """Return nothing to be set."""
        return {}

    def outputs(self) -> np.ndarray:
        """Return the embeddings (n, D)."""
        return self._embeddings


def offers_training(embedder: Any) -> bool:
    """Tell whether a quantizer learns along with an embedder, epoch by epoch.

    The class is asked: a FrozenEstimator hands on the methods of what it keeps from being trained.
    """
    return hasattr(type(embedder), "start_training")


def _started_by(embedder: Any, X: Any, y: Any, **options: Any) -> Any:
    """Return the training that an embedder starts; a TypeError says what is no such embedder."""
    owner = type(embedder).__name__
    try:
        inspect.signature(embedder.start_training).bind(X, y, **options)
    except TypeError as error:
        raise TypeError(
            f"{owner}.start_training should be a method that takes (X, y, *, companion, resume), "
            f"as that of HypersphereEmbedder: {error}."
        ) from error
    training = embedder.start_training(X, y, **options)
    if not (hasattr(training, "__iter__") and hasattr(training, "attributes")):
        raise TypeError(
            f"{owner}.start_training gave a {type(training).__name__}; it should give an iterable "
            "of the figures of epochs that has a method attributes()."
        )
    return training


def inner_of(estimator: Any) -> Any:
    """Return an estimator as it is in a FrozenEstimator, or any other as it is."""
    return getattr(estimator, "estimator", estimator)


def scaled(embeddings: Any, normalize: bool) -> Any:
    """Return embeddings (n, D) as they are quantized: of unit length, or of their own.

    Those of a memory map are scaled when they are asked for.
    """
    if is_lazy(embeddings):
        kind = np.float32 if embeddings.dtype == np.float16 else embeddings.dtype
        return mapped_rows(embeddings, functools.partial(scaled, normalize=normalize), dtype=kind)
    embeddings = np.asarray(embeddings)
    out = None
    if embeddings.dtype == np.float16:
        # The copy is ours: scaled in place.
        out = embeddings = embeddings.astype(np.float32)
    return normalize_rows(embeddings, out) if normalize else embeddings


def embeddings_by(embedder: Any, X: Any, normalize: bool, tags: Any = None) -> np.ndarray:
    """Return what a fitted embedder makes of X, to be quantized."""
    inner = inner_of(embedder)
    # Other transformers have no such argument.
    own = {"tags": tags} if takes_tags(inner) else {}
    if hasattr(inner, "outputs"):
        outputs = inner.outputs(X, **own)
        return normalize_rows(outputs, out=outputs) if normalize else outputs
    return scaled(inner.transform(X, **own) if own else embedder.transform(X), normalize)


def _new_codes(quantizer: Any, shape: tuple[int, int], seed: int, goes_on: bool) -> CodeAlternation:
    """Return the codes that learn along, new or from the fitted codebooks."""
    return CodeAlternation(
        *shape,
        period=quantizer.code_update_period,
        weight=quantizer.quantization_weight,
        encode_options={
            "n_sweeps": quantizer.icm_iters,
            "beam_size": quantizer.beam_size,
            "prefix_weight": quantizer.prefix_weight,
        },
        method=quantizer.init,
        # Of errors that are Euclidean, as lengths are.
        length_weight=_LENGTH_WEIGHT if quantizer.normalize and not quantizer.metric_mix else 0.0,
        ridge=quantizer.ridge,
        metric_mix=quantizer.metric_mix,
        random_state=np.random.RandomState(seed),
        codebooks=quantizer.codebooks_ if goes_on else None,
        normalize=quantizer.normalize,
    )


def _shape_to_go_on(quantizer: Any) -> tuple[int, int]:
    """Return M and K of what was learned; check that the parameters still fit it."""
    n_codebooks, n_codewords, _ = quantizer.codebooks_.shape
    # By n_bits alone, the rows of the first fit have decided on codebooks.
    given = quantizer.n_bits, quantizer.n_codebooks, quantizer.n_codewords
    asked = code_size(*given, n_rows=n_codewords)
    if quantizer.n_bits is not None:
        check_unchanged("n_bits", int(quantizer.n_bits), quantizer.n_bits_)
    check_unchanged("n_codebooks", asked[0], n_codebooks)
    check_unchanged("n_codewords", asked[1], n_codewords)
    was_given = isinstance(quantizer.embedder_, str)
    if was_given != isinstance(quantizer.embedder, str):
        raise ValueError(
            f"embedder={quantizer.embedder!r} can't go on from a fit with "
            f"{'embeddings' if was_given else 'an embedder'}; set it back, or call fit with "
            "warm_start=False to begin anew."
        )
    return n_codebooks, n_codewords


def _checked(quantizer: Any, X: Any, *, reset: bool) -> Any:
    """Return features checked as scikit-learn does, in the quantizer's name; images as they are."""
    if input_kind(X) == "features":
        return as_rows(quantizer, X, KINDS, reset=reset)
    if isinstance(quantizer.embedder, str):
        raise ValueError(IMAGES_PASS_NOT_THROUGH)
    if reset:
        forget_features(quantizer)
    return X


def _embedder_to_fit(quantizer: Any, seed: int, goes_on: bool) -> Any:
    """Return the embedder to be fitted, new or a copy of the fitted one."""
    if goes_on:
        return _embedder_to_go_on(quantizer)
    if quantizer.embedder is None:
        return HypersphereEmbedder(
            quantizer.tag_enhancer,
            checkpoint_dir=quantizer.checkpoint_dir,
            device=quantizer.device,
            random_state=seed,
            verbose=quantizer.verbose,
        )
    embedder = clone(quantizer.embedder)
    # One that the user has seeded keeps its seed.
    if embedder.get_params(deep=False).get("random_state", 0) is None:
        embedder.set_params(random_state=seed)
    return embedder


def _embedder_to_go_on(quantizer: Any) -> Any:
    """Return a copy of the fitted embedder, with the parameters that it has been given since."""
    embedder = copy.deepcopy(quantizer.embedder_)
    if offers_training(quantizer.embedder):
        # As of today: max_iter may have changed since the last fit.
        given = quantizer.embedder.get_params(deep=False)
        for name in ("backbone", "random_state", "tag_enhancer"):
            given.pop(name, None)
        embedder.set_params(**given)
    return embedder
