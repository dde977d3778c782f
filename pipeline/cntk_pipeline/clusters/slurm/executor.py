"""Workers of SLURM: inside an allocation by ``srun``; outside of one, as jobs by dask-jobqueue."""

import contextlib
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask.config
import distributed
from distributed.utils import get_ip, get_ip_interface

from cntk_pipeline.clusters.base import Executor, require_no_stop
from cntk_pipeline.clusters.dask.certificates import Certificates
from cntk_pipeline.clusters.dask.dashboard import dashboard_warnings
from cntk_pipeline.clusters.dask.executor import ExecutorTraits, client_within, count_workers, prepared
from cntk_pipeline.clusters.dask.scaling import Scalable, Scaling, bounds
from cntk_pipeline.clusters.dask.settings import SETTINGS
from cntk_pipeline.clusters.slurm.options import BESIDE_WORKER_BYTES, SlurmOptions, drain_seconds
from cntk_pipeline.clusters.slurm.steps import CLOSE_SECONDS, NodeShare, WorkerSteps
from cntk_pipeline.config import ClusterConfig, parse_bytes
from cntk_pipeline.errors import ConfigError, WorkersLost

LOOPBACK = "127.0.0.1:0"
"""Address of the workers' own dashboards and metrics."""

INHERITED = "DASK_INTERNAL_INHERIT_CONFIG"
"""Variable in which Dask's processes find the settings of their parent."""

FIRST_WORKER_SECONDS, ALL_WORKERS_SECONDS = 300.0, 60.0
"""Times of waiting for workers: starting Python on a cold parallel file system takes minutes."""


@contextmanager
def open_slurm(
    config: ClusterConfig, prepare: Callable[[], None], stop: threading.Event | None = None
) -> Iterator[Executor]:
    """Use the allocation that this process runs in, or ask SLURM for jobs of workers where there is none."""
    opened = _open_allocation if "SLURM_JOB_ID" in os.environ else _open_jobs
    with opened(config, prepare, stop) as executor:
        yield executor


def _load_jobqueue() -> Any:
    """Import dask-jobqueue, and restore the handler of Ctrl-C: the import makes Ctrl-C end Python at once."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError as error:
        raise ConfigError(
            'a "slurm" cluster driven from outside a job needs dask-jobqueue: pip install "cntk-pipeline[slurm]", '
            "or hand the driver to the cluster with `cntk submit`"
        ) from error
    signal.signal(signal.SIGINT, handler)
    return SLURMCluster


@contextmanager
def _open_jobs(config: ClusterConfig, prepare: Callable[[], None], stop: threading.Event | None) -> Iterator[Executor]:
    """Ask SLURM for one job per worker and drive them from here; for trials, since this process must live on."""
    cluster_class, options = _load_jobqueue(), SlurmOptions.of(config)
    if config.workers is None or config.memory_limit == "auto":
        raise ConfigError('a "slurm" cluster needs cluster.workers and cluster.memory_limit: each job asks for that')
    with _certificates(config) as certificates, dask.config.set(SETTINGS), tempfile.TemporaryDirectory() as logs:
        security = None if certificates is None else certificates.security()
        limit = parse_bytes(config.memory_limit)
        least, most = bounds(config, config.workers)
        warnings = dashboard_warnings(config.dashboard)
        try:
            cluster = cluster_class(
                queue=options.partition,
                account=options.account,
                walltime=options.time_limit,
                cores=config.threads_per_worker,
                processes=1,
                memory=f"{limit}B",
                job_mem=f"{-(-(limit + BESIDE_WORKER_BYTES) // 2**20)}M",
                interface=options.interface,
                protocol="tcp://" if security is None else "tls://",
                security=security,
                python=options.python or sys.executable,
                job_extra_directives=[*(["--gres=gpu:1"] if config.gpus_per_node else []), *options.batch_options],
                job_script_prologue=[*options.setup, f"export {INHERITED}={inherited_settings()}"],
                worker_extra_args=["--dashboard-address", LOOPBACK],
                scheduler_options={"dashboard_address": config.dashboard},
                log_directory=logs,
                silence_logs=logging.CRITICAL,
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise WorkersLost(f"cannot ask SLURM for workers: {error}") from error
        try:
            with distributed.Client(cluster) as client:
                cluster.scale(jobs=least)
                _wait_for_jobs(cluster, client, least, stop)
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


class _Jobs(Scalable):
    """Jobs of one worker each. Dask forgets a lost one after 15 s, and then requests it again by itself."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster

    def request(self, count: int) -> None:
        self._cluster.scale(jobs=count)

    def release(self, names: Sequence[str]) -> None:
        self._cluster.loop.add_callback(self._cluster.scale_down, list(names))


