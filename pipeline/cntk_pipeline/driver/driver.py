"""Runs tiles on an executor until all are done or cannot be.

The driver itself keeps the state of the tiles, ready or done, which Dask would otherwise hold in worker memory. It
keeps a heap of ready tiles, a window of three per slot in flight, and writes each receipt to the journal
before it releases the tiles that waited for this one. Of a whole matrix only the next tile is in the heap: its job
is made when it is sent, and forgotten when it is done. A lost worker then costs the tiles it was computing, never their
ancestors, and a new driver goes on from the journal. A tile without a sign of life is given to another worker too;
the first receipt counts.
"""

import heapq
import itertools
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterator, MutableSet, Sequence
from dataclasses import dataclass, field
from typing import Any

from cntk_pipeline.clusters import Completion, Executor
from cntk_pipeline.driver.observed import Observed
from cntk_pipeline.driver.stragglers import Clock, Patience
from cntk_pipeline.errors import (
    CorruptTile,
    Interrupted,
    KillsWorkers,
    NotConverged,
    NotPositiveDefinite,
    NotPrepared,
    PipelineError,
    StoreError,
    TilesFailed,
    WorkersLost,
)
from cntk_pipeline.rundir.grids import Jobs
from cntk_pipeline.rundir.journal import Journal
from cntk_pipeline.rundir.owners import Job
from cntk_pipeline.rundir.sets import TaskSet
from cntk_pipeline.storage.explanations import disk_full, is_disk_full
from cntk_pipeline.tasks import Receipt, Task
from cntk_pipeline.telemetry.events import Event, describe_error, emit
from cntk_pipeline.telemetry.progress import StageProgress

WINDOW_PER_SLOT = 3
"""Tiles in flight per slot: one is written, one computes, the next is already on its worker."""

MAX_ATTEMPTS, FIRST_DELAY_SECONDS, DELAY_FACTOR = 4, 0.5, 4.0
"""Retries of a tile whose worker could not read or write: after about 0.5, 2 and 8 seconds."""

POLL_SECONDS = 0.2

LOOK_SECONDS = 1.0
"""How often the driver looks for tiles that it has waited for too long."""

REFUSED_SECONDS = 600.0
"""How long tiles are refused by workers that are not prepared, without a receipt meanwhile, before that is an error."""


@dataclass(frozen=True)
class Progress:
    """A moment of a run, for its view.

    Attributes
    ----------
    done, total : int
        Numbers of tasks; both include tasks done before this driver began.
    entries_done, entries_total : int
        Matrix entries, of a kernel of graphs pairs of nodes, likewise.
    entries_now : int
        Entries computed by this driver.
    elapsed_seconds : float
        Since this driver began.
    retries, quarantined : int
        Tiles tried again, and tiles given up because they kill their workers.
    receipt : Receipt, optional
        Of the tile that just finished.
    note : str
        Additional text for people. Where there is one, more tasks may follow than ``total`` counts.
    stages : tuple of StageProgress
        The same tasks by the kind of their stage, in the order of their jobs.
    """

    done: int
    total: int
    entries_done: int
    entries_total: int
    entries_now: int
    elapsed_seconds: float
    retries: int
    quarantined: int
    receipt: Receipt | None = None
    note: str = ""
    stages: tuple[StageProgress, ...] = ()


@dataclass(frozen=True)
class _Flight:
    """One call of a task; a task that takes too long may have several."""

    task: Task
    since: float


@dataclass
class Outcome:
    """How a batch of jobs ended.

    Attributes
    ----------
    done : MutableSet of Task
        All finished tasks, including the tasks given as done. Their receipts are in the journal.
    failed : mapping of Task to BaseException
        Errors of the tasks that could not be computed.
    blocked : list of Task
        Tasks that waited for a failed one.
    """

    done: MutableSet[Task] = field(default_factory=TaskSet)
    failed: dict[Task, BaseException] = field(default_factory=dict)
    blocked: list[Task] = field(default_factory=list)

    @property
    def damaged(self) -> list[CorruptTile]:
        """The errors of tasks that met a damaged tile."""
        return [error for error in self.failed.values() if isinstance(error, CorruptTile)]

    def require(self) -> None:
        """Raise if a task failed: `NotPositiveDefinite` or `NotConverged` if all did so, else `TilesFailed`."""
        if not self.failed:
            return
        if all(isinstance(error, NotConverged) for error in self.failed.values()):
            raise NotConverged("\n".join(map(str, self.failed.values())))
        singular = [error for error in self.failed.values() if isinstance(error, NotPositiveDefinite)]
        if len(singular) == len(self.failed):
            raise NotPositiveDefinite("\n".join(map(str, singular)), singular[0].row, singular[0].pivot)
        lines = [f"  {task}: {type(error).__name__}: {error}" for task, error in self.failed.items()]
        raise TilesFailed(
            f"{len(lines)} tiles could not be computed, {len(self.blocked)} wait for them; "
            "all others are kept, and resuming tries these again:\n" + "\n".join(lines[:10])
        )


