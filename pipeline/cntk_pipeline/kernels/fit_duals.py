"""Fits the polynomials behind the dual activations; prints the constants of `duals.py`.

For a correlation ``rho`` write ``a = |rho|`` and ``s = sqrt(1 - a)``. Then ``arccos(a) / (2 pi) = s P(a)`` and
``sqrt(1 - a^2) / (2 pi) = s Q(a)`` with functions ``P`` and ``Q`` that are analytic on [0, 1] (their nearest
singularity is a = -1), so that polynomials converge geometrically where arccos itself does not. Likewise
``arcsin(s) = s + s t R(t)`` with ``t = s^2`` and R analytic on [0, 1/4].

Run: ``python -m cntk_pipeline.kernels.fit_duals``
"""

from collections.abc import Callable

import numpy as np

Array = np.ndarray
PI = 4 * np.arctan(np.longdouble(1))


def angle(a: Array) -> Array:
    """Evaluate ``P(a) = arccos(a) / (2 pi sqrt(1 - a))`` in extended precision, its limit at a = 1."""
    # arccos(a) = 2 arcsin(sqrt((1 - a) / 2)): no cancellation near a = 1.
    half = np.sqrt((1 - a) / 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = 2 * np.arcsin(half) / np.sqrt(1 - a)
    return np.where(a < 1, ratio, np.sqrt(np.longdouble(2))) / (2 * PI)


def root(a: Array) -> Array:
    """Evaluate ``Q(a) = sqrt(1 + a) / (2 pi)`` in extended precision."""
    return np.sqrt(1 + a) / (2 * PI)


def sine(t: Array) -> Array:
    """Evaluate ``R(t) = (arcsin(sqrt t) - sqrt t) / sqrt(t)^3`` in extended precision, by its power series."""
    total, factor = np.zeros_like(t), np.longdouble(1)
    for k in range(1, 60):
        factor *= np.longdouble(2 * k - 1) / (2 * k)
        total += factor / (2 * k + 1) * t ** (k - 1)
    return total


def chebyshev_fit(function: Callable[[Array], Array], end: float, degree: int) -> Array:
    """Interpolate at the Chebyshev points of [0, end]; return ``(degree + 1,)`` power coefficients, lowest first."""
    count = degree + 1
    angles = PI * (2 * np.arange(count, dtype=np.longdouble) + 1) / (2 * count)
    values = function(end * (1 + np.cos(angles)) / 2)
    series = np.array([2 * np.sum(values * np.cos(k * angles)) / count for k in range(count)])
    series[0] /= 2
    # Chebyshev polynomials in u = 2 a / end - 1, as power series in a, by their recurrence.
    power = np.zeros(count, np.longdouble)
    previous, current = np.zeros(count, np.longdouble), np.zeros(count, np.longdouble)
    previous[0], current[0] = 1, -1
    if count > 1:
        current[1] = 2 / end
    for k in range(count):
        power += series[k] * previous
        following = -2 * current - previous
        following[1:] += 4 / end * current[:-1]
        previous, current = current, following
    return power


def largest_error(
    function: Callable[[Array], Array], end: float, coefficients: Array, dtype: type[np.floating]
) -> float:
    """Measure the largest relative error on [0, end] of the polynomial evaluated by Horner's rule in ``dtype``."""
    a = np.linspace(0, end, 100_001).astype(dtype)
    value = np.full_like(a, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = value * a + dtype(coefficient)
    exact = function(a.astype(np.longdouble))
    return float(np.max(np.abs(value - exact) / exact))


if __name__ == "__main__":
    for name, function, end, degrees in (
        ("ANGLE", angle, 1, (6, 16)),
        ("ROOT", root, 1, (6, 16)),
        ("SINE", sine, 0.25, (4, 11)),
    ):
        dtypes: tuple[type[np.floating], ...] = (np.float32, np.float64)
        for degree, dtype in zip(degrees, dtypes, strict=True):
            power = chebyshev_fit(function, end, degree)
            print(f"{name}, degree {degree}: relative error {largest_error(function, end, power, dtype):.1e}")
            print("    " + ",\n    ".join(repr(float(c)) for c in power) + ",")
