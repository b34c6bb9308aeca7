"""Look-up tables, engines of one ranking, the index and what leaves it."""

import copy
import doctest
import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import search as reference

from skwsdhq.codebooks import learn_codebooks
from skwsdhq.search import CodeIndex, InvertedCodeIndex, lookup_table, rerank
from skwsdhq.search import _inverted as _search_inverted
from skwsdhq.search import _lists as _search_lists
from skwsdhq.search import _scan as _search_scan
from skwsdhq.search import _select as _search_select
from skwsdhq.search import _store as _search_store
from skwsdhq.search._buckets import BucketEngine, distinct_codes
from skwsdhq.search._engines import NumpyEngine
from skwsdhq.search._faiss import FaissEngine, pack_codes, unpack_codes
from skwsdhq.search._pairs import PairEngine, pair_columns, pair_tables, rough_scores, rough_slack
from skwsdhq.search._scan import ScanEngine
from skwsdhq.search.topk import sampled_rank

ENGINES = list(_search_select.BUILDERS)
LISTS = ("codebooks", "codes", "rows", "starts", "directions")
KINDS = {
    "CodeIndex": ("codebooks", "codes"),
    "InvertedCodeIndex": LISTS,
    "InvertedCodeIndex of residuals": (*LISTS, "centers"),
}


def problem(seed, n=120, n_codebooks=2, n_codewords=8, n_dims=4, n_queries=9, scale=1.0):
    """Small integers tie heavily, and in float32 their sums are exact; a scale makes them round."""
    rng = np.random.default_rng(seed)
    codebooks = (scale * rng.integers(-3, 4, (n_codebooks, n_codewords, n_dims))).astype("f4")
    codes = rng.integers(0, n_codewords, (n, n_codebooks))
    queries = (scale * rng.integers(-3, 4, (n_queries, n_dims))).astype("f4")
    return codebooks, codes, queries


def assert_ranking(found, expected):
    """Similarities and rows are those of the reference's pairs, to the last bit."""
    similarities, rows = found
    assert similarities.dtype == np.float32
    for q, pairs in enumerate(expected):
        assert rows[q].tolist() == [row for _, row in pairs]
        assert similarities[q].tolist() == [float(value) for value, _ in pairs]


# -- look-up tables ------------------------------------------------------------------------------


def test_lookup_table_is_the_loop():
    codebooks, _, queries = problem(0, scale=0.3)
    table = lookup_table(queries, codebooks)
    assert table.dtype == np.float32
    np.testing.assert_allclose(
        table, reference.lookup_table(queries, codebooks), rtol=1e-5, atol=1e-6
    )
    exact = lookup_table(queries.astype("f8"), codebooks.astype("f8"))
    assert exact.dtype == np.float64
    np.testing.assert_allclose(exact, reference.lookup_table(queries, codebooks), rtol=1e-12)


def test_lookup_table_of_one_query_is_what_searches_sum():
    random = np.random.default_rng(0)
    codebooks = random.normal(size=(4, 32, 48)).astype(np.float32)
    codes = random.integers(0, 32, size=(40, 4))
    index = CodeIndex(codebooks, codes)
    inverted = InvertedCodeIndex(index, 4, random_state=0)
    for query in random.normal(size=(20, 1, 48)).astype(np.float32):
        table = lookup_table(query, codebooks)
        np.testing.assert_allclose(table, reference.lookup_table(query, codebooks), 1e-5, 1e-5)
        expected = reference.search(table, codes, 5)
        assert_ranking(index.search(query, 5), expected)
        assert_ranking(inverted.search(query, 5, n_probe=4), expected)


def test_lookup_table_of_one_and_no_queries():
    codebooks, _, queries = problem(0)
    assert lookup_table(queries[:1], codebooks).shape == (1, 2, 8)
    assert lookup_table(queries[:0], codebooks).shape == (0, 2, 8)


@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 9))
def test_table_scores_are_inner_products_with_decoded_rows(seed, n_codebooks, n_codewords):
    codebooks, codes, queries = problem(seed, 7, n_codebooks, n_codewords, scale=0.1)
    index = CodeIndex(codebooks, codes)
    similarities, rows = index.search(queries, 7)
    decoded = reference.decode(codes, codebooks)
    np.testing.assert_allclose(index.reconstruct(), decoded, rtol=1e-5, atol=1e-6)
    products = np.take_along_axis(queries @ decoded.T, rows, axis=1)
    np.testing.assert_allclose(similarities, products, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("embeddings", "codebooks", "message"),
    [
        (np.ones((2, 3)), np.ones((1, 2, 4)), r"\(q, D=4\)"),
        (np.ones(3), np.ones((1, 2, 3)), r"got \(3,\)"),
        (np.ones((2, 3)), np.ones((2, 3)), r"\(M, K, D\)"),
    ],
)
def test_lookup_table_names_what_is_wrong(embeddings, codebooks, message):
    with pytest.raises(ValueError, match=message):
        lookup_table(embeddings, codebooks)


# -- engines -------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 0.37])
@pytest.mark.parametrize("n", [1, 2, 90])
@pytest.mark.parametrize(("n_codebooks", "n_codewords"), [(1, 4), (2, 3), (3, 300), (8, 2), (1, 1)])
@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_is_the_loop(engine, n_codebooks, n_codewords, n, scale):
    codebooks, codes, queries = problem(n, n, n_codebooks, n_codewords, scale=scale)
    index = CodeIndex(codebooks, codes, engine=engine)
    tables = lookup_table(queries, codebooks)
    for k in (1, 2, 17, 89, 1000):
        assert_ranking(index.search(queries, k), reference.search(tables, codes, k))


def random_tables(rng, n_queries, n_codebooks, n_codewords, ties):
    tables = rng.standard_normal((n_queries, n_codebooks, n_codewords))
    if ties:  # few values in float32: sums of different codes tie too
        tables = np.round(2 * tables) * 0.1
    return tables.astype(np.float32)


