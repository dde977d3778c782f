"""Accuracies of runs beside those that papers print for the same kernels.

    python workflows/published.py
    python workflows/published.py --figure published.svg

The accuracies of the runs lie in `results`, a file a workflow, as `record.py` writes them; those of the papers lie in
`published.csv`. A workflow that was not run whole has no file, and no line here.
"""

import argparse
import csv
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from record import Row, read_rows

from cntk_pipeline.plots.style import COLOURS, INK, MARKERS, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"


@dataclass(frozen=True)
class Published:
    """A number of a paper: the accuracy of a read-out of a workflow."""

    run: str
    readout: str
    accuracy: float
    source: str


@dataclass(frozen=True)
class Pair:
    """A published number, and what the run has: on its test images and, where they were asked for, on others.

    Attributes
    ----------
    published : the number of the paper.
    test : all test images.
    first : the test images before the cut of ``record.py --cut``: of cifar10-v those that are not re-encoded.
    left_out : leave-one-out on the training images.
    """

    published: Published
    test: Row
    first: Row | None
    left_out: Row | None


def read_published() -> list[Published]:
    """Read the numbers of the papers."""
    with (FOLDER / "published.csv").open(newline="") as file:
        return [
            Published(row["run"], row["readout"], float(row["accuracy"]), row["source"]) for row in csv.DictReader(file)
        ]


def read_results(folder: Path = RESULTS) -> dict[str, list[Row]]:
    """Read the rows of each workflow that was run, by its name."""
    return {file.stem: read_rows(file) for file in sorted(folder.glob("*.csv"))}


def pairs(results: dict[str, list[Row]], published: list[Published]) -> Iterator[Pair]:
    """Put the runs beside the papers.

    Of several ridges it is the one with the best accuracy by leave-one-out, which no test image has chosen.
    """
    for number in published:
        own = [row for row in results.get(number.run, ()) if row.readout == number.readout]
        whole = max((row.training_images for row in own), default=0)
        columns = max((row.columns for row in own), default=0)  # fewer of them are a learning curve over centres
        tested = [row for row in own if row.images == "test" and (row.training_images, row.columns) == (whole, columns)]
        left_out = {row.ridge: row for row in own if row.images == "left out"}
        if len(tested) > len(left_out) and len(tested) > 1:
            raise ValueError(f"{number.run} has {len(tested)} ridges and no leave-one-out that chooses one of them")
        if tested:
            chosen = max(tested, key=lambda row: left_out[row.ridge].accuracy if left_out else 0.0)
            first = {row.ridge: row for row in own if row.images.startswith("test before ")}
            yield Pair(number, chosen, first.get(chosen.ridge), left_out.get(chosen.ridge))


def lines(found: list[Pair]) -> Iterator[str]:
    """Print what was found as a table."""
    yield f"{'':<16}{'':<20} {'published':>9} {'here':>14} {'before the cut':>14} {'leave-one-out':>14}"
    for pair in found:
        published = f"{100 * pair.published.accuracy:.2f}%"
        ours = " ".join(f"{'' if row is None else _percent(row):>14}" for row in (pair.test, pair.first, pair.left_out))
        yield f"{pair.published.run:<16}{pair.published.readout:<20} {published:>9} {ours}".rstrip()


def _percent(row: Row) -> str:
    return f"{100 * row.accuracy:.2f}% +- {100 * row.standard_error:.1f}"


def draw(found: list[Pair], results: dict[str, list[Row]]) -> "Figure":
    """Draw the pairs, and the accuracy over the number of training images where a run has it.

    Bars are two standard errors: how far another draw of as many test images may lie.
    """
    curves = _curves(results)
    with styled():
        figure = new_figure(10.0 if curves else 6.5, 1.4 + 0.28 * max(len(found), 8))
        axes = figure.subplots(1, 2 if curves else 1, squeeze=False, width_ratios=(3, 2)[: 2 if curves else 1])[0]
        _draw_pairs(axes[0], found)
        if curves:
            _draw_curves(axes[1], curves)
        return figure


