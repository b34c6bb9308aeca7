"""The worked diffs of docs/CONTRIBUTING.md: they apply to the source as it is, and pass."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# A diff, and the test that the page names below it.
DIFFS = {
    "loss": ["tests/test_distance.py"],
    "engine": ["tests/test_search.py", "-k", "blocks"],
    "backbone": ["tests/test_thumbnail.py"],
    "metric": ["skwsdhq/metrics/_scores.py", "-k", "reciprocal"],
}
PARTS = ("skwsdhq", "tests", "pyproject.toml")


def applied(name, folder):
    """Copy the repository and apply a diff to the copy."""
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "benchmarks", "data")
            shutil.copytree(source, folder / part, ignore=ignored)
        else:
            shutil.copy(source, folder / part)
    # The copy is no repository of its own: git looks for one above it, and must not find ours.
    done = subprocess.run(
        ["git", "apply", "--verbose", str(ROOT / "docs" / "diffs" / f"{name}.diff")],
        cwd=folder,
        env={**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("git") is None, reason="git applies them")
@pytest.mark.parametrize("name", DIFFS)
def test_diff_applies(name, tmp_path):
    applied(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", DIFFS)
def test_diff_passes_its_test(name, tmp_path):
    applied(name, tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *DIFFS[name]]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


@pytest.mark.parametrize("name", DIFFS)
def test_diff_and_its_test_stand_on_the_page(name):
    page = (ROOT / "docs" / "CONTRIBUTING.md").read_text("utf-8")
    assert f"diffs/{name}.diff" in page
    assert f"pytest {' '.join(DIFFS[name])}" in page
    assert len((ROOT / "docs" / "diffs" / f"{name}.diff").read_text("utf-8").splitlines()) < 40


def test_every_diff_is_tried():
    found = {path.stem for path in (ROOT / "docs" / "diffs").glob("*.diff")}
    assert found == DIFFS.keys()
