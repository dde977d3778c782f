"""What the tests of the system share beside their fixtures: sizes, a view that remembers, reading a matrix whole."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cntk_pipeline.config import RunConfig
from cntk_pipeline.driver.driver import Progress
from cntk_pipeline.errors import Interrupted
from cntk_pipeline.opened import OpenRun, open_run
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.owners import Owner
from cntk_pipeline.rundir.specification import DataSpecification, ReadoutSpecification, Specification
from cntk_pipeline.storage import StorePath
from cntk_pipeline.tasks import Receipt, Stage, Task
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.report import make_report
from cntk_pipeline.workflow.wanted import OWNERS

SPECIFICATION = Specification(
    DataSpecification("", 10, 4, (3, 3, 1), ("a", "b"), standardize=True),
    (ReadoutSpecification("deep", "ntk", [{"layer": "Dense"}]),),
    dtype="float32",
    flips=False,
    tile=4,
    numerics_version=1,
)
"""Of a run of which nothing is computed."""

TRAIN, TEST = 37, 11  # neither is a multiple of the tile


class Recorder:
    """A view that remembers what it was shown."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.stages: list[str] = []
        self.moments: list[Progress] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def begin(self, stage: str) -> None:
        self.stages.append(stage)

    def progress(self, progress: Progress) -> None:
        self.moments.append(progress)


class Stopper(Recorder):
    """A view that asks a run to stop, by its event ``stop``, when a condition on what it was shown holds."""

    def __init__(self, condition: Callable[["Stopper"], bool]) -> None:
        super().__init__()
        self.stop = threading.Event()
        self._condition = condition

    def progress(self, progress: Progress) -> None:
        super().progress(progress)
        if self._condition(self):
            self.stop.set()


def stop_after(count: int) -> tuple[Stopper, threading.Event]:
    """Return a view, and the event that it sets when it was shown more than ``count`` moments of progress."""
    view = Stopper(lambda view: len(view.moments) > count)
    return view, view.stop


def stop_at(done: int) -> tuple[Stopper, threading.Event]:
    """Return a view, and the event that it sets when so many tiles of a stage are done."""
    view = Stopper(lambda view: view.moments[-1].done == done)
    return view, view.stop


def stopped(config: RunConfig, done: int) -> OpenRun:
    """Run a workflow until so many tiles of the kernel are done, and open what is left."""
    view, stop = stop_at(done)
    with pytest.raises(Interrupted):
        runs.start(config, view, stop)
    return open_run(str(config.store.path))


def kernel_files(run: RunDirectory) -> list[Path]:
    """List the files of all tiles of the kernel."""
    return sorted(path for path in Path(str(run.path), "kernel.zarr").rglob("c/*/*") if path.is_file())


def require_same_kernel(run: RunDirectory, other: RunDirectory) -> None:
    """Compare every bit of the kernel matrices of two runs."""
    for readout in other.specification.readouts:
        for part in ("train", "test", "train_variance", "test_variance"):
            mine, its = (whole_matrix(each, readout.name, part) for each in (run, other))
            np.testing.assert_array_equal(mine, its)


def require_same(run: RunDirectory, other: RunDirectory) -> None:
    """Compare every bit of the kernel matrices of two runs, and their accuracies."""
    require_same_kernel(run, other)
    mine, its = (make_report(each).solves for each in (run, other))
    assert [solve.accuracy for solve in mine] == [solve.accuracy for solve in its]


def receive(run: RunDirectory, *tasks: Task) -> None:
    """Write receipts of tiles that a test has put in place of the computed ones, which would be repaired otherwise."""
    run.journal.append(
        [
            Receipt(task, tuple(array.describe(index) for array, index in OWNERS[task.stage.kind].places(run, task)))
            for task in tasks
        ]
    )
    run.journal.close()


def scale_an_entry(run: RunDirectory, readout: str, factor: float) -> None:
    """Put a diagonal entry of a computed kernel, times a factor, in its place: below 1, it may not be definite."""
    kernel = run.kernel(readout, "train")
    corner = kernel.read(1, 1).copy()
    corner[3, 3] *= factor
    kernel.write((1, 1), corner)
    receive(run, Task(Stage("train"), 1, 1))


def flip_bit(chunk: Path | StorePath) -> None:
    """Change a value on the disk; its size and the checksum that it carries stay."""
    content = chunk.read_bytes()
    chunk.write_bytes(bytes([content[0] ^ 1]) + content[1:])


def whole_matrix(run: RunDirectory, readout: str, part: str) -> np.ndarray:
    """Read a kernel matrix from its tiles; the train matrix is mirrored."""
    array = run.kernel(readout, part)
    return array.read_region(*((0, size) for size in array.shape), symmetric=part == "train")


def toml(tables: dict[str, Any]) -> str:
    """Write tables of plain values."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in tables.items() if not isinstance(value, dict)]
    for name, table in tables.items():
        if isinstance(table, dict):
            lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def owner_of(function: Callable[[str, Task], Receipt], kind: str = "train") -> Owner:
    """Make the owner of tasks that a test computes by a function, and that write nowhere."""
    return Owner(kind, function, lambda _run, _task: [])


def chunks_of(path: Path) -> dict[str, bytes]:
    """Read all chunks of a run, by their places in its directory."""
    files = (file for file in path.rglob("*") if "c" in file.parts and file.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in files if "quarantine" not in file.parts}
