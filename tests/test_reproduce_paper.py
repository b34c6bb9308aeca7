"""examples/reproduce_paper.py on a tiny set in MIRFLICKR's layout, with a narrow AlexNet."""

import csv
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skwsdhq.training import session as _training_run

SCRIPT = Path(__file__).resolve().parents[1] / "examples" / "reproduce_paper.py"
CONCEPTS = ("animals", "sky", "water")
COLOURS = ((200, 60, 40), (60, 120, 220), (40, 180, 90))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """40 pictures of three colours, which tags and annotations name, and alexnet.npy."""
    home = tmp_path_factory.mktemp("set")
    rng = np.random.default_rng(0)
    tags = home / "mirflickr" / "meta" / "tags"
    tags.mkdir(parents=True)
    annotations = home / "mirflickr25k_annotations_v080"
    annotations.mkdir()
    for i in range(1, 41):
        noise = rng.integers(-30, 31, (30, 40, 3))
        pixels = (np.array(COLOURS[i % 3]) + noise).astype(np.uint8)
        Image.fromarray(pixels).save(home / "mirflickr" / f"im{i}.jpg")
        words = "" if i == 7 else f"{('cat', 'cloud', 'sea')[i % 3]}\r\n"
        (tags / f"tags{i}.txt").write_text(words)
    for k, name in enumerate(CONCEPTS):
        numbers = (str(i) for i in range(1, 41) if i % 3 == k)
        (annotations / f"{name}.txt").write_text("\n".join(numbers))
    shapes = {
        "conv1": (11, 11, 3, 4), "conv2": (5, 5, 2, 6), "conv3": (3, 3, 6, 8),
        "conv4": (3, 3, 4, 6), "conv5": (3, 3, 3, 4), "fc6": (144, 10), "fc7": (10, 7),
    }  # fmt: skip
    layers = {
        name: [
            (rng.standard_normal(shape) / np.sqrt(np.prod(shape[:-1]))).astype(np.float32),
            np.full(shape[-1], 0.1, dtype=np.float32),
        ]
        for name, shape in shapes.items()
    }
    np.save(home / "alexnet.npy", layers, allow_pickle=True)
    (home / "words.txt").write_text("3 4\ncat 1 0 0 .2\ncloud 0 2 0 .1\nsea 0 .5 3 0\n")
    return home


@pytest.fixture
def main():
    return runpy.run_path(str(SCRIPT), run_name="reproduce_paper")["main"]


def arguments(home, output, *more, kind="caffe"):
    given = {
        "--dataset": "mirflickr25k", "--data-home": home, "--output": output, "--n-query": 8,
        "--min-count": 1, "--batch-size": 10, "--n-codewords": 8, "--steps": 9, "--bits": 8,
        "--backbone": f"alexnet_{kind}:{home / 'alexnet.npy'}",
        "--word-vectors": home / "words.txt", "--cache-dir": home / "cache",
    }  # fmt: skip
    flat = [str(part) for pair in given.items() for part in pair]
    return [*flat, "--no-strict", *(str(part) for part in more)]


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_paper_on_a_tiny_mirflickr(home, main, tmp_path, capsys):
    output = tmp_path / "results.csv"
    assert main(arguments(home, output, "--bits", 8, 16)) == 0
    told = capsys.readouterr().out
    assert "3 tags became 3 concepts" in told
    assert "published                      0.766       0.755" in told
    rows = rows_of(output)
    assert [row["bits"] for row in rows] == ["8", "16"]
    assert all(0.2 < float(row["map"]) <= 1 for row in rows)
    assert [row["published"] for row in rows] == ["0.766", "0.755"]
    assert rows[0]["rows_database"] == "32"
    assert rows[0]["rows_train"] in ("31", "32")  # picture 7 has no tags
    # 9 steps of 4 batches an epoch
    assert rows[0]["epochs"] == "2"
    assert not list((tmp_path / "results.checkpoints").glob("*"))

    # rows that are there are not computed again; others are added
    before = output.read_bytes()
    rows[0]["map"] = "0.1234"
    output.write_bytes(before.replace(rows_of(output)[0]["map"].encode(), b"0.1234", 1))
    assert main(arguments(home, output, "--bits", 8, 16)) == 0
    assert "train on" not in capsys.readouterr().out
    assert main(arguments(home, output, "--bits", 8, "--seeds", 0, 1)) == 0
    told = capsys.readouterr().out
    assert "seed 1:" in told
    assert "seed 0:" not in told
    assert "here, 2 seeds" in told
    assert [row["seed"] for row in rows_of(output)] == ["0", "0", "1"]
    assert rows_of(output)[0]["map"] == "0.1234"


@pytest.mark.parametrize(
    "more",
    [
        ("--mode", "code"),
        ("--finetune", "none"),
        ("--finetune", "none", "--no-ten-crop", "--mode", "code"),
    ],
)
def test_other_modes(home, main, tmp_path, more):
    output = tmp_path / "results.csv"
    kind = "wsdhq" if "code" in more else "caffe"
    assert main(arguments(home, output, *more, kind=kind)) == 0
    (row,) = rows_of(output)
    assert 0.2 < float(row["map"]) <= 1
    assert (row["mode"], row["ten_crop"]) == (
        "code" if "code" in more else "paper", str("--no-ten-crop" not in more),
    )  # fmt: skip


def test_a_run_that_was_broken_off_goes_on(home, main, tmp_path, monkeypatch, capsys):
    whole, broken = tmp_path / "whole.csv", tmp_path / "broken.csv"
    assert main(arguments(home, whole, "--no-ten-crop", "--steps", 16)) == 0
    save, n_saved = _training_run.Session._save, 0

    def saved_twice(run):
        nonlocal n_saved
        save(run)
        n_saved += 1
        if n_saved == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(_training_run.Session, "_save", saved_twice)
    assert main(arguments(home, broken, "--no-ten-crop", "--steps", 16)) == 1
    assert "the same command goes on" in capsys.readouterr().out
    assert not broken.exists()
    n_saved = 2
    assert main(arguments(home, broken, "--no-ten-crop", "--steps", 16)) == 0
    assert n_saved == 4  # two epochs were left
    seconds = {"seconds": ""}
    assert {**rows_of(broken)[0], **seconds} == {**rows_of(whole)[0], **seconds}


def test_folder_whose_tags_are_its_labels(home, main, tmp_path):
    lines = ["file_name,tags"] + [
        f"im{i}.jpg,{('cat', 'cloud', 'sea')[i % 3]}" for i in range(1, 41)
    ]
    (home / "mirflickr" / "tags.csv").write_text("\n".join(lines))
    given = arguments(home, tmp_path / "r.csv", "--finetune", "none")
    given[1], given[3] = "tagged_folder", str(home / "mirflickr")
    assert main(given) == 0
    (row,) = rows_of(tmp_path / "r.csv")
    assert (row["published"], row["rows_train"], row["rows_query"]) == ("", "32", "8")
    assert float(row["map"]) > 0.5


def test_what_is_refused(home, main, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--dataset", "nus_wide"])
    assert "needs --data-home" in capsys.readouterr().err
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(SystemExit, match="has other columns"):
        main(arguments(home, tmp_path / "other.csv"))
    with pytest.raises(ValueError, match="it holds 40 images"):
        main([word for word in arguments(home, tmp_path / "r.csv") if word != "--no-strict"])
