import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from support.problems import Recorder

from cntk_pipeline.clusters import CLUSTERS, WorkerMemory
from cntk_pipeline.clusters.memory import PROCESS_BYTES, USABLE, TileNeed
from cntk_pipeline.config import ClusterConfig, RunConfig
from cntk_pipeline.errors import ConfigError
from cntk_pipeline.solvers import SystemSize
from cntk_pipeline.solvers.cholesky import factor_task_bytes
from cntk_pipeline.solvers.conjugate_gradient import iteration_need
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.report import make_report

Config = Callable[..., RunConfig]


def worker(task_bytes: float, slots: int = 1) -> WorkerMemory:
    """A worker with this much left for each of its tiles."""
    return WorkerMemory(int((slots * task_bytes + PROCESS_BYTES) / USABLE) + 1, slots)


def factor(tile: int) -> TileNeed:
    return TileNeed("factor tile", "solve.tile", tile, 96, factor_task_bytes)


@pytest.mark.parametrize("slots", [1, 4])
def test_the_tile_that_is_named_fits_and_the_next_does_not(slots: int) -> None:
    memory = worker(7 * 8 * 1000**2, slots)
    with pytest.raises(ConfigError, match=r"a factor tile of 2016 samples holds 228 MB.*set solve.tile = 960 at most"):
        factor(2016).require(memory)
    factor(960).require(memory)
    with pytest.raises(ConfigError, match=rf"each of {slots} tiles at once may hold 56 MB"):
        factor(960 + 96).require(memory)


def test_a_worker_too_small_for_any_tile_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no tile would fit: give workers more memory \(cluster.memory_limit\)"):
        factor(2016).require(WorkerMemory(2**20, 1))


@pytest.mark.parametrize(("section", "what"), [("kernel", "kernel tile"), ("solve", "factor tile")])
def test_a_tile_beyond_the_workers_is_refused_before_anything_is_computed_and_another_one_goes_on(
    small_config: Config, monkeypatch: pytest.MonkeyPatch, section: str, what: str
) -> None:
    memory = worker(8e6)
    monkeypatch.setattr("cntk_pipeline.clusters.serial.SerialExecutor.memory", lambda self: memory)
    config = small_config(**{section: {"tile": 4800}})
    if section == "kernel":
        monkeypatch.setattr("cntk_pipeline.workflow.load.clip_tile", lambda tile, *_: tile)
    with pytest.raises(ConfigError, match=f"a {what} of 4800 samples holds"):
        runs.start(config, Recorder(), threading.Event())
    assert not (Path(str(config.store.path)) / "kernel.zarr").exists()
    monkeypatch.undo()
    assert make_report(runs.start(small_config(), Recorder(), threading.Event())).complete


@pytest.mark.parametrize(("inference", "need"), [({}, "518 MB"), ({"leave_one_out": True}, "739 MB")])
def test_leaving_out_takes_more_memory_than_the_factor(
    small_config: Config, monkeypatch: pytest.MonkeyPatch, inference: dict[str, bool], need: str
) -> None:
    monkeypatch.setattr("cntk_pipeline.clusters.serial.SerialExecutor.memory", lambda self: worker(4e8))
    with pytest.raises(ConfigError, match=f"a factor tile of 3040 samples holds {need}"):
        runs.start(small_config(solve={"tile": 3040}, inference=inference), Recorder(), threading.Event())


def test_iterations_that_do_not_fit_are_refused_with_the_rank_that_does() -> None:
    size = SystemSize(1000, 0, 10, 512, 512, "float32")
    memory = worker(iteration_need(size, 100).bytes)
    message = (
        r"conjugate gradients with a preconditioner of rank 256 hold 16 MB in a task.*set solve.rank = 100 at most"
    )
    with pytest.raises(ConfigError, match=message):
        iteration_need(size, 256).require(memory)
    iteration_need(size, 100).require(memory)
    with pytest.raises(ConfigError, match=r"solve\.rank = 100"):
        iteration_need(size, 101).require(memory)
    with pytest.raises(ConfigError, match=r"conjugate gradients hold 8 MB in a task.*: give workers more memory"):
        iteration_need(size, 0).require(worker(1e6))


def test_iterations_beyond_the_workers_are_refused_before_anything_is_computed_whatever_the_blocks(
    small_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = worker(40_000)
    monkeypatch.setattr("cntk_pipeline.clusters.serial.SerialExecutor.memory", lambda self: memory)
    monkeypatch.setattr("cntk_pipeline.workflow.preflight.kernel_task_bytes", lambda *sizes: 0)
    with pytest.raises(ConfigError, match=r"conjugate gradients with a preconditioner of rank 37 hold .*solve\.rank ="):
        runs.start(small_config(solve={"solver": "cg"}), Recorder(), threading.Event())
    assert not (Path(str(small_config().store.path)) / "kernel.zarr").exists()
    # Blocks of any size: a product reads tile by tile.
    config = small_config(solve={"solver": "cg", "rank": 3, "tile": 4800})
    assert make_report(runs.start(config, Recorder(), threading.Event())).complete


@pytest.mark.parametrize("kind", ["local", "slurm", "kubernetes"])
@pytest.mark.parametrize("limit", ["200MB", 200_000_000, 2e8])
def test_bytes_are_bytes_with_and_without_a_unit(kind: str, limit: str | float) -> None:
    """Seen to fail for numbers: kubernetes refused them, and local did not look whether tiles fit."""
    memory = CLUSTERS[kind].memory(ClusterConfig(kind=kind, memory_limit=limit))
    assert memory is not None
    assert memory.bytes == 200_000_000
