"""A watch on a run, from the run directory alone, and from any machine that sees it."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from cntk_pipeline.cli.console import escape, out, printable
from cntk_pipeline.cli.display import stages_table
from cntk_pipeline.cli.streams import nobody_reads
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.units import seconds_text
from cntk_pipeline.workflow.report import RunReport, make_report
from cntk_pipeline.workflow.whereabouts import Whereabouts, whereabouts

LOOK_SECONDS, LOOK_SHARE = 1.0, 0.1
"""Pause between two looks; longer where looking itself takes long, so that it costs a tenth of the time at most."""

ASK_SECONDS = 5.0
"""Pause between two questions to the cluster, to spare it."""

IDLE_SECONDS = 30.0
"""Time without a sign of a driver after which a run counts as ended; gaps between jobs that follow are shorter."""

RATE_SECONDS = 120.0
"""Time over which the rate is measured."""


@dataclass(frozen=True)
class Look:
    """The state of a run at one moment.

    Attributes
    ----------
    report : of the run directory.
    where : the whereabouts of the driver.
    at_work : whether the driver has shown a sign of life since the last look.
    tiles_per_second : of the stage at work, None until two looks differ.
    """

    report: RunReport
    where: Whereabouts
    at_work: bool
    tiles_per_second: float | None

    @property
    def seconds_left(self) -> float | None:
        """Time until the stage is done, at the measured rate."""
        at_work = self.report.at_work
        if at_work is None or not self.tiles_per_second:
            return None
        _, done, total = at_work
        return (total - done) / self.tiles_per_second


class Watcher:
    """A watch on a run; its rate comes from the changes between looks, so only this machine's clock is read."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._counts: deque[tuple[float, str, int]] = deque()
        self._lease: list[tuple[str, Any]] | None = None
        self._where: Whereabouts | None = None
        self._asked = 0.0
        self._last_sign = time.monotonic()

    def look(self) -> Look:
        """Look once."""
        report = make_report(self._run)
        at_work = self._has_moved()
        now = time.monotonic()
        if self._where is None or now - self._asked > ASK_SECONDS:
            self._where, self._asked = whereabouts(self._run), now
        if at_work or self._where.awaited:
            self._last_sign = now
        return Look(report, self._where, at_work, self._rate(report, now))

    @property
    def idle_seconds(self) -> float:
        """Time without any sign of a driver, present or awaited."""
        return time.monotonic() - self._last_sign

    def _has_moved(self) -> bool:
        """Tell whether the lease was renewed since the last look."""
        lease = [(path.name, path.version()) for path in self._run.lease_path.children()]
        before, self._lease = self._lease, lease
        return before is not None and lease != before

    def _rate(self, report: RunReport, now: float) -> float | None:
        if report.at_work is None:
            return None
        stage, done, _ = report.at_work
        counts = self._counts
        counts.append((now, stage, done))
        while counts[0][1] != stage or (now - counts[0][0] > RATE_SECONDS and len(counts) > 2):
            counts.popleft()
        then, _, before = counts[0]
        return (done - before) / (now - then) if done > before else None


def watch(run: RunDirectory) -> RunReport:
    """Show a run until it is complete, or no driver has given a sign of life for a while; return the last report.

    The watch also ends when its output has no reader any more.

    On a terminal it shows a table that redraws itself, elsewhere a line for each change.
    """
    watcher = Watcher(run)
    if out.is_terminal:
        with Live(console=out, auto_refresh=False) as live:
            return _follow(watcher, lambda look: live.update(_table(look), refresh=True))
    shown = ""

    def say(look: Look) -> None:
        nonlocal shown
        if (line := _line(look)) != shown:
            shown = line
            rate = _pace(look)
            out.print(escape(f"{time.strftime('%H:%M:%S')} {line}{', ' + rate if rate else ''}"))

    return _follow(watcher, say)


def _follow(watcher: Watcher, show: Callable[[Look], None]) -> RunReport:
    while True:
        began = time.monotonic()
        look = watcher.look()
        show(look)
        left_alone = look.where.ending and not look.where.awaited and not look.at_work
        ended = look.report.complete or left_alone or watcher.idle_seconds > IDLE_SECONDS
        if ended or nobody_reads():
            return look.report
        time.sleep(max(LOOK_SECONDS, (time.monotonic() - began) / LOOK_SHARE))


def show_whereabouts(report: RunReport, where: Whereabouts) -> None:
    """Show the whereabouts of a submitted run's driver, and how the last one ended."""
    for line in _about(report, where, timed=True):
        out.print(escape(line))


def _table(look: Look) -> RenderableType:
    pace = _pace(look)
    place = [f"computing on {look.report.executor}"] if look.report.executor else []
    lines = [*([pace] if pace else []), *place, *_about(look.report, look.where, timed=True)]
    return Group(stages_table(look.report), *(Text(printable(line)) for line in lines))


def _line(look: Look) -> str:
    stages = ", ".join(f"{stage.stage} {stage.done}/{stage.total}" for stage in look.report.stages)
    return "; ".join([stages, *_about(look.report, look.where)])


def _pace(look: Look) -> str:
    at_work = look.report.at_work
    if at_work is None or look.tiles_per_second is None or look.seconds_left is None:
        return ""
    return f"{look.tiles_per_second:.3g} tiles/s, {seconds_text(look.seconds_left)} left in {at_work[0]}"


def _about(report: RunReport, where: Whereabouts, *, timed: bool = False) -> list[str]:
    """Describe the whereabouts of the driver, with ``timed`` also details that change all the time."""
    lines = []
    if where.submission is not None and not report.complete:
        said = f"{where.submission} {where.words}" if where.words else f"{where.submission} ({where.state})"
        lines.append(f"{said}, {where.timing}" if timed and where.timing else said)
    if where.stop_requested and (report.driver or where.awaited):
        lines.append("asked to stop" + (", finishing the tiles in flight" if report.driver else ""))
    if where.ending is not None and where.ending.message:
        lines.append(f"the last driver said: {where.ending.message}")
    return lines
