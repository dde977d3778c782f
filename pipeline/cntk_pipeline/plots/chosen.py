"""What a figure of one system shows: the system, the labels, and arrays without missing tiles."""

import numpy as np

from cntk_pipeline.errors import ConfigError, NotComputed
from cntk_pipeline.opened import OpenRun
from cntk_pipeline.opened.systems import AskedReadout
from cntk_pipeline.opened.tiles import next_step
from cntk_pipeline.solvers import System
from cntk_pipeline.storage.tiled_array import Array


def the_system(run: OpenRun, readout: AskedReadout, ridge: float | None) -> System:
    """Find a system by read-out and ridge; the best of the run where neither is given."""
    return run.best if readout is None and ridge is None else run.system(readout, ridge)


def require_classes(run: OpenRun, what: str) -> None:
    """Refuse a run that is no classification of at least two classes, with one class an image.

    Raises
    ------
    ConfigError
        With the task of the run, or its one class.
    """
    task = run.directory.specification.data.task
    if task != "classification":
        raise ConfigError(f"{run.path} has the task {task}: {what} is of a classification with one class an image")
    if len(run.classes) < 2:
        raise ConfigError(f"{run.path} has one class: {what} is of at least two")


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


def require_computed(run: OpenRun, values: Array, what: str) -> Array:
    """Return values that were read from a run, unless tiles are missing, such as one in quarantine: they read as NaN.

    Parameters
    ----------
    what : str
        Names the array in the error.

    Raises
    ------
    NotComputed
        With what to do.
    """
    if np.isnan(values).any():
        raise NotComputed(f"{run.path}: tiles of {what} are missing. {next_step(run.directory)}")
    return values
