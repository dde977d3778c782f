"""Runs whose processes are killed at the first tile of each stage that a test names: no stage goes by before the kill.

The kill comes from within: the tile is written, and its process ends before the receipt is sent.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import dask
import scipy.linalg  # noqa: F401 - loads a BLAS of its own beside NumPy's
from distributed.utils import get_mp_context
from threadpoolctl import threadpool_limits

from cntk_pipeline.config import RunConfig
from cntk_pipeline.driver import driver
from cntk_pipeline.driver.observed import Observed
from cntk_pipeline.tasks import Receipt, Task
from cntk_pipeline.workflow import run as runs
from support.problems import Recorder
from support.processes import WORKERS, start_driver

_DRIVE = """
import json, sys
from cntk_pipeline.config import parse_config
from support import gates

if __name__ == "__main__":
    gates.drive(parse_config(json.load(open("workflow.json")), "test"), sys.argv[1:])
"""

_FOLDER = "gates"


@dataclass(frozen=True)
class Gated:
    """The computation of a task, which ends its process at the first tile of a gate that is computed at all.

    Attributes
    ----------
    folder : str
        Has a file for each gate where a process was killed.
    gates : tuple of str
        Kinds of stages, as in "product", or with the row of a tile, as in "product 3".
    """

    compute: Callable[[str, Task], Receipt]
    folder: str
    gates: tuple[str, ...]

    def __call__(self, run_path: str, task: Task) -> Receipt:
        receipt = self.compute(run_path, task)
        for gate in (task.stage.kind, f"{task.stage.kind} {task.row}"):
            if gate in self.gates and _is_first(Path(self.folder, gate)):
                os.kill(os.getpid(), signal.SIGKILL)
        return receipt


def _is_first(file: Path) -> bool:
    try:
        file.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def drive(config: RunConfig, gates: Iterable[str]) -> None:
    """Run a workflow in a process of its own, and again for as long as a gate kills the driver."""
    # A worker is forked from a process that has imported all, and is there again at once.
    dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"})
    get_mp_context().set_forkserver_preload(["distributed", "support.gates"])
    folder = Path(_FOLDER).absolute()
    folder.mkdir(exist_ok=True)
    gated = partial(Gated, folder=str(folder), gates=tuple(gates))
    driver.Observed = lambda compute: Observed(gated(compute))
    # One tile at a time on all workers: only the tile that dies with its worker is blamed, so none is given up, and
    # other workers go on while one is started again.
    driver.WINDOW_PER_SLOT = 1 / WORKERS
    threadpool_limits(1, user_api="blas")  # as in a worker: with more threads BLAS sums in another order
    while True:
        # Forked: it need not import again.
        child = multiprocessing.get_context("fork").Process(
            target=runs.start, args=(config, Recorder(), threading.Event())
        )
        child.start()
        child.join()
        if child.exitcode != -signal.SIGKILL:
            sys.exit(child.exitcode)


def start_gated(folder: Path, config: RunConfig, gates: Iterable[str]) -> subprocess.Popen[bytes]:
    """Start a run whose workers, or drivers where these compute, die at gates; `killed_at` lists those gates."""
    return start_driver(folder, config, script=_DRIVE, arguments=gates)


def killed_at(folder: Path) -> set[str]:
    """List the gates at which a process was killed."""
    return {file.name for file in (folder / _FOLDER).iterdir()}
