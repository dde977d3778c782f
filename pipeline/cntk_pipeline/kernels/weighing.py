"""The loops that take most of the time: weights and an activation over a plane, compiled for what a program uses.

Each combination of window, activation, tangent and dtype is a function of its own, so that no pixel asks what its
layer does. They are compiled when a program first needs them, are called by their addresses, and share one signature:

source, target_out : the first pixels of S of two registers, which may be the same.
ring : scratch of two rows for S and for T.
left, right : the statistics of the pair of images at the plane's first pixels. Those of the left image are one number a
    pixel; for 16 pairs of images at once, of images with themselves, they differ by lane like those of the right ones.
place : `Place`, where things lie.
factors : scale, bias, own, the activation's constants, extra, and recurrence.
"""

from collections.abc import Callable
from enum import IntEnum, unique
from functools import cache
from typing import Any

from numba import types

import cntk_pipeline.kernels.duals  # noqa: F401 - gives elementary functions their code
from cntk_pipeline.kernels import lanes
from cntk_pipeline.kernels.jit import HAS_WIDE_VECTORS, jit_pointers, pasted
from cntk_pipeline.kernels.lanes import LANES, address, broadcast, load, load_repeated, multiply_add, narrow, store
from cntk_pipeline.layers import ClosedForm, Pointwise, Series
from cntk_pipeline.layers.elementary import clip_correlation

CONSTANTS = 3
"""Constants an activation may have."""


@unique
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


(
    _STRIDE,
    _TANGENT,
    _RING_TANGENT,
    _HEIGHT,
    _WIDTH,
    _LEFT_ROW,
    _RIGHT_ROW,
    _LEFT_STATISTIC,
    _RIGHT_STATISTIC,
    _TERMS,
) = (int(entry) for entry in Place)


# What a dual takes of an image at a pixel, by the number of its statistics; `step` leads from one to the next.


@pasted
def _none(pointer: Any, pixel: int, step: int, terms: int) -> Any:
    return 0


@pasted
def _one_repeated(pointer: Any, pixel: int, step: int, terms: int) -> Any:
    return (load_repeated(pointer, pixel),)


@pasted
def _two_repeated(pointer: Any, pixel: int, step: int, terms: int) -> Any:
    return load_repeated(pointer, pixel), load_repeated(pointer, pixel + step)


@pasted
def _three_repeated(pointer: Any, pixel: int, step: int, terms: int) -> Any:
    first, second = load_repeated(pointer, pixel), load_repeated(pointer, pixel + step)
    return first, second, load_repeated(pointer, pixel + 2 * step)


@pasted
def _one(pointer: Any, pixel: int, step: int, terms: int) -> Any:
    return (load(pointer, pixel * LANES),)


@pasted
def _two(pointer: Any, pixel: int, step: int, terms: int) -> Any:
    return load(pointer, pixel * LANES), load(pointer, (pixel + step) * LANES)


@pasted
def _three(pointer: Any, pixel: int, step: int, terms: int) -> Any:
    first, second = load(pointer, pixel * LANES), load(pointer, (pixel + step) * LANES)
    return first, second, load(pointer, (pixel + 2 * step) * LANES)


_REPEATED: dict[int, Callable[..., Any]] = {1: _one_repeated, 2: _two_repeated, 3: _three_repeated}
_BY_LANE: dict[int, Callable[..., Any]] = {1: _one, 2: _two, 3: _three}


@pasted
def get_repeated(pointer: Any, pixel: int) -> Any:
    return load_repeated(pointer, pixel)


@pasted
def get_by_lane(pointer: Any, pixel: int) -> Any:
    return load(pointer, pixel * LANES)


@pasted
def _series_repeated(pointer: Any, pixel: int, step: int, terms: int) -> Any:
    return get_repeated, pointer, pixel, step, terms


@pasted
def _series_by_lane(pointer: Any, pixel: int, step: int, terms: int) -> Any:
    return get_by_lane, pointer, pixel, step, terms


@pasted
def _no_dual(covariance: Any, x: Any, z: Any, constants: Any) -> Any:
    return covariance, 1.0


@pasted
def _series_dual(covariance: Any, x: Any, z: Any, constants: Any) -> Any:
    """Sum ``g_n(x) g_n(z) t^n``, t the correlation, and its derivative by Horner's rule.

    The first statistic is the inverse deviation for t, which may be raised; the second is what it is for the slope.
    """
    get_left, left, i, left_step, terms = x
    get_right, right, j, right_step, _ = z
    t = clip_correlation(covariance * (get_left(left, i) * get_right(right, j)))
    first, first_right = i + 2 * left_step, j + 2 * right_step
    last, last_right = first + (terms - 1) * left_step, first_right + (terms - 1) * right_step
    value = get_left(left, last) * get_right(right, last_right)
    slope = 0.0 * t
    for n in range(terms - 2, -1, -1):
        slope = multiply_add(slope, t, value)
        term = get_left(left, first + n * left_step) * get_right(right, first_right + n * right_step)
        value = multiply_add(value, t, term)
    return value, slope * (get_left(left, i + left_step) * get_right(right, j + right_step))


