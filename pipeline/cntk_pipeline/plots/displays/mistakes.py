"""The most confident mistakes, each beside its nearest training images under the kernel."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from cntk_pipeline.errors import ConfigError
from cntk_pipeline.graphs import is_graph, unpack
from cntk_pipeline.inference import Shown
from cntk_pipeline.models import Json
from cntk_pipeline.opened import OpenRun
from cntk_pipeline.opened.pictures import as_picture, read_samples
from cntk_pipeline.opened.systems import AskedReadout
from cntk_pipeline.plots.base import Display, counted, plain, shortened
from cntk_pipeline.plots.chosen import known_labels, require_classes, require_computed, the_system
from cntk_pipeline.plots.style import COLOURS
from cntk_pipeline.solvers import System
from cntk_pipeline.storage.tiled_array import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MISTAKES, NEIGHBOURS = 8, 3


@dataclass(frozen=True)
class Neighbour:
    """A training image near to a test image.

    Attributes
    ----------
    index : int
        Among the training images of the run.
    class_name : str
        Its class.
    correlation : float
        Of the kernel, K(x, y) / sqrt(K(x, x) K(y, y)).
    """

    index: int
    class_name: str
    correlation: float


@dataclass(frozen=True)
class Mistake:
    """A test image that is predicted wrong.

    Attributes
    ----------
    index : int
        Among the test images of the run.
    true, predicted : str
        Names of classes.
    margin : float
        The predictive mean of the predicted class minus that of the true class.
    neighbours : tuple of Neighbour
        The nearest training images, the nearest first.
    """

    index: int
    true: str
    predicted: str
    margin: float
    neighbours: tuple[Neighbour, ...]


@dataclass(frozen=True)
class Mistakes(Display):
    """The mistakes with the largest margins.

    Attributes
    ----------
    system : str
        Its name.
    wrong, test : int
        Numbers of wrong predictions and of test images.
    mistakes : tuple of Mistake
        The most confident ones, by falling margin.
    samples : float64 array, (mistakes, 1 + neighbours, ...)
        The test image and its neighbours, as the source of the run had them.
    """

    system: str
    wrong: int
    test: int
    mistakes: tuple[Mistake, ...]
    samples: Array

    key = "mistakes"
    title = "Most confident mistakes"

    @classmethod
    def from_run(cls, run: OpenRun, readout: AskedReadout = None, ridge: float | None = None) -> Self:
        """Read the predictions of a system, and the kernel's rows of its mistakes; see `Display.from_run`."""
        require_classes(run, "a mistake")
        system, labels = the_system(run, readout, ridge), known_labels(run)
        means = run.predictions(system.readout, system.ridge)
        predicted, rows = means.argmax(1), np.arange(len(labels))
        margins = means[rows, predicted] - means[rows, labels]
        wrong = np.flatnonzero(predicted != labels)
        if not len(wrong):
            raise ConfigError(f"{system.label} makes no mistake on {counted(len(labels), 'test image')}")
        chosen = wrong[np.argsort(-margins[wrong], kind="stable")][:MISTAKES]
        indices, correlations = _nearest(run, system, chosen)
        train_labels, names = run.labels.train, run.classes
        found = tuple(
            Mistake(
                int(index),
                names[labels[index]],
                names[predicted[index]],
                float(margins[index]),
                tuple(
                    Neighbour(int(k), names[train_labels[k]], float(value))
                    for k, value in zip(near, values, strict=True)
                ),
            )
            for index, near, values in zip(chosen, indices, correlations, strict=True)
        )
        samples = np.stack(
            [
                np.concatenate(
                    [read_samples(run.directory, "test", [index]), read_samples(run.directory, "train", near)]
                )
                for index, near in zip(chosen.tolist(), indices.tolist(), strict=True)
            ]
        )
        return cls(system.label, len(wrong), len(labels), found, samples)

    @property
    def alt(self) -> str:
        first = self.mistakes[0]
        return (
            f"{counted(len(self.mistakes), 'test image')} that {self.system} predicts wrong with the largest margins, "
            f"each beside its {NEIGHBOURS} nearest training images; {self.wrong:,} of {self.test:,} are wrong in all. "
            f"The first is {first.true}, taken for {first.predicted}."
        )

    @property
    def height(self) -> float:
        return 1.3 * -(-len(self.mistakes) // 2) if self.samples.ndim > 3 else 1.2 * len(self.mistakes)

    def draw(self, figure: "Figure") -> None:
        columns = 2 if self.samples.ndim > 3 else 1
        rows, width = -(-len(self.mistakes) // columns), self.samples.shape[1]
        ratios = ([1.0] * width + [0.3]) * columns  # a gap behind each mistake
        grid = figure.add_gridspec(rows, len(ratios), width_ratios=ratios)
        for position, (mistake, samples) in enumerate(zip(self.mistakes, self.samples, strict=True)):
            row, column = position // columns, position % columns * (width + 1)
            for k, sample in enumerate(samples):
                axes = figure.add_subplot(grid[row, column + k])
                _draw_sample(axes, sample)
                if k == 0:
                    (true,), (predicted,) = shortened([mistake.true], 11), shortened([mistake.predicted], 9)
                    axes.set_title(f"{true}\nas {predicted}", fontsize="x-small", color=COLOURS[4])
                else:
                    near = mistake.neighbours[k - 1]
                    name = shortened((near.class_name,), 11)[0]
                    axes.set_title(f"{name}\n{near.correlation:.3f}", fontsize="x-small")

    def tables(self) -> tuple[Shown, ...]:
        rows = [
            (
                f"test image {each.index}",
                each.true,
                each.predicted,
                f"{each.margin:.3f}",
                *(f"{near.class_name} ({near.index}, {near.correlation:.3f})" for near in each.neighbours),
            )
            for each in self.mistakes
        ]
        nearest = ("nearest training image", *["next"] * (len(self.mistakes[0].neighbours) - 1))
        columns = ("true class", "predicted class", "margin", *nearest)
        title = (
            f"{self.system}: {self.wrong:,} of {counted(self.test, 'test image')} are predicted wrong; training images "
            "with index and correlation"
        )
        return (Shown(title, columns, tuple(rows), first="image"),)

    def to_json(self) -> Json:
        """Return the numbers as plain values, without the pixels."""
        return {"system": self.system, "wrong": self.wrong, "test": self.test, "mistakes": plain(self.mistakes)}


def _nearest(run: OpenRun, system: System, rows: Array) -> tuple[Array, Array]:
    """Find the nearest training images of some test images: their indices and correlations, (rows, neighbours).

    With centres, the nearest of them.
    """

    def read(part: str, chosen: Array | slice = slice(None)) -> Array:
        found = run.kernel(system.readout, part)[chosen].compute(scheduler="synchronous")  # one tile at a time
        return require_computed(run, np.asarray(found, np.float64), f"{system.readout}/{part}")

    values, pivots = read("test", rows), run.directory.column_rows
    images = np.arange(values.shape[1]) if pivots is None else pivots
    scale = np.sqrt(np.outer(read("test_variance")[rows], read("train_variance")[images]))
    correlations = np.where(scale > 0, values / np.where(scale > 0, scale, 1), -np.inf)
    order = np.argsort(-correlations, axis=1, kind="stable")[:, :NEIGHBOURS]
    return images[order], np.take_along_axis(correlations, order, axis=1)


def _draw_graph(axes: "Axes", sample: Array) -> None:
    """Draw the nodes of a graph on a circle, and its edges."""
    graph = unpack(sample[None])
    angles = 2 * np.pi * np.arange(graph.sizes[0]) / graph.sizes[0]
    places = np.stack([np.cos(angles), np.sin(angles)])
    ends = np.stack([np.repeat(np.arange(graph.sizes[0]), graph.degrees), graph.neighbours])
    axes.plot(*places[:, ends], color=COLOURS[0], linewidth=0.6)
    axes.plot(*places, ".", color=COLOURS[4], markersize=2)
    axes.set_aspect("equal")


def _draw_sample(axes: "Axes", sample: Array) -> None:
    if is_graph(sample.shape):
        _draw_graph(axes, sample)
    elif sample.ndim == 3:
        axes.imshow(as_picture(sample), interpolation="none")
    else:
        axes.plot(sample, color=COLOURS[0], linewidth=1)
        axes.margins(x=0.05, y=0.1)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
