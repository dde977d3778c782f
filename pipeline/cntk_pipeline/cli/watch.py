"""A watch on a run, from the run directory alone, and from any machine that sees it."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.live import Live

from cntk_pipeline.cli.bars import Bar
from cntk_pipeline.cli.console import escape, out, redraws
from cntk_pipeline.cli.screen import Moment, draw_screen
from cntk_pipeline.cli.status import lost_line, unwritten
from cntk_pipeline.cli.streams import nobody_reads
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.telemetry.activity import Activity
from cntk_pipeline.telemetry.log_tail import LogTail
from cntk_pipeline.telemetry.pace import Pace, Range, rate_text
from cntk_pipeline.units import shell_word
from cntk_pipeline.workflow.report import RunReport, StageReport, make_report
from cntk_pipeline.workflow.whereabouts import Whereabouts, whereabouts

LOOK_SECONDS, LOOK_SHARE = 1.0, 0.1
"""Pause between two looks; longer where looking itself takes long, so that it costs a tenth of the time at most."""

ASK_SECONDS = 5.0
"""Pause between two questions to the cluster, to spare it."""

IDLE_SECONDS = 30.0
"""Time without a sign of a driver after which a run counts as ended; gaps between jobs that follow are shorter."""


@dataclass(frozen=True)
class Look:
    """The state of a run at one moment.

    Attributes
    ----------
    report : RunReport
        Of the run directory.
    where : Whereabouts
        The whereabouts of the driver.
    at_work : bool
        Whether the driver has shown a sign of life since the last look.
    paces : mapping of str to Pace
        Of the stages and phases, by their names.
    activity : Activity
        What the logs tell so far.
    """

    report: RunReport
    where: Whereabouts
    at_work: bool
    paces: dict[str, Pace]
    activity: Activity

    @property
    def tiles_per_second(self) -> float | None:
        """The rate of the phase at work; None until it is known."""
        return None if self.report.at_work is None else self.paces[self.report.at_work[0]].rate

    @property
    def seconds_left(self) -> Range | None:
        """The time until the phase at work is done; None until it is known."""
        if self.report.at_work is None:
            return None
        phase, done, total = self.report.at_work
        return self.paces[phase].seconds_left(total - done)


class Watcher:
    """A watch on a run; its rates come from the changes between looks, so only this machine's clock is read.

    Parameters
    ----------
    run : RunDirectory
        The run that is looked at.
    clock : callable
        In seconds; it never goes back.
    """

    def __init__(self, run: RunDirectory, clock: Callable[[], float] = time.monotonic) -> None:
        self._run, self._clock = run, clock
        self._paces: dict[str, Pace] = defaultdict(Pace)
        self._tail, self._activity = LogTail(run.path / "log"), Activity()
        self._lease: list[tuple[str, Any]] | None = None
        self._where: Whereabouts | None = None
        self._asked = 0.0
        self._last_sign = clock()

    def look(self) -> Look:
        """Look once."""
        report = make_report(self._run)
        at_work = self._has_moved()
        self._activity.take(self._tail.lines())
        now = self._clock()
        if self._where is None or now - self._asked > ASK_SECONDS:
            self._where, self._asked = whereabouts(self._run), now
        if at_work or self._where.awaited:
            self._last_sign = now
        for stage in report.stages:
            if stage.done:  # a stage that waits has no pace
                self._paces[stage.stage].observe(now, stage.done)
        if report.at_work is not None:
            phase, done, _ = report.at_work
            self._paces[phase].observe(now, done)
        return Look(report, self._where, at_work, self._paces, self._activity)

    @property
    def idle_seconds(self) -> float:
        """Time without any sign of a driver, present or awaited."""
        return self._clock() - self._last_sign

    def _has_moved(self) -> bool:
        """Tell whether the lease was renewed since the last look."""
        lease = [(path.name, path.version()) for path in self._run.lease_path.children()]
        before, self._lease = self._lease, lease
        return before is not None and lease != before


def watch(run: RunDirectory) -> RunReport:
    """Show a run until it is complete, or no driver has given a sign of life for a while; return the last report.

    The watch also ends when its output has no reader any more.

    On a terminal it shows a screen that redraws itself, elsewhere a line for each change.
    """
    watcher = Watcher(run)
    if redraws(out):
        with Live(console=out, auto_refresh=False) as live:
            return _follow(watcher, lambda look: live.update(_screen(look, out), refresh=True))
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


def _screen(look: Look, console: Console) -> Any:
    # The cursor stands below the last line.
    return draw_screen(moment_of(look), console.width, console.height - 1)


def moment_of(look: Look) -> Moment:
    """Write the state of a run in words, for the screen."""
    report = look.report
    state = "complete" if report.complete else "at work" if report.driver else "not complete, no driver is at work"
    title = f"{time.strftime('%H:%M:%S')}  {state}  {report.path}"
    return Moment(title, tuple(_bars(look)), tuple(_facts(look)), tuple(look.activity.latest))


def _bars(look: Look) -> list[Bar]:
    report = look.report
    bars = [_bar(stage, look) for stage in report.stages]
    if report.at_work is None:
        return bars
    phase, done, total = report.at_work
    left = look.seconds_left if report.driver else None
    rate = rate_text(look.tiles_per_second) if report.driver else ""
    below = max(number for number, stage in enumerate(report.stages) if stage.phase == phase) + 1
    return [*bars[:below], Bar(phase, done, total, rate, _left(left), is_sum=True), *bars[below:]]


def _bar(stage: StageReport, look: Look) -> Bar:
    at_work = look.report.at_work
    rate = left = ""
    if look.report.driver and at_work is not None and stage.phase == at_work[0] and 0 < stage.done < stage.total:
        pace = look.paces[stage.stage]
        rate = rate_text(pace.rate)
        left = _left(_sooner(pace.seconds_left(stage.total - stage.done), look.seconds_left))
    return Bar(stage.stage, stage.done, stage.total, rate, left, stage.bytes)


def _sooner(stage: Range | None, phase: Range | None) -> Range | None:
    """Return the time left of a stage, at most that of its phase: the workers may turn to it only later."""
    if stage is None or phase is None:
        return None
    return Range(min(stage.low, phase.low), min(stage.high, phase.high))


def _left(left: Range | None) -> str:
    return "" if left is None else f"{left} left"


def _facts(look: Look) -> list[tuple[str, str]]:
    report, facts = look.report, []
    in_flight = look.activity.in_flight if report.driver else {}
    if in_flight:
        facts.append(("workers", _workers_text(in_flight)))
    if troubles := _troubles(look):
        facts.append(("troubles", troubles))
    gone = [] if report.driver else [*report.lost_inputs, *unwritten(report)]
    if gone:
        facts.append(("lacking", gone[0] + (f" (and {len(gone) - 1} more)" if len(gone) > 1 else "")))
    where, _, dashboard = (report.executor or "").partition(", dashboard ")
    if report.driver:
        facts.append(("driver", report.driver))
    if where:
        facts.append(("cluster", where))
    if dashboard:
        facts.append(("dashboard", dashboard))
    facts += [("", line) for line in _about(report, look.where, timed=True)]
    if not report.complete and not report.driver and not look.where.awaited:
        facts.append(("go on with", f"cntk resume {shell_word(report.path)}"))
    return facts


def _workers_text(in_flight: dict[str, int]) -> str:
    """Describe workers, by the names of their processes, and their tiles in flight."""
    hosts = Counter(name.rpartition("-")[0] for name in in_flight)
    least, most = min(in_flight.values()), max(in_flight.values())
    each = f"{least}" if least == most else f"{least} to {most}"
    tiles = "tile" if most == 1 else "tiles"
    place = f"on {next(iter(hosts))}" if len(hosts) == 1 else f"on {len(hosts)} hosts"
    word = "worker" if len(in_flight) == 1 else "workers"
    return f"{len(in_flight)} {word} {place}, {each} {tiles} in flight{'' if len(in_flight) == 1 else ' each'}"


def _troubles(look: Look) -> str:
    count = look.activity.count
    counts = (
        (count("retry"), "retry", "retries"),
        (count("backup"), "backup", "backups"),
        (count("worker_lost"), "worker lost", "workers lost"),
        (count("gave_up"), "tile given up", "tiles given up"),
        (count("quarantined"), "tile set aside", "tiles set aside"),
        (look.report.quarantined, "chunk in quarantine", "chunks in quarantine"),
    )
    return ", ".join(f"{number} {one if number == 1 else many}" for number, one, many in counts if number)


def _line(look: Look) -> str:
    stages = ", ".join(f"{stage.stage} {stage.done}/{stage.total}" for stage in look.report.stages)
    return "; ".join([stages, *_about(look.report, look.where)])


def _pace(look: Look) -> str:
    at_work, left = look.report.at_work, look.seconds_left
    if at_work is None or look.tiles_per_second is None or left is None:
        return ""
    return f"{rate_text(look.tiles_per_second)}, {left} left in {at_work[0]}"


def _about(report: RunReport, where: Whereabouts, *, timed: bool = False) -> list[str]:
    """Describe the whereabouts of the driver, with ``timed`` also details that change all the time."""
    lines = []
    if where.submission is not None and not report.complete:
        said = f"{where.submission} {where.words}" if where.words else f"{where.submission} ({where.state})"
        lines.append(f"{said}, {where.timing}" if timed and where.timing else said)
    if where.stop_requested and (report.driver or where.awaited):
        # A prediction that began after the request does not obey it.
        lines.append("asked to stop" + (": a driver that was at work then finishes its tiles" if report.driver else ""))
    if report.lost_driver is not None and not report.complete:
        lines.append(lost_line(report))
    if where.ending is not None and where.ending.message:
        lines.append(f"the last driver said: {where.ending.message}")
    return lines
