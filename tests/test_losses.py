import math

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from reference import losses as reference

from skwsdhq import losses
from skwsdhq.losses import _hinge as _losses_hinge
from skwsdhq.losses import _memo as _losses_memo
from skwsdhq.losses import inputs

DTYPES = [torch.float64, torch.float32, torch.bfloat16]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2e-6}


def problem(n=7, n_concepts=9, n_dims=5, n_tags=3, seed=0, dtype=torch.float64):
    """Embeddings of any length, concept vectors, indicator with an untagged row."""
    random = np.random.default_rng(seed)
    z = random.normal(size=(n, n_dims)) * random.uniform(0.1, 10, size=(n, 1))
    concepts = random.normal(size=(n_concepts, n_dims))
    indicator = np.zeros((n, n_concepts), dtype=int)
    for row in indicator:
        row[random.choice(n_concepts, random.integers(1, n_tags + 1), replace=False)] = 1
    if n > 2:
        indicator[2] = 0
    return torch.tensor(z, dtype=dtype), torch.tensor(concepts, dtype=dtype), indicator


def positives(indicator):
    return [set(np.flatnonzero(row).tolist()) for row in indicator]


def directions(*degrees):
    angles = torch.tensor(degrees, dtype=torch.float64) * math.pi / 180
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def value_and_gradient(loss, z):
    z = z.clone().requires_grad_()
    value = loss(z)
    value.backward()
    return value.detach(), z.grad


class TestAdaptiveMargin:
    def test_on_a_circle(self):
        margin = losses.adaptive_margin(directions(0, 60, 90, 180), gamma=1.0)
        assert margin[0].tolist() == pytest.approx([0, 0.5, 1, 2])
        # 2^(1 − 2) · (1 − cos)²
        margin = losses.adaptive_margin(directions(0, 60, 90, 180), gamma=2.0)
        assert margin[0].tolist() == pytest.approx([0, 0.125, 0.5, 2])

    @pytest.mark.parametrize("gamma", [0, 0.5, 1.0, 2.0, 3.5])
    def test_equals_the_loops(self, gamma):
        _, concepts, _ = problem()
        expected = np.array(reference.adaptive_margin(concepts.tolist(), gamma))
        off = ~np.eye(len(expected), dtype=bool)
        margin = losses.adaptive_margin(concepts, gamma)
        np.testing.assert_allclose(margin.numpy()[off], expected[off], rtol=1e-12)
        margin = losses.adaptive_margin(concepts.numpy(), gamma)
        np.testing.assert_allclose(margin[off], expected[off], rtol=1e-12)
        assert (np.diag(margin) == (2 if gamma == 0 else 0)).all()

    def test_keeps_kind_dtype_and_input(self):
        _, concepts, _ = problem(dtype=torch.float32)
        before = concepts.clone()
        assert losses.adaptive_margin(concepts, 0.5).dtype == torch.float32
        assert losses.adaptive_margin(concepts.numpy()).dtype == np.float32
        assert isinstance(losses.adaptive_margin(concepts.numpy()), np.ndarray)
        assert losses.adaptive_margin([[1, 0], [0, 2]]).tolist() == [[0, 1], [1, 0]]
        assert torch.equal(concepts, before)

    def test_zero_vector_and_few_rows(self):
        margin = losses.adaptive_margin(np.array([[0.0, 0.0], [1.0, 0.0]]), gamma=1)
        assert margin.tolist() == [[1, 1], [1, 0]]
        assert losses.adaptive_margin(np.zeros((0, 3))).shape == (0, 0)
        assert losses.adaptive_margin(torch.zeros(0, 3)).shape == (0, 0)

    @pytest.mark.parametrize("gamma", [-1, math.nan, math.inf])
    def test_bad_gamma(self, gamma):
        with pytest.raises(ValueError, match="gamma="):
            losses.adaptive_margin(np.eye(2), gamma)

    def test_bad_kinds(self):
        with pytest.raises(TypeError, match="gamma='1'"):
            losses.adaptive_margin(np.eye(2), "1")
        with pytest.raises(ValueError, match="shape"):
            losses.adaptive_margin(np.ones(3))


