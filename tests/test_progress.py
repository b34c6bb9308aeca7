"""What long runs say in the log, and that nothing else is said anywhere."""

import logging

import numpy as np
import pytest
import torch

from skwsdhq import HypersphereEmbedder, ImageLoader
from skwsdhq.backbones import extract_features
from skwsdhq.embedding import FineTuning
from skwsdhq.utils.progress import LongRun


def told(total, seconds_at, caplog):
    """What a run of batches tells, whose ends (images, seconds) are given."""
    now = [0.0]
    run = LongRun(logging.getLogger("skwsdhq.backbones"), "doing", total, lambda: now[0])
    for done, now[0] in seconds_at:
        run.advance(done)
    return [record.getMessage() for record in caplog.records]


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, "skwsdhq")
    return caplog


@pytest.mark.parametrize(
    ("total", "per_image", "duration"),
    [
        (20_000, 1 / 83, "20000 images take about 4 min, 83 a second"),
        (100, 0.01, "100 images take about 1 s, 100 a second"),
        (400, 0.2, "400 images take about 80 s, 5 a second"),
        (100_000, 0.25, "100000 images take about 6.9 h, 4 a second"),
    ],
)
def test_speed_is_that_after_the_first_batch(total, per_image, duration, log):
    # The first batch takes a minute, as where a library is loaded.
    ends = [(done, 60 + per_image * (done - 4)) for done in range(4, total + 1, 4)][:30]
    assert told(total, ends, log) == ["doing", duration]


def test_few_images_are_not_worth_a_word(log):
    assert told(99, [(50, 1.0), (99, 2.0)], log) == []
    assert told(100, [(100, 1.0)], log) == ["doing"]  # over with the first batch


def mean_colour(batch):
    return batch.mean(axis=(1, 2))


def pictures(n):
    return np.random.default_rng(0).integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)


def test_extraction_is_announced_once(log, capfd):
    extract_features(pictures(120), mean_colour, device="cpu")
    first, second = (record.getMessage() for record in log.records)
    assert first == "extracting features of 120 images by mean_colour on cpu"
    assert second.startswith("120 images take about ")
    assert {record.levelno for record in log.records} == {logging.INFO}
    assert {record.name for record in log.records} == {"skwsdhq.backbones"}
    log.clear()
    extract_features(pictures(99), mean_colour)
    assert not log.records
    assert capfd.readouterr() == ("", "")


def test_kept_features_are_not_announced(log, tmp_path):
    loader = ImageLoader(torch.nn.AvgPool2d(224), memory=tmp_path, device="cpu")
    loader.fit_transform(pictures(110))
    assert "of 109 images by AvgPool2d on cpu" in log.text
    log.clear()
    loader.fit_transform(pictures(110))
    assert not log.records


def test_fine_tuning_is_announced(log):
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, stride=8), torch.nn.AdaptiveAvgPool2d(1))
    embedder = HypersphereEmbedder(
        backbone=network, finetune=FineTuning("all", crop_size=32, head_iter=0), max_iter=10,
        batch_size=8,
        hidden_layer_sizes=(8,), kernel_weight=0.0, device="cpu", random_state=0,
    )  # fmt: skip
    embedder.fit(pictures(12), [["sky"], ["sea"]] * 6)
    lines = [record.getMessage() for record in log.records]
    assert lines[0] == "fine-tuning Sequential on 12 images for 10 epochs on cpu"
    assert lines[1].startswith("120 images take about ")
    assert len(lines) == 2
