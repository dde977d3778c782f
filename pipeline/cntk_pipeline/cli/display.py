"""The display of a run for people: live progress, tables, and numbers with units."""

import importlib.util
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from cntk_pipeline.cli.bars import Bar, draw_bars
from cntk_pipeline.cli.console import err, escape, out
from cntk_pipeline.inference import RESULTS, Shown, show_choices
from cntk_pipeline.rundir.lease import Sighting
from cntk_pipeline.solvers import score_columns, score_texts
from cntk_pipeline.telemetry.pace import Pace
from cntk_pipeline.units import bytes_text, count_text, seconds_text, shell_word

if TYPE_CHECKING:  # a display of a state needs neither the driver nor a plan
    from rich.console import RenderableType
    from rich.live import Live

    from cntk_pipeline.driver.driver import Progress as DriverProgress
    from cntk_pipeline.workflow.plan import Plan
    from cntk_pipeline.workflow.report import CentresReport, RunReport, SolveReport
    from cntk_pipeline.workflow.ways import Way

PLAIN_SECONDS, PLAIN_SHARE, QUIET_SECONDS = 30.0, 0.05, 600.0
"""Distance of progress lines where the output is no terminal: at least half a minute and a twentieth of the stage, but
ten minutes at most. So a stage has some twenty lines, and a long one is never silent for long."""

DRAW_SECONDS = 0.25
"""Distance of two forecasts on a terminal."""


class RunView:
    """A view that shows a run by bars on a terminal, by plain lines elsewhere."""

    def __init__(self) -> None:
        self._phase = ""
        self._live: Live | None = None
        self._progress: DriverProgress | None = None
        self._entries, self._left, self._began = Pace(), "", 0.0
        self._shown, self._shown_done = 0.0, -1
        self._warnings = _Warnings(logging.WARNING)

    def __enter__(self) -> "RunView":
        logging.getLogger("cntk_pipeline.driver").addHandler(self._warnings)
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        logging.getLogger("cntk_pipeline.driver").removeHandler(self._warnings)

    def say(self, text: str) -> None:
        out.print(escape(text))

    def begin(self, phase: str) -> None:
        self._end()
        now = time.monotonic()
        self._phase, self._began, self._shown, self._shown_done = phase, now, now, -1
        self._progress, self._entries, self._left = None, Pace(), ""
        if out.is_terminal or _has_widgets():
            from rich.live import Live

            self._live = Live(get_renderable=self._draw, console=out, vertical_overflow="crop")
            self._live.start()

    def progress(self, progress: "DriverProgress") -> None:
        now = time.monotonic()
        self._entries.observe(now, progress.entries_done)
        if self._live is None and not self._is_due(progress):
            return
        if self._live is None or now - self._shown >= DRAW_SECONDS or progress.done == progress.total:
            self._shown, self._shown_done, self._left = now, progress.done, self._time_left(progress)
        self._progress = progress
        if self._live is None:
            parts = [f"{self._phase}: {progress.done}/{progress.total} tiles", _rate(progress), self._left]
            out.print(", ".join(part for part in (*parts, *_troubles(progress)) if part))

    def _is_due(self, progress: "DriverProgress") -> bool:
        """Tell whether a plain line is due: at a stage's beginning, at its end, and now and then between them."""
        if self._shown_done < 0 or progress.done == progress.total:
            return True
        passed, more = time.monotonic() - self._shown, progress.done - self._shown_done
        return passed >= QUIET_SECONDS or (passed >= PLAIN_SECONDS and more >= PLAIN_SHARE * progress.total)

    def _draw(self) -> "RenderableType":
        """Draw the bars of the phase, in a thread of rich's; the screen of `cntk status --watch` draws them alike."""
        progress, passed = self._progress, seconds_text(time.monotonic() - self._began)
        if progress is None:
            return f"{self._phase}: looking at what is done, {passed} so far"
        passed = f"{passed} so far" if progress.done < progress.total else f"took {passed}"
        stages = progress.stages if len(progress.stages) > 1 else ()
        bars = [Bar(each.stage, each.done, each.total, written_bytes=each.written_bytes) for each in stages]
        left = ", ".join((*_troubles(progress), self._left or passed))
        whole = Bar(self._phase, progress.done, progress.total, _rate(progress), left, is_sum=bool(bars))
        return draw_bars([*bars, whole], out.width)

    def _time_left(self, progress: "DriverProgress") -> str:
        # The time of iterations cannot be forecast; their residual says more.
        if progress.note or progress.done == progress.total:
            return progress.note
        left = self._entries.seconds_left(progress.entries_total - progress.entries_done)
        return "" if left is None else f"{left} left"

    def _end(self) -> None:
        if self._live is not None:
            if out.is_jupyter:
                self._live.refresh()  # `stop` does so on terminals alone, and the last bar would be an older one
            self._live.stop()
            self._live = None


def _has_widgets() -> bool:
    """Tell whether this is a notebook that can show a live widget."""
    return out.is_jupyter and importlib.util.find_spec("ipywidgets") is not None


class _Warnings(logging.Handler):
    """A handler that shows the driver's warnings, one line each with its time."""

    def emit(self, record: logging.LogRecord) -> None:
        # Only the first line: an error may have a whole traceback, which the log in the run directory keeps.
        text = record.getMessage().partition("\n")[0]
        moment = time.strftime("%H:%M:%S", time.localtime(record.created))
        err.print(escape(f"{moment} {record.levelname.lower()}: {text}"))


def _rate(progress: "DriverProgress") -> str:
    if not progress.entries_now or progress.elapsed_seconds <= 0:
        return ""
    return f"{count_text(progress.entries_now / progress.elapsed_seconds)} entries/s"


