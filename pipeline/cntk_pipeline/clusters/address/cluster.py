"""The kind "address": a Dask scheduler that somebody else runs."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

from cntk_pipeline.clusters.address.options import AddressOptions
from cntk_pipeline.clusters.base import Executor
from cntk_pipeline.clusters.cluster import Cluster
from cntk_pipeline.config import ClusterConfig


def open_later(
    config: ClusterConfig, prepare: Callable[[], None], stop: threading.Event | None = None
) -> AbstractContextManager[Executor]:
    """Open the cluster; Dask is imported only now, since most commands open none."""
    from cntk_pipeline.clusters.address.executor import open_address

    return open_address(config, prepare, stop)


def require_access(config: ClusterConfig) -> None:
    """Refuse a table that leads to no scheduler, or names certificates that cannot be used."""
    from cntk_pipeline.clusters.address import access

    access.require_access(config)


ADDRESS = Cluster(
    open_later,
    deed="connect to a Dask scheduler, which can run any code as you",
    options=AddressOptions,
    gives_devices=False,
    check=require_access,
)
