"""A fit to rows on a disk: the model of an array, and never more than a block of X at once."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from test_encode_to import Sliced, mapped

from skwsdhq import HypersphereEmbedder, TagEnhancer, TagKernelRegressor, WSDHQuantizer
from skwsdhq.datasets import make_tagged_images
from skwsdhq.embedding._fitting import fit_regression
from skwsdhq.embedding._kernel import kernel_embeddings
from skwsdhq.embedding._sums import KernelSums
from skwsdhq.quantization import _codes
from skwsdhq.sphere import normalize_rows
from skwsdhq.utils import rows as _rows
from skwsdhq.utils.rows import LazyRows, joined_blocks, mapped_rows, room_for

# Of float32: sums over other blocks, products of other shapes.
TOLERANCE = {"rtol": 0, "atol": 2e-5}
BLOCK = 4096  # rows that are read at once, at most; a sample of landmarks or of codes aside


@pytest.fixture(scope="module")
def made():
    return make_tagged_images(9000, n_features=16, wrong=0.2, random_state=0)


def kernel(**parameters):
    return TagKernelRegressor(max_landmarks=100, random_state=0, **parameters)


def quantizer(**parameters):
    part = TagKernelRegressor(max_landmarks=100)
    embedder = HypersphereEmbedder(kernel=part, random_state=0, **parameters)
    return WSDHQuantizer(embedder, n_codebooks=2, n_codewords=16, random_state=0)


@pytest.mark.parametrize("kind", [Sliced, "map"])
def test_a_regression_is_that_of_an_array(made, tmp_path, kind):
    X = mapped(tmp_path, made.data) if kind == "map" else kind(made.data)
    whole, read = kernel().fit(made.data, made.tags), kernel().fit(X, made.tags)
    assert_array_equal(read.kernel_["landmarks"], whole.kernel_["landmarks"])
    assert_allclose(read.transform(made.data), whole.transform(made.data), **TOLERANCE)
    if kind is Sliced:
        assert X.largest <= BLOCK


@pytest.mark.parametrize(
    "options", [{"kernel_weight": 1}, {"max_iter": 1, "hidden_layer_sizes": (16,)}]
)
@pytest.mark.parametrize("kind", [Sliced, "map"])
def test_a_quantizer_is_that_of_an_array(made, tmp_path, monkeypatch, kind, options):
    monkeypatch.setattr(_codes, "_BLOCK", BLOCK)
    X = mapped(tmp_path, made.data) if kind == "map" else kind(made.data)
    whole = quantizer(**options).fit(made.data, made.tags)
    read = quantizer(**options).fit(X, made.tags)
    assert_allclose(read.transform(made.data), whole.transform(made.data), **TOLERANCE)
    assert (read.codes_ == whole.codes_).mean() > 0.999
    assert_allclose(read.decode(read.codes_), whole.decode(whole.codes_), atol=0.02)
    if kind is Sliced:
        assert X.largest <= BLOCK


@pytest.mark.parametrize("kind", [Sliced, "map"])
def test_codebooks_of_embeddings_are_those_of_an_array(made, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(_codes, "_BLOCK", BLOCK)
    X = mapped(tmp_path, made.data) if kind == "map" else kind(made.data)
    options = {"n_codebooks": 2, "n_codewords": 16, "random_state": 0}
    whole = WSDHQuantizer("passthrough", **options).fit(made.data)
    read = WSDHQuantizer("passthrough", **options).fit(X)
    assert_array_equal(read.codebooks_, whole.codebooks_)
    assert_array_equal(read.codes_, whole.codes_)
    if kind is Sliced:
        assert X.largest <= BLOCK


def test_codebooks_are_learned_from_so_many_rows(made, monkeypatch):
    rows = normalize_rows(made.data)
    seen = []
    learn = _codes._codebooks.learn_codebooks
    monkeypatch.setattr(
        _codes._codebooks,
        "learn_codebooks",
        lambda part, *args, **options: seen.append(len(part)) or learn(part, *args, **options),
    )
    model = WSDHQuantizer("passthrough", n_codebooks=2, n_codewords=4, random_state=0).fit(rows)
    assert seen == [8192]  # 512 for each codeword, and no fewer than that
    assert len(model.codes_) == len(rows)
    assert_array_equal(model.codes_, model.encode(rows))


def test_paths_give_the_model_of_pictures_though_features_lie_in_a_file(tmp_path, monkeypatch):
    random = np.random.RandomState(0)
    pictures = random.randint(0, 256, (60, 8, 8, 3)).astype(np.uint8)
    paths = [tmp_path / f"{i}.png" for i in range(60)]
    for path, picture in zip(paths, pictures, strict=True):
        Image.fromarray(picture).save(path)
    tags = [["low"] if p.mean() < 127 else ["high"] for p in pictures]

    def pixels(batch):
        return batch[:, ::56, ::56].reshape(len(batch), -1).astype(np.float32)

    def fitted(X):
        embedder = HypersphereEmbedder(backbone=pixels, max_iter=3, random_state=0)
        options = {"n_codebooks": 1, "n_codewords": 4, "random_state": 0}
        return WSDHQuantizer(embedder, **options).fit(X, tags)

    whole = fitted(list(pictures))
    rooms = []
    monkeypatch.setattr(_rows, "_IN_MEMORY", 100)
    maps = np.memmap

    class Counted(maps):
        def __new__(cls, file, *args, **options):
            rooms.append(options["shape"])
            return maps(file, *args, **options)

    monkeypatch.setattr(np, "memmap", Counted)
    read = fitted(paths)
    monkeypatch.undo()
    assert (60, 48) in rooms  # features, and then what is made of them
    assert_allclose(read.transform(paths), whole.transform(list(pictures)), **TOLERANCE)


def test_room_for_much_is_a_file_that_goes_with_the_array(monkeypatch, tmp_path):
    assert not isinstance(room_for((3, 2), np.float32), np.memmap)
    monkeypatch.setattr(_rows, "_IN_MEMORY", 10)
    monkeypatch.setattr(_rows.tempfile, "tempdir", str(tmp_path))
    room = room_for((3, 2), np.float32)
    room[:] = 1
    assert isinstance(room, np.memmap)
    assert room.shape == (3, 2)
    assert room.sum() == 6
    assert not any(tmp_path.iterdir())


def test_rows_of_a_function_are_made_when_they_are_asked_for(made):
    source = Sliced(made.data)
    doubled = mapped_rows(LazyRows(source, np.float32), lambda rows: rows * 2)
    assert source.largest == 0
    picked = np.array([7, 3, 8500, 3])
    assert_array_equal(doubled[picked], made.data[picked].astype(np.float32) * 2)
    assert_array_equal(np.asarray(doubled), made.data.astype(np.float32) * 2)
    assert source.largest <= BLOCK
    assert_array_equal(joined_blocks(iter([np.ones((2, 3))]), 2), np.ones((2, 3)))
    mapped_memory = np.lib.stride_tricks.as_strided(made.data)
    assert isinstance(mapped_rows(mapped_memory, lambda rows: rows), np.ndarray)


def test_sums_add_up_in_any_grouping():
    random = np.random.RandomState(0)

    def some():
        return KernelSums(
            random.rand(3, 3), random.rand(3, 2), random.rand(3), 5, 2.0, random.rand(2), 1.5
        )

    a, b, c = some(), some(), some()
    for one, other in zip((a + b) + c, a + (b + c), strict=True):
        assert_allclose(one, other)
    assert (a + b).n_rows == 10


@pytest.mark.parametrize("consistency", ["auto", 0])
def test_the_regression_by_sums_is_near_the_exact_one(consistency):
    """With all but one row a landmark, it is the regression of which all rows are landmarks."""
    few = make_tagged_images(300, n_features=16, wrong=0.2, random_state=0)
    enhancer = TagEnhancer().fit(few.tags)
    indicator = enhancer.transform(few.tags)
    units = normalize_rows(few.data - few.data.mean(axis=0)).astype(np.float32)
    tagged = int((np.diff(indicator.indptr) > 0).sum())
    options = {"gamma": 2.0, "alpha": 0.7, "consistency": consistency}
    found = [
        fit_regression(
            units,
            indicator,
            enhancer.concept_vectors_,
            max_landmarks=most,
            random_state=np.random.RandomState(0),
            **options,
        )
        for most in (tagged, tagged - 1)
    ]
    rows = [normalize_rows(kernel_embeddings(units, f.landmarks, f.coefs, 2.0)) for f in found]
    assert (rows[0] * rows[1]).sum(axis=1).min() > 0.99
