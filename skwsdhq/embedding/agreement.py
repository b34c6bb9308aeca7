"""How far tags agree with what other images that look alike say: which are likely mistakes.

A fit of the kernel regression trusts a tag by its cosine to where the image should be when its own
tags do not count. No model keeps these cosines. Here they are computed again.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from ..sphere import normalize_rows
from ..utils.threads import product
from ._kernel import tag_agreement, wrong_share
from .left_out import left_out_embeddings

__all__ = ["Agreement", "agreement_of", "expected_embeddings"]

_SAME = 1e-4  # below 1, in which the kernel of an image with itself may lie


class Agreement(NamedTuple):
    """Hold the agreement of each entry of an indicator, in its order."""

    rows: np.ndarray  # (nnz,)
    concepts: np.ndarray  # (nnz,)
    cosines: np.ndarray  # (nnz,) float32
    usual: float  # median cosine where tags are exchanged between images
    wrong_share: float  # estimate of the share of tags that say nothing about their image


def expected_embeddings(embedder: Any, X: Any, is_tagged: np.ndarray) -> np.ndarray | None:
    """Return where the regression places images without their own tags, (n, D) unit rows.

    Rows that the fit has learned from are left out of it, one by one; others it has not seen.

    Parameters
    ----------
    embedder : HypersphereEmbedder or TagKernelRegressor
        Fitted.
    X : images or features of n rows
    is_tagged : ndarray of shape (n,), bool
        Which rows carry a known tag: a fit learns from these alone.

    Returns
    -------
    ndarray or None
        None where there is no regression.
    """
    kernel = getattr(embedder, "kernel_", None)
    if not kernel or not hasattr(embedder, "kernel_rows"):
        return None
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
