"""The process ends at the k-th operation on the store, for every k, and within it, or that operation fails.

Every STEP-th operation is tried, every seventh where nothing is said; `make chaos` tries all. Odd steps come to even
numbers too.

Seen to fail: with receipts that are not written to the journal, and with a journal that cannot bear a torn line; with
errors of workers that are not tried again. What is tried again for the driver, `tests/storage` sees fail.
"""

import itertools
import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faults import faulty
from faults.faulty import Crash, FaultyPath, Plan, follow
from support.problems import Recorder, chunks_of
from support.processes import begun
from support.restarts import forget

from cntk_pipeline.clusters import Completion
from cntk_pipeline.clusters.serial import SerialExecutor
from cntk_pipeline.config import RunConfig
from cntk_pipeline.errors import PipelineError, TilesFailed
from cntk_pipeline.rundir import lease
from cntk_pipeline.storage import STORAGES, LocalPath, retries
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.report import make_report

Config = Callable[..., RunConfig]

STEP = int(os.environ.get("CNTK_OPERATIONS_STEP", "7"))
SEEDS = 10 if STEP == 1 else 5

SMALL = {
    "data": {"train": 12, "test": 3},
    "readouts": {"depths": [3], "poolings": ["flatten"], "kinds": ["ntk"]},
    "kernel": {"tile": 8},
    "solve": {"ridges": [1e-2], "tile": 8},
}

CENTRES = SMALL | {
    "solve": SMALL["solve"] | {"solver": "centres", "centres": 6},
    "inference": {
        "leave_one_out": True,
        "learning_curve": True,
        "posterior_variance": True,
        "calibration": True,
        "evidence": True,
    },
}


PIVOTS = SMALL | {"solve": CENTRES["solve"] | {"centres": 12, "centre_choice": "rpcholesky"}}


