"""Sums of a kernel regression over blocks of rows, which add up: so it needs no two blocks at once.

With K = LLᵀ over landmarks and Φ = K(rows, landmarks) L⁻ᵀ the regression is plain ridge regression
on Φ; that is well-conditioned where normal equations in K are not (Nyström's approximation). Of the
rows it needs ΦᵀTΦ and ΦᵀT·(targets), with T how far each row is trusted. Targets are directions of
tags less their mean: the sums hold those of directions, and ΦᵀT1, so that the mean may be known
last.

Landmarks, and how far tags are trusted, are fixed before, by the first rows or a part of all.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from scipy import sparse

from ..sphere import normalize_rows
from ..utils.rows import sum_blocks
from ..utils.threads import on_one_thread
from ..utils.together import parts_of, together, whole_product
from ._kernel import (
    coefs_and_left_out,
    mean_direction,
    rbf_kernel,
    row_trust,
    tag_agreement,
    tag_directions,
    wrong_share,
)
from ._solving import cholesky, factored, solved, solved_by_factor

__all__ = [
    "Begun",
    "KernelSums",
    "begin_sums",
    "consistency_of",
    "kernel_sums",
    "mean_of_directions",
    "places_of",
    "solve_sums",
    "sums_of_block",
]

_BLOCK = 4096  # rows whose kernel with all landmarks is held at once
_MAPPED_ROWS = 512  # of a block that a thread maps at once
_GRAM_COLUMNS = 512  # of a product of landmarks with landmarks that a thread makes at once
_DOUBT = 10.0  # consistency for each unit of the variance of being wrong


@dataclass(frozen=True)
class Begun:
    """Hold what is fixed before rows are summed up: it is the same for every block and worker."""

    landmarks: np.ndarray  # (m, d) unit rows, float32
    factor: np.ndarray  # (m, m) lower factor of their kernel, float32
    gamma: float
    alpha: float
    consistency: float
    word_weights: np.ndarray  # (C,)
    concept_vectors: np.ndarray  # (C, D)
    coefs: np.ndarray  # (m, D) of the first regression, of landmarks alone
    left_out: np.ndarray | None  # (m, D) what it says of landmarks, each without its own tags
    trust: np.ndarray  # (m,) of landmarks


class KernelSums(NamedTuple):
    """Hold sums over rows that have a tag; those of several blocks add up, in any grouping."""

    gram: np.ndarray  # (m, m), ΦᵀTΦ, below the diagonal and on it
    moments: np.ndarray  # (m, D), ΦᵀT · directions
    weight: np.ndarray  # (m,), ΦᵀT1
    n_rows: int
    trust: float  # of all rows
    directions: np.ndarray  # (D,)
    squares: float  # of the lengths of directions

    def by_name(self) -> dict[str, Any]:
        """Return the sums by their names, the matrix in float64."""
        names = type(self).__annotations__
        return {**dict(zip(names, self, strict=True)), "gram": self.gram.astype(np.float64)}

    def __add__(self, other: Any) -> Self:
        # A block's own is of float32.
        gram = np.empty(self.gram.shape, np.float64)

        def add(rows: slice) -> None:
            np.add(self.gram[rows], other.gram[rows], out=gram[rows], dtype=np.float64)

        together([functools.partial(add, rows) for rows in parts_of(len(gram), 4)])
        rest = (a + b for a, b in zip(self[1:], other[1:], strict=True))
        return type(self)(gram, *rest)


@on_one_thread
def begin_sums(  # noqa: PLR0913 - what the first regression depends on, by name
    units: Callable[[np.ndarray], np.ndarray],
    indicator: sparse.csr_array,
    concept_vectors: np.ndarray,
    picked: np.ndarray,
    *,
    kernel: np.ndarray,
    landmarks: np.ndarray,
    targets: np.ndarray,
    gamma: float,
    alpha: float,
    consistency: float | str,
    word_weights: np.ndarray,
    random_state: np.random.RandomState,
) -> Begun:
    """Fix what the sums depend on, from rows among which the landmarks are.

    Parameters
    ----------
    units : callable
        Gives unit rows (b, d) by their numbers (b,).
    indicator : csr_array of shape (h, C)
        Of these rows, each of which has a concept.
    concept_vectors : ndarray of shape (C, D)
    picked : ndarray of shape (m,)
        Numbers of the landmarks, sorted.
    kernel : ndarray of shape (m, m), float64
        Of landmarks.
    landmarks : ndarray of shape (m, d)
    targets : ndarray of shape (m, D)
        Of landmarks.
    gamma, alpha, consistency, word_weights, random_state
        As in :func:`~skwsdhq.embedding._kernel.fit_regression`.
    """
    left_out = np.zeros(targets.shape, np.float32)
    coefs = np.zeros(targets.shape, np.float32)
    trust = np.ones(len(kernel))
    narrow = cholesky(kernel, np.zeros(len(kernel))).float().numpy()
    if consistency != 0:
        coefs, left_out = coefs_and_left_out(kernel, targets, alpha)
        coefs, left_out = coefs.astype(np.float32), normalize_rows(left_out).astype(np.float32)
    begun = Begun(
        landmarks, narrow, gamma, alpha, 0.0, word_weights, concept_vectors, coefs, left_out, trust
    )
    if isinstance(consistency, str):
        shuffled = random_state.permutation(indicator.indices)
        consistency = _found_consistency(units, indicator, shuffled, picked, begun)
    if consistency:
        own = indicator[picked]
        agreement = tag_agreement(own, own.indices, concept_vectors, left_out)
        trust = row_trust(own, np.exp(float(consistency) * agreement))
    return replace(begun, consistency=float(consistency), trust=trust)


def _found_consistency(
    units: Callable[[np.ndarray], np.ndarray],
    indicator: sparse.csr_array,
    shuffled: np.ndarray,
    picked: np.ndarray,
    begun: Begun,
) -> float:
    """Return the consistency of tags, by how rows agree with theirs and with ``shuffled`` ones."""
    agreement = np.empty(indicator.nnz, np.float32)
    chance = np.empty(indicator.nnz, np.float32)
    places, left_out = places_of(picked, indicator.shape[0]), begun.left_out
    assert left_out is not None
    for start in range(0, indicator.shape[0], _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, indicator.shape[0]))
        own = indicator[rows]
        # What is expected of landmarks is there: no kernel of theirs is needed.
        is_other = places[rows] < 0
        expected = np.empty((len(rows), begun.coefs.shape[1]), np.float32)
        expected[is_other] = _expected(_against(units(rows[is_other]), begun), begun, None)
        expected[~is_other] = left_out[places[rows[~is_other]]]
        at = slice(indicator.indptr[rows[0]], indicator.indptr[rows[-1] + 1])
        agreement[at] = tag_agreement(own, own.indices, begun.concept_vectors, expected)
        chance[at] = tag_agreement(own, shuffled[at], begun.concept_vectors, expected)
    return consistency_of(agreement, chance)


@on_one_thread
def sums_of_block(
    units: np.ndarray,
    indicator: sparse.csr_array,
    begun: Begun,
    places: np.ndarray | None = None,
) -> KernelSums:
    """Return the sums of a block of rows.

    Parameters
    ----------
    units : ndarray of shape (b, d), float32
        Unit rows.
    indicator : csr_array of shape (b, C)
        Rows without a concept take no part.
    begun : Begun
    places : ndarray of shape (b,), default=None
        Which landmark a row is, -1 for the others: a landmark is expected where the others say.
    """
    tagged = np.flatnonzero(np.diff(indicator.indptr))
    if len(tagged) < len(units):
        indicator, units = indicator[tagged], units[tagged]
        places = None if places is None else places[tagged]
    against = _against(units, begun)
    weights = begun.word_weights[indicator.indices]
    trust = np.ones(len(units))
    if begun.consistency:
        expected = _expected(against, begun, places)
        agreement = tag_agreement(indicator, indicator.indices, begun.concept_vectors, expected)
        trusted = np.exp(begun.consistency * agreement)
        trust = row_trust(indicator, trusted)
        weights = weights * trusted
    directions = tag_directions(indicator, begun.concept_vectors, weights)
    root = torch.from_numpy(np.sqrt(trust).astype(np.float32))[:, None]
    factor = torch.from_numpy(begun.factor)
    mapped_rows = torch.from_numpy(against)  # in whose place they are written

    def map_rows(start: int) -> None:
        part = slice(start, start + _MAPPED_ROWS)
        solved_rows = torch.linalg.solve_triangular(factor, mapped_rows[part].T, upper=False)
        torch.mul(solved_rows.T, root[part], out=mapped_rows[part])

    together([functools.partial(map_rows, a) for a in range(0, len(units), _MAPPED_ROWS)])
    n_landmarks = len(begun.landmarks)
    gram = torch.zeros((n_landmarks, n_landmarks), dtype=torch.float32)

    def square(a: int) -> None:
        columns = slice(a, a + _GRAM_COLUMNS)
        torch.mm(mapped_rows[:, a:].T, mapped_rows[:, columns], out=gram[a:, columns])

    # Below the diagonal alone.
    together([functools.partial(square, a) for a in range(0, n_landmarks, _GRAM_COLUMNS)])
    moments = whole_product(mapped_rows.numpy().T, directions * root.numpy())
    wide = directions.astype(np.float64)
    return KernelSums(
        gram.numpy(),
        moments.astype(np.float64),
        (mapped_rows.T @ root)[:, 0].double().numpy(),
        len(units),
        float(trust.sum()),
        wide.sum(axis=0),
        float(np.square(wide).sum()),
    )


def kernel_sums(
    units: Any,
    indicator: sparse.csr_array,
    places: np.ndarray,
    begun: Begun,
) -> KernelSums:
    """Return the sums of rows (n, d), a block at a time, added up in their order.

    The parameters are those of :func:`sums_of_block`.
    """
    work = functools.partial(_sums_of, begun=begun)
    return sum_blocks(units, work, (indicator, places), n_rows=_BLOCK)


def _sums_of(
    units: np.ndarray, indicator: sparse.csr_array, places: np.ndarray, *, begun: Begun
) -> KernelSums:
    return sums_of_block(units.astype(np.float32, copy=False), indicator, begun, places)


@on_one_thread
def solve_sums(sums: KernelSums, begun: Begun) -> tuple[np.ndarray, np.ndarray, float]:
    """Return coefficients (m, D) of landmarks, the mean target (D,), and the mean trust of a row.

    Rows count as their trust says, scaled to a mean of 1; targets are directions less their mean.
    """
    mean_trust = sums.trust / sums.n_rows
    mean = sums.directions / sums.n_rows
    # Where all directions are equal, that is all there is.
    if sums.squares - sums.n_rows * float(mean @ mean) <= 1e-6 * sums.squares:
        mean = np.zeros_like(mean)
    gram = torch.from_numpy(sums.gram.astype(np.float64) / mean_trust)
    gram.diagonal().add_(begun.alpha)
    moments = (sums.moments - sums.weight[:, None] * mean) / mean_trust
    of_sums = solved(moments, factored(gram))
    factor = torch.from_numpy(begun.factor).double()
    coefs = solved_by_factor(factor, of_sums, transposed=True).numpy()
    return coefs, mean.astype(np.float32), mean_trust


def consistency_of(agreement: np.ndarray, chance: np.ndarray) -> float:
    """Return how much tags are weighed by their agreement: most where a half is wrong."""
    wrong = wrong_share(agreement, chance)
    return _DOUBT * wrong * (1 - wrong)


def _against(units: np.ndarray, begun: Begun) -> np.ndarray:
    return rbf_kernel(units.astype(np.float32, copy=False), begun.landmarks, begun.gamma)


def _expected(against: np.ndarray, begun: Begun, places: np.ndarray | None) -> np.ndarray:
    """Return (b, D) what the first regression says of rows without their own tags."""
    expected = normalize_rows(whole_product(against, begun.coefs))
    if places is not None and begun.left_out is not None:
        own = places >= 0
        expected[own] = begun.left_out[places[own]]
    return expected


def places_of(rows: np.ndarray, n_rows: int) -> np.ndarray:
    """Return which of some rows (m,) each of all rows (n,) is, -1 for the others."""
    places = np.full(n_rows, -1, dtype=np.int64)
    places[rows] = np.arange(len(rows))
    return places


def mean_of_directions(
    indicator: sparse.csr_array, concept_vectors: np.ndarray, weights_of: np.ndarray
) -> np.ndarray:
    """Return the mean (D,) of the rows' directions, see ``mean_direction``, in blocks."""
    n_rows = indicator.shape[0]
    total, squares = np.zeros(concept_vectors.shape[1]), 0.0
    for start in range(0, n_rows, _BLOCK):
        own = indicator[start : start + _BLOCK]
        directions = tag_directions(own, concept_vectors, weights_of[own.indices])
        if n_rows <= _BLOCK:
            return mean_direction(directions)
        total += directions.sum(axis=0, dtype=np.float64)
        squares += float(np.square(directions, dtype=np.float64).sum())
    mean = total / n_rows
    is_all = squares - n_rows * float(mean @ mean) <= 1e-6 * squares
    return np.zeros_like(mean) if is_all else mean
