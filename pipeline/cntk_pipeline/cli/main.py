"""The command `cntk`: plan, run, submit, resume, cancel and look at runs.

Exit codes: 0 complete, 1 failed, 2 wrong usage, 3 incomplete (resuming goes on), 130 stopped: by Ctrl-C, by `cntk
cancel`, or by a batch system shortly before a time limit.

Each command imports what it needs by itself, so that help, completion and a look at a run do not wait for the compiler
and for Dask.
"""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cntk_pipeline import __version__
from cntk_pipeline.cli.console import err, escape, out
from cntk_pipeline.cli.entry import STOPPED, USAGE, importing
from cntk_pipeline.cli.options import (
    AsJson,
    Cluster,
    GrowFrom,
    Overrides,
    RunPath,
    Store,
    Trust,
    Verify,
    WorkflowFile,
    read_place,
)
from cntk_pipeline.cli.pages import can_draw, compare, report, write_report
from cntk_pipeline.cli.results import export, predict
from cntk_pipeline.cli.streams import guard_streams, lost_output
from cntk_pipeline.errors import (
    ConfigError,
    DataNotFound,
    Interrupted,
    LayerError,
    NotTrusted,
    PipelineError,
    RunNotFound,
    WorkersLost,
)
from cntk_pipeline.units import shell_word

COMPLETE, FAILED, INCOMPLETE = 0, 1, 3

app = typer.Typer(
    add_completion=True,
    no_args_is_help=True,
    rich_markup_mode=None,  # brackets in help texts are tables of a workflow file, not colours
    pretty_exceptions_enable=False,
    help="Exact infinite-width network kernels of image data sets: computed in tiles, stored in Zarr, resumable.\n\n"
    "Exit codes: 0 complete, 1 failed, 2 wrong usage, 3 incomplete, 130 stopped.",
)


def _say_version(wanted: bool) -> None:
    if wanted:
        print(f"cntk {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_say_version, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def demo(store: Store = None, overrides: Overrides = None) -> None:
    """Classify scikit-learn's digits, in about a minute.

    The digits come with scikit-learn, so nothing is downloaded. The run computes six kernels, three depths with and
    without pooling.
    """
    with importing():
        from cntk_pipeline.cli.driving import read_workflow, run_shown, shipped_workflow
        from cntk_pipeline.workflow import run as runs

    config = read_workflow(shipped_workflow("digits.toml"), overrides, store)
    path = runs.run_path(config)
    run_shown(path, lambda view, stop: runs.start(config, view, stop), config.cluster)
    if can_draw():
        write_report(str(path))


@app.command()
def init(
    data: Annotated[str, typer.Argument(metavar="DATA", help="A file or folder, or one of scikit-learn's tables.")],
    out_file: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="The workflow file to write.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="data.KEY=VALUE", help="A key of [data], such as data.resize.")
    ] = None,
) -> None:
    """Look at data, and write a commented workflow for them."""
    with importing():
        from cntk_pipeline.cli.plan import show_contents
        from cntk_pipeline.config import read_overrides
        from cntk_pipeline.workflow import starter

    path = starter.default_path(data) if out_file is None else out_file
    if os.path.exists(path):  # a name that no file can have is refused where it is written
        raise starter.exists(path)
    made = starter.make_starter(data, read_overrides(overrides or [], "data"))
    starter.write_starter(made, path)
    show_contents(made.contents.lines, [*made.notes, *made.contents.warnings])
    out.print(f"written: [bold]{escape(str(path))}[/]; forecast it with: cntk plan {escape(shell_word(path))}")


