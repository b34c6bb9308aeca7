"""Queries of words, and suggestions of tags."""

import copy
import threading
import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator

from skwsdhq import HypersphereEmbedder, TagEnhancer, TagKernelRegressor, WSDHQuantizer, load
from skwsdhq.datasets import make_tagged_images
from skwsdhq.embedding import embedder as embedder_module
from skwsdhq.embedding.left_out import (
    left_out,
    left_out_concepts,
    left_out_embeddings,
    likely_concepts,
    word_directions,
)
from skwsdhq.persistence import LoadError
from skwsdhq.quantization._suggest import (
    Suggester,
    learn_calibration,
    nearness,
    shares,
    whitened,
)
from skwsdhq.search import CodeIndex
from skwsdhq.sphere import normalize_rows

VECTORS = {
    "beach": [1.0, 0.0, 0.0],
    "people": [0.0, 1.0, 0.0],
    "dog": [0.0, 0.0, 1.0],
    "golden": [0.6, 0.0, 0.8],
    "wolf": [0.0, 0.6, 0.8],
    "café": [0.8, 0.6, 0.0],
}
TAGS = [["beach", "people"], ["dog"], ["beach"], ["people", "dog"]]


@pytest.fixture(scope="module")
def enhancer():
    return TagEnhancer(VECTORS).fit(TAGS)


@pytest.fixture(scope="module")
def made():
    return make_tagged_images(240, random_state=0)


@pytest.fixture(scope="module")
def fitted(made):
    embedder = HypersphereEmbedder(max_iter=2, hidden_layer_sizes=(16,))
    quantizer = WSDHQuantizer(embedder, n_codebooks=2, n_codewords=16, random_state=0)
    return quantizer.fit(made.data, made.tags)


# --- words ------------------------------------------------------------------------------


def test_words_that_the_fit_knows_and_others(enhancer):
    rows = enhancer.embed(["beach", " Wolf", "golden wolf", "Golden_Dog", "wolf's dog"])
    half = np.sqrt(0.5)
    assert_allclose(rows[0], [1, 0, 0])
    assert_allclose(rows[1], [0, 0.6, 0.8], atol=1e-6)
    assert_allclose(rows[2], normalize_rows(np.array([[0.6, 0.6, 1.6]]))[0], atol=1e-6)
    assert_allclose(rows[3], normalize_rows(np.array([[0.6, 0, 1.8]]))[0], atol=1e-6)
    assert_allclose(rows[4], normalize_rows(np.array([[0, 0.6, 1.8]]))[0], atol=1e-6)
    assert rows.dtype == np.float32
    signed = enhancer.embed([["beach", "-people"], ("beach", "dog"), {"beach": 3, "dog": -4}])
    assert_allclose(signed, [[half, -half, 0], [half, 0, half], [0.6, 0, -0.8]], atol=1e-6)


def test_one_word_and_one_mapping_are_one_query(enhancer):
    assert_array_equal(enhancer.embed("beach"), enhancer.embed(["beach"]))
    assert_array_equal(enhancer.embed({"beach": 2.0}), enhancer.embed([["beach"]]))
    assert enhancer.embed([]).shape == (0, 3)
    # A list of texts is as many queries, as it is as many rows of tags elsewhere.
    assert_allclose(enhancer.embed(["beach", "-people"]), [[1, 0, 0], [0, -1, 0]])


def test_a_combined_and_a_decomposed_accent_are_one_word(enhancer):
    assert_array_equal(enhancer.embed("cafe\u0301"), enhancer.embed("caf\u00e9"))


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("beech", "did you mean 'beach'"),
        ("qqqqq", "none is spelt alike"),
        ("beach qqqqq", "no word vector is known for 'beach qqqqq'"),
        ([["beach", "-beach"]], "cancel each other"),
        ([{"beach": 0}], "cancel each other"),
        ([[]], "at least one word"),
        ([{}], "at least one word"),
        ([""], "not empty"),
        ([["beach", 3]], "got 3"),
        ([{"beach": np.nan}], "weight of 'beach' should be finite"),
    ],
)
def test_queries_that_say_nothing(enhancer, query, message):
    with pytest.raises(ValueError, match=message):
        enhancer.embed(query)


