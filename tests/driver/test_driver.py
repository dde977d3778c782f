import errno
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dask.utils import key_split
from distributed.utils import key_split_group
from support.problems import owner_of

from cntk_pipeline.clusters import Completion, Executor
from cntk_pipeline.clusters.base import DRAIN_SECONDS
from cntk_pipeline.driver import driver as drivers
from cntk_pipeline.driver.driver import Driver, Outcome, Progress
from cntk_pipeline.errors import (
    Interrupted,
    NotPositiveDefinite,
    NotPrepared,
    RunLocked,
    StoreError,
    TilesFailed,
    WorkersLost,
)
from cntk_pipeline.rundir.journal import Journal
from cntk_pipeline.rundir.owners import Job
from cntk_pipeline.tasks import Receipt, Stage, Task

Ending = Callable[[tuple[Any, ...]], Completion]


def succeed(run_path: str, task: Task) -> Receipt:
    return Receipt(task, (), host=run_path)


class Script(Executor):
    """Ends calls in the order they came; a task's endings can be scripted, the last ones are successes."""

    def __init__(self, slots: int = 2, endings: dict[Task, list[Ending]] | None = None) -> None:
        self.slots = slots
        self.endings = endings or {}
        self.queue: deque[tuple[tuple[Any, ...], Callable[..., Any], tuple[Any, ...]]] = deque()
        self.calls: list[Task] = []
        self.ranks: dict[Task, int] = {}
        self.keys: list[tuple[Any, ...]] = []
        self.most_in_flight = 0

    def submit(self, key: tuple[Any, ...], function: Callable[..., Any], *arguments: Any, rank: int = 0) -> None:
        self.queue.append((key, function, arguments))
        self.calls.append(arguments[1])
        self.keys.append(key)
        self.ranks[arguments[1]] = rank
        self.most_in_flight = max(self.most_in_flight, len(self.queue))

    def wait(self, timeout_seconds: float) -> list[Completion]:
        if not self.queue:
            return []
        key, function, arguments = self.queue.popleft()
        scripted = self.endings.get(arguments[1], [])
        return [scripted.pop(0)(key) if scripted else Completion(key, result=function(*arguments))]

    def memory(self) -> None:
        return None

    def describe(self) -> str:
        return "scripted"


def fails(error: BaseException) -> Ending:
    return lambda key: Completion(key, error=error)


SUCCEED = owner_of(succeed)


def chain(length: int) -> list[Job]:
    tasks = [Task(Stage("train"), k, 0) for k in range(length)]
    return [Job(task, SUCCEED, 10, (k,), tuple(tasks[k - 1 : k]) if k else ()) for k, task in enumerate(tasks)]


def independent(length: int) -> list[Job]:
    return [Job(Task(Stage("train"), k, 0), SUCCEED, 10, (k,)) for k in range(length)]


@pytest.fixture
def drive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    monkeypatch.setattr(drivers, "FIRST_DELAY_SECONDS", 0.001)

    def run(
        executor: Executor,
        jobs: list[Job],
        done: set[Task] | None = None,
        stop: threading.Event | None = None,
        on_progress: Callable[[Progress], None] = lambda _: None,
    ) -> Outcome:
        journal = Journal(tmp_path / "journal")
        try:
            return Driver("RUN", executor, journal, on_progress, stop or threading.Event()).run(jobs, done or set())
        finally:
            journal.close()

    return run


def test_every_task_runs_once_and_its_receipt_is_in_the_journal(drive: Callable[..., Outcome], tmp_path: Path) -> None:
    executor = Script()
    outcome = drive(executor, independent(20))
    assert sorted(executor.calls) == sorted(outcome.done) == [job.task for job in independent(20)]
    assert {receipt.task for receipt in Journal(tmp_path / "journal").receipts()} == set(outcome.done)


def test_a_task_waits_for_what_comes_before_it(drive: Callable[..., Outcome]) -> None:
    executor = Script(slots=8)
    drive(executor, chain(5)[::-1])
    assert [task.row for task in executor.calls] == [0, 1, 2, 3, 4]
    assert executor.most_in_flight == 1


def test_the_ready_run_by_priority_in_a_window_of_some_a_slot(drive: Callable[..., Outcome]) -> None:
    executor = Script(slots=3)
    drive(executor, independent(30)[::-1])
    assert [task.row for task in executor.calls] == list(range(30))
    assert executor.most_in_flight == 3 * drivers.WINDOW_PER_SLOT


