"""Workers of SLURM: inside an allocation by ``srun``, here; outside of one, as jobs by dask-jobqueue: `slurm.jobs`."""

import contextlib
import logging
import os
import re
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import dask.config
import distributed
from distributed.utils import get_ip, get_ip_interface

from cntk_pipeline.clusters.base import BESIDE_WORKER_BYTES, Executor
from cntk_pipeline.clusters.dask.certificates import Certificates
from cntk_pipeline.clusters.dask.dashboard import dashboard_warnings
from cntk_pipeline.clusters.dask.executor import ExecutorTraits, client_within, prepared
from cntk_pipeline.clusters.dask.settings import SETTINGS
from cntk_pipeline.clusters.slurm.asking import ask
from cntk_pipeline.clusters.slurm.job_steps import CLOSE_SECONDS, NodeShare, WorkerSteps
from cntk_pipeline.clusters.slurm.jobs import open_jobs
from cntk_pipeline.clusters.slurm.options import SlurmOptions, drain_seconds
from cntk_pipeline.clusters.slurm.workers import (
    FIRST_WORKER_SECONDS,
    INHERITED,
    LOOPBACK,
    certificates_of,
    inherited_settings,
    wait_for_workers,
)
from cntk_pipeline.config import ClusterConfig, parse_bytes
from cntk_pipeline.errors import ConfigError, SubmissionFailed, WorkersLost

_LEAVE_THE_JOB = (
    "SLURM_JOB_ID is set, so workers are to be started in that job by srun. Start `cntk` in the job itself (sbatch, "
    'salloc, or `cntk submit`), or take cluster.kind = "local" for the cores of this machine alone'
)
"""The ways out where a process in a job of SLURM cannot use that job."""


@contextmanager
def open_slurm(config: ClusterConfig, prepare: Callable[[], None], stop: threading.Event | None) -> Iterator[Executor]:
    """Use the allocation that this process runs in, or ask SLURM for jobs of workers where there is none."""
    opened = _open_allocation if "SLURM_JOB_ID" in os.environ else open_jobs
    with opened(config, prepare, stop) as executor:
        yield executor


@contextmanager
def _open_allocation(
    config: ClusterConfig, prepare: Callable[[], None], stop: threading.Event | None
) -> Iterator[Executor]:
    interface = SlurmOptions.of(config).interface
    _require_interface(interface)
    shares = allocation_shares(config, os.environ, _hostnames(os.environ))
    count = sum(share.workers for share in shares)
    with certificates_of(config) as certificates, dask.config.set(SETTINGS):
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
            limit = worker_memory(config, os.environ, max(share.workers for share in shares))
            command = _worker_command(config, limit, cluster.scheduler_address, certificates)
            environment = os.environ | {INHERITED: inherited_settings()}
            with (
                client_within(cluster) as client,
                WorkerSteps(shares, command, environment, cards=config.gpus_per_node is not None) as steps,
            ):
                lost = "no worker came up in this allocation: srun's messages stand above; then `cntk resume`"
                wait_for_workers(client, count, lambda: steps.all_given_up, stop, lost)
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
    environment : mapping of str to str
        The variables of a batch job.
    nodes : list of str
        Names of the allocated nodes.

    Raises
    ------
    ConfigError
        If the allocation has no room for a worker, or no graphics cards where workers need them, or SLURM's variables
        do not say what room there is.
    """
    if config.gpus_per_node is not None:
        _require_cards(environment)
    if "SLURM_NTASKS" in environment:
        tasks = _repeated("SLURM_TASKS_PER_NODE", environment, len(nodes))
    else:
        cores = _repeated("SLURM_JOB_CPUS_PER_NODE", environment, len(nodes))
        tasks = [count // config.threads_per_worker for count in cores]
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


def _repeated(name: str, environment: Mapping[str, str], nodes: int) -> list[int]:
    """Read SLURM's run lengths, a number for each node: "2(x3),1" is 2, 2, 2, 1."""
    text, counts = _variable(name, environment), []
    for part in text.split(","):
        found = re.fullmatch(r"(\d{1,9})(?:\(x(\d{1,9})\))?", part, re.ASCII)
        counts += [] if found is None else [int(found[1])] * min(int(found[2] or 1), nodes + 1)
    if len(counts) != nodes:
        raise ConfigError(f"{name} = {text!r} does not give a number for each of the {nodes} nodes; {_LEAVE_THE_JOB}")
    return counts


def _variable(name: str, environment: Mapping[str, str]) -> str:
    if not environment.get(name):
        raise ConfigError(f"{name} is not set: {_LEAVE_THE_JOB}")
    return environment[name]


def _hostnames(environment: Mapping[str, str]) -> list[str]:
    """Name the nodes of the job.

    Raises
    ------
    ConfigError
        If SLURM's variables or its commands are not here, as in a container that does not mount them.
    WorkersLost
        If SLURM does not answer.
    """
    nodelist = _variable("SLURM_JOB_NODELIST", environment)
    for program in ("scontrol", "srun"):
        if shutil.which(program) is None:
            raise ConfigError(f"there is no {program} here: {_LEAVE_THE_JOB}")
    try:
        said = ask(["scontrol", "show", "hostnames", nodelist]).splitlines()
        return [line.strip() for line in said if re.fullmatch(r"\w[\w.-]*", line.strip())]  # no banner of the site
    except SubmissionFailed as error:
        raise WorkersLost(f"the nodes of job {environment['SLURM_JOB_ID']} cannot be asked for: {error}") from error


def _reachable_address(shares: list[NodeShare]) -> str:
    """Return the address by which other nodes reach this one; the loopback where there is no other."""
    here = os.environ.get("SLURMD_NODENAME", socket.gethostname())
    return "127.0.0.1" if [share.node for share in shares] == [here] else get_ip()


def _worker_command(
    config: ClusterConfig, limit: str | float, scheduler: str, certificates: Certificates | None
) -> list[str]:
    options = SlurmOptions.of(config)
    command = [options.python or sys.executable, "-P", "-m", "distributed.cli.dask_worker", scheduler]
    command += ["--nthreads", str(config.threads_per_worker), "--memory-limit", str(limit)]
    command += ["--dashboard-address", LOOPBACK, "--death-timeout", "60"]
    command += [] if options.interface is None else ["--interface", options.interface]
    command += [] if certificates is None else certificates.arguments()
    return command


def worker_memory(config: ClusterConfig, environment: Mapping[str, str], fullest: int) -> str | float:
    """Return a worker's limit: the requested memory, or its part of the job's memory.

    Where SLURM does not say how much the job has, this is its part of the node. Dask's own "auto" would divide the node
    by the cores that a task may use: a task bound to one core would take all of it, and so would its neighbours.

    Parameters
    ----------
    environment : mapping of str to str
        The variables of a batch job.
    fullest : int
        Number of workers of the node that has most.
    """
    if config.memory_limit != "auto":
        return config.memory_limit
    shares = {"SLURM_MEM_PER_CPU": float(config.threads_per_worker), "SLURM_MEM_PER_NODE": 1 / fullest}
    if config.gpus_per_node is not None:
        shares["SLURM_MEM_PER_GPU"] = 1.0
    for name, share in shares.items():
        given = re.fullmatch(r"0*([1-9][0-9]{0,17})", environment.get(name, ""))  # zero is all memory of a node
        if given:
            return str(max(int(int(given[1]) * 2**20 * share) - BESIDE_WORKER_BYTES, parse_bytes("256MiB")))
    return str(1 / fullest)
