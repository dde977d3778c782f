"""The wrapper around every task on a worker, and around a driver: the origin of all events, for log and counters."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cntk_pipeline.clusters.table import current_job
from cntk_pipeline.errors import PipelineError
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.predictions import open_directory
from cntk_pipeline.tasks import Receipt, Task
from cntk_pipeline.telemetry import metrics
from cntk_pipeline.telemetry.events import (
    Event,
    RunLog,
    attach,
    attached,
    describe_error,
    detach,
    emit,
    listeners,
    timing,
)

LOGS_KEPT = 4
"""Number of runs whose logs a worker keeps open: so many may share a scheduler without opening a file twice."""


@dataclass(frozen=True)
class Observed:
    """The computation of a task with events for its beginning and its end.

    Attributes
    ----------
    compute : callable
        Called as ``function(run_path, task)``, returns a `Receipt`.
    """

    compute: Callable[[str, Task], Receipt]

    def __call__(self, run_path: str, task: Task) -> Receipt:
        """Compute a task on a worker. An error goes on to the driver."""
        _listen(run_path)
        emit(Event("began", task, run_path=run_path))
        try:
            receipt = self.compute(run_path, task)
        except Exception as error:
            emit(Event("failed", task, describe_error(error), run_path=run_path))
            raise
        emit(Event("finished", task, details=timing(receipt), run_path=run_path))
        return receipt


@contextlib.contextmanager
def recording(run: RunDirectory) -> Iterator[None]:
    """Log and count the events of a driver for the length of a ``with`` block; emit an event for its end."""
    metrics.install()
    with attached(_log_of(run, str(run.path.absolute()))):
        try:
            yield
        except BaseException as error:
            emit(Event("driver_ended", error=describe_error(error)))
            raise
        emit(Event("driver_ended"))


def _listen(run_path: str) -> None:
    """Attach a run's log to the events of this process, from its first task here."""
    open_logs = [handler for handler in listeners() if isinstance(handler, RunLog)]
    if any(log.run_path == run_path for log in open_logs):
        return
    metrics.install()
    with contextlib.suppress(PipelineError):  # without a run the task itself raises
        log = _log_of(open_directory(run_path), run_path)
        for old in open_logs[: max(0, len(open_logs) - LOGS_KEPT + 1)]:
            detach(old)
        attach(log)


def _log_of(run: RunDirectory, run_path: str) -> RunLog:
    return RunLog(run_path, run.path / "log", run.fingerprint, current_job())
