"""The interpreter of programs: one compiled loop over offsets and operations.

Dispatch costs nothing beside a plane's arithmetic, nothing is generated at run time, and so numba's disk cache
always hits.
"""

import numpy as np

from pipeline.kernels.jit import jit
from pipeline.kernels.lanes import LANES, address, left_address
from pipeline.kernels.planes import (
    add_plane_sum,
    clear_rims,
    convolved_plane,
    convolved_plane_with_tangent,
    convolved_relu_plane,
    convolved_relu_plane_with_tangent,
    input_plane,
    linear_plane,
    linear_plane_with_tangent,
    relu_plane,
    relu_plane_with_tangent,
    sum_windows,
)
from pipeline.kernels.program import Array, Code

_INPUT, _LOAD, _LINEAR, _REDUCE, _OUTPUT = (
    int(code) for code in (Code.INPUT, Code.LOAD, Code.LINEAR, Code.REDUCE, Code.OUTPUT)
)


@jit
def run_stage(
    codes: Array,
    params: Array,
    offsets: Array,
    marks: Array,
    halo: int,
    left: Array,
    left_gains: Array,
    left_inverses: Array,
    right: Array,
    right_gains: Array,
    right_inverses: Array,
    right_inverses_at_zero: Array,
    planes: Array,
    scratch: Array,
    slots: Array,
    readouts_out: Array,
) -> None:
    """Run one stage for one left image against one block of right images.

    Parameters
    ----------
    codes, params, offsets, marks, halo : of the `Stage`; params in the dtype of the planes.
    left : ``(C, H, W)``, and gains and inverses ``(activations, H, W)``; each with a last axis of lanes for pairs
        of an image with itself.
    right, right_gains, right_inverses : ``(C or activations, H, W * lanes)``.
    right_inverses_at_zero : the same for offset (0, 0), as `raise_lanes` left them.
    planes : ``(registers, 2, H + halo, (W + 2 halo) * lanes)``, scratch; S is 0, T is 1.
    scratch : ``(2, largest window height, at least 2, (W + 2 halo) * lanes)``.
    slots : ``(slots, 2, lanes)`` float64; REDUCE adds to them, LOAD reads them.
    readouts_out : ``(readouts, lanes)`` float64.
    """
    stride, width = planes.shape[3], left.shape[2]
    area = left.shape[1] * width
    plane_size = planes.shape[2] * stride
    ring = address(scratch, 0)
    steps = (stride, plane_size, scratch.shape[1] * stride)
    for o in range(offsets.shape[0]):
        dy, dx = offsets[o, 0], offsets[o, 1]
        shape = (left.shape[1] - abs(dy), width - abs(dx))
        inverses = right_inverses_at_zero if dy == 0 and dx == 0 else right_inverses
        x, z = max(0, -dy) * width + max(0, -dx), max(0, dy) * width + max(0, dx)
        if halo > 0:
            clear_rims(planes, shape, halo)
        for p in range(codes.shape[0]):
            if not marks[p, o]:
                continue
            code, slot, tangent = codes[p, 0], codes[p, 6], codes[p, 7] != 0
            source = address(planes, 2 * codes[p, 1] * plane_size + halo * LANES)
            target = address(planes, 2 * codes[p, 2] * plane_size + halo * LANES)
            window, factors = (codes[p, 4], codes[p, 5]), (params[p, 0], params[p, 1], params[p, 2])
            if code == _INPUT:
                first_x, first_z = left_address(left, x), address(right, z * LANES)
                image = (left.shape[0], area, width)
                input_plane(first_x, first_z, target, steps[:2], shape, image, factors[0])
            elif code == _LOAD:
                for lane in range(LANES):
                    planes[codes[p, 2], 0, 0, halo * LANES + lane] = slots[slot, 0, lane]
                    planes[codes[p, 2], 1, 0, halo * LANES + lane] = slots[slot, 1, lane]
            elif code == _REDUCE:
                add_plane_sum(source, stride, shape, factors[0], address(slots, 2 * slot * LANES))
                if tangent:
                    add_plane_sum(
                        address(source, plane_size), stride, shape, factors[0], address(slots, (2 * slot + 1) * LANES)
                    )
            elif code == _OUTPUT:
                for lane in range(LANES):
                    readouts_out[slot, lane] = planes[codes[p, 1], codes[p, 7], 0, halo * LANES + lane]
            else:
                first = codes[p, 3] * area
                left_gain, left_inverse = left_address(left_gains, first + x), left_address(left_inverses, first + x)
                right_gain = address(right_gains, (first + z) * LANES)
                right_inverse = address(inverses, (first + z) * LANES)
                convolve = window == (3, 3)
                if not convolve and window != (1, 1):
                    sum_windows(source, target, ring, stride, shape, window)
                    if tangent:
                        sum_windows(
                            address(source, plane_size), address(target, plane_size), ring, stride, shape, window
                        )
                    source = target
                args = (source, target, ring, steps, shape, factors)
                statistics = (left_gain, left_inverse, right_gain, right_inverse, width)
                if code == _LINEAR:
                    if convolve and tangent:
                        convolved_plane_with_tangent(*args, *statistics)
                    elif convolve:
                        convolved_plane(*args, *statistics)
                    elif tangent:
                        linear_plane_with_tangent(*args, *statistics)
                    else:
                        linear_plane(*args, *statistics)
                elif convolve and tangent:
                    convolved_relu_plane_with_tangent(*args, *statistics)
                elif convolve:
                    convolved_relu_plane(*args, *statistics)
                elif tangent:
                    relu_plane_with_tangent(*args, *statistics)
                else:
                    relu_plane(*args, *statistics)


