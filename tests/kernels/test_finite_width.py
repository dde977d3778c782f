"""Kernels against finite random networks, whose kernels are sums over weights that NumPy draws: no theory involved."""

from dataclasses import dataclass

import numpy as np
import pytest

from cntk_pipeline import kernel_matrix
from cntk_pipeline.kernels import KINDS
from cntk_pipeline.layers import AvgPool, Conv, Dense, GlobalAvgPool, Relu, Residual, Sequential

Array = np.ndarray

ENTRY, BLOCK, STRIDED = (
    Conv(3, w_std=1.4, b_std=0.1),
    Conv(3, w_std=1.2, b_std=0.3),
    Conv(3, strides=2, w_std=1.6, b_std=0.2),
)
READOUT = Dense(w_std=0.9, b_std=0.1)
NETWORK = Sequential(
    ENTRY, Residual(Sequential(Relu(), BLOCK)), Relu(), AvgPool(2), STRIDED, Relu(), GlobalAvgPool(), READOUT
)
DRAWS = {32: 64, 64: 64, 128: 64, 256: 48}
"""How many networks of each width. Twice the width takes four times as long, and says no more."""


@dataclass(frozen=True)
class FiniteConv:
    """A 3 x 3 convolution with finitely many channels and zeros outside, in the NTK parameterisation.

    Attributes
    ----------
    layer : Conv
        Strides and standard deviations.
    weights : array, (9 channels, width)
        Unit Gaussians times w_std / sqrt(9 channels).
    biases : array, (width,)
        Unit Gaussians times b_std.
    """

    layer: Conv
    weights: Array
    biases: Array

    @classmethod
    def draw(cls, rng: np.random.Generator, layer: Conv, channels: int, width: int) -> "FiniteConv":
        weights = rng.standard_normal((9 * channels, width), np.float32)
        weights *= np.float32(layer.w_std / (9 * channels) ** 0.5)
        return cls(layer, weights, rng.standard_normal(width, np.float32) * np.float32(layer.b_std))

    def patches(self, x: Array) -> Array:
        """Lay the nine inputs of each output pixel side by side, (n, h, w, 9 channels)."""
        _, height, width, _ = x.shape
        padded, step = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)]), self.layer.strides
        shifted = [padded[:, i : i + height : step, j : j + width : step] for i in range(3) for j in range(3)]
        return np.concatenate(shifted, -1)

    def forward(self, x: Array) -> Array:
        return self.patches(x) @ self.weights + self.biases

    def backward(self, x: Array, gradient: Array) -> Array:
        """Turn the gradient by the outputs into that by the inputs."""
        n, height, width, channels = x.shape
        padded, step = np.zeros((n, height + 2, width + 2, channels), x.dtype), self.layer.strides
        shares = (gradient @ self.weights.T).reshape(*gradient.shape[:3], 9, channels)
        for k in range(9):
            i, j = divmod(k, 3)
            padded[:, i : i + height : step, j : j + width : step] += shares[..., k, :]
        return padded[:, 1:-1, 1:-1]

    def tangent(self, x: Array, gradient: Array) -> Array:
        """Sum products of the derivatives by all weights and biases, (n, n)."""
        patches = self.patches(x)
        by_weight = self.layer.w_std**2 / patches.shape[-1] * inner(patches) + self.layer.b_std**2
        return (by_weight * inner(gradient)).sum((1, 3))


def inner(values: Array) -> Array:
    """Multiply the channels of all pairs of images and pixels, (n, pixels, n, pixels)."""
    n, height, width, _ = values.shape
    rows = values.reshape(n * height * width, -1)
    return (rows @ rows.T).astype(np.float64).reshape(n, height * width, n, height * width)


def finite_kernels(rng: np.random.Generator, images: Array, width: int) -> tuple[Array, Array]:
    """Draw a finite `NETWORK`; evaluate its NNGP by its last features and its NTK by all derivatives."""
    n, channels = len(images), images.shape[-1]
    entry = FiniteConv.draw(rng, ENTRY, channels, width)
    block = FiniteConv.draw(rng, BLOCK, width, width)
    strided = FiniteConv.draw(rng, STRIDED, width, width)
    readout = rng.standard_normal(width, np.float32) * np.float32(READOUT.w_std / width**0.5)

    z1 = entry.forward(images)
    h1 = np.maximum(z1, 0)
    z2 = z1 + block.forward(h1)
    pooled = np.maximum(z2, 0).reshape(n, 3, 2, 3, 2, width).mean((2, 4))
    z3 = strided.forward(pooled)
    features = np.maximum(z3, 0).mean((1, 2))

    d3 = (z3 > 0) * readout / np.float32(z3.shape[1] * z3.shape[2])
    d_pooled = strided.backward(pooled, d3)
    d2 = (z2 > 0) * d_pooled.repeat(2, 1).repeat(2, 2) / np.float32(4)
    d1 = d2 + (z1 > 0) * block.backward(h1, d2)

    nngp = READOUT.w_std**2 * (features @ features.T).astype(np.float64) / width + READOUT.b_std**2
    convolutions = entry.tangent(images, d1) + block.tangent(h1, d2) + strided.tangent(pooled, d3)
    return nngp, nngp + convolutions


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(11).standard_normal((3, 6, 6, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def finite(images):
    """Give the kernels of all drawn networks, kind by width: (draws, n, n)."""
    rng = np.random.default_rng(2)
    drawn = [[finite_kernels(rng, images, width) for _ in range(draws)] for width, draws in DRAWS.items()]
    return {
        kind: [np.array([pair[position] for pair in at_width]) for at_width in drawn]
        for position, kind in enumerate(KINDS)
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_finite_networks_approach_the_kernel_at_the_rate_of_the_central_limit(images, finite, kind):
    kernel = kernel_matrix(NETWORK, images, kind=kind, dtype="float64")
    errors = [np.sqrt(np.mean((drawn - kernel) ** 2) / np.mean(kernel**2)) for drawn in finite[kind]]
    slope = np.polyfit(np.log(list(DRAWS)), np.log(errors), 1)[0]
    assert -0.7 < slope < -0.35, errors
    assert errors[-1] < 0.14, errors
    # The mean over the draws is nearer still, and tells small mistakes: a missing bias of 0.2 moves it by 0.08.
    np.testing.assert_allclose(finite[kind][-1].mean(0), kernel, rtol=0, atol=0.03 * kernel.max())
