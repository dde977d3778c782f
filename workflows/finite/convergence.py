"""Kernels of finite networks beside the exact ones: the error falls like one over the root of the width.

    python workflows/finite/convergence.py                      # everything that is not in convergence.csv yet
    python workflows/finite/convergence.py --widest 256 --out small.csv

The NNGP and the NTK are limits of the kernels of finite networks, as the width of all layers grows (Lee et al. 2018,
arXiv:1711.00165; Jacot et al. 2018, arXiv:1806.07572). Each row of the CSV file is one network, kind and width. Rows
are appended as they are computed, and rows that are there are not computed again.
"""

import argparse
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from architectures import DENSE, IMAGES, NETWORKS, WIDEST
from records import append, read

from cntk_pipeline import kernel_matrix
from cntk_pipeline.finite import empirical_kernels
from cntk_pipeline.kernels import KINDS
from cntk_pipeline.layers import Sign
from cntk_pipeline.plots.base import Chart, counted
from cntk_pipeline.plots.drawing import legend_below, tick_at, tick_log
from cntk_pipeline.plots.style import COLOURS, INK, MARKERS, MUTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HERE = Path(__file__).parent
DRAWS = 8
"""Networks whose matrices are averaged, and the networks of a width from 1,024 on."""

MOST_DRAWS = 96
"""Networks of a small width, which cost little."""

EXPECTED, ALLOWED = -0.5, 0.15
"""The slope of the logarithm of the error over that of the width, and how far a measured one may be away."""


@dataclass(frozen=True)
class Row:
    """The kernels of the networks of a width.

    Attributes
    ----------
    network, kind, width
        Which ones.
    draws : int
        Networks.
    error : float
        Root of the mean over networks of the squared error; all errors are of Frobenius norms, relative to the exact
        kernel's.
    deviation : float
        Standard error of the logarithm of ``error``, by resampling the networks.
    mean_error : float
        The same of means of the matrices of `DRAWS` networks.
    seconds : float
        Of this process, for both kinds.
    """

    network: str
    kind: str
    width: int
    draws: int
    error: float
    deviation: float
    mean_error: float
    seconds: float


@dataclass(frozen=True)
class Slope:
    """A line fitted to the logarithms of errors over those of widths, weighted by their deviations.

    Attributes
    ----------
    value, deviation : float
        The slope and its standard error.
    """

    value: float
    deviation: float


def inputs(network: str) -> np.ndarray:
    """Draw a few inputs: six vectors of 10 numbers, or images of 4 x 4 x 3."""
    return np.random.default_rng(0).standard_normal((6, 4, 4, 3) if network in IMAGES else (6, 10))


