"""A cluster under a virtual clock that drives the real driver, and does to it whatever a seed says.

Everything that happens, happens in `World`: a store in memory, a clock, and what is still to come. A `Cluster` is an
executor in it. Workers of a driver that crashed may live on and write.
"""

import heapq
import itertools
import random
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cntk_pipeline.clusters import Completion, Executor
from cntk_pipeline.driver import driver as drivers
from cntk_pipeline.driver.driver import Driver, Outcome
from cntk_pipeline.errors import Interrupted, KillsWorkers, RunLocked, WorkersLost
from cntk_pipeline.gram.tiles import list_kernel_jobs
from cntk_pipeline.rundir.journal import Journal
from cntk_pipeline.rundir.owners import Job
from cntk_pipeline.solvers.cholesky import list_factor_jobs
from cntk_pipeline.storage.base import Listed
from cntk_pipeline.tasks import Receipt, Task
from cntk_pipeline.tiling import Cut

ALLOWED_DEATHS = 3
"""How often Dask gives a call to another worker after one died with it."""

FATES = ("error", "dies", "dies_written", "lost", "twice", "freezes")
LATE_SECONDS = 20.0
"""How late the driver may wake where nothing happens."""

SESSIONS = 12
"""Drivers that meet faults; whatever is left then is done by one that meets none."""


class DriverCrash(BaseException):
    """The driver's process ends here; nothing of it may catch this."""


def job_lists() -> list[list[Job]]:
    """Return the package's own task graphs: kernel tiles, a factorisation, and one with split tiles."""
    kernel = list_kernel_jobs(Cut(70, 16), Cut(20, 16))
    whole = list_factor_jobs(Cut(70, 12), "0" * 16, 3)
    split = list_factor_jobs(Cut(512 * 6, 512), "1" * 16, 3, slots=4)
    assert any(job.only_for for job in split)
    return [kernel, whole, split]


class Folder:
    """A journal's folder in memory; what is in a file is there whole, and what was torn is torn."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def __truediv__(self, name: str) -> "File":
        return File(self.files, name)

    def children(self) -> list["File"]:
        return [File(self.files, name) for name in sorted(self.files)]

    def listing(self) -> dict[str, Listed]:
        return {name: Listed(len(content), (len(content),)) for name, content in self.files.items()}


@dataclass
class File:
    """A file of a `Folder`, and its appender."""

    files: dict[str, bytes]
    name: str
    is_full = False

    def appender(self, durable: bool) -> "File":
        if self.name in self.files:
            raise FileExistsError(self.name)
        self.files[self.name] = b""
        return self

    def append(self, lines: bytes) -> None:
        self.files[self.name] += lines

    def read_from(self, offset: int, limit: int | None = None) -> bytes:
        return self.files[self.name][offset : None if limit is None else offset + limit]

    def close(self) -> None:
        pass


@dataclass
class World:
    """What there is beside drivers.

    Attributes
    ----------
    rng : random.Random
        Decides everything that happens.
    jobs : mapping of Task to Job
        Of the run.
    now : float
        In seconds.
    tiles : mapping of Task to int
        What lies on disk: of each tile, a number that depends on all that it was computed from.
    journaled : Counter of Task
        Tasks with a whole line in the journal, as often as they have one.
    begun : Counter of Task
        How often each task was begun.
    faults : Counter of str
        What was done.
    """

    rng: random.Random
    jobs: dict[Task, Job]
    now: float = 0.0
    tiles: dict[Task, int] = field(default_factory=dict)
    journaled: Counter[Task] = field(default_factory=Counter)
    begun: Counter[Task] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    coming: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    folder: Folder = field(default_factory=Folder)
    _serial: Any = field(default_factory=itertools.count)

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self.coming, (self.now + seconds, next(self._serial), action))

    def advance(self, until: float, enough: Callable[[], bool]) -> None:
        """Let happen what comes until a time, or until there is enough of it."""
        while not enough() and self.coming and self.coming[0][0] <= until:
            self.now, _, action = heapq.heappop(self.coming)
            action()
        if not enough():
            self.now = max(self.now, until)

    def value(self, task: Task) -> int:
        """Compute a tile from those on disk; bulks are sums that a tile can do without."""
        before = [t for t in self.jobs[task].after if self.jobs[t].only_for is None]
        return zlib.crc32(repr((task, [self.tiles.get(t) for t in before])).encode())

    def require_inputs(self, task: Task) -> None:
        missing = [t for t in self.jobs[task].after if not self.journaled[t]]
        assert not missing, f"{task} was handed out before {missing[0]} had its receipt"

    def begin(self, task: Task) -> int:
        self.begun[task] += 1
        return self.value(task)

    def write(self, task: Task, value: int) -> None:
        self.tiles[task] = value
        for job in self.jobs.values():
            if job.only_for == task:
                self.tiles.pop(job.task, None)


@dataclass(eq=False)
class Call:
    """A call of a task, and what a worker's end has done to it."""

    key: tuple[Any, ...]
    task: Task
    rank: int
    deaths: int = 0
    fate: str = ""
    value: int = 0
    frozen_at: float | None = None
    lost: bool = False


