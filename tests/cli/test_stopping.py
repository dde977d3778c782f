"""A stop that overruns ends the process: real processes, whose main thread is stuck where Python runs no handler.

Seen to fail: with handlers alone, as Python runs them (each process goes on until it is killed).
"""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from support.foreign_handler import run_beside_it
from support.problems import Recorder
from support.processes import receipts, wait_until

from cntk_pipeline.cli.entry import STOPPED
from cntk_pipeline.config import RunConfig
from cntk_pipeline.rundir.directory import RunDirectory
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
with stopping.stop_on_signals(lambda line: print(line, flush=True), stopping.DRAIN_SECONDS):
    get_stuck()
"""

ALONE_AND_PATIENT = """
with stopping.stop_on_signals(lambda line: print(line, flush=True), stopping.DRAIN_SECONDS + 2):
    get_stuck()
"""

ASKED = """
import threading
with stopping.stop_on_signals(lambda line: print(line, flush=True), stopping.DRAIN_SECONDS) as stop:
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
with stopping.stop_on_signals(lambda line: print(line, flush=True), stopping.DRAIN_SECONDS) as stop:
    runs.start(parse_config(json.loads(sys.argv[3]), "test"), Recorder(), stop)
"""

HUNG_UP = """
import json, sys
from cntk_pipeline.cli import main
from cntk_pipeline.cli.driving import run_shown
from cntk_pipeline.cli.streams import guard_streams
from cntk_pipeline.config import parse_config
from cntk_pipeline.errors import Interrupted
from cntk_pipeline.workflow import run as runs

if __name__ == "__main__":
    guard_streams()
    config = parse_config(json.loads(sys.argv[1]), "test")
    try:
        run_shown(runs.run_path(config), lambda view, stop: runs.start(config, view, stop), config.cluster)
    except Interrupted:
        sys.exit(main.STOPPED)
"""

ENDED = "ended: what was under way did not stop in time; every finished tile is kept, `cntk resume` goes on\n"

pytestmark = [pytest.mark.timeout(60), pytest.mark.slow]

Start = Callable[..., "subprocess.Popen[str]"]


def heed_hang_ups() -> None:
    """Take away what a process has from these tests, where they were begun by nohup themselves."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def start() -> Iterator[Start]:
    processes: list[subprocess.Popen[str]] = []

    def begin(code: str, *arguments: object, before: Sequence[str] = ()) -> "subprocess.Popen[str]":
        tests = Path(__file__).parents[1]
        process = subprocess.Popen(
            [*before, sys.executable, "-c", STUCK + code, *map(str, arguments)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent / "pipeline")])},
            preexec_fn=heed_hang_ups,
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


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
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


@pytest.mark.parametrize(("before", "ignored"), [([], False), (["nohup"], True)])
def test_a_driver_that_was_told_to_ignore_a_hang_up_does_so(start: Start, before: list[str], ignored: bool) -> None:
    """Seen to fail where the signal is handled in any case: a closed terminal would stop what nohup began."""
    process = start(ALONE, 600, 600, before=before)
    hang_up = 1 << (signal.SIGHUP - 1)
    assert bool(mask_of(process, "SigIgn") & hang_up) is ignored
    assert bool(mask_of(process, "SigCgt") & hang_up) is not ignored


def test_ctrl_c_stays_ignored_for_a_command_in_the_background_of_a_script(start: Start) -> None:
    """Seen to fail: Ctrl-C in the script's terminal stopped what `cntk run ... &` had begun."""
    process = start(ALONE, 600, 600, before=["sh", "-c", 'trap "" INT; exec "$@"', "sh"])
    interrupt = 1 << (signal.SIGINT - 1)
    assert mask_of(process, "SigIgn") & interrupt
    process.send_signal(signal.SIGTERM)
    assert said_by(process) == "stopping: tiles in flight are finished first\n"  # Ctrl-C would not end it
    assert mask_of(process, "SigIgn") & interrupt


FOREIGN = """
from cntk_pipeline.cli.stopping import stop_on_signals
from cntk_pipeline.clusters.slurm.jobs import load_jobqueue
with stop_on_signals(print, 1.0):
    pass
set_foreign_handler()
load_jobqueue()
print("gone on")
"""


def test_a_handler_in_c_of_somebody_else_ends_no_command() -> None:
    """Seen to fail: TypeError at the end of a complete run, since Python cannot set such a handler again."""
    assert run_beside_it(FOREIGN) == "gone on\n"


@pytest.mark.timeout(300)
def test_a_terminal_that_is_closed_lets_tiles_in_flight_finish(
    small_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    """Seen to fail without a handler (the driver ends by the signal), and with workers that end by it."""
    config = small_config(cluster={"kind": "local", "workers": 1}, readouts={"depths": [40], "poolings": ["gap"]})
    master, terminal = pty.openpty()
    tests = Path(__file__).parents[1]
    process = subprocess.Popen(
        [sys.executable, "-c", HUNG_UP, config.model_dump_json()],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent / "pipeline")])},
        preexec_fn=heed_hang_ups,
    )
    os.close(terminal)
    os.set_blocking(master, False)
    said = bytearray()

    def has_a_tile() -> bool:
        with contextlib.suppress(OSError):
            said.extend(os.read(master, 2**16))  # a full terminal would hold the driver
        assert process.poll() is None, said.decode()
        return receipts(tmp_path / "run") > 0

    wait_until(has_a_tile, "a tile", said.decode)
    os.close(master)
    os.killpg(process.pid, signal.SIGHUP)  # a shell does so for its jobs
    assert process.wait(200) == STOPPED
    files = (tmp_path / "run" / "log").glob("*.jsonl")
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    events = [line["event"] for line in lines]
    assert events.count("began") == events.count("finished") == receipts(tmp_path / "run")
    assert "worker_lost" not in events
    assert not make_report(RunDirectory(tmp_path / "run")).complete


def pending(process: "subprocess.Popen[str]") -> bool:
    """Tell whether a signal waits to be given to a process; a second one of its kind would be lost."""
    return mask_of(process, "ShdPnd") != 0


def mask_of(process: "subprocess.Popen[str]", name: str) -> int:
    """Read a set of signals of a process, a bit each: those that wait, are ignored or are handled."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1], 16) for line in lines if line.startswith(f"{name}:"))


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