def check_engines(n, n_codebooks, n_codewords, n_queries, depths, seed, ties=True):
    rng = np.random.default_rng(seed)
    # Codes from a small pool: many rows share each.
    pool = rng.integers(0, n_codewords, (max(n // 8, 1), n_codebooks))
    codes = pool[rng.integers(0, len(pool), n)].astype(np.uint8 if n_codewords <= 256 else "u2")
    tables = random_tables(rng, n_queries, n_codebooks, n_codewords, ties)
    columns = np.ascontiguousarray(codes.T)
    engines = [
        BucketEngine(columns, n_codewords),
        ScanEngine(codes, n_codewords),
        PairEngine(codes),
        FaissEngine(codes, n_codewords),
    ]
    plain = NumpyEngine(columns)
    for k in depths:
        similarities, rows = plain.search(tables, k)
        # The reference engine is checked by a full sort of its own scores.
        scores = sum(tables[:, m][:, columns[m]] for m in range(1)).copy()
        for m in range(1, n_codebooks):
            scores += tables[:, m][:, columns[m]]
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        np.testing.assert_array_equal(rows, order)
        for engine in engines:
            values, found = engine.search(tables, k)
            np.testing.assert_array_equal(found, rows, err_msg=type(engine).__name__)
            np.testing.assert_array_equal(values, similarities, err_msg=type(engine).__name__)


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("n_codewords", [16, 256, 1024])
@pytest.mark.parametrize("n_codebooks", [1, 2, 4, 8])
def test_engines_agree(n_codebooks, n_codewords, ties):
    check_engines(6000, n_codebooks, n_codewords, 12, (1, 10, 300), n_codebooks, ties)


@pytest.mark.slow
@pytest.mark.parametrize("n_codewords", [16, 256, 1024])
@pytest.mark.parametrize("n_codebooks", [1, 2, 4, 8])
def test_engines_agree_on_ten_thousand_queries(n_codebooks, n_codewords):
    for part in range(40):
        check_engines(4000, n_codebooks, n_codewords, 250, (10, 100), part, part % 4 != 0)


@pytest.mark.parametrize("n_codewords", [5, 256, 300])
@pytest.mark.parametrize("n_codebooks", [1, 2, 3, 4, 5])
def test_pairs_of_entries_are_the_sums_of_both(n_codebooks, n_codewords):
    rng = np.random.default_rng(0)
    codes = rng.integers(0, n_codewords, (500, n_codebooks))
    codes = codes.astype(np.uint8 if n_codewords <= 256 else np.uint16)
    table = rng.standard_normal((n_codebooks, n_codewords)).astype("f4")
    rough = rough_scores(pair_tables(table), pair_columns(codes))
    exact = np.array([reference.similarity(table, code) for code in codes])
    assert rough.dtype == np.float32
    assert np.abs(rough - exact).max() <= rough_slack(table)
    if n_codebooks < 4:
        np.testing.assert_array_equal(rough, exact)  # one order of adding


def test_pairs_find_what_rounding_makes_the_best():
    # One after the other, 1 + 2⁻²⁴ + 2⁻²⁴ loses both and 1 + 1.5 · 2⁻²⁴ - 0.9 · 2⁻²⁴ is 1 + 2⁻²³;
    # with the last two added first it is the other way round.
    table = np.array([[[1, 0], [0, 0], [1, 1.5], [1, -0.9]]], dtype=np.float32)
    table[:, 2:] *= 2.0**-24
    codes = np.zeros((10_000, 4), dtype=np.uint8)
    codes[777] = [0, 0, 1, 1]
    engine = PairEngine(codes)
    similarities, rows = engine.search(table, 3)
    assert rows.tolist() == [[777, 0, 1]]
    assert similarities.tolist() == [[1 + 2.0**-23, 1, 1]]
    scores, found = engine.above(table, np.array([1 + 2.0**-23], dtype=np.float32))[0]
    assert found.tolist() == [777]
    assert scores.tolist() == [1 + 2.0**-23]


def test_scan_survives_a_sample_that_misleads():
    # Every sampled row is among the worst: hardly a threshold at all, and then among the best.
    for good in (0, 1):
        codes = np.full((40_000, 1), 1 - good, dtype=np.uint8)
        engine = ScanEngine(codes, 3)
        step = 40_000 // len(engine.sample)
        codes[::step] = good
        codes[7] = 2
        tables = np.array([[[0.0, 1.0, 2.0]]] * 6, dtype=np.float32)
        expected = NumpyEngine(codes.T).search(tables, 3000)
        for engine in (ScanEngine(codes, 3), PairEngine(codes)):
            similarities, rows = engine.search(tables, 3000)
            np.testing.assert_array_equal(rows, expected[1])
            np.testing.assert_array_equal(similarities, expected[0])


def test_pairs_go_on_where_too_few_rows_reach_the_threshold():
    # The sample has all rows that are good, just enough to take them for the threshold.
    codes = np.zeros((40_000, 1), dtype=np.uint8)
    n_sampled = len(PairEngine(codes).sample[0])
    rank = sampled_rank(3000, 40_000, n_sampled)
    step = 40_000 // n_sampled
    codes[: rank * step : step] = 1
    tables = np.array([[[0.0, 1.0]]], dtype=np.float32)
    similarities, rows = PairEngine(codes).search(tables, 3000)
    expected = NumpyEngine(codes.T).search(tables, 3000)
    np.testing.assert_array_equal(rows, expected[1])
    np.testing.assert_array_equal(similarities, expected[0])


def test_faiss_fetches_on_while_the_last_place_ties():
    codes = np.zeros((5000, 1), dtype=np.uint8)
    codes[-20:] = 1
    tables = np.array([[[1.0, 2.0]], [[1.0, 0.5]]], dtype=np.float32)
    engine = FaissEngine(codes, 2)
    _, rows = engine.search(tables, 30)
    assert rows[0].tolist() == [*range(4980, 5000), *range(10)]
    assert rows[1].tolist() == list(range(30))


def test_faiss_engine_refuses_large_codebooks():
    index = CodeIndex(np.ones((1, 1025, 2)), np.zeros((5, 1), int), engine="faiss")
    with pytest.raises(ValueError, match="n_codewords=1025 should be <= 1024"):
        index.search(np.ones((1, 2)), 1)


def test_auto_chooses_by_size():
    choose = _search_select.choose_engine
    assert choose(1_000_000, (2, 256, 8), 1) == "buckets"
    assert choose(1_000_000, (4, 256, 8), 100) == "scan"
    assert choose(1_000_000, (4, 256, 8), 1) == "pairs"
    assert choose(1_000, (4, 256, 8), 1) == "numpy"


def test_distinct_codes_come_in_order_of_first_row():
    for n_codewords in (4, 300, 60_000):
        codes = np.array([[3, 1], [0, 0], [3, 1], [1, 3], [0, 0], [3, 1]])
        distinct, rows, starts, sizes = distinct_codes(codes.T, n_codewords)
        assert distinct.T.tolist() == [[3, 1], [0, 0], [1, 3]]
        groups = [rows[s : s + c].tolist() for s, c in zip(starts, sizes, strict=True)]
        assert groups == [[0, 2, 5], [1, 4], [3]]
    wide = np.tile(codes, (1, 5))  # more bits than an integer has
    assert (
        distinct_codes(np.ascontiguousarray(wide.T), 300)[0].T.tolist() == wide[[0, 1, 3]].tolist()
    )


def test_queries_in_threads_and_blocks_change_nothing(monkeypatch):
    codebooks, codes, queries = problem(5, 300, 3, 16, n_queries=200, scale=0.37)
    expected = CodeIndex(codebooks, codes).search(queries, 40)
    threaded = CodeIndex(codebooks, codes, n_jobs=2).search(queries, 40)
    np.testing.assert_array_equal(threaded[0], expected[0])
    np.testing.assert_array_equal(threaded[1], expected[1])
    monkeypatch.setattr("skwsdhq.search._rows._BLOCK_RESULTS", 300)
    deep = CodeIndex(codebooks, codes).search(queries, 40)
    np.testing.assert_array_equal(deep[0], expected[0])
    np.testing.assert_array_equal(deep[1], expected[1])
    monkeypatch.setattr(_search_scan, "_CHUNK_BYTES", 64 * 4 * 50)
    chunks = CodeIndex(codebooks, codes, engine="scan").search(queries, 10)
    np.testing.assert_array_equal(chunks[1], expected[1][:, :10])


def test_threads_elsewhere_are_left_alone():
    import threading

    import faiss
    import torch

    from skwsdhq.utils.threads import one_openmp_thread

    before = torch.get_num_threads(), faiss.omp_get_max_threads()
    codebooks, codes, queries = problem(5, 300, 3, 16)
    for engine in ENGINES:
        CodeIndex(codebooks, codes, engine=engine, n_jobs=2).search(queries, 4)
    assert (torch.get_num_threads(), faiss.omp_get_max_threads()) == before
    elsewhere = []

    def look():
        elsewhere.append((torch.get_num_threads(), faiss.omp_get_max_threads()))

    with one_openmp_thread("torch"), one_openmp_thread("faiss"):
        assert (torch.get_num_threads(), faiss.omp_get_max_threads()) == (1, 1)
        other = threading.Thread(target=look)
        other.start()
        other.join()
    assert elsewhere == [before]
    assert (torch.get_num_threads(), faiss.omp_get_max_threads()) == before


# -- the index -----------------------------------------------------------------------------------


def test_search_on_paper():
    index = CodeIndex([[[1, 0], [0, 1]], [[1, 1], [0, 0]]], [[0, 1], [1, 1], [0, 0], [0, 1]])
    similarities, ids = index.search([[2, 1]], 3)  # decoded: (1, 0), (0, 1), (2, 1), (1, 0)
    assert similarities.tolist() == [[5, 2, 2]]
    assert ids.tolist() == [[2, 0, 3]]


def test_more_than_there_is_gives_all():
    codebooks, codes, queries = problem(0)
    assert CodeIndex(codebooks, codes).search(queries, 500)[1].shape == (9, 120)
    assert CodeIndex(codebooks, codes).search(queries[:0], 5)[1].shape == (0, 5)


@pytest.mark.parametrize("engine", ["auto", *ENGINES])
def test_an_empty_index_finds_nothing_and_fills_up(engine):
    codebooks, codes, queries = problem(0)
    index = CodeIndex(codebooks, codes[:0], engine=engine)
    assert len(index) == 0
    similarities, ids = index.search(queries, 3)
    assert similarities.shape == ids.shape == (9, 0)
    starts, similarities, ids = index.range_search(queries, 0)
    assert starts.tolist() == [0] * 10
    assert index.add(codes) is index
    assert_ranking(
        index.search(queries, 3), reference.search(lookup_table(queries, codebooks), codes, 3)
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_excluded_and_allowed_rows(engine):
    codebooks, codes, queries = problem(1, n_queries=9)
    tables = lookup_table(queries, codebooks)
    index = CodeIndex(codebooks, codes, engine=engine)
    rng = np.random.default_rng(0)
    one = rng.integers(0, 120, 9)
    several = [rng.integers(0, 120, size).tolist() for size in (0, 1, 2, 3, 9, 4, 1, 0, 2)]
    masks = rng.random((9, 120)) < 0.5
    shared = masks[0]
    rows = [set(np.flatnonzero(mask)) for mask in masks]
    cases = [
        ({"exclude": one}, [{row} for row in one], None),
        ({"exclude": several}, [set(entry) for entry in several], None),
        ({"exclude": [[5000]] * 9}, None, None),
        ({"filter": shared}, None, [rows[0]] * 9),
        ({"filter": shared.tolist()}, None, [rows[0]] * 9),
        ({"filter": np.flatnonzero(shared)[::-1]}, None, [rows[0]] * 9),
        ({"filter": [*rows[0], 5000]}, None, [rows[0]] * 9),
        ({"filter": masks}, None, rows),
        ({"filter": [list(entry) for entry in rows]}, None, rows),
        ({"filter": shared, "exclude": one}, [{row} for row in one], [rows[0]] * 9),
        ({"filter": masks, "exclude": several}, [set(entry) for entry in several], rows),
    ]
    for options, excluded, allowed in cases:
        for k in (1, 10):
            expected = reference.search(tables, codes, k, excluded, allowed)
            assert_ranking(index.search(queries, k, **options), expected)
        expected = reference.search(tables, codes, 120, excluded, allowed)
        starts, similarities, ids = index.range_search(queries, -np.inf, **options)
        pairs = [pair for ranking in expected for pair in ranking]
        assert np.diff(starts).tolist() == [len(ranking) for ranking in expected]
        assert ids.tolist() == [row for _, row in pairs]
        assert similarities.tolist() == [value for value, _ in pairs]


@pytest.mark.parametrize("engine", ENGINES)
def test_queries_may_leave_themselves_out(engine):
    codebooks, codes, _ = problem(2)
    index = CodeIndex(codebooks, codes, engine=engine)
    queries = index.reconstruct()
    tables = lookup_table(queries, codebooks)
    own = [{row} for row in range(120)]
    for k in (1, 7, 119, 500):
        found = index.search(queries, k, exclude_self=True)
        assert_ranking(found, reference.search(tables, codes, k, own))
    both = index.search(queries, 5, exclude_self=True, exclude=[0] * 120)
    assert_ranking(both, reference.search(tables, codes, 5, [{0, row} for row in range(120)]))
    with pytest.raises(ValueError, match="3 queries and 120 rows"):
        index.search(queries[:3], 5, exclude_self=True)


def test_a_query_with_fewer_rows_is_filled_up():
    codebooks, codes, queries = problem(0)
    similarities, ids = CodeIndex(codebooks, codes).search(
        queries[:3], 4, filter=[[0, 1, 2, 3], [7], []]
    )
    assert (ids[1, 0], *ids[1, 1:]) == (7, -1, -1, -1)
    assert np.isneginf(similarities[1, 1:]).all()
    assert ids[2].tolist() == [-1] * 4
    named = CodeIndex(codebooks, codes, ids=[f"row {i}" for i in range(120)])
    _, ids = named.search(queries[:2], 2, filter=[["row 4", "row 5"], ["row 7"]])
    assert ids[1].tolist() == ["row 7", ""]
    assert named.search(queries[:1], 3, filter=[])[1].shape == (1, 0)


@pytest.mark.parametrize(
    "ids", [np.arange(120) * 7 - 50, [f"id-{i:03}" for i in range(120)][::-1]], ids=["int", "str"]
)
def test_own_ids_are_returned_and_understood(ids):
    codebooks, codes, queries = problem(3)
    plain, named = CodeIndex(codebooks, codes), CodeIndex(codebooks, codes, ids=ids)
    own = np.asarray(ids)
    assert own.dtype == named.ids.dtype
    rows = plain.search(queries, 6)[1]
    np.testing.assert_array_equal(named.search(queries, 6)[1], own[rows])
    left_out = plain.search(queries, 6, exclude=rows[:, 0])[1]
    np.testing.assert_array_equal(
        named.search(queries, 6, exclude=own[rows[:, 0]])[1], own[left_out]
    )
    some = plain.search(queries, 6, filter=[3, 9, 27, 81])[1]
    np.testing.assert_array_equal(
        named.search(queries, 6, filter=own[[81, 9, 3, 27]].tolist())[1], own[some]
    )
    np.testing.assert_array_equal(named.reconstruct(own[[4, 4, 1]]), plain.reconstruct()[[4, 4, 1]])


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_adding_and_removing_is_building_anew(data):
    codebooks, codes, queries = problem(4, n=30)
    index = CodeIndex(codebooks, codes[:5])
    kept = list(range(5))  # ids that a row-by-row index would hold
    added = 5
    for _ in range(data.draw(st.integers(1, 6))):
        if data.draw(st.booleans()) and added < 30:
            count = min(data.draw(st.integers(0, 8)), 30 - added)
            index.add(codes[added : added + count])
            kept += range(added, added + count)
            added += count
        elif kept:
            gone = data.draw(st.lists(st.sampled_from(kept), unique=True))
            index.remove(gone)
            kept = [i for i in kept if i not in gone]
        index.search(queries, 2)  # engines are built, and have to be built again
    assert index.ids.tolist() == kept
    assert len(index) == len(kept)
    fresh = CodeIndex(codebooks, codes[kept], ids=kept)
    for engine in ("auto", "scan"):
        index.engine = fresh.engine = engine
        for ours, theirs in zip(index.search(queries, 9), fresh.search(queries, 9), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_a_removed_id_is_not_given_again():
    codebooks, codes, _ = problem(0)
    index = CodeIndex(codebooks, codes[:3]).remove([2]).add(codes[:2])
    assert index.ids.tolist() == [0, 1, 3, 4]
    assert index.add(codes[:1], ids=[10]).add(codes[:1]).ids.tolist() == [0, 1, 3, 4, 10, 11]


def test_the_index_keeps_nothing_of_its_input():
    codebooks, codes, queries = problem(0)
    codes = codes.astype(np.uint8)
    index = CodeIndex(codebooks, codes)
    before = index.search(queries, 5)[1]
    codes[:] = 0
    codebooks[:] = 0
    np.testing.assert_array_equal(index.search(queries, 5)[1], before)
    with pytest.raises(ValueError, match="read-only"):
        index.codes[0] = 1


def test_symmetric_search_compares_decoded_codes():
    codebooks, codes, _ = problem(6)
    index = CodeIndex(codebooks, codes)
    decoded = reference.decode(codes, codebooks).astype("f4")
    tables = lookup_table(decoded[:9], codebooks)
    found = index.search_codes(codes[:9], 11)
    assert_ranking(found, reference.search(tables, codes, 11))
    for ours, theirs in zip(
        index.search_codes(codes, 5, exclude_self=True),
        index.search(decoded, 5, exclude_self=True),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("n_codebooks", "n_codewords"), [(2, 8), (4, 200)])
def test_range_search_is_the_loop(engine, n_codebooks, n_codewords):
    codebooks, codes, queries = problem(7, 120, n_codebooks, n_codewords, scale=0.37)
    tables = lookup_table(queries, codebooks)
    index = CodeIndex(codebooks, codes, engine=engine)
    # A threshold that rows reach exactly, one for all and one for each query.
    exact = index.search(queries, 10)[0][:, -1]
    for threshold in (0.5, float(exact[0]), exact, 1e9):
        expected = [
            reference.range_search(tables[q : q + 1], codes, t)[0]
            for q, t in enumerate(np.broadcast_to(threshold, len(queries)))
        ]
        starts, similarities, ids = index.range_search(queries, threshold)
        for q, pairs in enumerate(expected):
            part = slice(starts[q], starts[q + 1])
            assert ids[part].tolist() == [row for _, row in pairs]
            assert similarities[part].tolist() == [float(value) for value, _ in pairs]


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda c, b: CodeIndex(b[0], c), ValueError, r"codebooks should have shape \(M, K, D\)"),
        (lambda c, b: CodeIndex(b * np.nan, c), ValueError, "codebooks contain NaN"),
        (lambda c, b: CodeIndex(b.astype(str), c), TypeError, "codebooks should be numbers"),
        (
            lambda c, b: CodeIndex(np.ones((1, 2**16 + 1, 1)), c[:, :1]),
            ValueError,
            "should be <= 65",
        ),
        (lambda c, b: CodeIndex(b, c[:, :1]), ValueError, r"codes should have shape \(n, M=2\)"),
        (lambda c, b: CodeIndex(b, c + 1), ValueError, "from 0 to 7, K=8 codewords; got 8"),
        (lambda c, b: CodeIndex(b, c - 1), ValueError, "got -1"),
        (lambda c, b: CodeIndex(b, c * 1.0), TypeError, "codes should be integers"),
        (lambda c, b: CodeIndex(b, c, ids=[1]), ValueError, "ids should be 120"),
        (lambda c, b: CodeIndex(b, c[:2], ids=[1, 1]), ValueError, "1 comes twice"),
        (lambda c, b: CodeIndex(b, c[:2], ids=[1.0, 2.0]), TypeError, "all integers or all str"),
        (lambda c, b: CodeIndex(b, c[:2], ids="ab"), TypeError, "got one str"),
        (lambda c, b: CodeIndex(b, c, engine="gpu"), ValueError, "engine='gpu' should be one of"),
        (lambda c, b: CodeIndex(b, c).remove([500]), ValueError, "500 is not"),
        (lambda c, b: CodeIndex(b, c).remove(["a"]), TypeError, "has integer ids"),
        (lambda c, b: CodeIndex(b, c).add(c, ids=np.arange(120)), ValueError, "ids should be new"),
        (lambda c, b: CodeIndex(b, c).add(c[:1], ids=["a"]), TypeError, "of one kind"),
        (lambda c, b: CodeIndex(b, c[:1], ids=["a"]).add(c), ValueError, "has string ids"),
        (lambda c, b: CodeIndex(b, c).reconstruct([120]), ValueError, "120 is not"),
        (lambda c, b: CodeIndex(b, c).prefix(3), ValueError, "from 1 to M=2"),
        (lambda c, b: CodeIndex(b, c).to_faiss("pq"), ValueError, "form='pq'"),
        (lambda c, b: CodeIndex(b, c[:1], ids=["a"]).to_faiss(), TypeError, "integer ids only"),
        (
            lambda c, b: CodeIndex.from_faiss(__import__("faiss").IndexFlatIP(3)),
            TypeError,
            "FlatIP",
        ),
        (
            lambda c, b: CodeIndex.from_faiss(__import__("faiss").IndexPQ(4, 2, 8)),
            ValueError,
            "PROD",
        ),
    ],
)
def test_the_index_names_what_is_wrong(build, error, message):
    codebooks, codes, _ = problem(0)
    codes[0], codes[1] = 0, 7
    with pytest.raises(error, match=message):
        build(codes, codebooks)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"k": 0}, ValueError, "k=0 should be at least 1"),
        ({"k": 2.0}, TypeError, r"k=2\.0 should be an integer"),
        ({"embeddings": np.ones((3, 5))}, ValueError, r"\(q, D=4\)"),
        ({"embeddings": np.full((9, 4), np.nan)}, ValueError, "NaN"),
        ({"embeddings": np.full((9, 4), 1e300)}, ValueError, "exceed float32"),
        ({"embeddings": np.full((9, 4), "a")}, TypeError, "should be numbers"),
        ({"exclude": [1, 2]}, ValueError, "each of 9 queries; got 2"),
        ({"exclude": ["a"] * 9}, TypeError, "integer ids"),
        ({"filter": np.ones(5, bool)}, ValueError, "each of 120 rows"),
        ({"filter": [[1]] * 3}, ValueError, "each of 9 queries"),
        ({"filter": "all"}, TypeError, "filter should be"),
        ({"shortlist": 10}, ValueError, "needs a second stage"),
        ({"n_codebooks": 1, "shortlist": 2}, ValueError, "shortlist=2 should be at least k=3"),
        ({"vectors": np.ones((3, 4))}, ValueError, r"vectors should have shape \(n, D\)"),
    ],
)
def test_search_names_what_is_wrong(options, error, message):
    codebooks, codes, queries = problem(0)
    with pytest.raises(error, match=message):
        CodeIndex(codebooks, codes).search(**{"embeddings": queries, "k": 3, **options})
    with pytest.raises(ValueError, match="threshold should be"):
        CodeIndex(codebooks, codes).range_search(queries, [1, 2])


