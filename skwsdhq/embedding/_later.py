"""Rows that come after the fit, placed by their own tags as well: the regression's posterior.

A kernel regression is the mean of a Gaussian process. One more row with features x and the target t
of its own tags moves the prediction there from f(x) to

    z = f + v / (v + α) · (t − f)

with v the variance that is left at x and α that of the noise of the row's target: just what a fit
that includes the row would say of it (Rasmussen and Williams, Gaussian Processes for Machine
Learning, equations 2.25 and 2.26), without that fit. How far a tag is trusted depends on how far
f agrees with it, as it does in the fit.

Letters: n rows, m landmarks, d features, C concepts, D dimensions.
"""

import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy import sparse

from ..sphere import normalize_rows
from ..utils.threads import on_one_thread, product
from ._kernel import rbf_kernel, row_trust, tag_agreement, tag_directions
from ._solving import cholesky

__all__ = ["knows_tags", "later_embeddings", "left_variance", "likely_concepts"]

_BLOCK = 4096  # rows whose kernel with all landmarks is held at once
_NEEDED = ("noise", "alpha", "mean_target", "mean_trust", "word_weights")

# Cholesky factors of kernels of landmarks, by the identity of their noise: they take seconds to
# make and more memory than a model.
_factors: dict[int, tuple[weakref.ref, float, torch.Tensor]] = {}


def knows_tags(kernel: Mapping[str, Any]) -> bool:
    """Tell whether a regression holds what it needs to take tags; older ones don't."""
    return all(name in kernel for name in _NEEDED)


@on_one_thread
def later_embeddings(
    units: np.ndarray,
    indicator: sparse.csr_array,
    concept_vectors: np.ndarray,
    kernel: Mapping[str, Any],
) -> np.ndarray:
    """Place rows by their features and their own tags.

    Parameters
    ----------
    units : ndarray of shape (n, d)
        Unit rows.
    indicator : csr_array of shape (n, C)
        Concepts of the rows; those without any are placed by their features alone.
    concept_vectors : ndarray of shape (C, D)
    kernel : mapping
        ``landmarks``, ``coefs``, ``gamma``, ``consistency``, ``noise``, ``alpha``, ``mean_target``,
        ``mean_trust`` and ``word_weights`` of a fitted regression.

    Returns
    -------
    ndarray of shape (n, D), of the dtype of ``units``
        Unit rows.
    """
    coefs = kernel["coefs"].astype(units.dtype, copy=False)
    placed = np.empty((len(units), coefs.shape[1]), dtype=units.dtype)
    for start in range(0, len(units), _BLOCK):
        block = slice(start, start + _BLOCK)
        against = rbf_kernel(units[block], kernel["landmarks"], kernel["gamma"])
        found = product(against, coefs, out=placed[block])
        own = indicator[block]
        tagged = np.flatnonzero(np.diff(own.indptr))
        if len(tagged):
            variance = left_variance(against[tagged], kernel)
            found[tagged] = _moved(found[tagged], variance, own[tagged], concept_vectors, kernel)
    return normalize_rows(placed, out=placed)


def _moved(
    predicted: np.ndarray,
    variance: np.ndarray,
    indicator: sparse.csr_array,
    concept_vectors: np.ndarray,
    kernel: Mapping[str, Any],
) -> np.ndarray:
    """Return (n, D) predictions, each moved towards the target of the row's own tags."""
    weights = kernel["word_weights"][indicator.indices]
    noise = np.full(len(predicted), kernel["alpha"])
    if kernel["consistency"]:
        agreement = tag_agreement(
            indicator, indicator.indices, concept_vectors, normalize_rows(predicted)
        )
        trusted = np.exp(kernel["consistency"] * agreement)
        weights = weights * trusted
        noise = noise * kernel["mean_trust"] / row_trust(indicator, trusted)
    targets = tag_directions(indicator, concept_vectors, weights) - kernel["mean_target"]
    share = (variance / (variance + noise)).astype(predicted.dtype)[:, None]
    return predicted + share * (targets.astype(predicted.dtype) - predicted)


def left_variance(against: np.ndarray, kernel: Mapping[str, Any]) -> np.ndarray:
    """Return the variance (n,) that the landmarks leave: 1 − kₓᵀ (K + noise)⁻¹ kₓ.

    Where landmarks are a part of the rows, each stands for n / m of them: its noise is that much
    less.

    Parameters
    ----------
    against : ndarray of shape (n, m)
        Kernel of rows with the landmarks.
    kernel : mapping
        As in :func:`later_embeddings`.
    """
    factor = _factor(kernel["landmarks"], kernel["gamma"], kernel["noise"])
    narrow = torch.from_numpy(np.ascontiguousarray(against, dtype=np.float32))
    solved = torch.linalg.solve_triangular(factor, narrow.T, upper=False)  # (m, n)
    explained = solved.square().sum(dim=0).numpy().astype(np.float64)
    return np.maximum(1 - explained, 0)


@on_one_thread
def likely_concepts(
    against: np.ndarray, indicator: sparse.csr_array, kernel: Mapping[str, Any]
) -> np.ndarray:
    """Return how likely rows carry concepts, by kernel ridge regression of the indicator.

    With Y less its mean that is kₓᵀ (K + noise)⁻¹ Y: what rows are near to is solved for, so that
    no table of landmarks and concepts is made.

    Parameters
    ----------
    against : ndarray of shape (n, m)
        Kernel of rows with the landmarks.
    indicator : csr_array of shape (m, C)
        0/1, of the landmarks.
    kernel : mapping
        As in :func:`later_embeddings`.

    Returns
    -------
    ndarray of shape (n, C), float32
    """
    factor = _factor(kernel["landmarks"], kernel["gamma"], kernel["noise"])
    narrow = torch.from_numpy(np.ascontiguousarray(against.T, dtype=np.float32))
    weights = torch.cholesky_solve(narrow, factor).numpy()  # (m, n)
    shares = np.asarray(indicator.mean(axis=0)).ravel()
    found = (indicator.T @ weights).T + (1 - weights.sum(axis=0))[:, None] * shares
    return np.asarray(found, dtype=np.float32)


def _factor(landmarks: np.ndarray, gamma: float, noise: np.ndarray) -> torch.Tensor:
    """Return the (m, m) lower Cholesky factor, float32, of the landmarks' kernel with noise."""
    # A stream's landmarks stay, and their noise is another one each time.
    key = id(noise)
    known = _factors.get(key)
    if known is not None and known[0]() is noise and known[1] == gamma:
        return known[2]
    gram = rbf_kernel(landmarks, landmarks, gamma).astype(np.float64)
    factor = cholesky(gram, noise.astype(np.float64)).float()

    def forget(reference: weakref.ref) -> None:
        if key in _factors and _factors[key][0] is reference:
            del _factors[key]

    _factors[key] = weakref.ref(noise, forget), gamma, factor
    return factor
