"""The scheduler is killed at random times, alone or with everything around it; the driver says so, resuming goes on.

The cluster is one of kind "address": scheduler, worker and driver are processes of their own. ``make chaos`` kills a
hundred schedulers. Seen to fail: with Dask's own error let through where the scheduler dies while the driver connects,
counts workers, or prepares them (exit code 1, pages of traceback).
"""

import contextlib
import itertools
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from faults.test_chaos import FEW, Undisturbed, report
from support.processes import PATIENCE_SECONDS, receipts, wait_until

from cntk_pipeline.cli.main import COMPLETE, INCOMPLETE

KILLS = int(os.environ.get("CNTK_KILLS", "4"))

END_SECONDS = 60.0
"""How long a driver may take to end whose scheduler is gone."""

SCHEDULER, WORKER, CLI = "distributed.cli.dask_scheduler", "distributed.cli.dask_worker", "cntk_pipeline.cli.main"

WORKFLOW = """
data = { source = "digits", train = 150, test = 30 }
network = { preset = "cntk" }
readouts = { depths = [3], poolings = ["gap"] }
kernel = { tile = 12 }
solve = { ridges = [1e-2] }
"""
"""That of `FEW`, for the shell."""


@dataclass(frozen=True)
class Cluster:
    """A scheduler and its worker, and the file that tells where it listens."""

    scheduler: subprocess.Popen[bytes]
    worker: subprocess.Popen[bytes]
    file: Path

    def close(self) -> None:
        for process in (self.scheduler, self.worker):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    @classmethod
    def start(cls, folder: Path) -> "Cluster":
        folder.mkdir()
        file = folder / "scheduler.json"
        there = ["--scheduler-file", str(file)]
        scheduler = start(folder, SCHEDULER, *there, "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        worker = start(folder, WORKER, *there, "--nthreads", "1", "--no-nanny", "--no-dashboard")
        return cls(scheduler, worker, file)


def start(folder: Path, module: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a program of Python in a process group of its own; what it says is kept beside ``folder``'s files."""
    with open(folder / f"{module}.txt", "ab") as said:
        command = [sys.executable, "-m", module, *arguments]
        return subprocess.Popen(command, cwd=folder, stdout=said, stderr=said, start_new_session=True)


@pytest.mark.timeout(3600)
def test_schedulers_killed_again_and_again_end_their_drivers_and_cost_the_tiles_in_flight(
    started: list[subprocess.Popen[bytes]], undisturbed: Undisturbed, tmp_path: Path
) -> None:
    truth, rng = undisturbed(FEW), random.Random(8)  # of whose first four kills one is of a whole job
    (tmp_path / "workflow.toml").write_text(WORKFLOW)
    clusters = iter(started_clusters(tmp_path, started))
    spare, path = next(clusters), tmp_path / "run0"
    kills = here = jobs = 0
    slowest = 0.0
    while True:
        cluster = spare
        if kills < KILLS:
            spare = next(clusters)  # which starts while the other one works
        driver = drive(tmp_path, path, cluster)
        started.append(driver)
        target = receipts(path) + rng.randint(0, 3)
        wait_until(lambda: is_past(path, driver, target), "a receipt")  # noqa: B023
        time.sleep(rng.uniform(0, 0.3))  # between receipts too
        if kills < KILLS and driver.poll() is None:
            whole_job = rng.random() < 0.2
            kills, here, jobs = kills + 1, here + 1, jobs + whole_job
            slowest = max(slowest, kill(tmp_path, cluster, driver, whole_job))
        if driver.poll() in (None, COMPLETE):  # it may have come to its end before the kill
            assert driver.wait(PATIENCE_SECONDS) == COMPLETE
            report("schedulers killed", here, path, 2 * here, truth)
            path, here = tmp_path / f"run{kills}", 0
            if kills == KILLS:
                break
        cluster.close()
    print(f"{kills} killed, {jobs} of them with worker and driver; the slowest driver ended {slowest:.1f} s later")


def started_clusters(folder: Path, started: list[subprocess.Popen[bytes]]) -> Iterator[Cluster]:
    for number in itertools.count():
        cluster = Cluster.start(folder / f"cluster{number}")
        started += [cluster.scheduler, cluster.worker]
        yield cluster


def drive(folder: Path, path: Path, cluster: Cluster) -> subprocess.Popen[bytes]:
    """Begin a run on a cluster with the shell's command, or go on with it."""
    log = cluster.file.parent / f"{WORKER}.txt"
    wait_until(lambda: b"Registered to" in log.read_bytes(), "a worker")
    table = folder / "cluster.toml"
    table.write_text(f'[cluster]\nkind = "address"\nscheduler_file = "{cluster.file}"\n')
    (folder / f"{CLI}.txt").unlink(missing_ok=True)
    if (path / "inputs.zarr").exists():
        return start(folder, CLI, "resume", str(path), "--cluster", str(table))
    return start(folder, CLI, "run", "workflow.toml", "--store", str(path), "--cluster", str(table))


def is_past(path: Path, driver: subprocess.Popen[bytes], target: int) -> bool:
    """Tell whether a driver holds the run's lease and the journal so many receipts, or the driver has ended."""
    if driver.poll() is not None:
        return True
    with contextlib.suppress(FileNotFoundError):  # where another lease has just taken its place
        leases = [file.read_text() for file in (path / "lease").glob("*.json")]
        return any(f'"pid": {driver.pid},' in text for text in leases) and receipts(path) >= target
    return False


def kill(folder: Path, cluster: Cluster, driver: subprocess.Popen[bytes], whole_job: bool) -> float:
    """Kill a scheduler, or the job that it is in; return how many seconds later its driver ended."""
    began = time.monotonic()
    for process in (cluster.scheduler, cluster.worker, driver)[: 3 if whole_job else 1]:
        os.killpg(process.pid, signal.SIGKILL)
    code = driver.wait(END_SECONDS)
    if not whole_job and code != COMPLETE:
        said = (folder / f"{CLI}.txt").read_text()
        assert code == INCOMPLETE, said
        assert re.match(
            r"incomplete: (the Dask (scheduler|cluster) went away|no Dask scheduler)", said.splitlines()[-1]
        )
        assert "Traceback" not in said, said
    return time.monotonic() - began
