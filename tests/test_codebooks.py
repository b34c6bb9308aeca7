import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import codebooks as reference

from skwsdhq import codebooks
from skwsdhq.codebooks import _encode as _codebooks_encode
from skwsdhq.codebooks import _functions as _codebooks_functions


def problem(n=12, n_codebooks=3, n_codewords=4, n_dims=5, seed=0, dtype=np.float64):
    random = np.random.default_rng(seed)
    z = random.normal(size=(n, n_dims)).astype(dtype)
    c = random.normal(size=(n_codebooks, n_codewords, n_dims)).astype(dtype)
    return z, c


def some_metric(n_dims=5, seed=0, rank=9):
    v = np.random.default_rng(seed + 1).normal(size=(rank, n_dims))
    return v.T @ v


def sweep_orders(seed, n_codebooks, n_sweeps):
    random = np.random.RandomState(seed)
    return [random.permutation(n_codebooks) for _ in range(n_sweeps)]


def errors(z, codes, c, metric=None):
    rest = z - codebooks.decode(codes, c)
    return np.einsum("nd,nd->n", rest, rest if metric is None else rest @ metric)


@pytest.fixture(params=["tables", "residuals"])
def engine(request, monkeypatch):
    """Both ways to cost codewords, whatever the size of the problem."""
    monkeypatch.setattr(_codebooks_encode, "TABLE_SIZE", 0 if request.param == "residuals" else 1e9)
    monkeypatch.setattr(_codebooks_encode, "TABLE_PAYS", 0)
    return request.param


