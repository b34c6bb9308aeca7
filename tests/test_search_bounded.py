"""Search by bounds: the ranking of the reference, from a part of the rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from skwsdhq.search import CodeIndex
from skwsdhq.search import _bounded as _search_bounded
from skwsdhq.search._bounded import BoundedEngine, n_leading
from skwsdhq.search._engines import NumpyEngine
from skwsdhq.search._select import bounds_pay


@pytest.mark.parametrize(
    ("n_codebooks", "n_codewords", "expected"),
    [
        (4, 256, 2), (8, 256, 2), (3, 256, 2), (2, 256, 1), (1, 256, 0), (8, 16, 4), (16, 4, 8),
        (4, 257, 1), (2, 65536, 1), (3, 2, 2), (20, 2, 16),
    ],
)  # fmt: skip
def test_beginnings(n_codebooks, n_codewords, expected):
    assert n_leading(n_codebooks, n_codewords) == expected


def problem(n, n_codebooks, n_codewords, seed, n_levels=None):
    """Codes, and look-up tables whose entries fall off from codebook to codebook."""
    random = np.random.RandomState(seed)
    codes = random.randint(n_codewords, size=(n, n_codebooks))
    codes = codes.astype(np.uint8 if n_codewords <= 256 else np.uint16)
    tables = random.normal(size=(6, n_codebooks, n_codewords))
    tables *= 0.4 ** np.arange(n_codebooks)[:, None]
    if n_levels is not None:  # few values: many rows tie
        tables = np.round(tables * n_levels) / n_levels
    return codes, tables.astype(np.float32)


@pytest.fixture
def eager(monkeypatch):
    """Bounds are used however many rows they leave."""
    monkeypatch.setattr(_search_bounded, "_ROWS_A_NEIGHBOR", 1)
    monkeypatch.setattr(_search_bounded, "_MOST_ROWS", 1)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    n=st.sampled_from([1, 40, 3000, 20000]),
    n_codebooks=st.integers(2, 5),
    n_codewords=st.sampled_from([2, 7, 16, 256, 300]),
    k=st.integers(1, 60),
    n_levels=st.sampled_from([None, 2, 50]),
)
def test_equal_to_the_reference(seed, n, n_codebooks, n_codewords, k, n_levels):
    codes, tables = problem(n, n_codebooks, n_codewords, seed, n_levels)
    engine, reference = BoundedEngine(codes, n_codewords), NumpyEngine(codes.T)
    k = min(k, n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_search_bounded, "_ROWS_A_NEIGHBOR", 1)
        patch.setattr(_search_bounded, "_MOST_ROWS", 1)
        found = engine.search(tables, k)
    expected = reference.search(tables, k)
    assert_array_equal(found[0], expected[0])
    assert_array_equal(found[1], expected[1])
    thresholds = expected[0][:, -1]
    for a, b in zip(
        engine.above(tables, thresholds), reference.above(tables, thresholds), strict=True
    ):
        assert_array_equal(a[0], b[0])
        assert_array_equal(a[1], b[1])


def test_few_rows_are_looked_at():
    codes, tables = problem(200_000, 4, 64, 0)
    engine = BoundedEngine(codes, 64)
    looked_at = []
    original = engine._scored

    def watched(*args):
        scores, rows = original(*args)
        looked_at.append(len(rows))
        return scores, rows

    engine._scored = watched
    found = engine.search(tables, 10)
    assert_array_equal(found[1], NumpyEngine(codes.T).search(tables, 10)[1])
    assert engine._scans == {}
    assert max(looked_at) < len(codes) / 20


@pytest.mark.parametrize("n_queries", [2, 6])
def test_scans_take_over_where_most_rows_would_be_looked_at(n_queries):
    random = np.random.RandomState(0)
    codes = random.randint(16, size=(20_000, 8)).astype(np.uint8)
    tables = random.normal(size=(n_queries, 8, 16)).astype(np.float32)
    tables[:, :4] *= 1e-3  # beginnings tell nothing
    engine, reference = BoundedEngine(codes, 16), NumpyEngine(codes.T)
    for k in (0, 1, 10, 5000):
        found, expected = engine.search(tables, k), reference.search(tables, k)
        assert_array_equal(found[0], expected[0])
        assert_array_equal(found[1], expected[1])
    assert len(engine._scans) == 1
    thresholds = np.array([-np.inf, np.inf, 0.0, 1.0, 2.0, 3.0], dtype=np.float32)[:n_queries]
    pairs = zip(engine.above(tables, thresholds), reference.above(tables, thresholds), strict=True)
    for a, b in pairs:
        assert_array_equal(a[0], b[0])
        assert_array_equal(a[1], b[1])


def test_tables_of_zeros_and_of_huge_numbers(eager):
    codes, tables = problem(3000, 3, 16, 0)
    for scale in (0.0, 1e-38, 1e30):
        scaled = tables * np.float32(scale)
        found = BoundedEngine(codes, 16).search(scaled, 20)
        expected = NumpyEngine(codes.T).search(scaled, 20)
        assert_array_equal(found[0], expected[0])
        assert_array_equal(found[1], expected[1])


def test_who_is_chosen():
    shape = (4, 256, 96)
    assert bounds_pay(10**6, shape, 1)
    assert bounds_pay(10**6, shape, 500)
    assert bounds_pay(10**5, shape, 1)
    assert not bounds_pay(10**5, shape, 500)
    assert not bounds_pay(10**4, shape, 1)
    assert not bounds_pay(10**6, (2, 256, 96), 1)  # buckets
    assert not bounds_pay(10**6, (1, 65536 * 2, 96), 1)
    random = np.random.RandomState(0)
    index = CodeIndex(random.normal(size=(3, 256, 4)), random.randint(256, size=(70_000, 3)))
    index.search(random.normal(size=(1, 4)), 3)
    assert list(index._rows._engines) == ["bounded"]


@pytest.mark.parametrize("shape", [(1, 300, 4), (2, 70, 4)])
def test_an_index_without_beginnings_searches_all_the_same(shape):
    random = np.random.RandomState(0)
    codebooks = random.normal(size=shape)
    codes = random.randint(shape[1], size=(500, shape[0]))
    queries = random.normal(size=(5, shape[2]))
    found = CodeIndex(codebooks, codes, engine="bounded").search(queries, 20)
    expected = CodeIndex(codebooks, codes, engine="numpy").search(queries, 20)
    assert_array_equal(found[1], expected[1])
