"""A fit of kernel regression in memory: the ridge, the coefficients, and leave-one-out, from one factorisation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy.typing as npt

from cntk_pipeline.errors import ConfigError, NotPositiveDefinite
from cntk_pipeline.inputs import require_squares, short_repr
from cntk_pipeline.regression.arguments import (
    AUTO_RIDGES,
    Array,
    RidgeMode,
    TrainKernel,
    as_absolute_ridge,
    as_targets,
    as_train_kernel,
    is_list,
    is_one_number,
    require_ridge_mode,
)
from cntk_pipeline.regression.factors import (
    cholesky,
    eigenbasis,
    is_definite,
    left_out,
    posterior_covariance,
    posterior_variance,
    solve,
)
from cntk_pipeline.regression.selection import RidgePath, path_of_basis

Ridge = float | Sequence[float] | Literal["auto"]


@dataclass(frozen=True, eq=False)
class Fitted:
    """A solved system.

    Attributes
    ----------
    ridge : float
        As given, or as chosen.
    absolute_ridge : float
        The value added to the diagonal.
    lower : float64 array, (n, n)
        Cholesky factor of ``K + r I``.
    coefficients : float64 array, (n, c)
        ``(K + r I)^-1 Y``: a prediction is ``K(x, X)`` times them.
    leave_one_out : float64 array, (n, c)
        The prediction of each training sample from all the others.
    path : RidgePath or None
        All candidates, where the ridge was chosen; None where one was given.
    """

    ridge: float
    absolute_ridge: float
    lower: Array
    coefficients: Array
    leave_one_out: Array
    path: RidgePath | None

    def posterior_covariance(self, cross: Array, prior: Array) -> Array:
        """Evaluate the covariance of new samples, from their kernels with the training samples and each other."""
        return posterior_covariance(self.lower, cross, prior)

    def posterior_variance(self, cross: Array, prior_diagonal: Array) -> Array:
        """Evaluate the diagonal of `posterior_covariance`."""
        return posterior_variance(self.lower, cross, prior_diagonal)


def fit(
    k_train: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    ridge: Ridge = "auto",
    ridge_mode: RidgeMode = "relative",
    auto: Sequence[float] = AUTO_RIDGES,
    name: str = "k_train",
) -> Fitted:
    """Solve kernel regression, with the ridge that leave-one-out prefers where several are given.

    The smallest mean squared error of leave-one-out wins; of equals, the first. Ridges with which the kernel is not
    positive definite are left out of the choice. The choice costs one eigendecomposition, however many ridges there
    are.

    Parameters
    ----------
    k_train : array, (n, n)
        Kernel matrix of the training samples.
    y : array, (n, c) or (n,)
        Targets.
    ridge : float, sequence of float, or "auto"
        A number of at least 0, a list of such, or "auto".
    ridge_mode : {"relative", "absolute"}
        Relative to trace(K) / n, or added to the diagonal as it is; "auto" is always relative.
    auto : sequence of float
        The ridges of "auto".
    name : str
        Of the kernel matrix, for messages.

    Raises
    ------
    ConfigError, NotFinite
        As `gp_posterior`; or if the list of ridges is empty, or "auto" has the mode "absolute".
    NotPositiveDefinite
        If the kernel is not positive definite with the ridge, or with any of the list.
    DataError
        If a ridge is to be chosen, and squares of the targets are beyond float64.

    Examples
    --------
    >>> import numpy as np
    >>> fitted = fit(0.1 * np.eye(3) + 1, [1, 1, 0], ridge=[9, 0.9, 0], ridge_mode="absolute")
    >>> fitted.ridge, fitted.coefficients.ravel().round(3)
    (0.9, array([ 0.5,  0.5, -0.5]))
    """
    kernel = as_train_kernel(k_train, name)
    targets = as_targets(y, kernel)
    path, chosen = None, ridge
    if not is_one_number(ridge):
        require_squares("y", targets.reshape(-1, 1))
        path = _path(kernel, targets, candidates_of(ridge, ridge_mode, auto), ridge_mode)
        chosen = path.best
    absolute = as_absolute_ridge(kernel, cast(float, chosen), ridge_mode)
    lower = cholesky(kernel, absolute)
    coefficients = solve(lower, targets)
    predictions = left_out(lower, targets, coefficients)
    return Fitted(float(cast(float, chosen)), absolute, lower, coefficients, predictions, path)


def candidates_of(ridge: Ridge, ridge_mode: RidgeMode, auto: Sequence[float]) -> list[float]:
    """List the ridges to choose from; errors as of `fit`."""
    require_ridge_mode(ridge_mode)
    if is_list(ridge):
        ridges = cast(Sequence[float], ridge)
        if not len(ridges):
            raise ConfigError("the list of ridges is empty: give at least one, or ridge='auto'")
        return list(ridges)  # in their order: ridges[0] of a pandas.Series is the one with the label 0
    if not isinstance(ridge, str) or ridge != "auto":
        raise ConfigError(f"ridge must be a number of at least 0, a list of such, or 'auto', got {short_repr(ridge)}")
    if ridge_mode != "relative":
        raise ConfigError(f"ridge='auto' chooses among relative ridges: leave ridge_mode={ridge_mode!r} out")
    return list(auto)


def _path(kernel: TrainKernel, targets: Array, ridges: Sequence[float], ridge_mode: RidgeMode) -> RidgePath:
    """Evaluate leave-one-out for the ridges with which the kernel is positive definite."""
    basis = eigenbasis(kernel)
    absolute = [as_absolute_ridge(kernel, ridge, ridge_mode) for ridge in ridges]
    usable = [place for place, each in enumerate(absolute) if is_definite(basis, each)]
    if not usable:
        listed = ", ".join(f"{float(ridge):g}" for ridge in ridges)
        raise NotPositiveDefinite(
            f"{kernel.name} is not positive definite with any of the ridges {listed}, {ridge_mode}; its smallest "
            f"eigenvalue is {basis.values[0]:.3g}. Give a larger ridge; a kernel of zeros (a network "
            "without trained layers, or inputs of zeros) has none",
            pivot=float(basis.values[0]),
        )
    return path_of_basis(basis, targets, [ridges[place] for place in usable], [absolute[place] for place in usable])
