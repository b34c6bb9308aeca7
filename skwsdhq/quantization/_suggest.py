"""Tags for images: how near an embedding is to each concept, read as how likely a person agrees.

An embedding is near a concept also because it is near others that are like it. So it is compared
in the metric of what tags are like on the whole, Σ = Vᵀ·diag(p)·V for concept vectors V and the
shares p of images that carry them:

    s(z, c) = vᶜ·(Σ + λI)⁻¹·z / sqrt(vᶜ·(Σ + λI)⁻¹·vᶜ)

How likely concept c is then follows from s and from how frequent c is, by a logistic regression
(Platt scaling) over images that carry it and images that do not.

Letters: n rows, C concepts, D dimensions.
"""

from typing import Any

import numpy as np
from scipy import sparse

from ..utils.threads import on_one_thread, product

__all__ = ["Suggester", "learn_calibration", "whitened"]

_RIDGE = 0.03  # λ, as a share of Σ's mean eigenvalue
_N_WITHOUT = 200_000  # pairs of an image and a concept that it does not carry, to learn from
_BLOCK = 1024  # rows that are compared with all concepts at once


@on_one_thread
def whitened(concept_vectors: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return (C, D), float32: an embedding's inner product with row c is s(z, c)."""
    vectors = concept_vectors.astype(np.float64)
    n_dims = vectors.shape[1]
    shares = np.maximum(counts, 1) / np.maximum(counts, 1).sum()
    metric = product(vectors.T * shares, vectors)
    metric += _RIDGE * max(np.trace(metric) / n_dims, 1e-12) * np.eye(n_dims)
    rows = np.linalg.solve(metric, vectors.T).T
    lengths = np.sqrt(np.einsum("cd,cd->c", rows, vectors))
    return (rows / np.maximum(lengths, 1e-12)[:, None]).astype(np.float32)


def nearness(embeddings: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Return (n, C): s of each row and concept, each row's scaled to a root mean square of 1.

    So that how long a row is, or how far an image is from anything known, makes no difference.
    """
    scores = product(np.asarray(embeddings, dtype=np.float32), directions.T)
    size = np.sqrt(np.square(scores).mean(axis=1, keepdims=True))
    return scores / np.where(size > 0, size, 1)


def learn_calibration(
    embeddings: np.ndarray, indicator: sparse.csr_array, concept_vectors: np.ndarray
) -> dict[str, Any] | None:
    """Learn how nearness and frequency make a probability.

    Parameters
    ----------
    embeddings : ndarray of shape (n, D)
        As images that come later would have them, at best.
    indicator : csr_array of shape (n, C)
        Which concepts the rows carry. Rows without any say nothing, and are left out.
    concept_vectors : ndarray of shape (C, D)

    Returns
    -------
    dict or None
        ``"counts"`` (C,), rows of each concept, and ``"slope"``, ``"count_slope"`` and
        ``"intercept"`` of the logit. None where each row carries all concepts, or none does any.
    """
    from sklearn.linear_model import LogisticRegression

    # Counted over all rows, whatever part the logit is learned from.
    counts = np.asarray(indicator.sum(axis=0)).ravel().astype(np.int64)
    rows = np.flatnonzero(np.diff(indicator.indptr))
    n_concepts = len(concept_vectors)
    if not len(rows) or indicator.nnz == len(rows) * n_concepts:
        return None
    # Three numbers need no more than some rows.
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), 8192)).astype(np.int64)]
    embeddings, carried = embeddings[rows], sparse.csr_array(indicator[rows])
    directions = whitened(concept_vectors, counts)
    n_pairs = len(rows) * n_concepts
    every = max(1, round((n_pairs - carried.nnz) / _N_WITHOUT))
    random = np.random.RandomState(0)
    pairs, is_carried = [], []
    log_counts = np.log(np.maximum(counts, 1))
    for start in range(0, len(rows), _BLOCK):
        block = slice(start, start + _BLOCK)
        near, own = nearness(embeddings[block], directions), carried[block].toarray() > 0
        # All that are carried, and a share of the many that are not.
        row, concept = np.nonzero(own | (random.random_sample(own.shape) * every < 1))
        pairs.append(np.column_stack([near[row, concept], log_counts[concept]]))
        is_carried.append(own[row, concept])
    label = np.concatenate(is_carried)
    if label.all():
        return None
    fitted = LogisticRegression(C=1e3, max_iter=1000).fit(
        np.concatenate(pairs), label, np.where(label, 1.0, every)
    )
    # Where embeddings say nothing, chance may turn the slope: nearer is never less likely.
    slope, count_slope = fitted.coef_[0]
    return {
        "counts": counts,
        "slope": max(float(slope), 0.0),
        "count_slope": float(count_slope),
        "intercept": float(fitted.intercept_[0]),
    }


class Suggester:
    """Suggest concepts for embeddings.

    Parameters
    ----------
    concept_vectors : ndarray of shape (C, D)
    names : ndarray of shape (C,)
    calibration : dict
        See :func:`learn_calibration`.
    """

    def __init__(
        self, concept_vectors: np.ndarray, names: np.ndarray, calibration: dict[str, Any]
    ) -> None:
        self.calibration = calibration
        self._names = np.asarray(names, dtype=object)
        self._directions = whitened(concept_vectors, calibration["counts"])
        self._log_counts = np.log(np.maximum(calibration["counts"], 1)).astype(np.float32)

    def suggest(
        self,
        embeddings: np.ndarray,
        n_tags: int,
        prior_weight: float,
        own: sparse.csr_array | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return names (n, t) and how likely they are, (n, t) float32, the most likely first.

        The t concepts are those of the largest logit in which frequency counts by
        ``prior_weight``; ``own`` (n, C) are those that an image has, which are left out.
        """
        n_tags = min(n_tags, len(self._names))
        names = np.full((len(embeddings), n_tags), None, dtype=object)
        scores = np.zeros((len(embeddings), n_tags), dtype=np.float32)
        known = self.calibration
        for start in range(0, len(embeddings), _BLOCK):
            block = slice(start, start + _BLOCK)
            near = known["slope"] * nearness(embeddings[block], self._directions)
            prior = known["count_slope"] * self._log_counts
            rank = near + prior_weight * prior
            if own is not None:
                # Nobody needs to be told what an image has.
                rank[own[block].toarray() > 0] = -np.inf
            chosen = np.argsort(-rank, axis=1, kind="stable")[:, :n_tags]
            logit = np.take_along_axis(near + prior + known["intercept"], chosen, axis=1)
            missing = np.isneginf(np.take_along_axis(rank, chosen, axis=1))
            logit[missing] = -np.inf
            order = np.argsort(-logit, axis=1, kind="stable")
            logit, chosen = (np.take_along_axis(a, order, axis=1) for a in (logit, chosen))
            with np.errstate(over="ignore"):  # exp of a large number: a probability of 0
                scores[block] = 1 / (1 + np.exp(-logit))
            found = self._names[chosen]
            found[np.isneginf(logit)] = None
            names[block] = found
        return names, scores
