"""The naive twin: kernels of networks by the textbook recursion, in NumPy and float64, slow and obviously right.

For two images it carries the whole covariance of every position with every position, four axes (row and column
in the first image, row and column in the second), and the same for each image with itself, whose diagonals are
the variances. Vectors are images of one pixel. Nothing is shared with the engine or the layers but the layers'
fields: every formula is written from the papers, and what is no formula there is an integral here.

A new layer needs one function here, or one line of a function, and one line in `STEPS`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from pipeline import layers
from pipeline.layers import Layer, Sequential
from tests.quadrature import Array, Function, Rule, correlate, expect, fine, gauss_hermite, trapezoidal


@dataclass(frozen=True)
class Pairs:
    """What is known of images x, images z and all pairs of them somewhere in a network.

    Attributes
    ----------
    xx, zz : covariances of each image with itself, (n, H, W, H, W) and (m, H, W, H, W).
    xz : covariances of the pairs, (n, m, H, W, H, W).
    tangent : the NTK of the pairs accumulated so far, (n, m, H, W, H, W).
    same : which pairs are a sample with itself, (n, m).
    channels : of the inputs so far; None where infinite.
    """

    xx: Array
    zz: Array
    xz: Array
    tangent: Array
    same: Array
    channels: int | None

    def map_covariances(self, function: Callable[[Array], Array]) -> "Pairs":
        """Apply a function to the covariances."""
        return replace(self, xx=function(self.xx), zz=function(self.zz), xz=function(self.xz))

    def map_all(self, function: Callable[[Array], Array]) -> "Pairs":
        """Apply a function to the covariances and the tangent."""
        return replace(self.map_covariances(function), tangent=function(self.tangent))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.xz.shape[-2:]


def two(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def place(size: int, window: int, stride: int, padding: str) -> Array:
    """List the positions that each window covers, (windows, window); ``size`` stands for outside."""
    if padding == "VALID":
        starts = np.arange(0, size - window + 1, stride)
    else:
        windows = math.ceil(size / stride)
        starts = np.arange(windows) * stride - max((windows - 1) * stride + window - size, 0) // 2
    positions = starts[:, None] + np.arange(window)
    if padding == "CIRCULAR":
        return positions % size
    return np.where((positions >= 0) & (positions < size), positions, size)


def frame(values: Array) -> Array:
    """Append a zero to each axis of positions: what lies outside."""
    return np.pad(values, [(0, 0)] * (values.ndim - 4) + [(0, 1)] * 4)


# --- layers with weights


def weigh(pairs: Pairs, layer: Layer, mix: Function) -> Pairs:
    """Apply weights and biases: the old tangent passes through the weights, the layer's own parameters add theirs."""
    after = pairs.map_all(lambda values: layer.w_std**2 * mix(values))
    after = after.map_covariances(lambda values: values + layer.b_std**2)
    return replace(after, tangent=after.tangent + (after.xz if layer.trained else 0), channels=None)


def conv(pairs: Pairs, layer: layers.Conv) -> Pairs:
    window, strides = two(layer.filter_shape), two(layer.strides)
    rows, columns = (place(*axis, layer.padding) for axis in zip(pairs.size, window, strides, strict=True))

    def average(values: Array) -> Array:
        """Average over equal shifts of both positions within a window."""
        framed = frame(values)
        shifts = [(i, j) for i in range(window[0]) for j in range(window[1])]
        grids = [np.ix_(rows[:, i], columns[:, j], rows[:, i], columns[:, j]) for i, j in shifts]
        return sum(framed[..., *grid] for grid in grids) / len(shifts)

    return weigh(pairs, layer, average)


def dense(pairs: Pairs, layer: layers.Dense) -> Pairs:
    return weigh(pairs, layer, lambda values: values)


def rescale(pairs: Pairs, layer: layers.Rescale) -> Pairs:
    height, width = pairs.size
    factor = {"channels": pairs.channels, "pixels": height * width}.get(layer.variance, layer.variance)
    return pairs.map_all(lambda values: factor * values)