# -- second stage --------------------------------------------------------------------------------


def test_a_shortlist_of_everything_is_ranked_by_the_second_stage_alone():
    codebooks, codes, queries = problem(8, 120, 4, 8, scale=0.37)
    index = CodeIndex(codebooks, codes)
    whole = index.search(queries, 10)
    by_prefix = index.search(queries, 10, n_codebooks=1, shortlist=120)
    np.testing.assert_array_equal(by_prefix[0], whole[0])
    np.testing.assert_array_equal(by_prefix[1], whole[1])
    vectors = np.random.default_rng(0).normal(size=(120, 4)).astype(np.float16)
    exact = queries @ vectors.astype(np.float32).T
    expected = np.argsort(-exact, axis=1, kind="stable")[:, :10]
    for options in ({}, {"n_codebooks": 2}):
        similarities, ids = index.search(queries, 10, vectors=vectors, shortlist=120, **options)
        np.testing.assert_array_equal(ids, expected)
        np.testing.assert_allclose(
            similarities, np.take_along_axis(exact, expected, axis=1), rtol=1e-5, atol=1e-6
        )


def test_a_short_list_comes_from_the_first_stage():
    codebooks, codes, queries = problem(8, 120, 3, 8, scale=0.37)
    index = CodeIndex(codebooks, codes)
    coarse = index.prefix(1)
    assert coarse.codebooks.shape == (1, 8, 4)
    shortlist = coarse.search(queries, 20)[1]
    similarities, ids = index.search(queries, 5, n_codebooks=1, shortlist=20)
    every = index.search(queries, 120)
    for q in range(len(queries)):
        expected = [row for row in every[1][q] if row in set(shortlist[q])][:5]
        assert ids[q].tolist() == expected
    assert (np.diff(similarities, axis=1) <= 0).all()
    # Fewer rows than k, in a filter of one query's own
    _, ids = index.search(queries[:2], 3, n_codebooks=1, filter=[[1, 2, 3], [4]])
    assert ids[1].tolist() == [4, -1, -1]
    left_out = index.search(queries, 3, n_codebooks=1, exclude=ids[0, :1].tolist() * 9)[1]
    assert not (left_out == ids[0, 0]).any()


