"""The report of a run: one page with what came out, whether it can be trusted, and where the time went."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from cntk_pipeline import __version__
from cntk_pipeline.errors import ConfigError
from cntk_pipeline.inference import RESULTS, Shown, show_choices
from cntk_pipeline.inference.auto_ridge import RIDGE_PHASE
from cntk_pipeline.opened import OpenRun
from cntk_pipeline.opened.description import describe
from cntk_pipeline.pages.page import Page
from cntk_pipeline.pages.sections import PagePart, gather
from cntk_pipeline.pages.templates import render
from cntk_pipeline.plots.base import counted, plain
from cntk_pipeline.plots.scores import score_name, score_text
from cntk_pipeline.solvers.scores import main_score
from cntk_pipeline.units import bytes_text, seconds_text, shell_word
from cntk_pipeline.workflow.report import RunReport, make_report


def make_report_page(run: OpenRun) -> Page:
    """Make the report of a run, complete or not; nothing is written.

    Raises
    ------
    ConfigError
        If matplotlib or tomli-w is not installed.
    """
    report = make_report(run.directory)
    drawn, lacking = gather(run)
    sections = [*drawn, *_compared(report)]
    path, images, state = describe(run.directory)
    name = run.directory.workflow().name
    sentence = _sentence(run, report, images)
    html = render(
        "report.html",
        title=name,
        path=path,
        word=shell_word(path),
        state=state,
        complete=report.complete,
        sentence=sentence,
        sections=[*sections, _work(report)],
        lacking=lacking,
        facts=_facts(report),
        workflow=_toml(run),
        version=__version__,
    )
    numbers = {
        "path": path,
        "name": name,
        "sentence": sentence,
        "state": state,
        "status": report.to_json(),
        "sections": {section.key: section.numbers for section in sections},
        "lacking": {each.key: each.reason for each in lacking},
    }
    return Page(html, plain(numbers))


def _sentence(run: OpenRun, report: RunReport, images: str) -> str:
    """Say in a sentence or two what was computed, and what came out."""
    kinds = {readout.kind for readout in run.directory.specification.readouts}
    noun = kinds.pop().upper() if len(kinds) == 1 else "kernel"
    said = f"{counted(len(report.readouts), noun)} of {images}, in {report.dtype}."
    scored = [(score, solve) for solve in report.solves if (score := main_score(solve)) is not None]
    if report.choose_by is not None and report.best is not None:
        measure = report.choose_by.replace("_", "-")
        said += f" The training images choose {report.best.readout} with ridge {report.best.ridge:g}, by {measure}."
    if not scored:
        return said
    score, best = max(scored, key=lambda pair: pair[0])
    name = score_name(run)
    return (
        f"{said} The best on the test images is {best.readout} with ridge {best.ridge:g}: {name} "
        f"{score_text(name, score)}."
    )


def _compared(report: RunReport) -> list[PagePart]:
    """Lay out the evidence and the probabilities of all systems, as far as they are there."""
    found = []
    for key, title in (("evidence", "Evidence"), ("calibration", "Probabilities of all systems")):
        records = [
            (solve.label, item.record)
            for solve in report.solves
            for item in solve.inferred
            if item.product == key and item.record is not None
        ]
        tables = [RESULTS[key].show(records)] if records else []
        paths = [(path.readout, path.record) for path in report.ridge_paths if path.record is not None]
        if key == "evidence" and any(path.log_evidence is not None for _, path in paths):
            tables.append(show_choices(paths))
        if tables:
            found.append(
                PagePart(key, title, None, tuple(tables), {label: asdict(record) for label, record in records})
            )
    return found


def _work(report: RunReport) -> PagePart:
    """Lay out the stages: how far they are, and what they cost."""
    rows = []
    for stage in report.stages:
        times = map(seconds_text, (stage.seconds, stage.read_seconds, stage.compute_seconds, stage.write_seconds))
        costs: tuple[str, ...] = (*times, bytes_text(stage.bytes))
        if stage.phase == RIDGE_PHASE and not stage.seconds and stage.done:
            # Made by a factor of each candidate: each is a phase of its own, and no stage of the workflow.
            costs = ("by phase below", *[""] * 4)
        rows.append((stage.stage, f"{stage.done:,} of {stage.total:,}", *costs))
    columns = ("tiles", "core time", "reading", "computing", "writing", "written")
    tables = [Shown("stages", columns, tuple(rows), first="stage")]
    if report.timings:
        busy = tuple(
            (
                each.stage,
                seconds_text(each.wall_seconds),
                seconds_text(each.core_seconds),
                "none" if each.efficiency is None else f"{100 * each.efficiency:.0f}%",
            )
            for each in report.timings
        )
        names = ("by the clock", "in tiles", "busy")
        tables.append(Shown("how busy the workers were", names, busy, first="phase"))
    return PagePart("stages", "Stages", None, tuple(tables), {})


def _facts(report: RunReport) -> Sequence[tuple[str, str]]:
    """List where the run comes from, for someone who wants to make it again."""
    made, data = report.provenance, report.data
    facts = [
        ("run", report.path),
        ("fingerprint", report.fingerprint),
        ("data", f"digest {data.digest[:16]}; {data.train:,} training and {data.test:,} test samples of {data.shape}"),
        (
            "values",
            f"{report.dtype}, tiles of {report.tile}, engine {report.engine}, numerics {report.numerics_version}",
        ),
        *((key.replace("_", " "), _fact(value)) for key, value in asdict(made).items()),
        ("quarantined", counted(report.quarantined, "file")),
    ]
    if report.grown_from:
        facts.append(("grown from", report.grown_from))
    return facts


def _fact(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {each}" for name, each in value.items())
    return str(value)


def _toml(run: OpenRun) -> str:
    """Write the workflow of a run as a file to copy, without what is at its default."""
    try:
        import tomli_w
    except ModuleNotFoundError:
        raise ConfigError("a report needs tomli-w: pip install 'cntk-pipeline[report]'") from None
    said = run.directory.workflow().model_dump(mode="json", exclude_defaults=True, exclude_none=True)
    return tomli_w.dumps({key: value for key, value in said.items() if value != {}})
