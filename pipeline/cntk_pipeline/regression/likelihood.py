"""The evidence of a kernel and a ridge: the likelihood of the training targets under the Gaussian process."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cntk_pipeline.errors import ConfigError, NotPositiveDefinite
from cntk_pipeline.inputs import require_squares
from cntk_pipeline.regression.arguments import (
    Array,
    RidgeMode,
    TrainKernel,
    as_absolute_ridge,
    as_real,
    as_targets,
    as_train_kernel,
)
from cntk_pipeline.regression.factors import cholesky, definite_basis, solve
from cntk_pipeline.regression.posterior import signal_variance


@dataclass(frozen=True)
class Evidence:
    """The log evidence, or log marginal likelihood, of targets under ``N(0, s (K + r I))``, for any factor s.

    The columns of the targets are independent draws, so that their log evidences add up. The factor s scales the kernel
    and the noise, and changes no predictive mean. (Rasmussen and Williams 2006, equations 2.30 and 5.8.)

    Attributes
    ----------
    count : int
        Number n of training samples.
    log_determinant : float
        Of ``K + r I``.
    scales : float64 array, (c,)
        ``y^T (K + r I)^-1 y / n`` of each column: the factors with which the columns are most likely.
    """

    count: int
    log_determinant: float
    scales: Array

    @property
    def scale(self) -> float:
        """The factor with which all columns together are most likely, if they have one."""
        return float(self.scales.mean())

    def at(self, scales: npt.ArrayLike = 1.0) -> float:
        """Evaluate the log evidence of all columns with some factors.

        Parameters
        ----------
        scales : float, or array, (c,)
            Above 0: one for all columns, or one for each.

        Raises
        ------
        ConfigError
            If a factor is not positive, or their number is another. The best factor of a column of zeros is zero, and
            makes it infinitely likely.
        """
        chosen = as_real(scales, "scales").astype(np.float64)
        if chosen.shape not in ((), self.scales.shape):
            raise ConfigError(
                f"scales must be one number, or {len(self.scales)}, one for each column of the targets, got an array "
                f"of shape {chosen.shape}"
            )
        if not (np.isfinite(chosen).all() and (chosen > 0).all()):
            raise ConfigError(f"the factor of a kernel must be a positive number, got {chosen.tolist()}")
        constant = self.log_determinant + self.count * math.log(2 * math.pi)
        columns = self.count * (self.scales / chosen + np.log(chosen)) + constant
        return -0.5 * float(columns.sum())


def evidence(
    k_train: npt.ArrayLike, y: npt.ArrayLike, *, ridge: float = 0.0, ridge_mode: RidgeMode = "relative"
) -> Evidence:
    """Evaluate the evidence of a kernel and a ridge, from one Cholesky factor.

    Compare kernels and ridges by ``found.at(found.scales)``, which no factor of the kernel changes.

    Parameters
    ----------
    k_train : array, (n, n)
        Kernel matrix of the training samples.
    y : array, (n, c) or (n,)
        Targets.
    ridge, ridge_mode
        As in `gp_posterior`; the ridge is the variance of the noise.

    Raises
    ------
    ConfigError, NotFinite, NotPositiveDefinite
        As `gp_posterior`; also if ``K + r I`` is singular up to rounding, where a solution may still exist.
    DataError
        If squares of the targets are beyond float64.

    Examples
    --------
    >>> found = evidence([[1.0, 0.0], [0.0, 1.0]], [3.0, 1.0])
    >>> found.scale, round(found.at(), 3), round(found.at(found.scale), 3)
    (5.0, -6.838, -4.447)
    """
    kernel = as_train_kernel(k_train)
    targets = as_targets(y, kernel)
    require_squares("y", targets)
    absolute = as_absolute_ridge(kernel, ridge, ridge_mode)
    lower = cholesky(kernel, absolute)
    determinant = log_determinant(np.diagonal(lower), np.diagonal(kernel.values) + absolute, kernel.name)
    return Evidence(kernel.count, determinant, signal_variance(targets, solve(lower, targets)))


def evidences(kernel: TrainKernel, targets: Array, absolute: Array) -> Iterator[Evidence]:
    """Evaluate the evidence of each absolute ridge, from one eigendecomposition.

    Raises
    ------
    NotPositiveDefinite
        If the smallest ridge is too small, with a sufficient one.
    """
    basis = definite_basis(kernel, float(absolute.min()))
    squares = np.square(basis.vectors.T @ targets)
    for ridge in absolute:
        values = basis.values + ridge
        scales = (squares / values[:, None]).sum(axis=0) / kernel.count
        yield Evidence(kernel.count, float(np.log(values).sum()), scales)


def log_determinant(pivots: Array, diagonal: Array, name: str) -> float:
    """Evaluate the logarithm of the determinant of ``L L^T``.

    Parameters
    ----------
    pivots : float64 array, (n,)
        The diagonal of L, positive.
    diagonal : float64 array, (n,)
        Of the matrix that was factored.
    name : str
        Of the matrix, for the message.

    Raises
    ------
    NotPositiveDefinite
        If a squared pivot is rounding alone, less than n units in the last place of its diagonal entry.
    """
    squares, floor = pivots**2, len(pivots) * np.finfo(np.float64).eps * diagonal
    if (squares <= floor).any():
        row = int(np.flatnonzero(squares <= floor)[0])
        raise NotPositiveDefinite(
            f"{name}: the evidence needs a determinant, and the matrix is singular up to rounding: pivot "
            f"{squares[row]:.3g} at training row {row}, where rounding makes {floor[row]:.1e}. Give a larger ridge",
            row,
            float(squares[row]),
        )
    return 2.0 * float(np.log(pivots).sum())
