"""The posterior deviation of the test images against the errors of their predictions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from cntk_pipeline.errors import ConfigError
from cntk_pipeline.inference import Shown
from cntk_pipeline.opened import OpenRun
from cntk_pipeline.opened.deviations import deviation_factors, deviations_of
from cntk_pipeline.opened.systems import AskedReadout
from cntk_pipeline.plots.base import Display, counted
from cntk_pipeline.plots.chosen import known_labels, the_system
from cntk_pipeline.plots.drawing import DRAWN, legend_below, legend_inches, number_text
from cntk_pipeline.plots.scores import ACCURACY
from cntk_pipeline.plots.style import COLOURS, INK, MARKERS, MUTED
from cntk_pipeline.plots.tile_sample import take_evenly
from cntk_pipeline.solvers.scores import THRESHOLD
from cntk_pipeline.storage.tiled_array import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GROUPS = 10
"""Number of groups of test images, of equal size."""

POINTS = 600
"""Largest number of points in a figure. Test images are taken evenly in the order of their deviations."""

INTERVAL = "interval of 95%"

NORMAL_SHARES = (0.6827, 0.9545)
"""Shares of a Gaussian inside one and two standard deviations."""

QUANTILE = 1.96
"""Of a Gaussian: 95% lie inside."""


@dataclass(frozen=True)
class Group:
    """Test images of similar deviations.

    Attributes
    ----------
    images : int
        Their number.
    deviation : float
        Their mean posterior deviation.
    score : float
        Share of right predictions; in a regression the root mean squared error.
    low, high : float, optional
        Interval of 95% of the share, by Wilson 1927; None in a regression.
    """

    images: int
    deviation: float
    score: float
    low: float | None = None
    high: float | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """The score for people, and its interval where it has one."""
        if self.low is None or self.high is None:
            return (f"{self.score:.4g}",)
        return f"{100 * self.score:.2f}%", f"{100 * self.low:.1f}% to {100 * self.high:.1f}%"


@dataclass(frozen=True)
class Target:
    """The errors of one target of a regression.

    Attributes
    ----------
    name : str
        Of the target.
    inside : (float, float)
        Shares of the test images whose error is within one and within two deviations of the function.
    inside_with_noise : (float, float)
        The same, where the ridge counts as the variance of noise in the targets.
    deviations, errors : array
        Of some test images.
    """

    name: str
    inside: tuple[float, float]
    inside_with_noise: tuple[float, float]
    deviations: Array
    errors: Array


@dataclass(frozen=True)
class Deviation(Display):
    """The posterior deviation of a system against its errors on the test images.

    Deviations are those of `cntk predict --std`: of the function, without noise, and in the unit of the targets.

    Attributes
    ----------
    system : str
        Its name.
    unit : str
        Of the deviations and the errors of a regression.
    groups : tuple of Group
        Ten groups of the test images, the least deviation first.
    targets : tuple of Target
        Of a regression; none in a classification.
    """

    system: str
    unit: str
    groups: tuple[Group, ...]
    targets: tuple[Target, ...]

    key = "deviation"
    title = "Posterior deviation"

    @classmethod
    def from_run(cls, run: OpenRun, readout: AskedReadout = None, ridge: float | None = None) -> Self:
        """Read the posterior variances and the predictions of a system; see `Display.from_run`."""
        system, data = the_system(run, readout, ridge), run.directory.specification.data
        found = run.result("posterior_variance", system.readout, system.ridge)
        labels = known_labels(run)
        if data.task == "classification" and len(data.classes) < 2:
            raise ConfigError(f"{run.path} has one class: no prediction is wrong")
        means = run.predictions(system.readout, system.ridge)
        variances = np.asarray(found["variance"])
        factors = deviation_factors(run.directory, system)
        if data.task == "regression":
            return cls._of_regression(run, system.label, system.absolute_ridge, variances, factors, means - labels)
        right = (
            means.argmax(1) == labels
            if labels.ndim == 1
            else ((means > THRESHOLD) == (labels > THRESHOLD)).mean(axis=1)
        )
        return cls(system.label, "", tuple(_groups_of_shares(deviations_of(variances, factors), right)), ())

    @classmethod
    def _of_regression(
        cls, run: OpenRun, system: str, ridge: float, variances: Array, factors: Array, errors: Array
    ) -> Self:
        """Compare deviations and errors ``(m, targets)``; several targets each in the unit of its own spread."""
        spread, unit = np.ones(errors.shape[1]), "in the unit of the target"
        if errors.shape[1] > 1:
            train, unit = np.asarray(run.labels.train), "in standard deviations of each target"
            # By extremes: the deviation of a constant like 0.1 is 1e-17, since its mean has a rounding error.
            spread = np.where(np.ptp(train, axis=0) > 0, train.std(axis=0), 1.0)
        errors = np.abs(errors) / spread
        deviations, noisy = (deviations_of(each, factors) / spread for each in (variances, variances + ridge))
        order = np.argsort(variances, kind="stable")
        shown = take_evenly(order, POINTS // min(DRAWN, len(run.classes)))
        targets = tuple(
            Target(
                name,
                _inside(errors[:, k], deviations[:, k]),
                _inside(errors[:, k], noisy[:, k]),
                deviations[shown, k],
                errors[shown, k],
            )
            for k, name in enumerate(run.classes)
        )
        groups = tuple(
            Group(len(rows), float(deviations[rows].mean()), float(np.sqrt((errors[rows] ** 2).mean())))
            for rows in _rows_of_groups(order)
        )
        return cls(system, unit, groups, targets)

    @property
    def alt(self) -> str:
        first, last, count = self.groups[0], self.groups[-1], counted(sum(each.images for each in self.groups), "image")
        if not self.targets:
            return (
                f"Accuracy of {self.system} on {count} over the posterior deviation. In the group of the least "
                f"deviation, {first.deviation:.3g}, it is {100 * first.score:.1f}%; in the group of the "
                f"largest, {last.deviation:.3g}, {100 * last.score:.1f}%."
            )
        one, two = self.targets[0].inside
        return (
            f"Absolute errors of {self.system} on {count} against the posterior deviation. "
            f"Of {self.targets[0].name!r}, {100 * one:.1f}% of the errors are within one deviation, "
            f"{100 * two:.1f}% within two."
        )

    @property
    def height(self) -> float:
        return 3.4 + legend_inches(3 + min(DRAWN, len(self.targets)) if self.targets else 1)

    def draw(self, figure: "Figure") -> None:
        if self.targets:
            self._draw_errors(figure)
        else:
            self._draw_accuracies(figure)
        legend_below(figure)

    def _draw_accuracies(self, figure: "Figure") -> None:
        axes, places = figure.add_subplot(), range(len(self.groups))
        middle, low, high = 100 * np.array([(each.score, each.low, each.high) for each in self.groups], float).T
        axes.errorbar(
            places, middle, (middle - low, high - middle),
            color=COLOURS[0], marker=MARKERS[0], capsize=3, label="accuracy of a group, with its interval of 95%",
        )  # fmt: skip
        axes.set_xticks(places, [number_text(float(f"{group.deviation:.3g}")) for group in self.groups])
        axes.set_xlabel("mean posterior deviation of each group of test images")
        axes.set_ylabel("accuracy (%)")

    def _draw_errors(self, figure: "Figure") -> None:
        axes = figure.add_subplot()
        for position, target in enumerate(self.targets[:DRAWN]):
            axes.plot(
                target.deviations, target.errors,
                color=COLOURS[position], marker=".", linestyle="none", alpha=0.6, label=target.name,
            )  # fmt: skip
        largest = max(float(target.deviations.max(initial=0)) for target in self.targets[:DRAWN])
        axes.plot((0, largest), (0, largest), color=MUTED, label="error of one deviation")
        axes.plot((0, largest), (0, 2 * largest), color=MUTED, linestyle=":", label="error of two deviations")
        axes.plot(
            [group.deviation for group in self.groups], [group.score for group in self.groups],
            color=INK, marker="D", label="root mean squared error of a group",
        )  # fmt: skip
        axes.set_xlabel(f"posterior deviation, {self.unit}")
        axes.set_ylabel("absolute error")

    def tables(self) -> tuple[Shown, ...]:
        groups = Shown(
            f"groups by posterior deviation{', ' if self.unit else ''}{self.unit}",
            (
                "test images",
                "mean deviation",
                *(("root mean squared error",) if self.targets else (ACCURACY, INTERVAL)),
            ),
            tuple(
                (f"{number}", f"{group.images:,}", f"{group.deviation:.4g}", *group.texts)
                for number, group in enumerate(self.groups, 1)
            ),
            first="group",
        )
        return (*([_shares(self.targets)] if self.targets else []), groups)


def _shares(targets: Sequence[Target]) -> Shown:
    """Lay out the shares of errors inside of one and two deviations, beside those of a Gaussian."""
    rows = [
        (target.name, *(f"{100 * share:.1f}%" for share in (*target.inside, *target.inside_with_noise)))
        for target in targets
    ]
    gaussian = [f"{100 * share:.1f}%" for share in (*NORMAL_SHARES, *NORMAL_SHARES)]
    columns = ("within 1 deviation", "within 2", "within 1, with noise", "within 2, with noise")
    title = "test images by their error; noise is the ridge as the variance of the targets"
    return Shown(title, columns, (*rows, ("a Gaussian", *gaussian)), first="target")


def _inside(errors: Array, deviations: Array) -> tuple[float, float]:
    """Return the shares of errors within one and within two deviations."""
    return float((errors <= deviations).mean()), float((errors <= 2 * deviations).mean())


def _rows_of_groups(order: Array) -> list[Array]:
    """Cut images, in the order of their deviations, into groups of equal size."""
    return np.array_split(order, min(GROUPS, len(order)))


def _groups_of_shares(deviations: Array, right: Array) -> Iterator[Group]:
    """Make groups of a classification: the share of right predictions, and its interval."""
    for rows in _rows_of_groups(np.argsort(deviations, kind="stable")):
        share = float(right[rows].mean())
        yield Group(len(rows), float(deviations[rows].mean()), share, *wilson(share, len(rows)))


def wilson(share: float, count: int) -> tuple[float, float]:
    """Return the interval of 95% of a share of some images (Wilson 1927).

    Examples
    --------
    >>> low, high = wilson(1.0, 10)
    >>> round(low, 3), high
    (0.722, 1.0)
    """
    square = QUANTILE**2 / count
    middle = (share + square / 2) / (1 + square)
    half = QUANTILE * float(np.sqrt(share * (1 - share) / count + square / (4 * count))) / (1 + square)
    # At 0 and at 1 an end is the share itself, but for rounding.
    return min(max(middle - half, 0.0), share), max(min(middle + half, 1.0), share)
