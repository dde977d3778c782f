"""The diagonal of the recursion: the variance of every position of an image, layer by layer, 16 images at a time.

Weights and activations turn the variances of an image into variances without looking at any other covariance, so what
the duals need to know of an image costs it one pass over H x W numbers, in float64 whatever the dtype of the planes.
Only behind a pooling do they start from what the planes of the image with itself gave.
"""

from typing import Any

import numpy as np

from cntk_pipeline.kernels.jit import jit, jit_inner
from cntk_pipeline.kernels.lanes import LANES, address, call
from cntk_pipeline.kernels.planes import (
    add_planes,
    clear_rim,
    copy_plane,
    fill_plane,
    multiply_planes,
    shift_plane,
    sum_windows,
    wrap_rim,
)
from cntk_pipeline.kernels.program import Array, Code
from cntk_pipeline.kernels.tables import Entry, Kind, StageEntry, Tables
from cntk_pipeline.kernels.weighing import CONSTANTS, Place

_INPUT, _LOAD, _LOAD_SUM, _WEIGH, _ADD, _MULTIPLY, _RECUR, _MASK, _EMBED, _GATE, _POOL, _REDUCE = (
    int(code)
    for code in (
        Code.INPUT,
        Code.LOAD,
        Code.LOAD_SUM,
        Code.WEIGH,
        Code.ADD,
        Code.MULTIPLY,
        Code.RECUR,
        Code.MASK,
        Code.EMBED,
        Code.GATE,
        Code.POOL,
        Code.REDUCE,
    )
)
_PLAIN_3X3, _CIRCULAR = int(Kind.PLAIN_3X3), int(Kind.CIRCULAR)
(
    _CODE,
    _SOURCE,
    _OTHER,
    _TARGET,
    _SLOT,
    _HEIGHT,
    _WIDTH,
    _TO_HEIGHT,
    _TO_WIDTH,
    _KIND,
    _ROW_WINDOW,
    _ROW_STRIDE,
    _ROWS_BEFORE,
    _COLUMN_WINDOW,
    _COLUMN_STRIDE,
    _COLUMNS_BEFORE,
    _LEFT,
    _AREA,
    _BACKWARD,
    _PRESENT,
) = (
    int(entry)
    for entry in (
        Entry.CODE,
        Entry.SOURCE,
        Entry.OTHER,
        Entry.TARGET,
        Entry.SLOT,
        Entry.HEIGHT,
        Entry.WIDTH,
        Entry.TO_HEIGHT,
        Entry.TO_WIDTH,
        Entry.KIND,
        Entry.ROW_WINDOW,
        Entry.ROW_STRIDE,
        Entry.ROWS_BEFORE,
        Entry.COLUMN_WINDOW,
        Entry.COLUMN_STRIDE,
        Entry.COLUMNS_BEFORE,
        Entry.LEFT,
        Entry.AREA,
        Entry.BACKWARD,
        Entry.PRESENT,
    )
)
_STAGE_HEIGHT, _STAGE_WIDTH, _HALO = (int(entry) for entry in (StageEntry.HEIGHT, StageEntry.WIDTH, StageEntry.HALO))
_STRIDE, _PLACE_HEIGHT, _PLACE_WIDTH, _RIGHT_ROW, _RIGHT_STATISTIC = (
    int(place) for place in (Place.STRIDE, Place.HEIGHT, Place.WIDTH, Place.RIGHT_ROW, Place.RIGHT_STATISTIC)
)

_RECURRENCE = 4 + CONSTANTS

TINY = float(np.finfo(np.float64).tiny)
"""The smallest number of float64 that has all its digits."""

BEYOND, BELOW = 1, 2
"""What is wrong with variances: some are too large for the dtype of planes, or those of an image are all too small."""


@jit_inner
def _has_beyond(limit: float, plane: Any, stride: int, shape: tuple[int, int], count: int) -> bool:
    """Tell whether a plane of ``count`` images holds more than ``limit``."""
    found = False
    for i in range(shape[0]):
        for j in range(shape[1]):
            for lane in range(count):
                found |= plane[i * stride + j * LANES + lane] > limit
    return found


@jit_inner
def _is_enlarged(growth: float, smallest: float, plane: Any, stride: int, shape: tuple[int, int], count: int) -> bool:
    """Tell whether weights make normal numbers of variances of an image below ``smallest``, or zeros of others.

    An infinite ``growth`` asks whether they are below ``smallest`` at all. Mostly no value is, which a loop over whole
    lanes tells.
    """
    least, found = max(smallest, TINY / growth), False
    for i in range(shape[0]):
        for j in range(shape[1]):
            for lane in range(count):
                value = plane[i * stride + j * LANES + lane]
                found |= (value > 0.0) & (value < least)
    if not found:
        return False
    for lane in range(count):
        largest = 0.0
        for i in range(shape[0]):
            for j in range(shape[1]):
                largest = max(largest, plane[i * stride + j * LANES + lane])
        behind = growth * largest
        if largest > 0.0 and (behind == 0.0 or (largest < smallest and behind >= smallest)):
            return True
    return False