class TestEncode:
    def test_on_paper(self, engine):
        # 4.4 is 4 + 0 + rest .4; greedy takes 4, then 1 (rest −.6) or 0 (rest .4): 0.
        c = np.array([[[0.0], [4.0]], [[0.0], [1.0]]])
        assert codebooks.encode([[4.4], [4.6], [0.7]], c).tolist() == [[1, 0], [1, 1], [0, 1]]

    def test_sweeps_mend_a_greedy_choice(self, engine):
        # 5.4: greedy takes 6 and then 0 (error .36); the others' best for 6 is 0, for 0 is 6.
        # 3.4: greedy takes 2, then 0 (1.96); given 0, 2 stays. From (0, 3) nothing is better.
        c = np.array([[[2.0], [6.0]], [[0.0], [3.0]]])
        assert codebooks.encode([[5.4]], c, n_sweeps=0).tolist() == [[1, 0]]
        assert codebooks.encode([[5.4]], c, beam_size=2, n_sweeps=0).tolist() == [[0, 1]]
        # Warm start: (2 + 3) is right for 5.4, and from (6 + 3) a visit leads to it.
        assert codebooks.encode([[5.4]], c, codes=[[1, 1]], n_sweeps=0).tolist() == [[1, 1]]
        for seed in range(4):
            code = codebooks.encode([[5.4]], c, codes=[[1, 1]], random_state=seed)
            first = sweep_orders(seed, 2, 1)[0][0]
            assert code.tolist() == ([[0, 1]] if first == 0 else [[1, 0]])

    @pytest.mark.parametrize("metric", [None, some_metric()], ids=["euclid", "metric"])
    @pytest.mark.parametrize("beam_size", [None, 1, 2, 5, 100])
    @pytest.mark.parametrize("n_codebooks", [1, 2, 3])
    @pytest.mark.parametrize("n_sweeps", [0, 3])
    def test_equals_brute_force(self, engine, metric, beam_size, n_codebooks, n_sweeps):
        z, c = problem(n_codebooks=n_codebooks)
        orders = sweep_orders(7, n_codebooks, n_sweeps)
        expected = reference.encode(z, c, orders, metric, beam_size or 1)
        codes = codebooks.encode(
            z, c, metric=metric, n_sweeps=n_sweeps, beam_size=beam_size, random_state=7
        )
        assert codes.tolist() == expected.tolist()
        assert codes.dtype == np.uint8

    @pytest.mark.parametrize("metric", [None, some_metric()], ids=["euclid", "metric"])
    def test_warm_start_equals_brute_force(self, engine, metric):
        z, c = problem(n=20)
        start = np.random.default_rng(3).integers(4, size=(20, 3)).astype(np.uint8)
        before = start.copy()
        expected = reference.encode(z, c, sweep_orders(1, 3, 2), metric, codes=start)
        codes = codebooks.encode(
            z, c, metric=metric, codes=start, n_sweeps=2, random_state=1, beam_size=4
        )
        assert codes.tolist() == expected.tolist()
        assert (start == before).all()

    @pytest.mark.parametrize("metric", [None, some_metric()], ids=["euclid", "metric"])
    @pytest.mark.parametrize("beam_size", [None, 3])
    @pytest.mark.parametrize("prefix_weight", [0.25, 2.0])
    def test_weighted_prefixes_equal_brute_force(self, engine, metric, beam_size, prefix_weight):
        # Errors of all prefixes are one error of vectors side by side: that of prefix p is the row
        # against the codebooks before p.
        z, c = problem()
        weights = np.sqrt([prefix_weight, prefix_weight, 1.0])
        stacked = np.concatenate([w * z for w in weights], axis=1)
        first = np.arange(3)[:, None, None]  # (M, 1, 1) first prefix that includes a codebook
        words = np.concatenate([w * (first <= p) * c for p, w in enumerate(weights)], axis=2)
        wide = None if metric is None else np.kron(np.eye(3), metric)
        expected = reference.encode(stacked, words, sweep_orders(7, 3, 2), wide, beam_size or 1)
        codes = codebooks.encode(
            z,
            c,
            metric=metric,
            n_sweeps=2,
            beam_size=beam_size,
            prefix_weight=prefix_weight,
            random_state=7,
        )
        assert codes.tolist() == expected.tolist()

    @pytest.mark.parametrize("metric", [None, some_metric()], ids=["euclid", "metric"])
    @pytest.mark.parametrize("n_codebooks", [1, 2, 3])
    @pytest.mark.parametrize("length_weight", [0.5, 20.0])
    def test_wrong_lengths_equal_brute_force(self, engine, metric, n_codebooks, length_weight):
        z, c = problem(n_codebooks=n_codebooks)
        orders = sweep_orders(7, n_codebooks, 3)
        expected = reference.encode(z, c, orders, metric, 2, length_weight=length_weight)
        options = {"metric": metric, "beam_size": 2, "random_state": 7}
        codes = codebooks.encode(z, c, length_weight=length_weight, **options)
        assert codes.tolist() == expected.tolist()
        if n_codebooks > 1 and length_weight > 1:
            assert codes.tolist() != codebooks.encode(z, c, **options).tolist()

    @pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e6, 1e17, 1e30])
    def test_wrong_lengths_count_alike_at_every_scale(self, engine, scale):
        z, c = problem()
        z, c = z.astype(np.float32), c.astype(np.float32)
        expected = codebooks.encode(z, c, length_weight=2.0, random_state=0)
        z, c = (z * np.float32(scale)).astype("f4"), (c * np.float32(scale)).astype("f4")
        codes = codebooks.encode(z, c, length_weight=2.0, random_state=0)
        assert np.mean(codes == expected) > 0.95  # but for what rounds otherwise

    def test_lengths_of_far_codewords_and_of_no_length(self, engine):
        z, c = problem(n=20)
        far = 1e6 * np.ones(z.shape[1])
        codes = codebooks.encode(z + far, c + far / len(c), length_weight=2.0, random_state=0)
        assert codes.shape == (20, 3)
        zeros = codebooks.encode(0 * z[:2], c, length_weight=2.0, random_state=0)
        assert zeros[0].tolist() == zeros[1].tolist()
        nothing = codebooks.encode(0 * z[:2], 0 * c, length_weight=2.0, random_state=0)
        assert nothing.tolist() == [[0, 0, 0]] * 2

    def test_lowest_index_on_ties(self, engine):
        z = np.array([[1.0, 0.0], [0.0, 0.0]])
        c = np.array([[[0.0, 1.0], [1.0, 0.0], [0.0, -1.0], [1.0, 0.0]], [[0.0, 0.0]] * 4])
        for beam_size in (None, 3):
            assert codebooks.encode(z, c, beam_size=beam_size).tolist() == [[1, 0], [0, 0]]

    @given(st.integers(0, 10**6), st.booleans())
    @settings(max_examples=25, deadline=None)
    def test_sweeps_never_raise_the_error(self, seed, weighted):
        random = np.random.default_rng(seed)
        m, k = int(random.integers(1, 5)), int(random.integers(1, 9))
        z, c = problem(30, m, k, seed=seed)
        metric = some_metric(seed=seed) if weighted else None
        codes = random.integers(k, size=(30, m))
        for _ in range(3):
            before = errors(z, codes, c, metric)
            codes = codebooks.encode(
                z, c, metric=metric, codes=codes, n_sweeps=1, random_state=seed
            )
            assert (errors(z, codes, c, metric) <= before + 1e-9 * (1 + before)).all()

    @given(st.integers(0, 10**6))
    @settings(max_examples=15, deadline=None)
    def test_permuted_rows_and_codewords(self, seed):
        random = np.random.default_rng(seed)
        z, c = problem(20, 2, 6, seed=seed)
        codes = codebooks.encode(z, c, random_state=0)
        rows, words = random.permutation(20), random.permutation(6)
        assert (codebooks.encode(z[rows], c, random_state=0) == codes[rows]).all()
        renamed = codebooks.encode(z, c[:, words], random_state=0)
        assert (words[renamed] == codes).all()

    def test_a_wider_beam_is_better(self):
        z, c = problem(300, 4, 16, 8)
        means = [
            codebooks.quantization_error(z, codebooks.encode(z, c, beam_size=b, random_state=0), c)
            for b in (1, 4, 16)
        ]
        assert means[0] > means[1] > means[2]

    @pytest.mark.parametrize("beam_size", [None, 3])
    def test_chunks_change_nothing(self, engine, monkeypatch, beam_size):
        z, c = problem(150, 3, 7)
        codes = codebooks.encode(z, c, beam_size=beam_size, random_state=0)
        monkeypatch.setattr(_codebooks_encode, "CHUNK_SIZE", 1)
        small = codebooks.encode(z, c, beam_size=beam_size, random_state=0)
        assert (small == codes).all()

    def test_both_engines_agree(self, monkeypatch):
        z, c = problem(200, 4, 32, 16)
        metric = some_metric(16, rank=20)
        found = []
        for size in (0, 1e9):
            monkeypatch.setattr(_codebooks_encode, "TABLE_SIZE", size)
            found.append(codebooks.encode(z, c, metric=metric, beam_size=3, random_state=0))
        assert (found[0] == found[1]).all()

    def test_float32_and_float64(self):
        z, c = problem(500, 4, 16, 8, dtype=np.float32)
        codes = codebooks.encode(z, c, random_state=0)
        exact = codebooks.encode(z.astype(np.float64), c, random_state=0)
        assert (codes == exact).all(axis=1).mean() > 0.99

    @pytest.mark.parametrize(("n_codewords", "dtype"), [(256, np.uint8), (257, np.uint16)])
    def test_large_codebooks(self, n_codewords, dtype):
        _, c = problem(1, 2, n_codewords, 3)
        codes = codebooks.encode(c[1], c)
        assert codes.dtype == dtype
        last = codebooks.encode(c[:1, -1] * 1.0, c[:1])
        assert last.tolist() == [[n_codewords - 1]]

    def test_extreme_sizes(self):
        z, c = problem(3, 16, 2, 4)
        assert codebooks.encode(z, c).shape == (3, 16)
        z, c = problem(2, 2, 65536, 2, dtype=np.float32)
        codes = codebooks.encode(z, c, beam_size=2)
        assert codes.dtype == np.uint16
        assert codebooks.quantization_error(z, codes, c) < 0.01
        z, c = problem(4, 1, 1, 2)
        assert codebooks.encode(z, c).tolist() == [[0]] * 4

    def test_one_row_and_none(self, engine):
        z, c = problem()
        whole = codebooks.encode(z, c, random_state=0)
        one = codebooks.encode(z[3:4], c, random_state=0)
        assert (one == whole[3:4]).all()
        for options in ({}, {"beam_size": 3}, {"codes": np.zeros((0, 3), int)}):
            assert codebooks.encode(z[:0], c, **options).shape == (0, 3)

    def test_semidefinite_metric(self):
        z, c = problem()
        metric = some_metric(rank=2)
        codes = codebooks.encode(z, c, metric=metric, random_state=0)
        lifted = metric + 1e-9 * np.eye(5)
        assert (codes == codebooks.encode(z, c, metric=lifted, random_state=0)).all()

    def test_inputs_and_global_state_are_left_alone(self):
        z, c = problem(dtype=np.float32)
        copies = z.copy(), c.copy()
        state = np.random.mtrand._rand.get_state()[1].copy()
        codebooks.encode(z, c, beam_size=3, metric=some_metric(), random_state=0)
        codebooks.learn_codebooks(z, 2, 4, random_state=0)
        assert (z == copies[0]).all()
        assert (c == copies[1]).all()
        assert (np.random.mtrand._rand.get_state()[1] == state).all()

    def test_bad_inputs(self):
        z, c = problem()
        encode = codebooks.encode
        with pytest.raises(ValueError, match="codebooks have 4 dimensions"):
            encode(z, c[:, :, :4])
        with pytest.raises(ValueError, match=r"embeddings should have shape \(n, D\); got \(5,\)"):
            encode(z[0], c)
        with pytest.raises(
            ValueError, match=r"codebooks should have shape \(M, K, D\); got \(4, 5\)"
        ):
            encode(z, c[0])
        with pytest.raises(ValueError, match="should hold a codeword"):
            encode(z, c[:, :0])
        with pytest.raises(ValueError, match="n_codewords=65537 should be from 1 to 65536"):
            encode(np.zeros((1, 1)), np.zeros((1, 65537, 1)))
        with pytest.raises(TypeError, match="embeddings should be numbers; got dtype <U"):
            encode(z.astype(str), c)
        with pytest.raises(ValueError, match="NaN"):
            encode(np.where(z == z[0, 0], np.nan, z), c)
        with pytest.raises(ValueError, match="n_sweeps=-1"):
            encode(z, c, n_sweeps=-1)
        with pytest.raises(ValueError, match="beam_size=0"):
            encode(z, c, beam_size=0)
        with pytest.raises(TypeError, match=r"beam_size=2\.5"):
            encode(z, c, beam_size=2.5)
        with pytest.raises(ValueError, match="codes have 3 rows, should have 12"):
            encode(z, c, codes=np.zeros((3, 3), int))
        with pytest.raises(ValueError, match="codes should lie from 0 to 3, K=4 codewords; got 4"):
            encode(z, c, codes=np.full((12, 3), 4))
        with pytest.raises(ValueError, match="prefix_weight=-1 should be finite and >= 0"):
            encode(z, c, prefix_weight=-1)
        with pytest.raises(ValueError, match="length_weight=-1"):
            encode(z, c, length_weight=-1)
        with pytest.raises(ValueError, match="length_weight=nan"):
            encode(z, c, length_weight=np.nan)
        with pytest.raises(TypeError, match="length_weight='2' should be a number"):
            encode(z, c, length_weight="2")
        with pytest.raises(TypeError, match="prefix_weight=True should be a number"):
            encode(z, c, prefix_weight=True)
        with pytest.raises(TypeError, match="codes should be integers; got dtype float64"):
            encode(z, c, codes=np.zeros((12, 3)))
        with pytest.raises(ValueError, match=r"metric has shape \(4, 4\)"):
            encode(z, c, metric=np.eye(4))
        with pytest.raises(ValueError, match="transpose"):
            encode(z, c, metric=np.triu(np.ones((5, 5))))
        with pytest.raises(ValueError, match="eigenvalue -1"):
            encode(z, c, metric=np.diag([1.0, 1, 1, 1, -1]))
        with pytest.raises(ValueError, match="positive definite"):
            encode(z, c, metric=np.zeros((5, 5)))
        with pytest.raises(ValueError, match="NaN"):
            encode(z, c, metric=np.full((5, 5), np.nan))


