"""Units of work: what a task is, what a driver must know to run it, and what is said of it when it is done."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, Field, with_config

from cntk_pipeline.models import STRICT, Count, Seconds

Name = Annotated[str, AfterValidator(sys.intern)]
"""A run has few arrays, stages and hosts and many receipts: each name is kept once."""


@with_config(STRICT)
@dataclass(frozen=True, order=True, slots=True)
class Task:
    """One unit of work and of resume: a tile of a stage."""

    stage: Name
    row: Count
    col: Count

    def __str__(self) -> str:
        return f"{self.stage} tile ({self.row}, {self.col})"


@with_config(STRICT)
@dataclass(frozen=True, slots=True)
class Chunk:
    """What a task wrote into one array: bytes on disk, their crc32c, and a digest of the values, 128 bits of XXH3."""

    array: Name
    bytes: Annotated[int, Field(ge=0, lt=2**63)]
    crc32c: Annotated[int, Field(ge=0, lt=2**32)]
    xxh3: str


@with_config(STRICT)
@dataclass(frozen=True, slots=True)
class Receipt:
    """What a worker says of a tile it has written.

    Attributes
    ----------
    task : which tile.
    chunks : what lies on disk, an entry an array.
    read_seconds, compute_seconds, write_seconds : measured inside the task.
    host : where.
    adopted : True where the tile was not computed for this receipt: found complete on disk, its own lost in a crash, or
        taken over from another run.
    """

    task: Task
    chunks: tuple[Chunk, ...]
    read_seconds: Seconds = 0.0
    compute_seconds: Seconds = 0.0
    write_seconds: Seconds = 0.0
    host: Name = ""
    adopted: bool = False

    @property
    def seconds(self) -> float:
        """Time inside the task."""
        return self.read_seconds + self.compute_seconds + self.write_seconds

    @property
    def written_bytes(self) -> int:
        """Bytes on disk."""
        return sum(chunk.bytes for chunk in self.chunks)


@dataclass(frozen=True)
class Job:
    """A task and what the driver must know to run it.

    Attributes
    ----------
    task : what it makes.
    function : importable; called on a worker as ``function(run_path, task)``, returns a `Receipt`.
    entries : matrix entries it computes, for the progress.
    priority : smaller runs first among the ready.
    after : tasks that must be done before it.
    only_for : the one task that needs its result, and deletes it: once that is done, this need not be.
    """

    task: Task
    function: Callable[[str, Task], Receipt]
    entries: int
    priority: tuple[int, ...] = ()
    after: tuple[Task, ...] = ()
    only_for: Task | None = None


def timed(action: Callable[[], Any]) -> tuple[Any, float]:
    """Run an action; return its result and the seconds it took."""
    start = time.perf_counter()
    result = action()
    return result, time.perf_counter() - start