class TestCosineMarginLoss:
    def test_on_a_circle(self):
        # Concepts at 0, 90 and 180 degrees, an image at 60 that carries the first:
        # cosines 1/2, √3/2 and −1/2; hinges 1 − 1/2 + √3/2 and 2 − 1/2 − 1/2.
        concepts = directions(0, 90, 180)
        loss = losses.cosine_margin_loss(3 * directions(60), concepts, [[1, 0, 0]])
        assert loss.item() == pytest.approx((0.5 + math.sqrt(3) / 2 + 1) / 2)
        # Turning the image by an angle changes the cosines by their sines.
        value, gradient = value_and_gradient(
            lambda z: losses.cosine_margin_loss(z, concepts, [[1, 0, 0]]), directions(60)
        )
        assert value == pytest.approx(loss.item())
        slope = (2 * math.sqrt(3) / 2 + 0.5 + math.sqrt(3) / 2) / 2
        tangent = torch.tensor([-math.sqrt(3) / 2, 0.5], dtype=torch.float64)
        np.testing.assert_allclose(gradient[0], slope * tangent, rtol=1e-12)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("gamma", [1.0, 0.5, 2.0, 0.0])
    @pytest.mark.parametrize("n_hard_negatives", [None, 1, 4, 50])
    def test_equals_the_loops(self, dtype, gamma, n_hard_negatives):
        z, concepts, indicator = problem(dtype=dtype)
        expected = reference.cosine_margin_loss(
            z.tolist(), concepts.tolist(), positives(indicator), gamma, n_hard_negatives
        )
        for _ in range(3):  # the second and third time margins are remembered
            loss = losses.cosine_margin_loss(
                z, concepts, indicator, gamma=gamma, n_hard_negatives=n_hard_negatives
            )
            assert loss.dtype == (torch.float32 if dtype == torch.bfloat16 else dtype)
            assert loss.item() == pytest.approx(expected, rel=10 * TOLERANCE[dtype])

    @pytest.mark.parametrize("gamma", [1.0, 0.5, 2.0])
    @pytest.mark.parametrize("n_hard_negatives", [None, 3])
    def test_gradient_in_float64(self, gamma, n_hard_negatives):
        z, concepts, indicator = problem(n=5)

        def loss(z):
            return losses.cosine_margin_loss(
                z, concepts, indicator, gamma=gamma, n_hard_negatives=n_hard_negatives
            )

        assert torch.autograd.gradcheck(loss, [z.requires_grad_()])

    def test_gradient_keeps_dtype_and_scale(self):
        z, concepts, indicator = problem(dtype=torch.float64)
        loss = lambda z: losses.cosine_margin_loss(z, concepts, indicator)  # noqa: E731
        _, exact = value_and_gradient(loss, z)
        _, scaled = value_and_gradient(lambda z: 3 * loss(z), z)
        np.testing.assert_allclose(scaled, 3 * exact)
        for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
            _, gradient = value_and_gradient(loss, z.to(dtype))
            assert gradient.dtype == dtype
            np.testing.assert_allclose(gradient.float(), exact, atol=tolerance * exact.abs().max())

    def test_no_gradient_wanted(self):
        z, concepts, indicator = problem()
        assert not losses.cosine_margin_loss(z, concepts, indicator).requires_grad
        with torch.no_grad():
            assert losses.cosine_margin_loss(z.requires_grad_(), concepts, indicator) > 0

    @pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
    def test_all_forms_of_an_indicator(self):
        z, concepts, indicator = problem()
        pairs = np.array(np.nonzero(indicator))
        shuffled = pairs[:, np.random.default_rng(1).permutation(pairs.shape[1])]
        csr = scipy.sparse.csr_array(indicator)
        with_zeros = scipy.sparse.csr_array(np.where(indicator, 1.0, 2.0))
        with_zeros.data[with_zeros.data == 2] = 0
        tensor = torch.tensor(indicator)
        forms = [
            indicator.astype(bool),
            indicator.tolist(),
            indicator.astype(np.float32),
            tensor,
            tensor.bool(),
            tensor.bfloat16(),
            csr,
            scipy.sparse.csr_matrix(indicator),
            scipy.sparse.coo_array(indicator),
            with_zeros,
            tensor.double().to_sparse(),
            tensor.double().to_sparse_csr(),
            pairs,
            pairs.astype(np.int32),
            shuffled,
            torch.tensor(shuffled),
            pairs.tolist(),
        ]
        expected = losses.cosine_margin_loss(z, concepts, indicator)
        for form in forms:
            assert losses.cosine_margin_loss(z, concepts, form) == expected, form

    def test_two_rows_are_read_as_a_matrix_where_they_can_be(self):
        z, concepts, _ = problem(n=2, n_concepts=4)
        matrix = [[1, 0, 0, 1], [0, 1, 0, 0]]
        loss = losses.cosine_margin_loss(z, concepts, matrix)
        assert loss == losses.cosine_margin_loss(z, concepts, [[0, 0, 1], [0, 3, 1]])
        as_pairs = losses.cosine_margin_loss(z, concepts, [[0, 0, 1, 1], [0, 3, 1, 2]])
        assert as_pairs == losses.cosine_margin_loss(z, concepts, [[1, 0, 0, 1], [0, 1, 1, 0]])

    @pytest.mark.parametrize(
        "rows", [[[0, 0, 0]], [[1, 1, 1]], [[0, 0, 0], [1, 1, 1]]], ids=["none", "all", "both"]
    )
    def test_no_valid_pairs(self, rows):
        concepts = directions(0, 40, 80)
        value, gradient = value_and_gradient(
            lambda z: losses.cosine_margin_loss(z, concepts, rows), directions(10, 20)[: len(rows)]
        )
        assert value == 0
        assert (gradient == 0).all()

    def test_no_rows(self):
        z = torch.zeros(0, 2, requires_grad=True)
        loss = losses.cosine_margin_loss(z, torch.eye(2), np.zeros((0, 2)))
        loss.backward()
        assert loss == 0
        assert z.grad.shape == (0, 2)
        empty = torch.zeros(2, 0, dtype=torch.long)
        assert losses.cosine_margin_loss(torch.ones(3, 2), torch.eye(2), empty) == 0

    def test_untagged_rows_take_no_part(self):
        z, concepts, indicator = problem()
        tagged = indicator.any(axis=1)
        value, gradient = value_and_gradient(
            lambda z: losses.cosine_margin_loss(z, concepts, indicator), z
        )
        alone = losses.cosine_margin_loss(z[tagged], concepts, indicator[tagged])
        assert value == pytest.approx(alone.item(), rel=1e-14)
        assert (gradient[~tagged] == 0).all()

    def test_row_of_zeros(self):
        z, concepts, indicator = problem()
        z[0] = 0
        value, gradient = value_and_gradient(
            lambda z: losses.cosine_margin_loss(z, concepts, indicator), z
        )
        expected = reference.cosine_margin_loss(z.tolist(), concepts.tolist(), positives(indicator))
        assert value == pytest.approx(expected)
        assert gradient.isfinite().all()

    @given(st.integers(0, 10**6))
    @settings(max_examples=20, deadline=None)
    def test_rotations_lengths_and_orders_change_nothing(self, seed):
        random = np.random.default_rng(seed)
        z, concepts, indicator = problem(seed=seed)
        value, gradient = value_and_gradient(
            lambda z: losses.cosine_margin_loss(z, concepts, indicator), z
        )
        rotation = torch.tensor(np.linalg.qr(random.normal(size=(5, 5)))[0])
        turned, turned_gradient = value_and_gradient(
            lambda z: losses.cosine_margin_loss(z, concepts @ rotation, indicator), z @ rotation
        )
        assert turned == pytest.approx(value.item(), rel=1e-9)
        np.testing.assert_allclose(turned_gradient, gradient @ rotation, atol=1e-9)
        longer = torch.tensor(random.uniform(0.1, 10, size=(len(concepts), 1)))
        loss = losses.cosine_margin_loss(2 * z, longer * concepts, indicator)
        assert loss == pytest.approx(value.item(), rel=1e-9)
        rows, columns = random.permutation(len(z)), random.permutation(len(concepts))
        loss = losses.cosine_margin_loss(z[rows], concepts[columns], indicator[rows][:, columns])
        assert loss == pytest.approx(value.item(), rel=1e-9)

    @pytest.mark.parametrize("n_hard_negatives", [None, 2, 100])
    @pytest.mark.parametrize("gamma", [1.0, 2.0])
    def test_small_chunks_and_blocks(self, monkeypatch, n_hard_negatives, gamma):
        z, concepts, indicator = problem(n=40, n_concepts=23, n_tags=9)
        options = {"gamma": gamma, "n_hard_negatives": n_hard_negatives}
        loss = lambda z: losses.cosine_margin_loss(z, concepts, indicator, **options)  # noqa: E731
        value, gradient = value_and_gradient(loss, z)
        monkeypatch.setattr(_losses_hinge, "CHUNK_SIZE", 23 * 7)
        monkeypatch.setattr(_losses_hinge, "BLOCK_SIZE", 23 * 3)
        monkeypatch.setattr(_losses_memo, "MARGIN_SIZE", 1)
        for _ in range(2):
            small, small_gradient = value_and_gradient(loss, z)
            assert small == pytest.approx(value.item(), rel=1e-12)
            np.testing.assert_allclose(small_gradient, gradient, atol=1e-14)

    @pytest.mark.parametrize("n_hard_negatives", [None, 2, 100])
    @pytest.mark.parametrize("margin", ["rows", "matrix", "number"])
    def test_both_kernels_agree(self, monkeypatch, n_hard_negatives, margin):
        z, concepts, indicator = problem(n=40, n_concepts=23, n_tags=9)
        monkeypatch.setattr(_losses_hinge, "CHUNK_SIZE", 23 * 11)
        z = torch.nn.functional.normalize(z)
        concepts = torch.nn.functional.normalize(concepts)
        pairs = _losses_hinge.sort_positives(*np.nonzero(indicator), len(z))
        margins = {"rows": 0.0, "matrix": losses.adaptive_margin(concepts, 2.0), "number": 0.3}
        gamma = 2.0 if margin == "rows" else None
        given = margins[margin]
        total, gradient = _losses_hinge.hinge_torch(
            z, concepts, pairs, given, n_hard_negatives, gamma, True
        )
        given = given.numpy() if isinstance(given, torch.Tensor) else given
        expected, expected_gradient = _losses_hinge.hinge_numpy(
            z.numpy(), concepts.numpy(), pairs, given, n_hard_negatives, gamma, True
        )
        assert total.item() == pytest.approx(expected, rel=1e-12)
        np.testing.assert_allclose(gradient, expected_gradient, atol=1e-10)

    def test_more_positives_than_a_byte_counts(self):
        random = np.random.default_rng(0)
        z = torch.tensor(random.normal(size=(2, 4)))
        concepts = torch.tensor(random.normal(size=(2100, 4)))
        indicator = np.zeros((2, 2100), int)
        indicator[0, :300] = 1
        indicator[1, 5] = 1
        x = torch.nn.functional.normalize(z).requires_grad_()
        v = torch.nn.functional.normalize(concepts)
        similarity = x @ v.T
        total = 0
        for n, own in enumerate(positives(indicator)):
            others = torch.tensor(indicator[n] == 0)
            for i in own:
                hinge = 1 - v[others] @ v[i] - similarity[n, i] + similarity[n, others]
                total = total + hinge.clamp(min=0).sum()
        total = total / (300 * 1800 + 2099)
        value, gradient = value_and_gradient(
            lambda z: losses.cosine_margin_loss(z, concepts, indicator), z
        )
        assert value == pytest.approx(total.item(), rel=1e-12)
        raw = torch.autograd.grad(total, x)[0]
        x, length = x.detach(), z.norm(dim=1, keepdim=True)
        np.testing.assert_allclose(
            gradient, (raw - x * (x * raw).sum(1, keepdim=True)) / length, atol=1e-12
        )

    def test_given_margin(self):
        z, concepts, indicator = problem()
        margin = losses.adaptive_margin(concepts, 2.0)
        expected = losses.cosine_margin_loss(z, concepts, indicator, gamma=2.0)
        for matrix in (margin, margin.numpy()):
            loss = losses.cosine_margin_loss(z, concepts, indicator, margin=matrix)
            assert loss == pytest.approx(expected.item(), rel=1e-12)

    def test_remembered_margins_follow_the_values(self):
        z, concepts, indicator = problem()
        for kind in (concepts, concepts.numpy().copy()):
            for gamma in (1.0, 1.0, 1.0, 2.0, 2.0, 1.0):
                loss = losses.cosine_margin_loss(z, kind, indicator, gamma=gamma)
                fresh = torch.as_tensor(kind).clone()
                expected = losses.cosine_margin_loss(z, fresh, indicator, gamma=gamma)
                assert loss == pytest.approx(expected.item(), rel=1e-12)
            kind[:] = kind + 1.0
            loss = losses.cosine_margin_loss(z, kind, indicator, gamma=2.0)
            fresh = torch.as_tensor(kind).clone()
            expected = losses.cosine_margin_loss(z, fresh, indicator, gamma=2.0)
            assert loss == pytest.approx(expected.item(), rel=1e-12)

    def test_margins_are_forgotten_with_their_vectors(self):
        z, concepts, indicator = problem()
        before = len(_losses_memo._prepared)
        for _ in range(3):
            losses.cosine_margin_loss(z, concepts, indicator)
        assert len(_losses_memo._prepared) == before + 1
        del concepts
        assert len(_losses_memo._prepared) == before

    def test_inputs_are_left_alone(self):
        z, concepts, indicator = problem()
        pairs = np.array(np.nonzero(indicator))
        copies = z.clone(), concepts.clone(), pairs.copy()
        for _ in range(2):
            value_and_gradient(lambda z: losses.cosine_margin_loss(z, concepts, pairs), z)
        assert torch.equal(z, copies[0])
        assert torch.equal(concepts, copies[1])
        assert (pairs == copies[2]).all()

    def test_second_derivative_is_refused(self):
        z, concepts, indicator = problem()
        z.requires_grad_()
        loss = losses.cosine_margin_loss(z, concepts, indicator)
        (gradient,) = torch.autograd.grad(loss, z, create_graph=True)
        with pytest.raises(RuntimeError, match="no second derivative"):
            gradient.square().sum().backward()

    def test_bad_inputs(self):
        z, concepts, indicator = problem()
        loss = losses.cosine_margin_loss
        with pytest.raises(TypeError, match="embeddings are float64"):
            loss(z.numpy(), concepts, indicator)
        with pytest.raises(TypeError, match=r"torch\.int64"):
            loss(z.long(), concepts, indicator)
        with pytest.raises(ValueError, match=r"shape \(5,\)"):
            loss(z[0], concepts, indicator)
        with pytest.raises(ValueError, match="3 dimensions"):
            loss(z, concepts[:, :3], indicator)
        with pytest.raises(ValueError, match=r"detach"):
            loss(z, concepts.clone().requires_grad_(), indicator)
        with pytest.raises(ValueError, match=r"indicator has shape \(7, 8\)"):
            loss(z, concepts, indicator[:, :8])
        with pytest.raises(ValueError, match=r"indicator has shape \(6, 9\)"):
            loss(z, concepts, scipy.sparse.csr_array(indicator[:6]))
        with pytest.raises(ValueError, match=r"concept 9, should lie in 0\.\.8"):
            loss(z, concepts, [[0, 1, 2], [0, 9, 1]])
        with pytest.raises(ValueError, match="row -1"):
            loss(z, concepts, [[0, -1, 2], [0, 8, 1]])
        with pytest.raises(ValueError, match=r"\(row 1, concept 8\) twice"):
            loss(z, concepts, [[0, 1, 1], [0, 8, 8]])
        with pytest.raises(ValueError, match="n_hard_negatives=0"):
            loss(z, concepts, indicator, n_hard_negatives=0)
        with pytest.raises(TypeError, match=r"n_hard_negatives=1\.5"):
            loss(z, concepts, indicator, n_hard_negatives=1.5)
        with pytest.raises(ValueError, match="gamma=-1"):
            loss(z, concepts, indicator, gamma=-1)
        with pytest.raises(ValueError, match=r"margin has shape \(2, 2\)"):
            loss(z, concepts, indicator, margin=np.eye(2))


