"""Choice of codewords: greedy, by iterated conditional modes (ICM), and by beam search.

All three need one thing: what each codeword of a codebook would cost a row, given its codewords
in some others. With z the row and c the codewords, ‖z − Σ c‖² / 2 without its constant is

    Σ_m (‖c_m‖² / 2 − z·c_m)  +  Σ_{m' < m} c_m'·c_m

A unary part, one product of rows with codewords, and a pairwise part, one table of codewords with
codewords: with both at hand a visit of a codebook is a few gathered rows and an argmin.

Where the errors of shorter codes count as well, each with a weight, the first term of codebook m
is there as often as codes that include m, and the second as often as codes that include m and m'.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Self

import numpy as np

from ..utils.threads import product
from ..utils.together import parts_of, together

__all__ = ["Lengths", "choose_codes"]

TABLE_SIZE = 1 << 26  # pairwise tables hold at most so many numbers (256 MB in float32)
TABLE_PAYS = 1  # visits a codeword from which on a table of them pays
_SHORT = 1e-6  # of the largest codeword's squared length: a row's, below which it counts as that
_PARTS = 8  # of the rows, which threads share
CHUNK_SIZE = 1 << 20  # numbers in a chunk of rows × codewords, few enough for the cache


class _TableCosts:
    """Compute costs from tables: cheap for many rows.

    Buffers are made once for a thread: fresh memory for every operation costs ten times the
    operation.
    """

    _unary: np.ndarray
    _costs: np.ndarray
    _gathered: np.ndarray

    def __init__(
        self,
        codebooks: np.ndarray,
        duals: np.ndarray,
        n_rows: int,
        n_beams: int,
        shares: np.ndarray | None = None,
    ) -> None:
        n_codebooks, n_codewords, _ = codebooks.shape
        self._half_norms = _half_norms(codebooks, duals)
        if shares is not None:
            # Codebook m and an earlier one meet in shares[m] codes, as codebook m and the row do.
            duals = duals * shares[:, None, None]
            self._half_norms *= shares[:, None]
        self._minus = -duals  # (M, K, D)
        # pairs[m, m'] (K, K): row b' holds the products of codeword b' of m' with all of m.
        self._pairs: dict[tuple[int, int], np.ndarray] = {}
        for m in range(n_codebooks):
            for other in range(m):
                products = product(codebooks[other], duals[m].T)
                self._pairs[m, other] = products
                self._pairs[other, m] = np.ascontiguousarray(products.T)
        self._sizes = (n_codebooks, n_rows, n_codewords), (n_rows * n_beams, n_codewords)

    def twin(self) -> Self:
        """Return costs from the same tables with buffers of their own, for a thread."""
        twin = copy.copy(self)
        of_rows, of_beams = self._sizes
        twin._unary = np.empty(of_rows, self._minus.dtype)
        twin._costs = np.empty(of_beams, self._minus.dtype)
        twin._gathered = np.empty_like(twin._costs)
        return twin

    def load(self, rows: np.ndarray) -> None:
        """Take a chunk of rows (B, D)."""
        self._n_rows = len(rows)
        for m, minus in enumerate(self._minus):
            # One product of all M would be faster, but not to read from: rows of one lie apart.
            product(rows, minus.T, out=self._unary[m, : len(rows)], plus=self._half_norms[m])

    def of(
        self, m: int, rows: np.ndarray | None, given: Sequence[int], codes: np.ndarray
    ) -> np.ndarray:
        """Return costs (R, K) of codebook m for some rows (None for all), given codes (M, R).

        The buffer that holds them is written anew by the next call.
        """
        n_rows = self._n_rows if rows is None else len(rows)
        costs, gathered = self._costs[:n_rows], self._gathered[:n_rows]
        before = self._unary[m, :n_rows]
        if rows is not None:
            # "clip" lets numpy write to `out` directly; all indices are in range.
            before = np.take(self._unary[m], rows, axis=0, out=costs, mode="clip")
        for other in given:
            # for r: for k: costs[r, k] += c_other[codes[other, r]] · c_m[k]
            pairs = self._pairs[m, other]
            np.take(pairs, codes[other], axis=0, out=gathered, mode="clip")
            before = np.add(before, gathered, out=costs)
        return before


class _ResidualCosts:
    """Compute costs from what other codewords leave of a row: for few rows or huge codebooks."""

    def __init__(
        self, codebooks: np.ndarray, duals: np.ndarray, shares: np.ndarray | None = None
    ) -> None:
        self._codebooks, self._duals = codebooks, duals
        self._half_norms = _half_norms(codebooks, duals)
        self._shares = shares

    def twin(self) -> Self:
        """Return the same costs, for a thread."""
        return copy.copy(self)

    def load(self, rows: np.ndarray) -> None:
        """Take a chunk of rows (B, D)."""
        self._rows = rows

    def of(
        self, m: int, rows: np.ndarray | None, given: Sequence[int], codes: np.ndarray
    ) -> np.ndarray:
        """Do what that of `_TableCosts` does."""
        rest = self._rows if rows is None else self._rows[rows]  # (R, D)
        shares = self._shares
        for other in given:
            words = self._codebooks[other][codes[other]]
            if shares is not None and shares[other] < shares[m]:
                words *= shares[other] / shares[m]  # a later codebook is in fewer codes
            rest = rest - words
        costs = product(rest, self._duals[m].T)
        costs = np.subtract(self._half_norms[m], costs, out=costs)
        if shares is not None:
            costs *= shares[m]
        return costs


class Lengths:
    """Compute what it costs that a code's sum is not as long as its row.

    With r the sum and z the row it is half of weight·(‖r‖² − ‖z‖²)² / ‖z‖², as costs are half of
    the error.

    Parameters
    ----------
    codebooks : (M, K, D)
    shift : (D,) what was taken from rows and sums alike.
    weight : float
    """

    def __init__(self, codebooks: np.ndarray, shift: np.ndarray, weight: float) -> None:
        self._codebooks, self._shift = codebooks, shift
        self._norms = np.einsum("mkd,mkd->mk", codebooks, codebooks)
        self._half_weight = weight / 2

    def load(self, rows: np.ndarray) -> None:
        """Take a chunk of rows (B, D)."""
        whole = rows + self._shift
        self._wanted = np.einsum("nd,nd->n", whole, whole)
        # A row near 0 would make any length infinitely wrong.
        sizes = np.maximum(self._wanted, _SHORT * self._norms.max())
        with np.errstate(divide="ignore"):
            roots = np.sqrt(self._half_weight / sizes)
        # Roots, since squares of squares leave the range of floats.
        self._roots = np.where(sizes > 0, roots, 0).astype(rows.dtype)

    def of(self, m: int, rows: np.ndarray, given: Sequence[int], codes: np.ndarray) -> np.ndarray:
        """Return costs (R, K) of codebook m for some rows (R,), given codes (M, R)."""
        rest = np.broadcast_to(self._shift, (len(rows), len(self._shift)))
        for other in given:
            rest = rest + self._codebooks[other][codes[other]]
        # ‖rest + c‖² = ‖rest‖² + 2 rest·c + ‖c‖²
        own = np.einsum("nd,nd->n", rest, rest) - self._wanted[rows]
        costs = product(np.ascontiguousarray(2 * rest), self._codebooks[m].T)
        costs += self._norms[m]
        costs += own[:, None]
        costs *= self._roots[rows][:, None]
        return np.square(costs, out=costs)


def _half_norms(codebooks: np.ndarray, duals: np.ndarray) -> np.ndarray:
    return np.einsum("mkd,mkd->mk", codebooks, duals) / 2


def choose_codes(  # noqa: PLR0913 - what a choice of codes depends on
    rows: np.ndarray,
    codebooks: np.ndarray,
    duals: np.ndarray,
    orders: Sequence[np.ndarray],
    beam_size: int | None,
    start: np.ndarray | None,
    dtype: type[np.unsignedinteger],
    *,
    shares: np.ndarray | None = None,
    lengths: Lengths | None = None,
) -> np.ndarray:
    """Choose codes (n, M) for rows (n, D); the lowest index on ties.

    duals : (M, K, D) codebooks times the metric, the codebooks themselves in Euclidean space.
    orders : the codebooks in the order of each sweep's visits.
    beam_size, start : begin with a beam search, or with given codes, or else greedily.
    shares : (M,) sum of the weights of the codes that include a codebook; None is 1 for each.
    lengths : what a length other than the row's costs; None is nothing.
    """
    n_rows = len(rows)
    n_codebooks, n_codewords, _ = codebooks.shape
    codes = np.empty((n_rows, n_codebooks), dtype)
    if n_rows == 0:
        return codes
    beam_size = None if start is not None else beam_size
    n_beams = beam_size or 1
    # Tables of all pairs of codewords pay where each row visits them often enough.
    fits = (n_codebooks * n_codewords) ** 2 <= TABLE_SIZE
    pays = n_rows * max(1, len(orders)) * n_beams >= TABLE_PAYS * n_codebooks * n_codewords
    costs: _TableCosts | _ResidualCosts
    if n_codebooks == 1 or (fits and pays):
        step = _chunk_rows(n_rows, max(n_codebooks, n_beams) * n_codewords)
        costs = _TableCosts(codebooks, duals, step, n_beams, shares)
    else:
        step = _chunk_rows(n_rows, n_beams * n_codewords)
        costs = _ResidualCosts(codebooks, duals, shares)

    def choose(part: slice) -> None:
        own, own_lengths = costs.twin(), copy.copy(lengths)
        for a in range(part.start, part.stop, step):
            chunk = rows[a : a + step]
            own.load(chunk)
            if start is not None:
                chosen = np.ascontiguousarray(start[a : a + step].T, dtype=np.intp)
            elif n_beams > 1:
                chosen = _beam(own, len(chunk), n_codebooks, n_beams)
            else:
                chosen = _greedy(own, len(chunk), n_codebooks)
            # The last codeword of a greedy choice is the best one given the others.
            settled = n_codebooks - 1 if start is None else None
            if own_lengths is not None:
                own_lengths.load(chunk)
                settled = None
            _sweep(own, chosen, orders, settled, own_lengths)
            codes[a : a + step] = chosen.T

    # Whole chunks, so that each product is what it would be by itself.
    parts = parts_of(n_rows, _PARTS, step)
    together([functools.partial(choose, part) for part in parts])
    return codes


def _chunk_rows(n_rows: int, width: int) -> int:
    return min(n_rows, max(32, CHUNK_SIZE // width), 1024)


def _greedy(costs: _TableCosts | _ResidualCosts, n_rows: int, n_codebooks: int) -> np.ndarray:
    """Choose codes (M, n): each codebook in turn takes what suits the rest that is left."""
    codes = np.empty((n_codebooks, n_rows), np.intp)
    for m in range(n_codebooks):
        np.argmin(costs.of(m, None, range(m), codes), axis=1, out=codes[m])
    return codes


def _sweep(
    costs: _TableCosts | _ResidualCosts,
    codes: np.ndarray,
    orders: Sequence[np.ndarray],
    settled: int | None,
    lengths: Lengths | None = None,
) -> None:
    """Improve codes (M, n) by ICM, in place.

    for order in orders: for m in order: for n: codes[m, n] = argmin_k cost of k given the others

    A visit changes nothing while the other codes are what they were at the last one: only rows
    for which one of them has changed are looked at.
    """
    n_codebooks, n_rows = codes.shape
    is_stale = np.ones((n_codebooks, n_rows), np.bool_)
    if settled is not None:
        is_stale[settled] = False
    if n_codebooks == 1 and settled is not None:
        return
    for order in orders:
        for m in order:
            others = [other for other in range(n_codebooks) if other != m]
            rows = np.flatnonzero(is_stale[m])
            if len(rows) == 0:
                continue
            if len(rows) == n_rows:
                of_each = costs.of(m, None, others, codes)
            else:
                of_each = costs.of(m, rows, others, codes[:, rows])
            if lengths is not None:
                of_each = of_each + lengths.of(m, rows, others, codes[:, rows])
            new = of_each.argmin(axis=1)
            changed = rows[new != codes[m, rows]]
            codes[m, rows] = new
            # A change makes the other visits of these rows worth while again, but not its own.
            is_stale[:, changed] = True
            is_stale[m] = False


def _beam(
    costs: _TableCosts | _ResidualCosts, n_rows: int, n_codebooks: int, beam_size: int
) -> np.ndarray:
    """Choose codes (M, n): codebook after codebook keep the `beam_size` best beginnings."""
    rows = np.arange(n_rows)
    beams = np.empty((n_codebooks, n_rows, 1), np.intp)  # codes of each beginning
    totals = np.zeros((n_rows, 1), np.float32)  # (n, H) cost of each, in the order of cost
    for m in range(n_codebooks):
        n_beams = totals.shape[1]
        each = np.repeat(rows, n_beams)
        step = costs.of(m, each, range(m), beams.reshape(n_codebooks, -1))  # (n·H, K)
        n_codewords = step.shape[1]
        if n_beams > 1:
            step += totals.reshape(-1, 1)
        step = step.reshape(n_rows, n_beams * n_codewords)
        # After the last codebook only the best of all is wanted.
        kept = 1 if m == n_codebooks - 1 else min(beam_size, step.shape[1])
        best, totals = _smallest(step, kept)  # (n, H')
        parents, last = np.divmod(best, n_codewords)
        beams = np.take_along_axis(beams, parents[None], axis=2)
        beams[m] = last
    return beams[:, :, 0]


def _smallest(values: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return positions and values (n, count) of the smallest of each row; lowest first on ties.

    May write to `values`.
    """
    # A few passes of argmin are faster than a partial sort, which would not keep ties in order.
    best = np.empty((count, len(values)), np.intp)
    smallest = np.empty((count, len(values)), values.dtype)
    rows = np.arange(len(values))
    for h in range(count):
        values.argmin(axis=1, out=best[h])
        smallest[h] = values[rows, best[h]]
        if h < count - 1:
            values[rows, best[h]] = np.inf
    return best.T, smallest.T
