"""A network that learns along with the head."""

import copy
import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn

from skwsdhq import HypersphereEmbedder, WSDHQuantizer, load
from skwsdhq.backbones import Backbone
from skwsdhq.datasets import load_emoji
from skwsdhq.embedding import FineTuning
from skwsdhq.embedding._upgrade import parts_from_flat
from skwsdhq.training import trunk as _training_trunk
from skwsdhq.training.network import build_network
from skwsdhq.training.optimizer import Steps, parameter_groups
from skwsdhq.training.scaling import Scaling
from skwsdhq.training.trunk import FineTuned, load_trunk_state


@pytest.fixture(scope="module")
def emoji():
    data = load_emoji()
    return data.images[:120], data.tags[:120]


def backbone(dropout=0.1, size=32):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Conv2d(8, 12, 3, 2, 1),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        with torch.no_grad():
            module[4].running_mean.uniform_(-1, 1)
    return Backbone(module, size=size)


def embedder(**parameters):
    defaults = {
        "backbone": backbone(),
        "finetune": "all",
        "max_iter": 3,
        "head_iter": 2,
        "hidden_layer_sizes": (16,),
        "batch_size": 50,
        "learning_rate": 0.01,
        "dtype": "float32",
        "random_state": 0,
    }
    return HypersphereEmbedder(**parts_from_flat({**defaults, **parameters}))


def test_the_last_layers_hold_a_quarter_of_the_parameters():
    # 3·3·3·8 + 8 = 224, 8·3·3·12 + 12 = 876 and 24 parameters: the last two are 24 and 900 of 1124
    names = _training_trunk.trainable_layers(backbone().module, "last")
    assert names == ["3.weight", "3.bias", "4.weight", "4.bias"]
    every = [name for name, _ in backbone().module.named_parameters()]
    assert _training_trunk.trainable_layers(backbone().module, "all") == every
    block = nn.Module()
    block.inner = nn.Linear(4, 4)  # a block of its own counts as one layer
    net = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), block))
    assert _training_trunk.trainable_layers(net, "last") == ["1.1.inner.weight", "1.1.inner.bias"]


@pytest.mark.parametrize("finetune", ["last", "all"])
def test_what_learns_and_what_stays(emoji, finetune):
    network = backbone()
    before = copy.deepcopy(network.module.state_dict())
    model = embedder(backbone=network, finetune=finetune).fit(*emoji)
    for name, tensor in network.module.state_dict().items():  # the caller's is left alone
        assert torch.equal(tensor, before[name])
    assert set(model.backbone_state_) == set(
        _training_trunk.trainable_layers(network.module, finetune)
    )
    for name, array in model.backbone_state_.items():
        assert array.dtype == np.float32
        assert np.abs(array - before[name].numpy()).max() > 1e-4
    assert model.n_iter_ == len(model.history_["loss"]) == 5
    # Each stage starts at the full rate.
    assert model.history_["learning_rate"][0] == model.history_["learning_rate"][2] == 0.01
    frozen = embedder(finetune="head", max_iter=2).fit(*emoji)
    assert_allclose(model.history_["loss"][0], frozen.history_["loss"][0])
    assert np.abs(model.transform(emoji[0]) - frozen.transform(emoji[0])).max() > 0.01
    assert frozen.backbone_state_ == {}


def test_the_network_learns_what_the_head_can_not():
    tags = [["red"] if k % 2 else ["green"] for k in range(120)]
    images = np.full((120, 32, 32, 3), 60, dtype=np.uint8)
    noise = np.random.RandomState(0).randint(0, 40, images.shape).astype(np.uint8)
    images += noise
    images[1::2, :, :, 0] += 80  # red ones, in a network that knows no red
    network = backbone(dropout=0.0)
    with torch.no_grad():
        network.module[0].weight[:, 0] = 0
    options = {
        "backbone": network,
        "max_iter": 20,
        "augment": False,
        "backbone_factor": 1.0,
        "learning_rate": 0.03,
        "dropout": 0.0,
    }
    tuned = embedder(**options, head_iter=5).fit(images, tags)
    frozen = embedder(**options, finetune="head").fit(images, tags)
    assert frozen.history_["loss"][-1] > 0.1
    assert tuned.history_["loss"][-1] < 0.2 * frozen.history_["loss"][-1]


