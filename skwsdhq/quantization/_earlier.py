"""Rows of earlier calls of partial_fit, whose codes stay while codewords and embeddings move."""

from typing import Any, NamedTuple, Self

import numpy as np
from scipy import sparse

from .. import codebooks as _codebooks
from ..sphere import normalize_rows
from ..utils.threads import on_one_thread, product

__all__ = ["Earlier"]

_RIDGE = 0.1  # of the map, as a share of the rows' mean square in a dimension


class Earlier(NamedTuple):
    """Hold the codes of rows that were learned from before, and what is left of their embeddings.

    A row's code stays what it was, and the codewords that it names follow where such rows are now:
    they fit the sums of all batches. What one step of the network does to embeddings is told by the
    batch at hand, embedded before and after: by the linear map that takes the one to the other,
    sums and codewords of earlier rows are moved as well.
    """

    codebooks: np.ndarray  # (M, K, D)
    codes: np.ndarray  # (n, M)
    counts: np.ndarray  # see codebook_statistics
    sums: np.ndarray
    carried: tuple[np.ndarray, np.ndarray] | None  # concepts of the rows, as a CSR has them
    directions: np.ndarray | None  # (C, D) of words
    before: np.ndarray  # (b, D), the batch as it was embedded before it is learned from

    @classmethod
    def of(cls, quantizer: Any, before: np.ndarray) -> Self:
        """Return what a fitted quantizer holds of its rows."""
        books, codes = quantizer.codebooks_, quantizer.codes_
        statistics = quantizer._statistics
        if statistics is None:
            # A whole fit keeps none: its rows are where their codes say.
            rows = _codebooks.decode(codes, books)
            statistics = _codebooks.codebook_statistics(rows, codes, books.shape[1])
        known = getattr(quantizer, "tag_calibration_", None)
        carried = None if known is None else (known["starts"], known["concepts"])
        directions = getattr(quantizer, "tag_directions_", None)
        return cls(books, codes, statistics[0], statistics[1], carried, directions, before)

    @on_one_thread
    def moved(self, after: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
        """Return codebooks, and counts and sums, moved as the batch was."""
        if np.array_equal(self.before, after):
            return self.codebooks, (self.counts, self.sums)
        turn = linear_map(self.before, after)
        books = product(self.codebooks.reshape(-1, len(turn)).astype(np.float64), turn)
        books = books.reshape(self.codebooks.shape).astype(np.float32)
        return books, (self.counts, product(self.sums, turn))

    @on_one_thread
    def turned(self, after: np.ndarray) -> np.ndarray | None:
        """Return the directions of words, moved as the batch was."""
        if self.directions is None or np.array_equal(self.before, after):
            return self.directions
        turned = product(self.directions.astype(np.float64), linear_map(self.before, after))
        return normalize_rows(turned).astype(np.float32)

    def with_concepts(self, indicator: sparse.csr_array) -> sparse.csr_array:
        """Return concepts (n + b, C) of these rows and of the batch."""
        n = len(self.codes)
        starts, concepts = np.zeros(n + 1, dtype=np.int64), np.zeros(0, dtype=np.int64)
        if self.carried is not None:
            starts, concepts = self.carried
        ones = np.ones(len(concepts), dtype=indicator.dtype)
        own = sparse.csr_array((ones, concepts, starts), shape=(n, indicator.shape[1]))
        return sparse.csr_array(sparse.vstack([own, indicator]))


def linear_map(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return (D, D): ridge regression of rows on what they were, drawn to leave them as they are.

    Few rows say little of most directions, which then stay.
    """
    old, new = before.astype(np.float64), after.astype(np.float64)
    gram = product(old.T, old)
    added = _RIDGE * max(np.trace(gram) / len(gram), 1e-12) * np.eye(len(gram))
    return np.linalg.solve(gram + added, product(old.T, new) + added)
