"""What a fitted kernel regression says of each of its rows, as if that row had not been there.

Embeddings of rows that a model was fitted to are nearer to their tags than those of other images
are. Whoever learns from them how far embeddings can be trusted needs these instead.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import sparse

from ..sphere import normalize_rows
from ..utils.threads import on_one_thread, product
from ._kernel import rbf_kernel
from ._later import likely_concepts
from ._solving import cholesky

__all__ = [
    "LeftOut",
    "left_out",
    "left_out_concepts",
    "left_out_embeddings",
    "likely_concepts",
    "word_directions",
]

_RIDGE = 0.1  # of the directions, as a share of the rows' mean square in a dimension
_OF_CONCEPTS = 0.3  # how far the concept's own vector counts beside what is learned


class LeftOut(NamedTuple):
    """Hold rows as a regression without each of them places them, and what says so."""

    embeddings: np.ndarray  # (m, D) unit rows
    inverse: np.ndarray  # (m, m) of the kernel with the noise, float64


def left_out_embeddings(kernel: Mapping[str, Any]) -> np.ndarray | None:
    """Return unit rows (m, D): each landmark placed by a regression to all others.

    See :func:`left_out`.
    """
    found = left_out(kernel)
    return None if found is None else found.embeddings


@on_one_thread
def left_out(kernel: Mapping[str, Any]) -> LeftOut | None:
    """Return each landmark placed by a regression to all others.

    With H = (K + N)⁻¹, N the noise on a diagonal and A = H·T the coefficients, it is
    K·A + N·A − A / diag(H) (Rasmussen and Williams, Gaussian Processes for Machine Learning,
    equation 5.12, where targets are T = (K + N)·A).

    Parameters
    ----------
    kernel : mapping
        ``kernel_`` of a fitted regression whose landmarks are all rows of the fit.

    Returns
    -------
    LeftOut or None
        None where an older version has fitted it, which did not keep the noise.
    """
    if "noise" not in kernel:
        return None
    landmarks = kernel["landmarks"]
    gram = rbf_kernel(landmarks, landmarks, kernel["gamma"]).astype(np.float64)
    noise, coefs = kernel["noise"].astype(np.float64), kernel["coefs"].astype(np.float64)
    inverse = torch.cholesky_inverse(cholesky(gram.copy(), noise)).numpy()
    # K·A + N·A are the targets, which a model does not keep; A / diag(H) takes out their own part.
    moved = (noise - 1 / np.diag(inverse))[:, None] * coefs
    rows = normalize_rows(product(gram, coefs) + moved).astype(np.float32)
    return LeftOut(rows, inverse)


@on_one_thread
def word_directions(
    rows: LeftOut, indicator: sparse.csr_array, concept_vectors: np.ndarray
) -> np.ndarray:
    """Return where to look for each concept: unit rows (C, D).

    A concept's vector says where its images should be. Where images that carry it are placed, when
    their own tags do not count, is another direction: the ridge regression, on the left-out
    embeddings L, of how likely an image carries the concept, for which the kernel regression of
    the indicator Y stands, each row left out as well:

        W = (LᵀL + λI)⁻¹ Lᵀ (Y − diag(H)⁻¹ H Y)

    (L and Y less their means). Both directions are added.

    Parameters
    ----------
    rows : LeftOut
    indicator : csr_array of shape (m, C)
        0/1, of the same rows.
    concept_vectors : ndarray of shape (C, D)
        Unit rows.

    Returns
    -------
    ndarray of shape (C, D), float32
    """
    centred = rows.embeddings.astype(np.float64)
    centred -= centred.mean(axis=0)
    # (Lᵀ − Lᵀ diag(H)⁻¹ H), (D, m): no table of rows and concepts is made.
    told = centred.T - product(centred.T / np.diag(rows.inverse), rows.inverse)
    shares = np.asarray(indicator.mean(axis=0)).ravel()
    moments = (indicator.T @ told.T).T - told.sum(axis=1)[:, None] * shares
    gram = product(centred.T, centred)
    gram += _RIDGE * max(np.trace(gram) / len(gram), 1e-12) * np.eye(len(gram))
    learned = normalize_rows(np.linalg.solve(gram, moments).T)
    # A concept that no image carries stays where it is.
    both = (1 - _OF_CONCEPTS) * learned + _OF_CONCEPTS * concept_vectors
    return normalize_rows(both).astype(np.float32)


@on_one_thread
def left_out_concepts(rows: LeftOut, indicator: sparse.csr_array) -> np.ndarray:
    """Return how likely each row carries concepts, as a regression to all others has it.

    As :func:`left_out` places rows: Y − diag(H)⁻¹ H (Y less its mean).

    Parameters
    ----------
    rows : LeftOut
    indicator : csr_array of shape (m, C)
        0/1, of the same rows.

    Returns
    -------
    ndarray of shape (m, C), float32
    """
    scaled = (rows.inverse / np.diag(rows.inverse)[:, None]).astype(np.float32)
    shares = np.asarray(indicator.mean(axis=0)).ravel().astype(np.float32)
    found = -np.asarray((indicator.T @ scaled.T).T, dtype=np.float32)
    found += scaled.sum(axis=1)[:, None] * shares
    carried = indicator.tocoo()
    found[carried.row, carried.col] += 1
    return found
