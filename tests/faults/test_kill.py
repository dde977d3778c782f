"""Real processes, killed in the middle of a run: nothing is lost, nothing is wrong, little is computed twice."""

import contextlib
import os
import random
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from faults.test_chaos import Undisturbed
from support.gates import killed_at, start_gated
from support.problems import Recorder, chunks_of, require_same
from support.processes import (
    KERNELS,
    PATIENCE_SECONDS,
    WORKERS,
    begun,
    computing_worker,
    start_driver,
    wait_for_receipts,
    workflow,
)

from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.tiling import lower_tiles
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.report import make_report

FACTOR = {
    "data": {"source": "digits", "train": 720, "test": 30},
    "readouts": {"depths": [2], "poolings": ["flatten"]},
    "kernel": {"tile": 60},
    "solve": {"ridges": [1e-2], "tile": 60},
}
"""90 tiles of a factor, each quick."""

SMALL = {
    "data": {"source": "digits", "train": 120, "test": 30},
    "readouts": {"depths": [2], "poolings": ["flatten"]},
    "kernel": {"tile": 30},
}
ITERATIONS = {"ridges": [1e-2], "solver": "cg", "tile": 60, "rank": 8, "tolerance": 1e-2}
ON_CENTRES = {"ridges": [1e-2], "solver": "centres", "tile": 30, "centres": 60}
RESULTS = {name: True for name in ("leave_one_out", "learning_curve", "posterior_variance", "evidence", "calibration")}
WAYS = {
    "read": SMALL | {"kernel": {"tile": 60}, "solve": ITERATIONS},
    "computed": SMALL | {"kernel": {"tile": 60}, "solve": ITERATIONS | {"kernel_bytes": 0}},
    "random": SMALL | {"solve": ON_CENTRES | {"centre_choice": "random"}, "inference": RESULTS},
    "rpcholesky": SMALL | {"solve": ON_CENTRES | {"centre_choice": "rpcholesky"}},
}
"""Runs without a factor: of conjugate gradients with a kernel that is stored, or computed in each pass; of centres."""

GATES = {
    "read": ("sketch", "product 2", "step 3"),
    "computed": (
        *("train", "test", "sketch", "basis", "step", "product 2", "sum 2", "step 3"),
        *("coefficients", "residual"),
    ),
    "random": (
        *("train", "test", "variance", "train_variance", "centre_factor", "normal_equations", "normal_factor"),
        *("coefficients", "mean", "residual", *RESULTS),
    ),
    "rpcholesky": ("train_variance", "pivots", "train", "residual_diagonal", "test"),
}
"""The stages of each at which a process is killed; of iterations and their products also a later row than the first.

Stages that do the same in two ways are left out of one.
"""


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


def whole_chunks_of(path: Path) -> dict[str, bytes]:
    """Read all chunks of a run, without what a killed writer left half-written, which the next driver sweeps."""
    return {name: content for name, content in chunks_of(path).items() if not name.endswith(".partial")}


@pytest.mark.parametrize("kind", ["local", "serial"], ids=["workers", "drivers"])
@pytest.mark.parametrize("way", WAYS)
def test_processes_killed_at_each_stage_of_a_run_without_a_factor_cost_a_tile_each_and_no_bit(
    way: str, kind: str, undisturbed: Undisturbed, tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    path, whole = tmp_path / "run", undisturbed(WAYS[way])
    driver = start_gated(tmp_path, workflow(path, kind, WAYS[way]), GATES[way])
    started.append(driver)
    assert driver.wait(PATIENCE_SECONDS) == 0
    assert killed_at(tmp_path) == set(GATES[way])
    tiles = begun(path)
    assert set(tiles) == set(begun(whole.path))
    again = len(tiles) - len(set(tiles))
    # A driver that goes on takes the tile over as it lies there; a driver that has lost a worker has it computed anew.
    # On a machine at five times its load, one worker more than those killed was lost at times.
    kills = len(GATES[way])
    assert (kills <= again <= 2 * kills) if kind == "local" else again == 0
    print(f"{len(GATES[way])} processes killed: {again} of {len(set(tiles))} tiles computed again")
    assert whole_chunks_of(path) == whole_chunks_of(Path(whole.path))
    assert make_report(RunDirectory(path)).complete
