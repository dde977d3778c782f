"""The kind "ssh": workers on hosts that are reached by ssh."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

from cntk_pipeline.clusters.base import Executor
from cntk_pipeline.clusters.cluster import Cluster, slots_of_workers
from cntk_pipeline.clusters.ssh.login import parse_hosts
from cntk_pipeline.clusters.ssh.options import EXTRA, SshOptions
from cntk_pipeline.clusters.ssh.submitter import SshSubmitter
from cntk_pipeline.config import ClusterConfig


def open_later(
    config: ClusterConfig, prepare: Callable[[], None], stop: threading.Event | None = None
) -> AbstractContextManager[Executor]:
    """Open the cluster; Dask is imported only now, since most commands open none."""
    from cntk_pipeline.clusters.ssh.executor import open_ssh

    return open_ssh(config, prepare, stop)


def hosts_named(config: ClusterConfig) -> int | None:
    """Count the hosts of a table; None where it names none yet."""
    return len(SshOptions.of(config).hosts) or None


def slots_of_hosts(config: ClusterConfig) -> int:
    """Count the tiles that the workers compute at once: where each card has one, those of all hosts."""
    if config.workers is None and config.gpus_per_node is not None:
        hosts = hosts_named(config) or 1  # a plan may read a table without hosts; a run refuses it
        return hosts * config.gpus_per_node * config.threads_per_worker
    return slots_of_workers(config)


def require_hosts(config: ClusterConfig) -> None:
    """Refuse a table without hosts, or with one that cannot be named."""
    parse_hosts(SshOptions.of(config).hosts)


SSH = Cluster(
    open_later,
    deed="log in on hosts as you, and start processes there",
    options=SshOptions,
    submitter=SshSubmitter(),
    extra=EXTRA,
    slots=slots_of_hosts,
    machines=hosts_named,
    check=require_hosts,
)
