"""The rows and the figure of `training.py`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cntk_pipeline.plots.base import Chart, counted
from cntk_pipeline.plots.drawing import legend_below, number_text, tick_at, tick_log
from cntk_pipeline.plots.style import COLOURS, INK, MARKERS, MUTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


FEWEST = 10
"""Networks of a width whose mean and variance are drawn."""


@dataclass(frozen=True)
class Row:
    """The networks of a width at a time of training, on the test digits.

    Attributes
    ----------
    width, time, starts
        Which networks, and how many.
    distance, distance_deviation : float
        Mean over networks, and its standard error: how far the outputs are from those of gradient flow from the same
        outputs at the beginning, relative to how far the flow went.
    loss : float
        Mean squared error on the training digits.
    accuracy : float
        Mean over networks, on the test digits.
    mean_ratio : float
        Distance of the mean output of all networks from that of the ensemble, relative to the root of the expected
        square of this distance for so many infinitely wide networks: 1 is chance.
    variance, exact_variance : float
        Of an output over networks and over the ensemble, mean over the test digits.
    step_distance : float
        Of gradient descent with the same steps from gradient flow, at infinite width.
    seconds : float
        To train a network to the end, of this process.
    """

    width: int
    time: float
    starts: int
    distance: float
    distance_deviation: float
    loss: float
    accuracy: float
    mean_ratio: float
    variance: float
    exact_variance: float
    step_distance: float
    seconds: float


@dataclass(frozen=True)
class WideNetworks(Chart):
    """Networks of several widths in training beside infinitely wide ones.

    Attributes
    ----------
    rows : tuple of Row
        By width and time.
    """

    rows: tuple[Row, ...]

    key = "wide_networks"
    title = "Wide networks in training"

    @property
    def alt(self) -> str:
        last = [row for row in self.rows if row.time == max(row.time for row in self.rows)]
        distances = ", ".join(f"{row.distance:.2f} at width {row.width:,}" for row in last)
        return (
            f"Four panels over the time of training. The relative distance of the outputs of finite networks from "
            f"gradient flow of infinite width hardly changes over time and falls with the width; at the end it is "
            f"{distances}. The mean over networks is about as far from that of the ensemble as by chance, and the "
            f"variance over wide networks is about that of the ensemble."
        )

    @property
    def height(self) -> float:
        return 6.2

    def draw(self, figure: "Figure") -> None:
        (over_time, over_width), (mean, variance) = figure.subplots(2, 2)
        moving = [row for row in self.rows if row.time > 0]
        _draw_times(over_time, moving, lambda row: row.distance)
        over_time.set_title("distance of one network", fontsize="small")
        over_time.set_ylim(bottom=0)
        _draw_widths(over_width, moving)
        over_width.set_title("the same over the width", fontsize="small")
        several = [row for row in moving if row.starts >= FEWEST]
        _draw_times(mean, several, lambda row: row.mean_ratio)
        mean.axhline(1.0, color=INK, linestyle="--")
        mean.set_title("distance of the mean, 1 is chance", fontsize="small")
        mean.set_ylim(bottom=0)
        _draw_times(variance, several, lambda row: row.variance / row.exact_variance)
        variance.axhline(1.0, color=INK, linestyle="--")
        variance.set_title("variance over the ensemble's", fontsize="small")
        variance.set_ylim(bottom=0)
        for axes in (over_time, mean, variance):
            axes.set_xlabel("time")
            tick_log(axes.xaxis)
        legend_below(figure)


def _draw_times(axes: "Axes", rows: Sequence[Row], height: Callable[[Row], float]) -> None:
    axes.set_xscale("log")
    for position, width in enumerate(sorted({row.width for row in rows})):
        own = [row for row in rows if row.width == width]
        axes.plot(
            [row.time for row in own],
            [height(row) for row in own],
            color=COLOURS[position],
            marker=MARKERS[position],
            markersize=4,
            label=f"width {width:,}, {counted(own[0].starts, 'network')}",
        )


def _draw_widths(axes: "Axes", rows: Sequence[Row]) -> None:
    """Draw the distance at three times, and a guide of slope -1/2 below them."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    times = sorted({row.time for row in rows})
    chosen = [times[0], times[len(times) // 2], times[-1]]
    for position, t in enumerate(chosen):
        own = sorted((row for row in rows if row.time == t), key=lambda row: row.width)
        axes.errorbar(
            [row.width for row in own],
            [row.distance for row in own],
            yerr=[2 * row.distance_deviation for row in own],
            color=MUTED,
            marker=MARKERS[-1 - position],
            markersize=4,
            label=f"time {number_text(t)}",
        )
    widths = sorted({row.width for row in rows})
    lowest = min(row.distance * (row.width / widths[0]) ** 0.5 for row in rows)
    guide = [0.8 * lowest * (width / widths[0]) ** -0.5 for width in widths]
    axes.plot(widths, guide, color=INK, linestyle=":", label="width to the power -1/2")
    axes.set_xlabel("width")
    tick_at(axes.xaxis, widths)
    tick_log(axes.yaxis)