class TestDecode:
    def test_equals_the_loops(self):
        _, c = problem()
        codes = np.random.default_rng(0).integers(4, size=(9, 3)).astype(np.uint8)
        np.testing.assert_allclose(codebooks.decode(codes, c), reference.decode(codes, c))
        assert codebooks.decode(codes[:0], c).shape == (0, 5)
        assert codebooks.decode(codes, c.astype(np.float32)).dtype == np.float32

    def test_error_equals_the_loops(self):
        z, c = problem()
        codes = np.random.default_rng(0).integers(4, size=(12, 3))
        for metric in (None, some_metric()):
            expected = reference.quantization_error(z, codes, c, metric)
            found = codebooks.quantization_error(z, codes, c, metric=metric)
            assert found == pytest.approx(expected)
        assert codebooks.quantization_error(z[:0], codes[:0], c) == 0

    def test_error_of_what_is_decoded_is_zero(self):
        _, c = problem()
        codes = np.random.default_rng(0).integers(4, size=(12, 3))
        assert codebooks.quantization_error(codebooks.decode(codes, c), codes, c) == 0

    def test_bad_inputs(self):
        _, c = problem()
        with pytest.raises(ValueError, match="codewords; got -1"):
            codebooks.decode([[0, 0, -1]], c)
        with pytest.raises(
            ValueError, match=r"codes should have shape \(n, M=3\), .* got \(\d+, 2\)"
        ):
            codebooks.decode([[0, 0]], c)
        with pytest.raises(ValueError, match=r"codes should have shape .* got \(3,\)"):
            codebooks.decode([0, 0, 0], c)


