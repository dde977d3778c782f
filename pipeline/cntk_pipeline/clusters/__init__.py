"""Clusters, on which tiles are computed.

``CLUSTERS`` is the interface of this package: each kind of cluster by its name in ``cluster.kind``. `clusters.cluster`
defines a kind.
"""

from cntk_pipeline.clusters.address.cluster import ADDRESS
from cntk_pipeline.clusters.base import Completion, Executor, WorkerMemory
from cntk_pipeline.clusters.cluster import Cluster
from cntk_pipeline.clusters.dask.slot import release_slot
from cntk_pipeline.clusters.kubernetes.cluster import KUBERNETES
from cntk_pipeline.clusters.local.cluster import LOCAL
from cntk_pipeline.clusters.serial import SERIAL
from cntk_pipeline.clusters.slurm.cluster import SLURM
from cntk_pipeline.clusters.ssh.cluster import SSH

CLUSTERS: dict[str, Cluster] = {
    "serial": SERIAL,
    "local": LOCAL,
    "address": ADDRESS,
    "slurm": SLURM,
    "ssh": SSH,
    "kubernetes": KUBERNETES,
}

__all__ = ["CLUSTERS", "Completion", "Executor", "WorkerMemory", "release_slot"]
