"""The times of a run's phases, by the clock and inside their tasks, and so the use of the slots."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from pydantic import with_config

from cntk_pipeline.driver.driver import Progress
from cntk_pipeline.errors import SpecificationMismatch
from cntk_pipeline.models import STRICT, Seconds
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.storage.records import Record
from cntk_pipeline.telemetry import metrics
from cntk_pipeline.telemetry.events import Details, Event, emit

_FILE = "timing.json"


@with_config(STRICT)
@dataclass(frozen=True)
class PhaseTiming:
    """The times of a phase, summed over all drivers that were not killed.

    Attributes
    ----------
    stage : str
        Name of the phase; the record, the log and the metrics call it a stage.
    wall_seconds : float
        By the clock.
    slot_seconds : float
        Time by the clock, times the number of slots.
    core_seconds : float
        Inside tasks.
    """

    stage: str
    wall_seconds: Seconds = 0.0
    slot_seconds: Seconds = 0.0
    core_seconds: Seconds = 0.0

    @property
    def efficiency(self) -> float | None:
        """The share of the slots' time that was spent in tasks; None where no time passed."""
        return self.core_seconds / self.slot_seconds if self.slot_seconds > 0 and self.wall_seconds > 0 else None


@with_config(STRICT)
@dataclass(frozen=True)
class _Timings:
    stages: tuple[PhaseTiming, ...] = ()


_TIMINGS: Record[_Timings] = Record(_Timings, "delete it: only how busy the slots were is forgotten")


def read_timings(run: RunDirectory) -> tuple[PhaseTiming, ...]:
    """Read the times of a run's phases."""
    found = run.read_record(_FILE, _TIMINGS)
    return () if found is None else found.stages


class PhaseClock:
    """Measures the phases of a run, records their times, and emits events for their beginnings and ends.

    Parameters
    ----------
    run : RunDirectory
        The run of the phases.
    slots : callable
        Asked at each receipt, since workers come and go.
    """

    def __init__(self, run: RunDirectory, slots: Callable[[], int]) -> None:
        self._run, self._slots = run, slots
        self._timing: PhaseTiming | None = None
        self._last: Progress | None = None
        self._seen = 0.0

    def begin(self, phase: str) -> None:
        """Begin a phase and end the phase before it."""
        self.end()
        self._timing, self._last, self._seen = PhaseTiming(phase), None, time.monotonic()

    def progress(self, progress: Progress) -> None:
        """Count a receipt of the phase."""
        assert self._timing is not None
        slots = self._slots()
        if self._last is None:
            counts = {"done": progress.done, "total": progress.total, "slots": slots}
            emit(Event("stage_began", details={"stage": self._timing.stage, **counts}))
        self._last = progress
        self._pass_time(slots)
        if progress.receipt is not None and not progress.receipt.adopted:
            core_seconds = self._timing.core_seconds + progress.receipt.seconds
            self._timing = replace(self._timing, core_seconds=core_seconds)
        counted = metrics.install()
        if counted is not None:
            counted.show(self._timing.stage, progress.done, progress.total, slots)

    def end(self) -> None:
        """End the phase that is under way, if any; a full disk, or another run in its place, only loses its record."""
        if self._timing is None or self._last is None:
            self._timing = None
            return
        self._pass_time(self._slots())
        timing, last = self._timing, self._last
        details: Details = {
            "stage": timing.stage,
            "done": last.done,
            "total": last.total,
            "retries": last.retries,
            "quarantined": last.quarantined,
            "seconds": round(timing.wall_seconds, 3),
            "core_seconds": round(timing.core_seconds, 3),
        }
        emit(Event("stage_ended", details=details))
        self._timing = None
        if timing.core_seconds:  # otherwise nothing was left to do
            with contextlib.suppress(OSError, SpecificationMismatch):
                self._add(timing)

    def _pass_time(self, slots: int) -> None:
        assert self._timing is not None
        now = time.monotonic()
        passed, self._seen = now - self._seen, now
        self._timing = replace(
            self._timing,
            wall_seconds=self._timing.wall_seconds + passed,
            slot_seconds=self._timing.slot_seconds + passed * slots,
        )

    def _add(self, timing: PhaseTiming) -> None:
        known = {old.stage: old for old in read_timings(self._run)}
        before = known.get(timing.stage, PhaseTiming(timing.stage))
        known[timing.stage] = PhaseTiming(
            timing.stage,
            before.wall_seconds + timing.wall_seconds,
            before.slot_seconds + timing.slot_seconds,
            before.core_seconds + timing.core_seconds,
        )
        self._run.write_record(_FILE, {"stages": [asdict(stage) for stage in known.values()]})
