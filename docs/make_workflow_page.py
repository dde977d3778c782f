"""Print docs/workflow.md: each key of a workflow file, from the models that read it.

python docs/make_workflow_page.py > docs/workflow.md
"""

import re

from cntk_pipeline.workflow.keys import KeyTable, workflow_keys

INTRODUCTION = """\
# The workflow file

A workflow is a TOML file. This one, `first.toml`, reads scikit-learn's digits and takes a second:

```toml
name = "first"

[data]
source = "digits"
train = 100
test = 50

[network]
preset = "cntk"

[readouts]
depths = [3]
poolings = ["gap"]

[solve]
ridges = [1e-4]

[cluster]
kind = "serial"          # in the process of the command; "local", the default, starts workers on this machine
```

`cntk plan` forecasts what it takes, and `cntk run` computes. `--set section.key=value` replaces a value for one
command; a list stands in quotes. Lines that are not shown are `...`:

```
$ cntk plan first.toml
100 training and 50 test images of 8 x 8 pixels in 1 channel, 10 classes
...
$ cntk run first.toml --store runs/first
...
read-out                  ridge  accuracy  residual
depth3-gap-ntk  0.0001 relative    94.00%   1.2e-13
...
$ cntk run first.toml --store runs/second --set data.train=200 --set 'solve.ridges=[1e-3, 1e-4]'
200 training and 50 test images of 8 x 8 pixels in 1 channel, 10 classes
...
depth3-gap-ntk   0.001 relative   100.00%   2.2e-13
depth3-gap-ntk  0.0001 relative   100.00%   2.4e-13
...
```

The place where tiles are computed may stand in a file of its own. Then one workflow serves on all machines. This is
`two.toml`:

```toml
[cluster]
kind = "local"
workers = 2
memory_limit = "2GiB"    # of each worker
```

```
$ cntk plan first.toml --cluster two.toml
...
10.1 k pairs at 4.98 us a pair and core (measured), 8.19 k plane entries each; 2 at once
...
```

[running.md](running.md) has a workflow for CIFAR-10 and all commands, and `cntk init DATA` writes a workflow for your
data. This page goes on with all tables and keys; [docs/make_workflow_page.py](make_workflow_page.py) makes it from the
code. An empty default means that the key is not given: the meaning says what happens then. An unknown key is an error
that names the nearest known one.
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
