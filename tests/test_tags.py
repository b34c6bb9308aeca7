"""Tags as arrays: every form, the graph, merging, against loops and on paper."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose, assert_array_equal
from reference import tags as reference
from scipy import sparse

from skwsdhq import tags
from skwsdhq.sphere import normalize_rows, spherical_mean
from skwsdhq.tags import _graph, check_tags, reading

ROWS = [["dog", "puppy"], [], ["car"], ["dog", "car", "red"]]
NAMES = ["car", "dog", "puppy", "red"]
TABLE = np.array([[0, 1, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 1]])


def circle(*degrees):
    angle = np.deg2rad(degrees)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


# --- check_tags -----------------------------------------------------------------------------

FORMS = {
    "lists": ROWS,
    "sets": [set(row) for row in ROWS],
    "tuples": tuple(tuple(row) for row in ROWS),
    "arrays": [np.array(row, dtype=str) for row in ROWS],
    "series": pd.Series(ROWS),
    "odd index": pd.Series(ROWS, index=[7, 7, 3, 1]),
    "polars": pl.Series(ROWS),
    "object array": pd.Series(ROWS).to_numpy(),
    "missing row": [["dog", "puppy"], None, ["car"], ["dog", "car", "red"]],
    "NaN row": [["dog", "puppy"], float("nan"), ["car"], ["dog", "car", "red"]],
    "messy": [[" Dog", "puppy", "dog"], ["", "  "], "CAR", ["dog", "car", "red", None]],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_lists_gives_one_indicator(form):
    indicator, names = tags.check_tags(FORMS[form])
    assert list(names) == NAMES
    assert indicator.dtype == np.float32
    assert_array_equal(indicator.toarray(), TABLE)


@pytest.mark.parametrize(
    "make",
    [
        np.array,
        lambda t: t.astype(bool),
        lambda t: t.astype(float),
        sparse.csr_array,
        sparse.csr_matrix,
        sparse.csc_array,
        sparse.coo_array,
        lambda t: sparse.csr_array(t.astype(bool)),
    ],
)
def test_every_form_of_matrix_gives_one_indicator(make):
    indicator, names = tags.check_tags(make(TABLE), vocabulary=NAMES)
    assert list(names) == NAMES
    assert_array_equal(indicator.toarray(), TABLE)
    _, numbers = tags.check_tags(make(TABLE))
    assert list(numbers) == ["0", "1", "2", "3"]


@pytest.mark.parametrize("frame", [pd.DataFrame, lambda t, columns: pl.DataFrame(t, columns)])
def test_a_data_frame_names_its_columns(frame):
    indicator, names = tags.check_tags(frame(TABLE, columns=NAMES))
    assert list(names) == NAMES
    assert_array_equal(indicator.toarray(), TABLE)


def test_rows_of_equal_length_are_no_matrix_of_strings():
    indicator, names = tags.check_tags(np.array([["a", "b"], ["b", "c"]]))
    assert list(names) == ["a", "b", "c"]
    assert_array_equal(indicator.toarray(), [[1, 1, 0], [0, 1, 1]])


def test_one_tag_a_row():
    for rows in (
        ["dog", "car", "dog"],
        np.array(["dog", "car", "dog"]),
        pd.Series(["dog", "car", "dog"]),
    ):
        indicator, names = tags.check_tags(rows)
        assert list(names) == ["car", "dog"]
        assert_array_equal(indicator.toarray(), [[0, 1], [1, 0], [0, 1]])


def test_numbers_are_tags_by_name():
    _, whole = tags.check_tags(np.array([3, 1, 3]))
    _, floats = tags.check_tags(np.array([3.0, 1.0, 0.5]))
    assert list(whole) == ["1", "3"]
    assert list(floats) == ["0.5", "1", "3"]


def test_vocabulary_orders_columns_and_drops_the_rest():
    for vocabulary in ({"red": 0, "dog": 1}, ["red", "dog"], np.array(["red", "dog"])):
        indicator, names = tags.check_tags(ROWS, vocabulary=vocabulary)
        assert list(names) == ["red", "dog"]
        assert_array_equal(indicator.toarray(), [[0, 1], [0, 0], [0, 0], [1, 1]])


def test_case_is_kept_on_request():
    _, names = tags.check_tags([["Dog", "dog"]], lowercase=False)
    assert list(names) == ["Dog", "dog"]


def test_no_rows_and_no_tags():
    indicator, names = tags.check_tags([])
    assert indicator.shape == (0, 0)
    indicator, names = tags.check_tags([[], []])
    assert indicator.shape == (2, 0)
    assert len(names) == 0


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ("dog", TypeError, r"\[\['dog'\]\]"),
        ({"a": 1}, TypeError, "dict"),
        (None, TypeError, "NoneType"),
        ((row for row in ROWS), TypeError, "generator"),
        ([["dog"], {"a": 1}], TypeError, "row 1"),
        ([["dog"], [b"cat"]], TypeError, "row 1"),
        ([["dog"], [["cat"]]], TypeError, "row 1"),
        ([["dog"], b"cat"], TypeError, "row 1"),
        (np.zeros((2, 2, 2)), ValueError, "dimensions"),
        (np.array([[0.0, np.nan]]), ValueError, "NaN"),
        (np.array([[0.0, np.inf]]), ValueError, "infinity"),
        (sparse.csr_array([[0.0, np.nan]]), ValueError, "NaN"),
        (np.array([1.0, np.nan]), ValueError, "NaN"),
        (np.array([1.0, np.inf]), ValueError, "infinity"),
        (pd.Series([1.0, np.inf]), ValueError, "row 1 .* infinity"),
        (np.array([[1j]]), TypeError, "row 0"),
    ],
)
def test_wrong_tags_are_refused(wrong, error, message):
    with pytest.raises(error, match=message):
        tags.check_tags(wrong)


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [
        (["a", "b"], "4 columns"),
        (["a", "a", "b", "c"], "more than once"),
        ({"a": 0, "b": 2}, "from 0 to 1"),
    ],
)
def test_a_wrong_vocabulary_is_refused(vocabulary, message):
    with pytest.raises(ValueError, match=message):
        tags.check_tags(TABLE, vocabulary=vocabulary)


tag_rows = st.lists(
    st.lists(st.sampled_from(["a", "b", "c d", "É", "zz"]), max_size=4), min_size=1, max_size=8
)


@given(tag_rows)
def test_indicator_equals_the_loop_and_comes_back_as_lists(rows):
    indicator, names = tags.check_tags(rows, lowercase=False)
    assert list(names) == sorted({tag for row in rows for tag in row})
    assert indicator.toarray().tolist() == reference.indicator(rows, list(names))
    assert tags.tags_to_lists(indicator, names) == [sorted(set(row)) for row in rows]


def test_tags_to_lists_takes_dense_and_sparse():
    assert tags.tags_to_lists(TABLE[:0], NAMES) == []
    assert tags.tags_to_lists(TABLE, NAMES) == [sorted(row) for row in ROWS]
    assert tags.tags_to_lists(sparse.csc_matrix(TABLE)) == [["1", "2"], [], ["0"], ["0", "1", "3"]]


# --- vectors --------------------------------------------------------------------------------


@given(tag_rows, st.sampled_from([0.5, 0.75, 1.0]))
def test_cooccurrence_and_ppmi_equal_the_loops(rows, smoothing):
    indicator, names = tags.check_tags(rows)
    if not len(names):
        return
    counts = tags.tag_cooccurrence(indicator)
    expected = reference.cooccurrence(indicator.toarray().tolist())
    assert_array_equal(counts.toarray(), expected)
    assert_allclose(
        tags.ppmi(counts, smoothing).toarray(), reference.ppmi(expected, smoothing), atol=1e-12
    )


def test_tags_of_one_topic_get_near_vectors():
    rows = [["dog", "puppy"], ["dog", "puppy", "pet"], ["car", "road"], ["car", "wheel", "road"]]
    indicator, names = tags.check_tags(rows * 3)
    vectors = normalize_rows(tags.vectors_from_cooccurrence(tags.tag_cooccurrence(indicator), 2))
    of = {name: vectors[t] for t, name in enumerate(names)}
    assert of["dog"] @ of["puppy"] > 0.9
    assert abs(of["dog"] @ of["car"]) < 0.1


def test_learned_vectors_are_a_function_of_the_counts():
    rng = np.random.default_rng(0)
    indicator = sparse.csr_array((rng.random((400, 1100)) < 0.01).astype(np.float32))
    counts = tags.tag_cooccurrence(indicator)  # above the size that is solved exactly
    np.random.seed(1)  # noqa: NPY002 - global state must not matter
    first = tags.vectors_from_cooccurrence(counts, 10)
    np.random.seed(2)  # noqa: NPY002 - global state must not matter
    assert_array_equal(first, tags.vectors_from_cooccurrence(counts, 10))
    assert first.shape == (1100, 10)


def test_random_and_exact_decompositions_agree():
    rng = np.random.default_rng(0)
    topics = rng.integers(0, 6, 900)
    table = np.zeros((900, 1050), dtype=np.float32)
    for n, topic in enumerate(topics):
        table[n, topic * 175 + rng.integers(0, 175, 8)] = 1
    counts = tags.tag_cooccurrence(sparse.csr_array(table))
    small = tags.vectors_from_cooccurrence(counts, 6)
    information = tags.ppmi(counts).toarray()
    left, strength, _ = np.linalg.svd(information)
    exact = left[:, :6] * np.sqrt(strength[:6])
    assert_allclose(small @ small.T, exact @ exact.T, atol=0.05 * strength[0] / 100)


def test_tag_on_every_sample_still_has_a_vector():
    indicator, _ = tags.check_tags([["a", "b"]] * 4)
    vectors = tags.vectors_from_cooccurrence(tags.tag_cooccurrence(indicator))
    assert (np.linalg.norm(vectors, axis=1) > 0.5).all()


def test_compound_tags_are_means_of_their_words():
    vectors = {"golden": [1.0, 0], "gate": [0, 1.0], "new_york": [2.0, 2], "new": [9.0, 9]}
    names = ["golden gate", "golden-gate", "GoldenGate", "golden_unheard", "new york", "nothing"]
    found_vectors, found = tags.tag_vectors(names, vectors)
    assert found.tolist() == [True] * 5 + [False]
    assert_allclose(found_vectors[:3], [[0.5, 0.5]] * 3)
    assert_allclose(found_vectors[3], [1, 0])
    assert_allclose(found_vectors[4], [2, 2])
    assert_allclose(found_vectors[5], [0, 0])


def test_possessives_and_case_are_found():
    vectors = {"world": [1.0], "France": [2.0], "café": [3.0]}
    found_vectors, found = tags.tag_vectors(["world’s", "world's", "France", "Café"], vectors)
    assert found.all()
    assert_allclose(found_vectors.ravel(), [1, 1, 2, 3])


def test_wrong_word_vectors_are_refused():
    with pytest.raises(ValueError, match="one length"):
        tags.tag_vectors(["a", "b"], {"a": [1.0], "b": [1.0, 2.0]})
    with pytest.raises(ValueError, match="different lengths"):
        tags.tag_vectors(["a b"], {"a": [1.0], "b": [1.0, 2.0]})
    with pytest.raises(ValueError, match="'b' has NaN"):
        tags.tag_vectors(["a", "b"], {"a": [1.0], "b": [np.nan]})


def test_missing_vectors_come_from_the_tags_they_occur_with():
    indicator, names = tags.check_tags([["dog", "xx"], ["dog", "xx"], ["car"], ["yy"]])
    vectors, found = tags.tag_vectors(names, {"dog": [2.0, 0], "car": [0, 2.0]})
    filled, now = tags.vectors_from_neighbors(vectors, found, tags.tag_cooccurrence(indicator))
    of = dict(zip(names, filled, strict=True))
    assert_allclose(of["xx"], [2, 0])
    assert_allclose(of["dog"], [2, 0])
    assert now.tolist() == [name != "yy" for name in names]


def test_removing_components_on_paper():
    vectors = np.array([[1.0, 1], [1, -1], [4, 0.5], [-2, -0.5]])
    centred = vectors - [1, 0]
    assert_allclose(tags.remove_common_components(vectors, 0), centred)
    rest = tags.remove_common_components(vectors, 1)
    _, _, axes = np.linalg.svd(centred)
    assert_allclose(rest @ axes[0], 0, atol=1e-12)
    assert_allclose(rest @ axes[1], centred @ axes[1])


def test_removing_components_never_leaves_nothing():
    assert_allclose(tags.remove_common_components(np.array([[3.0, 4.0]]), 1), [[3, 4]])
    line = np.array([[1.0, 2.0], [2.0, 4.0], [4.0, 8.0]])
    assert (np.linalg.norm(tags.remove_common_components(line, 1), axis=1) > 0).all()


# --- graph, enhancement, merging ------------------------------------------------------------

vector_sets = hnp.arrays(
    np.float64,
    st.tuples(st.integers(1, 7), st.integers(1, 4)),
    elements=st.integers(-3, 3).map(float),
)


@settings(deadline=None)
@given(vector_sets, st.sampled_from([-0.5, 0.0, 0.3, 0.77, 0.93]), st.sampled_from([None, 1, 2]))
def test_graph_equals_the_loop(vectors, tau, n_neighbors):
    # Cosines at the threshold, or equal ones, differ by rounding: move the vectors apart.
    vectors = vectors + 0.01 * np.random.default_rng(0).standard_normal(vectors.shape)
    graph = tags.correlation_graph(vectors, tau, n_neighbors)
    expected = reference.graph(vectors.tolist(), tau, n_neighbors)
    assert_allclose(graph.toarray(), expected, atol=1e-5)
    assert_allclose(graph.toarray(), graph.toarray().T)


def test_graph_on_a_circle():
    vectors = circle(0, 30, 60, 180)
    graph = tags.correlation_graph(vectors, np.cos(np.deg2rad(31))).toarray()
    half = np.cos(np.deg2rad(30))
    assert_allclose(
        graph, [[1, half, 0, 0], [half, 1, half, 0], [0, half, 1, 0], [0, 0, 0, 1]], atol=1e-6
    )


def test_one_nearest_neighbour_is_kept_if_either_chooses():
    vectors = circle(0, 10, 25)  # 2 chooses 1, 1 chooses 0
    graph = tags.correlation_graph(vectors, 0.0, n_neighbors=1).toarray() > 0
    assert graph.tolist() == [[True, True, False], [True, True, True], [False, True, True]]


def test_graph_in_blocks_equals_the_whole(monkeypatch):
    vectors = np.random.default_rng(0).standard_normal((23, 3))
    whole = tags.correlation_graph(vectors, 0.4, 3).toarray()
    monkeypatch.setattr(_graph, "_BLOCK", 5)
    assert_allclose(tags.correlation_graph(vectors, 0.4, 3).toarray(), whole, atol=1e-6)


def test_graph_of_one_tag_and_of_none():
    assert tags.correlation_graph(np.ones((1, 3)), 0.5).toarray().tolist() == [[1.0]]
    assert tags.correlation_graph(np.ones((0, 3)), 0.5).shape == (0, 0)


@given(vector_sets)
def test_enhancement_equals_the_loop(vectors):
    vectors = vectors + 0.01 * np.random.default_rng(0).standard_normal(vectors.shape)
    graph = tags.correlation_graph(vectors, 0.3)
    enhanced = tags.enhance_vectors(vectors, graph)
    expected = reference.enhance(vectors.tolist(), graph.toarray().tolist())
    assert_allclose(enhanced, expected, atol=1e-4)


def test_enhancement_on_a_circle():
    vectors = circle(0, 60)
    enhanced = tags.enhance_vectors(vectors, tags.correlation_graph(vectors, 0.4))
    # (1, 0) + .5 (cos 60, sin 60) = (1.25, .433): 19.1 degrees
    assert_allclose(
        np.rad2deg(np.arctan2(enhanced[:, 1], enhanced[:, 0])), [19.107, 40.893], atol=1e-3
    )


@given(vector_sets, st.sampled_from([0.05, 0.3]), st.integers(1, 3))
def test_merging_equals_the_loop(vectors, eps, min_samples):
    vectors = normalize_rows(
        vectors + 0.01 * np.random.default_rng(0).standard_normal(vectors.shape)
    )
    labels = tags.merge_tags(vectors, eps, min_samples)
    expected = reference.dbscan(vectors.tolist(), eps, min_samples)
    if min_samples == 1:  # a border point may belong to either cluster
        assert labels.tolist() == expected
    else:
        assert len(set(labels)) == len(set(expected))
    assert labels.tolist() == [list(dict.fromkeys(labels)).index(c) for c in labels]


def test_merging_on_a_circle():
    vectors = circle(0, 90, 5, 200, 10)
    assert tags.merge_tags(vectors, 1 - np.cos(np.deg2rad(6))).tolist() == [0, 1, 0, 2, 0]
    assert tags.merge_tags(vectors, 0).tolist() == [0, 1, 2, 3, 4]
    # 5° has two neighbours besides itself, the others one: only it is a core point
    assert tags.merge_tags(vectors, 1 - np.cos(np.deg2rad(6)), 3).tolist() == [0, 1, 0, 2, 0]
    assert tags.merge_tags(vectors, 1 - np.cos(np.deg2rad(6)), 4).tolist() == [0, 1, 2, 3, 4]


def test_concepts_equal_the_loop_and_have_unit_length():
    vectors = circle(0, 90, 10, 200)
    labels = np.array([0, 1, 0, 2])
    concepts = tags.concept_vectors(vectors, labels)
    assert_allclose(concepts, reference.concepts(vectors.tolist(), labels.tolist()))
    assert_allclose(np.rad2deg(np.arctan2(concepts[0, 1], concepts[0, 0])), 5)


# --- sphere ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_get_unit_length_whatever_their_size(dtype):
    rows = np.array([[3e-30, 4e-30], [3e30, 4e30], [0, 0], [0.6, 0.8]], dtype=dtype)
    unit = normalize_rows(rows)
    assert unit.dtype == dtype
    assert_allclose(unit, [[0.6, 0.8], [0.6, 0.8], [0, 0], [0.6, 0.8]], rtol=1e-6)
    assert normalize_rows(np.empty((0, 3))).shape == (0, 3)


def test_mean_on_the_sphere_of_nothing_is_zero():
    mean = spherical_mean(circle(0, 180, 90), np.array([0, 0, 2]), 3)
    assert_allclose(mean[2], [0, 1], atol=1e-12)
    assert_allclose(mean[1], [0, 0])


# --- what people really bring ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "way"),
    [
        (["sky,sun", "sea,sun"], r"text\.split\(','\) for text in tags"),
        (["sky; sun", "sea"], r"text\.split\(';'\)"),
        (["sky\nsun", "sea\nsun"], r"text\.split\('\\n'\)"),
        (["sky\tsun", "sea"], r"text\.split\('\\t'\)"),
        (["#sky #sun", "#sea"], r"text\.split\('#'\)"),
        (pd.Series(["sky|sun", "sea|sun"]), r"text\.split\('\|'\)"),
        (np.array(["海、空", "海、山"], dtype=object), r"text\.split\('、'\)"),
        ([["sky,sun"], ["sea,sun"]], r"for row in tags"),
    ],
)
def test_separators_within_strings_are_warned_of_once(rows, way):
    with pytest.warns(UserWarning, match=way) as caught:
        _, names = tags.check_tags(rows)
    assert len(caught) == 1
    assert len(names) == 2  # each string is one tag all the same


def test_names_may_hold_a_comma_where_few_do_or_where_they_are_known():
    rows = [["washington, dc", "city"], ["dog"], ["cat", "sky"], ["sea"]]
    assert "washington, dc" in tags.check_tags(rows)[1]
    tags.check_tags(["washington, dc"], vocabulary=["dog", "washington, dc"])
    tags.check_tags(["dog", "rock-n-roll", "it's", "3.5", "a/b"])


def test_lists_are_lists_whatever_their_lengths():
    _, names = tags.check_tags([[0, 5], [7], [0, 9, 7]])
    assert list(names) == ["0", "5", "7", "9"]
    for kind in (list, tuple, set):
        rows = [kind([0, 5, 7, 9]), kind([5, 0, 0, 0])]
        indicator, _ = tags.check_tags(rows, vocabulary=names)
        assert_array_equal(indicator.toarray(), [[1, 1, 1, 1], [1, 1, 0, 0]])
    with pytest.warns(UserWarning, match=r"np\.asarray\(tags\)"):
        tags.check_tags([[0, 1, 1], [1, 0, 0]])


@pytest.mark.parametrize(
    "matrix",
    [
        np.array([[0, 2], [1, 0]]),
        np.array([[0, -1], [1, 0]]),
        np.array([[0, 0.5], [1, 0]]),
        sparse.csr_array([[0, 2], [1, 0]]),
        pd.DataFrame({"dog": [0, 2], "cat": [1, 0]}),
    ],
)
def test_a_matrix_of_other_numbers_says_what_to_do(matrix):
    with pytest.raises(ValueError, match=r"only 0 and 1; got .*matrix > 0"):
        tags.check_tags(matrix)


def test_a_column_of_numbers_is_classes():
    classes = np.array([3, 1, 3])
    for column in (classes[:, None], pd.DataFrame({"y": classes}), classes[:, None].astype(float)):
        indicator, names = tags.check_tags(column)
        assert list(names) == ["1", "3"]
        assert_array_equal(indicator.toarray(), [[0, 1], [1, 0], [0, 1]])
    # whatever classes a fold happens to hold; a boolean column is a tag
    assert list(tags.check_tags(np.array([[0], [1]]))[1]) == ["0", "1"]
    assert_array_equal(tags.check_tags(np.array([[False], [True]]))[0].toarray(), [[0], [1]])
    assert_array_equal(
        tags.check_tags(np.array([[0], [1]]), vocabulary=["dog"])[0].toarray(), [[0], [1]]
    )


DOG_CAT = pd.DataFrame({"dog": [1, 0], "cat": [0, 1]})


@pytest.mark.parametrize(
    "frame",
    [
        DOG_CAT.convert_dtypes(),
        DOG_CAT.astype(bool).convert_dtypes(),
        DOG_CAT.astype("category"),
        DOG_CAT.astype(object),
        DOG_CAT.astype(bool).astype(object),
        DOG_CAT.astype({"dog": "Int64", "cat": bool}),
        DOG_CAT.astype("Float32"),
        pl.DataFrame({"dog": [1, 0], "cat": [False, True]}),
    ],
)
def test_an_indicator_in_any_dtype_of_a_frame(frame):
    indicator, names = tags.check_tags(frame)
    assert list(names) == ["dog", "cat"]
    assert_array_equal(indicator.toarray(), np.eye(2))
    from skwsdhq.metrics import attach_labels

    assert attach_labels(frame, [0, 1]) == [["dog"], ["cat"]]


def test_frames_are_read_by_their_names():
    indicator, names = tags.check_tags(DOG_CAT, vocabulary=["cat", "bird", "dog"])
    assert list(names) == ["cat", "bird", "dog"]
    assert_array_equal(indicator.toarray(), [[0, 0, 1], [1, 0, 0]])
    _, renamed = tags.check_tags(DOG_CAT, vocabulary=["a", "b"])
    assert list(renamed) == ["a", "b"]
    assert list(tags.check_tags(DOG_CAT.rename(columns={"dog": " Dog"}))[1]) == ["dog", "cat"]


@pytest.mark.parametrize("dtype", ["Int64", "boolean", "Float64", object])
def test_a_missing_entry_of_an_indicator_is_an_error(dtype):
    frame = DOG_CAT.astype(dtype)
    frame.loc[0, "cat"] = None
    with pytest.raises(ValueError, match=r"NaN.*fillna\(0\)"):
        tags.check_tags(frame)
    with pytest.raises(ValueError, match="texts '0' and '1'"):
        tags.check_tags(DOG_CAT.astype(str))


def test_numbers_have_one_name_in_every_type():
    values = [1, 1.0, np.float32(1), np.int8(1), np.True_, "1"]
    assert list(tags.check_tags([[value] for value in values])[1]) == ["1"]
    assert list(tags.check_tags([[0.1], [np.float32(0.1)]])[1]) == ["0.1"]
    for rows in (
        pd.Series([1, None, 2], dtype="Int64"),
        pd.Series([1.0, np.nan, 2]),
        pl.Series([1, None, 2]),
    ):
        assert_array_equal(tags.check_tags(rows)[0].toarray(), [[1, 0], [0, 0], [0, 1]])


@pytest.mark.parametrize(
    ("tag", "words"),
    [
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("น้ำ ตก", ["น้ำ", "ตก"]),
        ("مُحَمَّد", ["مُحَمَّد"]),
        ("שָׁלוֹם_עולם", ["שָׁלוֹם", "עולם"]),
        ("cafe\u0301-bar", ["café", "bar"]),
        ("می\u200cخواهم", ["می\u200cخواهم"]),
        ("ක්\u200dෂ", ["ක්\u200dෂ"]),
        ("❤\ufe0f", ["❤\ufe0f"]),
        ("👩\u200d🚀 🇩🇪", ["👩\u200d🚀", "🇩🇪"]),
        ("dog ❤\ufe0f", ["dog"]),
        ("İstanbul", ["istanbul"]),
        ("…!?", []),
    ],
)
def test_marks_belong_to_their_letters(tag, words):
    import unicodedata

    assert tags.split_words(tag) == [unicodedata.normalize("NFC", word) for word in words]


def test_names_compare_in_one_form():
    rows = [["cafe\u0301"], ["CAFÉ"], ["\ufeffcafé\u00a0"], ["İstanbul"], ["I\u0307stanbul"]]
    indicator, names = tags.check_tags([*rows, ["❤\ufe0f"], ["\u200b", "\u3000"]])
    assert list(names) == ["café", "istanbul", "❤\ufe0f"]
    assert indicator.sum(axis=1).tolist() == [1, 1, 1, 1, 1, 1, 0]
    _, names = tags.check_tags([["café"]], vocabulary=["cafe\u0301"])
    assert list(names) == ["café"]
    for key in ("café", "cafe\u0301"):
        vectors, found = tags.tag_vectors(["café", "cafe\u0301 noir"], {key: [1.0, 2.0]})
        assert found.all()
        assert_allclose(vectors, [[1, 2], [1, 2]])


# --- very many tags -------------------------------------------------------------------------


@pytest.mark.parametrize("min_samples", [1, 2, 3, 5])
def test_merging_is_dbscan(monkeypatch, min_samples):
    from sklearn.cluster import DBSCAN

    monkeypatch.setattr(_graph, "_BLOCK", 7)
    monkeypatch.setattr(_graph, "_COLUMNS", 11)
    monkeypatch.setattr(_graph, "_PAIRS_AT_ONCE", 20)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        rows = normalize_rows(rng.standard_normal((60, 3)).astype(np.float32))
        labels = DBSCAN(eps=0.03, min_samples=min_samples, metric="cosine").fit_predict(rows)
        numbers, expected = {}, []
        for t, label in enumerate(labels):
            key = ("noise", t) if label < 0 else label
            expected.append(numbers.setdefault(key, len(numbers)))
        assert tags.merge_tags(rows, 0.03, min_samples).tolist() == expected


def test_a_dense_graph_keeps_the_nearest(monkeypatch):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal(8) + 0.1 * rng.standard_normal((300, 8))
    whole = tags.correlation_graph(vectors, 0.5)
    assert whole.nnz == 300**2
    monkeypatch.setattr(_graph, "_MAX_EDGES", 300 * 50)
    graph = tags.correlation_graph(vectors, 0.5)
    assert_array_equal(graph.toarray() > 0, tags.correlation_graph(vectors, 0.5, 25).toarray() > 0)
    assert graph.nnz < 300 * 51
    cosines = np.sum(tags.enhance_vectors(vectors, graph) * tags.enhance_vectors(vectors, whole), 1)
    assert cosines.min() > 0.99


def test_equal_vectors_are_compared_once():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((12, 3)).astype(np.float32)
    order = rng.permutation(np.repeat(np.arange(12), 6))
    graph = tags.correlation_graph(vectors[order], 0.3).toarray()
    few = tags.correlation_graph(vectors, 0.3).toarray()
    assert_allclose(graph, few[np.ix_(order, order)], atol=1e-6)
    labels = tags.merge_tags(vectors[order], 0.05)
    alone = tags.merge_tags(vectors, 0.05)[order]
    assert 1 < len(set(alone)) < 12
    assert_array_equal(labels[:, None] == labels, alone[:, None] == alone)
    assert tags.merge_tags(np.ones((5, 2)), 0.1).tolist() == [0] * 5


def test_tags_of_the_same_samples_are_learned_as_one(monkeypatch):
    from skwsdhq.tags import _vectors as _tags_vectors

    rng = np.random.default_rng(0)
    rows = [[f"t{t}" for t in rng.integers(0, 30, 4)] for _ in range(60)]
    rows.append([f"u{t}" for t in range(40)] + ["t1"])
    indicator, names = tags.check_tags(rows)
    assert _tags_vectors.alike_tags(indicator) is None
    monkeypatch.setattr(_tags_vectors, "_MANY_PAIRS", 0)
    first, group = _tags_vectors.alike_tags(indicator)
    assert len(first) == group.max() + 1 < len(names) - 38
    counts = tags.tag_cooccurrence(indicator)
    fewer = tags.tag_cooccurrence(sparse.csr_array(indicator[:, first]))
    many = np.bincount(group)
    whole = tags.vectors_from_cooccurrence(counts, 8)
    learned = tags.vectors_from_cooccurrence(fewer, 8, multiplicity=many)[group]
    assert_allclose(learned @ learned.T, whole @ whole.T, atol=1e-4)
    found = rng.random(len(names)) < 0.6
    vectors = rng.standard_normal((len(names), 5)).astype(np.float32)
    expected, known = tags.vectors_from_neighbors(vectors, found, counts)
    filled, filled_known = tags.vectors_from_neighbors(vectors, found, fewer, group=group)
    assert_allclose(filled, expected, atol=1e-5)
    assert_array_equal(filled_known, known)


def test_pairs_of_a_row_of_very_many_tags_are_bounded():
    rng = np.random.default_rng(0)
    table = sparse.csr_array((rng.random((40, 3000)) < 0.002).astype(np.float32))
    table = sparse.csr_array(sparse.vstack([table, np.ones((1, 3000), np.float32)]))
    counts = tags.tag_cooccurrence(table)
    assert counts.nnz < 1.1e6
    assert_array_equal(counts.diagonal(), np.asarray(table.sum(axis=0)).ravel())
    assert abs(counts - counts.T).max() == 0


@pytest.mark.parametrize("lowercase", [True, False])
def test_a_vocabulary_that_is_known_is_not_read_anew(lowercase, monkeypatch):
    tags = [["Dog", "cat "], "dog", [], ["new", None, 3.0], [["dog"]][0]]
    _, names = check_tags(tags[:3], lowercase=lowercase)
    vocabulary = {name: t for t, name in enumerate(names)}
    forms = [tags, [["dog"]]]
    expected = [check_tags(form, vocabulary=vocabulary, lowercase=lowercase)[0] for form in forms]

    def refused(*args):
        raise AssertionError("all names were read")

    monkeypatch.setattr(reading, "read_names", refused)
    for form, other in zip(forms, expected, strict=True):
        found = reading.indicator_of_known(form, vocabulary, lowercase)
        np.testing.assert_array_equal(found.toarray(), other.toarray())
        assert found.dtype == other.dtype
