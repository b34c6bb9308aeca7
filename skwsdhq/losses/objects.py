"""Losses as objects: what ``loss=`` of an embedder takes.

A loss is any object with a method ``start(concept_vectors, indicator, device)`` that gives a
function of a batch's outputs (b, D) and its rows (b,), a scalar tensor; ``get_params``, as
scikit-learn's BaseEstimator has it, lets a grid search over its parameters.
"""

import functools
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from scipy import sparse
from sklearn.base import BaseEstimator

from ..sphere import normalize_rows
from ..utils._compat import Interval
from ._functions import (
    contrastive_loss,
    cosine_margin_loss,
    fixed_margin_loss,
    mean_tag_hinge_loss,
)
from ._memo import keep_unchanged

__all__ = ["AdaptiveMargin", "Contrastive", "FixedMargin", "Loss", "MeanTagHinge", "loss_of"]

BatchLoss = Callable[[torch.Tensor, np.ndarray], torch.Tensor]

_MANY_CONCEPTS = 8192  # beyond which a batch is held against some of them
_SOME_CONCEPTS = 512  # enough that some of them are near, few enough to be quick
_OWN_CONCEPTS = 512  # of rows that are held against the same ones


@runtime_checkable
class Loss(Protocol):
    """Measure how far embeddings are from what their tags say."""

    def start(
        self, concept_vectors: np.ndarray, indicator: sparse.csr_array, device: torch.device
    ) -> BatchLoss:
        """Return the loss of a batch, as a function of its outputs (b, D) and its rows (b,).

        Parameters
        ----------
        concept_vectors : ndarray of shape (C, D), float32
            Unit rows.
        indicator : csr_array of shape (n, C)
            Concepts of all rows that are trained on.
        device : torch.device
            Where the outputs are.
        """


class _Margin(BaseEstimator):
    """Hold each image's own concepts against all others, by pairs."""

    def start(
        self, concept_vectors: np.ndarray, indicator: sparse.csr_array, device: torch.device
    ) -> BatchLoss:
        """Return the loss of a batch as a function of its outputs and its rows.

        Parameters
        ----------
        concept_vectors : ndarray of shape (C, D), float32
            Unit rows.
        indicator : csr_array of shape (n, C)
            Concepts of all rows.
        device : torch.device
            Of the outputs.

        Returns
        -------
        callable
            From tensors (b, D) and row numbers (b,) to a scalar tensor.
        """
        # A copy: torch would share the memory of an array that the enhancer keeps.
        vectors = keep_unchanged(torch.from_numpy(np.array(concept_vectors)).to(device))
        pair_loss, n_hard = self._pair_loss()
        if len(vectors) > _MANY_CONCEPTS:
            return _AgainstSome(pair_loss, vectors, indicator, n_hard)
        return lambda outputs, rows: pair_loss(outputs, vectors, pairs(indicator, rows))

    def _pair_loss(self) -> tuple[Callable[..., torch.Tensor], int | None]:
        """Return a function of outputs, concept vectors and pairs, and the negatives that count."""
        raise NotImplementedError


class AdaptiveMargin(_Margin):
    """Pull images to their own concepts, by a margin that grows with how unlike two concepts are.

    The paper's loss: an image's own concept should be nearer than any other, by
    2^(1−gamma)·(1 − cosine of the two)^gamma. With more than 8,192 concepts a batch, or each part
    of one that has many, is held against its own concepts and some 500 others.

    Parameters
    ----------
    gamma : float, default=1.0
        Exponent of the margin. At most 1e6.
    n_hard_negatives : int or None, default=None
        Only so many negatives of each image, the nearest, enter; None is all.

    Examples
    --------
    >>> from skwsdhq import HypersphereEmbedder
    >>> from skwsdhq.losses import AdaptiveMargin
    >>> HypersphereEmbedder(loss=AdaptiveMargin(gamma=2)).get_params()["loss__gamma"]
    2
    """

    _parameter_constraints: dict = {
        # A limit of 64 bits, since float16 can't hold 1e6.
        "gamma": [Interval(Real, 0, np.float64(1e6), closed="both")],
        "n_hard_negatives": [Interval(Integral, 1, None, closed="left"), None],
    }

    def __init__(self, gamma: float = 1.0, *, n_hard_negatives: int | None = None) -> None:
        self.gamma = gamma
        self.n_hard_negatives = n_hard_negatives

    def _pair_loss(self) -> tuple[Callable[..., torch.Tensor], int | None]:
        gamma, n_hard = float(self.gamma), self.n_hard_negatives

        def pair_loss(outputs: Any, vectors: Any, own: Any) -> torch.Tensor:
            return cosine_margin_loss(outputs, vectors, own, gamma=gamma, n_hard_negatives=n_hard)

        return pair_loss, n_hard


