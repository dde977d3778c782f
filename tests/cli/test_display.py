import contextlib
import io
import logging
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from support.commands import environment

from cntk_pipeline.cli import display, status
from cntk_pipeline.cli.console import escape, printable
from cntk_pipeline.cli.display import PLAIN_SECONDS, QUIET_SECONDS, RunView
from cntk_pipeline.cli.status import show_state
from cntk_pipeline.cli.tables import plain_table
from cntk_pipeline.driver.driver import Progress
from cntk_pipeline.inference import Shown
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.tasks import Receipt, Stage, Task
from cntk_pipeline.telemetry.events import Event, emit
from cntk_pipeline.telemetry.progress import StageProgress
from cntk_pipeline.workflow.report import make_report

TILE = Task(Stage("train"), 3, 2)


class Stream(io.StringIO):
    """A stream that counts how often it was flushed."""

    flushes = 0

    def flush(self) -> None:
        self.flushes += 1


class Batch:
    """A stage of a batch job whose output is a file, seconds passing as told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stream, self.now = Stream(), 1000.0
        monkeypatch.setattr(display, "out", Console(file=self.stream, highlight=False, soft_wrap=True))
        monkeypatch.setattr(display.time, "monotonic", lambda: self.now)
        self.view = RunView()
        self.view.begin("kernel")

    def tell(self, seconds: float, done: int, total: int, **more: int) -> None:
        self.now = 1000.0 + seconds
        counts = {"retries": 0, "quarantined": 0} | more
        receipt = Receipt(TILE, ()) if done else None
        self.view.progress(
            Progress(done, total, done * 1000, total * 1000, done * 1000, seconds, receipt=receipt, **counts)
        )

    @property
    def lines(self) -> list[str]:
        return self.stream.getvalue().splitlines()


@pytest.fixture
def batch(monkeypatch: pytest.MonkeyPatch) -> Batch:
    return Batch(monkeypatch)


def test_a_line_says_how_far_how_fast_how_long_and_what_went_wrong(batch: Batch) -> None:
    batch.tell(0, 0, 400)
    for tiles in (5, 10, 15):
        batch.tell(tiles, tiles, 400)
    batch.tell(100, 100, 400, retries=3, quarantined=1)
    assert batch.lines == [
        "kernel: 0/400 tiles",
        "kernel: 100/400 tiles, 1 k entries/s, about 5 min left, 3 retries, 1 quarantined",
    ]


def test_every_line_is_flushed(batch: Batch) -> None:
    batch.tell(0, 0, 400)
    assert batch.stream.flushes >= 1


def test_a_short_stage_has_no_more_than_a_line_each_half_minute(batch: Batch) -> None:
    for second in range(121):
        batch.tell(second, second, 120)
    gaps = [int(re.findall(r"(\d+)/", line)[0]) for line in batch.lines]
    assert gaps == [0, 30, 60, 90, 120]
    assert PLAIN_SECONDS == 30


def test_a_long_stage_has_some_twenty_lines_but_is_never_silent_for_long(batch: Batch) -> None:
    for minute in range(0, 24 * 60):
        batch.tell(60 * minute, minute, 24 * 60)
    assert len(batch.lines) == 24 * 60 * 60 / QUIET_SECONDS  # a twentieth would be 72 minutes
    batch.stream.truncate(0)


def test_a_stage_of_three_hours_has_a_line_each_twentieth(batch: Batch) -> None:
    for minute in range(0, 181):
        batch.tell(60 * minute, minute, 180)
    assert len(batch.lines) == 21


def test_rounds_of_iterations_are_no_reason_for_a_line(batch: Batch) -> None:
    for second in range(25):  # each round begins without a receipt
        batch.tell(second, 0, 1000)
    assert len(batch.lines) == 1


def test_warnings_of_the_driver_are_a_line_each_on_the_error_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream()
    monkeypatch.setattr(display, "err", Console(file=stream, highlight=False, soft_wrap=True))
    with RunView():
        logging.getLogger("cntk_pipeline").setLevel(logging.INFO)
        emit(Event("retry", TILE, "OSError: [Errno 5] flaky\nand a traceback", {"attempt": 1}))
        emit(Event("stage_began", details={"stage": "kernel"}))
        emit(Event("failed", TILE, "OSError: told of by the worker"))
    emit(Event("retry", TILE, "after the run"))
    (line,) = stream.getvalue().splitlines()
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d warning: retry train tile \(3, 2\), attempt 1: OSError: \[Errno 5\] flaky", line
    )


def test_credentials_that_a_server_repeats_are_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    said = "InvalidAccessKeyId: AKIAABCDEFGHIJKLMNOP at https://me:pw@host/b?X-Amz-Signature=abcdef&x=1"
    assert printable(said) == "InvalidAccessKeyId: *** at https://***@host/b?X-Amz-Signature=***&x=1"
    assert "AKIA" not in escape(said)


def test_a_status_names_the_chunks_and_records_that_are_gone(
    run_small: Callable[..., RunDirectory], capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_small(inference={"spectrum": True})
    report = make_report(run)
    assert report.complete
    show_state(report)
    assert capsys.readouterr().out.strip() == "complete: every tile and every result is there"
    solve = report.solves[0]
    (run.solve_path(solve.name) / "inference" / "spectrum-10.json").unlink()
    (run.solve_path(report.solves[1].name) / "metrics.json").unlink()
    next(each for each in Path(str(run.inputs_path)).glob("train_images/c/**/*") if each.is_file()).unlink()
    show_state(make_report(run))
    said = capsys.readouterr().out
    assert f"the spectrum of {solve.readout}, ridge {solve.ridge:g} (relative) is gone" in said
    assert f"the record of {report.solves[1].readout}, ridge" in said
    assert "of the data set is gone" in said
    assert "incomplete: cntk resume" in said


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_system_stays_on_a_line_where_there_is_room(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    stream, system = io.StringIO(), "depth3-gap-ntk, ridge 0.01 (relative)"
    screen = Console(file=stream, width=width)
    monkeypatch.setattr(status, "out", screen)
    columns = ("training images", "accuracy", "squared error", "absolute ridge")
    rows = tuple((system, size, "49.66%", "0.07114", "0.0109") for size in ("1110", "2000"))
    screen.print(status.inferred_table(Shown("learning curve", columns, rows)))
    assert stream.getvalue().count(system) == (2 if width > 60 else 0)
    assert max(map(len, stream.getvalue().splitlines())) <= width


@pytest.mark.parametrize("width", [24, 40, 200])
def test_no_name_and_no_number_of_a_table_is_cut_off(width: int) -> None:
    """Seen to fail: at 40 columns "depth12-local_gap-ntk" and "depth12-local_gap-nngp" were both "depth12-l…"."""
    stream, names = io.StringIO(), ("/scratch/me/runs/depth12-local_gap-ntk", "/scratch/me/runs/depth12-local_gap-nngp")
    table = plain_table("run", "accuracy", "residual")
    for name in names:
        table.add_row(name, "49.66%", "1.2e-12")
    Console(file=stream, width=width).print(table)
    assert max(map(len, stream.getvalue().splitlines())) <= width
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in stream.getvalue().splitlines()]
    said = "".join(line[0] for line in cells)
    assert all(name in said for name in names)
    assert "…" not in stream.getvalue()


BARS = """
import sys, time
from types import SimpleNamespace
from cntk_pipeline.cli.streams import guard_streams
guard_streams()
from cntk_pipeline.cli.display import RunView
with RunView() as view:
    view.begin("kernel")
    view.progress(SimpleNamespace(done=1, total=10, entries_done=1, entries_total=10, entries_now=1, elapsed_seconds=1,
                                  stages=(), note="", retries=0, quarantined=0))
    time.sleep(0.5)
    print("<end>", flush=True)
    sys.stderr.write("<mark>")
