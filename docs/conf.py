"""Sphinx configuration."""

import sys
import warnings
from pathlib import Path

import skwsdhq

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

project = "skwsdhq"
author = "the skwsdhq developers"
copyright = "2026, the skwsdhq developers"
version = release = skwsdhq.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "mathml",
    "myst_parser",
    "numpydoc",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}
exclude_patterns = ["_build", "auto_examples/*.ipynb", "auto_examples/*.py"]
templates_path = ["_templates"]

html_theme = "pydata_sphinx_theme"
linkcheck_ignore = [r"https?://"]
html_math_renderer = "mathml"
html_title = "skwsdhq"
html_logo = None
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_theme_options = {
    "logo": {"text": f"skwsdhq {version}"},
    "navigation_with_keys": False,
    "navigation_depth": 2,
    "show_prev_next": True,
    "footer_start": ["copyright"],
    "footer_end": [],
}
# A landing page has nothing beside it.
html_sidebars = {"index": [], "install": [], "start": []}
# Prompts are no part of what is copied.
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True
myst_heading_anchors = 2

autosummary_generate = True
autodoc_default_options = {
    "exclude-members": "set_fit_request, set_partial_fit_request, set_score_request, "
    "set_transform_request",
}
autodoc_typehints = "none"  # types stand in the docstrings, with shapes
numpydoc_show_class_members = False

sphinx_gallery_conf = {
    "examples_dirs": ["../examples"],
    "gallery_dirs": ["auto_examples"],
    "filename_pattern": r"plot_",
    # Scripts that take long, or want data from elsewhere, are no pages.
    "ignore_pattern": r"[/\\](compare_methods|reproduce_paper)\.py",
    "within_subsection_order": "gallery_order.Position",
    "download_all_examples": False,
    "show_memory": False,
    "remove_config_comments": True,
    "abort_on_example_error": True,
}
warnings.filterwarnings("ignore", message="Matplotlib is currently using agg")


def draw_rooms(app):
    """Draw the picture of CONTRIBUTING.md from the imports as they are."""
    import rooms

    rooms.draw(HERE / "_generated" / "rooms.png")


def setup(app):
    app.connect("builder-inited", draw_rooms)