def self_attention(pairs: Pairs, layer: layers.SelfAttention) -> Pairs:
    """Mix positions by the softmax of the covariances of an image (Hron et al. 2020, linear scaling, Q = K)."""
    gain = layer.w_query_std * layer.w_key_std

    def attention(own: Array) -> Array:
        logits = np.exp(gain * (own - own.max((-2, -1), keepdims=True)))
        return logits / logits.sum((-2, -1), keepdims=True)

    a_x, a_z = attention(pairs.xx), attention(pairs.zz)
    mix = "{0}hwij,{2}ijkl,{1}HWkl->{2}hwHW"
    scale = (layer.w_value_std * layer.w_out_std) ** 2

    def mixed(values: Array, which: tuple[str, str, str], first: Array, second: Array) -> Array:
        return scale * np.einsum(mix.format(*which), first, values, second, optimize=True)

    bias = layer.b_std**2
    xz = mixed(pairs.xz, ("n", "m", "nm"), a_x, a_z)
    # Values and outputs are two layers; the output's bias is a third kind of parameter.
    own = 2 * xz + bias if layer.trained else 0
    return replace(
        pairs,
        xx=mixed(pairs.xx, ("n", "n", "n"), a_x, a_x) + bias,
        zz=mixed(pairs.zz, ("m", "m", "m"), a_z, a_z) + bias,
        xz=xz + bias,
        tangent=mixed(pairs.tangent, ("n", "m", "nm"), a_x, a_z) + own,
        channels=None,
    )


# --- functions of each position

Expectation = Callable[[Array, Array, Array], Array]
"""Of a product of two Gaussians' functions, by their covariance and variances, laid as in `tests.quadrature.expect`."""


def variances(values: Array) -> tuple[Array, Array]:
    """Lay the variances of images along the first and along the second pair of axes."""
    own = np.einsum("...hwhw->...hw", values)
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


# --- positions, branches and masks


def pool(pairs: Pairs, rows: Array, columns: Array, normalize_edges: bool) -> Pairs:
    """Sum the first position over its window, and the second over its own; or average over what lies inside."""

    def total(values: Array) -> Array:
        height, width = values.shape[-2:]
        values = frame(values)
        for axis, (positions, size) in enumerate([(rows, height), (columns, width)] * 2, start=-4):
            values = np.take(values, positions, axis).sum(axis)  # a new axis behind the old one: hence its number
            if normalize_edges:
                inside = (positions < size).sum(1)
                values = values / inside.reshape([-1] + [1] * (-1 - axis))
        return values

    return pairs.map_all(total)


def window_sum(pairs: Pairs, layer: layers.AvgPool | layers.SumPool, normalize_edges: bool) -> Pairs:
    window = two(layer.window_shape)
    strides = window if layer.strides is None else two(layer.strides)
    rows, columns = (place(*axis, layer.padding) for axis in zip(pairs.size, window, strides, strict=True))
    return pool(pairs, rows, columns, normalize_edges)


def sum_pool(pairs: Pairs, layer: layers.SumPool) -> Pairs:
    return window_sum(pairs, layer, False)


def avg_pool(pairs: Pairs, layer: layers.AvgPool) -> Pairs:
    pooled = window_sum(pairs, layer, layer.normalize_edges)
    area = 1 if layer.normalize_edges else math.prod(two(layer.window_shape))
    return pooled.map_all(lambda values: values / area**2)


def local_avg_pool(pairs: Pairs, layer: layers.LocalAvgPool) -> Pairs:
    return avg_pool(pairs, layers.AvgPool(2 * layer.radius + 1, 1, "SAME", layer.normalize_edges))


def global_avg_pool(pairs: Pairs, layer: layers.GlobalAvgPool) -> Pairs:
    return pairs.map_all(lambda values: values.mean((-4, -3, -2, -1), keepdims=True))


def global_sum_pool(pairs: Pairs, layer: layers.GlobalSumPool) -> Pairs:
    return pairs.map_all(lambda values: values.sum((-4, -3, -2, -1), keepdims=True))


def flatten(pairs: Pairs, layer: layers.Flatten) -> Pairs:
    height, width = pairs.size
    flat = pairs.map_all(lambda values: np.einsum("...hwhw->...", values)[..., None, None, None, None] / height / width)
    return replace(flat, channels=None if pairs.channels is None else pairs.channels * height * width)


