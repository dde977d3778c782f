"""What `cntk status` shows: stages, scores, further results and the driver. Other commands show parts of it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from cntk_pipeline.cli.console import escape, out
from cntk_pipeline.cli.tables import plain_table, show_table
from cntk_pipeline.inference import RESULTS, Shown, show_choices
from cntk_pipeline.rundir.lease import Sighting
from cntk_pipeline.solvers import score_columns, score_texts
from cntk_pipeline.units import bytes_text, seconds_text, shell_word

if TYPE_CHECKING:
    from cntk_pipeline.workflow.report import CentresReport, RunReport, SolveReport


def centres_text(found: "CentresReport") -> str:
    """Say how far the draw of centres by the kernel itself is."""
    most = f"{found.count} centres" if found.is_over else f"{found.count} of at most {found.most} centres so far"
    wanted = "" if found.tolerance is None else f" (tolerance {found.tolerance:g})"
    return f"{most}, relative trace error {found.trace_errors[-1]:.2e}{wanted}" if found.trace_errors else most


def show_stages(report: "RunReport") -> None:
    """Show the progress of each stage, and its cost."""
    show_table(stages_table(report))
    if report.centres is not None:
        out.print(escape(centres_text(report.centres)))
    for timing in report.timings:
        if timing.efficiency is not None:
            slots = timing.slot_seconds / timing.wall_seconds
            word = "slot" if slots == 1 else "slots"
            out.print(
                f"{escape(timing.stage)}: {seconds_text(timing.wall_seconds)} by the clock on {slots:.3g} {word}, "
                f"{100 * timing.efficiency:.0f}% of them in tasks"
            )


def stages_table(report: "RunReport") -> Table:
    """Make the table of the progress of each stage, and its cost."""
    table = plain_table("stage", "tiles", "core time", "reading", "computing", "writing", "written")
    for stage in report.stages:
        table.add_row(
            stage.stage,
            f"{stage.done}/{stage.total}",
            seconds_text(stage.seconds),
            seconds_text(stage.read_seconds),
            seconds_text(stage.compute_seconds),
            seconds_text(stage.write_seconds),
            bytes_text(stage.bytes),
        )
    return table


def show_results(report: "RunReport") -> None:
    """Show the scores of every read-out and ridge."""
    out.print()
    show_table(results_table(report.solves))
    for line in chosen_lines(report):
        out.print(escape(line))


def chosen_lines(report: "RunReport") -> list[str]:
    """Say which system the training images choose; nothing where the workflow does not ask for it."""
    best = report.best
    if report.choose_by is None or best is None:
        return []
    return [f"chosen by {report.choose_by.replace('_', '-')}: {best.label}"]


def results_table(solves: "Sequence[SolveReport]") -> Table:
    """Make the table of the scores of some read-outs and ridges."""
    columns = score_columns(solves)
    errors = ("squared error",) if "R2" in columns else ()
    table = plain_table("read-out", "ridge", *columns, *errors, "residual")
    for solve in solves:
        ridge, readout = f"{solve.ridge:g} {solve.ridge_mode}", escape(solve.readout)
        if solve.relative_residual is None:
            table.add_row(readout, ridge, "not yet")
        else:
            error = [f"{solve.squared_error:.4g}" for _ in errors]
            table.add_row(readout, ridge, *score_texts(solve, columns), *error, f"{solve.relative_residual:.1e}")
    return table


NUMBER_WIDTH = 10
"""Columns of the screen that a column of numbers takes, its gap included, where its heading is broken at its words."""

SCREEN_ROWS = 12
"""Rows of a table that a run shows at its end; a longer one is named."""


def show_inferred(report: "RunReport", most_rows: int | None = None) -> None:
    """Show the further results, as far as they are done: a table for each kind, or its name where it is longer."""
    tables = [show_choices([(path.readout, path.record) for path in report.ridge_paths if path.record])]
    inferred = [(solve, item) for solve in report.solves for item in solve.inferred if item.record]
    for key, result in RESULTS.items():
        found = [(solve.label, item.record) for solve, item in inferred if item.product == key]
        found += [(item.network, item.record) for item in report.trained if item.record and item.product == key]
        tables.append(result.show(found))
    for table in tables:
        if most_rows is not None and len(table.rows) > most_rows:
            out.print(f"\n[bold]{escape(table.title)}[/]: {len(table.rows)} rows, which `cntk inspect --all` shows")
        elif table.rows:
            out.print()
            show_table(inferred_table(table))


def inferred_table(shown: Shown) -> Table:
    """Draw the results of one kind, a system a row."""
    table = plain_table(shown.first, *shown.columns, title=shown.title)
    for row in shown.rows:
        table.add_row(*map(escape, row))
    # Where there is room, headings are broken between their words rather than the name of a system.
    longest = max((len(row[0]) for row in shown.rows), default=0)
    table.columns[0].no_wrap = longest + NUMBER_WIDTH * len(shown.columns) <= out.width
    return table


def show_state(report: "RunReport", awaited: bool = False) -> None:
    """Show whether a driver is at work, or how to go on unless one is ``awaited``."""
    lines = state_lines(report, awaited)
    if lines:
        out.print("\n" + escape("\n".join(lines)))


def state_lines(report: "RunReport", awaited: bool = False) -> list[str]:
    """Describe what is damaged or gone, predictions of new images, and the state of the driver."""
    predictions = [
        f"predictions for {each.images:,} images of {each.origin} by {each.readout}: {each.done}/{each.total} tiles"
        for each in report.predictions
    ]
    return [*damage_lines(report), *predictions, *driver_lines(report, awaited)]


def damage_lines(report: "RunReport") -> list[str]:
    """Describe what is damaged or gone."""
    lines = [f"{report.quarantined} chunks in quarantine"] if report.quarantined else []
    if report.lost_inputs:
        first, *others = report.lost_inputs
        more = f" and {len(others):,} more chunks of the data set are" if others else " of the data set is"
        lines.append(f"{first}{more} gone")
    return lines if report.driver else lines + unwritten(report)


def driver_lines(report: "RunReport", awaited: bool = False) -> list[str]:
    """Say whether a driver is at work, or how to go on unless one is ``awaited``."""
    lines = [lost_line(report)] if report.lost_driver is not None and not report.complete else []
    if report.driver:
        where = "" if report.executor is None else f", {report.executor}"
        lines.append(f"a driver is at work: {report.driver + where}")
    elif report.complete:
        lines.append("complete: every tile and every result is there")
    elif not awaited:
        lines.append(f"incomplete: cntk resume {shell_word(report.path)}")
    return lines


def lost_line(report: "RunReport") -> str:
    """Say of a driver that is silent when it was last heard of."""
    return f"the driver {Sighting(str(report.lost_driver), report.silent_seconds).silence}"


def unwritten(report: "RunReport") -> list[str]:
    """Name the records that are gone though every tile that they sum up is there."""
    if any(stage.done < stage.total for stage in report.stages):
        return []
    lines: list[str] = []
    for solve in report.solves:
        if solve.absolute_ridge is None or solve.relative_residual is None:
            lines.append(f"the record of {solve.label} is gone")
        lines += [f"the {item.product} of {solve.label} is gone" for item in solve.inferred if item.record is None]
    return lines + [f"the {item.product} of {item.network} is gone" for item in report.trained if item.record is None]
