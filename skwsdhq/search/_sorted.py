"""Codes sorted by their first codewords, so that all rows that begin alike lie together."""

from typing import Any

import numpy as np

from ..utils.compiled import kernels

__all__ = ["SortedCodes", "compiled_walk", "n_leading"]

_MAX_BEGINNINGS = 2**16
_MIN_ASKED = 4  # queries; who asks fewer need not wait for a compiler
_asked = 0


def compiled_walk(n_queries: int = 0) -> Any:
    """Return the compiled search; None where there is none, or nobody has asked for much yet."""
    global _asked
    _asked = min(_asked + n_queries, _MIN_ASKED)
    return kernels("skwsdhq.search._kernels_walk") if _asked >= _MIN_ASKED else None


def n_leading(n_codebooks: int, n_codewords: int) -> int:
    """Return how many codebooks a beginning has: as many as give at most 65,536 beginnings.

    One codebook is left over at least. Return 0 where there is no such number.
    """
    count = 0
    while count < n_codebooks - 1 and n_codewords ** (count + 1) <= _MAX_BEGINNINGS:
        count += 1
    return count


class SortedCodes:
    """Keep the rows of each beginning together, with the rest of their codes.

    They are sorted by their next codeword, so that a search meets those that may be good enough,
    and those that can't, one after the other: a processor guesses right what comes. Nothing but
    speed rests on that, and rows that are added stand behind the others of their beginning.

    ``rows[starts[b]:starts[b + 1]]`` are those of beginning b, whose codewords are the digits of b
    to base K; ``rest``, (n, M - L), has the other codewords of these rows, and ``nexts``, (n,), the
    first of these once more, since most rows are judged by it alone.

    Parameters
    ----------
    starts : ndarray of shape (K**L + 1,), int64 or int32
    rows : ndarray of shape (n,), as starts
    rest : ndarray of shape (n, M - L)
    n_codewords : int
    """

    def __init__(
        self, starts: np.ndarray, rows: np.ndarray, rest: np.ndarray, n_codewords: int
    ) -> None:
        self.starts, self.rows, self.rest = starts, rows, rest
        self.nexts = np.ascontiguousarray(rest[:, 0])
        self.n_codewords = n_codewords

    @classmethod
    def of(cls, codes: np.ndarray, n_codewords: int) -> "SortedCodes":
        """Sort codes (n, M), of which `n_leading` is above 0."""
        n, n_codebooks = codes.shape
        n_first = n_leading(n_codebooks, n_codewords)
        walk = compiled_walk()
        if walk is not None and n < 2**31:  # seven times as fast
            starts, rows, rest = walk.sort_codes(codes, n_first, n_codewords)
            return cls(starts, rows, rest, n_codewords)
        keys = _keys(codes, n_first, n_codewords)
        order = np.argsort(codes[:, n_first], kind="stable")
        # numpy sorts 16-bit numbers by radix
        order = order[np.argsort(keys[order], kind="stable")]
        sizes = np.bincount(keys, minlength=n_codewords**n_first)
        starts = np.concatenate([[0], np.cumsum(sizes)])
        rest = np.ascontiguousarray(codes[:, n_first:])[order]
        kind = np.int32 if n < 2**31 else np.int64
        return cls(starts.astype(kind), order.astype(kind), rest, n_codewords)

    def __len__(self) -> int:
        return len(self.rows)

    def changed(self, moved: np.ndarray | None, codes: np.ndarray) -> "SortedCodes":
        """Return the order of other codes (n', M), of which most were here before.

        moved : (n,), the new number of each row, ascending, -1 for one that is gone; None where
        all stay what they were. Rows of codes beyond these are new.
        """
        starts, rows, rest = self.starts, self.rows, self.rest
        sizes = np.diff(starts)
        if moved is not None:
            rows = moved.astype(rows.dtype)[rows]
            kept = rows >= 0
            rows, rest = rows[kept], rest[kept]
            # for b: sizes[b] = kept[starts[b]:starts[b + 1]].sum()
            sizes = np.diff(np.concatenate([[0], np.cumsum(kept)])[starts])
        new = codes[len(rows) :]
        n_first = codes.shape[1] - rest.shape[1]
        keys = _keys(new, n_first, self.n_codewords)
        order = np.argsort(keys, kind="stable")
        ends = np.cumsum(sizes)
        # New rows have larger numbers, and come behind those of their beginning.
        places = ends[keys[order]]
        kind = np.int32 if len(codes) < 2**31 else np.int64
        added = (order + len(rows)).astype(kind)
        rest = np.insert(rest, places, new[order, n_first:], axis=0)
        rows = np.insert(rows.astype(kind, copy=False), places, added)
        sizes = sizes + np.bincount(keys, minlength=len(sizes))
        starts = np.concatenate([[0], np.cumsum(sizes)]).astype(kind)
        return SortedCodes(starts, rows, rest, self.n_codewords)


def _keys(codes: np.ndarray, n_first: int, n_codewords: int) -> np.ndarray:
    """Return the beginnings of codes as numbers, (n,) uint16: digits to base K."""
    keys = np.zeros(len(codes), dtype=np.uint16)
    for m in range(n_first):
        keys *= np.uint16(n_codewords % 2**16)  # K = 65,536 has one digit: nothing to move
        keys += codes[:, m].astype(np.uint16, copy=False)
    return keys
