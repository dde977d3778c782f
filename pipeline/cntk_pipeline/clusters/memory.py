"""What a task holds in memory, and whether the workers have it: asked before anything is computed."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cntk_pipeline.clusters import WorkerMemory
from cntk_pipeline.errors import ConfigError
from cntk_pipeline.kernels import Engine

PROCESS_BYTES = 205 * 2**20
"""A Dask worker process that has loaded its libraries and the compiled engine, measured (Python 3.11, dask 2026.8)."""

USABLE = 0.85
"""Share of its limit that a worker may use: there Dask pauses it."""


def kernel_task_bytes(engine: Engine, tile: int) -> int:
    """Bytes a kernel task holds: both sides' images in two layouts, the engine's own, each read-out's tile thrice."""
    question = engine.question
    item = np.dtype(question.dtype).itemsize
    images = 4 * tile * int(np.prod(question.input_shape)) * item
    return images + engine.working_bytes(tile) + 3 * len(question.readouts) * tile * tile * item


def factor_task_bytes(tile: int) -> int:
    """Bytes a factor task holds: its tile, a product, four panels, of which two are read ahead, and one being written.

    The last is that of the task before, which has given its slot away.
    """
    return 7 * tile * tile * 8


def iteration_task_bytes(train: int, classes: int, kernel_tile: int, rank: int) -> int:
    """Bytes the largest task of conjugate gradients holds, whatever the blocks it multiplies.

    The step has two states of four vectors and some copies, and the basis read and joined; making the basis takes
    the sketch, its image and a decomposition; a product takes a kernel tile as stored and promoted.
    """
    vectors = 16 * train * classes * 8
    basis = 4 * train * rank * 8
    return vectors + basis + 3 * kernel_tile**2 * 8


def inverse_task_bytes(tile: int) -> int:
    """Bytes a leave-one-out task holds: a slice of the inverse as large as six tiles, and four tiles of the factor."""
    return 10 * tile * tile * 8


@dataclass(frozen=True)
class Need:
    """The memory of a kind of task.

    Attributes
    ----------
    what : the kind, for people.
    key : of the workflow, which sets its tile.
    tile : samples along its edge.
    step : tiles are multiples of so many samples.
    task_bytes : bytes that a task of a given tile holds.
    """

    what: str
    key: str
    tile: int
    step: int
    task_bytes: Callable[[int], int]


def require_memory(memory: WorkerMemory, need: Need) -> None:
    """Refuse a tile that does not fit beside the others of its worker.

    Raises
    ------
    ConfigError
        With the need, the limit, and the largest tile that fits.
    """
    share = share_bytes(memory)
    if need.task_bytes(need.tile) <= share:
        return
    fits = need.tile // need.step
    while fits and need.task_bytes(fits * need.step) > share:
        fits -= 1
    advice = f"set {need.key} = {fits * need.step} at most, or give" if fits else "no tile would fit: give"
    raise ConfigError(
        f"a {need.what} of {need.tile} samples holds {_megabytes(need.task_bytes(need.tile))}, and of a worker's "
        f"{_megabytes(memory.bytes)} each of {memory.slots} tiles at once may hold {_megabytes(max(share, 0))}: "
        f"{advice} workers more memory (cluster.memory_limit) or fewer threads"
    )


def require_iteration_memory(memory: WorkerMemory, task_bytes: Callable[[int], int], rank: int) -> None:
    """Refuse conjugate gradients that do not fit beside the other tasks of a worker.

    Parameters
    ----------
    task_bytes : bytes that the largest task holds, by the rank of the preconditioner.
    rank : that was asked for; 0 where a factor or the diagonal is the preconditioner.

    Raises
    ------
    ConfigError
        With the need, the limit, and the largest rank that fits.
    """
    share = share_bytes(memory)
    if task_bytes(rank) <= share:
        return
    spare = share - task_bytes(0)
    fits = int(spare / (task_bytes(1) - task_bytes(0))) if spare > 0 else 0
    advice = f"set solve.rank = {fits} at most, or give" if fits and rank else "give"
    with_rank = f" with a preconditioner of rank {rank}" if rank else ""
    raise ConfigError(
        f"conjugate gradients{with_rank} hold {_megabytes(task_bytes(rank))} in a task, and of a worker's "
        f"{_megabytes(memory.bytes)} each of {memory.slots} tasks at once may hold {_megabytes(max(share, 0))}: "
        f"{advice} workers more memory (cluster.memory_limit) or fewer threads"
    )


def share_bytes(memory: WorkerMemory) -> float:
    """Return what each tile of a worker may hold; negative where the process alone is too much."""
    return (USABLE * memory.bytes - PROCESS_BYTES) / memory.slots


def _megabytes(value: float) -> str:
    return f"{value / 1e6:,.0f} MB" if value >= 1e6 else f"{value / 1e6:.2g} MB"
