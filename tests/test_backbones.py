"""Networks by name and from local files, and how they run."""

import logging
import os
import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from reference.images import MeanColours, caffe_alexnet

from skwsdhq import ImageLoader
from skwsdhq.backbones import Backbone, extract_features, load_backbone, networks
from skwsdhq.backbones import run as _backbones_run
from skwsdhq.backbones._caffe import load_alexnet, read_arrays
from skwsdhq.backbones.run import compute_dtype

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def fresh_cache():
    networks._load_named.cache_clear()
    yield
    networks._load_named.cache_clear()


@pytest.fixture
def images(rng):
    return rng.integers(0, 255, (3, 40, 50, 3), dtype=np.uint8)


# --- AlexNet in Caffe's layout --------------------------------------------------------------


@pytest.fixture
def layers(rng):
    """A narrow AlexNet: weights and biases of each layer."""
    shapes = {
        "conv1": (11, 11, 3, 4),
        "conv2": (5, 5, 2, 6),
        "conv3": (3, 3, 6, 8),
        "conv4": (3, 3, 4, 6),
        "conv5": (3, 3, 3, 4),
        "fc6": (144, 10),
        "fc7": (10, 7),
        "fc8": (7, 5),
    }
    return {
        name: [
            (rng.standard_normal(shape) / np.sqrt(np.prod(shape[:-1]))).astype(np.float32),
            rng.standard_normal(shape[-1]).astype(np.float32),
        ]
        for name, shape in shapes.items()
    }


@pytest.mark.parametrize("protocol", [2, 4])
def test_caffe_alexnet_is_what_the_loops_say(tmp_path, layers, rng, protocol):
    path = tmp_path / "alexnet.npy"
    if protocol == 4:
        np.save(path, layers, allow_pickle=True)
    else:
        path.write_bytes(pickle.dumps(layers, protocol=protocol))
    picture = rng.integers(0, 255, (227, 227, 3), dtype=np.uint8)
    state = torch.get_rng_state()
    network = load_backbone(f"alexnet_caffe:{path}")
    assert torch.equal(torch.get_rng_state(), state)
    assert network.size == 227
    features = extract_features(picture[None], f"alexnet_caffe:{path}")
    expected = caffe_alexnet(picture, layers)
    assert (expected > 0).any()
    assert_allclose(features[0], expected, rtol=1e-3, atol=1e-3)


def test_the_published_code_exchanges_red_and_blue(tmp_path, layers, rng):
    np.save(tmp_path / "alexnet.npy", layers, allow_pickle=True)
    picture = rng.integers(0, 255, (1, 227, 227, 3), dtype=np.uint8)
    found = extract_features(picture, f"alexnet_wsdhq:{tmp_path / 'alexnet.npy'}")
    expected = caffe_alexnet(picture[0, :, :, ::-1], layers)
    assert_allclose(found[0], expected, rtol=1e-3, atol=1e-3)


def test_caffe_files_of_python_2(tmp_path, layers):
    """Protocol 2 holds bytes as text; keys may be bytes, which latin-1 makes text."""
    text = pickle.dumps({"conv1": [np.arange(3.0), np.arange(2)]}, protocol=0)
    path = tmp_path / "old.pkl"
    path.write_bytes(text)
    assert_array_equal(read_arrays(path)["conv1"][0], np.arange(3.0))


class Hostile:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("form", ["npy", "pickle", "in an array"])
def test_code_in_a_file_of_weights_is_not_run(tmp_path, layers, form):
    path, trace = tmp_path / "alexnet.npy", tmp_path / "trace"
    layers["fc6"][1] = Hostile(trace)
    if form == "npy":
        np.save(path, layers, allow_pickle=True)
    elif form == "pickle":
        path.write_bytes(pickle.dumps(layers))
    else:
        layers["fc6"][1] = np.array([Hostile(trace)], dtype=object)
        np.save(path, layers, allow_pickle=True)
    with pytest.raises(OSError, match=r"alexnet\.npy.*asks for (io|_io|builtins)\.open"):
        load_backbone(f"alexnet_caffe:{path}")
    assert not trace.exists()
    path.write_bytes(b"cbuiltins\neval\n(S'1'\ntR.")
    with pytest.raises(OSError, match=r"asks for builtins\.eval"):
        read_arrays(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda layers: layers.pop("conv3"), "no layer conv3"),
        (lambda layers: layers["conv3"].pop(), "no layer conv3 with weights and biases"),
        (lambda layers: layers["conv4"].__setitem__(0, np.zeros((3, 3, 5, 6))), "conv4.*be 4"),
        (lambda layers: layers["fc6"].__setitem__(0, layers["fc7"][0]), "fc6"),
        (lambda layers: layers["fc7"].__setitem__(1, np.zeros(3)), "fc7.*biases of shape"),
        (lambda layers: layers["fc7"].__setitem__(0, np.zeros((3, 7))), "fc7.*should be 10"),
    ],
)
def test_wrong_layers_are_named(tmp_path, layers, change, message):
    change(layers)
    np.save(tmp_path / "alexnet.npy", layers, allow_pickle=True)
    with pytest.raises(OSError, match=message):
        load_alexnet(tmp_path / "alexnet.npy")


