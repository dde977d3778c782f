"""The progress of a run on the cluster's own pages: Dask itself sees only the few tiles that it was handed."""

import time
from collections.abc import Callable

from cntk_pipeline.driver.driver import Progress
from cntk_pipeline.driver.stragglers import Clock
from cntk_pipeline.telemetry.pace import Pace, rate_text
from cntk_pipeline.telemetry.progress import RunProgress, StageProgress, merged


class Board:
    """Collects the progress of all phases, and shows it by an executor.

    Parameters
    ----------
    run : the path of the run directory.
    show : `Executor.show`.
    clock : the source of time.
    """

    def __init__(self, run: str, show: Callable[[RunProgress], None], clock: Clock = time.monotonic) -> None:
        self._run, self._show, self._clock = run, show, clock
        self._phase = ""
        self._before: tuple[StageProgress, ...] = ()
        self._now: tuple[StageProgress, ...] = ()
        self._tiles, self._entries = Pace(), Pace()

    def begin(self, phase: str) -> None:
        """Begin a phase; the stages of the phase before stay."""
        self._phase, self._before, self._now = phase, merged(self._before, self._now), ()
        self._tiles, self._entries = Pace(), Pace()

    def progress(self, progress: Progress) -> None:
        """Show a moment of the phase."""
        moment = self._clock()
        self._now = progress.stages
        self._tiles.observe(moment, progress.done)
        self._entries.observe(moment, progress.entries_done)
        left = self._entries.seconds_left(progress.entries_total - progress.entries_done)
        goes_on = progress.done < progress.total and not progress.note
        self._show(
            RunProgress(
                self._run,
                self._phase,
                progress.done,
                progress.total,
                merged(self._before, self._now),
                rate=rate_text(self._tiles.rate),
                left=progress.note or (f"{left} left" if left is not None and goes_on else ""),
            )
        )
