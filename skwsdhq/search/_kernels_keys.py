"""Rows that were found so far, as numbers that order as rankings do; compiled.

A row is one number: the bits of its score, so that they order as scores do, and the complement of
its row. Larger is better, and of equal scores the smaller row is. What is found is a pair: room for
such numbers, of which there are more than k, and a state of three, how many are there, the k-th
best so far, and k.
"""

from typing import Any

import numpy as np

from ..utils.compiled import compiled, inlined

__all__ = [
    "again",
    "at_least",
    "begin",
    "filled",
    "is_allowed",
    "key_of",
    "restart",
    "row_of",
    "score_of",
    "settle",
    "sort",
    "write",
]

_MIN_ROOM = 32  # rows that are kept beyond k before the worst of them are dropped
_MAX_INSERTED = 32  # so many are sorted by insertion
_LOW = np.uint64(0xFFFFFFFF)
_TOP = np.uint32(0x80000000)
_WORST = np.uint64(0x007FFFFF << 32)  # -inf, in a row behind all others


@inlined
def key_of(score: Any, row: Any) -> Any:
    """Return one number for a score and a row, larger for a better one."""
    bits = np.float32(score + np.float32(0)).view(np.uint32)  # + 0 turns -0.0 into 0.0
    bits = ~bits if bits & _TOP else bits | _TOP
    return (np.uint64(bits) << np.uint64(32)) | (_LOW - np.uint64(row))


@inlined
def score_of(key: Any) -> Any:
    """Return the score that a number of `key_of` stands for."""
    bits = np.uint32(key >> np.uint64(32))
    bits = bits ^ _TOP if bits & _TOP else ~bits
    return np.uint32(bits).view(np.float32)


@inlined
def row_of(key: Any) -> Any:
    """Return the row that a number of `key_of` stands for."""
    return np.int64(_LOW - (key & _LOW))


@compiled
def _split(keys: Any, low: Any, high: Any) -> Any:
    """Move larger numbers to the front of keys[low:high + 1]; return where both parts end."""
    a, b, c = keys[low], keys[(low + high) >> 1], keys[high]
    pivot = max(min(a, b), min(max(a, b), c))
    while low <= high:
        while keys[low] > pivot:
            low += 1
        while keys[high] < pivot:
            high -= 1
        if low <= high:
            keys[low], keys[high] = keys[high], keys[low]
            low += 1
            high -= 1
    return high, low


@compiled
def _select(keys: Any, n: Any, k: Any) -> Any:
    """Bring the k largest of keys[:n] to the front; return the smallest of these."""
    low, high = 0, n - 1
    while low < high:
        left, right = _split(keys, low, high)
        if k - 1 <= left:
            high = left
        elif k - 1 >= right:
            low = right
        else:
            break
    return keys[k - 1]


@compiled
def sort(keys: Any, n: Any) -> None:
    """Sort keys[:n], the largest first."""
    if n <= _MAX_INSERTED:
        for i in range(1, n):
            key, j = keys[i], i
            while j > 0 and keys[j - 1] < key:
                keys[j] = keys[j - 1]
                j -= 1
            keys[j] = key
        return
    here, there, is_moved = keys[:n], np.empty(n, np.uint64), False
    counts = np.empty(256, np.int64)
    for start in range(0, 64, 8):
        if _sort_by_byte(here, there, np.uint64(start), counts):
            here, there, is_moved = there, here, not is_moved
    if is_moved:
        for i in range(n):
            keys[i] = here[i]


@compiled
def _sort_by_byte(keys: Any, into: Any, shift: Any, counts: Any) -> bool:
    """Sort by one byte, the largest first; return False, and do nothing, where all are equal."""
    byte = np.uint64(255)
    for digit in range(256):
        counts[digit] = 0
    for key in keys:
        counts[(key >> shift) & byte] += 1
    if counts[(keys[0] >> shift) & byte] == len(keys):
        return False
    place = 0
    for digit in range(255, -1, -1):
        size = counts[digit]
        counts[digit] = place
        place += size
    for key in keys:
        digit = (key >> shift) & byte
        into[counts[digit]] = key
        counts[digit] += 1
    return True


@compiled
def begin(n: Any, k: Any) -> Any:
    """Return room for the k best of n rows, of which none is there yet."""
    found = np.empty(min(max(2 * k, k + _MIN_ROOM), n + 1), np.uint64), np.empty(3, np.uint64)
    restart(found, k)
    return found


@inlined
def restart(found: Any, k: Any) -> None:
    """Empty what was found, for another query."""
    state = found[1]
    state[0], state[2] = 0, k
    state[1] = _WORST


@inlined
def again(found: Any) -> None:
    """Forget the rows, all of which come once more, but not how good the k-th best was."""
    state = found[1]
    state[0] = 0
    if state[1] != _WORST:
        state[1] -= np.uint64(1)  # so that the k-th best is better than what it is compared with


@inlined
def at_least(found: Any, threshold: Any) -> None:
    """Let no row count whose score is below a threshold."""
    found[1][1] = key_of(threshold, _LOW)


@compiled
def is_allowed(row: Any, mask: Any, left_out: Any) -> bool:
    """Tell whether a row may be found: by a mask, and by ascending rows that are left out."""
    if len(mask) and not mask[row]:
        return False
    low, high = 0, len(left_out)
    while low < high:
        middle = (low + high) >> 1
        if left_out[middle] < row:
            low = middle + 1
        else:
            high = middle
    return low == len(left_out) or left_out[low] != row


@compiled
def filled(left_out: Any) -> Any:
    """Return the rows that are left out, without the -1 that fill them up."""
    n = len(left_out)
    while n and left_out[n - 1] < 0:
        n -= 1
    return left_out[:n]


@compiled
def settle(keys: Any, state: Any) -> None:
    """Drop all but the k best, if there are so many."""
    n, k = np.int64(state[0]), np.int64(state[2])
    if n >= k:
        state[1] = _select(keys, n, k)
        state[0] = k


@compiled
def write(table: Any, codes: Any, found: Any, values: Any, rows: Any) -> None:
    """Write the k best, ranked; fill up with -inf and -1."""
    keys, state = found
    settle(keys, state)
    n = np.int64(state[0])
    sort(keys, n)
    for i in range(n, len(rows)):
        values[i], rows[i] = -np.inf, -1
    for i in range(n):
        row = row_of(keys[i])
        score = score_of(keys[i])
        if score == 0:  # whose sign a key does not tell
            score = table[0, codes[row, 0]]
            for m in range(1, len(table)):
                score += table[m, codes[row, m]]
        values[i], rows[i] = score, row