def measure(network: str, width: int) -> list[Row]:
    """Draw networks of a width, and compare their kernels with the exact ones: a row for each kind."""
    layer, x = NETWORKS[network], inputs(network)
    kinds = ("nngp",) if Sign() in layer.flattened() else ("nngp", "ntk")
    draws = min(max(DRAWS * 1024 // width, DRAWS), MOST_DRAWS)
    began = time.process_time()
    seed = 10**5 * list(NETWORKS).index(network) + width  # no two widths or architectures share weights
    found = empirical_kernels(layer, x, kinds=kinds, width=width, seed=seed, draws=draws, dtype="float32")
    seconds = time.process_time() - began
    rows = []
    for position, kind in enumerate(kinds):
        exact = kernel_matrix(layer, x, kind=kind, dtype="float64")
        size = np.linalg.norm(exact)
        errors = np.linalg.norm(found[:, position] - exact, axis=(1, 2)) / size
        means = found[:, position].reshape(-1, DRAWS, *exact.shape).mean(1)
        mean_error, _ = root_mean_square(np.linalg.norm(means - exact, axis=(1, 2)) / size)
        rows.append(Row(network, kind, width, draws, *root_mean_square(errors), mean_error, seconds))
    return rows


def root_mean_square(errors: np.ndarray) -> tuple[float, float]:
    """Return the root of the mean square, and the standard error of its logarithm, by 1,000 resamplings."""
    chosen = np.random.default_rng(0).integers(0, len(errors), (1000, len(errors)))
    again = np.log(np.mean(errors[chosen] ** 2, axis=1)) / 2
    return float(np.sqrt(np.mean(errors**2))), float(again.std())


def fit(rows: Sequence[Row]) -> Slope:
    """Fit the slope of the errors of one network and kind, of at least two widths."""
    widths, errors, deviations = np.array([(row.width, row.error, row.deviation) for row in rows]).T
    (value, _), covariance = np.polyfit(np.log(widths), np.log(errors), 1, w=1 / deviations, cov="unscaled")
    return Slope(float(value), float(np.sqrt(covariance[0, 0])))


def slopes(rows: Iterable[Row]) -> dict[tuple[str, str], Slope]:
    """Fit the slopes of all networks and kinds that have two widths or more."""
    lines = by_network(rows)
    return {key: fit(of_key) for key, of_key in lines.items() if len(of_key) > 1}


def by_network(rows: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    """Sort rows by network and kind, in the order of `NETWORKS`, then by width."""
    order = list(NETWORKS)
    lines: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(rows, key=lambda row: (order.index(row.network), row.kind, row.width)):
        lines.setdefault((row.network, row.kind), []).append(row)
    return lines


@dataclass(frozen=True)
class Errors(Chart):
    """The errors over the width: of one network, and of the mean of some."""

    rows: tuple[Row, ...]

    key = "convergence"
    title = "Kernels of finite networks: distance to the exact kernel"

    @property
    def alt(self) -> str:
        found = [slope.value for slope in slopes(self.rows).values()]
        return (
            f"Relative errors of the kernels of {counted(len({row.network for row in self.rows}), 'architecture')}, "
            f"over the width, on logarithmic axes. All fall along lines, with slopes from {min(found):.2f} to "
            f"{max(found):.2f}; the means of {DRAWS} matrices lie below, likewise."
        )

    @property
    def height(self) -> float:
        return 5.8

    def draw(self, figure: "Figure") -> None:
        panels = figure.subplots(2, 2, sharex="col", sharey=True)
        for column, (family, members) in enumerate((("fully connected", DENSE), ("images", IMAGES))):
            own = [row for row in self.rows if row.network in members]
            for line, (axes, name) in enumerate(zip(panels[:, column], ("error", "mean_error"), strict=True)):
                what = "one network" if line == 0 else f"mean of {DRAWS} matrices"
                axes.set_title(f"{family}: {what}", fontsize="small")
                _draw_errors(axes, own, name)
            panels[1, column].set_xlabel("width")
        for axes in panels[:, 0]:
            axes.set_ylabel("relative error")
        for axes in panels.flat:
            tick_log(axes.yaxis)
        legend_below(figure)


def _draw_errors(axes: "Axes", rows: Sequence[Row], name: str) -> None:
    """Draw a thin line for each architecture, and a guide of the expected slope below them."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    if not rows:
        return
    for (_, kind), own in by_network(rows).items():
        colour = COLOURS[KINDS.index(kind)]
        heights = [getattr(row, name) for row in own]
        axes.plot([row.width for row in own], heights, color=colour, linewidth=0.8, alpha=0.7, label=kind.upper())
    widths = sorted({row.width for row in rows})
    tick_at(axes.xaxis, widths[::2])
    ends = np.array([widths[0], widths[-1]])
    lowest = min(getattr(row, name) * (row.width / ends[0]) ** -EXPECTED for row in rows)
    guide = 0.7 * lowest * (ends / ends[0]) ** EXPECTED
    axes.plot(ends, guide, color=INK, linestyle="--", label="width to the power -1/2")


@dataclass(frozen=True)
class Slopes(Chart):
    """The slopes of all architectures with their standard errors."""

    rows: tuple[Row, ...]

    key = "slopes"
    title = "Kernels of finite networks: the order of convergence"

    @property
    def alt(self) -> str:
        found = slopes(self.rows)
        inside = sum(abs(slope.value - EXPECTED) <= ALLOWED for slope in found.values())
        return (
            f"The slope of the error over the width on logarithmic axes, for {counted(len(found), 'kernel')}, each "
            f"with two standard errors: {inside} of them are within {ALLOWED} of {EXPECTED}."
        )

    @property
    def height(self) -> float:
        return 1.2 + 0.2 * len({row.network for row in self.rows})

    def draw(self, figure: "Figure") -> None:
        axes = figure.subplots()
        found = slopes(self.rows)
        names = list(dict.fromkeys(network for network, _ in found))
        axes.axvspan(EXPECTED - ALLOWED, EXPECTED + ALLOWED, color=MUTED, alpha=0.15, linewidth=0)
        axes.axvline(EXPECTED, color=INK, linestyle="--", linewidth=1.0)
        for position, kind in enumerate(KINDS):
            own = {names.index(network): slope for (network, of), slope in found.items() if of == kind}
            axes.errorbar(
                [slope.value for slope in own.values()],
                [place + 0.3 * (position - 0.5) for place in own],
                xerr=[2 * slope.deviation for slope in own.values()],
                linestyle="none",
                color=COLOURS[position],
                marker=MARKERS[position],
                markersize=4,
                label=f"{kind.upper()}, with two standard errors",
            )
        axes.set_yticks(range(len(names)), names, fontsize="small")
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.locator_params("x", nbins=6)
        axes.set_xlabel("slope: -1/2 is expected")
        legend_below(figure)


def lines(rows: Sequence[Row]) -> Iterator[str]:
    """Write a table: the slope of each architecture with its standard error, and the errors of its widest networks."""
    yield f"{'network':<28} {'kind':<5} {'slope':>15} {'widest':>6} {'error':>8} {f'mean of {DRAWS}':>9}"
    found = slopes(rows)
    for (network, kind), own in by_network(rows).items():
        slope = found.get((network, kind))
        told = "" if slope is None else f"{slope.value:.3f} +- {slope.deviation:.3f}"
        last = own[-1]
        shown = f"{last.width:>6} {last.error:>8.3%} {last.mean_error:>9.3%}"
        yield f"{network:<28} {kind:<5} {told:>15} {shown}"


def main() -> None:
    """Compute what is missing, print the table, and draw the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "convergence.csv", help="CSV file, to which rows are added")
    parser.add_argument("--widest", type=int, default=8192, help="leave out wider networks")
    parser.add_argument("--networks", nargs="*", choices=list(NETWORKS), metavar="NAME", help="only these")
    parser.add_argument("--figures", type=Path, help="folder for the figures, errors.svg and slopes.svg")
    given = parser.parse_args()
    names = given.networks or list(NETWORKS)
    done = {(row.network, row.width) for row in read(given.out, Row)}
    for width in (2**exponent for exponent in range(5, 14)):  # narrow ones first: an early end leaves whole lines
        for name in names:
            if width <= min(WIDEST[name], given.widest) and (name, width) not in done:
                rows = measure(name, width)
                append(given.out, rows)
                for row in rows:
                    print(f"{row.network}, {row.kind}, width {row.width}: {row.error:.3%}", flush=True)
    rows = [row for row in read(given.out, Row) if row.network in names]
    print("\n".join(lines(rows)))
    if given.figures is not None:
        given.figures.mkdir(parents=True, exist_ok=True)
        for chart, name in ((Errors(tuple(rows)), "errors"), (Slopes(tuple(rows)), "slopes")):
            chart.plot().savefig(given.figures / f"{name}.svg")


if __name__ == "__main__":
    main()
