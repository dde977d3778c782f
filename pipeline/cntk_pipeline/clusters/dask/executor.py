"""A Dask client as an executor, for every kind of Dask cluster."""

import contextlib
import logging
import math
import pickle
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import distributed

from cntk_pipeline.clusters.base import DRAIN_SECONDS, Completion, Executor, WorkerMemory, require_no_stop
from cntk_pipeline.clusters.dask.clock import keep_steady
from cntk_pipeline.clusters.dask.on_scheduler import WorkerState, worker_states
from cntk_pipeline.clusters.dask.on_worker import Preparation, send_result
from cntk_pipeline.clusters.dask.progress_page import add_page, page_beside
from cntk_pipeline.clusters.dask.scaling import Scaling
from cntk_pipeline.errors import PipelineError, WorkersLost
from cntk_pipeline.telemetry.events import Event, emit
from cntk_pipeline.telemetry.progress import RunProgress

_GONE = "the Dask scheduler went away, or a worker that it asked; finished tiles are kept, `cntk resume` goes on"

_SCHEDULER_TOPIC = "all"
"""Topic of Dask's scheduler for workers that join and leave."""

LOOK_SECONDS = 1.0
"""Interval at which the executor counts the workers."""

ASK_SECONDS = 10.0
"""Time that the scheduler may take to answer; a busy one is asked again. If it is lost at this moment, Dask's client
would go on to look for it for a minute."""

UNHEARD_SECONDS = 20.0
"""Time without a sign of life; a worker sends one every half second, every few seconds where there are hundreds."""

HOLD_SECONDS = 60.0
"""Time that a stage that wants all workers waits for requested ones."""

POLL_SECONDS = 0.1


@dataclass(frozen=True)
class ExecutorTraits:
    """The properties of a cluster that its executor needs.

    Attributes
    ----------
    label : str
        One line for people.
    patience_seconds : float
        Time that it may be without workers; infinite where they come and go by themselves.
    warnings : tuple of str
        See `Executor`.
    scaling : Scaling, optional
        Changes the number of workers, where the package can.
    dashboard : str
        The address of Dask's dashboard as this machine reaches it; "" where only the scheduler knows.
    scheduler_end : callable
        Returns how the scheduler ended, as soon as that is known; Dask's client goes on to look for it for more than a
        minute. Empty while it runs, and where only Dask would know.
    drain_seconds : float
        See `Executor`.
    """

    label: str
    patience_seconds: float = math.inf
    warnings: tuple[str, ...] = ()
    scaling: Scaling | None = None
    dashboard: str = ""
    scheduler_end: Callable[[], str] = str
    drain_seconds: float = DRAIN_SECONDS


@dataclass(frozen=True)
class _Call:
    """A call as `Executor.submit` takes it."""

    key: tuple[Any, ...]
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    rank: int


def _neighbours(calls: Sequence[_Call]) -> Iterator[list[_Call]]:
    """Cut calls into lists that may share a message: nothing else is ranked between them."""
    some: list[_Call] = []
    for call in calls:
        if some and (call.rank != some[-1].rank + 1 or len(call.arguments) != len(some[-1].arguments)):
            yield some
            some = []
        some.append(call)
    if some:
        yield some