@jit_inner
def _is_product_below(
    first: Any, second: Any, smallest: float, stride: int, shape: tuple[int, int], count: int
) -> bool:
    """Tell whether the product of an image's planes loses digits all over.

    It is below the range of float64 where neither plane is 0, or a normal number of which one factor is below
    ``smallest``.
    """
    found = False
    for i in range(shape[0]):
        for j in range(shape[1]):
            for lane in range(count):
                m = i * stride + j * LANES + lane
                is_small = (first[m] < smallest) | (second[m] < smallest) | (first[m] * second[m] < TINY)
                found |= (first[m] > 0.0) & (second[m] > 0.0) & is_small
    if not found:
        return False
    for lane in range(count):
        left, right, product, is_there = 0.0, 0.0, 0.0, False
        for i in range(shape[0]):
            for j in range(shape[1]):
                m = i * stride + j * LANES + lane
                is_there |= (first[m] > 0.0) & (second[m] > 0.0)
                left, right = max(left, first[m]), max(right, second[m])
                product = max(product, first[m] * second[m])
        if is_there and (product < TINY or (min(left, right) < smallest and product >= smallest)):
            return True
    return False


@jit_inner
def least_variance(scale: float, bias: float, smallest: float) -> float:
    """Return the variance of an image below which weights lose its digits, those of float64 behind them as well.

    0 where it does not matter: with weights of 0, or a bias beside which the image is nothing.
    """
    if scale == 0.0 or bias > 1e8 * smallest * max(scale, 1.0):
        return 0.0
    return max(smallest, TINY / scale)


@jit_inner
def _scan_variances(
    source: Any,
    target_out: Any,
    statistics_out: Any,
    function: int,
    steps: int,
    backward: bool,
    present: int,
    place: Array,
    factors: Any,
    limit: float,
    count: int,
) -> bool:
    """Write the variances behind each step of a recurrent layer, and statistics on the way.

    Of a series, whose statistics Python expands step by step, write ``scale S + bias`` alone: ``function`` is 0.
    Where ``present`` is not 0, so many numbers of ``statistics_out`` lie before those that say which steps are there.
    Return whether a variance before the function is beyond ``limit``.
    """
    place[_PLACE_HEIGHT], place[_PLACE_WIDTH] = 1, 1
    before, is_beyond = target_out, False
    for step in range(steps):
        j = steps - 1 - step if backward else step
        here = address(target_out, j * LANES)
        for lane in range(LANES):
            here[lane] = factors[0] * source[j * LANES + lane] + factors[1]
            if step > 0 and function != 0:
                here[lane] += factors[_RECURRENCE] * before[lane]
        is_beyond |= _has_beyond(limit, here, 0, (1, 1), count)
        if function != 0:
            call(function, (here, address(statistics_out, j * LANES), address(place, 0), factors))
            if present != 0:
                for lane in range(LANES):
                    here[lane] *= statistics_out[present + j * LANES + lane]
        before = here
    return is_beyond


@jit_inner
def _sum_squares(
    pixels: Array, channels: int, shape: tuple[int, int], scale: float, plane_out: Any, stride: int
) -> None:
    """Write ``scale * sum_c x^2`` of the raw images, ``(C H W lanes,)``."""
    area = shape[0] * shape[1]
    for i in range(shape[0]):
        for m in range(shape[1] * LANES):
            total = 0.0
            for c in range(channels):
                value = float(pixels[(c * area + i * shape[1]) * LANES + m])
                total += value * value
            plane_out[i * stride + m] = scale * total


