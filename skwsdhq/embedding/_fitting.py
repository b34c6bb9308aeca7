"""The fit of a kernel regression: to rows that are all landmarks, or by sums over many more."""

from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from ..sphere import normalize_rows
from ..utils.threads import one_openmp_thread, without_autocast
from ..utils.together import sharing
from ._kernel import (
    evident_alpha,
    leave_one_out,
    mean_direction,
    rbf_kernel,
    row_trust,
    tag_agreement,
    tag_directions,
    tag_targets,
    word_weights,
)
from ._solving import cholesky, solved
from ._sums import (
    Begun,
    KernelSums,
    begin_sums,
    consistency_of,
    kernel_sums,
    mean_of_directions,
    places_of,
    solve_sums,
)

__all__ = ["Regression", "begin_regression", "fit_regression", "solve_regression"]

_LOOKED_AT = 8192  # rows, beside landmarks, by which the share of wrong tags is estimated


class Regression(NamedTuple):
    """Hold a kernel regression, and what places a row that comes later by its own tags too."""

    landmarks: np.ndarray  # (m, d) unit rows
    coefs: np.ndarray  # (m, D)
    consistency: float
    noise: np.ndarray  # (m,) variance of the noise of landmarks, each for n / m rows
    mean_target: np.ndarray  # (D,) what all targets have in common, which is taken from them
    mean_trust: float  # of rows, before it is scaled to a mean of 1
    alpha: float  # the ridge, given or found
    word_weights: np.ndarray  # (C,) how much each concept tells

    def as_kernel(self, gamma: float) -> dict[str, Any]:
        """Return ``kernel_`` of an estimator."""
        return {
            "landmarks": self.landmarks,
            "coefs": self.coefs,
            "gamma": gamma,
            "consistency": self.consistency,
            "alpha": self.alpha,
            "noise": self.noise,
            "mean_target": self.mean_target,
            "mean_trust": self.mean_trust,
            "word_weights": self.word_weights,
        }


def fit_regression(  # noqa: PLR0913 - the parameters of the regression, by name
    units: Any,
    indicator: sparse.csr_array,
    concept_vectors: np.ndarray,
    *,
    gamma: float,
    alpha: float | str,
    consistency: float | str,
    max_landmarks: int,
    random_state: np.random.RandomState,
    specificity: float = 0.0,
) -> Regression:
    """Fit kernel ridge regression of rows' tag vectors, trusting tags as far as others agree.

    A first regression says of each row what the tags of images that look like it would be, its own
    left out. A tag counts exp(consistency · cosine to that), times what its word tells at all; a
    row counts the square root of the mean over its tags. The second regression is that of the
    weighted tags.

    Parameters
    ----------
    units : ndarray of shape (n, d), or what gives such rows by their numbers
        Unit rows.
    indicator : csr_array of shape (n, C)
        At least one row has a concept; rows without one take no part.
    concept_vectors : ndarray of shape (C, D)
    gamma : float
        Of the kernel.
    alpha : float or "auto"
        Ridge: how noisy a row's tag vector is against how much one differs from another; "auto"
        is what :func:`evident_alpha` finds.
    consistency : float or "auto"
        0 trusts all tags alike; "auto" is 10·w·(1 − w), with w the :func:`wrong_share` of the
        tags: none where all seem right, and none where nothing can be told of any.
    max_landmarks : int
        With more tagged rows than that, the kernel compares with so many of them, drawn at random,
        and is fitted to all (Nyström's approximation); else the regression is exact.
    random_state : numpy RandomState
    specificity : float, default=0.0
        See :func:`word_weights`.
    """
    return begin_regression(
        units,
        indicator,
        concept_vectors,
        gamma=gamma,
        alpha=alpha,
        consistency=consistency,
        max_landmarks=max_landmarks,
        random_state=random_state,
        specificity=specificity,
    )[0]