def test_queries_of_another_kind(enhancer):
    with pytest.raises(TypeError, match="a query should be a word"):
        enhancer.embed([3])
    with pytest.raises(NotFittedError):
        TagEnhancer(VECTORS).embed("beach")


def test_an_enhancer_without_word_vectors_knows_its_tags_alone(enhancer, tmp_path):
    enhancer.save(tmp_path / "enhancer")
    loaded = load(tmp_path / "enhancer")
    assert_array_equal(loaded.embed(["beach", "dog beach"]), enhancer.embed(["beach", "dog beach"]))
    with pytest.raises(ValueError, match="'wolf' is none of the 3 tags of the fit"):
        loaded.embed("wolf")


def test_a_tag_that_is_placed_anew_lands_where_the_fit_has_it():
    """A word left out of the fit is near where a fit with it has it: joined, centred, drawn."""
    random = np.random.RandomState(0)
    names = [f"t{t}" for t in range(120)]
    centres = random.randn(6, 12)
    vectors = {name: centres[t % 6] + 0.3 * random.randn(12) for t, name in enumerate(names)}
    rows = [
        [names[t] for t in range(g, 120, 6) if random.rand() < 0.4 or t == g]
        for _ in range(40)
        for g in range(6)
    ]
    whole = TagEnhancer(vectors).fit(rows)
    less = TagEnhancer(vectors, stop_tags=["t7"]).fit(rows)
    assert whole.concept_vectors_.shape[1] > 12  # joined with what occurs together
    found = less.embed("t7")
    own_group = less.embed([f"t{t}" for t in range(1, 120, 6) if t != 7])
    other = less.embed([f"t{t}" for t in range(2, 120, 6)])
    assert (found @ own_group.T).mean() > (found @ other.T).mean() + 0.5
    assert (own_group @ found.T).mean() > 0.8


def test_a_refit_forgets_the_words_of_the_fit_before():
    enhancer = TagEnhancer(VECTORS).fit(TAGS)
    enhancer.embed("wolf")
    enhancer.set_params(word_vectors={"wolf": [0.0, 1.0], "cat": [1.0, 0.0]}).fit(
        [["wolf"], ["cat"]]
    )
    assert_allclose(enhancer.embed("wolf"), [[0, 1]])


# --- search -----------------------------------------------------------------------------


def test_words_find_what_carries_them(made, fitted):
    tag = made.tags[0][0]
    similarities, rows = fitted.kneighbors_of_tags([tag, tag.upper()], 20)
    assert similarities.shape == rows.shape == (2, 20)
    assert_array_equal(rows[0], rows[1])
    group = tag.split("_")[0]
    of_group = [any(t.startswith(group + "_") for t in made.tags[row]) for row in rows[0]]
    assert np.mean(of_group) > 0.8
    query = fitted.embed_query(tags=[tag])
    assert_array_equal(fitted.index().search(query, 20)[1], rows[:1])


def test_pictures_and_words_mix(made, fitted):
    words, pictures = fitted.embed_query(tags=["c0_t0"]), fitted.embed_query(made.data[:3])
    mixed = fitted.embed_query(made.data[:3], ["c0_t0"], 0.25)
    assert_allclose(mixed, normalize_rows(0.75 * pictures + 0.25 * words), atol=1e-6)
    assert_allclose(fitted.embed_query(made.data[:3], ["c0_t0"], 0), pictures, atol=1e-6)
    assert_allclose(np.linalg.norm(mixed, axis=1), 1, atol=1e-6)
    found = fitted.kneighbors_of_tags(["c0_t0"], 4, X=made.data[:3], weight=0.25)
    assert_array_equal(found[1], fitted.index().search(mixed, 4)[1])


