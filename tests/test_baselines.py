import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import baselines as reference
from sklearn.base import clone
from sklearn.cross_decomposition import CCA
from sklearn.utils import estimator_checks as checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from skwsdhq import TagEnhancer, metrics
from skwsdhq.baselines import CCAITQ, WDHTHasher, canonical_directions, itq_rotation
from skwsdhq.datasets import make_tagged_images

SMALL = [
    CCAITQ(n_bits=8, n_iter=5),
    WDHTHasher(n_bits=8, max_iter=3, hidden_layer_sizes=(16,)),
]


@pytest.fixture(scope="module")
def made():
    return make_tagged_images(160, wrong=0.2, random_state=0)


@pytest.mark.filterwarnings("ignore")  # the checks fit on tags and labels that warn
@parametrize_with_checks(SMALL)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("estimator", SMALL, ids=lambda estimator: type(estimator).__name__)
def test_more_scikit_learn_checks(estimator):
    name = type(estimator).__name__
    checks.check_param_validation(name, estimator)
    checks.check_transformer_get_feature_names_out(name, estimator)
    checks.check_set_output_transform_pandas(name, estimator)


class TestITQ:
    def test_a_square_turned_by_half_a_right_angle(self):
        # Corners at 0, 90, 180, 270 degrees: signs stand for them best at 45, 135, ...
        corners = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]) * 2**0.5
        turned = corners @ itq_rotation(corners, random_state=0)
        np.testing.assert_allclose(abs(turned), 1, atol=1e-6)

    @settings(max_examples=20)
    @given(st.integers(0, 1000), st.integers(1, 6))
    def test_each_turn_lowers_the_error_and_keeps_a_rotation(self, seed, n_bits):
        rows = np.random.default_rng(seed).normal(size=(15, n_bits))
        errors = []
        for n_iter in range(6):
            rotation = itq_rotation(rows, n_iter=n_iter, random_state=seed)
            np.testing.assert_allclose(rotation @ rotation.T, np.eye(n_bits), atol=1e-9)
            errors.append(reference.itq_error(rows.tolist(), rotation.tolist()))
        assert all(b <= a + 1e-9 for a, b in itertools.pairwise(errors))

    def test_no_rows_give_a_rotation(self):
        rotation = itq_rotation(np.zeros((0, 3)), random_state=0)
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)

    def test_bad_inputs(self):
        with pytest.raises(ValueError, match=r"shape \(3,\)"):
            itq_rotation(np.zeros(3))
        with pytest.raises(ValueError, match="n_iter=-1"):
            itq_rotation(np.zeros((2, 2)), n_iter=-1)


class TestCanonicalDirections:
    def two_views(self, n=200):
        random = np.random.default_rng(0)
        common = random.normal(size=(n, 2))
        rows = np.hstack([common @ random.normal(size=(2, 3)), random.normal(size=(n, 2))])
        rows += 0.3 * random.normal(size=rows.shape)
        views = common @ random.normal(size=(2, 4)) + 0.3 * random.normal(size=(n, 4))
        return rows - rows.mean(axis=0), views - views.mean(axis=0)

    def test_without_a_ridge_to_speak_of_it_is_scikit_learns(self):
        rows, views = self.two_views()
        ours = rows @ canonical_directions(rows, views, 2, ridge=1e-9)
        theirs = CCA(2, scale=False, max_iter=5000, tol=1e-12).fit(rows, views).transform(rows)
        for a, b in zip(ours.T, theirs.T, strict=True):
            assert abs(reference.correlation(a.tolist(), b.tolist())) == pytest.approx(1, abs=1e-4)

    def test_a_direction_is_as_long_as_its_correlation(self):
        rows, views = self.two_views()
        found = rows @ canonical_directions(rows, views, 2, ridge=1e-9)
        mirrored = views @ canonical_directions(views, rows, 2, ridge=1e-9)
        for a, b in zip(found.T, mirrored.T, strict=True):
            correlation = abs(reference.correlation(a.tolist(), b.tolist()))
            assert a.std() == pytest.approx(correlation, rel=1e-6)

    def test_there_are_at_most_as_many_as_dimensions(self):
        rows, views = self.two_views()
        assert canonical_directions(rows, views, 100).shape == (5, 4)

    def test_inputs_stay_and_lengths_have_to_fit(self):
        rows, views = self.two_views()
        kept = rows.copy()
        canonical_directions(rows, views, 1)
        np.testing.assert_array_equal(rows, kept)
        with pytest.raises(ValueError, match="200 samples and views 199"):
            canonical_directions(rows, views[1:], 1)
        with pytest.raises(ValueError, match="ridge=0"):
            canonical_directions(rows, views, 1, ridge=0)


