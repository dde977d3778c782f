"""The power law of a learning curve: the error ``a m^-b`` of m training images, or ``a m^-b + c``."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from cntk_pipeline.storage.tiled_array import Array

FEWEST_SIZES, FEWEST_SIZES_WITH_FLOOR = 4, 6
"""Numbers of sizes from which on a law of two parameters is fitted, and of three."""

SIGNIFICANCE = 0.05
"""A floor c is taken where a curve without one would be so bent, by chance, with this probability or less."""

_ROUNDING = 1e-9
"""Deviation of a logarithm that rounding may leave: below, a curve is a power law exactly."""


@dataclass(frozen=True)
class PowerLaw:
    """The error ``factor m^-exponent + floor`` of m training images.

    Attributes
    ----------
    factor, exponent : float
        Of the law.
    exponent_error : float
        Standard error of the exponent. Points that are further from the law than their own errors raise it.
    floor : float
        0 where the law of two parameters is enough.
    sizes : tuple of int
        Numbers of training images that it was fitted to.
    """

    factor: float
    exponent: float
    exponent_error: float
    floor: float
    sizes: tuple[int, ...]

    def at(self, sizes: Array) -> Array:
        """Evaluate the law."""
        return self.factor * np.asarray(sizes, float) ** -self.exponent + self.floor

    def __str__(self) -> str:
        law = (
            f"{self.factor:.3g} m^-{self.exponent:.3f}"
            if self.exponent >= 0
            else f"{self.factor:.3g} m^{-self.exponent:.3f}"
        )
        return law + (f" + {self.floor:.3g}" if self.floor else "")


def fit_power_law(sizes: Sequence[int], errors: Sequence[float], deviations: Sequence[float] | None) -> PowerLaw | None:
    """Fit a power law by least squares on the logarithms of the errors.

    The floor is taken where the sum of squares falls so much that an F test finds it significant.

    Parameters
    ----------
    sizes : sequence of int
        Numbers of training images.
    errors : sequence of float
        All positive.
    deviations : sequence of float or None
        Standard deviations of the logarithms of the errors; None where they are not known, and equal.

    Returns
    -------
    PowerLaw or None
        The law; None where there are fewer than `FEWEST_SIZES` sizes.
    """
    if len(sizes) < FEWEST_SIZES:
        return None
    m, logarithms = np.asarray(sizes, float), np.log(errors)
    weights = np.ones(len(m)) if deviations is None else 1 / np.asarray(deviations, float)
    smallest = _ROUNDING**2 if deviations is None else 1.0
    without = _fit(m, logarithms, weights, smallest)
    if len(sizes) >= FEWEST_SIZES_WITH_FLOOR:
        level = _fit_with_floor(m, logarithms, weights, smallest, without)
        ratio = (without.squares - level.squares) / level.variance
        if scipy.special.fdtrc(1, len(m) - 3, max(ratio, 0.0)) <= SIGNIFICANCE:
            without = level
    return PowerLaw(without.factor, without.exponent, without.exponent_error, without.floor, tuple(map(int, sizes)))


@dataclass(frozen=True)
class _Fit:
    """Parameters, the sum of the weighted squares, and the variance of a weighted residual."""

    factor: float
    exponent: float
    exponent_error: float
    floor: float
    squares: float
    variance: float


def _fit(m: Array, logarithms: Array, weights: Array, smallest: float) -> _Fit:
    """Fit two parameters: a straight line through the logarithms."""
    columns = np.stack([np.ones_like(m), -np.log(m)], axis=1) * weights[:, None]
    values = logarithms * weights
    (intercept, exponent), *_ = np.linalg.lstsq(columns, values)
    squares = float(np.sum((values - columns @ (intercept, exponent)) ** 2))
    variance = max(smallest, squares / (len(m) - 2))
    return _Fit(float(np.exp(intercept)), float(exponent), _error(columns, variance), 0.0, squares, variance)


def _fit_with_floor(m: Array, logarithms: Array, weights: Array, smallest: float, start: _Fit) -> _Fit:
    """Fit three parameters, from a start without a floor."""
    lowest = float(np.exp(logarithms.min()))

    def residuals(parameters: Array) -> Array:
        intercept, exponent, floor = parameters
        return (np.log(np.exp(intercept) * m**-exponent + floor * lowest) - logarithms) * weights

    found = scipy.optimize.least_squares(
        residuals,
        (np.log(start.factor), start.exponent, 0.5),
        bounds=([-np.inf, -np.inf, 0.0], [np.inf, np.inf, 1.0]),
        x_scale="jac",
        xtol=1e-12,
        ftol=1e-14,
        gtol=1e-14,
    )
    intercept, exponent, floor = found.x
    squares = float(2 * found.cost)
    variance = max(smallest, squares / (len(m) - 3))
    error = _error(found.jac, variance)
    return _Fit(float(np.exp(intercept)), float(exponent), error, float(floor * lowest), squares, variance)


def _error(columns: Array, variance: float) -> float:
    """Return the standard error of the second parameter, by the derivatives of the residuals."""
    return float(np.sqrt(variance * np.linalg.pinv(columns.T @ columns)[1, 1]))
