"""A kernel regression that goes on with more rows, as they come.

While all tagged rows fit among the landmarks, they are kept, and the regression is that of a fit to
all of them. From then on landmarks, and how far tags are trusted, are fixed: of each batch its sums
remain, which are those of a fit by the same landmarks to all rows.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from ..persistence.checks import check_integers, check_matrix, check_vector, need
from ..utils.threads import on_one_thread, product
from ..utils.together import sharing
from ._fitting import Regression, begin_regression, solve_regression
from ._kernel import rbf_kernel
from ._later import knows_tags
from ._solving import cholesky
from ._sums import Begun, KernelSums, kernel_sums

__all__ = ["GoneOn", "check_stream", "go_on"]

_SUMS = tuple(KernelSums.__annotations__)


class GoneOn(NamedTuple):
    """Hold a regression, and what it goes on from next time."""

    regression: Regression
    stream: dict[str, Any]


def go_on(
    kernel: Mapping[str, Any],
    stream: Mapping[str, Any] | None,
    units: Any,
    indicator: sparse.csr_array,
    concept_vectors: np.ndarray,
    **options: Any,
) -> GoneOn:
    """Return the regression of all rows so far and of these.

    Parameters
    ----------
    kernel : mapping
        ``kernel_`` of the regression so far; empty at the first call.
    stream : mapping or None
        What the last call gave; None at the first, and behind a fit: its landmarks then stand for
        its rows.
    units : ndarray of shape (n, d), or what gives such rows by their numbers
        Unit rows.
    indicator : csr_array of shape (n, C)
        Rows without a concept take no part.
    concept_vectors : ndarray of shape (C, D)
    **options : dict
        Those of :func:`~skwsdhq.embedding._fitting.fit_regression`.
    """
    if kernel and stream is None:
        begun, sums = _of_fit(kernel, concept_vectors)
    elif stream is not None and "gram" in stream:
        begun, sums = _of_stream(kernel, stream, concept_vectors)
    else:
        units, indicator = _joined(kernel, stream, units, indicator)
        found, first, summed = begin_regression(units, indicator, concept_vectors, **options)
        if first is None or summed is None:
            return GoneOn(found, {"starts": indicator.indptr, "concepts": indicator.indices})
        return GoneOn(found, _as_stream(first, summed))
    places = np.full(indicator.shape[0], -1)  # no row is a landmark
    with sharing():
        sums = sums + kernel_sums(units, indicator, places, begun)
        return GoneOn(solve_regression(sums, begun), _as_stream(begun, sums))


def _joined(
    kernel: Mapping[str, Any],
    stream: Mapping[str, Any] | None,
    units: Any,
    indicator: sparse.csr_array,
) -> tuple[np.ndarray, sparse.csr_array]:
    """Return tagged rows, each once, behind those that are kept so far."""
    rows = np.flatnonzero(np.diff(indicator.indptr))
    units, indicator = np.asarray(units[rows], dtype=np.float32), indicator[rows]
    if kernel and stream is not None:
        starts, concepts = stream["starts"], stream["concepts"]
        ones = np.ones(len(concepts), dtype=indicator.dtype)
        shape = (len(starts) - 1, indicator.shape[1])
        kept = sparse.csr_array((ones, concepts, starts), shape=shape)
        units = np.concatenate([kernel["landmarks"], units])
        indicator = sparse.csr_array(sparse.vstack([kept, indicator]))
    # A row that comes again, as in another round over the same images, tells nothing new.
    seen: dict[bytes, int] = {}
    for i, unit in enumerate(units):
        own = indicator.indices[indicator.indptr[i] : indicator.indptr[i + 1]]
        seen.setdefault(unit.tobytes() + np.sort(own).astype(np.int64).tobytes(), i)
    first = np.array(list(seen.values()))
    indicator = sparse.csr_array(indicator[first])
    indicator.indptr = indicator.indptr.astype(np.int64)
    indicator.indices = indicator.indices.astype(np.int64)
    return units[first], indicator


def _as_stream(begun: Begun, sums: KernelSums) -> dict[str, Any]:
    """Return what is kept of sums, and of what they depend on, beside the regression."""
    return {
        "factor": begun.factor,
        "first": begun.coefs,
        "landmark_trust": begun.trust,
        **sums.by_name(),
    }


def _of_stream(
    kernel: Mapping[str, Any], stream: Mapping[str, Any], concept_vectors: np.ndarray
) -> tuple[Begun, KernelSums]:
    begun = _begun_of(
        kernel, concept_vectors, stream["factor"], stream["first"], stream["landmark_trust"]
    )
    return begun, KernelSums(**{name: stream[name] for name in _SUMS})


@on_one_thread
def _of_fit(kernel: Mapping[str, Any], concept_vectors: np.ndarray) -> tuple[Begun, KernelSums]:
    """Return the sums that a fit has solved, as its landmarks, noise and coefficients tell.

    A landmark of noise α / t stands for t rows. So ΦᵀTΦ = Lᵀ diag(t) L, the exact one where all
    rows are landmarks; and with A the coefficients, the moments are (ΦᵀTΦ + αI) Lᵀ A and what the
    mean took from them.
    """
    landmarks, alpha = kernel["landmarks"], kernel["alpha"]
    gram = rbf_kernel(landmarks, landmarks, kernel["gamma"]).astype(np.float64)
    factor = cholesky(gram, np.zeros(len(gram))).numpy()
    stands_for = alpha / kernel["noise"].astype(np.float64)
    n_rows, mean_trust = max(1, round(stands_for.sum())), kernel["mean_trust"]
    mean = kernel["mean_target"].astype(np.float64)
    inner = product(factor.T * stands_for, factor)
    weight = product(factor.T, stands_for[:, None])[:, 0] * mean_trust
    solved = product(factor.T, kernel["coefs"].astype(np.float64))
    moments = mean_trust * (product(inner, solved) + alpha * solved) + weight[:, None] * mean
    sums = KernelSums(
        inner * mean_trust,
        moments,
        weight,
        n_rows,
        mean_trust * n_rows,
        mean * n_rows,
        float(n_rows),  # directions are of length 1
    )
    trust = stands_for * mean_trust * (len(landmarks) / n_rows)
    narrow = factor.astype(np.float32)
    return _begun_of(kernel, concept_vectors, narrow, kernel["coefs"], trust), sums


def _begun_of(
    kernel: Mapping[str, Any],
    concept_vectors: np.ndarray,
    factor: np.ndarray,
    coefs: np.ndarray,
    trust: np.ndarray,
) -> Begun:
    return Begun(
        landmarks=kernel["landmarks"],
        factor=factor,
        gamma=kernel["gamma"],
        alpha=kernel["alpha"],
        consistency=kernel["consistency"],
        word_weights=kernel["word_weights"],
        concept_vectors=concept_vectors,
        coefs=coefs,
        left_out=None,
        trust=trust,
    )


def check_stream(stream: Any, kernel: Any, enhancer: Any) -> None:
    """Raise LoadError where what a stream goes on from does not fit its regression."""
    if stream is None:
        return
    need(isinstance(stream, dict) and isinstance(kernel, dict), "a regression beside its stream")
    need(knows_tags(kernel), "noise of the kernel beside its stream")
    vectors = getattr(enhancer, "estimator", enhancer).concept_vectors_
    m, n_dims = kernel["coefs"].shape
    if set(stream) == {"starts", "concepts"}:
        starts, concepts = stream["starts"], stream["concepts"]
        check_integers(concepts, "concepts of a stream", (np.size(concepts),), len(vectors))
        check_integers(starts, "starts of a stream", (m + 1,), len(concepts) + 1)
        rises = starts[0] == 0 and (np.diff(starts) > 0).all() and starts[-1] == len(concepts)
        need(rises, "concepts of each row of a stream")
        return
    sums = {"factor", "first", "landmark_trust", *_SUMS}
    need(set(stream) == sums, "the whole sums of a stream")
    for name, width in [("factor", m), ("gram", m), ("first", n_dims), ("moments", n_dims)]:
        check_matrix(stream[name], f"{name} of a stream", m, width)
    for name, length in [("landmark_trust", m), ("weight", m), ("directions", n_dims)]:
        check_vector(stream[name], f"{name} of a stream", length)
    need((stream["landmark_trust"] > 0).all(), "positive trust of landmarks")
    n_rows = stream["n_rows"]
    need(isinstance(n_rows, int) and n_rows > 0, "rows of a stream")
    for name in ("trust", "squares"):
        value = stream[name]
        need(isinstance(value, float) and 0 < value < np.inf, f"a positive {name} of a stream")
