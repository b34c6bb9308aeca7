"""Checks of what the losses accept, which bring it into one form."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from ..sphere import normalize_rows
from ..utils.threads import without_autocast

__all__ = [
    "as_pairs",
    "as_unit_rows",
    "as_wide",
    "check_embeddings",
    "check_same_shape",
    "directions_and_lengths",
    "product_of_tensors",
    "wide_dtype",
]


def check_embeddings(embeddings: Any) -> None:
    """Refuse embeddings that are no matrix of floats in torch."""
    if not isinstance(embeddings, torch.Tensor) or not embeddings.dtype.is_floating_point:
        kind = getattr(embeddings, "dtype", type(embeddings).__name__)
        raise TypeError(f"embeddings are {kind}, should be a torch tensor of floats.")
    if embeddings.ndim != 2:
        raise ValueError(
            f"embeddings have shape {tuple(embeddings.shape)}, should be (n_samples, n_dims)."
        )


def check_same_shape(name: str, tensor: Any, embeddings: torch.Tensor) -> None:
    """Refuse a tensor that has not the shape of the embeddings."""
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{name} is a {type(tensor).__name__}, should be a torch tensor.")
    if tensor.shape != embeddings.shape:
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}, should be the embeddings' "
            f"{tuple(embeddings.shape)}."
        )


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type to compute in: float32 for 16 bits and fewer."""
    return torch.float32 if dtype.itemsize < 4 else dtype


def as_wide(name: str, matrix: Any, embeddings: torch.Tensor) -> torch.Tensor:
    """Return a constant matrix in the type and on the device that the losses compute in."""
    tensor = torch.as_tensor(matrix).detach()
    if tensor.ndim != 2:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, should have two dimensions.")
    return tensor.to(embeddings.device, wide_dtype(embeddings.dtype))


