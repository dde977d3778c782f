"""The eigenvalues of a kernel: all of them, or only the largest and smallest, each with its residual."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.linalg
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, aslinearoperator, eigsh

from cntk_pipeline.errors import ConfigError, NotConverged, NotFinite
from cntk_pipeline.inputs import is_whole_number, short_repr
from cntk_pipeline.regression.arguments import Array, as_train_kernel

RESTARTS = 100
"""Number of restarts of Lanczos before it is given up."""

_Pairs = tuple[Array, Array]


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues of a kernel matrix.

    Attributes
    ----------
    eigenvalues : float64 array, (m,)
        Falling: the largest, then the requested smallest ones. Negative ones are not changed.
    residuals : float64 array, (m,)
        ``||K v - lambda v||`` for the computed unit vector v: an eigenvalue of K lies within this distance.
    """

    eigenvalues: Array
    residuals: Array


def spectrum(k_train: npt.ArrayLike | LinearOperator, count: int | None = None, *, smallest: int = 0) -> Spectrum:
    """Find the eigenvalues of a kernel.

    Parameters
    ----------
    k_train : array, (n, n), or scipy.sparse.linalg.LinearOperator
        Kernel matrix; or a function that multiplies by it, for a matrix that does not fit into memory:
        ``LinearOperator((n, n), matvec=multiply)``. Its symmetry cannot be checked.
    count : int, optional
        Number of the largest eigenvalues, found by Lanczos. Without it all n are computed by a dense solver, in about
        ``9 n^3`` operations and four matrices of memory.
    smallest : int
        Number of the smallest eigenvalues to find as well: of a matrix by the dense solver, of an operator by Lanczos,
        which takes many products to separate them, since they lie close together.

    Returns
    -------
    Spectrum

    Raises
    ------
    ConfigError
        If a count is invalid, or the matrix is not square and symmetric.
    NotFinite
        If an entry, or a product with the operator, is nan or infinite.
    NotConverged
        If Lanczos did not find the requested number of eigenvalues.

    Examples
    --------
    >>> import numpy as np
    >>> spectrum(np.diag([3.0, 1.0, 2.0])).eigenvalues
    array([3., 2., 1.])
    """
    if count is not None and not _counts(count, 1):
        raise ConfigError(
            f"count must be an integer of at least 1, or None for all eigenvalues, got {short_repr(count)}"
        )
    if not _counts(smallest, 0):
        raise ConfigError(f"smallest must be an integer of at least 0, got {short_repr(smallest)}")
    if not isinstance(k_train, LinearOperator):
        matrix = as_train_kernel(k_train).values
        operator = aslinearoperator(matrix)
    elif k_train.shape[0] == k_train.shape[1]:
        matrix, operator = None, _in_float64(k_train)
    else:
        raise ConfigError(f"k_train must be square, (n, n), got an operator of shape {k_train.shape}")
    n = operator.shape[0]
    if count is None or count + smallest >= n:
        whole = operator @ np.eye(n) if matrix is None else matrix
        return _with_residuals(operator, [scipy.linalg.eigh(whole, check_finite=False)])
    ends = [_largest(operator, count)]
    if smallest:
        ends.insert(0, _smallest(operator, smallest) if matrix is None else _smallest_dense(matrix, smallest))
    return _with_residuals(operator, ends)


def _counts(value: object, least: int) -> bool:
    return is_whole_number(value) and bool(value >= least)


def _in_float64(operator: LinearOperator) -> LinearOperator:
    """Wrap an operator as float64: Lanczos works in the operator's dtype, and float32 would lose eigenvalues."""

    def multiply(vector: Array) -> Array:
        return np.asarray(operator.matvec(vector), dtype=np.float64)

    return LinearOperator(operator.shape, matvec=multiply, dtype=np.float64)


def _largest(operator: LinearOperator, count: int) -> _Pairs:
    return _lanczos(operator, "LA", count, max(4 * count, 40), 0.0)


def _smallest(operator: LinearOperator, count: int) -> _Pairs:
    # They lie so close together that a narrow Krylov space does not separate them: on an NTK of 1,500 samples, 40
    # vectors did not converge to full accuracy in a minute, 300 vectors converged to 1e-6 in a second.
    return _lanczos(operator, "SA", count, max(10 * count, 300), 1e-6)


def _smallest_dense(matrix: Array, count: int) -> _Pairs:
    return scipy.linalg.eigh(matrix, subset_by_index=[0, count - 1], check_finite=False)


def _lanczos(operator: LinearOperator, which: str, count: int, width: int, tolerance: float) -> _Pairs:
    """Find ``count`` eigenpairs at one end, rising, in Krylov spaces of ``width`` vectors."""
    n = operator.shape[0]
    start = np.random.default_rng(0).standard_normal(n)  # the same answer every time
    product = operator @ start
    if not np.isfinite(product).all():
        raise NotFinite("a product with k_train holds nan or infinite values: finite ones were expected")
    if not product.any():  # a kernel of zeros: ARPACK cannot begin with it
        return np.zeros(count), np.eye(n, count)
    try:
        return eigsh(operator, count, which=which, v0=start, ncv=min(n, width), tol=tolerance, maxiter=RESTARTS)
    except ArpackNoConvergence as error:
        end = {"LA": "largest", "SA": "smallest"}[which]
        raise NotConverged(
            f"Lanczos found {len(error.eigenvalues)} of the {count} {end} eigenvalues of k_train in {RESTARTS} "
            "restarts. Ask for fewer, or for all with count=None"
        ) from error


def _with_residuals(operator: LinearOperator, ends: list[_Pairs]) -> Spectrum:
    values = np.concatenate([values for values, _ in ends])
    vectors = np.concatenate([vectors for _, vectors in ends], axis=1)
    residuals = np.linalg.norm(operator @ vectors - vectors * values, axis=0)
    return Spectrum(values[::-1].copy(), residuals[::-1].copy())
