"""Rows that codes fit worst, found block by block: where codewords that no row uses go."""

from typing import Any, NamedTuple, Self

import numpy as np

from ._init import refill
from .decoding import decode_rows

__all__ = ["WorstRows", "refilled", "worst_rows"]


class WorstRows(NamedTuple):
    """Hold some rows of largest error; of those of two blocks the worst as many remain."""

    errors: np.ndarray  # (b,), squared, largest first
    residuals: np.ndarray  # (b, D)
    codes: np.ndarray  # (b, M)
    most: int  # b, where there are so many

    def __add__(self, other: Any) -> Self:
        errors = np.concatenate([self.errors, other.errors])
        order = np.argsort(-errors, kind="stable")[: self.most]
        residuals = np.concatenate([self.residuals, other.residuals])[order]
        codes = np.concatenate([self.codes, other.codes])[order]
        return type(self)(errors[order], residuals, codes, self.most)


def worst_rows(
    embeddings: np.ndarray, codes: np.ndarray, *, codebooks: np.ndarray, most: int
) -> WorstRows:
    """Return the rows of a block (b, D) of largest squared error, and their codes (b, M)."""
    residuals = embeddings - decode_rows(codes, codebooks)
    errors = np.einsum("nd,nd->n", residuals, residuals)
    order = np.argsort(-errors, kind="stable")[:most]
    return WorstRows(errors[order], residuals[order], codes[order], most)


def refilled(codebooks: np.ndarray, is_used: np.ndarray, worst: WorstRows) -> np.ndarray:
    """Return codebooks whose codewords that no row uses are where rows fit worst.

    As :func:`~skwsdhq.codebooks.refill_empty_codewords` does it with all rows at hand; rows of
    equal error go by their number.

    Parameters
    ----------
    codebooks : ndarray of shape (M, K, D)
    is_used : ndarray of shape (M, K)
    worst : WorstRows
        At least as many as there are such codewords.
    """
    codebooks = codebooks.copy()
    taken, order = np.zeros(len(worst.errors), np.bool_), np.arange(len(worst.errors))
    for m, used in enumerate(is_used):
        if not used.all():
            codebooks[m] = refill(
                codebooks[m], ~used, worst.residuals, worst.codes[:, m], taken, order
            )
    return codebooks
