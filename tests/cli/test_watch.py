"""The screen of a watch on real runs: what it says, and that it fits.

Seen to fail: with bars of tiles that were handed over, with a screen that counts no line for hidden stages, with logs
that are not read, and with texts of records that are printed as they are.
"""

import io
import itertools
import json
import socket
import sys
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from support.problems import Recorder, flip_bit, stop_after, stop_at

from cntk_pipeline.cli import watch
from cntk_pipeline.cli.bars import Bar
from cntk_pipeline.cli.screen import Moment, draw_screen, fit
from cntk_pipeline.cli.watch import Watcher, moment_of
from cntk_pipeline.config import RunConfig
from cntk_pipeline.driver import driver as drivers
from cntk_pipeline.errors import Interrupted
from cntk_pipeline.gram import tiles as gram
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.tasks import Task
from cntk_pipeline.telemetry.pace import Pace
from cntk_pipeline.workflow import run as runs

SIZES = [(80, 24), (120, 40)]
INFERENCE = {"leave_one_out": True, "learning_curve": True, "posterior_variance": True, "posterior_covariance": True}


def drawn(look: watch.Look, width: int, height: int) -> list[str]:
    """Draw a look on a terminal, and return its lines without trailing blanks."""
    console = Console(record=True, width=width, height=height, force_terminal=True, file=io.StringIO(), soft_wrap=True)
    console.print(draw_screen(moment_of(look), width, height - 1))
    lines = [line.rstrip() for line in console.export_text().splitlines()]
    assert len(lines) < height
    assert max(map(len, lines)) <= width
    return lines


def row(lines: list[str], name: str) -> list[str]:
    """Return the words of a row, without those of its bar."""
    (found,) = [line for line in lines if line.split()[:1] == [name]]
    return [word for word in found.split() if not set(word) <= set("━╸╺")]


class Looker(Recorder):
    """A view that looks at its own run, from the outside, at each tile."""

    def __init__(self, path: Any) -> None:
        super().__init__()
        self._path, self._watcher = path, cast(Watcher | None, None)
        self.looks: list[tuple[watch.Look, dict[tuple[int, int], list[str]]]] = []

    def progress(self, progress: Any) -> None:
        super().progress(progress)
        self._watcher = self._watcher or Watcher(RunDirectory(self._path), second_by_second())
        look = self._watcher.look()
        self.looks.append((look, {size: drawn(look, *size) for size in SIZES}))


def second_by_second() -> Callable[[], float]:
    """Make a clock that goes on by a second whenever it is read, as a look does once."""
    counts = itertools.count()
    return lambda: float(next(counts))


@pytest.fixture
def looked(small_config: Callable[..., RunConfig]) -> Looker:
    config = small_config(inference=INFERENCE, readouts={"kinds": ["ntk"], "poolings": ["flatten"]})
    view = Looker(runs.run_path(config))
    runs.start(config, view, threading.Event())
    return view


def test_a_run_at_work_has_a_row_a_stage_with_the_counts_of_its_report(looked: Looker) -> None:
    for look, screens in looked.looks:
        for lines in screens.values():
            for stage in look.report.stages:
                if any(line.split()[:1] == [stage.stage] for line in lines):
                    assert row(lines, stage.stage)[1] == f"{stage.done}/{stage.total}"
        assert all(row(screens[120, 40], stage.stage) for stage in look.report.stages)


def test_a_run_at_work_says_how_fast_and_how_long_and_where(looked: Looker) -> None:
    kernel = [screens for look, screens in looked.looks if look.report.at_work and look.report.at_work[0] == "kernel"]
    look, _ = looked.looks[6]
    assert look.report.at_work == ("kernel", 6, 11)
    for lines in kernel[6].values():
        assert row(lines, "kernel")[1:] == ["6/11", "1", "tiles/s", "about", "5", "s", "left"]
        assert "at work" in lines[0]
        assert row(lines, "driver") == ["driver", str(look.report.driver)]
        assert row(lines, "cluster") == ["cluster", "this", "process"]
        assert " ".join(row(lines, "workers")).endswith("on " + socket.gethostname() + ", 0 tiles in flight")
        assert "a driver began: this process" in lines[-2]
        assert "kernel began, 0 of 11 tiles are done" in lines[-1]


def test_written_bytes_are_those_of_the_status(looked: Looker) -> None:
    look, screens = looked.looks[-1]
    assert look.report.stages[0].bytes > 1000
    assert row(screens[120, 40], "train")[2:] == [f"{look.report.stages[0].bytes / 1e3:.3g}", "kB"]


