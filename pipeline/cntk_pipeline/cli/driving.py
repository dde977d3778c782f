"""What commands that drive a run share: to read their workflow, and to run it with progress and Ctrl-C."""

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

from cntk_pipeline.cli.console import err, escape, out
from cntk_pipeline.cli.display import RunView
from cntk_pipeline.cli.plan import show_contents
from cntk_pipeline.cli.status import SCREEN_ROWS, show_inferred, show_results
from cntk_pipeline.cli.stopping import stop_on_signals
from cntk_pipeline.clusters.base import DRAIN_SECONDS
from cntk_pipeline.clusters.table import cluster_of, cluster_of_new
from cntk_pipeline.config import ClusterConfig, RunConfig, load_cluster, load_config
from cntk_pipeline.config.cluster_files import find_cluster
from cntk_pipeline.errors import ConfigError, Interrupted, StoreError
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.submissions import Submission
from cntk_pipeline.storage import StorePath
from cntk_pipeline.telemetry.driver_log import find_executor
from cntk_pipeline.units import shell_word
from cntk_pipeline.workflow.report import make_report, read_contents
from cntk_pipeline.workflow.whereabouts import whereabouts

START_SECONDS, LOOK_SECONDS = 20.0, 0.2
"""Longest wait for a driver on this machine to have its workers, and the pause between two looks."""


def shipped_workflow(name: str) -> Path:
    """Find a workflow file that comes with the package: inside it when installed, beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "workflows" / name
    return inside if inside.exists() else package.parents[1] / "workflows" / name


def read_workflow(
    file: Path,
    overrides: list[str] | None,
    store: str | None = None,
    grow_from: str | None = None,
    cluster: str | None = None,
) -> RunConfig:
    """Read a workflow file with what the command line says otherwise."""
    places = {"store.path": store, "store.grow_from": grow_from}
    given = {key: place for key, place in places.items() if place is not None}
    chosen = None if cluster is None else find_cluster(cluster)
    if chosen is not None:
        read_cluster(chosen)
    return load_config(file, overrides or [], chosen, given)


def read_cluster(path: Path) -> ClusterConfig:
    """Read a cluster file; errors about its keys have the file's name."""
    table = load_cluster(path)
    try:
        cluster_of_new(table)
    except ConfigError as error:
        raise ConfigError(f"{path}:\n  {error}") from None
    return table


def drain_seconds_of(cluster: ClusterConfig) -> float:
    """Return how long a driver on a cluster waits for its tiles; of an unknown kind, the driver will tell of that."""
    try:
        return cluster_of(cluster).drain_seconds(cluster)
    except ConfigError:
        return DRAIN_SECONDS


def run_shown(
    path: str | StorePath, action: Callable[[RunView, threading.Event], RunDirectory], cluster: ClusterConfig
) -> None:
    """Run with progress and Ctrl-C handling, then show the results."""
    began = time.monotonic()
    with stop_on_signals(err.print, drain_seconds_of(cluster)) as stop, RunView() as view:
        try:
            run = action(view, stop)
        except Interrupted as error:
            raise Interrupted(f"{error}. Go on with: cntk resume {shell_word(path)}") from None
    report, contents = make_report(run), read_contents(run)
    show_results(report)
    if contents is not None and contents.warnings:
        out.print()
        show_contents((), contents.warnings)
    show_inferred(report, SCREEN_ROWS)
    out.print(f"\nthe run lies in [bold]{escape(report.path)}[/] ({time.monotonic() - began:.1f} s)")
    out.print(f"look at it with: cntk inspect {escape(shell_word(report.path))}")
    out.print(f"see its figures with: cntk report {escape(shell_word(report.path))}")


def say_how_to_follow(run: RunDirectory, submission: Submission, cluster: ClusterConfig) -> None:
    """Say how to follow a run whose driver works elsewhere, with the address of its dashboard if it is soon there."""
    out.print(f"watch it with: cntk status --watch {escape(shell_word(run.path))}")
    executor = None if cluster_of(cluster).submitter.drives_itself else _wait_for_executor(run, submission)
    _, _, dashboard = (executor or "").partition(", dashboard ")
    if dashboard:
        out.print(f"dashboard: {escape(dashboard)}")
    elif executor is None:
        where = f"cntk status {escape(shell_word(run.path))}"
        out.print(f"the address of its dashboard, as soon as it has its workers: {where}")


def _wait_for_executor(run: RunDirectory, submission: Submission) -> str | None:
    """Wait until a driver on this machine says where it computes; None where it has ended or takes long."""
    deadline = time.monotonic() + START_SECONDS
    # The run is handed over, whatever happens here; its driver does not hear Ctrl-C.
    with contextlib.suppress(KeyboardInterrupt, StoreError):
        earlier = find_executor(run.path / "log", submission.job)  # of a process that had the same number
        while time.monotonic() < deadline:
            executor = find_executor(run.path / "log", submission.job)
            if executor != earlier or not whereabouts(run).awaited:
                return executor
            time.sleep(LOOK_SECONDS)
    return None
