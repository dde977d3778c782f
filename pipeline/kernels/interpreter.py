"""The interpreter of programs: one compiled loop over left images, stages, offsets and operations.

Dispatch costs nothing beside a plane's arithmetic, nothing is generated at run time, and so numba's disk cache
always hits. What differs from layer to layer in the innermost loops is called by its address
(`pipeline.kernels.weighing`).
"""

from typing import Any, NamedTuple

import numpy as np

from pipeline.kernels.attention import attend
from pipeline.kernels.jit import jit
from pipeline.kernels.lanes import LANES, address, call, left_address
from pipeline.kernels.planes import (
    add_plane_sum,
    add_planes,
    clear_rim,
    copy_plane,
    input_plane,
    pool_plane,
    scale_plane,
    sum_windows,
    wrap_rim,
)
from pipeline.kernels.program import Array, Code
from pipeline.kernels.tables import Entry, Kind, StageEntry, Tables, TensorEntry, VisitTables
from pipeline.kernels.weighing import Place

_INPUT, _LOAD, _LOAD_SUM, _WEIGH, _ADD, _MASK, _POOL, _REDUCE, _ATTEND, _OUTPUT = (
    int(code)
    for code in (
        Code.INPUT,
        Code.LOAD,
        Code.LOAD_SUM,
        Code.WEIGH,
        Code.ADD,
        Code.MASK,
        Code.POOL,
        Code.REDUCE,
        Code.ATTEND,
        Code.OUTPUT,
    )
)
_PLAIN_3X3, _WINDOWS, _CIRCULAR = int(Kind.PLAIN_3X3), int(Kind.WINDOWS), int(Kind.CIRCULAR)
(
    _CODE,
    _SOURCE,
    _OTHER,
    _TARGET,
    _SLOT,
    _TANGENT,
    _HEIGHT,
    _WIDTH,
    _STEP_ROWS,
    _STEP_COLUMNS,
    _TO_HEIGHT,
    _TO_WIDTH,
    _TO_STEP_ROWS,
    _TO_STEP_COLUMNS,
    _KIND,
    _ROW_WINDOW,
    _ROW_STRIDE,
    _ROWS_BEFORE,
    _COLUMN_WINDOW,
    _COLUMN_STRIDE,
    _COLUMNS_BEFORE,
    _CLEAR,
    _LEFT,
    _RIGHT,
    _AREA,
    _RIGHT_AREA,
    _TERMS,
    _ROW_TABLE,
    _COLUMN_TABLE,
) = (int(entry) for entry in Entry)
(
    _STAGE_HEIGHT,
    _STAGE_WIDTH,
    _STAGE_CIRCULAR,
    _HALO,
    _REGISTERS,
    _FIRST,
    _LAST,
    _FIRST_VISIT,
    _LAST_VISIT,
    _FIRST_MARK,
) = (int(entry) for entry in StageEntry)
(
    _TENSOR_BEGIN,
    _TENSOR_SIZE,
    _STARTS,
    _WIDTHS,
    _ROW_COUNT,
    _COLUMN_COUNT,
    _TENSOR_HEIGHT,
    _TENSOR_WIDTH,
) = (int(entry) for entry in TensorEntry)
_PLACES = [int(place) for place in Place]
(
    _STRIDE,
    _PLACE_TANGENT,
    _RING_TANGENT,
    _PLACE_HEIGHT,
    _PLACE_WIDTH,
    _LEFT_ROW,
    _RIGHT_ROW,
    _LEFT_STATISTIC,
    _RIGHT_STATISTIC,
    _PLACE_TERMS,
) = _PLACES


class Memory(NamedTuple):
    """Scratch memory of one thread.

    Attributes
    ----------
    planes : the registers, S and T of each, as large as the largest stage needs.
    ring : rows of window sums, for S and for T.
    buffer : one row of a plane, or the positions of an attention.
    tensors : what passes between stages; S and T of each tensor.
    sums : (sums, 2, lanes) float64, likewise.
    place : `Place`.
    lanes : (lanes,), factors of a mask.
    """

    planes: Array
    ring: Array
    buffer: Array
    tensors: Array
    sums: Array
    place: Array
    lanes: Array


@jit
def _offset(step: int, size: int, offset: int, circular: bool) -> tuple[int, int, int, int]:
    """Return an axis' pixels in the plane, the first of them in either image, and the offset's index."""
    if circular:
        return size, 0, offset, offset
    there = offset // step
    return size - abs(there), max(0, -there), max(0, there), there + size - 1


