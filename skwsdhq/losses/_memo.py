"""Memory of what a margin loss needs of its concept vectors, from one batch to the next.

Concept vectors stay the same for a whole fit, while a loss, a plain function, gets them anew with
every batch. Their margins cost more than the rest of a batch's work, so they are kept beside the
vectors: held weakly, used only while the values are equal, and never for more than MARGIN_SIZE
numbers. Results don't depend on it.
"""

from __future__ import annotations

import weakref
from typing import Any, NamedTuple

import torch

from ..utils.threads import without_autocast
from ._hinge import margin_from_cosines
from .inputs import as_unit_rows

__all__ = ["keep_unchanged", "unit_concepts_and_margin"]

MARGIN_SIZE = 1 << 25  # 128 MB in float32: the margins of 5792 concepts


class _Prepared(NamedTuple):
    """Hold what was made of the vectors of one owner."""

    owner: weakref.ref[Any]
    source: torch.Tensor  # (C, D) copy of the values that the rest was made from
    unit: torch.Tensor  # (C, D)
    gamma: float | None
    margin: torch.Tensor | None  # (C, C)


_prepared: dict[int, _Prepared] = {}
# Owners that nobody writes to, by their id.
_unchanged: weakref.WeakValueDictionary[int, torch.Tensor] = weakref.WeakValueDictionary()


def keep_unchanged(owner: torch.Tensor) -> torch.Tensor:
    """Return vectors that nobody will write to: with them values need not be compared."""
    _unchanged[id(owner)] = owner
    return owner


def unit_concepts_and_margin(
    owner: Any, concepts: torch.Tensor, gamma: float | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return unit rows of the concept vectors and, from the second time on, their margins.

    Later calls use what this one remembers. So it is made as outside of any inference mode or
    autocast, whatever this call stands in.

    Parameters
    ----------
    owner : object
        The one that the caller keeps from batch to batch.
    concepts : tensor of shape (C, D)
        Its values, in the type and on the device to compute in.
    gamma : float or None
        None asks for no margins.

    Returns
    -------
    unit : tensor of shape (C, D)
    margin : tensor of shape (C, C), or None
    """
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        without_autocast("cpu", concepts.device.type),
    ):
        known = _prepared.get(id(owner))
        if known is None or known.owner() is not owner or not _equal(owner, known.source, concepts):
            # Seen once, vectors may be gone with the next batch: margins wait for a second look.
            unit = as_unit_rows(concepts)
            _remember(owner, concepts.clone(), unit, None, None)
            return unit, None
        if gamma is None or len(concepts) ** 2 > MARGIN_SIZE:
            return known.unit, None
        if known.margin is None or known.gamma != gamma:
            margin = margin_from_cosines(known.unit @ known.unit.T, gamma)
            _remember(owner, known.source, known.unit, gamma, margin)
            return known.unit, margin
        return known.unit, known.margin


def _equal(owner: Any, known: torch.Tensor, concepts: torch.Tensor) -> bool:
    # The owner may be an array that somebody wrote to: its identity alone proves nothing.
    return (
        known.dtype == concepts.dtype
        and known.device == concepts.device
        and (_unchanged.get(id(owner)) is owner or torch.equal(known, concepts))
    )


def _remember(
    owner: Any,
    source: torch.Tensor,
    unit: torch.Tensor,
    gamma: float | None,
    margin: torch.Tensor | None,
) -> None:
    key = id(owner)

    def forget(reference: weakref.ref[Any]) -> None:
        # Another object may have got the same id since, or the entry been replaced.
        known = _prepared.get(key)
        if known is not None and known.owner is reference:
            del _prepared[key]

    try:
        reference = weakref.ref(owner, forget)
    except TypeError:  # a list: nothing tells when it goes
        return
    _prepared[key] = _Prepared(reference, source, unit, gamma, margin)
