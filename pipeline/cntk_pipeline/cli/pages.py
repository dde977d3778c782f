"""The commands that write pages for a browser: `cntk report` and `cntk compare`."""

import importlib.util
import time
from typing import Annotated

import typer

from cntk_pipeline.cli.console import escape, out
from cntk_pipeline.cli.entry import importing
from cntk_pipeline.cli.options import RunPath, read_place

PageFile = Annotated[str | None, typer.Option("--out", metavar="FILE", help="The page; it ends in .html.")]


def report(directory: RunPath, output: PageFile = None) -> None:
    """Write a page with the figures of a run, complete or not.

    The page is one file that needs no network: report.html in the run directory, or --out FILE. A file of the same name
    with the ending .json holds its numbers.
    """
    write_report(directory, output)


def write_report(directory: str, output: str | None = None) -> None:
    """Write the report of a run, and say where it lies."""
    with importing():
        from cntk_pipeline.opened import open_run
        from cntk_pipeline.pages import make_report_page, require_page, write_page
        from cntk_pipeline.storage import open_path

    began = time.monotonic()
    run = open_run(directory)
    path = run.path / "report.html" if output is None else require_page(open_path(read_place(output)))
    write_page(make_report_page(run), path)
    out.print(f"report: [bold]{escape(str(path.absolute()))}[/] ({time.monotonic() - began:.1f} s)")


def can_draw() -> bool:
    """Tell whether the packages for figures are installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("matplotlib", "tomli_w"))


def compare(
    directories: Annotated[
        list[str],
        typer.Argument(metavar="DIR DIR...", callback=lambda given: list(map(read_place, given)), help="Runs."),
    ],
    output: PageFile = None,
) -> None:
    """Write a page of several runs side by side.

    It shows which keys differ, the scores, McNemar's test where the test images are the same, and the costs. The page
    is compare.html in the current directory, or --out FILE.
    """
    with importing():
        from cntk_pipeline.opened import open_run
        from cntk_pipeline.pages import make_comparison, require_page, write_page
        from cntk_pipeline.storage import open_path

    path = require_page(open_path(read_place("compare.html" if output is None else output)))
    write_page(make_comparison([open_run(directory) for directory in directories]), path)
    out.print(f"comparison: [bold]{escape(str(path.absolute()))}[/]")
