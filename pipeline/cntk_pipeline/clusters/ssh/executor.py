"""Hosts that are reached by ssh, each with workers of its own; the first one runs the scheduler as well.

Dask's `SSHCluster` is not used. It writes Dask's whole configuration into a command line that everybody on the host can
list, in quotes that a value can leave; it leaves scheduler and workers behind when its driver is killed; and it brings
back no worker that lost its scheduler. Here the command line is constant, everything else, the certificates too, goes
through ssh's encrypted channel, and all processes on a host end with the driver.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import dask.config
import distributed

from cntk_pipeline.clusters.base import Executor
from cntk_pipeline.clusters.dask.certificates import security_of
from cntk_pipeline.clusters.dask.dashboard import dashboard_warnings
from cntk_pipeline.clusters.dask.executor import ExecutorTraits, count_workers, prepared
from cntk_pipeline.clusters.dask.settings import SETTINGS
from cntk_pipeline.clusters.dask.signing import make_pem
from cntk_pipeline.clusters.ssh.login import parse_hosts
from cntk_pipeline.clusters.ssh.messages import Assignment
from cntk_pipeline.clusters.ssh.options import EXTRA, SshOptions
from cntk_pipeline.clusters.ssh.remote import LAST_DELAY_SECONDS, Remote, Remotes
from cntk_pipeline.config import ClusterConfig
from cntk_pipeline.errors import WorkersLost

PATIENCE_SECONDS = 10 * LAST_DELAY_SECONDS
"""Time without any host after which the run stops; hosts that went away are tried every minute."""


@contextmanager
def open_ssh(config: ClusterConfig, prepare: Callable[[], None], stop: threading.Event | None) -> Iterator[Executor]:
    """Start a scheduler on the first host and workers on all of them; they end with this process in any case.

    Raises
    ------
    ConfigError
        If no hosts are given, or asyncssh is not installed.
    WorkersLost
        If hosts do not start, with the message of each, or the scheduler cannot be reached from here.
    """
    options = SshOptions.of(config)
    hosts = parse_hosts(options.hosts)
    EXTRA.require('the "ssh" cluster')
    pem = make_pem() if config.tls else ()
    assignment = Assignment(
        settings=SETTINGS,
        pem=pem,
        name="scheduler",
        interface=options.interface,
        dashboard=config.dashboard,
        scheduler=None,
        workers=None,
        threads=config.threads_per_worker,
        gpus=config.gpus_per_node,
        memory_limit=config.memory_limit,
    )
    remotes = Remotes(options.python or sys.executable)
    try:
        address = remotes.start_scheduler(Remote(hosts[0], assignment), stop)
        remotes.start_workers(
            [
                # Two ports of one machine are two hosts: a number tells their workers apart.
                Remote(host, replace(assignment, name=f"{number}-{host.name}", scheduler=address, workers=share))
                for number, (host, share) in enumerate(zip(hosts, shares(config.workers, len(hosts)), strict=True))
                if share != 0
            ],
            config.minimum_workers,
            stop,
        )
        with dask.config.set(SETTINGS), _connect(address, pem) as client:
            count = count_workers(client)
            label = f"{count} workers on {', '.join(options.hosts)}, scheduler {address}"
            traits = ExecutorTraits(
                label,
                PATIENCE_SECONDS,
                dashboard_warnings(config.dashboard),
                scheduler_end=remotes.scheduler_end,
            )
            yield prepared(client, prepare, traits)
    finally:
        remotes.close()


def shares(workers: int | None, hosts: int) -> list[int | None]:
    """Deal workers to hosts, the remainder to the first ones; None lets each host decide."""
    if workers is None:
        return [None] * hosts
    return [workers // hosts + (host < workers % hosts) for host in range(hosts)]


def _connect(address: str, pem: tuple[str, ...]) -> distributed.Client:
    try:
        return distributed.Client(address, security=security_of(*pem) if pem else None)
    except (OSError, ValueError) as error:
        raise WorkersLost(
            f"the scheduler started at {address}, but cannot be reached from here: {error}. The first of cluster.hosts "
            "must be named as all hosts and this machine reach it, or cluster.interface name the network"
        ) from error
