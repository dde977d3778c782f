"""The kind "local": worker processes of this machine."""

from dask.utils import parse_bytes

from cntk_pipeline.clusters.base import WorkerMemory
from cntk_pipeline.clusters.cluster import Cluster
from cntk_pipeline.clusters.local.executor import open_local
from cntk_pipeline.config import ClusterConfig
from cntk_pipeline.resources import memory_bytes


def memory_given(config: ClusterConfig) -> WorkerMemory | None:
    """Return a worker's memory if the table gives it in bytes; other values are left to Dask and the executor."""
    limit = config.memory_limit
    if not isinstance(limit, str) or limit == "auto":
        return None
    return WorkerMemory(min(parse_bytes(limit), memory_bytes()), config.threads_per_worker)


LOCAL = Cluster(open_local, deed="compute in processes of this machine", memory=memory_given, computes_here=True)
