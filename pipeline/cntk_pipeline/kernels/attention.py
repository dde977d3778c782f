"""Attention: where the pairs of positions lie that it mixes, and with which weights."""

from collections.abc import Callable

import numpy as np

from cntk_pipeline.kernels.program import Array, Mixing, Tensor


def pair_index(tensor: Tensor) -> Array:
    """List where a tensor holds each pair of positions, (positions, positions) int64; -1 for none."""
    height, width = tensor.height, tensor.width
    y, x = (v.ravel() for v in np.meshgrid(np.arange(height), np.arange(width), indexing="ij"))
    dy, dx = y[None, :] - y[:, None], x[None, :] - x[:, None]
    if tensor.circular:
        starts = tensor.starts[dy % height, dx % width]
        index = starts + y[:, None] * width + x[:, None]
    else:
        starts = tensor.starts[dy + height - 1, dx + width - 1]
        rows, columns = y[:, None] - np.maximum(0, -dy), x[:, None] - np.maximum(0, -dx)
        index = starts + rows * tensor.widths[dx + width - 1] + columns
    return np.where(starts < 0, -1, index)


def softmax_rows(logits: Array) -> Array:
    """Normalise the exponentials of the last axis but one, ``(positions, positions, lanes)``, to a sum of 1."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


MECHANISMS: dict[str, Callable[[Array], Array]] = {
    "softmax": softmax_rows,
    "identity": lambda logits: logits,
    "abs": np.abs,
    "relu": lambda logits: np.maximum(logits, 0),
}
"""What attention is of its logits, ``(positions, positions, lanes)``."""


def mix_rows(logits: Array, mixing: Mixing, present: Array | None) -> Array:
    """Evaluate what mixes the positions of images, ``(positions, positions, lanes)``.

    ``present``, (positions, lanes) bool, tells which positions are there; the others are given no weight.
    """
    if present is not None and mixing.mechanism == "softmax":
        logits = np.where(present, logits, -np.inf)
    attention = MECHANISMS[mixing.mechanism](logits)
    if present is not None:
        attention = np.where(present, attention, 0.0)
    if mixing.plus_identity:
        attention = attention + np.eye(len(logits))[:, :, None]
    return attention