class FixedMargin(_Margin):
    """Pull images to their own concepts, by one margin for all pairs.

    Parameters
    ----------
    margin : float, default=0.5
        By how much an own concept's cosine should exceed any other's. At most 1e6.
    n_hard_negatives : int or None, default=None
        Only so many negatives of each image, the nearest, enter; None is all.

    Examples
    --------
    >>> from skwsdhq import HypersphereEmbedder
    >>> from skwsdhq.losses import FixedMargin
    >>> HypersphereEmbedder(loss=FixedMargin(n_hard_negatives=10)).loss.margin
    0.5
    """

    _parameter_constraints: dict = {
        "margin": [Interval(Real, 0, np.float64(1e6), closed="both")],
        "n_hard_negatives": [Interval(Integral, 1, None, closed="left"), None],
    }

    def __init__(self, margin: float = 0.5, *, n_hard_negatives: int | None = None) -> None:
        self.margin = margin
        self.n_hard_negatives = n_hard_negatives

    def _pair_loss(self) -> tuple[Callable[..., torch.Tensor], int | None]:
        margin, n_hard = float(self.margin), self.n_hard_negatives

        def pair_loss(outputs: Any, vectors: Any, own: Any) -> torch.Tensor:
            return fixed_margin_loss(outputs, vectors, own, margin=margin, n_hard_negatives=n_hard)

        return pair_loss, n_hard


class _MeanTags(BaseEstimator):
    """Hold each image against the mean of its tags."""

    _parameter_constraints: dict = {}  # of a loss without parameters

    def start(
        self, concept_vectors: np.ndarray, indicator: sparse.csr_array, device: torch.device
    ) -> BatchLoss:
        """Return the loss of a batch as a function of its outputs and its rows.

        Parameters
        ----------
        concept_vectors : ndarray of shape (C, D), float32
            Unit rows.
        indicator : csr_array of shape (n, C)
            Concepts of all rows.
        device : torch.device
            Of the outputs.

        Returns
        -------
        callable
            From tensors (b, D) and row numbers (b,) to a scalar tensor.
        """
        mean_loss = self._mean_loss()
        means = normalize_rows(np.asarray(indicator @ concept_vectors, dtype=np.float32))
        targets = torch.from_numpy(means).to(device)
        return lambda outputs, rows: mean_loss(outputs, targets[rows])

    def _mean_loss(self) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """Return a function of outputs (b, D) and the directions of their mean tags (b, D)."""
        raise NotImplementedError


class MeanTagHinge(_MeanTags):
    """Pull an image to the mean of its tags, away from the means of the batch's other images.

    The hinge of WDHT.

    Parameters
    ----------
    margin : float, default=0.5
        By how much the own mean's cosine should exceed another's. At most 1e6.

    References
    ----------
    Gattupalli, Zhuo and Li, "Weakly Supervised Deep Image Hashing through Tag Embeddings",
    CVPR 2019, arXiv 1806.05804.

    Examples
    --------
    >>> from skwsdhq import HypersphereEmbedder
    >>> from skwsdhq.losses import MeanTagHinge
    >>> HypersphereEmbedder(loss=MeanTagHinge(0.7)).loss.margin
    0.7
    """

    _parameter_constraints: dict = {"margin": [Interval(Real, 0, np.float64(1e6), closed="both")]}

    def __init__(self, margin: float = 0.5) -> None:
        self.margin = margin

    def _mean_loss(self) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        return functools.partial(mean_tag_hinge_loss, margin=float(self.margin))


