"""Worker processes on this machine."""

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import dask.config
import distributed

from pipeline.config import ClusterConfig
from pipeline.executors.base import Executor
from pipeline.executors.dask import SETTINGS, prepared

PATIENCE_SECONDS = 60.0
"""A local cluster restarts a lost worker within seconds; without any for so long, it is broken."""

CLOSE_SECONDS = 15.0


@contextmanager
def open_local(config: ClusterConfig, prepare: Callable[[], None]) -> Iterator[Executor]:
    """Start a cluster of worker processes that only this machine can reach, dashboard included."""

    def prepare_here() -> None:
        # Ctrl-C in a terminal reaches the workers too, but the driver wants to drain them.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        prepare()

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
        try:
            with distributed.Client(cluster) as client:
                label = f"{len(cluster.workers)} local workers, dashboard {cluster.dashboard_link}"
                yield prepared(client, prepare_here, label, PATIENCE_SECONDS)
        finally:
            # Closing waits for ever where a nanny is just restarting a worker; the workers end with this process.
            with contextlib.suppress(TimeoutError):
                cluster.close(timeout=CLOSE_SECONDS)