@jit
def run_variances(
    tables: Tables,
    stage: Array,
    first: int,
    last: int,
    weigh_functions: Array,
    statistics_functions: Array,
    pixels: Array,
    loaded: Array,
    sums: Array,
    planes: Array,
    ring: Array,
    place: Array,
    limit: float,
    smallest: float,
    count: int,
    statistics_out: Array,
) -> int:
    """Run a few operations of a stage on the variances of up to 16 images; write the statistics of activations.

    Parameters
    ----------
    stage : array
        Its row of `StageEntry`.
    first, last : int
        The operations to run, the last excluded.
    weigh_functions, statistics_functions : int64 array, (operations,)
        Addresses; 0 where there is none.
    pixels : array, (C H W lanes,)
    loaded : float64 array, (operations, H, W, lanes)
        The variances that each LOAD of the stage begins with.
    sums : float64 array, (sums, lanes)
        The images' variance in each sum.
    planes, ring : float64 array
        Scratch; planes keep their contents from call to call.
    place : array
        `Place`, scratch.
    limit, smallest : float
        The largest number of the planes' dtype, and the smallest one that has all its digits.
    count : int
        Of images; the other lanes are empty.
    statistics_out : array, (statistics, lanes)

    Returns
    -------
    int
        `BEYOND` where a variance, or a sum over a window, is beyond ``limit``: an infinite covariance, times inverse
        deviations, would be cut to a correlation of 1. `BELOW` where all variances of an image that are not 0 are below
        ``smallest``, and weights make larger ones of them, or a pooling or attention reads them: numbers without
        digits, or zeros, would look like a kernel. Other variances that are only added to others, or read out, may be
        small.
    """
    codes, params = tables.codes, tables.exact_params
    halo = stage[_HALO]
    stride = (stage[_STAGE_WIDTH] + 2 * halo) * LANES
    plane_size = (stage[_STAGE_HEIGHT] + halo) * stride
    place[_STRIDE] = stride
    is_beyond, is_below = False, False
    for p in range(first, last):
        op = codes[p]
        code = op[_CODE]
        source = address(planes, op[_SOURCE] * plane_size + halo * LANES)
        target = address(planes, op[_TARGET] * plane_size + halo * LANES)
        shape, to_shape = (op[_HEIGHT], op[_WIDTH]), (op[_TO_HEIGHT], op[_TO_WIDTH])
        if code == _INPUT:
            _sum_squares(pixels, tables.input_channels, shape, params[p, 0], target, stride)
        elif code == _LOAD:
            copy_plane(address(loaded, p * loaded.shape[1]), shape[1] * LANES, target, stride, shape)
        elif code == _LOAD_SUM:
            fill_plane(address(sums, op[_SLOT] * LANES), target, stride, shape)
        elif code == _ADD:
            other = address(planes, op[_OTHER] * plane_size + halo * LANES)
            add_planes(source, other, target, stride, shape)
        elif code == _MULTIPLY:
            other = address(planes, op[_OTHER] * plane_size + halo * LANES)
            is_below |= _is_product_below(source, other, smallest, stride, shape, count)
            multiply_planes(source, other, target, 0, 1, stride, shape)
        elif code == _POOL or code == _REDUCE:
            # A pooled covariance is at most this many times the largest variance.
            most = params[p, 0] * (shape[0] * shape[1]) ** 2
            is_below |= _is_enlarged(np.inf, least_variance(most, 0.0, smallest), source, stride, shape, count)
        elif code == _MASK:
            for i in range(shape[0]):
                for m in range(shape[1] * LANES):
                    target[i * stride + m] = params[p, 0] * source[i * stride + m]
        elif code == _GATE:
            weights = address(statistics_out, op[_LEFT] * LANES)
            for i in range(shape[0]):
                for m in range(shape[1] * LANES):
                    weight = weights[i * shape[1] * LANES + m]
                    target[i * stride + m] = weight * weight * source[i * stride + m]
        elif code == _EMBED:  # a position is correlated with itself by 1
            shift_plane(source, target, stride, shape, params[p, 0])
        elif code == _RECUR:
            place[_RIGHT_STATISTIC] = op[_AREA]
            factors = address(params, p * params.shape[1])
            out = address(statistics_out, op[_LEFT] * LANES)
            least = least_variance(params[p, 0], params[p, 1], smallest)
            is_below |= _is_enlarged(np.inf, least, source, stride, shape, count)
            present, backward, function = op[_PRESENT] * op[_AREA] * LANES, op[_BACKWARD] != 0, statistics_functions[p]
            is_beyond |= _scan_variances(
                source, target, out, function, shape[1], backward, present, place, factors, limit, count
            )
        elif code == _WEIGH:
            kind = op[_KIND]
            area = op[_ROW_WINDOW] * op[_COLUMN_WINDOW] if kind != 0 else 1
            is_beyond |= _has_beyond(limit / area, source, stride, shape, count)
            scale, bias = params[p, 0], params[p, 1]
            if least_variance(scale, bias, smallest) > 0.0:
                is_below |= _is_enlarged(scale * area, smallest, source, stride, shape, count)
            if 0.0 < scale < smallest:  # the factor has lost digits, which large variances make up for
                is_below |= _has_beyond(smallest / scale / area, source, stride, shape, count)
            if kind != 0:
                if kind == _CIRCULAR:
                    wrap_rim(source, stride, shape, halo)
                else:
                    clear_rim(source, stride, shape, halo)
                if kind != _PLAIN_3X3:
                    windows = (
                        (op[_ROW_WINDOW], op[_ROW_STRIDE], op[_ROWS_BEFORE]),
                        (op[_COLUMN_WINDOW], op[_COLUMN_STRIDE], op[_COLUMNS_BEFORE]),
                    )
                    circular = kind == _CIRCULAR
                    sum_windows(source, target, address(ring, 0), stride, shape, to_shape, windows, circular)
                    source = target
            place[_PLACE_HEIGHT], place[_PLACE_WIDTH] = to_shape
            place[_RIGHT_ROW], place[_RIGHT_STATISTIC] = to_shape[1], op[_AREA]
            factors = address(params, p * params.shape[1])
            unused = address(planes, 0)
            call(weigh_functions[p], (source, target, address(ring, 0), unused, unused, address(place, 0), factors))
            is_beyond |= _has_beyond(limit, target, stride, to_shape, count)
            if statistics_functions[p] != 0:
                out = address(statistics_out, op[_LEFT] * LANES)
                call(statistics_functions[p], (target, out, address(place, 0), factors))
    return BEYOND * is_beyond | BELOW * is_below
