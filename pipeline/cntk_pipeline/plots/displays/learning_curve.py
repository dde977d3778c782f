"""The test error over the number of training images, with a power law fitted to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from cntk_pipeline.errors import ConfigError
from cntk_pipeline.inference import Shown
from cntk_pipeline.opened import OpenRun
from cntk_pipeline.opened.systems import AskedReadout
from cntk_pipeline.plots.base import Display, counted
from cntk_pipeline.plots.drawing import DRAWN, legend_below, legend_inches, number_text, tick_log
from cntk_pipeline.plots.power_law import FEWEST_SIZES, PowerLaw, fit_power_law
from cntk_pipeline.plots.records import records_of
from cntk_pipeline.plots.style import COLOURS, MARKERS
from cntk_pipeline.solvers.scores import main_score, scores_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GUESSING = 0.9
"""A size at which the error is above this share of a guess's error is left out of the fit: no law holds there yet."""


@dataclass(frozen=True)
class Curve:
    """The learning curve of a system.

    Attributes
    ----------
    system : str
        Its name.
    sizes : tuple of int
        Numbers of training images.
    errors : tuple of float
        Of the test images: 1 - accuracy, of a regression 1 - R2.
    law : PowerLaw or None
        Fitted to the errors between 0 and those of guessing; None where these are too few.
    """

    system: str
    sizes: tuple[int, ...]
    errors: tuple[float, ...]
    law: PowerLaw | None


