"""A folder in which commands are given on a SLURM of our own, and what is seen there of a run's processes and files."""

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from real.slurm.private import PrivateSlurm
from support.problems import Recorder, toml
from support.processes import receipts, wait_until

from cntk_pipeline.clusters.submitter import is_driver
from cntk_pipeline.config import load_config
from cntk_pipeline.workflow import handover

WORKFLOW: dict[str, Any] = {
    "name": "small",
    "data": {"source": "digits", "train": 150, "test": 30},
    "network": {"preset": "cntk"},
    "readouts": {"depths": [3, 12], "poolings": ["gap"]},
    "kernel": {"tile": 8},
    "solve": {"ridges": [1e-2], "tile": 48},
}
CLUSTER: dict[str, Any] = {
    "kind": "slurm",
    "workers": 2,
    "memory_limit": "700MB",
    "partition": "debug",
    "time_limit": "10:00",
    "drain_seconds": 20,
    "batch_options": ["--nodes=2", "--ntasks-per-node=1"],
}


@dataclass(frozen=True)
class Shell:
    """A folder in which commands are given, on a machine of the cluster."""

    folder: Path
    slurm: PrivateSlurm

    @property
    def run(self) -> Path:
        return self.folder / "a run"

    def cntk(self, *arguments: object, code: int = 0) -> str:
        command = [sys.executable, "-P", "-m", "cntk_pipeline.cli", *map(str, arguments)]
        root = str(Path(__file__).parents[3] / "pipeline")
        environment = os.environ | self.slurm.environment | {"PYTHONPATH": root, "COLUMNS": "120", "NO_COLOR": "1"}
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=240, env=environment)
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.log()}"
        return done.stdout + done.stderr

    def write(self, **cluster: Any) -> None:
        """Write a workflow and a cluster file."""
        (self.folder / "workflow.toml").write_text(toml(WORKFLOW))
        table = CLUSTER | {"interface": self.slurm.interface} | cluster
        (self.folder / "cluster.toml").write_text(toml({"cluster": table}))

    def submit(self, **cluster: Any) -> str:
        """Submit the workflow as `cntk submit` does, but for its forecast; return the job."""
        self.write(**cluster)
        overrides = [f"store.path={json.dumps(str(self.run))}"]
        config = load_config(self.folder / "workflow.toml", overrides, self.folder / "cluster.toml")
        return handover.submit(config, Recorder())[1].job

    def log(self) -> str:
        return "\n".join(file.read_text() for file in (self.run / "log").glob("slurm-*.log"))

    def receipts(self) -> int:
        return receipts(self.run)

    def wait_for_receipts(self, count: int) -> None:
        self.wait(lambda: self.receipts() >= count, f"{count} receipts")

    def wait_for_state(self, job: str, *states: str) -> None:
        self.wait(lambda: self.slurm.state(job) in states, f"job {job} to be {' or '.join(states)}")

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        wait_until(condition, what, lambda: f"{self.log()}\n{self.slurm.ask('squeue')}")


def has_driver(path: Path) -> bool:
    """Tell whether a process is, or becomes, the driver of a run."""
    found = (process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"]))
    return any(is_driver(command, str(path)) for command in found)


def submitted(said: str) -> str:
    """Read from what a command said which job it submitted."""
    return re.search(r"submitted as slurm (\d+)", said)[1]


def lease_names(path: Path) -> list[str]:
    return sorted(file.name for file in (path / "lease").glob("*.json"))


def finished(logs: list[Path]) -> int:
    return sum(log.read_text().count("finished") for log in logs)


@contextlib.contextmanager
def promptly() -> Iterator[None]:
    """Let this session pass all others: on a busy machine a run would be over before it is frozen. Not the daemons."""

    before = os.getpriority(os.PRIO_PROCESS, 0)

    def prefer(nice: int) -> None:
        with contextlib.suppress(OSError):  # root in a container may not, and some kernels have no groups
            os.setpriority(os.PRIO_PROCESS, 0, nice)
            Path("/proc/self/autogroup").write_text(str(nice))

    prefer(before - 10)
    try:
        yield
    finally:
        prefer(before)


@contextlib.contextmanager
def frozen(processes: list[psutil.Process]) -> Iterator[None]:
    """Stop processes for the length of a ``with`` block."""
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()


def computing_workers(path: Path) -> list[psutil.Process]:
    """Find the worker processes that have begun tiles and live."""
    logs = [file for file in (path / "log").glob("*.jsonl") if '"event":"began"' in file.read_text().replace(" ", "")]
    pids = {int(file.stem.rpartition("-")[2]) for file in logs}
    return [psutil.Process(pid) for pid in pids - {os.getpid()} if psutil.pid_exists(pid)]