@pytest.fixture(autouse=True)
def faulty_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(STORAGES, "", FaultyPath)
    monkeypatch.setattr("cntk_pipeline.driver.driver.FIRST_DELAY_SECONDS", 0.001)
    monkeypatch.setattr("cntk_pipeline.driver.driver.POLL_SECONDS", 0.001)  # nothing comes while the driver waits
    monkeypatch.setattr(retries, "DELAYS_SECONDS", (0.0, 0.0, 0.0))
    # The driver that crashed was this process, which lives on: its lease is taken without a wait.
    monkeypatch.setattr(lease, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(lease, "RENEW_SECONDS", 600.0)
    yield
    follow(Plan())
    forget()


def run_to_the_end(config: RunConfig) -> Path:
    run = runs.start(config, Recorder(), threading.Event())
    assert make_report(run).complete
    return Path(run.path)


def again(path: Path) -> int:
    """Count the tiles of a finished run that were begun once more."""
    counts = Counter(begun(LocalPath(path)))
    assert counts, f"the logs of {path} say of no tile that it was begun"
    return sum(counts.values()) - len(counts)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("sections", "step"),
    [(SMALL, STEP), (CENTRES, 5 * STEP), (PIVOTS, 5 * STEP)],
    ids=["factor", "centres", "pivots"],
)
def test_a_process_that_ends_at_any_operation_costs_the_tile_in_flight(
    small_config: Config, tmp_path: Path, sections: dict[str, Any], step: int
) -> None:
    whole = small_config(**sections, store={"path": str(tmp_path / "whole")})
    truth = chunks_of(run_to_the_end(whole))
    forget()
    operations = recomputed = beyond = wrong = 0
    for k in itertools.count(1, step):  # to the first run that ends before: a slow one asks more often whether to stop
        config = small_config(**sections, store={"path": str(tmp_path / str(k))})
        follow(Plan(crash_at=k))
        try:
            runs.start(config, Recorder(), threading.Event())
            break
        except Crash:
            operations += 1
        forget()
        follow(Plan())
        path = run_to_the_end(config)
        forget()
        found = chunks_of(path)
        assert found.keys() == truth.keys(), f"crash at {k}: {sorted(found.keys() ^ truth.keys())}"
        wrong += sum(found[name] != truth[name] for name in truth)
        recomputed += again(path)
        beyond += max(again(path) - 2, 0)
        assert list(path.rglob("*.partial")) == []
    print(
        f"{operations} faults injected, {recomputed} tiles recomputed, {beyond} beyond the bound, "
        f"{wrong} wrong numbers readable as done"
    )
    assert operations > 100 // step
    assert recomputed
    assert (beyond, wrong) == (0, 0)


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_operations_of_workers_that_fail_for_the_moment_are_tried_again(
    small_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    truth = chunks_of(run_to_the_end(small_config(**SMALL, store={"path": str(tmp_path / "whole")})))
    wait = SerialExecutor.wait

    def wait_on_a_flaky_store(self: SerialExecutor, timeout_seconds: float) -> list[Completion]:
        faulty.plan.failing = share
        try:
            return wait(self, timeout_seconds)
        finally:
            faulty.plan.failing = 0.0

    monkeypatch.setattr(SerialExecutor, "wait", wait_on_a_flaky_store)
    faults = retries = runs_begun = 0
    for seed in range(SEEDS):
        forget()
        plan = follow(Plan(rng=random.Random(seed)))
        config = small_config(**SMALL, store={"path": str(tmp_path / str(seed))})
        for _ in range(10):
            view = Recorder()
            runs_begun += 1
            try:
                runs.start(config, view, threading.Event())
                break
            except TilesFailed:  # four times in a row
                continue
            finally:
                retries += max(moment.retries for moment in view.moments)
        assert chunks_of(tmp_path / str(seed)) == truth
        faults += plan.failed
    print(
        f"{share:.0%}: {faults} faults injected, {retries} retries, {runs_begun} runs begun for {SEEDS}, "
        "0 wrong numbers readable as done"
    )
    assert retries


def test_operations_of_the_driver_that_fail_for_the_moment_are_tried_again(
    small_config: Config, tmp_path: Path
) -> None:
    truth = chunks_of(run_to_the_end(small_config(**SMALL, store={"path": str(tmp_path / "whole")})))
    faults = runs_begun = 0
    for seed in range(SEEDS):
        config = small_config(**SMALL, store={"path": str(tmp_path / str(seed))})
        for attempt in range(10):
            forget()
            plan = follow(Plan(rng=random.Random(10 * seed + attempt), flickering=0.05))
            runs_begun += 1
            ended = ends_well(config)
            faults += plan.failed
            if ended:
                break
        follow(Plan())
        assert chunks_of(tmp_path / str(seed)) == truth
    print(
        f"5%: {faults} faults injected, {runs_begun} runs begun for {SEEDS}, 0 tiles recomputed beyond the bound, "
        "0 wrong numbers readable as done"
    )
    assert faults > runs_begun


def ends_well(config: RunConfig) -> bool:
    """Run a workflow; tell whether it came to its end, or to an error of the package that names the run's place."""
    try:
        runs.start(config, Recorder(), threading.Event())
        return True
    except PipelineError as error:
        said = str(error)
    assert str(config.store.path) in said
    return False


@pytest.mark.timeout(1200)
def test_an_operation_that_goes_on_failing_ends_a_run_with_an_error_that_says_where(
    small_config: Config, tmp_path: Path
) -> None:
    truth = chunks_of(run_to_the_end(small_config(**SMALL, store={"path": str(tmp_path / "whole")})))
    operations = ended = recomputed = beyond = wrong = 0
    for k in itertools.count(1, max(2, 2 * STEP - 1)):
        forget()
        config = small_config(**SMALL, store={"path": str(tmp_path / str(k))})
        plan = follow(Plan(outage_at=k))
        ended += not ends_well(config)
        if not plan.failed:
            break
        operations += 1
        follow(Plan())
        forget()
        path = run_to_the_end(config)
        found = chunks_of(path)
        wrong += sum(found.get(name) != content for name, content in truth.items())
        recomputed, beyond = recomputed + again(path), beyond + max(again(path) - 2, 0)
    print(
        f"{operations} faults injected, {ended} runs ended and resumed, {recomputed} tiles recomputed, {beyond} beyond "
        f"the bound, {wrong} wrong numbers readable as done"
    )
    assert operations > 50 // STEP
    assert recomputed
    assert (beyond, wrong) == (0, 0)
