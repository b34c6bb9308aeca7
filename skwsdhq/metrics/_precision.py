"""Average precision of ranked relevance: formulas on arrays."""

from typing import Any

import numpy as np

from ..utils.validation import check_choice, check_whole

__all__ = [
    "average_precision",
    "check_top_k",
    "expected_average_precision",
    "ranked_average_precision",
    "tie_groups",
]

# What each choice means stands in `average_precision`; all functions of this room take the same.
NORMALIZERS = ("retrieved", "relevant", "min")
ZERO_RELEVANCE = ("skip", "zero")
TIES = ("index", "expected")


def average_precision(
    relevance: Any,
    *,
    n_relevant: Any = None,
    normalizer: str = "retrieved",
    zero_relevance: str = "skip",
    top_k: int | None = None,
    similarities: Any = None,
    ties: str = "index",
) -> float | np.ndarray:
    r"""Compute the average precision of one ranking or of several.

    .. math:: AP = \frac{1}{N} \sum_{i=1}^{R} rel_i \cdot \frac{rel_1 + \dots + rel_i}{i}

    Parameters
    ----------
    relevance : array-like of shape (r,) or (q, r)
        0/1, best row first.
    n_relevant : int or array-like of shape (q,), default=None
        Relevant rows in the whole database, for ``normalizer="relevant"`` and ``"min"``. None
        counts those of `relevance`.
    normalizer : {"retrieved", "relevant", "min"}, default="retrieved"
        N: the relevant rows among the first R (usual with codes, where R = 5000), all relevant
        rows (usual in text retrieval), or the smaller of R and all relevant rows.
    zero_relevance : {"skip", "zero"}, default="skip"
        AP where N is 0: NaN, which ``np.nanmean`` skips, or 0.
    top_k : int, default=None
        R; None is the length of the ranking. Rows past R count only for `n_relevant` and for ties.
    similarities : array-like of the shape of `relevance`, default=None
        Similarities of the ranked rows, descending. Needed by ``ties="expected"``.
    ties : {"index", "expected"}, default="index"
        ``"index"`` takes the ranking as it stands. ``"expected"`` gives the expected AP when rows
        of equal similarity come in random order [1]_. With N = "retrieved" N varies with that
        order where R cuts through equal rows; an order without a relevant row has AP 0.

    Returns
    -------
    float or ndarray of shape (q,)
        From 0 to 1; NaN where N is 0 and `zero_relevance` is "skip".

    References
    ----------
    .. [1] McSherry and Najork, "Computing Information Retrieval Performance Measures Efficiently
       in the Presence of Tied Scores", ECIR 2008, section 3.

    Examples
    --------
    >>> average_precision([1, 0, 1, 0])  # (1/1 + 2/3) / 2
    0.8333...
    >>> average_precision([1, 0], similarities=[0.5, 0.5], ties="expected")  # (1 + 1/2) / 2
    0.75
    """
    check_choice("normalizer", normalizer, NORMALIZERS)
    check_choice("zero_relevance", zero_relevance, ZERO_RELEVANCE)
    check_choice("ties", ties, TIES)
    ranked = _check_relevance(relevance)  # (q, r)
    depth = check_top_k(top_k, ranked.shape[1])
    found = np.count_nonzero(ranked, axis=1)
    totals = found if n_relevant is None else np.broadcast_to(np.asarray(n_relevant), len(ranked))
    if (totals < found).any():
        raise ValueError("n_relevant should be at least the relevant rows of the ranking.")
    if ties == "index":
        values = ranked_average_precision(ranked[:, :depth], totals, normalizer)
    else:
        scores = _check_similarities(similarities, ranked.shape)
        values = np.empty(len(ranked))
        for q in range(len(ranked)):
            sizes, hits = tie_groups(ranked[q], scores[q])
            values[q] = expected_average_precision(sizes, hits, depth, totals[q], normalizer)
    if zero_relevance == "zero":
        values = np.nan_to_num(values, nan=0.0)
    return float(values[0]) if np.ndim(relevance) == 1 else values


def _check_relevance(relevance: Any) -> np.ndarray:
    """Return the relevance of one ranking or of several as bool (q, r)."""
    ranked = np.asarray(relevance)
    if ranked.ndim not in (1, 2):
        raise ValueError(f"relevance should have shape (r,) or (q, r); got {ranked.shape}.")
    if ranked.dtype.kind not in "biuf":
        raise TypeError(f"relevance should be 0/1; got dtype {ranked.dtype}.")
    # Graded relevance is another measure: refuse it instead of counting it as 1.
    if not ((ranked == 0) | (ranked == 1)).all():
        raise ValueError("relevance should hold only 0 and 1.")
    return np.atleast_2d(ranked).astype(bool)


