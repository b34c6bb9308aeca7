"""Search by bounds: the ranking of the reference, from a part of the rows."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from reference import search as reference_search

from skwsdhq.search import CodeIndex, _bounded, _bounded_numpy, _sorted, lookup_table
from skwsdhq.search._bounded import BoundedEngine
from skwsdhq.search._bounded_numpy import SampledBounds
from skwsdhq.search._engines import NumpyEngine
from skwsdhq.search._select import bounds_pay
from skwsdhq.search._sorted import SortedCodes, n_leading


@pytest.mark.parametrize(
    ("n_codebooks", "n_codewords", "expected"),
    [
        (4, 256, 2), (8, 256, 2), (3, 256, 2), (2, 256, 1), (1, 256, 0), (8, 16, 4), (16, 4, 8),
        (4, 257, 1), (2, 65536, 1), (3, 2, 2), (20, 2, 16),
    ],
)  # fmt: skip
def test_beginnings(n_codebooks, n_codewords, expected):
    assert n_leading(n_codebooks, n_codewords) == expected


def problem(n, n_codebooks, n_codewords, seed, n_levels=None, n_queries=6):
    """Codes, and look-up tables whose entries fall off from codebook to codebook."""
    random = np.random.RandomState(seed)
    codes = random.randint(n_codewords, size=(n, n_codebooks))
    codes = codes.astype(np.uint8 if n_codewords <= 256 else np.uint16)
    tables = random.normal(size=(n_queries, n_codebooks, n_codewords))
    tables *= 0.4 ** np.arange(n_codebooks)[:, None]
    if n_levels is not None:  # few values: many rows tie
        tables = np.round(tables * n_levels) / n_levels
    return codes, tables.astype(np.float32)


@pytest.fixture(params=["compiled", "numpy"])
def form(request, monkeypatch):
    """Search by compiled code, or by numpy alone, as where numba is missing."""
    monkeypatch.setattr(_sorted, "_asked", _sorted._MIN_ASKED)
    if request.param == "numpy":
        monkeypatch.setattr(_sorted, "kernels", lambda module: None)
    return request.param


def walks(patch, is_eager=True):
    """Patch how many rows may be looked at: all of them, or hardly any."""
    patch.setattr(_bounded_numpy, "_ROWS_A_NEIGHBOR", 1 if is_eager else 10**9)
    patch.setattr(_bounded_numpy, "_MOST_ROWS", 1 if is_eager else 10**9)
    patch.setattr(_bounded, "_SHARE", 1e6 if is_eager else 0.0)
    patch.setattr(_bounded, "_SHARE_OF_MANY", 1e6 if is_eager else 0.0)


def assert_same(found, expected):
    assert_array_equal(found[0], expected[0])  # to the last bit, but for the sign of a zero
    assert_array_equal(found[1], expected[1])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10**6),
    n=st.sampled_from([1, 40, 3000, 20000]),
    n_codebooks=st.integers(2, 8),
    n_codewords=st.sampled_from([2, 7, 16, 256, 300]),
    k=st.integers(1, 60),
    n_levels=st.sampled_from([None, 2, 50]),
    n_queries=st.sampled_from([1, 6, 30]),
    is_eager=st.booleans(),
)
def test_equal_to_the_reference(
    form, seed, n, n_codebooks, n_codewords, k, n_levels, n_queries, is_eager
):
    codes, tables = problem(n, n_codebooks, n_codewords, seed, n_levels, n_queries)
    engine, reference = BoundedEngine(codes, n_codewords), NumpyEngine(codes.T)
    k = min(k, n)
    expected = reference.search(tables, k)
    thresholds = expected[0][:, -1]
    with pytest.MonkeyPatch.context() as patch:
        walks(patch, is_eager)
        assert_same(engine.search(tables, k), expected)
        found = engine.above(tables, thresholds)
    for one, other in zip(found, reference.above(tables, thresholds), strict=True):
        assert_same(one, other)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 60),
    n_codebooks=st.sampled_from([2, 3, 4, 8]),
    n_codewords=st.sampled_from([2, 3, 16, 300]),
    k=st.integers(1, 70),
    n_queries=st.sampled_from([1, 3, 12]),
    filters=st.sampled_from([None, "one", "each"]),
    is_excluding=st.booleans(),
    is_eager=st.booleans(),
)
def test_filters_are_those_of_the_loop(
    form, seed, n, n_codebooks, n_codewords, k, n_queries, filters, is_excluding, is_eager
):
    random = np.random.RandomState(seed)
    codebooks = random.randint(-2, 3, size=(n_codebooks, n_codewords, 3)).astype("f4")
    codes = random.randint(n_codewords, size=(n, n_codebooks))
    queries = random.randint(-2, 3, size=(n_queries, 3)).astype("f4")
    masks = random.rand(n_queries, n) < random.choice([0, 0.1, 0.5, 1])
    left_out = [random.choice(n, random.randint(n + 1), replace=False) for _ in range(n_queries)]
    allowed = excluded = given_filter = None
    if filters is not None:
        masks = masks if filters == "each" else masks[:1].repeat(n_queries, axis=0)
        given_filter = list(masks) if filters == "each" else masks[0]
        allowed = [set(np.flatnonzero(mask)) for mask in masks]
    if is_excluding:
        excluded = [set(rows) for rows in left_out]
    index = CodeIndex(codebooks, codes, engine="bounded")
    options = {"filter": given_filter, "exclude": left_out if is_excluding else None}
    threshold = float(random.randint(-3, 6))
    with pytest.MonkeyPatch.context() as patch:
        walks(patch, is_eager)
        patch.setattr(_bounded, "_ROWS_ALONE", random.choice([0, 16]))
        similarities, ids = index.search(queries, k, **options)
        starts, values, rows = index.range_search(queries, threshold, **options)
    tables = lookup_table(queries, codebooks)
    for q, pairs in enumerate(reference_search.search(tables, codes, n, excluded, allowed)):
        n_found = min(k, len(pairs))
        assert ids[q][:n_found].tolist() == [row for _, row in pairs[:n_found]]
        assert similarities[q][:n_found].tolist() == [value for value, _ in pairs[:n_found]]
        assert (ids[q][n_found:] == -1).all()
        assert (similarities[q][n_found:] == -np.inf).all()
        reached = [pair for pair in pairs if pair[0] >= threshold]
        part = slice(starts[q], starts[q + 1])
        assert rows[part].tolist() == [row for _, row in reached]
        assert values[part].tolist() == [value for value, _ in reached]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), steps=st.lists(st.sampled_from("asrcp"), max_size=8))
def test_an_index_that_changes_keeps_its_order(form, seed, steps, tmp_path):
    random = np.random.RandomState(seed)
    codebooks = random.normal(size=(3, 20, 4))
    index = CodeIndex(codebooks, random.randint(20, size=(300, 3)), engine="bounded")
    queries = random.normal(size=(3, 4)).astype("f4")
    for step in ["s", *steps, "s"]:
        if step == "a":
            index.add(random.randint(20, size=(random.randint(40), 3)))
        elif step == "r":
            n_gone = random.randint(len(index) + 1) if random.rand() < 0.2 else len(index) // 8
            index.remove(random.choice(index.ids, n_gone, replace=False))
        elif step == "c":
            index = index.copy() if random.rand() < 0.5 else copy.deepcopy(index)
        elif step == "p":
            index.save(tmp_path / "index")
            loaded = CodeIndex.load(tmp_path / "index", engine="bounded")
            index = loaded if random.rand() < 0.5 else pickle.loads(pickle.dumps(index))
        else:
            plain = CodeIndex(codebooks, index.codes, ids=index.ids, engine="numpy")
            assert_same(index.search(queries, 9), plain.search(queries, 9))


def test_rows_that_come_and_go_are_not_sorted_again(monkeypatch):
    random = np.random.RandomState(0)
    codes = random.randint(20, size=(3000, 3))
    index = CodeIndex(random.normal(size=(3, 20, 4)), codes, engine="bounded")
    query = random.normal(size=(1, 4))
    index.search(query, 3)
    monkeypatch.setattr(_sorted.SortedCodes, "of", None)
    index.add(random.randint(20, size=(30, 3))).remove([5, 3010]).add([[1, 2, 3]])
    found = index.search(query, 40)
    plain = CodeIndex(index.codebooks, index.codes, ids=index.ids, engine="numpy")
    assert_same(found, plain.search(query, 40))
    order = index._rows._engines["bounded"].order
    assert_array_equal(np.sort(order.rows), np.arange(len(index)))
    # Each lies where its beginning is, with the rest of its code beside it.
    beginnings = 20 * index.codes[:, 0].astype(int) + index.codes[:, 1]
    assert_array_equal(beginnings[order.rows], np.repeat(np.arange(400), np.diff(order.starts)))
    assert_array_equal(index.codes[order.rows, 2:], order.rest)


ENTRIES = st.floats(-(2.0**126), 2.0**126, width=32) | st.sampled_from(
    [0.0, -0.0, 1.0, 3e38, -3e38]
)


@settings(max_examples=100, deadline=None)
@given(sums=st.lists(ENTRIES, min_size=1, max_size=300), limit=ENTRIES | st.just(-np.inf))
@example(sums=[0.0, 1.0, 20465368.0], limit=1.0)
def test_intervals_of_sums_leave_out_none_that_reaches_a_limit(sums, limit):
    walk = pytest.importorskip("skwsdhq.search._kernels_walk")
    sums = np.array(sums, np.float32)
    group = walk._grouped(sums)
    order, n_passed = group[0], walk._reach(group, np.float64(limit))
    assert_array_equal(np.sort(order), np.arange(len(sums)))
    assert (sums[order[n_passed:]] < limit).all()
    assert not n_passed or sums.max() >= limit
    assert group[2] == sums.max()


def test_intervals_of_sums_leave_out_most_that_do_not_reach_a_limit():
    walk = pytest.importorskip("skwsdhq.search._kernels_walk")
    sums = np.random.RandomState(0).normal(size=4096).astype(np.float32)
    group, limit = walk._grouped(sums), np.quantile(sums, 0.99)
    n_reaching = np.count_nonzero(sums >= limit)
    assert n_reaching <= walk._reach(group, limit) < 3 * n_reaching


@pytest.mark.parametrize("k", [1, 10, 300])
def test_many_queries_are_ranked_alike_whatever_the_way(form, monkeypatch, k):
    codes, tables = problem(3000, 8, 20, 3, n_queries=40)
    expected = NumpyEngine(codes.T).search(tables, k)
    # A walk for each, none, and those after two or four that were given up.
    for share in (1.0, 0.0, 0.01, 0.03, 0.1):
        monkeypatch.setattr(_bounded, "_SHARE_OF_MANY_LONG", share)
        assert_same(BoundedEngine(codes, 20).search(tables, k), expected)


def test_few_rows_are_looked_at():
    codes, tables = problem(200_000, 4, 64, 0)
    engine = SampledBounds(codes, SortedCodes.of(codes, 64))
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


def test_the_compiled_walk_looks_at_few_rows(form):
    if form == "numpy":
        pytest.skip("nothing is compiled")
    codes, tables = problem(200_000, 4, 64, 0)
    engine = BoundedEngine(codes, 64)
    walk = engine.walk(0)
    results = np.empty((6, 10), "f4"), np.empty((6, 10), np.int64), np.empty(6, np.int64)
    choice = np.empty(0, np.bool_), np.empty((6, 0), np.int64)
    for budget, status in ((len(codes) // 5, walk.DONE), (50, walk.TOO_MANY)):
        plan = (budget, 0, False)
        walk.best(tables, 10, engine.groups, engine._cells, choice, plan, engine.tuples, results)
        assert (results[2] == status).all()


@pytest.mark.parametrize("n_queries", [2, 6, 70])
def test_scans_take_over_where_most_rows_would_be_looked_at(form, n_queries):
    random = np.random.RandomState(0)
    codes = random.randint(16, size=(20_000, 8)).astype(np.uint8)
    tables = random.normal(size=(n_queries, 8, 16)).astype(np.float32)
    tables[:, :4] *= 1e-3  # beginnings tell nothing
    engine, reference = BoundedEngine(codes, 16), NumpyEngine(codes.T)
    for k in (0, 1, 10, 5000):
        assert_same(engine.search(tables, k), reference.search(tables, k))
    thresholds = np.resize(np.array([-np.inf, np.inf, 0.0, 1.0, 2.0, 3.0], "f4"), n_queries)
    pairs = zip(engine.above(tables, thresholds), reference.above(tables, thresholds), strict=True)
    for found, expected in pairs:
        assert_same(found, expected)


def test_tables_of_zeros_and_of_huge_numbers(form):
    codes, tables = problem(3000, 3, 16, 0, n_queries=20)
    for scale in (0.0, -0.0, 1e-38, 1e-45, 1e30):
        scaled = tables * np.float32(scale)
        for is_eager in (True, False):
            with pytest.MonkeyPatch.context() as patch:
                walks(patch, is_eager)
                found = BoundedEngine(codes, 16).search(scaled, 20)
            assert_same(found, NumpyEngine(codes.T).search(scaled, 20))


def test_entries_of_very_unequal_size(form):
    codes, tables = problem(3000, 4, 256, 0, n_queries=12)
    tables[:, 0, 7] = 1e30  # all other entries of this codebook lie in one interval
    expected = NumpyEngine(codes.T).search(tables, 50)
    assert_same(BoundedEngine(codes, 256).search(tables, 50), expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_numbers_that_are_none_are_refused_by_the_short_way_too(form, bad):
    random = np.random.RandomState(0)
    codes = random.randint(16, size=(500, 3))
    index = CodeIndex(9 * random.normal(size=(3, 16, 4)), codes, engine="bounded")
    query = random.normal(size=(1, 4)).astype("f4")
    index.search(query, 3)
    query[0, 1] = bad
    with pytest.raises(ValueError, match=r"NaN or infinity|exceed float32"):
        index.search(query, 3)


@pytest.mark.parametrize("k", [0, -1, 2.5, True, None])
def test_no_number_of_rows_is_refused_by_the_short_way_too(form, k):
    index = CodeIndex(np.eye(4)[None].repeat(3, 0), np.zeros((9, 3), int), engine="bounded")
    query = np.ones((1, 4), "f4")
    index.search(query, 3)
    with pytest.raises((TypeError, ValueError), match="k="):
        index.search(query, k)


def test_one_query_is_ranked_as_by_the_reference(form):
    random = np.random.RandomState(0)
    codebooks, codes = random.normal(size=(4, 64, 8)), random.randint(64, size=(5000, 4))
    ids = np.array([f"row {i}" for i in range(5000)])
    plain = CodeIndex(codebooks, codes, ids=ids, engine="numpy")
    for engine in ("auto", "bounded"):
        index = CodeIndex(codebooks, codes, ids=ids, engine=engine)
        for query in random.normal(size=(9, 1, 8)).astype("f4"):
            expected = plain.search(query, 12)
            assert_same(index.search(query, 12), expected)
            assert_same(index.search(query.astype("f8"), 12), expected)
            assert_same(index.search(np.asfortranarray(query), 12), expected)


def test_no_filter_leaves_rows(form):
    index = CodeIndex(np.eye(4)[None].repeat(3, 0), np.zeros((9, 3), int), engine="bounded")
    query = np.ones((1, 4), "f4")
    assert index.search(query, 3, filter=np.zeros(9, bool))[1].shape == (1, 0)
    assert index.search(query, 3, filter=[])[1].shape == (1, 0)
    assert index.search(query, 3, exclude=[list(range(9))])[1].shape == (1, 0)
    index.remove(np.arange(9))
    assert index.search(query, 3)[1].shape == (1, 0)
    assert index.range_search(query, -9.0)[0].tolist() == [0, 0]


def test_threads_share_a_compiled_index(form):
    random = np.random.RandomState(0)
    codebooks, codes = random.normal(size=(4, 64, 8)), random.randint(64, size=(20_000, 4))
    index = CodeIndex(codebooks, codes)
    queries = random.normal(size=(8, 40, 8)).astype("f4")
    expected = [index.search(part, 10) for part in queries]
    fresh = CodeIndex(codebooks, codes)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda part: fresh.search(part, 10), queries))
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)
    together = np.concatenate(queries)
    divided = CodeIndex(codebooks, codes, n_jobs=2).search(together, 10)
    assert_same(divided, index.search(together, 10))


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
