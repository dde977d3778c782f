"""Which classes are taken for which: the confusion matrix, and the accuracy of each class."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from cntk_pipeline.inference import Shown
from cntk_pipeline.opened import OpenRun
from cntk_pipeline.opened.systems import AskedReadout
from cntk_pipeline.plots.base import Display, counted, shortened
from cntk_pipeline.plots.chosen import known_labels, require_classes, the_system
from cntk_pipeline.plots.style import DENSE
from cntk_pipeline.storage.tiled_array import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMED_CLASSES, NUMBERED_CLASSES = 30, 12
"""Numbers of classes up to which the axes bear names, and the cells numbers."""

LISTED_PAIRS = 10
"""Number of confusions in a table."""


@dataclass(frozen=True)
class ConfusionMatrix(Display):
    """How often test images of each class are predicted as each class.

    Attributes
    ----------
    system : str
        Its name.
    classes : tuple of str
        Names.
    counts : int64 array, (c, c)
        A row a true class, a column a predicted class.
    """

    system: str
    classes: tuple[str, ...]
    counts: Array

    key = "confusion_matrix"
    title = "Classes"

    @classmethod
    def from_run(cls, run: OpenRun, readout: AskedReadout = None, ridge: float | None = None) -> Self:
        """Read the predictions of a system; see `Display.from_run`."""
        require_classes(run, "a confusion matrix")
        system, labels = the_system(run, readout, ridge), known_labels(run)
        predicted = run.predictions(system.readout, system.ridge).argmax(1)
        count = len(run.classes)
        counts = np.bincount(labels * count + predicted, minlength=count**2).reshape(count, count)
        return cls(system.label, run.classes, counts)

    @property
    def accuracies(self) -> Array:
        """The accuracy of each class, (c,) float64; NaN of a class without test images."""
        totals = self.counts.sum(1)
        return np.where(totals > 0, np.diag(self.counts) / np.maximum(totals, 1), np.nan)

    @property
    def alt(self) -> str:
        right, total = int(np.trace(self.counts)), int(self.counts.sum())
        text = f"Confusion matrix of {self.system}: {right:,} of {counted(total, 'test image')} are predicted right. "
        pairs = self._pairs()
        if not pairs:
            return f"{text}No class is taken for another."
        row, column = pairs[0]
        return (
            f"{text}The most frequent confusion: {counted(int(self.counts[row, column]), 'image')} of "
            f"{self.classes[row]} taken for {self.classes[column]}."
        )

    def _pairs(self) -> list[tuple[int, int]]:
        wrong = self.counts - np.diag(np.diag(self.counts))
        order = np.argsort(-wrong, axis=None, kind="stable")[:LISTED_PAIRS]
        return [(int(k // len(wrong)), int(k % len(wrong))) for k in order if wrong.flat[k] > 0]

    @property
    def height(self) -> float:
        return 5.2

    def draw(self, figure: "Figure") -> None:
        from matplotlib.colors import PowerNorm

        axes, count = figure.add_subplot(), len(self.classes)
        shares = self.counts / np.maximum(self.counts.sum(1, keepdims=True), 1)
        # The square root lets one mistake among a hundred images be seen.
        image = axes.imshow(shares, cmap=DENSE, norm=PowerNorm(0.5, 0, 1), interpolation="none")
        axes.grid(False)
        if count <= NAMED_CLASSES:
            names = shortened(self.classes, 14)
            axes.set_xticks(range(count), names, rotation=45 if max(map(len, names)) > 2 else 0)
            axes.set_yticks(range(count), names)
        if count <= NUMBERED_CLASSES:
            for row, column in np.argwhere(self.counts):
                number, colour = self.counts[row, column], "black" if shares[row, column] > 0.4 else "white"
                axes.text(column, row, f"{number}", ha="center", va="center", color=colour, size="small")
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class")
        figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)

    def tables(self) -> tuple[Shown, ...]:
        totals = self.counts.sum(1)
        by_class = [
            (name, f"{total:,}", "none" if total == 0 else f"{100 * share:.2f}%")
            for name, total, share in zip(self.classes, totals, self.accuracies, strict=True)
        ]
        confusions = [
            (self.classes[row], self.classes[column], f"{self.counts[row, column]:,}") for row, column in self._pairs()
        ]
        found = [Shown("accuracy of each class", ("test images", "accuracy"), tuple(by_class), first="class")]
        if confusions:
            found.append(
                Shown("most frequent confusions", ("predicted class", "images"), tuple(confusions), first="true class")
            )
        return tuple(found)
