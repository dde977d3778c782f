"""Loops over one plane: the covariances of a left image with a block of right images at one offset.

A plane has the right images as its innermost axis, the 16 *lanes*. Its rows are flat, ``(W + 2 halo) * lanes``
long, so every loop runs over contiguous vectors; the ``halo`` pixels on both sides are zero.
What belongs to the left image is one scalar a pixel; for pairs of an image with itself it differs by lane.
`left_at` and `in_lane` hide the difference.

One function does a whole plane, since a call that passes arrays costs some 40 ns, a quarter of a row's work.
"""

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from pipeline.kernels.duals import relu_duals
from pipeline.kernels.jit import jit, jit_inline
from pipeline.kernels.program import Array

LANES = 16
"""Also in float64, where a vector holds 8: LLVM leaves loops of 8 turns as scalars (9.0 against 3.5 ns, measured)."""


def left_at(values: Array, i: int, j: int) -> Any:
    """Read the left image's value at a pixel: a scalar, or one value a lane (jitted code only)."""
    return values[i, j]


@overload(left_at, inline="always", strict=False)
def _left_at(values: Any, i: Any, j: Any) -> Any:
    return lambda values, i, j: values[i, j]


def in_lane(value: Any, lane: int) -> float:
    """Pick a lane of what `left_at` returned (jitted code only)."""
    return float(value[lane])


@overload(in_lane, inline="always", strict=False)
def _in_lane(value: Any, lane: Any) -> Any:
    if isinstance(value, types.Array):
        return lambda value, lane: value[lane]
    return lambda value, lane: value


@jit
def clear_sides(plane: Array, height: int, width: int, halo: int) -> None:
    """Set the ``halo`` pixels left and right of ``height`` rows of ``width`` pixels to zero, in place."""
    zero = plane.dtype.type(0)
    left, right, end = halo * LANES, (halo + width) * LANES, (2 * halo + width) * LANES
    for i in range(height):
        for m in range(left):
            plane[i, m] = zero
        for m in range(right, end):
            plane[i, m] = zero


