"""The naive twin: kernels of networks by the textbook recursion, in NumPy and float64, slow and obviously right.

For two images it carries the whole covariance of every position with every position, four axes (row and column
in the first image, row and column in the second), and the same for each image with itself, whose diagonals are
the variances. Vectors are images of one pixel. Nothing is shared with the engine: every formula is written from
the papers (Arora et al. 2019, arXiv:1904.11955; Cho and Saul 2009), with NumPy's own arccos.

A new layer needs one function here and one line in `STEPS`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from pipeline.layers import Conv, Dense, Flatten, GlobalAvgPool, Layer, Relu, Rescale, Sequential

Array = np.ndarray


@dataclass(frozen=True)
class Pair:
    """What is known of two images x and z somewhere in a network.

    Attributes
    ----------
    xx, zz, xz : covariances, (H, W, H, W).
    tangent : the NTK of x with z accumulated so far, (H, W, H, W).
    values : how many channels, and how many numbers in all, one image has; None where infinite.
    """

    xx: Array
    zz: Array
    xz: Array
    tangent: Array
    values: tuple[int, int] | None

    def map_covariances(self, function: Callable[[Array], Array]) -> "Pair":
        """Apply a function to the three covariances."""
        return replace(self, xx=function(self.xx), zz=function(self.zz), xz=function(self.xz))

    def map_all(self, function: Callable[[Array], Array]) -> "Pair":
        """Apply a function to the covariances and the tangent."""
        return replace(self.map_covariances(function), tangent=function(self.tangent))


def window_mean(values: Array, window: tuple[int, int]) -> Array:
    """Average over equal shifts of both positions within a window; what lies outside the images is zero."""
    height, width = values.shape[:2]
    rows, columns = window
    up, left = (rows - 1) // 2, (columns - 1) // 2
    vertical, horizontal = (up, rows - 1 - up), (left, columns - 1 - left)
    padded = np.pad(values, (vertical, horizontal, vertical, horizontal))
    total = np.zeros_like(values)
    for i in range(rows):
        for j in range(columns):
            total += padded[i : i + height, j : j + width, i : i + height, j : j + width]
    return total / (rows * columns)


def weigh(pair: Pair, layer: Conv | Dense, window: tuple[int, int]) -> Pair:
    """Apply weights and biases: the old tangent passes through the weights, the layer's own parameters add theirs."""
    after = pair.map_all(lambda values: layer.w_std**2 * window_mean(values, window))
    after = after.map_covariances(lambda values: values + layer.b_std**2)
    return replace(after, tangent=after.tangent + (after.xz if layer.trained else 0), values=None)


def conv(pair: Pair, layer: Conv) -> Pair:
    size = layer.filter_shape
    return weigh(pair, layer, (size, size) if isinstance(size, int) else size)


def dense(pair: Pair, layer: Dense) -> Pair:
    return weigh(pair, layer, (1, 1))


def relu_expectations(covariance: Array, first: Array, second: Array) -> tuple[Array, Array]:
    """Evaluate E[relu(u) relu(v)] and E[relu'(u) relu'(v)] of Gaussians with the given variances, (H, W) each."""
    # The root of the product, not the product of roots: for equal variances it is exact, and so rho is.
    norm = np.sqrt(first[:, :, None, None] * second)
    rho = np.divide(covariance, norm, out=np.zeros_like(covariance), where=norm > 0)
    theta = np.arccos(np.clip(rho, -1, 1))
    return norm * (np.sin(theta) + (np.pi - theta) * np.cos(theta)) / (2 * np.pi), (np.pi - theta) / (2 * np.pi)


def relu(pair: Pair, layer: Relu) -> Pair:
    x, z = np.einsum("hwhw->hw", pair.xx), np.einsum("hwhw->hw", pair.zz)
    covariance, slope = relu_expectations(pair.xz, x, z)
    return replace(
        pair,
        xx=relu_expectations(pair.xx, x, x)[0],
        zz=relu_expectations(pair.zz, z, z)[0],
        xz=covariance,
        tangent=slope * pair.tangent,
    )


def flatten(pair: Pair, layer: Flatten) -> Pair:
    def trace(values: Array) -> Array:
        return np.einsum("hwhw->hw", values).mean().reshape(1, 1, 1, 1)

    flat = pair.map_all(trace)
    return flat if pair.values is None else replace(flat, values=(pair.values[1], pair.values[1]))


def global_average(pair: Pair, layer: GlobalAvgPool) -> Pair:
    pooled = pair.map_all(lambda values: values.mean().reshape(1, 1, 1, 1))
    return pooled if pair.values is None else replace(pooled, values=(pair.values[0], pair.values[0]))


def rescale(pair: Pair, layer: Rescale) -> Pair:
    match layer.variance:
        case "channels":
            factor = pair.values[0]
        case "features":
            factor = pair.values[1]
        case number:
            factor = number
    return pair.map_all(lambda values: factor * values)


def sequential(pair: Pair, layer: Sequential) -> Pair:
    for inner in layer.layers:
        pair = STEPS[type(inner)](pair, inner)
    return pair


STEPS: dict[type[Layer], Callable[[Pair, Layer], Pair]] = {
    Conv: conv,
    Dense: dense,
    Relu: relu,
    Flatten: flatten,
    GlobalAvgPool: global_average,
    Rescale: rescale,
    Sequential: sequential,
}


def evaluate_pair(network: Sequential, x: Array, z: Array) -> tuple[float, float]:
    """Evaluate NNGP and NTK of two inputs, ``(H, W, C)`` or ``(features,)`` each."""
    x, z = (np.asarray(v, np.float64).reshape((1, 1, -1) if v.ndim == 1 else v.shape) for v in (x, z))
    channels = x.shape[2]

    def inner(a: Array, b: Array) -> Array:
        return np.einsum("hwc,HWc->hwHW", a, b) / channels

    raw = Pair(inner(x, x), inner(z, z), inner(x, z), np.zeros_like(inner(x, z)), (channels, x.size))
    end = sequential(raw, network)
    return end.xz.item(), end.tangent.item()


def evaluate(network: Sequential, left: Array, right: Array, kind: str) -> Array:
    """Evaluate the kernel matrix of two batches of inputs, ``(n_left, n_right)`` float64."""
    position = {"nngp": 0, "ntk": 1}[kind]
    return np.array([[evaluate_pair(network, x, z)[position] for z in right] for x in left])
