"""Runs several courses of jobs side by side, where the next jobs depend on earlier results.

The rounds of all courses go to the driver together, so that one system's single task does not leave the others'
workers idle. A course that fails ends alone.
"""

import time
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, replace

from cntk_pipeline.driver.driver import Outcome, Progress
from cntk_pipeline.errors import NotConverged
from cntk_pipeline.rundir.owners import Job
from cntk_pipeline.tasks import Task
from cntk_pipeline.telemetry.progress import merged


@dataclass(frozen=True)
class Course:
    """The jobs of one system, in rounds.

    Attributes
    ----------
    name : str
        Of the system.
    rounds : iterator of list of Job
        Lists of jobs; each is asked for when the list before is done.
    solution : Job
        The job, in the last round, that the ``closing`` jobs wait for.
    closing : sequence of Job
        Jobs that end the course; they run with that round.
    """

    name: str
    rounds: Iterator[list[Job]]
    solution: Job
    closing: Sequence[Job]


class Tally:
    """The progress of one stage as the sum of its rounds.

    Parameters
    ----------
    show : callable
        Receives the sums.
    """

    def __init__(self, show: Callable[[Progress], None]) -> None:
        self._show = show
        self._began = time.monotonic()
        self._before = self._now = Progress(0, 0, 0, 0, 0, 0.0, 0, 0)
        self._later, self._note = 0, ""

    def begin_round(self, later: int, note: str) -> None:
        """Add the last shown progress to the finished rounds; ``later`` tasks are known to follow this round."""
        self._before, self._later, self._note = self._now, later, note

    def progress(self, progress: Progress) -> None:
        """Show a moment of the round under way together with the rounds before it."""
        before = self._before
        self._now = replace(
            progress,
            done=before.done + progress.done,
            total=before.done + progress.total,
            entries_done=before.entries_done + progress.entries_done,
            entries_total=before.entries_done + progress.entries_total,
            entries_now=before.entries_now + progress.entries_now,
            elapsed_seconds=time.monotonic() - self._began,
            retries=before.retries + progress.retries,
            quarantined=before.quarantined + progress.quarantined,
            note=self._note,
            stages=merged(tuple(replace(each, total=each.done) for each in before.stages), progress.stages),
        )
        self._show(replace(self._now, total=self._now.total + self._later))


def run_rounds(
    courses: Sequence[Course], run_jobs: Callable[[Sequence[Job]], Outcome], tally: Tally, note: Callable[[], str]
) -> tuple[Outcome, list[str]]:
    """Run all courses to their ends, a round of each at a time.

    Parameters
    ----------
    run_jobs : callable
        Runs a list of jobs and returns their outcome.
    tally : Tally
        Sums up the progress of the rounds.
    note : callable
        Called before each round; returns additional text to show, on the convergence of iterations.

    Returns
    -------
    outcome : Outcome
        Of all jobs; an error of a course itself counts as an error of its solution.
    finished : list of str
        Names of the courses whose jobs are all done.
    """
    total, finished, under_way = Outcome(), [], list(courses)
    solutions_ahead = {course.name for course in courses}
    while under_way:
        jobs: dict[str, list[Job]] = {}
        for course in under_way:
            try:
                following = next(course.rounds, None)
            except NotConverged as error:
                total.failed[course.solution.task] = error
                continue
            if following is None:
                finished.append(course.name)
                continue
            jobs[course.name] = following
            if any(job.task == course.solution.task for job in following):
                jobs[course.name] = [*following, *course.closing]
                solutions_ahead.discard(course.name)
        under_way = [course for course in under_way if course.name in jobs]
        if not under_way:
            break
        tally.begin_round(sum(1 + len(c.closing) for c in under_way if c.name in solutions_ahead), note())
        outcome = run_jobs([job for name in jobs for job in jobs[name]])
        total.done |= outcome.done
        total.failed.update(outcome.failed)
        total.blocked += outcome.blocked
        done = outcome.done
        under_way = [course for course in under_way if _is_whole(jobs[course.name], done)]
    return total, finished


def _is_whole(jobs: Sequence[Job], done: Container[Task]) -> bool:
    """Tell whether all jobs are done; a job that serves only one other need not be done if that other is done."""
    return all(job.task in done for job in jobs if job.only_for is None)
