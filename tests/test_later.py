"""Images that come after the fit, placed by their own tags as well."""

import gc
import pickle

import numpy as np
import pytest
import sklearn
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from reference import kernel as reference
from scipy import sparse
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline

from skwsdhq import HypersphereEmbedder, WSDHQuantizer, load
from skwsdhq.datasets import make_tagged_images
from skwsdhq.embedding import FeatureScaler
from skwsdhq.embedding import _later as _kernel_later
from skwsdhq.embedding._fitting import fit_regression
from skwsdhq.embedding._kernel import kernel_embeddings
from skwsdhq.embedding._later import later_embeddings, left_variance
from skwsdhq.metrics import mean_average_precision
from skwsdhq.persistence import LoadError, save
from skwsdhq.sphere import normalize_rows


def problem(seed, n=20, n_concepts=7):
    """Unit features, concepts of the rows as lists and as a matrix, and concept vectors."""
    random = np.random.RandomState(seed)
    units = normalize_rows(random.normal(size=(n, 5))).astype(np.float32)
    vectors = normalize_rows(random.normal(size=(n_concepts, 4))).astype(np.float32)
    concepts = [sorted(random.permutation(n_concepts)[: random.randint(1, 4)]) for _ in range(n)]
    return units, concepts, vectors


def matrix(concepts, n_concepts=7):
    indicator = np.zeros((len(concepts), n_concepts), dtype=np.float32)
    for row, own in zip(indicator, concepts, strict=True):
        row[own] = 1
    return sparse.csr_array(indicator)


def fitted(units, concepts, vectors, *, consistency=2.0, max_landmarks=1000, gamma=2.0, alpha=0.7):
    regression = fit_regression(
        units,
        matrix(concepts),
        vectors,
        gamma=gamma,
        alpha=alpha,
        consistency=consistency,
        max_landmarks=max_landmarks,
        random_state=np.random.RandomState(0),
    )
    return {**regression._asdict(), "gamma": gamma, "alpha": alpha}


@settings(max_examples=15)
@given(
    seed=st.integers(0, 10**6),
    alpha=st.sampled_from([0.05, 1.0]),
    consistency=st.sampled_from([0.0, 2.0, 5.0]),
)
def test_equal_to_fits_that_include_the_row(seed, alpha, consistency):
    units, concepts, vectors = problem(seed)
    later, own, _ = problem(seed + 1)
    later, own = later[:5], [*own[:4], []]
    wide = units.astype(float), concepts, vectors.astype(float), 2.0, alpha, consistency
    weights, trusts = reference.trusted(*wide)
    expected = reference.later(*wide, trusts, weights, later.astype(float), own)
    kernel = fitted(units, concepts, vectors, alpha=alpha, consistency=consistency)
    found = later_embeddings(later, matrix(own), vectors, kernel)
    assert_allclose(found, expected, atol=5e-4)


def test_one_row_on_paper():
    """One landmark at x, noise 1: half of its target there, and a quarter of doubt left."""
    x = np.array([[1.0, 0.0]], dtype=np.float32)
    kernel = {"landmarks": x, "gamma": 1.0, "noise": np.array([1.0], dtype=np.float32)}
    assert left_variance(np.array([[1.0]], dtype=np.float32), kernel) == pytest.approx(0.5)
    assert left_variance(np.array([[0.0]], dtype=np.float32), kernel) == pytest.approx(1.0)
    # v / (v + alpha) = 1/3 of the way from f = (0, .5) to t = (1, 0).
    kernel |= {"coefs": np.array([[0.0, 0.5]], dtype=np.float32), "alpha": 1.0}
    kernel |= {"consistency": 0.0, "mean_target": np.zeros(2, np.float32), "mean_trust": 1.0}
    kernel["word_weights"] = np.ones(2, dtype=np.float32)
    concepts = np.eye(2, dtype=np.float32)
    found = later_embeddings(x, sparse.csr_array(np.array([[1.0, 0.0]])), concepts, kernel)
    assert_allclose(found[0], np.array([1, 1]) / np.sqrt(2), atol=1e-6)


