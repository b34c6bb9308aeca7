"""The published method: its parameters, un-normalised codes, ten crops, steps of the rate."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from reference.ten_crops import ten_crop_mean
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from torch import nn

from skwsdhq import HypersphereEmbedder, ImageLoader, TagEnhancer, WSDHQuantizer, codebooks, load
from skwsdhq.backbones import Backbone, extract_features
from skwsdhq.datasets import make_tagged_images
from skwsdhq.embedding import AdamSchedule, FeatureScaler, FineTuning
from skwsdhq.embedding._training import network_with
from skwsdhq.images import ResizedImages
from skwsdhq.images.resized import side_for_crops
from skwsdhq.quantization import _codes
from skwsdhq.training.fixed import FixedInputs
from skwsdhq.training.network import build_network, network_arrays
from skwsdhq.training.scaling import Scaling
from skwsdhq.training.trunk import FineTuned


@pytest.fixture(scope="module")
def made():
    """Word vectors of different lengths, so that raw ones are told from unit ones."""
    made = make_tagged_images(300, random_state=0)
    lengths = np.random.default_rng(0).uniform(0.5, 3, len(made.word_vectors))
    vectors = zip(made.word_vectors.items(), lengths, strict=True)
    made.word_vectors = {word: vector * length for (word, vector), length in vectors}
    return made


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    shapes = rng.integers(12, 40, (24, 2))
    return [rng.integers(0, 256, (h, w, 3)).astype(np.uint8) for h, w in shapes]


TAGS = [["red"], ["green", "blue"], ["blue"], []] * 6


def convolution(size=14, dropout=0.0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.Dropout(dropout)]
        return Backbone(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten()), size=size)


def outputs(embedder, features):
    """tanh of the last layer, written out."""
    x = np.asarray(features)
    if embedder.feature_mean_ is not None:
        x = np.sign(x) * (
            (abs(x) + 1e-4) ** embedder.feature_power_ - 1e-4**embedder.feature_power_
        )
        x = x - embedder.feature_mean_
        x = x / np.linalg.norm(x, axis=1, keepdims=True) * x.shape[1] ** 0.5
    for k, (weights, bias) in enumerate(zip(embedder.coefs_, embedder.intercepts_, strict=True)):
        x = x @ weights + bias
        x = np.tanh(x) if k == len(embedder.coefs_) - 1 else np.maximum(x, 0)
    return x


def squares(pictures, side):
    return ResizedImages(pictures, side).rows(range(len(pictures)))


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


# --- ten crops ------------------------------------------------------------------------------


def corners(batch):
    """Features that tell where a crop lies and which way round it is."""
    return np.stack([batch[:, 0, 0, 0], batch[:, -1, 0, 1], batch.mean(axis=(1, 2, 3))], axis=1)


def test_sides_that_crops_are_cut_from():
    assert [side_for_crops(size) for size in (224, 227, 7, 1)] == [256, 256, 8, 1]


def test_features_of_ten_crops(pictures):
    found = extract_features(pictures, Backbone(corners, size=14), ten_crop=True, batch_size=5)
    assert found.dtype == np.float32
    expected = ten_crop_mean(squares(pictures, 16), corners, 14)
    assert_allclose(found, expected, rtol=1e-5)
    assert not np.allclose(found, extract_features(pictures, Backbone(corners, size=14)), rtol=0.01)
    # an odd number of pixels to spare: 227 of 256
    found = extract_features(pictures[:1], Backbone(corners, size=227), ten_crop=True)
    assert_allclose(found, ten_crop_mean(squares(pictures[:1], 256), corners, 227), rtol=1e-5)
    rows, kept = extract_features(
        [pictures[0], "nowhere.jpg"], Backbone(corners, size=14), ten_crop=True, on_error="skip"
    )
    assert_array_equal(kept, [0])
    assert_allclose(rows, expected[:1], rtol=1e-5)


def test_the_loader_keeps_ten_crops_apart(pictures, tmp_path):
    loader = ImageLoader(Backbone(corners, size=14), memory=tmp_path)
    plain = loader.fit_transform(pictures)
    crops = clone(loader).set_params(ten_crop=True).fit_transform(pictures)
    assert_allclose(crops, ten_crop_mean(squares(pictures, 16), corners, 14), rtol=1e-5)
    assert not np.allclose(plain, crops)
    with pytest.raises(ValueError, match="ten_crop=True needs a network"):
        ImageLoader(None, ten_crop=True).fit(pictures)


@pytest.mark.parametrize("finetune", [None, FineTuning("all", head_iter=1, dtype="float32")])
def test_embeddings_of_ten_crops(pictures, finetune):
    """The mean is of what the last layer gives, not of the features."""
    embedder = HypersphereEmbedder(
        backbone=convolution(), finetune=finetune, max_iter=2, batch_size=8,
        hidden_layer_sizes=(5,), kernel_weight=0.0, random_state=0,
    ).fit(pictures, TAGS)  # fmt: skip
    network = network_with(embedder.backbone_, embedder.backbone_state_)
    once = embedder.transform(pictures)
    crops = embedder.set_params(ten_crop=True).transform(pictures)

    def function(batch):
        return outputs(embedder, extract_features(batch, network))

    expected = unit(ten_crop_mean(squares(pictures, 16), function, 14))
    assert_allclose(crops, expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(crops, once, atol=1e-3)


def test_codes_of_fitted_pictures_are_of_ten_crops(pictures):
    embedder = HypersphereEmbedder(
        backbone=convolution(), ten_crop=True, max_iter=2, batch_size=8, hidden_layer_sizes=(5,)
    )
    quantizer = WSDHQuantizer(embedder, n_codebooks=2, n_codewords=4, random_state=0)
    quantizer.fit(pictures, TAGS)
    assert_array_equal(quantizer.codes_, quantizer.encode(pictures))
    features = HypersphereEmbedder(ten_crop=True, max_iter=1).fit(np.eye(24), TAGS)
    assert features.transform(np.eye(24)).shape == (24, 3)  # features have no crops


# --- features as they are, and steps of the rate --------------------------------------------


def test_features_as_they_are(made, tmp_path):
    embedder = HypersphereEmbedder(
        scaler=FeatureScaler(1.0, scale=False), hidden_layer_sizes=(), kernel_weight=0.0,
        max_iter=3, random_state=0,
    ).fit(made.data, made.tags)  # fmt: skip
    assert embedder.feature_mean_ is None
    expected = unit(outputs(embedder, made.data))
    assert_allclose(embedder.transform(made.data), expected, rtol=1e-4, atol=1e-5)
    embedder.save(tmp_path / "model")
    assert_array_equal(load(tmp_path / "model").transform(made.data), embedder.transform(made.data))


def test_a_network_hands_its_features_on_as_they_are(pictures):
    embedder = HypersphereEmbedder(
        backbone=convolution(), scaler=FeatureScaler(1.0, scale=False),
        finetune=FineTuning("all", head_iter=0, dtype="float32"),
        hidden_layer_sizes=(), max_iter=2, batch_size=8, random_state=0, kernel_weight=0.0,
    ).fit(pictures, TAGS)  # fmt: skip
    network = network_with(embedder.backbone_, embedder.backbone_state_)
    expected = unit(outputs(embedder, extract_features(pictures, network)))
    assert_allclose(embedder.transform(pictures), expected, rtol=1e-4, atol=1e-5)


def test_models_of_a_training_give_outputs_of_any_length(pictures):
    network, generator = convolution(), torch.Generator().manual_seed(0)
    features = extract_features(pictures, network)
    head = build_network((features.shape[1], 3), 0.0, generator)
    weights, bias = network_arrays(head)[0]
    expected = np.tanh(features @ weights + bias)
    tuned = FineTuned(
        head, network, ResizedImages(pictures, 14), Scaling(None, 1.0),
        FineTuning("all", augment=False), embed_features=lambda state: features,
        generator=generator,
    )  # fmt: skip
    # what the network gives goes to the head as it is
    assert_allclose(tuned.inputs(np.arange(4)).detach(), features[:4], rtol=1e-4, atol=1e-5)
    for model in (tuned, FixedInputs(head, features, generator.device)):
        assert_allclose(model.outputs(), expected, rtol=1e-4, atol=1e-5)


def test_the_rate_falls_every_so_many_batches(made):
    """8 batches an epoch; the rate of an epoch's last batch."""
    tags = [row or ["nothing"] for row in made.tags]
    base = HypersphereEmbedder(max_iter=4, batch_size=40, learning_rate=0.01, random_state=0)
    falling = clone(base).set_params(optimizer=AdamSchedule(drop_period=10)).fit(made.data, tags)
    # the last batches of the epochs are numbers 7, 15, 23 and 31
    assert falling.history_["learning_rate"] == [0.01, 0.005, 0.0025, 0.00125]
    # at the end of each epoch it is the same as three drops in four epochs
    equal = clone(base).set_params(optimizer=AdamSchedule(drop_period=8)).fit(made.data, tags)
    before = clone(base).fit(made.data, tags)
    assert_array_equal(equal.coefs_[0], before.coefs_[0])
    assert not np.array_equal(falling.coefs_[0], before.coefs_[0])
    assert falling.partial_fit(made.data, tags).history_["learning_rate"][-1] == 0.01


