"""Jobs of whole matrices, made as they are needed: a list of the jobs of ten million tiles would take gigabytes."""

import bisect
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import overload

import numpy as np

from cntk_pipeline.rundir.owners import Job, Owner
from cntk_pipeline.rundir.sets import TaskSet
from cntk_pipeline.tasks import Stage, Task

Array = np.ndarray


class _Numbered(Sequence[Job]):
    """Jobs that are found by their number."""

    @property
    def _what(self) -> str:
        """What the numbers are of, for messages."""
        return "jobs"

    @abstractmethod
    def _at(self, place: int) -> Job:
        """Find the job of a number, which is not negative and smaller than that of all jobs."""

    @overload
    def __getitem__(self, place: int) -> Job: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Job]: ...
    def __getitem__(self, place: int | slice) -> Job | Sequence[Job]:
        if isinstance(place, slice):
            return [self[k] for k in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(f"there are {len(self)} {self._what}, got number {place}")
        return self._at(place % len(self))


@dataclass(frozen=True, eq=False)
class JobGrid(_Numbered):
    """The jobs of the tiles of a matrix, row by row; none waits for another task, and no later task uses its chunks up.

    The tile at row i and column j has ``heights[i] * widths[j]`` entries.

    Attributes
    ----------
    owner : Owner
        Of the stage, which has no parameters and belongs to no solve.
    heights : int64 array, (rows,)
    widths : int64 array, (columns,)
    diagonal : int64 array, (rows,), optional
        Entries of a tile whose row is its column; None where these are like others.
    lower : bool
        Whether only tiles on and below the diagonal are there.
    first_row : int
        The first row that has tiles.
    """

    owner: Owner
    heights: Array
    widths: Array
    diagonal: Array | None = None
    lower: bool = False
    first_row: int = 0

    @cached_property
    def stage(self) -> Stage:
        """The stage of all jobs."""
        return Stage(self.owner.kind)

    @property
    def _what(self) -> str:
        return f"tiles of {self.stage}"

    @cached_property
    def _ends(self) -> list[int]:
        """The number of tiles up to the end of each row."""
        return np.cumsum([self.length(row) for row in range(len(self.heights))], dtype=np.int64).tolist()

    def length(self, row: int) -> int:
        """Count the tiles of a row."""
        if row < self.first_row:
            return 0
        return min(row + 1, len(self.widths)) if self.lower else len(self.widths)

    def entries(self, row: int) -> Array:
        """Return the entries of each tile of a row, (tiles,) int64."""
        found = self.heights[row] * self.widths[: self.length(row)]
        if self.diagonal is not None and row < len(found):
            found[row] = self.diagonal[row]
        return found

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[Job]:
        for row in range(self.first_row, len(self.heights)):
            for col, entries in enumerate(self.entries(row).tolist()):
                yield self._job(row, col, entries)

    def _at(self, place: int) -> Job:
        row = bisect.bisect_right(self._ends, place)
        col = place - (self._ends[row] - self.length(row))
        if self.diagonal is not None and row == col:
            return self._job(row, col, int(self.diagonal[row]))
        return self._job(row, col, int(self.heights[row] * self.widths[col]))

    def _job(self, row: int, col: int, entries: int) -> Job:
        return Job(Task(self.stage, row, col), self.owner, entries, (-entries, row, col))

    def total_entries(self) -> int:
        """Add up the entries of all tiles."""
        return sum(int(self.entries(row).sum()) for row in range(self.first_row, len(self.heights)))

    def count_in(self, tasks: TaskSet) -> tuple[int, int]:
        """Count the tiles that are in a set, and add up their entries."""
        count = entries = 0
        for row in range(self.first_row, len(self.heights)):
            mask = tasks.mask(self.stage, row, self.length(row))
            count += int(mask.sum())
            entries += int(self.entries(row)[mask].sum())
        return count, entries

    def missing(self, tasks: TaskSet) -> Iterator[Job]:
        """Make the jobs of the tiles that are not in a set, as they are asked for: longest first, of equals the first.

        Sorting the tiles takes some 24 bytes each, the order 4.
        """
        return (self[int(place)] for place in self._missing_places(tasks))

    def _missing_places(self, tasks: TaskSet) -> Array:
        places, entries, begin = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], 0
        for row in range(self.first_row, len(self.heights)):
            missing = np.flatnonzero(~tasks.mask(self.stage, row, self.length(row)))
            places.append(missing + begin)
            entries.append(self.entries(row)[missing])
            begin += self.length(row)
        found = np.concatenate(places)[np.argsort(-np.concatenate(entries), kind="stable")]
        return found.astype(np.uint32) if begin < 2**32 else found


class Jobs(_Numbered):
    """Jobs of several stages, as grids and as lists, one after the other.

    Parameters
    ----------
    parts : tuple of sequence of Job
        The grids and the lists.
    """

    def __init__(self, *parts: Sequence[Job]) -> None:
        self.parts: tuple[Sequence[Job], ...] = tuple(
            each for part in parts for each in (part.parts if isinstance(part, Jobs) else (part,)) if len(each)
        )

    @property
    def grids(self) -> list[JobGrid]:
        """The matrices whose jobs are made as they are needed."""
        return [part for part in self.parts if isinstance(part, JobGrid)]

    @property
    def listed(self) -> list[Job]:
        """All other jobs."""
        return [job for part in self.parts if not isinstance(part, JobGrid) for job in part]

    def by_kind(self) -> "dict[str, Jobs]":
        """Group the jobs by the kind of their stage."""
        found: dict[str, list[Sequence[Job]]] = {}
        for part in self.parts:
            if isinstance(part, JobGrid):
                found.setdefault(part.stage.kind, []).append(part)
                continue
            lists: dict[str, list[Job]] = {}
            for job in part:
                lists.setdefault(job.task.stage.kind, []).append(job)
            for kind, jobs in lists.items():
                found.setdefault(kind, []).append(jobs)
        return {kind: Jobs(*parts) for kind, parts in found.items()}

    def __add__(self, more: Sequence[Job]) -> "Jobs":
        return Jobs(self, more)

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __iter__(self) -> Iterator[Job]:
        for part in self.parts:
            yield from part

    def _at(self, place: int) -> Job:
        for part in self.parts:
            if place < len(part):
                break
            place -= len(part)
        return part[place]
