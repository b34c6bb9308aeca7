"""Parts of an embedder, built-in or a user's own: what is wrong with one is said early."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator
from torch import nn

from skwsdhq import HypersphereEmbedder, TagKernelRegressor, WSDHQuantizer, load
from skwsdhq.backbones import Backbone, extract_features, networks
from skwsdhq.backbones._stages import _of_one_sum
from skwsdhq.datasets import make_tagged_images
from skwsdhq.embedding import AdamSchedule, EarlyStopping, FeatureScaler, FineTuning
from skwsdhq.losses import AdaptiveMargin, FixedMargin, MeanTagHinge
from skwsdhq.training.optimizer import parameter_groups
from skwsdhq.training.stopping import ValidationStop, hold_out


@pytest.fixture(scope="module")
def made():
    return make_tagged_images(80, random_state=0)


def small(**parameters):
    defaults = {"hidden_layer_sizes": (8,), "max_iter": 2, "random_state": 0}
    return HypersphereEmbedder(**{**defaults, **parameters})


# --- numbers of few bits ----------------------------------------------------------------


def test_epochs_of_few_bits_add_up():
    tuning = FineTuning(head_iter=np.int8(100))
    assert HypersphereEmbedder(max_iter=np.int8(100), finetune=tuning).max_epochs == 200
    assert HypersphereEmbedder(max_iter=np.uint8(250), finetune="last").max_epochs == 270


def test_early_stopping_takes_numbers_of_few_bits():
    assert hold_out(np.ones(70_000, bool), np.float16(0.5), np.random.RandomState(0)).sum() == 35000
    # In float16 1000.3 less the tolerance would be 1000, and 1000.1 no progress.
    stop = ValidationStop(np.uint8(1), np.float16(2**-12))
    assert [stop.update(loss, list) for loss in (1000.3, 1000.1, 1000.0999)] == [False, False, True]


def test_factors_of_few_bits_are_doubled():
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    for factor in (np.uint8(200), np.float16(60_000)):
        groups = parameter_groups(network, last_layer_factor=factor)
        assert [own for _, own, _ in groups] == [1, float(factor), 2 * float(factor)]


def test_sizes_of_few_bits_are_those_of_pictures_and_batches():
    pictures = np.random.default_rng(0).integers(0, 255, (70, 40, 44, 3), dtype=np.uint8)

    def mean_colour(batch):
        return batch.mean(axis=(1, 2))

    plain = extract_features(pictures, Backbone(mean_colour, 32), batch_size=1, ten_crop=True)
    few = Backbone(mean_colour, np.uint8(32))
    found = extract_features(pictures, few, batch_size=np.int8(1), ten_crop=True)
    assert_array_equal(found, plain)
    for wrong in ("x", 0, 2.5):
        with pytest.raises((TypeError, ValueError), match="batch_size="):
            extract_features(pictures, mean_colour, batch_size=wrong)


# --- parameters that are none -------------------------------------------------------------


@pytest.mark.parametrize("power", ["x", -1, None, np.nan])
def test_the_regressor_checks_its_scaler(made, power):
    with pytest.raises(ValueError, match="'power' parameter of FeatureScaler"):
        TagKernelRegressor(scaler=FeatureScaler(power)).fit(made.data, made.tags)


def test_a_class_is_no_part(made):
    for loss in (AdaptiveMargin, OwnLoss):
        with pytest.raises(TypeError, match=f"loss is the class {loss.__name__}; give an object"):
            small(loss=loss).fit(made.data, made.tags)
    with pytest.raises(TypeError, match="scaler is the class FeatureScaler"):
        TagKernelRegressor(scaler=FeatureScaler).fit(made.data, made.tags)


@pytest.mark.parametrize(
    "model",
    [
        TagKernelRegressor(alpha=1e300),
        TagKernelRegressor(consistency=700),
        small(learning_rate=1e300),
        small(loss=AdaptiveMargin(1e300)),
        small(loss=FixedMargin(1e300)),
        small(loss=MeanTagHinge(1e300)),
        small(optimizer=AdamSchedule(weight_decay=1e10)),
        small(optimizer=AdamSchedule(last_layer_factor=1e300)),
    ],
    ids=lambda model: str(model)[-40:],
)
def test_numbers_too_large_to_compute_with_are_refused(made, model):
    with pytest.raises(ValueError, match="parameter of"):
        model.fit(made.data, made.tags)


def test_the_largest_numbers_give_finite_rows(made):
    for consistency in (64, np.float16(64)):
        model = TagKernelRegressor(alpha=1e6, consistency=consistency, random_state=0)
        assert np.isfinite(model.fit_transform(made.data, made.tags)).all()


def test_weights_that_a_last_step_made_infinite_are_an_error(made):
    schedule = AdamSchedule(weight_decay=1e6, n_drops=0)
    # The step of the last epoch is the one after which no batch looks at a loss.
    embedder = small(learning_rate=1e6, optimizer=schedule, max_iter=4)
    with pytest.raises(FloatingPointError, match=r"epoch \d of 4"):
        embedder.fit(made.data, made.tags)
    assert all(np.isfinite(weights).all() for weights in embedder.coefs_)


def test_resume_is_a_choice(made):
    with pytest.raises(ValueError, match="resume='x' should be one of 'fit', 'partial'"):
        small().start_training(made.data, made.tags, resume="x")


# --- a user's own ------------------------------------------------------------------------


class OwnLoss(BaseEstimator):
    def __init__(self, give):
        self.give = give

    def start(self, concept_vectors, indicator, device):
        vectors = torch.from_numpy(np.array(concept_vectors))
        return lambda outputs, rows: self.give(outputs @ vectors.T)


class OwnCompanion:
    def __init__(self, give):
        self.give = give

    def start(self, concept_vectors, lengths=None):
        pass

    def parameters(self):
        return {}

    def penalty(self, outputs, rows):
        return self.give(outputs)

    def after_epoch(self, n_done, outputs):
        return {}

    def state(self):
        return None

    def restore(self, state):
        pass


WRONG = [
    (lambda cosines: 1.0, TypeError, "tensor of one number; got a float"),
    (lambda cosines: np.float32(1), TypeError, "got a float32"),
    (lambda cosines: cosines.mean(dim=1), ValueError, r"got torch.float32 of shape \(\d+,\)"),
    (lambda cosines: cosines.mean().to(torch.complex64), ValueError, "one real number"),
    (lambda cosines: cosines.mean() * float("nan"), FloatingPointError, "loss became nan"),
]


@pytest.mark.parametrize(("give", "error", "match"), WRONG)
def test_a_loss_and_a_penalty_are_one_number(made, give, error, match):
    with pytest.raises(error, match=match):
        small(loss=OwnLoss(give)).fit(made.data, made.tags)
    with pytest.raises(error, match=match):
        next(iter(small().start_training(made.data, made.tags, companion=OwnCompanion(give))))


def test_a_loss_that_nothing_can_be_learned_by_is_refused(made):
    for give in (lambda c: None, lambda c: torch.tensor(3.0), lambda c: c.mean().detach()):
        with pytest.raises((TypeError, ValueError), match="the loss of a batch"):
            small(loss=OwnLoss(give)).fit(made.data, made.tags)


def test_a_penalty_of_none_or_of_one_constant_changes_nothing(made):
    figures = [
        list(small().start_training(made.data, made.tags, companion=companion))
        for companion in (
            None,
            OwnCompanion(lambda outputs: None),
            OwnCompanion(lambda outputs: torch.ones(1)),
        )
    ]
    assert figures[0] == figures[1] == figures[2]


class OwnEmbedder(BaseEstimator):
    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return X

    def start_training(self, X, y, resume=None):
        return iter(())


class ShortEmbedder(OwnEmbedder):
    def start_training(self, X, y, *, resume=None, companion=None):
        return None


def test_an_embedder_that_starts_no_training_is_told(made):
    for embedder, match in [
        (OwnEmbedder(), r"OwnEmbedder.start_training should be a method that takes \(X, y"),
        (ShortEmbedder(), "ShortEmbedder.start_training gave a NoneType"),
    ]:
        with pytest.raises(TypeError, match=match):
            WSDHQuantizer(embedder, n_codewords=8).fit(made.data, made.tags)


# --- backbones ---------------------------------------------------------------------------


def test_a_part_of_zeros_stays_zeros():
    part = torch.tensor([[0.0, 0.0], [1.0, -3.0]])
    assert_array_equal(_of_one_sum(part).numpy(), [[0, 0], [250, -750]])


def test_the_stages_of_the_best_network_have_a_name(monkeypatch):
    monkeypatch.setattr(networks, "resolve_auto", lambda: "resnet18")
    for features in ("auto", "final", "stages"):
        assert networks.resolve_backbone("stages:auto", features) == "stages:resnet18"


def test_a_revision_of_a_hub_is_no_file():
    assert networks.file_stamp("stages:timm:hf-hub:some/model@main") is None
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npy"):
        networks.file_stamp("stages:alexnet_caffe:nowhere.npy")


def own_network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 12, 3, 2), nn.ReLU()]
        module = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Backbone(module, size=16)


def test_what_other_layers_have_learned_before_stays(tmp_path, monkeypatch):
    pictures = np.random.default_rng(0).integers(0, 255, (12, 20, 20, 3), dtype=np.uint8)
    tags = [["a", "b"], ["b"], ["c", "a"], ["c"]] * 3
    network = own_network()
    monkeypatch.setattr(networks, "_load_named", lambda name, stamp: network)

    def tuning(layers):
        return FineTuning(
            layers,
            head_iter=np.uint8(1),
            crop_size=np.uint8(16),
            micro_batch_size=np.uint8(5),
            rate_factor=np.float16(1),
        )

    embedder = small(backbone="own", finetune=tuning("all"), warm_start=True, learning_rate=0.01)
    embedder.fit(pictures, tags)
    first = embedder.backbone_state_["0.weight"]
    assert not np.array_equal(first, network.module[0].weight.detach().numpy())
    for finetune in (tuning("last"), None, tuning("last")):
        embedder.set_params(finetune=finetune).fit(pictures, tags)
        assert_array_equal(embedder.backbone_state_["0.weight"], first)
        embedder.save(tmp_path / "model")
        loaded = load(tmp_path / "model")
        assert_allclose(loaded.transform(pictures), embedder.transform(pictures), atol=1e-5)
    assert embedder.n_iter_ == 9


def test_early_stopping_needs_two_tagged_images(made):
    rows = small(early_stopping=EarlyStopping(np.float16(0.5))).fit_transform(
        made.data[:2], [["a"], ["b"]]
    )
    assert np.isfinite(rows).all()