def begin_regression(
    units: Any,
    indicator: sparse.csr_array,
    concept_vectors: np.ndarray,
    *,
    max_landmarks: int,
    specificity: float = 0.0,
    **options: Any,
) -> tuple[Regression, Begun | None, KernelSums | None]:
    """Return what :func:`fit_regression` does, and what more rows are added to.

    That are the sums, and what these depend on; None and None where all tagged rows are landmarks.
    """
    rows = np.flatnonzero(np.diff(indicator.indptr))
    of_words = word_weights(indicator[rows], specificity)
    if len(rows) <= max_landmarks:
        with sharing(), one_openmp_thread("torch"), without_autocast():
            own = np.asarray(units[rows], dtype=np.float32)
            found = _fit_to_all(own, indicator[rows], concept_vectors, of_words, **options)
        return found, None, None
    picked = np.sort(options["random_state"].permutation(len(rows))[:max_landmarks])
    with sharing(), one_openmp_thread("torch"), without_autocast():
        begun = _begun(units, rows, indicator[rows], picked, concept_vectors, of_words, options)
        places = places_of(rows[picked], indicator.shape[0])
        sums = kernel_sums(units, indicator, places, begun)
        return solve_regression(sums, begun), begun, sums


def _fit_to_all(
    units: np.ndarray,
    indicator: sparse.csr_array,
    concept_vectors: np.ndarray,
    of_words: np.ndarray,
    *,
    gamma: float,
    alpha: float | str,
    consistency: float | str,
    random_state: np.random.RandomState,
) -> Regression:
    """Fit the regression of which all rows are landmarks."""
    n_rows = len(units)
    kernel = rbf_kernel(units, units, gamma).astype(np.float64)
    weights = of_words[indicator.indices]
    targets = tag_targets(indicator, concept_vectors, weights)
    if isinstance(alpha, str):
        alpha = evident_alpha(kernel, targets)
    trust, mean_trust = np.ones(n_rows), 1.0
    if consistency != 0:
        expected = normalize_rows(leave_one_out(kernel, targets, alpha)).astype(np.float32)
        agreement = tag_agreement(indicator, indicator.indices, concept_vectors, expected)
        if isinstance(consistency, str):
            shuffled = random_state.permutation(indicator.indices)
            chance = tag_agreement(indicator, shuffled, concept_vectors, expected)
            consistency = consistency_of(agreement, chance)
        trusted = np.exp(consistency * agreement)
        trust = row_trust(indicator, trusted)
        mean_trust = float(trust.mean())
        trust /= mean_trust
        weights = weights * trusted
        targets = tag_targets(indicator, concept_vectors, weights)
    factor = cholesky(kernel, alpha / trust)
    coefs = solved(targets.astype(np.float64), factor).numpy()
    directions = tag_directions(indicator, concept_vectors, weights)
    return Regression(
        units,
        coefs.astype(np.float32),
        float(consistency),
        (alpha / trust).astype(np.float32),
        mean_direction(directions),
        mean_trust,
        float(alpha),
        of_words,
    )


def _begun(
    units: Any,
    rows: np.ndarray,
    indicator: sparse.csr_array,
    picked: np.ndarray,
    concept_vectors: np.ndarray,
    of_words: np.ndarray,
    options: dict[str, Any],
) -> Begun:
    """Return what sums depend on: ``picked`` are landmarks among the tagged ``rows``."""
    landmarks = np.asarray(units[rows[picked]], dtype=np.float32)
    kernel = rbf_kernel(landmarks, landmarks, options["gamma"]).astype(np.float64)
    mean = mean_of_directions(indicator, concept_vectors, of_words)
    of_landmarks = indicator[picked]
    weights = of_words[of_landmarks.indices]
    targets = tag_directions(of_landmarks, concept_vectors, weights) - mean
    targets = targets.astype(np.float32)
    alpha = options["alpha"]
    if isinstance(alpha, str):
        alpha = evident_alpha(kernel, targets)
    # How far tags are wrong is told by a part of very many rows.
    looked = np.linspace(0, len(rows) - 1, min(len(rows), _LOOKED_AT)).round().astype(np.int64)
    looked = np.union1d(looked, picked)
    return begin_sums(
        lambda numbers: np.asarray(units[rows[looked[numbers]]], dtype=np.float32),
        indicator[looked],
        concept_vectors,
        np.searchsorted(looked, picked),
        kernel=kernel,
        landmarks=landmarks,
        targets=targets,
        word_weights=of_words,
        **{**options, "alpha": alpha},
    )


def solve_regression(sums: KernelSums, begun: Begun) -> Regression:
    """Return the regression that sums over rows speak for."""
    coefs, mean_target, mean_trust = solve_sums(sums, begun)
    noise = begun.alpha / (begun.trust / mean_trust) * (len(begun.landmarks) / sums.n_rows)
    return Regression(
        begun.landmarks,
        coefs.astype(np.float32),
        begun.consistency,
        noise.astype(np.float32),
        mean_target,
        mean_trust,
        float(begun.alpha),
        begun.word_weights,
    )
