"""The display of a run at work: bars on a terminal and in notebooks, plain lines elsewhere."""

import importlib.util
import logging
import time
from typing import TYPE_CHECKING

from cntk_pipeline.cli.bars import Bar, draw_bars
from cntk_pipeline.cli.console import err, escape, out, redraws
from cntk_pipeline.telemetry.pace import Pace
from cntk_pipeline.units import count_text, seconds_text

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

    from cntk_pipeline.driver.driver import Progress as DriverProgress

PLAIN_SECONDS, PLAIN_SHARE, QUIET_SECONDS = 30.0, 0.05, 600.0
"""Distance of progress lines where the output is no terminal: at least half a minute and a twentieth of the stage, but
ten minutes at most. So a stage has some twenty lines, and a long one is never silent for long."""

DRAW_SECONDS = 0.25
"""Distance of two forecasts on a terminal."""


class RunView:
    """A view that shows a run by bars on a terminal, by plain lines elsewhere."""

    def __init__(self) -> None:
        self._phase = ""
        self._live: Live | None = None
        self._progress: DriverProgress | None = None
        self._entries, self._left, self._began = Pace(), "", 0.0
        self._shown, self._shown_done = 0.0, -1
        self._warnings = _Warnings(logging.WARNING)

    def __enter__(self) -> "RunView":
        logging.getLogger("cntk_pipeline.driver").addHandler(self._warnings)
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        logging.getLogger("cntk_pipeline.driver").removeHandler(self._warnings)

    def say(self, text: str) -> None:
        out.print(escape(text))

    def begin(self, phase: str) -> None:
        self._end()
        now = time.monotonic()
        self._phase, self._began, self._shown, self._shown_done = phase, now, now, -1
        self._progress, self._entries, self._left = None, Pace(), ""
        if redraws(out) or _has_widgets():
            from rich.live import Live

            self._live = Live(get_renderable=self._draw, console=out, vertical_overflow="crop")
            self._live.start()

    def progress(self, progress: "DriverProgress") -> None:
        now = time.monotonic()
        self._entries.observe(now, progress.entries_done)
        if self._live is None and not self._is_due(progress):
            return
        if self._live is None or now - self._shown >= DRAW_SECONDS or progress.done == progress.total:
            self._shown, self._shown_done, self._left = now, progress.done, self._time_left(progress)
        self._progress = progress
        if self._live is None:
            parts = [f"{self._phase}: {progress.done}/{progress.total} tiles", _rate(progress), self._left]
            out.print(", ".join(part for part in (*parts, *_troubles(progress)) if part))

    def _is_due(self, progress: "DriverProgress") -> bool:
        """Tell whether a plain line is due: at a stage's beginning, at its end, and now and then between them."""
        if self._shown_done < 0 or progress.done == progress.total:
            return True
        passed, more = time.monotonic() - self._shown, progress.done - self._shown_done
        return passed >= QUIET_SECONDS or (passed >= PLAIN_SECONDS and more >= PLAIN_SHARE * progress.total)

    def _draw(self) -> "RenderableType":
        """Draw the bars of the phase, in a thread of rich's; the screen of `cntk status --watch` draws them alike."""
        progress, passed = self._progress, seconds_text(time.monotonic() - self._began)
        if progress is None:
            return f"{self._phase}: looking at what is done, {passed} so far"
        passed = f"{passed} so far" if progress.done < progress.total else f"took {passed}"
        stages = progress.stages if len(progress.stages) > 1 else ()
        bars = [Bar(each.stage, each.done, each.total, written_bytes=each.written_bytes) for each in stages]
        left = ", ".join((*_troubles(progress), self._left or passed))
        whole = Bar(self._phase, progress.done, progress.total, _rate(progress), left, is_sum=bool(bars))
        return draw_bars([*bars, whole], out.width)

    def _time_left(self, progress: "DriverProgress") -> str:
        # The time of iterations cannot be forecast; their residual says more.
        if progress.note or progress.done == progress.total:
            return progress.note
        left = self._entries.seconds_left(progress.entries_total - progress.entries_done)
        return "" if left is None else f"{left} left"

    def _end(self) -> None:
        if self._live is not None:
            if out.is_jupyter:
                self._live.refresh()  # `stop` does so on terminals alone, and the last bar would be an older one
            self._live.stop()
            self._live = None


def _has_widgets() -> bool:
    """Tell whether this is a notebook that can show a live widget."""
    return out.is_jupyter and importlib.util.find_spec("ipywidgets") is not None


class _Warnings(logging.Handler):
    """A handler that shows the driver's warnings, one line each with its time."""

    def emit(self, record: logging.LogRecord) -> None:
        # Only the first line: an error may have a whole traceback, which the log in the run directory keeps.
        text = record.getMessage().partition("\n")[0]
        moment = time.strftime("%H:%M:%S", time.localtime(record.created))
        err.print(escape(f"{moment} {record.levelname.lower()}: {text}"))


def _rate(progress: "DriverProgress") -> str:
    if not progress.entries_now or progress.elapsed_seconds <= 0:
        return ""
    return f"{count_text(progress.entries_now / progress.elapsed_seconds)} entries/s"


def _troubles(progress: "DriverProgress") -> list[str]:
    counts = ((progress.retries, "retries"), (progress.quarantined, "quarantined"))
    return [f"{count} {word}" for count, word in counts if count]
