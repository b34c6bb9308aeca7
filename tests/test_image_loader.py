"""ImageLoader: every form of images, features as they are, and a network that works but once."""

import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from reference.images import MeanColours
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline

from skwsdhq import HypersphereEmbedder, ImageLoader, WSDHQuantizer
from skwsdhq.backbones import Backbone
from skwsdhq.backbones._key import network_key
from skwsdhq.images.keys import image_key


@pytest.fixture(scope="module")
def pictures():
    """Pictures (36, 12, 12, 3) of three colours, and a tag for each colour."""
    rng = np.random.default_rng(0)
    kinds = np.arange(36) % 3
    colours = np.array([[220, 30, 30], [30, 220, 30], [30, 30, 220]])
    noise = rng.integers(-30, 31, size=(36, 12, 12, 3))
    images = (colours[kinds][:, None, None] + noise).astype(np.uint8)
    return images, [[("red", "green", "blue")[k]] for k in kinds]


@pytest.fixture
def network(tmp_path):
    return MeanColours(tmp_path / "trace")


def small_pipeline(loader):
    embedder = HypersphereEmbedder(hidden_layer_sizes=(8,), max_iter=3, random_state=0)
    quantizer = WSDHQuantizer("passthrough", n_codebooks=1, n_codewords=4, random_state=0)
    return Pipeline([("images", loader), ("embedder", embedder), ("quantizer", quantizer)])


def forms(images, folder):
    paths = []
    for i, image in enumerate(images):
        paths.append(str(folder / f"{i}.png"))
        Image.fromarray(image).save(paths[-1])
    return {
        "array": images,
        "list": list(images),
        "pillow": [Image.fromarray(image) for image in images],
        "paths": paths,
        "object array of paths": np.array(paths, dtype=object),
        "Series of paths": pd.Series(paths, index=range(100, 100 + len(paths))),
    }


@pytest.mark.parametrize("memory", [False, True])
def test_every_form_gives_the_same_features(pictures, network, tmp_path, memory):
    images = pictures[0][:5]
    expected = network(images)
    for name, X in forms(images, tmp_path).items():
        loader = ImageLoader(
            network, size=12, batch_size=2, memory=tmp_path / "kept" if memory else None
        )
        features = loader.fit_transform(X)
        assert features.dtype == np.float32
        assert_allclose(features, expected, atol=1e-4, err_msg=name)
        assert_allclose(loader.transform(X[2:3]), expected[2:3], atol=1e-4, err_msg=name)


