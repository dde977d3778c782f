"""Everything in this process, one tile after the other."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cntk_pipeline.clusters.base import Completion, Executor, WorkerMemory
from cntk_pipeline.clusters.cluster import Cluster
from cntk_pipeline.config import ClusterConfig
from cntk_pipeline.errors import DeviceLost, WorkersLost
from cntk_pipeline.resources import memory_bytes


class SerialExecutor(Executor):
    """An executor that runs a call when its result is waited for."""

    slots = 1

    def __init__(self) -> None:
        self._queue: deque[tuple[tuple[Any, ...], Callable[..., Any], tuple[Any, ...]]] = deque()

    def submit(self, key: tuple[Any, ...], function: Callable[..., Any], *arguments: Any, rank: int = 0) -> None:
        self._queue.append((key, function, arguments))

    def wait(self, timeout_seconds: float) -> list[Completion]:
        if not self._queue:
            time.sleep(timeout_seconds)
            return []
        key, function, arguments = self._queue.popleft()
        try:
            return [Completion(key, result=function(*arguments))]
        except DeviceLost as error:
            raise WorkersLost(f"{error}. Finished tiles are kept, `cntk resume` goes on in another process") from error
        except Exception as error:  # the driver judges any error of a call
            return [Completion(key, error=error)]

    def memory(self) -> WorkerMemory | None:
        return WorkerMemory(memory_bytes(), 1)

    def describe(self) -> str:
        return "this process"


@contextmanager
def open_serial(
    config: ClusterConfig, prepare: Callable[[], None], stop: threading.Event | None = None
) -> Iterator[Executor]:
    """Prepare this process and run everything in it."""
    prepare()
    yield SerialExecutor()


def one_slot(config: ClusterConfig) -> int:
    """Count one tile at once, for any number of workers in the table."""
    return 1


SERIAL = Cluster(
    open_serial,
    deed="compute in this process",
    preparation="compiling the kernels, or loading them from the cache",
    slots=one_slot,
    computes_here=True,
    gives_devices=False,
)
