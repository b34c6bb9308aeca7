"""Fits by several processes, which torchrun starts: what one process gives."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from distributed_program import BATCH_SIZE, MADE, X, embedder, fit_all, fits, quantizer
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.pipeline import make_pipeline
from torch import distributed

from skwsdhq.distributed import fit
from skwsdhq.distributed._paths import TeamImages
from skwsdhq.training.network import Dropout
from skwsdhq.training.team import Share, team_of

needs_gloo = pytest.mark.skipif(
    not (distributed.is_available() and distributed.is_gloo_available()), reason="no gloo"
)


def torchrun(folder, what, *options, n_processes=2):
    program = Path(__file__).with_name("distributed_program.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(n_processes)]
    # Of one machine, on a port of its own.
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", *options]
    path = os.pathsep.join([p for p in sys.path if p])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, program, folder, what],
        env=environment, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[:9000]
    return done


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Fits by one process, of batches twice as large."""
    folder = tmp_path_factory.mktemp("alone")
    fit_all(folder, 2 * BATCH_SIZE)
    return folder


def assert_same(folder, other, name):
    expected = np.load(other / f"{name} alone.npz")
    for rank in range(2):
        found = np.load(folder / f"{name} {rank}.npz")
        assert found.files == expected.files
        for key in found.files:
            if key == "codes":
                # A row that is as near to two codes may take either.
                assert (found[key] == expected[key]).all(axis=1).mean() > 0.98
            else:
                assert_allclose(found[key], expected[key], rtol=1e-4, atol=1e-4, err_msg=key)
    assert_array_equal(found["rows"], np.load(folder / f"{name} 0.npz")["rows"])


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Fits by two processes, and what these refuse."""
    folder = tmp_path_factory.mktemp("together")
    done = torchrun(folder, "fits")
    assert "find_unused_parameters" not in done.stderr
    return folder


@needs_gloo
@pytest.mark.parametrize("name", [name for name, *_ in fits(BATCH_SIZE)])
def test_two_processes_end_as_one_of_twice_the_batch(alone, together, name):
    assert_same(together, alone, name)


@pytest.mark.slow
@needs_gloo
def test_a_killed_run_goes_on(alone, tmp_path):
    torchrun(tmp_path, "killed", "--max-restarts", "1")
    assert (tmp_path / "killed").exists()
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)] == ["2", "2"]
    assert len(list((tmp_path / "kept").iterdir())) == 1
    assert_same(tmp_path, alone, "in memory")


@needs_gloo
def test_what_processes_refuse_all_of_them_refuse(together):
    told = [(together / f"{rank}.txt").read_text().splitlines() for rank in range(2)]
    assert told[0] == told[1]
    tags, models, seeds, kinds, columns, losses, *others = told[0]
    assert "given different tags; give all" in tags
    assert "given different random_state; give all" in models
    assert "random_state=None should be a number" in seeds
    assert "X is a list; give an array of features" in kinds
    assert "0 feature" in columns
    assert "lower learning_rate" in losses
    at_once, summed, in_steps, missing, by_chance, stopped, failed = others
    assert "Input X contains NaN" in at_once
    assert "X contains NaN" in summed
    assert "X contains NaN" in in_steps
    assert "nowhere.png' does not exist" in missing
    assert "given different embedder__random_state; give all" in by_chance
    # The first to ask stops all.
    assert stopped in ("2", "none")
    assert failed in ("KeyError: 'of one process'", "none")


@needs_gloo
def test_each_process_sees_its_own_pictures(together):
    n_seen = [int((together / f"ten crops {rank}.seen").read_text()) for rank in range(2)]
    assert max(n_seen) < 0.6 * 129 * 11  # once as they are, and ten crops
    assert sum(n_seen) >= 129 * 11


def test_images_are_read_one_by_one():
    read = []

    class Pictures:
        def __len__(self):
            return 5

        def __getitem__(self, row):
            read.append(row)
            return np.full((4, 4, 3), row, np.uint8)

    images = TeamImages(Pictures(), None)
    assert (len(images), read) == (5, [])
    assert images[-1].max() == 4
    assert [picture.max() for picture in images[1:3]] == [1, 2]
    assert read == [4, 1, 2]


def test_images_go_by_their_place_not_their_label():
    pandas = pytest.importorskip("pandas")
    labelled = TeamImages(pandas.Series(["a.png", "b.png"], index=[7, 0]), None)
    assert list(labelled) == ["a.png", "b.png"]


def test_dropout_of_other_axes_than_rows():
    layer = Dropout(0.5, torch.Generator().manual_seed(0))
    layer.share = Share(0, 2, 4, 2)
    assert layer(torch.ones(2, 64)).shape == (2, 64)
    assert layer(torch.ones(5, 2, 64)).shape == (5, 2, 64)  # places before rows


def test_a_group_that_does_not_serve_the_device_is_refused(monkeypatch):
    # A GPU's group, and rows that are in memory.
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed, "get_backend_config", lambda: "cuda:nccl")
    for model in (embedder(64, device="cpu"), quantizer(embedder(64, device="cpu"), device="cuda")):
        with pytest.raises(ValueError, match="by cuda:nccl, which does not serve device=cpu"):
            fit(model, X, MADE.tags)
    monkeypatch.setattr(distributed, "get_backend_config", lambda: "cpu:gloo")
    with pytest.raises(ValueError, match="does not serve device=cuda; leave init_process_group"):
        fit(embedder(64, device="cuda"), X, MADE.tags)


def test_one_process_is_a_plain_fit():
    model = fit(quantizer(embedder(64)), X, MADE.tags)
    assert_array_equal(model.codes_, quantizer(embedder(64)).fit(X, MADE.tags).codes_)
    assert team_of(X) is None
    with pytest.raises(TypeError, match="got a Pipeline"):
        fit(make_pipeline(quantizer(embedder(64))), X, MADE.tags)
