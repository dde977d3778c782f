"""The progress of a run in a notebook: a widget where ipywidgets is installed, lines elsewhere.

ipywidgets is in no extra, since pages of the site and the notebooks in `examples` show lines. The Makefile puts it into
a folder of its own beside the libraries.
"""

import os
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

SMALL = """
import numpy as np, tempfile, cntk_pipeline
data = {"x_train": np.random.default_rng(0).standard_normal((40, 4)), "y_train": np.arange(40) % 2}
workflow = {"network": {"preset": "fully_connected"}, "readouts": {"depths": [2]}, "kernel": {"tile": 16}}
place = {"store__path": tempfile.mkdtemp() + "/run", "cluster__kind": "serial"}
"""
RUN = "run = cntk_pipeline.run(workflow, data=data, data__train=30, solve__ridges=[0.1], **place)"
WITHOUT = """
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "ipywidgets" else find(name, *more)
"""
WIDGETS = Path(sys.prefix) / "widgets"
VIEW, STATE = "application/vnd.jupyter.widget-view+json", "application/vnd.jupyter.widget-state+json"


def executed(*sources: str) -> Any:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    NotebookClient(notebook, timeout=280).execute()
    return notebook


def texts(outputs: list[Any]) -> list[str]:
    return [output["data"]["text/plain"] for output in outputs if output["output_type"] == "display_data"]


@pytest.mark.slow
def test_without_ipywidgets_a_notebook_shows_lines_without_controls() -> None:
    *_, cell = executed(WITHOUT, SMALL, RUN).cells
    lines = texts(cell.outputs)
    assert "kernel: 0/6 tiles\n" in lines
    assert any(re.fullmatch(r"kernel: 6/6 tiles, .* entries/s\n", line) for line in lines)
    assert lines[-1].startswith("solve: 6/6 tiles")
    assert not any("\x1b" in line or "\r" in line for line in lines)
    assert {output["output_type"] for output in cell.outputs} == {"display_data"}  # nothing on standard error


@pytest.mark.slow
@pytest.mark.skipif(not WIDGETS.is_dir(), reason="ipywidgets are not installed: make test does it")
def test_with_ipywidgets_each_phase_has_a_widget_that_ends_with_its_last_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(WIDGETS), *filter(None, [os.environ.get("PYTHONPATH")])]))
    notebook = executed(SMALL, RUN)
    views = [
        output["data"][VIEW]["model_id"] for output in notebook.cells[-1].outputs if VIEW in output.get("data", {})
    ]
    state = notebook.metadata["widgets"][STATE]["state"]
    shown = ["".join(texts(state[view]["state"]["outputs"])) for view in views]
    assert [re.sub(r"\x1b\[[0-9;]*m", "", text).split("\n")[-2].split()[0] for text in shown] == ["kernel", "solve"]
    assert all("6/6" in text and "so far" not in text for text in shown)
