"""Systems with the kernel of landmarks, by blocks that several threads share.

Blocks follow from the size of the matrix alone, so that solutions are the same to the last bit
however many threads there are.
"""

import functools

import numpy as np
import torch

from ..utils.together import parts_of, together

__all__ = ["cholesky", "factored", "inverse_diagonal", "solved", "solved_by_factor"]

_JITTER = 1e-6  # added to the diagonal, so that equal rows leave it invertible
_SIDE = 512  # of the blocks of a factor
_PARTS = 4  # of right-hand sides


def cholesky(kernel: np.ndarray, diagonal: np.ndarray) -> torch.Tensor:
    """Return the lower factor of the kernel with that, and a jitter, added to its diagonal."""
    added = torch.from_numpy(kernel.copy())
    added.diagonal().add_(torch.from_numpy(diagonal + _JITTER))
    return factored(added)


def factored(matrix: torch.Tensor) -> torch.Tensor:
    """Return the lower Cholesky factor of a matrix (m, m), in whose place it may be written."""
    n = len(matrix)
    if n <= _SIDE:
        return torch.linalg.cholesky(matrix)
    for start in range(0, n, _SIDE):
        stop = min(start + _SIDE, n)
        corner = torch.linalg.cholesky(matrix[start:stop, start:stop])
        matrix[start:stop, start:stop] = corner
        matrix[start:stop, stop:] = 0
        below = matrix[stop:, start:stop]  # A21 = L21 L11ᵀ
        together(
            [
                functools.partial(_divide_by, below[rows], corner)
                for rows in parts_of(n - stop, _PARTS, 64)
            ]
        )
        # A22 -= L21 L21ᵀ, on the diagonal and below it
        together(
            [
                functools.partial(_subtract_square, matrix, below, stop, columns)
                for columns in parts_of(n - stop, -(-(n - stop) // _SIDE), _SIDE)
            ]
        )
    return matrix


def _divide_by(rows: torch.Tensor, corner: torch.Tensor) -> None:
    """Replace rows by rows corner⁻ᵀ."""
    rows.copy_(torch.linalg.solve_triangular(corner, rows.T, upper=False).T)


def _subtract_square(matrix: torch.Tensor, below: torch.Tensor, first: int, columns: slice) -> None:
    """Take below belowᵀ from some columns of what is right of and under them, ``first`` on."""
    a, b = columns.start, columns.stop
    matrix[first + a :, first + a : first + b].addmm_(below[a:], below[a:b].T, alpha=-1)


def solved(right: np.ndarray, factor: torch.Tensor) -> torch.Tensor:
    """Return (L Lᵀ)⁻¹ times right-hand sides (m, D), from L."""
    given = torch.from_numpy(np.asarray(right))
    calls = [
        functools.partial(torch.cholesky_solve, given[:, columns], factor)
        for columns in parts_of(given.shape[1], _PARTS)
    ]
    return torch.cat(together(calls), dim=1)


def solved_by_factor(
    factor: torch.Tensor, right: torch.Tensor, *, transposed: bool = False
) -> torch.Tensor:
    """Return L⁻¹ times right-hand sides (m, b), or L⁻ᵀ times them."""
    matrix = factor.T if transposed else factor
    calls = [
        functools.partial(
            torch.linalg.solve_triangular, matrix, right[:, columns], upper=transposed
        )
        for columns in parts_of(right.shape[1], _PARTS, 64)
    ]
    return torch.cat(together(calls), dim=1)


def inverse_diagonal(factor: torch.Tensor) -> np.ndarray:
    """Return the diagonal (m,) of (L Lᵀ)⁻¹, the squares of L⁻¹ summed by columns."""
    n = len(factor)
    calls = [
        functools.partial(_column_squares, factor, columns)
        for columns in parts_of(n, -(-n // _SIDE), _SIDE)
    ]
    return torch.cat(together(calls)).numpy()


def _column_squares(factor: torch.Tensor, columns: slice) -> torch.Tensor:
    """Return the sum of squares of some columns of L⁻¹, which are zero above the diagonal."""
    a, b = columns.start, columns.stop
    ones = torch.zeros((len(factor) - a, b - a), dtype=factor.dtype)
    ones[: b - a].fill_diagonal_(1)
    return torch.linalg.solve_triangular(factor[a:, a:], ones, upper=False).square().sum(dim=0)