def number_type(dtype: str) -> Any:
    """Return numba's type of a dtype."""
    return types.float32 if dtype == "float32" else types.float64


def find_dual(function: type[Pointwise] | None, by_lane: bool) -> tuple[Any, Any, Any]:
    """Find the dual of a function for jitted code, and what reads its statistics of the left and the right image."""
    if function is None:
        return _no_dual, _none, _none
    if issubclass(function, Series):
        return _series_dual, _series_by_lane if by_lane else _series_repeated, _series_by_lane
    if issubclass(function, ClosedForm):
        take_right = _BY_LANE[function.statistic_count]
        return pasted(function.dual), take_right if by_lane else _REPEATED[function.statistic_count], take_right
    raise TypeError(f"{function.__name__} is neither a closed form nor a series")


@cache
def plane_function(
    function: type[Pointwise] | None,
    convolve: bool,
    tangent: bool,
    begins: bool,
    by_lane: bool,
    dtype: str,
    has_extra: bool = False,
) -> Any:
    """Compile the loop for one kind of layer, or load it from disk; its ``address`` is what programs call.

    Parameters
    ----------
    function : subclass of Pointwise or None
        What follows the weights; None for nothing.
    convolve : bool
        Sum windows of 3 x 3, zeros outside; otherwise a window is one pixel.
    tangent : bool
        Carry T as well.
    begins : bool
        T of the source is zero, whatever its register holds.
    by_lane : bool
        The left image differs by lane.
    dtype : str
        Of planes and statistics.
    has_extra : bool
        Add the constant ``extra`` to T.
    """
    dual, take_left, take_right = find_dual(function, by_lane)
    # A row's sums and its activation in one loop want more than 16 registers; where there are no more, one after the
    # other on a row in L1 is faster (1.35 -> 1.1 ns a pixel with AVX2).
    carried = tangent and not begins
    in_turn = convolve and function is not None and not HAS_WIDE_VECTORS

    def plane(source: Any, target_out: Any, ring: Any, left: Any, right: Any, place: Any, factors: Any) -> None:
        """Apply weights, then the activation, to a register.

        ``S = scale * window_sum(S) + bias`` and ``T = scale * window_sum(T) + own * S + extra``; then S' and the slope
        of the dual, and ``T' = slope * T``.
        """
        stride, height, width = place[_STRIDE], place[_HEIGHT], place[_WIDTH]
        scale, bias, own = factors[0], factors[1], factors[2]
        constants = factors[3], factors[4], factors[5]
        extra = factors[6]
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
                if carried:
                    t = load(source_t, m - LANES) + load(source_t, m) + load(source_t, m + LANES)
                    store(ring_t, m, t)
                    store(ring_t, stride + m, zero)
        for i in range(height):
            row, below = i * stride, (i + 1) * stride
            # The ring holds the sums of row i - 1, which those of row i + 1 replace, and of row i.
            here, other = (i % 2) * stride, ((i + 1) % 2) * stride
            if convolve:
                s_left, s_middle = load(source, below - LANES), load(source, below)
                if carried:
                    t_left, t_middle = load(source_t, below - LANES), load(source_t, below)
            for j in range(width):
                m = j * LANES
                if convolve:
                    s_right = load(source, below + m + LANES)
                    s_below = s_left + s_middle + s_right
                    s = load(ring, other + m) + load(ring, here + m) + s_below
                    store(ring, other + m, s_below)
                    s_left, s_middle = s_middle, s_right
                    if carried:
                        t_right = load(source_t, below + m + LANES)
                        t_below = t_left + t_middle + t_right
                        t = load(ring_t, other + m) + load(ring_t, here + m) + t_below
                        store(ring_t, other + m, t_below)
                        t_left, t_middle = t_middle, t_right
                else:
                    s = load(source, row + m)
                    if carried:
                        t = load(source_t, row + m)
                covariance = multiply_add(scale, s, bias)
                if carried:
                    t = multiply_add(scale, t, own * covariance)
                elif tangent:
                    t = own * covariance
                if tangent and has_extra:
                    t = t + extra
                if not in_turn:
                    x = take_left(left, i * left_row + j, left_step, terms)
                    z = take_right(right, i * right_row + j, right_step, terms)
                    covariance, slope = dual(covariance, x, z, constants)
                    if tangent:
                        t = t * slope
                store(target_out, row + m, covariance)
                if tangent:
                    store(target_t, row + m, t)
            if in_turn:
                for j in range(width):
                    m = row + j * LANES
                    x = take_left(left, i * left_row + j, left_step, terms)
                    z = take_right(right, i * right_row + j, right_step, terms)
                    covariance, slope = dual(load(target_out, m), x, z, constants)
                    store(target_out, m, covariance)
                    if tangent:
                        store(target_t, m, load(target_t, m) * slope)

    numbers = types.CPointer(number_type(dtype))
    signature = types.void(numbers, numbers, numbers, numbers, numbers, types.CPointer(types.int64), numbers)
    return jit_pointers(signature, plane)


