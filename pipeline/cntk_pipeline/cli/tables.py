"""Tables without lines: nothing of their texts is cut off, since a name or a number may be in no other place."""

import os

from rich.console import Console
from rich.table import Table

from cntk_pipeline.cli.console import out

UNBROKEN = 10_000
"""Columns that a table takes at most where nobody looks at it on a screen."""


def plain_table(*headings: str, title: str | None = None) -> Table:
    """Make a table, of whose columns all but the first are for numbers; a text that is too wide goes on below."""
    table = Table(box=None, pad_edge=False, title=title, title_justify="left", title_style="bold")
    for position, heading in enumerate(headings):
        table.add_column(heading, justify="right" if position else "left", overflow="fold")
    return table


def show_table(table: Table) -> None:
    """Print a table; in a pipe or a file no line is broken, unless COLUMNS gives a width."""
    on_screen = out.file.isatty() or out.is_jupyter or "COLUMNS" in os.environ
    console = out if on_screen else Console(file=out.file, width=UNBROKEN, height=out.height, highlight=False)
    console.print(table)
