"""Runs whose driver works elsewhere: to submit the driver, ask for its state, end it, and run it in a batch job."""

import threading
from typing import NoReturn

from cntk_pipeline.clusters import CLUSTERS
from cntk_pipeline.clusters.submitter import Submitter
from cntk_pipeline.clusters.table import cluster_of, current_job
from cntk_pipeline.clusters.trust import Trusted, read_trusted, warnings
from cntk_pipeline.config import ClusterConfig, RunConfig
from cntk_pipeline.driver.phases import View
from cntk_pipeline.errors import (
    ConfigError,
    Interrupted,
    NotTrusted,
    PipelineError,
    RunLocked,
    RunNotFound,
    StoreError,
    SubmissionFailed,
    WorkersLost,
)
from cntk_pipeline.rundir import lease
from cntk_pipeline.rundir.directory import RunDirectory, holds_run
from cntk_pipeline.rundir.submissions import (
    Submission,
    add_submission,
    clear_ending,
    request_stop,
    stop_requested,
    write_ending,
)
from cntk_pipeline.storage import StorePath
from cntk_pipeline.storage.explanations import store_explained
from cntk_pipeline.telemetry.redaction import redact
from cntk_pipeline.units import shell_word
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.load import Loaded
from cntk_pipeline.workflow.whereabouts import submitter_of, whereabouts


def submit(config: RunConfig, view: View, loaded: Loaded | None = None) -> tuple[RunDirectory, Submission]:
    """Check a workflow, begin its run directory, and hand its driver to the cluster.

    Parameters
    ----------
    config : RunConfig
        The workflow.
    view : View
        Shows the progress.
    loaded : Loaded, optional
        The workflow with its data; None loads them.

    Raises
    ------
    SubmissionFailed
        If a driver of this run already works or waits, or the cluster refuses this one; the begun run directory is
        taken back.
    SpecificationMismatch, RunLocked
        As in `workflow.run.begin_elsewhere`; then nothing was handed over.
    ConfigError
        As there, or if the cluster cannot take a value; the begun run directory is taken back.
    """
    cluster, path = cluster_of(config.cluster), runs.run_path(config)
    submitter = cluster.submitter
    submitter.check(config)
    if not submitter.drives_itself:
        cluster.check(config.cluster)  # the driver starts on this machine
    submitter.check_place(path, config)
    if holds_run(path):
        _require_no_other(RunDirectory(path))
    run, trusted = runs.begin_elsewhere(config, view, cluster.memory(config.cluster), loaded)
    try:
        return run, _hand_over(run, submitter, trusted)
    except (SubmissionFailed, ConfigError):
        run.retract()
        raise


def resubmit(
    path: str | StorePath,
    view: View,
    cluster: ClusterConfig | None = None,
    *,
    trust: bool = False,
    verify: bool = False,
) -> Submission | None:
    """Hand a driver of a run that was begun before to the cluster it was run on last, or to another one.

    Parameters
    ----------
    path, view, cluster, trust
        As in `workflow.run.resume`.
    verify : bool
        Read every finished chunk here and compare its checksums first; the driver computes bad tiles again.

    Returns
    -------
    submission : Submission or None
        None where nothing is left to do.

    Raises
    ------
    RunNotFound, RunLocked, ConfigError, SubmissionFailed, NotTrusted
        As in `submit` and `workflow.run.resume`.
    """
    run = RunDirectory(path)
    if verify:
        _require_no_other(run)  # one that begins meanwhile would find the run locked
    if runs.is_done(run, view, verify=verify):
        return None
    trusted = read_trusted(run, cluster=cluster, trust=trust)
    for line in trusted.shown:
        view.say(line)
    kind = cluster_of(trusted.config.cluster)
    submitter = kind.submitter
    submitter.check(trusted.config)
    if not submitter.drives_itself:
        kind.check(trusted.config.cluster)
    submitter.check_place(run.path, trusted.config)
    _require_no_other(run)
    runs.adopt(run, trusted, kind.memory(trusted.config.cluster))
    for line in warnings(trusted):
        view.say(f"warning: {line}")
    return _hand_over(run, submitter, trusted)


def cancel(path: str | StorePath, *, now: bool = False) -> str:
    """Ask the driver of a run to drain; withdraw a submission that has not begun, or any with ``now``.

    Returns
    -------
    message : str
        The action taken, in words.
    """
    run = RunDirectory(path)
    with store_explained(run.path, "cancel --now" if now else "cancel"):
        request_stop(run)  # first, so that a job that is just beginning meets it
    found = whereabouts(run)
    job = found.submission
    submitter = None if job is None else submitter_of(job)
    can_be_ended = found.awaited or (now and found.state != "gone")
    if job is not None and job.is_mine and can_be_ended and submitter is not None:
        withdrawn = submitter.withdraw(job, now=now)
        if withdrawn and (now or found.state == "queued"):
            return f"{job} was ended at once" if now else f"{job} had not begun: it is out of the queue"
    elif job is not None and not job.is_mine:
        return f"{job} {found.words}, nor ended: it stops where it runs, and computes nothing where it still waits"
    elif job is not None and found.state == "unknown":
        return f"{job} cannot be asked from here: it stops where it runs, and computes nothing where it still waits"
    seen = lease.look(run.lease_path)
    holder = None if seen is None or seen.is_silent else seen.name
    if found.state == "gone" and seen is not None and seen.is_silent:
        return f"its driver {seen.silence}: it stops if it still works, and nothing else works on the run"
    if found.state == "gone" and holder is None:
        return "no driver works on it; one that has only just begun stops"
    if now and holder is not None:
        host, _, pid = holder.rpartition(":")
        return (
            f"no cluster has its driver, so that nothing here can end it at once: it is process {pid} on {host}, which "
            "finishes the tiles in flight and stops. To end it at once, press Ctrl-C twice in its terminal, or "
            f"`kill -KILL {pid}` on {host}; every finished tile is kept either way"
        )
    return "its driver finishes the tiles in flight and stops, wherever it is; every finished tile is kept"


