"""Real processes that are killed, frozen and set against one another, again and again, at times that a seed says.

``make chaos`` kills a hundred of each. Seen to fail: with the look for silent tiles left out of the driver (the frozen
worker's run does not go on), and without the lease (all drivers end well).
"""

import os
import random
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.problems import whole_matrix
from support.processes import (
    PATIENCE_SECONDS,
    begun,
    computing_worker,
    receipts,
    start_driver,
    wait_for_receipts,
    wait_until,
    workflow,
)

from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.workflow.report import make_report

KILLS = int(os.environ.get("CNTK_KILLS", "4"))

MANY = {
    "data": {"source": "digits", "train": 1500 if KILLS > 10 else 750, "test": 30},
    "readouts": {"depths": [2], "poolings": ["flatten"]},
    "kernel": {"tile": 50},
    "solve": {"ridges": [1e-2], "tile": 50},
}
FEW = {
    "readouts": {"depths": [3], "poolings": ["gap"]},
    "solve": {"ridges": [1e-2]},
    "kernel": {"tile": 12},
}

ONE = FEW | {
    "readouts": {"depths": [20], "poolings": ["gap"]},
    "kernel": {"tile": 150},
}
"""A kernel of one tile, which takes seconds."""


Undisturbed = Callable[[dict[str, Any]], RunDirectory]


def wrong_numbers(path: Path, truth: RunDirectory) -> int:
    run = RunDirectory(str(path))
    assert make_report(run).complete
    names = [readout.name for readout in truth.specification.readouts]
    parts = [(name, part) for name in names for part in ("train", "test")]
    wrong = sum(int(np.sum(whole_matrix(run, *part) != whole_matrix(truth, *part))) for part in parts)
    (mine,), (other,) = make_report(run).solves, make_report(truth).solves
    alpha, expected = (
        each.solved(solve.name, "coefficients").read(0, 0) for each, solve in ((run, mine), (truth, other))
    )
    # BLAS sums differently where it has as many threads as cores, by some 1e-14.
    return wrong + int(np.sum(abs(alpha - expected) > 1e-12 * abs(expected).max()))


def report(what: str, count: int, path: Path, bound: int, truth: RunDirectory) -> None:
    tiles = begun(path)
    again, wrong = len(tiles) - len(set(tiles)), wrong_numbers(path, truth)
    print(
        f"{what}: {count} faults injected, {again} tiles recomputed, {max(again - bound, 0)} beyond the bound, "
        f"{wrong} wrong numbers readable as done"
    )
    assert again <= bound
    assert wrong == 0


@pytest.mark.timeout(1200)
def test_workers_killed_again_and_again_cost_the_tiles_in_flight(
    started: list[subprocess.Popen[bytes]], undisturbed: Undisturbed, tmp_path: Path
) -> None:
    truth, path, kills = undisturbed(MANY), tmp_path / "run", 0
    total, rng = len(set(begun(truth.path))), random.Random(1)
    while kills < KILLS:  # a run has tiles for some thirty kills
        path = tmp_path / f"run{kills}"
        driver = start_driver(tmp_path / f"driver{kills}", workflow(path, "local", MANY))
        started.append(driver)
        here = sorted(rng.sample(range(10, total - 40), min(30, KILLS - kills)))
        for count in here:
            wait_for_receipts(path, driver, count)
            computing_worker(path, driver).kill()
        assert driver.wait(PATIENCE_SECONDS) == 0
        kills += len(here)
        report("workers killed", len(here), path, 2 * len(here), truth)


@pytest.mark.timeout(1200)
def test_drivers_killed_again_and_again_cost_the_tile_in_flight(
    started: list[subprocess.Popen[bytes]], undisturbed: Undisturbed, tmp_path: Path
) -> None:
    truth, kills, rng = undisturbed(FEW), 0, random.Random(2)
    path = tmp_path / "run"
    here = 0
    while kills < KILLS:
        driver = start_driver(tmp_path / "driver", workflow(path, "serial", FEW))
        started.append(driver)
        target = receipts(path) + rng.randint(1, 4)
        wait_until(lambda: receipts(path) >= target or driver.poll() is not None, "a receipt")  # noqa: B023
        if driver.poll() is None:
            os.killpg(driver.pid, signal.SIGKILL)
            kills, here = kills + 1, here + 1
        elif kills < KILLS:
            assert driver.returncode == 0
            report("drivers killed", here, path, here, truth)
            path, here = tmp_path / f"run{kills}", 0
        driver.wait()
    driver = start_driver(tmp_path / "driver", workflow(path, "serial", FEW))
    started.append(driver)
    assert driver.wait(PATIENCE_SECONDS) == 0
    report("drivers killed", here, path, here, truth)


@pytest.mark.alone  # a tile that takes two seconds is given to another worker too
def test_a_frozen_worker_holds_nothing_up_and_its_late_tile_does_no_harm(
    started: list[subprocess.Popen[bytes]], undisturbed: Undisturbed, tmp_path: Path
) -> None:
    truth, path = undisturbed(FEW), tmp_path / "run"
    kernel = sum(stage in ("train", "test", "variance") for stage, _, _ in set(begun(truth.path)))
    driver = start_driver(tmp_path / "driver", workflow(path, "local", FEW), patience_seconds=2.0)
    started.append(driver)
    wait_for_receipts(path, driver, 20)
    worker = computing_worker(path, driver)
    worker.suspend()
    wait_for_receipts(path, driver, kernel)  # also the tiles that the worker holds
    worker.resume()
    assert driver.wait(PATIENCE_SECONDS) == 0
    report("frozen", 1, path, 4, truth)


@pytest.mark.alone  # a tile that takes two seconds is given to another worker too
def test_a_worker_frozen_with_the_only_tile_of_its_stage_holds_nothing_up(
    started: list[subprocess.Popen[bytes]], undisturbed: Undisturbed, tmp_path: Path
) -> None:
    truth, path = undisturbed(ONE), tmp_path / "run"
    driver = start_driver(tmp_path / "driver", workflow(path, "local", ONE), patience_seconds=2.0)
    started.append(driver)
    wait_until(lambda: ("train", 0, 0) in begun(path), "the tile to begin")
    worker = computing_worker(path, driver, ("train", 0, 0))
    worker.suspend()
    assert receipts(path, "train") == 0
    wait_for_receipts(path, driver, 1, "train")
    assert begun(path).count(("train", 0, 0)) == 2
    worker.resume()
    assert driver.wait(PATIENCE_SECONDS) == 0
    report("frozen with the only tile", 1, path, 2, truth)


def test_of_drivers_that_start_at_once_one_computes(
    started: list[subprocess.Popen[bytes]], undisturbed: Undisturbed, tmp_path: Path
) -> None:
    truth, path = undisturbed(FEW), tmp_path / "run"
    for number in range(4):
        started.append(start_driver(tmp_path / f"driver{number}", workflow(path, "serial", FEW)))
    ends = [driver.wait(PATIENCE_SECONDS) for driver in started]
    refused = [(tmp_path / f"driver{number}" / "output.txt").read_text() for number, end in enumerate(ends) if end]
    assert all("RunLocked" in text for text in refused), refused
    report("drivers at once", len(ends), path, 0, truth)
    # One may come late enough to find the lease given back and everything done.
    print(f"{len(refused)} of {len(ends)} were refused")
    assert ends.count(0) >= 1