def test_ranks_tell_the_executor_what_may_pass_what_is_in_flight(drive: Callable[..., Outcome]) -> None:
    executor = Script()
    jobs = [Job(Task(Stage("train"), k, 0), SUCCEED, 10, (10 - k,)) for k in range(8)]
    drive(executor, jobs)
    assert sorted(jobs, key=lambda job: executor.ranks[job.task]) == jobs[::-1]


def test_what_is_done_is_not_run_again(drive: Callable[..., Outcome]) -> None:
    executor = Script()
    jobs = chain(4)
    done = {job.task: succeed("RUN", job.task) for job in jobs[:3]}
    outcome = drive(executor, jobs, done)
    assert executor.calls == [jobs[3].task]
    assert len(outcome.done) == 4


def test_a_transient_error_is_tried_again(drive: Callable[..., Outcome]) -> None:
    jobs = independent(3)
    executor = Script(endings={jobs[1].task: [fails(OSError(errno.EIO, "flaky")), fails(TimeoutError())]})
    moments: list[Progress] = []
    outcome = drive(executor, jobs, on_progress=moments.append)
    assert executor.calls.count(jobs[1].task) == 3
    assert not outcome.failed
    assert moments[-1].retries == 2


def test_an_error_that_lasts_gives_the_task_up_and_the_rest_goes_on(drive: Callable[..., Outcome]) -> None:
    jobs = independent(3)
    executor = Script(endings={jobs[0].task: [fails(OSError(errno.EIO, "broken"))] * 9})
    outcome = drive(executor, jobs)
    assert executor.calls.count(jobs[0].task) == drivers.MAX_ATTEMPTS
    assert len(outcome.done) == 2
    with pytest.raises(TilesFailed, match=r"(?s)1 tiles could not be computed.*train tile \(0, 0\): OSError.*broken"):
        outcome.require()


def refuses(key: tuple[Any, ...]) -> Completion:
    return Completion(key, error=NotPrepared("the worker w takes no tile: another version"))


def test_a_worker_that_takes_no_tile_costs_no_tile_of_the_others(drive: Callable[..., Outcome]) -> None:
    jobs = independent(5)
    executor = Script(endings={jobs[0].task: [refuses] * 3 * drivers.MAX_ATTEMPTS})
    outcome = drive(executor, jobs)
    assert len(outcome.done) == 5
    # Errors of the tile itself are counted apart.
    flaky = [refuses, fails(OSError(errno.EIO, "flaky"))] * (drivers.MAX_ATTEMPTS - 1)
    assert len(drive(Script(endings={jobs[0].task: flaky}), jobs).done) == 5


def test_tiles_that_every_worker_refuses_are_given_up_in_the_end(tmp_path: Path) -> None:
    executor = Silent(set())
    executor.endings = {job.task: [refuses] * 10**4 for job in independent(8)[3:]}
    outcome = drive_silent(tmp_path, executor, threading.Event(), lambda: True)
    assert len(outcome.done) == 3
    assert executor.now > drivers.REFUSED_SECONDS
    with pytest.raises(TilesFailed, match=r"5 tiles could not be computed(?s:.*)takes no tile: another version"):
        outcome.require()


def test_an_error_of_the_computation_is_not_tried_again(drive: Callable[..., Outcome]) -> None:
    jobs = chain(4)
    executor = Script(endings={jobs[1].task: [fails(NotPositiveDefinite("pivot -1 at row 7", 7, -1.0))]})
    outcome = drive(executor, jobs)
    assert executor.calls == [jobs[0].task, jobs[1].task]
    assert outcome.blocked == [jobs[2].task, jobs[3].task]
    with pytest.raises(NotPositiveDefinite, match="pivot -1 at row 7") as caught:
        outcome.require()
    assert caught.value.row == 7


def dies(key: tuple[Any, ...]) -> Completion:
    return Completion(key, error=RuntimeError("killed"), worker_died=True)


def test_a_tile_that_kills_its_worker_is_named_and_the_rest_goes_on(drive: Callable[..., Outcome]) -> None:
    jobs = independent(5)
    outcome = drive(Script(endings={jobs[2].task: [dies, dies]}), jobs)
    assert len(outcome.done) == 4
    with pytest.raises(TilesFailed, match=r"train tile \(2, 0\): KillsWorkers: its workers died.*cluster.memory_limit"):
        outcome.require()


