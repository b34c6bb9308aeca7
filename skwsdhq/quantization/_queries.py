"""What a fitted quantizer makes of words: queries, and suggestions of tags."""

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from ..embedding.left_out import likely_concepts
from ..images import input_kind
from ..search.checks import check_k
from ..sphere import normalize_rows
from ..tags.concepts import read_concepts
from ..tags.queries import embed_queries, words_of
from ..utils.estimators import fitted_now
from ..utils.rows import is_lazy
from ..utils.validation import check_share
from ._suggest import Suggester
from ._training import inner_of

__all__ = ["Decoded", "query_rows", "suggested"]

# Suggesters of quantizers: no attribute, which would be saved, copied and compared.
_SUGGESTERS: weakref.WeakKeyDictionary[Any, Suggester] = weakref.WeakKeyDictionary()


def query_rows(now: Any, quantizer: Any, X: Any, tags: Any, weight: float) -> np.ndarray:
    """Return unit rows (q, D) of pictures, words or both; see ``WSDHQuantizer.embed_query``.

    ``now`` is the quantizer as it stands: another thread may fit it meanwhile.
    """
    weight = check_share("weight", weight)
    if X is None and tags is None:
        raise ValueError("a query needs pictures (X), words (tags) or both; both are None.")
    words = pictures = None
    if tags is not None:
        words = _of_words(now, quantizer, tags)
    if X is not None:
        # With normalize=False they have any length, and would outweigh words by it.
        pictures = normalize_rows(now._embed(X)).astype(np.float32, copy=False)
    if words is None or pictures is None:
        return pictures if words is None else words  # type: ignore[return-value]
    if len(words) != len(pictures) and 1 not in (len(words), len(pictures)):
        raise ValueError(
            f"there are {len(pictures)} pictures and {len(words)} queries of words; give as many "
            "of both, or one of either."
        )
    return normalize_rows((1 - weight) * pictures + weight * words).astype(np.float32)


def _of_words(now: Any, quantizer: Any, tags: Any) -> np.ndarray:
    """Return unit rows (q, D) of words."""
    enhancer = _enhancer_of(now, quantizer)
    directions = getattr(now, "tag_directions_", None)
    if directions is None:
        return enhancer.embed(tags)
    return embed_queries(words_of(quantizer, fitted_now(enhancer), directions), tags)


def suggested(
    now: Any,
    quantizer: Any,
    images: Any,
    n_tags: int,
    prior_weight: float,
    tags: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """Return names and probabilities (n, t); see ``WSDHQuantizer.suggest_tags``."""
    embeddings, likely_of = images, None
    if not isinstance(images, Decoded):
        images = _features_of(now, images)
        embeddings, likely_of = now._embed(images, tags), _likely_of(now, images)
    n_tags = check_k(n_tags, "n_tags")
    prior_weight = check_share("prior_weight", prior_weight)
    enhancer = _enhancer_of(now, quantizer)
    calibration = getattr(now, "tag_calibration_", None)
    if calibration is None:
        raise ValueError(
            "this quantizer does not know how likely tags are: an older version has fitted it, or "
            "all images carried the same concepts; fit it anew, on images that differ in tags."
        )
    # A fit gives another dict: what was prepared by the last one is not used.
    suggester = _SUGGESTERS.get(quantizer)
    if suggester is None or suggester.calibration is not calibration:
        vectors, names = enhancer.concept_vectors_, enhancer.concept_names_
        suggester = Suggester(vectors, names, calibration, now.index())
        _SUGGESTERS[quantizer] = suggester
    own = None if tags is None else read_concepts(embeddings, tags, enhancer)
    return suggester.suggest(np.asarray(embeddings), n_tags, prior_weight, own, likely_of)


class Decoded(np.ndarray):
    """Mark embeddings that codes stand for, of which there are no features."""


def _features_of(now: Any, images: Any) -> Any:
    """Return features where images have to be embedded and compared: the network runs once."""
    is_known = "by_kernel" in (getattr(now, "tag_calibration_", None) or {})
    embedder = now.embedder_
    if not is_known or not hasattr(embedder, "features_of") or embedder.ten_crop:
        return images
    return embedder.features_of(images)


def _likely_of(now: Any, images: Any) -> Callable[[slice, Any], np.ndarray] | None:
    """Return what tells by the kernel regression how likely images carry concepts, if any."""
    calibration, embedder = getattr(now, "tag_calibration_", None) or {}, now.embedder_
    if "by_kernel" not in calibration or input_kind(images) != "features":
        return None
    # A memory map is read a block at a time, as it slices.
    sliced = images if is_lazy(images) else np.asarray(images)

    def likely_of(block: slice, indicator: Any) -> np.ndarray:
        against = embedder.kernel_rows(sliced[block])
        return likely_concepts(against, indicator, embedder.kernel_)

    return likely_of


def _enhancer_of(now: Any, quantizer: Any) -> Any:
    """Return the enhancer whose concepts lie where the embeddings do."""
    enhancer = inner_of(now.tag_enhancer_)
    vectors = getattr(enhancer, "concept_vectors_", None)
    n_dims = now.codebooks_.shape[2]
    if vectors is None:
        raise ValueError(
            f"{type(quantizer).__name__} has no concepts: embedder_ learned none, and there is no "
            "tag_enhancer; fit a HypersphereEmbedder or TagKernelRegressor within it."
        )
    if vectors.shape[1] != n_dims:
        raise ValueError(
            f"concepts have {vectors.shape[1]} dimensions and embeddings {n_dims}: they do not lie "
            "on one sphere; give a tag_enhancer whose vectors the embeddings were learned from."
        )
    return enhancer
