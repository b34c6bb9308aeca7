"""Extraction under threads, modes, torch's contexts and Ctrl-C: one answer, nothing touched."""

import contextlib
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from joblib import Parallel, delayed
from numpy.testing import assert_allclose
from torch import nn

from skwsdhq import ImageLoader
from skwsdhq.backbones import Backbone, extract_features, load_backbone
from skwsdhq.backbones import run as _backbones_run
from skwsdhq.utils.pool import mapped


@pytest.fixture
def images(rng):
    return rng.integers(0, 255, (22, 12, 12, 3), dtype=np.uint8)


def network(**backbone):
    """In train mode, as torch makes it; its answer in that mode depends on the batch."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5))
    module.append(nn.Conv2d(6, 5, 3))
    return Backbone(module, size=12, **backbone)


def by_hand(net, images):
    """Features (n, 5), an image at a time, by the module in eval mode."""
    module = net.module.eval()
    mean, std = (torch.tensor(value)[:, None, None] for value in (net.mean, net.std))
    rows = []
    with torch.no_grad():
        for image in images:
            pixels = (torch.tensor(image).permute(2, 0, 1).float() - mean) / std
            rows.append(module(pixels[None]).mean(dim=(2, 3))[0].numpy())
    return np.array(rows)


def state_of(module):
    values = {name: value.clone() for name, value in module.state_dict().items()}
    placed = {name: value.data_ptr() for name, value in module.state_dict().items()}
    strides = [value.stride() for value in module.state_dict().values()]
    return values, placed, strides, [part.training for part in module.modules()]


def assert_untouched(module, before):
    after = state_of(module)
    assert all(torch.equal(value, before[0][name]) for name, value in after[0].items())
    assert after[1:] == before[1:]
    assert all(value.grad is None for value in module.parameters())


@pytest.fixture
def n_threads(monkeypatch):
    def set_to(n):
        monkeypatch.setattr(_backbones_run, "_n_threads", lambda: n)

    return set_to


@pytest.mark.parametrize("n", [1, 2, 3, 9])
def test_any_number_of_threads_gives_the_same(images, n_threads, n):
    net = network()
    n_threads(1)
    for batch_size in (1, 4, 5, 64):
        n_threads(1)
        expected = extract_features(images, net, batch_size=batch_size)
        n_threads(n)
        before = state_of(net.module)
        found = extract_features(images, net, batch_size=batch_size)
        assert_allclose(found, expected, atol=1e-5)
        assert_untouched(net.module, before)
    assert_allclose(expected, by_hand(net, images), atol=1e-4)


def test_rows_keep_their_order_and_their_crops(images, n_threads):
    net = network()
    n_threads(1)
    expected = extract_features(images, net, ten_crop=True)
    n_threads(3)
    assert_allclose(extract_features(images, net, ten_crop=True), expected, atol=1e-5)


@pytest.mark.parametrize("mode", ["train", "mixed", "eval"])
def test_one_module_for_many_threads(images, mode):
    """Each thread has the rows of eval mode, and statistics of normalisation stay."""
    net = network()
    expected = by_hand(net, images)
    net.module.train(mode != "eval")
    if mode == "mixed":
        net.module[1].eval()
    before = state_of(net.module)
    begin = threading.Barrier(4)
    found = [None] * 4

    def extract(place):
        begin.wait()
        found[place] = [extract_features(images, net, batch_size=3) for _ in range(5)]

    threads = [threading.Thread(target=extract, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for rows in found:
        assert rows is not None
        for row in rows:
            assert_allclose(row, expected, atol=1e-4)
    assert_untouched(net.module, before)


class Toggling(nn.Module):
    """Another thread sets the caller's module to training while it runs."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        _CALLER[0].train()
        return self.norm(x)


_CALLER = [None]


def test_modes_that_change_while_it_runs(images):
    module = Toggling().eval()
    _CALLER[0] = module
    net = Backbone(module, size=12)
    expected = extract_features(images, net, batch_size=22)
    assert_allclose(extract_features(images, net, batch_size=2), expected, atol=1e-5)
    assert int(module.norm.num_batches_tracked) == 0