def test_rows_without_tags_are_placed_by_their_features():
    units, concepts, vectors = problem(0)
    kernel = fitted(units, concepts, vectors)
    later, _, _ = problem(1)
    found = later_embeddings(later, matrix([[]] * len(later)), vectors, kernel)
    expected = kernel_embeddings(later, kernel["landmarks"], kernel["coefs"], 2.0)
    assert_allclose(found, expected, atol=1e-6)


def test_landmarks_stand_for_all_rows():
    """Half the rows as landmarks leave about the variance that all of them do."""
    random = np.random.RandomState(0)
    units = normalize_rows(random.normal(size=(600, 3))).astype(np.float32)
    concepts = [[int(random.randint(7))] for _ in units]
    vectors = normalize_rows(random.normal(size=(7, 4))).astype(np.float32)
    later = normalize_rows(random.normal(size=(200, 3))).astype(np.float32)
    variances = []
    for n_landmarks in (600, 300):
        kernel = fitted(units, concepts, vectors, max_landmarks=n_landmarks)
        against = np.exp(-2.0 * (1 - later @ kernel["landmarks"].T))
        variances.append(left_variance(against, kernel))
    assert len(kernel["landmarks"]) == 300
    assert np.corrcoef(*variances)[0, 1] > 0.5
    assert variances[1].mean() == pytest.approx(variances[0].mean(), rel=0.1)


# --- estimators -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made():
    return make_tagged_images(400, n_classes=8, spread=2.5, wrong=0.1, random_state=0)


@pytest.fixture(scope="module")
def model(made):
    embedder = HypersphereEmbedder(
        hidden_layer_sizes=(32,), max_iter=3, scaler=FeatureScaler(1.0), random_state=0
    )
    quantizer = WSDHQuantizer(embedder, n_codebooks=2, n_codewords=16, random_state=0)
    return quantizer.fit(made.data[:200], made.tags[:200])


def test_own_tags_bring_later_images_nearer_to_their_kind(made, model):
    queries, labels = model.transform(made.data[:200]), made.target[:200]
    scores = [
        mean_average_precision(
            queries, model.transform(made.data[200:], tags=tags), labels, made.target[200:]
        )
        for tags in (None, made.tags[200:])
    ]
    assert scores[1] > scores[0] + 0.1


@pytest.mark.parametrize("form", ["lists", "sets", "matrix", "array"])
def test_tags_in_every_form(made, model, form):
    X, tags = made.data[200:220], [list(row) for row in made.tags[200:220]]
    expected = model.transform(X, tags=tags)
    if form == "sets":
        tags = [set(row) for row in tags]
    elif form in ("matrix", "array"):
        names = list(model.tag_enhancer_.vocabulary_)
        tags = sparse.csr_array(
            np.array([[float(name in row) for name in names] for row in tags], dtype=np.float32)
        )
        tags = tags if form == "matrix" else tags.toarray()
    assert_allclose(model.embedder_.transform(X, tags=tags), expected, atol=1e-6)


def test_unknown_and_missing_tags_change_nothing(made, model):
    X = made.data[200:203]
    for tags in ([[], None, ["never heard"]], [["never heard"]] * 3):
        assert_allclose(model.transform(X, tags=tags), model.transform(X), atol=1e-6)
        assert_array_equal(model.encode(X, tags=tags), model.encode(X))


def test_codes_and_neighbors_take_them_too(made, model):
    X, tags = made.data[200:], made.tags[200:]
    embeddings = model.transform(X, tags=tags)
    assert_array_equal(model.encode(X, tags=tags), model.encode_embeddings(embeddings))
    assert (model.encode(X, tags=tags) != model.encode(X)).any()
    found = model.kneighbors(X, 5, tags=tags)
    assert_allclose(found[0], model.index().search(embeddings, 5)[0], atol=1e-6)