def test_size(pictures):
    seen = []

    def network(batch):
        seen.append(batch.shape[1:])
        return batch.reshape(len(batch), -1)[:, :2]

    ImageLoader(network, size=6).fit(pictures[0])
    ImageLoader(network).fit(pictures[0])
    ImageLoader(Backbone(network, size=5)).fit(pictures[0])
    assert seen == [(6, 6, 3), (224, 224, 3), (5, 5, 3)]
    read = ImageLoader(backbone=None, size=7, batch_size=10).fit(pictures[0])
    assert read.transform(pictures[0]).shape == (36, 7, 7, 3)
    assert read.transform(list(pictures[0])).dtype == np.uint8
    assert ImageLoader(backbone=None).fit_transform(pictures[0][:1]).shape == (1, 224, 224, 3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_features_pass_through(dtype):
    X = np.random.default_rng(0).standard_normal((5, 3)).astype(dtype)
    loader = ImageLoader().fit(X)
    assert_array_equal(loader.transform(X), X)
    assert loader.transform(X).dtype == dtype
    assert loader.n_features_in_ == 3
    assert loader.backbone_ is None
    frame = pd.DataFrame(X, columns=list("abc"))
    assert list(ImageLoader().fit(frame).get_feature_names_out()) == list("abc")
    with pytest.raises(ValueError, match="3 features"):
        loader.transform(X[:, :2])


def test_kinds_are_not_mixed(pictures, network):
    images = pictures[0]
    with pytest.raises(ValueError, match="X holds images, but fit saw a feature matrix"):
        ImageLoader(network).fit(np.ones((2, 2))).transform(images)
    with pytest.raises(ValueError, match="X is no images"):
        ImageLoader(network, size=4).fit(images).transform(np.ones((2, 2)))
    loader = ImageLoader(network, size=4).fit(np.ones((2, 2))).fit(images)
    assert not hasattr(loader, "n_features_in_")


def test_names_and_frames(pictures, network):
    loader = ImageLoader(network, size=4).set_output(transform="pandas")
    frame = loader.fit_transform(pictures[0])
    assert list(frame.columns) == list(loader.get_feature_names_out())
    assert frame.columns[0] == "imageloader0"
    assert frame.shape == (36, 12)
    pytest.importorskip("polars")
    assert (
        loader.set_output(transform="polars").transform(pictures[0]).columns[11] == "imageloader11"
    )
    read = ImageLoader(backbone=None).fit(pictures[0])
    with pytest.raises(ValueError, match="no columns to name"):
        read.get_feature_names_out()
    with pytest.raises(ValueError, match="can't be a pandas data frame"):
        read.set_output(transform="pandas").transform(pictures[0])


def test_bad_parameters(pictures):
    with pytest.raises(ValueError, match="size"):
        ImageLoader(size=0).fit(pictures[0])
    with pytest.raises(
        TypeError, match=r"memory should be a path, a joblib.Memory or None; got int"
    ):
        ImageLoader(np.mean, memory=3).fit(pictures[0])
    with pytest.raises(FileNotFoundError, match="nowhere"):
        ImageLoader(np.mean).fit(["nowhere.png"])
    with pytest.raises(FileNotFoundError, match="nowhere"):
        ImageLoader(np.mean, memory="unused").fit(["nowhere.png"])


def test_clones_share_a_network(pictures):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
    loader = ImageLoader(network, size=4)
    assert clone(loader).backbone is network
    assert clone(small_pipeline(loader))["images"].backbone is network


# --- features computed once -----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["path", "str", "joblib"])
def test_each_image_is_seen_once(pictures, network, tmp_path, kind):
    folder = tmp_path / "kept"
    memory = {"path": folder, "str": str(folder), "joblib": joblib.Memory(folder, verbose=0)}[kind]
    images = pictures[0]
    loader = ImageLoader(network, size=4, memory=memory)
    first = loader.fit_transform(images)
    assert network.n_images == 36
    again = clone(loader).fit(images[5:]).transform(images[::-1])
    assert_array_equal(again, first[::-1])
    twice = np.concatenate([images[:2], images[:2], images[:1] // 2])
    loader.transform(twice)
    assert network.n_images == 37
    # Another size is another network.
    ImageLoader(network, size=6, memory=memory).fit_transform(images[:3])
    assert network.n_images == 40
    assert_array_equal(
        ImageLoader(network, size=4, memory=joblib.Memory(None)).fit(images).transform(images),
        first,
    )


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_grid_search_computes_features_once(pictures, network, tmp_path, n_jobs):
    images, tags = pictures
    model = small_pipeline(ImageLoader(network, size=4, batch_size=4, memory=tmp_path / "kept"))
    grid = {"embedder__kernel_weight": [0.5, 1.0], "quantizer__n_codewords": [2, 4]}
    search = GridSearchCV(model, grid, cv=3, n_jobs=n_jobs, error_score="raise").fit(images, tags)
    assert network.n_images == len(images)
    assert search.best_score_ > 0.8
    # Without it: 3 folds, 4 candidates, and each row in training and test, and the refit.
    other = MeanColours(tmp_path / "other")
    cross_val_score(small_pipeline(ImageLoader(other, size=4)), images, tags, cv=3)
    assert other.n_images >= 3 * len(images)


def test_a_changed_file_is_read_again(pictures, network, tmp_path):
    paths = forms(pictures[0][:3], tmp_path)["paths"]
    loader = ImageLoader(network, size=4, memory=tmp_path / "kept").fit(paths)
    before = loader.transform(paths)
    Image.fromarray(pictures[0][5]).resize((40, 40)).save(paths[1])
    after = loader.transform(paths)
    assert network.n_images == 4
    assert_array_equal(before[[0, 2]], after[[0, 2]])
    assert not np.array_equal(before[1], after[1])


def test_what_a_crash_leaves_is_written_over(pictures, network, tmp_path):
    images = pictures[0]
    loader = ImageLoader(network, size=4, memory=tmp_path / "kept")
    expected = ImageLoader(network, size=4).fit(images).transform(images)
    loader.fit_transform(images[:10])
    (folder,) = (tmp_path / "kept" / "skwsdhq-features").iterdir()
    with open(folder / "rows-12", "ab") as file:  # half a row
        file.write(b"\1" * 77)
    assert_array_equal(loader.transform(images), expected)
    assert_array_equal(clone(loader).fit(images).transform(images), expected)
    (folder / "rows-12").write_bytes(b"")
    assert_array_equal(loader.transform(images), expected)


def test_networks_are_told_apart():
    key = network_key

    def network(offset):
        return lambda batch: batch.mean(axis=(1, 2)) + offset

    assert key("resnet18", None) == key("resnet18", None) != key("resnet50", None)
    assert key("resnet18", None) != key("resnet18", 64)
    first = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    second = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    assert key(first, None) != key(second, None)
    second.load_state_dict(first.state_dict())
    assert key(first, None) == key(second, None)
    assert key(network(1), None) == key(network(1), None)
    assert key(lambda batch: batch.mean(axis=1), None) != key(lambda batch: batch.sum(axis=1), None)
    assert key(Backbone(np.mean), None) != key(Backbone(np.mean, size=3), None)
    assert key(MeanColours("a"), None) != key(MeanColours("b"), None)


def test_images_are_told_apart(pictures):
    key = image_key
    image = pictures[0][0]
    assert key(image) == key(image.copy()) == key(np.asfortranarray(image))
    assert len({key(image), key(image[:6]), key(image.reshape(6, 24, 3)), key(pictures[0][1])}) == 4
    assert key(Image.fromarray(image)) != key(Image.fromarray(image).convert("L"))


# --- in a pipeline --------------------------------------------------------------------------


def test_pipeline_from_images_to_codes(pictures, network):
    images, tags = pictures
    model = small_pipeline(ImageLoader(network, size=4)).fit(images, tags)
    assert model.score(images, tags) > 0.9
    assert model[-1].codes_.shape == (36, 1)
    twin = pickle.loads(pickle.dumps(model))
    assert twin.score(images, tags) == model.score(images, tags)
    # Pictures for an embedder that has the network.
    embedder = HypersphereEmbedder(backbone=network, hidden_layer_sizes=(8,), max_iter=3)
    rows = make_pipeline(ImageLoader(backbone=None, size=20), embedder).fit(images, tags)
    assert rows.transform(list(images)).shape[0] == 36


def test_the_default_network(emoji):
    pytest.importorskip("timm")
    images, tags = emoji.images[:24], emoji.tags[:24]
    model = small_pipeline(ImageLoader()).fit(images, tags)
    assert model["images"].n_features_out_ == 1280 + 2 * (80 + 112 + 192 + 320)
    assert model["images"].backbone_ == "stages:efficientnet_lite0"
    assert model.transform(images[:2]).shape[0] == 2
    last = ImageLoader(features="final").fit(images)
    assert (last.n_features_out_, last.backbone_) == (1280, "efficientnet_lite0")
    assert ImageLoader("efficientnet_lite0").fit(images).n_features_out_ == 1280