def test_whatever_died_with_its_worker_is_heard_again_with_nothing_beside_it(drive: Callable[..., Outcome]) -> None:
    jobs = [*independent(20), Job(Task(Stage("test"), 0, 0), SUCCEED, 10, (0,), (Task(Stage("train"), 1, 0),))]
    executor = Script(slots=2, endings={jobs[k].task: [dies] for k in (1, 2)})
    in_flight: dict[Task, int] = {}
    submit = executor.submit

    def count_and_submit(key: tuple[Any, ...], *arguments: Any, rank: int = 0) -> None:
        submit(key, *arguments, rank=rank)
        in_flight[executor.calls[-1]] = len(executor.queue)

    executor.submit = count_and_submit  # type: ignore[method-assign]
    outcome = drive(executor, jobs)
    assert not outcome.failed
    assert len(outcome.done) == len(jobs)
    assert [in_flight[jobs[k].task] for k in (1, 2)] == [1, 1]
    assert executor.calls.index(jobs[-1].task) == len(executor.calls) - 2, "what waits for it goes on before the next"


def test_a_full_disk_stops_the_run_and_keeps_what_is_finished(drive: Callable[..., Outcome], tmp_path: Path) -> None:
    jobs = independent(20)
    executor = Script(endings={jobs[4].task: [fails(OSError(errno.ENOSPC, "No space left on device"))]})
    with pytest.raises(StoreError, match=r"disk of RUN is full.*free some space, then the same command again"):
        drive(executor, jobs)
    kept = {receipt.task for receipt in Journal(tmp_path / "journal").receipts()}
    assert kept == set(executor.calls) - {jobs[4].task}
    assert len(executor.calls) < 20


def test_only_a_request_to_stop_is_told_of_as_one(
    drive: Callable[..., Outcome], caplog: pytest.LogCaptureFixture
) -> None:
    jobs = independent(20)
    full = Script(endings={jobs[4].task: [fails(OSError(errno.ENOSPC, "No space left on device"))]})
    with caplog.at_level("INFO", "cntk_pipeline"), pytest.raises(StoreError):
        drive(full, jobs)
    assert "stop_requested" not in [record.cntk.name for record in caplog.records if hasattr(record, "cntk")]
    stop = threading.Event()
    with caplog.at_level("INFO", "cntk_pipeline"), pytest.raises(Interrupted):
        drive(Script(), jobs, stop=stop, on_progress=lambda progress: stop.set())
    assert "stop_requested" in [record.cntk.name for record in caplog.records if hasattr(record, "cntk")]


def test_a_lost_cluster_stops_the_run(drive: Callable[..., Outcome]) -> None:
    jobs = independent(20)
    with pytest.raises(WorkersLost, match="cluster went away"):
        drive(Script(endings={jobs[3].task: [lambda key: Completion(key, cluster_lost=True)]}), jobs)


def test_a_stopped_run_drains_what_is_in_flight(drive: Callable[..., Outcome], tmp_path: Path) -> None:
    stop = threading.Event()
    executor = Script(slots=2)

    def stop_early(progress: Progress) -> None:
        if progress.done == 3:
            stop.set()

    with pytest.raises(Interrupted):
        drive(executor, independent(20), stop=stop, on_progress=stop_early)
    kept = {receipt.task for receipt in Journal(tmp_path / "journal").receipts()}
    assert kept == set(executor.calls)
    assert len(kept) <= 3 + 2 * drivers.WINDOW_PER_SLOT


def test_progress_counts_earlier_work_apart_from_this_drivers(drive: Callable[..., Outcome]) -> None:
    jobs = independent(4)
    moments: list[Progress] = []
    drive(Script(), jobs, {jobs[0].task: succeed("RUN", jobs[0].task)}, on_progress=moments.append)
    last = moments[-1]
    assert (last.done, last.total, last.entries_done, last.entries_total, last.entries_now) == (4, 4, 40, 40, 30)


