"""Courses side by side, with a driver that only remembers."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from support.problems import owner_of

from cntk_pipeline.driver.driver import Outcome, Progress
from cntk_pipeline.driver.rounds import Course, Tally, run_rounds
from cntk_pipeline.errors import NotConverged, NotPositiveDefinite
from cntk_pipeline.rundir.owners import Job
from cntk_pipeline.tasks import Receipt, Stage, Task


def work(run_path: str, task: Task) -> Receipt:
    return Receipt(task, ())


def job(name: str, number: int) -> Job:
    return Job(Task(Stage.parse(name), number, 0), owner_of(work), 1)


def course(name: str, lengths: Sequence[int], fails_at: int | None = None) -> Course:
    def rounds() -> Iterator[list[Job]]:
        number = 0
        for step, length in enumerate(lengths):
            if step == fails_at:
                raise NotConverged(f"{name} does not converge")
            yield [job(name, number + k) for k in range(length)]
            number += length

    return Course(name, rounds(), job(name, sum(lengths) - 1), (job(f"{name}-after", 0),))


class Runs:
    """Runs jobs at once; tasks in ``bad`` fail."""

    def __init__(self, bad: Sequence[Task] = ()) -> None:
        self.bad, self.calls = bad, list[list[str]]()

    def __call__(self, jobs: Sequence[Job]) -> Outcome:
        self.calls.append([str(each.task.stage) for each in jobs])
        failed: dict[Task, BaseException] = {
            each.task: NotPositiveDefinite("bad") for each in jobs if each.task in self.bad
        }
        return Outcome({each.task for each in jobs if each.task not in failed}, failed)


def silent() -> Tally:
    return Tally(lambda _: None)


def test_rounds_of_all_courses_run_together_and_what_waits_for_the_solution_with_the_last() -> None:
    run = Runs()
    outcome, finished = run_rounds([course("a", [2, 1]), course("b", [1, 1, 1])], run, silent(), str)
    assert run.calls == [["a", "a", "b"], ["a", "a-after", "b"], ["b", "b-after"]]
    assert sorted(finished) == ["a", "b"]
    assert len(outcome.done) == 8


def test_a_course_whose_task_fails_ends_alone() -> None:
    run = Runs([Task(Stage("a"), 1, 0)])
    outcome, finished = run_rounds([course("a", [1, 1, 1]), course("b", [1, 1, 1])], run, silent(), str)
    assert run.calls[2:] == [["b", "b-after"]]
    assert finished == ["b"]
    assert list(outcome.failed) == [Task(Stage("a"), 1, 0)]


def test_a_course_that_gives_up_ends_alone_and_its_solution_has_failed() -> None:
    run = Runs()
    outcome, finished = run_rounds([course("a", [1, 1], fails_at=1), course("b", [1, 1])], run, silent(), str)
    assert finished == ["b"]
    said = {task: str(error) for task, error in outcome.failed.items()}
    assert said == {Task(Stage("a"), 1, 0): "a does not converge"}


def test_a_job_that_serves_one_that_is_done_need_not_run() -> None:
    served, serving = job("a", 0), replace(job("bulk", 0), only_for=Task(Stage("a"), 0, 0))
    run = Runs()
    jobs = iter([[serving, served]])
    outcome, finished = run_rounds(
        [Course("a", jobs, served, ())], lambda jobs: run([j for j in jobs if j is not serving]), silent(), str
    )
    assert finished == ["a"]
    assert list(outcome.done) == [served.task]


def test_progress_adds_up_over_rounds_and_counts_what_is_known_to_follow() -> None:
    shown: list[Progress] = []
    tally = Tally(shown.append)

    def run(jobs: Sequence[Job]) -> Outcome:
        count = len(jobs)
        tally.progress(Progress(0, count, 0, count, 0, 0.0, 0, 0))
        tally.progress(Progress(count, count, count, count, count, 0.0, 1, 0))
        return Outcome({each.task for each in jobs})

    run_rounds([course("a", [2, 3, 1])], run, tally, lambda: "residual 1")
    # Until the round of the solution, it and what waits for it are known to follow.
    assert [(moment.done, moment.total) for moment in shown] == [(0, 4), (2, 4), (2, 7), (5, 7), (5, 7), (7, 7)]
    assert [moment.retries for moment in shown[1::2]] == [1, 2, 3]
    assert {moment.note for moment in shown} == {"residual 1"}
