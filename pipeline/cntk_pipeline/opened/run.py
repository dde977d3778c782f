"""A run directory as an object: its kernels, labels, predictions and results, also while it goes on."""

import html
import os
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np

from cntk_pipeline.errors import ConfigError
from cntk_pipeline.gram.pivots import trace_errors
from cntk_pipeline.gram.tiles import kernel_group, test_group
from cntk_pipeline.inference import RESULTS, asked_of, needs_test_kernel
from cntk_pipeline.inputs import short_repr
from cntk_pipeline.layers import spelling
from cntk_pipeline.opened.columns import predicted_of
from cntk_pipeline.opened.description import describe
from cntk_pipeline.opened.predict_in_memory import Say, on_stderr, predict_means
from cntk_pipeline.opened.results import Inferred, read_result
from cntk_pipeline.opened.systems import AskedReadout, find_best, find_readout, find_system, readout_names
from cntk_pipeline.opened.tables import Table
from cntk_pipeline.opened.tiles import Stored, read_whole, require_stored_kernel, require_whole
from cntk_pipeline.regression.probabilities import Probabilities, fit_probabilities
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.solvers import System, system_group
from cntk_pipeline.storage import StorePath, open_path
from cntk_pipeline.storage.tiled_array import Array
from cntk_pipeline.workflow.report import make_report


class Labels(NamedTuple):
    """The labels of a run: of the training and of the test images; None where they are not known.

    One class an image is a position in the classes, ``(n,)`` int64. Several classes, and numbers, are ``(n, columns)``.
    """

    train: Array
    test: Array | None


class Centres(NamedTuple):
    """The centres of a run: the training images of the kernel's columns, ``(m,)``, in the order of these columns.

    Where the kernel itself chose them, ``trace_errors`` are the relative trace errors before the first block of
    columns, which is 1, and behind each block; elsewhere it is empty.
    """

    rows: Array
    trace_errors: tuple[float, ...]


def open_run(path: str | os.PathLike[str] | StorePath, *, trust: bool = False) -> "OpenRun":
    """Open a run directory, or a run in a bucket, to look at its results; nothing is written.

    It works while a driver is at work, and on runs of earlier versions. Each call reads what is there at that moment.

    Parameters
    ----------
    path : str, PathLike, or StorePath
        Of the run directory, as `cntk run` printed it, or ``s3://bucket/name``.
    trust : bool
        Let predictions of new images import the code that the run names (``engine = "plugin"``), even if another user
        wrote the run. Opening imports nothing.

    Raises
    ------
    ConfigError
        If the path is none.
    RunNotFound
        If there is no run at the path.
    StoreError
        If it has the format of another version, or its record is damaged.
    """
    if not isinstance(path, str | os.PathLike | StorePath):
        raise ConfigError(
            f'expected the path of a run directory, such as "runs/name", as cntk run printed it, got {short_repr(path)}'
        )
    place = path if isinstance(path, StorePath) else open_path(os.fspath(path))
    return OpenRun(RunDirectory(place.absolute()), trust=trust)  # it stays the same run after os.chdir


