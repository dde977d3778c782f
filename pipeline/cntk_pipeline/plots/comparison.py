"""Several runs side by side: their scores, and whether two of them differ by more than chance."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cntk_pipeline.errors import ConfigError
from cntk_pipeline.inference import Shown
from cntk_pipeline.opened import OpenRun
from cntk_pipeline.opened.pictures import read_samples
from cntk_pipeline.plots.base import Chart, shortened
from cntk_pipeline.plots.displays.accuracy import Accuracy, Point
from cntk_pipeline.plots.drawing import legend_inches
from cntk_pipeline.plots.scores import R2, score_heights, score_label, score_text
from cntk_pipeline.plots.style import COLOURS, MARKERS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLOCK = 500
"""Number of test images that are compared at once."""


@dataclass(frozen=True)
class Compared:
    """The scores of a run.

    Attributes
    ----------
    name : str
        Tells it from the other runs.
    test : int
        Number of test images.
    points : tuple of Point
        A score for each ridge of each read-out.
    """

    name: str
    test: int
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Comparison(Chart):
    """The scores of all systems of several runs.

    Attributes
    ----------
    score : str
        "accuracy" or "R2".
    runs : tuple of Compared
        The runs with scores.
    """

    score: str
    runs: tuple[Compared, ...]

    key = "scores"
    title = "Scores"

    @classmethod
    def of(cls, runs: Sequence[tuple[str, OpenRun]]) -> "Comparison":
        """Read the scores of runs, each with a name.

        Raises
        ------
        ConfigError, NotComputed
            As `Accuracy.from_run`; and if some runs have an accuracy, and others R2.
        """
        found = [(name, run, Accuracy.from_run(run)) for name, run in runs]
        scores = {each.score for _, _, each in found}
        if len(scores) > 1:
            raise ConfigError("regressions and classifications have no common score: compare runs of one task")
        return cls(
            scores.pop(),
            tuple(Compared(name, run.directory.specification.data.test, each.points) for name, run, each in found),
        )

    @property
    def alt(self) -> str:
        best = [(max(run.points, key=lambda point: point.score), run.name) for run in self.runs]
        said = "; ".join(f"{name}: {self._text(point.score)} by {point.readout}" for point, name in best)
        return f"The best {self.score} of each run on its test images. {said}."

    @property
    def height(self) -> float:
        # Runs stand below each other in half of a row.
        row = max(0.28, 0.08 * len(self.runs))
        return 1.3 + row * len(self._rows) + legend_inches(-(-len(self.runs) // 2))

    @property
    def _rows(self) -> list[str]:
        return list(dict.fromkeys(point.readout for run in self.runs for point in run.points))

    def draw(self, figure: "Figure") -> None:
        axes, rows = figure.add_subplot(), self._rows
        for position, run in enumerate(self.runs):
            shares = np.array([point.score for point in run.points])
            shift = 0.5 * ((position + 0.5) / len(self.runs) - 0.5)  # runs of one read-out stand below each other
            places = [rows.index(point.readout) + shift for point in run.points]
            # The standard error of a share; R2 has none that is as simple.
            errors = None if self.score == R2 else 100 * np.sqrt(shares * (1 - shares) / run.test)
            axes.errorbar(
                score_heights(self.score, shares.tolist()), places, xerr=errors, linestyle="none",
                color=COLOURS[position % len(COLOURS)],
                marker=MARKERS[(position + position // len(COLOURS)) % len(MARKERS)],  # no two runs have both alike
                capsize=2, label=shortened([run.name], 30)[0],
            )  # fmt: skip
        axes.set_yticks(range(len(rows)), shortened(rows, 24))
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel(score_label(self.score) + ("" if self.score == R2 else ", with standard error"))
        figure.legend(loc="outside upper center", ncols=2)

    def tables(self) -> tuple[Shown, ...]:
        rows = tuple(
            (run.name, point.readout, f"{point.ridge:g} ({point.ridge_mode})", self._text(point.score))
            for run in self.runs
            for point in run.points
        )
        return (Shown("scores on test images", ("read-out", "ridge", self.score), rows, first="run"),)

    def _text(self, score: float) -> str:
        return score_text(self.score, score)


@dataclass(frozen=True)
class McNemar:
    """Two systems on the same test images.

    Attributes
    ----------
    first, second : str
        Names of the runs.
    only_first, only_second : int
        Numbers of images that only one of them predicts right.
    p : float
        Of the exact test of McNemar 1947, two-sided: the probability of a difference of this size, or larger, if both
        were right equally often.
    """

    first: str
    second: str
    only_first: int
    only_second: int
    p: float


def mcnemar(names: tuple[str, str], first: np.ndarray, second: np.ndarray) -> McNemar:
    """Compare two systems by the images that only one predicts right.

    Parameters
    ----------
    names : (str, str)
        Of the two.
    first, second : bool array, (n,)
        Whether each image is predicted right.

    Examples
    --------
    Ten images are predicted right by the first alone, none by the second alone: p is 2 / 2^10.

    >>> import numpy as np
    >>> mcnemar(("a", "b"), np.ones(10, bool), np.zeros(10, bool)).p
    0.001953125
    """
    import scipy.stats

    one, other = int(np.count_nonzero(first & ~second)), int(np.count_nonzero(second & ~first))
    p = 1.0 if one + other == 0 else float(scipy.stats.binomtest(one, one + other).pvalue)
    return McNemar(*names, one, other, p)


def have_equal_tests(one: OpenRun, other: OpenRun) -> bool:
    """Tell whether two runs have the same test images with the same labels, in the same order.

    Standardised by other training images, the same image has other numbers; the standardisation is undone first, so
    pixels are compared to a thousandth of their range.
    """
    first, second = one.labels.test, other.labels.test
    if first is None or second is None or one.classes != other.classes or not np.array_equal(first, second):
        return False
    if one.directory.specification.data.shape != other.directory.specification.data.shape:
        return False
    for start in range(0, len(first), BLOCK):
        rows = range(start, min(start + BLOCK, len(first)))
        a, b = read_samples(one.directory, "test", rows), read_samples(other.directory, "test", rows)
        if not np.allclose(a, b, rtol=1e-3, atol=1e-3 * max(float(np.ptp(a)), 1e-30)):
            return False
    return True
