"""Steps in bfloat16: where they are taken, how near they are, and what stays the same."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from skwsdhq import HypersphereEmbedder, WSDHQuantizer, load
from skwsdhq.datasets import make_tagged_images
from skwsdhq.embedding import AdamSchedule, FineTuning
from skwsdhq.embedding._training import head_dtype
from skwsdhq.training import linear
from skwsdhq.training.fixed import FixedInputs
from skwsdhq.training.network import build_network
from skwsdhq.utils import together as _together
from skwsdhq.utils.threads import one_openmp_thread
from skwsdhq.utils.together import sharing

ROUNDING = 2.0**-9  # of a number in bfloat16, of its size


@pytest.fixture(scope="module")
def made():
    return make_tagged_images(120, random_state=0)


@pytest.fixture
def with_units(monkeypatch):
    """Have the processor say that it has units for bfloat16, or that it has none."""
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)

    def say(has_units):
        told = {"amx_bf16": has_units, "avx512_bf16": True}
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: told, raising=False)

    say(True)
    return say


def embedder(dtype="auto", **parameters):
    defaults = {"hidden_layer_sizes": (32,), "max_iter": 3, "random_state": 0, "batch_size": 32}
    schedule = AdamSchedule(dtype=dtype)
    return HypersphereEmbedder(optimizer=schedule, **{**defaults, **parameters})


# --- one layer ------------------------------------------------------------------------------


def run(is_short):
    """What a layer gives, its gradients, and what all of these are made of."""
    random = np.random.RandomState(0)
    draw = lambda *shape: torch.from_numpy(random.standard_normal(shape).astype("f"))  # noqa: E731
    layer = linear.DividedLinear(50, 37)
    layer.is_short = is_short
    x, pull = draw(33, 50), draw(33, 37)
    with torch.no_grad():
        layer.weight.copy_(draw(37, 50))
        layer.bias.copy_(draw(37))
    x.requires_grad_()
    out = layer(x)
    (out * pull).sum().backward()
    found = [out.detach(), layer.weight.grad, x.grad, layer.bias.grad]
    return found, [x.detach(), layer.weight.detach(), layer.bias.detach(), pull]


@pytest.mark.parametrize("pays", [0, 1 << 25])
def test_a_short_layer_is_a_layer_to_some_digits(monkeypatch, pays):
    monkeypatch.setattr(linear, "_PAYS", pays)  # in parts, or as a whole
    found, (x, weight, bias, pull) = run(is_short=True)
    pairs = (x, weight.T), (pull.T, x), (pull, weight)
    for one, (a, b), added in zip(found, pairs, (bias, 0, 0), strict=False):
        assert one.dtype == torch.float32
        exact = a.double() @ b.double() + added
        size = a.abs().double() @ b.abs().double()
        error = (one.double() - exact).abs()
        assert (error <= 3.1 * ROUNDING * size).all()
        assert error.max() > 1e-4  # float32 is nearer
    assert_allclose(found[3], pull.sum(dim=0), rtol=1e-5)


def test_a_short_layer_is_the_same_with_all_threads(monkeypatch):
    monkeypatch.setattr(linear, "_PAYS", 0)
    with one_openmp_thread("torch"):
        expected, _ = run(is_short=True)
    for n_threads in (1, 2, 5):
        monkeypatch.setattr(_together, "n_free_threads", lambda n=n_threads: n)
        with sharing(), one_openmp_thread("torch"):
            found, _ = run(is_short=True)
        for one, other in zip(found, expected, strict=True):
            assert_array_equal(one, other)


def test_a_short_layer_is_short_while_it_trains_alone():
    layer = linear.DividedLinear(50, 37)
    x = torch.from_numpy(np.random.RandomState(0).standard_normal((33, 50)).astype("f"))
    exact = layer(x)
    layer.is_short = True
    assert not torch.equal(layer(x), exact)
    assert torch.equal(layer.eval()(x), exact)


def test_products_of_arrays(monkeypatch):
    random = np.random.RandomState(0)
    a, b = (random.standard_normal(s).astype("f") for s in ((20, 30), (30, 10)))
    a.flags.writeable = False
    out = np.empty((20, 10), np.float32)
    assert linear.short_product(a, b, out=out) is out
    assert_array_equal(linear.short_product(a, b), out)
    assert (np.abs(out - a @ b) <= 3.1 * ROUNDING * (np.abs(a) @ np.abs(b))).all()
    assert linear.short_product(a[:0], b).shape == (0, 10)


# --- where it is chosen -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "n_rows", "batch_size", "chosen"),
    [
        ("auto", 10_000, 256, [True, False]),  # the last layer is small
        ("auto", 9_999, 256, [False, False]),
        ("auto", 10_000, 16, [False, False]),
        ("auto", 10_000, 32_768, [True, True]),
        ("bfloat16", 10, 2, [True, True]),
        ("float32", 10**6, 32_768, [False, False]),
    ],
)
def test_auto_is_for_large_products_and_many_rows(with_units, dtype, n_rows, batch_size, chosen):
    layers = linear.DividedLinear(256, 512), torch.nn.ReLU(), linear.DividedLinear(512, 2)
    for is_other in (False, True):
        for layer in layers[::2]:
            layer.is_short = is_other  # of an earlier lesson
        linear.choose_products(layers, dtype, n_rows, batch_size)
        assert [layer.is_short for layer in layers[::2]] == chosen


@pytest.mark.parametrize("name", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
@pytest.mark.parametrize(
    ("asked", "is_used"),
    [("AVX2", False), ("avx512_core_bf16", False), ("AVX512_CORE_AMX", True), ("default", True)],
)
def test_units_that_are_not_to_be_used(with_units, monkeypatch, name, asked, is_used):
    cpu = torch.device("cpu")
    assert linear.has_matrix_units(cpu)
    monkeypatch.setenv(name, asked)
    assert linear.has_matrix_units(cpu) == is_used


def test_units_that_are_not_there(with_units, monkeypatch):
    cpu = torch.device("cpu")
    assert not linear.has_matrix_units(torch.device("cuda"))
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not linear.has_matrix_units(cpu)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    with_units(False)
    assert not linear.has_matrix_units(cpu)
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # as before torch 2.10
    assert not linear.has_matrix_units(cpu)


# --- a fit ------------------------------------------------------------------------------------


def test_a_fit_chooses_by_its_rows_and_the_processor(with_units, monkeypatch, made):
    monkeypatch.setattr(linear, "_PAYS", 0)  # for all: last bits of a product may follow its parts
    fit = lambda dtype: embedder(dtype).fit(made.data, made.tags).coefs_  # noqa: E731
    exact, short = fit("float32"), fit("bfloat16")
    assert_array_equal(fit("auto")[0], exact[0])  # too few rows
    monkeypatch.setattr(linear, "_MANY_ROWS", len(made.data))
    assert_array_equal(fit("auto")[0], short[0])
    assert not np.array_equal(exact[0], short[0])
    with_units(False)
    assert_array_equal(fit("auto")[0], exact[0])


@pytest.mark.parametrize(
    ("asked", "of_backbone", "chosen"),
    [
        ("auto", None, "auto"),
        ("auto", "auto", "auto"),
        ("auto", "float32", "float32"),
        ("auto", "bfloat16", "auto"),
        ("bfloat16", "float32", "bfloat16"),
        ("float32", "bfloat16", "float32"),
    ],
)
def test_layers_on_a_backbone_in_float32_are_in_it_too(asked, of_backbone, chosen):
    tuning = None if of_backbone is None else FineTuning("last", dtype=of_backbone)
    assert head_dtype(AdamSchedule(dtype=asked), tuning) == chosen


@pytest.mark.parametrize("pays", [0, 1 << 25])
def test_a_short_fit_is_the_same_with_all_threads(monkeypatch, made, pays):
    monkeypatch.setattr(linear, "_PAYS", pays)
    fits = []
    for n_threads in (1, 2, 5):
        monkeypatch.setattr(_together, "n_free_threads", lambda n=n_threads: n)
        model = WSDHQuantizer(embedder("bfloat16"), n_codewords=16, random_state=0)
        fits.append(model.fit(made.data, made.tags))
    for model in fits[1:]:
        assert_array_equal(model.codes_, fits[0].codes_)
        assert_array_equal(model.embedder_.coefs_[0], fits[0].embedder_.coefs_[0])
        assert model.history_ == fits[0].history_


def test_a_short_fit_is_near_the_other(made):
    given = {"kernel_weight": 0.0, "max_iter": 10}
    exact, short = (embedder(d, **given).fit(made.data, made.tags) for d in ("float32", "bfloat16"))
    cosines = (exact.transform(made.data) * short.transform(made.data)).sum(axis=1)
    assert cosines.min() > 0.98
    losses = [model.history_["loss"] for model in (exact, short)]
    assert_allclose(losses[1], losses[0], rtol=0.01)
    assert all(weights.dtype == np.float32 for weights in short.coefs_)


def test_outputs_on_the_way_are_as_short_as_steps():
    head = build_network((12, 16, 5), 0.5, torch.Generator().manual_seed(0))
    rows = np.random.RandomState(0).standard_normal((40, 12)).astype("f")
    model = FixedInputs(head.eval(), rows, torch.device("cpu"))
    exact = model.outputs()
    assert_allclose(exact, head(torch.from_numpy(rows)).detach(), atol=1e-6)
    assert_array_equal(model.rough_outputs(), exact)
    linear.choose_products(head, "bfloat16", 1, 1)
    assert_array_equal(model.outputs(), exact)
    rough = model.rough_outputs()
    assert not np.array_equal(rough, exact)
    assert_allclose(rough, exact, atol=0.02)


def test_the_dtype_is_checked_and_comes_back(made, tmp_path):
    with pytest.raises(ValueError, match="'dtype' parameter of AdamSchedule"):
        embedder("float16").fit(made.data, made.tags)
    fitted = embedder("bfloat16").fit(made.data, made.tags)
    fitted.save(tmp_path / "model")
    found = load(tmp_path / "model")
    assert found.optimizer.dtype == "bfloat16"
    assert_array_equal(found.coefs_[0], fitted.coefs_[0])
