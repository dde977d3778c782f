"""Kernels of single pairs of small images in 60 digits, by the formulas of the papers: what float32 is held to.

Cancellation does no harm at 60 digits, so that the formulas stand here as they are usually written, and share nothing
with those of `cntk_pipeline.layers`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import mpmath
import numpy as np
from mpmath import mp, mpf

from cntk_pipeline import layers
from cntk_pipeline.layers import Layer

mp.dps = 60

Dual = Callable[[mpf, mpf, mpf, Layer], tuple[mpf, mpf]]
"""``E[phi(u) phi(v)]`` and ``E[phi'(u) phi'(v)]`` from the covariance and both variances."""


@dataclass(frozen=True)
class Block:
    """Weights over ``window`` neighbours in a row, zeros outside, then a function."""

    window: int
    w_std: float
    b_std: float
    function: Layer


def rectifier(c: mpf, a: mpf, b: mpf, below: mpf) -> tuple[mpf, mpf]:
    """Evaluate the arc-cosine kernels (Cho and Saul 2009) of ``relu(x) - below relu(-x)``."""
    norm = mp.sqrt(a * b)
    if norm == 0:
        return mpf(0), mpf(0)
    rho = max(min(c / norm, mpf(1)), mpf(-1))

    def halves(r: mpf) -> tuple[mpf, mpf]:
        angle = mp.pi - mp.acos(r)
        return angle / (2 * mp.pi), (mp.sqrt(1 - r * r) + angle * r) / (2 * mp.pi)

    (k0, k1), (opposite_0, opposite_1) = halves(rho), halves(-rho)
    return (
        norm * ((1 + below**2) * k1 - 2 * below * opposite_1),
        (1 + below**2) * k0 + 2 * below * opposite_0,
    )


def maxout(c: mpf, a: mpf, b: mpf, layer: Layer) -> tuple[mpf, mpf]:
    """A half of the identity, and a half of the absolute value, whose arc sine comes from Sheppard 1899."""
    norm = mp.sqrt(a * b)
    if norm == 0:
        return mpf(0), mpf(0)
    rho = max(min(c / norm, mpf(1)), mpf(-1))
    return c / 2 + norm / mp.pi * (mp.sqrt(1 - rho * rho) + rho * mp.asin(rho)), mpf(1) / 2 + mp.asin(rho) / mp.pi


def erf(c: mpf, a: mpf, b: mpf, layer: Layer) -> tuple[mpf, mpf]:
    """Williams 1997."""
    q = (1 + 2 * a) * (1 + 2 * b)
    return 2 / mp.pi * mp.asin(2 * c / mp.sqrt(q)), 4 / mp.pi / mp.sqrt(q - 4 * c * c)


def gelu(c: mpf, a: mpf, b: mpf, layer: Layer) -> tuple[mpf, mpf]:
    """Tsuchida et al. 2021; the slope is the value's difference over 1e-20."""

    def value(c: mpf) -> mpf:
        rest = (1 + a) * (1 + b) - c * c
        mean = c / 4 + c / (2 * mp.pi) * mp.asin(c / mp.sqrt((1 + a) * (1 + b)))
        return mean + (a * b - c * c + c * c * (1 / (1 + a) + 1 / (1 + b))) / (2 * mp.pi * mp.sqrt(rest))

    step = mpf(10) ** -20 * (1 + mp.sqrt(a * b))
    return value(c), (value(c + step) - value(c - step)) / (2 * step)


def sin(c: mpf, a: mpf, b: mpf, layer: Layer) -> tuple[mpf, mpf]:
    mean = mp.exp(-(a + b) / 2)
    return mean * mp.sinh(c), mean * mp.cosh(c)


def cos(c: mpf, a: mpf, b: mpf, layer: Layer) -> tuple[mpf, mpf]:
    return sin(c, a, b, layer)[::-1]


def rbf(c: mpf, a: mpf, b: mpf, layer: Layer) -> tuple[mpf, mpf]:
    value = mp.exp(-mpf(layer.gamma) * (a + b - 2 * c))
    return value, 2 * mpf(layer.gamma) * value


def exp(c: mpf, a: mpf, b: mpf, layer: Layer) -> tuple[mpf, mpf]:
    value = mp.exp((a + b) / 2 + c)
    return value, value


def gaussian(c: mpf, a: mpf, b: mpf, layer: Layer) -> tuple[mpf, mpf]:
    value = 1 / mp.sqrt((1 + 2 * a) * (1 + 2 * b) - 4 * c * c)
    return value, 4 * c * value**3


def layer_norm(c: mpf, a: mpf, b: mpf, layer: Layer) -> tuple[mpf, mpf]:
    slope = 1 / mp.sqrt((a + mpf("1e-12")) * (b + mpf("1e-12")))
    return c * slope, slope


