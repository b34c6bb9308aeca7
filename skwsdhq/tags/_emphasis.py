"""Concept vectors that dwell on what many images share: leading directions gain weight.

What sets kinds of images apart is shared by many of them and lies in few directions; what is left
is one image's own, and the accidents of tagging. Tags are merged before, while all directions of
their vectors count alike: those of one kind would not be told apart any more.

Letters: n images, C concepts, D dimensions, the last L of which co-occurrence gave.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import sparse

from ..sphere import normalize_rows
from ..utils.threads import one_openmp_thread

__all__ = ["emphasis_of", "emphasized", "learned_strengths"]

_BLOCK = 16384  # images whose directions are held at once
_LEAST = 1e-4  # of the largest variance: what a direction counts at least as


def emphasis_of(
    concepts: sparse.csr_array, concept_vectors: np.ndarray, strengths: np.ndarray, power: float
) -> dict[str, np.ndarray] | None:
    """Return by what the directions gain weight in which images differ most.

    Parameters
    ----------
    concepts : csr_array of shape (n, C)
        0/1.
    concept_vectors : ndarray of shape (C, D)
        Unit rows.
    strengths : ndarray of shape (L,)
        What the dimensions that were learned from co-occurrence are multiplied by first.
    power : float
        With S the covariance of the images' directions, each that of the sum of its concepts'
        vectors, vectors are multiplied by S^power, S scaled to a largest eigenvalue of 1. 0 weighs
        all directions alike, 0.5 as principal components do.

    Returns
    -------
    dict or None
        ``"strengths"`` (L,) and ``"map"`` (D, D), float32, for :func:`emphasized`. None where it
        would change nothing: no power, or images that are all alike.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import sparse
    >>> concepts = sparse.csr_array(np.repeat([[1, 0], [0, 1]], [3, 1], axis=0))
    >>> emphasis_of(concepts, np.eye(2), np.ones(0), 0.5)["map"].round(1)
    array([[ 0.5, -0.5],
           [-0.5,  0.5]], dtype=float32)
    """
    tagged = concepts[np.flatnonzero(np.diff(concepts.indptr))]
    if not power or tagged.shape[0] < 2:
        return None
    concept_vectors = _strengthened(concept_vectors.astype(np.float64), strengths)
    n_dims = concept_vectors.shape[1]
    total, products = np.zeros(n_dims), np.zeros((n_dims, n_dims))
    for start in range(0, tagged.shape[0], _BLOCK):
        directions = normalize_rows(np.asarray(tagged[start : start + _BLOCK] @ concept_vectors))
        total += directions.sum(axis=0)
        products += directions.T @ directions
    mean = total / tagged.shape[0]
    covariance = products / tagged.shape[0] - np.outer(mean, mean)
    if np.trace(covariance) <= 1e-8:
        return None
    return {"strengths": strengths.astype(np.float32), "map": _power(covariance, power)}


def _power(covariance: np.ndarray, power: float) -> np.ndarray:
    """Return S^power of a symmetric matrix (D, D), scaled to a largest eigenvalue of 1."""
    import torch

    # By torch on the calling thread: numpy's solver waits for its threads on a busy machine.
    with one_openmp_thread("torch"):
        values, axes = (x.numpy() for x in torch.linalg.eigh(torch.from_numpy(covariance)))
    weights = np.maximum(values / values[-1], _LEAST) ** power
    return ((axes * weights) @ axes.T).astype(np.float32)


def emphasized(vectors: np.ndarray, emphasis: Mapping[str, Any] | None) -> np.ndarray:
    """Return vectors (t, D) as :func:`emphasis_of` says, unit rows then; None changes nothing."""
    if emphasis is None:
        return vectors
    strong = _strengthened(vectors, emphasis["strengths"])
    return normalize_rows(strong @ emphasis["map"].astype(vectors.dtype, copy=False))


def learned_strengths(learned: np.ndarray) -> np.ndarray:
    """Return the roots (L,) of the singular values that U·S^(1/2) (T, L) came from."""
    return np.linalg.norm(learned, axis=0)


def _strengthened(vectors: np.ndarray, strengths: np.ndarray) -> np.ndarray:
    """Return vectors whose last L dimensions are multiplied by strengths, and stay as long."""
    if not len(strengths):
        return vectors
    given, learned = np.split(vectors, [vectors.shape[1] - len(strengths)], axis=1)
    lengths = np.linalg.norm(learned, axis=1, keepdims=True)
    strong = normalize_rows(learned * strengths.astype(vectors.dtype)) * lengths
    return np.hstack([given, strong])
