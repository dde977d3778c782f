"""Real processes, killed in the middle of a run: nothing is lost, nothing is wrong, little is computed twice."""

import contextlib
import json
import os
import random
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from faults.test_chaos import Undisturbed
from support.problems import Recorder, chunks_of, require_same
from support.processes import (
    KERNELS,
    PATIENCE_SECONDS,
    WORKERS,
    begun,
    computing_worker,
    receipts,
    start_driver,
    wait_for_receipts,
    wait_until,
    wait_while,
    workflow,
)

from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.tiling import lower_tiles
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.report import make_report

ITERATIONS = {
    "readouts": {"depths": [3], "poolings": ["flatten"]},
    "solve": {"ridges": [1e-2], "solver": "cg", "tile": 32, "rank": 8},
}
COMPUTED = ITERATIONS | {"solve": ITERATIONS["solve"] | {"kernel_bytes": 0}}
"""The same, with tiles of the kernel that each pass computes."""
FACTOR = {
    "data": {"source": "digits", "train": 720, "test": 30},
    "readouts": {"depths": [2], "poolings": ["flatten"]},
    "kernel": {"tile": 60},
    "solve": {"ridges": [1e-2], "tile": 60},
}
"""90 tiles of a factor, each quick."""

ON_CENTRES = {"solver": "centres", "centres": 60, "ridges": [1e-2], "tile": 16}
CHOICES = {
    choice: {
        "data": {"source": "digits", "train": 300, "test": 30},
        "readouts": {"depths": [3], "poolings": ["gap"]},
        "solve": ON_CENTRES | {"centre_choice": choice},
        "inference": {"leave_one_out": True},
    }
    for choice in ("random", "rpcholesky")
}
STAGES = {
    "random": ("train", "centre_factor", "normal_factor"),
    "rpcholesky": ("pivots", "residual_diagonal", "test", "normal_equations", "coefficients"),
}
"""The stages of a run on centres, in the order in which they begin, each with one of the choices."""


