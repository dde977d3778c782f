"""The loops that take most of the time: weights and an activation over a plane, compiled for what a program uses.

Each combination of window, activation, tangent and dtype is a function of its own, so that no pixel asks what its
layer does. They are compiled when a program first needs them, are called by their addresses, and share one signature:

source, target_out : the first pixels of S of two registers, which may be the same.
ring : scratch of two rows for S and for T.
left, right : the statistics of the pair of images at the plane's first pixels.
place : `Place`, where things lie.
factors : scale, bias, own, and the activation's constants.
"""

from collections.abc import Callable
from enum import IntEnum
from functools import cache
from typing import Any

from numba import types

import pipeline.kernels.duals  # noqa: F401 - gives elementary functions their code
from pipeline.kernels.jit import jit_pointers, pasted
from pipeline.kernels.lanes import LANES, LanesType, address, load, load_left, narrow, store
from pipeline.layers import ClosedForm, Pointwise, Series

CONSTANTS = 3
"""Constants an activation may have."""


class Place(IntEnum):
    """Where things lie: entries of an array that the interpreter fills."""

    STRIDE = 0
    """Elements from a row of a plane to the next."""
    TANGENT = 1
    """Elements from S to T in a register."""
    RING_TANGENT = 2
    """Elements from S to T in the ring."""
    HEIGHT = 3
    WIDTH = 4
    """Of the plane in pixels."""
    LEFT_ROW = 5
    RIGHT_ROW = 6
    """Pixels from a row of the image to the next."""
    LEFT_STATISTIC = 7
    RIGHT_STATISTIC = 8
    """Pixels from a statistic to the next."""
    TERMS = 9
    """Coefficients of a series."""


(_STRIDE, _TANGENT, _RING_TANGENT, _HEIGHT, _WIDTH, _LEFT_ROW, _RIGHT_ROW, _LEFT_STATISTIC, _RIGHT_STATISTIC, _TERMS) = (
    int(entry) for entry in Place
)


# What a dual takes of an image at a pixel, by the number of its statistics; `step` leads from one to the next.


@pasted
def _left_0(left: Any, x: int, step: int, terms: int) -> Any:
    return 0


@pasted
def _left_1(left: Any, x: int, step: int, terms: int) -> Any:
    return (load_left(left, x),)


@pasted
def _left_2(left: Any, x: int, step: int, terms: int) -> Any:
    return load_left(left, x), load_left(left, x + step)


@pasted
def _left_3(left: Any, x: int, step: int, terms: int) -> Any:
    return load_left(left, x), load_left(left, x + step), load_left(left, x + 2 * step)


@pasted
def _right_0(right: Any, z: int, step: int, terms: int) -> Any:
    return 0


@pasted
def _right_1(right: Any, z: int, step: int, terms: int) -> Any:
    return (load(right, z * LANES),)


@pasted
def _right_2(right: Any, z: int, step: int, terms: int) -> Any:
    return load(right, z * LANES), load(right, (z + step) * LANES)


@pasted
def _right_3(right: Any, z: int, step: int, terms: int) -> Any:
    return load(right, z * LANES), load(right, (z + step) * LANES), load(right, (z + 2 * step) * LANES)


@pasted
def _series(pointer: Any, pixel: int, step: int, terms: int) -> Any:
    return pointer, pixel, step, terms


_STATISTICS: dict[int, tuple[Callable[..., Any], Callable[..., Any]]] = {
    0: (_left_0, _right_0),
    1: (_left_1, _right_1),
    2: (_left_2, _right_2),
    3: (_left_3, _right_3),
}


@pasted
def _no_dual(covariance: Any, x: Any, z: Any, constants: Any) -> Any:
    return covariance, 1.0


@pasted
def _series_dual(covariance: Any, x: Any, z: Any, constants: Any) -> Any:
    """Sum ``g_n(x) g_n(z) t^n`` and its derivative by Horner's rule; the first statistic is the scale of t."""
    left, i, left_step, terms = x
    right, j, right_step, _ = z
    scale = load_left(left, i) * load(right, j * LANES)
    t = covariance * scale
    value = load_left(left, i + terms * left_step) * load(right, (j + terms * right_step) * LANES)
    slope = 0.0 * t
    for n in range(terms - 1, 0, -1):
        slope = slope * t + value
        value = value * t + load_left(left, i + n * left_step) * load(right, (j + n * right_step) * LANES)
    return value, slope * scale


def _signature(dtype: str, own_lanes: bool) -> Any:
    number = types.float32 if dtype == "float32" else types.float64
    numbers = types.CPointer(number)
    left = types.CPointer(LanesType(number)) if own_lanes else numbers
    return types.void(numbers, numbers, numbers, left, numbers, types.CPointer(types.int64), numbers)


