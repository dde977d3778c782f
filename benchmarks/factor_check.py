"""Times a real factorisation on this machine, for `simulate` to compare with."""

import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil

from cntk_pipeline.config import parse_config
from cntk_pipeline.driver.driver import Progress
from cntk_pipeline.workflow import run as runs

TURNS, TEST = 2, 16


class _Watch:
    """A view of a run that notes when its factorisation began and ended, by the clock and by its workers' time."""

    def __init__(self) -> None:
        self.began = self.ended = (0.0, 0.0)

    @property
    def seconds(self) -> tuple[float, float]:
        """How long it took, and the processor time of all workers meanwhile."""
        return self.ended[0] - self.began[0], self.ended[1] - self.began[1]

    def say(self, text: str) -> None:
        """Show nothing."""

    def begin(self, stage: str) -> None:
        """Note the beginning of the solve."""
        if stage == "solve":
            self.began = self._now()

    def progress(self, progress: Progress) -> None:
        """Note the end of the coefficients."""
        if progress.receipt is not None and progress.receipt.task.stage.kind == "coefficients":
            self.ended = self._now()

    def _now(self) -> tuple[float, float]:
        taken = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
        return time.perf_counter(), sum(each.user + each.system for each in taken)


def time_factor(count: int, tile: int, workers: int) -> tuple[float, float]:
    """Factor a real matrix on local workers, some times over; return the least seconds and processor seconds."""
    random = np.random.default_rng(0)
    watches = [_Watch() for _ in range(TURNS)]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "noise.npz"
        images = random.standard_normal((count + TEST, 4, 4, 3)).astype(np.float32)
        labels = np.arange(count + TEST) % 10
        np.savez(data, x_train=images[TEST:], y_train=labels[TEST:], x_test=images[:TEST], y_test=labels[:TEST])
        for turn, watch in enumerate(watches):
            workflow = {
                "data": {"source": "npz", "path": str(data)},
                "network": {"preset": "fully_connected"},
                "readouts": {"depths": [2]},
                "kernel": {"tile": tile},
                "solve": {"ridges": [1e-2 * (turn + 1)], "tile": tile},  # each ridge is another factorisation
                "cluster": {"kind": "local", "workers": workers},
                "store": {"path": str(Path(folder) / "run")},
            }
            runs.start(parse_config(workflow, "check"), watch, threading.Event())
    clock, processors = (min(each) for each in zip(*(watch.seconds for watch in watches), strict=True))
    return clock, processors
