"""The finished tiles of a run: chunks on disk, compared with the receipts."""

import contextlib
import gc
import itertools
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from cntk_pipeline.errors import CorruptTile, StoreError
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.grids import JobGrid, Jobs
from cntk_pipeline.rundir.owners import Chunks, Job, Owner, Place
from cntk_pipeline.rundir.receipts import Receipts
from cntk_pipeline.rundir.sets import TaskSet
from cntk_pipeline.storage.tiled_array import TiledArray
from cntk_pipeline.tasks import Receipt, Stage, Task

_TASKS_A_TURN = 64
"""Number of tasks that a thread takes at once."""

_TASKS_A_BATCH = 2**12
"""Number of tasks that are looked at before their chunks are asked: some three megabytes, and 64 turns."""

_Claimed: TypeAlias = tuple[Task, list[Place], list[int]]
"""A task, its chunks, and the checksums that its receipt has of them."""

_T = TypeVar("_T")
_R = TypeVar("_R")


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Pause the search for cycles, of which a look-up makes none: of a million tiles it is a quarter of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@_without_garbage_collection()
def finished(run: RunDirectory, jobs: Sequence[Job], *, verify: bool = False) -> tuple[TaskSet, list[Task]]:
    """Find out which jobs are done; adopt whole tiles without a receipt, set bad ones aside.

    A tile that was deleted on purpose is neither done nor bad. Jobs are looked at a row of tiles at a time, so that
    ten million of them need no more memory than their set.

    Parameters
    ----------
    run : RunDirectory
        Of the jobs.
    jobs : sequence of Job
        The jobs asked about; the arrays that they write exist.
    verify : bool
        Read every chunk and compare its digest, not only its size and the checksum that it carries.

    Returns
    -------
    done : TaskSet
        The finished tasks. Receipts of adopted tiles are written to the journal.
    quarantined : list of Task
        Tasks whose chunks were moved to quarantine.
    """
    done, bad = TaskSet(), list[Task]()
    if not jobs:
        return done, bad
    known, chunks = run.journal.receipts(), Chunks(len(jobs))
    deleted = spent(run, jobs, chunks)
    for some in _batches(jobs, deleted):
        look = _look(run, some, known, chunks)
        # Of whole chunks at once, some may be more than the memory of a login node.
        matches = _verify(look.claimed, known) if verify else _match(look.claimed, run.path.at_once)
        for (task, places, _), is_whole in zip(look.claimed, matches, strict=True):
            if is_whole:
                done.add(task)
            else:
                look.bad[task] = places
        for places in look.bad.values():
            run.set_aside(array.chunk_path(*index) for array, index in places)
        if look.adopted:
            run.journal.append(look.adopted)
        for receipt in look.adopted:
            done.add(receipt.task)
        bad += look.bad
    return done, sorted(bad)


@dataclass(frozen=True)
class _Look:
    """What was found out about some jobs without a look into chunks that have receipts.

    Attributes
    ----------
    claimed : list of _Claimed
        Tasks with the chunks that their receipts name, all of the right size.
    adopted : list of Receipt
        New receipts of tasks that had none, and whose chunks are whole.
    bad : mapping of Task to list of Place
        The chunks of tasks where these are not whole.
    """

    claimed: list[_Claimed]
    adopted: list[Receipt]
    bad: dict[Task, list[Place]]


def _batches(jobs: Iterable[Job], deleted: set[Task]) -> Iterator[list[Job]]:
    """Cut jobs into lists of some thousands, without jobs whose chunks were deleted."""
    left = (job for job in jobs if job.task not in deleted) if deleted else iter(jobs)
    while some := list(itertools.islice(left, _TASKS_A_BATCH)):
        yield some


def _look(run: RunDirectory, jobs: Sequence[Job], known: Receipts, chunks: Chunks) -> _Look:
    found = _Look([], [], {})
    for job in jobs:
        task, places = job.task, job.places(run)
        sizes = [chunks.size(array, index) for array, index in places]
        receipted = known.claims_of(task)
        if receipted is None and None in sizes:
            continue
        if sizes.count(None) == len(sizes) and job.owner.is_released(run, task):
            continue
        if receipted is not None:
            if sizes == [size for size, _ in receipted]:
                found.claimed.append((task, places, [checksum for _, checksum in receipted]))
            else:
                found.bad[task] = places
            continue
        try:
            described = tuple(array.describe(index) for array, index in places)
        except CorruptTile:
            found.bad[task] = places
        else:
            found.adopted.append(Receipt(task, described, host=socket.gethostname(), adopted=True))
    return found


def with_arrays(run: RunDirectory, jobs: Sequence[Job]) -> Jobs:
    """List the jobs whose arrays exist; the others have not begun, or have lost all that they wrote."""
    known: dict[Stage, bool] = {}

    def has_arrays(job: Job) -> bool:
        if job.task.stage not in known:
            try:
                known[job.task.stage] = bool(job.places(run))
            except StoreError:
                known[job.task.stage] = False
        return known[job.task.stage]

    parts: list[Sequence[Job]] = []
    for part in Jobs(jobs).parts:
        if not isinstance(part, JobGrid):
            parts.append([job for job in part if has_arrays(job)])
        elif has_arrays(part[0]):
            parts.append(part)
    return Jobs(*parts)


def spent(run: RunDirectory, jobs: Sequence[Job], chunks: Chunks) -> set[Task]:
    """Pick the tasks whose chunks later tasks have used and deleted; none of a whole matrix are."""
    by_owner: dict[Owner, list[Task]] = {}
    for job in Jobs(jobs).listed:
        by_owner.setdefault(job.owner, []).append(job.task)
    return {task for owner, tasks in by_owner.items() for task in owner.spent(run, tasks, chunks)}


def _match(claimed: Sequence[_Claimed], at_once: int) -> Iterator[bool]:
    """Tell which tasks have chunks that carry the checksums of their receipts."""
    by_array: dict[TiledArray, list[tuple[int, ...]]] = {}
    for _, places, _ in claimed:
        for array, index in places:
            by_array.setdefault(array, []).append(index)
    # One array after the other, which has its threads to itself.
    found = {array: iter(_ask(array.checksums, indices, at_once)) for array, indices in by_array.items()}
    for _, places, checksums in claimed:
        yield [next(found[array]) for array, _ in places] == checksums


def _verify(claimed: Sequence[_Claimed], known: Receipts) -> Iterator[bool]:
    """Tell which tasks have chunks with values of the digests of their receipts, one chunk after the other."""
    for task, places, _ in claimed:
        receipt = known.get(task)
        assert receipt is not None
        try:
            yield all(
                array.describe(index).xxh3 == chunk.xxh3
                for (array, index), chunk in zip(places, receipt.chunks, strict=True)
            )
        except CorruptTile:
            yield False


def _ask(question: Callable[[Sequence[_T]], list[_R]], items: Sequence[_T], at_once: int) -> list[_R]:
    """Ask about items, some at once where that pays, and answer in their order."""
    if at_once == 1 or len(items) <= _TASKS_A_TURN:
        return question(items)
    turns = [items[begin : begin + _TASKS_A_TURN] for begin in range(0, len(items), _TASKS_A_TURN)]
    with ThreadPoolExecutor(at_once) as threads:
        return [answer for answers in threads.map(question, turns) for answer in answers]
