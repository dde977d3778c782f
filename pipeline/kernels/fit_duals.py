"""Fits the two polynomials behind the ReLU dual activation; prints the constants of `duals.py`.

For a correlation ``rho`` write ``a = |rho|`` and ``s = sqrt(1 - a)``. Then ``arccos(a) / pi = s P(a)`` and
``sqrt(1 - a^2) / pi = s Q(a)`` with functions ``P`` and ``Q`` that are analytic on [0, 1] (their nearest
singularity is a = -1), so that polynomials converge geometrically where arccos itself does not.

Run: ``python -m pipeline.kernels.fit_duals 6 16``
"""

import sys
from collections.abc import Callable

import numpy as np

Array = np.ndarray


def angle(a: Array) -> Array:
    """Evaluate ``P(a) = arccos(a) / (pi sqrt(1 - a))`` in extended precision, its limit at a = 1."""
    # arccos(a) = 2 arcsin(sqrt((1 - a) / 2)): no cancellation near a = 1.
    half = np.sqrt((1 - a) / 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = 2 * np.arcsin(half) / np.sqrt(1 - a)
    return np.where(a < 1, ratio, np.sqrt(np.longdouble(2))) / PI


def root(a: Array) -> Array:
    """Evaluate ``Q(a) = sqrt(1 + a) / pi`` in extended precision."""
    return np.sqrt(1 + a) / PI


def chebyshev_fit(function: Callable[[Array], Array], degree: int) -> Array:
    """Interpolate at the Chebyshev points of [0, 1]; return ``(degree + 1,)`` power coefficients, lowest first."""
    count = degree + 1
    angles = PI * (2 * np.arange(count, dtype=np.longdouble) + 1) / (2 * count)
    values = function((1 + np.cos(angles)) / 2)
    series = np.array([2 * np.sum(values * np.cos(k * angles)) / count for k in range(count)])
    series[0] /= 2
    # Chebyshev polynomials in u = 2 a - 1, as power series in a, by their recurrence.
    power = np.zeros(count, np.longdouble)
    previous, current = np.zeros(count, np.longdouble), np.zeros(count, np.longdouble)
    previous[0], current[0] = 1, -1
    if count > 1:
        current[1] = 2
    for k in range(count):
        power += series[k] * previous
        following = -2 * current - previous
        following[1:] += 4 * current[:-1]
        previous, current = current, following
    return power


def largest_error(function: Callable[[Array], Array], coefficients: Array, dtype: type[np.floating]) -> float:
    """Measure the largest relative error on [0, 1] of the polynomial evaluated by Horner's rule in ``dtype``."""
    a = np.linspace(0, 1, 100_001).astype(dtype)
    value = np.full_like(a, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = value * a + dtype(coefficient)
    exact = function(a.astype(np.longdouble))
    return float(np.max(np.abs(value - exact) / exact))


PI = 4 * np.arctan(np.longdouble(1))

if __name__ == "__main__":
    for argument in sys.argv[1:]:
        degree = int(argument)
        for name, function in (("ANGLE", angle), ("ROOT", root)):
            power = chebyshev_fit(function, degree)
            print(f"{name} degree {degree}: relative error", end=" ")
            print(
                ", ".join(f"{largest_error(function, power, t):.1e} in {t.__name__}" for t in (np.float32, np.float64))
            )
            print("    " + ",\n    ".join(repr(float(c)) for c in power) + ",")
