"""The two factorisations of this package, with their errors for kernels that are not positive definite."""

from dataclasses import dataclass

import numpy as np
import scipy

from cntk_pipeline.errors import NotPositiveDefinite
from cntk_pipeline.regression.arguments import Array, TrainKernel


def cholesky(kernel: TrainKernel, ridge: float) -> Array:
    """Factor ``K + ridge I = L L^T``.

    Parameters
    ----------
    kernel : TrainKernel
        K, ``(n, n)``.
    ridge : float
        Absolute.

    Returns
    -------
    float64 array, (n, n)
        L, zero above the diagonal.

    Raises
    ------
    NotPositiveDefinite
        If a pivot is not positive, to rounding, with its row, its value, and a sufficient ridge.
    """
    system = _regularised(kernel, ridge)
    lower, info = scipy.linalg.lapack.dpotrf(system, lower=1, clean=1)
    if info == 0:
        pivots, lost = np.square(np.diagonal(lower)), np.finfo(np.float64).eps * kernel.count * np.diagonal(system)
        # Rounding alone makes pivots as large as that (Higham 2002, theorem 10.3), but no larger than `resolution`,
        # so that the ridge of the remedy is enough.
        small = np.flatnonzero(pivots <= np.minimum(lost, kernel.resolution))
        if not len(small):
            return lower
        row, pivot = int(small[0]), float(pivots[small[0]])
    else:  # LAPACK stops at the first pivot <= 0 and leaves the rows above factored.
        row = info - 1
        above = scipy.linalg.solve_triangular(lower[:row, :row], system[row, :row], lower=True, check_finite=False)
        pivot = float(system[row, row] - above @ above)
    # A pivot bounds the smallest eigenvalue from one side only; a sufficient ridge depends on the eigenvalue itself.
    smallest = float(scipy.linalg.eigvalsh(kernel.values, subset_by_index=[0, 0], check_finite=False)[0])
    raise NotPositiveDefinite(
        f"{kernel.name} plus a ridge of {ridge:.3g} is not positive definite: pivot {pivot:.3g} at row {row}. "
        + _remedy(kernel, smallest),
        row,
        pivot,
    )


def solve(lower: Array, right: Array) -> Array:
    """Solve ``L L^T x = right``; ``(n, c)``."""
    return scipy.linalg.cho_solve((lower, True), right, check_finite=False)


def inverse_diagonal(lower: Array) -> Array:
    """Evaluate the diagonal of ``(L L^T)^-1``, ``(n,)``, in n^3 / 3 multiplications and one more matrix."""
    inverse, _ = scipy.linalg.lapack.dtrtri(lower, lower=1)
    return np.einsum("ij,ij->j", inverse, inverse)


def left_out(lower: Array, targets: Array, coefficients: Array) -> Array:
    """Predict each training sample from all the others, ``(n, c)``: ``y_i - alpha_i / [(K + r I)^-1]_ii``.

    Rasmussen and Williams 2006, equation 5.12.

    Parameters
    ----------
    lower : float64 array, (n, n)
        Of `cholesky`.
    targets, coefficients : float64 array, (n, c)
        Y, and ``(K + r I)^-1 Y``.
    """
    return targets - coefficients / inverse_diagonal(lower)[:, None]


def posterior_covariance(lower: Array, cross: Array, prior: Array) -> Array:
    """Evaluate ``K** - K* (K + r I)^-1 K*^T``, ``(n_test, n_test)``, of K* = ``cross`` and K** = ``prior``."""
    half = _whitened(lower, cross)
    return prior - half.T @ half


def posterior_variance(lower: Array, cross: Array, prior_diagonal: Array) -> Array:
    """Evaluate the diagonal of `posterior_covariance`, ``(n_test,)``; rounding never makes it negative."""
    half = _whitened(lower, cross)
    return np.maximum(prior_diagonal - np.einsum("ij,ij->j", half, half), 0.0)


def _whitened(lower: Array, cross: Array) -> Array:
    return scipy.linalg.solve_triangular(lower, cross.T, lower=True, check_finite=False)


@dataclass(frozen=True)
class Eigenbasis:
    """``K = U diag(lambda) U^T``.

    Attributes
    ----------
    values : float64 array, (n,)
        Rising, as computed: rounding may have made small ones negative.
    vectors : float64 array, (n, n)
        U, a column each.
    """

    values: Array
    vectors: Array


def eigenbasis(kernel: TrainKernel) -> Eigenbasis:
    """Decompose a kernel matrix; its eigenvalues may have any sign."""
    values, vectors = scipy.linalg.eigh(kernel.values, check_finite=False)
    return Eigenbasis(values, vectors)


def is_definite(basis: Eigenbasis, ridge: float) -> bool:
    """Tell whether ``K + ridge I`` is positive definite, to rounding."""
    return bool(basis.values[0] + ridge > np.finfo(np.float64).eps * basis.values[-1])


def definite_basis(kernel: TrainKernel, ridge: float) -> Eigenbasis:
    """Diagonalise K, and refuse ``K + ridge I`` where `cholesky` would, to rounding.

    Raises
    ------
    NotPositiveDefinite
        If it is not positive definite, with the smallest eigenvalue and a sufficient ridge.
    """
    basis = eigenbasis(kernel)
    if not is_definite(basis, ridge):
        smallest = float(basis.values[0])
        raise NotPositiveDefinite(
            f"{kernel.name} plus a ridge of {ridge:.3g} is not positive definite: its smallest eigenvalue is "
            f"{smallest + ridge:.3g}. " + _remedy(kernel, smallest),
            pivot=smallest + ridge,
        )
    return basis


def expect_semidefinite(kernel: TrainKernel, basis: Eigenbasis) -> None:
    """Refuse eigenvalues that are negative beyond the rounding of the dtype in which the kernel was given.

    Raises
    ------
    NotPositiveDefinite
        If there is one, with the smallest eigenvalue and a sufficient value for the diagonal.
    """
    smallest = float(basis.values[0])
    if smallest < -kernel.rounding:
        raise NotPositiveDefinite(
            f"{kernel.name} is no kernel: its smallest eigenvalue is {smallest:.3g}, and rounding explains no less "
            f"than {-kernel.rounding:.1e}. If it was computed in float32, pass it in float32. "
            + _remedy(kernel, smallest),
            pivot=smallest,
        )


def sufficient_ridge(kernel: TrainKernel, smallest: float) -> float:
    """Return an absolute ridge that lifts the ``smallest`` eigenvalue above rounding, even printed to two digits."""
    return 1.1 * (kernel.rounding - min(smallest, 0.0))


def _regularised(kernel: TrainKernel, ridge: float) -> Array:
    system = np.array(kernel.values, order="F")
    system[np.diag_indices(kernel.count)] += ridge
    return system


def _remedy(kernel: TrainKernel, smallest: float) -> str:
    if not kernel.values.any():
        return f"{kernel.name} is zero everywhere: its network trains no layer, or all inputs are zero"
    ridge = sufficient_ridge(kernel, smallest)
    scale = kernel.mean_diagonal
    relative = f", {ridge / scale:.1e} relative to trace(K)/n" if scale > 0 else ""
    return f"Add a ridge of at least {ridge:.1e} absolute{relative}"
