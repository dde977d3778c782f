"""The interface of an executor: it takes calls, and returns their results."""

import contextlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from cntk_pipeline.errors import Interrupted
from cntk_pipeline.telemetry.progress import RunProgress

DRAIN_SECONDS = 120.0
"""How long a driver that is to stop waits for tiles in flight, where nothing else is asked for."""

BESIDE_WORKER_BYTES = 512 * 2**20
"""Memory that a job or a pod requests beyond each worker's limit: for the worker's nanny and the pages of mapped files,
and on one node of SLURM for the driver."""


@dataclass(frozen=True)
class Completion:
    """The end of one submitted call.

    Attributes
    ----------
    key : tuple
        As given to `Executor.submit`.
    result : object
        The value that the call returned; None where it failed.
    error : BaseException, optional
        The exception that it raised.
    worker_died : bool
        Whether the worker was lost with it, again and again, so that the call is under suspicion.
    cluster_lost : bool
        Whether the call vanished with the cluster.
    """

    key: tuple[Any, ...]
    result: Any = None
    error: BaseException | None = None
    worker_died: bool = False
    cluster_lost: bool = False


@dataclass(frozen=True)
class WorkerMemory:
    """The memory of the smallest worker.

    Attributes
    ----------
    bytes : int
        Limit of the process.
    slots : int
        Calls that share it.
    """

    bytes: int
    slots: int


class Executor(ABC):
    """A place to run calls. Used as a context manager; leaving it gives the workers back.

    Attributes
    ----------
    slots : int
        Number of calls that run at once; it may change.
    warnings : tuple of str
        Lines for people about settings that are less safe than possible.
    drain_seconds : float
        How long a driver that is to stop waits for calls that have begun.
    """

    slots: int
    warnings: tuple[str, ...] = ()
    drain_seconds: float = DRAIN_SECONDS

    @abstractmethod
    def submit(self, key: tuple[Any, ...], function: Callable[..., Any], *arguments: Any, rank: int = 0) -> None:
        """Submit a call of an importable function with plain, small arguments; smaller ranks wait less.

        The next `wait` sends it, together with others.
        """

    @abstractmethod
    def wait(self, timeout_seconds: float) -> list[Completion]:
        """Return the calls that have ended since the last time, after at most ``timeout_seconds``."""

    def forget(self, key: tuple[Any, ...]) -> None:  # noqa: B027 - a call that has begun may as well end
        """Withdraw a call whose result is not needed any more; a call that has begun may end all the same."""

    def unheard(self) -> frozenset[tuple[Any, ...]]:
        """Name the calls whose workers have given no sign of life for a while: frozen, cut off, or not known yet."""
        return frozenset()

    @abstractmethod
    def memory(self) -> WorkerMemory | None:
        """Return the memory of the smallest worker; None where nothing limits it."""

    @abstractmethod
    def describe(self) -> str:
        """Describe the workers and their place in one line, for people."""

    def show(self, progress: Callable[[], RunProgress | None]) -> None:  # noqa: B027 - not all places have a page
        """Show the progress of the run to people who look at the cluster, where it has a page for that.

        ``progress`` is asked now and then, in the thread that calls `wait`.
        """

    def adapt(self) -> None:  # noqa: B027 - most executors have as many workers as they have
        """Let the number of workers follow the calls from here on, where the cluster can."""

    def hold(self, stop: threading.Event | None = None) -> None:  # noqa: B027
        """Keep all workers from here on: calls that wait for one another leave no work to measure.

        Raises
        ------
        Interrupted
            If ``stop`` was set during the wait for missing workers.
        """

    def watched(self) -> AbstractContextManager[None]:
        """Emit events for workers that join and leave, for the length of a ``with`` block."""
        return contextlib.nullcontext()


def require_no_stop(stop: threading.Event | None) -> None:
    """Raise where a driver that has no workers yet is to stop.

    Raises
    ------
    Interrupted
        If ``stop`` is set.
    """
    if stop is not None and stop.is_set():
        raise Interrupted("stopped while it waited for its workers; nothing is lost")