@pytest.mark.parametrize(
    ("stage", "shown"),
    [
        ("train", "kernel-train"),
        ("test_test", "kernel-test-test"),
        ("factor:0123456789abcdef", "factor"),
        ("learning_curve-01234567:0123456789abcdef", "learning_curve"),
    ],
)
def test_dask_groups_tiles_by_stage_and_shows_its_name(drive: Callable[..., Outcome], stage: str, shown: str) -> None:
    executor = Script()
    drive(executor, [Job(Task(Stage.parse(stage), k, 0), SUCCEED, 10) for k in range(5)])
    assert {key_split(key) for key in executor.keys} == {shown}
    assert len({key_split_group(key) for key in executor.keys}) == 1  # a group a task would not be queued


def test_drivers_that_share_a_scheduler_share_no_key(drive: Callable[..., Outcome]) -> None:
    executor = Script()
    for _ in range(2):
        drive(executor, independent(3))
    assert len(set(executor.keys)) == 6


class Silent(Script):
    """Never says how some tasks' first calls ended; time passes while it is waited for."""

    def __init__(self, silent: set[Task]) -> None:
        super().__init__()
        self.silent, self.now, self.forgotten = silent, 0.0, []

    def submit(self, key: tuple[Any, ...], function: Callable[..., Any], *arguments: Any, rank: int = 0) -> None:
        super().submit(key, function, *arguments, rank=rank)
        if arguments[1] in self.silent and self.calls.count(arguments[1]) == 1:
            self.queue.pop()

    def forget(self, key: tuple[Any, ...]) -> None:
        self.forgotten.append(key)

    def wait(self, timeout_seconds: float) -> list[Completion]:
        self.now += timeout_seconds
        return super().wait(timeout_seconds)


def drive_silent(tmp_path: Path, executor: Silent, stop: threading.Event, mine: Callable[[], bool]) -> Outcome:
    def require_lease() -> None:
        if not mine():
            raise RunLocked("taken over")

    journal = Journal(tmp_path / "journal")
    driver = Driver("RUN", executor, journal, lambda _: None, stop, require_lease, lambda: executor.now)
    return driver.run(independent(8), {})


def test_a_tile_of_which_nothing_is_heard_is_given_to_another_worker(tmp_path: Path) -> None:
    silent = independent(8)[3].task
    executor = Silent({silent})
    outcome = drive_silent(tmp_path, executor, threading.Event(), lambda: True)
    assert len(outcome.done) == 8
    assert executor.calls.count(silent) == 2
    assert len(executor.calls) == 9
    assert len(executor.forgotten) == 1
    assert 60 < executor.now < 70


@pytest.mark.parametrize(("heard", "least"), [(True, 3600), (False, 60)])
def test_a_tile_alone_in_its_stage_is_given_on_where_its_worker_is_not_heard_of(
    tmp_path: Path, heard: bool, least: float
) -> None:
    (job,) = independent(1)
    executor = Silent({job.task})
    if not heard:
        executor.unheard = lambda: frozenset(executor.keys)  # type: ignore[method-assign]
    driver = Driver("RUN", executor, Journal(tmp_path), lambda _: None, threading.Event(), clock=lambda: executor.now)
    outcome = driver.run([job], {})
    assert len(outcome.done) == 1
    assert least < executor.now < least + 10


@pytest.mark.parametrize("drain_seconds", [DRAIN_SECONDS, 300.0, 5.0])
def test_a_stop_does_not_wait_for_ever_for_a_tile_of_which_nothing_is_heard(
    tmp_path: Path, drain_seconds: float
) -> None:
    stop = threading.Event()
    stop.set()
    executor = Silent(set())
    with pytest.raises(Interrupted, match=r"stopped; every finished tile is kept$"):
        drive_silent(tmp_path, executor, stop, lambda: True)
    stop.clear()
    executor = Silent({independent(8)[0].task})
    executor.drain_seconds = drain_seconds
    wait = executor.wait

    def wait_and_stop(timeout_seconds: float) -> list[Completion]:
        stop.set()
        return wait(timeout_seconds)

    executor.wait = wait_and_stop  # type: ignore[method-assign]
    with pytest.raises(Interrupted, match="1 tiles under way took too long and are left"):
        drive_silent(tmp_path, executor, stop, lambda: True)
    assert drain_seconds < executor.now < drain_seconds + 2


def test_a_driver_that_lost_its_lease_stops_at_once(tmp_path: Path) -> None:
    executor = Silent(set())
    with pytest.raises(RunLocked, match="taken over"):
        drive_silent(tmp_path, executor, threading.Event(), lambda: executor.now < 0.5)
    assert 2 <= len(list(Journal(tmp_path / "journal").receipts())) < 8