def test_a_named_network_is_moved_once():
    """A copy on another device is kept, the network itself stays where it is."""
    module = nn.Linear(2, 2).eval()
    device = torch.device("meta")
    with _backbones_run._eval_copy(module, device, True) as first:
        assert first.weight.device == device
    with _backbones_run._eval_copy(module, device, True) as second:
        assert second is first
    assert module.weight.device.type == "cpu"
    with _backbones_run._eval_copy(module.train(), device, False) as third:
        assert third is not first
        assert not third.training
    assert module.training
    with _backbones_run._eval_copy(module.eval(), torch.device("cpu"), True) as same:
        assert same is module


class Restless(nn.Module):
    """A module that writes to itself, also in eval mode."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.last = None

    def forward(self, x):
        self.seen += len(x)
        self.last = x.mean(dim=(2, 3))
        return self.last


def test_buffers_and_attributes_are_the_callers(images, n_threads):
    module = Restless()
    n_threads(3)
    net = Backbone(module, size=12, mean=(0, 0, 0), std=(1, 1, 1))
    expected = images.reshape(22, -1, 3).mean(axis=1)
    assert_allclose(extract_features(images, net, batch_size=2), expected, rtol=1e-5)
    assert module.seen == 0
    assert module.last is None


def test_hooks_are_called_for_one_batch_at_a_time(images, n_threads):
    """Activations that a hook puts aside, which forward then returns, are those of its batch."""
    kept = {}

    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Identity()

        def forward(self, x):
            self.body(x)
            return kept["x"]

    module = Inner()
    module.body.register_forward_hook(lambda m, i, o: kept.update(x=o.mean(dim=(2, 3))))
    n_threads(4)
    net = Backbone(module, size=12, mean=(0, 0, 0), std=(1, 1, 1))
    found = extract_features(images, net, batch_size=1)
    assert_allclose(found, images.reshape(22, -1, 3).mean(axis=1), rtol=1e-5)


def test_functions_are_called_for_one_batch_at_a_time(images, n_threads):
    n_threads(4)
    threads = set()

    def means(batch):
        threads.add(threading.get_ident())
        return batch.mean(axis=(1, 2))

    extract_features(images, means, batch_size=2)
    assert threads == {threading.get_ident()}


def test_new_weights_are_seen(images):
    net = network()
    first = extract_features(images, net)
    with torch.no_grad():
        net.module[4].bias += 1
    assert_allclose(extract_features(images, net), first + 1, atol=1e-5)
    net.module[4] = nn.Conv2d(6, 2, 3)
    assert extract_features(images, net).shape == (22, 2)


def test_what_can_not_be_copied_runs_and_is_put_back(images):
    net = network()
    expected = extract_features(images, net)
    net.module.lock = threading.Lock()
    before = state_of(net.module)
    assert_allclose(extract_features(images, net), expected, atol=1e-5)
    assert_untouched(net.module, before)


def test_contexts_around_change_nothing(images):
    net = network()
    expected = extract_features(images, net)
    with torch.autocast("cpu", torch.bfloat16):
        assert_allclose(extract_features(images, net), expected, atol=1e-5)
        loaded = ImageLoader(net).fit_transform(images)
    assert_allclose(loaded, expected, atol=1e-5)
    for context in (torch.inference_mode, torch.no_grad, torch.enable_grad):
        with context():
            assert_allclose(extract_features(images, net), expected, atol=1e-5)
            before = state_of(net.module)
    assert_untouched(net.module, before)
    rough = extract_features(images, net, dtype="bfloat16")
    assert not np.array_equal(rough, expected)


@pytest.fixture
def doubles():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_another_default_dtype(images, doubles, tmp_path):
    """Networks of the user's own are float64 then; named ones stay float32."""
    net = network()
    assert net.module[0].weight.dtype == torch.float64
    found = extract_features(images, net)
    assert found.dtype == np.float32
    module = net.module.float()
    assert_allclose(extract_features(images, Backbone(module, size=12)), found, atol=1e-4)
    loader = ImageLoader(net, memory=tmp_path).fit(images)
    assert loader.transform(images).dtype == np.float32
    pytest.importorskip("timm")
    import timm

    path = tmp_path / "weights.pth"
    torch.save(timm.create_model("test_vit", num_classes=3).state_dict(), path)
    named = load_backbone(f"timm:test_vit@{path}")
    assert next(named.module.parameters()).dtype == torch.float32
    assert extract_features(images, named).dtype == np.float32


