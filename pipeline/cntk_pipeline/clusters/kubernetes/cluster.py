"""The kind "kubernetes": pods of Kubernetes."""

from cntk_pipeline.clusters.base import WorkerMemory
from cntk_pipeline.clusters.cluster import Cluster
from cntk_pipeline.clusters.kubernetes.executor import open_kubernetes
from cntk_pipeline.clusters.kubernetes.manifests import memory_limit
from cntk_pipeline.clusters.kubernetes.options import EXTRA, KubernetesOptions
from cntk_pipeline.clusters.kubernetes.submitter import KubernetesSubmitter
from cntk_pipeline.config import ClusterConfig


def memory_of_pods(config: ClusterConfig) -> WorkerMemory | None:
    """Return the memory that a worker will have; the table must give it."""
    return WorkerMemory(memory_limit(config), config.threads_per_worker)


KUBERNETES = Cluster(
    open_kubernetes,
    deed="make pods with your rights in Kubernetes, of the image that is named",
    options=KubernetesOptions,
    submitter=KubernetesSubmitter(),
    extra=EXTRA,
    memory=memory_of_pods,
)