def test_chunks_give_the_gradient_of_the_whole_batch(emoji):
    """With dropout in the network and in the head, and crops drawn."""
    whole = embedder(max_iter=1).fit(*emoji)
    chunks = embedder(max_iter=1, micro_batch_size=17).fit(*emoji)
    for name, array in whole.backbone_state_.items():
        # Adam divides by the gradient's size, so that equal steps say little of rounding.
        assert_allclose(chunks.backbone_state_[name], array, atol=2e-3)

    def gradients(chunk):
        generator = torch.Generator().manual_seed(3)
        head = build_network((12, 5), 0.0, generator)
        model = FineTuned(
            head,
            backbone(),
            Pictures(emoji[0]),
            Scaling(np.zeros(12, dtype=np.float32), 1.0),
            FineTuning("all", micro_batch_size=chunk),
            embed_features=None,
            generator=generator,
        )
        (head(model.inputs(np.arange(10))) ** 2).sum().backward()
        model.backward_to_backbone()
        return [parameter.grad for parameter in model.parameters], generator.get_state()

    (first, state), (second, other) = gradients(None), gradients(3)
    assert len(first) == 6
    for a, b in zip(first, second, strict=True):
        assert_allclose(a, b, rtol=1e-3, atol=1e-5)
        assert a.abs().max() > 1e-3
    assert not torch.equal(state, torch.Generator().manual_seed(3).get_state())
    assert state.shape == other.shape


class Pictures:
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def rows(self, indices):
        return self.images[indices]


def test_a_network_learns_from_smaller_pictures_than_it_sees_later(emoji):
    learned_from, seen = [], []
    network = backbone()
    network.module.register_forward_pre_hook(
        lambda module, inputs: (learned_from if torch.is_grad_enabled() else seen).append(
            tuple(inputs[0].shape[2:])
        )
    )
    tuned = embedder(backbone=network, crop_size=20, max_iter=1).fit(*emoji)
    assert set(learned_from) == {(20, 20)}
    assert set(seen) == {(32, 32)}
    assert len(tuned.transform(emoji[0])) == 120
    # Of pictures as large as the crops nothing else is seen.
    plain = embedder(backbone=backbone(size=20), max_iter=1).fit(*emoji)
    same = embedder(backbone=backbone(size=20), crop_size=20, max_iter=1).fit(*emoji)
    assert_array_equal(same.transform(emoji[0]), plain.transform(emoji[0]))
    with pytest.raises(ValueError, match="'crop_size' parameter"):
        embedder(crop_size=0).fit(*emoji)


def test_crops():
    generator = torch.Generator().manual_seed(0)
    pictures = np.arange(6 * 6 * 3, dtype=np.uint8).reshape(1, 6, 6, 3).repeat(40, axis=0)
    model = FineTuned(
        nn.Sequential(),
        backbone(size=4),
        Pictures(pictures),
        Scaling(np.zeros(12), 1.0),
        FineTuning("all"),
        embed_features=None,
        generator=generator,
    )
    middle = model._crops(pictures, draw=False).permute(0, 2, 3, 1).numpy()
    assert_array_equal(middle[0], pictures[0, 1:5, 1:5])
    drawn = model._crops(pictures, draw=True).permute(0, 2, 3, 1).numpy()
    possible = [pictures[0, a : a + 4, b : b + 4] for a in range(3) for b in range(3)]
    possible += [crop[:, ::-1] for crop in possible]
    found = {next(k for k, p in enumerate(possible) if np.array_equal(p, crop)) for crop in drawn}
    assert len(found) > 12  # of 18
    assert FineTuned.side(224, True) == 256
    assert FineTuned.side(224, False) == 224


def test_rates_of_the_network():
    head = build_network((4, 3, 2), 0.0, torch.Generator())
    trunk = [torch.zeros(2, 2), torch.zeros(2)]
    rates = {"last_layer_factor": 10.0, "trunk": trunk}
    groups = parameter_groups(head, **rates, weight_decay=0.1, trunk_factor=0.5)
    assert [(len(p), factor, decay) for p, factor, decay in groups] == [
        (2, 1.0, 0.1), (1, 10.0, 0.1), (1, 20.0, 0.0), (1, 0.5, 0.1), (1, 0.5, 0.0),
    ]  # fmt: skip
    # As published: one layer on top, ten times the network's rate, its bias twenty times.
    head = build_network((4, 2), 0.0, torch.Generator())
    groups = parameter_groups(head, **rates)
    assert [factor for _, factor, _ in groups] == [1.0, 10.0, 20.0, 1.0, 1.0]


def test_gradients_are_shortened():
    parameter = torch.zeros(4, requires_grad=True)
    optimizer = Steps([([parameter], 1.0, 0.0)], 1.0, max_norm=2.0)
    parameter.grad = torch.full((4,), 3.0)  # of norm 6
    optimizer.step()
    assert_allclose(parameter.grad, np.full(4, 1.0), rtol=1e-6)
    parameter.grad = torch.full((4,), 0.5)
    optimizer.step()
    assert_allclose(parameter.grad, np.full(4, 0.5))