def test_bad_queries_of_a_quantizer(made, fitted):
    with pytest.raises(ValueError, match="both are None"):
        fitted.embed_query()
    with pytest.raises(ValueError, match="3 pictures and 2 queries of words"):
        fitted.embed_query(made.data[:3], ["c0_t0", "c1_t0"])
    with pytest.raises(ValueError, match="weight"):
        fitted.embed_query(made.data[:3], ["c0_t0"], 1.5)
    with pytest.raises(ValueError, match="n_neighbors=999"):
        fitted.kneighbors_of_tags("c0_t0", 999)
    with pytest.raises(NotFittedError):
        WSDHQuantizer().kneighbors_of_tags("c0_t0")


def test_an_embedder_without_concepts_says_so(made):
    plain = WSDHQuantizer("passthrough", n_codebooks=2, n_codewords=16).fit(made.data)
    for call in (
        lambda: plain.embed_query(tags=["c0_t0"]),
        lambda: plain.suggest_tags(made.data),
        lambda: plain.suggest_tags_of_codes(plain.codes_),
    ):
        with pytest.raises(ValueError, match="no concepts"):
            call()
    other = WSDHQuantizer(
        "passthrough",
        n_codebooks=2,
        n_codewords=16,
        tag_enhancer=TagEnhancer(
            {
                t: np.eye(3)[n % 3]
                for n, t in enumerate(sorted({t for row in made.tags for t in row}))
            }
        ),
    ).fit(made.data, made.tags)
    assert other.tag_calibration_ is None
    with pytest.raises(ValueError, match="one sphere"):
        other.suggest_tags(made.data)


# --- suggestions ------------------------------------------------------------------------


def test_whitened_by_hand():
    """Two orthogonal concepts, one on three times as many images: directions stay their own."""
    rows = whitened(np.eye(2, dtype=np.float32), np.array([3, 1]))
    ridge = 0.03 / 2
    assert_allclose(rows, np.diag([(0.75 + ridge) ** -0.5, (0.25 + ridge) ** -0.5]), rtol=1e-6)
    near = nearness(np.array([[3.0, 4.0], [0.0, 0.0]]), np.eye(2, dtype=np.float32))
    assert_allclose(near, [[3 / 12.5**0.5, 4 / 12.5**0.5], [0, 0]], rtol=1e-6)


def test_rows_left_out_are_those_of_fits_without_them(made):
    """By a fit for each row: the closed form leaves out its own target alone."""
    n = 30
    model = TagKernelRegressor(consistency=0, random_state=0).fit(made.data[:n], made.tags[:n])
    kernel = model.kernel_
    gram = np.exp(
        -kernel["gamma"] * (1 - kernel["landmarks"] @ kernel["landmarks"].T.astype(float))
    )
    targets = gram @ kernel["coefs"] + kernel["noise"][:, None] * kernel["coefs"]
    found = left_out_embeddings(kernel)
    for i in (0, 7, n - 1):
        others = np.delete(np.arange(n), i)
        fitted = gram[np.ix_(others, others)] + np.diag(kernel["noise"][others])
        expected = gram[i, others] @ np.linalg.solve(fitted, targets[others])
        assert_allclose(found[i], expected / np.linalg.norm(expected), atol=1e-4)
    assert left_out_embeddings({k: v for k, v in kernel.items() if k != "noise"}) is None


def test_suggestions_are_what_images_carry(made, fitted):
    names, scores = fitted.suggest_tags(made.data, 3)
    assert names.shape == scores.shape == (240, 3)
    assert scores.dtype == np.float32
    assert (np.diff(scores, axis=1) <= 0).all()
    right = [
        name.split("_")[0] == tags[0].split("_")[0]
        for name, tags in zip(names[:, 0], made.clean_tags, strict=True)
    ]
    assert np.mean(right) > 0.9
    of_codes, _ = fitted.suggest_tags_of_codes(fitted.codes_, 3)
    assert (of_codes[:, 0] == names[:, 0]).mean() > 0.3


