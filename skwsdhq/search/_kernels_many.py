"""A scan of all rows for 64 queries side by side, by look-up tables of bytes; compiled.

Of each codebook a table has how far an entry is below the largest one, in steps such that a row
whose steps add up to more than a limit can't reach a query's threshold. Sums of eight queries fit
into one number, a byte each, so that a processor adds them at once. Rows within the limit, and a
few too many, are scored as always.
"""

from typing import Any

import numpy as np

from ..utils.compiled import compiled, inlined
from ._kernels_keys import (
    at_least,
    begin,
    filled,
    is_allowed,
    key_of,
    restart,
    score_of,
    settle,
    write,
)

__all__ = ["MAX_CODEBOOKS", "WIDTH", "sampled", "scan_many", "try_out"]

WIDTH = 64  # queries
MAX_CODEBOOKS = 8  # of more, steps would be too coarse
_WORDS = WIDTH // 8
_ONES = np.uint64(0x0101010101010101)
_N_HITS = 4096
_PLACES = np.uint64(0x0001020304050607)
_TOPS = np.uint64(0x8080808080808080)


@inlined
def _n_bits(n_codebooks: Any) -> Any:
    """Return how many bits the steps of a codebook may have, so that all add up to a byte."""
    return 7 if n_codebooks <= 2 else 6 if n_codebooks <= 4 else 5


@compiled
def _steps(tables: Any, thresholds: Any) -> Any:
    """Return how far entries are below the largest one, (M, K, 8): a byte for each query."""
    n_codebooks, n_codewords = tables.shape[1:]
    last = 2 ** _n_bits(n_codebooks) - 1  # what is too far by itself
    steps = np.zeros((n_codebooks, n_codewords, _WORDS), np.uint64)
    for b in range(WIDTH):
        word, shift = b >> 3, np.uint64(8 * (b & 7))
        if b >= len(tables):  # a query that is none: all is too far
            for c in range(n_codewords):
                steps[0, c, word] |= np.uint64(last) << shift
            continue
        table = tables[b]
        tops = np.empty(n_codebooks, np.float32)
        extent, gap = 0.0, -np.float64(thresholds[b])
        for m in range(n_codebooks):
            top = low = table[m, 0]
            for entry in table[m]:
                top, low = max(top, entry), min(low, entry)
            tops[m] = top
            gap += top
            extent += max(top, -low)
        gap += 2.0**-22 * (n_codebooks + 1) * extent
        scale = (last - 1) / gap if gap > 0 else 0.0
        for m in range(n_codebooks):
            for c in range(n_codewords):
                far = min((np.float64(tops[m]) - np.float64(table[m, c])) * scale, np.float64(last))
                steps[m, c, word] |= np.uint64(far) << shift
    return steps


@compiled
def _has(left_out: Any, row: Any) -> bool:
    """Tell whether a row is among those that a query leaves out."""
    return not is_allowed(np.int64(row), np.empty(0, np.bool_), filled(left_out))


@compiled
def _offer(
    tables: Any, codes: Any, hits: Any, n_hits: Any, left_out: Any, keys: Any, states: Any
) -> None:
    """Score rows for the queries that they may be near to, a byte each."""
    rows, near = hits
    for i in range(n_hits):
        row = rows[i]
        for word in range(_WORDS):
            left = near[i, word]
            while left:
                lowest = left & (~left + np.uint64(1))
                left ^= lowest
                # The byte's number: which byte of the factor comes to lie uppermost.
                b = 8 * word + np.int64(((lowest >> np.uint64(7)) * _PLACES) >> np.uint64(56))
                score = tables[b, 0, codes[row, 0]]
                for m in range(1, tables.shape[1]):
                    score += tables[b, m, codes[row, m]]
                if score < score_of(states[b, 1]):
                    continue
                key = key_of(score, row)
                if key > states[b, 1] and (left_out.shape[1] == 0 or not _has(left_out[b], row)):
                    n = np.int64(states[b, 0])
                    keys[b, n] = key
                    states[b, 0] = n + 1
                    if n + 1 == keys.shape[1]:
                        settle(keys[b], states[b])


