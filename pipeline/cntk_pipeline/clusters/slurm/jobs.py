"""Workers as jobs of their own, by dask-jobqueue: for a driver outside of any allocation.

Dask joins the words of its script by spaces, so they are quoted before; of its options of sbatch none is used.
"""

import contextlib
import logging
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask.config
import distributed

from cntk_pipeline.clusters.base import Executor, require_no_stop
from cntk_pipeline.clusters.dask.certificates import Certificates
from cntk_pipeline.clusters.dask.dashboard import dashboard_warnings
from cntk_pipeline.clusters.dask.executor import ExecutorTraits, count_workers, prepared
from cntk_pipeline.clusters.dask.scaling import Scalable, Scaling, bounds
from cntk_pipeline.clusters.dask.settings import SETTINGS
from cntk_pipeline.clusters.slurm.asking import ask
from cntk_pipeline.clusters.slurm.directives import WORKER_LOG, require_jobs_of_workers, worker_options
from cntk_pipeline.clusters.slurm.job_steps import CLOSE_SECONDS
from cntk_pipeline.clusters.slurm.options import SlurmOptions, drain_seconds
from cntk_pipeline.clusters.slurm.submitter import job_status
from cntk_pipeline.clusters.slurm.workers import (
    INHERITED,
    LOOPBACK,
    folder_of_nodes,
    inherited_settings,
    wait_for_workers,
)
from cntk_pipeline.config import ClusterConfig
from cntk_pipeline.errors import ConfigError, SubmissionFailed, WorkersLost

LOOK_SECONDS = 15.0
"""Interval at which SLURM is asked whether jobs without a worker still exist."""

_NOT_THE_USERS = {"jobqueue.slurm.interface": None}
"""Settings of a jobqueue.yaml that would stand behind those of the table, and win."""

_LOG_BYTES, _LOG_LINES = 4096, 5
"""The end of a job's log that is read, and shown."""


