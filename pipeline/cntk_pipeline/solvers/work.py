"""One task on a system: its reading ahead, its times, and the receipts of its tiles."""

import socket
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Generic, TypeVar

import numpy as np

from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.owners import Owner
from cntk_pipeline.rundir.predictions import open_directory
from cntk_pipeline.solvers.systems import System, SystemKernel, factor_cut, open_system
from cntk_pipeline.storage.tiled_array import Array, TiledArray, forget_mapped_tiles
from cntk_pipeline.tasks import Receipt, Task, timed
from cntk_pipeline.tiling import Cut

READ_AHEAD = 2
"""Number of panels that are read while a product runs."""

_I = TypeVar("_I")
_T = TypeVar("_T")


@dataclass
class Work:
    """One task at its tile.

    Attributes
    ----------
    run, system, task
        The task, with its run and its system.
    started : float
        Time of its beginning, by `time.perf_counter`.
    waited : float
        Seconds that it waited for reads.
    """

    run: RunDirectory
    system: System
    task: Task
    started: float = field(default_factory=time.perf_counter)
    waited: float = 0.0

    @property
    def cut(self) -> Cut:
        """How the training samples are cut into tiles of the factor."""
        return factor_cut(self.run, self.system)

    @property
    def kernel(self) -> SystemKernel:
        """The kernel that the system reads."""
        return SystemKernel(self.run, self.system)

    def solved(self, part: str) -> TiledArray:
        """Open an array of this task's solve."""
        return self.run.solved(self.system.fingerprint, part)

    def ahead(self, read: Callable[[_I], _T], indices: Iterable[_I]) -> Iterator[_T]:
        """Iterate over the results of ``read`` for some indices; a thread reads the next ones meanwhile."""
        reader = ReadAhead(read, indices)
        yield from reader
        self.waited += reader.waited

    def write(self, owner: Owner, *values: Array) -> Receipt:
        """Write the chunks of the task in the places that its owner names, in their order, and make the receipt."""
        places = owner.places(self.run, self.task)
        computed = time.perf_counter() - self.started - self.waited
        chunks, write_seconds = timed(
            lambda: tuple(array.write(index, part) for (array, index), part in zip(places, values, strict=True))
        )
        return Receipt(self.task, chunks, self.waited, computed, write_seconds, socket.gethostname())


def open_work(run_path: str, task: Task) -> Work:
    """Begin a task, whose stage names its solve."""
    run, system = _open_solve(run_path, task.stage.solve)
    return Work(run, system, task)


def forget_tiles() -> None:
    """Unmap the tiles that this process has mapped: mapped files keep a disk busy."""
    _open_solve.cache_clear()
    forget_mapped_tiles()


def float64(tile: Array) -> Array:
    """Return a tile in float64, without a copy where it has that dtype."""
    return tile.astype(np.float64, copy=False)


class ReadAhead(Generic[_I, _T]):
    """An iterator over the results of ``read`` for some indices; a thread reads the next ones meanwhile.

    Attributes
    ----------
    waited : float
        Seconds spent on waiting for reads.
    """

    def __init__(self, read: Callable[[_I], _T], indices: Iterable[_I]) -> None:
        self._read, self._indices = read, list(indices)
        self.waited = 0.0

    def __iter__(self) -> Iterator[_T]:
        with ThreadPoolExecutor(1) as reader:
            pending: list[Future[_T]] = []
            for k in range(len(self._indices)):
                wanted = self._indices[k + len(pending) : k + READ_AHEAD + 1]
                pending += [reader.submit(self._read, index) for index in wanted]
                value, seconds = timed(pending.pop(0).result)
                self.waited += seconds
                yield value


@lru_cache(maxsize=16)
def _open_solve(run_path: str, solve: str) -> tuple[RunDirectory, System]:
    """Open a run and a system once per process, so that tiles mapped for one task serve the next."""
    run = open_directory(run_path)
    return run, open_system(run, solve)
