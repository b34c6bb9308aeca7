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

Where the kernel regression of the embedding is at hand, so is that of the indicator, which tells
of a word alone: r(x, c), as a fourth number. Which concepts are suggested then goes by

    (r + b·q) / (θᶜ^e · pᶜ^((1 - e) / 2))

with pᶜ the share of images that carry c, and θᶜ what half as many images reach that do not know
their own tags: a word is suggested where it is likely for that word, and neither frequent words nor
those that look like anything come first everywhere. What was chosen so is likelier than others of
its numbers: the logit is scaled and moved to what the first suggestions for such images show.

Letters: n rows, C concepts, D dimensions, k neighbours.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from scipy import sparse

from ..search import CodeIndex
from ..utils.threads import on_one_thread, product

__all__ = ["NUMBERS", "Suggester", "learn_calibration", "whitened"]

_RIDGE = 0.03  # λ, as a share of Σ's mean eigenvalue
_N_NEAR = 100  # k
_SHARPNESS = 20.0  # t, of similarities beside the largest one
_FLOOR = 0.05  # δ
_N_WITHOUT = 60_000  # pairs of an image and a concept that it does not carry, to learn from
_N_ROWS = 1024  # that the logit is learned from
_OF_SHARES = 0.35  # b
_OF_THRESHOLDS = 0.6  # e
_REACHED = 0.5  # of as many images as carry a concept
_LEAST_LIKELY = 0.01  # added to r before its logarithm is taken
_N_FIRST = 5  # suggestions that the logit is moved to
_DEFAULT_PRIOR = 0.15  # prior_weight at which the ranking is as above
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
    likely: np.ndarray | None = None,
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
    likely : ndarray of shape (n', C), default=None
        r of each row that carries anything, as if the regression had not seen it.

    Returns
    -------
    dict or None
        ``"starts"`` (n + 1,) and ``"concepts"``, which the rows carry; ``"slope"``,
        ``"share_slope"``, ``"count_slope"`` and ``"intercept"`` of the logit; where there is
        ``likely``, ``"thresholds"`` (C,) and ``"by_kernel"`` (5,), the logit's numbers with that of
        r before the count's. None where each row carries all concepts, or none does any.
    """
    first = indicator.shape[0] - len(embeddings)
    rows = first + np.flatnonzero(np.diff(indicator.indptr)[first:])
    n_concepts = len(concept_vectors)
    if not len(rows) or indicator[rows].nnz == len(rows) * n_concepts:
        return None
    # Counted over all rows, whatever part the logit is learned from.
    counts = _counts(indicator)
    directions, log_counts = whitened(concept_vectors, counts), np.log(np.maximum(counts, 1))
    # Some numbers need no more than some rows.
    some = np.linspace(0, len(rows) - 1, min(len(rows), _N_ROWS)).astype(np.int64)
    n_without = len(some) * n_concepts - indicator[rows[some]].nnz
    every = max(1, round(n_without / _N_WITHOUT))
    random = np.random.RandomState(0)
    pairs: list[np.ndarray] = []
    is_carried: list[np.ndarray] = []
    for start in range(0, len(some), _BLOCK):
        block = rows[some[start : start + _BLOCK]]
        near = nearness(embeddings[block - first], directions)
        share = shares(embeddings[block - first], index, indicator, block)
        own = indicator[block].toarray() > 0
        # All that are carried, and a share of the many that are not.
        picked = np.nonzero(own | (random.random_sample(own.shape) * every < 1))
        numbers = [near[picked], share[picked], log_counts[picked[1]]]
        if likely is not None:
            numbers.insert(2, _log_likely(likely[some[start : start + _BLOCK]][picked]))
        pairs.append(np.column_stack(numbers))
        is_carried.append(own[picked])
    label, told = np.concatenate(is_carried), np.concatenate(pairs)
    if label.all():
        return None
    weights = np.where(label, 1.0, every)
    by_codes = _logit(told[:, [0, 1, -1]], label, weights)
    found: dict[str, Any] = {
        "starts": indicator.indptr.astype(np.int64),
        "concepts": indicator.indices.astype(np.int64),
        **dict(zip(NUMBERS, by_codes, strict=True)),
    }
    if likely is not None:
        found["thresholds"] = _thresholds(embeddings, indicator, index, likely, counts)
        slopes = np.array(_logit(told, label, weights))
        scale = _scale(found["thresholds"], counts, len(rows))

        def numbers_of(part: np.ndarray) -> tuple[np.ndarray, ...]:
            """Return logits, ranks and what is carried, (b, C), of some of the rows."""
            block = rows[part]
            near = nearness(embeddings[block], directions)
            share = shares(embeddings[block], index, indicator, block)
            logits = _logits(slopes, near, share, likely[part], log_counts)
            rank = _together(likely[part], share) / scale
            return logits, rank, indicator[block].toarray() > 0

        parts = (some[start : start + _BLOCK] for start in range(0, len(some), _BLOCK))
        found["by_kernel"] = _moved_to_first(slopes, map(numbers_of, parts))
    return found


def _moved_to_first(slopes: np.ndarray, rows: Iterable[tuple[np.ndarray, ...]]) -> np.ndarray:
    """Return a logit's numbers, stretched and moved to what the first suggestions show."""
    told, label = [np.zeros(0)], [np.zeros(0, dtype=bool)]
    for logits, rank, carried in rows:
        first = np.argsort(-rank, axis=1, kind="stable")[:, :_N_FIRST]
        told.append(np.take_along_axis(logits, first, axis=1).ravel())
        label.append(np.take_along_axis(carried, first, axis=1).ravel())
    is_right, values = np.concatenate(label), np.concatenate(told)[:, None]
    if not 0 < is_right.sum() < len(is_right):
        return slopes
    stretch, move = _logit(values, is_right, np.ones(len(is_right)))
    moved = slopes * max(stretch, 0.0)
    moved[-1] += move
    return moved


def _scale(thresholds: np.ndarray, counts: np.ndarray, n_rows: int) -> np.ndarray:
    """Return what r + b·q is divided by, (C,)."""
    share = np.maximum(counts, 1) / max(n_rows, 1)
    return thresholds**_OF_THRESHOLDS * share ** ((1 - _OF_THRESHOLDS) / 2)


def _logits(
    slopes: np.ndarray,
    near: np.ndarray,
    share: np.ndarray,
    likely: np.ndarray,
    log_counts: np.ndarray,
) -> np.ndarray:
    """Return logits (n, C), from the numbers that tell."""
    slope, share_slope, kernel_slope, count_slope, intercept = slopes
    told = slope * near + share_slope * share + kernel_slope * _log_likely(likely)
    return told + (count_slope * log_counts + intercept)


def _logit(told: np.ndarray, label: np.ndarray, weights: np.ndarray) -> list[float]:
    """Return the slopes of a logit, the count's last, and its intercept."""
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=1e3, max_iter=1000).fit(told, label, weights)
    *slopes, count_slope = fitted.coef_[0]
    # Where embeddings say nothing, chance may turn a slope: nearer is never less likely.
    slopes = [max(float(slope), 0.0) for slope in slopes]
    return [*slopes, float(count_slope), float(fitted.intercept_[0])]


