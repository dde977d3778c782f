"""The finished tiles of a run: chunks on disk, compared with the receipts."""

import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from cntk_pipeline.errors import CorruptTile, StoreError
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.owners import Chunks, Job, Owner, Place
from cntk_pipeline.storage.tiled_array import TiledArray
from cntk_pipeline.tasks import Chunk, Receipt, Stage, Task

_TASKS_A_TURN = 64
"""Number of tasks that a thread takes at once."""

_T = TypeVar("_T")
_R = TypeVar("_R")


def finished(run: RunDirectory, jobs: Iterable[Job], *, verify: bool = False) -> tuple[set[Task], list[Task]]:
    """Find out which jobs are done; adopt whole tiles without a receipt, set bad ones aside.

    A tile that was deleted on purpose is neither done nor bad.

    Parameters
    ----------
    run : of the jobs.
    jobs : the jobs asked about; the arrays that they write exist.
    verify : read every chunk and compare its digest, not only its size and the checksum that it carries.

    Returns
    -------
    done : the finished tasks. Receipts of adopted tiles are written to the journal.
    quarantined : tasks whose chunks were moved to quarantine.
    """
    jobs = list(jobs)
    if not jobs:
        return set(), []
    known, chunks = {receipt.task: receipt for receipt in run.journal.receipts()}, Chunks(len(jobs))
    deleted = spent(run, jobs, chunks)
    done: set[Task] = set()
    adopted: list[Receipt] = []
    bad: dict[Task, list[Place]] = {}
    claimed: dict[Task, list[tuple[TiledArray, tuple[int, ...], Chunk]]] = {}
    for job in jobs:
        task = job.task
        if task in deleted:
            continue
        places = job.places(run)
        sizes = [chunks.size(array, index) for array, index in places]
        receipt = known.get(task)
        if receipt is None and None in sizes:
            continue
        if sizes.count(None) == len(sizes) and job.owner.is_released(run, task):
            continue
        if receipt is not None:
            if sizes == [chunk.bytes for chunk in receipt.chunks]:
                claimed[task] = [(*place, chunk) for place, chunk in zip(places, receipt.chunks, strict=True)]
            else:
                bad[task] = places
            continue
        try:
            found = tuple(array.describe(index) for array, index in places)
        except CorruptTile:
            bad[task] = places
        else:
            adopted.append(Receipt(task, found, host=socket.gethostname(), adopted=True))
    # Whole chunks are read one after the other: some at once may be more than the memory of a login node.
    at_once = 1 if verify else run.path.at_once
    answers = _ask(lambda written: _match(written, verify), list(claimed.values()), at_once)
    for (task, written), matches in zip(claimed.items(), answers, strict=True):
        if matches:
            done.add(task)
        else:
            bad[task] = [(array, index) for array, index, _ in written]
    for places in bad.values():
        run.set_aside(array.chunk_path(*index) for array, index in places)
    if adopted:
        run.journal.append(adopted)
    return done | {receipt.task for receipt in adopted}, sorted(bad)


def with_arrays(run: RunDirectory, jobs: Iterable[Job]) -> list[Job]:
    """List the jobs whose arrays exist; the others have not begun, or have lost all that they wrote."""
    jobs = list(jobs)
    known: dict[Stage, bool] = {}
    for job in jobs:
        if job.task.stage not in known:
            try:
                known[job.task.stage] = bool(job.places(run))
            except StoreError:
                known[job.task.stage] = False
    return [job for job in jobs if known[job.task.stage]]


def spent(run: RunDirectory, jobs: Iterable[Job], chunks: Chunks) -> set[Task]:
    """Pick the tasks whose chunks later tasks have used and deleted."""
    by_owner: dict[Owner, list[Task]] = {}
    for job in jobs:
        by_owner.setdefault(job.owner, []).append(job.task)
    return {task for owner, tasks in by_owner.items() for task in owner.spent(run, tasks, chunks)}


def _match(written: Sequence[tuple[TiledArray, tuple[int, ...], Chunk]], verify: bool) -> bool:
    """Tell whether chunks of the right size are intact: by the checksum they carry, or by a digest of their values."""
    try:
        return all(
            array.describe(index).xxh3 == chunk.xxh3 if verify else array.checksum(index) == chunk.crc32c
            for array, index, chunk in written
        )
    except CorruptTile:
        return False


def _ask(question: Callable[[_T], _R], items: Sequence[_T], at_once: int) -> Iterator[_R]:
    """Ask about items, some at once where that pays, and answer in their order."""
    if at_once == 1 or len(items) <= _TASKS_A_TURN:
        yield from map(question, items)
        return
    turns = [items[begin : begin + _TASKS_A_TURN] for begin in range(0, len(items), _TASKS_A_TURN)]
    with ThreadPoolExecutor(at_once) as threads:
        for answers in threads.map(lambda turn: [question(item) for item in turn], turns):
            yield from answers
