"""Owners of stages: each knows where the tasks of one kind of stage write, and how to compute them."""

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.sets import NumberSets
from cntk_pipeline.rundir.twins import Twins
from cntk_pipeline.storage import StorePath
from cntk_pipeline.storage.tiled_array import TiledArray
from cntk_pipeline.tasks import Receipt, Task

Place: TypeAlias = tuple[TiledArray, tuple[int, ...]]
"""An array, and the index of one of its chunks."""


_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}")

SWEEP_TASKS = 64
"""From this number of tasks on, listing whole arrays is faster than asking for each chunk, by far so in a bucket."""


class Chunks:
    """The sizes of existing chunks; one listing per array where many are asked about.

    Parameters
    ----------
    tasks : int
        Number of tasks whose chunks will be asked about.
    """

    def __init__(self, tasks: int) -> None:
        self._sweeps = tasks >= SWEEP_TASKS
        self._listings: dict[StorePath, _Listing] = {}

    def size(self, array: TiledArray, index: tuple[int, ...]) -> int | None:
        """Return the bytes of a chunk; None where there is none."""
        if not self._sweeps:
            return array.chunk_path(*index).size()
        listing = self._listings.get(array.path)
        if listing is None:
            listing = self._listings[array.path] = _Listing(array)
        return listing.size(index)


class _Listing:
    """The sizes of the chunks of an array, listed once; a bit each where they have the size of a whole chunk."""

    def __init__(self, array: TiledArray) -> None:
        self._bytes = array.chunk_bytes
        self._whole = NumberSets()
        self._others: dict[str, int] = {}
        for folder, files in itertools.groupby((array.path / "c").sizes(), lambda file: file[0].rpartition("/")[0]):
            whole: list[int] = []
            for name, size in files:
                last = name[len(folder) + 1 :] if folder else name
                if size == self._bytes and _NUMBER.fullmatch(last):
                    whole.append(int(last))
                else:
                    self._others[name] = size
            self._whole.add_all(folder, whole)

    def size(self, index: tuple[int, ...]) -> int | None:
        names = [str(k) for k in index]
        if self._whole.has("/".join(names[:-1]), index[-1]):
            return self._bytes
        return self._others.get("/".join(names)) if self._others else None


def _none(_run: RunDirectory, _tasks: Sequence[Task], _chunks: Chunks) -> set[Task]:
    return set()


def _never(_run: RunDirectory, _task: Task) -> bool:
    return False


@dataclass(frozen=True)
class Owner:
    """The owner of all stages of one kind.

    Attributes
    ----------
    kind : str
        Of the stages, as `Stage.kind` says it.
    compute : callable
        Importable; called on a worker as ``compute(run_path, task)``, returns the `Receipt`.
    places : callable
        The chunks that a task writes, in the order of its receipt. `StoreError` where an array is gone.
    spent : callable
        Picks from a list the tasks whose chunks later tasks have used and deleted.
    is_released : callable
        Whether the chunks of a task were deleted, so that it is neither done nor damaged.
    twin : callable, optional
        Finds the task of an older run whose chunks a grown run may take over instead of computing a task; None where a
        bit may differ. The chunks of both have the same names in their read-outs, or in their solves. Without a
        ``twin``, a grown run computes all tasks.
    is_nested : bool
        Whether the tiles of leading block rows are the same in a larger system with the same ``solve.tile``, so that a
        grown run prefers the tile of the older one.
    """

    kind: str
    compute: Callable[[str, Task], Receipt]
    places: Callable[[RunDirectory, Task], list[Place]]
    spent: Callable[[RunDirectory, Sequence[Task], Chunks], set[Task]] = _none
    is_released: Callable[[RunDirectory, Task], bool] = _never
    twin: Callable[[Twins, Task], Task | None] | None = None
    is_nested: bool = False


@dataclass(frozen=True)
class Job:
    """A task with all information that the driver needs to run it.

    Attributes
    ----------
    task : Task
        The tile to make.
    owner : Owner
        Of its stage.
    entries : int
        Matrix entries to compute, of graphs pairs of nodes, for the progress.
    priority : tuple of int
        Of the ready jobs, the smallest priority runs first.
    after : tuple of Task
        Tasks that must be done before it.
    only_for : Task, optional
        The one task that uses its result and deletes it; once that is done, this task need not be done.
    """

    task: Task
    owner: Owner
    entries: int
    priority: tuple[int, ...] = ()
    after: tuple[Task, ...] = ()
    only_for: Task | None = None

    def places(self, run: RunDirectory) -> list[Place]:
        """List the chunks that the task writes."""
        return self.owner.places(run, self.task)
