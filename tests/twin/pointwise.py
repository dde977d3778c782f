"""The functions of each position in the naive twin, by arc-cosine kernels and by integrals; see `twin.reference`."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy import special

from cntk_pipeline import layers
from cntk_pipeline.layers import Layer
from twin.pairs import Array, Pairs, Step
from twin.quadrature import Function, Rule, correlate, expect, fine, gauss_hermite, trapezoidal

Expectation = Callable[[Array, Array, Array], Array]
"""Of a product of two Gaussians' functions, by their covariance and variances, laid as in `twin.quadrature.expect`."""


def variances(values: Array) -> tuple[Array, Array]:
    """Lay the variances of images along the first and along the second pair of axes."""
    own = np.maximum(np.einsum("...hwhw->...hw", values), 0)  # rounding makes that of a mean of 0 negative
    return own[..., :, :, None, None], own[..., None, None, :, :]


def apply(pairs: Pairs, dual: Expectation, slope: Expectation) -> Pairs:
    """Apply a function to each position, given the expectations of its and its derivative's products."""
    (x, x_again), (z_again, z) = variances(pairs.xx), variances(pairs.zz)
    first, second = (np.broadcast_to(own, (*pairs.same.shape, *own.shape[-4:])) for own in (x[:, None], z))
    return replace(
        pairs,
        xx=dual(pairs.xx, x, x_again),
        zz=dual(pairs.zz, z_again, z),
        xz=dual(pairs.xz, first, second),
        tangent=slope(pairs.xz, first, second) * pairs.tangent,
    )


def arc_cosine_0(rho: Array) -> Array:
    """Evaluate E[1(u > 0) 1(v > 0)], half of k_0 (Cho and Saul 2009)."""
    return (np.pi - np.arccos(rho)) / (2 * np.pi)


def arc_cosine_1(rho: Array) -> Array:
    """Evaluate E[relu(u) relu(v)] for unit variances, half of k_1 (Cho and Saul 2009)."""
    theta = np.arccos(rho)
    return (np.sin(theta) + (np.pi - theta) * np.cos(theta)) / (2 * np.pi)


def rectify(pairs: Pairs, below: float) -> Pairs:
    """Apply ``relu(x) - below relu(-x)``, product by product of its two halves."""

    def dual(covariance: Array, first: Array, second: Array) -> Array:
        norm, rho = correlate(covariance, first, second)
        return norm * ((1 + below**2) * arc_cosine_1(rho) - 2 * below * arc_cosine_1(-rho))

    def slope(covariance: Array, first: Array, second: Array) -> Array:
        _, rho = correlate(covariance, first, second)
        return (1 + below**2) * arc_cosine_0(rho) + 2 * below * arc_cosine_0(-rho)

    return apply(pairs, dual, slope)


def maxout(pairs: Pairs, layer: layers.Maxout) -> Pairs:
    """Take the larger one of two independent channels: a half of the sum, and a half of the difference's size."""

    def dual(covariance: Array, first: Array, second: Array) -> Array:
        norm, rho = correlate(covariance, first, second)
        return covariance / 2 + norm / np.pi * (np.sqrt(1 - rho**2) + rho * np.arcsin(rho))

    def slope(covariance: Array, first: Array, second: Array) -> Array:
        """Sum the chances that the first channel wins in both, and the second."""
        _, rho = correlate(covariance, first, second)
        return 2 * (1 / 4 + np.arcsin(rho) / (2 * np.pi))

    return apply(pairs, dual, slope)


def sign(pairs: Pairs, layer: layers.Sign) -> Pairs:
    """Apply the sign. Its NTK does not exist: nan."""

    def dual(covariance: Array, first: Array, second: Array) -> Array:
        _, rho = correlate(covariance, first, second)
        return 2 * arc_cosine_0(rho) - 2 * arc_cosine_0(-rho)

    return apply(pairs, dual, lambda covariance, first, second: np.full_like(covariance, np.nan))


def integrate(pairs: Pairs, function: Function, derivative: Function, rule: Rule) -> Pairs:
    """Apply a function whose expectations are integrals."""
    return apply(
        pairs,
        lambda covariance, first, second: expect(function, covariance, first, second, rule),
        lambda covariance, first, second: expect(derivative, covariance, first, second, rule),
    )