@cache
def plane_function(
    function: type[Pointwise] | None, convolve: bool, tangent: bool, own_lanes: bool, dtype: str
) -> Any:
    """Compile the loop for one kind of layer, or load it from disk; its ``address`` is what programs call.

    Parameters
    ----------
    function : what follows the weights; None for nothing.
    convolve : sum windows of 3 x 3, zeros outside; otherwise a window is one pixel.
    tangent : carry T as well.
    own_lanes : the left image differs by lane, for pairs of images with themselves.
    dtype : of planes and statistics.
    """
    if function is None:
        dual, (take_left, take_right) = _no_dual, _STATISTICS[0]
    elif issubclass(function, Series):
        dual, take_left, take_right = _series_dual, _series, _series
    elif issubclass(function, ClosedForm):
        dual, (take_left, take_right) = pasted(function.dual), _STATISTICS[function.statistic_count]
    else:
        raise TypeError(f"{function.__name__} is neither a closed form nor a series")

    def plane(
        source: Any, target_out: Any, ring: Any, left: Any, right: Any, place: Any, factors: Any
    ) -> None:
        """Apply weights, then the activation, to a register.

        ``S = scale * window_sum(S) + bias`` and ``T = scale * window_sum(T) + own * S``; then S' and the slope of the
        dual, and ``T' = slope * T``.
        """
        stride, height, width = place[_STRIDE], place[_HEIGHT], place[_WIDTH]
        scale, bias, own = factors[0], factors[1], factors[2]
        constants = factors[3], factors[4], factors[5]
        zero = 0.0 * load(source, 0)
        source_t, target_t = address(source, place[_TANGENT]), address(target_out, place[_TANGENT])
        ring_t = address(ring, place[_RING_TANGENT])
        left_step, right_step, terms = place[_LEFT_STATISTIC], place[_RIGHT_STATISTIC], place[_TERMS]
        left_row, right_row = place[_LEFT_ROW], place[_RIGHT_ROW]
        if convolve:
            for j in range(width):
                m = j * LANES
                s = load(source, m - LANES) + load(source, m) + load(source, m + LANES)
                store(ring, m, s)
                store(ring, stride + m, zero)
                if tangent:
                    t = load(source_t, m - LANES) + load(source_t, m) + load(source_t, m + LANES)
                    store(ring_t, m, t)
                    store(ring_t, stride + m, zero)
        for i in range(height):
            row, below = i * stride, (i + 1) * stride
            # The ring holds the sums of row i - 1, which those of row i + 1 replace, and of row i.
            here, other = (i % 2) * stride, ((i + 1) % 2) * stride
            if convolve:
                s_left, s_middle = load(source, below - LANES), load(source, below)
                if tangent:
                    t_left, t_middle = load(source_t, below - LANES), load(source_t, below)
            for j in range(width):
                m = j * LANES
                if convolve:
                    s_right = load(source, below + m + LANES)
                    s_below = s_left + s_middle + s_right
                    s = load(ring, other + m) + load(ring, here + m) + s_below
                    store(ring, other + m, s_below)
                    s_left, s_middle = s_middle, s_right
                    if tangent:
                        t_right = load(source_t, below + m + LANES)
                        t_below = t_left + t_middle + t_right
                        t = load(ring_t, other + m) + load(ring_t, here + m) + t_below
                        store(ring_t, other + m, t_below)
                        t_left, t_middle = t_middle, t_right
                else:
                    s = load(source, row + m)
                    if tangent:
                        t = load(source_t, row + m)
                covariance = scale * s + bias
                if tangent:
                    t = scale * t + own * covariance
                x = take_left(left, i * left_row + j, left_step, terms)
                z = take_right(right, i * right_row + j, right_step, terms)
                covariance, slope = dual(covariance, x, z, constants)
                store(target_out, row + m, covariance)
                if tangent:
                    store(target_t, row + m, t * slope)

    return jit_pointers(_signature(dtype, own_lanes), plane)


# The statistics of an image: the same walk over its variances, in float64, with the numbers that duals take on the way.


@pasted
def _store_1(values: Any, out: Any, m: int, step: int) -> Any:
    store(out, m, narrow(values[0], out))
    return values[1]


@pasted
def _store_2(values: Any, out: Any, m: int, step: int) -> Any:
    store(out, m, narrow(values[0], out))
    store(out, m + step, narrow(values[1], out))
    return values[2]


@pasted
def _store_3(values: Any, out: Any, m: int, step: int) -> Any:
    store(out, m, narrow(values[0], out))
    store(out, m + step, narrow(values[1], out))
    store(out, m + 2 * step, narrow(values[2], out))
    return values[3]


_STORE: dict[int, Callable[..., Any]] = {1: _store_1, 2: _store_2, 3: _store_3}


@cache
def statistics_function(function: type[ClosedForm], dtype: str) -> Any:
    """Compile the loop that turns a plane of variances into statistics and the variances behind the activation.

    Its parameters are the plane, float64, which is overwritten; the statistics, ``(statistics, H W lanes)`` in
    ``dtype``; `Place`; and the constants.
    """
    statistics, keep = pasted(function.statistics), _STORE[function.statistic_count]

    def plane(variances: Any, statistics_out: Any, place: Any, factors: Any) -> None:
        constants = factors[3], factors[4], factors[5]
        step, stride = place[_RIGHT_STATISTIC] * LANES, place[_STRIDE]
        for i in range(place[_HEIGHT]):
            for j in range(place[_WIDTH]):
                values = statistics(load(variances, i * stride + j * LANES), constants)
                after = keep(values, statistics_out, (i * place[_RIGHT_ROW] + j) * LANES, step)
                store(variances, i * stride + j * LANES, after)

    number = types.float32 if dtype == "float32" else types.float64
    double = types.CPointer(types.float64)
    signature = types.void(double, types.CPointer(number), types.CPointer(types.int64), double)
    return jit_pointers(signature, plane)