class DaskExecutor(Executor):
    """An executor on a Dask cluster; the scheduler passes the results, receipts, on as soon as they are made.

    Dask itself keeps a result on its worker until it is fetched. If that worker died meanwhile, the scheduler tries for
    minutes to connect to it before it computes the result again, and the fetching client waits so long.

    Parameters
    ----------
    client : Client
        Of the cluster.
    traits : ExecutorTraits
        Of the cluster.
    preparation : str
        Name of the preparation of its workers, and of the topic under which they send results.
    page : str
        The address of the page of progress on the scheduler; "" where there is none.
    """

    def __init__(self, client: distributed.Client, traits: ExecutorTraits, preparation: str, page: str = "") -> None:
        self.warnings, self.drain_seconds = traits.warnings, traits.drain_seconds
        self._client = client
        self._traits = traits
        self._workers_seen = self._looked = time.monotonic()
        self._unsent: list[_Call] = []
        self._futures: dict[tuple[Any, ...], distributed.Future] = {}
        self._ended: queue.SimpleQueue[tuple[tuple[Any, ...], Completion | None]] = queue.SimpleQueue()
        self._unheard: frozenset[tuple[Any, ...]] = frozenset()
        self._topic, self._page = preparation, page
        self._progress: Callable[[], RunProgress | None] = lambda: None
        with answered():
            client.subscribe_topic(self._topic, self._receive)
            self.slots = max(1, sum(client.nthreads().values()))

    def submit(self, key: tuple[Any, ...], function: Callable[..., Any], *arguments: Any, rank: int = 0) -> None:
        self._unsent.append(_Call(key, function, arguments, rank))

    def _send(self) -> None:
        """Send the calls that were submitted since the last time, neighbours together.

        Calls alone took 2.6 ms of driver and scheduler each with 8 workers, calls that share messages 1.5.
        """
        calls, self._unsent = self._unsent, []
        for some in _neighbours(calls):
            keys = [call.key for call in some]
            columns = [keys, [call.function for call in some], *zip(*(call.arguments for call in some), strict=True)]
            with answered():
                futures = self._client.map(
                    send_result,
                    [self._topic] * len(some),
                    *columns,
                    key=keys,
                    pure=False,
                    retries=0,
                    priority=-some[0].rank,  # within a message, Dask keeps their order
                )
            for key, future in zip(keys, futures, strict=True):
                self._futures[key] = future
                future.add_done_callback(partial(self._note_end, key))

    def _note_end(self, key: tuple[Any, ...], _future: distributed.Future) -> None:
        self._ended.put((key, None))

    def wait(self, timeout_seconds: float) -> list[Completion]:
        self._send()
        ended = []
        try:
            ended.append(self._complete(*self._ended.get(timeout=timeout_seconds)))
            while True:
                ended.append(self._complete(*self._ended.get_nowait()))
        except queue.Empty:
            pass
        if time.monotonic() - self._looked > LOOK_SECONDS or self._client.status not in ("running", "connecting"):
            self._look()
        return [completion for completion in ended if completion is not None]

    def _receive(self, event: tuple[float, bytes]) -> None:
        key, result = pickle.loads(event[1])
        self._ended.put((key, Completion(key, result=result)))

    def forget(self, key: tuple[Any, ...]) -> None:
        self._unsent = [call for call in self._unsent if call.key != key]
        future = self._futures.pop(key, None)
        if future is not None:
            future.release()

    def unheard(self) -> frozenset[tuple[Any, ...]]:
        return self._unheard

    def adapt(self) -> None:
        if self._traits.scaling is not None:
            self._traits.scaling.adapt()

    def hold(self, stop: threading.Event | None = None) -> None:
        scaling = self._traits.scaling
        if scaling is None:
            return
        scaling.hold()
        # Plans are made for so many slots; if the cluster is full, the run goes on with fewer.
        deadline = time.monotonic() + HOLD_SECONDS
        while len(self._look()) < scaling.target and time.monotonic() < deadline:
            require_no_stop(stop)
            time.sleep(POLL_SECONDS)

    def memory(self) -> WorkerMemory | None:
        with answered():
            states = self._states()
        limited = [WorkerMemory(state.memory_bytes, state.threads) for state in states if state.memory_bytes]
        return min(limited, key=lambda memory: memory.bytes / memory.slots, default=None)

    def describe(self) -> str:
        return f"{self._traits.label}, dashboard {self._page}" if self._page else self._traits.label

    def show(self, progress: Callable[[], RunProgress | None]) -> None:
        if self._page:
            self._progress = progress  # sent with each count of the workers, so that it costs no message of its own

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        with answered():
            self._client.subscribe_topic(_SCHEDULER_TOPIC, _tell_of_workers)
        try:
            yield
        finally:  # before the client closes: the scheduler would go on sending to it
            # A scheduler that has ended is not asked, since Dask would try for a minute to connect to it.
            if not self._traits.scheduler_end() and self._client.status == "running":
                with contextlib.suppress(WorkersLost, TimeoutError), answered():
                    self._client.unsubscribe_topic(_SCHEDULER_TOPIC)
                    forget = self._client._unregister_worker_plugin
                    self._client.sync(forget, self._topic, callback_timeout=ASK_SECONDS)

    def _look(self) -> list[WorkerState]:
        """Count the workers, request missing ones, and give up if none come back."""
        self._looked = time.monotonic()
        end = self._traits.scheduler_end()
        if end or self._client.status not in ("running", "connecting"):
            raise WorkersLost(f"{_GONE}\n  {end}" if end else _GONE)
        try:
            states = self._states(ASK_SECONDS)
        except OSError:  # it took too long, or the link just broke; the client's status shows it the next time
            return []
        self._unheard = frozenset(key for state in states for key in state.unheard)
        if self._traits.scaling is not None:
            self._traits.scaling.follow(len(self._futures), {state.name: state.calls for state in states})
        if states:
            self._workers_seen, self.slots = self._looked, sum(state.threads for state in states)
        elif self._looked - self._workers_seen > self._traits.patience_seconds:
            raise WorkersLost("all workers are gone and none came back; finished tiles are kept, `cntk resume` goes on")
        return states

    def _states(self, within: float | None = None) -> list[WorkerState]:
        progress = self._progress()
        shown = None if progress is None else (self._client.id, progress)
        ask = self._client._run_on_scheduler
        found = self._client.sync(ask, worker_states, UNHEARD_SECONDS, shown, callback_timeout=within)
        return [WorkerState(*state) for state in found]

    def _complete(self, key: tuple[Any, ...], received: Completion | None) -> Completion | None:
        """Make the completion of a call from its result, or from its ended future; None if it was returned before."""
        future = self._futures.pop(key, None)
        if future is None:
            return None
        try:
            if received is not None:
                return received
            if future.status == "finished":
                # The result was sent earlier on the same way, so it is lost: the tile counts as not computed.
                return Completion(key, error=ConnectionError("the tile was computed, but its receipt was lost"))
            if future.status in ("cancelled", "lost"):
                return Completion(key, cluster_lost=True)
            error = future.exception()
            return Completion(key, error=error, worker_died=isinstance(error, distributed.scheduler.KilledWorker))
        finally:
            future.release()


