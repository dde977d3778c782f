"""The screen of `cntk status --watch`: a run at one moment, in as many lines as the terminal has."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.text import Text

from cntk_pipeline.cli.bars import Bar, draw_bars
from cntk_pipeline.cli.console import overflow, printable
from cntk_pipeline.telemetry.event_words import words_of
from cntk_pipeline.telemetry.log_tail import Line


@dataclass(frozen=True)
class Moment:
    """What the screen shows of a run.

    Attributes
    ----------
    title : str
        The run and its state.
    bars : tuple of Bar
        Of all stages, in their order, and of the phase at work below its stages.
    facts : tuple of (str, str)
        Names and texts: workers, troubles, driver, dashboard.
    events : tuple of mapping of str to object
        The latest lines of the log, in the order of time.
    """

    title: str
    bars: tuple[Bar, ...]
    facts: tuple[tuple[str, str], ...]
    events: tuple[Line, ...]


def draw_screen(moment: Moment, width: int, height: int) -> RenderableType:
    """Draw a moment in at most ``height`` lines of ``width`` columns; the least important lines are left out.

    First finished stages are left out, then earlier events, then stages that have not begun. A line says how many
    stages are not shown.
    """
    fixed = 1 + len(moment.facts) + bool(moment.events)
    bars, hidden, events = fit(moment.bars, moment.events, height - fixed)
    taken = fixed + len(bars) + bool(hidden) + len(events)
    gap = [_line("")] if taken + 3 <= height else []
    lines: list[RenderableType] = [_line(moment.title, "bold"), *gap, draw_bars(bars, width)]
    if hidden:
        lines.append(_line(hidden, "dim"))
    pad = max((len(name) for name, _ in moment.facts), default=0)
    if moment.facts:
        lines += [*gap, *(_line(f"{name:{pad}}  {text}") for name, text in moment.facts)]
    if events:
        left_out = len(moment.events) - len(events)
        lines += [*gap, _line("latest events" + (f" ({left_out} earlier not shown)" if left_out else ""), "bold")]
        lines += [_line(f"  {_clock(line)}  {words_of(line)}") for line in events]
    return Group(*lines)


def fit(bars: Sequence[Bar], events: Sequence[Line], room: int) -> tuple[list[Bar], str, list[Line]]:
    """Choose the bars and events that have room; return them with a line about hidden stages, "" for none.

    One event, and the stages at work, are always chosen.
    """
    shown, last = list(bars), list(events)
    finished = waiting = 0
    while len(shown) + len(last) + (finished + waiting > 0) > room:
        done = [bar for bar in shown if bar.is_finished and not bar.is_sum]
        not_begun = [bar for bar in shown if not bar.done and not bar.is_sum]
        if done:
            shown.remove(done[0])
            finished += 1
        elif len(last) > 1:
            last.pop(0)
        elif not_begun:
            shown.remove(not_begun[-1])
            waiting += 1
        else:
            break
    counts = [f"{count} {word}" for count, word in ((finished, "finished"), (waiting, "waiting")) if count]
    word = "stage is" if finished + waiting == 1 else "stages are"
    return shown, f"{' and '.join(counts)} {word} not shown" if counts else "", last


def _line(text: str, style: str = "") -> Text:
    return Text(printable(text), style, no_wrap=True, overflow=overflow())


def _clock(line: Line) -> str:
    """Return the local time of an event, with its day if that was another one."""
    moment = time.localtime(line["time"])
    is_today = moment[:3] == time.localtime()[:3]
    return time.strftime("%H:%M:%S" if is_today else "%d %b %H:%M", moment)