"""


def said_on_a_terminal(code: str, **variables: str) -> str:
    master, terminal = pty.openpty()
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), terminal)
    with subprocess.Popen([sys.executable, "-c", code], env=environment(**variables), **streams) as process:
        os.close(terminal)
        said = b""
        with contextlib.suppress(OSError):  # the terminal has no other side any more
            while more := os.read(master, 65536):
                said += more
    os.close(master)
    assert process.returncode == 0, said
    return said.decode()


def test_a_terminal_that_cannot_draw_over_lines_gets_lines() -> None:
    """Seen to fail: nothing was shown before the end of a phase, which may take days."""
    assert "kernel: 1/10 tiles" in said_on_a_terminal(BARS, TERM="dumb").partition("<mark>")[0]
    assert "\x1b[" in said_on_a_terminal(BARS, TERM="xterm").partition("<mark>")[0]


def test_a_file_gets_lines_where_colours_are_forced(tmp_path: Path) -> None:
    """Seen to fail: bars were drawn into the file four times a second."""
    with (tmp_path / "said").open("w") as file:
        subprocess.run([sys.executable, "-c", BARS], env=environment(FORCE_COLOR="1"), stdout=file, check=True)
    assert "\x1b[2K" not in (tmp_path / "said").read_text()
    assert (tmp_path / "said").read_text().startswith("kernel: 1/10 tiles")


class Screen(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_a_bar_for_each_stage_and_one_for_the_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(record=True, width=80, force_terminal=True, file=Screen(), soft_wrap=True)
    monkeypatch.setattr(display, "out", console)
    stages = (StageProgress("train", 20, 30, 1500), StageProgress("test", 0, 10))
    with RunView() as view:
        view.begin("kernel")
        view.progress(Progress(20, 40, 2000, 4000, 2000, 4.0, 2, 0, stages=stages))
    lines = [line.split() for line in console.export_text().splitlines() if "/" in line][-3:]
    assert [(line[0], *[word for word in line if "/" in word]) for line in lines] == [
        ("train", "20/30"),
        ("test", "0/10"),
        ("kernel", "20/40", "entries/s"),
    ]
    assert lines[0][-2:] == ["1.5", "kB"]
    assert "2 retries" in " ".join(lines[2])