def test_scores_are_as_likely_as_they_say():
    """Images that the fit has not seen carry what was suggested as often as the scores tell."""
    made = make_tagged_images(900, random_state=1)
    model = WSDHQuantizer(
        TagKernelRegressor(random_state=0), n_codebooks=2, n_codewords=16, random_state=0
    ).fit(made.data[:600], made.tags[:600])
    names, scores = model.suggest_tags(made.data[600:], 8, prior_weight=1)
    carried = np.array(
        [[name in tags for name in row] for row, tags in zip(names, made.tags[600:], strict=True)]
    )
    assert abs(scores.mean() - carried.mean()) < 0.05
    thirds = np.array_split(np.argsort(scores, axis=None), 3)
    means = [carried.ravel()[part].mean() for part in thirds]
    assert means[0] < means[1] < means[2]
    assert means[0] < 0.2 < 0.7 < means[2]


def suggester(counts, **slopes):
    """Of rows that lie apart from each other: row i carries the concepts of which counts say so."""
    rows = np.repeat(np.arange(len(counts)), counts)
    known = {"slope": 1.0, "share_slope": 0.0, "count_slope": 1.0, "intercept": -5.0, **slopes}
    known |= {"starts": np.arange(len(rows) + 1), "concepts": rows}
    books = np.eye(len(counts), dtype=np.float32)[None]
    names = np.array([f"c{c}" for c in range(len(counts))])
    index = CodeIndex(books, rows[:, None])
    return Suggester(np.eye(len(counts), dtype=np.float32), names, known, index)


def test_a_prior_weight_brings_frequent_concepts():
    often = suggester([1000, 10, 10])
    embedding = np.array([[0.05, 0.06, 0.01]], dtype=np.float32)
    assert often.suggest(embedding, 1, 0.0)[0][0, 0] == "c1"
    names, scores = often.suggest(embedding, 3, 1.0)
    assert names[0, 0] == "c0"
    assert (scores > 0).all()
    own = sparse.csr_array(np.array([[1.0, 0, 1]]))
    names, scores = often.suggest(embedding, 3, 1.0, own)
    assert names[0].tolist() == ["c1", None, None]
    assert scores[0, 1:].tolist() == [0, 0]


def test_shares_of_neighbours_by_hand():
    """Three rows, similarities 1, 1 and 0.5: weights 1, 1 and exp(20·(0.5 − 1))."""
    index = CodeIndex(np.array([[[1.0], [0.5]]]), [[0], [0], [1]])
    carried = sparse.csr_array(np.array([[1.0, 0], [0, 1], [0, 1]]))
    low = np.exp(-10)
    found = shares(np.array([[1.0]]), index, carried)
    assert_allclose(np.exp(found) - 0.05, [[1 / (2 + low), (1 + low) / (2 + low)]], rtol=1e-5)
    without = shares(np.array([[1.0]]), index, carried, [[1, 2]])
    assert_allclose(np.exp(without) - 0.05, [[1, 0]], atol=1e-6)
    nothing = shares(np.array([[1.0]]), index, carried, [[0, 1, 2]])
    assert_allclose(np.exp(nothing) - 0.05, [[0, 0]], atol=1e-6)


def test_neighbours_tell_what_words_do_not():
    alone = suggester([5, 5, 5], slope=0.0, share_slope=1.0, count_slope=0.0)
    names, scores = alone.suggest(np.array([[0.1, 0.9, 0.2]]), 3, 0.0)
    assert names[0, 0] == "c1"
    assert scores[0, 0] > 5 * scores[0, 1]


def test_own_tags_are_not_suggested(made, fitted):
    names, _ = fitted.suggest_tags(made.data[:20], 4, tags=made.tags[:20])
    assert not any(set(row) & set(tags) for row, tags in zip(names, made.tags[:20], strict=True))