def test_frozen_and_unnormalised(made):
    embedder = HypersphereEmbedder(hidden_layer_sizes=(8,), max_iter=1, random_state=0)
    frozen = FrozenEstimator(embedder.fit(made.data[:200], made.tags[:200]))
    options = {"n_codebooks": 2, "n_codewords": 8, "random_state": 0}
    X, tags = made.data[200:210], made.tags[200:210]
    model = WSDHQuantizer(frozen, **options).fit(made.data[:200], made.tags[:200])
    assert_allclose(model.transform(X, tags=tags), embedder.transform(X, tags=tags), atol=1e-6)
    model = WSDHQuantizer(embedder, normalize=False, **options)
    model.fit(made.data[:200], made.tags[:200])
    rows = model.transform(X, tags=tags)
    assert_allclose(normalize_rows(rows), model.embedder_.transform(X, tags=tags), atol=1e-5)


def test_after_saving(made, model, tmp_path):
    X, tags = made.data[200:], made.tags[200:]
    expected = model.transform(X, tags=tags)
    save(model, tmp_path / "model")
    for twin in (load(tmp_path / "model"), pickle.loads(pickle.dumps(model))):
        assert_allclose(twin.transform(X, tags=tags), expected, atol=1e-5)


def test_models_of_before_say_so(made, model):
    twin = pickle.loads(pickle.dumps(model.embedder_))
    for name in ("alpha", "noise", "mean_target", "mean_trust", "word_weights"):
        del twin.kernel_[name]
    twin.transform(made.data[:3])
    with pytest.raises(ValueError, match=r"an older version .* fit it anew"):
        twin.transform(made.data[:3], tags=made.tags[:3])


def test_what_can_not_take_tags(made, model):
    X, tags = made.data[:200], made.tags[:200]
    alone = HypersphereEmbedder(kernel_weight=0, hidden_layer_sizes=(8,), max_iter=1).fit(X, tags)
    with pytest.raises(ValueError, match=r"kernel_weight above 0"):
        alone.transform(X, tags=tags)
    codes = WSDHQuantizer("passthrough", n_codebooks=1, n_codewords=8).fit(X)
    for call in (codes.transform, codes.encode, codes.kneighbors):
        with pytest.raises(ValueError, match=r"embedder_ is 'passthrough'"):
            call(X, tags=tags)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        model.transform(X, tags=tags[:7])


def test_through_a_pipeline(made):
    with sklearn.config_context(enable_metadata_routing=True):
        embedder = HypersphereEmbedder(hidden_layer_sizes=(8,), max_iter=1, random_state=0)
        pipeline = Pipeline(
            [
                ("embedder", embedder),
                ("quantizer", WSDHQuantizer("passthrough", n_codebooks=1, n_codewords=8)),
            ]
        ).fit(made.data[:200], made.tags[:200])
        X, tags = made.data[200:], made.tags[200:]
        expected = pipeline["embedder"].transform(X, tags=tags)
        assert_allclose(pipeline.transform(X, tags=tags), expected, atol=1e-6)
        assert np.abs(pipeline.transform(X) - expected).max() > 0.01


def test_files_that_lie(made, model, tmp_path):
    save(model.embedder_, tmp_path / "model")
    for name, value in [
        ("noise", np.zeros(200, np.float32)),
        ("noise", np.ones(7, np.float32)),
        ("mean_target", np.ones(3, np.float32)),
        ("alpha", -1.0),
        ("mean_trust", "much"),
    ]:
        twin = pickle.loads(pickle.dumps(model.embedder_))
        twin.kernel_[name] = value
        save(twin, tmp_path / "model")
        with pytest.raises(LoadError, match="it should hold"):
            load(tmp_path / "model")


def test_factors_go_with_their_model(made):
    embedder = HypersphereEmbedder(hidden_layer_sizes=(8,), max_iter=1, random_state=0)
    embedder.fit(made.data[:100], made.tags[:100])
    gc.collect()
    before = len(_kernel_later._factors)
    embedder.transform(made.data[:5], tags=made.tags[:5])
    assert len(_kernel_later._factors) == before + 1
    del embedder
    gc.collect()
    assert len(_kernel_later._factors) == before
