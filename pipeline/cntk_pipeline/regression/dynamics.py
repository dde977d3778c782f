"""Training as a flow: the outputs of an infinitely wide network at time t of gradient descent.

All times belong to the loss ``1/2 mean over all n c entries of (f - Y)^2``, so that the outputs on the training
samples move by ``df/dt = -(learning_rate / (n c)) K (f - Y)`` (Lee et al. 2019, arXiv:1902.06720, section 2.2).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import scipy

from cntk_pipeline.errors import ConfigError, NotPositiveDefinite
from cntk_pipeline.inputs import is_whole_number, short_repr
from cntk_pipeline.regression.arguments import (
    Array,
    TrainKernel,
    as_cross_kernel,
    as_targets,
    as_train_kernel,
    is_one_number,
)
from cntk_pipeline.regression.factors import cholesky, eigenbasis, expect_semidefinite, solve, sufficient_ridge

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator


@dataclass(frozen=True)
class Flow:
    """The outputs of gradient flow at a time.

    Attributes
    ----------
    mean : float64 array, (n_test, c)
        Outputs on the test samples.
    train_mean : float64 array, (n, c)
        Outputs on the training samples.
    covariance : None
        The flow starts at zero, not at a random network: see `ensemble` for that.
    """

    mean: Array
    train_mean: Array
    covariance: None = None


def gradient_flow(
    k_train: npt.ArrayLike,
    y: npt.ArrayLike,
    k_test_train: npt.ArrayLike,
    t: float | None,
    *,
    learning_rate: float = 1.0,
) -> Flow:
    """Follow kernel gradient flow from outputs of zero to time ``t``.

    ``K* K^-1 (I - exp(-K t learning_rate / (n c))) Y`` on the test samples, Lee et al. 2019, equations 8 and 9 for the
    loss of this module. At the end it is regression without a ridge; stopping early regularises.

    Parameters
    ----------
    k_train : array, (n, n)
        Kernel matrix of the training samples, the NTK where all layers are trained. It may be singular while ``t`` is
        finite.
    y : array, (n, c) or (n,)
        Targets.
    k_test_train : array, (n_test, n)
        Kernel matrix of test samples (rows) and training samples.
    t : float or None
        Time, at least 0; None or infinity is the end of training.
    learning_rate : float
        Positive; time is counted in steps of gradient descent of this size.

    Returns
    -------
    Flow

    Raises
    ------
    ConfigError
        If a shape does not fit, a matrix is not symmetric, or the time or the rate is invalid.
    NotFinite
        An entry is nan or infinite.
    NotPositiveDefinite
        If an eigenvalue is negative, or is zero to rounding and matters at that time; with a sufficient ridge.

    Examples
    --------
    >>> import numpy as np
    >>> flow = gradient_flow(np.eye(1), [1.0], [[0.5]], t=np.log(2))
    >>> flow.mean, flow.train_mean
    (array([[0.25]]), array([[0.5]]))
    """
    kernel = as_train_kernel(k_train)
    targets = as_targets(y, kernel)
    cross = as_cross_kernel(k_test_train, kernel)
    if not is_one_number(learning_rate) or not 0 < learning_rate < np.inf:
        raise ConfigError(f"learning_rate must be a finite number above 0, got {short_repr(learning_rate)}")
    time = flow_time(t, targets.size, learning_rate)
    if np.isinf(time):
        return Flow(cross @ solve(cholesky(kernel, 0.0), targets), targets.copy())
    values, vectors = flow_basis(kernel, time)
    rotated = vectors.T @ targets
    coefficients = vectors @ (learned_inverse(values, time)[:, None] * rotated)
    return Flow(cross @ coefficients, vectors @ (_learned(values, time)[:, None] * rotated))


def maximal_learning_rate(k_train: "npt.ArrayLike | LinearOperator", outputs: int) -> float:
    """Find the step of gradient descent above which it diverges, ``2 n c / lambda_max``.

    A step of size h takes the error along an eigenvector to ``1 - h lambda / (n c)`` times itself, under the loss
    ``1/2 mean over all n c entries``. Momentum and the finite width of a network have bounds of their own.

    Parameters
    ----------
    k_train : array, (n, n), or scipy.sparse.linalg.LinearOperator
        Kernel matrix of the training samples, or a function that multiplies by it.
    outputs : int
        c, the number of columns of the targets.

    Raises
    ------
    ConfigError
        If ``outputs`` is not a positive integer, or the matrix is not square and symmetric.
    NotPositiveDefinite
        If no eigenvalue is positive.

    Examples
    --------
    >>> import numpy as np
    >>> maximal_learning_rate(np.diag([1.0, 4.0]), outputs=10)
    10.0
    """
    if not is_whole_number(outputs) or outputs < 1:
        raise ConfigError(f"outputs must be a positive integer, the columns of the targets, got {short_repr(outputs)}")
    from cntk_pipeline.regression.eigenvalues import spectrum  # sparse matrices are slow to import

    largest = float(spectrum(k_train, count=1).eigenvalues[0])
    if largest <= 0:
        raise NotPositiveDefinite(
            f"the largest eigenvalue of k_train is {largest:.3g}, a positive one was expected: check that its network "
            "trains a layer",
            pivot=largest,
        )
    return float(2 * np.shape(k_train)[0] * outputs / largest)


def flow_time(t: float | None, entries: int, learning_rate: float = 1.0) -> float:
    """Return ``t learning_rate / (n c)``, infinite for None, where ``entries`` is n c.

    Raises
    ------
    ConfigError
        If the time is negative or not a number.
    """
    if t is None:
        return float("inf")
    if not is_one_number(t) or not t >= 0:
        raise ConfigError(f"t must be a time of at least 0, or None for the end of training, got {short_repr(t)}")
    return float(t) * (learning_rate / entries)


def flow_basis(kernel: TrainKernel, time: float) -> tuple[Array, Array]:
    """Decompose a kernel for a flow of finite time: eigenvalues ``(n,)``, none negative, and vectors ``(n, n)``.

    Raises
    ------
    NotPositiveDefinite
        If an eigenvalue is negative beyond rounding; or if one cannot be distinguished from zero, while the flow at
        ``time`` depends on the difference.
    """
    basis = eigenbasis(kernel)
    expect_semidefinite(kernel, basis)
    smallest = float(basis.values[0])
    blur = max(kernel.resolution, -smallest)
    if smallest < kernel.resolution and time * blur > 1:
        # The rounding error in such a direction would be multiplied by the time: a number without meaning.
        raise NotPositiveDefinite(
            f"{kernel.name} is singular to rounding, its smallest eigenvalue is {smallest:.3g}, and the flow is so "
            f"long that it depends on that: take a t below {0.5 / (blur * time):.1g} times this one, or add at least "
            f"{sufficient_ridge(kernel, smallest):.1e} to the diagonal",
            pivot=smallest,
        )
    return np.maximum(basis.values, 0.0), basis.vectors


def learned_inverse(eigenvalues: Array, time: float) -> Array:
    """Evaluate ``(1 - exp(-lambda time)) / lambda``, which is ``time`` where lambda is 0."""
    with np.errstate(over="ignore"):  # infinite is as good as large
        exponent = eigenvalues * time
    long = exponent > 1
    return np.where(
        long,
        _learned(eigenvalues, time) / np.where(long, eigenvalues, 1.0),
        time * scipy.special.exprel(-exponent),  # (exp(x) - 1) / x, exact at 0
    )


def _learned(eigenvalues: Array, time: float) -> Array:
    """Evaluate ``1 - exp(-lambda time)``, the learned share of each eigenvector."""
    with np.errstate(over="ignore"):
        return -np.expm1(-eigenvalues * time)
