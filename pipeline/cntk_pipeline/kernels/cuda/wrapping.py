"""Tables of a program by wrapped tiles: which tiles a stage visits, what a pooling joins, how a sum is weighted.

A wrapped tile is named by an offset of rows and one of columns, both at least 0. It holds the planes of four offsets:
of each axis the offset itself, and that less the size of the axis.
"""

from dataclasses import dataclass

import numpy as np

from cntk_pipeline.kernels.pooling import axis_offsets
from cntk_pipeline.kernels.program import Array, AxisTerms, Stage


@dataclass(frozen=True)
class Tiles:
    """The wrapped tiles that a stage visits.

    Attributes
    ----------
    numbers : int64 array, (tiles,)
        The offset of rows times the width, plus the offset of columns; ascending.
    marks : bool array, (operations, tiles)
        The operations that one of the tile's planes needs.
    """

    numbers: Array
    marks: Array


def wrap_visits(stage: Stage) -> Tiles:
    """Gather the offsets that a stage visits into wrapped tiles."""
    offsets = stage.visits.offsets
    numbers = (offsets[:, 0] % stage.height) * stage.width + offsets[:, 1] % stage.width
    found, inverse = np.unique(numbers, return_inverse=True)
    marks = np.zeros((len(stage.operations), len(found)), bool)
    for k, marked in enumerate(stage.visits.marks):
        marks[k, inverse[marked]] = True
    return Tiles(found, marks)


def wrap_weights(weights: Array, size: int, circular: bool) -> Array:
    """Lay the weights of REDUCE along an axis, (offsets, positions), out by wrapped offset: (size, size)."""
    wrapped = np.zeros((size, size))
    for index, offset in enumerate(axis_offsets(size, circular)):
        before = 0 if circular else max(0, -offset)  # the plane begins at this position of the left image
        count = size if circular else size - abs(offset)
        wrapped[offset % size, before : before + count] = weights[index, :count]
    return wrapped


@dataclass(frozen=True)
class Gathered:
    """What a pooling adds up along an axis, for each wrapped pooled offset and position.

    Attributes
    ----------
    places : int64 array, (size^2, terms)
        Wrapped offset times the size before the pooling, plus the position.
    weights : float64 array, (size^2, terms)
        0 where there are fewer terms.
    """

    places: Array
    weights: Array


def gather_terms(terms: AxisTerms, size: int, pooled_size: int, circular: bool, pooled_circular: bool) -> Gathered:
    """Turn the terms of a pooling around: from what each offset adds to, into what each pooled position takes."""
    found: list[list[tuple[int, float]]] = [[] for _ in range(pooled_size**2)]
    pooled_offsets = axis_offsets(pooled_size, pooled_circular)
    for index, offset in enumerate(axis_offsets(size, circular)):
        before = 0 if circular else max(0, -offset)
        for k in range(terms.bounds[index], terms.bounds[index + 1]):
            pooled_index, place, first, last = terms.terms[k]
            pooled = pooled_offsets[pooled_index]
            position = place + (0 if pooled_circular else max(0, -pooled))
            own = found[pooled % pooled_size * pooled_size + position]
            own += [(offset % size * size + before + p, terms.weights[k]) for p in range(first, last)]
    most = max(map(len, found))
    places, weights = np.zeros((len(found), most), np.int64), np.zeros((len(found), most))
    for row, own in enumerate(found):
        for column, (place, weight) in enumerate(own):
            places[row, column], weights[row, column] = place, weight
    return Gathered(places, weights)