def test_files_that_are_no_weights(tmp_path):
    path = tmp_path / "alexnet.npy"
    with pytest.raises(FileNotFoundError, match=r"alexnet\.npy' of backbone"):
        load_backbone(f"alexnet_caffe:{path}")
    with pytest.raises(FileNotFoundError, match=r"alexnet\.npy"):
        read_arrays(path)
    for content in (b"", b"junk", b"\x93NUMPY", b"\x80\x04"):
        path.write_bytes(content)
        with pytest.raises(OSError, match=r"alexnet\.npy' can't be read"):
            read_arrays(path)
    np.save(path, np.zeros(3))
    with pytest.raises(OSError, match="plain array"):
        read_arrays(path)
    path.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(OSError, match="should hold a dict"):
        read_arrays(path)


# --- names with local weights ---------------------------------------------------------------


def save(state, path):
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file({name: value.contiguous() for name, value in state.items()}, path)
    else:
        torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_efficientnet"])
def test_timm_model_of_a_local_file(tmp_path, images, name, suffix):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    # Of another number of classes than the model's own: only the classifier differs.
    source = timm.create_model(name, pretrained=False, num_classes=3).eval()
    path = tmp_path / f"weights{suffix}"
    save(source.state_dict(), path)
    full = f"timm:{name}@{path}"
    network = load_backbone(full)
    source.reset_classifier(0)
    network_like = Backbone(source, size=network.size, mean=network.mean, std=network.std)
    features = extract_features(images, full)
    assert_allclose(features, extract_features(images, network_like), atol=1e-5)
    # Another file at the same place is another network, in memory and in the cache on disk.
    loader = ImageLoader(full, memory=tmp_path / "kept").fit(images)
    assert_allclose(loader.transform(images), features, atol=1e-5)
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.mul_(1.5)
    state = {**timm.create_model(name, num_classes=3).state_dict(), **source.state_dict()}
    save(state, path)
    os.utime(path, (1, 1))  # clocks of disks are coarse
    assert not np.allclose(loader.transform(images), features, atol=1e-3)


def test_torchvision_model_of_a_local_file(tmp_path, images):
    import torchvision

    torch.manual_seed(0)
    source = torchvision.models.shufflenet_v2_x0_5(num_classes=4).eval()
    save(source.state_dict(), tmp_path / "weights.pth")
    network = load_backbone(f"shufflenet_v2_x0_5@{tmp_path / 'weights.pth'}")
    source.fc = torch.nn.Identity()
    assert network.size == 224
    expected = extract_features(images, Backbone(source))
    assert_allclose(extract_features(images, network), expected, atol=1e-5)
    assert expected.shape == (3, 1024)


def test_lite_1_and_2_are_timm_models(tmp_path):
    timm = pytest.importorskip("timm")
    model = timm.create_model("tf_efficientnet_lite1", pretrained=False)
    save(model.state_dict(), tmp_path / "lite1.pth")
    network = load_backbone(f"efficientnet_lite1@{tmp_path / 'lite1.pth'}")
    assert network.size == 240
    assert network.mean == (127.5,) * 3
    assert networks._LITE_IN_TIMM["efficientnet_lite2"] in timm.list_models()


