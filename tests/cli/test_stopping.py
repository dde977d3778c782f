"""A stop that overruns ends the process: real processes, whose main thread is stuck where Python runs no handler.

Seen to fail: with handlers alone, as Python runs them (each process goes on until it is killed).
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.problems import Recorder
from support.processes import receipts, wait_until

from cntk_pipeline.cli.stopping import STOPPED
from cntk_pipeline.config import RunConfig
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.report import make_report

STUCK = """
import ctypes, json, sys
from cntk_pipeline.cli import stopping

def get_stuck():
    # A lock of C that is taken twice: no signal wakes who waits for it, and Python's lock is free meanwhile.
    lock, library = ctypes.create_string_buffer(64), ctypes.CDLL(None)
    library.pthread_mutex_lock(lock)
    print("stuck", flush=True)
    library.pthread_mutex_lock(lock)

stopping.OVERRUN_SECONDS, stopping.AGAIN_SECONDS = float(sys.argv[1]), float(sys.argv[2])
"""

ALONE = """
with stopping.stop_on_signals(lambda line: print(line, flush=True)):
    get_stuck()
"""

ALONE_AND_PATIENT = """
with stopping.stop_on_signals(lambda line: print(line, flush=True), stopping.DRAIN_SECONDS + 2):
    get_stuck()
"""

ASKED = """
import threading
with stopping.stop_on_signals(lambda line: print(line, flush=True)) as stop:
    threading.Timer(0.1, stop.set).start()
    get_stuck()
"""

IN_A_RUN = """
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.storage.tiled_array import TiledArray
from cntk_pipeline.config import parse_config
from support.problems import Recorder

write, count = TiledArray.write, 0

def write_or_get_stuck(self, index, values):
    global count
    count += 1
    if count == 8:
        get_stuck()
    return write(self, index, values)

TiledArray.write = write_or_get_stuck
with stopping.stop_on_signals(lambda line: print(line, flush=True)) as stop:
    runs.start(parse_config(json.loads(sys.argv[3]), "test"), Recorder(), stop)
"""

ENDED = "ended: what was under way did not stop in time; every finished tile is kept, `cntk resume` goes on\n"

pytestmark = [pytest.mark.timeout(60), pytest.mark.slow]

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    processes: list[subprocess.Popen[str]] = []

    def begin(code: str, *arguments: object) -> "subprocess.Popen[str]":
        tests = Path(__file__).parents[1]
        process = subprocess.Popen(
            [sys.executable, "-c", STUCK + code, *map(str, arguments)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent / "pipeline")])},
        )
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "stuck\n"
        return process

    yield begin
    for process in processes:
        process.kill()
        process.wait()


def said_by(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def end_of(process: "subprocess.Popen[str]") -> tuple[int, str]:
    left, _ = process.communicate(timeout=30)
    return process.returncode, left


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_first_signal_is_told_at_once_and_ends_a_stuck_process_in_its_time(start: Start, first: int) -> None:
    process = start(ALONE, 0.2, 600)
    process.send_signal(first)
    assert said_by(process).startswith("stopping: tiles in flight are finished first")
    code, left = end_of(process)
    assert code == STOPPED
    assert left == ENDED


def test_a_stop_that_may_drain_for_longer_is_ended_later(start: Start) -> None:
    process = start(ALONE_AND_PATIENT, 0.2, 600)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert end_of(process)[0] == STOPPED
    assert time.monotonic() - began > 2


@pytest.mark.parametrize(("again_seconds", "signals"), [(0.2, 1), (600, 2)])
def test_ctrl_c_again_ends_a_stuck_process_soon_and_once_more_at_once(
    start: Start, again_seconds: float, signals: int
) -> None:
    process = start(ALONE, 600, again_seconds)
    process.send_signal(signal.SIGTERM)
    assert said_by(process).startswith("stopping")
    process.send_signal(signal.SIGTERM)  # a batch script says it again and again: that changes nothing
    for _ in range(signals):
        wait_until(lambda: not pending(process), "the signal to be taken")
        process.send_signal(signal.SIGINT)
    assert end_of(process) == (
        STOPPED,
        ENDED,
    )


def test_a_stop_that_was_asked_for_in_the_run_directory_ends_a_stuck_process_too(start: Start) -> None:
    assert end_of(start(ASKED, 0.2, 600)) == (STOPPED, ENDED)


def pending(process: "subprocess.Popen[str]") -> bool:
    """Tell whether a signal waits to be given to a process; a second one of its kind would be lost."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return any(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("ShdPnd"))


def test_a_run_that_was_ended_so_keeps_its_tiles_and_goes_on(
    start: Start, small_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    config = small_config()
    process = start(IN_A_RUN, 0.1, 600, config.model_dump_json())
    process.send_signal(signal.SIGTERM)
    assert end_of(process)[0] == STOPPED
    path = tmp_path / "run"
    assert receipts(path) > 0
    view = Recorder()
    assert make_report(runs.resume(path, view, threading.Event())).complete
    assert view.moments[0].done > 0
