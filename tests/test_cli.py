"""The command line, by typer's runner, and once as a process."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from skwsdhq import Collection, TagKernelRegressor, WSDHQuantizer, __version__
from skwsdhq.cli import _shown, app
from skwsdhq.collection import _build, _create, _source


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def fine(*arguments):
    result = run(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


@pytest.fixture(autouse=True)
def a_small_network(monkeypatch):
    """Mean colours in place of a network, and a quick model."""

    def extracted(images, backbone, *, on_error="raise", **options):
        rows, features = [], []
        for i, image in enumerate(images):
            try:
                pixels = np.asarray(Image.open(image).convert("RGB"), dtype=float)
            except OSError:
                if on_error == "raise":
                    raise
                continue
            rows.append(i)
            features.append([*pixels.mean(axis=(0, 1)), 20])
        return (np.array(features), np.array(rows)) if on_error == "skip" else np.array(features)

    def small(wanted, n_rows):
        embedder = TagKernelRegressor(random_state=0)
        return WSDHQuantizer(
            embedder, n_codebooks=wanted.n_bits // 2, n_codewords=4, random_state=0
        )

    monkeypatch.setattr(_source, "extract_features", extracted)
    monkeypatch.setattr(_create, "resolve_auto", lambda: "colours")
    monkeypatch.setattr(_build, "new_quantizer", small)


COLOURS = {"red": (200, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 200)}


def pictures(folder, numbers):
    folder.mkdir()
    random = np.random.RandomState(numbers[0])
    with open(folder / "tags.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "tags"])
        for i in numbers:
            name = list(COLOURS)[i % 3]
            pixels = np.array(COLOURS[name]) + random.randint(0, 50, (8, 8, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:02}.png")
            if i != 5:
                writer.writerow([f"{i:02}.png", f"{name},größe"])
    return folder


@pytest.fixture
def photos(tmp_path):
    folder = pictures(tmp_path / "pictures", range(24))
    out = fine("create", folder, "-o", tmp_path / "photos", "--bits", 4, "--seed", 0, "--quiet")
    assert "24 images" in out
    return tmp_path / "photos"


def test_search(photos, tmp_path):
    query = tmp_path / "pictures" / "00.png"
    lines = fine("search", photos, query, "-k", 4).splitlines()
    assert len(lines) == 4
    assert all("red" in line for line in lines)
    found = [json.loads(line) for line in fine(
        "search", photos, "--words", "blue", "--not", "red", "-k", 5, "--json"
    ).splitlines()]  # fmt: skip
    assert len(found) == 5
    # One blue picture has no tags, and is blue all the same.
    assert all(row["tags"] in (["blue", "größe"], []) for row in found)
    assert set(found[0]) == {"id", "similarity", "path", "tags", "columns"}
    tagged = fine("search", photos, "--like", "00.png", "--has-tag", "green", "-k", 99)
    assert len(tagged.splitlines()) == 8
    assert fine("search", photos, query, "--words", "green", "--weight", 1, "-k", 1).count("green")


def test_results_in_a_picture(photos, tmp_path, monkeypatch):
    """Opened where there is a screen and a viewer; else written, and said."""
    launched = []
    plain = fine("search", photos, "--words", "red", "-k", 12)
    with monkeypatch.context() as patched:
        patched.setattr(typer, "launch", lambda path: launched.append(path) or 0)
        patched.setattr(_shown, "has_viewer", lambda: True)
        out = fine("search", photos, "--words", "red", "-k", 12, "--open", tmp_path / "results.png")
    assert out == plain
    assert launched == [str(tmp_path / "results.png")]
    with Image.open(tmp_path / "results.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 1000
    query = tmp_path / "pictures" / "00.png"
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(_shown.sys, "platform", "linux")
    result = run("search", photos, query, "--json", "-k", 2, "--open", tmp_path / "results.SVG")
    assert result.exit_code == 0
    assert "no viewer" in result.stderr
    assert len([json.loads(line) for line in result.stdout.splitlines()]) == 2
    assert (tmp_path / "results.SVG").read_text("utf-8").startswith("<?xml")
    result = run("search", photos, "--like", "01.png", "--open", tmp_path / "results.docx")
    assert result.exit_code == 1
    assert "should end in .png" in result.stderr
    assert not result.stdout
    assert not (tmp_path / "results.docx").exists()
    result = run("search", photos, "-w", "red", "--open", tmp_path / "nowhere" / "results.png")
    assert result.exit_code == 1


def test_a_viewer_needs_a_screen(monkeypatch):
    monkeypatch.setattr(_shown.sys, "platform", "linux")
    monkeypatch.setattr(_shown.shutil, "which", lambda name: "/usr/bin/" + name)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("DISPLAY", ":0")
    assert _shown.has_viewer()
    monkeypatch.setattr(_shown.shutil, "which", lambda name: None)
    assert not _shown.has_viewer()
    monkeypatch.setattr(_shown.sys, "platform", "darwin")
    assert _shown.has_viewer()


def test_columns_and_separators_of_tables(tmp_path):
    folder = pictures(tmp_path / "pictures", range(24))
    text = (folder / "tags.csv").read_text("utf-8").splitlines()
    rows = [f"{name},{tags[1:-1].replace(',', ';')},{2000 + i}" for i, (name, tags) in enumerate(
        line.split(",", 1) for line in text[1:]
    )]  # fmt: skip
    (folder / "tags.csv").write_text("\n".join(["file,tags,year", *rows]), "utf-8")
    place = tmp_path / "photos"
    fine("create", folder, "-o", place, "--bits", 4, "-q", "--separator", ";")
    found = fine("search", place, "-w", "blue", "-k", 99, "--where", "year>=2010", "--json")
    found = [json.loads(line) for line in found.splitlines()]
    assert all(row["columns"]["year"] >= 2010 for row in found)
    assert len(found) == 13
    assert {tag for row in found for tag in row["tags"]} == {*COLOURS, "größe"}
    Image.new("RGB", (8, 8)).save(folder / "new.png")
    (folder / "tags.csv").write_text("file,tags,year\nnew.png,red;größe,1999\n", "utf-8")
    fine("add", place, folder, "-q", "--separator", ";")
    fine("export", place, "-o", tmp_path / "x.csv")
    with open(tmp_path / "x.csv", encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert table[-1]["id"] == "new.png"
    assert (table[-1]["tags"], table[-1]["year"]) == ("red,größe", "1999")
    assert table[0]["year"] == "2000"


def test_add_goes_on(photos, tmp_path):
    more = pictures(tmp_path / "more", range(20, 30))
    assert "6 images added, 30 in all" in fine("add", photos, more, "-q")
    assert "0 images added, 30 in all" in fine("add", photos, more, "-q")
    (more / "broken.png").write_text("no picture")
    assert run("add", photos, more, "-q").exit_code == 1
    assert "0 images added" in fine("add", photos, more, "-q", "--on-error", "skip")


def test_suggest(photos, tmp_path):
    assert fine("suggest", photos, "-n", 1).startswith("05.png\t")
    by_json = json.loads(fine("suggest", photos, "--json", "-n", 2))
    assert by_json["id"] == "05.png"
    assert "blue" in by_json["tags"]
    fine("suggest", photos, "--write", tmp_path / "out.csv", "--least", 0.05)
    with open(tmp_path / "out.csv", encoding="utf-8", newline="") as file:
        assert list(csv.reader(file))[1][0] == "05.png"
    assert len(fine("suggest", photos, *(tmp_path / "pictures").glob("0*.png")).splitlines()) == 10


def test_duplicates_evaluate_info_export(photos, tmp_path):
    Image.open(tmp_path / "pictures" / "03.png").save(tmp_path / "pictures" / "copy.png")
    fine("add", photos, tmp_path / "pictures", "-q")
    assert fine("duplicates", photos, "-t", 1).splitlines()[0] == "1.000\t03.png\tcopy.png"
    assert json.loads(fine("duplicates", photos, "-t", 1, "--json").splitlines()[0])["cosine"] == 1
    labels = tmp_path / "labels.csv"
    labels.write_text("id,label\n" + "\n".join(f"{i:02}.png,{i % 3}" for i in range(24)))
    assert float(fine("evaluate", photos, "--labels", labels)) > 0.9
    assert "n_items: 25" in fine("info", photos)
    assert json.loads(fine("info", photos, "--json"))["n_bits"] == 4
    fine("export", photos, "-o", tmp_path / "x.jsonl", "--form", "jsonl")
    assert len((tmp_path / "x.jsonl").read_text("utf-8").splitlines()) == 25


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "nowhere", "-w", "x"], "holds no collection"),
        (["search", "{photos}", "-w", "rad"], "did you mean 'red'"),
        (["search", "{photos}"], "give what to look for"),
        (["search", "{photos}", "nowhere.jpg"], "nowhere.jpg"),
        (["search", "{photos}", "--like", "none.png"], "error: the collection has no item"),
        (["search", "{photos}", "-w", "red", "--where", "year"], "--where 'year' should be"),
        (["search", "{photos}", "-w", "red", "--where", "a=1", "--where", "a=2"], "two conditions"),
        (["search", "{photos}", "-w", "red", "--where", "year>=2"], "no item has a column 'year'"),
        (["add", "{photos}", "nowhere"], "no folder"),
        (["create", "nowhere", "-o", "x"], "no folder"),
        (["export", "{photos}", "-o", "x", "--form", "xml"], "form"),
        (["evaluate", "{photos}", "--labels", "nowhere.csv"], "nowhere.csv"),
        (["info", "."], "holds no collection"),
    ],
)
def test_errors_are_one_line(photos, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = run(*(text.replace("{photos}", str(photos)) for text in arguments))
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.strip().splitlines()) == 1
    assert not result.stdout


def test_report(photos, tmp_path):
    page, labels = tmp_path / "page.html", tmp_path / "labels.csv"
    labels.write_text("id,kind\n" + "".join(f"{i:02}.png,kind {i % 3}\n" for i in range(24)))
    out = fine("report", photos, "-o", page, "--labels", labels, "--title", "<b>", "--top-k", 5)
    assert out == f"{page}: {page.stat().st_size / 1e6:.1f} MB\n"
    text = page.read_text("utf-8")
    assert "<h1>&lt;b&gt;</h1>" in text
    assert text.count("data:image/webp") == 24
    assert "mAP@5" in text
    assert "24 queries" in text
    # Without labels, tags judge.
    fine("report", photos, "-o", page)
    assert "by shared tags" in page.read_text("utf-8")
    assert "labels, should" not in run("report", photos, "-o", tmp_path).output
    assert run("report", photos, "-o", tmp_path).exit_code == 1


def test_labels_that_are_none(photos, tmp_path):
    for text in ("", "id,label\n", "id,label\n03.png\n"):
        (tmp_path / "labels.csv").write_text(text)
        result = run("evaluate", photos, "--labels", tmp_path / "labels.csv")
        assert result.exit_code == 1
        assert "an id and a label" in result.stderr


def test_wrong_usage_and_help():
    assert run("search").exit_code == 2
    assert run("nonsense").exit_code == 2
    commands = "create add search suggest duplicates evaluate report info export"
    for command in commands.split():
        result = run(command, "--help")
        assert result.exit_code == 0
        assert "Example" in result.stdout
    assert fine("--version").strip() == __version__


def test_an_interruption_can_be_gone_on_from(photos, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(Collection, "search", interrupted)
    result = run("search", photos, "-w", "red")
    assert result.exit_code == 130
    assert "goes on" in result.stderr


def test_a_fault_of_ours_keeps_its_traceback(photos, monkeypatch):
    def wrong(*args, **options):
        raise IndexError("ours")

    monkeypatch.setattr(Collection, "search", wrong)
    assert isinstance(run("search", photos, "-w", "red").exception, IndexError)


def test_as_a_module(photos):
    command = [sys.executable, "-m", "skwsdhq", "info", str(photos), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["n_items"] == 24
    command = [sys.executable, "-m", "skwsdhq", "info", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
