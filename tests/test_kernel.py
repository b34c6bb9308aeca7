"""Kernel regression of tag vectors, and its part in the embedder."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal
from reference import kernel as reference
from scipy import sparse

from skwsdhq import HypersphereEmbedder, TagEnhancer, TagKernelRegressor, WSDHQuantizer
from skwsdhq.datasets import make_tagged_images
from skwsdhq.embedding._fitting import fit_regression
from skwsdhq.embedding._kernel import (
    evident_alpha,
    kernel_embeddings,
    leave_one_out,
    rbf_kernel,
    tag_targets,
    word_weights,
    wrong_share,
)
from skwsdhq.embedding._upgrade import parts_from_flat
from skwsdhq.sphere import normalize_rows

OPTIONS = {"gamma": 2.0, "alpha": 0.7, "consistency": 2.0, "max_landmarks": 1000}


def problem(seed, n=25, d=6, n_concepts=7, n_dims=4):
    """Unit features, tags as lists and as a matrix, and concept vectors."""
    random = np.random.RandomState(seed)
    units = normalize_rows(random.normal(size=(n, d))).astype(np.float32)
    vectors = normalize_rows(random.normal(size=(n_concepts, n_dims))).astype(np.float32)
    concepts = [sorted(random.permutation(n_concepts)[: random.randint(1, 4)]) for _ in range(n)]
    indicator = np.zeros((n, n_concepts), dtype=np.float32)
    for row, own in zip(indicator, concepts, strict=True):
        row[own] = 1
    return units, concepts, sparse.csr_array(indicator), vectors


def fitted(units, indicator, vectors, asked, **options):
    options = {**OPTIONS, "random_state": np.random.RandomState(0), **options}
    found = fit_regression(units, indicator, vectors, **options)
    return kernel_embeddings(asked, found.landmarks, found.coefs, options["gamma"])


# --- the regression -------------------------------------------------------------------------


@settings(max_examples=20)
@given(
    seed=st.integers(0, 10**6),
    gamma=st.sampled_from([0.3, 2.0, 8.0]),
    alpha=st.sampled_from([0.05, 1.0]),
    consistency=st.sampled_from([0.0, 2.0, 5.0]),
)
def test_equal_to_the_loops(seed, gamma, alpha, consistency):
    units, concepts, indicator, vectors = problem(seed)
    expected = reference.embeddings(
        units.astype(float), concepts, vectors.astype(float), gamma, alpha, consistency,
        units.astype(float),
    )  # fmt: skip
    options = {"gamma": gamma, "alpha": alpha, "consistency": consistency}
    found = fitted(units, indicator, vectors, units, **options)
    assert_allclose(found, expected, atol=2e-4)


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6))
def test_estimated_consistency_equals_the_loops(seed):
    units, concepts, indicator, vectors = problem(seed)
    drawn = np.random.RandomState(0).permutation(indicator.indices)
    expected = reference.embeddings(
        units.astype(float), concepts, vectors.astype(float), 2.0, 0.7, None,
        units.astype(float), drawn,
    )  # fmt: skip
    found = fitted(units, indicator, vectors, units, consistency="auto")
    assert_allclose(found, expected, atol=2e-4)


@given(
    agreement=arrays(np.float64, st.integers(1, 30), elements=st.floats(-1, 1)),
    chance=arrays(np.float64, st.integers(1, 30), elements=st.floats(-1, 1)),
)
def test_wrong_share_equals_the_loops(agreement, chance):
    found = wrong_share(agreement, chance)
    assert 0 <= found <= 1
    assert found == pytest.approx(reference.wrong_share(agreement, chance))


def test_two_rows_by_hand():
    # Orthogonal rows, each with a tag of its own: targets are ±(1, -1)/2.
    units, vectors = np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32)
    indicator = sparse.csr_array(np.eye(2))
    assert_allclose(tag_targets(indicator, vectors), [[0.5, -0.5], [-0.5, 0.5]])
    found = fitted(units, indicator, vectors, units)
    assert_allclose(found, np.array([[1, -1], [-1, 1]]) / np.sqrt(2), atol=1e-6)
    assert_allclose(rbf_kernel(units, units, 2.0), [[1, np.exp(-2)], [np.exp(-2), 1]], rtol=1e-6)


def test_leaving_out_is_a_fit_without():
    units, _concepts, indicator, vectors = problem(3)
    wanted = tag_targets(indicator, vectors)
    kernel = rbf_kernel(units.astype(np.float64), units, 2.0)
    found = leave_one_out(kernel, wanted, 0.5)
    for i in (0, 7, 24):
        others = np.delete(np.arange(25), i)
        (expected,) = reference.ridge(units[others], wanted[others], 2.0, [0.5] * 24, [units[i]])
        assert_allclose(found[i], expected, atol=1e-5)


def test_landmarks_stand_in_for_all_rows():
    units, _, indicator, vectors = problem(1, n=60)
    exact = fitted(units, indicator, vectors, units)
    # With all rows but one as landmarks it is another regression for that row alone.
    near = fitted(units, indicator, vectors, units, max_landmarks=59)
    assert np.sort((exact * near).sum(axis=1))[5] > 0.97
    doubled = np.repeat(units, 2, axis=0)
    twice = sparse.csr_array(sparse.kron(indicator, np.ones((2, 1))))
    exact = fitted(doubled, twice, vectors, units)
    drawn = fitted(doubled, twice, vectors, units, max_landmarks=110)
    assert np.sort((exact * drawn).sum(axis=1))[5] > 0.97
    few = fitted(units, indicator, vectors, units, max_landmarks=1)
    assert np.isfinite(few).all()


def test_nystroem_is_ridge_regression_on_the_landmarks_kernel():
    units, _, indicator, vectors = problem(2, n=50)
    random = np.random.RandomState(0)
    landmarks, coefs, *_ = fit_regression(
        units, indicator, vectors, gamma=2.0, alpha=0.7, consistency=0.0, max_landmarks=12,
        random_state=random,
    )  # fmt: skip
    assert landmarks.shape == (12, 6)
    wide = landmarks.astype(np.float64)
    across, among = rbf_kernel(units.astype(np.float64), wide, 2.0), rbf_kernel(wide, wide, 2.0)
    wanted = tag_targets(indicator, vectors)
    # The gradient of |K c - t|² + alpha·cᵀ K c is zero there.
    gradient = across.T @ (across @ coefs - wanted) + 0.7 * among @ coefs
    assert np.abs(gradient).max() < 1e-3


def test_a_wrong_tag_counts_less():
    random = np.random.RandomState(0)
    centres = np.eye(3)
    truth = np.repeat(np.arange(3), 20)
    units = normalize_rows(centres[truth] + 0.1 * random.normal(size=(60, 3))).astype(np.float32)
    indicator = np.zeros((60, 3))
    indicator[np.arange(60), truth] = 1
    indicator[0, 1] = 1  # as well
    vectors = np.eye(3, dtype=np.float32)
    trusting = fitted(units, sparse.csr_array(indicator), vectors, units, consistency=0.0)
    doubting = fitted(units, sparse.csr_array(indicator), vectors, units, consistency=4.0)
    assert doubting[0] @ vectors[1] < trusting[0] @ vectors[1] - 0.02


def test_tags_are_doubted_the_more_of_them_are_wrong():
    doubts = []
    for wrong in (0.0, 0.2, 0.4):
        noisy = make_tagged_images(400, wrong=wrong, random_state=0)
        model = embedder(kernel_weight=1.0).fit(noisy.data, noisy.tags)
        doubts.append(model.kernel_["consistency"])
    assert doubts[0] < 1
    assert doubts[0] + 0.5 < doubts[1] < doubts[2] - 0.3
    random = np.random.RandomState(0)  # features that tell nothing of the tags
    model = embedder(kernel_weight=1.0).fit(random.normal(size=(400, 32)), noisy.tags)
    assert model.kernel_["consistency"] < 1


def test_rows_without_tags_take_no_part():
    units, _, indicator, vectors = problem(4)
    bare = sparse.csr_array(sparse.vstack([indicator, sparse.csr_array((5, 7))]))
    more = np.concatenate([units, normalize_rows(np.ones((5, 6))).astype(np.float32)])
    expected = fitted(units, indicator, vectors, units)
    assert_allclose(fitted(more, bare, vectors, units), expected, atol=1e-5)
    assert_array_equal(tag_targets(bare, vectors)[-5:], 0)


def test_one_row_equal_rows_and_equal_tags():
    vectors = np.eye(2, dtype=np.float32)
    one = sparse.csr_array(np.array([[1.0, 0.0]]))
    units = np.array([[0.6, 0.8]], dtype=np.float32)
    assert_allclose(fitted(units, one, vectors, units), [[1, 0]], atol=1e-6)
    same = sparse.csr_array(np.tile([[1.0, 0.0]], (9, 1)))
    assert_allclose(fitted(np.tile(units, (9, 1)), same, vectors, units), [[1, 0]], atol=1e-6)
    nothing = np.zeros((0, 2), dtype=np.float32)
    assert fitted(units, one, vectors, nothing).shape == (0, 2)
    flat = np.zeros((4, 2), dtype=np.float32)  # features that are all the same
    tags = sparse.csr_array(np.eye(2)[[0, 1, 0, 1]])
    assert np.isfinite(fitted(flat, tags, vectors, flat)).all()


# --- in the embedder ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made():
    return make_tagged_images(120, random_state=0)


def embedder(**parameters):
    parameters = {"hidden_layer_sizes": (16,), "max_iter": 3, "random_state": 0, **parameters}
    return HypersphereEmbedder(**parts_from_flat(parameters))


def test_the_embedding_is_the_weighted_mean_of_both(made):
    whole = embedder(kernel_weight=0.7).fit(made.data, made.tags)
    network = embedder(kernel_weight=0.0).fit(made.data, made.tags)
    kernel = embedder(kernel_weight=1.0).fit(made.data, made.tags)
    expected = 0.3 * network.transform(made.data) + 0.7 * kernel.transform(made.data)
    assert_allclose(whole.transform(made.data), normalize_rows(expected), atol=2e-5)
    assert network.kernel_ == {}
    assert kernel.n_iter_ == 0
    assert kernel.history_["loss"] == []


def test_the_regression_alone_trains_no_network(made):
    model = WSDHQuantizer(
        embedder(kernel_weight=1.0), n_codebooks=2, n_codewords=16, random_state=0
    ).fit(made.data, made.tags)
    assert model.score(made.data, made.tags, labels=made.target) > 0.8
    network = embedder(kernel_weight=0.0).fit(made.data, made.tags)
    with pytest.raises(ValueError, match="lower kernel_weight"):
        network.set_params(kernel_weight=1.0).partial_fit(made.data, made.tags)


def test_a_fit_again_learns_it_again(made):
    model = embedder(warm_start=True).fit(made.data, made.tags)
    model.fit(made.data[:60], made.tags[:60])
    assert len(model.kernel_["landmarks"]) == 60


def test_landmarks_are_drawn_by_the_random_state(made):
    first, again, other = (
        embedder(max_landmarks=30, random_state=seed).fit(made.data, made.tags)
        for seed in (0, 0, 1)
    )
    assert first.kernel_["landmarks"].shape == (30, made.data.shape[1])
    assert_array_equal(first.kernel_["landmarks"], again.kernel_["landmarks"])
    assert not np.array_equal(first.kernel_["landmarks"], other.kernel_["landmarks"])


def test_codes_learned_along_are_those_of_the_whole_embedding(made):
    model = WSDHQuantizer(
        embedder(max_iter=4), n_codebooks=1, n_codewords=8, codebook_iters=0, random_state=0
    ).fit(made.data, made.tags)
    rows = model.transform(made.data)
    error = ((rows - model.decode(model.codes_)) ** 2).sum(axis=1).mean()
    assert error < 0.5 * ((rows - rows.mean(axis=0)) ** 2).sum(axis=1).mean()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kernel_weight", 1.1), ("kernel_weight", -0.1), ("gamma", 0), ("alpha", 0),
        ("consistency", -1), ("consistency", "some"), ("max_landmarks", 0),
    ],
)  # fmt: skip
def test_bad_parameters(made, name, value):
    own = name == "kernel_weight"
    given = {name: value} if own else {"kernel": TagKernelRegressor(**{name: value})}
    with pytest.raises(ValueError, match=f"'{name}' parameter of"):
        embedder(**given).fit(made.data, made.tags)


def test_noise_of_tags_costs_less_with_it(made):
    random = np.random.RandomState(0)
    pool = [tag for row in made.tags for tag in row]
    noisy = [
        [tag if random.rand() > 0.3 else pool[random.randint(len(pool))] for tag in row]
        for row in made.tags
    ]
    enhancer = TagEnhancer().fit(noisy)
    indicator = sparse.csr_array(enhancer.transform(noisy))
    units = normalize_rows(made.data - made.data.mean(axis=0)).astype(np.float32)
    same = made.target[:, None] == made.target
    found = fitted(units, indicator, enhancer.concept_vectors_, units)
    by_tags = normalize_rows(tag_targets(indicator, enhancer.concept_vectors_))
    gap = [s[same].mean() - s[~same].mean() for s in (found @ found.T, by_tags @ by_tags.T)]
    assert gap[0] > gap[1]


# --- what words tell, and the ridge that tags speak for ----------------------------------------


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), specificity=st.sampled_from([0.5, 1.0, 2.0]))
def test_words_weigh_as_the_loops_say(seed, specificity):
    _, concepts, indicator, _ = problem(seed)
    expected = reference.word_weights(concepts, indicator.shape[1], specificity)
    assert_allclose(word_weights(indicator, specificity), expected, rtol=1e-4)


def test_a_word_that_stands_beside_any_other_weighs_less():
    """Of two words as frequent, one goes with two others, one with all."""
    rows = [[0, 2], [0, 3]] * 10 + [[1, c] for c in range(2, 12)] * 2
    indicator = np.zeros((len(rows), 12))
    for row, own in zip(indicator, rows, strict=True):
        row[own] = 1
    kind, sky, *_ = word_weights(sparse.csr_array(indicator), 0.5)
    assert kind > 1.02 * sky
    assert_array_equal(word_weights(sparse.csr_array(indicator), 0.0), np.ones(12))


def test_words_that_stand_alone_weigh_alike():
    assert_array_equal(word_weights(sparse.csr_array(np.eye(5)), 0.5), np.ones(5))


def test_alpha_is_the_root_of_the_likeliest_ridge():
    random = np.random.RandomState(0)
    units = normalize_rows(random.normal(size=(60, 5)))
    gram = rbf_kernel(units, units, 2.0)
    for noise, least, most in ((0.01, 0.5, 0.5), (1.0, 0.6, 1.6), (25.0, 2.0, 2.0)):
        drawn = random.multivariate_normal(np.zeros(60), gram + noise * np.eye(60), size=40).T
        likelihoods = [
            reference.evidence(gram, drawn, alpha) for alpha in np.geomspace(0.01, 10, 31)
        ]
        likeliest = np.geomspace(0.01, 10, 31)[int(np.argmax(likelihoods))]
        found = evident_alpha(gram, drawn)
        assert found == pytest.approx(np.clip(np.sqrt(likeliest), 0.5, 2))
        assert least <= found <= most


def test_noise_raises_alpha(made):
    random = np.random.RandomState(0)
    pool = [tag for row in made.tags for tag in row]
    noisy = [[pool[random.randint(len(pool))] for _ in row] for row in made.tags]
    clean, other = (embedder(kernel_weight=1).fit(made.data, t).kernel_ for t in (made.tags, noisy))
    assert 0.5 <= clean["alpha"] < other["alpha"] <= 2
    fixed = embedder(kernel=TagKernelRegressor(alpha=0.7, specificity=0)).fit(made.data, made.tags)
    assert fixed.kernel_["alpha"] == 0.7
    assert_array_equal(fixed.kernel_["word_weights"], 1)