@contextmanager
def _open_allocation(
    config: ClusterConfig, prepare: Callable[[], None], stop: threading.Event | None
) -> Iterator[Executor]:
    interface = SlurmOptions.of(config).interface
    _require_interface(interface)
    shares = allocation_shares(config, os.environ, _hostnames(os.environ["SLURM_JOB_NODELIST"]))
    count = sum(share.workers for share in shares)
    with _certificates(config) as certificates, dask.config.set(SETTINGS):
        security = None if certificates is None else certificates.security()
        cluster = distributed.LocalCluster(
            n_workers=0,
            host=None if interface else _reachable_address(shares),
            interface=interface,
            protocol="tcp://" if security is None else "tls://",
            security=security,
            dashboard_address=config.dashboard,
            silence_logs=logging.CRITICAL,
        )
        try:
            command = _worker_command(config, cluster.scheduler_address, certificates)
            environment = os.environ | {INHERITED: inherited_settings()}
            with (
                client_within(cluster) as client,
                WorkerSteps(shares, command, environment, cards=config.gpus_per_node is not None) as steps,
            ):
                _wait_for_workers(client, count, lambda: steps.all_given_up, stop)
                where = f"job {os.environ['SLURM_JOB_ID']} on {len(shares)} nodes"
                traits = ExecutorTraits(
                    f"{count} workers of SLURM {where}",
                    FIRST_WORKER_SECONDS,
                    dashboard_warnings(config.dashboard),
                    dashboard=cluster.dashboard_link,
                    drain_seconds=drain_seconds(config),
                )
                try:
                    yield prepared(client, prepare, traits)
                finally:
                    steps.expect_the_end()
                    # Workers leave first: otherwise each of them logs a lost connection at length.
                    with contextlib.suppress(Exception):
                        client.retire_workers(close_workers=True)
        finally:
            with contextlib.suppress(TimeoutError):
                cluster.close(timeout=CLOSE_SECONDS)


def _require_interface(name: str | None) -> None:
    """Refuse a network interface that this node does not have.

    Raises
    ------
    ConfigError
        If it does not have it, with the interfaces that it has.
    """
    if name is not None:
        try:
            get_ip_interface(name)
        except ValueError as error:
            raise ConfigError(f"cluster.interface on node {socket.gethostname()}: {error}") from error


def allocation_shares(config: ClusterConfig, environment: Mapping[str, str], nodes: list[str]) -> list[NodeShare]:
    """Spread the workers over an allocation like SLURM's tasks, or one for every ``threads_per_worker`` cores.

    Parameters
    ----------
    environment : the variables of a batch job.
    nodes : names of the allocated nodes.

    Raises
    ------
    ConfigError
        If the allocation has no room for a worker, or no graphics cards where workers need them.
    """
    if config.gpus_per_node is not None:
        _require_cards(environment)
    if "SLURM_NTASKS" in environment:
        tasks = _repeated(environment["SLURM_TASKS_PER_NODE"])
    else:
        tasks = [cpus // config.threads_per_worker for cpus in _repeated(environment["SLURM_JOB_CPUS_PER_NODE"])]
    left = sum(tasks) if config.workers is None else config.workers
    shares = []
    for node, room in zip(nodes, tasks, strict=True):
        taken = min(room, left, config.gpus_per_node or room)
        left -= taken
        if taken:
            shares.append(NodeShare(node, taken))
    if not shares:
        raise ConfigError(f"the allocation has no {config.threads_per_worker} cores for a worker on any node")
    return shares


def _require_cards(environment: Mapping[str, str]) -> None:
    """Refuse a batch job without graphics cards, in which `srun` would try for minutes to start workers.

    Raises
    ------
    ConfigError
        With the option that asks for them.
    """
    # SLURM's daemon names the cards to what it starts on a node, also to a batch job, but not to a shell of salloc.
    is_told = "SLURMD_NODENAME" in environment
    if is_told and not {"SLURM_GPUS_ON_NODE", "SLURM_JOB_GPUS"} & environment.keys():
        raise ConfigError(
            "cluster.gpus_per_node is given, and this job of SLURM has no graphics cards: ask for them with "
            "--gres=gpu:NUMBER, as `cntk submit` does"
        )


def _repeated(text: str) -> list[int]:
    """Read SLURM's run lengths: "2(x3),1" is 2, 2, 2, 1."""
    counts: list[int] = []
    for part in text.split(","):
        count, times = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part).groups()  # type: ignore[union-attr]
        counts += [int(count)] * int(times or 1)
    return counts