@app.command()
def plan(file: WorkflowFile, cluster: Cluster = None, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Forecast the time, bytes and memory of a workflow.

    No run directory is made. CIFAR-10 is downloaded (170 MB) if it is not on this machine.
    """
    with importing():
        from cntk_pipeline.cli.driving import read_workflow
        from cntk_pipeline.cli.plan import show_plan
        from cntk_pipeline.workflow import run as runs

    forecast = runs.plan(read_workflow(file, overrides, cluster=cluster))
    if as_json:
        _print_json(forecast.to_json())
    else:
        show_plan(forecast)


@app.command()
def network(file: WorkflowFile, overrides: Overrides = None) -> None:
    """Show the costliest network of a workflow as a table.

    The table has the shapes of all layers, their offsets, and the plane entries that a pair of images costs; of graphs
    the operations that a pair of nodes costs. A line below it has the products of attention, which are not counted.
    """
    with importing():
        from cntk_pipeline.cli.driving import read_workflow
        from cntk_pipeline.workflow import run as runs

    name, table = runs.costliest_network(read_workflow(file, overrides))
    out.print(escape(f"{name}:\n{table}"))


@app.command("run")
def run_workflow(
    file: WorkflowFile,
    store: Store = None,
    grow_from: GrowFrom = None,
    cluster: Cluster = None,
    overrides: Overrides = None,
    verify: Verify = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only forecast, as `cntk plan` does.")] = False,
    end_on_cancel: Annotated[
        bool, typer.Option("--end-on-cancel", help="End with 0 where `cntk cancel` stopped it.")
    ] = False,
) -> None:
    """Run a workflow, or go on with a run that was begun."""
    with importing():
        from cntk_pipeline.cli.driving import read_workflow, run_shown
        from cntk_pipeline.cli.plan import show_plan
        from cntk_pipeline.workflow import handover
        from cntk_pipeline.workflow import run as runs

    config = read_workflow(file, overrides, store, grow_from, cluster)
    if dry_run:
        show_plan(runs.plan(config))
        return
    path = runs.run_path(config)
    try:
        run_shown(path, lambda view, stop: runs.start(config, view, stop, verify=verify), config.cluster)
    except Interrupted as error:
        # Otherwise what restarts failed drivers would start it again, and the new one obeys no earlier request.
        if not end_on_cancel or not handover.is_settled(path, error):
            raise
        err.print(escape(str(error)))


@app.command()
def submit(
    file: WorkflowFile,
    cluster: Cluster = None,
    store: Store = None,
    grow_from: GrowFrom = None,
    overrides: Overrides = None,
) -> None:
    """Check a workflow, and hand its driver to a cluster.

    The forecast is shown before. Afterwards this machine may go away.
    """
    with importing():
        from cntk_pipeline.cli.display import RunView
        from cntk_pipeline.cli.driving import read_workflow, say_how_to_follow
        from cntk_pipeline.cli.plan import show_plan
        from cntk_pipeline.workflow import handover
        from cntk_pipeline.workflow import run as runs
        from cntk_pipeline.workflow.load import load

    loaded = load(read_workflow(file, overrides, store, grow_from, cluster))
    show_plan(runs.forecast(loaded))
    with RunView() as view:
        run, submission = handover.submit(loaded.config, view, loaded)
    out.print(f"\nsubmitted as {escape(str(submission))}; the run lies in [bold]{escape(str(run.path))}[/]")
    say_how_to_follow(run, submission, loaded.config.cluster)


@app.command()
def resume(directory: RunPath, cluster: Cluster = None, trust: Trust = False, verify: Verify = False) -> None:
    """Go on with a run, as it was last run or on another cluster.

    A run that was submitted to slurm, ssh or kubernetes is submitted again; others go on in this terminal.
    """
    with importing():
        from cntk_pipeline.cli.display import RunView
        from cntk_pipeline.cli.driving import read_cluster, run_shown, say_how_to_follow
        from cntk_pipeline.config.cluster_files import find_cluster
        from cntk_pipeline.rundir.directory import RunDirectory
        from cntk_pipeline.rundir.submissions import submissions
        from cntk_pipeline.workflow import handover
        from cntk_pipeline.workflow import run as runs

    run = RunDirectory(directory)
    chosen = None if cluster is None else read_cluster(find_cluster(cluster))
    table = run.workflow().cluster if chosen is None else chosen
    # A batch system runs its driver itself; without --cluster only if the run was submitted before.
    if handover.drives_itself(table) and (chosen is not None or submissions(run)):
        with RunView() as view:
            submission = handover.resubmit(directory, view, chosen, trust=trust, verify=verify)
        if submission is not None:
            out.print(f"submitted as {escape(str(submission))}")
            say_how_to_follow(run, submission, table)
        else:
            run_shown(directory, lambda view, stop: run, table)
        return
    run_shown(
        directory,
        lambda view, stop: runs.resume(directory, view, stop, verify=verify, cluster=chosen, trust=trust),
        table,
    )


@app.command(hidden=True)
def drive(
    directory: RunPath,
    settle: Annotated[bool, typer.Option("--settle", help="End with 0 where another start would not help.")] = False,
    told: Annotated[str, typer.Option("--told", help="The digest of where to compute, by who submitted it.")] = "",
) -> None:
    """Drive a run that was submitted, as a batch job does."""
    with importing():
        from cntk_pipeline.cli.driving import run_shown
        from cntk_pipeline.rundir.directory import RunDirectory
        from cntk_pipeline.workflow import handover

    try:
        table = RunDirectory(directory).workflow().cluster
        run_shown(directory, lambda view, stop: handover.drive(directory, view, stop, told), table)
    except PipelineError as error:
        if not settle or not handover.is_settled(directory, error):
            raise
        err.print(escape(str(error)))


@app.command()
def cancel(
    directory: RunPath,
    now: Annotated[bool, typer.Option("--now", help="End a submitted one at once, without waiting.")] = False,
) -> None:
    """Ask the driver of a run to stop, wherever it is.

    It finishes the tiles in flight, and is not submitted again.
    """
    with importing():
        from cntk_pipeline.rundir.directory import RunDirectory
        from cntk_pipeline.workflow import handover
        from cntk_pipeline.workflow.report import make_report

    out.print(escape(handover.cancel(directory, now=now)))
    if make_report(RunDirectory(directory)).complete:
        out.print("it is complete")
    else:
        out.print(f"go on with: cntk resume {escape(shell_word(directory))}")


@app.command()
def status(
    directory: RunPath,
    as_json: AsJson = False,
    follow: Annotated[bool, typer.Option("--watch", help="Show it again and again until the run has ended.")] = False,
) -> None:
    """Show how far a run is, also while it goes on.

    The exit code is 3 where something is left to do.
    """
    with importing():
        from cntk_pipeline.cli.status import SCREEN_ROWS, show_inferred, show_results, show_stages, show_state
        from cntk_pipeline.cli.watch import show_whereabouts, watch
        from cntk_pipeline.rundir.directory import RunDirectory
        from cntk_pipeline.workflow.report import make_report
        from cntk_pipeline.workflow.whereabouts import whereabouts

    run = RunDirectory(directory)
    if follow:
        report = watch(run)
        if report.complete:
            show_results(report)
            show_inferred(report, SCREEN_ROWS)
        raise typer.Exit(COMPLETE if report.complete else INCOMPLETE)
    report = make_report(run)
    where = whereabouts(run)
    if as_json:
        _print_json(report.to_json() | where.to_json())
    else:
        show_stages(report)
        show_state(report, where.awaited)
        show_whereabouts(report, where)
    raise typer.Exit(COMPLETE if report.complete else INCOMPLETE)


@app.command()
def inspect(
    directory: RunPath,
    as_json: AsJson = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Show everything: data, versions, stages, further results, arrays.")
    ] = False,
) -> None:
    """Show the results of a run on one screen.

    With --all, show everything about it, and how to open its arrays.
    """
    with importing():
        from cntk_pipeline.cli.inspection import show_inspection, show_summary
        from cntk_pipeline.rundir.directory import RunDirectory
        from cntk_pipeline.workflow.report import make_report, read_contents

    run = RunDirectory(directory)
    report, contents = make_report(run), read_contents(run)
    if as_json:
        _print_json(report.to_json() | {"contents": None if contents is None else contents.to_json()})
    elif everything:
        show_inspection(report, contents)
    else:
        show_summary(report, contents)


@app.command("list")
def list_runs(
    folder: Annotated[
        str,
        typer.Argument(metavar="FOLDER", callback=read_place, help="A folder of run directories, or s3://bucket/name."),
    ] = "runs",
    as_json: AsJson = False,
) -> None:
    """List the runs below a folder, with their accuracies.

    Only records are read: `cntk status DIR` looks at each tile of a run.
    """
    with importing():
        from cntk_pipeline.cli.runs import show_runs
        from cntk_pipeline.workflow import listing

    found = listing.list_runs(folder)
    if as_json:
        _print_json([run.to_json() for run in found.runs])
    else:
        show_runs(folder, found.runs)
    if found.closed:
        more = "" if len(found.closed) == 1 else f" and {len(found.closed) - 1} more"
        err.print(f"left out, since it cannot be read: {escape(found.closed[0])}{more}")


@app.command()
def verify(directory: RunPath) -> None:
    """Read everything that is finished, and compare checksums.

    Bad files are moved to quarantine.
    """
    with importing():
        from cntk_pipeline.workflow import run as runs
        from cntk_pipeline.workflow.checkup import lines_of

    found = runs.verify(directory)
    for line in lines_of(found):
        out.print(escape(line))
    rest = f", {found.missing:,} are still to be computed" if found.missing else ""
    out.print(f"{found.whole:,} tiles are whole, {len(found.bad):,} are bad{rest}")
    if found.needs_resume:
        out.print(f"make it whole again: cntk resume {escape(shell_word(directory))}")
        raise typer.Exit(INCOMPLETE)


app.command()(predict)
app.command()(export)
app.command()(report)
app.command()(compare)


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


PRINTERS = [["plan"], ["network"], ["status"], ["inspect"], ["list"]]
"""Commands that only print: they fail where their output is lost."""


def _command() -> int:
    """Run the command of the command line, and return the exit code."""
    try:
        app(prog_name="cntk")
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
    except (ConfigError, DataNotFound, LayerError, NotTrusted, RunNotFound) as error:
        err.print(f"[red]error:[/] {escape(str(error))}")
        return USAGE
    except PipelineError as error:
        err.print(f"[red]failed:[/] {escape(str(error))}")
        return FAILED
    except MemoryError as error:
        from cntk_pipeline.resources import limits_set

        limits = limits_set()
        where = f"the limit {limits} may be lifted where this is started" if limits else "this machine has too little"
        err.print(f"[red]failed:[/] no memory is left: {escape(f'{where}. {error}'.rstrip('. '))}")
        return FAILED
    return COMPLETE


def _print_json(record: Any) -> None:
    import json

    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