@compiled
def sampled(
    tables: Any, rank: Any, codes: Any, step: Any, mask: Any, thresholds: Any, every: Any
) -> None:
    """Raise thresholds to the similarity of a rank among every so many rows, where it is higher."""
    found = begin(len(codes), rank)
    keys, state = found
    for b in range(len(tables)):
        restart(found, rank)
        least = thresholds[b]
        at_least(found, least)
        for row in range(0, len(codes), step):
            score = tables[b, 0, codes[row, 0]]
            for m in range(1, len(every) or codes.shape[1]):
                score += tables[b, m, codes[row, m]]
            if score > least and (len(mask) == 0 or mask[row]):
                n = np.int64(state[0])
                keys[n] = key_of(score, np.int64(row))
                state[0] = n + 1
                if n + 1 == len(keys):
                    settle(keys, state)
                    least = score_of(state[1])
        settle(keys, state)
        if state[0] >= state[2]:
            thresholds[b] = score_of(state[1])


@compiled
def _begin_all(thresholds: Any, n: Any, k: Any) -> Any:
    """Return room for what is found for each query, from its threshold on."""
    keys = np.empty((len(thresholds), len(begin(n, k)[0])), np.uint64)
    states = np.empty((len(thresholds), 3), np.uint64)
    for b in range(len(thresholds)):
        restart((keys[b], states[b]), k)
        at_least((keys[b], states[b]), thresholds[b])
    return keys, states


@compiled
def scan_many(
    tables: Any, k: Any, codes: Any, choice: Any, thresholds: Any, every: Any, results: Any
) -> None:
    """Find the k best rows of up to 64 queries, of those that reach thresholds.

    Where fewer than k do, -inf and -1 fill up.


    choice, results : as in `best`; there is no status.
    every : a tuple as long as there are codebooks, whose loop is unrolled; or an empty one.
    """
    values, rows = results
    mask, left_out = choice
    n_queries, bits = len(tables), _n_bits(codes.shape[1])
    keys, states = _begin_all(thresholds, len(codes), k)
    steps = _steps(tables, thresholds)
    # A byte is too far where one of its upper bits is set.
    one, two = np.uint64(bits <= 6), np.uint64(2 * (bits <= 5))
    # Hits are looked at some thousand at once: a call for each would count users of arrays.
    hit_rows, near = np.empty(_N_HITS, np.int64), np.empty((_N_HITS, _WORDS), np.uint64)
    hits = hit_rows, near
    n_hits = 0
    for row in range(len(codes)):
        some = np.uint64(0)
        for word in range(_WORDS):
            far = _ONES
            for m in range(len(every) or codes.shape[1]):
                far += steps[m, codes[row, m], word]
            is_near = ~(far | (far << one) | (far << two)) & _TOPS
            near[n_hits, word] = is_near
            some |= is_near
        if some and (len(mask) == 0 or mask[row]):
            hit_rows[n_hits] = row
            n_hits += 1
            if n_hits == _N_HITS:
                _offer(tables, codes, hits, n_hits, left_out, keys, states)
                n_hits = 0
    _offer(tables, codes, hits, n_hits, left_out, keys, states)
    for b in range(n_queries):
        write(tables[b], codes, (keys[b], states[b]), values[b], rows[b])


def try_out() -> None:
    """Compile the scan for codes of four bytes."""
    codes = np.zeros((1, 4), np.uint8)
    codes.flags.writeable = False
    tables = np.zeros((1, 4, 1), np.float32)
    choice = np.empty(0, np.bool_), np.empty((1, 0), np.int64)
    results = np.empty((1, 1), np.float32), np.empty((1, 1), np.int64)
    sampled(tables, 1, codes, 1, choice[0], np.zeros(1, np.float32), (0,) * 4)
    scan_many(tables, 1, codes, choice, np.zeros(1, np.float32), (0,) * 4, results)