@contextlib.contextmanager
def answered() -> Iterator[None]:
    """Turn Dask's errors for a lost scheduler into `WorkersLost`; errors of workers pass."""
    try:
        yield
    except PipelineError:
        raise
    except distributed.client.ClosedClientError as error:
        raise WorkersLost(_GONE) from error
    except OSError as error:
        if error.errno is not None:  # an error of a worker's operating system; Dask's errors have no number
            raise
        raise WorkersLost(_GONE) from error


def client_within(cluster: distributed.LocalCluster) -> distributed.Client:
    """Connect to a scheduler in this process, without a socket: a tenth less work per tile than by TLS."""
    cluster.sync(cluster.scheduler.listen, "inproc://")
    return distributed.Client(cluster.scheduler.listeners[-1].contact_address, loop=cluster.loop)


def count_workers(client: distributed.Client) -> int:
    """Count the workers; `WorkersLost` where the scheduler is gone."""
    with answered():
        return len(client.nthreads())


def _tell_of_workers(event: tuple[float, Any]) -> None:
    """Emit events for workers that join and leave, from the scheduler's own events."""
    _, said = event
    if not isinstance(said, dict) or said.get("action") not in ("add-worker", "remove-worker"):
        return
    if said["action"] == "add-worker":
        emit(Event("worker_joined", details={"peer": said["worker"]}))
    elif not said.get("expected"):
        tasks = len(said.get("processing-tasks", ()))
        emit(Event("worker_lost", details={"peer": said["worker"], "tiles": tasks}))


def quieten() -> None:
    """Keep Dask from logging pages of traceback about a lost scheduler: `WorkersLost` takes a line."""
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
    logging.getLogger("distributed.batched").setLevel(logging.WARNING)  # it logs messages under way at INFO


def prepared(client: distributed.Client, prepare: Callable[[], None], traits: ExecutorTraits) -> DaskExecutor:
    """Prepare all workers of a cluster, also workers that join later, and return the cluster as an executor."""
    quieten()
    keep_steady()
    preparation = Preparation(prepare)
    with answered():
        client.sync(client._run_on_scheduler, keep_steady)
        client.register_plugin(preparation)
        try:
            page = add_page(client)
        except (AttributeError, ImportError, ValueError) as error:
            left_out = f"the scheduler shows no page of progress: {type(error).__name__}: {error}"
            return DaskExecutor(client, replace(traits, warnings=(*traits.warnings, left_out)), preparation.name)
    page = page_beside(traits.dashboard) if traits.dashboard else page
    return DaskExecutor(client, traits, preparation.name, page)