def test_bad_input_of_suggestions(made, fitted):
    with pytest.raises(ValueError, match="n_tags"):
        fitted.suggest_tags(made.data, 0)
    with pytest.raises(ValueError, match="prior_weight"):
        fitted.suggest_tags(made.data, prior_weight=2)
    with pytest.raises(NotFittedError):
        WSDHQuantizer().suggest_tags(made.data)
    assert fitted.suggest_tags(made.data[:2], 10_000)[0].shape[1] == len(
        fitted.tag_enhancer_.concept_names_
    )


def test_nothing_to_calibrate_by(made):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alike = WSDHQuantizer(
            TagKernelRegressor(TagEnhancer({"a": [1.0, 0.0]})), n_codebooks=1, n_codewords=4
        ).fit(made.data[:50], [["a"]] * 50)
    assert alike.tag_calibration_ is None
    with pytest.raises(ValueError, match="does not know how likely"):
        alike.suggest_tags(made.data)
    assert learn_calibration(made.data, sparse.csr_array((240, 3)), np.eye(3), None) is None


def test_a_frozen_embedder_is_calibrated_by_the_rows_of_this_fit(made, fitted):
    frozen = WSDHQuantizer(
        FrozenEstimator(fitted.embedder_), n_codebooks=2, n_codewords=16, random_state=0
    ).fit(made.data[:100], made.tags[:100])
    assert len(frozen.tag_calibration_["starts"]) == 101
    assert frozen.suggest_tags(made.data[:3])[0].shape == (3, 5)


def test_partial_fits_are_calibrated_with_all_rows(made):
    """As codes_ are those of all."""
    embedder = HypersphereEmbedder(max_iter=1, hidden_layer_sizes=(8,), random_state=0)
    model = WSDHQuantizer(embedder, n_codebooks=2, n_codewords=8, random_state=0)
    model.fit(made.data, made.tags).partial_fit(made.data[:50], made.tags[:50])
    assert len(model.tag_calibration_["starts"]) == len(model.codes_) + 1 == 291
    assert model.suggest_tags(made.data[:2])[0].shape == (2, 5)
    fresh = WSDHQuantizer(embedder, n_codebooks=2, n_codewords=8, random_state=0)
    assert fresh.partial_fit(made.data, made.tags).suggest_tags(made.data[:2])[0].shape == (2, 5)


def test_files_hold_the_calibration_and_are_checked(made, fitted, tmp_path):
    path = tmp_path / "model.safetensors"
    fitted.save(path)
    loaded = load(path)
    for ours, theirs in zip(
        loaded.suggest_tags(made.data), fitted.suggest_tags(made.data), strict=True
    ):
        assert_array_equal(ours, theirs)
    known = dict(fitted.tag_calibration_)
    for change in (
        {"slope": np.nan}, {"slope": 1}, {"starts": known["starts"][:-1]}, {"more": 1.0},
        {"concepts": -known["concepts"]}, {"starts": known["starts"][::-1].copy()},
        {"concepts": known["concepts"] + 10_000},
    ):  # fmt: skip
        wrong = load(path)
        wrong.tag_calibration_ = {**known, **change}
        try:
            wrong.save(path.with_suffix(".bad"))
        except ValueError:
            continue  # what is no number is not even written
        with pytest.raises(LoadError):
            load(path.with_suffix(".bad"))


