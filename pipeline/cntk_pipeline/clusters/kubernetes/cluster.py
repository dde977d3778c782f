"""The kind "kubernetes": pods of Kubernetes."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

from cntk_pipeline.clusters.base import Executor, WorkerMemory
from cntk_pipeline.clusters.cluster import Cluster
from cntk_pipeline.clusters.kubernetes.api import require_described
from cntk_pipeline.clusters.kubernetes.manifests import memory_limit
from cntk_pipeline.clusters.kubernetes.options import EXTRA, KubernetesOptions
from cntk_pipeline.clusters.kubernetes.submitter import KubernetesSubmitter
from cntk_pipeline.config import ClusterConfig


def open_later(
    config: ClusterConfig, prepare: Callable[[], None], stop: threading.Event | None = None
) -> AbstractContextManager[Executor]:
    """Open the cluster; Dask is imported only now, since most commands open none."""
    from cntk_pipeline.clusters.kubernetes.executor import open_kubernetes

    return open_kubernetes(config, prepare, stop)


def memory_of_pods(config: ClusterConfig) -> WorkerMemory | None:
    """Return the memory that a worker will have; the table must give it."""
    return WorkerMemory(memory_limit(config), config.threads_per_worker)


KUBERNETES = Cluster(
    open_later,
    deed="make pods with your rights in Kubernetes, of the image that is named",
    options=KubernetesOptions,
    submitter=KubernetesSubmitter(),
    extra=EXTRA,
    memory=memory_of_pods,
    check=require_described,
)