@pytest.mark.usefixtures("no_waiting")
def test_retries_quarantine_and_the_end_of_a_driver_are_shown(
    small_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drivers, "FIRST_DELAY_SECONDS", 0.001)
    failures, evaluate = iter([OSError(5, "\x1b[31mflaky"), OSError(5, "flaky again")]), gram._evaluate

    def flaky(run_path: str, task: Task, numbers: tuple[int, ...]) -> object:
        error = next(failures, None)
        if error is not None:
            raise error
        return evaluate(run_path, task, numbers)

    monkeypatch.setattr(gram, "_evaluate", flaky)
    config = small_config()
    view, stop = stop_after(3)
    with pytest.raises(Interrupted):
        runs.start(config, view, stop)
    run = RunDirectory(runs.run_path(config))
    flip_bit(next(path for path in Path(run.kernel_path).glob("*/t*/c/*/*") if path.is_file()))
    runs.resume(run.path, Recorder(), threading.Event(), verify=True)
    look = Watcher(run).look()
    for size in SIZES:
        lines = drawn(look, *size)
        assert row(lines, "troubles")[1:3] == ["2", "retries,"]
        assert "in quarantine" in " ".join(row(lines, "troubles"))
        assert "complete" in lines[0]
    assert "\x1b" not in "".join(lines)


@pytest.mark.usefixtures("no_waiting")
def test_a_run_without_a_driver_says_how_to_go_on(small_config: Callable[..., RunConfig]) -> None:
    config = small_config()
    view, stop = stop_after(3)
    with pytest.raises(Interrupted):
        runs.start(config, view, stop)
    run = RunDirectory(runs.run_path(config))
    for size in SIZES:
        lines = drawn(Watcher(run).look(), *size)
        assert "not complete, no driver is at work" in lines[0]
        assert any(line.startswith("go on with  cntk resume") for line in lines)
        assert "the driver ended: Interrupted: stopped" in lines[-1]
        assert not any(line.startswith("workers") for line in lines)
        assert "tiles/s" not in " ".join(lines)


def test_a_complete_run_has_full_bars(run_small: Callable[..., RunDirectory]) -> None:
    look = Watcher(run_small()).look()
    for width, height in SIZES:
        lines = drawn(look, width, height)
        bars = [line for line in lines if "━" in line]
        assert len(bars) == len(look.report.stages)
        assert not any("╸" in line for line in bars)


def test_a_run_that_lacks_a_record_names_it(run_small: Callable[..., RunDirectory]) -> None:
    run = run_small()
    first, second, *_ = Watcher(run).look().report.solves
    for solve in (first, second):
        (run.solve_path(solve.name) / "metrics.json").unlink()
    lines = drawn(Watcher(run).look(), 120, 40)
    (said,) = [line for line in lines if line.startswith("lacking")]
    assert said.endswith(f"the record of {first.readout}, ridge 0.01 (relative) is gone (and 1 more)")
    assert "not complete" in lines[0]


def test_a_run_without_a_log_is_shown_without_events(run_small: Callable[..., RunDirectory]) -> None:
    run = run_small()
    (run.path / "log").remove_tree()
    for size in SIZES:
        lines = drawn(Watcher(run).look(), *size)
        assert row(lines, "residual")
        assert not any("events" in line for line in lines)


