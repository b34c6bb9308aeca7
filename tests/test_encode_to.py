"""Codes written to a file in blocks, and gone on with after a stop."""

import json
import os

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal

from skwsdhq import HypersphereEmbedder, WSDHQuantizer
from skwsdhq.datasets import make_tagged_images
from skwsdhq.quantization import _encode_to
from skwsdhq.quantization import quantizer as _quantizer
from skwsdhq.utils.rows import LazyRows, is_lazy


class Sliced:
    """A matrix on a disk, as other libraries hand it out: rows by slices, and nothing else."""

    def __init__(self, array):
        self._array, self.shape, self.dtype = array, array.shape, array.dtype
        self.largest = 0

    def __len__(self):
        return len(self._array)

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        found = self._array[rows]
        self.largest = max(self.largest, len(found))
        return found


class Stopped(Exception):
    pass


@pytest.fixture(scope="module")
def made():
    return make_tagged_images(200, random_state=0)


@pytest.fixture(scope="module")
def model(made):
    embedder = HypersphereEmbedder(kernel_weight=1, random_state=0)
    quantizer = WSDHQuantizer(embedder, n_codebooks=2, n_codewords=16, random_state=0)
    return quantizer.fit(made.data, made.tags)


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch):
    monkeypatch.setattr(_quantizer, "_BLOCK", 32)
    monkeypatch.setattr(_encode_to, "_SAVED_EVERY_S", -1)


def stopped_after(monkeypatch, model, X, path, n_blocks, **options):
    """Begin to encode, and break off in the midst of the block behind so many."""
    whole, calls = type(model).encode, []

    def encode(self, block, *, tags=None):
        calls.append(len(block))
        if len(calls) > n_blocks:
            raise Stopped
        return whole(self, block, tags=tags)

    with monkeypatch.context() as patch:
        patch.setattr(type(model), "encode", encode)
        with pytest.raises(Stopped):
            model.encode_to(X, path, **options)


def mapped(folder, array):
    np.save(folder / "X.npy", array)
    return np.load(folder / "X.npy", mmap_mode="r")


@pytest.mark.parametrize("kind", [np.asarray, pd.DataFrame, Sliced, list, "map"])
def test_the_file_holds_what_encode_gives(made, model, tmp_path, kind):
    X = mapped(tmp_path, made.data) if kind == "map" else kind(made.data)
    codes = model.encode_to(X, tmp_path / "codes.npy")
    assert isinstance(codes, np.memmap)
    assert_array_equal(codes, model.encode(made.data))
    assert codes.dtype == np.uint8
    assert_array_equal(np.load(tmp_path / "codes.npy"), codes)
    assert set(os.listdir(tmp_path)) <= {"codes.npy", "X.npy"}
    if kind is Sliced:
        assert X.largest == 32


def test_tags_of_later_images_are_taken_along(made, model, tmp_path):
    codes = model.encode_to(made.data, tmp_path / "codes.npy", tags=made.tags)
    assert_array_equal(codes, model.encode(made.data, tags=made.tags))


@pytest.mark.parametrize("tags", [False, True])
def test_it_goes_on_where_it_was_stopped(made, model, tmp_path, monkeypatch, tags):
    path, own = tmp_path / "codes.npy", {"tags": made.tags} if tags else {}
    stopped_after(monkeypatch, model, made.data, path, 3, **own)
    assert not path.exists()
    told = json.loads((tmp_path / "codes.npy.progress").read_text())
    assert told["n_done"] == 96
    whole, seen = type(model).encode, []
    monkeypatch.setattr(
        type(model),
        "encode",
        lambda self, block, *, tags=None: seen.append(len(block)) or whole(self, block, tags=tags),
    )
    codes = model.encode_to(made.data, path, **own)
    assert sum(seen) == 32 + 104  # the first block again, to compare
    assert_array_equal(codes, whole(model, made.data, **own))
    assert os.listdir(tmp_path) == ["codes.npy"]


def other_model(made):
    embedder = HypersphereEmbedder(kernel_weight=1, random_state=1)
    quantizer = WSDHQuantizer(embedder, n_codebooks=2, n_codewords=16, random_state=1)
    return quantizer.fit(made.data[:100], made.tags[:100])


def test_another_model_or_other_rows_are_refused(made, model, tmp_path, monkeypatch):
    path = tmp_path / "codes.npy"
    stopped_after(monkeypatch, model, made.data, path, 3)
    with pytest.raises(ValueError, match=r"another model has begun it\. Delete it"):
        other_model(made).encode_to(made.data, path)
    changed = made.data.copy()
    changed[40, 0] += 1
    with pytest.raises(ValueError, match="X, or its tags, are not those"):
        model.encode_to(changed, path)
    with pytest.raises(ValueError, match="begun for 200 rows, X has 150"):
        model.encode_to(made.data[:150], path)
    with pytest.raises(ValueError, match="can't be gone on with"):
        model.encode_to(made.data, path, tags=made.tags)
    # What was begun is still there.
    assert_array_equal(model.encode_to(made.data, path), model.encode(made.data))


