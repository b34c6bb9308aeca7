"""Rows that come in batches: the regression ends where a fit to all of them does."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator

from skwsdhq import HypersphereEmbedder, TagEnhancer, TagKernelRegressor, WSDHQuantizer, load
from skwsdhq.datasets import make_tagged_images
from skwsdhq.embedding import FeatureScaler
from skwsdhq.embedding._fitting import begin_regression, fit_regression, solve_regression
from skwsdhq.embedding._kernel import kernel_embeddings
from skwsdhq.embedding._stream import _of_fit, _of_stream, go_on
from skwsdhq.embedding._sums import kernel_sums, places_of
from skwsdhq.metrics import mean_average_precision
from skwsdhq.persistence import LoadError
from skwsdhq.search import CodeIndex
from skwsdhq.sphere import normalize_rows


@pytest.fixture(scope="module")
def made():
    return make_tagged_images(1500, wrong=0.2, missing=0.2, random_state=0)


@pytest.fixture(scope="module")
def frozen(made):
    return FrozenEstimator(TagEnhancer().fit(made.tags))


def regressor(enhancer=None, **parameters):
    # Neither concepts nor scale depend on the first batch, where these are given.
    scaler = None if enhancer is None else FeatureScaler(scale=False)
    return TagKernelRegressor(enhancer, scaler=scaler, random_state=0, **parameters)


def in_batches(model, made, n_rows, first=None):
    start = 0
    while start < len(made.data):
        stop = start + (first if first and not start else n_rows)
        model.partial_fit(made.data[start:stop], made.tags[start:stop])
        start = stop
    return model


def test_with_room_for_all_rows_it_is_the_fit_to_all(made, frozen):
    few = make_tagged_images(300, wrong=0.2, random_state=1)
    enhancer = FrozenEstimator(TagEnhancer().fit(few.tags))
    whole = regressor(enhancer).fit(few.data, few.tags)
    stream = in_batches(regressor(enhancer), few, 70)
    assert_array_equal(stream.kernel_["landmarks"], whole.kernel_["landmarks"])
    for name in ("coefs", "noise", "mean_target", "word_weights"):
        assert_allclose(stream.kernel_[name], whole.kernel_[name], rtol=1e-4, atol=1e-5)
    assert stream.kernel_["consistency"] == pytest.approx(whole.kernel_["consistency"])
    # Another round over the same rows tells nothing new.
    again = in_batches(stream, few, 70)
    assert_array_equal(again.kernel_["landmarks"], whole.kernel_["landmarks"])


def parts(made, frozen):
    indicator = frozen.estimator.transform(made.tags)
    return normalize_rows(made.data).astype(np.float32), indicator, frozen.concept_vectors_


OPTIONS = {"gamma": 2.0, "alpha": "auto", "consistency": "auto", "specificity": 0.5}


def test_sums_of_batches_are_the_sums_of_all_rows(made, frozen):
    units, indicator, vectors = parts(made, frozen)
    kernel, stream = {}, None
    for start in range(0, 1500, 500):
        rows = slice(start, start + 500)
        found = go_on(
            kernel,
            stream,
            units[rows],
            indicator[rows],
            vectors,
            max_landmarks=150,
            random_state=np.random.RandomState(0),
            **OPTIONS,
        )
        kernel, stream = found.regression.as_kernel(2.0), found.stream
    _, sums = _of_stream(kernel, stream, vectors)
    # All rows at once, by what the first batch has fixed.
    first = begin_regression(
        units[:500],
        indicator[:500],
        vectors,
        max_landmarks=150,
        random_state=np.random.RandomState(0),
        **OPTIONS,
    )
    begun = first[1]
    assert_array_equal(kernel["landmarks"], begun.landmarks)
    tagged = np.flatnonzero(np.diff(indicator[:500].indptr))
    picked = np.sort(np.random.RandomState(0).permutation(len(tagged))[:150])
    at_once = kernel_sums(units, indicator, places_of(tagged[picked], 1500), begun)
    assert sums.n_rows == at_once.n_rows == (np.diff(indicator.indptr) > 0).sum()
    for one, two in zip(sums[1:], at_once[1:], strict=True):
        assert_allclose(one, two, rtol=1e-4, atol=1e-3)
    lower = np.tril_indices(150)
    assert_allclose(sums.gram[lower], at_once.gram[lower], rtol=1e-3, atol=1e-2)
    whole = solve_regression(at_once, begun)
    assert_allclose(kernel["coefs"], whole.coefs, atol=2e-3 * np.abs(whole.coefs).max())


@pytest.mark.parametrize("max_landmarks", [300, 4096])
def test_a_fit_can_be_taken_apart_into_sums(made, frozen, max_landmarks):
    units, indicator = (part[:800] for part in parts(made, frozen)[:2])
    vectors = frozen.concept_vectors_
    fitted = fit_regression(
        units,
        indicator,
        vectors,
        max_landmarks=max_landmarks,
        random_state=np.random.RandomState(0),
        **OPTIONS,
    )
    begun, sums = _of_fit(fitted.as_kernel(2.0), vectors)
    again = solve_regression(sums, begun)
    n_tagged = (np.diff(indicator.indptr) > 0).sum()
    assert sums.n_rows == pytest.approx(n_tagged, rel=0.05)
    assert_allclose(again.coefs, fitted.coefs, rtol=1e-3, atol=1e-4)
    assert_allclose(again.noise, fitted.noise, rtol=1e-3)
    assert_allclose(again.mean_target, fitted.mean_target, atol=1e-5)


def cosine(one, other):
    return float((one * other).sum(axis=1).mean())


@pytest.mark.parametrize("begin", ["partial_fit", "fit"])
def test_a_stream_ends_where_a_fit_to_all_rows_does(made, frozen, begin):
    later = make_tagged_images(2000, wrong=0.2, missing=0.2, random_state=0)
    whole = regressor(frozen, max_landmarks=200).fit(made.data, made.tags)
    stream = regressor(frozen, max_landmarks=200)
    getattr(stream, begin)(made.data[:400], made.tags[:400])
    alone = clone(stream).fit(made.data[:400], made.tags[:400])
    for start in range(400, 1500, 100):
        stream.partial_fit(made.data[start : start + 100], made.tags[start : start + 100])
    queries = later.data[1500:]
    other = clone(whole).set_params(random_state=1).fit(made.data, made.tags)
    rows = [model.transform(queries) for model in (whole, stream, alone, other)]
    # As near as other landmarks of all rows bring it, and nearer than the first batch alone.
    assert cosine(rows[0], rows[1]) > cosine(rows[0], rows[3]) - 0.02
    assert cosine(rows[0], rows[1]) > cosine(rows[0], rows[2])
    target = later.target[1500:]
    found = [mean_average_precision(row, row, target, target) for row in rows[:2]]
    assert found[1] > found[0] - 0.01
    assert len(stream.kernel_["landmarks"]) == 200
    # Later rows take their own tags along as well.
    own = [model.transform(queries, tags=later.tags[1500:]) for model in (whole, stream)]
    assert cosine(*own) > 0.95


def test_a_quantizers_stream_finds_what_a_fit_to_all_finds(made):
    enhancer = FrozenEstimator(TagEnhancer().fit(made.tags))

    def quantizer():
        kernel = TagKernelRegressor(max_landmarks=200)
        embedder = HypersphereEmbedder(enhancer, kernel=kernel, kernel_weight=1, random_state=0)
        return WSDHQuantizer(embedder, n_codebooks=2, n_codewords=32, random_state=0)

    whole = quantizer().fit(made.data, made.tags)
    stream = in_batches(quantizer(), made, 200, first=500)
    assert len(stream.codes_) == 1500
    scores = []
    for model in (whole, stream):
        index = CodeIndex(model.codebooks_, model.codes_)
        queries = model.transform(made.data[:300])
        scores.append(mean_average_precision(queries, index, made.target[:300], made.target))
    assert scores[1] > scores[0] - 0.03
    assert cosine(whole.transform(made.data), stream.transform(made.data)) > 0.97


def test_network_and_regression_learn_along(made, frozen):
    model = HypersphereEmbedder(
        frozen, hidden_layer_sizes=(16,), kernel=TagKernelRegressor(max_landmarks=100)
    )
    in_batches(model, made, 500)
    assert model.n_iter_ == 3
    assert model._kernel_stream["n_rows"] > 1000
    assert model.kernel_["weight"] == 0.9
    before = model.kernel_["coefs"]
    model.partial_fit(made.data[:50], made.tags[:50])
    assert not np.array_equal(model.kernel_["coefs"], before)
    # A fit begins anew; a network that learned alone goes on alone.
    model.fit(made.data[:90], made.tags[:90])
    assert model._kernel_stream is None
    alone = HypersphereEmbedder(frozen, hidden_layer_sizes=(16,), kernel_weight=0, max_iter=1)
    alone.fit(made.data[:90], made.tags[:90])
    assert alone.set_params(kernel_weight=0.5).partial_fit(made.data, made.tags).kernel_ == {}


@pytest.mark.parametrize("max_landmarks", [100, 4096])
@pytest.mark.parametrize("kind", [TagKernelRegressor, HypersphereEmbedder])
def test_a_saved_stream_goes_on(made, tmp_path, kind, max_landmarks):
    model = kind(random_state=0)
    if kind is TagKernelRegressor:
        model.set_params(max_landmarks=max_landmarks)
    else:
        kernel = TagKernelRegressor(max_landmarks=max_landmarks)
        model.set_params(kernel=kernel, kernel_weight=1)
    model.partial_fit(made.data[:300], made.tags[:300])
    model.save(tmp_path / "model.safetensors")
    loaded = load(tmp_path / "model.safetensors")
    for one in (model, loaded):
        one.partial_fit(made.data[300:600], made.tags[300:600])
    assert_allclose(loaded.transform(made.data), model.transform(made.data), rtol=0, atol=1e-4)
    damaged = clone(model).partial_fit(made.data[:300], made.tags[:300])
    for name, value in damaged._kernel_stream.items():
        wrong = value[:-1] if isinstance(value, np.ndarray) else -1
        damaged._kernel_stream = {**damaged._kernel_stream, name: wrong}
        damaged.save(tmp_path / "damaged.safetensors")
        with pytest.raises(LoadError, match="stream"):
            load(tmp_path / "damaged.safetensors")
        damaged._kernel_stream[name] = value


def test_words_are_those_of_the_first_batch_or_given(made):
    first = [["c0_t0"] if i % 2 else ["c1_t0"] for i in range(100)]
    later = [["c0_t0"] if i % 2 else ["new"] for i in range(100)]
    model = regressor().partial_fit(made.data[:100], first)
    model.partial_fit(made.data[100:200], later)
    assert set(model.tag_enhancer_.vocabulary_) == {"c0_t0", "c1_t0"}
    assert len(model.kernel_["landmarks"]) == 150  # rows without a known tag take no part
    with pytest.raises(ValueError, match="none of the 100 images has a tag that is known"):
        model.partial_fit(made.data[:100], [["new"]] * 100)
    given = regressor().set_params(
        tag_enhancer=TagEnhancer(dict(zip("ab", np.eye(2), strict=True)), vocabulary=["a", "b"])
    )
    given.partial_fit(made.data[:100], [["a"]] * 99 + [["b"]])
    assert set(given.tag_enhancer_.vocabulary_) == {"a", "b"}


def test_a_failed_batch_changes_nothing(made, frozen):
    model = regressor(frozen).partial_fit(made.data[:100], made.tags[:100])
    before = model.__dict__.copy()
    with pytest.raises(ValueError, match="features"):
        model.partial_fit(made.data[:10, :3], made.tags[:10])
    with pytest.raises(ValueError, match="inconsistent numbers"):
        model.partial_fit(made.data[:10], made.tags[:9])
    assert model.__dict__ == before
    units = model.kernel_["landmarks"]
    rows = kernel_embeddings(units, units, model.kernel_["coefs"], 2.0)
    assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
