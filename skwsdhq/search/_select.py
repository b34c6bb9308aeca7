"""Which engine for which work, and rankings of parts of the rows."""

from collections.abc import Callable

import numpy as np

from ._bounded import BoundedEngine
from ._buckets import BucketEngine
from ._engines import MIN_SCAN_QUERIES, Engine, NumpyEngine
from ._faiss import FaissEngine
from ._ids import Choice
from ._pairs import PairEngine
from ._scan import ScanEngine
from ._sorted import n_leading

__all__ = [
    "BUILDERS",
    "bounds_pay",
    "build_engine",
    "choose_engine",
    "drop_rows",
    "may_compile",
    "search_each",
]

# Where engines change places, as measured on two cores; results do not depend on it.
_MAX_BUCKETS = 2**16
_MIN_PAIR_ROWS = 8192
_MIN_COMPILED_ROWS = 2**11
_MIN_BOUNDED_ROWS = 2**16  # where numpy does it
_MIN_BOUNDED_ROWS_OF_MANY = 2**18  # where a scan shares its work among queries


def choose_engine(n: int, shape: tuple[int, ...], n_queries: int) -> str:
    """Choose the fastest engine for n rows, codebooks of a shape (M, K, D) and some queries.

    Of those that look at all rows; see `bounds_pay` for the one that does not.
    """
    n_codebooks, n_codewords, _ = shape
    if n_codewords**n_codebooks <= _MAX_BUCKETS:
        return "buckets"
    if n_queries >= MIN_SCAN_QUERIES:
        return "scan"
    # Tables of pairs have to be made first.
    return "pairs" if n >= _MIN_PAIR_ROWS else "numpy"


def may_compile(n: int, shape: tuple[int, ...]) -> bool:
    """Tell whether compiled searches by bounds are worth their compiler, or its import."""
    n_codebooks, n_codewords, _ = shape
    has_beginnings = n_leading(n_codebooks, n_codewords) > 0
    return n >= _MIN_COMPILED_ROWS and has_beginnings and n_codewords**n_codebooks > _MAX_BUCKETS


def bounds_pay(n: int, shape: tuple[int, ...], n_queries: int, is_compiled: bool = False) -> bool:
    """Tell whether searches by bounds are the fastest, once they have sorted the codes."""
    if is_compiled or not may_compile(n, shape):
        return may_compile(n, shape)
    are_many = n_queries >= MIN_SCAN_QUERIES
    return n >= (_MIN_BOUNDED_ROWS_OF_MANY if are_many else _MIN_BOUNDED_ROWS)


def build_engine(name: str, codes: np.ndarray, n_codewords: int) -> Engine:
    """Build an engine over codes (n, M) by its name."""
    return BUILDERS[name](codes, n_codewords)


def _pairs(codes: np.ndarray, n_codewords: int) -> Engine:
    return PairEngine(np.ascontiguousarray(codes))


def _bounded(codes: np.ndarray, n_codewords: int) -> Engine:
    # One codebook alone, or too many codewords to sort by, has no beginnings.
    has_beginnings = n_leading(codes.shape[1], n_codewords) > 0
    return BoundedEngine(codes, n_codewords) if has_beginnings else _pairs(codes, n_codewords)


def _buckets(codes: np.ndarray, n_codewords: int) -> Engine:
    return BucketEngine(np.ascontiguousarray(codes.T), n_codewords)


def _numpy(codes: np.ndarray, n_codewords: int) -> Engine:
    return NumpyEngine(np.ascontiguousarray(codes.T))


# Every engine by the name that a user gives; each takes codes (n, M) and the number of codewords.
BUILDERS: dict[str, Callable[[np.ndarray, int], Engine]] = {
    "buckets": _buckets,
    "bounded": _bounded,
    "scan": ScanEngine,
    "pairs": _pairs,
    "faiss": FaissEngine,
    "numpy": _numpy,
}


def search_each(
    codes: np.ndarray, allowed: list[Choice], tables: np.ndarray, k: int, block: slice
) -> tuple[np.ndarray, np.ndarray]:
    """Search among rows of its own for each query; fill up with -inf and -1."""
    similarities = np.full((len(tables), k), -np.inf, dtype=np.float32)
    rows = np.full((len(tables), k), -1, dtype=np.int64)
    for b, choice in enumerate(allowed[block]):
        own = choice.rows
        n_found = min(k, len(own))
        values, found = NumpyEngine(codes[own].T).search(tables[b : b + 1], n_found)
        similarities[b, :n_found], rows[b, :n_found] = values[0], own[found[0]]
    return similarities, rows


def drop_rows(
    similarities: np.ndarray, rows: np.ndarray, excluded: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the first k rows that are not excluded; fill up with -inf and -1."""
    if excluded.shape[1] <= 4:  # a comparison for each is faster than a set operation a query
        kept = rows >= 0
        for column in excluded.T:
            kept &= rows != column[:, None]
    else:
        kept = np.array([~np.isin(r, e) for r, e in zip(rows, excluded, strict=True)]) & (rows >= 0)
    place = np.cumsum(kept, axis=1) - 1
    kept &= place < k
    values = np.full((len(rows), k), -np.inf, dtype=np.float32)
    found = np.full((len(rows), k), -1, dtype=np.int64)
    queries = np.nonzero(kept)[0]
    values[queries, place[kept]] = similarities[kept]
    found[queries, place[kept]] = rows[kept]
    return values, found
