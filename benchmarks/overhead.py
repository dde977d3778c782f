"""Measures what the system itself costs: a tile, and the slots that stand idle.

Run: ``python benchmarks/overhead.py``, parts of it with ``tiles``, ``efficiency``; what a resume costs: `finished.py`.

``tiles`` sends 20,000 tiles that compute and write nothing through the real driver to 8 worker processes, with the
journal and the logs as in any run. Driver and scheduler share a process here, so their cost is its processor time
over the tiles, whatever else the machine does. ``efficiency`` computes tiles of 20 seconds on 2 processes:
the share of the two slots' time that was spent in tiles. Each figure stands beside its target.
"""

import argparse
import cProfile
import importlib
import pstats
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil
from rich.console import Console
from rich.table import Table

from cntk_pipeline.clusters import CLUSTERS
from cntk_pipeline.clusters.dask.executor import DaskExecutor
from cntk_pipeline.config import ClusterConfig
from cntk_pipeline.driver.driver import WINDOW_PER_SLOT, Driver, Progress
from cntk_pipeline.driver.observed import recording
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.owners import Job, Owner, Place
from cntk_pipeline.rundir.specification import DataSpecification, ReadoutSpecification, Specification
from cntk_pipeline.tasks import Chunk, Receipt, Stage, Task

SPECIFICATION = Specification(
    DataSpecification("", 1, 1, (1,), ("0",), standardize=False),
    (ReadoutSpecification("none", "ntk", []),),
    dtype="float32",
    flips=False,
    tile=1,
    numerics_version=0,
)

WORKERS, TILES = 8, 20_000
TARGET_MILLISECONDS = 1.5
TARGET_TILE_BYTES = 250
"""What the driver's memory may grow by a tile once a quarter are done. Set after measuring, to hold what was reached:
the set of finished tiles, which grows by doubling."""

LONG_SECONDS, LONG_TILES, SLOTS, TARGET_EFFICIENCY = 20.0, 12, 2, 0.98


_T = TypeVar("_T")


@dataclass(frozen=True)
class Figure:
    """What was measured, beside what was aimed at."""

    name: str
    value: str
    target: str
    reached: bool


def do_nothing(run_path: str, task: Task) -> Receipt:
    """Return the receipt of a tile with one chunk."""
    return Receipt(task, (Chunk("kernel.zarr/depth3-gap-ntk/train", 4_000_000, 0, "0" * 32),), 0.1, 20.0, 0.2, "host")


def take_long(run_path: str, task: Task) -> Receipt:
    """Keep a core busy for `LONG_SECONDS` by the clock."""
    began = time.perf_counter()
    while time.perf_counter() - began < LONG_SECONDS:
        pass
    return Receipt(task, (), compute_seconds=time.perf_counter() - began)


def prepare() -> None:
    """Prepare a worker for nothing."""


class Watch:
    """Notes the driver's memory and how many calls are out."""

    def __init__(self, executor: DaskExecutor) -> None:
        self._executor, self._process = executor, psutil.Process()
        self.resident: dict[int, int] = {}
        self.most_out = 0

    def __call__(self, progress: Progress) -> None:
        self.most_out = max(self.most_out, len(self._executor._futures))
        percent = 100 * progress.done // progress.total
        if percent not in self.resident:
            self.resident[percent] = self._process.memory_info().rss


