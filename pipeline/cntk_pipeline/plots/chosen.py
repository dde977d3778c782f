"""The system and the labels that a figure of one system shows."""

from cntk_pipeline.errors import ConfigError
from cntk_pipeline.opened import OpenRun
from cntk_pipeline.opened.systems import Readout
from cntk_pipeline.solvers import System
from cntk_pipeline.storage.tiled_array import Array


def the_system(run: OpenRun, readout: Readout, ridge: float | None) -> System:
    """Find a system by read-out and ridge; the best of the run where neither is given."""
    return run.best if readout is None and ridge is None else run.system(readout, ridge)


def require_classes(run: OpenRun, what: str) -> None:
    """Refuse a run that is no classification with one class an image.

    Raises
    ------
    ConfigError
        With the task of the run.
    """
    task = run.directory.specification.data.task
    if task != "classification":
        raise ConfigError(f"{run.path} has the task {task}: {what} is of a classification with one class an image")


def known_labels(run: OpenRun) -> Array:
    """Return the labels of the test images.

    Raises
    ------
    ConfigError
        If the run has no test images, or their labels are not known.
    """
    labels = run.labels.test
    if labels is None or not len(labels):
        raise ConfigError(f"{run.path} has no labels of test images")
    return labels
