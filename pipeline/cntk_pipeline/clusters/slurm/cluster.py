"""The kind "slurm": jobs of SLURM."""

import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

from cntk_pipeline.clusters.base import Executor, WorkerMemory
from cntk_pipeline.clusters.cluster import Cluster
from cntk_pipeline.clusters.slurm.directives import memory_limit, require_jobs_of_workers
from cntk_pipeline.clusters.slurm.options import SlurmOptions, drain_seconds
from cntk_pipeline.clusters.slurm.submitter import SlurmSubmitter
from cntk_pipeline.config import ClusterConfig


def open_later(
    config: ClusterConfig, prepare: Callable[[], None], stop: threading.Event | None = None
) -> AbstractContextManager[Executor]:
    """Open the cluster; Dask is imported only now, since most commands open none."""
    from cntk_pipeline.clusters.slurm.executor import open_slurm

    return open_slurm(config, prepare, stop)


def memory_asked_for(config: ClusterConfig) -> WorkerMemory | None:
    """Return the memory that a worker will have, unless SLURM's own default decides."""
    limit = memory_limit(config)
    return None if limit is None else WorkerMemory(limit, config.threads_per_worker)


def require_jobs(config: ClusterConfig) -> None:
    """Refuse a table by which no job of a worker can be asked for, where this process is in no allocation."""
    if "SLURM_JOB_ID" not in os.environ:
        require_jobs_of_workers(config)


SLURM = Cluster(
    open_later,
    deed="hand a batch job to SLURM as you, whose setup lines are shell",
    options=SlurmOptions,
    submitter=SlurmSubmitter(),
    memory=memory_asked_for,
    check=require_jobs,
    harmless_options=frozenset({"drain_seconds", "resubmit"}),
    drain_seconds=drain_seconds,
)