@cache
def input_function(tangent: bool, by_lane: bool, dtype: str) -> Any:
    """Compile the loop that begins a pass: ``S' = scale * sum_c x z`` of the raw images at one offset; ``T' = 0``.

    Its parameters are those of the other loops but ``source``; ``left`` and ``right`` are the first pixels of the
    images, a statistic is a channel, and there are ``terms`` of them.
    """
    get_left = get_by_lane if by_lane else get_repeated

    def plane(target_out: Any, left: Any, right: Any, place: Any, factors: Any) -> None:
        # Read once: for all the compiler knows, every store might change them.
        stride, tangent_step, height, width = place[_STRIDE], place[_TANGENT], place[_HEIGHT], place[_WIDTH]
        left_row, right_row, channels = place[_LEFT_ROW], place[_RIGHT_ROW], place[_TERMS]
        left_step, right_step = place[_LEFT_STATISTIC], place[_RIGHT_STATISTIC]
        scale, zero = factors[0], broadcast(0.0, target_out)
        for i in range(height):
            for j in range(width):
                x, z = i * left_row + j, i * right_row + j
                total = get_left(left, x) * load(right, z * LANES)
                for c in range(1, channels):
                    channel = load(right, (z + c * right_step) * LANES)
                    total = multiply_add(get_left(left, x + c * left_step), channel, total)
                m = i * stride + j * LANES
                store(target_out, m, scale * total)
                if tangent:
                    store(target_out, tangent_step + m, zero)

    numbers = types.CPointer(number_type(dtype))
    return jit_pointers(types.void(numbers, numbers, numbers, types.CPointer(types.int64), numbers), plane)


@cache
def attention_function(by_lane: bool, dtype: str) -> Any:
    """Compile ``A_x C A_z^T`` over all positions of both images.

    Its parameters are the first pixels of C and of the result; where they hold each pair of positions, the result -1
    where it is not needed; the attention of the left image and of the right ones, ``(positions, positions)``; scratch
    of as many lanes as there are positions; and `Place`, whose ``TERMS`` is the number of positions.
    """
    get_left = get_by_lane if by_lane else get_repeated

    def attend(
        tensor: Any, tensor_out: Any, index: Any, index_out: Any, left: Any, right: Any, buffer: Any, place: Any
    ) -> None:
        count = place[_TERMS]
        for row in range(count):
            for q in range(count):
                total = broadcast(0.0, tensor_out)
                for p in range(count):
                    value = load(tensor, index[p * count + q] * LANES)
                    total = multiply_add(get_left(left, row * count + p), value, total)
                store(buffer, q * LANES, total)
            for column in range(count):
                if index_out[row * count + column] >= 0:
                    total = broadcast(0.0, tensor_out)
                    for q in range(count):
                        weight = load(right, (column * count + q) * LANES)
                        total = multiply_add(load(buffer, q * LANES), weight, total)
                    store(tensor_out, index_out[row * count + column] * LANES, total)

    numbers, integers = types.CPointer(number_type(dtype)), types.CPointer(types.int64)
    signature = types.void(numbers, numbers, integers, integers, numbers, numbers, numbers, integers)
    return jit_pointers(signature, attend)


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
        step, stride, row = place[_RIGHT_STATISTIC] * LANES, place[_STRIDE], place[_RIGHT_ROW]
        height, width = place[_HEIGHT], place[_WIDTH]
        for i in range(height):
            for j in range(width):
                # Behind a pooling, and of a difference of positions, rounding makes a variance of 0 negative.
                variance = load(variances, i * stride + j * LANES)
                values = statistics(lanes.where_negative(variance, 0.0, variance), constants)
                after = keep(values, statistics_out, (i * row + j) * LANES, step)
                store(variances, i * stride + j * LANES, after)

    double = types.CPointer(types.float64)
    signature = types.void(double, types.CPointer(number_type(dtype)), types.CPointer(types.int64), double)
    return jit_pointers(signature, plane)