class TestUpdate:
    def test_on_paper(self):
        # One codebook: means. 2/(2 + 2) of the sum with a ridge of 2.
        z = np.array([[1.0], [3.0], [7.0]])
        codes = np.array([[0], [0], [2]])
        c = codebooks.update_codebooks(z, codes, 3, ridge=2.0)
        np.testing.assert_allclose(c, [[[1.0], [0.0], [7 / 3]]])

    @pytest.mark.parametrize("n_codebooks", [1, 2, 4])
    @pytest.mark.parametrize("ridge", [1e-3, 1.0])
    def test_equals_one_hot_and_inverse(self, n_codebooks, ridge):
        z, _ = problem(60)
        codes = np.random.default_rng(1).integers(4, size=(60, n_codebooks)).astype(np.uint8)
        expected = reference.update(z, codes, 5, ridge)
        c = codebooks.update_codebooks(z, codes, 5, ridge=ridge)
        np.testing.assert_allclose(c, expected, atol=1e-8)
        assert (c[:, 4] == 0).all()  # nobody's
        single = codebooks.update_codebooks(z.astype(np.float32), codes, 5, ridge=ridge)
        assert single.dtype == np.float32
        np.testing.assert_allclose(single, expected, atol=1e-4)

    @pytest.mark.parametrize("prefix_weight", [0.5, 3.0])
    def test_weighted_prefixes_equal_one_hot_and_inverse(self, prefix_weight):
        z, _ = problem(60)
        codes = np.random.default_rng(1).integers(4, size=(60, 3))
        one_hot = np.eye(4)[codes].reshape(60, 12)
        normal, right = 1e-3 * np.eye(12), np.zeros((12, 5))
        for p, weight in ((1, prefix_weight), (2, prefix_weight), (3, 1.0)):
            prefix = one_hot * (np.arange(12) < 4 * p)
            normal += weight * prefix.T @ prefix
            right += weight * prefix.T @ z
        expected = np.linalg.solve(normal, right).reshape(3, 4, 5)
        c = codebooks.update_codebooks(z, codes, 4, prefix_weight=prefix_weight)
        np.testing.assert_allclose(c, expected, atol=1e-8)

    def test_is_the_minimum(self):
        z, _ = problem(80)
        random = np.random.default_rng(1)
        codes = random.integers(4, size=(80, 3))
        c = codebooks.update_codebooks(z, codes, 4, ridge=1e-9)
        best = codebooks.quantization_error(z, codes, c)
        metric = some_metric()
        best_weighted = codebooks.quantization_error(z, codes, c, metric=metric)
        for _ in range(5):
            other = c + 0.01 * random.normal(size=c.shape)
            assert codebooks.quantization_error(z, codes, other) > best
            # The weight of the error cancels.
            assert codebooks.quantization_error(z, codes, other, metric=metric) > best_weighted

    def test_statistics_of_parts_add_up(self, monkeypatch):
        z, _ = problem(50)
        codes = np.random.default_rng(1).integers(4, size=(50, 3))
        counts, sums = codebooks.codebook_statistics(z, codes, 4)
        expected = reference.statistics(z, codes, 4)
        np.testing.assert_array_equal(counts, expected[0])
        np.testing.assert_allclose(sums, expected[1])
        parts = [
            codebooks.codebook_statistics(z[a:b], codes[a:b], 4) for a, b in ((0, 13), (13, 50))
        ]
        counts, sums = (sum(part) for part in zip(*parts, strict=True))
        np.testing.assert_allclose(
            codebooks.solve_codebooks(counts, sums, 3),
            codebooks.update_codebooks(z, codes, 4),
            atol=1e-9,
        )
        before = counts.copy()
        codebooks.solve_codebooks(counts, sums, 3)
        assert (counts == before).all()

    def test_no_rows(self):
        c = codebooks.update_codebooks(np.zeros((0, 3)), np.zeros((0, 2), int), 4)
        assert (c == np.zeros((2, 4, 3))).all()

    def test_many_rows_in_float32(self):
        z = np.full((9000, 1), 0.1, np.float32)
        c = codebooks.update_codebooks(z, np.zeros((9000, 1), np.uint8), 2, ridge=1e-9)
        assert c[0, 0, 0] == pytest.approx(0.1, rel=3e-5)

    def test_bad_inputs(self):
        z, _ = problem()
        codes = np.zeros((12, 2), int)
        with pytest.raises(ValueError, match="ridge=0 should be finite and > 0"):
            codebooks.update_codebooks(z, codes, 4, ridge=0)
        with pytest.raises(ValueError, match="codes should lie from 0 to 2, K=3 codewords; got 3"):
            codebooks.update_codebooks(z, codes + 3, 3)
        with pytest.raises(ValueError, match="codes have 12 rows, should have 5"):
            codebooks.update_codebooks(z[:5], codes, 3)
        with pytest.raises(ValueError, match="infinity"):
            codebooks.update_codebooks(z * np.inf, codes, 3)
        with pytest.raises(ValueError, match="n_codebooks = 3"):
            codebooks.solve_codebooks(np.eye(4), np.zeros((4, 2)), 3)
        z, _ = problem(3000)
        codes = np.random.default_rng(0).integers(4, size=(3000, 3))
        with pytest.raises(ValueError, match="ridge=1e-300 is too small"):
            codebooks.update_codebooks(z, codes, 4, ridge=1e-300)