@contextmanager
def open_jobs(config: ClusterConfig, prepare: Callable[[], None], stop: threading.Event | None) -> Iterator[Executor]:
    """Ask SLURM for one job per worker and drive them from here; for trials, since this process must live on."""
    workers, limit = require_jobs_of_workers(config)
    cluster_class = load_jobqueue()
    least, most = bounds(config, workers)
    warnings = dashboard_warnings(config.dashboard)
    with folder_of_nodes() as folder, dask.config.set(SETTINGS | _NOT_THE_USERS):
        certificates = Certificates.create(folder, lifetime=None) if config.tls else None
        interface = SlurmOptions.of(config).interface
        try:
            cluster = cluster_class(
                security=None if certificates is None else certificates.security(),
                protocol="tcp://" if certificates is None else "tls://",
                scheduler_options={"dashboard_address": config.dashboard}
                | ({} if interface is None else {"interface": interface}),
                silence_logs=logging.CRITICAL,
                **job_of_worker(config, limit, folder, certificates),
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise WorkersLost(f"cannot ask SLURM for workers: {error}") from error
        try:
            with distributed.Client(cluster) as client:
                cluster.scale(jobs=least)
                _wait_for_jobs(cluster, client, least, folder, stop)
                label = f"up to {most} workers in jobs of SLURM"
                scaling = Scaling(_Jobs(cluster), least, most, config.threads_per_worker)
                # Lost workers are requested again, and may wait in the queue for any time.
                traits = ExecutorTraits(
                    label,
                    warnings=warnings,
                    scaling=scaling,
                    dashboard=cluster.dashboard_link,
                    drain_seconds=drain_seconds(config),
                )
                yield prepared(client, prepare, traits)
        finally:
            # Dask raises the assertion for jobs that SLURM refused.
            with contextlib.suppress(TimeoutError, AssertionError):
                cluster.close(timeout=CLOSE_SECONDS)


def load_jobqueue() -> Any:
    """Import dask-jobqueue, and restore the handler of Ctrl-C: the import makes Ctrl-C end Python at once."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError as error:
        raise ConfigError(
            'a "slurm" cluster driven from outside a job needs dask-jobqueue: pip install "cntk-pipeline[slurm]", '
            "or hand the driver to the cluster with `cntk submit`"
        ) from error
    # A handler in C, None here, cannot be set again by Python.
    signal.signal(signal.SIGINT, signal.default_int_handler if handler is None else handler)

    class JobOfWorker(SLURMCluster.job_cls):  # type: ignore[misc]
        """A job whose number is found below a site's banner, and that no filter of the user's keeps from being ended.

        Dask takes the first number that sbatch prints, and hands the user's variables on to scancel.
        """

        job_id_regexp = r"(?s)(?:.*Submitted batch job )?\D*(?P<job_id>\d+)"
        cancel_command = shlex.join(
            ["env", *(f"--unset={name}" for name in os.environ if name.startswith("SCANCEL_")), "scancel"]
        )

    class JobsOfWorkers(SLURMCluster):  # type: ignore[misc]
        """A cluster whose jobs take the certificates from our own quoted arguments; Dask would add unquoted ones."""

        job_cls = JobOfWorker

        def _get_worker_security(self, security: Any) -> None:
            return None

    return JobsOfWorkers


def job_of_worker(config: ClusterConfig, limit: int, folder: Path, certificates: Certificates | None) -> dict[str, Any]:
    """Describe the job of a worker, as dask-jobqueue takes it.

    Parameters
    ----------
    config : ClusterConfig
        The ``[cluster]`` table, as `require_jobs_of_workers` takes it: its texts are one line each.
    limit : int
        Memory of the worker, in bytes.
    folder : Path
        For the output of the jobs; all nodes see it.
    certificates : Certificates or None
        Of the cluster; None without encryption.
    """
    options = SlurmOptions.of(config)
    python = options.python or sys.executable
    words = ["--memory-limit", str(limit), "--dashboard-address", LOOPBACK]
    words += [] if options.interface is None else ["--interface", options.interface]
    words += [] if certificates is None else certificates.arguments()
    return {
        "cores": config.threads_per_worker,
        "processes": 1,
        "memory": f"{limit}B",
        "python": f"{shlex.quote(python)} -P",
        "job_directives_skip": ["#SBATCH"],
        "job_extra_directives": [shlex.join(words) for words in worker_options(config, limit, folder)],
        "job_script_prologue": [
            *options.setup,
            f"export {INHERITED}={inherited_settings()}",
        ],
        "worker_extra_args": [shlex.quote(word) for word in words],
    }


class _Jobs(Scalable):
    """Jobs of one worker each. Dask forgets a lost one after 15 s, and then requests it again by itself."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster

    def request(self, count: int) -> None:
        self._cluster.scale(jobs=count)

    def release(self, names: Sequence[str]) -> None:
        self._cluster.loop.add_callback(self._cluster.scale_down, list(names))


def _wait_for_jobs(
    cluster: Any, client: distributed.Client, count: int, logs: Path, stop: threading.Event | None
) -> None:
    """Wait for the first worker as long as a job waits in the queue or runs, for any time.

    Raises
    ------
    WorkersLost
        If SLURM refuses the jobs, or all have ended and no worker came.
    """
    looked = time.monotonic()
    while count_workers(client) == 0:
        require_no_stop(stop)
        jobs = list(cluster.workers.values())
        known = [str(job.job_id) for job in jobs if job.job_id]
        if jobs and not known:
            raise WorkersLost(f"SLURM refuses the jobs of workers: {_refusal(cluster.job_script())}")
        if known and time.monotonic() - looked > LOOK_SECONDS:
            looked = time.monotonic()
            first, *others = known
            status = job_status(first)
            ended = status.state == "gone" and all(job_status(job).state == "gone" for job in others)
            if ended and count_workers(client) == 0:
                # The words of a status are for drivers: their remedies and their log are not those of a worker.
                raise WorkersLost(
                    f"the jobs of workers have ended, and no worker came up: job {first}: "
                    f"{status.end or status.words}\n{_log_of(first, logs)}"
                )
        time.sleep(0.1)
    lost = (
        "the first workers have left again, and none came back: `squeue --me` shows their jobs; `cntk resume` asks for "
        "new ones"
    )
    wait_for_workers(client, count, lambda: False, stop, lost)


def _refusal(script: str) -> str:
    """Hand a script to sbatch again to learn why it was refused: Dask does not pass the message on."""
    try:
        ask(["sbatch", "--test-only"], script)
    except SubmissionFailed as error:
        return str(error)
    return "sbatch takes the same job now: try again"


def _log_of(job: str, logs: Path) -> str:
    """Return the last lines that a job printed, indented."""
    try:
        with open(logs / WORKER_LOG.format(job=job), "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _LOG_BYTES))
            said = file.read(_LOG_BYTES).decode(errors="replace").strip()
    except OSError:
        said = ""
    if not said:
        return "    It printed nothing: is your home, where its log belongs, on a file system that the nodes see?"
    return "\n".join(f"    {line}" for line in said.splitlines()[-_LOG_LINES:])
