"""The k largest of many numbers, equal ones in order of position."""

import numpy as np

__all__ = [
    "order_by_score",
    "order_rows_by_score",
    "reaching",
    "reaching_top",
    "sampled_rank",
    "top_k",
]

# Below this length a sample says too little about the k-th largest to be worth its cost.
_MIN_SAMPLED = 4096
_SAMPLE_STEP = 32


def order_by_score(scores: np.ndarray) -> np.ndarray:
    """Return the order that sorts scores downwards, and equal scores by position.

    Parameters
    ----------
    scores : ndarray of shape (n,)
        float32 or float64, no NaN.

    Returns
    -------
    ndarray of shape (n,)
        Indices into `scores`.

    Examples
    --------
    >>> import numpy as np
    >>> order_by_score(np.array([1.0, 3.0, 1.0]))
    array([1, 0, 2])
    """
    if scores.dtype != np.float32 or len(scores) < 512:  # too few for two passes to pay
        return np.argsort(-scores, kind="stable")
    # numpy sorts 16-bit integers by radix, which keeps equals in order: two passes sort 32 bits.
    keys = _descending_bits(scores)
    order = np.argsort((keys & 0xFFFF).astype(np.uint16), kind="stable")
    return order[np.argsort((keys >> 16).astype(np.uint16)[order], kind="stable")]


def order_rows_by_score(scores: np.ndarray) -> np.ndarray:
    """Return `order_by_score` of each row, by one sort of integers.

    scores : (B, n) float32, no NaN, n < 2**31.  Returns (B, n) int64.
    """
    # With the position in the lower half all keys differ, and any sort keeps the order of equals.
    keys = (_descending_bits(scores) ^ np.uint32(2**31)).view(np.int32).astype(np.int64) << 32
    keys |= np.arange(scores.shape[1])
    keys.sort(axis=1)
    return keys & 0xFFFFFFFF


def _descending_bits(scores: np.ndarray) -> np.ndarray:
    """Return uint32 numbers that are smaller for larger float32 scores, equal for equal ones."""
    # An IEEE float orders like its bits, save that negative ones run backwards.
    bits = (scores + np.float32(0)).view(np.uint32)  # + 0 turns -0.0 into 0.0
    return np.where(bits >> 31, bits, bits ^ np.uint32(2**31 - 1))


def sampled_rank(k: int, n: int, n_sampled: int) -> int:
    """Return a rank in a sample whose value at least k of all n numbers almost surely reach."""
    # How many of the k best the sample holds, and three deviations more.
    expected = k * n_sampled / n
    return int(expected + 3 * np.sqrt(expected) + 4)


def top_k(scores: np.ndarray, k: int) -> np.ndarray:
    """Return positions of the k largest scores, largest first, equal ones by position.

    Parameters
    ----------
    scores : ndarray of shape (n,)
        float32 or float64, no NaN.
    k : int
        More than n is n.

    Returns
    -------
    ndarray of shape (min(k, n),)

    Examples
    --------
    >>> import numpy as np
    >>> top_k(np.array([0.5, 2.0, 0.5, 1.0]), 3)
    array([1, 3, 0])
    """
    n = len(scores)
    k = min(k, n)
    if k <= 0:
        return np.zeros(0, dtype=np.intp)
    if k == n:  # nothing to leave out: one sort does it
        return order_by_score(scores)
    candidates = reaching_top(scores, k)
    return candidates[order_by_score(scores[candidates])[:k]]


def reaching(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Return positions of all scores (n,) that reach a threshold, in `order_by_score`."""
    positions = np.flatnonzero(scores >= threshold)
    return positions[order_by_score(scores[positions])]


def reaching_top(scores: np.ndarray, k: int, margin: float = 0.0) -> np.ndarray:
    """Return positions, ascending, of the scores from the k-th largest less a margin on.

    A few more may be among them.

    scores : (n,), no NaN.  k : from 1 to n.
    """
    n = len(scores)
    candidates = _above_sampled_threshold(scores, k, margin) if n >= _MIN_SAMPLED else None
    if candidates is None:
        candidates = np.flatnonzero(scores >= np.partition(scores, n - k)[n - k] - margin)
    return candidates


def _above_sampled_threshold(scores: np.ndarray, k: int, margin: float) -> np.ndarray | None:
    """Do what `reaching_top` does; return None when the sample misled.

    A threshold guessed low from a part of the scores costs a tenth of an exact partition.
    It is exact all the same: when k scores reach it, the k largest do.
    """
    sample = scores[::_SAMPLE_STEP]
    rank = sampled_rank(k, len(scores), len(sample))
    if rank >= len(sample):
        return None
    threshold = np.partition(sample, len(sample) - rank)[len(sample) - rank]
    candidates = np.flatnonzero(scores >= threshold - margin)
    n_sure = len(candidates)
    if margin and n_sure >= k:
        n_sure = int(np.count_nonzero(scores[candidates] >= threshold))
    return candidates if n_sure >= k else None
