"""The memory of a driver and of a look at a run, by the tile: a run may have ten million."""

import threading
import tracemalloc
from collections.abc import Callable

import finished
import pytest

from cntk_pipeline.clusters import CLUSTERS
from cntk_pipeline.config import ClusterConfig
from cntk_pipeline.driver.driver import Driver, Progress
from cntk_pipeline.errors import Interrupted
from cntk_pipeline.gram.tiles import is_whole, kernel_jobs
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.verification import finished as look_up
from cntk_pipeline.workflow.report import make_report

TILES = 50_000

LOOK_BYTES = 350
"""A tile in a look at a run: some 90 of its receipt, and up to 200 of what does not grow, shared by so few tiles."""

DRIVER_BYTES = 60
"""A missing tile in the driver: its place in the order, and what sorting takes."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    folder = tmp_path_factory.mktemp("many")
    assert finished.make(folder, TILES) >= TILES
    return RunDirectory(folder / "run")


def most_bytes_a_tile(action: Callable[[], object]) -> float:
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1] / TILES
    finally:
        tracemalloc.stop()


def test_a_resume_looks_finished_tiles_up_in_some_bytes_each(many: RunDirectory) -> None:
    run, jobs = RunDirectory(many.path), kernel_jobs(many)
    look_up(run, jobs[:10])  # what is imported and compiled on first use
    run = RunDirectory(many.path)
    found = []
    assert most_bytes_a_tile(lambda: found.append(look_up(run, jobs))) < LOOK_BYTES
    done, bad = found[0]
    assert (len(done), bad) == (len(jobs), [])
    assert is_whole(run)


def test_a_status_adds_finished_tiles_up_in_some_bytes_each(many: RunDirectory) -> None:
    make_report(many)
    run = RunDirectory(many.path)
    reports = []
    assert most_bytes_a_tile(lambda: reports.append(make_report(run))) < LOOK_BYTES
    kernel = [stage for stage in reports[0].stages if stage.phase == "kernel"]
    assert sum(stage.done for stage in kernel) == sum(stage.total for stage in kernel) == len(kernel_jobs(run))
    assert sum(stage.seconds for stage in kernel) == pytest.approx(20.3 * len(kernel_jobs(run)))


def test_a_driver_keeps_missing_tiles_in_some_bytes_each(many: RunDirectory) -> None:
    """It is asked to stop before its first tile, so that all are missing."""
    run, stop, shown = RunDirectory(many.path), threading.Event(), list[Progress]()
    stop.set()

    def drive() -> None:
        with CLUSTERS["serial"].executor(ClusterConfig(kind="serial"), lambda: None, stop) as executor:
            driver = Driver(str(run.path), executor, run.journal, shown.append, stop)
            with pytest.raises(Interrupted):
                driver.run(kernel_jobs(run), ())

    assert most_bytes_a_tile(drive) < DRIVER_BYTES
    assert (shown[0].done, shown[0].total) == (0, len(kernel_jobs(run)))
    assert is_whole(run)
