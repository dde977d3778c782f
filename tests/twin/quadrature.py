"""Expectations over two correlated Gaussians by quadrature in the plane, slow and for any function.

With independent standard Gaussians g and h, ``u = sqrt(a) g`` and ``v = sqrt(b) (rho g + sqrt(1 - rho^2) h)`` have
the variances a and b and the correlation rho, which may be exactly 1 or -1, and a and b may be 0.
"""

from collections.abc import Callable

import numpy as np

Array = np.ndarray
Function = Callable[[Array], Array]
Rule = Callable[[float], tuple[Array, Array]]

REACH = 8.0
"""Where the trapezoidal rule ends, in standard deviations: 1e-15 of a Gaussian lies beyond."""


def gauss_hermite(variance: float) -> tuple[Array, Array]:
    """Give nodes and weights for polynomials and exponentials, which grow: exact up to degree 95."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(48)
    return nodes, weights / weights.sum()


def trapezoidal(variance: float) -> tuple[Array, Array]:
    """Give nodes and weights for functions of little growth that bend no sharper than erf, at this variance.

    Gauss-Hermite rules put most nodes where the weight is negligible and need hundreds for such functions; equal
    steps converge as fast as the spectrum falls (Trefethen 2022, "Exactness of quadrature formulas"). That of the
    Gaussian weight times erf has the variance ``1 + 2 variance``, which the step below puts 7.8 deviations away from
    its image: an error of 1e-13.
    """
    count = int(np.ceil(REACH * (1 + 2 * variance) ** 0.5 / 0.8))
    nodes = np.linspace(-REACH, REACH, 2 * count + 1)
    weights = np.exp(-0.5 * nodes**2)
    return nodes, weights / weights.sum()


def fine(variance: float) -> tuple[Array, Array]:
    """Give nodes and weights for functions with poles, like those of tanh pi / 2 away from the real line.

    With a pole that far the error of equal steps is ``exp(-pi^2 / (deviation step))``: 1e-13.
    """
    return trapezoidal(3 * variance)


def expect(function: Function, covariance: Array, first: Array, second: Array, rule: Rule) -> Array:
    """Evaluate ``E[function(u) function(v)]``.

    Parameters
    ----------
    covariance : array
        Of u and v, (..., H, W, H, W).
    first, second : array
        Variances of u, (..., H, W, 1, 1), and of v, (..., 1, 1, H, W).
    """
    # Pairs of images by themselves: few need as many nodes as the one with the largest variances.
    result = np.empty_like(covariance)
    for index in np.ndindex(covariance.shape[:-4]):
        result[index] = _expect(function, covariance[index], first[index], second[index], rule)
    return result


def correlate(covariance: Array, first: Array, second: Array) -> tuple[Array, Array]:
    """Evaluate the geometric mean of the variances, and the correlation; 0 where a variance is 0."""
    # The root of the product, not the product of roots: for equal variances it is exact, and so rho is.
    norm = np.sqrt(first * second)
    rho = np.divide(covariance, norm, out=np.zeros_like(covariance), where=norm > 0)
    return norm, np.clip(rho, -1, 1)


def _expect(function: Function, covariance: Array, first: Array, second: Array, rule: Rule) -> Array:
    _, rho = correlate(covariance, first, second)
    rest = np.sqrt(1 - rho**2)
    total = np.zeros_like(rho)
    h, h_weights = rule(second.max())
    for g, g_weight in zip(*rule(first.max() + second.max()), strict=True):
        behind = function(np.sqrt(second) * (rho * g + rest * h.reshape(-1, 1, 1, 1, 1)))
        total += g_weight * function(np.sqrt(first) * g) * np.tensordot(h_weights, behind, 1)
    return total
