"""Images and their statistics as the kernel of a device reads them."""

from dataclasses import dataclass

import numpy as np

from cntk_pipeline.kernels.cuda.layout import Layout, Place
from cntk_pipeline.kernels.program import Array

RAISE = 1 + 1 / 128
"""Factor of an inverse deviation for a correlation of exactly 1; see `interpreter.run_group`."""


@dataclass(frozen=True)
class Packed:
    """Images of one side, all in the dtype of planes.

    Attributes
    ----------
    pixels : array, (n, C, H, W)
        Of right images (n, C, 2 H, W).
    statistics : array, (n, statistics)
        Of right images (2, n, statistics).
    """

    pixels: Array
    statistics: Array


def pack_left(layout: Layout, images: Array, statistics: Array) -> Packed:
    """Pack left images ``(n, C, H, W)`` and their statistics, ``(n, statistics)``."""
    packed = np.zeros((len(images), layout.left_size), layout.dtype)
    for place in layout.statistics.values():
        _view(packed, place.left, place)[...] = _side_by_side(place, statistics)
    return Packed(np.ascontiguousarray(images, layout.dtype), packed)


def pack_right(layout: Layout, images: Array, statistics: Array) -> Packed:
    """Pack right images: rows twice, one below the other, and inverse deviations a second time, raised."""
    packed = np.zeros((2, len(images), layout.right_size), layout.dtype)
    ranges = [(place, place.right, place.known.count * place.known.area) for place in layout.statistics.values()]
    for place, begin, size in ranges:
        _view(packed[0], begin, place)[...] = _side_by_side(place, statistics)
        packed[0, :, begin + size : begin + 2 * size] = packed[0, :, begin : begin + size]
    packed[1] = packed[0]
    for place, begin, size in ranges:
        packed[1, :, begin : begin + 2 * size : place.known.count] *= layout.dtype.type(RAISE)
    return Packed(np.concatenate([images, images], axis=2).astype(layout.dtype, copy=False), packed)


def _side_by_side(place: Place, statistics: Array) -> Array:
    """Show the statistics of one operation with those of a position side by side: ``(n, positions, statistics)``."""
    known = place.known
    own = statistics[:, known.start : known.start + known.count * known.area]
    return own.reshape(len(own), known.count, known.area).transpose(0, 2, 1)


def _view(packed: Array, begin: int, place: Place) -> Array:
    """Show the place of the statistics of one operation in the same way."""
    known = place.known
    found = packed[:, begin : begin + known.count * known.area]
    return found.reshape(len(packed), known.area, known.count)  # no copy: its last axis is cut