def _log_likely(likely: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(likely, 0) + _LEAST_LIKELY)


def _together(likely: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Return r + b·q, from r and log(q + δ)."""
    return likely + _OF_SHARES * (np.exp(share) - _FLOOR)


def _thresholds(
    embeddings: np.ndarray,
    indicator: sparse.csr_array,
    index: CodeIndex,
    likely: np.ndarray,
    counts: np.ndarray,
) -> np.ndarray:
    """Return θ (C,), float32."""
    rows = np.flatnonzero(np.diff(indicator.indptr))
    reached = np.empty_like(likely)
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        share = shares(embeddings[block], index, indicator, block)
        reached[start : start + _BLOCK] = _together(likely[start : start + _BLOCK], share)
    place = np.clip(np.round(_REACHED * counts), 1, len(rows)).astype(np.int64)
    found = np.empty(len(counts), dtype=np.float32)
    for one in np.unique(place):  # few different ones, since most concepts are rare
        own = place == one
        found[own] = np.partition(reached[:, own], len(rows) - one, axis=0)[len(rows) - one]
    return np.maximum(found, np.float32(1e-4))


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
        tagged = np.flatnonzero(np.diff(starts))
        self._of_landmarks = self._carried[tagged]
        if "thresholds" in calibration:
            self._scale = _scale(calibration["thresholds"], counts, len(tagged))

    def suggest(
        self,
        embeddings: np.ndarray,
        n_tags: int,
        prior_weight: float,
        own: sparse.csr_array | None = None,
        likely_of: Callable[[slice, sparse.csr_array], np.ndarray] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return names (n, t) and how likely they are, (n, t) float32, the most likely first.

        The t concepts are those that rank first, in which frequency counts by ``prior_weight``;
        ``own`` (n, C) are those that an image has, which are left out. ``likely_of`` gives r of
        some rows, from the concepts of the landmarks.
        """
        n_tags = min(n_tags, len(self._names))
        names = np.full((len(embeddings), n_tags), None, dtype=object)
        scores = np.zeros((len(embeddings), n_tags), dtype=np.float32)
        for start in range(0, len(embeddings), _BLOCK):
            block = slice(start, start + _BLOCK)
            rows = np.asarray(embeddings[block])
            near = nearness(rows, self._directions)
            share = shares(rows, self._index, self._carried)
            if likely_of is None:
                likely, rank = self._by_codes(near, share, prior_weight)
            else:
                told = likely_of(block, self._of_landmarks)
                likely, rank = self._by_kernel(near, share, told, prior_weight)
            if own is not None:
                # Nobody needs to be told what an image has.
                rank[own[block].toarray() > 0] = -np.inf
            chosen = np.argsort(-rank, axis=1, kind="stable")[:, :n_tags]
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

    def _by_codes(
        self, near: np.ndarray, share: np.ndarray, prior_weight: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return logits and ranks (n, C), the larger the better."""
        known = self.calibration
        likely = known["slope"] * near + known["share_slope"] * share
        # A share of neighbours is that of all images as well: its root is taken for frequency,
        # as is proven where shares are divided by the root of a count.
        half = known["share_slope"] / 2
        rank = likely + (prior_weight * (known["count_slope"] + half) - half) * self._log_counts
        likely += known["count_slope"] * self._log_counts + known["intercept"]
        return likely, rank

    def _by_kernel(
        self, near: np.ndarray, share: np.ndarray, told: np.ndarray, prior_weight: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the same where the regression of the indicator is at hand."""
        likely = _logits(self.calibration["by_kernel"], near, share, told, self._log_counts)
        # At 1 the most likely ones as they are.
        power = (1 - prior_weight) / (1 - _DEFAULT_PRIOR)
        return likely, _together(told, share) / self._scale**power