def test_the_same_codebooks_behind_another_embedder_are_refused(made, model, tmp_path, monkeypatch):
    path = tmp_path / "codes.npy"
    stopped_after(monkeypatch, model, made.data, path, 3)
    turned = other_model(made)
    turned.codebooks_, turned.metric_ = model.codebooks_, model.metric_
    with pytest.raises(ValueError, match="another model has begun it, or X"):
        turned.encode_to(made.data, path)


@pytest.mark.parametrize("damage", ["progress", "part", "negative"])
def test_damaged_leftovers_are_refused_with_a_way_out(made, model, tmp_path, monkeypatch, damage):
    path = tmp_path / "codes.npy"
    stopped_after(monkeypatch, model, made.data, path, 3)
    told = tmp_path / "codes.npy.progress"
    if damage == "progress":
        told.write_text("{")
    elif damage == "negative":
        told.write_text(json.dumps({**json.loads(told.read_text()), "n_done": -32}))
    else:
        with open(tmp_path / "codes.npy.part", "wb") as file:
            np.save(file, np.zeros((200, 3), np.uint16))
    with pytest.raises(ValueError, match="can't be gone on with"):
        model.encode_to(made.data, path)


def test_progress_without_codes_begins_anew(made, model, tmp_path, monkeypatch):
    path = tmp_path / "codes.npy"
    stopped_after(monkeypatch, model, made.data, path, 3)
    (tmp_path / "codes.npy.part").unlink()
    stopped_after(monkeypatch, model, made.data, path, 0)
    assert not (tmp_path / "codes.npy.progress").exists()
    assert_array_equal(model.encode_to(made.data, path), model.encode(made.data))


def test_an_old_file_stays_until_the_new_one_is_whole(made, model, tmp_path, monkeypatch):
    path = tmp_path / "codes.npy"
    before = np.array(model.encode_to(made.data[:50], path))
    stopped_after(monkeypatch, model, made.data, path, 2)
    assert_array_equal(np.load(path), before)


def test_bad_targets_and_inputs(made, model, tmp_path):
    with pytest.raises(ValueError, match=r"end in \.npy"):
        model.encode_to(made.data, tmp_path / "codes")
    with pytest.raises(TypeError, match=r"path of a \.npy file"):
        model.encode_to(made.data, 3)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        model.encode_to(made.data, tmp_path / "nowhere" / "codes.npy")
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(IsADirectoryError, match="is a folder"):
        model.encode_to(made.data, tmp_path / "folder.npy")
    with pytest.raises(ValueError, match="0 sample"):
        model.encode_to(made.data[:0], tmp_path / "codes.npy")
    with pytest.raises(TypeError, match="whose rows have no numbers"):
        model.encode_to(iter(made.data), tmp_path / "codes.npy")
    assert os.listdir(tmp_path) == ["folder.npy"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes anywhere")
def test_a_folder_that_can_not_be_written(made, model, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        model.encode_to(made.data, tmp_path / "codes.npy")


def test_a_number_that_is_none_is_found_in_its_block(made, model, tmp_path):
    X = made.data.copy()
    X[150, 2] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        model.encode_to(mapped(tmp_path, X), tmp_path / "codes.npy")
    assert not (tmp_path / "codes.npy").exists()


def test_paths_are_read_block_by_block(tmp_path):
    from PIL import Image

    paths = []
    for i in range(40):
        path = tmp_path / f"{i}.png"
        Image.new("RGB", (8, 8), (6 * i, 255 - 6 * i, 40)).save(path)
        paths.append(str(path))

    def mean_colour(batch):
        return batch.mean(axis=(1, 2))

    embedder = HypersphereEmbedder(kernel_weight=1, backbone=mean_colour, random_state=0)
    quantizer = WSDHQuantizer(embedder, n_codebooks=1, n_codewords=4, random_state=0)
    quantizer.fit(paths, [["low"] if i < 20 else ["high"] for i in range(40)])
    codes = quantizer.encode_to(paths, tmp_path / "codes.npy")
    assert_array_equal(codes, quantizer.encode(paths))


@pytest.mark.parametrize("kind", [Sliced, "map"])
def test_rows_on_a_disk_give_what_rows_in_memory_give(made, model, tmp_path, kind):
    X = mapped(tmp_path, made.data) if kind == "map" else kind(made.data)
    assert_array_equal(model.transform(X), model.transform(made.data))
    assert_array_equal(model.encode(X), model.encode(made.data))
    assert_array_equal(model.kneighbors(X, 3)[1], model.kneighbors(made.data, 3)[1])
    for found, expected in zip(
        model.suggest_tags(X, 2), model.suggest_tags(made.data, 2), strict=True
    ):
        assert_array_equal(found, expected)
    assert model.score(X, made.tags) == model.score(made.data, made.tags)


def test_lazy_rows_are_checked_where_they_are_read(made):
    lazy = LazyRows(Sliced(made.data), np.float32)
    assert_array_equal(lazy[5:9], made.data[5:9].astype(np.float32))
    assert is_lazy(lazy)
    assert not is_lazy(made.data)
    assert not is_lazy(pd.DataFrame(made.data))
    with pytest.raises(ValueError, match="NaN"):
        LazyRows(Sliced(np.full((3, 2), np.nan)), np.float32)[:2]
