"""Kept features and pictures under damage, full disks and several threads: true ones, always."""

import errno
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from skwsdhq import ImageLoader
from skwsdhq.backbones import _cache as _image_cache
from skwsdhq.backbones._cache import FeatureCache
from skwsdhq.images import ResizedImages
from skwsdhq.images import resized as _images_resized
from skwsdhq.images.keys import image_key

N = 12
WIDTH = 5
KEYS = [bytes([i]) * 32 for i in range(N)]
ROWS = np.random.default_rng(0).standard_normal((N, WIDTH)).astype(np.float32)


def damages(content, size, rng, n):
    """Ways to spoil a file of records of that size: a name, and what it becomes."""
    for k in range(n):
        kind = ("flip", "cut", "add", "insert", "remove", "swap", "zero", "repeat")[k % 8]
        data = bytearray(content)
        at = int(rng.integers(len(data)))
        if kind == "flip":
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == "cut":
            del data[at:]
        elif kind == "add":
            data += rng.bytes(int(rng.integers(1, 3 * size)))
        elif kind == "insert":
            data[at:at] = rng.bytes(int(rng.integers(1, size)))
        elif kind == "remove":
            del data[at : at + int(rng.integers(1, 2 * size))]
        elif kind == "swap":  # two stretches, as of other records
            n_bytes = int(rng.integers(1, size))
            one, two = (int(i) for i in rng.integers(0, len(data) - n_bytes, 2))
            first, second = data[one : one + n_bytes], data[two : two + n_bytes]
            data[one : one + n_bytes], data[two : two + n_bytes] = second, first
        elif kind == "zero":
            data[at : at + size] = bytes(len(data[at : at + size]))
        else:
            data += data[at:]
        yield kind, bytes(data)
    yield "empty", b""
    yield "another record of the same name", content[size:] + content[:size]


def rows_of(positions):
    return ROWS[positions]


# --- features -------------------------------------------------------------------------------