@jit
def run_pair(
    tables: Tables,
    visits: VisitTables,
    functions: Array,
    left_pixels: Array,
    left_statistics: Array,
    right_pixels: Array,
    right_circular_pixels: Array,
    right_statistics: Array,
    right_statistics_at_zero: Array,
    same: Array,
    memory: Memory,
    readouts_out: Array,
) -> None:
    """Run all stages for one left image against one block of right images.

    Parameters
    ----------
    functions : (operations,) int64, addresses of the loops of WEIGH.
    left_pixels, left_statistics : (C H W,) and (statistics,); each with a last axis of lanes for pairs of an image
        with itself.
    right_pixels, right_circular_pixels, right_statistics : (C H W lanes,), the images twice in each direction,
        (statistics lanes,).
    right_statistics_at_zero : the same for offset (0, 0), where equal images have correlation 1.
    same : (lanes,) int8, 1 for equal images, 2 for an image with itself.
    memory : mutated; tensors and sums must be zero.
    readouts_out : (readouts, lanes) float64.
    """
    codes, params, place = tables.codes, tables.params, memory.place
    for s in range(visits.stages.shape[0]):
        stage = visits.stages[s]
        stage_height, stage_width, circular = stage[_STAGE_HEIGHT], stage[_STAGE_WIDTH], stage[_STAGE_CIRCULAR] != 0
        halo, first, last = stage[_HALO], stage[_FIRST], stage[_LAST]
        stride = (stage_width + 2 * halo) * LANES
        plane_size = (stage_height + halo) * stride
        ring_size = memory.ring.shape[0] // 2
        left_width, right_width = stage_width, stage_width * 2 if circular else stage_width
        ring = address(memory.ring, 0)
        place[_STRIDE], place[_PLACE_TANGENT], place[_RING_TANGENT] = stride, plane_size, ring_size
        for o in range(stage[_FIRST_VISIT], stage[_LAST_VISIT]):
            oy, ox = visits.offsets[o, 0], visits.offsets[o, 1]
            statistics = right_statistics_at_zero if oy == 0 and ox == 0 else right_statistics
            if halo > 0 and not circular:
                shape = (stage_height - abs(oy), stage_width - abs(ox))
                for q in range(2 * stage[_REGISTERS]):
                    clear_rim(address(memory.planes, q * plane_size + halo * LANES), stride, shape, halo)
            marks = stage[_FIRST_MARK] + (o - stage[_FIRST_VISIT]) * (last - first)
            for p in range(first, last):
                if not visits.marks[marks + p - first]:
                    continue
                op = codes[p]
                code, slot, tangent = op[_CODE], op[_SLOT], op[_TANGENT] != 0
                source = address(memory.planes, 2 * op[_SOURCE] * plane_size + halo * LANES)
                target = address(memory.planes, 2 * op[_TARGET] * plane_size + halo * LANES)
                source_t, target_t = address(source, plane_size), address(target, plane_size)
                # The source's plane, and where it begins in both images.
                height, x_row, z_row, row_index = _offset(op[_STEP_ROWS], op[_HEIGHT], oy, circular)
                width, x_column, z_column, column_index = _offset(op[_STEP_COLUMNS], op[_WIDTH], ox, circular)
                shape = (height, width)
                if code == _WEIGH:
                    kind = op[_KIND]
                    to_height, x_row, z_row, _ = _offset(op[_TO_STEP_ROWS], op[_TO_HEIGHT], oy, circular)
                    to_width, x_column, z_column, _ = _offset(op[_TO_STEP_COLUMNS], op[_TO_WIDTH], ox, circular)
                    if op[_CLEAR] and kind != _CIRCULAR and kind != 0:
                        clear_rim(source, stride, shape, halo)
                        if tangent:
                            clear_rim(source_t, stride, shape, halo)
                    if kind == _WINDOWS or kind == _CIRCULAR:
                        windows = (
                            (op[_ROW_WINDOW], op[_ROW_STRIDE], op[_ROWS_BEFORE]),
                            (op[_COLUMN_WINDOW], op[_COLUMN_STRIDE], op[_COLUMNS_BEFORE]),
                        )
                        around, to_shape = kind == _CIRCULAR, (to_height, to_width)
                        if around:
                            wrap_rim(source, stride, shape, halo)
                        sum_windows(source, target, ring, stride, shape, to_shape, windows, around)
                        if tangent:
                            if around:
                                wrap_rim(source_t, stride, shape, halo)
                            sum_windows(source_t, target_t, ring, stride, shape, to_shape, windows, around)
                        source = target
                    left_row = op[_TO_WIDTH]
                    right_row = 2 * left_row if circular else left_row
                    place[_PLACE_HEIGHT], place[_PLACE_WIDTH] = to_height, to_width
                    place[_LEFT_ROW], place[_RIGHT_ROW] = left_row, right_row
                    place[_LEFT_STATISTIC], place[_RIGHT_STATISTIC] = op[_AREA], op[_RIGHT_AREA]
                    place[_PLACE_TERMS] = op[_TERMS]
                    x = op[_LEFT] + x_row * left_row + x_column
                    z = op[_RIGHT] + z_row * right_row + z_column
                    call(
                        functions[p],
                        (
                            source,
                            target,
                            ring,
                            left_address(left_statistics, x),
                            address(statistics, z * LANES),
                            address(place, 0),
                            address(params, p * params.shape[1]),
                        ),
                    )
                elif code == _INPUT:
                    area = stage_height * stage_width
                    image = (
                        tables.input_channels,
                        area,
                        left_width,
                        area * 4 if circular else area,
                        right_width,
                    )
                    pixels = right_circular_pixels if circular else right_pixels
                    input_plane(
                        left_address(left_pixels, x_row * left_width + x_column),
                        address(pixels, (z_row * right_width + z_column) * LANES),
                        target,
                        (stride, plane_size),
                        shape,
                        image,
                        params[p, 0],
                    )
                elif code == _REDUCE:
                    weights = (
                        address(tables.weights, op[_ROW_TABLE] + row_index * op[_HEIGHT]),
                        address(tables.weights, op[_COLUMN_TABLE] + column_index * op[_WIDTH]),
                    )
                    sums = address(memory.sums, 2 * slot * LANES)
                    add_plane_sum(source, stride, shape, weights, tables.exact_params[p, 0], sums)
                    if tangent:
                        add_plane_sum(source_t, stride, shape, weights, tables.exact_params[p, 0], address(sums, LANES))
                elif code == _POOL:
                    tensor = tables.tensors[slot]
                    b, e = tables.bounds[op[_ROW_TABLE] + row_index], tables.bounds[op[_ROW_TABLE] + row_index + 1]
                    rows = (tables.terms[b:e], tables.term_weights[b:e])
                    b = tables.bounds[op[_COLUMN_TABLE] + column_index]
                    e = tables.bounds[op[_COLUMN_TABLE] + column_index + 1]
                    columns = (tables.terms[b:e], tables.term_weights[b:e])
                    layout = (
                        address(tables.starts, tensor[_STARTS]),
                        address(tables.widths, tensor[_WIDTHS]),
                        tensor[_COLUMN_COUNT],
                    )
                    buffer = address(memory.buffer, 0)
                    out = address(memory.tensors, tensor[_TENSOR_BEGIN] * LANES)
                    pool_plane(source, stride, rows, columns, layout, buffer, width, out)
                    if tangent:
                        out = address(out, tensor[_TENSOR_SIZE] * LANES)
                        pool_plane(source_t, stride, rows, columns, layout, buffer, width, out)
                elif code == _LOAD:
                    tensor = tables.tensors[slot]
                    start = tables.starts[tensor[_STARTS] + row_index * tensor[_COLUMN_COUNT] + column_index]
                    row = tables.widths[tensor[_WIDTHS] + column_index] * LANES
                    pooled = address(memory.tensors, (tensor[_TENSOR_BEGIN] + start) * LANES)
                    copy_plane(pooled, row, target, stride, shape)
                    if tangent:
                        copy_plane(address(pooled, tensor[_TENSOR_SIZE] * LANES), row, target_t, stride, shape)
                elif code == _LOAD_SUM:
                    for lane in range(LANES):
                        target[lane] = memory.sums[slot, 0, lane]
                        target_t[lane] = memory.sums[slot, 1, lane]
                elif code == _ADD:
                    other = address(memory.planes, 2 * op[_OTHER] * plane_size + halo * LANES)
                    add_planes(source, other, target, stride, shape)
                    if tangent:
                        add_planes(source_t, address(other, plane_size), target_t, stride, shape)
                elif code == _MASK:
                    at_zero = oy == 0 and ox == 0
                    for lane in range(LANES):
                        memory.lanes[lane] = params[p, 0] if at_zero and same[lane] == 2 else 1
                    scale_plane(source, target, stride, shape, address(memory.lanes, 0))
                    if tangent:
                        scale_plane(source_t, target_t, stride, shape, address(memory.lanes, 0))
                elif code == _OUTPUT:
                    for lane in range(LANES):
                        readouts_out[slot, lane] = source_t[lane] if tangent else source[lane]
                elif code == _ATTEND:
                    before, behind = tables.tensors[op[_OTHER]], tables.tensors[slot]
                    count = op[_TO_HEIGHT] * op[_TO_WIDTH]
                    index = tables.pairs[op[_ROW_TABLE] : op[_ROW_TABLE] + count * count].reshape(count, count)
                    index_out = tables.pairs[op[_COLUMN_TABLE] : op[_COLUMN_TABLE] + count * count]
                    for part in range(2 if tangent else 1):
                        attend(
                            address(memory.tensors, (before[_TENSOR_BEGIN] + part * before[_TENSOR_SIZE]) * LANES),
                            address(memory.tensors, (behind[_TENSOR_BEGIN] + part * behind[_TENSOR_SIZE]) * LANES),
                            index,
                            index_out.reshape(count, count),
                            left_address(left_statistics, op[_LEFT]),
                            address(right_statistics, op[_RIGHT] * LANES),
                            address(memory.buffer, 0),
                        )


