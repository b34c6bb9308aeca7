"""Ranking metrics against loops, against paper, and at their edges."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference import metrics as reference
from scipy import sparse

from skwsdhq.metrics import _relevance as relevance_module
from skwsdhq.metrics import (
    average_precision,
    mean_average_precision,
    precision_at_k,
    precision_recall_curve,
    ranking_scores,
    recall_at_k,
)
from skwsdhq.metrics._relevance import pack_bits, relate
from skwsdhq.search import CodeIndex
from skwsdhq.search.topk import order_by_score, top_k

NORMALIZERS = ["retrieved", "relevant", "min"]


def problem(seed, n_queries=23, n_rows=80, n_labels=12, n_dims=3, density=0.1):
    """Small integer embeddings, which tie often and whose products are exact, and 0/1 labels."""
    rng = np.random.default_rng(seed)
    queries = rng.integers(-2, 3, (n_queries, n_dims)).astype(np.float32)
    database = rng.integers(-2, 3, (n_rows, n_dims)).astype(np.float32)
    query_labels = (rng.random((n_queries, n_labels)) < density).astype(int)
    database_labels = (rng.random((n_rows, n_labels)) < density).astype(int)
    return queries, database, query_labels, database_labels


def sets(labels):
    return [reference.labels_of(row) for row in labels]


def names(labels):
    return [{f"tag {i}" for i in reference.labels_of(row)} for row in labels]


def as_index(database):
    """An index whose one codebook holds the distinct rows of the database."""
    codewords, codes = np.unique(database, axis=0, return_inverse=True)
    return CodeIndex(codewords[None], codes.reshape(-1, 1))


# -- average precision ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("relevance", "options", "expected"),
    [
        ([1, 0, 1, 0], {}, (1 + 2 / 3) / 2),
        ([0, 0, 1], {}, 1 / 3),
        ([1, 1, 1], {}, 1.0),
        ([1, 0, 1, 0], {"normalizer": "relevant", "n_relevant": 4}, (1 + 2 / 3) / 4),
        ([1, 0, 1, 0], {"normalizer": "min", "n_relevant": 9}, (1 + 2 / 3) / 4),
        ([1, 0, 1, 1], {"top_k": 2}, 1.0),
        ([1, 0, 1, 1], {"top_k": 2, "normalizer": "relevant"}, 1 / 3),
        ([1, 0, 1, 1], {"top_k": 2, "normalizer": "min"}, 1 / 2),
        ([0, 0], {"zero_relevance": "zero"}, 0.0),
        ([], {"zero_relevance": "zero"}, 0.0),
    ],
)
def test_average_precision_on_paper(relevance, options, expected):
    assert average_precision(np.array(relevance, dtype=int), **options) == pytest.approx(expected)


def test_average_precision_without_relevant_rows_is_nan():
    values = average_precision(np.array([[0, 0], [0, 1]]))
    assert math.isnan(values[0])
    assert values[1] == 0.5


def test_average_precision_takes_no_rows():
    assert average_precision(np.zeros((0, 5), dtype=bool)).shape == (0,)


@given(
    hnp.arrays(bool, st.tuples(st.integers(1, 5), st.integers(1, 30))),
    st.integers(1, 40),
    st.sampled_from(NORMALIZERS),
)
def test_average_precision_is_the_loop(relevance, depth, normalizer):
    values = average_precision(relevance, top_k=depth, normalizer=normalizer)
    expected = [
        reference.average_precision(row, min(depth, len(row)), sum(row), normalizer)
        for row in relevance.tolist()
    ]
    np.testing.assert_allclose(values, expected)
    assert ((values >= 0) | np.isnan(values)).all()
    assert ((values <= 1 + 1e-12) | np.isnan(values)).all()


def test_expected_average_precision_on_paper():
    # Two rows tie, one is relevant: in half of the orders it comes first.
    tied = average_precision([1, 0], similarities=[0.5, 0.5], ties="expected")
    assert tied == pytest.approx((1 + 1 / 2) / 2)
    # R = 1 cuts through the tie: half of the orders find it, the others nothing.
    cut = average_precision([1, 0], similarities=[0.5, 0.5], ties="expected", top_k=1)
    assert cut == pytest.approx(0.5)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 2)), min_size=1, max_size=6),
    st.integers(1, 7),
    st.sampled_from(NORMALIZERS),
)
def test_expected_average_precision_is_the_mean_over_orders(rows, depth, normalizer):
    rows = sorted(rows, key=lambda row: -row[1])
    relevance = [int(relevant) for relevant, _ in rows]
    similarities = [float(similarity) for _, similarity in rows]
    value = average_precision(
        relevance, similarities=similarities, top_k=depth, normalizer=normalizer, ties="expected"
    )
    depth = min(depth, len(rows))
    expected = reference.expected_average_precision(relevance, similarities, depth, normalizer)
    np.testing.assert_allclose(value, expected)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_expected_is_index_without_ties(normalizer):
    rng = np.random.default_rng(0)
    relevance = rng.random((4, 50)) < 0.2
    similarities = -np.sort(-rng.random((4, 50)), axis=1)
    expected = average_precision(relevance, top_k=20, normalizer=normalizer)
    values = average_precision(
        relevance, top_k=20, normalizer=normalizer, similarities=similarities, ties="expected"
    )
    np.testing.assert_allclose(values, expected)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"relevance": [0.5, 1]}, ValueError, "only 0 and 1"),
        ({"relevance": ["a"]}, TypeError, "dtype"),
        ({"relevance": np.zeros((2, 2, 2))}, ValueError, "shape"),
        ({"relevance": [1], "normalizer": "all"}, ValueError, "'all' should be one of"),
        ({"relevance": [1], "ties": "random"}, ValueError, "ties='random'"),
        ({"relevance": [1], "zero_relevance": None}, ValueError, "zero_relevance=None"),
        ({"relevance": [1], "ties": "expected"}, ValueError, "needs the similarities"),
        ({"relevance": [1, 1], "n_relevant": 1}, ValueError, "n_relevant should be at least"),
        ({"relevance": [1], "top_k": 0}, ValueError, "top_k=0 should be at least 1"),
        ({"relevance": [1], "top_k": 2.0}, TypeError, "top_k=2.0"),
        ({"relevance": [1, 1], "ties": "expected", "similarities": [1]}, ValueError, "shape"),
        ({"relevance": [1, 1], "ties": "expected", "similarities": [1, 2]}, ValueError, "descend"),
    ],
)
def test_average_precision_names_what_is_wrong(arguments, error, message):
    with pytest.raises(error, match=message):
        average_precision(**arguments)


# -- mean average precision ----------------------------------------------------------------------


@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("zero_relevance", ["skip", "zero"])
@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("depth", [1, 7, 5000])
def test_mean_average_precision_is_the_loop(depth, normalizer, zero_relevance, exclude_self):
    queries, database, query_labels, database_labels = problem(depth)
    if exclude_self:
        queries, query_labels = database, database_labels
    weights = np.random.default_rng(1).random(len(queries))
    options = {
        "top_k": depth,
        "normalizer": normalizer,
        "zero_relevance": zero_relevance,
        "exclude_self": exclude_self,
    }
    expected = reference.mean_average_precision(
        queries,
        database,
        sets(query_labels),
        sets(database_labels),
        weights=weights.tolist(),
        **options,
    )
    for rows in (database, as_index(database)):
        value = mean_average_precision(
            queries, rows, query_labels, database_labels, sample_weight=weights, **options
        )
        assert value == pytest.approx(expected)
        assert isinstance(value, float)


@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("depth", [1, 7, 40, 5000])
def test_expected_mean_sees_ties_past_the_cut(depth, normalizer, exclude_self):
    queries, database, query_labels, database_labels = problem(3)
    if exclude_self:
        queries, query_labels = database, database_labels
    values = []
    for q, query in enumerate(queries):
        order, products = reference.rank(query, database, q if exclude_self else None)
        hits = [int((query_labels[q] & database_labels[row]).any()) for row in order]
        scores = [products[row] for row in order]
        values.append(
            average_precision(
                hits, similarities=scores, top_k=depth, normalizer=normalizer, ties="expected"
            )
        )
    for rows in (database, as_index(database)):
        value = mean_average_precision(
            queries,
            rows,
            query_labels,
            database_labels,
            top_k=depth,
            normalizer=normalizer,
            ties="expected",
            exclude_self=exclude_self,
        )
        assert value == pytest.approx(np.nanmean(values))


def test_expected_mean_is_the_mean_over_shuffled_databases():
    queries, database, query_labels, database_labels = problem(5, n_rows=60)
    index = as_index(database)
    rng = np.random.default_rng(0)
    values = []
    for _ in range(400):
        order = rng.permutation(len(database))
        shuffled = CodeIndex(index.codebooks, index.codes[order])
        values.append(
            mean_average_precision(
                queries,
                shuffled,
                query_labels,
                database_labels[order],
                top_k=9,
                zero_relevance="zero",
            )
        )
    expected = mean_average_precision(
        queries,
        index,
        query_labels,
        database_labels,
        top_k=9,
        zero_relevance="zero",
        ties="expected",
    )
    assert abs(np.mean(values) - expected) < 4 * np.std(values) / np.sqrt(len(values))
    assert np.std(values) > 0.001  # else shuffling would show nothing


def test_perfect_ranking_is_one_and_range_holds():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 60)
    embeddings = np.eye(5)[labels]
    assert mean_average_precision(embeddings, embeddings, labels, labels) == 1.0
    noise = rng.normal(size=(60, 5))
    assert 0 < mean_average_precision(noise, noise, labels, labels, exclude_self=True) < 1


def test_everything_relevant_is_one():
    queries, database, _, _ = problem(0)
    assert mean_average_precision(queries, database, np.zeros(23), np.zeros(80)) == 1.0


def test_nothing_relevant_warns_and_is_zero():
    from sklearn.exceptions import UndefinedMetricWarning

    queries, database, _, _ = problem(0)
    with pytest.warns(UndefinedMetricWarning, match=r"set to 0\.0"):
        value = mean_average_precision(queries, database, np.zeros(23), np.ones(80))
    assert value == 0.0
    with pytest.warns(UndefinedMetricWarning):
        mean_average_precision(queries[:0], database, np.zeros(0), np.ones(80))
    with pytest.warns(UndefinedMetricWarning):
        mean_average_precision(queries, database[:0], np.zeros(23), np.zeros(0), ties="expected")
    assert (
        mean_average_precision(queries, database, np.zeros(23), np.ones(80), zero_relevance="zero")
        == 0.0
    )


def test_one_row_excluded_from_itself_finds_nothing():
    from sklearn.exceptions import UndefinedMetricWarning

    with pytest.warns(UndefinedMetricWarning):
        value = mean_average_precision(
            np.ones((1, 2)), np.ones((1, 2)), [1], [1], exclude_self=True
        )
    assert value == 0.0


def test_blocks_do_not_change_the_mean(monkeypatch):
    from skwsdhq.metrics import _ranking as _metrics_ranking

    queries, database, query_labels, database_labels = problem(2)
    whole = mean_average_precision(queries, database, query_labels, database_labels, top_k=9)
    monkeypatch.setattr(_metrics_ranking, "_BLOCK_SCORES", 2 * len(database))
    parts = mean_average_precision(queries, database, query_labels, database_labels, top_k=9)
    assert parts == whole


def test_inputs_keep_their_values_and_float64_counts():
    queries, database, query_labels, database_labels = problem(2)
    copies = [x.copy() for x in (queries, database, query_labels, database_labels)]
    mean_average_precision(
        database, database, database_labels, database_labels, exclude_self=True, ties="expected"
    )
    for array, copy in zip((queries, database, query_labels, database_labels), copies, strict=True):
        np.testing.assert_array_equal(array, copy)
    # These rows differ in float64 only.
    fine = np.array([[1.0], [1.0 + 1e-12]])
    assert mean_average_precision(np.ones((1, 1)), fine, [1], [0, 1]) == 1.0
    assert mean_average_precision(np.ones((1, 1), "f4"), fine.astype("f4"), [1], [0, 1]) == 0.5


# -- relevance -----------------------------------------------------------------------------------


def test_every_form_of_labels_gives_one_mean():
    queries, database, query_labels, database_labels = problem(4)
    expected = mean_average_precision(queries, database, query_labels, database_labels)
    forms = [
        (query_labels.astype(bool), database_labels.astype(float)),
        (sparse.csr_array(query_labels), sparse.csc_matrix(database_labels)),
        (query_labels, sparse.coo_array(database_labels)),
        ([list(r) for r in sets(query_labels)], [list(r) for r in sets(database_labels)]),
        (names(query_labels), names(database_labels)),
        ([sorted(row) for row in names(query_labels)], [tuple(r) for r in names(database_labels)]),
        ([list(r) * 2 for r in names(query_labels)], names(database_labels)),
        (pd.Series(names(query_labels)), pd.Series(names(database_labels))),
        (pd.DataFrame(query_labels), pd.DataFrame(database_labels)),
    ]
    for ours, theirs in forms:
        assert mean_average_precision(queries, database, ours, theirs) == pytest.approx(expected)


def test_one_class_a_row_in_every_form():
    queries, database, _, _ = problem(4)
    rng = np.random.default_rng(0)
    ours, theirs = rng.integers(0, 4, len(queries)), rng.integers(0, 5, len(database))
    expected = mean_average_precision(queries, database, np.eye(5)[ours], np.eye(5)[theirs])
    words = np.array(["ant", "bee", "cat", "dog", "eel"])
    for a, b in [
        (ours, theirs),
        (ours.astype(float) - 7, theirs.astype(float) - 7),
        (ours.tolist(), theirs.tolist()),
        (words[ours], words[theirs]),
        (words[ours].tolist(), words[theirs].astype(object)),
        (pd.Series(words[ours]), pd.Series(words[theirs])),
        ([[w] for w in words[ours]], [{w} for w in words[theirs]]),
    ]:
        assert mean_average_precision(queries, database, a, b) == pytest.approx(expected)


def test_a_string_is_one_label_never_its_letters():
    relation = relate(["cat"], ["act", "cat"])
    assert relation.mask(0).tolist() == [False, True]


def test_equally_long_lists_of_strings_stay_lists():
    relation = relate([["a", "b"]], [["b", "c"], ["c", "d"]])
    assert relation.mask(0).tolist() == [True, False]


@pytest.mark.parametrize("n_labels", [1, 63, 64, 65, 128, 200, 600])
def test_masks_and_lists_are_the_loop(n_labels):
    _, _, ours, theirs = problem(n_labels, n_labels=n_labels, density=min(0.9, 3 / n_labels))
    if n_labels == 1:  # a column of numbers would be a class a row
        ours, theirs = ours.astype(bool), theirs.astype(bool)
    relation = relate(ours, theirs)
    lists = relevance_module._ListRelevance(sparse.csr_array(ours), sparse.csr_array(theirs))
    assert isinstance(relation, relevance_module._ListRelevance) == (n_labels > 512)
    expected = np.array(
        [[reference.is_relevant(a, b) for b in sets(theirs)] for a in sets(ours)], dtype=bool
    )
    numbers = np.array([3, 0, 7])
    rows = np.random.default_rng(0).integers(0, len(theirs), (3, 11))
    for each in (relation, lists):
        for q in range(len(ours)):
            np.testing.assert_array_equal(each.mask(q), expected[q])
        np.testing.assert_array_equal(
            each.of_ranked(numbers, rows), np.take_along_axis(expected[numbers], rows, axis=1)
        )
        np.testing.assert_array_equal(each.totals(numbers), expected[numbers].sum(axis=1))


def test_packed_bits_on_paper():
    indicator = sparse.csr_array((np.ones(3), ([0, 0, 1], [0, 65, 2])), shape=(2, 70))
    assert pack_bits(indicator).tolist() == [[1, 4], [2, 0]]


@pytest.mark.parametrize(
    ("ours", "theirs", "error", "message"),
    [
        (np.ones((23, 3)), np.ones((80, 4)), ValueError, "3 columns .* 4"),
        (np.ones((22, 3)), np.ones((80, 3)), ValueError, "query_labels have 22 rows"),
        (np.ones((23, 3)), np.ones((81, 3)), ValueError, "database_labels have 81 rows"),
        (np.full((23, 3), 2), np.ones((80, 3)), ValueError, "only 0 and 1; got 2"),
        (np.full((23, 3), np.nan), np.ones((80, 3)), ValueError, "only 0 and 1; got nan"),
        (np.full(23, np.nan), np.ones(80), ValueError, "query_labels contains NaN"),
        (np.ones(23), np.ones((80, 3)), ValueError, "in one form"),
        (["a"] * 23, np.ones(80), TypeError, "all numbers or all strings"),
        ([["a"]] * 23, ["a"] * 80, ValueError, "in one form"),
        ([["a"]] * 22 + ["a"], [["a"]] * 80, TypeError, "mixes"),
        ("cats", [["a"]] * 80, TypeError, "got str"),
        (3, [["a"]] * 80, TypeError, "got int"),
        ([[1, 2]] * 22 + [[1]], [["a"]] * 80, TypeError, "all numbers or all strings"),
        (np.ones((23, 3, 1)), np.ones((80, 3, 1)), ValueError, "1 or 2 dimensions"),
        ([None] * 23, np.ones(80), TypeError, "numbers or strings"),
        (np.array([["a", "b"]] * 23), np.ones((80, 2)), ValueError, "in one form"),
    ],
)
def test_labels_name_what_is_wrong(ours, theirs, error, message):
    queries, database, _, _ = problem(0)
    with pytest.raises(error, match=message):
        mean_average_precision(queries, database, ours, theirs)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"queries": np.ones((23, 2))}, ValueError, "2 dimensions but database has 3"),
        ({"queries": np.ones(23)}, ValueError, "queries should have shape"),
        ({"queries": np.full((23, 3), np.inf)}, ValueError, "queries contains NaN"),
        ({"database": np.full((80, 3), "a")}, TypeError, "database should be numbers"),
        ({"exclude_self": True}, ValueError, "23 queries and 80 rows"),
        ({"sample_weight": np.ones(3)}, ValueError, "sample_weight should have shape"),
        ({"sample_weight": -np.ones(23)}, ValueError, "not negative"),
        ({"top_k": 0}, ValueError, "top_k=0"),
        ({"normalizer": "mean"}, ValueError, "normalizer='mean'"),
    ],
)
def test_arguments_name_what_is_wrong(change, error, message):
    queries, database, query_labels, database_labels = problem(0)
    arguments = {
        "queries": queries,
        "database": database,
        "query_labels": query_labels,
        "database_labels": database_labels,
    }
    with pytest.raises(error, match=message):
        mean_average_precision(**{**arguments, **change})


# -- precision and recall ------------------------------------------------------------------------


@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("zero_relevance", ["skip", "zero"])
def test_precision_and_recall_are_the_loop(zero_relevance, exclude_self):
    queries, database, query_labels, database_labels = problem(8, density=0.06)
    if exclude_self:
        queries, query_labels = database, database_labels
    weights = np.random.default_rng(1).random(len(queries))
    cuts = [1, 5, 5000]
    expected = []
    for cut in cuts:
        pairs = reference.precision_recall(
            queries, database, sets(query_labels), sets(database_labels), cut, exclude_self
        )
        expected.append(
            [reference.weighted_mean(v, weights, zero_relevance) for v in zip(*pairs, strict=True)]
        )
    expected = np.array(expected)
    options = {
        "zero_relevance": zero_relevance,
        "exclude_self": exclude_self,
        "sample_weight": weights,
    }
    for rows in (database, as_index(database)):
        arguments = (queries, rows, query_labels, database_labels)
        np.testing.assert_allclose(precision_at_k(*arguments, k=cuts, **options), expected[:, 0])
        np.testing.assert_allclose(recall_at_k(*arguments, k=cuts, **options), expected[:, 1])
        assert precision_at_k(*arguments, k=5, **options) == pytest.approx(expected[1, 0])
        scores = ranking_scores(*arguments, k=cuts, top_k=4, **options)
        np.testing.assert_allclose(scores["precision"], expected[:, 0])
        np.testing.assert_allclose(scores["recall"], expected[:, 1])
        assert scores["map"] == pytest.approx(
            mean_average_precision(*arguments, top_k=4, **options)
        )


def test_expected_precision_is_the_mean_over_orders():
    rng = np.random.default_rng(0)
    for _ in range(20):
        database = rng.integers(0, 2, (6, 1)).astype(float)
        labels = rng.integers(0, 2, 6)
        labels[0] = 1
        order, products = reference.rank([1.0], database)
        for cut in (1, 2, 4, 6):
            hits = reference.expected_hits(
                [int(labels[r]) for r in order], [products[r] for r in order], cut
            )
            arguments = (np.ones((1, 1)), database, [1], labels)
            options = {"k": cut, "ties": "expected"}
            assert precision_at_k(*arguments, **options) == pytest.approx(hits / cut)
            assert recall_at_k(*arguments, **options) == pytest.approx(hits / labels.sum())
            options["zero_relevance"] = "zero"
            both = ranking_scores(*arguments, top_k=2, **options)
            del options["k"]
            assert both["map"] == pytest.approx(
                mean_average_precision(*arguments, top_k=2, **options)
            )


def test_precision_recall_curve_at_ranks_is_precision_and_recall_at_k():
    queries, database, query_labels, database_labels = problem(8, density=0.06)
    for rows in (database, as_index(database)):
        for ties in ("index", "expected"):
            arguments = (queries, rows, query_labels, database_labels)
            precision, recall = precision_recall_curve(*arguments, top_k=30, ties=ties)
            cuts = np.arange(1, 31)
            np.testing.assert_allclose(
                precision, precision_at_k(*arguments, k=cuts, ties=ties, zero_relevance="skip")
            )
            np.testing.assert_allclose(recall, recall_at_k(*arguments, k=cuts, ties=ties))
    whole = precision_recall_curve(queries, database, query_labels, database_labels)[1]
    assert len(whole) == len(database)
    assert whole[-1] == pytest.approx(1)


def test_interpolated_precision_is_the_loop():
    queries, database, query_labels, database_labels = problem(8, density=0.2)
    levels = [0.0, 0.1, 0.5, 1.0]
    expected = np.zeros(len(levels))
    n_counted = 0
    for query, labels in zip(queries, query_labels, strict=True):
        order, _ = reference.rank(query, database)
        hits = [int((labels & database_labels[row]).any()) for row in order]
        if any(hits):
            n_counted += 1
            expected += [reference.interpolated_precision(hits, level) for level in levels]
    arguments = (queries, database, query_labels, database_labels)
    precision, recall = precision_recall_curve(*arguments, recall_levels=levels)
    np.testing.assert_allclose(precision, expected / n_counted)
    assert recall.tolist() == levels
    assert precision_recall_curve(*arguments, recall_levels=11)[1].tolist() == pytest.approx(
        [i / 10 for i in range(11)]
    )
    # What is not reached within R has precision 0.
    short, _ = precision_recall_curve(*arguments, recall_levels=[1.0], top_k=1)
    assert short[0] < 0.2


def test_curve_of_nothing_relevant_warns():
    from sklearn.exceptions import UndefinedMetricWarning

    queries, database, _, _ = problem(0)
    with pytest.warns(UndefinedMetricWarning, match="Precision and recall"):
        precision, recall = precision_recall_curve(queries, database, np.zeros(23), np.ones(80))
    assert not precision.any()
    assert not recall.any()


@pytest.mark.parametrize(
    ("function", "options", "error", "message"),
    [
        (precision_at_k, {"k": 0}, ValueError, "k=0"),
        (recall_at_k, {"k": [1, 2.5]}, TypeError, "integer"),
        (recall_at_k, {"k": []}, TypeError, "integer"),
        (precision_recall_curve, {"recall_levels": 1}, ValueError, "at least 2"),
        (precision_recall_curve, {"recall_levels": [2.0]}, ValueError, "from 0 to 1"),
        (
            precision_recall_curve,
            {"recall_levels": 11, "ties": "expected"},
            ValueError,
            "no closed form",
        ),
    ],
)
def test_cuts_name_what_is_wrong(function, options, error, message):
    queries, database, query_labels, database_labels = problem(0)
    with pytest.raises(error, match=message):
        function(queries, database, query_labels, database_labels, **options)


# -- the k largest -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 5, 600, 5000, 40_000])
def test_top_k_orders_equals_by_position(n, dtype):
    rng = np.random.default_rng(n)
    for scores in (
        rng.standard_normal(n),
        rng.integers(-3, 4, n) * 0.5,
        np.zeros(n),
        np.where(rng.random(n) < 0.5, -0.0, 0.0),
        np.sort(rng.standard_normal(n)),  # a strided sample says what it should
        np.where(np.arange(n) % 32 == 0, 1.0, rng.random(n)),  # and here it misleads
    ):
        scores = scores.astype(dtype)
        expected = np.lexsort((np.arange(n), -scores))
        for k in (0, 1, 3, n // 20, n // 2, n, n + 3):
            np.testing.assert_array_equal(top_k(scores, k), expected[:k])
        np.testing.assert_array_equal(order_by_score(scores), expected)


# -- what people really bring --------------------------------------------------------------------


@pytest.mark.parametrize("missing", [None, np.nan, "", " "])
@pytest.mark.parametrize("form", [list, np.array, pd.Series, "lists"])
def test_missing_labels_are_no_class(missing, form):
    clean = [["dog"], [], ["cat"], [], ["dog"], ["cat"], ["dog"], []]
    messy = ["Dog", missing, "cat", missing, "dog ", "CAT", "  dog", missing]
    if form == "lists":
        messy = [[label] for label in messy]
    else:
        messy = form(messy) if form is list else form(messy, dtype=object)
    rows = np.random.default_rng(0).standard_normal((8, 3))
    expected = mean_average_precision(rows, rows, clean, clean, exclude_self=True)
    value = mean_average_precision(rows, rows, messy, messy, exclude_self=True)
    assert value == pytest.approx(expected)
    for name in (precision_at_k, recall_at_k):
        assert name(rows, rows, messy, messy, k=3) == pytest.approx(
            name(rows, rows, clean, clean, k=3)
        )


def test_labels_are_read_as_tags_are():
    pairs = [
        (["cafe\u0301"], ["CAFÉ", "tea"]),
        ([1], np.array([1.0, 2.0])),
        ([True], [1, 0]),
        ([[1, 2]], [[1.0], [3]]),
        (pd.Series([1, 2], dtype="Int64")[:1], [1, 2]),
        (np.array([[3]]), np.array([3, 4])),
        (pd.DataFrame({"a": [1], "b": [0]}).convert_dtypes(), np.eye(2)),
    ]
    for ours, theirs in pairs:
        assert relate(ours, theirs).mask(0).tolist() == [True, False]


def test_frames_of_labels_have_the_same_columns():
    with pytest.raises(ValueError, match=r"in one order"):
        relate(pd.DataFrame({"a": [1], "b": [0]}), pd.DataFrame({"b": [1], "a": [0]}))


def test_labels_that_are_lists_are_never_an_indicator():
    relation = relate([[0, 5, 7]], [[5, 5, 5], [1, 2, 3]])
    assert relation.mask(0).tolist() == [True, False]
