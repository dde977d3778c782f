"""Kernels of networks: the in-memory door, and the engine behind it."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from pipeline.errors import DataError
from pipeline.inputs import as_array, require_channels_last
from pipeline.kernels.engine import NUMERICS_VERSION, Engine, group_size, working_bytes
from pipeline.kernels.lowering import KINDS, lower
from pipeline.kernels.program import Array, Program
from pipeline.kernels.summary import Summary, summary
from pipeline.layers import Layer

__all__ = [
    "BAND",
    "KINDS",
    "NUMERICS_VERSION",
    "Engine",
    "Program",
    "Summary",
    "group_size",
    "kernel_matrix",
    "lower",
    "summary",
    "working_bytes",
]


BAND = 64
"""Rows that a thread of `kernel_matrix` computes at a time."""


def kernel_matrix(
    network: Layer,
    x1: Array,
    x2: Array | None = None,
    *,
    kind: str = "ntk",
    dtype: str = "float32",
    flips: bool = False,
) -> Array:
    """Evaluate the exact kernel of a network in memory, on all cores of this process.

    Parameters
    ----------
    network : a layer, or a `Sequential` of layers, that ends in a vector.
    x1, x2 : inputs, ``(n, H, W, C)`` or ``(n, features)``; None for ``x2`` means ``x1``.
    kind : "ntk", or "nngp" for the kernel of the network with only its last layer trained.
    dtype : "float32" or "float64", of the computation and the result.
    flips : average over x2 and its images flipped left to right.

    Returns
    -------
    (n1, n2) array.

    Raises
    ------
    LayerError
        If the network does not accept the inputs' shape, or kind or dtype are unknown.
    DataError
        If the inputs are not finite numbers or differ in shape.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline import kernel_matrix
    >>> from pipeline.layers import presets
    >>> x = np.random.default_rng(0).standard_normal((3, 8, 8, 1))
    >>> k = kernel_matrix(presets.cntk(3), x, dtype="float64")
    >>> k.shape, bool(np.all(np.linalg.eigvalsh(k) > 0))
    ((3, 3), True)
    """
    left = _require_inputs("x1", x1)
    right = None if x2 is None else _require_inputs("x2", x2)
    if right is not None and right.shape[1:] != left.shape[1:]:
        raise DataError(f"x1 and x2 must hold inputs of one shape, got {left.shape[1:]} and {right.shape[1:]}")
    program = lower([(network, kind)], left.shape[1:])
    engine = Engine(program, dtype, flips)  # refuses a bad dtype before any thread starts
    values = np.empty((len(left), len(left if right is None else right)), engine.dtype)

    def fill(start: int, stop: int) -> None:
        # A band of the lower triangle is a rectangle and a smaller triangle; each thread has its own engine.
        own = Engine(program, engine.dtype.name, flips)
        band = left[start:stop]
        if right is not None:
            values[start:stop] = own.evaluate(band, right)[0]
            return
        values[start:stop, start:stop] = own.evaluate(band)[0]
        if start:
            values[start:stop, :start] = own.evaluate(band, left[:start])[0]
            values[:start, start:stop] = values[start:stop, :start].T

    # The last bands of a triangle are the longest, so they go first.
    starts = range(0, len(left), BAND)[::-1]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda start: fill(start, min(start + BAND, len(left))), starts))
    return values


def _require_inputs(name: str, inputs: Array) -> Array:
    array = as_array(name, inputs)
    if array.dtype.kind not in "uif":
        raise DataError(f"{name} must hold real numbers, got dtype {array.dtype}")
    if array.ndim not in (2, 4):
        raise DataError(f"{name} must be of shape (n, H, W, C) or (n, features), got {array.shape}: add missing axes")
    if array.size == 0:
        raise DataError(f"{name} must hold at least one input, got shape {array.shape}")
    require_channels_last(name, array.shape)
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        raise DataError(
            f"{name} holds {array[tuple(bad[0])]} at index {tuple(map(int, bad[0]))}: inputs must be finite"
        )
    return array