class TestFixedMarginLoss:
    @pytest.mark.parametrize("n_hard_negatives", [None, 3])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_equals_the_loops(self, dtype, n_hard_negatives):
        z, concepts, indicator = problem(dtype=dtype)
        expected = reference.fixed_margin_loss(
            z.tolist(), concepts.tolist(), positives(indicator), 0.3, n_hard_negatives
        )
        loss = losses.fixed_margin_loss(
            z, concepts, indicator, margin=0.3, n_hard_negatives=n_hard_negatives
        )
        assert loss.item() == pytest.approx(expected, rel=10 * TOLERANCE[dtype])

    def test_gradient_in_float64(self):
        z, concepts, indicator = problem(n=4)
        loss = lambda z: losses.fixed_margin_loss(z, concepts, indicator, margin=0.5)  # noqa: E731
        assert torch.autograd.gradcheck(loss, [z.requires_grad_()])

    def test_bad_margin(self):
        with pytest.raises(ValueError, match="margin=-1"):
            losses.fixed_margin_loss(torch.eye(2), torch.eye(2), np.eye(2), margin=-1)


class TestQuantizationLoss:
    @pytest.mark.parametrize("n_concepts", [1, 3, 40])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_equals_the_loops(self, n_concepts, dtype):
        z, concepts, _ = problem(n=11, n_concepts=n_concepts, dtype=dtype, n_tags=1)
        r, _, _ = problem(n=11, seed=1, dtype=dtype)
        expected = reference.quantization_loss(z.tolist(), r.tolist(), concepts.tolist())
        loss = losses.quantization_loss(z, r, concepts)
        assert loss.item() == pytest.approx(expected, rel=10 * TOLERANCE[dtype])
        wide = concepts.double()
        metric = losses.quantization_loss(z, r, metric=wide.T @ wide)
        assert metric.item() == pytest.approx(expected, rel=10 * TOLERANCE[dtype])
        times = losses.quantization_loss(z, r, metric=np.float32(0.7))
        identity = losses.quantization_loss(z, r, metric=0.7 * torch.eye(z.shape[1]))
        assert times.item() == pytest.approx(identity.item(), rel=10 * TOLERANCE[dtype])
        assert losses.quantization_loss(z, r, concepts.double().numpy()) == pytest.approx(
            expected, rel=10 * TOLERANCE[dtype]
        )

    @pytest.mark.parametrize("n_concepts", [2, 40])
    def test_gradient_in_float64(self, n_concepts):
        z, concepts, _ = problem(n_concepts=n_concepts, n_tags=1)
        r, _, _ = problem(seed=1)
        inputs = [z.requires_grad_(), r.requires_grad_()]
        assert torch.autograd.gradcheck(
            lambda z, r: losses.quantization_loss(z, r, concepts), inputs
        )
        metric = concepts.T @ concepts
        assert torch.autograd.gradcheck(
            lambda z, r: losses.quantization_loss(z, r, metric=metric), inputs
        )
        assert torch.autograd.gradcheck(
            lambda z, r: losses.quantization_loss(z, r, metric=0.7), inputs
        )

    def test_none_lost_and_no_rows(self):
        z, concepts, _ = problem()
        assert losses.quantization_loss(z, z, concepts) == 0
        assert losses.quantization_loss(z[:0], z[:0], concepts) == 0

    def test_bad_inputs(self):
        z, concepts, _ = problem()
        with pytest.raises(ValueError, match="exactly one"):
            losses.quantization_loss(z, z)
        with pytest.raises(ValueError, match="exactly one"):
            losses.quantization_loss(z, z, concepts, metric=torch.eye(5))
        with pytest.raises(ValueError, match="reconstructions has shape"):
            losses.quantization_loss(z, z[:3], concepts)
        with pytest.raises(TypeError, match="reconstructions is a ndarray"):
            losses.quantization_loss(z, z.numpy(), concepts)
        with pytest.raises(ValueError, match="2 dimensions"):
            losses.quantization_loss(z, z, concepts[:, :2])
        with pytest.raises(ValueError, match="metric has shape"):
            losses.quantization_loss(z, z, metric=torch.eye(4))


