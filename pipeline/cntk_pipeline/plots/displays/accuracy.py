"""The scores of all read-outs and ridges: over depth and pooling, beside the points of the paper."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from cntk_pipeline.errors import ConfigError, NotComputed
from cntk_pipeline.inference import Shown
from cntk_pipeline.opened import OpenRun
from cntk_pipeline.opened.systems import AskedReadout, find_readout
from cntk_pipeline.plots.base import Display, counted
from cntk_pipeline.plots.drawing import legend_below, legend_inches
from cntk_pipeline.plots.paper import PaperPoint, paper_points
from cntk_pipeline.plots.records import wanted_solves
from cntk_pipeline.plots.scores import score_heights, score_label, score_name, score_text
from cntk_pipeline.plots.style import COLOURS, MARKERS, MUTED
from cntk_pipeline.solvers.scores import main_score

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DEPTH = re.compile(r"(?:^|-)depth(\d+)(?=-|$)")


@dataclass(frozen=True)
class Point:
    """The score of one ridge of one read-out on the test images.

    Attributes
    ----------
    readout : str
        Its name.
    depth : int or None
        Of its network; None where its name says none.
    series : str
        The name without the depth.
    ridge, ridge_mode
        Of the system.
    score : float
        Accuracy, or R2 of a regression.
    squared_error : float or None
        Mean squared error of the predictive means.
    """

    readout: str
    depth: int | None
    series: str
    ridge: float
    ridge_mode: str
    score: float
    squared_error: float | None


@dataclass(frozen=True)
class Accuracy(Display):
    """The scores of all systems, and the paper's accuracies of the same networks on CIFAR-10.

    Attributes
    ----------
    score : str
        "accuracy" or "R2".
    points : tuple of Point
        A score for each ridge of each read-out.
    paper : tuple of PaperPoint
        The accuracies of Arora et al. 2019 of the same networks.
    """

    score: str
    points: tuple[Point, ...]
    paper: tuple[PaperPoint, ...]

    key = "accuracy"
    title = "Accuracy"

    @classmethod
    def from_run(cls, run: OpenRun, readout: AskedReadout = None, ridge: float | None = None) -> Self:
        """Read the scores of a run; see `Display.from_run`."""
        if not run.directory.specification.data.has_test_labels or not run.directory.specification.data.test:
            raise ConfigError(f"{run.path} has no labels of test images, so there is no accuracy")
        wanted_solves(run, readout, ridge)  # refuses names and ridges that the run has not
        name = None if readout is None else find_readout(run.directory, readout)
        points = []
        for row in run.metrics:
            value = main_score(row)
            if value is None or name not in (None, row.readout) or ridge not in (None, row.ridge):
                continue
            found = _DEPTH.search(row.readout)
            depth = int(found[1]) if found else None
            series = _DEPTH.sub("", row.readout).strip("-") or "network"
            points.append(Point(row.readout, depth, series, row.ridge, row.ridge_mode, value, row.squared_error))
        if not points and not any(row.relative_residual is not None for row in run.metrics):
            raise NotComputed(f"{run.path}: no system is solved yet")
        if not points:
            raise ConfigError(f"{run.path} has one class, or one image: there is no score")
        theirs = [point for point in paper_points(run.directory.specification) if name in (None, point.readout)]
        return cls(score_name(run), tuple(points), tuple(theirs))

    @property
    def best(self) -> Point:
        """The point of the highest score."""
        return max(self.points, key=lambda point: point.score)

    @property
    def alt(self) -> str:
        worst = min(self.points, key=lambda point: point.score)
        text = f"{self.score.capitalize()} of {counted(len(self.points), 'system')} on the test images. "
        if worst is not self.best:
            text += f"The lowest is {self._text(worst.score)}, of {worst.readout}. "
        return f"{text}The highest is {self._text(self.best.score)}, of {self.best.readout}."

    @property
    def over_depth(self) -> bool:
        """Whether the figure has depth on its axis: at least two depths are known."""
        return len({point.depth for point in self.points if point.depth is not None}) > 1

    @property
    def height(self) -> float:
        papers = {point.name for point in self.paper}
        if self.over_depth:
            return 3.4 + legend_inches(len({point.series for point in self.points}) + len(papers))
        rows, ridges = len({point.readout for point in self.points}), len({point.ridge for point in self.points})
        return 1.0 + 0.3 * rows + legend_inches(ridges + bool(papers))

    def draw(self, figure: "Figure") -> None:
        axes = figure.add_subplot()
        if self.over_depth:
            self._draw_over_depth(axes)
        else:
            self._draw_rows(axes)
        legend_below(figure)

    def _draw_over_depth(self, axes: "Axes") -> None:
        names = list(dict.fromkeys(point.series for point in self.points))
        for position, name in enumerate(names):
            colour, marker = COLOURS[position % len(COLOURS)], MARKERS[position % len(MARKERS)]
            mine = [point for point in self.points if point.series == name and point.depth is not None]
            best = _best_by_depth(mine)
            axes.plot(
                [point.depth or 0 for point in best], self._heights(best),
                color=colour, marker=marker, label=name,
            )  # fmt: skip
            others = [point for point in mine if point not in best]
            axes.plot(
                [point.depth or 0 for point in others], self._heights(others),
                color=colour, marker=marker, linestyle="none", alpha=0.4,
            )  # fmt: skip
        for name in dict.fromkeys(point.name for point in self.paper):
            theirs = sorted((point for point in self.paper if point.name == name), key=lambda point: point.depth)
            axes.plot(
                [point.depth for point in theirs], [100 * point.accuracy for point in theirs],
                color=MUTED, marker="x", linestyle=":", label=f"{name}, {self._source}",
            )  # fmt: skip
        depths = sorted({point.depth for point in self.points if point.depth is not None})
        axes.set_xticks(depths, [str(depth) for depth in depths])
        axes.set_xlabel("depth")
        axes.set_ylabel(score_label(self.score))

    def _draw_rows(self, axes: "Axes") -> None:
        names = list(dict.fromkeys(point.readout for point in self.points))
        ridges = sorted({point.ridge for point in self.points})
        for position, ridge in enumerate(ridges):
            mine = [point for point in self.points if point.ridge == ridge]
            axes.plot(
                self._heights(mine), [names.index(point.readout) for point in mine],
                color=COLOURS[position % len(COLOURS)], marker=MARKERS[position % len(MARKERS)], linestyle="none",
                label=f"ridge {ridge:g}",
            )  # fmt: skip
        if self.paper:
            axes.plot(
                [100 * point.accuracy for point in self.paper], [names.index(point.readout) for point in self.paper],
                color=MUTED, marker="x", linestyle="none", label=self._source,
            )  # fmt: skip
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlabel(score_label(self.score))

    @property
    def _source(self) -> str:
        return f"Arora et al. 2019, {self.paper[0].train:,} images"

    def _text(self, score: float) -> str:
        return score_text(self.score, score)

    def _heights(self, points: Sequence[Point]) -> list[float]:
        return score_heights(self.score, [point.score for point in points])

    def tables(self) -> tuple[Shown, ...]:
        theirs = {point.readout: f"{100 * point.accuracy:.2f}%" for point in self.paper}
        errors = any(point.squared_error is not None for point in self.points)
        rows = []
        for point in self.points:
            row = [point.readout, f"{point.ridge:g} ({point.ridge_mode})", self._text(point.score)]
            if errors:
                row.append("" if point.squared_error is None else f"{point.squared_error:.4g}")
            if theirs:
                row.append(theirs.get(point.readout, ""))
            rows.append(tuple(row))
        columns = ("ridge", self.score, *(["squared error"] if errors else []), *([self._source] if theirs else []))
        return (Shown("scores on test images", columns, tuple(rows), first="read-out"),)


def _best_by_depth(points: Sequence[Point]) -> list[Point]:
    """Choose the point of the highest score at each depth."""
    depths = sorted({point.depth for point in points if point.depth is not None})
    return [max((point for point in points if point.depth == depth), key=lambda point: point.score) for depth in depths]
