"""A fit of kernel regression on centres in memory, from their columns of the kernel.

It is what ``solver = "centres"`` of a run solves, by eigenvectors instead of factors: directions in which the centres
do not differ, up to rounding, are left out, so that equal centres do no harm.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import scipy.linalg

from cntk_pipeline.errors import NotPositiveDefinite
from cntk_pipeline.inputs import require_squares
from cntk_pipeline.regression.arguments import (
    AUTO_RIDGES,
    SMALLEST_REST,
    Array,
    RidgeMode,
    TrainKernel,
    as_absolute_ridge,
    as_finite,
    as_real,
    as_train_kernel,
    is_one_number,
)
from cntk_pipeline.regression.fitting import Ridge, candidates_of
from cntk_pipeline.regression.scores import accuracy, classes_of, mean_square
from cntk_pipeline.regression.selection import RidgePath

ROUNDED_SIGNAL = 0.1
"""Share of the variance of the signal that rounding may make of it: more leaves no digit."""


@dataclass(frozen=True, eq=False)
class FittedCentres:
    """A solved system on m centres among n samples; `Fitted` has the fields that both have.

    Attributes
    ----------
    ridge, absolute_ridge, path
        As of `Fitted`.
    coefficients : float64 array, (m, c)
        A prediction is ``K(x, centres)`` times them.
    leave_one_out : float64 array, (n, c)
        The prediction of each training sample from all the others, with fixed centres.
    to_features : float64 array, (m, k)
        ``K(x, centres)`` times them are the features b(x), whose products stand for the kernel.
    to_whitened : float64 array, (k, k)
        ``b(x)`` times them is v(x), so that the products of v are those of b with ``(B^T B + ridge I)^-1`` between.
    signal_variance : float64 array, (c,)
        ``y^T (B B^T + ridge I)^-1 y / n``; infinite without a ridge, where the targets are not reached;
        NaN where a ridge is so small that rounding hides it.
    """

    ridge: float
    absolute_ridge: float
    coefficients: Array
    leave_one_out: Array
    path: RidgePath | None
    to_features: Array
    to_whitened: Array
    signal_variance: Array

    def posterior_covariance(self, cross: Array, prior: Array) -> Array:
        """Evaluate ``K** - B* B*^T + ridge V* V*^T``: the deterministic training conditional."""
        features = cross @ self.to_features
        whitened = features @ self.to_whitened
        return prior - features @ features.T + self.absolute_ridge * (whitened @ whitened.T)

    def posterior_variance(self, cross: Array, prior_diagonal: Array) -> Array:
        """Evaluate the diagonal of `posterior_covariance`, ``(n_test,)``; rounding never makes it negative."""
        features = cross @ self.to_features
        whitened = features @ self.to_whitened
        seen, left = (np.einsum("ij,ij->i", x, x) for x in (features, whitened))
        return np.maximum(prior_diagonal - seen + self.absolute_ridge * left, 0.0)


def fit_centres(
    columns: npt.ArrayLike,
    diagonal: npt.ArrayLike,
    y: Array,
    *,
    ridge: Ridge = "auto",
    ridge_mode: RidgeMode = "relative",
    auto: Sequence[float] = AUTO_RIDGES,
    centres: npt.NDArray[np.int64] | None = None,
) -> FittedCentres:
    """Solve kernel regression on centres, with the ridge that leave-one-out prefers where several are given.

    Parameters
    ----------
    columns : array, (n, m)
        The kernel of all training samples and the centres.
    diagonal : array, (n,)
        The kernel of each training sample with itself, for relative ridges.
    y : float64 array, (n, c)
        Targets.
    ridge, ridge_mode, auto
        As of `fit`.
    centres : int64 array, (m,), optional
        The samples that are centres; the first m by default.

    Raises
    ------
    ConfigError, NotFinite
        As of `fit`.
    NotPositiveDefinite
        If the kernel of the centres is zero, or leave-one-out is undefined with each of the ridges.
    DataError
        If squares of the targets are beyond float64.

    Examples
    --------
    With all samples as centres it is `fit`:

    >>> import numpy as np
    >>> fitted = fit_centres(0.1 * np.eye(3) + 1, np.full(3, 1.1), np.array([[1.0], [1], [0]]), ridge=0.9 / 1.1)
    >>> fitted.coefficients.ravel().round(3)
    array([ 0.5,  0.5, -0.5])
    """
    require_squares("y", y)
    given = as_real(columns, "columns")
    kernel, count = as_finite(given, "columns"), given.shape[1]
    corner = as_train_kernel(given[:count] if centres is None else given[centres], "the kernel of the centres")
    values, vectors = scipy.linalg.eigh(corner.values, check_finite=False)
    kept = values > count * corner.eps * values.max()
    if not values.max() > 0:
        raise NotPositiveDefinite(
            "the kernel of the centres is zero: a network without trained layers, or inputs of zeros"
        )
    to_features = vectors[:, kept] / np.sqrt(values[kept])
    left, singular, right = scipy.linalg.svd(kernel @ to_features, full_matrices=False, check_finite=False)
    mean = as_finite(as_real(diagonal, "diagonal"), "diagonal").mean()
    unit = TrainKernel(np.full((1, 1), mean), corner.eps, "the kernel")  # all that a relative ridge asks of it
    several = not is_one_number(ridge)
    ridges = candidates_of(ridge, ridge_mode, auto) if several else [cast(float, ridge)]
    absolute = [as_absolute_ridge(unit, each, ridge_mode) for each in ridges]
    squares, rotated = np.square(singular), left.T @ y
    errors = [_left_out_errors(left, squares / (squares + each), rotated, y) for each in absolute]
    usable = [k for k, error in enumerate(errors) if error is not None]
    if not usable:
        listed = ", ".join(f"{float(each):g}" for each in ridges)
        raise NotPositiveDefinite(
            f"leave-one-out on {count} centres is undefined with any of the ridges {listed}, {ridge_mode}: nothing "
            "predicts some sample but itself. Give a larger ridge, or fewer centres"
        )
    path = _path(ridges, absolute, errors, usable, y) if several else None
    chosen = usable[int(path.squared_error.argmin())] if path is not None else 0
    error, added = errors[chosen], absolute[chosen]
    assert error is not None
    inverse = right.T / np.sqrt(squares + added)
    beta = right.T @ ((singular / (squares + added))[:, None] * rotated)
    inside = (np.square(rotated) / (squares + added)[:, None]).sum(axis=0)
    spread = float(np.sqrt(values.max() / values[kept].min()))
    signal = (_outside(y, left @ rotated, added, inside, spread) + inside) / len(y)
    return FittedCentres(
        float(ridges[chosen]), added, to_features @ beta, y - error, path, to_features, inverse, signal
    )


def _left_out_errors(left: Array, shares: Array, rotated: Array, targets: Array) -> Array | None:
    """Evaluate the targets minus the leave-one-out predictions; None where a leverage is 1 up to rounding."""
    rest = 1.0 - np.square(left) @ shares
    if rest.min() <= SMALLEST_REST:
        return None
    return np.asarray((targets - left @ (shares[:, None] * rotated)) / rest[:, None])


def _outside(y: Array, reached: Array, added: float, inside: Array, spread: float) -> Array:
    """Evaluate the part of ``y^T (B B^T + ridge I)^-1 y`` that the targets have outside the features, ``(c,)``.

    The squared distance of the targets from what the features reach, over the ridge. As a difference of squared norms
    it would be rounding from a ridge of 1e-15 on. NaN where a tiny ridge makes much of the rounding of the distance.

    Parameters
    ----------
    spread : float
        The largest by the smallest factor of the features, by which their rounding grows.
    """
    rest = np.square(y - reached).sum(axis=0)
    share = max(len(y), 100) * np.finfo(np.float64).eps * spread
    rounding = np.square(share) * np.square(y).sum(axis=0)
    if not added:
        return np.where(rest > rounding, np.inf, 0.0)
    is_hidden = (rest <= rounding) & (rounding > ROUNDED_SIGNAL * added * inside)
    return np.where(is_hidden, np.nan, rest / added)


def _path(
    ridges: Sequence[float], absolute: Sequence[float], errors: Sequence[Array | None], usable: Sequence[int], y: Array
) -> RidgePath:
    classes, found = classes_of(y), [error for error in errors if error is not None]
    return RidgePath(
        np.array([ridges[k] for k in usable], dtype=np.float64),
        np.array([absolute[k] for k in usable]),
        np.array([mean_square(error) for error in found]),
        np.array([accuracy(y - error, classes) for error in found]),
    )