class TestMeanTagLosses:
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_equal_the_loops(self, dtype):
        z, t, _ = problem(n=6, n_concepts=6, dtype=dtype)
        t[3] = 0
        expected = reference.mean_tag_hinge_loss(z.tolist(), t.tolist(), 0.4)
        loss = losses.mean_tag_hinge_loss(z, t, margin=0.4)
        assert loss.item() == pytest.approx(expected, rel=50 * TOLERANCE[dtype])
        expected = reference.contrastive_loss(z.tolist(), t.tolist(), 0.5)
        loss = losses.contrastive_loss(z, t, temperature=0.5)
        assert loss.item() == pytest.approx(expected, rel=50 * TOLERANCE[dtype])
        assert losses.contrastive_loss(z, t.double().numpy(), temperature=0.5) == pytest.approx(
            expected, rel=50 * TOLERANCE[dtype]
        )

    def test_on_a_circle(self):
        # Images at 0 and 90 degrees whose means are at 60 and 90: cosines 1/2, 0; √3/2, 1.
        z, t = directions(0, 90), directions(60, 90)
        hinge = (max(0, 0.8 - 0.5) + (0.8 - 1 + math.sqrt(3) / 2)) / 2
        assert losses.mean_tag_hinge_loss(z, t, margin=0.8).item() == pytest.approx(hinge)
        first = math.log(1 + math.exp(-0.5))
        second = math.log(1 + math.exp(math.sqrt(3) / 2 - 1))
        loss = losses.contrastive_loss(z, 5 * t, temperature=1.0)
        assert loss.item() == pytest.approx((first + second) / 2)

    @pytest.mark.parametrize("name", ["mean_tag_hinge_loss", "contrastive_loss"])
    def test_gradient_and_degenerate_cases(self, name):
        loss = getattr(losses, name)
        z, t, _ = problem(n=5, n_concepts=5)
        t[1] = 0
        assert torch.autograd.gradcheck(lambda z: loss(z, t), [z.requires_grad_()])
        for means in (t[:1], t[1:2], t[:0]):
            value, gradient = value_and_gradient(
                lambda z, means=means: loss(z, means), z[: len(means)].detach()
            )
            assert value == 0
            assert (gradient == 0).all()

    def test_bad_inputs(self):
        z, t, _ = problem(n=5, n_concepts=5)
        with pytest.raises(ValueError, match="tag_means has shape"):
            losses.mean_tag_hinge_loss(z, t[:3])
        with pytest.raises(ValueError, match=r"temperature=0 should be finite and > 0"):
            losses.contrastive_loss(z, t, temperature=0)
        with pytest.raises(ValueError, match="margin=-1"):
            losses.mean_tag_hinge_loss(z, t, margin=-1)


