"""Runs in processes of their own, for tests that kill them: starting one, and what its directory says of it."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil

from cntk_pipeline.config import RunConfig, parse_config
from cntk_pipeline.rundir.directory import RunDirectory

NOBODY = 65534
"""Number of a user without rights."""

WORKERS = 2
PATIENCE_SECONDS = 240.0
"""How long an event may take on a machine that others use too; nothing waits longer than its event."""

KERNELS = {"readouts": {"depths": [3, 8], "poolings": ["gap"]}, "solve": {"ridges": [1e-2]}}

_DRIVE = """
import json, sys, threading
from cntk_pipeline.driver import stragglers as patience
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.config import parse_config
from support.problems import Recorder

if __name__ == "__main__":
    patience.FLOOR_SECONDS = float(sys.argv[1])
    config = parse_config(json.load(open("workflow.json")), "test")
    runs.start(config, Recorder(), threading.Event())
"""


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Reach only the files that anybody may, for the length of a ``with`` block; root would reach all."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


def workflow(path: Path, kind: str, sections: dict[str, Any] = KERNELS) -> RunConfig:
    """Make a workflow on the digits, which takes seconds; ``sections`` replace its own."""
    return parse_config(
        {
            "data": {"source": "digits", "train": 150, "test": 30},
            "network": {"preset": "cntk"},
            "kernel": {"tile": 16},
            "cluster": {"kind": kind, "workers": WORKERS},
            "store": {"path": str(path)},
        }
        | sections,
        "test",
    )


def start_driver(
    folder: Path,
    config: RunConfig,
    patience_seconds: float = 60.0,
    script: str = _DRIVE,
    arguments: Iterable[str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a run in a process group of its own, with ``folder`` for what it prints.

    ``patience_seconds`` is the least that it waits for a tile before another worker is given it too; a busy machine
    takes a while. Another ``script`` has ``arguments`` of its own.
    """
    folder.mkdir(exist_ok=True)
    (folder / "workflow.json").write_text(config.model_dump_json())
    (folder / "drive.py").write_text(script)
    tests = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent / "pipeline")])}
    with open(folder / "output.txt", "ab") as output:
        return subprocess.Popen(
            [sys.executable, "drive.py", *([str(patience_seconds)] if arguments is None else arguments)],
            cwd=folder,
            env=environment,
            start_new_session=True,
            stderr=output,
        )


def receipts(path: Path, stage: str = "") -> int:
    """Count the receipts in the journal of a run, of stages that begin with ``stage``."""
    mark = b'"stage":"' + stage.encode()
    return sum(line.count(mark) for file in (path / "journal").glob("*.jsonl") for line in file.open("rb"))


def wait_until(
    condition: Callable[[], bool], what: str, explain: Callable[[], str] = str, seconds: float = PATIENCE_SECONDS
) -> None:
    """Wait for a condition to hold; fail with ``what`` was waited for, and an explanation, if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}\n{explain()}"
        time.sleep(0.02)


def wait_for_receipts(path: Path, driver: subprocess.Popen[bytes], count: int, stage: str = "") -> None:
    """Wait until the journal of a run holds so many receipts; a driver that fails before is shown."""
    wait_while(driver, lambda: receipts(path, stage) >= count, f"{count} receipts of {stage or 'any stage'}")


def wait_while(driver: subprocess.Popen[bytes], condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition to hold; fail at once where the driver has ended without."""

    def is_over() -> bool:
        ended = driver.poll() is not None  # asked first: what it did last is seen below
        holds = condition()
        assert holds or not ended, f"the driver ended with {driver.returncode} before {what}: output.txt says why"
        return holds

    wait_until(is_over, what)


def computing_worker(
    path: Path, driver: subprocess.Popen[bytes], task: tuple[str, int, int] | None = None
) -> psutil.Process:
    """Find a worker process that has begun a tile, or a certain one; where all were killed, wait for the next.

    Raises
    ------
    psutil.NoSuchProcess
        If the driver ends first.
    """
    found: list[psutil.Process] = []

    def is_found() -> bool:
        if driver.poll() is not None:
            raise psutil.NoSuchProcess(driver.pid, msg="the driver has ended")
        logs = {
            int(file.stem.rpartition("-")[2])
            for file in (path / "log").iterdir()
            if task is None or task in _begun(file.read_bytes())
        }
        children = psutil.Process(driver.pid).children(recursive=True)
        found.extend(child for child in children if child.pid in logs and child.status() != psutil.STATUS_ZOMBIE)
        return bool(found)

    wait_until(is_found, "a worker that computes")
    return found[0]


def begun(run: RunDirectory | Path, *stages: str) -> list[tuple[str, int, int]]:
    """List the tiles that any worker of a run began, as often as they were begun: of some stages, or of all.

    ``begun(run, "factor")`` has those of each solve, whose stages are ``factor:SOLVE``.
    """
    folder = (run.path if isinstance(run, RunDirectory) else run) / "log"
    files = folder.glob("*.jsonl") if isinstance(folder, Path) else folder.children()
    tiles = [tile for file in files for tile in _begun(file.read_bytes())]
    return [tile for tile in tiles if not stages or tile[0].partition(":")[0] in stages]


def kernel_tiles_begun(run: RunDirectory | Path) -> list[tuple[str, int, int]]:
    """List in order the tiles of kernel matrices that any worker of a run began."""
    return sorted(begun(run, "train", "test", "variance"))


def _begun(log: bytes) -> list[tuple[str, int, int]]:
    lines = [json.loads(line) for line in log.splitlines(keepends=True) if line.endswith(b"\n")]
    return [(line["stage"], line["row"], line["col"]) for line in lines if line.get("event") == "began"]


def free_port() -> int:
    """Find a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def nothing() -> None:
    """Prepare nothing in a worker."""
