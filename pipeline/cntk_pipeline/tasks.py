"""Units of work: a stage with its forecast, a task of a stage, and the receipt of a finished task."""

import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, with_config

from cntk_pipeline.models import STRICT, Count, Seconds

Name = Annotated[str, AfterValidator(sys.intern)]
"""A name that is kept once in memory: a run has few arrays and hosts, and many receipts."""

_STAGE = re.compile(r"([a-z][a-z0-9_]*)(?:-([A-Za-z0-9][A-Za-z0-9._]*))?(?::([0-9a-f]{16}))?")


@dataclass(frozen=True, order=True, slots=True)
class Stage:
    """A group of tasks that do the same for different tiles. Its text in a journal is ``kind-parameters:solve``.

    Attributes
    ----------
    kind : str
        Name of the owner, which knows the tasks: "train", "factor", "learning_curve".
    parameters : str
        A short text that distinguishes stages of one kind and solve; "" where there is one only.
    solve : str
        The fingerprint of the system; "" for a stage of the kernel.
    """

    kind: str
    parameters: str = ""
    solve: str = ""

    @staticmethod
    @lru_cache(maxsize=4096)
    def parse(text: str) -> "Stage":
        """Read a stage back from its text; the same text gives the same object.

        Raises
        ------
        ValueError
            If the text names no stage.

        Examples
        --------
        >>> Stage.parse("learning_curve-01234567:0123456789abcdef")
        Stage(kind='learning_curve', parameters='01234567', solve='0123456789abcdef')
        """
        found = _STAGE.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r} names no stage")
        return Stage(*(part or "" for part in found.groups()))

    @property
    def name(self) -> str:
        """The kind with its parameters, the name of arrays and records."""
        return f"{self.kind}-{self.parameters}" if self.parameters else self.kind

    def __str__(self) -> str:
        return f"{self.name}:{self.solve}" if self.solve else self.name


def _read_stage(value: object) -> object:
    return Stage.parse(value) if isinstance(value, str) else value


StageText = Annotated[Stage, BeforeValidator(_read_stage), PlainSerializer(str)]
"""A stage that a record spells as its text."""


@with_config(STRICT)
@dataclass(frozen=True, order=True, slots=True)
class Task:
    """One unit of work and of resume: a tile of a stage."""

    stage: StageText
    row: Count
    col: Count

    def __str__(self) -> str:
        return f"{self.stage} tile ({self.row}, {self.col})"


@with_config(STRICT)
@dataclass(frozen=True, slots=True)
class Chunk:
    """The part of a task in one array: bytes on disk, their crc32c, and a digest of the values, 128 bits of XXH3."""

    array: Name
    bytes: Annotated[int, Field(ge=0, lt=2**63)]
    crc32c: Annotated[int, Field(ge=0, lt=2**32)]
    xxh3: str


@with_config(STRICT)
@dataclass(frozen=True, slots=True)
class Receipt:
    """The receipt of a worker for a tile it has written.

    Attributes
    ----------
    task : Task
        The tile.
    chunks : tuple of Chunk
        The chunks on disk, one for each array.
    read_seconds, compute_seconds, write_seconds : float
        Measured inside the task.
    host : str
        The host of the worker.
    adopted : bool
        True where the tile was not computed for this receipt: it was found complete on disk after a crash had lost its
        receipt, or was taken over from another run.
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
        """The time inside the task."""
        return self.read_seconds + self.compute_seconds + self.write_seconds

    @property
    def written_bytes(self) -> int:
        """The bytes on disk."""
        return sum(chunk.bytes for chunk in self.chunks)


@dataclass(frozen=True)
class StageForecast:
    """The tasks of all stages of one kind.

    Attributes
    ----------
    kind : str
        Of the stages.
    tasks : int
        Number of tasks.
    written_bytes : int
        Size on disk of the chunks that stay.
    core_seconds : float
        Of the arithmetic, on one core.
    chain : int
        Tasks of the longest chain in which each waits for the one before; 1 where none waits.
    chain_seconds : float, optional
        Of the arithmetic of this chain; None where its tasks are as long as others.
    """

    kind: str
    tasks: int
    written_bytes: int
    core_seconds: float
    chain: int = 1
    chain_seconds: float | None = None

    def __mul__(self, count: int) -> "StageForecast":
        """Forecast the same for several systems, whose chains go on side by side."""
        return replace(
            self,
            tasks=self.tasks * count,
            written_bytes=self.written_bytes * count,
            core_seconds=self.core_seconds * count,
        )

    @property
    def longest_seconds(self) -> float:
        """The time of the arithmetic of the longest chain, which no number of workers shortens."""
        if self.chain_seconds is not None:
            return self.chain_seconds
        return self.core_seconds * self.chain / max(self.tasks, 1)


def timed(action: Callable[[], Any]) -> tuple[Any, float]:
    """Run an action; return its result and the seconds it took."""
    start = time.perf_counter()
    result = action()
    return result, time.perf_counter() - start