class TestBitLosses:
    def bits(self, n=6, dtype=torch.float64):
        random = np.random.default_rng(1)
        means = torch.tensor(random.normal(size=(n, 4)), dtype=dtype)
        return torch.tensor(random.uniform(size=(n, 5)), dtype=dtype), means

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_equal_the_loops(self, dtype):
        bits, means = self.bits(dtype=dtype)
        means[3] = 0
        expected = reference.tag_distance_loss(bits.tolist(), means.tolist())
        loss = losses.tag_distance_loss(bits, means)
        assert loss.item() == pytest.approx(expected, rel=50 * TOLERANCE[dtype])
        expected = reference.binarization_loss(bits.tolist())
        assert losses.binarization_loss(bits).item() == pytest.approx(
            expected, rel=50 * TOLERANCE[dtype]
        )

    def test_on_a_circle(self):
        # Tags at 0, 60, 180 degrees are 1/2, 2 and 3/2 apart; bits 1/2, 1 and 1/2 of them.
        bits = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        expected = (0 + (1 - 2) ** 2 + (1 / 2 - 3 / 2) ** 2) / 3
        loss = losses.tag_distance_loss(bits, 3 * directions(0, 60, 180))
        assert loss.item() == pytest.approx(expected)
        assert losses.binarization_loss(bits).item() == -0.25

    def test_gradients(self):
        bits, means = self.bits()
        means[1] = 0
        bits.requires_grad_()
        assert torch.autograd.gradcheck(lambda h: losses.tag_distance_loss(h, means), [bits])
        assert torch.autograd.gradcheck(losses.binarization_loss, [bits])

    @pytest.mark.parametrize("n", [0, 1])
    def test_no_pairs(self, n):
        bits, means = self.bits(n)
        value, gradient = value_and_gradient(lambda h: losses.tag_distance_loss(h, means), bits)
        assert value == 0
        assert (gradient == 0).all()

    def test_bad_inputs(self):
        bits, means = self.bits()
        with pytest.raises(ValueError, match="tag_means has 3 rows, should have the 6 of bits"):
            losses.tag_distance_loss(bits, means[:3])
        with pytest.raises(TypeError, match="should be a torch tensor"):
            losses.binarization_loss(bits.numpy())


