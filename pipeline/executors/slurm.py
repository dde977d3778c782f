"""SLURM: inside an allocation workers by ``srun``; outside of one, jobs of workers by dask-jobqueue."""

import contextlib
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import dask.config
import distributed
from dask.utils import parse_bytes
from distributed.utils import get_ip

from pipeline.config import ClusterConfig
from pipeline.errors import ConfigError, WorkersLost
from pipeline.executors.base import Executor
from pipeline.executors.certificates import Certificates
from pipeline.executors.dask import SETTINGS, Terms, prepared

BESIDE_WORKER_BYTES = 512 * 2**20
"""Memory that a job asks for beside each worker's limit: the worker's nanny, and on one node the driver."""

FIRST_WORKER_SECONDS, ALL_WORKERS_SECONDS = 300.0, 60.0
"""Waiting for workers: starting Python on a cold parallel file system takes minutes."""

MAX_RESTARTS, FIRST_DELAY_SECONDS, HEALTHY_SECONDS = 5, 2.0, 600.0
"""A node's workers are started again after 2, 4, 8, ... s; after ten good minutes the count begins anew."""

CLOSE_SECONDS = 20.0

logger = logging.getLogger(__name__)


@contextmanager
def open_slurm(config: ClusterConfig, prepare: Callable[[], None]) -> Iterator[Executor]:
    """Use the allocation that this process runs in, or ask SLURM for jobs of workers where there is none."""
    if "SLURM_JOB_ID" in os.environ:
        with _open_allocation(config, prepare) as executor:
            yield executor
    else:
        raise ConfigError("no")


@dataclass(frozen=True)
class Share:
    """What of an allocation lies on one node: its name and how many workers run there."""

    node: str
    workers: int


@contextmanager
def _open_allocation(config: ClusterConfig, prepare: Callable[[], None]) -> Iterator[Executor]:
    shares = allocation_shares(config, os.environ, _hostnames(os.environ["SLURM_JOB_NODELIST"]))
    count = sum(share.workers for share in shares)
    with _certificates(config) as certificates, dask.config.set(SETTINGS):
        security = None if certificates is None else certificates.security()
        cluster = distributed.LocalCluster(
            n_workers=0,
            host=None if config.interface else _reachable_address(shares),
            interface=config.interface,
            protocol="tcp://" if security is None else "tls://",
            security=security,
            dashboard_address=config.dashboard,
            silence_logs=logging.CRITICAL,
        )
        try:
            command = _worker_command(config, cluster.scheduler_address, certificates)
            with distributed.Client(cluster) as client, WorkerSteps(shares, command) as steps:
                _wait_for_workers(client, count, steps)
                where = f"job {os.environ['SLURM_JOB_ID']} on {len(shares)} nodes"
                label = f"{count} workers of SLURM {where}, dashboard {cluster.dashboard_link}"
                try:
                    yield prepared(client, prepare, Terms(label, FIRST_WORKER_SECONDS))
                finally:
                    steps.expect_the_end()
                    # Workers leave first: otherwise each of them tells at length of a lost connection.
                    with contextlib.suppress(Exception):
                        client.retire_workers(close_workers=True)
        finally:
            with contextlib.suppress(TimeoutError):
                cluster.close(timeout=CLOSE_SECONDS)


