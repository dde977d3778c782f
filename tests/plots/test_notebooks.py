"""A figure is a picture in the first cell of a notebook."""

import nbformat
import pytest
from nbclient import NotebookClient

FIRST = """
from cntk_pipeline.plots.style import new_figure, styled

with styled():
    figure = new_figure(3, 2)
figure
"""
LATER = """
import matplotlib.pyplot as plt

plt.rcParams["figure.dpi"]
"""


@pytest.mark.slow
def test_a_figure_is_a_picture_in_the_first_cell_and_behind_pyplot() -> None:
    cells = [nbformat.v4.new_code_cell(source) for source in (FIRST, LATER, "figure")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=280).execute()
    first, _, last = ([set(output.get("data", {})) for output in cell.outputs] for cell in notebook.cells)
    assert first == last == [{"image/png", "text/plain"}]
