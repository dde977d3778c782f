"""The choice of a ridge and a training-set size without refitting: leave-one-out, ridge path, learning curve."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy

from cntk_pipeline.errors import ConfigError
from cntk_pipeline.inputs import as_array, require_squares, short_repr
from cntk_pipeline.regression.arguments import (
    Array,
    RidgeMode,
    TrainKernel,
    as_absolute_ridge,
    as_cross_kernel,
    as_squared_targets,
    as_train_kernel,
    is_list,
)
from cntk_pipeline.regression.factors import Eigenbasis, cholesky, definite_basis, left_out, solve
from cntk_pipeline.regression.scores import accuracy, as_truth, classes_of, mean_square


@dataclass(frozen=True)
class LeaveOneOut:
    """The prediction of each training sample from all the others.

    Attributes
    ----------
    predictions : float64 array, (n, c)
    squared_error : float
        Mean over all n c entries of ``(prediction - Y)^2``.
    accuracy : float
        Share of samples with the largest column in the same place as in Y; with one column, with the same sign.
    """

    predictions: Array
    squared_error: float
    accuracy: float


@dataclass(frozen=True)
class RidgePath:
    """Leave-one-out over several ridges, ``(m,)`` each, in the order in which they were given.

    Attributes
    ----------
    ridges : array
        As given.
    absolute_ridges : array
        The values added to the diagonal.
    squared_error, accuracy : array
        As in `LeaveOneOut`.
    """

    ridges: Array
    absolute_ridges: Array
    squared_error: Array
    accuracy: Array

    @property
    def best(self) -> float:
        """The ridge, as given, with the smallest squared error; the first one if several are equal."""
        return float(self.ridges[self.squared_error.argmin()])

    @property
    def most_accurate(self) -> float:
        """The ridge, as given, with the highest accuracy; if several are equal, with the smallest squared error."""
        return float(self.ridges[np.lexsort((self.squared_error, -self.accuracy))[0]])


@dataclass(frozen=True)
class LearningCurve:
    """Test results for the first ``sizes`` training samples, ``(m,)`` each.

    Attributes
    ----------
    sizes : int64 array
        Numbers of training samples.
    accuracy : array
        Share of test samples with the right class.
    squared_error : array or None
        Mean over all entries of ``(mean - Y)^2``; None where labels were given.
    absolute_ridge : float
        The value added to the diagonal, at every size.
    """

    sizes: npt.NDArray[np.int64]
    accuracy: Array
    squared_error: Array | None
    absolute_ridge: float


def leave_one_out(
    k_train: npt.ArrayLike, y: npt.ArrayLike, *, ridge: float, ridge_mode: RidgeMode = "relative"
) -> LeaveOneOut:
    """Predict each training sample from all the others, from one factorisation.

    ``y_i - alpha_i / [(K + r I)^-1]_ii`` with ``alpha = (K + r I)^-1 Y`` (Rasmussen and Williams 2006, equation 5.12).
    A relative ridge refers to the whole matrix, also where a sample is left out.

    Parameters
    ----------
    k_train : array, (n, n)
        Kernel matrix of the training samples.
    y : array, (n, c) or (n,)
        Targets.
    ridge, ridge_mode
        As in `gp_posterior`.

    Raises
    ------
    ConfigError, NotFinite, NotPositiveDefinite
        As `gp_posterior`.
    DataError
        If squares of the targets are beyond float64.

    Examples
    --------
    A sample that resembles no other one has the prediction zero:

    >>> leave_one_out([[1, 1, 0], [1, 1, 0], [0, 0, 1]], [2, 2, 2], ridge=1.0).predictions.ravel()
    array([1., 1., 0.])
    """
    kernel = as_train_kernel(k_train)
    targets = as_squared_targets(y, kernel)
    lower = cholesky(kernel, as_absolute_ridge(kernel, ridge, ridge_mode))
    predictions = left_out(lower, targets, solve(lower, targets))
    return LeaveOneOut(predictions, mean_square(predictions - targets), accuracy(predictions, classes_of(targets)))


def ridge_path(
    k_train: npt.ArrayLike, y: npt.ArrayLike, ridges: Sequence[float], ridge_mode: RidgeMode = "relative"
) -> RidgePath:
    """Evaluate leave-one-out for many ridges from one eigendecomposition.

    Each further ridge costs ``n^2`` operations for each column of the targets, where `leave_one_out` costs ``n^3``.

    Parameters
    ----------
    k_train : array, (n, n)
        Kernel matrix of the training samples.
    y : array, (n, c) or (n,)
        Targets.
    ridges : sequence of float
        At least one.
    ridge_mode : {"relative", "absolute"}
        The mode of all ridges.

    Raises
    ------
    ConfigError, NotFinite
        As in `gp_posterior`; or if no ridge is given.
    NotPositiveDefinite
        If the smallest ridge is too small, with a sufficient one.
    DataError
        If squares of the targets are beyond float64.

    Examples
    --------
    >>> import numpy as np
    >>> path = ridge_path(0.1 * np.eye(3) + 1, [1, 1, 0], [0, 0.9, 9], ridge_mode="absolute")
    >>> path.best, path.squared_error.round(3)
    (0.9, array([0.485, 0.444, 0.563]))
    """
    kernel = as_train_kernel(k_train)
    targets = as_squared_targets(y, kernel)
    if not is_list(ridges):
        raise ConfigError(f"ridges must be a list of numbers of at least 0, got {short_repr(ridges)}")
    if not len(ridges):
        raise ConfigError("ridges is empty: at least one was expected")
    absolute = np.array([as_absolute_ridge(kernel, ridge, ridge_mode) for ridge in ridges])
    basis = definite_basis(kernel, float(absolute.min()))
    return path_of_basis(basis, targets, ridges, absolute)


def path_of_basis(
    basis: Eigenbasis, targets: Array, ridges: Sequence[float], absolute_ridges: npt.ArrayLike
) -> RidgePath:
    """Evaluate leave-one-out for many ridges, as `ridge_path`, where the eigendecomposition is at hand."""
    absolute = np.asarray(absolute_ridges, np.float64)
    classes = classes_of(targets)
    errors, accuracies = [], []
    for error in _errors_of_basis(basis, targets, absolute):
        errors.append(mean_square(error))
        accuracies.append(accuracy(targets - error, classes))
    return RidgePath(np.array(ridges, dtype=np.float64), absolute, np.array(errors), np.array(accuracies))


def left_out_errors(kernel: TrainKernel, targets: Array, absolute: Array) -> Iterator[Array]:
    """Predict each training sample from all the others with each absolute ridge, from one eigendecomposition.

    Yields
    ------
    iterator of array
        The targets minus the predictions, ``(n, c)``.

    Raises
    ------
    NotPositiveDefinite
        If the smallest ridge is too small, with a sufficient one.
    """
    basis = definite_basis(kernel, float(absolute.min()))
    yield from _errors_of_basis(basis, targets, absolute)


def _errors_of_basis(basis: Eigenbasis, targets: Array, absolute: Array) -> Iterator[Array]:
    inverse_values = 1 / (basis.values[:, None] + absolute)
    inverse_diagonals = basis.vectors**2 @ inverse_values
    rotated = basis.vectors.T @ targets
    for inverse_value, diagonal in zip(inverse_values.T, inverse_diagonals.T, strict=True):
        yield basis.vectors @ (inverse_value[:, None] * rotated) / diagonal[:, None]


def learning_curve(
    k_train: npt.ArrayLike,
    y: npt.ArrayLike,
    k_test_train: npt.ArrayLike,
    y_test_or_labels: npt.ArrayLike,
    sizes: Sequence[int],
    *,
    ridge: float,
    ridge_mode: RidgeMode = "relative",
) -> LearningCurve:
    """Evaluate the test results of every training-set size from one Cholesky factor.

    The leading block of the factor is the factor of the leading block, and the leading rows of ``L^-1 Y`` serve it
    likewise: each size costs one triangular solve, ``size^2`` operations for each column, where refitting costs
    ``size^3 / 3``.

    The samples count in the order of the matrix: shuffle them, where it is sorted by class. One absolute ridge holds
    for all sizes; a relative one is relative to trace(K) / n of the whole matrix.

    Parameters
    ----------
    k_train : array, (n, n)
        Kernel matrix of the training samples.
    y : array, (n, c) or (n,)
        Targets.
    k_test_train : array, (n_test, n)
        Kernel matrix of test samples (rows) and training samples.
    y_test_or_labels : array
        Targets of the test samples, ``(n_test, c)``, ``(n_test,)`` where c is 1; or their labels, integers
        ``(n_test,)`` from 0 to c - 1, where c is more.
    sizes : sequence of int
        Rising, from 1 to n.
    ridge, ridge_mode
        As in `gp_posterior`.

    Raises
    ------
    ConfigError, NotFinite, NotPositiveDefinite
        As in `gp_posterior`; or if sizes or labels are out of range.
    DataError
        If squares of the targets are beyond float64.

    Examples
    --------
    >>> import numpy as np
    >>> curve = learning_curve(np.eye(3), np.eye(3), np.eye(3), [0, 1, 2], [1, 2, 3], ridge=0.0)
    >>> curve.accuracy
    array([0.33333333, 0.66666667, 1.        ])
    """
    kernel = as_train_kernel(k_train)
    targets = as_squared_targets(y, kernel)
    cross = as_cross_kernel(k_test_train, kernel)
    truth = as_truth(y_test_or_labels, len(cross), targets.shape[1], "y_test_or_labels")
    if truth.targets is not None:
        require_squares("y_test_or_labels", np.concatenate([targets, truth.targets]).reshape(-1, 1))
    stops = _as_sizes(sizes, kernel.count)
    absolute = as_absolute_ridge(kernel, ridge, ridge_mode)
    lower = cholesky(kernel, absolute)
    forward = scipy.linalg.solve_triangular(lower, targets, lower=True, check_finite=False)
    accuracies, errors = [], []
    for size in stops:
        alpha = scipy.linalg.solve_triangular(
            lower[:size, :size], forward[:size], lower=True, trans="T", check_finite=False
        )
        mean = cross[:, :size] @ alpha
        accuracies.append(accuracy(mean, truth.classes))
        if truth.targets is not None:
            errors.append(mean_square(mean - truth.targets))
    squared_error = None if truth.targets is None else np.array(errors)
    return LearningCurve(np.array(stops), np.array(accuracies), squared_error, absolute)


def _as_sizes(sizes: Sequence[int], count: int) -> list[int]:
    given = as_array("sizes", sizes)
    rising = given.ndim == 1 and given.size and given.dtype.kind in "iu" and np.all(np.diff(given) > 0)
    if not rising or given[0] < 1 or given[-1] > count:
        raise ConfigError(f"sizes must be rising integers from 1 to {count}, as k_train has samples, got {sizes}")
    return [int(size) for size in given]