def allocation_shares(config: ClusterConfig, environment: Mapping[str, str], nodes: list[str]) -> list[Share]:
    """Spread the workers over an allocation as SLURM has spread its tasks, or one for every ``threads_per_worker``.

    Parameters
    ----------
    environment : the variables of a batch job.
    nodes : names of the allocated nodes.

    Raises
    ------
    ConfigError
        If the allocation has room for none.
    """
    if "SLURM_NTASKS" in environment:
        tasks = _repeated(environment["SLURM_TASKS_PER_NODE"])
    else:
        tasks = [cpus // config.threads_per_worker for cpus in _repeated(environment["SLURM_JOB_CPUS_PER_NODE"])]
    left = sum(tasks) if config.workers is None else config.workers
    shares = []
    for node, room in zip(nodes, tasks, strict=True):
        taken = min(room, left)
        left -= taken
        if taken:
            shares.append(Share(node, taken))
    if not shares:
        raise ConfigError(f"the allocation has no {config.threads_per_worker} cores for a worker on any node")
    return shares


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


def _reachable_address(shares: list[Share]) -> str:
    """Return the address by which other nodes reach this one; the loopback where there is no other."""
    here = os.environ.get("SLURMD_NODENAME", socket.gethostname())
    return "127.0.0.1" if [share.node for share in shares] == [here] else get_ip()


@contextmanager
def _certificates(config: ClusterConfig) -> Iterator[Certificates | None]:
    """Make the certificates of this job's cluster where all its nodes see them; they are gone with it."""
    if not config.tls:
        yield None
        return
    # Not in the run directory, which colleagues may read, and which may be a bucket.
    folder = Path.home() / ".cache" / "cntk" / f"slurm-{os.environ.get('SLURM_JOB_ID', 'jobs')}-{uuid.uuid4().hex[:8]}"
    try:
        yield Certificates.create(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _worker_command(config: ClusterConfig, scheduler: str, certificates: Certificates | None) -> list[str]:
    command = [config.python or sys.executable, "-m", "distributed.cli.dask_worker", scheduler]
    command += ["--nthreads", str(config.threads_per_worker), "--memory-limit", str(_worker_memory(config))]
    command += ["--dashboard-address", "127.0.0.1:0", "--death-timeout", "60"]
    command += [] if config.interface is None else ["--interface", config.interface]
    command += [] if certificates is None else certificates.arguments()
    return command


def _worker_memory(config: ClusterConfig) -> str | float:
    """Return a worker's limit: what was asked for, or its part of what SLURM gave the job."""
    if config.memory_limit != "auto" or "SLURM_MEM_PER_CPU" not in os.environ:
        return config.memory_limit
    given = int(os.environ["SLURM_MEM_PER_CPU"]) * 2**20 * config.threads_per_worker
    return str(max(given - BESIDE_WORKER_BYTES, parse_bytes("256MiB")))


def _wait_for_workers(client: distributed.Client, count: int, steps: "WorkerSteps") -> None:
    """Wait for the first worker long, for all of them not so long: those that come later are taken in too."""
    began = time.monotonic()
    while len(client.scheduler_info(n_workers=-1)["workers"]) < count:
        waited, some = time.monotonic() - began, bool(client.nthreads())
        if waited > (ALL_WORKERS_SECONDS if some else FIRST_WORKER_SECONDS) or (steps.all_given_up and not some):
            break
        time.sleep(0.1)
    if not client.nthreads():
        raise WorkersLost("no worker came up in this allocation: srun's messages stand above; then `cntk resume`")


class WorkerSteps:
    """A job step of workers on each node; one that ends too early is started again, within limits.

    Parameters
    ----------
    shares : nodes and their workers.
    command : of one worker.
    """

    def __init__(self, shares: list[Share], command: list[str]) -> None:
        self._command = command
        self._steps = [_Step(share) for share in shares]
        self._ending = threading.Event()
        self._watchdog = threading.Thread(target=self._watch, name="worker-steps", daemon=True)

    def __enter__(self) -> "WorkerSteps":
        for step in self._steps:
            step.start(self._command)
        self._watchdog.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.expect_the_end()
        self._watchdog.join()
        deadline = time.monotonic() + CLOSE_SECONDS
        for step in self._steps:
            step.end(deadline)

    @property
    def all_given_up(self) -> bool:
        """Whether no node's workers are started again any more."""
        return all(step.given_up for step in self._steps)

    def expect_the_end(self) -> None:
        """Start no workers again from now on."""
        self._ending.set()

    def _watch(self) -> None:
        while not self._ending.wait(0.5):
            for step in self._steps:
                step.restore(self._command)


class _Step:
    """The workers of one node."""

    def __init__(self, share: Share) -> None:
        self._share = share
        self._restarts = 0
        self._started = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self.given_up = False

    def start(self, command: list[str]) -> None:
        # --overlap: the batch step holds the job's cores already. A worker that fails must not end its neighbours.
        srun = ["srun", "--overlap", "--kill-on-bad-exit=0", "--nodes=1", f"--nodelist={self._share.node}"]
        threads = command[command.index("--nthreads") + 1]
        srun += [f"--ntasks={self._share.workers}", f"--cpus-per-task={threads}", "--job-name=cntk-workers"]
        self._started = time.monotonic()
        self._process = subprocess.Popen([*srun, *command], stdin=subprocess.DEVNULL, env=_step_environment())

    def restore(self, command: list[str]) -> None:
        """Start the workers again where they have ended and it is time."""
        assert self._process is not None
        code = self._process.poll()
        if code is None or self.given_up:
            return
        lived = time.monotonic() - self._started
        if lived > HEALTHY_SECONDS:
            self._restarts = 0
        if self._restarts >= MAX_RESTARTS:
            self.given_up = True
            logger.error("the workers on %s ended %d times: given up", self._share.node, self._restarts + 1)
        elif lived > FIRST_DELAY_SECONDS * 2**self._restarts:
            self._restarts += 1
            logger.warning("the workers on %s ended with code %d: started again", self._share.node, code)
            self.start(command)

    def end(self, deadline: float) -> None:
        """Wait for the workers to leave; then make them."""
        assert self._process is not None
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()  # SLURM ends its tasks
            self._process.wait()


def _step_environment() -> dict[str, str]:
    """Give workers the driver's Dask settings, and let them say only what is wrong."""
    # Those who leave in good order tell at length of lost connections; what they say of memory is another logger's.
    levels = {"distributed": "warning", "distributed.nanny": "critical", "distributed.worker": "error"}
    levels |= {f"{name}.memory": "warning" for name in ("distributed.nanny", "distributed.worker")}
    settings = dask.config.merge(dask.config.global_config, {"logging": levels})
    return os.environ | {"DASK_INTERNAL_INHERIT_CONFIG": dask.config.serialize(settings)}