@jit
def raise_lanes(inverses: Array, same: Array, inverses_out: Array) -> None:
    """Copy right inverses, raised by 1 / 128 in the lanes of ``same``.

    At offset (0, 0) a pair of equal images then has a correlation above 1, which the dual activation clips to
    exactly 1. Computed, it would be 1 - 6e-8 in float32, and its arc cosine would lower the diagonal of the NTK
    by up to 4e-4: a negative ridge.

    Parameters
    ----------
    inverses, inverses_out : ``(activations, H, W * lanes)``.
    same : ``(lanes,)`` bool.
    """
    factor = inverses.dtype.type(1.0 + 1.0 / 128)
    for a in range(inverses.shape[0]):
        for i in range(inverses.shape[1]):
            for j in range(inverses.shape[2] // LANES):
                for lane in range(LANES):
                    value = inverses[a, i, j * LANES + lane]
                    inverses_out[a, i, j * LANES + lane] = value * factor if same[lane] else value


@jit
def run_group(
    codes: Array,
    params: Array,
    offsets: Array,
    marks: Array,
    halo: int,
    left: Array,
    left_gains: Array,
    left_inverses: Array,
    right: Array,
    right_gains: Array,
    right_inverses: Array,
    same: Array,
    first: int,
    raised: Array,
    planes: Array,
    scratch: Array,
    slots: Array,
    readouts_out: Array,
) -> None:
    """Run one stage for a group of left images against one block of right images.

    Parameters are those of `run_stage`, with a first axis of left images for ``left``, ``left_gains``,
    ``left_inverses``, ``slots`` and ``readouts_out``; and

    same : ``(left images, lanes)`` bool, pairs of equal images.
    first : left images before this one are skipped.
    raised : as ``right_inverses``, scratch.
    """
    for n in range(first, left.shape[0]):
        at_zero = right_inverses
        if np.any(same[n]):
            raise_lanes(right_inverses, same[n], raised)
            at_zero = raised
        run_stage(
            codes,
            params,
            offsets,
            marks,
            halo,
            left[n],
            left_gains[n],
            left_inverses[n],
            right,
            right_gains,
            right_inverses,
            at_zero,
            planes,
            scratch,
            slots[n],
            readouts_out[n],
        )
