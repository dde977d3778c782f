"""The eigenvalues of a kernel: all of them, or those at the ends, each with its residual."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.linalg
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, aslinearoperator, eigsh

from pipeline.errors import ConfigError, NotConverged
from pipeline.inference.arguments import Array, as_train_kernel


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues of a kernel matrix.

    Attributes
    ----------
    eigenvalues : float64 array, (m,)
        Falling: the largest, then the smallest that were asked for. Negative ones are shown as they are.
    residuals : float64 array, (m,)
        ``||K v - lambda v||`` for the unit vector v that was found: an eigenvalue of K lies at most that far away.
    """

    eigenvalues: Array
    residuals: Array


def spectrum(k_train: npt.ArrayLike | LinearOperator, count: int | None = None, *, smallest: int = 0) -> Spectrum:
    """Find the eigenvalues of a kernel.

    Parameters
    ----------
    k_train : array, (n, n), or scipy.sparse.linalg.LinearOperator
        Kernel matrix; or a function that multiplies by it, for one that is in no memory:
        ``LinearOperator((n, n), matvec=multiply)``. That it is symmetric cannot be checked then.
    count : int, optional
        How many of the largest, by Lanczos. Without it all n are computed by a dense solver, in about ``9 n^3``
        operations and four matrices of memory.
    smallest : int
        How many of the smallest to find as well. They lie close together in most kernels, so that Lanczos takes many
        products to part them, and finds no more of an eigenvalue below ``eps lambda_max`` than that.

    Returns
    -------
    Spectrum

    Raises
    ------
    ConfigError
        A count that is none, or a matrix that is not square and symmetric.
    NotFinite
        An entry is nan or infinite.
    NotConverged
        Lanczos did not find as many as were asked for.

    Examples
    --------
    >>> import numpy as np
    >>> spectrum(np.diag([3.0, 1.0, 2.0])).eigenvalues
    array([3., 2., 1.])
    """
    if count is not None and not _counts(count, 1):
        raise ConfigError(f"count must be an integer of at least 1, or None for all eigenvalues, got {count!r}")
    if not _counts(smallest, 0):
        raise ConfigError(f"smallest must be an integer of at least 0, got {smallest!r}")
    operator = _as_operator(k_train)
    n = operator.shape[0]
    if count is None or count + smallest >= n:
        whole = operator @ np.eye(n) if isinstance(k_train, LinearOperator) else np.asarray(k_train, dtype=np.float64)
        values, vectors = scipy.linalg.eigh(whole, check_finite=False)
        return _with_residuals(operator, values, vectors)
    largest = _lanczos(operator, count, "LA")
    if not smallest:
        return _with_residuals(operator, *largest)
    ends = [_lanczos(operator, smallest, "SA"), largest]
    return _with_residuals(operator, *(np.concatenate(parts, axis=-1) for parts in zip(*ends, strict=True)))


def _counts(value: object, least: int) -> bool:
    return isinstance(value, int | np.integer) and value >= least


def _as_operator(k_train: npt.ArrayLike | LinearOperator) -> LinearOperator:
    if not isinstance(k_train, LinearOperator):
        return aslinearoperator(as_train_kernel(k_train).values)
    if k_train.shape[0] != k_train.shape[1]:
        raise ConfigError(f"k_train must be square, (n, n), got an operator of shape {k_train.shape}")

    def multiply(vector: Array) -> Array:
        return np.asarray(k_train.matvec(vector), dtype=np.float64)

    # In float64 also where the operator says float32: there Lanczos would lose orthogonality.
    return LinearOperator(k_train.shape, matvec=multiply, dtype=np.float64)


def _lanczos(operator: LinearOperator, count: int, which: str) -> tuple[Array, Array]:
    """Find ``count`` eigenpairs at one end, rising; "LA" the largest, "SA" the smallest."""
    n = operator.shape[0]
    start = np.random.default_rng(0).standard_normal(n)  # the same answer every time
    try:
        return eigsh(operator, count, which=which, v0=start, ncv=min(n, max(4 * count, 40)))
    except ArpackNoConvergence as error:
        end = {"LA": "largest", "SA": "smallest"}[which]
        raise NotConverged(
            f"Lanczos found {len(error.eigenvalues)} of the {count} {end} eigenvalues of k_train in {10 * n} restarts. "
            "Ask for fewer, or for all with count=None"
        ) from error


def _with_residuals(operator: LinearOperator, values: Array, vectors: Array) -> Spectrum:
    residuals = np.linalg.norm(operator @ vectors - vectors * values, axis=0)
    return Spectrum(values[::-1].copy(), residuals[::-1].copy())