@pytest.mark.parametrize("hasher", SMALL, ids=lambda estimator: type(estimator).__name__)
class TestHashers:
    def test_signs_rank_as_hamming_distances_do(self, hasher, made):
        fitted = clone(hasher).set_params(random_state=0).fit(made.data, made.tags)
        signs, codes = fitted.transform(made.data[:20]), fitted.encode(made.data[:20])
        assert set(np.unique(signs)) <= {-1.0, 1.0}
        assert codes.shape == (20, 1)
        assert codes.dtype == np.uint8
        bits = np.unpackbits(codes, axis=1)
        for a, sign_a in zip(bits, signs, strict=True):
            for b, sign_b in zip(bits, signs, strict=True):
                assert sign_a @ sign_b == 8 - 2 * reference.hamming(a, b)

    def test_codes_are_repeatable_and_of_one_row_alone(self, hasher, made):
        fitted = clone(hasher).set_params(random_state=1).fit(made.data, made.tags)
        again = clone(fitted).fit(made.data, made.tags)
        np.testing.assert_array_equal(fitted.encode(made.data), again.encode(made.data))
        np.testing.assert_array_equal(fitted.encode(made.data[3:4]), fitted.encode(made.data)[3:4])

    def test_global_random_state_stays(self, hasher, made):
        before = np.random.get_state()[1].copy()  # noqa: NPY002
        clone(hasher).set_params(random_state=0).fit(made.data, made.tags)
        np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002

    def test_bits_need_not_fill_bytes(self, hasher, made):
        fitted = clone(hasher).set_params(n_bits=11, random_state=0).fit(made.data, made.tags)
        assert fitted.transform(made.data).shape == (160, 11)
        assert fitted.encode(made.data).shape == (160, 2)

    def test_rows_without_tags_take_no_part(self, hasher, made):
        rows = [list(tags) for tags in made.tags]
        rows[5] = []
        fitted = clone(hasher).set_params(random_state=0).fit(made.data, rows)
        assert np.isfinite(fitted.transform(made.data)).all()
        with pytest.raises(ValueError, match=r"there should be at least one|nothing to learn"):
            clone(hasher).fit(made.data, [[] for _ in rows])

    def test_no_tags_at_all(self, hasher, made):
        with pytest.raises(ValueError, match="requires y to be passed, but the target y is None"):
            clone(hasher).fit(made.data)


@pytest.mark.parametrize(
    "hasher",
    [CCAITQ(n_bits=16), WDHTHasher(n_bits=16, hidden_layer_sizes=(64,))],
    ids=lambda estimator: type(estimator).__name__,
)
def test_hashers_learn_what_tags_say(hasher, made):
    # A view of noise along which neighbours mean nothing, until tags tell.
    random = np.random.default_rng(0)
    X = np.hstack([made.data, 2 * random.normal(size=(160, 40))])
    hasher = clone(hasher).set_params(random_state=0, tag_enhancer=TagEnhancer(made.word_vectors))
    hasher.fit(X[:120], made.tags[:120])
    labels = made.target[120:], made.target[:120]
    learned = metrics.mean_average_precision(
        hasher.transform(X[120:]), hasher.transform(X[:120]), *labels
    )
    plain = metrics.mean_average_precision(X[120:], X[:120], *labels)
    assert learned > plain + 0.1