# Every loss, of 8 embeddings of 48 dimensions, on the same 12 concepts or 8 tag means.
_RANDOM = torch.Generator().manual_seed(0)
_CONCEPTS = torch.randn(12, 48, generator=_RANDOM)
_METRIC = _CONCEPTS.T @ _CONCEPTS
_MEANS = torch.randn(8, 48, generator=_RANDOM)
_INDICATOR = (torch.rand(8, 12, generator=_RANDOM) < 0.2).int()
EVERY_LOSS = {
    "cosine_margin": lambda z: losses.cosine_margin_loss(z, _CONCEPTS, _INDICATOR, gamma=0.5),
    "fixed_margin": lambda z: losses.fixed_margin_loss(z, _CONCEPTS, _INDICATOR, margin=0.3),
    "quantization": lambda z: losses.quantization_loss(z, _MEANS, _CONCEPTS),
    "quantization, metric": lambda z: losses.quantization_loss(z, _MEANS, metric=_METRIC),
    "mean_tag_hinge": lambda z: losses.mean_tag_hinge_loss(z, _MEANS, margin=0.3),
    "contrastive": lambda z: losses.contrastive_loss(z, _MEANS),
    "tag_distance": lambda z: losses.tag_distance_loss(torch.sigmoid(z), _MEANS),
    "binarization": lambda z: losses.binarization_loss(torch.sigmoid(z)),
}