def test_rerank_orders_equals_by_row_and_skips_gaps():
    vectors = np.array([[1.0], [2.0], [1.0], [3.0]])
    similarities, rows = rerank([[1.0], [1.0]], [[2, 0, 1], [3, -1, -1]], vectors, 2)
    assert rows.tolist() == [[1, 0], [3, -1]]
    assert similarities.tolist() == [[2, 1], [3, -np.inf]]
    with pytest.raises(ValueError, match="one q"):
        rerank([[1.0]], [[0], [1]], vectors, 1)
    with pytest.raises(ValueError, match="k=0"):
        rerank([[1.0]], [[0]], vectors, 0)


# -- inverted file -------------------------------------------------------------------------------


@pytest.mark.parametrize("ids", [None, [f"row {i}" for i in range(300)]])
def test_all_lists_together_give_the_whole_ranking(ids, monkeypatch):
    if ids is not None:
        monkeypatch.setattr(_search_inverted, "_MIN_PAIR_ROWS", 0)
    codebooks, codes, queries = problem(11, 300, 3, 16, n_queries=70, scale=0.37)
    index = CodeIndex(codebooks, codes, ids=ids)
    inverted = InvertedCodeIndex(index, 10, random_state=0, n_jobs=2)
    assert inverted.sizes.sum() == len(inverted) == 300
    np.testing.assert_allclose(np.linalg.norm(inverted.directions, axis=1), 1, rtol=1e-5)
    for options in ({}, {"exclude": index.ids[:70]}, {"exclude": [index.ids[:9]] * 70}):
        ours = inverted.search(queries, 290, n_probe=10, **options)
        for one, other in zip(ours, index.search(queries, 290, **options), strict=True):
            np.testing.assert_array_equal(one, other)
    own = InvertedCodeIndex(index, 10, random_state=0)
    decoded = index.reconstruct()
    for one, other in zip(
        own.search(decoded, 5, n_probe=10, exclude_self=True),
        index.search(decoded, 5, exclude_self=True),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def test_few_lists_give_the_ranking_of_their_rows():
    codebooks, codes, queries = problem(12, 300, 3, 16, scale=0.37)
    vectors = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float16)
    for exact in (None, vectors):
        index = CodeIndex(codebooks, codes)
        inverted = InvertedCodeIndex(index, 12, vectors=exact, residuals=False, random_state=0)
        assert inverted.centers is None
        places = index.reconstruct() if exact is None else vectors.astype("f4")
        lists = (places @ inverted.directions.T).argmax(axis=1)
        nearest = np.argsort(-(queries @ inverted.directions.T), axis=1, kind="stable")[:, :3]
        allowed = [np.isin(lists, near) for near in nearest]
        ours = inverted.search(queries, 20, n_probe=3)
        found = index.search(queries, 20, filter=np.array(allowed))
        for one, other in zip(ours, found, strict=True):
            np.testing.assert_array_equal(one, other)
    again = InvertedCodeIndex(index, 12, vectors=vectors, residuals=False, random_state=0)
    np.testing.assert_array_equal(again.directions, inverted.directions)