def _draw_pairs(axes: "Axes", found: list[Pair]) -> None:
    places = range(len(found))
    here = [100 * pair.test.accuracy for pair in found]
    bars = [200 * pair.test.standard_error for pair in found]
    axes.errorbar(here, places, xerr=bars, linestyle="", marker=MARKERS[0], color=COLOURS[0], capsize=3, label="here")
    papers = [100 * pair.published.accuracy for pair in found]
    axes.plot(papers, places, linestyle="", marker="|", markersize=14, color=INK, label="published")
    left_out = [(100 * pair.left_out.accuracy, at) for at, pair in zip(places, found, strict=True) if pair.left_out]
    if left_out:
        values, rows = zip(*left_out, strict=True)
        axes.plot(values, rows, linestyle="", marker=MARKERS[3], color=COLOURS[1], label="leave-one-out")
    axes.set(xlabel="accuracy (%)", yticks=list(places), ylim=(len(found) - 0.5, -0.5))
    axes.set_yticklabels([f"{pair.published.run}, {pair.published.readout.split('-')[0]}" for pair in found])
    axes.legend()


def _curves(results: dict[str, list[Row]]) -> dict[str, list[tuple[int, float]]]:
    """Find the read-outs with a learning curve: the number of training images and the accuracy, smallest first."""
    points: dict[str, list[tuple[int, float]]] = {}
    for run, rows in results.items():
        for row in (row for row in rows if row.images == "test"):
            points.setdefault(f"{run}, {row.readout.split('-')[0]}", []).append((row.training_images, row.accuracy))
    return {name: sorted(curve) for name, curve in points.items() if len(dict(curve)) > 1}


def _draw_curves(axes: "Axes", curves: dict[str, list[tuple[int, float]]]) -> None:
    for number, (name, points) in enumerate(curves.items()):
        sizes, accuracies = zip(*points, strict=True)
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        axes.plot(sizes, [100 * value for value in accuracies], color=colour, marker=marker, label=name)
    axes.set_xscale("log")
    axes.set(xlabel="training images", ylabel="test accuracy (%)")
    axes.legend()


def poolings(rows: list[Row], kind: str) -> dict[int, list[Row]]:
    """Find the test accuracies of a run by depth: without pooling, with local poolings by radius, with the global one.

    Each read-out has one ridge, where leave-one-out chooses it in the run; of several the first one is taken.
    """
    found: dict[int, dict[int, Row]] = {}
    for row in rows:
        depth, pooling, own = row.readout.split("-")
        if row.images == "test" and own == kind:
            found.setdefault(int(depth.removeprefix("depth")), {}).setdefault(_radius(pooling), row)
    return {depth: [row for _, row in sorted(by_radius.items())] for depth, by_radius in sorted(found.items())}


def _radius(pooling: str) -> int:
    ends = {"flatten": 0, "gap": sys.maxsize}
    return ends[pooling] if pooling in ends else int(pooling.removeprefix("lap"))


def draw_poolings(rows: list[Row]) -> "Figure":
    """Draw the accuracies of a run over the pooling of its read-outs, a line a depth; bars are two standard errors."""
    with styled():
        figure = new_figure(10.0, 4.2)
        for axes, kind in zip(figure.subplots(1, 2, sharey=True), ("ntk", "nngp"), strict=True):
            for number, (depth, found) in enumerate(poolings(rows, kind).items()):
                axes.errorbar(
                    [place + 0.06 * number for place in range(len(found))],
                    [100 * row.accuracy for row in found],
                    yerr=[200 * row.standard_error for row in found],
                    color=COLOURS[number],
                    marker=MARKERS[number],
                    capsize=2,
                    label=f"depth {depth}",
                )
                names = [row.readout.split("-")[1] for row in found]
                axes.set_xticks(range(len(found)), [name.replace("lap", "LAP ") for name in names])
            axes.set(title=kind.upper(), xlabel="pooling", ylabel="test accuracy (%)" if kind == "ntk" else "")
            axes.legend()
        return figure


def main() -> None:
    """Print the table; draw the figure where a file is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figure", type=Path, metavar="FILE", help="where to draw: an SVG, PNG or PDF file")
    given = parser.parse_args()
    results = read_results()
    found = list(pairs(results, read_published()))
    print("\n".join(lines(found)))
    if given.figure is not None:
        draw(found, results).savefig(given.figure, facecolor="white")


if __name__ == "__main__":
    main()
