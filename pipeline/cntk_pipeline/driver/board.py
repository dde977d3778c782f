"""The progress of a run for the cluster's own pages: Dask itself sees only the few tiles that it was handed."""

import time

from cntk_pipeline.clusters import Executor
from cntk_pipeline.driver.driver import Progress
from cntk_pipeline.driver.stragglers import Clock
from cntk_pipeline.telemetry.pace import Pace, rate_text
from cntk_pipeline.telemetry.progress import RunProgress, StageProgress, merged


class Board:
    """Collects the progress of all phases; an executor asks for it now and then.

    Parameters
    ----------
    run : str
        The path of the run directory.
    clock : callable
        The source of time.
    """

    def __init__(self, run: str, clock: Clock = time.monotonic) -> None:
        self._run, self._clock = run, clock
        self._phase = ""
        self._before: tuple[StageProgress, ...] = ()
        self._now: Progress | None = None
        self._tiles, self._entries = Pace(), Pace()

    @classmethod
    def shown_by(cls, executor: Executor, run: str) -> "Board":
        """Make a board that an executor shows from now on; phases that run again need a new one."""
        board = cls(run)
        executor.show(board.moment)
        return board

    def begin(self, phase: str) -> None:
        """Begin a phase; the stages of the phase before stay."""
        self._before = self._stages()
        self._phase, self._now, self._tiles, self._entries = phase, None, Pace(), Pace()

    def progress(self, progress: Progress) -> None:
        """Note a moment of the phase."""
        self._now = progress
        self._observe(progress)

    def moment(self) -> RunProgress | None:
        """Return the progress of the run now; None before the first phase has begun."""
        now = self._now
        if now is None:
            return RunProgress(self._run, self._phase, 0, 0, self._before) if self._before else None
        self._observe(now)
        left = self._entries.seconds_left(now.entries_total - now.entries_done)
        goes_on = now.done < now.total and not now.note
        return RunProgress(
            self._run,
            self._phase,
            now.done,
            now.total,
            self._stages(),
            rate=rate_text(self._tiles.rate),
            left=now.note or (f"{left} left" if left is not None and goes_on else ""),
        )

    def _observe(self, progress: Progress) -> None:
        moment = self._clock()
        self._tiles.observe(moment, progress.done)
        self._entries.observe(moment, progress.entries_done)

    def _stages(self) -> tuple[StageProgress, ...]:
        return merged(self._before, () if self._now is None else self._now.stages)
