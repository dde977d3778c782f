"""Figures of runs. Each function takes an open run and returns a matplotlib figure; ``DISPLAYS`` has them by key.

A display holds the numbers of a figure: ``ConfusionMatrix.from_run(run).counts``. The functions draw it at once.
"""

from typing import TYPE_CHECKING

from cntk_pipeline.opened import OpenRun
from cntk_pipeline.opened.systems import Readout
from cntk_pipeline.plots.base import Display
from cntk_pipeline.plots.displays.accuracy import Accuracy
from cntk_pipeline.plots.displays.confusion_matrix import ConfusionMatrix
from cntk_pipeline.plots.displays.mistakes import Mistakes
from cntk_pipeline.plots.displays.network import Network
from cntk_pipeline.plots.displays.reliability import Reliability
from cntk_pipeline.plots.displays.timeline import Timeline

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "DISPLAYS",
    "Accuracy",
    "ConfusionMatrix",
    "Display",
    "Mistakes",
    "Network",
    "Reliability",
    "Timeline",
    "accuracy",
    "confusion_matrix",
    "mistakes",
    "network",
    "reliability",
    "timeline",
]

DISPLAYS: dict[str, type[Display]] = {
    display.key: display for display in (Accuracy, ConfusionMatrix, Mistakes, Reliability, Network, Timeline)
}
"""All figures of a run by key, in the order of a report."""


def accuracy(run: OpenRun, readout: Readout = None, ridge: float | None = None) -> "Figure":
    """Draw the scores of all read-outs and ridges on the test images, over depth and pooling."""
    return Accuracy.from_run(run, readout, ridge).plot()


def confusion_matrix(run: OpenRun, readout: Readout = None, ridge: float | None = None) -> "Figure":
    """Draw which classes are taken for which."""
    return ConfusionMatrix.from_run(run, readout, ridge).plot()


def mistakes(run: OpenRun, readout: Readout = None, ridge: float | None = None) -> "Figure":
    """Draw the most confident mistakes, each beside its nearest training images under the kernel."""
    return Mistakes.from_run(run, readout, ridge).plot()


def reliability(run: OpenRun, readout: Readout = None, ridge: float | None = None) -> "Figure":
    """Draw the accuracy of the test images by their confidence."""
    return Reliability.from_run(run, readout, ridge).plot()


def network(run: OpenRun, readout: Readout = None, ridge: float | None = None) -> "Figure":
    """Draw the network of a read-out, repeated layers once."""
    return Network.from_run(run, readout, ridge).plot()


def timeline(run: OpenRun, readout: Readout = None, ridge: float | None = None) -> "Figure":
    """Draw each tile by its worker over time."""
    return Timeline.from_run(run, readout, ridge).plot()
