"""The kind "local": worker processes of this machine."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

from cntk_pipeline.clusters.base import Executor, WorkerMemory
from cntk_pipeline.clusters.cluster import Cluster
from cntk_pipeline.clusters.dask.scaling import bounds
from cntk_pipeline.clusters.devices import visible_devices
from cntk_pipeline.config import ClusterConfig, memory_limit_bytes
from cntk_pipeline.resources import memory_bytes, worker_count


def open_later(
    config: ClusterConfig, prepare: Callable[[], None], stop: threading.Event | None = None
) -> AbstractContextManager[Executor]:
    """Open the cluster; Dask is imported only now, since most commands open none."""
    from cntk_pipeline.clusters.local.executor import open_local

    return open_local(config, prepare, stop)


def memory_given(config: ClusterConfig) -> WorkerMemory | None:
    """Return a worker's memory if the table gives it in bytes; other values are left to Dask and the executor."""
    limit = memory_limit_bytes(config.memory_limit)
    return None if limit is None else WorkerMemory(min(limit, memory_bytes()), config.threads_per_worker)


def this_machine(config: ClusterConfig) -> int | None:
    """Count one machine."""
    return 1


def require_possible(config: ClusterConfig) -> None:
    """Refuse more workers at least than at most, and more cards than this process may use."""
    if config.gpus_per_node is not None:
        visible_devices(config.gpus_per_node)
    bounds(config, worker_count(config.workers or config.gpus_per_node, config.threads_per_worker))


LOCAL = Cluster(
    open_later,
    deed="compute in processes of this machine",
    memory=memory_given,
    computes_here=True,
    machines=this_machine,
    check=require_possible,
)
