"""The documentation shows code that exists, and names every layer."""

import contextlib
import io
import re
from pathlib import Path

import pytest

from pipeline.layers import LAYERS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def test_every_layer_has_its_line_in_the_table_of_networks() -> None:
    rows = [line.split("|")[1] for line in (DOCS / "networks.md").read_text().splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)\(", row)}
    assert set(LAYERS) <= named


@pytest.mark.parametrize("source", ["pipeline/layers/gaussian.py", "pipeline/layers/__init__.py", "tests/pointwise.py"])
def test_the_layer_that_is_shown_is_the_one_that_exists(source: str) -> None:
    text = (DOCS / "extending.md").read_text()
    block = re.findall(r"```python\n(.*?)```", text[text.index(source) :], re.DOTALL)[0]
    assert block in (ROOT / source).read_text()


@pytest.mark.parametrize("page", ["inference.md"])
def test_examples_print_what_their_comments_say(page: str) -> None:
    code = "\n".join(re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL))
    # Behind a print stands its line, or below a loop a line for each of its turns.
    promised = re.findall(r"(?m)^(?:print\(.*\)  )?# (.+)$", code)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, page, "exec"), {})
    assert printed.getvalue().splitlines() == promised


def test_links_between_documents_lead_somewhere() -> None:
    for document in [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "workflows" / "README.md",
        *DOCS.glob("*.md"),
    ]:
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            assert target.startswith("http") or (document.parent / target).exists(), f"{document.name}: {target}"