@dataclass(frozen=True)
class LearningCurve(Display):
    """The learning curves of all systems, each with a power law.

    An error of a classification has the deviation of a binomial share, and points count by it in the fit. All points
    have the same test images, and each training set holds the smaller ones, so that they are not independent: the
    standard error of an exponent is a guide.

    Attributes
    ----------
    error : str
        "error", or "1 - R2" in a regression.
    guess : float
        The error without any training image: of the most frequent class, or of the mean target.
    curves : tuple of Curve
        One for each system.
    counted : str
        What the sizes of the curves count, in words: training images, or centres.
    """

    error: str
    guess: float
    curves: tuple[Curve, ...]
    counted: str = "training images"

    key = "learning_curve"
    title = "Learning curve"

    @classmethod
    def from_run(cls, run: OpenRun, readout: AskedReadout = None, ridge: float | None = None) -> Self:
        """Read the learning curves of a run; see `Display.from_run`."""
        data, found = run.directory.specification.data, records_of(run, "learning_curve", readout, ridge)
        regression = data.task == "regression"
        guess, curves = _guess(run), []
        for label, record in found:
            shares = [main_score(each) for each in scores_of(record, len(record.sizes))]
            errors = [1 - share for share in shares if share is not None]
            if len(errors) == len(record.sizes):
                law = _law(record.sizes, errors, guess, None if regression else data.test)
                curves.append(Curve(label, record.sizes, tuple(errors), law))
        if not curves:
            raise ConfigError(
                f"{run.path} has one class, or one test image: there is no error over the training images"
            )
        return cls("1 - R2" if regression else "error", guess, tuple(curves), found[0][1].counted)

    @property
    def drawn(self) -> tuple[Curve, ...]:
        """The curves in the figure: the ones with the smallest errors at the largest size."""
        best = sorted(self.curves, key=lambda curve: curve.errors[-1])[:DRAWN]
        return tuple(curve for curve in self.curves if curve in best)

    @property
    def alt(self) -> str:
        best = min(self.curves, key=lambda curve: curve.errors[-1])
        most, fewest = (counted(best.sizes[k], self._one) for k in (-1, 0))
        text = (
            f"The {self.error} on the test images over the number of {self.counted}, of "
            f"{counted(len(self.curves), 'system')}. The smallest with {most} is {self._text(best.errors[-1])}, of "
            f"{best.system}; with {fewest} it is {self._text(best.errors[0])}."
        )
        if best.law is not None:
            text += f" The error falls like a power of {-best.law.exponent:.2f} +- {best.law.exponent_error:.2f}."
        return text

    @property
    def height(self) -> float:
        return 3.4 + legend_inches(len(self.drawn))

    def draw(self, figure: "Figure") -> None:
        axes = figure.add_subplot()
        axes.loglog()
        for position, curve in enumerate(self.drawn):
            colour, marker = COLOURS[position], MARKERS[position]
            label = curve.system if curve.law is None else f"{curve.system}: exponent {_exponent(curve.law)}"
            # An error of 0 has no place on a logarithmic axis.
            points = [(size, error) for size, error in zip(curve.sizes, curve.errors, strict=True) if error > 0]
            sizes, errors = zip(*points, strict=True) if points else ((), ())
            line = "-" if curve.law is None else "none"
            axes.plot(sizes, errors, color=colour, marker=marker, linestyle=line, label=label)
            if curve.law is not None:
                grid = np.geomspace(curve.law.sizes[0], curve.law.sizes[-1], 50)
                axes.plot(grid, curve.law.at(grid), color=colour, linestyle="--", linewidth=1.2)
        tick_log(axes.xaxis)
        tick_log(axes.yaxis, text=number_text if self.error == "1 - R2" else lambda error: number_text(100 * error))
        axes.set_xlabel(self.counted)
        axes.set_ylabel("1 - R2 on test images" if self.error == "1 - R2" else "error on test images (%)")
        legend_below(figure)

    @property
    def _one(self) -> str:
        return "centre" if self.counted == "centres" else "image"

    def _text(self, error: float) -> str:
        return f"{error:.4g}" if self.error == "1 - R2" else f"{100 * error:.2f}%"

    def tables(self) -> tuple[Shown, ...]:
        errors = [
            (curve.system, f"{size:,}", self._text(error))
            for curve in self.curves
            for size, error in zip(curve.sizes, curve.errors, strict=True)
        ]
        laws = [
            (curve.system, f"{_exponent(curve.law)}", f"{curve.law.floor:.3g}", f"{curve.law}", _span(curve.law))
            if curve.law is not None
            else (curve.system, "none", "", f"fewer than {FEWEST_SIZES} sizes with an error to fit", "")
            for curve in self.curves
        ]
        columns = ("exponent", "floor", f"{self.error} of m {self.counted}", "fitted to")
        return (
            Shown("power laws (least squares on logarithms)", columns, tuple(laws)),
            Shown(f"errors over the {self.counted}", (self.counted, self.error), tuple(errors)),
        )


def _exponent(law: PowerLaw) -> str:
    return f"{-law.exponent:.3f} ± {law.exponent_error:.3f}"


def _span(law: PowerLaw) -> str:
    return f"{len(law.sizes)} sizes from {law.sizes[0]:,} to {law.sizes[-1]:,}"


def _guess(run: OpenRun) -> float:
    """Return the error of the best constant prediction."""
    labels = run.labels.test
    if run.directory.specification.data.task == "regression" or labels is None or not len(labels):
        return 1.0
    if labels.ndim == 1:
        return 1 - float(np.bincount(labels).max()) / len(labels)
    shares = labels.mean(axis=0)
    return float(np.minimum(shares, 1 - shares).mean())


def _law(sizes: Sequence[int], errors: Sequence[float], guess: float, test: int | None) -> PowerLaw | None:
    """Fit a law to the errors between 0 and those of guessing; ``test`` counts the images of a classification."""
    points = [(size, error) for size, error in zip(sizes, errors, strict=True) if 0 < error <= GUESSING * guess]
    # The deviation of a share p of m images is sqrt(p (1 - p) / m), of its logarithm sqrt((1 - p) / (p m)).
    deviations = None if test is None else [((1 - error) / (error * test)) ** 0.5 for _, error in points]
    return fit_power_law([size for size, _ in points], [error for _, error in points], deviations)
