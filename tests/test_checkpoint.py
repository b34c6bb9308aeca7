"""Runs that are killed, interrupted or spoiled."""

import os
import signal
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.exceptions import ConvergenceWarning

from skwsdhq import HypersphereEmbedder, WSDHQuantizer, _training, load
from skwsdhq._training_checkpoint import Checkpoint, fingerprint
from skwsdhq.datasets import make_tagged_images
from skwsdhq.persistence import LoadError


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
        **parameters,
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
    from skwsdhq import HypersphereEmbedder, WSDHQuantizer, _training, load
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

    _training.Adam.step = watched(_training.Adam.step)
    _training.CodeAlternation.update = watched(_training.CodeAlternation.update)
    os.replace, os.fsync = watched(os.replace), watched(os.fsync)
    data = load_emoji()
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, 4), nn.Dropout(0.1), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    )
    embedder = HypersphereEmbedder(
        backbone=Backbone(net, size=24), finetune="all", head_iter=2, max_iter=4,
        hidden_layer_sizes=(8,), batch_size=30, learning_rate=0.01, dtype="float32",
        checkpoint_dir=folder,
    )
    model = WSDHQuantizer(embedder, n_codebooks=2, n_codewords=8, random_state=0)
    model.fit(data.images[:80], data.tags[:80])
    print(events, model.codes_.tobytes().hex(), len(model.history_["loss"]))
"""


def run(fatal, folder):
    program = textwrap.dedent(PROGRAM)
    arguments = [sys.executable, "-c", program, str(fatal), str(folder)]
    return subprocess.run(arguments, capture_output=True, text=True, check=False)


def test_a_run_killed_five_times_ends_as_one_that_never_stopped(tmp_path):
    whole = run(0, "")
    assert whole.returncode == 0, whole.stderr
    n_events, codes, n_epochs = whole.stdout.split()
    assert n_epochs == "6"
    random = np.random.RandomState(int.from_bytes(os.urandom(4), "little"))
    moments = random.randint(1, int(n_events) // 3, size=5)
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
    monkeypatch.setattr(_training.Adam, "step", None)
    again = quantizer(tmp_path).fit(made.data, made.tags)
    assert_array_equal(again.codes_, first.codes_)
    assert again.history_ == first.history_
    assert again.n_iter_ == 6


@pytest.mark.parametrize("n_done", [1, 4])
def test_an_interrupted_run_goes_on(made, tmp_path, monkeypatch, n_done):
    step, count = _training.Adam.step, [0]

    def interrupted(*args):
        count[0] += 1
        if count[0] == 3 * n_done + 2:  # three batches an epoch
            raise KeyboardInterrupt
        return step(*args)

    options = {"early_stopping": True, "n_iter_no_change": 5}
    monkeypatch.setattr(_training.Adam, "step", interrupted)
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
    options = {"hidden_layer_sizes": (8,), "random_state": 0, "learning_rate_decay": 1.0}
    whole = HypersphereEmbedder(max_iter=2, **options).fit(made.data, made.tags)
    step, count = _training.Adam.step, [0]

    def interrupted(*args):
        result = step(*args)
        count[0] += 1
        if count[0] == 3:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(_training.Adam, "step", interrupted)
    with pytest.warns(ConvergenceWarning, match="interrupted after 2 of 5"):
        stopped = HypersphereEmbedder(max_iter=5, **options).fit(made.data, made.tags)
    assert_array_equal(stopped.coefs_[0], whole.coefs_[0])
    count[0] = 2
    with pytest.raises(KeyboardInterrupt):
        HypersphereEmbedder(max_iter=5, **options).fit(made.data, made.tags)
    monkeypatch.undo()
    update, count = _training.CodeAlternation.update, [0]

    def broken(self, *args):
        error = update(self, *args)
        count[0] += 1
        if count[0] == 2:
            raise KeyboardInterrupt
        return error

    monkeypatch.setattr(_training.CodeAlternation, "update", broken)
    with pytest.warns(ConvergenceWarning, match="interrupted after 3 of 6"):
        stopped = quantizer().fit(made.data, made.tags)
    assert_array_equal(stopped.codes_, stopped.encode(made.data))
    assert stopped.kneighbors(made.data[:3], 2)[1].shape == (3, 2)


def test_a_spoiled_loss_keeps_the_last_good_state(made, monkeypatch):
    make, count = _training.make_loss, [0]

    def spoiled(*args, **kwargs):
        loss = make(*args, **kwargs)

        def call(outputs, rows):
            count[0] += 1
            return loss(outputs, rows) * (float("nan") if count[0] == 8 else 1.0)

        return call

    monkeypatch.setattr(_training, "make_loss", spoiled)
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
        model.set_params(checkpoint_dir=folder, embedder__cache_dir=folder)
        model.save(tmp_path / "model")
        loaded = load(tmp_path / "model")
        assert_array_equal(loaded.encode(made.data), model.codes_)
        assert loaded.checkpoint_dir is None
        assert loaded.embedder_.checkpoint_dir is None
        assert loaded.embedder.cache_dir is None