def test_what_a_log_says_does_not_act_on_the_terminal(run_small: Callable[..., RunDirectory]) -> None:
    run = run_small()
    evil = {"time": 2e9, "event": "retry", "worker": "x-1", "error": "\x1b]0;pwned\x07[red]", "stage": "s\x1b[2J"}
    with Path(run.path / "log" / "evil-1.jsonl").open("w") as file:
        file.write(json.dumps(evil) + "\n")
    lines = drawn(Watcher(run).look(), 120, 40)
    assert r"\x1b]0;pwned\x07[red]" in lines[-1]
    assert "\x1b" not in "".join(lines)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_a_line_that_is_cut_off_fits_in_any_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen to fail: the sign for what is cut off was written as "\\u2026", and lines of 40 columns had 45."""
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding, errors="backslashreplace")
    monkeypatch.setattr(sys, "stdout", stream)
    bars = (Bar("kernel train of a long name", 3, 10, "12 tiles/s", "3 to 4 h left"),)
    screen = draw_screen(Moment("12:00:00  at work  /a/very/long/path/of/a/run", bars, (), ()), 40, 20)
    Console(file=stream, width=40, soft_wrap=True).print(screen)
    stream.flush()
    title, *rows = written.getvalue().decode(encoding).splitlines()
    assert len(title) == 40
    assert title.startswith("12:00:00  at work  /a/very/long/path/of")
    assert "\\u2026" not in "".join(rows)


def test_a_small_screen_hides_finished_stages_first_and_counts_them(looked: Looker) -> None:
    look, _ = looked.looks[-2]
    lines = drawn(look, 80, 14)
    shown = [stage for stage in look.report.stages if any(line.split()[:1] == [stage.stage] for line in lines)]
    hidden = [stage for stage in look.report.stages if stage not in shown]
    assert hidden
    assert all(stage.done == stage.total for stage in hidden)
    assert f"{len(hidden)} finished stages are not shown" in lines


BARS = st.lists(st.sampled_from([(5, 5), (2, 5), (0, 5)]), max_size=20).map(
    lambda counts: [Bar(f"s{k}", *each) for k, each in enumerate(counts)]
)


@given(BARS, st.integers(0, 5), st.integers(1, 40))
def test_what_is_chosen_fits_or_is_the_least(bars: list[Bar], events: int, room: int) -> None:
    lines = [{"time": float(k)} for k in range(events)]
    shown, hidden, last = fit(bars, lines, room)
    taken = len(shown) + bool(hidden) + len(last)
    at_work = [bar for bar in bars if 0 < bar.done < bar.total]
    assert taken <= room or (shown == at_work and len(last) == min(events, 1))
    assert [bar for bar in shown if bar in at_work] == at_work
    assert last == lines[len(lines) - len(last) :]
    counted = sum(int(word) for word in hidden.split() if word.isdigit())
    assert len(shown) + counted == len(bars)
    if room >= len(bars) + events:
        assert (shown, hidden, last) == (bars, "", lines)


def test_a_watch_on_a_terminal_ends_with_the_last_screen(
    run_small: Callable[..., RunDirectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    console = Console(record=True, width=80, height=24, force_terminal=True, file=terminal, soft_wrap=True)
    monkeypatch.setattr(watch, "out", console)
    assert watch.watch(run_small()).complete
    screens = console.export_text().split("complete  ")
    assert row(screens[-1].splitlines(), "residual")[1] == "12/12"


class Leaver(Looker):
    """A view that asks its run to stop when five tiles of a factor are done."""

    def __init__(self, path: Any) -> None:
        super().__init__(path)
        self.stop = threading.Event()

    def progress(self, progress: Any) -> None:
        super().progress(progress)
        done = {stage.stage: stage.done for stage in self.looks[-1][0].report.stages}
        if done["factor"] == 5:
            self.stop.set()


@pytest.mark.usefixtures("no_waiting")
def test_a_run_that_stands_still_has_no_rate_and_no_time_left(small_config: Callable[..., RunConfig]) -> None:
    config = small_config()
    view = Leaver(runs.run_path(config))
    with pytest.raises(Interrupted):
        runs.start(config, view, view.stop)
    assert "tiles/s" in " ".join(view.looks[-1][1][80, 24])
    assert view._watcher is not None
    after = drawn(view._watcher.look(), 80, 24)
    assert "tiles/s" not in " ".join(after)
    assert "left" not in " ".join(after)


@pytest.mark.usefixtures("no_waiting")
def test_a_stage_is_done_with_its_phase_at_the_latest(small_config: Callable[..., RunConfig]) -> None:
    """Workers turn to a stage late: its own rate forecasts ten times what the rate of the phase does."""
    config = small_config()
    view, stop = stop_at(5)
    with pytest.raises(Interrupted):
        runs.start(config, view, stop)
    look = Watcher(RunDirectory(runs.run_path(config))).look()
    train = next(stage for stage in look.report.stages if 0 < stage.done < stage.total)
    slow, fast = Pace(), Pace()
    for tiles in range(10):
        slow.observe(100.0 * tiles, tiles)
        fast.observe(float(tiles), tiles)
    there = replace(look, report=replace(look.report, driver="node7:1"), paces=defaultdict(lambda: slow, kernel=fast))
    bars = {bar.name: bar for bar in moment_of(there).bars}
    assert bars["kernel"].left == bars[train.stage].left
    assert (bars["kernel"].rate, bars[train.stage].rate) == ("1 tiles/s", "36 tiles/h")


def test_a_run_in_a_bucket_is_watched(bucket: str, small_config: Callable[..., RunConfig]) -> None:
    config = small_config(store={"path": f"s3://{bucket}/watched"})
    run = runs.start(config, Recorder(), threading.Event())
    watcher = Watcher(run)
    first, second = watcher.look(), watcher.look()
    assert first.activity.count("finished") == sum(stage.total for stage in first.report.stages)
    assert second.activity.count("driver_ended") == 1
    assert "the driver ended" in drawn(second, 80, 24)[-1]
