"""The command `cntk`: plan, run, resume and look at runs.

Exit codes: 0 complete, 1 failed, 2 wrong usage, 3 incomplete (resuming goes on), 130 stopped by Ctrl-C.
"""

import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from pipeline import run as runs
from pipeline.config import RunConfig, load_config
from pipeline.driver import Progress as DriverProgress
from pipeline.errors import ConfigError, Interrupted, PipelineError, RunNotFound, WorkersLost
from pipeline.plan import Plan
from pipeline.report import RunReport, make_report
from pipeline.store import RunDirectory

COMPLETE, FAILED, USAGE, INCOMPLETE, STOPPED = 0, 1, 2, 3, 130

PLAIN_SECONDS = 5.0
"""Seconds between two lines of progress where the output is no terminal."""

app = typer.Typer(
    add_completion=True,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Exact infinite-width network kernels of image data sets: computed in tiles, stored in Zarr, resumable.\n\n"
    "Exit codes: 0 complete, 1 failed, 2 wrong usage, 3 incomplete, 130 stopped by Ctrl-C.",
)
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

WorkflowFile = Annotated[Path, typer.Argument(metavar="FILE", help="A workflow file (TOML).")]
RunPath = Annotated[Path, typer.Argument(metavar="DIR", help="A run directory.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a value of the workflow file.")
]
Store = Annotated[Path | None, typer.Option("--store", metavar="DIR", help="The run directory.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Verify = Annotated[bool, typer.Option("--verify", help="Read and check every finished chunk first.")]


@app.command()
def demo(store: Store = None, overrides: Overrides = None) -> None:
    """Classify scikit-learn's digits with exact CNTKs, in about a minute; no download."""
    config = _config(_shipped_workflow("digits.toml"), overrides, store)
    _run(runs.run_path(config), lambda view, stop: runs.start(config, view, stop))


@app.command()
def plan(file: WorkflowFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Forecast pairs, tiles, bytes, seconds and memory of a workflow; nothing is written."""
    forecast = runs.plan(_config(file, overrides, None))
    if as_json:
        _print_json(forecast.to_json())
    else:
        _show_plan(forecast)


@app.command("run")
def run_workflow(file: WorkflowFile, store: Store = None, overrides: Overrides = None, verify: Verify = False) -> None:
    """Run a workflow to its end, or go on with it where its run directory has been begun."""
    config = _config(file, overrides, store)
    _run(runs.run_path(config), lambda view, stop: runs.start(config, view, stop, verify=verify))


@app.command()
def resume(directory: RunPath, verify: Verify = False) -> None:
    """Go on with a run directory by the workflow it was last run with."""
    _run(directory, lambda view, stop: runs.resume(directory, view, stop, verify=verify))


@app.command()
def status(directory: RunPath, as_json: AsJson = False) -> None:
    """Show how far a run is; works while it is going on. Exit code 3 where something is left to do."""
    report = make_report(RunDirectory(directory))
    if as_json:
        _print_json(report.to_json())
    else:
        _show_stages(report)
        _show_state(report)
    raise typer.Exit(COMPLETE if report.complete else INCOMPLETE)


@app.command()
def inspect(directory: RunPath, as_json: AsJson = False) -> None:
    """Show the specification, the stages, the results, and how to open the arrays."""
    report = make_report(RunDirectory(directory))
    if as_json:
        _print_json(report.to_json())
        return
    _show_specification(report)
    _show_stages(report)
    _show_results(report)
    _show_state(report)
    out.print("\n[bold]open with[/]  [dim]import zarr, xarray[/]")
    for line in report.openers:
        out.print("  " + escape(line))


@app.command()
def verify(directory: RunPath) -> None:
    """Read every finished chunk and compare its checksums; move bad ones to quarantine."""
    count, quarantined = runs.verify(directory)
    for task in quarantined:
        out.print(f"bad: {task}, moved to quarantine")
    out.print(f"{count} tiles are whole, {len(quarantined)} are bad")
    if quarantined:
        out.print(f"compute them again: cntk resume {escape(str(directory))}")
        raise typer.Exit(INCOMPLETE)


def main() -> None:
    """Run the command line; turn the package's errors into one message and an exit code."""
    try:
        app()
    except Interrupted as error:
        err.print(f"[yellow]{escape(str(error))}[/]")
        sys.exit(STOPPED)
    except WorkersLost as error:
        err.print(f"[red]incomplete:[/] {escape(str(error))}")
        sys.exit(INCOMPLETE)
    except (ConfigError, RunNotFound) as error:
        err.print(f"[red]error:[/] {escape(str(error))}")
        sys.exit(USAGE)
    except PipelineError as error:
        err.print(f"[red]failed:[/] {escape(str(error))}")
        sys.exit(FAILED)


def _shipped_workflow(name: str) -> Path:
    """Find a workflow file that comes with the package: inside it when installed, beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / "workflows" / name
    return inside if inside.exists() else package.parent / "workflows" / name


def _config(file: Path, overrides: list[str] | None, store: Path | None) -> RunConfig:
    settings = list(overrides or [])
    if store is not None:
        settings.append(f"store.path={json.dumps(str(store))}")
    return load_config(file, settings)


def _run(path: Path, action: Callable[["_View", threading.Event], RunDirectory]) -> None:
    """Run with progress and Ctrl-C handling, then show the results."""
    began = time.monotonic()
    with _stop_on_interrupt() as stop, _View() as view:
        try:
            run = action(view, stop)
        except Interrupted as error:
            raise Interrupted(f"{error}. Go on with: cntk resume {path}") from None
    report = make_report(run)
    _show_results(report)
    out.print(f"\nthe run lies in [bold]{escape(report.path)}[/] ({time.monotonic() - began:.1f} s)")
    out.print(f"look at it with: cntk inspect {escape(report.path)}")


@contextmanager
def _stop_on_interrupt() -> Iterator[threading.Event]:
    """Let the first Ctrl-C drain the tiles in flight, and the second one end the process."""
    stop = threading.Event()

    def first(_signal: int, _frame: Any) -> None:
        stop.set()
        err.print("stopping: tiles in flight are finished first; press Ctrl-C again to end at once")
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, first) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    except KeyboardInterrupt:
        raise Interrupted("ended at once; every finished tile is kept") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _View:
    """Shows a run: a live line on a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        self._stage = ""
        self._live: Progress | None = None
        self._bar: Any = None
        self._last = 0.0

    def __enter__(self) -> "_View":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def say(self, text: str) -> None:
        out.print(escape(text))

    def begin(self, stage: str) -> None:
        self._end()
        self._stage, self._last = stage, 0.0
        if out.is_terminal:
            self._live = Progress(
                TextColumn("[bold]{task.description:7}"),
                BarColumn(30),
                MofNCompleteColumn(),
                TextColumn("tiles  {task.fields[rate]}"),
                TimeElapsedColumn(),
                TextColumn("{task.fields[left]}"),
                console=out,
            )
            self._bar = self._live.add_task(stage, total=None, rate="", left="")
            self._live.start()

    def progress(self, progress: DriverProgress) -> None:
        rate, left = _rate(progress), _time_left(progress)
        if self._live is not None:
            self._live.update(self._bar, completed=progress.done, total=progress.total, rate=rate, left=left)
            return
        now = time.monotonic()
        if progress.done == progress.total or now - self._last > PLAIN_SECONDS:
            self._last = now
            troubles = f", {progress.retries} retries" if progress.retries else ""
            troubles += f", {progress.quarantined} given up" if progress.quarantined else ""
            parts = [f"{self._stage}: {progress.done}/{progress.total} tiles", rate, left + troubles]
            out.print(", ".join(part for part in parts if part))

    def _end(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def _rate(progress: DriverProgress) -> str:
    if not progress.entries_now or progress.elapsed_seconds <= 0:
        return ""
    return f"{_count(progress.entries_now / progress.elapsed_seconds)} entries/s"


def _time_left(progress: DriverProgress) -> str:
    if not progress.entries_now or progress.done == progress.total:
        return ""
    left = progress.entries_total - progress.entries_done
    return f"{_seconds(left * progress.elapsed_seconds / progress.entries_now)} left"


def _show_plan(plan: Plan) -> None:
    out.print(f"{plan.train} training and {plan.test} test images, {len(plan.readouts)} read-outs in one pass:")
    out.print("  " + ", ".join(plan.readouts))
    out.print(
        f"{_count(plan.pairs)} pairs at {_seconds(plan.pair_seconds)} a pair and core (measured), "
        f"{_count(plan.plane_entries)} plane entries each; {plan.slots} at once"
    )
    table = Table("stage", "tiles", "written", "time", box=None, pad_edge=False)
    for stage in plan.stages:
        table.add_row(stage.stage, str(stage.tasks), _bytes(stage.written_bytes), _seconds(stage.seconds))
    tasks = sum(stage.tasks for stage in plan.stages)
    table.add_row("total", str(tasks), _bytes(plan.written_bytes), _seconds(plan.seconds), style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    out.print(table)
    out.print(
        f"tiles of {plan.tile} samples, of the factor {plan.factor_tile}; "
        f"memory per worker about {_bytes(plan.memory_bytes)}"
    )


def _show_specification(report: RunReport) -> None:
    data = report.data
    out.print(f"[bold]{escape(report.path)}[/]  fingerprint {report.fingerprint[:16]}")
    shape = " x ".join(map(str, data["shape"]))
    out.print(
        f"data      {data['train']} training and {data['test']} test images, {shape}, {len(data['classes'])} classes"
    )
    out.print(f"kernels   {report.dtype}, tiles of {report.tile}: {', '.join(report.readouts)}")
    made = report.provenance
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    out.print(f"made      {made['created']} on {made['host']}: {versions}\n")


def _show_stages(report: RunReport) -> None:
    table = Table("stage", "tiles", "core time", "reading", "writing", "written", box=None, pad_edge=False)
    for stage in report.stages:
        table.add_row(
            stage.stage,
            f"{stage.done}/{stage.total}",
            _seconds(stage.seconds),
            _seconds(stage.read_seconds),
            _seconds(stage.write_seconds),
            _bytes(stage.bytes),
        )
    for column in table.columns[1:]:
        column.justify = "right"
    out.print(table)


def _show_results(report: RunReport) -> None:
    table = Table("read-out", "ridge", "accuracy", "residual", box=None, pad_edge=False)
    for solve in report.solves:
        ridge = f"{solve.ridge:g} {solve.ridge_mode}"
        if solve.accuracy is None or solve.relative_residual is None:
            table.add_row(solve.readout, ridge, "not yet", "")
        else:
            table.add_row(solve.readout, ridge, f"{100 * solve.accuracy:.2f}%", f"{solve.relative_residual:.1e}")
    for column in table.columns[1:]:
        column.justify = "right"
    out.print()
    out.print(table)


def _show_state(report: RunReport) -> None:
    if report.quarantined:
        out.print(f"\n{report.quarantined} chunks in quarantine")
    if report.driver:
        out.print(f"\na driver is at work: {escape(report.driver)}")
    elif not report.complete:
        out.print(f"\nincomplete: cntk resume {escape(report.path)}")


def _print_json(record: dict[str, Any]) -> None:
    print(json.dumps(record, indent=2))


def _count(value: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def _bytes(value: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f} B"


def _seconds(value: float) -> str:
    if value < 1e-3:
        return f"{value * 1e6:.3g} us"
    if value < 1:
        return f"{value * 1e3:.3g} ms"
    if value < 120:
        return f"{value:.1f} s"
    hours, rest = divmod(round(value), 3600)
    return f"{hours} h {rest // 60:02d} min" if hours else f"{rest // 60} min {rest % 60:02d} s"


if __name__ == "__main__":
    main()