def every_embedding():
    return torch.randn(8, 48, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", EVERY_LOSS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_autocast_changes_no_loss(name, dtype):
    loss, z = EVERY_LOSS[name], every_embedding()
    expected = value_and_gradient(loss, z)
    with torch.autocast("cpu", dtype):
        assert torch.is_autocast_enabled("cpu")
        value, gradient = value_and_gradient(loss, z)
        assert torch.is_autocast_enabled("cpu")
    assert value.dtype == gradient.dtype == torch.float32
    torch.testing.assert_close(value, expected[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, expected[1], rtol=1e-4, atol=1e-6)


def test_an_autocast_changes_no_margin():
    expected = losses.adaptive_margin(_CONCEPTS, 0.5)
    with torch.autocast("cpu", torch.bfloat16):
        margin = losses.adaptive_margin(_CONCEPTS, 0.5)
    torch.testing.assert_close(margin, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "around", [lambda: torch.autocast("cpu", torch.bfloat16), torch.inference_mode, torch.no_grad]
)
def test_what_is_remembered_does_not_depend_on_where_it_was_made(around):
    _, concepts, indicator = problem(dtype=torch.float32)
    z, _, _ = problem(seed=1, dtype=torch.float32)
    expected = value_and_gradient(
        lambda rows: losses.cosine_margin_loss(rows, concepts.clone(), indicator, gamma=0.5), z
    )
    with around():
        for _ in range(3):  # the margins are remembered from the second time on
            losses.cosine_margin_loss(z, concepts, indicator, gamma=0.5)
    assert _losses_memo._prepared[id(concepts)].margin is not None
    found = value_and_gradient(
        lambda rows: losses.cosine_margin_loss(rows, concepts, indicator, gamma=0.5), z
    )
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", EVERY_LOSS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_of_zeros_and_nearly_zeros_get_a_bounded_gradient(name, dtype):
    z = every_embedding().to(dtype)
    z[3] = 0
    z[5] = 1e-320 if dtype == torch.float64 else 1e-42
    value, gradient = value_and_gradient(EVERY_LOSS[name], z)
    assert torch.isfinite(value)
    assert gradient.abs().max() < 1e2
    if name in ("cosine_margin", "fixed_margin", "mean_tag_hinge", "contrastive"):
        assert not gradient[[3, 5]].any()
        assert gradient[[0, 1, 2, 4, 6, 7]].any()


@pytest.mark.parametrize("name", ["cosine_margin", "fixed_margin", "mean_tag_hinge", "contrastive"])
def test_losses_of_directions_do_not_see_lengths(name):
    z = every_embedding()
    lengths = torch.tensor([1e-30, 1e-12, 1e-3, 1, 1e3, 1e12, 1e20, 1e30])[:, None]
    expected, _ = value_and_gradient(EVERY_LOSS[name], z)
    value, gradient = value_and_gradient(EVERY_LOSS[name], z * lengths)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", ["cosine_margin", "fixed_margin", "mean_tag_hinge", "contrastive"])
def test_nan_is_not_taken_for_a_row_of_zeros(name):
    z = every_embedding()
    z[2] = math.nan
    assert torch.isnan(EVERY_LOSS[name](z))


# --- directions --------------------------------------------------------------------------


def test_directions_have_first_and_second_derivatives():
    z = torch.randn((5, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = (z * torch.tensor([[1e-3], [1.0], [1.0], [30.0], [1.0]])).requires_grad_()
    unit = lambda z: inputs.directions_and_lengths(z)[0]  # noqa: E731
    assert torch.autograd.gradcheck(unit, [z])
    assert torch.autograd.gradgradcheck(unit, [z])


def test_rows_without_direction_have_no_gradient():
    z = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-42, 0.0], [3e20, 4e20]], requires_grad=True)
    unit, lengths = inputs.directions_and_lengths(z)
    assert_allclose(unit.detach(), [[0.6, 0.8], [0, 0], [0, 0], [0.6, 0.8]], rtol=1e-6)
    assert_allclose(lengths[:, 0], [5, np.inf, np.inf, 5e20], rtol=1e-6)
    assert not lengths.requires_grad
    unit[:, 0].sum().backward()
    # Across the row alone: (1 - 0.6², -0.6 · 0.8) / 5
    assert_allclose(z.grad[0], [0.128, -0.096], rtol=1e-5)
    assert_allclose(z.grad[1:3], np.zeros((2, 2)))
    assert_allclose(z.grad[3], [1.28e-21, -0.96e-21], rtol=1e-5)


def test_vectors_that_stay_need_no_comparison(monkeypatch):
    z, concepts, own = problem()
    kept = _losses_memo.keep_unchanged(concepts.clone())
    expected = [losses.cosine_margin_loss(z, concepts, own) for _ in range(3)]
    found = [losses.cosine_margin_loss(z, kept, own)]
    compared = []
    monkeypatch.setattr(torch, "equal", lambda *pair: compared.append(pair))
    found += [losses.cosine_margin_loss(z, kept, own) for _ in range(2)]
    assert not compared
    assert found == expected
    assert losses.cosine_margin_loss(z.float(), kept, own).dtype == torch.float32
