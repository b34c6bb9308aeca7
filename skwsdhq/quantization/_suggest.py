"""Tags for images: how near an embedding is to concepts, and what images of near codes carry.

An embedding is near a concept also because it is near others that are like it. So it is compared
in the metric of what tags are like on the whole, Σ = Vᵀ·diag(p)·V for concept vectors V and the
shares p of images that carry them:

    s(z, c) = vᶜ·(Σ + λI)⁻¹·z / sqrt(vᶜ·(Σ + λI)⁻¹·vᶜ)

Fitted images of near codes know what words do not tell: tags that say nothing alike, and go along
on such images. Those that carry c make up a share q(z, c) of the k nearest, each weighed by
exp(t·similarity).

How likely concept c is then follows from s, from log(q + δ) and from the logarithm of the concept's
count, by a logistic regression (Platt scaling) over images that carry it and images that do not.

Letters: n rows, C concepts, D dimensions, k neighbours.
"""

from typing import Any

import numpy as np
from scipy import sparse

from ..search import CodeIndex
from ..utils.threads import on_one_thread, product

__all__ = ["Suggester", "learn_calibration", "whitened"]

_RIDGE = 0.03  # λ, as a share of Σ's mean eigenvalue
_N_NEAR = 100  # k
_SHARPNESS = 20.0  # t, of similarities beside the largest one
_FLOOR = 0.05  # δ
_N_WITHOUT = 200_000  # pairs of an image and a concept that it does not carry, to learn from
_N_ROWS = 1024  # that the logit is learned from
_BLOCK = 1024  # rows that are compared with all concepts at once
NUMBERS = ("slope", "share_slope", "count_slope", "intercept")


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


def shares(
    embeddings: np.ndarray, index: CodeIndex, carried: sparse.csr_array, own: Any = None
) -> np.ndarray:
    """Return (n, C), float32: log(q + δ) of each row and concept.

    ``own`` are rows of the index that each leaves out, where it is one of them itself.
    """
    similarities, near = index.search(embeddings, _N_NEAR, exclude=own)
    is_there = np.isfinite(similarities)
    values = np.where(is_there, similarities, 0)
    # Beside the largest one, as embeddings may be of any length.
    top = np.maximum(np.abs(values).max(axis=1, keepdims=True, initial=0), 1e-12)
    weights = np.where(is_there, np.exp(_SHARPNESS * (values / top - 1)), 0)
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-12)
    n, k = near.shape
    starts = np.arange(0, n * k + 1, k) if k else np.zeros(n + 1, dtype=np.int64)
    pick = (weights.ravel(), np.where(is_there, near, 0).ravel(), starts)
    weighted = sparse.csr_array(pick, shape=(n, carried.shape[0]))
    return np.log((weighted @ carried).toarray() + _FLOOR).astype(np.float32)


def learn_calibration(
    embeddings: np.ndarray,
    indicator: sparse.csr_array,
    concept_vectors: np.ndarray,
    index: CodeIndex,
) -> dict[str, Any] | None:
    """Learn how nearness, neighbours and frequency make a probability.

    Parameters
    ----------
    embeddings : ndarray of shape (n, D)
        As images that come later would have them, at best.
    indicator : csr_array of shape (n, C)
        Which concepts the rows carry. Rows without any say nothing, and are left out. Where it has
        more rows than there are embeddings, these are of the last ones.
    concept_vectors : ndarray of shape (C, D)
    index : CodeIndex
        Over the codes of the rows.

    Returns
    -------
    dict or None
        ``"starts"`` (n + 1,) and ``"concepts"``, which the rows carry; ``"slope"``,
        ``"share_slope"``, ``"count_slope"`` and ``"intercept"`` of the logit. None where each row
        carries all concepts, or none does any.
    """
    from sklearn.linear_model import LogisticRegression

    first = indicator.shape[0] - len(embeddings)
    rows = first + np.flatnonzero(np.diff(indicator.indptr)[first:])
    n_concepts = len(concept_vectors)
    if not len(rows) or indicator[rows].nnz == len(rows) * n_concepts:
        return None
    # Three numbers need no more than some rows.
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), _N_ROWS)).astype(np.int64)]
    # Counted over all rows, whatever part the logit is learned from.
    counts = _counts(indicator)
    directions, log_counts = whitened(concept_vectors, counts), np.log(np.maximum(counts, 1))
    n_without = len(rows) * n_concepts - indicator[rows].nnz
    every = max(1, round(n_without / _N_WITHOUT))
    random = np.random.RandomState(0)
    pairs, is_carried = [], []
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        near = nearness(embeddings[block - first], directions)
        share = shares(embeddings[block - first], index, indicator, block)
        own = indicator[block].toarray() > 0
        # All that are carried, and a share of the many that are not.
        picked = np.nonzero(own | (random.random_sample(own.shape) * every < 1))
        pairs.append(np.column_stack([near[picked], share[picked], log_counts[picked[1]]]))
        is_carried.append(own[picked])
    label = np.concatenate(is_carried)
    if label.all():
        return None
    fitted = LogisticRegression(C=1e3, max_iter=1000).fit(
        np.concatenate(pairs), label, np.where(label, 1.0, every)
    )
    # Where embeddings say nothing, chance may turn a slope: nearer is never less likely.
    slope, share_slope, count_slope = fitted.coef_[0]
    return {
        "starts": indicator.indptr.astype(np.int64),
        "concepts": indicator.indices.astype(np.int64),
        "slope": max(float(slope), 0.0),
        "share_slope": max(float(share_slope), 0.0),
        "count_slope": float(count_slope),
        "intercept": float(fitted.intercept_[0]),
    }


def _counts(indicator: sparse.csr_array) -> np.ndarray:
    """Return how many rows carry each concept, (C,)."""
    return np.asarray(indicator.sum(axis=0)).ravel().astype(np.int64)


class Suggester:
    """Suggest concepts for embeddings.

    Parameters
    ----------
    concept_vectors : ndarray of shape (C, D)
    names : ndarray of shape (C,)
    calibration : dict
        See :func:`learn_calibration`.
    index : CodeIndex
        Over the codes of the rows that it was learned from.
    """

    def __init__(
        self,
        concept_vectors: np.ndarray,
        names: np.ndarray,
        calibration: dict[str, Any],
        index: CodeIndex,
    ) -> None:
        self.calibration, self._index = calibration, index
        self._names = np.asarray(names, dtype=object)
        starts, concepts = calibration["starts"], calibration["concepts"]
        ones = np.ones(len(concepts), dtype=np.float32)
        shape = len(starts) - 1, len(concept_vectors)
        self._carried = sparse.csr_array((ones, concepts, starts), shape=shape)
        counts = _counts(self._carried)
        self._directions = whitened(concept_vectors, counts)
        self._log_counts = np.log(np.maximum(counts, 1)).astype(np.float32)

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
            rows = np.asarray(embeddings[block])
            likely = known["slope"] * nearness(rows, self._directions)
            likely += known["share_slope"] * shares(rows, self._index, self._carried)
            # A share of neighbours is that of all images as well: its root is taken for frequency,
            # as is proven where shares are divided by the root of a count.
            half = known["share_slope"] / 2
            rank = likely + (prior_weight * (known["count_slope"] + half) - half) * self._log_counts
            if own is not None:
                # Nobody needs to be told what an image has.
                rank[own[block].toarray() > 0] = -np.inf
            chosen = np.argsort(-rank, axis=1, kind="stable")[:, :n_tags]
            likely += known["count_slope"] * self._log_counts + known["intercept"]
            logit = np.take_along_axis(likely, chosen, axis=1)
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
