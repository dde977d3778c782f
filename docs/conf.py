"""How Sphinx builds the documentation: ``make docs``, or ``python -m sphinx -W -c docs . build/docs``.

The root of the sources is the root of the repository. So a link from one Markdown file to another, or to a workflow, is
the same on the site and where the repository is hosted.
"""

import os
import sys
from pathlib import Path
from typing import Any

from cntk_pipeline import __version__

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_extensions"))
# For the cells of pages: the command `cntk` of this Python, and sharp pictures.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
os.environ["MATPLOTLIBRC"] = str(HERE / "matplotlibrc")

project = "cntk-pipeline"
author = "the cntk-pipeline maintainers"
project_copyright = "the cntk-pipeline maintainers, BSD 3-Clause"
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "docstrings",
    "mathml",
]

root_doc = "docs/index"
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "benchmarks/*.md",
    "deploy/**.md",
    "docs/**.md",
    "examples/*",
    "workflows/**.md",
]
exclude_patterns = [".*", "build", "data", "pipeline", "runs", "tests"]

# Pages: Markdown, of which those with a kernel in their first lines are executed.
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
nb_execution_mode = "force"
nb_execution_excludepatterns = ["examples/*"]  # a test runs these, and holds them to the outputs that they show
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 300  # seconds of a cell: a few, and many times that on a busy machine
nb_merge_streams = True
suppress_warnings = ["ref.python"]  # a name of several rooms in a docstring: the first one is linked

highlight_language = "text"  # of blocks that name no language

# Names in Python.
default_role = "py:obj"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_attr_annotations = False

html_favicon = "_static/icon.svg"
html_theme = "furo"
html_title = f"cntk-pipeline {release}"
html_static_path = ["_static"]
templates_path = ["_templates"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_additional_pages = {"index": "first_page.html"}
html_copy_source = False
html_show_search_summary = False  # it is fetched, which a browser refuses for pages that are opened as files
html_theme_options = {"navigation_with_keys": True}
copybutton_prompt_text = "$ "


def deal(app: Any, env: Any, names: list[str]) -> None:
    """Order the pages so that no process of ``-j`` gets most of the gallery, which takes longest."""
    names[:] = [name for first in range(9) for name in names[first::9]]


def setup(app: Any) -> None:
    """Join Sphinx."""
    app.connect("env-before-read-docs", deal)
