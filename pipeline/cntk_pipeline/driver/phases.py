"""The phases of a run, each of some stages: done tiles are looked up or taken over, the driver computes the rest."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from cntk_pipeline.clusters import Executor
from cntk_pipeline.clusters.table import cluster_of
from cntk_pipeline.config import ClusterConfig
from cntk_pipeline.config.loopback import is_loopback
from cntk_pipeline.driver.board import Board
from cntk_pipeline.driver.driver import Driver, Outcome, Progress
from cntk_pipeline.driver.observed import recording
from cntk_pipeline.driver.rounds import Course, Tally, run_rounds
from cntk_pipeline.driver.timing import PhaseClock
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.grids import Jobs
from cntk_pipeline.rundir.lease import Lease
from cntk_pipeline.rundir.owners import Job
from cntk_pipeline.rundir.sets import TaskSet
from cntk_pipeline.rundir.takeover import take_over
from cntk_pipeline.rundir.verification import finished
from cntk_pipeline.telemetry.events import Event, emit
from cntk_pipeline.telemetry.metrics import served as metrics_served


class View(Protocol):
    """The interface of a view, which shows a run to people."""

    def say(self, text: str) -> None:
        """Show a line."""

    def begin(self, phase: str) -> None:
        """Show that a phase begins."""

    def progress(self, progress: Progress) -> None:
        """Show the progress of the phase."""


@dataclass(frozen=True)
class Phases:
    """Runs phases of one run directory, one after the other.

    Attributes
    ----------
    run : RunDirectory
        Where jobs read and write.
    executor : Executor
        Where they run.
    view : View
        Shows the progress.
    clock : PhaseClock
        Measures phases.
    board : Board
        Collects the progress for the cluster's own pages.
    stop : threading.Event
        Set it to let tiles in flight finish, then `Interrupted` is raised.
    verify : bool
        Read every finished chunk and compare its checksums, not only its size.
    lease : Lease
        Of the driver at work.
    source : str or None
        The older run that finished tiles are taken over from; None for none.
    """

    run: RunDirectory
    executor: Executor
    view: View
    clock: PhaseClock
    board: Board
    stop: threading.Event
    verify: bool
    lease: Lease
    source: str | None

    def run_jobs(self, phase: str, jobs: Sequence[Job], done: TaskSet | None = None) -> Outcome:
        """Run the jobs of a phase that are not ``done``, as `look_up` finds it; errors as in `Driver.run`."""
        done = self.look_up(jobs) if done is None else done
        self._begin(phase)
        return self._driver(self._progress).run(jobs, done)

    def run_courses(self, phase: str, courses: Sequence[Course], note: Callable[[], str]) -> tuple[Outcome, list[str]]:
        """Run courses side by side to their ends, as `run_rounds` does; finished jobs are looked up round by round."""
        tally = Tally(self._progress)
        driver = self._driver(tally.progress)
        self._begin(phase)
        return run_rounds(courses, lambda jobs: driver.run(jobs, self.look_up(jobs)), tally, note)

    def take_over(self, jobs: Sequence[Job]) -> None:
        """Take over the finished tiles of some jobs from the older run, where this one grows from another."""
        if self.source is not None:
            take_over(self.run, self.source, jobs, self.view.say)

    def mending(self, passes: int, attempt: Callable[["Phases"], Sequence[Outcome]]) -> Sequence[Outcome]:
        """Go through all phases; where a tile turns out to be damaged, check all tiles and compute bad ones again.

        Parameters
        ----------
        passes : int
            At most, the first one included.
        attempt : callable
            Goes once through the phases that it is given, and returns what came of those that may meet damaged tiles.

        Returns
        -------
        sequence of Outcome
            Of the last pass; it may still have met a damaged tile.
        """
        outcomes = attempt(self)
        damaged = [error for outcome in outcomes for error in outcome.damaged]
        if not damaged or passes == 1:
            return outcomes
        self.view.say(f"damaged tile: {damaged[0]}; checking all tiles and computing bad ones again")
        # Counts begin again, on a board of their own.
        checking = replace(self, verify=True, board=Board.shown_by(self.executor, str(self.run.path)))
        return checking.mending(passes - 1, attempt)

    def _begin(self, phase: str) -> None:
        self.clock.begin(phase)
        self.board.begin(phase)
        self.view.begin(phase)

    def _progress(self, progress: Progress) -> None:
        self.clock.progress(progress)
        self.board.progress(progress)
        self.view.progress(progress)

    def _driver(self, on_progress: Callable[[Progress], None]) -> Driver:
        path = str(self.run.path.absolute())
        return Driver(path, self.executor, self.run.journal, on_progress, self.stop, self.lease.require)

    def look_up(self, jobs: Sequence[Job]) -> TaskSet:
        """Find the jobs that are done, and report damaged ones."""
        every = Jobs(jobs)
        listed = every.listed
        lasting = Jobs(*every.grids, [job for job in listed if job.only_for is None])
        self.take_over(lasting)
        done, quarantined = finished(self.run, lasting, verify=self.verify)
        # Chunks that served only tasks that are done were deleted.
        serving = [job for job in listed if job.only_for is not None and job.only_for not in done]
        served, damaged = finished(self.run, serving, verify=self.verify)
        for task in quarantined + damaged:
            self.view.say(f"{task} was damaged on disk: moved to quarantine, computed again")
        done |= served
        return done


@contextlib.contextmanager
def working(
    run: RunDirectory,
    cluster: ClusterConfig,
    prepare: Callable[[], None],
    view: View,
    stop: threading.Event,
    lease: Lease,
    *,
    verify: bool = False,
    source: str | None = None,
) -> Iterator[Phases]:
    """Start or reach a cluster for the length of a ``with`` block, say so, and yield the phases that it computes.

    Parameters
    ----------
    run, view, stop, lease, verify, source
        As of `Phases`.
    cluster : ClusterConfig
        The ``[cluster]`` table.
    prepare : callable
        Called in each process that computes, before its first tile.
    """
    kind = cluster_of(cluster)
    view.say(kind.preparation)
    with (
        recording(run),
        metrics_served(cluster.metrics) as metrics_address,
        kind.executor(cluster, prepare, stop) as executor,
        executor.watched(),
    ):
        view.say(f"computing on {executor.describe()}")
        for line in (*executor.warnings, *run.root.shortcomings()):
            view.say(f"warning: {line}")
        emit(Event("driver_started", details={"executor": executor.describe(), "slots": executor.slots}))
        if metrics_address is not None:
            view.say(f"metrics of the driver at {metrics_address}")
            if not is_loopback((cluster.metrics or "").rpartition(":")[0]):
                view.say("warning: all who reach this host can read cluster.metrics; 127.0.0.1 keeps them to it")
        clock = PhaseClock(run, lambda: executor.slots)
        board = Board.shown_by(executor, str(run.path))
        try:
            yield Phases(run, executor, view, clock, board, stop, verify, lease, source)
        finally:
            clock.end()
            run.journal.close()