class OpenRun:
    """A run directory as an object; `open_run` opens one.

    Further results are methods named like their keys in ``[inference]``, such as ``run.leave_one_out(readout)``.

    Parameters
    ----------
    directory : RunDirectory
        The run directory.
    trust : bool
        As in `open_run`.
    """

    def __init__(self, directory: RunDirectory, *, trust: bool = False) -> None:
        self.directory = directory
        self._trust = trust

    @property
    def path(self) -> StorePath:
        """The place of the run directory."""
        return self.directory.path

    @property
    def readouts(self) -> list[str]:
        """The names of the kernels."""
        return readout_names(self.directory)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, or of the targets of a regression, one for each column of `predictions`."""
        return self.directory.specification.data.classes

    @property
    def labels(self) -> Labels:
        """The labels of the training and of the test images; see `Labels`.

        Raises
        ------
        StoreError
            If they are not stored yet, or damaged.
        """
        train = self.directory.labels("train")
        assert train is not None
        return Labels(train, self.directory.labels("test"))

    @property
    def centres(self) -> Centres | None:
        """The centres, see `Centres`, as far as they are drawn; None where all training images are columns."""
        centres, rows = self.directory.specification.centres, self.directory.column_rows
        if centres is None:
            return None
        if rows is None:
            return Centres(np.arange(centres.count), ())
        return Centres(rows, tuple(trace_errors(self.directory)))

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to do; False of a run that was stopped before it stored its workflow."""
        return self.directory.has_workflow() and make_report(self.directory).complete

    # Kernels.

    def kernel(
        self, readout: AskedReadout = None, part: str = "train", *, missing: Literal["nan", "raise"] = "nan"
    ) -> Any:
        """Return a kernel matrix as a lazy Dask array, whose chunks are the tiles on disk.

        Parameters
        ----------
        readout : str or sequence, optional
            A name of `readouts`, or depth, pooling and kind as in ``(3, "gap", "ntk")``; None where the run has only
            one.
        part : str
            "train" for K(train, train), symmetric, though only its lower tiles are stored, or its columns of `centres`;
            "test" for K(test, train); "test_test" for K(test, test), if a posterior covariance was asked for;
            "train_variance" and "test_variance" for K(x, x) of each image.
        missing : {"nan", "raise"}
            "nan" lets tiles that are not computed yet be NaN, or not stored by ``solve.kernel_bytes``; "raise" refuses
            them, also where they vanish before the array is computed.

        Raises
        ------
        ConfigError
            If there is no such read-out or part, or no workflow asked for K(test, test); with ``missing="raise"`` also
            if the workflow has a part of K(train, train) stored.
        NotComputed
            With ``missing="raise"``, if tiles are missing, with how far it is.
        """
        if missing not in ("nan", "raise"):
            raise ConfigError(f'missing is "nan" or "raise", got {short_repr(missing)}')
        name = find_readout(self.directory, readout)
        stored = self._kernel(name, part)
        if missing == "raise":
            if part == "train":
                require_stored_kernel(self.directory, stored, f'kernel("{name}", "{part}")')
            require_whole(self.directory, stored, f'kernel("{name}", "{part}")')
        return stored.lazy(whole=missing == "raise")

    def _kernel(self, readout: str, part: str) -> Stored:
        if part == "test_test":
            return self._test_kernel(readout)
        group = kernel_group(self.directory)
        parts = [spec.name.split("/")[1] for spec in group.arrays if spec.name.split("/")[0] == readout]
        if part not in parts:
            raise ConfigError(f"a kernel has no part {part!r}{spelling.nearest(part, [*parts, 'test_test'])}")
        return Stored.of(group, f"{readout}/{part}")

    def _test_kernel(self, readout: str) -> Stored:
        stored, run = Stored.of(test_group(self.directory), readout), self.directory
        is_asked = run.has_workflow() and needs_test_kernel(run.workflow().inference)
        if not is_asked and not stored.count()[0]:
            raise ConfigError(
                f'{run.path}: kernel("{readout}", "test_test") is the kernel of the test images with each other, for '
                "which no workflow has asked: run it again with inference.posterior_covariance = true"
            )
        return stored

    # Solves.

    def system(self, readout: AskedReadout = None, ridge: float | None = None) -> System:
        """Find the system of a read-out with a ridge; arguments and errors as in `predictions`."""
        return find_system(self.directory, find_readout(self.directory, readout), ridge)

    @property
    def best(self) -> System:
        """The best solved system.

        With ``solve.choose_by`` it is the system of the largest evidence, or of the best leave-one-out, as the key
        says. Without ``choose_by`` it has the highest score of leave-one-out where all systems have one, and of the
        test images otherwise.

        Raises
        ------
        NotComputed
            If no system is solved yet, or what they are compared by is not computed.
        """
        return find_best(self.directory)

    def predictions(self, readout: AskedReadout = None, ridge: float | None = None) -> Array:
        """Read the predictive means of the test images.

        Parameters
        ----------
        readout : str or sequence, optional
            As in `kernel`.
        ridge : float, optional
            As in the workflow; None takes the only one, or the one that leave-one-out has chosen.

        Returns
        -------
        float64 array, (test, classes)
            The largest column of a row is the predicted class.

        Raises
        ------
        ConfigError
            If there is no such read-out or ridge.
        NotComputed
            If they are not computed yet, with how far they are.
        """
        return self._solved(self.system(readout, ridge), "mean", "predictions")

    def probabilities(self, readout: AskedReadout = None, ridge: float | None = None) -> Array:
        """Evaluate the probabilities of the classes of the test images, as `predict_proba` does for new images."""
        system = self.system(readout, ridge)
        return self.calibrated(system).of(self.predictions(system.readout, system.ridge))

    def coefficients(self, readout: AskedReadout = None, ridge: float | None = None) -> Array:
        """Read the coefficients alpha of ``(K + ridge I) alpha = Y``; arguments and errors as in `predictions`.

        Returns
        -------
        float64 array, (train, classes)
        """
        return self._solved(self.system(readout, ridge), "coefficients", "coefficients")

    def _solved(self, system: System, part: str, what: str) -> Array:
        stored = Stored.of(system_group(self.directory, system, {}), part)
        return read_whole(self.directory, stored, f"{what} of {system.label}")

    @property
    def metrics(self) -> Table:
        """The results of each ridge of each read-out, as a table; ``metrics[0].accuracy`` is a number."""
        return Table.of(make_report(self.directory).solves if self.directory.has_workflow() else ())

    # Results of [inference].

    def result(self, key: str, readout: AskedReadout = None, ridge: float | None = None) -> Inferred:
        """Read a result of ``[inference]``: its record as ``summary``, and its arrays.

        Parameters
        ----------
        key : str
            In ``[inference]``, such as "leave_one_out". ``run.leave_one_out(readout, ridge)`` is the same.
        readout, ridge
            As in `predictions`.

        Raises
        ------
        ConfigError
            If there is no such result, read-out or ridge, or the workflow did not ask for it.
        NotComputed
            If it is not computed yet, with how far it is.
        """
        return read_result(self.directory, key, self.system(readout, ridge))

    def __getattr__(self, key: str) -> Callable[..., Inferred]:
        """Return `result` for a key of ``[inference]``."""
        if key not in RESULTS:
            raise AttributeError(f"a run has no {key!r}{spelling.nearest(key, self._public())}")
        return partial(self.result, key)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *RESULTS]

    def _public(self) -> list[str]:
        return [name for name in self.__dir__() if not name.startswith("_")]

    # New images.

    def decision_function(
        self, images: Any, readout: AskedReadout = None, ridge: float | None = None, *, say: Say | None = on_stderr
    ) -> Array:
        """Evaluate the predictive means of new images, in blocks on all cores; nothing is written.

        For many images `cntk predict` uses the cluster of the run, and goes on where it was stopped.

        Parameters
        ----------
        images : object
            As the source of the run had them, ``(n, H, W, C)``, ``(n, H, W)`` for grayscale or ``(n, features)``; or a
            table of pandas, Polars or PyArrow, whose columns are found by their names, as in `cntk predict`. They are
            standardised by the numbers of the run's own images.
        readout, ridge
            As in `predictions`.
        say : callable or None
            Gets a line with the forecast of the time before anything is computed; by default it goes to stderr, None
            says nothing.

        Returns
        -------
        float64 array, (n, classes)
            In the order of `classes`.

        Raises
        ------
        DataError
            If the images differ from those of the run in shape or kind of numbers, or are not finite; or a table lacks
            a feature.
        NotComputed
            If the coefficients are not computed yet.
        SpecificationMismatch
            If another version of the package computed the kernel, or the source of a plugin has changed.
        NotTrusted
            If a plugin computed the kernel, and this user has not allowed it: `open_run` with ``trust=True`` does.
        StoreError
            If the run is of an earlier version, which did not store how images were standardised, and its data set is
            not at hand.
        """
        return predict_means(self.directory, self.system(readout, ridge), images, say, trust=self._trust)

    def predict(
        self, images: Any, readout: AskedReadout = None, ridge: float | None = None, *, say: Say | None = on_stderr
    ) -> Array:
        """Predict the classes of new images, ``(n,)`` texts out of `classes`; arguments as in `decision_function`.

        Of several classes an image it is 0 or 1 for each, ``(n, classes)``; of a regression the predictive means.
        """
        return predicted_of(self.directory.specification.data, self.decision_function(images, readout, ridge, say=say))

    def predict_proba(
        self, images: Any, readout: AskedReadout = None, ridge: float | None = None, *, say: Say | None = on_stderr
    ) -> Array:
        """Predict the probabilities of the classes of new images, calibrated on the run's leave-one-out predictions.

        They are the softmax of a multiple of `decision_function`; the factor is the one with which the labels of the
        left-out training images are most likely, see `regression.probabilities`. Arguments and errors are as in
        `decision_function`.

        Returns
        -------
        float64 array, (n, classes)
            In the order of `classes`; rows add up to 1.

        Raises
        ------
        ConfigError
            If the workflow of the run asked neither for ``inference.calibration`` nor for ``inference.leave_one_out``,
            there is one class only, or the run is no classification with one class an image.
        """
        return self.calibrated(self.system(readout, ridge)).of(self.decision_function(images, readout, ridge, say=say))

    def calibrated(self, system: System) -> Probabilities:
        """Return the map from predictive means to probabilities of a system; errors are as in `predict_proba`."""
        if self.directory.specification.data.task != "classification":
            raise ConfigError(f"{self.path} has no probabilities: they are of a classification with one class an image")
        if "calibration" in asked_of(self.directory.workflow().inference):
            return Probabilities(self.result("calibration", system.readout, system.ridge).summary.softmax_scale)
        left_out = self.result("leave_one_out", system.readout, system.ridge)["prediction"]
        return fit_probabilities(np.asarray(left_out), self.labels.train)

    # Everything at once.

    def to_xarray(self) -> Any:
        """Return everything as one lazy `xarray.Dataset`, whose variables are named in docs/runs.md.

        Raises
        ------
        ConfigError
            If xarray is not installed.
        """
        from cntk_pipeline.opened.labelled import to_dataset

        return to_dataset(self.directory)

    # For people.

    def __repr__(self) -> str:
        path, images, state = describe(self.directory)
        return f"OpenRun {path}: {state}\n{images}\n{self.metrics!r}"

    def _repr_html_(self) -> str:
        path, images, state = map(html.escape, describe(self.directory))
        return f"<div><b>{path}</b>: {state}<br>{images}</div>{self.metrics._repr_html_()}"
