"""The time of day is set, back and forward, under a real run of kind "local": it goes on, to the same numbers.

libfaketime gives each process of the run another time of day, from a file that is rewritten while it runs; the
machine's own clock is never set. What is measured while the machine runs (CLOCK_MONOTONIC) stays, as it does when a
clock is set. Seen to fail: without `clusters.dask.clock` (set back, no tile is finished any more), and with
certificates that hold for a year from now (a worker that was killed does not come back: "Invalid argument").
"""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from faults.test_chaos import Undisturbed, report
from support.processes import (
    PATIENCE_SECONDS,
    WORKERS,
    computing_worker,
    start_driver,
    wait_for_receipts,
    wait_until,
    workflow,
)

LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))

HOUR, DAY = 3600, 86_400

QUICK = {
    "data": {"source": "digits", "train": 400, "test": 30},
    "readouts": {"depths": [2], "poolings": ["flatten"]},
    "kernel": {"tile": 50},
    "solve": {"ridges": [1e-2], "tile": 100},
}
"""Tiles that take a moment each: messages are under way at every time."""


class Clock:
    """The time of day of the processes that are started with its environment."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set(0)
        self.environment = {
            "LD_PRELOAD": str(LIBRARIES[0]),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_CACHE_DURATION": "1",  # each call would read the file otherwise
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    def set(self, ahead_seconds: int) -> None:
        aside = self._file.with_suffix(".new")
        aside.write_text(f"{ahead_seconds:+d}")
        os.replace(aside, self._file)


@pytest.fixture
def clock(tmp_path: Path, require: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Clock:
    require("faketime")
    made = Clock(tmp_path / "time-of-day")
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)  # for the processes that the test starts
    return made


@pytest.mark.timeout(600)
def test_a_run_goes_on_where_the_time_of_day_is_set_back_and_forward(
    clock: Clock, started: list[subprocess.Popen[bytes]], undisturbed: Undisturbed, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    driver = start_driver(tmp_path / "driver", workflow(path, "local", QUICK))
    started.append(driver)
    jumps = [*(-HOUR * k for k in range(1, 16)), -10 * DAY, HOUR, 0]
    for count, jump in enumerate(jumps):
        wait_for_receipts(path, driver, 2 * count)
        clock.set(jump)
    assert driver.wait(PATIENCE_SECONDS) == 0, (tmp_path / "driver" / "output.txt").read_text()
    report("time of day set", len(jumps), path, 0, undisturbed(QUICK))


@pytest.mark.timeout(600)
def test_a_worker_that_is_killed_comes_back_whatever_the_time_of_day(
    clock: Clock, started: list[subprocess.Popen[bytes]], undisturbed: Undisturbed, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    driver = start_driver(tmp_path / "driver", workflow(path, "local", QUICK))
    started.append(driver)
    wait_for_receipts(path, driver, 4)
    jumps = (400 * DAY, -HOUR)
    for kills, jump in enumerate(jumps):
        clock.set(jump)
        wait_until(lambda: workers_seen(path) == WORKERS + kills, "a tile of each worker")  # noqa: B023
        worker = computing_worker(path, driver)
        others = [
            process
            for process in psutil.Process(driver.pid).children(recursive=True)
            if is_other(process, path, worker)
        ]
        for other in others:
            other.suspend()  # or the run might be over before another worker is there
        worker.kill()
        wait_until(
            lambda: workers_seen(path) > WORKERS + kills,  # noqa: B023
            "a worker in the place of the one that was killed",
        )
        for other in others:
            other.resume()
    assert driver.wait(PATIENCE_SECONDS) == 0, (tmp_path / "driver" / "output.txt").read_text()
    clock.set(0)
    report("killed in another time", len(jumps), path, 2 * len(jumps), undisturbed(QUICK))


def is_other(process: psutil.Process, path: Path, worker: psutil.Process) -> bool:
    """Tell whether a process is another worker of a run than this one."""
    return process != worker and any(log.stem.endswith(f"-{process.pid}") for log in (path / "log").iterdir())


def workers_seen(path: Path) -> int:
    """Count the processes that ever began a tile."""
    return sum('"began"' in log.read_text() for log in (path / "log").iterdir())
