"""The interpreter of programs: one compiled loop over left images, stages, offsets and operations.

Dispatch costs nothing beside a plane's arithmetic, nothing is generated at run time, and so numba's disk cache
always hits. What differs from layer to layer in the innermost loops is called by its address
(`kernels.weighing`).
"""

from typing import NamedTuple

import numpy as np

from cntk_pipeline.kernels.jit import jit, jit_inline
from cntk_pipeline.kernels.lanes import LANES, address, call
from cntk_pipeline.kernels.planes import (
    add_plane_sum,
    add_planes,
    clear_rim,
    copy_plane,
    fill_plane,
    gate_plane,
    multiply_planes,
    pool_plane,
    scale_plane,
    shift_plane,
    sum_windows,
    wrap_rim,
)
from cntk_pipeline.kernels.program import Array, Code
from cntk_pipeline.kernels.tables import Entry, Kind, StageEntry, Tables, TensorEntry, VisitTables
from cntk_pipeline.kernels.weighing import Place

_INPUT, _LOAD, _LOAD_SUM, _WEIGH, _ADD, _MULTIPLY, _RECUR, _MASK, _POOL, _REDUCE, _ATTEND, _OUTPUT, _EMBED, _GATE = (
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
        Code.POOL,
        Code.REDUCE,
        Code.ATTEND,
        Code.OUTPUT,
        Code.EMBED,
        Code.GATE,
    )
)
_WINDOWS, _CIRCULAR = int(Kind.WINDOWS), int(Kind.CIRCULAR)
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
    _BEGINS,
    _LEFT,
    _RIGHT,
    _AREA,
    _RIGHT_AREA,
    _TERMS,
    _ROW_TABLE,
    _COLUMN_TABLE,
    _BACKWARD,
    _PRESENT,
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
    planes : array
        The registers, S and T of each, as large as the largest stage needs.
    ring : array
        Rows of window sums, for S and for T.
    buffer : array
        One row of a plane, or the positions of an attention.
    tensors : array
        What passes between stages; S and T of each tensor.
    sums : float64 array, (sums, 2, lanes)
        Likewise.
    place : array
        Numbers in the places of `Place`.
    lanes : array, (lanes,)
        Factors of a mask.
    stop : int64 array, (1,)
        Where another thread makes it 1, nothing more is computed, and the results mean nothing.
    """

    planes: Array
    ring: Array
    buffer: Array
    tensors: Array
    sums: Array
    place: Array
    lanes: Array
    stop: Array


@jit_inline
def _offset(step: int, size: int, offset: int, circular: bool) -> tuple[int, int, int, int]:
    """Return an axis' pixels in the plane, the first of them in either image, and the offset's index."""
    if circular:
        return size, 0, offset, offset
    # A division takes as long as two pixels.
    there = offset if step == 1 else offset // step
    return size - abs(there), max(0, -there), max(0, there), there + size - 1


@jit_inline
def _raise_lanes(statistics: Array, ranges: Array, same: Array, statistics_out: Array) -> None:
    """Copy right statistics; raise inverse deviations by 1 / 128 in the lanes of equal images.

    At offset (0, 0) a pair of equal images then has a correlation above 1, which the dual activation clips to
    exactly 1. Computed, it would be 1 - 6e-8 in float32, and its arc cosine would lower the diagonal of the NTK
    by up to 4e-4: a negative ridge.
    """
    factor = statistics.dtype.type(1.0 + 1.0 / 128)
    for m in range(statistics.shape[0]):
        statistics_out[m] = statistics[m]
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
    left: tuple[Array, Array],
    left_step: int,
    right: tuple[Array, Array, Array],
    raised: Array,
    ranges: Array,
    same: Array,
    first_image: int,
    fresh: bool,
    memory: Memory,
    readouts_out: Array,
) -> None:
    """Run a program for a group of left images against one block of right images.

    Parameters
    ----------
    functions : int64 array, (operations,)
        Addresses of the loops of INPUT, WEIGH, RECUR and ATTEND.
    left : (array, array)
        Pixels ``(n, C H W left_step)`` and statistics ``(n, statistics left_step)``.
    left_step : int
        Numbers to a pixel of the left images: 1, or 16 for as many left images at once, one for each lane.
    right : (array, array, array)
        Pixels ``(C H W lanes,)``, the same of images that are laid twice in each direction, for circular stages, and
        statistics ``(statistics lanes,)``.
    raised : array
        As the statistics of ``right``, scratch.
    ranges : int64 array, (k, 3)
        The first pixel of an inverse deviation in right statistics, the one behind its last, and how much the same
        images must be for a correlation of 1.
    same : int8 array, (n, lanes)
        1 for equal images, 2 for an image with itself.
    first_image : int
        Left images before this one are skipped.
    fresh : bool
        Set tensors and sums to zero first.
    memory : Memory
        Mutated.
    readouts_out : float64 array, (n, readouts, lanes)
    """
    codes, params, place = tables.codes, tables.params, memory.place
    right_pixels, right_circular_pixels, right_statistics = right
    ring_size = memory.ring.shape[0] // 2
    ring, buffer = address(memory.ring, 0), address(memory.buffer, 0)
    for n in range(first_image, left[0].shape[0]):
        statistics_at_zero = right_statistics
        if np.any(same[n] > 0):
            _raise_lanes(right_statistics, ranges, same[n], raised)
            statistics_at_zero = raised
        if fresh:
            memory.tensors[:] = 0
            memory.sums[:] = 0
        left_pixels = address(left[0], n * left[0].shape[1])
        left_statistics = address(left[1], n * left[1].shape[1])
        for s in range(visits.stages.shape[0]):
            stage = visits.stages[s]
            stage_height, stage_width, circular = stage[_STAGE_HEIGHT], stage[_STAGE_WIDTH], stage[_STAGE_CIRCULAR] != 0
            halo, first, last = stage[_HALO], stage[_FIRST], stage[_LAST]
            stride = (stage_width + 2 * halo) * LANES
            plane_size = (stage_height + halo) * stride
            place[_STRIDE], place[_PLACE_TANGENT], place[_RING_TANGENT] = stride, plane_size, ring_size
            for o in range(stage[_FIRST_VISIT], stage[_LAST_VISIT]):
                if memory.stop[0] != 0:
                    return
                oy, ox = visits.offsets[o, 0], visits.offsets[o, 1]
                at_zero = oy == 0 and ox == 0
                statistics = statistics_at_zero if at_zero else right_statistics
                if halo > 0 and not circular:
                    shape = (stage_height - abs(oy), stage_width - abs(ox))
                    for q in range(2 * stage[_REGISTERS]):
                        clear_rim(address(memory.planes, q * plane_size + halo * LANES), stride, shape, halo)
                marks = stage[_FIRST_MARK] + (o - stage[_FIRST_VISIT]) * (last - first)
                for p in range(first, last):
                    if not visits.marks[marks + p - first]:
                        continue
                    op = codes[p]
                    code, slot, parts = op[_CODE], op[_SLOT], 1 + op[_TANGENT]
                    source = address(memory.planes, 2 * op[_SOURCE] * plane_size + halo * LANES)
                    target = address(memory.planes, 2 * op[_TARGET] * plane_size + halo * LANES)
                    factors = address(params, p * params.shape[1])
                    # The source's plane, and where it begins in both images.
                    height, x_row, z_row, row_index = _offset(op[_STEP_ROWS], op[_HEIGHT], oy, circular)
                    width, x_column, z_column, column_index = _offset(op[_STEP_COLUMNS], op[_WIDTH], ox, circular)
                    shape = (height, width)
                    place[_PLACE_HEIGHT], place[_PLACE_WIDTH] = height, width
                    place[_PLACE_TERMS] = op[_TERMS]
                    if code == _WEIGH or code == _RECUR:
                        kind = op[_KIND]
                        height, x_row, z_row, row_index = _offset(op[_TO_STEP_ROWS], op[_TO_HEIGHT], oy, circular)
                        width, x_column, z_column, column_index = _offset(
                            op[_TO_STEP_COLUMNS], op[_TO_WIDTH], ox, circular
                        )
                        for part in range(1 if op[_BEGINS] else parts):
                            here, there = address(source, part * plane_size), address(target, part * plane_size)
                            if kind == _CIRCULAR:
                                wrap_rim(here, stride, shape, halo)
                            elif kind != 0 and op[_CLEAR]:
                                clear_rim(here, stride, shape, halo)
                            if kind == _WINDOWS or kind == _CIRCULAR:
                                windows = (
                                    (op[_ROW_WINDOW], op[_ROW_STRIDE], op[_ROWS_BEFORE]),
                                    (op[_COLUMN_WINDOW], op[_COLUMN_STRIDE], op[_COLUMNS_BEFORE]),
                                )
                                sum_windows(
                                    here, there, ring, stride, shape, (height, width), windows, kind == _CIRCULAR
                                )
                        if kind == _WINDOWS or kind == _CIRCULAR:
                            source = target
                        left_row = op[_TO_WIDTH]
                        right_row = 2 * left_row if circular else left_row
                        place[_PLACE_HEIGHT], place[_PLACE_WIDTH] = height, width
                        place[_LEFT_ROW], place[_RIGHT_ROW] = left_row, right_row
                        place[_LEFT_STATISTIC], place[_RIGHT_STATISTIC] = op[_AREA], op[_RIGHT_AREA]
                        x = op[_LEFT] + x_row * left_row + x_column
                        z = op[_RIGHT] + z_row * right_row + z_column
                        here, there = address(left_statistics, x * left_step), address(statistics, z * LANES)
                        call(functions[p], (source, target, ring, here, there, address(place, 0), factors))
                    elif code == _INPUT:
                        area = stage_height * stage_width
                        left_row = stage_width
                        right_row = 2 * left_row if circular else left_row
                        place[_LEFT_ROW], place[_RIGHT_ROW] = left_row, right_row
                        place[_LEFT_STATISTIC], place[_RIGHT_STATISTIC] = area, 4 * area if circular else area
                        place[_PLACE_TERMS] = tables.input_channels
                        pixels = right_circular_pixels if circular else right_pixels
                        here = address(left_pixels, (x_row * left_row + x_column) * left_step)
                        there = address(pixels, (z_row * right_row + z_column) * LANES)
                        call(functions[p], (target, here, there, address(place, 0), factors))
                    elif code == _REDUCE:
                        weights = (
                            address(tables.weights, op[_ROW_TABLE] + row_index * op[_HEIGHT]),
                            address(tables.weights, op[_COLUMN_TABLE] + column_index * op[_WIDTH]),
                        )
                        for part in range(parts):
                            sums = address(memory.sums, (2 * slot + part) * LANES)
                            here = address(source, part * plane_size)
                            add_plane_sum(here, stride, shape, weights, tables.exact_params[p, 0], sums)
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
                        for part in range(parts):
                            begin = tensor[_TENSOR_BEGIN] + part * tensor[_TENSOR_SIZE]
                            out = address(memory.tensors, begin * LANES)
                            here = address(source, part * plane_size)
                            pool_plane(here, stride, rows, columns, layout, buffer, width, out)
                    elif code == _LOAD:
                        tensor = tables.tensors[slot]
                        start = tables.starts[tensor[_STARTS] + row_index * tensor[_COLUMN_COUNT] + column_index]
                        row = tables.widths[tensor[_WIDTHS] + column_index] * LANES
                        for part in range(parts):
                            begin = tensor[_TENSOR_BEGIN] + part * tensor[_TENSOR_SIZE] + start
                            there = address(target, part * plane_size)
                            copy_plane(address(memory.tensors, begin * LANES), row, there, stride, shape)
                    elif code == _LOAD_SUM:
                        for part in range(parts):
                            there = address(target, part * plane_size)
                            fill_plane(address(memory.sums, (2 * slot + part) * LANES), there, stride, shape)
                    elif code == _ADD:
                        other = address(memory.planes, 2 * op[_OTHER] * plane_size + halo * LANES)
                        for part in range(parts):
                            here, there = address(source, part * plane_size), address(other, part * plane_size)
                            add_planes(here, there, address(target, part * plane_size), stride, shape)
                    elif code == _MASK:
                        for lane in range(LANES):
                            memory.lanes[lane] = factors[0] if at_zero and same[n, lane] == 2 else 1
                        for part in range(parts):
                            here, there = address(source, part * plane_size), address(target, part * plane_size)
                            scale_plane(here, there, stride, shape, address(memory.lanes, 0))
                    elif code == _OUTPUT:
                        for lane in range(LANES):
                            readouts_out[n, slot, lane] = source[(parts - 1) * plane_size + lane]
                    elif code == _ATTEND:
                        before, behind = tables.tensors[op[_OTHER]], tables.tensors[slot]
                        place[_PLACE_TERMS] = op[_TO_HEIGHT] * op[_TO_WIDTH]
                        for part in range(parts):
                            here = address(
                                memory.tensors, (before[_TENSOR_BEGIN] + part * before[_TENSOR_SIZE]) * LANES
                            )
                            there = address(
                                memory.tensors, (behind[_TENSOR_BEGIN] + part * behind[_TENSOR_SIZE]) * LANES
                            )
                            pairs = (address(tables.pairs, op[_ROW_TABLE]), address(tables.pairs, op[_COLUMN_TABLE]))
                            x = address(left_statistics, op[_LEFT] * left_step)
                            z = address(right_statistics, op[_RIGHT] * LANES)
                            call(functions[p], (here, there, pairs[0], pairs[1], x, z, buffer, address(place, 0)))
                    elif code == _MULTIPLY:
                        other = address(memory.planes, 2 * op[_OTHER] * plane_size + halo * LANES)
                        multiply_planes(source, other, target, plane_size, parts, stride, shape)
                    elif code == _EMBED:
                        table = op[_ROW_TABLE] + row_index * (2 * op[_WIDTH] - 1) + column_index
                        amount = factors[0] * tables.weights[table]
                        shift_plane(source, target, stride, shape, amount)
                        if parts == 2:
                            here, there = address(source, plane_size), address(target, plane_size)
                            shift_plane(here, there, stride, shape, factors[2] * amount)
                    elif code == _GATE:
                        row = op[_WIDTH]
                        x = address(left_statistics, (op[_LEFT] + x_row * row + x_column) * left_step)
                        z = address(right_statistics, (op[_RIGHT] + z_row * row + z_column) * LANES)
                        for part in range(parts):
                            here, there = address(source, part * plane_size), address(target, part * plane_size)
                            gate_plane(here, there, stride, shape, x, left_step, z, row)


@jit
def transpose_lanes(statistics: Array, statistics_out: Array, rows: Array) -> None:
    """Write ``(pixels, lanes)`` to rows of ``(n, pixels)``, a few pixels at a time: lines stay in cache.

    Parameters
    ----------
    rows : int64 array, (lanes or fewer,)
        Where each lane goes.
    """
    for begin in range(0, statistics.shape[0], LANES):
        for lane in range(rows.shape[0]):
            for pixel in range(begin, min(begin + LANES, statistics.shape[0])):
                statistics_out[rows[lane], pixel] = statistics[pixel, lane]