class TestRefill:
    def test_on_paper(self):
        # Rows 0 and 9 are off by 1 and 2 from (7, with 4 in the second codebook: 11 and 1).
        z = np.array([[1.0], [2.0], [9.0], [11.0]])
        c = np.array([[[1.0], [7.0], [50.0]], [[0.0], [4.0], [60.0]]])
        codes = np.array([[0, 0], [0, 0], [1, 0], [1, 1]])
        filled = codebooks.refill_empty_codewords(z, c, codes, random_state=0)
        # Codebook 0: codeword 2 becomes that of row 2, 7 + 2. Codebook 1: row 1, 0 + 1.
        assert filled.tolist() == [[[1], [7], [9]], [[0], [4], [1]]]
        assert c[0, 2] == 50

    def test_lowers_the_error_and_leaves_the_rest(self):
        z, _ = problem(100)
        c = np.zeros((2, 8, 5))
        c[:, :3] = np.random.default_rng(0).normal(size=(2, 3, 5))
        c[:, 3:] = 100.0
        codes = codebooks.encode(z, c, random_state=0)
        used = [np.unique(codes[:, m]) for m in range(2)]
        filled = codebooks.refill_empty_codewords(z, c, codes, random_state=0)
        for m in range(2):
            assert (filled[m][used[m]] == c[m][used[m]]).all()
        before = codebooks.quantization_error(z, codes, c)
        better = codebooks.encode(z, filled, codes=codes, random_state=0)
        assert codebooks.quantization_error(z, better, filled) < before
        assert (filled < 50).all()

    def test_nothing_to_do(self):
        z, c = problem()
        codes = np.stack([np.arange(12) % 4] * 3, axis=1)
        assert (codebooks.refill_empty_codewords(z, c, codes) == c).all()
        assert (codebooks.refill_empty_codewords(z[:0], c, codes[:0]) == c).all()
        # Rows that are met already serve nothing, however few there are.
        z = np.ones((2, 5))
        c = np.stack([np.ones((1, 5)), np.full((1, 5), 7.0)], axis=1)
        assert (codebooks.refill_empty_codewords(z, c, np.zeros((2, 1), int)) == c).all()


