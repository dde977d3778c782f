"""Print docs/workflow.md: each key of a workflow file, from the models that read it.

python docs/make_workflow_page.py > docs/workflow.md
"""

import re

from cntk_pipeline.workflow.keys import KeyTable, workflow_keys

INTRODUCTION = """\
# The workflow file

A workflow is a TOML file. This page lists all its tables and keys; [docs/make_workflow_page.py](make_workflow_page.py)
makes it from the code. [running.md](running.md) shows a whole file, and `cntk init DATA` writes one for your data.

An empty default means that the key is not given: the meaning says what happens then. `--set section.key=value` replaces
a value for one command. An unknown key is an error that names the nearest known one.
"""


def page() -> str:
    """Write the page."""
    blocks = [INTRODUCTION]
    for table in workflow_keys():
        blocks.append(_heading(table))
        blocks.append(_markdown(table.about) + "\n")
        if table.keys:
            rows = [f"| `{k.name}` | {_cell(k.type)} | {_code(k.default)} | {_cell(k.meaning)} |" for k in table.keys]
            blocks.append("\n".join(["| key | type | default | meaning |", "|---|---|---|---|", *rows]) + "\n")
    return "\n".join(blocks)


def _heading(table: KeyTable) -> str:
    if table.kind:
        return f"### `[{table.section}]` with `{table.kind}`\n"
    return f"## `[{table.section}]`\n" if table.section else "## Above all tables\n"


def _markdown(text: str) -> str:
    """Turn the marks of docstrings into those of Markdown."""
    return re.sub(r"``(.+?)``", r"`\1`", text)


def _cell(text: str) -> str:
    return _markdown(text).replace("|", "\\|")


def _code(text: str) -> str:
    return f"`{text}`" if text and text != "required" else text


if __name__ == "__main__":
    print(page(), end="")