def test_a_query_visits_lists_until_it_has_k_rows():
    codebooks, codes, queries = problem(12, 60, 2, 8)
    index = CodeIndex(codebooks, codes)
    inverted = InvertedCodeIndex(index, 30, random_state=0)
    _, lists = codes_and_lists(inverted)
    order = np.argsort(-(queries @ inverted.directions.T), axis=1, kind="stable")
    left_out = [[0, 1, 2]] * 9
    for k, options, n_left_out in ((7, {}, 0), (50, {}, 0), (20, {"exclude": left_out}, 3)):
        similarities, ids = inverted.search(queries, k, n_probe=1, **options)
        assert ids.shape == (9, k)
        assert (ids >= 0).all()
        for q in range(9):
            counts = np.cumsum(inverted.sizes[order[q]])
            n_lists = int((counts < k + n_left_out).sum()) + 1
            visited = np.isin(lists, order[q, :n_lists])
            expected = index.search(queries, k, filter=visited, **options)
            np.testing.assert_array_equal(ids[q], expected[1][q])
            np.testing.assert_array_equal(similarities[q], expected[0][q])
    # All rows but three can't be fifty-nine.
    similarities, ids = inverted.search(queries, 59, n_probe=1, exclude=left_out)
    assert (ids[:, 57:] == -1).all()
    assert np.isneginf(similarities[:, 57:]).all()
    assert (ids[:, :57] > 2).all()


def test_lists_without_rows_use_no_visit(tmp_path):
    # A few codewords have nearly all rows, as they do where tags are few.
    rng = np.random.default_rng(0)
    codebooks = rng.normal(size=(1, 256, 16)).astype("f4")
    shares = 1 / np.arange(1, 257) ** 1.5
    codes = rng.choice(256, (6000, 1), p=shares / shares.sum())
    index = CodeIndex(codebooks, codes)
    inverted = InvertedCodeIndex(index, random_state=0)
    assert (inverted.sizes > 0).all()
    assert len(inverted.sizes) == len(inverted.directions) <= 256
    assert inverted.sizes.sum() == 6000
    queries = rng.normal(size=(300, 16)).astype("f4")
    similarities, ids = inverted.search(queries, 10)
    assert (ids >= 0).all()
    exact = index.search(queries, 10)[0]
    assert (similarities[:, 0] == exact[:, 0]).mean() > 0.7  # .87; directions know no lengths
    # Files of versions that kept empty lists.
    inverted.save(tmp_path / "lists")
    arrays, extra = _search_store.load_arrays(tmp_path / "lists", KINDS, mmap=False, verify=True)
    arrays["directions"] = np.insert(arrays["directions"], [0, 5, 5], queries[:3], axis=0)
    arrays["starts"] = np.insert(arrays["starts"], [0, 5, 5], arrays["starts"][[0, 5, 5]])
    _search_store.save_arrays(tmp_path / "old", arrays, extra)
    old = InvertedCodeIndex.load(tmp_path / "old")
    np.testing.assert_array_equal(old.sizes, inverted.sizes)
    found = old.search(queries, 10)
    np.testing.assert_allclose(found[0], similarities, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found[1], ids)


