"""Kernel regression as inference: the posterior of a Gaussian process."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cntk_pipeline.regression.arguments import (
    Array,
    RidgeMode,
    as_absolute_ridge,
    as_cross_kernel,
    as_targets,
    as_test_kernel,
    as_train_kernel,
)
from cntk_pipeline.regression.factors import cholesky, posterior_covariance, solve


def signal_variance(targets: Array, coefficients: Array) -> Array:
    """Estimate the factor of the kernel for each column of the targets: ``y^T (K + r I)^-1 y / n``, ``(c,)``.

    A ridge alone fixes the kernel only up to a factor, which means do not depend on but variances do. This is the
    factor of largest likelihood (Rasmussen and Williams 2006, section 5.4.1, solved for the factor).

    Parameters
    ----------
    targets, coefficients : float64 array, (n, c)
        y, and ``(K + r I)^-1 y``.
    """
    return np.einsum("ij,ij->j", targets, coefficients) / len(targets)


@dataclass(frozen=True)
class Predictive:
    """The prediction for the test samples: a Gaussian for each column of the targets.

    Attributes
    ----------
    mean : float64 array, (n_test, c)
        Predictive mean.
    covariance : float64 array, (n_test, n_test), optional
        The same for every column; None where the kernel of the test samples was not given.
    """

    mean: Array
    covariance: Array | None = None


def gp_posterior(
    k_train: npt.ArrayLike,
    y: npt.ArrayLike,
    k_test_train: npt.ArrayLike,
    k_test: npt.ArrayLike | None = None,
    *,
    ridge: float = 0.0,
    ridge_mode: RidgeMode = "relative",
) -> Predictive:
    """Evaluate the posterior of a Gaussian process: ``K* (K + r I)^-1 Y`` and ``K** - K* (K + r I)^-1 K*^T``.

    With the NNGP this is the Bayesian network of infinite width. With the NTK, the mean equals the trained ensemble's,
    the covariance does not (see `ensemble`). Rasmussen and Williams 2006, equations 2.23 and 2.24; the covariance
    belongs to the function, without the noise r.

    Parameters
    ----------
    k_train : array, (n, n)
        Kernel matrix of the training samples; float32 is converted to float64.
    y : array, (n, c) or (n,)
        Targets.
    k_test_train : array, (n_test, n)
        Kernel matrix of test samples (rows) and training samples.
    k_test : array, (n_test, n_test), optional
        Kernel matrix of the test samples; without it there is no covariance.
    ridge : float
        The regulariser, at least 0; the default interpolates.
    ridge_mode : {"relative", "absolute"}
        Relative to trace(K) / n, as is the custom of the field, or added to the diagonal as it is.

    Returns
    -------
    Predictive

    Raises
    ------
    ConfigError
        If a shape does not fit, a matrix is not symmetric, or the ridge is invalid.
    NotFinite
        If an entry is nan or infinite.
    NotPositiveDefinite
        If a pivot is not positive, with its row, its value, and a sufficient ridge.

    Examples
    --------
    Two samples, and a test sample like the first:

    >>> import numpy as np
    >>> posterior = gp_posterior(np.eye(2), [3.0, 5.0], [[1.0, 0.0]], [[1.0]], ridge=0.5)
    >>> posterior.mean, posterior.covariance
    (array([[2.]]), array([[0.33333333]]))
    """
    kernel = as_train_kernel(k_train)
    targets = as_targets(y, kernel)
    cross = as_cross_kernel(k_test_train, kernel)
    prior = None if k_test is None else as_test_kernel(k_test, len(cross), "k_test")
    lower = cholesky(kernel, as_absolute_ridge(kernel, ridge, ridge_mode))
    mean = cross @ solve(lower, targets)
    if prior is None:
        return Predictive(mean)
    return Predictive(mean, posterior_covariance(lower, cross, prior))