# --- codes of what tanh gives ---------------------------------------------------------------


def unnormalized(made, **parameters):
    embedder = HypersphereEmbedder(
        TagEnhancer(made.word_vectors, tau=1.0, eps=0.0), hidden_layer_sizes=(16,),
        max_iter=4, batch_size=64, learning_rate=0.01, kernel_weight=0.0,
    )  # fmt: skip
    options = {"n_codebooks": 2, "n_codewords": 16, "metric_mix": 1.0, "random_state": 0}
    return WSDHQuantizer(embedder, normalize=False, **{**options, **parameters})


def test_embeddings_keep_their_length(made, tmp_path):
    quantizer = unnormalized(made).fit(made.data, made.tags)
    rows = quantizer.transform(made.data)
    assert_allclose(rows, outputs(quantizer.embedder_, made.data), rtol=1e-4, atol=1e-5)
    assert np.linalg.norm(rows, axis=1).std() > 0.01
    assert_allclose(quantizer.embedder_.transform(made.data), unit(rows), rtol=1e-5, atol=1e-6)
    assert_array_equal(quantizer.codes_, quantizer.encode(made.data))
    decoded = quantizer.decode(quantizer.codes_)
    assert np.square(rows - decoded).sum() < 0.5 * np.square(rows - rows.mean(axis=0)).sum()
    similarities, _ = quantizer.kneighbors(made.data[:5], 300)
    expected = -np.sort(-(rows[:5] @ decoded.T), axis=1)
    assert_allclose(similarities, expected, rtol=1e-4, atol=1e-4)
    quantizer.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.normalize is False
    assert_array_equal(again.transform(made.data), rows)
    assert_array_equal(again.encode(made.data), quantizer.codes_)
    assert clone(quantizer).get_params()["normalize"] is False