class Driver:
    """Runs batches of jobs of one run directory.

    Parameters
    ----------
    run_path : str
        Given to every task's `Owner.compute`.
    executor : Executor
        Where jobs run.
    journal : Journal
        Where receipts go.
    on_progress : callable
        Called after each receipt.
    stop : threading.Event
        Set it to let tiles in flight finish, for the executor's ``drain_seconds``, and then raise `Interrupted`.
    require_lease : callable
        Raises where this driver does not hold the run's lease any more.
    clock : callable
        The source of time.
    """

    def __init__(
        self,
        run_path: str,
        executor: Executor,
        journal: Journal,
        on_progress: Callable[[Progress], None],
        stop: threading.Event,
        require_lease: Callable[[], None] = lambda: None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._run_path = run_path
        self._executor = executor
        self._journal = journal
        self._on_progress = on_progress
        self._stop = stop
        self._require_lease = require_lease
        self._clock = clock
        self._patience = Patience()
        # Another driver, also of another run, may share the scheduler, and results of an earlier call of `run` may
        # still come in: no key must ever be given twice.
        self._token, self._serial = uuid.uuid4().hex[:8], itertools.count()

    def _group(self, task: Task) -> str:
        """Name the group of a task for Dask: queueing goes by it, and the dashboard shows its letters as the stage."""
        stage = task.stage
        shown = stage.name if stage.solve else f"kernel-{stage.kind.replace('_', '-')}"  # words in letters only are
        return "-".join(part for part in (shown, stage.solve, self._token) if part)

    def run(self, jobs: Sequence[Job], done: Collection[Task]) -> Outcome:
        """Run all jobs that are not done.

        Raises
        ------
        Interrupted
            If ``stop`` was set. Tiles in flight were finished first, within the executor's ``drain_seconds``.
        RunLocked
            If another driver has taken over the run.
        WorkersLost
            If the cluster went away.
        StoreError
            If the store is full, gone or not writable any more, or the journal cannot be written.
        """
        return _Batch(self, jobs, done).run()


class _Batch:
    """The state of one call of `Driver.run`."""

    def __init__(self, driver: Driver, jobs: Sequence[Job], given: Collection[Task]) -> None:
        self.driver = driver
        done = given if isinstance(given, TaskSet) else TaskSet(given)
        every = Jobs(jobs)
        grids, listed = every.grids, [job for job in every.listed if job.only_for not in done]
        # Of the grids only the jobs under way are added.
        self.jobs = {job.task: job for job in listed}
        # All else may wait for a tile that becomes ready late: it overtakes tiles in flight that have not begun.
        self.ranks = {job.task: rank for rank, job in enumerate(sorted(listed, key=lambda job: job.priority))}
        self.next_rank = itertools.count(len(listed))
        self.outcome = Outcome(done.of_stages({grid.stage for grid in grids}))
        self.outcome.done |= {task for task in self.jobs if task in done}
        self.waiting_for = {
            task: {t for t in job.after if t not in self.outcome.done}
            for task, job in self.jobs.items()
            if task not in self.outcome.done
        }
        self.waited_by: dict[Task, list[Task]] = {}
        for task, others in self.waiting_for.items():
            for other in others:
                self.waited_by.setdefault(other, []).append(task)
        self.ready = [(job.priority, task) for task, job in self.jobs.items() if self.waiting_for.get(task) == set()]
        heapq.heapify(self.ready)
        self.sources: dict[Task, Iterator[Job]] = {}
        self.delayed: list[tuple[float, Task]] = []
        self.in_flight: dict[tuple[Any, ...], _Flight] = {}
        self.copies: dict[Task, list[tuple[Any, ...]]] = {}
        self.attempts: dict[Task, int] = {}
        self.refused_since: float | None = None
        # Tiles on the same worker as a tile that kills it are blamed too: each gets one more try, alone.
        self.suspects: list[Task] = []
        self.heard: set[Task] = set()
        self.retries = 0
        self.quarantined = 0
        self.entries_now = 0
        self._count(every, listed, done)
        for grid in grids:
            self._pull(grid.missing(done))
        self.began = self.looked = driver._clock()
        self.abort: PipelineError | None = None

    def _count(self, every: Jobs, listed: Sequence[Job], done: TaskSet) -> None:
        """Count the jobs and their entries, all and those that are done, of the whole and of each stage."""
        before = [job for job in listed if job.task in self.outcome.done]
        self.total, self.entries_total = len(listed), sum(job.entries for job in listed)
        self.entries_before = sum(job.entries for job in before)
        done_of = Counter(job.task.stage.kind for job in before)
        totals = Counter(job.task.stage.kind for job in listed)
        for grid in every.grids:
            count, entries = grid.count_in(done)
            self.total += len(grid)
            self.entries_before += entries
            self.entries_total += grid.total_entries()
            done_of[grid.stage.kind] += count
            totals[grid.stage.kind] += len(grid)
        order = dict.fromkeys([*(part[0].task.stage.kind for part in every.parts), *totals])
        self.stages = {kind: StageProgress(kind, done_of[kind], totals[kind]) for kind in order if kind in totals}

    def _pull(self, source: Iterator[Job]) -> None:
        """Make the next job of a grid ready, if there is one more; the job after it follows when it is sent."""
        job = next(source, None)
        if job is not None:
            self.jobs[job.task] = job
            self.sources[job.task] = source
            heapq.heappush(self.ready, (job.priority, job.task))

    def _pop(self) -> Task:
        """Take the first ready task."""
        task = heapq.heappop(self.ready)[1]
        source = self.sources.pop(task, None)
        if source is not None:
            self.ranks[task] = next(self.next_rank)
            self._pull(source)
        return task

    def run(self) -> Outcome:
        self._show(None)
        stopped: float | None = None
        while True:
            self.driver._require_lease()
            now = self.driver._clock()
            if self.abort is None and not self.driver._stop.is_set():
                self._submit(now)
                if not self.in_flight and not self.delayed:
                    break
            else:
                if stopped is None:
                    stopped = now
                    if self.abort is None:
                        emit(Event("stop_requested", details={"in_flight": len(self.in_flight)}))
                if not self.in_flight or now - stopped > self.driver._executor.drain_seconds:
                    break
            self._take(self.driver._executor.wait(POLL_SECONDS))
        if self.abort is not None:
            raise self.abort
        if stopped is not None:
            emit(Event("drained", details={"done": len(self.outcome.done), "total": self.total}))
        if stopped is not None and len(self.outcome.done) < self.total:
            left = f"; {len(self.copies)} tiles under way took too long and are left" if self.copies else ""
            raise Interrupted(f"stopped; every finished tile is kept{left}")
        done, failed = self.outcome.done, self.outcome.failed
        self.outcome.blocked = [task for task in self.jobs if task not in done and task not in failed]
        return self.outcome

    def _submit(self, now: float) -> None:
        while self.delayed and self.delayed[0][0] <= now:
            task = heapq.heappop(self.delayed)[1]
            heapq.heappush(self.ready, (self.jobs[task].priority, task))
        alone = not self.copies.keys().isdisjoint(self.heard)
        while self.ready and not alone and len(self.in_flight) < WINDOW_PER_SLOT * self.driver._executor.slots:
            self._send(self._pop(), now)
        if self.suspects and not self.in_flight and not self.delayed:
            self.heard.add(self.suspects[0])
            self._send(self.suspects.pop(0), now)
        if now - self.looked >= LOOK_SECONDS:
            self.looked = now
            unheard = self.driver._executor.unheard()
            for task, keys in list(self.copies.items()):
                waited = now - self.in_flight[keys[-1]].since
                if waited > self.driver._patience.seconds(task, len(keys), unheard=keys[-1] in unheard):
                    emit(Event("backup", task, details={"copy": len(keys) + 1, "waited_seconds": round(waited, 3)}))
                    self._send(task, now)

    def _send(self, task: Task, now: float) -> None:
        key = (self.driver._group(task), task.row, task.col, next(self.driver._serial))
        self.in_flight[key] = _Flight(task, now)
        self.copies.setdefault(task, []).append(key)
        function = Observed(self.jobs[task].owner.compute)
        self.driver._executor.submit(key, function, self.driver._run_path, task, rank=self.ranks[task])

    def _take(self, completions: Sequence[Completion]) -> None:
        receipts = [receipt for each in completions if (receipt := self._settle(each)) is not None]
        if receipts:
            self.refused_since = None
            self.driver._journal.append(receipts)
        for receipt in receipts:
            self._finish(receipt)

    def _settle(self, completion: Completion) -> Receipt | None:
        """Note how a call has ended; return the receipt of its tile where that is done by it."""
        flight = self.in_flight.pop(completion.key, None)
        if flight is None:
            return None  # the tile is done: a second receipt, or one of a worker that was given up
        task, receipt = flight.task, None
        others = self.copies[task]
        others.remove(completion.key)
        if completion.cluster_lost:
            self.abort = WorkersLost("the Dask cluster went away; finished tiles are kept, `cntk resume` goes on")
        elif completion.error is None and not completion.worker_died:
            receipt = completion.result
            if not others and task not in self.attempts:
                # The first tiles find no queue before them; later ones will.
                queued = WINDOW_PER_SLOT * receipt.seconds
                self.driver._patience.learn(task, max(self.driver._clock() - flight.since, queued))
            for key in others:
                del self.in_flight[key]
                self.driver._executor.forget(key)
            others.clear()
        elif others and not (completion.error and is_disk_full(completion.error)):
            return None  # the other call decides
        elif completion.worker_died:
            self._blame(task)
        elif completion.error is not None:
            self._fail(task, completion.error)
        if not others:
            del self.copies[task]
        return receipt

    def _finish(self, receipt: Receipt) -> None:
        job = self.jobs[receipt.task]
        task = job.task
        self.outcome.done.add(task)
        if task not in self.waiting_for:  # of a grid
            del self.jobs[task], self.ranks[task]
        self.stages[task.stage.kind] = self.stages[task.stage.kind].plus(1, 0, receipt.written_bytes)
        self.entries_now += job.entries
        for waiter in self.waited_by.get(task, []):
            self.waiting_for[waiter].discard(task)
            if not self.waiting_for[waiter]:
                heapq.heappush(self.ready, (self.jobs[waiter].priority, waiter))
        self._show(receipt)

    def _blame(self, task: Task) -> None:
        """Try a tile again whose workers died, or give it up, so that the rest can go on; the caller names it."""
        if task not in self.heard:
            self.suspects.append(task)
            self.retries += 1
            emit(Event("retry", task, details={"alone": True}))
            return
        self.quarantined += 1
        error = self.outcome.failed[task] = KillsWorkers(
            "its workers died again and again, also with nothing beside it: either for want of memory, then give them "
            "more (cluster.memory_limit) or take fewer, or by a crash, which the log of their host tells of, or by a "
            "graphics card that failed, which the log of the run tells of"
        )
        emit(Event("quarantined", task, describe_error(error)))

    def _fail(self, task: Task, error: BaseException) -> None:
        if is_disk_full(error):
            self.abort = disk_full(self.driver._run_path, None)  # of a run, or of predictions in it
            return
        if isinstance(error, NotPrepared) and self._awaits_another_worker(task):
            self._try_again(task, error, self.attempts.get(task, 0), FIRST_DELAY_SECONDS)
            return
        attempts = self.attempts[task] = self.attempts.get(task, 0) + 1
        # Also where the store refused: this worker may be the only one without permission to write there.
        transient = isinstance(error, StoreError) or (
            isinstance(error, OSError) and not isinstance(error, PipelineError)
        )
        if transient and attempts < MAX_ATTEMPTS:
            self._try_again(task, error, attempts, FIRST_DELAY_SECONDS * DELAY_FACTOR ** (attempts - 1))
        else:
            self.outcome.failed[task] = error
            emit(Event("gave_up", task, describe_error(error), {"attempt": attempts}))

    def _try_again(self, task: Task, error: BaseException, attempts: int, delay: float) -> None:
        self.retries += 1
        delay *= random.uniform(0.75, 1.25)
        heapq.heappush(self.delayed, (self.driver._clock() + delay, task))
        emit(Event("retry", task, describe_error(error), {"attempt": attempts, "delay_seconds": round(delay, 3)}))

    def _awaits_another_worker(self, task: Task) -> bool:
        """Tell whether a tile that a worker refused should wait for another one: others have finished tiles lately."""
        now = self.driver._clock()
        if self.refused_since is None:
            self.refused_since = now
        return now - self.refused_since < max(REFUSED_SECONDS, self.driver._patience.seconds(task, 1))

    def _show(self, receipt: Receipt | None) -> None:
        self.driver._on_progress(
            Progress(
                done=len(self.outcome.done),
                total=self.total,
                entries_done=self.entries_before + self.entries_now,
                entries_total=self.entries_total,
                entries_now=self.entries_now,
                elapsed_seconds=self.driver._clock() - self.began,
                retries=self.retries,
                quarantined=self.quarantined,
                receipt=receipt,
                stages=tuple(self.stages.values()),
            )
        )
