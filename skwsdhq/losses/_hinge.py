"""The sum over positive and negative concepts behind the margin losses, and its gradient.

A hinge costs one addition and one comparison; what is slow is to lay out all of them at once, as
(n, C, C). Here rows are sorted by their number of positives, most first. The rows that have a
k-th positive are then a prefix, so the k-th positives of a block of rows meet all concepts in a
few whole-array operations, without an index, in a buffer that stays in the cache.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..utils.compiled import kernels
from ..utils.threads import product
from ..utils.together import parts_of, together, whole_product

if TYPE_CHECKING:
    import torch

_COMPILED = "skwsdhq.losses._compiled"

__all__ = ["Positives", "hinge_numpy", "hinge_torch", "margin_from_cosines", "sort_positives"]

# Similarities of a chunk of rows with all concepts: at most this many numbers (64 MB in float32).
CHUNK_SIZE = 1 << 24
# Hinges of a block of rows: so many numbers fit into a core's cache together with their operands.
BLOCK_SIZE = 1 << 16
# Hinges after which numba is asked to make the next ones: to load it takes as long as these.
_MIN_ASKED = 1 << 27
_PARTS = 4  # of the rows, which threads share
_PAYS = 1 << 17  # hinges of a part
_asked = 0


class Positives(NamedTuple):
    """Hold the positive concepts of the rows that have any, rows with most of them first."""

    rows: np.ndarray  # (r,) numbers of the rows, in the order of the other arrays
    counts: np.ndarray  # (r,) positives of each row, descending
    starts: np.ndarray  # (r,) where a row's positives start in `concepts`
    concepts: np.ndarray  # (P,) concept numbers, row after row


def sort_positives(rows: np.ndarray, concepts: np.ndarray, n_samples: int) -> Positives:
    """Sort pairs (row, concept), which are in the order of rows, by the rows' number of pairs."""
    counts = np.bincount(rows, minlength=n_samples)
    starts = np.cumsum(counts) - counts
    order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    return Positives(order, counts[order], starts[order], concepts)


def margin_from_cosines(cosines: Any, gamma: float) -> Any:
    """Turn cosines into 2^(1 − gamma) · (1 − cosine)^gamma, in place, on an array or a tensor."""
    cosines *= -1
    cosines += 1
    if gamma == 1:
        return cosines
    # Rounding makes 1 − cos of a vector with itself negative, whose power is not a number.
    cosines = cosines.clip(min=0)
    cosines **= gamma
    cosines *= 2.0 ** (1 - gamma)
    return cosines