def test_classifiers_are_found():
    import torchvision

    alexnet, name = networks._without_classifier(torchvision.models.alexnet())
    assert name == "classifier.6"
    assert alexnet.eval()(torch.zeros(1, 3, 224, 224)).shape == (1, 4096)
    with torch.device("meta"):
        vit = torchvision.models.vit_b_16()
        assert networks._without_classifier(vit)[1] == "heads.head"
        with pytest.raises(ValueError, match="SqueezeNet has no linear layer"):
            networks._without_classifier(torchvision.models.squeezenet1_0())


def test_files_of_another_network(tmp_path):
    import torchvision

    own = torchvision.models.shufflenet_v2_x0_5().state_dict()
    path = tmp_path / "weights.pth"
    name = f"shufflenet_v2_x0_5@{path}"

    def check(state, message):
        networks._load_named.cache_clear()
        torch.save(state, path)
        with pytest.raises(OSError, match=message):
            load_backbone(name)

    first = next(iter(own))
    check({k: v for k, v in own.items() if k != first}, f"lacks {first}")
    check({**own, "extra.weight": torch.zeros(1)}, r"has extra\.weight besides")
    check({**own, first: torch.zeros(2)}, f"{first} should be of shape")
    check({"epoch": 3}, "names and tensors")
    check([1], "names and tensors")
    path.write_bytes(pickle.dumps({"a": Hostile(tmp_path / "trace")}))
    with pytest.raises(OSError, match=r"weights\.pth' can't be read"):
        load_backbone(name)
    assert not (tmp_path / "trace").exists()
    with pytest.raises(FileNotFoundError, match=r"none\.pth.*do not exist"):
        load_backbone(f"resnet18@{tmp_path / 'none.pth'}")


def test_weights_out_of_timms_reach(monkeypatch):
    timm = pytest.importorskip("timm")

    def refuse(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(OSError, match=r"no route to host.*timm:test_vit@PATH"):
        load_backbone("timm:test_vit")
    with pytest.raises(OSError, match="no route"):
        load_backbone("timm:hf-hub:somebody/model@main")


# --- running --------------------------------------------------------------------------------


def small_network():
    torch.manual_seed(0)
    return Backbone(
        torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, 2),
            torch.nn.ReLU(),
            torch.nn.Dropout(),
            torch.nn.Conv2d(8, 16, 3),
        ),
        size=32,
    )


def test_bfloat16_is_near_float32_and_the_same_each_time(images):
    network = small_network()
    exact = extract_features(images, network)
    rough = extract_features(images, network, dtype="bfloat16")
    assert rough.dtype == np.float32
    assert not np.array_equal(rough, exact)
    assert_allclose(rough, exact, atol=0.03)
    assert_array_equal(rough, extract_features(images, network, dtype="bfloat16"))
    assert all(value.dtype == torch.float32 for value in network.module.state_dict().values())
    loaded = ImageLoader(network, dtype="bfloat16").fit(images).transform(images)
    assert_array_equal(loaded, rough)
    with pytest.raises(ValueError, match="dtype='half' should be one of 'auto'"):
        extract_features(images, network, dtype="half")


def test_auto_is_bfloat16_only_where_it_is_fast(monkeypatch):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert compute_dtype("auto", CPU) == torch.float32
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert compute_dtype("auto", CPU) == torch.bfloat16
    assert compute_dtype("auto", CPU, 32) == torch.bfloat16
    assert compute_dtype("auto", CPU, 16) == torch.float32
    assert compute_dtype("auto", torch.device("mps")) == torch.float32
    assert compute_dtype("float32", CPU) == torch.float32


def test_kept_features_differ_by_dtype_and_background(tmp_path, images):
    network = small_network()
    memory = tmp_path / "kept"
    exact = ImageLoader(network, memory=memory).fit(images).transform(images)
    rough = ImageLoader(network, memory=memory, dtype="bfloat16").fit(images).transform(images)
    assert not np.array_equal(exact, rough)
    clear = [np.zeros((8, 8, 4), dtype=np.uint8)]
    white = ImageLoader(network, memory=memory).fit(clear).transform(clear)
    black = ImageLoader(network, memory=memory, background="black").fit(clear).transform(clear)
    assert np.abs(white - black).max() > 0.1


def test_each_part_keeps_its_mode(images):
    """A network whose normalisation is frozen within a training module stays so."""
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).train()
    module[1].eval()
    extract_features(images, Backbone(module, size=8))
    assert [part.training for part in module.modules()] == [True, True, False]


