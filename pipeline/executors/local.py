"""Worker processes on this machine."""

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import dask.config
import distributed
from distributed.security import Security

from pipeline.config import ClusterConfig
from pipeline.executors.access import dashboard_warnings
from pipeline.executors.base import Executor
from pipeline.executors.dask import SETTINGS, prepared

PATIENCE_SECONDS = 60.0
"""A local cluster restarts a lost worker within seconds; without any for so long, it is broken."""

CLOSE_SECONDS = 15.0


@contextmanager
def open_local(config: ClusterConfig, prepare: Callable[[], None]) -> Iterator[Executor]:
    """Start a cluster of worker processes that only this machine can reach, and only with the driver's certificates.

    The certificates are temporary: they are made in memory, and handed to each worker when it is started.
    """

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
            protocol="tls://" if config.tls else "tcp://",
            security=Security.temporary() if config.tls else None,
            dashboard_address=config.dashboard,
            memory_limit=config.memory_limit,
            silence_logs=logging.CRITICAL,
        )
        try:
            with distributed.Client(cluster) as client:
                label = f"{len(cluster.workers)} local workers, dashboard {cluster.dashboard_link}"
                yield prepared(client, prepare_here, label, PATIENCE_SECONDS, dashboard_warnings(config.dashboard))
        finally:
            # Closing waits for ever where a nanny is just restarting a worker; the workers end with this process.
            with contextlib.suppress(TimeoutError):
                cluster.close(timeout=CLOSE_SECONDS)
