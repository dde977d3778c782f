"""The one place around every task on a worker, and around a driver: here events begin, for the log and the counters."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cntk_pipeline.clusters.table import current_job
from cntk_pipeline.errors import PipelineError
from cntk_pipeline.rundir.directory import RunDirectory
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
"""Runs whose logs a worker keeps open: as many may share a scheduler, and no file is opened twice."""


@dataclass(frozen=True)
class Observed:
    """The computation of a task that tells when it begins, and how it ends.

    Attributes
    ----------
    compute : called as ``function(run_path, task)``, returns a `Receipt`.
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
    """Keep the events of a driver, and count them, for the length of a ``with`` block; tell how it ended."""
    metrics.install()
    with attached(_log_of(run, str(run.path.absolute()))):
        try:
            yield
        except BaseException as error:
            emit(Event("driver_ended", error=describe_error(error)))
            raise
        emit(Event("driver_ended"))


def _listen(run_path: str) -> None:
    """Let a run's log hear of what this process does for it, from its first task here."""
    open_logs = [handler for handler in listeners() if isinstance(handler, RunLog)]
    if any(log.run_path == run_path for log in open_logs):
        return
    metrics.install()
    with contextlib.suppress(PipelineError):  # without a run the task itself says so
        log = _log_of(RunDirectory(run_path), run_path)
        for old in open_logs[: max(0, len(open_logs) - LOGS_KEPT + 1)]:
            detach(old)
        attach(log)


def _log_of(run: RunDirectory, run_path: str) -> RunLog:
    return RunLog(run_path, run.path / "log", run.fingerprint, current_job())