def measure_tiles(folder: Path, tiles: int, profile: bool) -> list[Figure]:
    """Send tiles that do nothing through the driver."""
    run = RunDirectory.create(folder / "tiles", SPECIFICATION, {})
    here = importlib.import_module("overhead")  # by name: workers import it, instead of being sent its code
    owner, stage = Owner("train", here.do_nothing, nowhere), Stage("train")
    jobs = [Job(Task(stage, k // 1000, k % 1000), owner, 1, (k,)) for k in range(tiles)]
    with recording(run), CLUSTERS["local"].executor(ClusterConfig(workers=WORKERS), here.prepare) as executor:
        assert isinstance(executor, DaskExecutor)
        watch = Watch(executor)
        driver = Driver(str(run.path.absolute()), executor, run.journal, watch, threading.Event())
        before, began = processor_seconds(), time.perf_counter()
        outcome = profiled(lambda: driver.run(jobs, {}), profile)
        wall, spent = time.perf_counter() - began, processor_seconds() - before
    assert len(outcome.done) == tiles
    milliseconds = 1000 * spent / tiles
    growth = watch.resident[100] - watch.resident[25]
    tile_bytes, share = growth / (0.75 * tiles), 100 * growth / watch.resident[25]
    window = WINDOW_PER_SLOT * WORKERS
    reached = [milliseconds <= TARGET_MILLISECONDS, tile_bytes <= TARGET_TILE_BYTES, watch.most_out <= window]
    return [
        Figure("driver and scheduler", f"{milliseconds:.2f} ms a tile", f"{TARGET_MILLISECONDS} ms", reached[0]),
        Figure("by the clock", f"{1000 * wall / tiles:.2f} ms a tile", "", True),
        Figure(
            "memory, 25 % to 100 %", f"{tile_bytes:.0f} B a tile ({share:+.1f} %)", f"{TARGET_TILE_BYTES} B", reached[1]
        ),
        Figure("calls out at once", str(watch.most_out), f"{window}", reached[2]),
    ]


def nowhere(_run: RunDirectory, _task: Task) -> list[Place]:
    """Name no chunks: these tasks write nothing."""
    return []


def measure_efficiency(folder: Path) -> list[Figure]:
    """Keep two processes busy with long tiles."""
    run = RunDirectory.create(folder / "efficiency", SPECIFICATION, {})
    here = importlib.import_module("overhead")
    owner, stage = Owner("train", here.take_long, nowhere), Stage("train")
    jobs = [Job(Task(stage, k, 0), owner, 1, (k,)) for k in range(LONG_TILES)]
    with recording(run), CLUSTERS["local"].executor(ClusterConfig(workers=SLOTS), here.prepare) as executor:
        driver = Driver(str(run.path.absolute()), executor, run.journal, lambda _: None, threading.Event())
        began = time.perf_counter()
        driver.run(jobs, {})
        wall = time.perf_counter() - began
    busy = sum(receipt.seconds for receipt in run.journal.receipts())
    efficiency = busy / (SLOTS * wall)
    name = f"{SLOTS} processes, {LONG_TILES} tiles of {LONG_SECONDS:.0f} s"
    return [Figure(name, f"{efficiency:.4f} in tiles", str(TARGET_EFFICIENCY), efficiency >= TARGET_EFFICIENCY)]


def processor_seconds() -> float:
    """Processor time of this process: the driver, the scheduler, and what minds the workers."""
    times = psutil.Process().cpu_times()
    return times.user + times.system


def profiled(action: Callable[[], _T], profile: bool) -> _T:
    """Run an action; print where its time went where that is asked for."""
    if not profile:
        return action()
    profiler = cProfile.Profile()
    result = profiler.runcall(action)
    pstats.Stats(profiler).sort_stats("cumulative").print_stats(45)
    return result


def main() -> None:
    """Measure the parts that are asked for, and show them in a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=["tiles", "efficiency", []], default=[])
    parser.add_argument("--tiles", type=int, default=TILES, help="how many that do nothing")
    parser.add_argument("--profile", action="store_true", help="print where the driver's time goes")
    options = parser.parse_args()
    parts = options.parts or ["tiles", "efficiency"]
    figures = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "tiles" in parts:
            figures += measure_tiles(folder, options.tiles, options.profile)
        if "efficiency" in parts:
            figures += measure_efficiency(folder)
    table = Table("", "measured", "at most, or at least", "", box=None, pad_edge=False)
    for figure in figures:
        table.add_row(figure.name, figure.value, figure.target, "" if figure.reached else "missed")
    Console(soft_wrap=True).print(table)


if __name__ == "__main__":
    main()
