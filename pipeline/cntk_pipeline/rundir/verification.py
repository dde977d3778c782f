"""Which tiles of a run are done: what lies on disk, held against the receipts."""

import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from cntk_pipeline.errors import CorruptTile
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.storage import Listed, StorePath
from cntk_pipeline.storage.tiled_array import TiledArray
from cntk_pipeline.tasks import Chunk, Receipt, Task

_SWEEP_TASKS = 64
"""From so many tasks on, listing whole arrays is faster than asking for each chunk, and much so in a bucket."""

_TASKS_A_TURN = 64
"""Tasks that a thread takes at once."""

_T = TypeVar("_T")
_R = TypeVar("_R")


class Chunks:
    """What chunks there are, and how large: from one sweep an array where many are asked about.

    Parameters
    ----------
    tasks : about whose chunks it will be asked.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._sweeps = len(tasks) >= _SWEEP_TASKS
        self._listings: dict[StorePath, dict[str, Listed]] = {}

    def size(self, array: TiledArray, index: tuple[int, ...]) -> int | None:
        """Return the bytes of a chunk; None where there is none."""
        if not self._sweeps:
            return array.chunk_path(*index).size()
        if array.path not in self._listings:
            self._listings[array.path] = (array.path / "c").listing()
        listed = self._listings[array.path].get("/".join(map(str, index)))
        return None if listed is None else listed.bytes


def finished(run: RunDirectory, tasks: Iterable[Task], *, verify: bool = False) -> tuple[set[Task], list[Task]]:
    """Find out which tasks are done; adopt whole tiles without a receipt, set bad ones aside.

    What was deleted on purpose is neither done nor bad.

    Parameters
    ----------
    run : whose tasks they are.
    tasks : the tasks asked about; the arrays that they write exist.
    verify : read every chunk and compare its digest, not only its size and the checksum that it carries.

    Returns
    -------
    done : the finished tasks. Receipts of adopted tiles are written to the journal.
    quarantined : tasks whose chunks were moved to quarantine.
    """
    tasks = list(tasks)
    if not tasks:
        return set(), []
    known, chunks = {receipt.task: receipt for receipt in run.journal.receipts()}, Chunks(tasks)
    deleted = spent(run, tasks, chunks)
    done: set[Task] = set()
    adopted: list[Receipt] = []
    bad: list[Task] = []
    claimed: dict[Task, list[tuple[TiledArray, tuple[int, ...], Chunk]]] = {}
    for task in tasks:
        if task in deleted:
            continue
        places = run.arrays_of(task)
        sizes = [chunks.size(array, index) for array, index in places]
        receipt = known.get(task)
        if receipt is None and None in sizes:
            continue
        if sizes.count(None) == len(sizes) and _is_released(run, task):
            continue
        if receipt is not None:
            if sizes == [chunk.bytes for chunk in receipt.chunks]:
                claimed[task] = [(*place, chunk) for place, chunk in zip(places, receipt.chunks, strict=True)]
            else:
                bad.append(task)
            continue
        try:
            found = tuple(array.describe(index) for array, index in places)
        except CorruptTile:
            bad.append(task)
        else:
            adopted.append(Receipt(task, found, host=socket.gethostname(), adopted=True))
    # Whole chunks are read one after the other: some at once may be more than the memory of a login node.
    at_once = 1 if verify else run.path.at_once
    answers = _ask(lambda written: _match(written, verify), list(claimed.values()), at_once)
    for task, matches in zip(claimed, answers, strict=True):
        if matches:
            done.add(task)
        else:
            bad.append(task)
    for task in bad:
        run.quarantine(task)
    if adopted:
        run.journal.append(adopted)
    return done | {receipt.task for receipt in adopted}, sorted(bad)


def spent(run: RunDirectory, tasks: Iterable[Task], chunks: Chunks | None = None) -> set[Task]:
    """Pick the tasks whose chunks were used and deleted: bulks of split tiles, and what past iterations made."""
    found, known = set(), {}
    tasks = list(tasks)
    chunks = chunks or Chunks(tasks)
    for task in tasks:
        stage, _, solve = task.stage.partition(":")
        if stage == "bulk" and chunks.size(run.solved(solve, "partial"), (task.row, task.col)) is None:
            found.add(task)
        if stage not in ("sketch", "basis", "product", "step"):
            continue
        if solve not in known:
            known[solve] = run.iterations(solve)
        iterations = known[solve]
        if iterations is not None:
            first = iterations.first
            kept = {"product": max(iterations.last, first), "step": max(iterations.last - 1, first)}
            if iterations.finished or task.row < kept.get(stage, 0):
                found.add(task)
    return found


def _is_released(run: RunDirectory, task: Task) -> bool:
    """Tell whether what a task wrote was deleted on purpose once it had served."""
    stage, _, solve = task.stage.partition(":")
    return stage == "factor" and (run.solve_path(solve) / "released.json").exists()


def _match(written: Sequence[tuple[TiledArray, tuple[int, ...], Chunk]], verify: bool) -> bool:
    """Tell whether chunks of the right size are what was written: by the checksum they carry, or by all they hold."""
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