def test_deterministic_and_without_a_trace_in_global_random_state(emoji):
    torch.manual_seed(5)
    states = torch.get_rng_state(), np.random.mtrand._rand.get_state()[1]
    first = embedder().fit(*emoji)
    second = embedder().fit(*emoji)
    assert torch.equal(states[0], torch.get_rng_state())
    assert_array_equal(states[1], np.random.mtrand._rand.get_state()[1])
    assert_array_equal(first.transform(emoji[0]), second.transform(emoji[0]))
    other = embedder(random_state=1).fit(*emoji)
    assert not np.array_equal(first.transform(emoji[0]), other.transform(emoji[0]))


def test_codes_of_the_fitted_rows_are_those_of_encode(emoji):
    model = WSDHQuantizer(embedder(), n_codebooks=2, n_codewords=8, random_state=0).fit(*emoji)
    assert_array_equal(model.codes_, model.encode(emoji[0]))
    assert model.n_iter_ == 5
    assert len(model.history_["quantization_loss"]) == 5
    assert model.history_["quantization_loss"][-1] > 0
    assert model.history_["quantization_loss"][1] == 0  # the head alone has no codes


def test_early_stopping_and_bfloat16(emoji):
    model = embedder(early_stopping=True, max_iter=4, n_iter_no_change=9, dtype="bfloat16")
    model.fit(*emoji)
    assert len(model.history_["validation_loss"]) == 6
    assert np.isfinite(model.transform(emoji[0])).all()


def test_partial_fit_and_warm_start_go_on_with_the_network(emoji):
    model = embedder().fit(*emoji)
    state = {name: array.copy() for name, array in model.backbone_state_.items()}
    model.partial_fit(*emoji)
    assert model.n_iter_ == 6
    assert any(np.abs(model.backbone_state_[k] - state[k]).max() > 0 for k in state)
    model.set_params(warm_start=True, max_iter=2).fit(*emoji)
    assert model.n_iter_ == 8
    fresh = embedder().partial_fit(*emoji)
    assert fresh.n_iter_ == 1
    assert fresh.backbone_state_


def test_refusals(emoji):
    images, tags = emoji
    with pytest.raises(ValueError, match="finetune='all' trains a network on images"):
        embedder().fit(np.ones((120, 5)), tags)
    means = Backbone(lambda batch: batch.mean(axis=(1, 2)), size=16)
    with pytest.raises(TypeError, match="needs a network of torch"):
        embedder(backbone=means).fit(images, tags)
    with pytest.raises(ValueError, match="'layers' parameter of FineTuning"):
        embedder(finetune="most").fit(images, tags)
    with pytest.raises(ValueError, match="no parameter 'x' of shape"):
        load_trunk_state(backbone().module, {"x": np.zeros(2)})


def test_a_named_network_that_learned_is_saved_and_copied(emoji, tmp_path):
    images, tags = emoji[0][:8], emoji[1][:8]
    model = embedder(backbone="efficientnet_lite0", finetune="last", head_iter=1, max_iter=1)
    model.fit(images, tags)
    expected = model.transform(images)
    model.save(tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert_array_equal(loaded.transform(images), expected)
    assert_array_equal(pickle.loads(pickle.dumps(model)).transform(images), expected)
    assert loaded.partial_fit(images, tags).n_iter_ == 3
    # Another estimator of the same name has the network as it came.
    frozen = embedder(backbone="efficientnet_lite0", finetune="head", max_iter=1)
    again = embedder(backbone="efficientnet_lite0", finetune="head", max_iter=1)
    assert_array_equal(
        frozen.fit(images, tags).transform(images), again.fit(images, tags).transform(images)
    )
    assert frozen.backbone_state_ == {}


@pytest.mark.parametrize("finetune", ["last", "all"])
def test_a_network_of_doubles_learns_in_float32(emoji, finetune):
    """As one that was made while torch's default was float64."""
    doubles = backbone()
    doubles.module.double()
    found = []
    for network in (doubles, backbone()):
        embedder = HypersphereEmbedder(
            backbone=network,
            finetune=FineTuning(finetune, head_iter=0, augment=False, dtype="float32"),
            max_iter=1,
            hidden_layer_sizes=(8,),
            random_state=0,
        )
        found.append(embedder.fit(emoji[0][:24], emoji[1][:24]).transform(emoji[0][:24]))
    assert found[0].dtype == np.float32
    assert_allclose(found[0], found[1], atol=1e-3)
    assert next(doubles.module.parameters()).dtype == torch.float64