def drive(path: str | StorePath, view: View, stop: threading.Event, told: str = "") -> RunDirectory:
    """Go on with a run inside a job that was submitted, and see to a next job where this one ends too early.

    Parameters
    ----------
    path, view, stop
        As in `workflow.run.resume`.
    told : str
        The digest of the cluster settings in the run directory when this driver was submitted.

    Raises
    ------
    PipelineError
        As in `workflow.run.resume`; the run directory keeps the message.
    """
    run, batch_job = RunDirectory(path), current_job()
    job = None if batch_job is None else batch_job.name
    clear_ending(run)
    before = _receipt_count(run)
    try:
        if stop_requested(run):
            raise Interrupted("it was asked to stop before it began: cntk cancel")
        runs.resume(path, view, stop, told=told)
    except (Interrupted, WorkersLost) as error:
        _go_on(run, told, error, before, job)
    except RunLocked:  # the other driver reports on this run
        raise
    except Exception as error:  # of any class: a user who looks at the run should read it
        _end(run, str(error) if isinstance(error, PipelineError) else f"{type(error).__name__}: {error}", job)
        raise
    _end(run, "", job)
    return run


def is_settled(path: str | StorePath, error: PipelineError) -> bool:
    """Tell whether another start would meet the same error that ended the last driver; the run directory keeps it."""
    if isinstance(error, Interrupted):
        return stop_requested(RunDirectory(path))
    return not isinstance(error, RunNotFound | RunLocked | WorkersLost | StoreError)


def _go_on(run: RunDirectory, told: str, error: PipelineError, before: int, job: str | None) -> NoReturn:
    """Arrange a next job if the workflow asks for one and this job made progress; then raise the error with the news.

    Raises
    ------
    PipelineError
        Always, with the class of the error.
    """
    if lease.holder(run.lease_path) is not None:
        raise error  # another driver works on it: this one was taken for dead, and arranges no next job
    try:
        trusted = read_trusted(run, told=told)
    except NotTrusted as refusal:
        _end(run, f"{error}\n{refusal}", job)
        raise refusal from error
    config = trusted.config
    submitter = cluster_of(config.cluster).submitter
    succession = None if stop_requested(run) else submitter.succession(config.cluster)
    if succession is None:
        _end(run, str(error), job)
        raise error
    # Where a job was stopped long before its limit, its progress does not tell how many tiles the next one will finish.
    cause = submitter.cause(config)
    too_early = cause == "elsewhere" and isinstance(error, Interrupted)
    follows = cause != "withdrawn" and (too_early or _receipt_count(run) > before)
    why_not = succession.withdrawn if cause == "withdrawn" else succession.no_progress
    news = f"\n{succession.follows if follows else why_not}"
    _end(run, f"{error}{news}", job)  # before there is a next job, which may end this one
    if follows:
        try:
            following = submitter.go_on(run.path.absolute(), config, trusted.digest)
        except SubmissionFailed as failure:
            news = f"\nno next job was to be had: {failure}"
            _end(run, f"{error}{news}", job)
            raise type(error)(f"{error}{news}") from failure
        if following is not None and following != job:
            add_submission(run, config.cluster.kind, following)
    raise type(error)(f"{error}{news}") from error


def drives_itself(cluster: ClusterConfig) -> bool:
    """Tell whether a cluster runs its drivers itself, outside of a user's terminal."""
    kind = CLUSTERS.get(cluster.kind)
    return kind is not None and kind.submitter.drives_itself


def _require_no_other(run: RunDirectory) -> None:
    found = whereabouts(run)
    if found.awaited:
        raise SubmissionFailed(
            f"{found.submission} is {found.state} for {run.path} already: look at it with `cntk status`, "
            f"end it with `cntk cancel {shell_word(run.path)}`"
        )


def _hand_over(run: RunDirectory, submitter: Submitter, trusted: Trusted) -> Submission:
    _require_no_other(run)  # again: another command may have handed one over while this one read its data
    with store_explained(run.path):
        job = submitter.submit(run.path.absolute(), trusted.config, trusted.digest)
        return add_submission(run, trusted.config.cluster.kind, job)


def _receipt_count(run: RunDirectory) -> int:
    return len(run.journal.receipts())


def _end(run: RunDirectory, message: str, job: str | None) -> None:
    """Write down how a driver ended, without credentials that a server may have repeated."""
    write_ending(run, redact(message), job)
