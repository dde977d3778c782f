"""Real processes, killed in the middle of a run: nothing is lost, nothing is wrong, little is computed twice."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from problems import Recorder, whole_matrix

from pipeline import run as runs
from pipeline.config import RunConfig, parse_config
from pipeline.report import make_report
from pipeline.store import RunDirectory

WORKERS = 2
PATIENCE_SECONDS = 120


KERNELS = {"readouts": {"depths": [3, 8], "poolings": ["gap"]}, "solve": {"ridges": [1e-2]}}
ITERATIONS = {
    "readouts": {"depths": [3], "poolings": ["flatten"]},
    "solve": {"ridges": [1e-2], "solver": "cg", "tile": 32, "rank": 8},
}


def workflow(path: Path, kind: str, sections: dict[str, Any] = KERNELS) -> RunConfig:
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


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    config = workflow(tmp_path_factory.mktemp("undisturbed") / "run", "serial")
    return runs.start(config, Recorder(), threading.Event())


@pytest.fixture
def driver(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
    """Start a run in processes of its own; what is left of them ends with the test."""
    sections = getattr(request, "param", KERNELS)
    (tmp_path / "workflow.json").write_text(workflow(tmp_path / "run", "local", sections).model_dump_json())
    code = (
        "import json, threading; from pipeline import run as runs; from pipeline.config import parse_config\n"
        "from problems import Recorder\n"
        "if __name__ == '__main__':\n"
        "    config = parse_config(json.load(open('workflow.json')), 'test')\n"
        "    runs.start(config, Recorder(), threading.Event())\n"
    )
    (tmp_path / "drive.py").write_text(code)
    folders = [str(Path(__file__).parent.parent), str(Path(__file__).parent.parent.parent)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(folders)}
    process = subprocess.Popen([sys.executable, "drive.py"], cwd=tmp_path, env=environment, start_new_session=True)
    yield process
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def receipts(path: Path) -> int:
    return sum(file.read_bytes().count(b"\n") for file in (path / "journal").glob("*.jsonl"))


def wait_for_receipts(path: Path, count: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while receipts(path) < count:
        assert time.monotonic() < deadline, f"only {receipts(path)} of {count} receipts came"
        time.sleep(0.02)


def computing_worker(path: Path, driver: subprocess.Popen[bytes]) -> psutil.Process:
    """Find a worker process that has begun a tile."""
    logs = {int(file.stem.rpartition("-")[2]) for file in (path / "log").iterdir()}
    return next(child for child in psutil.Process(driver.pid).children(recursive=True) if child.pid in logs)


def begun(path: Path) -> list[tuple[str, int, int]]:
    lines = [json.loads(line) for file in (path / "log").iterdir() for line in file.read_text().splitlines()]
    return [(line["stage"], line["row"], line["col"]) for line in lines if line["event"] == "began"]


def require_same(run: RunDirectory, undisturbed: RunDirectory) -> None:
    for readout in undisturbed.specification["readouts"]:
        for part in ("train", "test", "train_variance", "test_variance"):
            mine, other = whole_matrix(run, readout["name"], part), whole_matrix(undisturbed, readout["name"], part)
            np.testing.assert_array_equal(mine, other)
    mine_solves, other_solves = make_report(run).solves, make_report(undisturbed).solves
    assert [solve.accuracy for solve in mine_solves] == [solve.accuracy for solve in other_solves]


def test_killed_workers_cost_the_tiles_they_were_computing(
    driver: subprocess.Popen[bytes], undisturbed: RunDirectory, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    kills = 2
    for kill in range(kills):
        wait_for_receipts(path, 8 * (kill + 1))
        computing_worker(path, driver).kill()
    assert driver.wait(PATIENCE_SECONDS) == 0
    tiles = begun(path)
    assert len(set(tiles)) == len(set(begun(undisturbed.path)))
    assert len(tiles) - len(set(tiles)) <= kills
    require_same(RunDirectory(path), undisturbed)


def test_a_killed_driver_costs_the_tiles_in_flight(
    driver: subprocess.Popen[bytes], undisturbed: RunDirectory, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    wait_for_receipts(path, 10)
    children = psutil.Process(driver.pid).children(recursive=True)
    driver.kill()
    driver.wait()
    _, alive = psutil.wait_procs(children, PATIENCE_SECONDS)
    assert not alive, "workers outlive their driver"
    assert not make_report(RunDirectory(path)).complete
    run = runs.resume(path, Recorder(), threading.Event())
    tiles = begun(path)
    assert len(tiles) - len(set(tiles)) <= WORKERS
    assert list(path.rglob("*.partial")) == []
    require_same(run, undisturbed)


def test_a_machine_that_goes_down_costs_the_tiles_in_flight(
    driver: subprocess.Popen[bytes], undisturbed: RunDirectory, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    wait_for_receipts(path, 20)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    run = runs.resume(path, Recorder(), threading.Event())
    tiles = begun(path)
    assert len(tiles) - len(set(tiles)) <= WORKERS
    require_same(run, undisturbed)


@pytest.mark.parametrize("driver", [ITERATIONS], indirect=True)
def test_a_worker_and_a_driver_killed_within_iterations_cost_what_was_in_flight_and_no_bit(
    driver: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    undisturbed = runs.start(workflow(tmp_path / "undisturbed", "serial", ITERATIONS), Recorder(), threading.Event())
    path, name = tmp_path / "run", make_report(undisturbed).solves[0].name
    wait_for_iteration(path, name, 3)
    computing_worker(path, driver).kill()
    wait_for_iteration(path, name, 8)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    run = runs.start(workflow(path, "serial", ITERATIONS), Recorder(), threading.Event())
    tiles = begun(path)
    assert set(tiles) == set(begun(undisturbed.path))
    assert len(tiles) - len(set(tiles)) <= 1 + WORKERS
    # One process and two workers, undisturbed and killed: the same sums in the same order.
    found, expected = (each.solved(name, "coefficients").read(0, 0) for each in (run, undisturbed))
    np.testing.assert_array_equal(found, expected)
    assert make_report(run).complete


def wait_for_iteration(path: Path, name: str, number: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    record = path / "solve" / name / "iterations.json"
    while not record.exists() or json.loads(record.read_text())["last"] < number:
        assert time.monotonic() < deadline, f"iteration {number} never came"
        time.sleep(0.01)