def test_the_metric_is_of_raw_tag_vectors(made):
    quantizer = unnormalized(made).fit(made.data, made.tags)
    enhancer = quantizer.tag_enhancer_
    assert len(enhancer.concept_vectors_) == len(enhancer.vocabulary_)  # nothing is merged
    raw = np.array([made.word_vectors[word] for word in enhancer.vocabulary_])
    assert_allclose(quantizer.metric_, raw.T @ raw, rtol=1e-4, atol=1e-4)
    usual = unnormalized(made).set_params(normalize=True).fit(made.data, made.tags)
    assert_allclose(usual.metric_, unit(raw).T @ unit(raw), rtol=1e-4, atol=1e-4)
    # a merged concept is as long as its tags are on average
    twins = TagEnhancer({"dog": [3.0, 0.0], "puppy": [1.0, 0.0], "car": [0.0, 5.0]})
    quantizer = WSDHQuantizer(
        "passthrough", n_codebooks=1, n_codewords=2, tag_enhancer=twins, metric_mix=1.0,
        normalize=False, random_state=0,
    )  # fmt: skip
    quantizer.fit([[3.0, 1.0], [0.0, 2.0], [9.0, 9.0]], [["dog"], ["puppy", "car"], []])
    assert_allclose(quantizer.metric_, np.diag([4.0, 25.0]))
    assert_allclose(quantizer.transform([[3.0, 4.0]]), [[3.0, 4.0]])


