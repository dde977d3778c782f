"""The command `cntk`: plan, run, submit, resume, cancel and look at runs.

Exit codes: 0 complete, 1 failed, 2 wrong usage, 3 incomplete (resuming goes on), 130 stopped: by Ctrl-C, by `cntk
cancel`, or by a batch system shortly before a time limit.
"""

from cntk_pipeline.cli import entry  # first of all, so that Ctrl-C is handled while the rest is imported

# isort: split
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from cntk_pipeline.cli.display import (
    RunView,
    escape,
    out,
    show_contents,
    show_inferred,
    show_plan,
    show_results,
    show_specification,
    show_stages,
    show_state,
)
from cntk_pipeline.cli.exporting import export
from cntk_pipeline.cli.predicting import predict
from cntk_pipeline.cli.stopping import STOPPED, stop_on_signals
from cntk_pipeline.cli.streams import guard_streams, lost_output
from cntk_pipeline.cli.watch import show_whereabouts, watch
from cntk_pipeline.clusters.table import cluster_of
from cntk_pipeline.config import ClusterConfig, RunConfig, expand_place, load_cluster, load_config, read_overrides
from cntk_pipeline.config.cluster_files import find_cluster
from cntk_pipeline.errors import ConfigError, Interrupted, NotTrusted, PipelineError, RunNotFound, WorkersLost
from cntk_pipeline.resources import limits_set
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.submissions import submissions
from cntk_pipeline.storage import StorePath
from cntk_pipeline.workflow import handover, starter
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.checkup import lines_of
from cntk_pipeline.workflow.report import make_report, read_contents

entry.imported()

COMPLETE, FAILED, USAGE, INCOMPLETE = 0, 1, 2, 3

app = typer.Typer(
    add_completion=True,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Exact infinite-width network kernels of image data sets: computed in tiles, stored in Zarr, resumable.\n\n"
    "Exit codes: 0 complete, 1 failed, 2 wrong usage, 3 incomplete, 130 stopped.",
)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def _place(text: str) -> str:
    try:
        return expand_place(text)
    except ValueError as error:
        raise ConfigError(f"DIR: {error}, got {text!r}") from None