def product_of_tensors(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return a @ b in the matrices' own dtype, and so its gradients, within an autocast too."""
    return _Product.apply(a, b)


class _Product(torch.autograd.Function):
    """Multiply outside of any autocast, backward as well: that runs under its caller's."""

    @staticmethod
    def forward(ctx: Any, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(a, b)
        with without_autocast("cpu", a.device.type):
            return a @ b

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        a, b = ctx.saved_tensors
        (gradient,) = grad_outputs
        of_a = _Product.apply(gradient, b.T) if ctx.needs_input_grad[0] else None
        of_b = _Product.apply(a.T, gradient) if ctx.needs_input_grad[1] else None
        return of_a, of_b


def as_unit_rows(vectors: Any) -> Any:
    """Scale rows of an array or a tensor to unit length; leave rows of zeros as they are."""
    if not isinstance(vectors, torch.Tensor):
        vectors = np.asarray(vectors)
        if vectors.ndim != 2:
            raise ValueError(f"vectors have shape {vectors.shape}, should be (C, D).")
        return normalize_rows(vectors if vectors.dtype.kind == "f" else vectors.astype(np.float64))
    if vectors.ndim != 2:
        raise ValueError(f"vectors have shape {tuple(vectors.shape)}, should be (C, D).")
    if not vectors.dtype.is_floating_point:
        vectors = vectors.double()
    if vectors.shape[1] == 0:
        return vectors
    # Scaling by the largest entry first keeps squares of huge and tiny rows in range.
    scale = vectors.abs().amax(dim=1, keepdim=True)
    scaled = vectors / torch.where(scale > 0, scale, 1)
    norms = scaled.square().sum(dim=1, keepdim=True).sqrt()
    return scaled / torch.where(norms > 0, norms, 1)


def directions_and_lengths(embeddings: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return unit rows (n, D) of embeddings, with a gradient, and their lengths (n, 1).

    A row of zeros, or of numbers too small for their own reciprocal, has no direction. It becomes
    a row of zeros without a gradient. Its length is infinite: what is divided by it is 0.
    """
    if embeddings.shape[1] == 0:
        return embeddings, embeddings.new_full((len(embeddings), 1), math.inf)
    unit, lengths = _Directions.apply(embeddings)
    return unit, lengths


class _Directions(torch.autograd.Function):
    """Scale rows; back comes what lies across them: a fifth of the work of each operation's own."""

    @staticmethod
    def forward(ctx: Any, embeddings: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        unit, lengths = _scaled(embeddings.detach())
        ctx.save_for_backward(embeddings, unit, lengths)
        ctx.mark_non_differentiable(lengths)
        return unit, lengths

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> torch.Tensor:
        embeddings, unit, lengths = ctx.saved_tensors
        gradient = grad_outputs[0]
        if torch.is_grad_enabled():  # for second derivatives
            unit, lengths = _scaled(embeddings)
        along = (gradient * unit).sum(dim=1, keepdim=True)
        return (gradient - unit * along) / lengths


def _scaled(embeddings: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return unit rows and lengths by operations that torch can derive."""
    # Scaling by the largest entry first keeps squares of huge and tiny rows in range.
    scale = embeddings.detach().abs().amax(dim=1, keepdim=True)
    has_direction = ~(scale < torch.finfo(embeddings.dtype).tiny)  # NaN stays to be seen
    if embeddings.device.type == "cpu" and bool(has_direction.all()):
        scaled = embeddings / scale
        norms = scaled.square().sum(dim=1, keepdim=True).sqrt()
        return scaled / norms, norms * scale
    scale = torch.where(has_direction, scale, 1)
    scaled = torch.where(has_direction, embeddings / scale, 0)
    norms = torch.where(has_direction, scaled.square().sum(dim=1, keepdim=True), 1).sqrt()
    return scaled / norms, torch.where(has_direction, norms * scale, math.inf)


def as_pairs(indicator: Any, n_samples: int, n_concepts: int) -> tuple[np.ndarray, np.ndarray]:
    """Return row and concept of every pair of an indicator, row after row, each (P,) int64."""
    shape = (n_samples, n_concepts)
    if hasattr(indicator, "tocsr"):  # scipy's matrices and arrays
        return _pairs_of_scipy(indicator, shape)
    if not isinstance(indicator, torch.Tensor):
        return _pairs_of_array(np.asarray(indicator), shape)
    indicator = indicator.detach().cpu()
    if indicator.layout == torch.strided:
        if indicator.dtype == torch.bfloat16:  # which numpy does not know
            indicator = indicator.float()
        return _pairs_of_array(indicator.numpy(), shape)
    _check_shape(tuple(indicator.shape), shape)
    coo = indicator.to_sparse_coo().coalesce()
    rows, concepts = coo.indices().numpy()[:, coo.values().numpy() != 0]
    return rows, concepts  # coalesced: sorted, no duplicates


def _pairs_of_scipy(indicator: Any, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of a sparse matrix, whose stored zeros are none."""
    _check_shape(indicator.shape, shape)
    csr = indicator.tocsr()
    rows = np.repeat(np.arange(shape[0]), np.diff(csr.indptr))
    carried = csr.data != 0
    if not carried.all():
        return _sorted_pairs(rows[carried], csr.indices[carried].astype(np.int64), shape)
    return _sorted_pairs(rows, csr.indices.astype(np.int64), shape)


def _pairs_of_array(array: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs that an array is, or that it marks by other numbers than 0."""
    are_pairs = array.ndim == 2 and len(array) == 2 and array.dtype.kind in "iu"
    if are_pairs and array.shape == shape:
        # Read as pairs, more than four columns of 0 and 1 would hold duplicates: a matrix.
        are_pairs = bool((array.max(initial=0) > 1) or (array.min(initial=0) < 0))
    if are_pairs:
        rows, concepts = array.astype(np.int64, copy=False)
        return _sorted_pairs(rows, concepts, shape)
    _check_shape(array.shape, shape)
    rows, concepts = np.nonzero(array)
    return rows, concepts


def _check_shape(actual: tuple[int, ...], expected: tuple[int, int]) -> None:
    if tuple(actual) != expected:
        raise ValueError(
            f"indicator has shape {tuple(actual)}, should be (n_samples, n_concepts) = {expected}, "
            "or be pairs of integers of shape (2, n_pairs)."
        )


def _sorted_pairs(
    rows: np.ndarray, concepts: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    if len(rows) == 0:
        return rows, concepts
    for name, values, limit in (("row", rows, shape[0]), ("concept", concepts, shape[1])):
        low, high = values.min(), values.max()
        if low < 0 or high >= limit:
            worst = low if low < 0 else high
            raise ValueError(f"indicator holds {name} {worst}, should lie in 0..{limit - 1}.")
    # One number a pair: whole numbers sort and compare faster than pairs do.
    keys = rows * shape[1] + concepts
    if not (keys[1:] > keys[:-1]).all():
        keys = np.sort(keys)
        repeated = np.flatnonzero(keys[1:] == keys[:-1])
        if len(repeated):
            row, concept = divmod(int(keys[repeated[0]]), shape[1])
            raise ValueError(
                f"indicator holds the pair (row {row}, concept {concept}) twice; "
                "remove duplicates, as by np.unique(pairs, axis=1)."
            )
        rows, concepts = np.divmod(keys, shape[1])
    return rows, concepts
