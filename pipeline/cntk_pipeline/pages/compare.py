"""A page of several runs side by side: what differs, how well they predict, and what they cost."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cntk_pipeline import __version__
from cntk_pipeline.errors import ConfigError, PipelineError
from cntk_pipeline.inference import Shown
from cntk_pipeline.opened import OpenRun
from cntk_pipeline.pages.page import Page
from cntk_pipeline.pages.sections import Lacking, PagePart, short
from cntk_pipeline.pages.templates import render
from cntk_pipeline.plots.base import plain
from cntk_pipeline.plots.comparison import Comparison, McNemar, have_equal_tests, mcnemar
from cntk_pipeline.units import bytes_text, seconds_text
from cntk_pipeline.workflow.report import make_report
from cntk_pipeline.workflow.wanted import KERNEL

_OWN = ("store.path", "store.grow_from", "name")
"""Keys of workflows that differ between any two runs."""

Named = Sequence[tuple[str, OpenRun]]


def make_comparison(runs: Sequence[OpenRun]) -> Page:
    """Make a page of runs side by side; nothing is written.

    Raises
    ------
    ConfigError
        If there are fewer than two runs, one is given twice, or matplotlib is not installed.
    """
    if len(runs) < 2:
        raise ConfigError(f"a comparison is of at least two runs, got {len(runs)}")
    paths = [str(run.path.absolute()) for run in runs]
    if len(set(paths)) < len(paths):
        raise ConfigError(f"a run is given twice: {', '.join(paths)}")
    named = list(zip(_names(paths), runs, strict=True))
    sections, lacking = [_differences(named)], []
    try:
        sections.append(PagePart.of(Comparison.of(named)))
    except PipelineError as error:
        lacking.append(Lacking("scores", "Scores", str(error)))
    tests, refused = _tests(named)
    sections += [tests] if tests else []
    lacking += refused
    sections.append(_costs(named))
    html = render(
        "compare.html",
        title=" and ".join(name for name, _ in named) if len(named) == 2 else f"{len(named)} runs",
        runs=[(name, path) for (name, _), path in zip(named, paths, strict=True)],
        sections=sections,
        lacking=lacking,
        version=__version__,
    )
    numbers = {
        "runs": dict(zip((name for name, _ in named), paths, strict=True)),
        "sections": {section.key: section.numbers for section in sections},
        "lacking": {each.key: each.reason for each in lacking},
    }
    return Page(html, plain(numbers))


def _names(paths: Sequence[str]) -> list[str]:
    """Name runs by the ends of their paths, as long as it takes to tell them apart."""
    parts = [path.rstrip("/").split("/") for path in paths]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-count:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return list(paths)


def _differences(named: Named) -> PagePart:
    """List the keys of the workflows and of the data that are not the same in all runs."""
    said = [dict(_flat(_described(run))) for _, run in named]
    keys = [key for key in dict.fromkeys(itertools.chain(*said)) if key not in _OWN]
    rows = []
    for key in keys:
        values = [_value(each.get(key)) for each in said]
        if len(set(values)) > 1:
            rows.append((key, *values))
    names = tuple(name for name, _ in named)
    title = "keys that differ" if rows else "the workflows and the data are the same"
    numbers = {row[0]: dict(zip(names, row[1:], strict=True)) for row in rows}
    return PagePart("differences", "What differs", None, (Shown(title, names, tuple(rows), first="key"),), numbers)


def _described(run: OpenRun) -> Mapping[str, Any]:
    specification = run.directory.specification
    computed = {
        "images": specification.data.digest[:16],
        "numerics": specification.numerics_version,
        "versions": run.directory.provenance.versions,
    }
    return run.directory.workflow().model_dump(mode="json") | {"computed": computed}


def _flat(table: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{place}{key}.")
        else:
            yield f"{place}{key}", value


def _value(value: Any) -> str:
    return "" if value is None else str(value)


def _tests(named: Named) -> tuple[PagePart | None, list[Lacking]]:
    """Test whether the best systems of two runs differ, for each pair of runs with equal test images."""
    found: list[McNemar] = []
    lacking: list[Lacking] = []
    for (name, run), (other_name, other) in itertools.combinations(named, 2):
        pair = f"{name} and {other_name}"
        key = f"mcnemar-{len(found) + len(lacking)}"
        try:
            if not have_equal_tests(run, other):
                lacking.append(Lacking(key, f"McNemar's test of {pair}", "their test images or labels differ"))
                continue
            found.append(mcnemar((name, other_name), _right(run), _right(other)))
        except PipelineError as error:
            lacking.append(Lacking(key, f"McNemar's test of {pair}", short(run, short(other, str(error)))))
    if not found:
        return None, lacking
    rows = tuple(
        (f"{each.first} and {each.second}", f"{each.only_first:,}", f"{each.only_second:,}", f"{each.p:.3g}")
        for each in found
    )
    columns = ("only the first right", "only the second right", "p")
    title = "McNemar's exact test of the best systems; p is not corrected for the number of pairs"
    shown = Shown(title, columns, rows, first="runs")
    return PagePart("mcnemar", "Is it chance?", None, (shown,), {"pairs": plain(tuple(found))}), lacking


def _right(run: OpenRun) -> np.ndarray:
    """Tell for each test image whether the best system of a run is right."""
    if run.directory.specification.data.task != "classification":
        raise ConfigError(
            f"{run.path} has the task {run.directory.specification.data.task}, which has no right or wrong"
        )
    system, labels = run.best, run.labels.test
    assert labels is not None
    return run.predictions(system.readout, system.ridge).argmax(1) == labels


def _costs(named: Named) -> PagePart:
    """Lay out what each run took: all tiles that it computed, also those of ridges that it tried and did not take."""
    rows, numbers = [], {}
    for name, run in named:
        report = make_report(run.directory)
        kinds = {stage.stage for stage in report.stages if stage.phase == KERNEL}
        seconds, kernel, written = 0.0, 0.0, 0
        for receipt in run.directory.journal.receipts():
            if not receipt.adopted:
                seconds += receipt.seconds
                kernel += receipt.seconds if receipt.task.stage.kind in kinds else 0.0
                written += receipt.written_bytes
        wall = sum(each.wall_seconds for each in report.timings)
        state = "complete" if report.complete else "not complete"
        rows.append((name, state, *map(seconds_text, (seconds, kernel, wall)), bytes_text(written)))
        numbers[name] = {
            "complete": report.complete,
            "core_seconds": seconds,
            "kernel_core_seconds": kernel,
            "wall_seconds": wall,
            "written_bytes": written,
        }
    columns = ("state", "core time", "of the kernel", "by the clock", "written")
    title = "what each run took, without tiles that it took over from another"
    return PagePart("costs", "Costs", None, (Shown(title, columns, tuple(rows), first="run"),), numbers)
