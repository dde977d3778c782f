"""The diagonal of the recursion: the variance of every position of an image, layer by layer, 16 images at a time.

A linear layer and an activation turn the variances of an image into variances without looking at any other
covariance, so a pair's standard deviations cost an image one pass over H x W numbers, in float64 whatever the
dtype of the planes. Only behind a reduction do they start from what the planes of the image with itself gave.
"""

import math

from pipeline.kernels.jit import jit
from pipeline.kernels.lanes import LANES, address
from pipeline.kernels.planes import clear_rims, convolved_plane, linear_plane, sum_windows
from pipeline.kernels.program import Array, Code

_INPUT, _LOAD, _LINEAR, _RELU, _LINEAR_RELU = (
    int(code) for code in (Code.INPUT, Code.LOAD, Code.LINEAR, Code.RELU, Code.LINEAR_RELU)
)


@jit
def _sum_of_squares(images: Array, i: int, scale: float, row_out: Array) -> None:
    """Write ``scale * sum_c x^2`` of row ``i``, ``(W * lanes,)`` float64."""
    for m in range(row_out.shape[0]):
        row_out[m] = 0.0
    for c in range(images.shape[0]):
        row = images[c, i]
        for m in range(row_out.shape[0]):
            row_out[m] += scale * (float(row[m]) * float(row[m]))


@jit
def _relu(row: Array, gains_out: Array, inverses_out: Array) -> None:
    """Halve a row of variances in place; write the standard deviations after, and inverses of those before."""
    for m in range(row.shape[0]):
        variance = row[m]
        gains_out[m] = math.sqrt(0.5 * variance)
        inverses_out[m] = 1.0 / math.sqrt(variance) if variance > 0.0 else 0.0
        row[m] = 0.5 * variance


@jit
def run_variances(
    codes: Array,
    params: Array,
    halo: int,
    images: Array,
    slots: Array,
    planes: Array,
    scratch: Array,
    gains_out: Array,
    inverses_out: Array,
) -> None:
    """Write the gains and inverses of up to 16 images for every activation of a stage.

    Parameters
    ----------
    codes, params, halo : of the `Stage`; params in float64.
    images : ``(C, H, W * lanes)``.
    slots : ``(slots, lanes)`` float64, the images' variance in each slot.
    planes : ``(registers, 2, H + halo, (W + 2 halo) * lanes)`` float64, scratch; only the first of each pair is used.
    scratch : ``(2, largest window height, at least 2, (W + 2 halo) * lanes)`` float64.
    gains_out, inverses_out : ``(activations, H, W * lanes)``; see `relu_plane` for their meaning.
    """
    shape = (images.shape[1], images.shape[2] // LANES)
    stride = planes.shape[3]
    steps = (stride, planes.shape[2] * stride, scratch.shape[1] * stride)
    begin, end = halo * LANES, halo * LANES + images.shape[2]
    ring, unused = address(scratch, 0), address(planes, 0)
    clear_rims(planes, shape, halo)
    for p in range(codes.shape[0]):
        code, activation = codes[p, 0], codes[p, 3]
        source = address(planes, 2 * codes[p, 1] * steps[1] + begin)
        target = address(planes, 2 * codes[p, 2] * steps[1] + begin)
        window, factors = (codes[p, 4], codes[p, 5]), (params[p, 0], params[p, 1], params[p, 2])
        if code == _INPUT:
            for i in range(shape[0]):
                _sum_of_squares(images, i, factors[0], planes[codes[p, 2], 0, i, begin:end])
        elif code == _LOAD:
            for lane in range(LANES):
                planes[codes[p, 2], 0, 0, begin + lane] = slots[codes[p, 6], lane]
        elif code == _LINEAR or code == _RELU or code == _LINEAR_RELU:
            if window == (3, 3):
                convolved_plane(source, target, ring, steps, shape, factors, unused, unused, unused, unused, 0)
            else:
                if window != (1, 1):
                    sum_windows(source, target, ring, stride, shape, window)
                    source = target
                linear_plane(source, target, ring, steps, shape, factors, unused, unused, unused, unused, 0)
            if code != _LINEAR:
                for i in range(shape[0]):
                    row = planes[codes[p, 2], 0, i, begin:end]
                    _relu(row, gains_out[activation, i], inverses_out[activation, i])
