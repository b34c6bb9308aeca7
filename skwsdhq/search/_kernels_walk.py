"""The search by bounds as one compiled walk over codes that are sorted by their beginnings.

A query orders the sums of two groups of codebooks, the largest first. A beginning is a sum of
either group; its bound is what they add up to, with the largest entry of each codebook that is
left. The walk goes down in steps: it looks at all beginnings whose bound reaches a level, and the
k-th best row so far is the level at which it stops.
"""

from typing import Any

import numpy as np

from ..utils.compiled import compiled, inlined
from ._kernels_keys import (
    again,
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

__all__ = [
    "DONE",
    "ESTIMATE_AT",
    "NOT_FINITE",
    "TOO_MANY",
    "among",
    "best",
    "best_of_one",
    "reaching",
    "scan",
    "try_out",
]

DONE, TOO_MANY, NOT_FINITE = 0, 1, 2  # how the search for a query ended
_N_STEPS = 20.0  # levels from the best possible sum of a beginning to the worst
_N_INTERVALS = 128  # of the sums of the second group
ESTIMATE_AT = 4  # after a look-up for one row in so many it is estimated what is left
_BEGINNING_COST = 4  # in look-ups, beside those of its rows


@compiled
def _sums(table: Any, group: Any) -> Any:
    """Sum the entries of some codebooks in their order, for all codewords: digits to base K."""
    first, stop = group
    n_codewords = table.shape[1]
    sums = np.empty(n_codewords ** (stop - first), np.float32)
    if stop > first:
        for c in range(n_codewords):
            sums[c] = table[first, c]
    else:
        sums[0] = 0
    size = n_codewords
    for m in range(first + 1, stop):
        for i in range(size - 1, -1, -1):  # from behind: entry i is read before it is written
            for c in range(n_codewords - 1, -1, -1):
                sums[i * n_codewords + c] = sums[i] + table[m, c]
        size *= n_codewords
    return sums


@compiled
def _extremes(entries: Any) -> Any:
    """Return the largest and the smallest entry; NaN, or beyond all numbers, where one is NaN."""
    # As integers, of which a processor compares many at once; negative ones run backwards.
    top, low = np.int32(-(2**31)), np.int32(2**31 - 1)
    for bits in entries.view(np.int32):
        bits ^= (bits >> np.int32(31)) & np.int32(2**31 - 1)
        top = max(top, bits)
        low = min(low, bits)
    top ^= (top >> np.int32(31)) & np.int32(2**31 - 1)
    low ^= (low >> np.int32(31)) & np.int32(2**31 - 1)
    return np.int32(top).view(np.float32), np.int32(low).view(np.float32)


@compiled
def _bounds(table: Any, first: Any) -> Any:
    """Tell what codebooks from one on add at most, and those behind it; and if sums are finite.

    As far as sums may be off, as `rough_slack`; doubled, since limits are rounded as well.
    """
    most, most_behind, extent, largest = 0.0, 0.0, 0.0, np.float32(0)
    for m in range(len(table)):
        top, low = _extremes(table[m])
        largest += max(top, -low)
        extent += max(top, -low)
        if m >= first:
            most += top
        if m > first:
            most_behind += top
    slack = 2.0**-22 * (len(table) + 1) * extent
    return most + slack, most_behind + slack, np.isfinite(largest)


@inlined
def _base(table: Any, sum_: Any, beginning: Any, groups: Any) -> Any:
    """Add the entries of the second group, in the order of the codebooks."""
    first, stop = groups
    if stop - first == 1:  # as with 256 codewords: no division
        return sum_ + table[first, beginning]
    n_codewords = table.shape[1]
    divisor = n_codewords ** (stop - first)
    for m in range(first, stop):
        divisor //= n_codewords
        sum_ += table[m, beginning // divisor % n_codewords]
    return sum_


@inlined
def _reach(group: Any, limit: Any) -> Any:
    """Return how many sums of a group come before all others, those among them that reach a limit.

    Whole intervals: all that reach it are among them, and some that don't.
    """
    _, ends, top, low, scale = group
    least = np.float32(limit)  # no sum lies between the two
    if least > top:
        return np.int32(0)
    if least <= low:
        return ends[-1]
    # In float32, as for the sums themselves: both are rounded alike, so none changes places.
    return ends[np.int32((np.float32(top) - least) * np.float32(scale))]


@compiled
def _step(
    table: Any, sorted_: Any, cells: Any, choice: Any, found: Any, ends: Any, limits: Any
) -> Any:
    """Look at all beginnings whose bound reaches a level; return what they cost, in look-ups.

    ends : a tuple as long as there are codebooks left, whose loop is unrolled; or an empty one.
    """
    # Taken apart here: within the loops each would be counted as one more user of an array.
    sums, of_first, others, of_second, done = sorted_
    order, order_of_second = of_first[0], of_second[0]
    starts, all_rows, rest, _, nexts = cells
    mask, left_out = choice
    all_count = not len(mask) and not len(left_out)
    keys, state = found
    groups, level, above, above_next = limits
    first, cost = groups[1], 0
    # One entry tells of most rows that they are too low; it pays where it saves several.
    looks_first = (len(ends) or rest.shape[1]) > 2
    for place_i in range(_reach(of_first, level - np.float64(of_second[2]))):
        i = np.int64(order[place_i])
        j, stop_j = done[i], _reach(of_second, level - np.float64(sums[i]))
        while j < stop_j:
            second = np.int64(order_of_second[j])
            beginning = i * len(others) + second
            start, stop = starts[beginning], starts[beginning + 1]
            cost += _BEGINNING_COST + (stop - start) * (rest.shape[1] + 1)
            if start < stop:
                least = score_of(state[1])
                base = _base(table, sums[i], second, groups)
                # What the next codebook's entry has to reach, as far as the last ones can help.
                needed = np.float32(np.float64(least) - above_next - np.float64(base))
                for place in range(start, stop):
                    entry = table[first, nexts[place]]
                    if looks_first and entry < needed:
                        continue
                    score = base + entry
                    for m in range(1, len(ends) or rest.shape[1]):
                        score += table[first + m, rest[place, m]]
                    if score >= least:
                        row = np.int64(all_rows[place])
                        key = key_of(score, row)
                        if key > state[1] and (all_count or is_allowed(row, mask, left_out)):
                            n = np.int64(state[0])
                            keys[n] = key
                            state[0] = n + 1
                            if n + 1 == len(keys):
                                settle(keys, state)
                                least = score_of(state[1])
                                needed = np.float32(
                                    np.float64(least) - above_next - np.float64(base)
                                )
                limit = max(level, np.float64(least) - above) - np.float64(sums[i])
                stop_j = min(stop_j, _reach(of_second, limit))
            j += 1
        done[i] = max(j, done[i])
    return cost


@compiled
def _cost_left(sorted_: Any, cells: Any, level: Any, budget: Any) -> Any:
    """Return what all beginnings cost that reach a level, or what is above a budget."""
    starts, row_cost = cells[0], cells[2].shape[1] + 1
    sums, of_first, others, of_second, done = sorted_
    order, order_of_second = of_first[0], of_second[0]
    cost = 0
    for place in range(_reach(of_first, level - np.float64(of_second[2]))):
        i = np.int64(order[place])
        if cost > budget:
            break
        for j in range(done[i], _reach(of_second, level - np.float64(sums[i]))):
            beginning = i * len(others) + np.int64(order_of_second[j])
            n_rows = starts[beginning + 1] - starts[beginning]
            cost += _BEGINNING_COST + n_rows * row_cost
    return cost


@compiled
def _walk(
    table: Any, groups: Any, cells: Any, choice: Any, found: Any, ends: Any, limits: Any
) -> bool:
    """Look at rows whose bound reaches the k-th best; return False where they are too many.

    limits : what endings add at most, sums being off by as much as they may be, and what they add
    without the first of them; how many look-ups a walk may cost, and after how many it is estimated
    what is left.
    """
    above, above_next, budget, n_tried = limits
    spent, is_estimated = 0, False
    keys, state = found
    sums = _sums(table, (np.int64(0), groups[0]))
    others = _sums(table, groups)
    of_first, of_second = _grouped(sums), _grouped(others)
    done = np.zeros(len(sums), np.int32)  # of each sum, how many of the other group are
    sorted_ = sums, of_first, others, of_second, done
    top = np.float64(of_first[2]) + np.float64(of_second[2])
    low = np.float64(of_first[3]) + np.float64(of_second[3])
    step = (top - low) / _N_STEPS
    level, room = top, state[2]
    is_last: Any = False
    while not is_last:
        level -= step
        least = np.float64(score_of(state[1])) - above
        is_last = least >= level or level <= low
        if is_last:
            level = least
        values = groups, level, above, above_next
        spent += _step(table, sorted_, cells, choice, found, ends, values)
        # With a threshold, for which there is room for all rows, what to reach is known at once.
        is_known = state[0] >= state[2] or state[2] > len(cells[3])
        if not is_estimated and spent > n_tried and is_known:
            is_estimated = True
            settle(keys, state)
            least = np.float64(score_of(state[1])) - above
            if spent + _cost_left(sorted_, cells, least, budget) > budget:
                return False
        if state[0] >= room:
            settle(keys, state)
            room = state[2] + max(np.uint64(16), state[2] // np.uint64(2))
    return True


@compiled
def _grouped(sums: Any) -> Any:
    """Order sums by equal intervals, the largest first, within one as they stood.

    Return where each stood, and what `_reach` reads: where intervals end, the largest and the
    smallest sum, and intervals a unit.
    """
    n = len(sums)
    order, numbers = np.empty(n, np.int32), np.empty(n, np.int32)
    ends = np.zeros(_N_INTERVALS + 1, np.int32)
    top, low = _extremes(sums)
    scale = np.float32(_N_INTERVALS - 1) / (top - low)
    if np.float32(0) < scale < np.float32(np.inf):
        for i in range(n):
            numbers[i] = np.int32((top - sums[i]) * scale)
    else:  # all are as good as equal, or too far apart for float32: one interval
        low = top
        numbers[:] = 0
    for i in range(n):
        ends[numbers[i]] += 1
    place = np.int32(0)
    for interval in range(_N_INTERVALS + 1):
        size = ends[interval]
        ends[interval] = place
        place += size
    for i in range(n):
        interval = numbers[i]
        order[ends[interval]] = i
        ends[interval] += 1
    return order, ends, top, low, scale


@compiled
def scan(table: Any, codes: Any, subset: Any, choice: Any, found: Any, every: Any) -> None:
    """Score all rows, or those of a subset, and keep the k best.

    every : a tuple as long as there are codebooks, whose loop is unrolled; or an empty one.
    """
    mask, left_out = choice
    all_count = not len(mask) and not len(left_out)
    keys, state = found
    least = score_of(state[1])
    n = len(subset) if len(subset) else len(codes)
    for i in range(n):
        row = subset[i] if len(subset) else np.int64(i)
        score = table[0, codes[row, 0]]
        for m in range(1, len(every) or codes.shape[1]):
            score += table[m, codes[row, m]]
        if score >= least:
            key = key_of(score, row)
            if key > state[1] and (all_count or is_allowed(row, mask, left_out)):
                found_so_far = np.int64(state[0])
                keys[found_so_far] = key
                state[0] = found_so_far + 1
                if found_so_far + 1 == len(keys):
                    settle(keys, state)
                    least = score_of(state[1])


@compiled
def _best(
    table: Any, k: Any, groups: Any, cells: Any, choice: Any, plan: Any, tuples: Any, found: Any
) -> int:
    """Find the k best rows of a query, as `best` does; tell how it ended."""
    restart(found, k)
    above, above_next, is_finite = _bounds(table, groups[1])
    if not is_finite:
        return NOT_FINITE
    limits = above, above_next, plan[0], plan[1]
    if not plan[0] or not _walk(table, groups, cells, choice, found, tuples[0], limits):
        if not plan[2]:
            return TOO_MANY
        again(found)
        scan(table, cells[3], np.empty(0, np.int64), choice, found, tuples[1])
    return DONE


@compiled
def best(
    tables: Any, k: Any, groups: Any, cells: Any, choice: Any, plan: Any, tuples: Any, results: Any
) -> None:
    """Find the k best rows of each query; tell of each how it ended.

    Parameters
    ----------
    tables : (B, M, K)
    k : int
        At most n.
    groups : (int, int)
        Where the first and the second group of codebooks end, of which beginnings are made.
    cells : starts, rows and rest as `SortedCodes` has them; codes (n, M); next codewords (n,)
    choice : mask (n,) or (0,); rows left out (B, E), ascending, -1 behind them
    plan : (int, int, bool)
        How many look-ups a walk may cost, 0 for no walk at all; after how many it is estimated what
        is left; and whether a scan goes on where they are too many.
    tuples : of length M - L, and M, or both empty
    results : similarities (B, k), rows (B, k), status (B,)
        Status: `DONE`; `TOO_MANY` rows, and the k-th best so far as the first similarity; a sum is
        `NOT_FINITE`.
    """
    values, rows, status = results
    found = begin(len(cells[3]), k)
    for q in range(len(tables)):
        own = choice[0], filled(choice[1][q])
        status[q] = _best(tables[q], k, groups, cells, own, plan, tuples, found)
        if status[q] == DONE:
            write(tables[q], cells[3], found, values[q], rows[q])
        elif status[q] == TOO_MANY:
            values[q, 0] = score_of(found[1][1])


@compiled
def best_of_one(  # noqa: PLR0913 - arrays by themselves
    table: Any,
    starts: Any,
    sorted_rows: Any,
    rest: Any,
    codes: Any,
    nexts: Any,
    tuples: Any,
    budget: Any,
    results: Any,
) -> int:
    """Find the k best rows of one query, as `best` does; return how it ended.

    numba looks into tuples of arrays for as long as a search of few rows takes.

    table : (1, M · K).  results : similarities (1, k), rows (1, k).
    """
    n, n_codebooks = codes.shape
    values, rows = results
    k, n_first = rows.shape[1], n_codebooks - rest.shape[1]
    table = table.reshape(n_codebooks, -1)
    found = begin(n, k)
    groups = n_first - n_first // 2, n_first
    cells = starts, sorted_rows, rest, codes, nexts
    choice = np.empty(0, np.bool_), np.empty(0, np.int64)
    plan = budget, min(budget, n) // ESTIMATE_AT, True
    status = _best(table, k, groups, cells, choice, plan, tuples, found)
    if status == DONE:
        write(table, codes, found, values[0], rows[0])
    return status


@compiled
def among(
    tables: Any, k: Any, subset: Any, codes: Any, left_out: Any, every: Any, results: Any
) -> None:
    """Find the k best of some rows, as `best` does."""
    values, rows, status = results
    found = begin(len(subset), k)
    for q in range(len(tables)):
        restart(found, k)
        own = np.empty(0, np.bool_), filled(left_out[q])
        if len(subset):  # none at all would stand for all rows
            scan(tables[q], codes, subset, own, found, every)
        write(tables[q], codes, found, values[q], rows[q])
        status[q] = DONE


@compiled
def reaching(
    table: Any, threshold: Any, groups: Any, cells: Any, choice: Any, budget: Any, tuples: Any
) -> Any:
    """Return similarities and rows of all that reach a threshold, ranked; the rest as in `best`."""
    codes = cells[3]
    found = begin(len(codes), len(codes) + 1)  # there is room for all, and none is dropped
    at_least(found, threshold)
    above, above_next, _ = _bounds(table, groups[1])
    choice = choice[0], filled(choice[1])
    limits = above, above_next, budget, 0
    if not _walk(table, groups, cells, choice, found, tuples[0], limits):
        found[1][0] = 0
        scan(table, codes, np.empty(0, np.int64), choice, found, tuples[1])
    n = np.int64(found[1][0])
    values, rows = np.empty(n, np.float32), np.empty(n, np.int64)
    write(table, codes, found, values, rows)
    return values, rows


@compiled
def sort_codes(codes: Any, n_first: Any, n_codewords: Any) -> Any:
    """Return what `SortedCodes` keeps, by one count of all beginnings."""
    n, n_codebooks = codes.shape
    starts = np.zeros(n_codewords**n_first + 1, np.int32)
    counts = np.zeros(n_codewords + 1, np.int32)
    keys = np.empty(n, np.uint16)
    for row in range(n):
        key = 0
        for m in range(n_first):
            key = key * n_codewords + codes[row, m]
        keys[row] = key
        starts[key + 1] += 1
        counts[codes[row, n_first] + 1] += 1
    for key in range(n_codewords**n_first):
        starts[key + 1] += starts[key]
    for codeword in range(n_codewords):
        counts[codeword + 1] += counts[codeword]
    by_next = np.empty(n, np.int32)
    for row in range(n):
        codeword = codes[row, n_first]
        by_next[counts[codeword]] = row
        counts[codeword] += 1
    places = starts.copy()
    rows = np.empty(n, np.int32)
    rest = np.empty((n, n_codebooks - n_first), codes.dtype)
    for row in by_next:
        place = places[keys[row]]
        places[keys[row]] = place + 1
        rows[place] = row
        for m in range(n_first, n_codebooks):
            rest[place, m - n_first] = codes[row, m]
    return starts, rows, rest


def try_out() -> None:
    """Compile what most searches need, for codes of four bytes."""
    codes = np.zeros((1, 4), np.uint8)
    codes.flags.writeable = False
    cells = (*sort_codes(codes, 2, 1), codes, np.zeros(1, np.uint8))
    tables = np.zeros((1, 4, 1), np.float32)
    choice = np.empty(0, np.bool_), np.empty((1, 0), np.int64)
    results = np.empty((1, 1), np.float32), np.empty((1, 1), np.int64), np.empty(1, np.int64)
    groups, tuples = (1, 2), ((0, 0), (0, 0, 0, 0))
    best(tables, 1, groups, cells, choice, (1, 1, True), tuples, results)
    best_of_one(tables.reshape(1, 4), *cells, tuples, 1, results[:2])
