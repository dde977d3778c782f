"""Compares the two ways to choose a ridge by leave-one-out: one eigendecomposition, and a factor of each candidate.

Run: ``python benchmarks/ridges.py``, with numbers of images for others than 800 and 1,700. Both ways choose in a run on
this process and one thread. What is compared is processor time from the end of the kernel to the chosen ridge, so that
tasks count with all they cost but the waiting for the disk.
"""

import argparse
import tempfile
import threading
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from cntk_pipeline.config import parse_config
from cntk_pipeline.driver.driver import Progress
from cntk_pipeline.inference import auto_ridge
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.report import make_report

TEST = 16


class _Watch:
    """A view of a run that notes the processor time at which its first choice of a ridge and its solve began."""

    def __init__(self) -> None:
        self.began: dict[str, float] = {}

    @property
    def seconds(self) -> float:
        """What the choice took."""
        return self.began["solve"] - self.began["ridge"]

    def say(self, text: str) -> None:
        """Show nothing."""

    def begin(self, phase: str) -> None:
        """Note the first phase of each kind; phases of candidates are called by their ridges."""
        self.began.setdefault(phase.partition(" ")[0], time.process_time())

    def progress(self, progress: Progress) -> None:
        """Show nothing."""


def choice_seconds(count: int, by_eigenvalues: bool) -> tuple[float, float]:
    """Choose a ridge for noise; return the processor seconds and the ridge."""
    random, watch = np.random.default_rng(0), _Watch()
    with tempfile.TemporaryDirectory() as folder, patch.object(auto_ridge, "in_memory", lambda *_: by_eigenvalues):
        data = Path(folder) / "noise.npz"
        images = random.standard_normal((count + TEST, 4, 4, 3)).astype(np.float32)
        labels = np.arange(count + TEST) % 10
        np.savez(data, x_train=images[TEST:], y_train=labels[TEST:], x_test=images[:TEST], y_test=labels[:TEST])
        workflow = {
            "data": {"source": "npz", "path": str(data)},
            "network": {"preset": "fully_connected"},
            "readouts": {"depths": [2]},
            "solve": {"ridges": "auto"},
            "cluster": {"kind": "serial"},
            "store": {"path": str(Path(folder) / "run")},
        }
        run = runs.start(parse_config(workflow, "ridges"), watch, threading.Event())
        return watch.seconds, make_report(run).solves[0].ridge


def main() -> None:
    """Print the ratio of both ways for some numbers of images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("counts", nargs="*", type=int, default=[800, 1700], help="training images (default 800 1700)")
    table = Table("images", "eigenvalues s", "factors s", "ratio", "ridge")
    with threadpool_limits(1):
        for count in parser.parse_args().counts:
            (eigen, ridge), (factors, same) = (choice_seconds(count, way) for way in (True, False))
            if ridge != same:
                raise SystemExit(f"expected the same ridge of both ways, got {ridge:g} and {same:g}")
            table.add_row(f"{count:,}", f"{eigen:.2f}", f"{factors:.2f}", f"{factors / eigen:.1f}", f"{ridge:g}")
    Console().print(table)


if __name__ == "__main__":
    main()
