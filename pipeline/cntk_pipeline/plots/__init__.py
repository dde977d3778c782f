"""Figures of runs. Each function takes an open run and returns a matplotlib figure; ``DISPLAYS`` has them by key.

A display holds the numbers of a figure: ``ConfusionMatrix.from_run(run).counts``. The functions draw it at once.
"""

from typing import TYPE_CHECKING

from cntk_pipeline.opened import OpenRun
from cntk_pipeline.opened.systems import AskedReadout
from cntk_pipeline.plots.base import Display
from cntk_pipeline.plots.displays.accuracy import Accuracy
from cntk_pipeline.plots.displays.confusion_matrix import ConfusionMatrix
from cntk_pipeline.plots.displays.deviation import Deviation
from cntk_pipeline.plots.displays.kernel_matrix import LIMIT_BYTES, KernelMatrix
from cntk_pipeline.plots.displays.learning_curve import LearningCurve
from cntk_pipeline.plots.displays.mistakes import Mistakes
from cntk_pipeline.plots.displays.network import Network
from cntk_pipeline.plots.displays.reliability import Reliability
from cntk_pipeline.plots.displays.ridge_path import RidgePath
from cntk_pipeline.plots.displays.spectrum import Spectrum
from cntk_pipeline.plots.displays.timeline import Timeline
from cntk_pipeline.plots.displays.training import Training

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "DISPLAYS",
    "Accuracy",
    "ConfusionMatrix",
    "Deviation",
    "Display",
    "KernelMatrix",
    "LearningCurve",
    "Mistakes",
    "Network",
    "Reliability",
    "RidgePath",
    "Spectrum",
    "Timeline",
    "Training",
    "accuracy",
    "confusion_matrix",
    "deviation",
    "kernel_matrix",
    "learning_curve",
    "mistakes",
    "network",
    "reliability",
    "ridge_path",
    "spectrum",
    "timeline",
    "training",
]

DISPLAYS: dict[str, type[Display]] = {
    display.key: display
    for display in (
        Accuracy,
        ConfusionMatrix,
        Mistakes,
        Reliability,
        LearningCurve,
        RidgePath,
        Training,
        Deviation,
        KernelMatrix,
        Spectrum,
        Network,
        Timeline,
    )
}
"""All figures of a run by key, in the order of a report."""


def accuracy(run: OpenRun, readout: AskedReadout = None, ridge: float | None = None) -> "Figure":
    """Draw the scores of all read-outs and ridges on the test images, over depth and pooling."""
    return Accuracy.from_run(run, readout, ridge).plot()


def confusion_matrix(run: OpenRun, readout: AskedReadout = None, ridge: float | None = None) -> "Figure":
    """Draw which classes are taken for which."""
    return ConfusionMatrix.from_run(run, readout, ridge).plot()


def mistakes(run: OpenRun, readout: AskedReadout = None, ridge: float | None = None) -> "Figure":
    """Draw the most confident mistakes, each beside its nearest training images under the kernel."""
    return Mistakes.from_run(run, readout, ridge).plot()


def reliability(run: OpenRun, readout: AskedReadout = None, ridge: float | None = None) -> "Figure":
    """Draw the accuracy of the test images by their confidence."""
    return Reliability.from_run(run, readout, ridge).plot()


def learning_curve(run: OpenRun, readout: AskedReadout = None, ridge: float | None = None) -> "Figure":
    """Draw the test error over the number of training images, with a power law fitted to it."""
    return LearningCurve.from_run(run, readout, ridge).plot()


def ridge_path(run: OpenRun, readout: AskedReadout = None, ridge: float | None = None) -> "Figure":
    """Draw leave-one-out over the ridges; of one ridge, beside the scores of the test images."""
    return RidgePath.from_run(run, readout, ridge).plot()


def training(run: OpenRun, readout: AskedReadout = None, ridge: float | None = None) -> "Figure":
    """Draw the accuracy and the variance of ensembles of networks over the time of their training."""
    return Training.from_run(run, readout, ridge).plot()


def deviation(run: OpenRun, readout: AskedReadout = None, ridge: float | None = None) -> "Figure":
    """Draw the posterior deviation of the test images against the errors of their predictions."""
    return Deviation.from_run(run, readout, ridge).plot()


def kernel_matrix(
    run: OpenRun, readout: AskedReadout = None, ridge: float | None = None, *, limit_bytes: int = LIMIT_BYTES
) -> "Figure":
    """Draw the kernel of the training images in the order of their classes; not more bytes of tiles are read."""
    return KernelMatrix.from_run(run, readout, ridge, limit_bytes).plot()


def spectrum(run: OpenRun, readout: AskedReadout = None, ridge: float | None = None) -> "Figure":
    """Draw the eigenvalues of the kernel of the training images, and the ridges among them."""
    return Spectrum.from_run(run, readout, ridge).plot()


def network(run: OpenRun, readout: AskedReadout = None, ridge: float | None = None) -> "Figure":
    """Draw the network of a read-out, repeated layers once."""
    return Network.from_run(run, readout, ridge).plot()


def timeline(run: OpenRun, readout: AskedReadout = None, ridge: float | None = None) -> "Figure":
    """Draw each tile by its worker over time."""
    return Timeline.from_run(run, readout, ridge).plot()
