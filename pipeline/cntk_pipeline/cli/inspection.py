"""What `cntk inspect` shows of a run: a summary that fits a screen, or everything."""

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cntk_pipeline.cli.console import escape, out
from cntk_pipeline.cli.plan import show_contents
from cntk_pipeline.cli.status import (
    chosen_lines,
    damage_lines,
    driver_lines,
    results_table,
    show_inferred,
    show_results,
    show_stages,
    show_state,
)
from cntk_pipeline.cli.tables import show_table
from cntk_pipeline.solvers.scores import main_score
from cntk_pipeline.units import python_text

if TYPE_CHECKING:
    from cntk_pipeline.datasets import Contents
    from cntk_pipeline.workflow.report import RunReport, SolveReport

SUMMARY_LINES = 24
"""Lines of the smallest screen. The summary takes no more, the next prompt included."""

FEWEST_ROWS = 4
"""Rows of scores that are shown in any case."""


def show_summary(report: "RunReport", contents: "Contents | None") -> None:
    """Show a run on one screen: what was computed, its scores, what it lacks, and where things lie."""
    head = [report.path, *_wrapped(_sentence(report)), ""]
    head += [] if report.solves else _wrapped(f"no ridge is chosen yet for {', '.join(report.readouts)}")
    tail = [*chosen_lines(report), "", *_lacking(report, contents), *_further(report), "", *_places(report)]
    taken = sum(max(1, math.ceil(len(line) / out.width)) for line in (*head, *tail))
    room = max(FEWEST_ROWS, SUMMARY_LINES - 1 - taken - 2)
    shown = best_of(report.solves, room)
    for number, line in enumerate(head):
        out.print(escape(line), style="bold" if number == 0 else "")
    if shown:
        show_table(results_table(shown))
    if len(shown) < len(report.solves):
        out.print(f"{len(report.solves) - len(shown)} more rows are not shown; these are the best")
    for line in tail:
        out.print(escape(line))


def best_of(solves: "Sequence[SolveReport]", count: int) -> "list[SolveReport]":
    """Return the solves with the best scores, in their order; all of them where they are not more than ``count``."""
    if len(solves) <= count:
        return list(solves)

    def score(index: int) -> float:
        found = main_score(solves[index])
        return -float("inf") if found is None else found

    chosen = sorted(range(len(solves)), key=score, reverse=True)[:count]
    return [solves[index] for index in sorted(chosen)]


def _sentence(report: "RunReport") -> str:
    """Say in one sentence what was computed."""
    data, kernels = report.data, len(report.readouts)
    images = f"{data.train:,} training and {data.test:,} test images of {' x '.join(map(str, data.shape))}"
    ridges = sorted({f"{solve.ridge:g} {solve.ridge_mode}" for solve in report.solves})
    solved = f"the ridge {ridges[0]}" if len(ridges) == 1 else f"{len(ridges)} ridges" if ridges else "no ridge yet"
    grown = "" if report.grown_from is None else f", and grew from {report.grown_from}"
    made = f"it was made on {report.provenance.created[:10]} on {report.provenance.host}"
    word = "kernel" if kernels == 1 else "kernels"
    return (
        f"This run has {kernels} {word} in {report.dtype} of {images}, for {_targets(report)}, with {solved}; "
        f"{made}{grown}."
    )


def _targets(report: "RunReport") -> str:
    count = len(report.data.classes)
    if report.data.task == "regression":
        return f"{count} target{'' if count == 1 else 's'} of a regression"
    return f"{count} classes"


def _lacking(report: "RunReport", contents: "Contents | None") -> list[str]:
    """List what is not computed yet, what is damaged, and what the data set lacks."""
    left = [f"{each.total - each.done} of {each.stage}" for each in report.stages if each.done < each.total]
    lines = _wrapped(f"tiles to compute: {', '.join(left)}") if left else []
    lines += [*damage_lines(report), *driver_lines(report)]
    if report.predictions:
        lines.append(f"predictions of new images: {len(report.predictions)}")
    warnings = () if contents is None else contents.warnings
    if warnings:
        more = f" (and {len(warnings) - 1} more)" if len(warnings) > 1 else ""
        lines += _wrapped(f"warning: {warnings[0]}{more}")
    return lines


def _further(report: "RunReport") -> list[str]:
    """Name the further results that are there."""
    found = ["ridge path"] if any(path.record for path in report.ridge_paths) else []
    found += [item.product for solve in report.solves for item in solve.inferred if item.record]
    found += [item.product for item in report.trained if item.record]
    names = ", ".join(dict.fromkeys(found)).replace("_", " ")
    return _wrapped(f"further results: {names}") if found else []


def _places(report: "RunReport") -> list[str]:
    return [
        "kernel.zarr has the kernels, solve/ the results, log/ the events",
        f"in Python: cntk_pipeline.open_run({python_text(report.path)})",
        "everything, stage by stage: cntk inspect --all",
    ]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, min(out.width, 100), break_long_words=False, break_on_hyphens=False)


def show_inspection(report: "RunReport", contents: "Contents | None") -> None:
    """Show everything about a run directory, and how to open its arrays."""
    show_specification(report)
    if contents is not None:
        show_contents(contents.lines[1:], contents.warnings)
        out.print()
    show_stages(report)
    show_results(report)
    show_inferred(report)
    show_state(report)
    out.print("\n[bold]open with[/]  [dim]import cntk_pipeline, zarr, xarray[/]")
    for line in report.openers:
        out.print("  " + escape(line))


def show_specification(report: "RunReport") -> None:
    """Show the specification of a run directory."""
    data = report.data
    out.print(f"[bold]{escape(report.path)}[/]  fingerprint {report.fingerprint[:16]}")
    shape = " x ".join(map(str, data.shape))
    out.print(f"data      {data.train} training and {data.test} test images, {shape}, {_targets(report)}")
    out.print(escape(f"kernels   {report.dtype}, tiles of {report.tile}: {', '.join(report.readouts)}"))
    out.print(escape(f"engine    {report.engine}, numerics version {report.numerics_version}"))
    made = report.provenance
    versions = ", ".join(f"{name} {version}" for name, version in made.versions.items())
    out.print(escape(f"made      {made.created} on {made.host}: {versions}"))
    if report.grown_from is not None:
        out.print(f"grown     from {escape(report.grown_from)}")
    out.print()