def test_what_a_network_should_give(images):
    class Dict(nn.Module):
        def forward(self, x):
            return {"out": x}

    with pytest.raises(ValueError, match="the backbone gave a dict; it should give a tensor"):
        extract_features(images, Backbone(Dict(), size=12))


@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_within_joblib(images, backend):
    net = network()
    expected = extract_features(images, net)
    for rows in Parallel(n_jobs=2, backend=backend)(
        delayed(extract_features)(images, net, n_jobs=2) for _ in range(3)
    ):
        assert_allclose(rows, expected, atol=1e-5)


def test_results_in_order_and_the_first_error():
    def work(worker, item):
        if item in (7, 9):
            raise ValueError(f"item {item}")
        return item**2

    for n in (1, 2, 5):
        assert list(mapped(work, range(7), range(n))) == [k**2 for k in range(7)]
        assert list(mapped(work, (), range(n))) == []
        results = mapped(work, range(20), range(n))
        found = []
        with pytest.raises(ValueError, match="item 7"):
            found.extend(results)
        assert len(found) == 7 or not found  # extend keeps none where it fails
    asked = []
    endless = mapped(work, (asked.append(k) or 0 for k in iter(int, 1)), range(3))
    assert next(endless) == 0
    endless.close()
    assert len(asked) <= 5


def test_errors_come_out_of_threads(images, n_threads):
    n_threads(3)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        extract_features(images, Backbone(nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), size=12))


BLOCKED = """
import signal, sys, threading

# What runs in the background of a shell ignores Ctrl-C, and passes that on.
signal.signal(signal.SIGINT, signal.default_int_handler)

import numpy as np
from PIL import Image
from skwsdhq.backbones import extract_features
from skwsdhq.images import unreadable_images

for k in range(6):
    Image.new("RGB", (8, 8)).save(f"{sys.argv[1]}/{k}.png")
never, told, opened = threading.Event(), threading.Lock(), Image.open

def blocked(path, *more, **options):
    if str(path).endswith(sys.argv[2]):
        with told:
            print("blocked", flush=True)
        # As within a call of the system that no signal ends: only the main thread hears Ctrl-C.
        while threading.current_thread() is not threading.main_thread() or not never.wait(0.05):
            never.wait()
    return opened(path, *more, **options)

Image.open = blocked
paths = [f"{sys.argv[1]}/{k}.png" for k in range(6)]
n_jobs = int(sys.argv[4])
try:
    if sys.argv[3] == "extract":
        extract_features(paths, lambda batch: batch[:, 0, 0], batch_size=2, n_jobs=n_jobs)
    else:
        unreadable_images(paths, n_jobs=n_jobs)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="signals are sent otherwise there")
@pytest.mark.parametrize(
    ("what", "name", "n_jobs"),
    [("extract", "3.png", 1), ("extract", "0.png", 3), ("extract", ".png", 2), ("list", ".png", 3)],
)
def test_ctrl_c_while_a_reader_hangs(tmp_path, what, name, n_jobs):
    """The call and the process end though the thread never does."""
    script = tmp_path / "hang.py"
    script.write_text(BLOCKED)
    command = [sys.executable, script, tmp_path, name, what, str(n_jobs)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "blocked\n"
            rest = ""
            # Python loses a signal that comes while it runs a weak reference's callback, say.
            for timeout in (20, 40, 60):
                process.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    rest, _ = process.communicate(timeout=timeout)
                    break
        finally:
            process.kill()
    assert rest.splitlines()[-1] == "interrupted"
    assert process.returncode == 0
