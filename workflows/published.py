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
    """A number of a paper: the accuracy of a read-out of a workflow, with so many training images."""

    run: str
    readout: str
    training_images: int
    accuracy: float
    source: str


@dataclass(frozen=True)
class Pair:
    """A published number, and what the run has: on its test images and, where they were asked for, on others.

    Attributes
    ----------
    published : Published
        The number of the paper.
    test : Row
        All test images.
    first : Row or None
        The test images before the cut of ``record.py --cut``: the original ones, where the others are re-encoded.
    left_out : Row or None
        Leave-one-out on the training images.
    """

    published: Published
    test: Row
    first: Row | None
    left_out: Row | None


def read_published() -> list[Published]:
    """Read the numbers of the papers."""
    with (FOLDER / "published.csv").open(newline="") as file:
        return [
            Published(row["run"], row["readout"], int(row["training_images"]), float(row["accuracy"]), row["source"])
            for row in csv.DictReader(file)
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
        if any(row.images == "test" for row in own):
            yield Pair(number, *_result(number.run, own))


def _result(run: str, own: list[Row]) -> tuple[Row, Row | None, Row | None]:
    """Find the result of a read-out in its rows: on the test images, on the first ones of them, and leave-one-out."""
    whole = max(row.training_images for row in own)
    columns = max(row.columns for row in own)  # fewer of them are a learning curve over centres
    tested = [row for row in own if row.images == "test" and (row.training_images, row.columns) == (whole, columns)]
    left_out = {row.ridge: row for row in own if row.images == "left out"}
    if len(tested) > len(left_out) and len(tested) > 1:
        raise ValueError(f"{run} has {len(tested)} ridges and no leave-one-out that chooses one of them")
    chosen = max(tested, key=lambda row: left_out[row.ridge].accuracy if left_out else 0.0)
    first = {row.ridge: row for row in own if row.images.startswith("test before ")}
    return chosen, first.get(chosen.ridge), left_out.get(chosen.ridge)


def lines(found: list[Pair]) -> Iterator[str]:
    """Print what was found as a table."""
    yield f"{'':<22}{'':<20} {'published':>9} {'here':>14} {'original ones':>14} {'leave-one-out':>14}"
    for pair in found:
        published = f"{100 * pair.published.accuracy:.2f}%"
        ours = " ".join(f"{'' if row is None else _percent(row):>14}" for row in (pair.test, pair.first, pair.left_out))
        yield f"{pair.published.run:<22}{pair.published.readout:<20} {published:>9} {ours}".rstrip()
    for run, told in {pair.published.run: _told(pair.test, pair.first) for pair in found if pair.first}.items():
        yield f"{run}: {told}, the others re-encoded as JPEG"


def _told(test: Row, first: Row | None) -> str:
    """Say which test images are original, where not all are."""
    return "" if first is None else f"{first.count:,} of {test.count:,} test images original"


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
            _draw_curves(axes[1], curves, results)
        return figure


def _draw_pairs(axes: "Axes", found: list[Pair]) -> None:
    places = range(len(found))
    here = [100 * pair.test.accuracy for pair in found]
    bars = [200 * pair.test.standard_error for pair in found]
    axes.errorbar(here, places, xerr=bars, linestyle="", marker=MARKERS[0], color=COLOURS[0], capsize=3, label="here")
    first = [(100 * pair.first.accuracy, at) for at, pair in zip(places, found, strict=True) if pair.first]
    if first:
        told = next(_told(pair.test, pair.first) for pair in found if pair.first)
        values, rows = zip(*first, strict=True)
        label = f"the original ones alone\n({told})"
        axes.plot(values, rows, linestyle="", marker=MARKERS[2], color=COLOURS[2], label=label)
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


def _draw_curves(axes: "Axes", curves: dict[str, list[tuple[int, float]]], results: dict[str, list[Row]]) -> None:
    notes = set()
    for number, (name, points) in enumerate(curves.items()):
        sizes, accuracies = zip(*points, strict=True)
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        rows = results[name.split(",")[0]]
        first = next((row for row in rows if row.images.startswith("test before ")), None)
        label = name if first is None else f"{name} *"
        notes |= {f"* {_told(row, first)}" for row in rows if first is not None and row.images == "test"}
        style = "-" if number < len(COLOURS) else "--"
        axes.plot(sizes, [100 * value for value in accuracies], style, color=colour, marker=marker, label=label)
    axes.set_xscale("log")
    axes.set(xlabel="training images", ylabel="test accuracy (%)")
    axes.legend(title="\n".join(sorted(notes)) or None, title_fontsize="small")


GROWING = {
    "CNTK-V, depth 6": ("cifar10-v", "depth6-flatten-ntk"),
    "CNTK-GAP, depth 3": ("cifar10-gap-2k-curve", "depth3-gap-ntk"),
    "CNTK-GAP, depth 11": ("cifar10-gap-2k", "depth11-gap-ntk"),
    "CNTK-GAP, depth 3, 500 centres": ("cifar10-gap-8k-centres", "depth3-gap-ntk"),
}
"""Runs on original images of CIFAR-10 and their read-outs, whose accuracies are drawn over the training images."""


def draw_growth(results: dict[str, list[Row]], numbers: list[Published]) -> "Figure":
    """Draw the accuracy on CIFAR-10 over the number of training images: runs as full points, papers as hollow ones.

    Bars are two standard errors. Runs without a file are left out.
    """
    with styled():
        figure = new_figure(8.4, 4.6)
        axes = figure.subplots()
        papers = [number for number in numbers if number.run.startswith("cifar10")]
        for place, (name, (run, readout)) in enumerate(GROWING.items()):
            own = [row for row in results.get(run, ()) if row.readout == readout]
            if own:
                _draw_growth(axes, name, run, own, place)
            of_readout = [number for number in papers if number.readout == readout]
            papers = [number for number in papers if number.readout != readout]
            if of_readout:
                axes.plot(
                    [number.training_images for number in of_readout],
                    [100 * number.accuracy for number in of_readout],
                    linestyle="",
                    color=COLOURS[place],
                    marker=MARKERS[place],
                    markersize=9,
                    markerfacecolor="none",
                    label=f"{name}, published",
                )
        axes.set_xscale("log")
        axes.set(xlabel="training images", ylabel="accuracy (%)")
        axes.legend(loc="upper left")
        return figure


def _draw_growth(axes: "Axes", name: str, run: str, own: list[Row], place: int) -> None:
    chosen, first, left_out = _result(run, own)
    curve = {row.training_images: row for row in own if (row.images, row.ridge) == ("test", chosen.ridge)}
    curve[chosen.training_images] = chosen  # with centres, fewer of them have as many training images
    points = [row for _, row in sorted(curve.items())]
    axes.errorbar(
        [row.training_images for row in points],
        [100 * row.accuracy for row in points],
        yerr=[200 * row.standard_error for row in points],
        color=COLOURS[place],
        marker=MARKERS[place],
        capsize=2,
        label=f"{name}, {_told(chosen, first)}" if first else name,
    )
    if left_out is not None and left_out.columns == left_out.training_images:  # a centre is not left out
        axes.plot(
            left_out.training_images,
            100 * left_out.accuracy,
            linestyle="",
            color=COLOURS[place],
            marker="x",
            markersize=8,
            label=f"{name}, training images left out",
        )


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
