"""Worker processes on this machine."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import dask.config
import distributed

from pipeline.config import ClusterConfig
from pipeline.executors.base import Executor
from pipeline.executors.dask import SETTINGS, prepared


@contextmanager
def open_local(config: ClusterConfig, prepare: Callable[[], None]) -> Iterator[Executor]:
    """Start a cluster of worker processes that only this machine can reach, dashboard included."""
    with dask.config.set(SETTINGS):
        cluster = distributed.LocalCluster(
            n_workers=config.workers,
            threads_per_worker=config.threads_per_worker,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            memory_limit=config.memory_limit,
            silence_logs=logging.CRITICAL,
        )
        with cluster, distributed.Client(cluster) as client:
            label = f"{len(cluster.workers)} local workers, dashboard {cluster.dashboard_link}"
            yield prepared(client, prepare, label)
