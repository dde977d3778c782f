"""Attention: the positions of both images mixed, each by a matrix of its own."""

from typing import Any

import numpy as np

from pipeline.kernels.jit import jit
from pipeline.kernels.lanes import LANES, broadcast, load, load_left, store
from pipeline.kernels.program import Array, Tensor


@jit
def attend(
    tensor: Any,
    tensor_out: Any,
    index: Array,
    index_out: Array,
    left: Any,
    right: Any,
    buffer: Any,
) -> None:
    """Write ``A_x C A_z^T``.

    Parameters
    ----------
    tensor, tensor_out : the first pixels of C and of the result.
    index, index_out : (positions, positions) int64, where the tensors hold a pair of positions; -1 where the result
        is not needed.
    left, right : the attention of the left image and of the right ones, (positions, positions).
    buffer : scratch of as many lanes as there are positions.
    """
    count = index.shape[0]
    for row in range(count):
        for q in range(count):
            total = broadcast(0.0, tensor_out)
            for p in range(count):
                total = total + load_left(left, row * count + p) * load(tensor, index[p, q] * LANES)
            store(buffer, q * LANES, total)
        for column in range(count):
            if index_out[row, column] < 0:
                continue
            total = broadcast(0.0, tensor_out)
            for q in range(count):
                total = total + load(buffer, q * LANES) * load(right, (column * count + q) * LANES)
            store(tensor_out, index_out[row, column] * LANES, total)


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
