"""What the driver asks of an executor: take a call, give back how it ended."""

import contextlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from cntk_pipeline.errors import Interrupted


@dataclass(frozen=True)
class Completion:
    """How one submitted call ended.

    Attributes
    ----------
    key : as given to `Executor.submit`.
    result : what the call returned; None where it failed.
    error : what it raised.
    worker_died : whether the worker was lost with it, again and again, so that the call is under suspicion.
    cluster_lost : whether the call vanished with the cluster.
    """

    key: tuple[Any, ...]
    result: Any = None
    error: BaseException | None = None
    worker_died: bool = False
    cluster_lost: bool = False


@dataclass(frozen=True)
class WorkerMemory:
    """What the smallest worker has.

    Attributes
    ----------
    bytes : limit of the process.
    slots : calls that share it.
    """

    bytes: int
    slots: int


class Executor(ABC):
    """Runs calls somewhere. Used as a context manager; leaving it gives the workers back.

    Attributes
    ----------
    slots : calls that run at once; may change while it runs.
    warnings : lines for people: what is less safe than it could be.
    """

    slots: int
    warnings: tuple[str, ...] = ()

    @abstractmethod
    def submit(self, key: tuple[Any, ...], function: Callable[..., Any], *arguments: Any, rank: int = 0) -> None:
        """Take a call of an importable function with plain, small arguments; smaller ranks wait less."""

    @abstractmethod
    def wait(self, timeout_seconds: float) -> list[Completion]:
        """Return the calls that have ended since the last time, after at most ``timeout_seconds``."""

    def forget(self, key: tuple[Any, ...]) -> None:  # noqa: B027 - a call that has begun may as well end
        """Take a call back whose end is of no interest any more; where it has begun, it may end all the same."""

    def unheard(self) -> frozenset[tuple[Any, ...]]:
        """Name the calls whose workers have given no sign of life for a while: frozen, cut off, or not known yet."""
        return frozenset()

    @abstractmethod
    def memory(self) -> WorkerMemory | None:
        """Say what memory the smallest worker has; None where nothing limits it."""

    @abstractmethod
    def describe(self) -> str:
        """Say in one line what runs where, for people."""

    def adapt(self) -> None:  # noqa: B027 - most executors have as many workers as they have
        """Let the number of workers follow the calls from here on, where the cluster can."""

    def hold(self, stop: threading.Event | None = None) -> None:  # noqa: B027
        """Keep all workers from here on: calls that wait for one another leave no work to measure.

        Raises
        ------
        Interrupted
            If ``stop`` was set while those that are missing were waited for.
        """

    def watched(self) -> AbstractContextManager[None]:
        """Tell of workers that join and leave, as events, for the length of a ``with`` block."""
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
