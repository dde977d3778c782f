"""A Dask client as an executor: what every kind of Dask cluster shares."""

import contextlib
import math
import queue
import time
from collections.abc import Callable, Iterator
from typing import Any

import distributed
from distributed.diagnostics.plugin import WorkerPlugin

from pipeline.arrays import MAPPED_BYTES, limit_mapped_tiles
from pipeline.errors import WorkersLost
from pipeline.events import Event, emit
from pipeline.executors.base import Completion, Executor, WorkerMemory

SETTINGS: dict[str, Any] = {
    # Tiles go to the store, so there is nothing worth spilling, and a spill would hide a leak.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": 0.85,
    "distributed.worker.memory.terminate": 0.95,
    "distributed.scheduler.worker-saturation": 1.0,
    # An innocent tile that sits beside one that kills its worker must survive the suspicion.
    "distributed.scheduler.allowed-failures": 3,
    "distributed.comm.retry.count": 3,
    "distributed.comm.timeouts.connect": "60s",
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.limit": "1h",
    # Watching itself 50 times a second costs Dask 6 % of a core in the driver and 2.5 % in each worker; so, 1 %.
    "distributed.admin.tick.interval": "500ms",
    "distributed.admin.system-monitor.interval": "2s",
    "distributed.worker.memory.monitor-interval": "250ms",
    "distributed.nanny.pre-spawn-environ.NUMBA_NUM_THREADS": 1,
    "distributed.nanny.pre-spawn-environ.OMP_NUM_THREADS": 1,
    "distributed.nanny.pre-spawn-environ.OPENBLAS_NUM_THREADS": 1,
    "distributed.nanny.pre-spawn-environ.MKL_NUM_THREADS": 1,
    # Dask has workers give memory back at once; the next tile then touches new pages, up to 12 us each on a virtual
    # machine, three seconds a gigabyte. Tiles come and go in the same sizes, so what they had is kept.
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 512 * 2**20,
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 32 * 2**20,
    "distributed.nanny.pre-spawn-environ.MALLOC_ARENA_MAX": 1,
}
"""Dask settings of every cluster that the package starts; each trap behind them was met."""

_SCHEDULER_TOPIC = "all"
"""Where Dask's scheduler tells of workers that join and leave."""


class Preparation(WorkerPlugin):  # type: ignore[misc]
    """Prepares every worker, late joiners too: a worker that fails to prepare takes no tile."""

    name = "cntk-preparation"
    idempotent = True

    def __init__(self, prepare: Callable[[], None]) -> None:
        self.prepare = prepare

    def setup(self, worker: Any) -> None:
        """Run the preparation inside the worker."""
        limit_mapped_tiles(int(worker.memory_manager.memory_limit or MAPPED_BYTES * 4))
        self.prepare()


class DaskExecutor(Executor):
    """Submits calls to a Dask cluster; results are receipts, released as soon as they are here.

    Parameters
    ----------
    client : of the cluster.
    label : one line for people.
    patience_seconds : how long the cluster may be without workers; for ever where they come and go by themselves.
    """

    def __init__(self, client: distributed.Client, label: str, patience_seconds: float) -> None:
        self._client = client
        self._label = label
        self._patience_seconds = patience_seconds
        self._workers_seen = time.monotonic()
        self._futures: dict[tuple[Any, ...], distributed.Future] = {}
        self._ended: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        self.slots = max(1, sum(client.nthreads().values()))

    def submit(self, key: tuple[Any, ...], function: Callable[..., Any], *arguments: Any, rank: int = 0) -> None:
        future = self._client.submit(function, *arguments, key=key, pure=False, retries=0, priority=-rank)
        self._futures[key] = future
        future.add_done_callback(lambda _: self._ended.put(key))

    def wait(self, timeout_seconds: float) -> list[Completion]:
        ended: list[Completion] = []
        try:
            ended.append(self._complete(self._ended.get(timeout=timeout_seconds)))
            while True:
                ended.append(self._complete(self._ended.get_nowait()))
        except queue.Empty:
            pass
        if not ended:
            self._require_workers()
        return ended

    def _require_workers(self) -> None:
        if self._client.status not in ("running", "connecting"):
            raise WorkersLost("the Dask scheduler went away; finished tiles are kept, `cntk resume` goes on")
        threads = sum(self._client.nthreads().values())
        if threads:
            self._workers_seen, self.slots = time.monotonic(), threads
        elif time.monotonic() - self._workers_seen > self._patience_seconds:
            raise WorkersLost("all workers are gone and none came back; finished tiles are kept, `cntk resume` goes on")

    def memory(self) -> WorkerMemory | None:
        limits = self._client.run_on_scheduler(_worker_limits)
        limited = [WorkerMemory(limit, slots) for limit, slots in limits if limit]
        return min(limited, key=lambda memory: memory.bytes / memory.slots, default=None)

    def describe(self) -> str:
        return self._label

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        self._client.subscribe_topic(_SCHEDULER_TOPIC, _tell_of_workers)
        try:
            yield
        finally:  # while the scheduler can still be told: it would go on sending to a client that has closed
            self._client.unsubscribe_topic(_SCHEDULER_TOPIC)

    def _complete(self, key: tuple[Any, ...]) -> Completion:
        future = self._futures.pop(key)
        try:
            if future.status == "finished":
                return Completion(key, result=future.result())
            if future.status in ("cancelled", "lost"):
                return Completion(key, cluster_lost=True)
            error = future.exception()
            return Completion(key, error=error, worker_died=isinstance(error, distributed.scheduler.KilledWorker))
        finally:
            future.release()


def _worker_limits(dask_scheduler: Any) -> list[tuple[int, int]]:
    """List each worker's memory limit in bytes, 0 for none, and its threads."""
    return [(int(worker.memory_limit or 0), int(worker.nthreads)) for worker in dask_scheduler.workers.values()]


def _tell_of_workers(event: tuple[float, Any]) -> None:
    """Tell of workers that join and leave, as the scheduler's own events say."""
    _, said = event
    if not isinstance(said, dict) or said.get("action") not in ("add-worker", "remove-worker"):
        return
    if said["action"] == "add-worker":
        emit(Event("worker_joined", details={"peer": said["worker"]}))
    elif not said.get("expected"):
        tasks = len(said.get("processing-tasks", ()))
        emit(Event("worker_lost", details={"peer": said["worker"], "tiles": tasks}))


def release_slot() -> None:
    """Let the worker begin its next call while this one only waits for the disk; nothing happens outside of Dask.

    An fsync of a tile takes as long as its checksums and more, and needs no core.
    """
    with contextlib.suppress(ValueError):  # no worker runs this thread
        distributed.secede()


def prepared(
    client: distributed.Client, prepare: Callable[[], None], label: str, patience_seconds: float = math.inf
) -> DaskExecutor:
    """Prepare all workers of a cluster, those that join later too, and return it as an executor."""
    client.register_plugin(Preparation(prepare))
    return DaskExecutor(client, label, patience_seconds)
