"""The memory of tasks, compared with the memory of workers before anything is computed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from cntk_pipeline.clusters import WorkerMemory
from cntk_pipeline.errors import ConfigError

PROCESS_BYTES = 205 * 2**20
"""Memory of a Dask worker process with its libraries and the compiled engine, measured (Python 3.11, dask 2026.8)."""

USABLE = 0.85
"""Share of its limit that a worker may use; above it, Dask pauses the worker."""


class Need(Protocol):
    """The memory of a kind of task."""

    @property
    def bytes(self) -> int:
        """Bytes that one task holds."""

    def require(self, memory: WorkerMemory) -> None:
        """Raise `ConfigError` if a task does not fit beside the others of its worker; it names a size that would."""


@dataclass(frozen=True)
class TileNeed:
    """The memory of tasks on tiles.

    Attributes
    ----------
    name : str
        Of the kind of tile, for people.
    key : str
        Of the workflow, which sets the tile.
    tile : int
        Samples along its edge.
    step : int
        A tile is a multiple of so many samples.
    task_bytes : callable
        Bytes that a task of a given tile holds.
    """

    name: str
    key: str
    tile: int
    step: int
    task_bytes: Callable[[int], int]

    @property
    def bytes(self) -> int:
        """Bytes that one task holds."""
        return self.task_bytes(self.tile)

    def require(self, memory: WorkerMemory) -> None:
        """Refuse a tile that does not fit beside the others of its worker.

        Raises
        ------
        ConfigError
            If it does not fit, with the need, the limit, and the largest tile that fits.
        """
        share = share_bytes(memory)
        if self.bytes <= share:
            return
        fits = self.tile // self.step
        while fits and self.task_bytes(fits * self.step) > share:
            fits -= 1
        advice = f"set {self.key} = {fits * self.step} at most, or give" if fits else "no tile would fit: give"
        raise ConfigError(
            f"a {self.name} of {self.tile} samples holds {_megabytes(self.bytes)}, and of a worker's "
            f"{_megabytes(memory.bytes)} each of {memory.slots} tiles at once may hold {_megabytes(max(share, 0))}: "
            f"{advice} workers more memory (cluster.memory_limit) or fewer threads"
        )


@dataclass(frozen=True)
class IterationNeed:
    """The memory of the largest task of conjugate gradients.

    Attributes
    ----------
    rank : int
        Of the preconditioner; 0 where a factor or the diagonal is the preconditioner.
    task_bytes : callable
        Bytes that the task holds, by the rank.
    """

    rank: int
    task_bytes: Callable[[int], int]

    @property
    def bytes(self) -> int:
        """Bytes that one task holds."""
        return self.task_bytes(self.rank)

    def require(self, memory: WorkerMemory) -> None:
        """Refuse conjugate gradients that do not fit beside the other tasks of a worker.

        Raises
        ------
        ConfigError
            If they do not fit, with the need, the limit, and the largest rank that fits.
        """
        share = share_bytes(memory)
        if self.bytes <= share:
            return
        spare = share - self.task_bytes(0)
        fits = int(spare / (self.task_bytes(1) - self.task_bytes(0))) if spare > 0 else 0
        advice = f"set solve.rank = {fits} at most, or give" if fits and self.rank else "give"
        with_rank = f" with a preconditioner of rank {self.rank}" if self.rank else ""
        raise ConfigError(
            f"conjugate gradients{with_rank} hold {_megabytes(self.bytes)} in a task, and of a worker's "
            f"{_megabytes(memory.bytes)} each of {memory.slots} tasks at once may hold {_megabytes(max(share, 0))}: "
            f"{advice} workers more memory (cluster.memory_limit) or fewer threads"
        )


def share_bytes(memory: WorkerMemory) -> float:
    """Return the bytes that each tile of a worker may hold; negative where the process alone takes too much."""
    return (USABLE * memory.bytes - PROCESS_BYTES) / memory.slots


def _megabytes(value: float) -> str:
    return f"{value / 1e6:,.0f} MB" if value >= 1e6 else f"{value / 1e6:.2g} MB"
