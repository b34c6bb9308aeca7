"""Runs that are killed, interrupted or spoiled."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from reference.persistence import leaves, put_together, replaced, take_apart
from sklearn.exceptions import ConvergenceWarning

from skwsdhq import HypersphereEmbedder, WSDHQuantizer, load
from skwsdhq.datasets import make_tagged_images
from skwsdhq.embedding import (
    AdamSchedule,
    EarlyStopping,
    FeatureScaler,
    FineTuning,
    TagKernelRegressor,
)
from skwsdhq.embedding._upgrade import parts_from_flat
from skwsdhq.losses import AdaptiveMargin
from skwsdhq.persistence import LoadError
from skwsdhq.quantization import _codes
from skwsdhq.training.checkpoint import Checkpoint, fingerprint
from skwsdhq.training.optimizer import Steps


@pytest.fixture(scope="module")
def made():
    return make_tagged_images(90, random_state=0)


def quantizer(folder=None, **parameters):
    embedder = HypersphereEmbedder(
        hidden_layer_sizes=(16,),
        max_iter=6,
        batch_size=32,
        learning_rate=0.01,
        checkpoint_dir=folder,
        **parts_from_flat(parameters),
    )
    return WSDHQuantizer(
        embedder, n_codebooks=2, n_codewords=8, code_update_period=2, random_state=0
    )


# A program that fits and prints its codes, but kills itself at a given event: a step of Adam, an
# update of the codes, a write or a rename of a file.
PROGRAM = """
    import os, signal, sys
    import numpy as np
    import torch
    from torch import nn
    from skwsdhq import HypersphereEmbedder, WSDHQuantizer, load
    from skwsdhq.quantization import _codes
    from skwsdhq.embedding import FineTuning
    from skwsdhq.training.optimizer import Steps
    from skwsdhq.backbones import Backbone
    from skwsdhq.datasets import load_emoji

    fatal, folder = int(sys.argv[1]), sys.argv[2] or None
    events = 0

    def watched(function):
        def call(*args, **kwargs):
            global events
            events += 1
            if events == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*args, **kwargs)
            events += 1
            if events == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return result
        return call

    Steps.step = watched(Steps.step)
    _codes.CodeAlternation.update = watched(_codes.CodeAlternation.update)
    os.replace, os.fsync = watched(os.replace), watched(os.fsync)
    data = load_emoji()
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, 4), nn.Dropout(0.1), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    )
    embedder = HypersphereEmbedder(
        backbone=Backbone(net, size=24), max_iter=4,
        finetune=FineTuning("all", head_iter=2, dtype="float32"),
        hidden_layer_sizes=(8,), batch_size=30, learning_rate=0.01, checkpoint_dir=folder,
    )
    model = WSDHQuantizer(embedder, n_codebooks=2, n_codewords=8, random_state=0)
    model.fit(data.images[:80], data.tags[:80])
    print(events, model.codes_.tobytes().hex(), len(model.history_["loss"]))
