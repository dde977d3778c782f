"""Images and their statistics as the kernel of a device reads them."""

from dataclasses import dataclass

import numpy as np

from cntk_pipeline.kernels.arithmetic import Arithmetic
from cntk_pipeline.kernels.cuda.layout import Layout, Place
from cntk_pipeline.kernels.program import Array

RAISE = 1 + 1 / 128
"""Factor of an inverse deviation for a correlation of exactly 1; see `interpreter.run_group`."""


@dataclass(frozen=True)
class Packed:
    """Images of one side, all in the dtype of planes.

    Attributes
    ----------
    pixels : (n, C, H, W), of right images (n, C, 2 H, W).
    statistics : (n, statistics), of right images (2, n, statistics).
    """

    pixels: Array
    statistics: Array


def pack_left(layout: Layout, images: Array, statistics: Array) -> Packed:
    """Pack left images ``(n, C, H, W)`` and what `prepare_statistics` found."""
    packed = np.zeros((len(images), layout.left_size), layout.dtype)
    for place in layout.statistics.values():
        packed[:, place.left : place.left + place.known.count * place.known.area] = _side_by_side(place, statistics)
    return Packed(np.ascontiguousarray(images, layout.dtype), packed)


def pack_right(layout: Layout, images: Array, statistics: Array) -> Packed:
    """Pack right images: rows twice, one below the other, and inverse deviations a second time, raised."""
    packed = np.zeros((2, len(images), layout.right_size), layout.dtype)
    for place in layout.statistics.values():
        size = place.known.count * place.known.area
        found = _side_by_side(place, statistics)
        for level in range(2):
            if level:
                found[:, :: place.known.count] *= layout.dtype.type(RAISE)
            packed[level, :, place.right : place.right + size] = found
            packed[level, :, place.right + size : place.right + 2 * size] = found
    return Packed(np.concatenate([images, images], axis=2).astype(layout.dtype, copy=False), packed)


def prepare_statistics(arithmetic: Arithmetic, images: Array) -> Array:
    """Compute the statistics of images ``(n, C, H, W)`` on the CPU: ``(n, statistics)``."""
    found = np.empty((len(images), arithmetic.machine.statistics_size), arithmetic.dtype)
    arithmetic.prepare_group(images, found, np.arange(len(images)))
    return found


def _side_by_side(place: Place, statistics: Array) -> Array:
    """Return the statistics of one operation with those of a position side by side: a copy."""
    known = place.known
    own = statistics[:, known.start : known.start + known.count * known.area]
    return own.reshape(-1, known.count, known.area).transpose(0, 2, 1).reshape(len(own), -1).copy()