WorkflowFile = Annotated[Path, typer.Argument(metavar="FILE", help="A workflow file (TOML).")]
RunPath = Annotated[
    str, typer.Argument(metavar="DIR", callback=_place, help="A run directory, s3://bucket/name included.")
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a value of the workflow file.")
]
Store = Annotated[str | None, typer.Option("--store", metavar="DIR", help="The run directory.")]
GrowFrom = Annotated[
    str | None,
    typer.Option("--from", metavar="OLD", help="Take over what is the same in this older run (store.grow_from)."),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="NAME|FILE",
        help="Where to compute: a TOML file with a [cluster] table, or its name in $CNTK_CLUSTERS "
        "(~/.config/cntk/clusters).",
    ),
]
Trust = Annotated[
    bool, typer.Option("--trust", help="Compute where the directory says, although somebody else may have written it.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Verify = Annotated[bool, typer.Option("--verify", help="Read and check every finished chunk first.")]


@app.command()
def demo(store: Store = None, overrides: Overrides = None) -> None:
    """Classify scikit-learn's digits with exact CNTKs, in about a minute; no download."""
    config = _config(_shipped_workflow("digits.toml"), overrides, store)
    _run(runs.run_path(config), lambda view, stop: runs.start(config, view, stop))


@app.command()
def init(
    data: Annotated[str, typer.Argument(metavar="DATA", help="A file or folder, or one of scikit-learn's tables.")],
    out_file: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="The workflow file to write.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="data.KEY=VALUE", help="A key of [data], such as data.resize.")
    ] = None,
) -> None:
    """Look at data, and write a commented workflow for them."""
    path = starter.default_path(data) if out_file is None else out_file
    if path.exists():
        raise starter.exists(path)
    made = starter.make_starter(data, read_overrides(overrides or [], "data"))
    starter.write_starter(made, path)
    show_contents(made.contents.lines, [*made.notes, *made.contents.warnings])
    out.print(f"written: [bold]{escape(str(path))}[/]; forecast it with: cntk plan {escape(str(path))}")


@app.command()
def plan(file: WorkflowFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Forecast pairs, tiles, bytes, seconds and memory of a workflow; nothing is written."""
    forecast = runs.plan(_config(file, overrides, None))
    if as_json:
        _print_json(forecast.to_json())
    else:
        show_plan(forecast)


@app.command()
def network(file: WorkflowFile, overrides: Overrides = None) -> None:
    """Show the costliest network of a workflow as a table: shapes, offsets, and plane entries a pair."""
    name, table = runs.costliest_network(_config(file, overrides, None))
    out.print(escape(f"{name}:\n{table}"))


@app.command("run")
def run_workflow(
    file: WorkflowFile,
    store: Store = None,
    grow_from: GrowFrom = None,
    cluster: Cluster = None,
    overrides: Overrides = None,
    verify: Verify = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Forecast it and write nothing, as `cntk plan` does.")
    ] = False,
) -> None:
    """Run a workflow to its end, or go on with it where its run directory has been begun."""
    config = _config(file, overrides, store, grow_from, cluster)
    if dry_run:
        show_plan(runs.plan(config))
        return
    _run(runs.run_path(config), lambda view, stop: runs.start(config, view, stop, verify=verify))


@app.command()
def submit(
    file: WorkflowFile,
    cluster: Cluster = None,
    store: Store = None,
    grow_from: GrowFrom = None,
    overrides: Overrides = None,
) -> None:
    """Check a workflow, forecast it, and hand its driver to a cluster; then this machine may go away."""
    config = _config(file, overrides, store, grow_from, cluster)
    show_plan(runs.plan(config))
    with RunView() as view:
        run, submission = handover.submit(config, view)
    out.print(f"\nsubmitted as {escape(str(submission))}; the run lies in [bold]{escape(str(run.path))}[/]")
    _say_how_to_follow(run)


@app.command()
def resume(directory: RunPath, cluster: Cluster = None, trust: Trust = False, verify: Verify = False) -> None:
    """Go on with a run directory, as it was last run or on another cluster: here, or where it was submitted to."""
    run = RunDirectory(directory)
    chosen = None if cluster is None else _cluster(find_cluster(cluster))
    table = run.workflow().cluster if chosen is None else chosen
    # A batch system runs its driver itself; without --cluster only if the run was submitted before.
    if handover.drives_itself(table) and (chosen is not None or submissions(run)):
        with RunView() as view:
            done = runs.is_done(run, view, verify=verify)
            submission = None if done else handover.resubmit(directory, view, chosen, trust=trust)
        if submission is not None:
            out.print(f"submitted as {escape(str(submission))}")
            _say_how_to_follow(run)
        else:
            _run(directory, lambda view, stop: run)
        return
    _run(directory, lambda view, stop: runs.resume(directory, view, stop, verify=verify, cluster=chosen, trust=trust))


@app.command(hidden=True)
def drive(
    directory: RunPath,
    settle: Annotated[bool, typer.Option("--settle", help="End with 0 where another start would not help.")] = False,
    told: Annotated[str, typer.Option("--told", help="The digest of where to compute, by who submitted it.")] = "",
) -> None:
    """Drive a run that was submitted: what a batch job runs."""
    try:
        _run(directory, lambda view, stop: handover.drive(directory, view, stop, told))
    except PipelineError as error:
        if not settle or not handover.is_settled(directory, error):
            raise
        err.print(escape(str(error)))


@app.command()
def cancel(
    directory: RunPath,
    now: Annotated[bool, typer.Option("--now", help="End a submitted one at once, without waiting.")] = False,
) -> None:
    """Ask the driver of a run to finish the tiles in flight and stop, wherever it is; it is not submitted again."""
    out.print(escape(handover.cancel(directory, now=now)))
    if make_report(RunDirectory(directory)).complete:
        out.print("it is complete")
    else:
        out.print(f"go on with: cntk resume {escape(str(directory))}")


@app.command()
def status(
    directory: RunPath,
    as_json: AsJson = False,
    follow: Annotated[bool, typer.Option("--watch", help="Show it again and again until the run has ended.")] = False,
) -> None:
    """Show how far a run is; works while it is going on. Exit code 3 where something is left to do."""
    run = RunDirectory(directory)
    if follow:
        report = watch(run)
        if report.complete:
            show_results(report)
            show_inferred(report)
        raise typer.Exit(COMPLETE if report.complete else INCOMPLETE)
    report = make_report(run)
    where = handover.whereabouts(run)
    if as_json:
        _print_json(report.to_json() | where.to_json())
    else:
        show_stages(report)
        show_state(report, where.awaited)
        show_whereabouts(report, where)
    raise typer.Exit(COMPLETE if report.complete else INCOMPLETE)


@app.command()
def inspect(directory: RunPath, as_json: AsJson = False) -> None:
    """Show the specification, the stages, the results, and how to open the arrays."""
    run = RunDirectory(directory)
    report, contents = make_report(run), read_contents(run)
    if as_json:
        _print_json(report.to_json() | {"contents": None if contents is None else contents.to_json()})
        return
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


@app.command()
def verify(directory: RunPath) -> None:
    """Read everything that is finished and compare checksums; move what is bad to quarantine."""
    found = runs.verify(directory)
    for line in lines_of(found):
        out.print(escape(line))
    rest = f", {found.missing:,} are still to be computed" if found.missing else ""
    out.print(f"{found.whole:,} tiles are whole, {len(found.bad):,} are bad{rest}")
    if found.needs_resume:
        out.print(f"make it whole again: cntk resume {escape(str(directory))}")
        raise typer.Exit(INCOMPLETE)


app.command()(predict)
app.command()(export)


def main() -> None:
    """Run the command line; turn the package's errors into one message and an exit code."""
    guard_streams()
    code = _command()
    problem = lost_output()
    if problem is not None:
        if sys.argv[1:2] in PRINTERS:
            code = FAILED
        word = "[red]failed:[/]" if code == FAILED else "warning:"
        err.print(f"{word} what was to be printed is not all there: {problem.strerror}")
    sys.exit(code)


PRINTERS = [["plan"], ["network"], ["status"], ["inspect"]]
"""Commands that only print: they fail where their output is lost."""


def _command() -> int:
    """Run the command of the command line, and return the exit code."""
    try:
        app()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else COMPLETE
    except Interrupted as error:
        err.print(f"[yellow]{escape(str(error))}[/]")
        return STOPPED
    except KeyboardInterrupt:  # in a command without a driver
        return STOPPED
    except WorkersLost as error:
        err.print(f"[red]incomplete:[/] {escape(str(error))}")
        return INCOMPLETE
    except (ConfigError, NotTrusted, RunNotFound) as error:
        err.print(f"[red]error:[/] {escape(str(error))}")
        return USAGE
    except PipelineError as error:
        err.print(f"[red]failed:[/] {escape(str(error))}")
        return FAILED
    except MemoryError as error:
        limits = limits_set()
        where = f"the limit {limits} may be lifted where this is started" if limits else "this machine has too little"
        err.print(f"[red]failed:[/] no memory is left: {escape(f'{where}. {error}'.rstrip('. '))}")
        return FAILED
    return COMPLETE


def _shipped_workflow(name: str) -> Path:
    """Find a workflow file that comes with the package: inside it when installed, beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "workflows" / name
    return inside if inside.exists() else package.parents[1] / "workflows" / name


def _say_how_to_follow(run: RunDirectory) -> None:
    out.print(f"watch it with: cntk status --watch {escape(str(run.path))}")


def _config(
    file: Path,
    overrides: list[str] | None,
    store: str | None,
    grow_from: str | None = None,
    cluster: str | None = None,
) -> RunConfig:
    places = {"store.path": store, "store.grow_from": grow_from}
    given = {key: place for key, place in places.items() if place is not None}
    chosen = None if cluster is None else find_cluster(cluster)
    if chosen is not None:
        _cluster(chosen)
    return load_config(file, overrides or [], chosen, given)


def _cluster(path: Path) -> ClusterConfig:
    """Read a cluster file; errors about its keys have the file's name."""
    table = load_cluster(path)
    try:
        cluster_of(table)
    except ConfigError as error:
        raise ConfigError(f"{path}:\n  {error}") from None
    return table


def _run(path: str | StorePath, action: Callable[["RunView", threading.Event], RunDirectory]) -> None:
    """Run with progress and Ctrl-C handling, then show the results."""
    began = time.monotonic()
    with stop_on_signals(err.print) as stop, RunView() as view:
        try:
            run = action(view, stop)
        except Interrupted as error:
            raise Interrupted(f"{error}. Go on with: cntk resume {path}") from None
    report, contents = make_report(run), read_contents(run)
    show_results(report)
    if contents is not None and contents.warnings:
        out.print()
        show_contents((), contents.warnings)
    show_inferred(report)
    out.print(f"\nthe run lies in [bold]{escape(report.path)}[/] ({time.monotonic() - began:.1f} s)")
    out.print(f"look at it with: cntk inspect {escape(report.path)}")


def _print_json(record: dict[str, Any]) -> None:
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