@pytest.fixture
def driver(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
    """Start a run in processes of its own; what is left of them ends with the test."""
    process = start_driver(tmp_path, workflow(tmp_path / "run", "local", getattr(request, "param", KERNELS)))
    yield process
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_killed_workers_cost_the_tiles_they_were_computing(
    driver: subprocess.Popen[bytes], undisturbed: Undisturbed, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    kills = 2
    for kill in range(kills):
        wait_for_receipts(path, driver, 8 * (kill + 1))
        computing_worker(path, driver).kill()
    assert driver.wait(PATIENCE_SECONDS) == 0
    tiles = begun(path)
    assert len(set(tiles)) == len(set(begun(undisturbed(KERNELS).path)))
    assert len(tiles) - len(set(tiles)) <= kills
    require_same(RunDirectory(path), undisturbed(KERNELS))


def test_a_killed_driver_costs_the_tiles_in_flight(
    driver: subprocess.Popen[bytes], undisturbed: Undisturbed, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    wait_for_receipts(path, driver, 10)
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
    require_same(run, undisturbed(KERNELS))


def test_a_machine_that_goes_down_costs_the_tiles_in_flight(
    driver: subprocess.Popen[bytes], undisturbed: Undisturbed, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    wait_for_receipts(path, driver, 20)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    run = runs.resume(path, Recorder(), threading.Event())
    tiles = begun(path)
    assert len(tiles) - len(set(tiles)) <= WORKERS
    require_same(run, undisturbed(KERNELS))


@pytest.mark.parametrize(
    ("driver", "sections"),
    [(ITERATIONS, ITERATIONS), (COMPUTED, COMPUTED)],
    indirect=["driver"],
    ids=["read", "computed"],
)
def test_a_worker_and_a_driver_killed_within_iterations_cost_what_was_in_flight_and_no_bit(
    driver: subprocess.Popen[bytes], sections: dict[str, Any], undisturbed: Undisturbed, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    wait_for_iteration(path, driver, 3)
    computing_worker(path, driver).kill()
    wait_for_iteration(path, driver, 8)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    whole = undisturbed(sections)  # not before: the driver would be at its end by then
    name = make_report(whole).solves[0].name
    run = runs.start(workflow(path, "serial", sections), Recorder(), threading.Event())
    tiles = begun(path)
    assert set(tiles) == set(begun(whole.path))
    assert len(tiles) - len(set(tiles)) <= 1 + WORKERS
    # One process and two workers, undisturbed and killed: the same sums in the same order.
    found, expected = (each.solved(name, "coefficients").read(0, 0) for each in (run, whole))
    np.testing.assert_array_equal(found, expected)
    assert make_report(run).complete


def wait_for_iteration(path: Path, driver: subprocess.Popen[bytes], number: int) -> None:
    """Wait until the only solve of a run has come so far."""
    wait_while(
        driver,
        lambda: any(json.loads(file.read_text())["last"] >= number for file in path.glob("solve/*/iterations.json")),
        f"iteration {number}",
    )


@pytest.mark.parametrize("driver", [FACTOR], indirect=True)
def test_workers_killed_within_a_factorisation_cost_the_tiles_in_flight_and_no_bit(
    driver: subprocess.Popen[bytes], undisturbed: Undisturbed, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    kills = sorted(random.Random(4).sample(range(8, 75), 3))
    for count in kills:
        wait_for_receipts(path, driver, count, "factor")
        computing_worker(path, driver).kill()
    assert driver.wait(PATIENCE_SECONDS) == 0
    whole = undisturbed(FACTOR)  # not before: the driver would be at its end by then
    name = make_report(whole).solves[0].name
    tiles = begun(path)
    assert set(tiles) == set(begun(whole.path))
    again = len(tiles) - len(set(tiles))
    # A worker computes one tile while it waits for the disk with the one before.
    assert again <= 2 * len(kills)
    print(f"{len(kills)} workers killed among {len(set(tiles))} tiles: {again} computed again")
    run = RunDirectory(path)
    found, expected = (each.solved(name, "factor") for each in (run, whole))
    for tile in lower_tiles(expected.cut(0)):
        # Equal, not only within 1e-12: the same sums in the same order.
        np.testing.assert_array_equal(found.read(tile.row, tile.col), expected.read(tile.row, tile.col))
    assert make_report(run).complete


def wait_for_stage(path: Path, driver: subprocess.Popen[bytes], stage: str) -> None:
    """Wait until a tile of a stage is done, or the driver has ended, which was too fast to be killed there."""
    wait_until(lambda: receipts(path, stage) > 0 or driver.poll() is not None, f"a tile of {stage}")


def whole_chunks_of(path: Path) -> dict[str, bytes]:
    """Read all chunks of a run, without what a killed writer left half-written, which the next driver sweeps."""
    return {name: content for name, content in chunks_of(path).items() if not name.endswith(".partial")}


@pytest.mark.parametrize(("driver", "choice"), [(CHOICES[name], name) for name in CHOICES], indirect=["driver"])
def test_workers_killed_within_each_stage_of_a_run_on_centres_cost_the_tiles_in_flight_and_no_bit(
    driver: subprocess.Popen[bytes], choice: str, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    path, kills = tmp_path / "run", 0
    for stage in STAGES[choice]:
        wait_for_stage(path, driver, stage)
        with contextlib.suppress(psutil.NoSuchProcess):
            if driver.poll() is None:
                computing_worker(path, driver).kill()
                kills += 1
    assert driver.wait(PATIENCE_SECONDS) == 0
    assert kills > len(STAGES[choice]) // 2
    whole = undisturbed(CHOICES[choice])  # not before: the driver would be at its end by then
    tiles = begun(path)
    assert set(tiles) == set(begun(whole.path))
    assert len(tiles) - len(set(tiles)) <= 2 * kills
    print(f"{kills} workers killed: {len(tiles) - len(set(tiles))} of {len(set(tiles))} tiles computed again")
    assert whole_chunks_of(path) == whole_chunks_of(Path(whole.path))


@pytest.mark.parametrize("choice", CHOICES)
def test_drivers_killed_within_each_stage_of_a_run_on_centres_cost_the_tiles_in_flight_and_no_bit(
    choice: str, undisturbed: Undisturbed, tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    whole, path, kills = undisturbed(CHOICES[choice]), tmp_path / "run", 0
    for stage in STAGES[choice]:
        driver = start_driver(tmp_path, workflow(path, "local", CHOICES[choice]))
        started.append(driver)
        wait_for_stage(path, driver, stage)
        if driver.poll() is None:
            os.killpg(driver.pid, signal.SIGKILL)
            kills += 1
        driver.wait()
    assert kills > len(STAGES[choice]) // 2
    runs.start(workflow(path, "serial", CHOICES[choice]), Recorder(), threading.Event())
    tiles = begun(path)
    assert set(tiles) == set(begun(whole.path))
    assert len(tiles) - len(set(tiles)) <= 2 * WORKERS * kills
    print(f"{kills} drivers killed: {len(tiles) - len(set(tiles))} of {len(set(tiles))} tiles computed again")
    assert whole_chunks_of(path) == whole_chunks_of(Path(whole.path))