def test_the_quantization_loss_sees_no_unit_rows():
    """One row: its output is y, its code stands for r, the metric is M: (y - r)'M(y - r)."""
    options = {"n_sweeps": 1, "beam_size": None, "prefix_weight": 0.0}
    alternation = _codes.CodeAlternation(
        1, 2, period=1, weight=1.0, encode_options=options,
        method="residual", ridge=1e-3, metric_mix=1.0, random_state=np.random.RandomState(0),
        codebooks=np.array([[[1.0, 0.0], [0.0, 1.0]]], dtype=np.float32), normalize=False,
    )  # fmt: skip
    alternation.codes = np.array([[1]])
    y, metric = torch.tensor([[0.6, -0.8 * 2]]), torch.tensor([[2.0, 0.5], [0.5, 1.0]])
    alternation.metric = metric.numpy()
    loss = alternation.quantization_loss(y, np.array([0]))
    d = np.array([0.6, -2.6])
    assert float(loss) == pytest.approx(d @ metric.numpy() @ d)
    alternation.normalize = True
    loss = alternation.quantization_loss(y, np.array([0]))
    d = y.numpy()[0] / np.linalg.norm(y.numpy()) - [0, 1]
    assert float(loss) == pytest.approx(d @ metric.numpy() @ d)


def test_codes_follow_raw_embeddings_while_the_network_learns(made):
    """With a period of one epoch, the error that the history has is that of raw rows."""
    quantizer = unnormalized(made, code_update_period=1, codebook_iters=1)
    quantizer.fit(made.data, made.tags)
    rows = quantizer.transform(made.data)
    errors = codebooks.quantization_error(rows, quantizer.codes_, quantizer.codebooks_)
    assert errors == pytest.approx(quantizer.history_["quantization_error"][-1], rel=0.2)
    assert quantizer.history_["quantization_loss"][-1] > 0


def test_frozen_and_passed_embeddings_keep_their_length(made):
    fitted = HypersphereEmbedder(
        TagEnhancer(made.word_vectors), kernel_weight=0.0, hidden_layer_sizes=(8,), max_iter=2,
        random_state=0,
    ).fit(made.data, made.tags)  # fmt: skip
    quantizer = unnormalized(made, metric_mix=0.0).set_params(embedder=FrozenEstimator(fitted))
    quantizer.fit(made.data, made.tags)
    rows = quantizer.transform(made.data)
    assert_allclose(rows, outputs(fitted, made.data), rtol=1e-4, atol=1e-5)
    passed = unnormalized(made, metric_mix=0.0).set_params(embedder="passthrough").fit(rows)
    assert_array_equal(passed.transform(rows), rows)
    assert_array_equal(passed.codes_, quantizer.codes_)


# --- from_paper -----------------------------------------------------------------------------