def test_threads_ask_at_once(made, fitted):
    errors = []

    def ask():
        try:
            for _ in range(5):
                fitted.suggest_tags(made.data[:4])
                fitted.kneighbors_of_tags("c0_t0", 3)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_directions_of_words_are_what_the_formula_says():
    """By loops: each row left out of both regressions, and ridge of one on the other."""
    random = np.random.RandomState(0)
    units = normalize_rows(random.standard_normal((30, 5)))
    vectors = normalize_rows(random.standard_normal((4, 3)))
    labels = (random.random_sample((30, 4)) < 0.4).astype(float)
    labels[:, 3] = 0  # one that nobody carries
    labels[0, 0] = 1
    kernel = np.exp(-2 * (1 - units @ units.T))
    noise = random.uniform(0.5, 2, 30)
    targets = labels @ vectors
    fitted = {
        "landmarks": units.astype("f4"), "gamma": 2.0, "noise": noise.astype("f4"),
        "coefs": np.linalg.solve(kernel + np.diag(noise), targets).astype("f4"),
    }  # fmt: skip
    left = left_out(fitted)
    centred = labels - labels.mean(axis=0)
    placed, likely = np.zeros((30, 3)), np.zeros((30, 4))
    for i in range(30):
        others = np.delete(np.arange(30), i)
        inner = kernel[np.ix_(others, others)] + np.diag(noise[others])
        weights = np.linalg.solve(inner, kernel[others, i])
        placed[i], likely[i] = weights @ targets[others], weights @ centred[others]
    placed = normalize_rows(placed)
    assert_allclose(left.embeddings, placed, atol=1e-4)
    placed -= placed.mean(axis=0)
    gram = placed.T @ placed
    ridge = gram + 0.1 * np.trace(gram) / 3 * np.eye(3)
    learned = normalize_rows(np.linalg.solve(ridge, placed.T @ likely).T)
    expected = normalize_rows(0.7 * learned + 0.3 * vectors)
    found = word_directions(left, sparse.csr_array(labels), vectors.astype("f4"))
    assert_allclose(found[:3], expected[:3], atol=1e-3)
    assert_allclose(found[3], vectors[3], atol=1e-6)
    assert found.dtype == np.float32


def test_words_are_looked_for_where_their_images_are(made, fitted, tmp_path):
    """In the directions that the fit has learned, also of a copy, a file and after partial_fit."""
    tags = fitted.tag_enhancer_.concept_names_[:6].tolist()
    queries = fitted.embed_query(tags=[[tag] for tag in tags])
    assert_allclose(queries, fitted.tag_directions_[:6], atol=1e-6)
    enhancer = fitted.tag_enhancer_
    assert not np.allclose(queries, enhancer.embed([[tag] for tag in tags]), atol=1e-3)
    # The enhancer alone knows of no images; neither disturbs the other.
    assert_allclose(enhancer.embed([tags[0]]), enhancer.concept_vectors_[:1], atol=1e-6)
    assert_allclose(fitted.embed_query(tags=[tags[0]]), fitted.tag_directions_[:1], atol=1e-6)
    both = fitted.embed_query(tags=[[tags[0], f"-{tags[1]}"]])
    expected = fitted.tag_directions_[0] - fitted.tag_directions_[1]
    assert_allclose(both[0], expected / np.linalg.norm(expected), atol=1e-5)
    fitted.save(tmp_path / "model.safetensors")
    loaded = load(tmp_path / "model.safetensors")
    assert_array_equal(loaded.embed_query(tags=[tags[0]]), fitted.embed_query(tags=[tags[0]]))
    frozen = WSDHQuantizer(
        FrozenEstimator(fitted.embedder_), n_codebooks=2, n_codewords=16, random_state=0
    ).fit(made.data[:100], made.tags[:100])
    assert frozen.tag_directions_ is None  # its regression knows other rows
    assert_allclose(frozen.embed_query(tags=[tags[0]]), enhancer.embed([tags[0]]), atol=1e-6)
    wrong = copy.copy(fitted)
    wrong.tag_directions_ = fitted.tag_directions_[:, :-1]
    wrong.save(tmp_path / "wrong.safetensors")
    with pytest.raises(LoadError, match="tag_directions_"):
        load(tmp_path / "wrong.safetensors")


def test_a_regressor_alone_learns_directions_too(made):
    model = WSDHQuantizer(TagKernelRegressor(), n_codebooks=2, n_codewords=16, random_state=0)
    model.fit(made.data, made.tags)
    assert model.tag_directions_.shape == model.tag_enhancer_.concept_vectors_.shape
    few = TagKernelRegressor(max_landmarks=50)
    assert model.set_params(embedder=few).fit(made.data, made.tags).tag_directions_ is None