@jit
def raise_lanes(statistics: Array, ranges: Array, same: Array, statistics_out: Array) -> None:
    """Copy right statistics; raise inverse deviations by 1 / 128 in the lanes of equal images.

    At offset (0, 0) a pair of equal images then has a correlation above 1, which the dual activation clips to
    exactly 1. Computed, it would be 1 - 6e-8 in float32, and its arc cosine would lower the diagonal of the NTK
    by up to 4e-4: a negative ridge.

    Parameters
    ----------
    statistics, statistics_out : (statistics lanes,).
    ranges : (k, 3) int64: the first pixel of an inverse deviation, the one behind its last, and how much the same
        images must be: 1 equal, 2 one sample.
    same : (lanes,) int8.
    """
    factor = statistics.dtype.type(1.0 + 1.0 / 128)
    statistics_out[:] = statistics
    for k in range(ranges.shape[0]):
        for pixel in range(ranges[k, 0], ranges[k, 1]):
            for lane in range(LANES):
                if same[lane] >= ranges[k, 2]:
                    statistics_out[pixel * LANES + lane] = statistics[pixel * LANES + lane] * factor


@jit
def run_group(
    tables: Tables,
    visits: VisitTables,
    functions: Array,
    left_pixels: Array,
    left_statistics: Array,
    right_pixels: Array,
    right_circular_pixels: Array,
    right_statistics: Array,
    raised: Array,
    ranges: Array,
    same: Array,
    first: int,
    memory: Memory,
    readouts_out: Array,
) -> None:
    """Run a program for a group of left images against one block of right images.

    Parameters are those of `run_pair`, with a first axis of left images for ``left_pixels``, ``left_statistics``,
    ``same`` and ``readouts_out``; and

    raised : as ``right_statistics``, scratch.
    ranges : of `raise_lanes`.
    first : left images before this one are skipped.
    """
    for n in range(first, left_pixels.shape[0]):
        at_zero = right_statistics
        if np.any(same[n] > 0):
            raise_lanes(right_statistics, ranges, same[n], raised)
            at_zero = raised
        memory.tensors[:] = 0
        memory.sums[:] = 0
        run_pair(
            tables,
            visits,
            functions,
            left_pixels[n],
            left_statistics[n],
            right_pixels,
            right_circular_pixels,
            right_statistics,
            at_zero,
            same[n],
            memory,
            readouts_out[n],
        )


@jit
def transpose_lanes(statistics: Array, statistics_out: Array) -> None:
    """Turn ``(pixels, lanes)`` into ``(lanes or fewer, pixels)``, a few pixels at a time so that lines stay in cache."""
    count = statistics_out.shape[0]
    for begin in range(0, statistics.shape[0], LANES):
        for lane in range(count):
            for pixel in range(begin, min(begin + LANES, statistics.shape[0])):
                statistics_out[lane, pixel] = statistics[pixel, lane]
