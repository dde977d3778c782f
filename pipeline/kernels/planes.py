"""Loops over one plane: the covariances of a left image with a block of right images at one offset.

A plane has the right images as its innermost axis, the 16 *lanes*. Its rows are flat, ``(W + 2 halo) * lanes``
long, so every loop runs over contiguous vectors; the rim of ``halo`` pixels is zero.
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
def clear_rim(plane: Array, height: int, width: int, halo: int) -> None:
    """Set the ``halo`` pixels around the top left ``height`` x ``width`` entries of a plane to zero, in place."""
    zero = plane.dtype.type(0)
    left, right, end = halo * LANES, (halo + width) * LANES, (2 * halo + width) * LANES
    for i in range(halo):
        for m in range(end):
            plane[i, m] = zero
            plane[height + halo + i, m] = zero
    for i in range(halo, height + halo):
        for m in range(left):
            plane[i, m] = zero
        for m in range(right, end):
            plane[i, m] = zero


@jit_inline
def window_sum_3x3(above: Array, here: Array, below: Array, count: int, column_sums: Array, row_out: Array) -> None:
    """Sum over 3 x 3 windows along one row, columns first.

    Parameters
    ----------
    above, here, below : three rows of the source, from one pixel left of the output's first to one right of its last.
    count : entries of the output row.
    column_sums : scratch of at least ``count + 2 lanes``.
    row_out : ``count`` sums are written here.
    """
    for m in range(count + 2 * LANES):
        column_sums[m] = above[m] + here[m] + below[m]
    for m in range(count):
        row_out[m] = column_sums[m] + column_sums[m + LANES] + column_sums[m + 2 * LANES]


@jit
def window_sum_any(
    plane: Array, i: int, window: tuple[int, int], count: int, halo: int, column_sums: Array, row_out: Array
) -> None:
    """Sum over windows of any size along output row ``i``, columns first.

    With padding "SAME" a window reaches ``(size - 1) // 2`` pixels up and left, and the rest down and right.

    Parameters
    ----------
    plane : source, with a rim of ``halo`` zeros.
    window : height and width in pixels.
    count : entries of the output row.
    column_sums : scratch of at least ``count + (window width - 1) lanes``.
    row_out : ``count`` sums are written here.
    """
    top, first = i + halo - (window[0] - 1) // 2, (halo - (window[1] - 1) // 2) * LANES
    reach = count + (window[1] - 1) * LANES
    row = plane[top, first : first + reach]
    for m in range(reach):
        column_sums[m] = row[m]
    for step in range(1, window[0]):
        row = plane[top + step, first : first + reach]
        for m in range(reach):
            column_sums[m] += row[m]
    for m in range(count):
        row_out[m] = column_sums[m]
    for step in range(1, window[1]):
        shifted = column_sums[step * LANES : step * LANES + count]
        for m in range(count):
            row_out[m] += shifted[m]


@jit_inline
def window_sum(
    plane: Array, i: int, window: tuple[int, int], count: int, halo: int, column_sums: Array, row_out: Array
) -> None:
    """Do as `window_sum_any`, by the fast way for 3 x 3."""
    if window[0] == 3 and window[1] == 3:
        first, last = (halo - 1) * LANES, (halo + 1) * LANES + count
        window_sum_3x3(
            plane[i + halo - 1, first:last],
            plane[i + halo, first:last],
            plane[i + halo + 1, first:last],
            count,
            column_sums,
            row_out,
        )
    else:
        window_sum_any(plane, i, window, count, halo, column_sums, row_out)


@jit
def linear_plane(
    source: Array,
    target_out: Array,
    shape: tuple[int, int],
    window: tuple[int, int],
    halo: int,
    factors: tuple[float, float, float],
    tangent: bool,
    column_sums: Array,
) -> None:
    """Apply a linear layer to a register.

    ``S' = scale * window_sum(S) + bias``; with ``tangent``, ``T' = scale * window_sum(T) + own * S'``.

    Parameters
    ----------
    source, target_out : ``(2, rows, columns)``, two different registers.
    shape : height and width of the plane in pixels.
    factors : scale, bias, own.
    column_sums : scratch of a plane's row.
    """
    scale, bias, own = factors
    begin, count = halo * LANES, shape[1] * LANES
    for i in range(shape[0]):
        s = target_out[0, i + halo, begin : begin + count]
        window_sum(source[0], i, window, count, halo, column_sums, s)
        for m in range(count):
            s[m] = scale * s[m] + bias
        if tangent:
            t = target_out[1, i + halo, begin : begin + count]
            window_sum(source[1], i, window, count, halo, column_sums, t)
            for m in range(count):
                t[m] = scale * t[m] + own * s[m]


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
    column_sums: Array,
) -> None:
    """Apply a linear layer and ReLU to the S of a register, row by row while the row is in cache.

    ``S = scale * window_sum(S) + bias``, then ``S' = k1(rho) * gains``: a gain is the standard deviation after
    ReLU, an inverse that of the one before it (0 for a variance of 0).

    Parameters
    ----------
    source, target_out : ``(2, rows, columns)``, two different registers.
    shape : height and width of the plane in pixels.
    factors : scale, bias, own.
    start : first row and column of the left image, then of the right image.
    left_gain, left_inverse : ``(H, W)``, or ``(H, W, lanes)`` for pairs of an image with itself.
    right_gain, right_inverse : ``(H, W * lanes)``.
    column_sums : scratch of a plane's row.
    """
    scale, bias, _ = factors
    begin, count, first = halo * LANES, shape[1] * LANES, start[3] * LANES
    for i in range(shape[0]):
        s = target_out[0, i + halo, begin : begin + count]
        window_sum(source[0], i, window, count, halo, column_sums, s)
        z_gain = right_gain[start[2] + i, first : first + count]
        z_inverse = right_inverse[start[2] + i, first : first + count]
        for j in range(shape[1]):
            x_gain = left_at(left_gain, start[0] + i, start[1] + j)
            x_inverse = left_at(left_inverse, start[0] + i, start[1] + j)
            for lane in range(LANES):
                m = j * LANES + lane
                covariance = scale * s[m] + bias
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
    column_sums: Array,
) -> None:
    """Do as `relu_plane` for S and T of a register.

    ``T = scale * window_sum(T) + own * S``, then ``T' = k0(rho) / 2 * T``.
    """
    scale, bias, own = factors
    half = column_sums.dtype.type(0.5)
    # The 1/2 of the ReLU's derivative costs nothing in these two factors.
    half_scale, half_own = half * scale, half * own
    begin, count, first = halo * LANES, shape[1] * LANES, start[3] * LANES
    for i in range(shape[0]):
        s = target_out[0, i + halo, begin : begin + count]
        t = target_out[1, i + halo, begin : begin + count]
        window_sum(source[0], i, window, count, halo, column_sums, s)
        window_sum(source[1], i, window, count, halo, column_sums, t)
        z_gain = right_gain[start[2] + i, first : first + count]
        z_inverse = right_inverse[start[2] + i, first : first + count]
        for j in range(shape[1]):
            x_gain = left_at(left_gain, start[0] + i, start[1] + j)
            x_inverse = left_at(left_inverse, start[0] + i, start[1] + j)
            for lane in range(LANES):
                m = j * LANES + lane
                covariance = scale * s[m] + bias
                tangent = half_scale * t[m] + half_own * covariance
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
        s = target_out[0, i + halo, begin : begin + count]
        t = target_out[1, i + halo, begin : begin + count]
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
        row = plane[i + halo, halo * LANES :]
        for lane in range(LANES):
            row_sum[lane] = row.dtype.type(0)
        for j in range(shape[1]):
            for lane in range(LANES):
                row_sum[lane] += row[j * LANES + lane]
        for lane in range(LANES):
            sums_out[lane] += weight * np.float64(row_sum[lane])
