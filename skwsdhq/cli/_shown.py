"""Results in a picture, opened by the system's viewer where there is one."""

import os
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import typer

from ..plotting import NeighborsDisplay
from ..utils.files import replacing
from ._told import say

__all__ = ["draw", "show"]


def draw(path: Path, collection: Any, results: Any, **asked: Any) -> None:
    """Write a picture of what was asked for and found; the end of its name says the format."""
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise ImportError("--open needs matplotlib; pip install matplotlib.") from error
    mpl.use("Agg")  # a window is no use to a command, and may have no screen
    form = path.suffix.lower().removeprefix(".")
    with warnings.catch_warnings():
        # Letters that matplotlib's font lacks are drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        figure = NeighborsDisplay.from_collection(collection, **asked, results=results).figure_
        if form not in figure.canvas.get_supported_filetypes():
            raise ValueError(f"--open {str(path)!r} should end in .png, .jpg, .svg or .pdf.")
        with replacing(os.fspath(path)) as file:
            figure.savefig(file, format=form, dpi=120)


def show(path: Path) -> None:
    """Open a picture by the system's viewer; where there is none, say where the picture is."""
    if has_viewer() and typer.launch(os.fspath(path.absolute())) == 0:
        return
    say(f"wrote {path}; there is no viewer here to open it by")


def has_viewer() -> bool:
    """Tell whether there is a screen, and a program that opens files by their kind."""
    if sys.platform in ("win32", "darwin"):
        return True
    is_shown = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return bool(is_shown) and shutil.which("xdg-open") is not None