def test_an_error_ends_the_reading(images, tmp_path):
    import threading

    before = threading.active_count()

    def fail(batch):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        extract_features(list(images) * 20, fail, batch_size=2)
    (tmp_path / "broken.png").write_bytes(b"")
    with pytest.raises(OSError, match=r"broken\.png"):
        extract_features([*images, tmp_path / "broken.png"], small_network(), batch_size=1)
    assert threading.active_count() == before


def test_images_a_second_are_told(images, caplog, capsys):
    with caplog.at_level(logging.INFO, "skwsdhq"):
        extract_features(images, small_network(), verbose=1)
    assert "3 images in" in caplog.text
    assert "a second" in caplog.text
    captured = capsys.readouterr()
    assert "img/s" in captured.err
    assert captured.out == ""
    assert _backbones_run.logger.name == "skwsdhq.backbones"


# --- images that can't be read --------------------------------------------------------------


@pytest.fixture
def with_broken(tmp_path, images):
    """Paths of five images, of which 1 is damaged and 3 is missing."""
    paths = [str(tmp_path / f"{i}.png") for i in range(5)]
    for i, path in enumerate(paths):
        if i != 3:
            Image.fromarray(images[i % 3]).save(path)
    content = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(content[: len(content) // 2])
    return paths


def test_extraction_skips_and_tells_rows(with_broken, images, tmp_path):
    network = MeanColours(tmp_path / "trace")
    with pytest.raises(OSError, match=r"1\.png"):
        extract_features(with_broken, network)
    features, rows = extract_features(with_broken, network, on_error="skip", batch_size=2)
    assert rows.tolist() == [0, 2, 4]
    assert_allclose(features, extract_features(images[[0, 2, 1]], network))
    features, rows = extract_features(["none.png"], network, on_error="skip")
    assert (features.shape, rows.tolist()) == ((0, 12), [])
    features, rows = extract_features(images, network, on_error="skip")
    assert (features.shape, rows.tolist()) == ((3, 12), [0, 1, 2])


@pytest.mark.parametrize("memory", [False, True])
def test_loader_keeps_rows_with_their_tags(with_broken, images, tmp_path, memory):
    network = MeanColours(tmp_path / "trace")
    kept = tmp_path / "kept" if memory else None
    loader = ImageLoader(network, memory=kept, on_error="skip", background=(1, 2, 3))
    for _ in range(2):
        loader.fit(with_broken)
        with pytest.warns(UserWarning, match=r"2 images can't be read.*row 1: .*1\.png.*row 3: "):
            features = loader.transform(with_broken)
        assert list(loader.skipped_) == [1, 3]
        assert_allclose(features[[1, 3]], np.tile([1, 2, 3], (2, 4)))
        expected = extract_features(images[[0, 2, 1]], network)
        assert_allclose(features[[0, 2, 4]], expected)
    with pytest.raises(OSError, match=r"1\.png"):
        ImageLoader(network, memory=kept, background=(1, 2, 3)).fit(with_broken[:2]).transform(
            with_broken[:2]
        )
    # Repaired, a file is read again.
    Image.fromarray(images[1]).save(with_broken[1])
    Image.fromarray(images[0]).save(with_broken[3])
    features = loader.transform(with_broken)
    assert loader.skipped_ == {}
    assert_allclose(features, extract_features(with_broken, network))


def test_loader_of_pictures_skips_too(with_broken):
    loader = ImageLoader(backbone=None, size=8, on_error="skip").fit(with_broken)
    with pytest.warns(UserWarning, match="2 images can't be read"):
        pictures = loader.transform(with_broken)
    assert pictures.shape == (5, 8, 8, 3)
    assert_array_equal(pictures[[1, 3]], 255)
    with pytest.raises(OSError, match=r"1\.png"):
        ImageLoader(backbone=None, size=8).fit(with_broken).transform(with_broken)
    with pytest.raises(ValueError, match="on_error"):
        ImageLoader(backbone=None, on_error="drop").fit(with_broken)


def test_a_broken_first_image_is_no_obstacle_to_fit(with_broken, tmp_path):
    network = MeanColours(tmp_path / "trace")
    assert ImageLoader(network, on_error="skip").fit(with_broken[3:]).n_features_out_ == 12
    with pytest.raises(FileNotFoundError, match=r"3\.png"):
        ImageLoader(network).fit(with_broken[3:])