@dataclass(eq=False)
class Worker:
    """A process: what it computes, and what it still writes."""

    calls: list[Call] = field(default_factory=list)


class Cluster(Executor):
    """Workers of which each call meets one of `FATES`, or none; one that dies takes with it what it still writes."""

    def __init__(self, world: World, slots: int, seconds: float, risk: float, poison: Task | None) -> None:
        self.slots = slots
        self._world, self._seconds, self._risk, self._poison = world, seconds, risk, poison
        self._workers = [Worker() for _ in range(slots)]
        self._idle = list(self._workers)
        self._queue: list[tuple[int, int, Call]] = []
        self._serial = itertools.count()
        self._forgotten: set[tuple[Any, ...]] = set()
        self._ended: list[Completion] = []
        self._awaited: Counter[Task] = Counter()
        self.copies = 0
        self.alive = True

    def submit(self, key: tuple[Any, ...], function: Callable[..., Any], *arguments: Any, rank: int = 0) -> None:
        self._world.require_inputs(arguments[1])
        self.copies += self._awaited[arguments[1]] > 0
        self._awaited[arguments[1]] += 1
        self._enqueue(Call(key, arguments[1], rank))

    def forget(self, key: tuple[Any, ...]) -> None:
        self._forgotten.add(key)

    def unheard(self) -> frozenset[tuple[Any, ...]]:
        calls = [call for worker in self._workers for call in worker.calls]
        return frozenset(c.key for c in calls if c.frozen_at is not None and self._world.now - c.frozen_at > 30)

    def wait(self, timeout_seconds: float) -> list[Completion]:
        # Waking late saves a hundred thousand looks at a frozen worker, and a busy machine does so too.
        timeout_seconds = max(timeout_seconds, LATE_SECONDS)
        self._world.advance(self._world.now + timeout_seconds, lambda: bool(self._ended))
        ended, self._ended = self._ended, []
        self._world.rng.shuffle(ended)
        return ended

    def memory(self) -> None:
        return None

    def describe(self) -> str:
        return "simulated"

    @property
    def working(self) -> int:
        return sum(len(worker.calls) for worker in self._workers)

    def lose(self, lingering: bool) -> None:
        """Take the workers away; calls that had begun may live on, those in the queue do not."""
        self._queue.clear()
        self.alive = lingering

    def _enqueue(self, call: Call) -> None:
        heapq.heappush(self._queue, (call.rank, next(self._serial), call))
        self._world.after(0.001, self._assign)

    def _assign(self) -> None:
        while self._idle and self._queue:
            call = heapq.heappop(self._queue)[2]
            if call.key not in self._forgotten:
                self._compute(self._idle.pop(0), call)

    def _compute(self, worker: Worker, call: Call) -> None:
        world, rng = self._world, self._world.rng
        seconds = self._seconds * rng.uniform(0.7, 1.3)
        call.fate = rng.choice(FATES) if rng.random() < self._risk else ""
        if call.task == self._poison:
            call.fate = "dies"
        if call.fate:
            world.faults[call.fate] += 1
        call.value = world.begin(call.task)
        worker.calls.append(call)
        if call.fate == "freezes":
            call.frozen_at = world.now

        def computed() -> None:
            if not self.alive or call.lost:
                return
            call.frozen_at = None
            if call.fate == "dies":
                self._die(worker)
                return
            self._idle.append(worker)  # which computes the next while this one is written
            self._assign()
            world.after(seconds / 5, written)

        def written() -> None:
            if not self.alive or call.lost:
                return
            if call.fate != "error":
                world.write(call.task, call.value)
            if call.fate == "dies_written":
                self._die(worker)
                return
            worker.calls.remove(call)
            if call.fate == "error":
                self._tell(call.task, Completion(call.key, error=OSError(5, "Input/output error")))
            elif call.fate != "lost":
                receipt = Receipt(call.task, (), compute_seconds=seconds)
                for _ in range(2 if call.fate == "twice" else 1):
                    self._tell(call.task, Completion(call.key, result=receipt))

        world.after(seconds + (10 ** rng.uniform(2, 4) if call.fate == "freezes" else 0), computed)

    def _die(self, worker: Worker) -> None:
        """Lose a worker with all that it holds, and have another in its place after a while."""
        self._world.faults["beside"] += len(worker.calls) - 1
        for call in worker.calls:
            call.lost = True
            if call.deaths == ALLOWED_DEATHS:
                self._tell(call.task, Completion(call.key, error=RuntimeError("killed"), worker_died=True))
            elif call.key not in self._forgotten:
                self._enqueue(Call(call.key, call.task, call.rank, call.deaths + 1))
        self._workers.remove(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        another = Worker()
        self._workers.append(another)

        def come() -> None:
            self._idle.append(another)
            self._assign()

        self._world.after(self._world.rng.uniform(1, 10), come)

    def _tell(self, task: Task, completion: Completion) -> None:
        def arrive() -> None:
            self._awaited[task] -= 1
            self._ended.append(completion)

        self._world.after(self._world.rng.expovariate(20), arrive)


class CrashingJournal(Journal):
    """The package's journal in a world; it may end the driver's process before, after or within a line."""

    def __init__(self, world: World, crashes_at: int) -> None:
        super().__init__(world.folder)  # type: ignore[arg-type]
        self._world, self._left = world, crashes_at

    def append(self, receipts: Sequence[Receipt]) -> None:
        self._left -= 1
        how = self._world.rng.choice(("before", "torn", "after")) if self._left == 0 else ""
        if how != "before":
            super().append(receipts)
        kept = list(receipts)
        if how == "torn":
            name = max(self._world.folder.files)
            self._world.folder.files[name] = self._world.folder.files[name][:-5]
            kept = kept[:-1]
        if how != "before":
            self._world.journaled.update(receipt.task for receipt in kept)
        if how:
            raise DriverCrash


@dataclass(frozen=True)
class Ending:
    """How a world ended.

    Attributes
    ----------
    world : World
        As it is then.
    failed : set of Task
        Tasks that the last driver gave up, and those that waited for them.
    executions, allowed : int
        Calls that were begun, and how many of them its faults excuse.
    copies : int
        Calls that drivers made of tiles that they were waiting for already.
    sessions : int
        Drivers that it took.
    poison : Task or None
        The task that killed its worker each time, if any.
    blamed : set of Task
        Tasks that any driver took out for the deaths of their workers.
    """

    world: World
    failed: set[Task]
    executions: int
    allowed: int
    copies: int
    sessions: int
    poison: Task | None
    blamed: set[Task]


def simulate(seed: int, jobs: Sequence[Job], *, faulty: bool = True) -> Ending:
    """Run some jobs to their end, with as many drivers as that takes."""
    rng = random.Random(seed)
    random.seed(seed)  # the driver's own jitter
    world = World(rng, {job.task: job for job in jobs})
    slots, seconds = rng.randint(1, 4), 10 ** rng.uniform(-1, 1.5)
    risk = rng.choice((0.0, 0.02, 0.1, 0.3)) if faulty else 0.0
    poison = rng.choice(list(jobs)).task if faulty and rng.random() < 0.1 else None
    allowed, copies, blamed = len(jobs), 0, set()
    for session in itertools.count(1):
        quiet = session > SESSIONS or not faulty
        cluster = Cluster(world, slots, seconds, 0.0 if quiet else risk, poison)
        outcome, excused = _drive(world, cluster, jobs, quiet)
        copies += cluster.copies
        allowed += excused
        if outcome is not None:
            blamed |= {task for task, error in outcome.failed.items() if isinstance(error, KillsWorkers)}
        if outcome is None or (outcome.failed and not quiet):
            assert session <= SESSIONS, "a driver without faults did not come to its end"
            continue
        failed = set(outcome.failed) | set(outcome.blocked)
        allowed += copies + sum(world.faults[fate] for fate in (*FATES, "beside") if fate != "twice")
        return Ending(world, failed, sum(world.begun.values()), allowed, copies, session, poison, blamed)
    raise AssertionError


def _drive(world: World, cluster: Cluster, jobs: Sequence[Job], quiet: bool) -> tuple[Outcome | None, int]:
    """Run a driver until it ends or is ended; return also how many calls may have to be made again after it."""
    rng, stop, mine = world.rng, threading.Event(), [True]
    journal = CrashingJournal(world, 0 if quiet else rng.choice((0, 0, rng.randint(1, 40))))
    done = _look_up(world, journal, jobs)

    def require_lease() -> None:
        if not mine[0]:
            raise RunLocked("another driver has taken over")

    driver = Driver("RUN", cluster, journal, lambda _: None, stop, require_lease, lambda: world.now)
    stopped: list[float] = []

    def request_stop() -> None:
        stopped.append(world.now)
        stop.set()

    if not quiet and rng.random() < 0.2:
        world.after(rng.expovariate(1 / 60), request_stop)
    if not quiet and rng.random() < 0.1:
        world.after(rng.expovariate(1 / 60), lambda: mine.__setitem__(0, False))
    if not quiet and rng.random() < 0.1:
        gone = ("none", 0, 0)
        world.after(rng.expovariate(1 / 60), lambda: cluster._ended.append(Completion(gone, cluster_lost=True)))
    try:
        outcome = driver.run(jobs, done)
    except (DriverCrash, Interrupted, RunLocked, WorkersLost) as error:
        if isinstance(error, Interrupted):
            assert world.now - stopped[0] <= cluster.drain_seconds + 2 * LATE_SECONDS, (
                "the drain took longer than it may"
            )
        world.faults[type(error).__name__] += 1
        cluster.lose(lingering=rng.random() < 0.5)
        return None, cluster.working + drivers.WINDOW_PER_SLOT * cluster.slots
    return outcome, 0


def _look_up(world: World, journal: CrashingJournal, jobs: Sequence[Job]) -> dict[Task, Receipt]:
    """Find out what is done, as `Stages` does: what lies on disk counts, with a receipt or without."""
    known = {receipt.task: receipt for receipt in journal.receipts()}
    assert set(known) == set(world.journaled)
    done = {}
    for job in jobs:
        if job.task in world.tiles:
            if job.task not in known:
                known[job.task] = Receipt(job.task, (), adopted=True)
                Journal.append(journal, [known[job.task]])
                world.journaled[job.task] += 1
            done[job.task] = known[job.task]
    return done
