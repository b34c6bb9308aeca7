"""How far tags agree with what other images that look alike say: which are likely mistakes.

A fit of the kernel regression trusts a tag by its cosine to where the image should be when its own
tags do not count. No model keeps these cosines. Here they are computed again.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from ..sphere import normalize_rows
from ..tags import check_tags, tags_to_lists
from ..tags.concepts import read_concepts
from ..utils.threads import product
from ..utils.validation import check_whole
from ._kernel import tag_agreement, wrong_share
from .left_out import left_out_embeddings

__all__ = ["Agreement", "agreement_of", "doubtful_tags", "expected_embeddings", "named_tags"]

_SAME = 1e-4  # below 1, in which the kernel of an image with itself may lie


class Agreement(NamedTuple):
    """Hold the agreement of each entry of an indicator, in its order."""

    rows: np.ndarray  # (nnz,)
    concepts: np.ndarray  # (nnz,)
    cosines: np.ndarray  # (nnz,) float32
    usual: float  # median cosine where tags are exchanged between images
    wrong_share: float  # estimate of the share of tags that say nothing about their image


def expected_embeddings(embedder: Any, X: Any, is_tagged: np.ndarray) -> np.ndarray:
    """Return where the regression places images without their own tags, (n, D) unit rows.

    Rows that the fit has learned from are left out of it, one by one; others it has not seen.

    Parameters
    ----------
    embedder : HypersphereEmbedder or TagKernelRegressor
        Fitted, with a regression.
    X : images or features of n rows
    is_tagged : ndarray of shape (n,), bool
        Which rows carry a known tag: a fit learns from these alone.

    Returns
    -------
    ndarray of shape (n, D), float32
    """
    kernel = embedder.kernel_
    against = embedder.kernel_rows(X)
    expected = normalize_rows(product(against, kernel["coefs"])).astype(np.float32)
    known = left_out_embeddings(kernel)
    if known is None:
        return expected
    own = _landmarks(against, np.flatnonzero(is_tagged))
    expected[own >= 0] = known[own[own >= 0]]
    return expected


def _landmarks(against: np.ndarray, tagged: np.ndarray) -> np.ndarray:
    """Return which landmark each row is, (n,); -1 is none."""
    own = np.full(len(against), -1)
    n_landmarks = against.shape[1]
    # The rows of the fit in their order: copies of a picture are told apart by that alone.
    if len(tagged) == n_landmarks:
        same = against[tagged, np.arange(n_landmarks)] >= 1 - _SAME
        if same.all():
            own[tagged] = np.arange(n_landmarks)
            return own
    nearest = against[tagged].argmax(axis=1)
    same = against[tagged, nearest] >= 1 - _SAME
    own[tagged[same]] = nearest[same]
    return own


def agreement_of(
    expected: np.ndarray, indicator: sparse.csr_array, concept_vectors: np.ndarray
) -> Agreement:
    """Return how far each tag agrees with what is expected of its image.

    Parameters
    ----------
    expected : ndarray of shape (n, D)
        See :func:`expected_embeddings`.
    indicator : csr_array of shape (n, C)
        Concepts of the rows.
    concept_vectors : ndarray of shape (C, D)

    Returns
    -------
    Agreement
    """
    concepts = indicator.indices
    rows = np.repeat(np.arange(indicator.shape[0]), np.diff(indicator.indptr))
    cosines = tag_agreement(indicator, concepts, concept_vectors, expected)
    if not len(cosines):
        return Agreement(rows, concepts, cosines, 0.0, 0.0)
    exchanged = np.random.RandomState(0).permutation(concepts)
    chance = tag_agreement(indicator, exchanged, concept_vectors, expected)
    return Agreement(
        rows, concepts, cosines, float(np.median(chance)), wrong_share(cosines, chance)
    )


def doubtful_tags(estimator: Any, X: Any, tags: Any, n_tags: int = 50) -> list[dict[str, Any]]:
    """Find tags that contradict their image: likely mistakes.

    Each image is placed by the kernel regression as if its own tags were not there: images that a
    fit has learned from are left out of it. A tag is the more doubtful the smaller the cosine of
    its concept with that place, by which a fit trusts it as well.

    Parameters
    ----------
    estimator : WSDHQuantizer, HypersphereEmbedder or TagKernelRegressor
        Fitted, with a kernel regression.
    X : images or features of n rows
        As for its ``fit``.
    tags : tags of n rows
        In any form that :func:`skwsdhq.tags.check_tags` reads. Those that the fit did not know are
        left out.
    n_tags : int, default=50
        How many to return, at most.

    Returns
    -------
    list of dict
        ``"row"``, ``"tag"`` and ``"cosine"``, the most doubtful first. Of tags that were merged to
        one concept each has an entry. It makes a data frame by ``pandas.DataFrame(...)``.

    See Also
    --------
    skwsdhq.report.retrieval_report : Shows them with their pictures.

    Examples
    --------
    >>> from skwsdhq import TagKernelRegressor
    >>> from skwsdhq.datasets import make_tagged_images
    >>> from skwsdhq.embedding import doubtful_tags
    >>> made = make_tagged_images(100, random_state=0)
    >>> tags = [list(row) for row in made.clean_tags]
    >>> tags[7] = next(row for row in tags if not set(row) & set(tags[7]))  # of another kind
    >>> regressor = TagKernelRegressor(random_state=0).fit(made.data, tags)
    >>> {found["row"] for found in doubtful_tags(regressor, made.data, tags, len(tags[7]))}
    {7}
    """
    n_tags = check_whole("n_tags", n_tags)
    embedder = getattr(estimator, "embedder_", estimator)
    embedder = getattr(embedder, "estimator", embedder)
    enhancer = getattr(embedder, "tag_enhancer_", None)
    enhancer = getattr(enhancer, "estimator", enhancer)
    if enhancer is None or not getattr(embedder, "kernel_", None):
        raise ValueError(
            f"{type(estimator).__name__} has no kernel regression that says where images should "
            "be; fit a HypersphereEmbedder of kernel_weight above 0, or a TagKernelRegressor."
        )
    indicator = read_concepts(X, tags, enhancer)
    expected = expected_embeddings(embedder, X, np.diff(indicator.indptr) > 0)
    found = agreement_of(expected, indicator, enhancer.concept_vectors_)
    rows = tags_to_lists(*check_tags(tags, lowercase=bool(enhancer.lowercase)))
    told: list[dict[str, Any]] = []
    for entry in np.argsort(found.cosines, kind="stable")[:n_tags].tolist():
        row = int(found.rows[entry])
        for tag in named_tags(enhancer, rows[row], int(found.concepts[entry])):
            told.append({"row": row, "tag": tag, "cosine": float(found.cosines[entry])})
    return told[:n_tags]


def named_tags(enhancer: Any, tags: list[str], concept: int) -> list[str]:
    """Return those of an image's tags that stand for a concept, or the concept's own name."""
    known = enhancer.vocabulary_
    own = [tag for tag in tags if tag in known and enhancer.labels_[known[tag]] == concept]
    return own or [str(enhancer.concept_names_[concept])]
