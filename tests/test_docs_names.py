"""The pages of names in Python have every public name, and no other; the figures are what their scripts draw."""

import importlib
import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"

ROOMS = {
    "package": "cntk_pipeline",
    "estimators": "cntk_pipeline.estimators",
    "layers": "cntk_pipeline.layers",
    "presets": "cntk_pipeline.layers.presets",
    "kernels": "cntk_pipeline.kernels",
    "regression": "cntk_pipeline.regression",
    "finite": "cntk_pipeline.finite",
    "plots": "cntk_pipeline.plots",
    "datasets": "cntk_pipeline.datasets",
    "graphs": "cntk_pipeline.graphs",
    "sequences": "cntk_pipeline.sequences",
    "config": "cntk_pipeline.config",
    "errors": "cntk_pipeline.errors",
}
NOT_SHOWN = {"__version__", "presets"}  # a text, and a file that has a page of its own


def test_every_page_of_names_is_of_a_room() -> None:
    assert {path.stem for path in (DOCS / "api").glob("*.md")} == {*ROOMS, "index"}


@pytest.mark.parametrize("page", ROOMS)
def test_a_page_has_every_public_name_of_its_room(page: str) -> None:
    text = (DOCS / "api" / f"{page}.md").read_text()
    assert f".. currentmodule:: {ROOMS[page]}\n" in text
    shown = re.findall(r"(?m)^\.\. (?:auto(?:class|exception|function)|py:data):: (\w+)$", text)
    room = importlib.import_module(ROOMS[page])
    public = getattr(room, "__all__", None) or [
        name
        for name, value in vars(room).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == room.__name__
    ]
    assert sorted(shown) == sorted(set(public) - NOT_SHOWN)
    assert [name for name in shown if not hasattr(room, name)] == []


@pytest.mark.parametrize("name", ["how_it_works", "planes", "way_of_a_tile", "wrapped_tile"])
def test_a_figure_is_what_its_script_draws(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(DOCS / "figures"), *sys.path])
    figure = runpy.run_path(str(DOCS / "figures" / f"{name}.py"))["figure"]
    assert (DOCS / "figures" / f"{name}.svg").read_text() == figure(), f"python docs/figures/{name}.py"