def _troubles(progress: "DriverProgress") -> list[str]:
    counts = ((progress.retries, "retries"), (progress.quarantined, "quarantined"))
    return [f"{count} {word}" for count, word in counts if count]


def show_plan(plan: "Plan") -> None:
    """Show a forecast."""
    show_contents(plan.contents.lines, plan.warnings)
    out.print(
        escape(
            f"{len(plan.readouts)} {'read-out' if len(plan.readouts) == 1 else 'read-outs'} in one pass of the engine "
            f"{plan.engine}, numerics version {plan.numerics_version}:"
        )
    )
    out.print(escape("  " + ", ".join(plan.readouts)))
    part = "measured" if plan.measured_share == 1 else f"measured on {100 * plan.measured_share:.2g} % of a pair"
    part = part if plan.measured_share else "counted, not measured: no graphics card is at hand here"
    entries = "" if plan.plane_entries is None else f", {count_text(plan.plane_entries)} plane entries each"
    out.print(
        f"{count_text(plan.pairs)} pairs at {seconds_text(plan.pair_seconds)} a pair and core ({part})"
        f"{entries}; {plan.slots} at once"
    )
    if plan.centres is not None:
        out.print(
            f"{plan.centres} centres: {100 * plan.pairs / plan.all_pairs:.3g} % of the {count_text(plan.all_pairs)} "
            "pairs of the whole kernel"
        )
        if plan.pilot:
            out.print(escape(plan.pilot))
    table = Table("stage", "tiles", "written", "time", box=None, pad_edge=False)
    for stage in plan.stages:
        table.add_row(stage.stage, str(stage.tasks), bytes_text(stage.written_bytes), seconds_text(stage.seconds))
    tasks = sum(stage.tasks for stage in plan.stages)
    table.add_row("total", str(tasks), bytes_text(plan.written_bytes), seconds_text(plan.seconds), style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    out.print(table)
    if plan.iteration is not None:
        each = plan.iteration
        out.print(
            f"and each iteration of conjugate gradients: {each.tasks} tasks, "
            f"{bytes_text(each.read_bytes)} of kernel read, {seconds_text(each.seconds)}; "
            "how many it takes is not known beforehand"
        )
    if plan.ways:
        _show_ways(plan.ways, plan.train)
    out.print(
        f"tiles of {plan.tile} samples, in the solve {plan.factor_tile}; "
        f"memory per worker about {bytes_text(plan.memory_bytes)}"
    )


def _show_ways(ways: "tuple[Way, ...]", train: int) -> None:
    """Show what the systems cost with the kernel stored, computed again in each pass, or of centres."""
    from cntk_pipeline.workflow.ways import CENTRES, PASSES, cheapest

    said = {
        "stored": "stored as a whole",
        "recomputed": f"computed again in each of {PASSES} passes",
        "centres": f"of {min(CENTRES, train):,} centres, another regression",
    }
    table = Table("the kernel", "written", "time", "", box=None, pad_edge=False)
    for way in ways:
        fits = "" if way.fits else "more than is free on the disk"
        table.add_row(said[way.name], bytes_text(way.written_bytes), seconds_text(way.seconds), fits)
    for column in table.columns[1:3]:
        column.justify = "right"
    out.print(table)
    best, exact = cheapest(ways, exact=False), cheapest(ways, exact=True)
    if best is None:
        out.print("no way fits the disk")
    elif exact is None or exact is best:
        out.print(f"cheapest: {said[best.name]}" + ("; no exact way fits the disk" if exact is None else ""))
    else:
        out.print(f"cheapest: {said[best.name]}; of the exact ways: {said[exact.name]}")


def centres_text(found: "CentresReport") -> str:
    """Say how far the draw of centres by the kernel itself is."""
    most = f"{found.count} centres" if found.is_over else f"{found.count} of at most {found.most} centres so far"
    wanted = "" if found.tolerance is None else f" (tolerance {found.tolerance:g})"
    return f"{most}, relative trace error {found.trace_errors[-1]:.2e}{wanted}" if found.trace_errors else most


def show_contents(lines: Sequence[str], warnings: Sequence[str]) -> None:
    """Show the loaded data set, and warnings about it."""
    for line in (*lines, *(f"warning: {line}" for line in warnings)):
        out.print(escape(line))


def show_stages(report: "RunReport") -> None:
    """Show the progress of each stage, and its cost."""
    out.print(stages_table(report))
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
    columns = ("stage", "tiles", "core time", "reading", "computing", "writing", "written")
    table = Table(*columns, box=None, pad_edge=False)
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
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def show_results(report: "RunReport") -> None:
    """Show the scores of every read-out and ridge."""
    out.print()
    out.print(results_table(report.solves))
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
    table = Table("read-out", "ridge", *columns, *errors, "residual", box=None, pad_edge=False)
    for solve in solves:
        ridge, readout = f"{solve.ridge:g} {solve.ridge_mode}", escape(solve.readout)
        if solve.relative_residual is None:
            table.add_row(readout, ridge, "not yet")
        else:
            error = [f"{solve.squared_error:.4g}" for _ in errors]
            table.add_row(readout, ridge, *score_texts(solve, columns), *error, f"{solve.relative_residual:.1e}")
    for column in table.columns[1:]:
        column.justify = "right"
    return table


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
            out.print(_table(table))


def _table(shown: Shown) -> Table:
    table = Table(shown.first, *shown.columns, box=None, pad_edge=False, title=shown.title)
    table.title_justify, table.title_style = "left", "bold"
    for column in table.columns[1:]:
        column.justify = "right"
    for row in shown.rows:
        table.add_row(*map(escape, row))
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