class TestLearn:
    @pytest.mark.parametrize("method", ["residual", "subspace"])
    def test_init_quantizes(self, method):
        z, _ = problem(300, n_dims=6)
        c = codebooks.init_codebooks(z, 3, 8, method=method, random_state=0)
        assert c.shape == (3, 8, 6)
        assert c.dtype == np.float32
        codes = codebooks.encode(z, c, random_state=0)
        assert codebooks.quantization_error(z, codes, c) < 0.5 * (z**2).sum(axis=1).mean()

    def test_init_of_subspaces_keeps_to_them(self):
        z, _ = problem(50, n_dims=5)
        c = codebooks.init_codebooks(z, 2, 4, method="subspace", random_state=0)
        assert (c[0][:, 3:] == 0).all()
        assert (c[1][:, :3] == 0).all()
        assert (c[0][:, :3] != 0).all()

    def test_init_finds_separate_clusters(self):
        centers = np.array([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0]])
        z = np.repeat(centers, 3, axis=0)
        found = codebooks.init_codebooks(z, 1, 3, random_state=0)[0]
        assert sorted(found.tolist()) == sorted(centers.tolist())

    @pytest.mark.parametrize("method", ["residual", "subspace"])
    @pytest.mark.parametrize("n_codewords", [1, 4, 9])
    def test_few_distinct_rows(self, method, n_codewords):
        z = np.repeat([[1.0, 2.0], [3.0, 1.0]], 5, axis=0)
        for n_codebooks in (1, 2):
            options = {"method": method, "random_state": 0}
            c = codebooks.init_codebooks(z, n_codebooks, n_codewords, **options)
            assert np.isfinite(c).all()
            c, codes = codebooks.learn_codebooks(z, n_codebooks, n_codewords, **options)
            assert np.isfinite(c).all()
            if n_codewords > 1:
                assert codebooks.quantization_error(z, codes, c) < 1e-3

    def test_same_seed_same_result(self):
        z, _ = problem(100, dtype=np.float32)
        first = codebooks.learn_codebooks(z, 2, 8, random_state=3)
        again = codebooks.learn_codebooks(z, 2, 8, random_state=np.random.RandomState(3))
        other = codebooks.learn_codebooks(z, 2, 8, random_state=4)
        assert (first[0] == again[0]).all()
        assert (first[1] == again[1]).all()
        assert (first[0] != other[0]).any()

    @pytest.mark.parametrize("metric", [None, some_metric(8, rank=20), some_metric(8, rank=3)])
    def test_learning_lowers_the_error(self, metric):
        z, _ = problem(600, n_dims=8, dtype=np.float32)
        start = codebooks.init_codebooks(z, 3, 16, random_state=0)
        codes = codebooks.encode(z, start, metric=metric, random_state=0)
        before = codebooks.quantization_error(z, codes, start, metric=metric)
        c, codes = codebooks.learn_codebooks(z, 3, 16, metric=metric, random_state=0)
        assert c.dtype == np.float32
        assert c.shape == (3, 16, 8)
        assert codes.shape == (600, 3)
        assert codes.dtype == np.uint8
        after = codebooks.quantization_error(z, codes, c, metric=metric)
        assert after < 0.95 * before

    def test_weighted_prefixes_are_better_codes(self):
        z, _ = problem(600, n_dims=8, dtype=np.float32)
        found = []
        for prefix_weight in (0.0, 1.0):
            c, codes = codebooks.learn_codebooks(
                z, 3, 16, prefix_weight=prefix_weight, random_state=0
            )
            found.append([codebooks.quantization_error(z, codes[:, :p], c[:p]) for p in (1, 2, 3)])
        assert found[1][0] < 0.95 * found[0][0]
        assert found[1][1] < found[0][1]
        assert found[1][2] < 1.5 * found[0][2]

    def test_parts_of_many_rows_do_as_well(self, monkeypatch):
        z, _ = problem(1200, n_dims=8, dtype=np.float32)
        whole, _ = codebooks.learn_codebooks(z, 2, 16, random_state=0)
        monkeypatch.setattr(_codebooks_functions, "MIN_ROWS", 300)
        monkeypatch.setattr(_codebooks_functions, "ROWS_PER_CODEWORD", 10)
        c, codes = codebooks.learn_codebooks(z, 2, 16, random_state=0)
        assert codes.shape == (1200, 2)
        held, _ = problem(500, n_dims=8, seed=1, dtype=np.float32)
        errors_of = [
            codebooks.quantization_error(held, codebooks.encode(held, b, beam_size=8), b)
            for b in (whole, c)
        ]
        assert errors_of[0] != errors_of[1]
        assert errors_of[1] < 1.1 * errors_of[0]

    def test_finds_additive_structure(self):
        random = np.random.default_rng(0)
        truth = random.normal(size=(2, 4, 16))
        z = codebooks.decode(random.integers(4, size=(400, 2)), truth)
        c, codes = codebooks.learn_codebooks(z, 2, 4, random_state=0)
        assert codebooks.quantization_error(z, codes, c) < 0.2 * z.var(axis=0).sum()

    def test_bad_inputs(self):
        z, _ = problem(20)
        for function in (codebooks.init_codebooks, codebooks.learn_codebooks):
            with pytest.raises(
                ValueError, match=r"n_samples=20 should be >= n_codewords=256; lower n_codewords\."
            ):
                function(z, 1, 256)
            with pytest.raises(ValueError, match="n_codebooks=0"):
                function(z, 0, 4)
            with pytest.raises(TypeError, match="n_codewords='4'"):
                function(z, 1, "4")
            with pytest.raises(ValueError, match="method='none' should be one of"):
                function(z, 1, 4, method="none")
        with pytest.raises(ValueError, match=r"n_dims=5 should be >= n_codebooks=6"):
            codebooks.init_codebooks(z, 6, 4, method="subspace")
        with pytest.raises(ValueError, match="n_iter=-1"):
            codebooks.learn_codebooks(z, 1, 4, n_iter=-1)