def test_parameters_of_the_paper():
    quantizer = WSDHQuantizer.from_paper(n_bits=24)
    own = quantizer.get_params()
    expected = {
        "n_codebooks": 3, "n_codewords": 256, "quantization_weight": 1e-4, "metric_mix": 1.0,
        "icm_iters": 3, "beam_size": None, "normalize": True, "code_update_period": 2,
        "top_k": 5000, "embedder__backbone": "alexnet", "embedder__finetune__layers": "all",
        "embedder__loss__gamma": 1.0, "embedder__batch_size": 256,
        "embedder__learning_rate": 3e-4, "embedder__optimizer__decay": 0.5,
        "embedder__optimizer__drop_period": 300, "embedder__optimizer__last_layer_factor": 10.0,
        "embedder__finetune__rate_factor": 1.0, "embedder__hidden_layer_sizes": (),
        "embedder__scaler__power": 1.0, "embedder__scaler__scale": False,
        "embedder__ten_crop": True, "embedder__finetune__head_iter": 0,
        "embedder__tag_enhancer__cooccurrence_weight": 0,
        "embedder__tag_enhancer__remove_components": None,
    }  # fmt: skip
    assert {name: own[name] for name in expected} == expected
    own = WSDHQuantizer.from_paper(mode="code").get_params()
    different = {"normalize": False, "init": "subspace", "codebook_iters": 0, "n_codebooks": 4}
    assert {name: own[name] for name in different} == different
    assert own["embedder__optimizer__last_layer_factor"] == 1.0


def test_overrides_and_mistakes():
    vectors = {"cat": [1.0, 0.0]}
    quantizer = WSDHQuantizer.from_paper(
        vectors, random_state=3, top_k=10, verbose=1, checkpoint_dir="runs", icm_iters=5,
        embedder__max_iter=7, embedder__tag_enhancer__tau=0.5, device="cpu",
    )  # fmt: skip
    own = quantizer.get_params()
    assert (own["random_state"], own["top_k"], own["icm_iters"]) == (3, 10, 5)
    assert own["embedder__max_iter"] == 7
    assert (own["embedder__verbose"], own["embedder__device"]) == (1, "cpu")
    assert own["embedder__checkpoint_dir"] == "runs"
    assert own["embedder__tag_enhancer__tau"] == 0.5
    assert own["embedder__tag_enhancer__word_vectors"] is vectors
    with pytest.raises(ValueError, match="n_bits=12 should be a multiple of 8"):
        WSDHQuantizer.from_paper(n_bits=12)
    with pytest.raises(ValueError, match="mode='text' should be"):
        WSDHQuantizer.from_paper(mode="text")
    with pytest.raises(ValueError, match="Invalid parameter 'depth'"):
        WSDHQuantizer.from_paper(depth=3)
    with pytest.raises(ValueError, match="finetune='all' trains a network on images"):
        WSDHQuantizer.from_paper(random_state=0).fit(np.eye(256), [["cat"]] * 256)


@pytest.mark.parametrize("mode", ["paper", "code"])
def test_the_paper_on_features(made, mode):
    quantizer = WSDHQuantizer.from_paper(
        made.word_vectors, mode=mode, finetune=None, n_bits=16, embedder__max_iter=10,
        embedder__learning_rate=0.003, random_state=0,
    )  # fmt: skip
    quantizer.fit(made.data, made.tags)
    assert quantizer.codes_.shape == (300, 2)
    assert quantizer.codebooks_.shape[1] == 256
    assert quantizer.score(made.data, made.clean_tags) > 0.8


@pytest.mark.parametrize("mode", ["paper", "code"])
def test_the_paper_on_pictures(pictures, mode):
    quantizer = WSDHQuantizer.from_paper(
        mode=mode, n_bits=8, n_codewords=4, embedder__backbone=convolution(dropout=0.5),
        embedder__max_iter=4, embedder__batch_size=8, embedder__finetune__dtype="float32",
        random_state=0,
    ).fit(pictures, TAGS)  # fmt: skip
    assert quantizer.n_iter_ == 4
    assert_array_equal(quantizer.codes_, quantizer.encode(pictures))
    assert len(quantizer.embedder_.coefs_) == 1
    assert sorted(quantizer.embedder_.backbone_state_) == ["0.bias", "0.weight"]