def dropout(pairs: Pairs, layer: layers.Dropout) -> Pairs:
    """Enlarge the covariance of a position of a sample with itself: E[mask^2] / E[mask]^2 = 1 / (1 - rate)."""
    height, width = pairs.size
    equal = np.eye(height * width, dtype=bool).reshape(height, width, height, width)
    own = np.where(equal, 1 / (1 - layer.rate), 1)
    between = np.where(pairs.same[:, :, None, None, None, None], own, 1)
    return replace(pairs, xx=own * pairs.xx, zz=own * pairs.zz, xz=between * pairs.xz, tangent=between * pairs.tangent)


def identity(pairs: Pairs, layer: layers.Identity) -> Pairs:
    return pairs


def residual(pairs: Pairs, layer: layers.Residual) -> Pairs:
    branch, shortcut = step(pairs, layer.branch), step(pairs, layer.shortcut)
    return replace(
        branch,
        xx=branch.xx + shortcut.xx,
        zz=branch.zz + shortcut.zz,
        xz=branch.xz + shortcut.xz,
        tangent=branch.tangent + shortcut.tangent,
    )


def sequential(pairs: Pairs, layer: Sequential) -> Pairs:
    for inner in layer.layers:
        pairs = step(pairs, inner)
    return pairs


STEPS: dict[type[Layer], Callable[[Pairs, Layer], Pairs]] = {
    layers.Conv: conv,
    layers.Dense: dense,
    layers.Rescale: rescale,
    layers.SelfAttention: self_attention,
    layers.Relu: lambda pairs, layer: rectify(pairs, 0.0),
    layers.LeakyRelu: lambda pairs, layer: rectify(pairs, layer.negative_slope),
    layers.Abs: lambda pairs, layer: rectify(pairs, -1.0),
    layers.Sign: sign,
    layers.Erf: erf,
    layers.Gelu: gelu,
    layers.Sin: sin,
    layers.Cos: cos,
    layers.Rbf: rbf,
    layers.Exp: exp,
    layers.Polynomial: polynomial,
    layers.Hermite: hermite,
    layers.Elementwise: elementwise,
    layers.LayerNorm: layer_norm,
    layers.AvgPool: avg_pool,
    layers.SumPool: sum_pool,
    layers.LocalAvgPool: local_avg_pool,
    layers.GlobalAvgPool: global_avg_pool,
    layers.GlobalSumPool: global_sum_pool,
    layers.Flatten: flatten,
    layers.Dropout: dropout,
    layers.Identity: identity,
    layers.Residual: residual,
    Sequential: sequential,
}


def step(pairs: Pairs, layer: Layer) -> Pairs:
    return STEPS[type(layer)](pairs, layer)


def evaluate_both(network: Layer, left: Array, right: Array | None = None) -> tuple[Array, Array]:
    """Evaluate NNGP and NTK of two batches, ``(n, H, W, C)`` or ``(n, features)``; float64, (n_left, n_right) each.

    Without ``right``, the left images are compared with themselves: pairs (i, i) are one sample, which `Dropout`
    asks for. Equal images in two batches are two samples.
    """
    same = np.eye(len(left)) if right is None else np.zeros((len(left), len(right)))
    x, z = (
        np.asarray(v, np.float64).reshape((len(v), 1, 1, -1) if v.ndim == 2 else v.shape)
        for v in (left, left if right is None else right)
    )

    def inner(a: Array, b: Array) -> Array:
        # Not einsum: the same order of summation everywhere makes correlations of equal images exactly 1.
        return (a[..., :, :, None, None, :] * b[..., None, None, :, :, :]).sum(-1) / x.shape[-1]

    xz = inner(x[:, None], z[None])
    raw = Pairs(inner(x, x), inner(z, z), xz, np.zeros_like(xz), same.astype(bool), x.shape[-1])
    end = step(raw, network)
    assert end.size == (1, 1), f"the network ends in images of {end.size} pixels"
    return end.xz[..., 0, 0, 0, 0], end.tangent[..., 0, 0, 0, 0]


def evaluate(network: Layer, left: Array, right: Array | None, kind: str) -> Array:
    """Evaluate the kernel of one kind, "nngp" or "ntk"; see `evaluate_both`."""
    return evaluate_both(network, left, right)[{"nngp": 0, "ntk": 1}[kind]]
