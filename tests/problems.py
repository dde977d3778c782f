"""What the tests of the system share beside their fixtures: sizes, a view that remembers, reading a matrix whole."""

import numpy as np

from pipeline.driver import Progress
from pipeline.store import RunDirectory

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


def whole_matrix(run: RunDirectory, readout: str, part: str) -> np.ndarray:
    """Read a kernel matrix from its tiles; the train matrix is mirrored."""
    array = run.kernel(readout, part)
    return array.read_region(*((0, size) for size in array.shape), symmetric=part == "train")
