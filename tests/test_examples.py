"""The notebooks run from their first cell to their last, and print what they show."""

import resource
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parent.parent / "examples"


def printed(notebook: Any) -> list[str]:
    """Return what the cells print, a text each."""
    outputs = [cell.get("outputs", []) for cell in notebook.cells]
    return ["".join(output["text"] for output in cell if output.get("name") == "stdout") for cell in outputs]


def seconds_of_children() -> float:
    """Return the processor time of all processes that this one began and saw end."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_prints_what_it_shows(path: Path, tmp_path: Path) -> None:
    """All three take three minutes at most: of the processor, since others use the machine too."""
    shown = nbformat.read(path, 4)
    again = nbformat.from_dict(shown.copy())
    before = seconds_of_children()
    NotebookClient(again, timeout=280, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert printed(again) == printed(nbformat.read(path, 4))
    assert 1 < seconds_of_children() - before < 60


def test_the_notebooks_are_there_with_their_outputs() -> None:
    names = [path.stem for path in sorted(EXAMPLES.glob("*.ipynb"))]
    assert names == ["classify_digits", "image_folder", "uncertainty"]
    for name in names:
        cells = nbformat.read(EXAMPLES / f"{name}.ipynb", 4).cells
        assert [cell.cell_type for cell in cells].count("code") > 3
        assert any(cell.get("outputs") for cell in cells)
