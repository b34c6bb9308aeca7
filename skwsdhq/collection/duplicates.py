"""Images that are the same, or nearly so."""

import numpy as np

from ..search import CodeIndex
from ..sphere import normalize_rows

__all__ = ["duplicate_pairs"]

_MOST_EXACT = 10_000  # images, up to which all pairs are compared
_N_NEAR = 100  # nearest codes of an image that are looked at, of more images
_BLOCK = 1024


def duplicate_pairs(
    features: np.ndarray, codebooks: np.ndarray, codes: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs (p, 2) of places, the first before the second, and the cosines of features.

    Images of equal features are each a pair with the first of them. The others are compared with
    all, or, of more than ten thousand, with those of the nearest codes.
    """
    first = _first_of_equal(features)
    # Copies of one picture could be thousands: each is told once, not in all pairs.
    again = np.flatnonzero(first != np.arange(len(first)))
    pairs, cosines = [np.column_stack([first[again], again])], [np.ones(len(again))]
    alone = np.flatnonzero(first == np.arange(len(first)))
    index = CodeIndex(codebooks, codes[alone])
    for start in range(0, len(alone), _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(alone)))
        if len(alone) <= _MOST_EXACT:
            both = alone[_near_by_features(features[alone], block, threshold)]
        else:
            both = alone[_near_by_codes(index, block)]
        found = _cosines(features, both)
        pairs.append(both[found >= threshold])
        cosines.append(found[found >= threshold])
    # Two images that are near each other have found each other twice.
    every, at = np.unique(np.concatenate(pairs), axis=0, return_index=True)
    values = np.concatenate(cosines)[at]
    order = np.lexsort((every[:, 1], every[:, 0], -values))
    return every[order], values[order].astype(np.float32)


def _near_by_features(features: np.ndarray, block: np.ndarray, threshold: float) -> np.ndarray:
    """Return pairs (p, 2) of a row of the block and a later one that may pass."""
    own = normalize_rows(features[block].astype(np.float32))
    found = [np.zeros((0, 2), dtype=np.int64)]
    for start in range(int(block[0]), len(features), _BLOCK):
        others = normalize_rows(features[start : start + _BLOCK].astype(np.float32))
        # A little below, since the last bits of a product depend on its shape.
        left, right = np.nonzero(own @ others.T >= threshold - 1e-5)
        left, right = left + block[0], right + start
        found.append(np.column_stack([left, right])[left < right])
    return np.concatenate(found)


def _near_by_codes(index: CodeIndex, block: np.ndarray) -> np.ndarray:
    """Return pairs (p, 2), the smaller first, of a row of the block and one of near code."""
    _, near = index.search_codes(index.codes[block], _N_NEAR + 1)
    left, right = np.repeat(block, near.shape[1]), near.ravel()
    return np.unique(np.sort(np.column_stack([left, right])[left != right], axis=1), axis=0)


def _first_of_equal(features: np.ndarray) -> np.ndarray:
    """Return for each row the first that has the same bytes."""
    seen: dict[bytes, int] = {}
    return np.array([seen.setdefault(row.tobytes(), i) for i, row in enumerate(features)], int)


def _cosines(features: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return the cosine of each pair's features."""
    left, right = (normalize_rows(features[pairs[:, i]].astype(np.float32)) for i in (0, 1))
    return np.minimum(np.einsum("pd,pd->p", left, right), 1)
