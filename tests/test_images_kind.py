"""What is taken for images, for features, and for neither, with what the message tells."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.utils import Bunch

from skwsdhq import HypersphereEmbedder, ImageLoader, WSDHQuantizer
from skwsdhq.backbones import Backbone, extract_features
from skwsdhq.images import ResizedImages, input_kind, unreadable_images

PICTURE = np.zeros((8, 9, 3), dtype=np.uint8)
PILLOW = Image.fromarray(PICTURE)


def content():
    file = io.BytesIO()
    PILLOW.save(file, "PNG")
    return file.getvalue()


REFUSED = {
    "a string": ("a.jpg", r"'a\.jpg'; a single image goes into a list: \[X\]"),
    "a path": (Path("a.jpg"), r"'a\.jpg'; a single image goes into a list: \[X\]"),
    "an array": (PICTURE, r"shape \(8, 9, 3\)\. One image goes into a list: \[image\]"),
    "a Pillow image": (PILLOW, r"one Pillow image; .*\[X\]"),
    "bytes": (content(), r"bytes; pass \[image\] made by PIL\.Image\.open\(io\.BytesIO"),
    "an open file": (io.BytesIO(content()), r"open file; pass \[PIL\.Image\.open\(X\)\]"),
    "a mapping": ({"a": "a.jpg"}, r"dict; pass list\(X\.values\(\)\)"),
    "a Bunch": (Bunch(images=["a.jpg"]), r"Bunch; pass X\['images'\]"),
    "a set": ({"a.jpg"}, r"pass sorted\(X\)"),
    "values": ({"a": "a.jpg"}.values(), r"pass list\(X\)"),
    "None": (None, r"X is None; pass a list of paths"),
    "a frame": (pd.DataFrame({"n": [1.5], "path": ["a.jpg"]}), r"X\['path'\] looks like images"),
    "a frame of images": (pd.DataFrame({"image": [PILLOW]}), r"X\['image'\] looks like images"),
    "a column": (np.array([["a.jpg"], ["b.jpg"]]), r"X\[:, 0\] looks like images; pass that"),
    "dicts": (
        [{"tags": ["x"], "image": PILLOW}],
        r"dicts; pass .* \[row\['image'\] for row in X\]",
    ),
    "tuples": ([(PILLOW, 3)], r"tuples that begin with an image; pass \[row\[0\] for row in X\]"),
    "lists": ([["a.jpg"], ["b.jpg"]], r"lists that begin with an image"),
    "list of bytes": ([content()], r"row 0 is bytes; pass a list of images made by PIL"),
    "list of files": ([io.BytesIO(content())], r"\[PIL\.Image\.open\(f\) for f in X\]"),
    "a missing path": (pd.Series([np.nan, "a.jpg"]), "row 0 is nan: no image"),
    "None first": ([None, "a.jpg"], "row 0 is None: no image"),
    "channels first": (
        np.zeros((2, 3, 8, 9), dtype=np.float32),
        r"got float32 of shape \(2, 3, 8, 9\)\. Convert by \.transpose\(0, 2, 3, 1\)"
        r"\.astype\(np\.uint8\), floats of 0 \.\.\. 1 times 255 before",
    ),
    "a tensor": (torch.zeros(2, 3, 8, 9), r"\.numpy\(\)\.transpose\(0, 2, 3, 1\)\.astype"),
    "uint8, channels first": (np.zeros((2, 3, 8, 9), np.uint8), r"Convert by \.transpose[^a]*$"),
    "floats": (np.zeros((2, 8, 9, 3)), r"Convert by \.astype\(np\.uint8\), floats"),
    "grey": (np.zeros((2, 8, 9, 1), np.uint8), r"Pass list\(X\)"),
    "list of floats": ([np.zeros((8, 9, 3))], r"row 0 is float64 of shape .*Convert by \.astype"),
    "list of tensors": ([torch.zeros(3, 8, 9)], r"\.numpy\(\)\.transpose\(1, 2, 0\)\.astype"),
}
WRONG = (TypeError, ValueError)


@pytest.mark.parametrize("name", REFUSED)
def test_what_to_pass_is_told(name):
    X, message = REFUSED[name]
    with pytest.raises(WRONG, match=message):
        input_kind(X)


def test_iterators_are_refused_and_left_whole():
    for make in (lambda: (path for path in ["a.jpg"]), lambda: map(str, ["a.jpg"])):
        X = make()
        with pytest.raises(TypeError, match=r"pass list\(X\)"):
            input_kind(X)
        assert list(X) == ["a.jpg"]


def test_a_folder_is_no_image(tmp_path):
    with pytest.raises(TypeError, match=r"is the folder .*load_tagged_folder"):
        input_kind(tmp_path)


def test_frames_of_polars():
    polars = pytest.importorskip("polars")
    with pytest.raises(TypeError, match=r"X\['path'\] looks like images"):
        input_kind(polars.DataFrame({"n": [1], "path": ["a.jpg"]}))
    assert input_kind(polars.DataFrame({"n": [1.0]})) == "features"
    assert input_kind(polars.Series(["a.jpg"])) == "paths"


@pytest.mark.parametrize(
    "X",
    [
        pd.DataFrame({"a": [1.0], "b": [2]}),
        pd.DataFrame({"a": ["1.5"], "b": [2]}, dtype=object),
        pd.DataFrame({"read": [1.0], "getbands": [2.0], "columns": [1.0]}),
        np.array([["1.5", "2"]]),
        np.array([[{"foo": "bar"}, 1]], dtype=object),
        np.array(3.0),
        [[1.0, None]],
        torch.zeros(2, 3),
    ],
)
def test_matrices_stay_features(X):
    assert input_kind(X) == "features"


@pytest.fixture(scope="module")
def models():
    """Quantizers fitted on images, whose network gives 6 features, and on features."""
    rng = np.random.default_rng(0)
    images = list(rng.integers(0, 255, (12, 8, 8, 3), dtype=np.uint8))
    tags = [["red"], ["green"], ["blue"]] * 4

    def quantizer():
        network = Backbone(lambda batch: batch.reshape(len(batch), -1)[:, :6], size=8)
        embedder = HypersphereEmbedder(backbone=network, hidden_layer_sizes=(4,), max_iter=1)
        return WSDHQuantizer(embedder, n_codebooks=1, n_codewords=2, random_state=0)

    X = rng.standard_normal((12, 5))
    return quantizer().fit(images, tags), quantizer().fit(X, tags), images, X, tags


def test_every_entry_says_it(models):
    for fitted in models[:2]:
        entries = [
            fitted.transform,
            fitted.encode,
            lambda X: fitted.kneighbors(X, 3),  # noqa: B023
            lambda X: fitted.score(X, [["red"]]),  # noqa: B023
            fitted.embedder_.transform,
            lambda X: HypersphereEmbedder().fit(X, [["red"]]),
            lambda X: HypersphereEmbedder().partial_fit(X, [["red"]]),
            lambda X: WSDHQuantizer().fit(X, [["red"]]),
            lambda X: WSDHQuantizer("passthrough").fit(X, None),
            lambda X: extract_features(X, np.mean),
            lambda X: ImageLoader(np.mean).fit(X),
            lambda X: ImageLoader(np.mean).fit(np.zeros((2, 2))).transform(X),
            unreadable_images,
            lambda X: ResizedImages(X, 4),
        ]
        for entry in entries:
            for name in ("a string", "an array", "bytes", "a frame", "dicts", "channels first"):
                X, message = REFUSED[name]
                with pytest.raises(WRONG, match=message):
                    entry(X)
            with pytest.raises(TypeError, match=r"pass list\(X\)"):
                entry(path for path in ["a.jpg"])


def test_images_and_features_are_not_mixed(models):
    of_images, of_features, images, X, tags = models
    features = np.ones((3, 64))
    for model in (of_images, of_images.embedder_):
        with pytest.raises(ValueError, match=r"of shape \(3, 64\), but fit saw images") as told:
            model.transform(features)
        assert "backbone" not in str(told.value)
        assert model.transform(np.ones((3, 6))).shape[0] == 3  # may be the network's own
    with pytest.raises(ValueError, match=r"of shape \(3, 64\), but fit saw images"):
        of_images.embedder_.partial_fit(features, tags[:3])
    for model in (of_features, of_features.embedder_):
        with pytest.raises(ValueError, match="images, but fit saw feature matrices of 5") as told:
            model.transform(images)
        assert "backbone" not in str(told.value)
    with pytest.raises(ValueError, match='embedder="passthrough" takes embeddings'):
        WSDHQuantizer("passthrough", n_codebooks=1, n_codewords=2).fit(images, tags)
    through = WSDHQuantizer("passthrough", n_codebooks=1, n_codewords=2).fit(X)
    with pytest.raises(ValueError, match='embedder="passthrough" takes embeddings'):
        through.transform(np.array(images))