def test_a_multiple_of_the_identity_is_no_metric():
    rows = np.random.RandomState(0).normal(size=(80, 6)).astype(np.float32)
    options = {"n_iter": 3, "random_state": 0}
    expected = codebooks.learn_codebooks(rows, 2, 8, **options)
    found = codebooks.learn_codebooks(rows, 2, 8, metric=3.7 * np.eye(6), **options)
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def rows():
    return np.random.RandomState(0).normal(size=(1500, 16)).astype(np.float32)


class TestWhereverRowsLie:
    """Codes and errors do not depend on what all rows have in common, nor on their unit."""

    @pytest.mark.parametrize("prefix_weight", [0.0, 0.1])
    def test_codebooks_hold_an_offset(self, rows, prefix_weight):
        options = {"prefix_weight": prefix_weight, "n_iter": 8, "random_state": 0}
        errors = []
        for offset in (0, 1, 3, 5, 100):
            moved = rows + np.float32(offset)
            books, codes = codebooks.learn_codebooks(moved, 3, 64, **options)
            errors.append(codebooks.quantization_error(moved, codes, books))
            first = codebooks.quantization_error(moved, codes[:, :1], books[:1])
            assert first < np.square(rows).sum(axis=1).mean()  # the first codewords hold it too
        assert errors == pytest.approx([errors[0]] * len(errors), rel=0.02)

    @pytest.mark.parametrize("method", ["residual", "subspace"])
    def test_first_codebooks_at_an_offset(self, rows, method):
        at_zero = codebooks.init_codebooks(rows, 2, 32, method=method, random_state=0)
        error = codebooks.quantization_error(
            rows, codebooks.encode(rows, at_zero, random_state=0), at_zero
        )
        moved = rows + np.float32(1e4)
        books = codebooks.init_codebooks(moved, 2, 32, method=method, random_state=0)
        found = codebooks.quantization_error(
            moved, codebooks.encode(moved, books, random_state=0), books
        )
        assert found == pytest.approx(error, rel=0.02)

    @pytest.mark.parametrize("beam_size", [None, 4])
    @pytest.mark.parametrize("prefix_weight", [0.0, 0.1])
    @pytest.mark.parametrize("n_rows", [3, 1500])
    @pytest.mark.parametrize("metric", [False, True])
    def test_codes_of_float32_are_those_of_float64(
        self, rows, beam_size, prefix_weight, n_rows, metric
    ):
        books, _ = codebooks.learn_codebooks(rows, 3, 64, n_iter=3, random_state=0)
        basis = np.random.RandomState(1).normal(size=(16, 16))
        options = {
            "beam_size": beam_size,
            "prefix_weight": prefix_weight,
            "metric": basis @ basis.T * 1e25 if metric else None,
            "random_state": 0,
        }
        for offset in (0, 1000):
            moved, at = rows[:n_rows] + np.float32(offset), books.copy()
            at[0] += np.float32(offset)
            exact = codebooks.encode(moved.astype(float), at.astype(float), **options)
            found = codebooks.encode(moved, at, **options)
            assert (found != exact).any(axis=1).mean() < 0.005

    @pytest.mark.parametrize("exponent", [-120, -60, 30, 67, 110])
    def test_codes_in_another_unit(self, rows, exponent):
        unit = np.float32(2.0**exponent)
        books, codes = codebooks.learn_codebooks(rows, 2, 32, n_iter=3, random_state=0)
        assert (
            codebooks.encode(rows * unit, books * unit, random_state=0)
            == codebooks.encode(rows, books, random_state=0)
        ).all()
        scaled, same = codebooks.learn_codebooks(rows * unit, 2, 32, n_iter=3, random_state=0)
        assert (same == codes).all()
        np.testing.assert_allclose(scaled / unit, books, rtol=1e-5, atol=1e-6)
        wide = 2.0**exponent
        error = codebooks.quantization_error(rows * wide, codes, books.astype(float) * wide)
        if abs(exponent) < 61:  # as squares of float32 are beyond its range
            assert codebooks.quantization_error(rows * unit, codes, scaled) == pytest.approx(error)
        assert np.isfinite(codebooks.quantization_error(rows * unit, codes, scaled))

    @pytest.mark.parametrize("exponent", [-900, 900])
    def test_codes_of_float64_in_another_unit(self, rows, exponent):
        wide, unit = rows.astype(float), 2.0**exponent
        books, _ = codebooks.learn_codebooks(wide, 2, 32, n_iter=3, random_state=0)
        books = books.astype(float)
        expected = codebooks.encode(wide, books, random_state=0)
        assert (codebooks.encode(wide * unit, books * unit, random_state=0) == expected).all()

    def test_one_huge_row_leaves_the_others_alone(self, rows):
        books, _ = codebooks.learn_codebooks(rows, 3, 64, n_iter=3, random_state=0)
        expected = codebooks.encode(rows, books, random_state=0)
        mixed = rows.copy()
        mixed[7] *= 1e25
        found = codebooks.encode(mixed, books, random_state=0)
        others = np.arange(len(rows)) != 7
        assert (found[others] != expected[others]).any(axis=1).mean() < 0.005
        wide = codebooks.encode(mixed.astype(float), books.astype(float), random_state=0)
        assert (found[7] == wide[7]).all()

    def test_small_whole_numbers_keep_their_ties(self):
        books = np.array([[[1.0], [0.0], [2.0]]])
        assert codebooks.encode(np.array([[0.5], [1.5]]), books).ravel().tolist() == [0, 0]

    def test_a_ridge_towards_the_mean(self):
        z = np.array([[100.0], [102.0], [104.0], [106.0]])
        codes = np.array([[0], [0], [1], [1]])
        statistics = codebooks.codebook_statistics(z, codes, 3)
        solved = codebooks.solve_codebooks(*statistics, 1, ridge=2.0, centre=True)
        # Means −2 and 2 around 103, halved by a ridge as large as the counts; no row has the third.
        np.testing.assert_allclose(solved.ravel(), [102, 104, 0], rtol=1e-12)

    @pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint64])
    def test_numpy_scalars_count_as_numbers(self, rows, kind):
        expected = codebooks.learn_codebooks(rows, 2, 64, n_iter=2, random_state=0)
        found = codebooks.learn_codebooks(
            rows, kind(2), kind(64), n_iter=kind(2), random_state=kind(0)
        )
        for a, b in zip(found, expected, strict=True):
            assert (a == b).all()
        _, codes = expected
        np.testing.assert_array_equal(
            codebooks.update_codebooks(rows, codes, kind(64)),
            codebooks.update_codebooks(rows, codes, 64),
        )
        np.testing.assert_array_equal(
            codebooks.init_codebooks(rows, kind(2), kind(64), random_state=0),
            codebooks.init_codebooks(rows, 2, 64, random_state=0),
        )