def _chunks(positives: Positives, n_concepts: int) -> list[slice]:
    """Return the slices of rows whose similarities are computed together."""
    step = max(1, CHUNK_SIZE // n_concepts)
    return [slice(a, a + step) for a in range(0, len(positives.rows), step)]


def hinge_numpy(
    unit: np.ndarray,
    concepts: np.ndarray,
    positives: Positives,
    margin: np.ndarray | float,
    n_hard_negatives: int | None,
    gamma: float | None,
    with_gradient: bool,
) -> tuple[float, np.ndarray | None]:
    """Return the sum of all hinges and its gradient with respect to the unit rows.

    Parameters
    ----------
    unit : (n, D) unit rows.
    concepts : (C, D) unit rows.
    positives : of the n rows.
    margin : (C, C), or one number for all pairs; with `gamma` it isn't looked at.
    n_hard_negatives : only so many negatives of largest cosine count; None for all.
    gamma : computes the margin's rows where they are needed; None to use `margin`.
    with_gradient : False returns None in its place.
    """
    n_concepts = len(concepts)
    gradient = np.zeros_like(unit) if with_gradient else None
    total = 0.0
    for chunk in _chunks(positives, n_concepts):
        counts, starts = positives.counts[chunk], positives.starts[chunk]
        x = unit[positives.rows[chunk]]
        similarities = whole_product(x, concepts.T)  # (r, C)
        # Pairs of this chunk, row after row: their row in it, and their concept.
        pair_row = np.repeat(np.arange(len(counts)), counts)
        first = np.cumsum(counts) - counts
        pairs = positives.concepts[np.arange(len(pair_row)) + np.repeat(starts - first, counts)]
        positive_similarity = similarities[pair_row, pairs]
        similarities[pair_row, pairs] = -np.inf  # never active as a negative
        margin_row = pairs
        if gamma is not None:
            used, margin_row = np.unique(pairs, return_inverse=True)
            # numpy's product of few rows is faster, its threads wait for each other in large ones.
            times = product if len(used) > 256 else np.matmul
            margin = margin_from_cosines(times(concepts[used], concepts.T), gamma)
        hardest = None
        if n_hard_negatives is not None and n_hard_negatives < n_concepts:
            hardest = np.argpartition(-similarities, n_hard_negatives - 1, axis=1)
            hardest = hardest[:, :n_hard_negatives]
            similarities = np.take_along_axis(similarities, hardest, axis=1)
        active, per_pair = _count_active(
            similarities, positive_similarity, margin, margin_row, hardest, counts, first
        )
        # A row's sum keeps its digits in float32; that of many rows might not.
        total += float(similarities.sum(axis=1).sum(dtype=np.float64))
        if gradient is not None:
            # Each active hinge pulls x towards its positive i and away from its negative j:
            # d(sum)/dx = Σ over active hinges of (v_j − v_i): a matrix of counts times concepts.
            weights = active
            if hardest is not None:
                weights = np.zeros((len(x), n_concepts), unit.dtype)
                np.put_along_axis(weights, hardest, active, axis=1)
            weights[pair_row, pairs] = -per_pair
            gradient[positives.rows[chunk]] = whole_product(weights, concepts)
    return total, gradient


def _count_active(
    similarities: np.ndarray,
    positive_similarity: np.ndarray,
    margin: np.ndarray | float,
    margin_row: np.ndarray,
    hardest: np.ndarray | None,
    counts: np.ndarray,
    first: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Count the active hinges of every (row, negative) and every positive pair.

    In the place of a similarity the sum of its hinges is put.

    for n: for i in positives of n: for j in negatives of n:
        hinge = margin[i, j] - similarity[n, i] + similarity[n, j]
        if hinge > 0: total[n, j] += hinge; active[n, j] += 1; per_pair[n, i] += 1
    """
    global _asked
    n_rows, n_negatives = similarities.shape
    n_hinges = len(positive_similarity) * n_negatives
    active = np.zeros(similarities.shape, similarities.dtype)
    per_pair = np.zeros(len(positive_similarity), similarities.dtype)
    count = _count_by_numpy
    if isinstance(margin, np.ndarray) and hardest is None and similarities.dtype == np.float32:
        _asked += n_hinges
        compiled = kernels(_COMPILED) if _asked >= _MIN_ASKED else None
        count = count if compiled is None else compiled.count_active
        margin = np.ascontiguousarray(margin)
    given = (margin, margin_row)
    # Rows apart: what one of them gives depends on no other.
    parts = parts_of(n_rows, min(_PARTS, n_hinges // _PAYS))
    together(
        [
            functools.partial(
                count, similarities[part], positive_similarity, *given,
                counts[part], first[part], active[part], per_pair,
                *(() if hardest is None else (hardest[part],)),
            )
            for part in parts
        ]
    )  # fmt: skip
    return active, per_pair


def _count_by_numpy(  # noqa: PLR0913 - what hinges are made of, in order
    similarities: np.ndarray,
    positive_similarity: np.ndarray,
    margin: np.ndarray | float,
    margin_row: np.ndarray,
    counts: np.ndarray,
    first: np.ndarray,
    active: np.ndarray,
    per_pair: np.ndarray,
    hardest: np.ndarray | None = None,
) -> None:
    """Do so for some rows, in place."""
    n_rows, n_negatives = similarities.shape
    step = min(n_rows, max(1, BLOCK_SIZE // n_negatives))
    hinges = np.empty((step, n_negatives), similarities.dtype)
    # Rows of whole words of eight flags, so that flags can be counted a word at a time.
    flags = np.zeros((step, -(-n_negatives // 8) * 8), np.bool_)
    for a in range(0, n_rows, step):
        block_counts = counts[a : a + step]
        sums = np.zeros_like(similarities[a : a + step])
        for k in range(block_counts[0]):
            r = int(np.searchsorted(-block_counts, -k, side="left"))  # rows with a k-th positive
            pair = first[a : a + r] + k
            hinge, flag = hinges[:r], flags[:r, :n_negatives]
            if not isinstance(margin, np.ndarray):
                np.add(similarities[a : a + r], margin, out=hinge)
            elif hardest is None:
                np.take(margin, margin_row[pair], axis=0, out=hinge, mode="clip")
                hinge += similarities[a : a + r]
            else:
                np.add(
                    margin[margin_row[pair][:, None], hardest[a : a + r]],
                    similarities[a : a + r],
                    out=hinge,
                )
            hinge -= positive_similarity[pair][:, None]
            np.greater(hinge, 0, out=flag)
            np.maximum(hinge, 0, out=hinge)
            sums[:r] += hinge
            active[a : a + r] += flag
            per_pair[pair] = _count_flags(flags[:r])
        similarities[a : a + step] = sums


def _count_flags(flags: np.ndarray) -> np.ndarray:
    """Count the True of each row, of a width that is a multiple of 8.

    for n: count[n] = sum(flags[n])
    """
    words = flags.view(np.uint64)  # (r, width / 8), a flag in each byte
    count = np.zeros(len(flags), np.int64)
    for a in range(0, words.shape[1], 255):  # a byte counts to 255
        count += (
            words[:, a : a + 255]
            .sum(axis=1)
            .view(np.uint8)
            .reshape(-1, 8)
            .sum(axis=1, dtype=np.int64)
        )
    return count


def hinge_torch(
    unit: torch.Tensor,
    concepts: torch.Tensor,
    positives: Positives,
    margin: torch.Tensor | float,
    n_hard_negatives: int | None,
    gamma: float | None,
    with_gradient: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Do what `hinge_numpy` does, on tensors of any device."""
    import torch

    device, n_concepts = unit.device, len(concepts)
    gradient = torch.zeros_like(unit) if with_gradient else None
    total = unit.new_zeros((), dtype=torch.float64 if device.type != "mps" else unit.dtype)
    for chunk in _chunks(positives, n_concepts):
        counts, starts = positives.counts[chunk], positives.starts[chunk]
        rows = torch.as_tensor(positives.rows[chunk], device=device)
        steps = []  # the k-th positives of the rows that have one
        for k in range(counts[0]):
            # Rows are sorted by their number of positives: those with a k-th come first.
            r = int(np.searchsorted(-counts, -k, side="left"))
            steps.append(torch.as_tensor(positives.concepts[starts[:r] + k], device=device))
        x = unit[rows]
        similarities = x @ concepts.T  # (r, C)
        positive = [similarities[: len(c)].gather(1, c[:, None]) for c in steps]
        for c in steps:
            # A row's own concepts are never active as negatives.
            similarities[: len(c)].scatter_(1, c[:, None], -torch.inf)
        hardest = None
        if n_hard_negatives is not None and n_hard_negatives < n_concepts:
            similarities, hardest = similarities.topk(n_hard_negatives, dim=1, sorted=False)
        active = torch.zeros_like(similarities)
        per_pair = []
        for c, s in zip(steps, positive, strict=True):
            r = len(c)
            margins = _margins_of(c, concepts, margin, gamma, hardest)
            hinge = (similarities[:r] + margins).sub_(s)
            is_active = hinge > 0
            total += hinge.clamp_(min=0).sum()
            active[:r] += is_active
            per_pair.append(is_active.sum(dim=1, keepdim=True).to(unit.dtype))
        if gradient is not None:
            if hardest is not None:
                active = unit.new_zeros((len(x), n_concepts)).scatter_(1, hardest, active)
            for c, count in zip(steps, per_pair, strict=True):
                active[: len(c)].scatter_(1, c[:, None], -count)
            gradient[rows] = active @ concepts
    return total, gradient


def _margins_of(
    chosen: torch.Tensor,
    concepts: torch.Tensor,
    margin: torch.Tensor | float,
    gamma: float | None,
    hardest: torch.Tensor | None,
) -> Any:
    """Return the margins (r, C) of chosen concepts (r,) to all, or to each row's hardest alone.

    One number for all pairs stays one number.
    """
    import torch

    if gamma is not None:
        # Computed anew for each step: all C × C of them may not fit into memory.
        margins: Any = margin_from_cosines(concepts[chosen] @ concepts.T, gamma)
    else:
        margins = margin[chosen] if isinstance(margin, torch.Tensor) else margin
    if hardest is not None and isinstance(margins, torch.Tensor):
        margins = margins.gather(1, hardest[: len(chosen)])
    return margins
