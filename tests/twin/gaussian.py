"""Expectations over pairs of Gaussians, the slow and obviously right way, and duals as the layers give them."""

from collections.abc import Callable

import numpy as np
import pytest

from cntk_pipeline.layers import ClosedForm, Series

Function = Callable[[np.ndarray], np.ndarray]

PAIRS = [(1.0, 1.0, 0.3), (0.4, 1.7, -0.5), (2.0, 0.3, 0.7), (1.2, 1.2, 1.2), (0.9, 0.9, -0.9), (1.5, 0.2, 0.0)]
"""Variances of both positions and their covariance; among them correlations 1, -1 and 0."""


def expectation(function: Function, a: float, b: float, c: float, nodes: int = 100) -> float:
    """Evaluate ``E[f(u) f(v)]`` for variances a, b and covariance c by two-dimensional Gauss-Hermite quadrature."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    weights = weights / weights.sum()
    first, second = points[:, None], points[None, :]
    rest = np.sqrt(max(b - c * c / a, 0))
    product = function(np.sqrt(a) * first) * function(c / np.sqrt(a) * first + rest * second)
    return float(weights @ product @ weights)


def dual(layer: ClosedForm | Series, a: float, b: float, c: float) -> tuple[float, float]:
    """Evaluate a layer's dual and its derivative by the covariance."""
    if isinstance(layer, Series):
        deviation, series = layer.expand(np.array([a, b]))
        scale = deviation[0] * deviation[1]
        products, powers = series[:, 0] * series[:, 1], np.arange(len(series))
        slopes = powers[1:] * products[1:] * (c * scale) ** powers[:-1] * scale
        return float(products @ (c * scale) ** powers), float(slopes.sum())
    x, z = (layer.statistics(np.float64(value), layer.constants)[:-1] for value in (a, b))
    value, slope = layer.dual(np.float64(c), x, z, layer.constants)
    return float(value), float(slope)


def require_slope(layer: ClosedForm | Series, a: float, b: float, c: float) -> None:
    """Hold the derivative of a layer's dual to differences of the dual."""
    c *= 0.999  # the difference must not step beyond correlation 1
    step = 1e-5
    slope = (dual(layer, a, b, c + step)[0] - dual(layer, a, b, c - step)[0]) / (2 * step)
    assert dual(layer, a, b, c)[1] == pytest.approx(slope, rel=1e-7, abs=1e-9)


def variance_behind(layer: ClosedForm | Series, variance: float) -> float:
    """Evaluate the variance that a layer makes of one."""
    if isinstance(layer, Series):
        return dual(layer, variance, variance, variance)[0]
    return float(layer.statistics(np.float64(variance), layer.constants)[-1])