def test_the_regression_of_the_indicator_is_that_of_the_definition(made):
    """Of later images, and of rows that each is left out."""
    model = TagKernelRegressor(alpha=0.7, random_state=0).fit(made.data[:60], made.tags[:60])
    indicator = model.tag_enhancer_.transform(made.tags[:60])
    kernel, labels = model.kernel_, indicator.toarray().astype(float)
    gram = model.kernel_rows(made.data[:60]).astype(float)
    noise, centred = kernel["noise"].astype(float), labels - labels.mean(axis=0)
    against = model.kernel_rows(made.data[60:70])
    assert_allclose(against.max(axis=1) <= 1.0001, True)
    weights = np.linalg.solve(gram + np.diag(noise), against.T.astype(float))
    expected = weights.T @ centred + labels.mean(axis=0)
    assert_allclose(likely_concepts(against, indicator, kernel), expected, atol=1e-3)
    found = left_out_concepts(left_out(kernel), indicator)
    for i in (0, 17, 59):
        others = np.delete(np.arange(60), i)
        inner = gram[np.ix_(others, others)] + np.diag(noise[others])
        expected = np.linalg.solve(inner, gram[others, i]) @ centred[others] + labels.mean(axis=0)
        assert_allclose(found[i], expected, atol=2e-3)


def test_suggestions_go_by_the_regression_where_it_is_at_hand(made, fitted):
    known = fitted.tag_calibration_
    assert known["by_kernel"].shape == (5,)
    assert len(known["thresholds"]) == len(fitted.tag_enhancer_.concept_names_)
    names, scores = fitted.suggest_tags(made.data[:30], 5)
    by_codes, _ = fitted.suggest_tags_of_codes(fitted.codes_[:30], 5)
    assert (names != by_codes).any()
    # In blocks, one by one or together.
    single = np.vstack([fitted.suggest_tags(made.data[i : i + 1], 5)[0] for i in range(30)])
    assert (single == names).mean() > 0.98
    assert ((scores >= 0) & (scores <= 1)).all()
    # At a weight of 1 frequency counts in full.
    count = dict(zip(*np.unique(np.concatenate(made.tags), return_counts=True), strict=True))
    frequent = [
        np.mean([count[name] for name in fitted.suggest_tags(made.data, 3, prior_weight=w)[0].flat])
        for w in (0.0, 1.0)
    ]
    assert frequent[0] < frequent[1]


def test_files_with_wrong_numbers_of_the_regression(fitted, tmp_path):
    known = fitted.tag_calibration_
    for change in (
        {"by_kernel": known["by_kernel"][:4]}, {"thresholds": -known["thresholds"]},
        {"thresholds": known["thresholds"][:-1]}, {"by_kernel": known["by_kernel"] * np.nan},
    ):  # fmt: skip
        wrong = copy.copy(fitted)
        wrong.tag_calibration_ = {**known, **change}
        wrong.save(tmp_path / "wrong.safetensors")
        with pytest.raises(LoadError):
            load(tmp_path / "wrong.safetensors")


def test_pictures_are_read_once_for_their_suggestions(monkeypatch):
    """By the network of a model that was fitted to pictures."""
    random = np.random.RandomState(0)
    pictures = random.randint(0, 256, (40, 8, 8, 3)).astype(np.uint8)
    pictures[::2, ..., 0] = 255
    tags = [["red" if i % 2 == 0 else "other", f"t{i % 3}"] for i in range(40)]
    calls = []

    def extracted(images, backbone, **options):
        calls.append(len(images))
        return np.asarray(images, dtype="f4").mean(axis=(1, 2)) + 1, {}

    monkeypatch.setattr(embedder_module, "features_and_skipped", extracted)
    embedder = HypersphereEmbedder(
        backbone="efficientnet_lite0", max_iter=1, hidden_layer_sizes=(4,), random_state=0
    )
    model = WSDHQuantizer(embedder, n_codebooks=1, n_codewords=8, random_state=0)
    model.fit(pictures, tags)
    calls.clear()
    assert model.suggest_tags(pictures[:6], 2)[0].shape == (6, 2)
    assert calls == [6]