def test_an_inverted_file_is_saved(tmp_path):
    codebooks, codes, queries = problem(12, 90, 2, 8)
    index = CodeIndex(codebooks, codes, ids=np.arange(90) * 3)
    inverted = InvertedCodeIndex(index, 6, random_state=0)
    inverted.save(tmp_path / "lists")
    loaded = InvertedCodeIndex.load(tmp_path / "lists")
    expected = inverted.search(queries, 7, n_probe=2)
    for ours, theirs in zip(loaded.search(queries, 7, n_probe=2), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert "90 rows in 6 lists, codes of vectors" in repr(loaded)
    with pytest.raises(ValueError, match="not a saved CodeIndex"):
        CodeIndex.load(tmp_path / "lists")
    index.save(tmp_path / "codes")
    with pytest.raises(ValueError, match="not a saved InvertedCodeIndex"):
        InvertedCodeIndex.load(tmp_path / "codes")


def test_an_inverted_file_names_what_is_wrong():
    codebooks, codes, queries = problem(12, 90, 2, 8)
    index = CodeIndex(codebooks, codes)
    with pytest.raises(ValueError, match="n_lists=91 should be <= n=90"):
        InvertedCodeIndex(index, 91)
    with pytest.raises(ValueError, match="no rows"):
        InvertedCodeIndex(CodeIndex(codebooks, codes[:0]))
    with pytest.raises(ValueError, match="vectors should have shape"):
        InvertedCodeIndex(index, 5, vectors=np.ones((3, 4)))
    with pytest.raises(ValueError, match="n_probe=0"):
        InvertedCodeIndex(index, 5, random_state=0).search(queries, 3, n_probe=0)
    assert len(InvertedCodeIndex(CodeIndex(codebooks, codes[:1]), random_state=0)) == 1


def residual_problem(seed=0, n=300, n_lists=12, n_dims=6, **options):
    """Every row twice; an inverted file with codes of their residuals."""
    rng = np.random.default_rng(seed)
    vectors = 0.4 * rng.normal(size=(n // 2, n_dims)).repeat(2, axis=0)[rng.permutation(n)]
    vectors = vectors.astype(np.float16)
    codebooks = rng.normal(size=(3, 16, n_dims))
    index = CodeIndex(codebooks, rng.integers(0, 16, (n, 3)), ids=options.pop("ids", None))
    options = {"vectors": vectors, "random_state": 0, **options}
    inverted = InvertedCodeIndex(index, n_lists, **options)
    return inverted, index, vectors, rng.integers(-3, 4, (70, n_dims)).astype("f4")


def codes_and_lists(inverted):
    """Codes in the order of the rows, and the list of each row."""
    codes = np.empty((len(inverted), len(inverted.codebooks)), dtype=np.int64)
    lists = np.empty(len(inverted), dtype=np.int64)
    codes[inverted._rows] = inverted._sorted.codes
    lists[inverted._rows] = np.repeat(np.arange(len(inverted.sizes)), inverted.sizes)
    return codes, lists


def test_residuals_are_what_the_mean_of_a_list_leaves():
    inverted, index, vectors, _ = residual_problem()
    codes, lists = codes_and_lists(inverted)
    exact = vectors.astype("f4")
    np.testing.assert_array_equal(lists, (exact @ inverted.directions.T).argmax(axis=1))
    centers = reference.list_centers(exact.tolist(), lists, 12)
    assert inverted.centers.dtype == np.float32
    np.testing.assert_allclose(inverted.centers, centers, atol=1e-6)
    assert inverted.codebooks.shape == index.codebooks.shape
    decoded = inverted.centers[lists] + reference.decode(codes, inverted.codebooks)
    # Learned codebooks leave little of what the centers have left.
    assert ((exact - decoded) ** 2).sum() < 0.2 * ((exact - centers[lists]) ** 2).sum()


@pytest.mark.parametrize("in_pairs", [False, True])
@pytest.mark.parametrize("ids", [None, [f"row {i}" for i in range(300)]])
def test_codes_of_residuals_are_ranked_as_the_loop_ranks_them(ids, in_pairs, monkeypatch):
    inverted, index, _, queries = residual_problem(ids=ids)
    if in_pairs:
        monkeypatch.setattr(_search_inverted, "_MIN_PAIR_ROWS", 0)
        monkeypatch.setattr(_search_inverted, "_GROUP_ROWS", 64)
    codes, lists = codes_and_lists(inverted)
    queries = queries[:60]  # one block: the last bits of a product depend on its shape
    tables, products = lookup_table(queries, inverted.codebooks), queries @ inverted.centers.T
    order = np.argsort(-(queries @ inverted.directions.T), axis=1, kind="stable")
    excluded = [{q, q + 100, q + 200} for q in range(60)]
    for n_probe, k, left_out in ((1, 5, None), (3, 40, None), (3, 40, excluded), (12, 300, None)):
        options = {}
        if left_out is not None:
            options["exclude"] = [[index.ids[row] for row in rows] for rows in left_out]
        similarities, found = inverted.search(queries, k, n_probe=n_probe, **options)
        expected = reference.search_lists(
            tables, products, codes, lists, order[:, :n_probe], k, left_out
        )
        for q, pairs in enumerate(expected):
            assert found[q, : len(pairs)].tolist() == [index.ids[row] for _, row in pairs]
            assert similarities[q, : len(pairs)].tolist() == [float(value) for value, _ in pairs]
            assert np.isneginf(similarities[q, len(pairs) :]).all()


def test_equal_rows_of_a_list_tie_and_come_in_order():
    inverted, _, vectors, queries = residual_problem()
    _, first, partner = np.unique(vectors, axis=0, return_index=True, return_inverse=True)
    assert len(first) == 150
    twins = [(first[u], np.flatnonzero(partner == u)[1:]) for u in range(len(first))]
    similarities, rows = inverted.search(queries, 300, n_probe=12)
    for q in range(len(queries)):
        place = np.argsort(rows[q])
        for one, others in twins:
            for other in others:
                assert similarities[q, place[one]] == similarities[q, place[other]]
                assert place[one] < place[other]


def test_codes_of_residuals_depend_on_the_seed_alone(tmp_path):
    inverted, index, vectors, queries = residual_problem()
    np.save(tmp_path / "vectors.npy", vectors)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    again = InvertedCodeIndex(index, 12, vectors=mapped, residuals=True, random_state=0, n_jobs=2)
    np.testing.assert_array_equal(again.centers, inverted.centers)
    np.testing.assert_array_equal(again.codebooks, inverted.codebooks)
    for one, other in zip(again.search(queries, 9), inverted.search(queries, 9), strict=True):
        np.testing.assert_array_equal(one, other)


def test_blocks_of_rows_change_nothing(monkeypatch):
    inverted, index, vectors, _ = residual_problem()
    monkeypatch.setattr(_search_lists, "_BLOCK_ROWS", 64)
    again = InvertedCodeIndex(index, 12, vectors=vectors, random_state=0, n_jobs=2)
    np.testing.assert_allclose(again.centers, inverted.centers, atol=1e-6)
    assert (again._rows == inverted._rows).all()
    assert (again._sorted.codes == inverted._sorted.codes).mean() > 0.99


def test_codes_of_residuals_find_more_than_codes_of_vectors():
    rng = np.random.default_rng(0)
    concepts = 3 * rng.normal(size=(20, 16))
    vectors = concepts[rng.integers(0, 20, 3000)] + rng.normal(size=(3000, 16))
    queries = concepts[rng.integers(0, 20, 60)] + rng.normal(size=(60, 16))
    codebooks, codes = learn_codebooks(vectors, 2, 16, n_iter=6, random_state=0)
    nearest = np.argsort(-(queries @ vectors.T), axis=1)[:, :10]
    index = CodeIndex(codebooks, codes)

    def recall(residuals, **options):
        inverted = InvertedCodeIndex(
            index, 20, vectors=vectors, residuals=residuals, random_state=0
        )
        found = inverted.search(queries, 10, n_probe=8, **options)[1]
        return np.mean([np.isin(t, f).mean() for t, f in zip(nearest, found, strict=True)])

    plain, of_residuals = recall(False), recall(True)
    assert of_residuals > plain + 0.05
    again = recall(None, vectors=vectors, shortlist=100)
    assert again > of_residuals + 0.2


@pytest.mark.parametrize("residuals", [False, True])
def test_a_shortlist_of_lists_is_ranked_again(residuals):
    inverted, _, vectors, queries = residual_problem(residuals=residuals)
    _, shortlists = inverted.search(queries, 30, n_probe=2)
    options = {"n_probe": 2, "vectors": vectors}
    for one, other in zip(
        inverted.search(queries, 5, shortlist=30, **options),
        rerank(queries, shortlists, vectors, 5),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
    # Without a number a shortlist has 10 k rows, at least 100.
    for k, shortlist in ((5, 100), (12, 120)):
        for one, other in zip(
            inverted.search(queries, k, **options),
            inverted.search(queries, k, shortlist=shortlist, **options),
            strict=True,
        ):
            np.testing.assert_array_equal(one, other)
    # All lists and all rows: the ranking by exact embeddings, save what is left out.
    similarities, rows = inverted.search(
        vectors.astype("f4"), 8, n_probe=12, vectors=vectors, shortlist=400, exclude_self=True
    )
    exact = np.einsum("qd,nd->qn", vectors.astype("f4"), vectors.astype("f4"))
    np.fill_diagonal(exact, -np.inf)
    np.testing.assert_allclose(similarities, -np.sort(-exact, axis=1)[:, :8], rtol=1e-5, atol=1e-6)
    assert (rows != np.arange(300)[:, None]).all()


def test_few_rows_have_residuals_too():
    rng = np.random.default_rng(0)
    codebooks = rng.normal(size=(2, 16, 4))
    for n in (1, 3, 9):  # fewer than codewords, and lists of one row, whose residual is nothing
        vectors = rng.normal(size=(n, 4))
        index = CodeIndex(codebooks, np.zeros((n, 2), dtype=int))
        inverted = InvertedCodeIndex(index, n, vectors=vectors, random_state=0)
        assert inverted.codebooks.shape == (2, n, 4)
        similarities, rows = inverted.search(vectors, n, n_probe=n)
        assert (np.sort(rows, axis=1) == np.arange(n)).all()
        exact = np.take_along_axis(vectors @ vectors.T, rows, axis=1)
        np.testing.assert_allclose(similarities, exact, rtol=1e-4, atol=1e-4)
    equal = InvertedCodeIndex(index, 4, vectors=np.ones((9, 4)), random_state=0)
    assert equal.sizes.tolist() == [9]  # the other directions have no rows
    assert np.isfinite(equal.centers).all()
    similarities, rows = equal.search(np.ones((2, 4)), 9, n_probe=4)
    assert (rows == np.arange(9)).all()
    np.testing.assert_allclose(similarities, 4, rtol=1e-5)
    assert equal.search(np.ones((0, 4)), 3)[1].shape == (0, 3)


def test_residuals_are_saved(tmp_path):
    inverted, _, vectors, queries = residual_problem(ids=np.arange(300) * 2)
    inverted.save(tmp_path / "lists")
    for mmap in (True, False):
        loaded = InvertedCodeIndex.load(tmp_path / "lists", mmap=mmap, n_jobs=2)
        assert "300 rows in 12 lists, codes of residuals" in repr(loaded)
        np.testing.assert_array_equal(loaded.centers, inverted.centers)
        for options in ({}, {"vectors": vectors}):
            expected = inverted.search(queries, 7, n_probe=2, **options)
            found = loaded.search(queries, 7, n_probe=2, **options)
            for ours, theirs in zip(found, expected, strict=True):
                np.testing.assert_array_equal(ours, theirs)
    # Versions without residuals look for this kind, and must not take codes of residuals for it.
    arrays, extra = _search_store.load_arrays(tmp_path / "lists", KINDS, mmap=False, verify=True)
    assert extra["kind"] != "InvertedCodeIndex"
    del arrays["centers"]
    _search_store.save_arrays(tmp_path / "without", arrays, extra)
    with pytest.raises(ValueError, match="not a saved InvertedCodeIndex"):
        InvertedCodeIndex.load(tmp_path / "without")
    # What those versions saved is an index with codes of vectors.
    _search_store.save_arrays(tmp_path / "old", arrays, {"kind": "InvertedCodeIndex"})
    assert InvertedCodeIndex.load(tmp_path / "old").centers is None


@pytest.mark.parametrize("residuals", [False, True])
def test_vectors_that_are_no_numbers_are_named(residuals):
    rng = np.random.default_rng(0)
    index = CodeIndex(rng.normal(size=(2, 8, 4)), rng.integers(0, 8, (90, 2)))
    for wrong in (np.nan, np.inf):
        vectors = rng.normal(size=(90, 4))
        vectors[41, 2] = wrong
        with pytest.raises(ValueError, match="NaN or infinity, or exceed float32, in row 41"):
            InvertedCodeIndex(index, 5, vectors=vectors, residuals=residuals, random_state=0)
    vectors = np.full((90, 4), 1e200)
    with pytest.raises(ValueError, match="in row 0"):
        InvertedCodeIndex(index, 5, vectors=vectors, residuals=residuals)


def test_residuals_name_what_is_wrong():
    inverted, index, vectors, queries = residual_problem()
    with pytest.raises(ValueError, match="give vectors= as well"):
        InvertedCodeIndex(index, 5, residuals=True)
    with pytest.raises(TypeError, match="residuals='yes' should be True, False or None"):
        InvertedCodeIndex(index, 5, vectors=vectors, residuals="yes")
    with pytest.raises(ValueError, match=r"vectors should have shape \(n, D\)=\(300, 6\)"):
        InvertedCodeIndex(index, 5, vectors=vectors[:, :5])
    with pytest.raises(ValueError, match=r"vectors should have shape \(n, D\)=\(300, 6\)"):
        inverted.search(queries, 3, vectors=vectors[:9])
    with pytest.raises(ValueError, match="shortlist needs a second stage: give vectors"):
        inverted.search(queries, 3, shortlist=30)
    with pytest.raises(ValueError, match="shortlist=2 should be at least k=3"):
        inverted.search(queries, 3, vectors=vectors, shortlist=2)


# -- storage -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ids", [None, np.arange(120)[::-1], [f"ä{i}" for i in range(120)]])
@pytest.mark.parametrize("mmap", [True, False])
def test_a_saved_index_comes_back(tmp_path, ids, mmap):
    codebooks, codes, queries = problem(9, 120, 2, 300)
    index = CodeIndex(codebooks, codes, ids=ids)
    index.save(tmp_path / "codes.index")
    loaded = CodeIndex.load(tmp_path / "codes.index", mmap=mmap, engine="scan")
    assert loaded.engine == "scan"
    assert isinstance(loaded.codes, np.memmap) == mmap
    assert loaded.codes.dtype == np.uint16
    for ours, theirs in zip(index.search(queries, 9), loaded.search(queries, 9), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(loaded.ids, index.ids)
    # It goes on living: added to, removed from, saved over the file that it is mapped from.
    if ids is None:
        loaded.add(codes[:2]).remove([0])
        loaded.save(tmp_path / "codes.index")
        again = CodeIndex.load(tmp_path / "codes.index")
        assert again.ids.tolist() == list(range(1, 122))
        assert again.remove([121]).add(codes[:1]).ids[-1] == 122
    assert [path.name for path in tmp_path.iterdir()] == ["codes.index"]


def test_an_empty_index_is_saved_too(tmp_path):
    codebooks, codes, queries = problem(9)
    CodeIndex(codebooks, codes[:0]).save(tmp_path / "e")
    assert CodeIndex.load(tmp_path / "e").search(queries, 3)[1].shape == (9, 0)


def test_every_damage_is_noticed(tmp_path):
    codebooks, codes, _ = problem(9)
    path = tmp_path / "codes.index"
    CodeIndex(codebooks, codes, ids=np.arange(120) * 2).save(path)
    whole = path.read_bytes()
    for length in [*range(0, 64, 7), len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"cut short|not a saved"):
            CodeIndex.load(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(ValueError, match="added to"):
        CodeIndex.load(path)
    header_end = 48 + struct.unpack_from("<I", whole, 12)[0]
    arrays = json.loads(whole[48:header_end])["arrays"]
    start = -(-header_end // 64) * 64
    places = [start + entry["offset"] + entry["nbytes"] // 2 for entry in arrays]
    for place in [20, 60, *places]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match="damaged"):
            CodeIndex.load(path)
    for foreign in (b"", b"PK\3\4 a zip file", pickle.dumps(codes)):
        path.write_bytes(foreign)
        with pytest.raises(ValueError, match="not a saved CodeIndex"):
            CodeIndex.load(path)
    path.write_bytes(whole[:8] + b"\7" + whole[9:])
    with pytest.raises(ValueError, match="format 7, but this version reads format 1"):
        CodeIndex.load(path)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    codebooks, codes, _ = problem(9)
    path = tmp_path / "codes.index"
    CodeIndex(codebooks, codes).save(path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="no space"):
        CodeIndex(codebooks, codes[:3]).save(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["codes.index"]


def test_an_index_is_pickled_and_copied_without_its_engines():
    codebooks, codes, queries = problem(9)
    index = CodeIndex(codebooks, codes, engine="faiss")
    expected = index.search(queries, 3)[1]
    for other in (pickle.loads(pickle.dumps(index)), copy.deepcopy(index)):
        assert not other._rows._engines
        assert not other.codes.flags.writeable
        np.testing.assert_array_equal(other.search(queries, 3)[1], expected)
    assert "120 rows, n_codebooks=2, n_codewords=8, n_dims=4" in repr(index)


# -- leaving -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ids", [None, np.arange(500) * 3 + 1])
@pytest.mark.parametrize(
    ("n_codebooks", "n_codewords"), [(1, 256), (4, 256), (3, 16), (2, 20), (3, 600)]
)
@pytest.mark.parametrize("form", ["additive", "product"])
def test_faiss_finds_the_same_after_its_own_save(tmp_path, form, n_codebooks, n_codewords, ids):
    import faiss

    codebooks, codes, queries = problem(10, 500, n_codebooks, n_codewords)
    codebooks += np.random.default_rng(0).normal(scale=0.1, size=codebooks.shape)
    index = CodeIndex(codebooks, codes, ids=ids)
    faiss.write_index(index.to_faiss(form), str(tmp_path / "faiss"))
    loaded = faiss.read_index(str(tmp_path / "faiss"))
    asked = np.tile(queries, (1, n_codebooks)) if form == "product" else queries
    similarities, found = loaded.search(asked, 1)
    expected, _ = index.search(queries, 1)
    np.testing.assert_allclose(similarities, expected, rtol=1e-4)
    decoded = dict(zip(index.ids, index.reconstruct(), strict=True))
    products = [query @ decoded[i] for query, (i,) in zip(queries, found, strict=True)]
    np.testing.assert_allclose(products, expected[:, 0], rtol=1e-4)
    back = CodeIndex.from_faiss(loaded, repeated_query=form == "product")
    np.testing.assert_array_equal(back.codes, index.codes)
    np.testing.assert_array_equal(back.ids, index.ids)
    np.testing.assert_array_equal(back.codebooks[:, :n_codewords], index.codebooks)
    np.testing.assert_array_equal(back.search(queries, 30)[1], index.search(queries, 30)[1])


def test_codes_of_faiss_quantizers_are_read():
    import faiss

    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(400, 8)).astype("f4")
    indexes = [
        faiss.IndexPQ(8, 4, 4, faiss.METRIC_INNER_PRODUCT),
        faiss.IndexResidualQuantizer(8, 3, 4, faiss.METRIC_INNER_PRODUCT),
        faiss.IndexLocalSearchQuantizer(8, 3, 4, faiss.METRIC_INNER_PRODUCT),
    ]
    lsq = indexes[2].lsq
    lsq.train_iters, lsq.train_ils_iters, lsq.encode_ils_iters = 1, 1, 1
    for index in indexes:
        index.train(vectors)
        index.add(vectors)
        ours = CodeIndex.from_faiss(index)
        np.testing.assert_allclose(
            ours.reconstruct(), index.reconstruct_n(0, 400), rtol=1e-4, atol=1e-5
        )


@given(st.integers(1, 16), st.integers(1, 6), st.integers(0, 5))
def test_packed_codes_come_back(n_bits, n_codebooks, n):
    codes = np.random.default_rng(n).integers(0, 2**n_bits, (n, n_codebooks))
    packed = pack_codes(codes, n_bits)
    assert packed.shape == (n, -(-n_codebooks * n_bits // 8))
    np.testing.assert_array_equal(unpack_codes(packed, n_codebooks, n_bits), codes)


def test_to_numpy_gives_copies():
    codebooks, codes, _ = problem(0)
    index = CodeIndex(codebooks, codes, ids=np.arange(120) + 5)
    arrays = index.to_numpy()
    np.testing.assert_array_equal(arrays["codes"], codes)
    np.testing.assert_array_equal(arrays["codebooks"], codebooks)
    np.testing.assert_array_equal(arrays["ids"], np.arange(120) + 5)
    for array in arrays.values():
        array[:] = 0
    assert index.codes.any()
    assert index.codebooks.any()
    assert index.ids.any()


def test_the_page_on_serving_runs():
    page = Path(__file__).parent.parent / "docs" / "user_guide" / "serving.rst"
    if not page.exists():
        pytest.skip("no documentation beside the tests")
    failed, tried = doctest.testfile(
        str(page), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE
    )
    assert failed == 0
    assert tried > 30