def _hostnames(nodelist: str) -> list[str]:
    command = ["scontrol", "show", "hostnames", nodelist]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split()


def _reachable_address(shares: list[NodeShare]) -> str:
    """Return the address by which other nodes reach this one; the loopback where there is no other."""
    here = os.environ.get("SLURMD_NODENAME", socket.gethostname())
    return "127.0.0.1" if [share.node for share in shares] == [here] else get_ip()


@contextmanager
def _certificates(config: ClusterConfig) -> Iterator[Certificates | None]:
    """Make the certificates of this job's cluster where all its nodes see them; delete them at its end."""
    if not config.tls:
        yield None
        return
    # Not in the run directory, which colleagues may read, and which may be a bucket.
    folder = Path.home() / ".cache" / "cntk" / f"slurm-{os.environ.get('SLURM_JOB_ID', 'jobs')}-{uuid.uuid4().hex[:8]}"
    try:
        yield Certificates.create(folder, lifetime=None)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _worker_command(config: ClusterConfig, scheduler: str, certificates: Certificates | None) -> list[str]:
    options = SlurmOptions.of(config)
    command = [options.python or sys.executable, "-P", "-m", "distributed.cli.dask_worker", scheduler]
    command += ["--nthreads", str(config.threads_per_worker), "--memory-limit", str(_worker_memory(config))]
    command += ["--dashboard-address", LOOPBACK, "--death-timeout", "60"]
    command += [] if options.interface is None else ["--interface", options.interface]
    command += [] if certificates is None else certificates.arguments()
    return command


def _worker_memory(config: ClusterConfig) -> str | float:
    """Return a worker's limit: the requested memory, or its part of the job's memory."""
    if config.memory_limit != "auto" or "SLURM_MEM_PER_CPU" not in os.environ:
        return config.memory_limit
    given = int(os.environ["SLURM_MEM_PER_CPU"]) * 2**20 * config.threads_per_worker
    return str(max(given - BESIDE_WORKER_BYTES, parse_bytes("256MiB")))


def _wait_for_jobs(cluster: Any, client: distributed.Client, count: int, stop: threading.Event | None) -> None:
    """Wait for the first worker as long as its job waits in the queue, for any time."""
    while count_workers(client) == 0:
        require_no_stop(stop)
        jobs = list(cluster.workers.values())
        if jobs and not any(job.job_id for job in jobs):
            # Dask does not pass the message of sbatch on, so sbatch is run again.
            again = subprocess.run(
                ["sbatch", "--test-only"],
                input=cluster.job_script(),
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
            raise WorkersLost(f"SLURM refuses the jobs of workers: {again.stderr.strip()}")
        time.sleep(0.1)
    _wait_for_workers(client, count, lambda: False, stop)


def _wait_for_workers(
    client: distributed.Client, count: int, given_up: Callable[[], bool], stop: threading.Event | None
) -> None:
    """Wait long for the first worker and less long for all: workers that come later are accepted too."""
    began = time.monotonic()
    while (here := count_workers(client)) < count:
        require_no_stop(stop)
        waited, some = time.monotonic() - began, here > 0
        if waited > (ALL_WORKERS_SECONDS if some else FIRST_WORKER_SECONDS) or (given_up() and not some):
            break
        time.sleep(0.1)
    if count_workers(client) == 0:
        raise WorkersLost("no worker came up in this allocation: srun's messages stand above; then `cntk resume`")


def inherited_settings() -> str:
    """Write the Dask settings of workers: this package's own, never the user's, which may hold secrets."""
    # Workers that leave in good order log lost connections at length; their messages on memory have another logger.
    levels = {"distributed": "warning", "distributed.nanny": "critical", "distributed.worker": "error"}
    levels |= {f"{name}.memory": "warning" for name in ("distributed.nanny", "distributed.worker")}
    settings: dict[str, Any] = {"logging": levels}
    dask.config.set(SETTINGS, config=settings)
    return str(dask.config.serialize(settings))
