"""Checks of the arguments of this package's functions: results are float64, and errors name the argument."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cntk_pipeline.errors import ConfigError, NotFinite
from cntk_pipeline.inputs import as_array, instead_of_numbers, is_number, short_repr

Array = npt.NDArray[np.float64]

RidgeMode = Literal["relative", "absolute"]

AUTO_RIDGES = tuple(10.0**exponent for exponent in range(0, -8, -1))
"""The ridges among which "auto" chooses, relative to trace(K) / n: a decade apart, the largest first."""

MEASURED_RIDGES = (100.0, 10.0, *AUTO_RIDGES)
"""The same for measured targets, which hold more noise than classes. Of scikit-learn's diabetes (354 rows, networks
of 2, 3 and 5 dense layers) leave-one-out prefers 1, which should not be the end."""

SMALLEST_REST = 1e-12
"""Of 1 minus a leverage: less leaves no digit of the difference that leave-one-out divides by."""

ASYMMETRY = 1000
"""Units in the last place, of the largest entry, by which mirrored entries may differ.

A float32 kernel is within 84 units (1e-5) of the truth; kernels that others computed may be further from it."""

ROUNDING = 16
"""Units in the last place, of the Frobenius norm, by which the rounding of a kernel may move an eigenvalue.

An eigenvalue moves by at most the norm of the error (Weyl), which is below one unit where entries are rounded once.
The rest is for the rounding inside a deep kernel, which is random and so far below its bound."""

SINGLE = 1e-5
"""The same for a kernel in float32, as a share: the promised accuracy of its entries (docs/networks.md)."""


@dataclass(frozen=True)
class TrainKernel:
    """The kernel matrix of the training samples.

    Attributes
    ----------
    values : float64 array, (n, n)
        Symmetric up to rounding; factorisations read the lower triangle.
    eps : float
        Unit in the last place of the dtype that was given.
    name : str
        The argument, for messages.
    """

    values: Array
    eps: float
    name: str

    @property
    def count(self) -> int:
        """Number of training samples."""
        return len(self.values)

    @property
    def mean_diagonal(self) -> float:
        """trace(K) / n, the unit of a relative ridge."""
        return float(np.trace(self.values)) / self.count

    @property
    def rounding(self) -> float:
        """Bound of the change of an eigenvalue by rounding in the given dtype."""
        share = SINGLE if self.eps == np.finfo(np.float32).eps else ROUNDING * self.eps
        return share * float(np.linalg.norm(self.values))

    @property
    def resolution(self) -> float:
        """Bound of the change of an eigenvalue by computing in float64."""
        return ROUNDING * float(np.finfo(np.float64).eps) * float(np.linalg.norm(self.values))


def as_train_kernel(values: npt.ArrayLike, name: str = "k_train") -> TrainKernel:
    """Check a square symmetric kernel matrix.

    Raises
    ------
    ConfigError
        If it is not (n, n) with n at least 1, not of real numbers, or not symmetric.
    NotFinite
        An entry is nan or infinite.
    """
    given = as_real(values, name)
    if given.ndim != 2 or given.shape[0] != given.shape[1] or not given.size:
        raise ConfigError(f"{name} must be a square matrix (n, n) of at least one sample, got shape {given.shape}")
    return TrainKernel(_as_symmetric(given, name), _eps(given), name)


def as_test_kernel(values: npt.ArrayLike, count: int, name: str) -> Array:
    """Return the kernel matrix of ``count`` test samples, symmetric in every bit; errors as in `as_train_kernel`."""
    given = as_real(values, name)
    if given.shape != (count, count):
        raise ConfigError(f"{name} must be ({count}, {count}), as there are {count} test samples, got {given.shape}")
    values = _as_symmetric(given, name)
    return (values + values.T) / 2


def as_cross_kernel(values: npt.ArrayLike, kernel: TrainKernel, name: str = "k_test_train") -> Array:
    """Check a kernel matrix of test samples (rows) and training samples (columns).

    Raises
    ------
    ConfigError
        If it is not (n_test, n), or there is no test sample.
    NotFinite
        An entry is nan or infinite.
    """
    given = as_real(values, name)
    if given.ndim != 2 or given.shape[1] != kernel.count or not len(given):
        turned = ": test samples are rows, so transpose it" if given.ndim == 2 and len(given) == kernel.count else ""
        raise ConfigError(
            f"{name} must be (n_test, {kernel.count}), as {kernel.name} has {kernel.count} samples, "
            f"got {given.shape}{turned}"
        )
    return as_finite(given, name)


def as_targets(values: npt.ArrayLike, kernel: TrainKernel) -> Array:
    """Return targets as ``(n, c)``; ``(n,)`` is one column.

    Raises
    ------
    ConfigError
        If it has another number of rows than the kernel, or no column.
    NotFinite
        A target is nan or infinite.
    """
    given = as_real(values, "y")
    columns = given[:, None] if given.ndim == 1 else given
    if columns.ndim != 2 or len(columns) != kernel.count or columns.shape[1] == 0:
        raise ConfigError(
            f"y must be ({kernel.count},) or ({kernel.count}, c), as {kernel.name} has {kernel.count} samples, "
            f"got {given.shape}"
        )
    return as_finite(columns, "y")


def is_one_number(value: object) -> bool:
    """Tell whether a value is one real number; an array without axes is one, True and False are none."""
    if isinstance(value, np.ndarray):
        return not value.ndim and value.dtype.kind in "fiu"
    return is_number(value)


def is_list(value: object) -> bool:
    """Tell whether a value is a list of something, an array with one axis, or the like."""
    return np.asarray(value, object).ndim == 1


def as_absolute_ridge(kernel: TrainKernel, ridge: float, mode: RidgeMode) -> float:
    """Return the value to add to the diagonal: ``ridge``, times trace(K) / n where it is relative.

    Raises
    ------
    ConfigError
        If the ridge is negative or not finite, or the mode unknown.
    """
    require_ridge_mode(mode)
    if not is_one_number(ridge) or not 0 <= ridge < np.inf:
        raise ConfigError(f"a ridge must be a finite number of at least 0, got {short_repr(ridge)}")
    return float(ridge) * kernel.mean_diagonal if mode == "relative" else float(ridge)


def require_ridge_mode(mode: object) -> None:
    """Refuse what is no way to read a ridge.

    Raises
    ------
    ConfigError
        With the two ways that there are.
    """
    if not isinstance(mode, str) or mode not in ("relative", "absolute"):
        raise ConfigError(f"ridge_mode must be 'relative' (to trace(K)/n) or 'absolute', got {short_repr(mode)}")


def as_real(values: npt.ArrayLike, name: str) -> npt.NDArray[Any]:
    """Return an array unchanged; `ConfigError` if its dtype is not of real numbers, `DataError` if it is masked."""
    given = as_array(name, values)
    if given.dtype.kind not in "fiub":
        raise ConfigError(f"{name} must hold real numbers, {instead_of_numbers(name, given)}")
    return given


def _eps(given: npt.NDArray[Any]) -> float:
    """Return the unit in the last place; at least the unit of float64, in which everything is computed."""
    wide = np.finfo(np.float64).eps
    return float(max(np.finfo(given.dtype).eps, wide) if given.dtype.kind == "f" else wide)


def as_finite(given: npt.NDArray[Any], name: str) -> Array:
    """Return an array in float64; `NotFinite` if an entry is nan or infinite."""
    values = given.astype(np.float64, copy=False)
    if not np.isfinite(values).all():
        place = np.argwhere(~np.isfinite(values))[0].tolist()
        raise NotFinite(
            f"{name}{place} is {values[tuple(place)]}: finite numbers were expected. In a run directory a tile that "
            "was not computed reads as nan, and so do those above the diagonal of `train`: mirror the lower ones"
        )
    return values


def _as_symmetric(given: npt.NDArray[Any], name: str) -> Array:
    values = as_finite(given, name)
    difference = np.abs(values - values.T)
    bound = ASYMMETRY * _eps(given) * np.abs(values).max(initial=0)
    if difference.max(initial=0) > bound:
        i, j = sorted(np.unravel_index(int(difference.argmax()), difference.shape), reverse=True)
        raise ConfigError(
            f"{name} must be symmetric: [{i}, {j}] is {values[i, j]:.6g} and [{j}, {i}] is {values[j, i]:.6g}, which "
            f"differ by more than rounding ({bound:.1e})"
        )
    return values