def test_damaged_features_are_computed_again(tmp_path, rng):
    FeatureCache(tmp_path).features(KEYS, rows_of, 4)
    (path,) = tmp_path.glob("rows-*")
    content = path.read_bytes()
    computed = []

    def compute(positions):
        computed.extend(positions)
        return rows_of(positions)

    assert len(content) == N * (32 + 4 * WIDTH + 16)
    for kind, data in damages(content, len(content) // N, rng, 600):
        path.write_bytes(data)
        assert_array_equal(FeatureCache(tmp_path).features(KEYS, compute, 4), ROWS, err_msg=kind)
        # Once more, in another order: now all are there.
        assert_array_equal(FeatureCache(tmp_path).features(KEYS[::-1], None, 4), ROWS[::-1])
    assert len(computed) > 600


@pytest.mark.parametrize("what", ["rows", "lock", "folder"])
def test_a_folder_or_a_file_in_the_place_of_another(tmp_path, what):
    folder = tmp_path / "kept"
    FeatureCache(folder).features(KEYS, rows_of, 4)
    place = {"rows": folder / f"rows-{WIDTH}", "lock": folder / "lock", "folder": folder}[what]
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    place.write_bytes(b"") if what == "folder" else place.mkdir()
    if what == "lock":
        (folder / f"rows-{WIDTH}").unlink()  # what is kept needs no lock to be read
    for n_asked in (N, N - 1):
        keys = [*KEYS[:n_asked], bytes(32)]  # one of them is not kept yet
        rows = np.concatenate([ROWS[:n_asked], ROWS[:1]])
        with pytest.warns(UserWarning, match=f"not kept: .*{place.name}"):
            found = FeatureCache(folder).features(keys, rows.__getitem__, 4)
        assert_array_equal(found, rows)


def test_features_of_another_network_are_none_of_this(tmp_path):
    """A file that is copied from the folder of another network is not believed."""
    FeatureCache(tmp_path / "one").features(KEYS, lambda at: ROWS[at] + 1, 4)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert_array_equal(FeatureCache(tmp_path / "two").features(KEYS, rows_of, 4), ROWS)
    assert_array_equal(FeatureCache(tmp_path / "one").features(KEYS, None, 4), ROWS + 1)


def test_damage_is_told(tmp_path, caplog):
    FeatureCache(tmp_path).features(KEYS, rows_of, 4)
    (path,) = tmp_path.glob("rows-*")
    data = bytearray(path.read_bytes())
    data[40] ^= 4
    path.write_bytes(data)
    FeatureCache(tmp_path).features(KEYS, rows_of, 4)
    assert "1 rows of features" in caplog.text
    assert str(tmp_path) in caplog.text


def test_other_files_in_the_folder_are_left_alone(tmp_path):
    for name in ("rows-", "rows-x", "rows--3", "rows-0", "rows-99999999999999", "width", "rows-7"):
        (tmp_path / name).write_bytes(b"3")
    assert_array_equal(FeatureCache(tmp_path).features(KEYS, rows_of, 4), ROWS)
    assert (tmp_path / "width").read_bytes() == b"3"


class Full:
    """A file on a disk that has room for some bytes only."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def write(self, content):
        self.file.write(content[: self.room])
        if len(content) > self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= len(content)


def test_a_full_disk_costs_no_features(tmp_path, monkeypatch):
    def open_full(path, mode="r", **options):
        file = open(path, mode, **options)  # noqa: SIM115
        return Full(file, 100) if mode == "ab" and "rows" in str(path) else file

    monkeypatch.setattr(_image_cache, "open", open_full, raising=False)
    with pytest.warns(UserWarning, match=r"not kept: .*rows-5.*No space left"):
        assert_array_equal(FeatureCache(tmp_path).features(KEYS, rows_of, 4), ROWS)
    monkeypatch.undo()
    assert_array_equal(FeatureCache(tmp_path).features(KEYS, rows_of, 4), ROWS)
    FeatureCache(tmp_path).features(KEYS, None, 4)


def test_errors_of_images_are_not_those_of_the_cache(tmp_path):
    def fail(positions):
        raise OSError("image 'a.jpg' can't be decoded")

    with pytest.raises(OSError, match=r"a\.jpg"):
        FeatureCache(tmp_path).features(KEYS, fail, 4)
    with pytest.raises(ValueError, match="gives 5 and 6 features"):
        FeatureCache(tmp_path).features(KEYS, lambda at: np.zeros((len(at), 5 if at[0] else 6)), 4)


def test_threads_and_damage_at_once(tmp_path):
    """Whoever comes, in whatever order, has the true rows."""
    wrong, stop = [], threading.Event()

    def ask(seed):
        rng = np.random.default_rng(seed)
        for _ in range(30):
            order = rng.permutation(N)
            found = FeatureCache(tmp_path).features(
                [KEYS[i] for i in order],
                lambda at, order=order: ROWS[order[at]],
                3,
            )
            if not np.array_equal(found, ROWS[order]):
                wrong.append(order)

    def damage():
        rng = np.random.default_rng(9)
        while not stop.is_set():
            for path in tmp_path.glob("rows-*"):
                with open(path, "r+b") as file:
                    size = os.fstat(file.fileno()).st_size
                    file.seek(int(rng.integers(size + 1)))
                    file.write(rng.bytes(3))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    breaker = threading.Thread(target=damage)
    for thread in [*threads, breaker]:
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    breaker.join()
    assert not wrong


def test_keys_of_pillow_images():
    """What a picture looks like beside its numbers counts: palette, transparency, EXIF."""
    palette = Image.new("P", (3, 2))
    palette.putpalette([10, 20, 30])
    other = palette.copy()
    other.putpalette([90, 20, 30])
    clear = palette.copy()
    clear.info["transparency"] = 0
    turned = Image.new("RGB", (3, 2))
    turned.getexif()[0x0112] = 6
    pictures = [palette, other, clear, turned, Image.new("RGB", (3, 2)), Image.new("RGB", (2, 3))]
    assert len({image_key(picture) for picture in pictures}) == len(pictures)


# --- pictures -------------------------------------------------------------------------------


@pytest.fixture
def paths(tmp_path, rng):
    names = [str(tmp_path / f"{i}.png") for i in range(5)]
    for name in names:
        Image.fromarray(rng.integers(0, 255, (9, 11, 3), dtype=np.uint8)).save(name)
    return names


def test_damaged_pictures_are_read_again(tmp_path, paths, rng, monkeypatch):
    monkeypatch.setattr("skwsdhq.utils.files.os.fsync", lambda handle: None)  # 600 files
    folder = tmp_path / "kept"
    expected = ResizedImages(paths, 6).rows(range(5))
    assert_array_equal(ResizedImages(paths, 6, cache_dir=folder).rows(range(5)), expected)
    (path,) = folder.glob("*.npy")
    content = path.read_bytes()
    for kind, data in damages(content, 108, rng, 600):
        path.write_bytes(data)
        found = ResizedImages(paths, 6, cache_dir=folder).rows([4, 1, 0, 3, 2])
        assert_array_equal(found, expected[[4, 1, 0, 3, 2]], err_msg=kind)


def test_pictures_that_are_damaged_while_they_are_in_use(tmp_path, paths):
    """A file that is cut or gone under its reader does not end the process."""
    folder = tmp_path / "kept"
    expected = ResizedImages(paths, 6).rows(range(5))
    pictures = ResizedImages(paths, 6, cache_dir=folder)
    for spoil in (
        lambda path: os.truncate(path, 200),
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes()[::-1]),
    ):
        pictures.rows([0])
        (path,) = folder.glob("*.npy")
        spoil(path)
        assert_array_equal(pictures.rows(range(5)), expected)


def test_pictures_of_others_are_not_taken(tmp_path, paths):
    """A whole file under the name of another, as a rename leaves it."""
    folder = tmp_path / "kept"
    ResizedImages(paths, 6, cache_dir=folder).rows([0])
    (path,) = folder.glob("*.npy")
    name = path.name
    path.rename(folder / "first")
    ResizedImages(paths[::-1], 6, cache_dir=folder).rows([0])
    (other,) = folder.glob("*.npy")
    assert other.name != name
    other.rename(folder / name)
    found = ResizedImages(paths, 6, cache_dir=folder).rows(range(5))
    assert_array_equal(found, ResizedImages(paths, 6).rows(range(5)))


def test_blank_pictures_stay_blank(tmp_path, paths):
    folder = tmp_path / "kept"
    Path(paths[2]).write_bytes(b"")
    options = {"cache_dir": folder, "on_error": "skip"}
    ResizedImages(paths, 6, **options).rows([0])
    (path,) = folder.glob("*.npy")
    data = bytearray(path.read_bytes())
    start = len(data) - 20 - 3 * 108  # the row of what can't be read
    data[start : start + 108] = bytes(108)
    path.write_bytes(data)
    assert_array_equal(ResizedImages(paths, 6, **options).rows([2]), 255)


@pytest.mark.parametrize("what", ["file", "lock", "folder"])
def test_pictures_without_a_place(tmp_path, paths, what):
    folder = tmp_path / "kept"
    expected = ResizedImages(paths, 6).rows(range(5))
    ResizedImages(paths, 6, cache_dir=folder).rows([0])
    (path,) = folder.glob("*.npy")
    if what == "folder":
        shutil.rmtree(folder)
        folder.write_bytes(b"")
    else:
        place = path if what == "file" else folder / "images.lock"
        place.unlink()
        place.mkdir()
        if what == "lock":
            path.unlink()
    pictures = ResizedImages(paths, 6, cache_dir=folder)
    with pytest.warns(UserWarning, match=r"resized images are not kept: cache_dir=.*kept"):
        assert_array_equal(pictures.rows(range(5)), expected)
    assert_array_equal(pictures.rows([1]), expected[[1]])  # said once


def test_a_full_disk_costs_no_pictures(tmp_path, paths, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("skwsdhq.utils.files.os.fsync", full)
    expected = ResizedImages(paths, 6).rows(range(5))
    with pytest.warns(UserWarning, match="not kept: .*No space left"):
        found = ResizedImages(paths, 6, cache_dir=tmp_path / "kept").rows(range(5))
    assert_array_equal(found, expected)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["images.lock"]


def test_what_is_written_and_not_read_back(tmp_path, paths, monkeypatch):
    """A disk that loses what it is given is done without, in the end."""
    monkeypatch.setattr(_images_resized.PictureFile, "rows", lambda *args: None)
    expected = ResizedImages(paths, 6).rows(range(5))
    with pytest.warns(UserWarning, match="what is written there is not what is read"):
        found = ResizedImages(paths, 6, cache_dir=tmp_path / "kept").rows(range(5))
    assert_array_equal(found, expected)


def test_a_loader_over_damaged_rows(tmp_path, paths):
    def network(batch):
        return batch.reshape(len(batch), -1)[:, :7]

    expected = ImageLoader(network, size=6).fit_transform(paths)
    loader = ImageLoader(network, size=6, memory=tmp_path / "kept")
    for at in (3, 40, 100, 255):
        loader.fit(paths)
        assert_array_equal(loader.transform(paths), expected)
        (path,) = (tmp_path / "kept").rglob("rows-*")
        data = bytearray(path.read_bytes())
        data[at] ^= 16
        path.write_bytes(data)
    assert_array_equal(loader.transform(paths), expected)