"""


def run(fatal, folder):
    program = textwrap.dedent(PROGRAM)
    arguments = [sys.executable, "-c", program, str(fatal), str(folder)]
    return subprocess.run(arguments, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("n_times", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_a_run_that_is_killed_ends_as_one_that_never_stopped(tmp_path, n_times):
    whole = run(0, "")
    assert whole.returncode == 0, whole.stderr
    n_events, codes, n_epochs = whole.stdout.split()
    assert n_epochs == "6"
    random = np.random.RandomState(int.from_bytes(os.urandom(4), "little"))
    moments = random.randint(1, int(n_events) // 3, size=n_times)
    for moment in moments:
        killed = run(moment, tmp_path)
        assert killed.returncode == -signal.SIGKILL, (moments, killed.stderr)
        parts = list(tmp_path.glob("*.safetensors"))
        assert len(parts) <= 1
    last = run(0, tmp_path)
    assert last.returncode == 0, last.stderr
    assert last.stdout.split()[1:] == [codes, n_epochs], moments


def test_a_run_that_ended_is_not_run_again(made, tmp_path, monkeypatch):
    first = quantizer(tmp_path).fit(made.data, made.tags)
    plain = quantizer().fit(made.data, made.tags)
    assert_array_equal(first.codes_, plain.codes_)
    assert first.history_ == plain.history_
    monkeypatch.setattr(Steps, "step", None)
    again = quantizer(tmp_path).fit(made.data, made.tags)
    assert_array_equal(again.codes_, first.codes_)
    assert again.history_ == first.history_
    assert again.n_iter_ == 6


@pytest.mark.parametrize("n_done", [1, 4])
def test_an_interrupted_run_goes_on(made, tmp_path, monkeypatch, n_done):
    step, count = Steps.step, [0]

    def interrupted(*args):
        count[0] += 1
        if count[0] == 3 * n_done + 2:  # three batches an epoch
            raise KeyboardInterrupt
        return step(*args)

    options = {"early_stopping": True, "n_iter_no_change": 5}
    monkeypatch.setattr(Steps, "step", interrupted)
    with pytest.warns(ConvergenceWarning, match=f"interrupted after {n_done} of 6 epochs"):
        stopped = quantizer(tmp_path, **options).fit(made.data, made.tags)
    assert stopped.n_iter_ == n_done
    assert_array_equal(stopped.codes_, stopped.encode(made.data))
    monkeypatch.undo()
    whole = quantizer(**options).fit(made.data, made.tags)
    resumed = quantizer(tmp_path, **options).fit(made.data, made.tags)
    assert resumed.history_ == whole.history_
    assert_array_equal(resumed.codes_, whole.codes_)


def test_what_an_interrupted_run_leaves_is_the_last_epoch(made, monkeypatch):
    """Also where the interruption comes within an update of the codes."""
    flat = {"hidden_layer_sizes": (8,), "random_state": 0, "learning_rate_decay": 1.0}
    options = parts_from_flat(flat)
    whole = HypersphereEmbedder(max_iter=2, **options).fit(made.data, made.tags)
    step, count = Steps.step, [0]

    def interrupted(*args):
        result = step(*args)
        count[0] += 1
        if count[0] == 3:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(Steps, "step", interrupted)
    with pytest.warns(ConvergenceWarning, match="interrupted after 2 of 5"):
        stopped = HypersphereEmbedder(max_iter=5, **options).fit(made.data, made.tags)
    assert_array_equal(stopped.coefs_[0], whole.coefs_[0])
    count[0] = 2
    with pytest.raises(KeyboardInterrupt):
        HypersphereEmbedder(max_iter=5, **options).fit(made.data, made.tags)
    monkeypatch.undo()
    update, count = _codes.CodeAlternation.update, [0]

    def broken(self, *args):
        error = update(self, *args)
        count[0] += 1
        if count[0] == 2:
            raise KeyboardInterrupt
        return error

    monkeypatch.setattr(_codes.CodeAlternation, "update", broken)
    with pytest.warns(ConvergenceWarning, match="interrupted after 3 of 6"):
        stopped = quantizer().fit(made.data, made.tags)
    assert_array_equal(stopped.codes_, stopped.encode(made.data))
    assert stopped.kneighbors(made.data[:3], 2)[1].shape == (3, 2)


def test_a_spoiled_loss_keeps_the_last_good_state(made, monkeypatch):
    make, count = AdaptiveMargin.start, [0]

    def spoiled(*args, **kwargs):
        loss = make(*args, **kwargs)

        def call(outputs, rows):
            count[0] += 1
            return loss(outputs, rows) * (float("nan") if count[0] == 8 else 1.0)

        return call

    monkeypatch.setattr(AdaptiveMargin, "start", spoiled)
    model = quantizer()
    with pytest.raises(FloatingPointError, match="epoch 3 of 6, batch 2 of 3"):
        model.fit(made.data, made.tags)
    assert model.n_iter_ == 2
    assert np.isfinite(model.codebooks_).all()
    assert_array_equal(model.codes_, model.encode(made.data))
    count[0] = 0
    embedder = model.embedder
    with pytest.raises(FloatingPointError, match="nan"):
        embedder.set_params(random_state=0).fit(made.data, made.tags)
    assert np.isfinite(embedder.transform(made.data)).all()
    assert embedder.n_iter_ == 2


def test_other_parameters_or_data_use_another_file(made, tmp_path):
    quantizer(tmp_path).fit(made.data, made.tags)
    quantizer(tmp_path, dropout=0.25).fit(made.data, made.tags)
    quantizer(tmp_path).fit(made.data + 0.01, made.tags)
    quantizer(tmp_path).fit(made.data, made.tags[::-1])
    quantizer(tmp_path).set_params(metric_mix=0.5).fit(made.data, made.tags)
    quantizer(tmp_path).set_params(random_state=1).fit(made.data, made.tags)
    assert len(list(tmp_path.iterdir())) == 6
    quantizer(tmp_path).set_params(codebook_iters=1).fit(made.data, made.tags)
    quantizer(tmp_path, verbose=0, device="cpu").fit(made.data, made.tags)
    assert len(list(tmp_path.iterdir())) == 6


def test_a_checkpoint_needs_a_seed_and_says_when_it_is_damaged(made, tmp_path):
    with pytest.raises(ValueError, match="checkpoint_dir needs a random_state"):
        HypersphereEmbedder(checkpoint_dir=tmp_path).fit(made.data, made.tags)
    with pytest.raises(ValueError, match="checkpoint_dir needs a random_state"):
        WSDHQuantizer(checkpoint_dir=tmp_path, n_codewords=8).fit(made.data, made.tags)
    quantizer(tmp_path).fit(made.data, made.tags)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(LoadError, match=r"cut short.*Delete it to start anew"):
        quantizer(tmp_path).fit(made.data, made.tags)


def test_the_default_embedder_takes_the_quantizers_folder(made, tmp_path):
    folder = tmp_path / "runs" / "first"
    model = WSDHQuantizer(checkpoint_dir=folder, n_codewords=8, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(made.data, made.tags)
    assert len(list(folder.iterdir())) == 1


def test_fingerprints_tell_things_apart():
    parts = [1, 1.0, "1", None, [1], (1, 2), [[1], 2], {"a": 1}, np.ones(2), np.ones(2, "f4")]
    assert len({fingerprint(part) for part in parts}) == len(parts)
    assert fingerprint("ab", "c") != fingerprint("a", "bc")
    assert fingerprint(np.ones((2, 3))) != fingerprint(np.ones((3, 2)))
    assert fingerprint(np.ones((2, 3)).T) == fingerprint(np.ones((3, 2)))


def test_the_state_comes_back(tmp_path):
    checkpoint = Checkpoint(tmp_path, "a")
    assert checkpoint.load() is None
    state = {
        "figures": [{"loss": 0.5}, {"loss": float("inf")}],
        "generator": torch.Generator().get_state().numpy(),
        "model": [np.ones((2, 3), dtype=np.float32), np.array(1.5)],
        "random_state": np.random.RandomState(3),
        "stop": None,
    }
    checkpoint.save(state)
    loaded = Checkpoint(tmp_path, "a").load()
    assert loaded["figures"] == state["figures"]
    assert_array_equal(loaded["generator"], state["generator"])
    assert_array_equal(loaded["model"][0], state["model"][0])
    assert loaded["random_state"].randint(1000) == np.random.RandomState(3).randint(1000)


def test_a_model_with_folders_is_saved_without_them(made, tmp_path):
    for folder in (tmp_path / "runs", str(tmp_path / "runs")):
        model = quantizer(folder).fit(made.data, made.tags)
        model.set_params(checkpoint_dir=folder, embedder__finetune=FineTuning(cache_dir=folder))
        model.save(tmp_path / "model")
        loaded = load(tmp_path / "model")
        assert_array_equal(loaded.encode(made.data), model.codes_)
        assert loaded.checkpoint_dir is None
        assert loaded.embedder_.checkpoint_dir is None
        assert loaded.embedder.finetune.cache_dir is None


# --- what a run is known by -----------------------------------------------------------------


def embedder_with(folder, **parameters):
    defaults = {"hidden_layer_sizes": (8,), "max_iter": 2, "batch_size": 32, "random_state": 0}
    given = {**defaults, **parameters}
    return HypersphereEmbedder(checkpoint_dir=folder, **parts_from_flat(given))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("batch_size", list(np.array([16, 64]))),
        ("dropout", list(np.array([0.1, 0.6]))),
        ("learning_rate", list(np.array([1e-3, 1e-2], dtype=np.float32))),
        ("hidden_layer_sizes", [[8], [12]]),
        ("hidden_layer_sizes", [np.array([8]), np.array([8, 4])]),
        ("n_hard_negatives", [None, np.int64(1)]),
        ("max_grad_norm", [None, np.float64(1e-3)]),
        ("feature_scaling", [np.True_, np.False_]),
        ("early_stopping", [False, np.True_]),
        ("gamma", [np.float64(1.0), np.float64(0.3)]),
    ],
)
def test_each_parameter_has_a_run_of_its_own(made, tmp_path, name, values):
    for value in values:
        kept = embedder_with(tmp_path, **{name: value}).fit(made.data, made.tags)
        free = embedder_with(None, **{name: value}).fit(made.data, made.tags)
        assert kept.history_ == free.history_
        assert_array_equal(kept.coefs_[0], free.coefs_[0])
    assert len(list(tmp_path.iterdir())) == len(values)


def test_equal_parameters_of_other_types_share_a_run(made, tmp_path):
    for batch, sizes in [(16, (8,)), (np.int64(16), [8]), (np.uint8(16), np.array([8]))]:
        embedder_with(tmp_path, batch_size=batch, hidden_layer_sizes=sizes).fit(
            made.data, made.tags
        )
    assert len(list(tmp_path.iterdir())) == 1


def test_every_parameter_enters_the_fingerprint_or_is_left_out_by_name(made, tmp_path, monkeypatch):
    from skwsdhq.embedding import _training

    seen = []

    def watched(*parts):
        seen.append(parts[0])
        return fingerprint(*parts)

    monkeypatch.setattr(_training, "fingerprint", watched)
    parts = {
        "loss": AdaptiveMargin(),
        "kernel": TagKernelRegressor(),
        "scaler": FeatureScaler(),
        "optimizer": AdamSchedule(),
        "early_stopping": EarlyStopping(),
    }
    model = embedder_with(tmp_path, **parts).fit(made.data, made.tags)
    (parameters,) = seen
    left_out = set(model.get_params()) - set(parameters)
    no_finetuning = {name for name in _training.NOT_IN_FINGERPRINT if "finetune" not in name}
    assert left_out == no_finetuning
    # A part that stands for itself and the default one are one run.
    embedder_with(tmp_path, early_stopping=True).fit(made.data, made.tags)
    assert len(list(tmp_path.iterdir())) == 1


def test_another_version_of_the_package_has_runs_of_its_own(monkeypatch):
    before = fingerprint(1)
    monkeypatch.setattr("skwsdhq.training.checkpoint.__version__", "7.7")
    assert fingerprint(1) != before


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (np.int64(16), 16),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        (np.str_("last"), "last"),
        ([1, 2], (1, 2)),
        (np.array([1, 2]), [1, 2]),
        (np.array(3), 3),
        ({"b", "a"}, {"a", "b"}),
        (np.ones(2000), np.ones(2000).astype(">f8")),
    ],
)
def test_fingerprints_of_equal_values_are_equal(a, b):
    assert fingerprint(a) == fingerprint(b)
    assert fingerprint({"x": [a]}) == fingerprint({"x": [b]})


def test_objects_count_by_what_they_hold():
    from sklearn.linear_model import Ridge

    assert fingerprint(Ridge(alpha=2)) == fingerprint(Ridge(alpha=2))
    assert fingerprint(Ridge(alpha=2)) != fingerprint(Ridge(alpha=3))


# --- disks and files that fail ----------------------------------------------------------------


def test_a_full_disk_costs_the_checkpoint_and_not_the_fit(made, tmp_path, monkeypatch):
    import errno

    free = embedder_with(None).fit(made.data, made.tags)

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.warns(UserWarning, match=r"can't be written: .*No space left.*goes on") as caught:
        kept = embedder_with(tmp_path).fit(made.data, made.tags)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert_array_equal(kept.coefs_[0], free.coefs_[0])
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def stopped(made, tmp_path_factory):
    """A run of two epochs that broke off after the first: its file, and how it would have ended."""
    folder = tmp_path_factory.mktemp("stopped")
    whole = quantizer(None).set_params(embedder__max_iter=2, code_update_period=1)
    whole.fit(made.data, made.tags)

    class Stop(Exception):
        pass

    saves = []

    def save_once(self, state, original=Checkpoint.save):
        if saves:
            raise Stop
        saves.append(self.path)
        original(self, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoint, "save", save_once)
        with pytest.raises(Stop):
            quantizer(folder).set_params(embedder__max_iter=2, code_update_period=1).fit(
                made.data, made.tags
            )
    return saves[0].name, saves[0].read_bytes(), whole


def goes_on(made, folder, stopped, content):
    """The fit that finds this file; None where it refuses it by our own error."""
    name, _, _ = stopped
    (folder / name).write_bytes(content)
    model = quantizer(folder).set_params(embedder__max_iter=2, code_update_period=1)
    try:
        return model.fit(made.data, made.tags)
    except LoadError as error:
        refusal = str(error)
    assert re.search(rf"{name} can't be loaded: .*Delete it to start anew", refusal)
    return None


def test_a_run_goes_on_from_the_file(made, tmp_path, stopped):
    _, content, whole = stopped
    model = goes_on(made, tmp_path, stopped, content)
    assert_array_equal(model.codes_, whole.codes_)
    assert len(model.history_["loss"]) == 2


@pytest.mark.parametrize("n_times", [100, pytest.param(500, marks=pytest.mark.slow)])
def test_damaged_checkpoints(made, tmp_path, stopped, n_times):
    """None of them is believed: a byte flipped, cut, added to, or exchanged."""
    _, content, _ = stopped
    random = np.random.RandomState(0)
    for i in range(n_times):
        damaged = bytearray(content)
        place = random.randint(len(content))
        if i % 4 == 0:
            damaged[place] ^= 1 << random.randint(8)
        elif i % 4 == 1:
            del damaged[place:]
        elif i % 4 == 2:
            damaged[place:place] = random.bytes(1 + random.randint(9))
        else:
            length = min(1 + random.randint(64), len(content) - place)
            damaged[place : place + length] = random.bytes(length)
        if bytes(damaged) != content:
            assert goes_on(made, tmp_path, stopped, bytes(damaged)) is None


LIES = [None, True, -1, 0, 1, 10**9, 0.5, float("nan"), "", "loss", [], {}, [1], {"a": 1}]


def test_checkpoints_that_lie_under_a_right_seal(made, tmp_path, stopped):
    """Each value of the state in turn: refused, or a run that ends."""
    _, content, _ = stopped
    header, arrays = take_apart(content)
    state = json.loads(header["__metadata__"]["state"])
    random = np.random.RandomState(0)
    n_refused = n_tried = 0
    for place in leaves(state):
        for number in random.permutation(len(LIES))[:4]:
            lie = json.dumps(replaced(state, place, LIES[number]))
            metadata = {**header["__metadata__"], "state": lie}
            forged = put_together({**header, "__metadata__": metadata}, arrays)
            model = goes_on(made, tmp_path, stopped, forged)
            n_tried += 1
            n_refused += model is None
            if model is not None:
                assert model.codes_.shape == (len(made.data), 2)
                assert len(model.history_["loss"]) == 2
    assert n_tried > 100
    assert n_refused > n_tried / 2
