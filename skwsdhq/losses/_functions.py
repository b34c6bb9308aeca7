"""Losses that pull an embedding to the vectors of its tags, and the rivals' losses.

Everything here is a function of tensors (torch) that gives a scalar; `adaptive_margin` also takes
arrays. n samples, C concepts, D dimensions, P pairs of a sample and one of its concepts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from numbers import Real
from typing import Any, TypeVar

import numpy as np
import torch

from ..utils.threads import without_autocast
from ..utils.validation import check_number, check_whole
from ._hinge import Positives, hinge_numpy, hinge_torch, margin_from_cosines, sort_positives
from ._memo import unit_concepts_and_margin
from .inputs import (
    as_pairs,
    as_unit_rows,
    as_wide,
    check_embeddings,
    check_same_shape,
    directions_and_lengths,
    product_of_tensors,
    wide_dtype,
)

__all__ = [
    "adaptive_margin",
    "binarization_loss",
    "contrastive_loss",
    "cosine_margin_loss",
    "fixed_margin_loss",
    "mean_tag_hinge_loss",
    "quantization_loss",
    "tag_distance_loss",
]

_Function = TypeVar("_Function", bound=Callable)


def _without_autocast(function: _Function) -> _Function:
    """Have a loss compute in the dtype that it documents, within a ``torch.autocast`` too."""

    @wraps(function)
    def compute(first: Any, *args: Any, **kwargs: Any) -> Any:
        device = first.device.type if isinstance(first, torch.Tensor) else "cpu"
        with without_autocast("cpu", device):
            return function(first, *args, **kwargs)

    return compute  # type: ignore[return-value]


@_without_autocast
def adaptive_margin(concept_vectors: Any, gamma: float = 1.0) -> Any:
    """Return pairwise margins between concepts, larger for less similar ones.

    margin_ij = 2^(1 − gamma) · (1 − cos(v_i, v_j))^gamma, which runs from 0 for equal directions
    to 2 for opposite ones, whatever gamma is. A larger gamma lowers it in between.

    Parameters
    ----------
    concept_vectors : ndarray or tensor of shape (C, D)
        Of any length; rows of zeros have cosine 0 with every other.
    gamma : float, default=1.0
        Exponent, at least 0; 0 gives a margin of 2 to all pairs.

    Returns
    -------
    ndarray or tensor of shape (C, C)
        As the input's dtype (float64 for whole numbers), and on its device.

    Raises
    ------
    ValueError
        When gamma is negative or not finite, or when the input isn't a matrix.

    References
    ----------
    Wang et al., Weakly Supervised Deep Hyperspherical Quantization for Image Retrieval,
    AAAI 2021, the adaptive cosine margin; gamma = 1 is that of Cao et al., Deep Visual-Semantic
    Quantization, CVPR 2017.

    Examples
    --------
    >>> import numpy as np
    >>> adaptive_margin(np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
    array([[0., 1., 2.],
           [1., 0., 1.],
           [2., 1., 0.]])
    >>> float(adaptive_margin(np.array([[1.0, 0.0], [0.0, 1.0]]), gamma=2)[0, 1])
    0.5
    """
    check_number("gamma", gamma, minimum=0)
    unit = as_unit_rows(concept_vectors)
    margin = margin_from_cosines(unit @ unit.T, gamma)
    if gamma > 0:
        # The margin of a vector with itself is 0; rounding would leave up to 1e-3 at gamma 0.5.
        own = abs(unit).sum(1) > 0
        margin[own, own] = 0
    return margin


@_without_autocast
def cosine_margin_loss(
    embeddings: torch.Tensor,
    concept_vectors: Any,
    indicator: Any,
    *,
    gamma: float = 1.0,
    n_hard_negatives: int | None = None,
    margin: Any = None,
) -> torch.Tensor:
    """Penalise other concepts that come near the own ones: the adaptive cosine margin loss.

    Σ_n Σ_{i ∈ Y_n} Σ_{j ∉ Y_n} max(0, margin_ij − cos(z_n, v_i) + cos(z_n, v_j)), divided by the
    number of terms, ``Σ_n |Y_n|·(C − |Y_n|)``. The gradient is a closed form, computed along with
    the value; nothing of size n × C × C ever exists.

    Parameters
    ----------
    embeddings : tensor of shape (n, D)
        Of any length; a row of zeros has cosine 0 with everything and gets no gradient. float16
        and bfloat16 are computed in float32.
    concept_vectors : ndarray or tensor of shape (C, D)
        Constants, of any length.
    indicator : array, tensor, sparse matrix, or integers of shape (2, P)
        Which samples carry which concepts: a 0/1 matrix (n, C), dense, scipy-sparse or
        torch-sparse; or pairs (row, concept) without duplicates, as two rows of integers, fastest
        when sorted. What could be read both ways (n = 2, C <= 4) is a matrix. A sample without
        concepts takes no part.
    gamma : float, default=1.0
        Exponent of the margin, see `adaptive_margin`.
    n_hard_negatives : int, default=None
        Only so many negatives of each row count, those of largest cosine; the number of terms
        becomes ``Σ_n |Y_n|·min(k, C − |Y_n|)``. None for all.
    margin : ndarray or tensor of shape (C, C), default=None
        Margins to use instead of `adaptive_margin(concept_vectors, gamma)`; must be finite.

    Returns
    -------
    tensor, scalar
        0 with a gradient of zeros where there is no pair of a positive and a negative. As the
        embeddings' dtype, float32 for shorter ones. It has no second derivative.

    Raises
    ------
    ValueError
        When shapes don't fit, or when a pair is out of range or appears twice.
    TypeError
        When embeddings isn't a tensor of floats.

    References
    ----------
    Wang et al., Weakly Supervised Deep Hyperspherical Quantization for Image Retrieval,
    AAAI 2021, the adaptive cosine margin loss.

    Examples
    --------
    >>> import torch
    >>> concepts = torch.eye(3)
    >>> z = torch.tensor([[2.0, 0.0, 0.0]], requires_grad=True)
    >>> cosine_margin_loss(z, concepts, [[1, 0, 0]])  # right at the margin
    tensor(0., grad_fn=<_CosineHingeBackward>)
    >>> cosine_margin_loss(z, concepts, [[0, 1, 0]])  # 1 − 0 + 1 and 1 − 0 + 0, two terms
    tensor(1.5000, grad_fn=<_CosineHingeBackward>)
    """
    check_number("gamma", gamma, minimum=0)
    return _hinge_loss(embeddings, concept_vectors, indicator, n_hard_negatives, margin, gamma)


@_without_autocast
def fixed_margin_loss(
    embeddings: torch.Tensor,
    concept_vectors: Any,
    indicator: Any,
    *,
    margin: float = 0.1,
    n_hard_negatives: int | None = None,
) -> torch.Tensor:
    """Compute the hinge loss of `cosine_margin_loss` with one margin for all pairs of concepts.

    Parameters
    ----------
    embeddings : tensor of shape (n, D)
    concept_vectors : ndarray or tensor of shape (C, D)
    indicator : array, tensor, sparse matrix, or integers of shape (2, P)
        As in `cosine_margin_loss`.
    margin : float, default=0.1
        By how much the cosine with an own concept should exceed that with another, at least 0.
    n_hard_negatives : int, default=None
        As in `cosine_margin_loss`.

    Returns
    -------
    tensor, scalar
        As `cosine_margin_loss` gives it.

    References
    ----------
    Frome et al., DeViSE: A Deep Visual-Semantic Embedding Model, NeurIPS 2013, where 0.1 is the
    margin.

    Examples
    --------
    >>> import torch
    >>> fixed_margin_loss(torch.tensor([[1.0, 0.0]]), torch.eye(2), [[0, 1]], margin=0.5)
    tensor(1.5000)
    """
    check_number("margin", margin, minimum=0)
    return _hinge_loss(embeddings, concept_vectors, indicator, n_hard_negatives, margin, None)


@_without_autocast
def quantization_loss(
    embeddings: torch.Tensor,
    reconstructions: torch.Tensor,
    concept_vectors: Any = None,
    *,
    metric: Any = None,
) -> torch.Tensor:
    """Return the mean of Σ_j (v_j·(z_n − r_n))², the error that a search by concepts would see.

    Parameters
    ----------
    embeddings : tensor of shape (n, D)
    reconstructions : tensor of shape (n, D)
        What codes decode to. A gradient flows to it as well, where it wants one.
    concept_vectors : ndarray or tensor of shape (C, D), default=None
        Used as they are, not normalised.
    metric : ndarray or tensor of shape (D, D), or float, default=None
        VᵀV in place of concept_vectors, symmetric; a number is that many times the identity.
        Exactly one of the two is given.

    Returns
    -------
    tensor, scalar
        0 for no samples.

    Raises
    ------
    ValueError
        When shapes don't fit, or when none or both of concept_vectors and metric are given.

    References
    ----------
    Wang et al., AAAI 2021, the supervised cosine quantization loss.

    Examples
    --------
    >>> import torch
    >>> z, r = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]])
    >>> quantization_loss(z, r, torch.tensor([[1.0, 0.0], [1.0, -1.0]]))
    tensor(1.2500)
    """
    check_embeddings(embeddings)
    check_same_shape("reconstructions", reconstructions, embeddings)
    if (concept_vectors is None) == (metric is None):
        raise ValueError("give exactly one of concept_vectors (C, D) and metric (D, D).")
    n_dims, wide = embeddings.shape[1], wide_dtype(embeddings.dtype)
    error = embeddings.to(wide) - reconstructions.to(wide)  # (n, D)
    n_samples = max(1, len(error))
    if isinstance(metric, Real):
        return (error * float(metric) * error).sum() / n_samples
    if metric is None:
        matrix = as_wide("concept_vectors", concept_vectors, embeddings)
        _check_n_dims(matrix, n_dims)
    else:
        matrix = as_wide("metric", metric, embeddings)
        if matrix.shape != (n_dims, n_dims):
            raise ValueError(
                f"metric has shape {tuple(matrix.shape)}, should be ({n_dims}, {n_dims})."
            )
    if metric is None:
        # (n, C) of products, or once (D, D) and then (n, D): whichever has less to multiply.
        if len(error) * len(matrix) <= (len(error) + len(matrix)) * n_dims:
            return (
                product_of_tensors(error, matrix.T).square().sum() / n_samples
            )  # for n: for j: (v_j·error_n)²
        matrix = matrix.T @ matrix
    return (
        product_of_tensors(error, matrix) * error
    ).sum() / n_samples  # for n: error_nᵀ metric error_n


@_without_autocast
def mean_tag_hinge_loss(
    embeddings: torch.Tensor, tag_means: Any, *, margin: float = 0.1
) -> torch.Tensor:
    """Compare images with the means of their tags by hinges; other images' means are negatives.

    Mean over pairs n ≠ m of max(0, margin − cos(z_n, t_n) + cos(z_n, t_m)).

    Parameters
    ----------
    embeddings : tensor of shape (n, D)
        Of any length; a row of zeros has cosine 0 with everything and gets no gradient.
    tag_means : ndarray or tensor of shape (n, D)
        Mean of the vectors of each image's tags, of any length; images with a row of zeros take
        no part, neither themselves nor as a negative of others.
    margin : float, default=0.1
        At least 0.

    Returns
    -------
    tensor, scalar
        0 with a gradient of zeros for fewer than two rows that take part.

    References
    ----------
    Gattupalli, Zhuo and Li, Weakly Supervised Deep Image Hashing through Tag Embeddings,
    CVPR 2019, arXiv 1806.05804, the pairwise similarity term.

    Examples
    --------
    >>> import torch
    >>> mean_tag_hinge_loss(torch.eye(2), torch.eye(2), margin=1.5)
    tensor(0.5000)
    """
    check_number("margin", margin, minimum=0)
    cosines = _cosines_with_means(embeddings, tag_means)  # (p, p)
    n_pairs = max(1, len(cosines) * (len(cosines) - 1))
    # for n: for m ≠ n: max(0, margin − cos[n, n] + cos[n, m]); m = n would always give margin.
    hinges = (margin - cosines.diagonal()[:, None] + cosines).clamp(min=0)
    return (hinges.sum() - hinges.diagonal().sum()) / n_pairs


@_without_autocast
def contrastive_loss(
    embeddings: torch.Tensor, tag_means: Any, *, temperature: float = 0.1
) -> torch.Tensor:
    """Return the cross entropy of finding each image's own mean tag vector in the batch (InfoNCE).

    Mean over n of −log(exp(cos(z_n, t_n) / temperature) / Σ_m exp(cos(z_n, t_m) / temperature)).

    Parameters
    ----------
    embeddings : tensor of shape (n, D)
        Of any length; a row of zeros has cosine 0 with everything and gets no gradient.
    tag_means : ndarray or tensor of shape (n, D)
        As in `mean_tag_hinge_loss`; images with a row of zeros take no part.
    temperature : float, default=0.1
        Above 0; the smaller, the more the nearest negatives count.

    Returns
    -------
    tensor, scalar
        0 with a gradient of zeros where no row takes part.

    References
    ----------
    van den Oord, Li and Vinyals, Representation Learning with Contrastive Predictive Coding,
    arXiv 1807.03748, equation 4.

    Examples
    --------
    >>> import torch
    >>> contrastive_loss(torch.eye(2), torch.eye(2), temperature=1.0)
    tensor(0.3133)
    """
    check_number("temperature", temperature, above=0)
    logits = _cosines_with_means(embeddings, tag_means) / temperature  # (p, p)
    return (logits.logsumexp(dim=1) - logits.diagonal()).sum() / max(1, len(logits))


@_without_autocast
def tag_distance_loss(bits: torch.Tensor, tag_means: Any) -> torch.Tensor:
    """Compare how far the bits and how far the tags of two images are apart, by squares.

    Mean over pairs n ≠ m of (Σ_b (h_nb − h_mb)² / B − (1 − cos(t_n, t_m)))².

    Parameters
    ----------
    bits : tensor of shape (n, B)
        From 0 to 1.
    tag_means : ndarray or tensor of shape (n, D)
        As in `mean_tag_hinge_loss`; images with a row of zeros take no part.

    Returns
    -------
    tensor, scalar
        0 with a gradient of zeros for fewer than two rows that take part.

    References
    ----------
    Gattupalli, Zhuo and Li, CVPR 2019, arXiv 1806.05804: in their program the mean squared error
    of the bits' distances.

    Examples
    --------
    >>> import torch
    >>> bits = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    >>> tag_distance_loss(bits, torch.eye(2))  # half the bits differ, the tags altogether
    tensor(0.2500)
    """
    check_embeddings(bits)
    means = as_wide("tag_means", tag_means, bits)
    if len(means) != len(bits):
        raise ValueError(f"tag_means has {len(means)} rows, should have the {len(bits)} of bits.")
    takes_part = (means != 0).any(dim=1)
    h, t = bits[takes_part].to(means.dtype), as_unit_rows(means[takes_part])
    n_rows, n_bits = h.shape
    lengths = h.square().sum(dim=1)
    # for n: for m: Σ_b (h_nb − h_mb)² / B
    apart = (lengths[:, None] + lengths - 2 * product_of_tensors(h, h.T)) / max(1, n_bits)
    squares = (apart - (1 - t @ t.T)).square()
    return (squares.sum() - squares.diagonal().sum()) / max(1, n_rows * (n_rows - 1))


@_without_autocast
def binarization_loss(bits: torch.Tensor) -> torch.Tensor:
    """Reward bits that are far from ½; the loss is least, −¼, where all are 0 or 1.

    Minus the mean over bits of (h_nb − ½)².

    Parameters
    ----------
    bits : tensor of shape (n, B)
        From 0 to 1.

    Returns
    -------
    tensor, scalar
        0 for no bits.

    References
    ----------
    Gattupalli, Zhuo and Li, CVPR 2019, arXiv 1806.05804, the quantization term.

    Examples
    --------
    >>> import torch
    >>> binarization_loss(torch.tensor([[1.0, 0.5]]))
    tensor(-0.1250)
    """
    check_embeddings(bits)
    wide = bits.to(wide_dtype(bits.dtype))
    return -(wide - 0.5).square().sum() / max(1, wide.numel())


def _cosines_with_means(embeddings: torch.Tensor, tag_means: Any) -> torch.Tensor:
    """Return the cosines (p, p) of images and mean tag vectors, of the p images that have one."""
    check_embeddings(embeddings)
    tag_means = as_wide("tag_means", tag_means, embeddings)
    check_same_shape("tag_means", tag_means, embeddings)
    takes_part = (tag_means != 0).any(dim=1)
    z, _ = directions_and_lengths(embeddings[takes_part].to(tag_means.dtype))
    return product_of_tensors(z, as_unit_rows(tag_means[takes_part]).T)


def _hinge_loss(
    embeddings: torch.Tensor,
    concept_vectors: Any,
    indicator: Any,
    n_hard_negatives: int | None,
    margin: Any,
    gamma: float | None,
) -> torch.Tensor:
    check_embeddings(embeddings)
    if n_hard_negatives is not None:
        check_whole("n_hard_negatives", n_hard_negatives)
    if isinstance(concept_vectors, torch.Tensor) and concept_vectors.requires_grad:
        raise ValueError(
            "concept_vectors require a gradient, and this loss gives them none; "
            "pass concept_vectors.detach()."
        )
    concepts = as_wide("concept_vectors", concept_vectors, embeddings)
    n_samples, n_concepts = len(embeddings), len(concepts)
    _check_n_dims(concepts, embeddings.shape[1])
    if isinstance(margin, (np.ndarray, torch.Tensor, list)):
        margin, gamma = as_wide("margin", margin, embeddings), None
        if margin.shape != (n_concepts, n_concepts):
            raise ValueError(
                f"margin has shape {tuple(margin.shape)}, should be (C, C) = "
                f"({n_concepts}, {n_concepts})."
            )
    unit, known_margin = unit_concepts_and_margin(concept_vectors, concepts, gamma)
    if known_margin is not None:
        margin, gamma = known_margin, None
    positives = sort_positives(*as_pairs(indicator, n_samples, n_concepts), n_samples)
    return _CosineHinge.apply(embeddings, unit, positives, margin, n_hard_negatives, gamma)


def _check_n_dims(concepts: torch.Tensor, n_dims: int) -> None:
    """Refuse concepts of other dimensions than the embeddings."""
    if concepts.shape[1] != n_dims:
        raise ValueError(
            f"concept_vectors have {concepts.shape[1]} dimensions, should have the embeddings' "
            f"{n_dims}."
        )


class _CosineHinge(torch.autograd.Function):
    """Compute the mean hinge, and its gradient for embeddings of any length along with it."""

    @staticmethod
    def forward(
        ctx: Any,
        embeddings: torch.Tensor,
        concepts: torch.Tensor,
        positives: Positives,
        margin: torch.Tensor | float,
        n_hard_negatives: int | None,
        gamma: float | None,
    ) -> torch.Tensor:
        z = embeddings.detach().to(concepts.dtype)
        n_negatives = len(concepts) - positives.counts
        if n_hard_negatives is not None:
            n_negatives = np.minimum(n_negatives, n_hard_negatives)
        n_terms = max(1, int((positives.counts * n_negatives).sum()))
        needs_gradient = ctx.needs_input_grad[0]
        options = (n_hard_negatives, gamma, needs_gradient)
        unit, lengths = directions_and_lengths(z)
        gradient: torch.Tensor | None
        total: torch.Tensor | float
        if z.device.type == "cpu":
            # numpy's products and small operations take half of torch's time on a processor.
            matrix = margin.numpy() if isinstance(margin, torch.Tensor) else margin
            total, array = hinge_numpy(unit.numpy(), concepts.numpy(), positives, matrix, *options)
            gradient = None if array is None else torch.from_numpy(array)
        else:
            total, gradient = hinge_torch(unit, concepts, positives, margin, *options)
        if gradient is not None:
            # Back through the normalisation: what lies along z is lost, the rest is shrunk.
            gradient -= unit * (unit * gradient).sum(dim=1, keepdim=True)
            gradient /= lengths
            gradient /= n_terms
            ctx.save_for_backward(embeddings, gradient.to(embeddings.dtype))
        return torch.as_tensor(total / n_terms, dtype=z.dtype, device=z.device)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        embeddings, gradient = ctx.saved_tensors
        scaled = _FirstDerivative.apply(embeddings, gradient * grad_outputs[0])
        return scaled, None, None, None, None, None


class _FirstDerivative(torch.autograd.Function):
    """Tie the gradient to the embeddings, so that deriving it again fails instead of giving 0."""

    @staticmethod
    def forward(ctx: Any, embeddings: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        return gradient

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        raise RuntimeError(
            "cosine_margin_loss and fixed_margin_loss have no second derivative: their gradient "
            "is a closed form that autograd can't see into."
        )