def power_series(c: mpf, a: mpf, b: mpf, coefficients: Sequence[float]) -> tuple[mpf, mpf]:
    """Sum the moments of two Gaussians (Isserlis 1918)."""
    count = len(coefficients)
    moments = [[mpf(0)] * count for _ in range(count)]
    for k in range(count):
        for m in range(count):
            if k == 0:
                moments[k][m] = mpf(m == 0) if m < 2 else (m - 1) * b * moments[k][m - 2]
            else:
                again = (k - 1) * a * moments[k - 2][m] if k > 1 else 0
                moments[k][m] = again + (m * c * moments[k - 1][m - 1] if m else 0)
    pairs = [(k, m, mpf(coefficients[k]) * mpf(coefficients[m])) for k in range(count) for m in range(count)]
    value = sum(share * moments[k][m] for k, m, share in pairs)
    return value, sum(share * k * m * moments[k - 1][m - 1] for k, m, share in pairs if k and m)


def hermite(c: mpf, a: mpf, b: mpf, layer: Layer) -> tuple[mpf, mpf]:
    scaled = [value / mp.sqrt(mp.factorial(n)) for n, value in enumerate(layer.coefficients)]
    powers = [mpf(0)] * len(scaled)
    for n, value in enumerate(scaled):
        for k, share in enumerate(np.polynomial.hermite_e.herme2poly([0] * n + [1])):
            powers[k] += value * int(share)
    return power_series(c, a, b, powers)


def sign(c: mpf, a: mpf, b: mpf, layer: Layer) -> tuple[mpf, mpf]:
    return 2 / mp.pi * mp.asin(max(min(c / mp.sqrt(a * b), mpf(1)), mpf(-1))), mp.nan


DUALS: dict[type[Layer], Dual] = {
    layers.Relu: lambda c, a, b, layer: rectifier(c, a, b, mpf(0)),
    layers.LeakyRelu: lambda c, a, b, layer: rectifier(c, a, b, mpf(layer.negative_slope)),
    layers.Abs: lambda c, a, b, layer: rectifier(c, a, b, mpf(-1)),
    layers.Maxout: maxout,
    layers.Sign: sign,
    layers.Erf: erf,
    layers.Gelu: gelu,
    layers.Sin: sin,
    layers.Cos: cos,
    layers.Rbf: rbf,
    layers.Exp: exp,
    layers.Gaussian: gaussian,
    layers.LayerNorm: layer_norm,
    layers.Polynomial: lambda c, a, b, layer: power_series(c, a, b, layer.coefficients),
    layers.Hermite: hermite,
    layers.Elementwise: sin,  # of np.sin
}
DUALS = {kind: lru_cache(1024)(dual) for kind, dual in DUALS.items()}  # the variances of an image meet it again


def evaluate(x: np.ndarray, z: np.ndarray, blocks: Sequence[Block], pooled: bool) -> tuple[mpf, mpf]:
    """Evaluate NNGP and NTK of blocks, an average or `Flatten`, and a read-out.

    ``x`` and ``z`` are images of one row, ``(positions, channels)``.
    """
    count, channels = x.shape
    first, second = ([[mpf(float(v)) for v in row] for row in image] for image in (x, z))

    def products(u: list[list[mpf]], v: list[list[mpf]], pairs: list[tuple[int, int]]) -> dict[tuple[int, int], mpf]:
        return {(p, q): mpmath.fdot(u[p], v[q]) / channels for p, q in pairs}

    # Without pooling, the covariances of equal positions only meet each other.
    every = [(p, q) for p in range(count) for q in range(count) if pooled or p == q]
    equal = [(p, p) for p in range(count)]
    a, b, c = products(first, first, equal), products(second, second, equal), products(first, second, every)
    t = dict.fromkeys(every, mpf(0))
    for block in blocks:

        def weigh(values: dict[tuple[int, int], mpf], bias: float, block: Block = block) -> dict[tuple[int, int], mpf]:
            reach = block.window // 2
            scale = mpf(block.w_std) ** 2 / block.window
            return {
                (p, q): scale * sum(values.get((p + s, q + s), mpf(0)) for s in range(-reach, reach + 1))
                + mpf(bias) ** 2
                for p, q in values
            }

        a, b, c = (weigh(values, block.b_std) for values in (a, b, c))
        t = {pair: value + c[pair] for pair, value in weigh(t, 0.0).items()}
        dual = DUALS[type(block.function)]
        behind = {(p, q): dual(c[p, q], a[p, p], b[q, q], block.function) for p, q in every}
        t = {pair: behind[pair][1] * value for pair, value in t.items()}
        c = {pair: value for pair, (value, _) in behind.items()}
        a, b = ({pair: dual(v, v, v, block.function)[0] for pair, v in values.items()} for values in (a, b))
    nngp, ntk = (mpmath.fsum(values.values()) / len(every) for values in (c, t))
    return nngp, ntk + nngp
