"""Worker processes on this machine."""

import contextlib
import logging
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any

import dask.config
import distributed

from cntk_pipeline.clusters.base import Executor, require_no_stop
from cntk_pipeline.clusters.dask.certificates import security_of
from cntk_pipeline.clusters.dask.dashboard import dashboard_warnings
from cntk_pipeline.clusters.dask.executor import ExecutorTraits, client_within, prepared
from cntk_pipeline.clusters.dask.scaling import Scalable, Scaling, bounds
from cntk_pipeline.clusters.dask.settings import SETTINGS
from cntk_pipeline.clusters.dask.signing import make_pem
from cntk_pipeline.clusters.dask.starting import start_explained
from cntk_pipeline.clusters.devices import NanniesWithDevices, cores_of_worker, visible_devices
from cntk_pipeline.clusters.local.scripts import PREPARATION
from cntk_pipeline.config import ClusterConfig
from cntk_pipeline.resources import require_room, worker_count, worker_memory

PATIENCE_SECONDS = 60.0
"""Time without any worker after which the cluster counts as broken; it restarts a lost worker within seconds."""

CLOSE_SECONDS = 15.0

_OF_TERMINALS = (signal.SIGINT, signal.SIGHUP)
"""Signals that a terminal sends to all processes in it: at Ctrl-C, and where it is closed."""

SCHEDULER_BYTES, NANNY_BYTES = 384 * 2**20, 128 * 2**20
"""Address space that a cluster takes in this process, and for each worker: 300, 520 and 805 MiB were measured for 1, 2
and 6 workers. With less, a thread may die before it has begun, and the wait for it never ends."""


class OwnCluster(distributed.LocalCluster):
    """A cluster that `open_local` closes. Dask would close it again at exit, and fail if Ctrl-C broke off its start."""

    @property
    def shutdown_on_close(self) -> bool:
        return False

    @shutdown_on_close.setter
    def shutdown_on_close(self, wanted: bool) -> None:
        pass


class LocalWorkers(Scalable):
    """The workers of a `LocalCluster`, whose names are numbers."""

    def __init__(self, cluster: distributed.LocalCluster) -> None:
        self._cluster = cluster

    def request(self, count: int) -> None:
        # Even if Dask counts as many workers, this restarts workers whose nannies are gone.
        self._cluster.scale(count)

    def release(self, names: Sequence[str]) -> None:
        self._cluster.loop.add_callback(self._cluster.scale_down, [int(name) for name in names])


@contextmanager
def open_local(config: ClusterConfig, prepare: Callable[[], None], stop: threading.Event | None) -> Iterator[Executor]:
    """Start a cluster of worker processes that only this machine can reach, and only with the driver's certificates.

    The certificates are temporary: they are made in memory, and each worker gets them at its start.
    """

    def prepare_here() -> None:
        # Signals of a terminal reach the workers too, but the driver wants to drain them.
        if threading.current_thread() is threading.main_thread():
            for number in _OF_TERMINALS:
                signal.signal(number, signal.SIG_IGN)
        # Dask is silent in these workers until they close; a heartbeat under way at that moment would leave a page of
        # traceback on the driver's terminal.
        logging.getLogger("tornado.application").setLevel(logging.CRITICAL)
        prepare()

    require_no_stop(stop)
    devices = visible_devices(config.gpus_per_node) if config.gpus_per_node else None
    cores = cores_of_worker(config.threads_per_worker, config.gpus_per_node)
    workers = worker_count(config.workers or config.gpus_per_node, config.threads_per_worker)
    minimum, maximum = bounds(config, workers)
    needed = SCHEDULER_BYTES + maximum * NANNY_BYTES
    require_room(needed, f"a cluster of {maximum} workers needs here", 'take fewer workers, or cluster.kind = "serial"')
    with dask.config.set(SETTINGS), PREPARATION.opened(), _loop_without_interrupts() as loop:
        with start_explained(config, stop), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Port .* is already in use", UserWarning)  # Dask takes another one
            cluster = OwnCluster(
                loop=loop,
                n_workers=minimum,
                threads_per_worker=config.threads_per_worker,
                processes=True,
                worker_class=NanniesWithDevices(devices) if devices else distributed.Nanny,
                host="127.0.0.1",
                protocol="tls://" if config.tls else "tcp://",
                security=security_of(*make_pem()) if config.tls else None,
                dashboard_address=config.dashboard,
                memory_limit=worker_memory(config.memory_limit, cores),
                silence_logs=logging.CRITICAL,
            )
        try:
            require_no_stop(stop)  # before workers compile for some seconds
            with client_within(cluster) as client:
                count = f"{minimum}" if minimum == maximum else f"{minimum} to {maximum}"
                traits = ExecutorTraits(
                    f"{count} local workers",
                    PATIENCE_SECONDS,
                    dashboard_warnings(config.dashboard, cluster.dashboard_link),
                    Scaling(LocalWorkers(cluster), minimum, maximum, config.threads_per_worker),
                    cluster.dashboard_link,
                )
                yield prepared(client, prepare_here, traits)
        finally:
            # While a nanny restarts a worker, this takes seconds, or for ever with versions of distributed before 2026;
            # the workers end with this process in any case.
            # A worker that has only begun to start raises an assertion.
            with contextlib.suppress(TimeoutError, AssertionError):
                cluster.close(timeout=CLOSE_SECONDS)


@contextmanager
def _loop_without_interrupts() -> Iterator[Any]:
    """Run Dask's loop in a thread that no signal of a terminal reaches; processes started from there inherit this.

    A worker that is interrupted while it still imports would fill the terminal with tracebacks.
    """
    runner = distributed.utils.LoopRunner(asynchronous=False)
    resource_tracker.ensure_running()  # started from the loop, it would let Ctrl-C through there again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _OF_TERMINALS)
    try:
        runner.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        yield runner.loop
    finally:
        runner.stop()