@jit_inline
def row_sum(plane: Array, i: int, shape: tuple[int, int], window_width: int, halo: int, sums_out: Array) -> None:
    """Sum a plane over the width of a window along row ``i``; rows outside the plane are zeros.

    With padding "SAME" a window reaches ``(size - 1) // 2`` pixels to the left and the rest to the right.

    Parameters
    ----------
    plane : rows with ``halo`` pixels of zeros on both sides.
    shape : height and width of the plane in pixels.
    sums_out : ``width * lanes`` sums are written here.
    """
    count = shape[1] * LANES
    if i < 0 or i >= shape[0]:
        for m in range(count):
            sums_out[m] = sums_out.dtype.type(0)
    elif window_width == 3:
        row = plane[i, (halo - 1) * LANES : (halo + 1) * LANES + count]
        for m in range(count):
            sums_out[m] = row[m] + row[m + LANES] + row[m + 2 * LANES]
    else:
        first = (halo - (window_width - 1) // 2) * LANES
        row = plane[i, first : first + count]
        for m in range(count):
            sums_out[m] = row[m]
        for step in range(1, window_width):
            row = plane[i, first + step * LANES : first + step * LANES + count]
            for m in range(count):
                sums_out[m] += row[m]


@jit
def add_up(ring: Array, window_height: int, count: int) -> None:
    """Add the first ``window_height`` rows of a ring into its row before last; its last row stays zero."""
    total = ring[ring.shape[0] - 2]
    for m in range(count):
        total[m] = ring[0, m]
    for k in range(1, window_height):
        row = ring[k]
        for m in range(count):
            total[m] += row[m]


@jit_inline
def three_rows(ring: Array, i: int, window_height: int, count: int) -> tuple[int, int, int]:
    """Name three rows of a ring whose sum is that of a window centred on row ``i``."""
    if window_height == 3:
        return (i + 2) % 3, i % 3, (i + 1) % 3
    add_up(ring, window_height, count)
    return ring.shape[0] - 2, ring.shape[0] - 1, ring.shape[0] - 1


@jit
def linear_plane(
    source: Array,
    target_out: Array,
    shape: tuple[int, int],
    window: tuple[int, int],
    halo: int,
    factors: tuple[float, float, float],
    tangent: bool,
    ring: Array,
) -> None:
    """Apply a linear layer to a register.

    ``S' = scale * window_sum(S) + bias``; with ``tangent``, ``T' = scale * window_sum(T) + own * S'``.

    Parameters
    ----------
    source, target_out : ``(2, rows, columns)``; they may be the same register.
    shape : height and width of the plane in pixels.
    window : height and width of the filter in pixels.
    factors : scale, bias, own.
    ring : ``(2, window height + 2, columns)``, scratch; its last rows are zero.
    """
    scale, bias, own = factors
    begin, count = halo * LANES, shape[1] * LANES
    above, below = (window[0] - 1) // 2, window[0] // 2
    for i in range(-above, below):
        row_sum(source[0], i, shape, window[1], halo, ring[0, (i + window[0]) % window[0]])
        row_sum(source[1], i, shape, window[1], halo, ring[1, (i + window[0]) % window[0]])
    for i in range(shape[0]):
        row_sum(source[0], i + below, shape, window[1], halo, ring[0, (i + below) % window[0]])
        s = target_out[0, i, begin : begin + count]
        a, b, c = three_rows(ring[0], i, window[0], count)
        up, here, down = ring[0, a], ring[0, b], ring[0, c]
        for m in range(count):
            s[m] = scale * (up[m] + here[m] + down[m]) + bias
        if tangent:
            row_sum(source[1], i + below, shape, window[1], halo, ring[1, (i + below) % window[0]])
            t = target_out[1, i, begin : begin + count]
            a, b, c = three_rows(ring[1], i, window[0], count)
            up, here, down = ring[1, a], ring[1, b], ring[1, c]
            for m in range(count):
                t[m] = scale * (up[m] + here[m] + down[m]) + own * s[m]


@jit
def relu_plane(
    source: Array,
    target_out: Array,
    shape: tuple[int, int],
    window: tuple[int, int],
    halo: int,
    factors: tuple[float, float, float],
    start: tuple[int, int, int, int],
    left_gain: Array,
    left_inverse: Array,
    right_gain: Array,
    right_inverse: Array,
    ring: Array,
) -> None:
    """Apply a linear layer and ReLU to the S of a register, row by row while the row is in cache.

    ``S = scale * window_sum(S) + bias``, then ``S' = k1(rho) * gains``: a gain is the standard deviation after
    ReLU, an inverse that of the one before it (0 for a variance of 0).

    Rows are summed along their length into a ring of as many rows as the window is high, so that the result may
    overwrite its source: planes then fit into half the cache, and nothing but the ring is written twice.

    Parameters
    ----------
    source, target_out : ``(2, rows, columns)``; they may be the same register.
    shape : height and width of the plane in pixels.
    window : height and width of the filter in pixels.
    factors : scale, bias, own.
    start : first row and column of the left image, then of the right image.
    left_gain, left_inverse : ``(H, W)``, or ``(H, W, lanes)`` for pairs of an image with itself.
    right_gain, right_inverse : ``(H, W * lanes)``.
    ring : ``(2, window height + 2, columns)``, scratch; its last rows are zero.
    """
    scale, bias, _ = factors
    begin, count, first = halo * LANES, shape[1] * LANES, start[3] * LANES
    above, below = (window[0] - 1) // 2, window[0] // 2
    for i in range(-above, below):
        row_sum(source[0], i, shape, window[1], halo, ring[0, (i + window[0]) % window[0]])
    for i in range(shape[0]):
        row_sum(source[0], i + below, shape, window[1], halo, ring[0, (i + below) % window[0]])
        a, b, c = three_rows(ring[0], i, window[0], count)
        up, here, down = ring[0, a], ring[0, b], ring[0, c]
        s = target_out[0, i, begin : begin + count]
        z_gain = right_gain[start[2] + i, first : first + count]
        z_inverse = right_inverse[start[2] + i, first : first + count]
        for j in range(shape[1]):
            x_gain = left_at(left_gain, start[0] + i, start[1] + j)
            x_inverse = left_at(left_inverse, start[0] + i, start[1] + j)
            for lane in range(LANES):
                m = j * LANES + lane
                covariance = scale * (up[m] + here[m] + down[m]) + bias
                _, k1 = relu_duals(covariance * (in_lane(x_inverse, lane) * z_inverse[m]))
                s[m] = k1 * (in_lane(x_gain, lane) * z_gain[m])


@jit
def relu_plane_with_tangent(
    source: Array,
    target_out: Array,
    shape: tuple[int, int],
    window: tuple[int, int],
    halo: int,
    factors: tuple[float, float, float],
    start: tuple[int, int, int, int],
    left_gain: Array,
    left_inverse: Array,
    right_gain: Array,
    right_inverse: Array,
    ring: Array,
) -> None:
    """Do as `relu_plane` for S and T of a register.

    ``T = scale * window_sum(T) + own * S``, then ``T' = k0(rho) / 2 * T``.
    """
    scale, bias, own = factors
    half = ring.dtype.type(0.5)
    # The 1/2 of the ReLU's derivative costs nothing in these two factors.
    half_scale, half_own = half * scale, half * own
    begin, count, first = halo * LANES, shape[1] * LANES, start[3] * LANES
    above, below = (window[0] - 1) // 2, window[0] // 2
    for i in range(-above, below):
        row_sum(source[0], i, shape, window[1], halo, ring[0, (i + window[0]) % window[0]])
        row_sum(source[1], i, shape, window[1], halo, ring[1, (i + window[0]) % window[0]])
    for i in range(shape[0]):
        row_sum(source[0], i + below, shape, window[1], halo, ring[0, (i + below) % window[0]])
        row_sum(source[1], i + below, shape, window[1], halo, ring[1, (i + below) % window[0]])
        a, b, c = three_rows(ring[0], i, window[0], count)
        three_rows(ring[1], i, window[0], count)
        s_up, s_here, s_down = ring[0, a], ring[0, b], ring[0, c]
        t_up, t_here, t_down = ring[1, a], ring[1, b], ring[1, c]
        s = target_out[0, i, begin : begin + count]
        t = target_out[1, i, begin : begin + count]
        z_gain = right_gain[start[2] + i, first : first + count]
        z_inverse = right_inverse[start[2] + i, first : first + count]
        for j in range(shape[1]):
            x_gain = left_at(left_gain, start[0] + i, start[1] + j)
            x_inverse = left_at(left_inverse, start[0] + i, start[1] + j)
            for lane in range(LANES):
                m = j * LANES + lane
                covariance = scale * (s_up[m] + s_here[m] + s_down[m]) + bias
                tangent = half_scale * (t_up[m] + t_here[m] + t_down[m]) + half_own * covariance
                k0, k1 = relu_duals(covariance * (in_lane(x_inverse, lane) * z_inverse[m]))
                s[m] = k1 * (in_lane(x_gain, lane) * z_gain[m])
                t[m] = tangent * k0


@jit
def input_plane(
    left: Array,
    right: Array,
    target_out: Array,
    shape: tuple[int, int],
    start: tuple[int, int, int, int],
    halo: int,
    scale: float,
) -> None:
    """Write ``S' = scale * sum_c x z`` of the raw images at one offset, and ``T' = 0``.

    Parameters
    ----------
    left : ``(C, H, W)``, or ``(C, H, W, lanes)`` for pairs of an image with itself.
    right : ``(C, H, W * lanes)``.
    target_out : ``(2, rows, columns)``, a register.
    shape : height and width of the plane in pixels.
    start : first row and column of the left image, then of the right image.
    """
    zero = right.dtype.type(0)
    begin, count, first = halo * LANES, shape[1] * LANES, start[3] * LANES
    for i in range(shape[0]):
        s = target_out[0, i, begin : begin + count]
        t = target_out[1, i, begin : begin + count]
        for m in range(count):
            s[m] = zero
            t[m] = zero
        for c in range(left.shape[0]):
            z = right[c, start[2] + i, first : first + count]
            for j in range(shape[1]):
                x = left_at(left[c], start[0] + i, start[1] + j)
                for lane in range(LANES):
                    s[j * LANES + lane] += in_lane(x, lane) * z[j * LANES + lane]
        for m in range(count):
            s[m] *= scale


@jit
def add_plane_sum(
    plane: Array, shape: tuple[int, int], halo: int, weight: float, row_sum: Array, sums_out: Array
) -> None:
    """Add ``weight`` times the sum over a plane to ``sums_out``, ``(lanes,)`` float64, lane by lane.

    A row is summed in the plane's dtype (at most W terms), rows and offsets in float64, always in this order.
    """
    for i in range(shape[0]):
        row = plane[i, halo * LANES :]
        for lane in range(LANES):
            row_sum[lane] = row.dtype.type(0)
        for j in range(shape[1]):
            for lane in range(LANES):
                row_sum[lane] += row[j * LANES + lane]
        for lane in range(LANES):
            sums_out[lane] += weight * np.float64(row_sum[lane])
