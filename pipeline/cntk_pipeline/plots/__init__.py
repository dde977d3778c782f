"""Figures of runs. Each function takes an open run and returns a matplotlib figure; ``DISPLAYS`` has them by key.

A display holds the numbers of a figure: ``ConfusionMatrix.from_run(run).counts``. The functions draw it at once.
"""

from typing import TYPE_CHECKING

from cntk_pipeline.opened import OpenRun
from cntk_pipeline.opened.systems import Readout
from cntk_pipeline.plots.base import Display
from cntk_pipeline.plots.displays.accuracy import Accuracy
from cntk_pipeline.plots.displays.confusion_matrix import ConfusionMatrix

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["DISPLAYS", "Accuracy", "ConfusionMatrix", "Display", "accuracy", "confusion_matrix"]

DISPLAYS: dict[str, type[Display]] = {display.key: display for display in (Accuracy, ConfusionMatrix)}
"""All figures of a run by key, in the order of a report."""


def accuracy(run: OpenRun, readout: Readout = None, ridge: float | None = None) -> "Figure":
    """Draw the scores of all read-outs and ridges on the test images, over depth and pooling."""
    return Accuracy.from_run(run, readout, ridge).plot()


def confusion_matrix(run: OpenRun, readout: Readout = None, ridge: float | None = None) -> "Figure":
    """Draw which classes are taken for which."""
    return ConfusionMatrix.from_run(run, readout, ridge).plot()