def _check_similarities(similarities: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return similarities (q, r) that descend along each ranking."""
    if similarities is None:
        raise ValueError('ties="expected" needs the similarities of the ranked rows.')
    scores = np.atleast_2d(np.asarray(similarities))
    if scores.shape != shape:
        raise ValueError(
            f"similarities should have the shape of relevance, {shape}; got {scores.shape}."
        )
    if not (scores[:, :-1] >= scores[:, 1:]).all():
        raise ValueError("similarities should descend, best row first, without NaN.")
    return scores


def check_top_k(top_k: int | None, n: int) -> int:
    """Return R, at most n; None is n."""
    return n if top_k is None else min(check_whole("top_k", top_k), n)


def ranked_average_precision(
    relevance: np.ndarray, totals: np.ndarray, normalizer: str
) -> np.ndarray:
    """Return the AP of rankings as they stand, NaN where the normaliser is 0.

    relevance : (B, R) bool.  totals : (B,) relevant rows in the database.  Returns (B,) float64.
    """
    depth = relevance.shape[1]
    # found[b, i] is how many of the first i + 1 rows are relevant.
    found = np.cumsum(relevance, axis=1, dtype=np.int32)
    # for b: sums[b] = Σ_i relevance[b, i] · found[b, i] / (i + 1)
    sums = np.multiply(found, relevance, dtype=np.float64) @ (1.0 / np.arange(1, depth + 1))
    counts = found[:, -1] if depth else np.zeros(len(relevance), dtype=np.int32)
    return _divide(sums, _normalizing(counts, totals, depth, normalizer))


def _normalizing(counts: Any, totals: Any, depth: int, normalizer: str) -> Any:
    """Return what sums of precisions are divided by."""
    if normalizer == "retrieved":
        return counts
    return totals if normalizer == "relevant" else np.minimum(totals, depth)


def _divide(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Divide sums by counts, to NaN where a count is 0."""
    return np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)


def tie_groups(relevance: np.ndarray, similarities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return sizes and relevant rows of the groups of equal similarity of one ranking (r,)."""
    if not len(relevance):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    # Exact equality: engines give equal codes equal numbers, to the last bit.
    starts = np.flatnonzero(np.concatenate([[True], similarities[1:] != similarities[:-1]]))
    sizes = np.diff(np.concatenate([starts, [len(relevance)]]))
    return sizes, np.add.reduceat(relevance.astype(np.int64), starts)


def expected_average_precision(
    sizes: np.ndarray, hits: np.ndarray, depth: int, total: int, normalizer: str
) -> float:
    """Return the expected AP over random orders within groups of equal rows.

    NaN stands where no row can be relevant.

    Parameters
    ----------
    sizes, hits : ndarray of shape (G,)
        Rows and relevant rows of each group, best group first. The group that `depth` cuts has
        all its rows here, those past `depth` as well.
    depth : int
        R.
    total : int
        Relevant rows in the database.
    normalizer : {"retrieved", "relevant", "min"}
    """
    # Groups that end within R are whole: any order of theirs leaves the rest where it is.
    ends = np.cumsum(sizes)
    whole = ends <= depth
    n_whole = int(np.count_nonzero(whole))
    before = np.cumsum(hits) - hits  # relevant rows in front of each group
    # Row j of a group (0 first) of g rows with r hits is relevant with probability r / g; given
    # that, (r - 1) / (g - 1) of the j rows in front of it are, too (McSherry and Najork, eq. 2).
    g, r = sizes[:n_whole], hits[:n_whole]
    start = np.repeat(ends[:n_whole] - g, g)
    place = np.arange(int(ends[n_whole - 1]) if n_whole else 0)
    j = place - start
    share = np.divide(r - 1, g - 1, out=np.zeros(n_whole), where=g > 1)
    terms = np.repeat(r / np.maximum(g, 1), g) * (
        np.repeat(before[:n_whole] + 1, g) + j * np.repeat(share, g)
    )
    certain = float((terms / (place + 1)).sum())
    found = int(hits[:n_whole].sum())
    filled = len(place)
    if n_whole == len(sizes) or filled == depth:
        count = _normalizing(found, total, depth, normalizer)
        return certain / count if count > 0 else float("nan")

    # The cut group: t of its g places are within R.
    size, hit, t = int(sizes[n_whole]), int(hits[n_whole]), depth - filled
    steps = np.arange(t)
    inverse = 1.0 / (filled + 1 + steps)
    flat, rising = float(inverse.sum()), float((steps * inverse).sum())
    if normalizer != "retrieved":
        count = _normalizing(found, total, depth, normalizer)
        slope = (hit - 1) / (size - 1) if size > 1 else 0.0
        cut = hit / size * ((found + 1) * flat + slope * rising)
        return (certain + cut) / count if count > 0 else float("nan")
    if found + hit == 0:
        return float("nan")
    # With h hits among the t places (hypergeometric) both sum and normaliser are known:
    # Σ_h P(h) · (certain + h/t · Σ_j (found + 1 + j·(h-1)/(t-1)) / (filled + 1 + j)) / (found + h)
    from scipy.stats import hypergeom  # heavy, and only ties at the cut need it

    h = np.arange(max(0, t - (size - hit)), min(t, hit) + 1)
    slopes = (h - 1) / (t - 1) if t > 1 else np.zeros(len(h))
    sums = certain + h / t * ((found + 1) * flat + slopes * rising)
    values = np.divide(sums, found + h, out=np.zeros(len(h)), where=found + h > 0)
    return float((hypergeom.pmf(h, size, hit, t) * values).sum())
