"""The diagonal of the recursion: the variance of every position of one image, layer by layer.

A linear layer and an activation turn the variances of an image into variances without looking at any other
covariance, so a pair's standard deviations cost an image one pass over H x W numbers, in float64 whatever the
dtype of the planes. Only behind a reduction do they start from what the planes of the image with itself gave.
"""

import math

from pipeline.kernels.jit import jit
from pipeline.kernels.program import Array, Code

_INPUT, _LOAD, _LINEAR, _RELU, _LINEAR_RELU = (
    int(code) for code in (Code.INPUT, Code.LOAD, Code.LINEAR, Code.RELU, Code.LINEAR_RELU)
)


@jit
def _linear(
    source: Array,
    target_out: Array,
    shape: tuple[int, int],
    window: tuple[int, int],
    halo: int,
    scale: float,
    bias: float,
) -> None:
    """Write ``scale`` times the sum over windows plus ``bias``; both planes have a rim of ``halo`` zeros."""
    top, first = halo - (window[0] - 1) // 2, halo - (window[1] - 1) // 2
    for i in range(shape[0]):
        row = target_out[halo + i, halo : halo + shape[1]]
        for j in range(shape[1]):
            row[j] = bias
        for di in range(window[0]):
            for dj in range(window[1]):
                shifted = source[top + i + di, first + dj : first + dj + shape[1]]
                for j in range(shape[1]):
                    row[j] += scale * shifted[j]


@jit
def _relu(plane: Array, shape: tuple[int, int], halo: int, gains_out: Array, inverses_out: Array) -> None:
    """Halve the variances of a plane in place; write the standard deviations after, and inverses of those before."""
    for i in range(shape[0]):
        for j in range(shape[1]):
            variance = plane[halo + i, halo + j]
            gains_out[i, j] = math.sqrt(0.5 * variance)
            inverses_out[i, j] = 1.0 / math.sqrt(variance) if variance > 0.0 else 0.0
            plane[halo + i, halo + j] = 0.5 * variance


@jit
def run_variances(
    codes: Array,
    params: Array,
    halo: int,
    image: Array,
    slots: Array,
    planes: Array,
    gains_out: Array,
    inverses_out: Array,
) -> None:
    """Write one image's gains and inverses for every activation of a stage.

    Parameters
    ----------
    codes, params, halo : of the `Stage`; params in float64.
    image : ``(C, H, W)``.
    slots : ``(slots,)`` float64, the image's variance in each slot.
    planes : ``(registers + 1, H + 2 halo, W + 2 halo)`` float64, scratch.
    gains_out, inverses_out : ``(activations, H, W)``; see `relu_plane` for their meaning.
    """
    planes[:] = 0.0
    shape = (image.shape[1], image.shape[2])
    for p in range(codes.shape[0]):
        code, source, target, activation = codes[p, 0], codes[p, 1], codes[p, 2], codes[p, 3]
        window = (codes[p, 4], codes[p, 5])
        if code == _INPUT:
            for i in range(shape[0]):
                for j in range(shape[1]):
                    total = 0.0
                    for c in range(image.shape[0]):
                        total += float(image[c, i, j]) * float(image[c, i, j])
                    planes[target, halo + i, halo + j] = params[p, 0] * total
        elif code == _LOAD:
            planes[target, halo, halo] = slots[codes[p, 6]]
        elif code == _LINEAR or code == _RELU or code == _LINEAR_RELU:
            # The target may be the source's register, so the sums go to the spare plane first.
            spare = planes[planes.shape[0] - 1]
            _linear(planes[source], spare, shape, window, halo, params[p, 0], params[p, 1])
            planes[target] = spare
            if code != _LINEAR:
                _relu(planes[target], shape, halo, gains_out[activation], inverses_out[activation])