class Contrastive(_MeanTags):
    """Pull an image to the mean of its tags, by a softmax over the means of the batch.

    Parameters
    ----------
    temperature : float, default=0.3
        Of the softmax: the smaller, the more the nearest others count.

    Examples
    --------
    >>> from skwsdhq import HypersphereEmbedder
    >>> from skwsdhq.losses import Contrastive
    >>> HypersphereEmbedder(loss=Contrastive(0.2)).loss.temperature
    0.2
    """

    _parameter_constraints: dict = {"temperature": [Interval(Real, 0, None, closed="neither")]}

    def __init__(self, temperature: float = 0.3) -> None:
        self.temperature = temperature

    def _mean_loss(self) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        return functools.partial(contrastive_loss, temperature=float(self.temperature))


# Every loss of the package by the name that a user may give; files know these classes.
NAMES: dict[str, type] = {
    "adaptive_margin": AdaptiveMargin,
    "fixed_margin": FixedMargin,
    "wdht": MeanTagHinge,
    "contrastive": Contrastive,
}


def loss_of(loss: Any) -> Any:
    """Return a loss object: the default one of a name, any other object as it is."""
    return NAMES[loss]() if isinstance(loss, str) else loss


class _AgainstSome:
    """Hold each part of a batch against its own concepts and every so manieth of the others.

    With 100,000 concepts a batch would have 200 million terms. Where its own are thousands, it is
    divided: most of these are other images' and, as negatives, no better than any. Batches are
    drawn at random, and so is where the count begins: at the number of a part's first row.
    """

    def __init__(
        self,
        pair_loss: Callable[..., torch.Tensor],
        vectors: torch.Tensor,
        indicator: sparse.csr_array,
        n_hard_negatives: int | None,
    ) -> None:
        self._pair_loss, self._vectors = pair_loss, vectors
        self._indicator, self._n_hard = indicator, n_hard_negatives

    def __call__(self, outputs: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        vectors = self._vectors
        step = -(-len(vectors) // _SOME_CONCEPTS)  # every so manieth
        n_own = int(np.diff(self._indicator.indptr)[rows].sum())
        n_rows = -(-len(rows) // max(1, round(n_own / _OWN_CONCEPTS)))
        means, terms = [], []
        for start in range(0, len(rows), n_rows):
            part = rows[start : start + n_rows]
            position, concept = pairs(self._indicator, part).numpy()
            columns = np.union1d(concept, np.arange(int(part[0]) % step, len(vectors), step))
            own = torch.from_numpy(np.stack([position, np.searchsorted(columns, concept)]))
            chosen = vectors[torch.from_numpy(columns).to(vectors.device)]
            means.append(self._pair_loss(outputs[start : start + n_rows], chosen, own))
            terms.append(_n_terms(position, len(columns), self._n_hard))
        if len(means) == 1:  # as a rule: the batch was not divided
            return means[0]
        # A part counts by its terms, so that the whole is their mean whatever the parts are.
        shares = [n / max(1, sum(terms)) for n in terms]
        return torch.stack([mean * share for mean, share in zip(means, shares, strict=True)]).sum()


def _n_terms(position: np.ndarray, n_concepts: int, n_hard_negatives: int | None) -> int:
    """Count pairs of a positive and a negative, from the row of each positive."""
    counts = np.bincount(position)  # positives of each row
    n_negatives = n_concepts - counts
    if n_hard_negatives is not None:
        n_negatives = np.minimum(n_negatives, n_hard_negatives)
    return int(counts @ n_negatives)


def pairs(indicator: sparse.csr_array, rows: np.ndarray) -> torch.Tensor:
    """Return (2, P) position in the batch and concept of every positive, sorted."""
    # By hand, since slicing a sparse matrix for each batch takes longer than its loss.
    starts, stops = indicator.indptr[rows], indicator.indptr[rows + 1]
    lengths = stops - starts
    position = np.repeat(np.arange(len(rows)), lengths)
    # for n in rows: indices[indptr[n]:indptr[n + 1]], end to end
    offset = np.arange(len(position)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    concept = indicator.indices[np.repeat(starts, lengths) + offset]
    return torch.from_numpy(np.stack([position, concept.astype(np.int64)]))