def erf(pairs: Pairs, layer: layers.Erf) -> Pairs:
    return integrate(pairs, special.erf, lambda x: 2 / np.pi**0.5 * np.exp(-(x**2)), trapezoidal)


def gelu(pairs: Pairs, layer: layers.Gelu) -> Pairs:
    def derivative(x: Array) -> Array:
        return special.ndtr(x) + x * np.exp(-0.5 * x**2) / (2 * np.pi) ** 0.5

    return integrate(pairs, lambda x: x * special.ndtr(x), derivative, trapezoidal)


def sin(pairs: Pairs, layer: layers.Sin) -> Pairs:
    return integrate(pairs, np.sin, np.cos, trapezoidal)


def cos(pairs: Pairs, layer: layers.Cos) -> Pairs:
    return integrate(pairs, np.cos, lambda x: -np.sin(x), trapezoidal)


def rbf(pairs: Pairs, layer: layers.Rbf) -> Pairs:
    """Apply the random feature of a Gaussian kernel (Rahimi and Recht 2007)."""
    frequency, shift = (2 * layer.gamma) ** 0.5, np.pi / 4
    return integrate(
        pairs,
        lambda x: 2**0.5 * np.sin(frequency * x + shift),
        lambda x: 2**0.5 * frequency * np.cos(frequency * x + shift),
        trapezoidal,
    )


def exp(pairs: Pairs, layer: layers.Exp) -> Pairs:
    return integrate(pairs, np.exp, np.exp, gauss_hermite)


def gaussian(pairs: Pairs, layer: layers.Gaussian) -> Pairs:
    return integrate(pairs, lambda x: np.exp(-(x**2)), lambda x: -2 * x * np.exp(-(x**2)), trapezoidal)


def polynomial(pairs: Pairs, layer: layers.Polynomial) -> Pairs:
    function = np.polynomial.Polynomial(layer.coefficients)
    return integrate(pairs, function, function.deriv(), gauss_hermite)


def hermite(pairs: Pairs, layer: layers.Hermite) -> Pairs:
    function = np.polynomial.HermiteE([c / math.factorial(n) ** 0.5 for n, c in enumerate(layer.coefficients)])
    return integrate(pairs, function, function.deriv(), gauss_hermite)


FUNCTIONS: dict[str, Function] = {
    "tanh": np.tanh,
    "sigmoid": special.expit,
    "silu": lambda x: x * special.expit(x),
    "softplus": lambda x: np.logaddexp(0, x),
}


def elementwise(pairs: Pairs, layer: layers.Elementwise) -> Pairs:
    """Apply any function; its derivative is a difference of fourth order, some 1e-13 from it."""
    function = FUNCTIONS[layer.function] if isinstance(layer.function, str) else layer.function

    def derivative(x: Array) -> Array:
        step = 5e-4
        near, far = (function(x + k * step) - function(x - k * step) for k in (1, 2))
        return (8 * near - far) / (12 * step)

    return integrate(pairs, function, derivative, fine)


def layer_norm(pairs: Pairs, layer: layers.LayerNorm) -> Pairs:
    """Divide by the standard deviation, which infinitely many channels do not let fluctuate."""

    def scale(covariance: Array, first: Array, second: Array) -> Array:
        return 1 / np.sqrt((first + 1e-12) * (second + 1e-12))

    return apply(pairs, lambda covariance, *own: covariance * scale(covariance, *own), scale)


POINTWISE: dict[type[Layer], Step] = {
    layers.Relu: lambda pairs, layer: rectify(pairs, 0.0),
    layers.LeakyRelu: lambda pairs, layer: rectify(pairs, layer.negative_slope),
    layers.Abs: lambda pairs, layer: rectify(pairs, -1.0),
    layers.Maxout: maxout,
    layers.Sign: sign,
    layers.Erf: erf,
    layers.Gelu: gelu,
    layers.Sin: sin,
    layers.Cos: cos,
    layers.Rbf: rbf,
    layers.Gaussian: gaussian,
    layers.Exp: exp,
    layers.Polynomial: polynomial,
    layers.Hermite: hermite,
    layers.Elementwise: elementwise,
    layers.LayerNorm: layer_norm,
}
