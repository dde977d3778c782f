"""Which planes a pooling joins, and with which weights.

With ``P`` the windows of a pooling along an axis as a matrix, pooled covariances are ``P C P^T``. Everything here is
about one axis; rows and columns are treated alike and independently.
"""

from collections.abc import Sequence

import numpy as np

from cntk_pipeline.kernels.program import Array, AxisTerms
from cntk_pipeline.layers import Windows


def axis_offsets(size: int, circular: bool) -> range:
    """List the offsets of an axis in the order of their indices."""
    return range(size) if circular else range(1 - size, size)


def pool_terms(windows: Windows, normalize_edges: bool, circular: bool, pooled_circular: bool) -> AxisTerms:
    """List which runs of positions, at which offset, a pooling adds to which pooled position and offset.

    Parameters
    ----------
    windows : Windows
        Of the pooling.
    normalize_edges : bool
        Divide by the positions of a window inside the axis.
    circular, pooled_circular : bool
        Whether offsets before and behind are taken modulo the size.
    """
    size, count = windows.size, windows.count
    bounds = [windows.bounds(q) for q in range(count)]
    found: list[list[tuple[int, int, int, int, float]]] = [[] for _ in axis_offsets(size, circular)]
    for q, (begin, end) in enumerate(bounds):
        for other, (other_begin, other_end) in enumerate(bounds):
            weight = 1 / ((end - begin) * (other_end - other_begin)) if normalize_edges else 1.0
            pooled = other - q
            index = pooled % count if pooled_circular else pooled + count - 1
            place = q if pooled_circular else q - max(0, -pooled)
            for offset in range(other_begin - end + 1, other_end - begin):
                # Positions p of the first window with p + offset in the second.
                first, last = max(begin, other_begin - offset), min(end, other_end - offset)
                shift = 0 if circular else max(0, -offset)
                row = offset % size if circular else offset + size - 1
                share = _share_of_part(windows, end - begin, other_end - other_begin, offset == other_begin - begin)
                if share > 0:
                    found[row].append((index, place, first - shift, last - shift, share * weight))
    flat = [term for terms in found for term in sorted(terms)]
    return AxisTerms(
        np.cumsum([0, *map(len, found)], dtype=np.int64),
        np.array([term[:4] for term in flat], np.int64).reshape(-1, 4),
        np.array([term[4] for term in flat], np.float64),
        len(axis_offsets(count, pooled_circular)),
    )


def _share_of_part(windows: Windows, size: int, other_size: int, alike: bool) -> float:
    """Evaluate the share of products of two windows, at one offset, that belongs to a part; see `Windows`."""
    if not windows.part:
        return 1.0
    if size == other_size == 2:
        return 1 / 4 if alike == (windows.part == "like") else 0.0
    return 1 / (2 * size * other_size)


def pair_weights(chain: Sequence[tuple[Windows, bool]], size: int, traced: bool, circular: bool) -> Array:
    """Weigh the pairs of positions that poolings, one after the other, and at last one number make of an axis.

    Parameters
    ----------
    chain : sequence of (Windows, bool)
        Windows, and whether sums are divided by the positions inside, from the first pooling to the last.
    size : int
        Positions of the axis.
    traced : bool
        Sum over equal positions of what is pooled; otherwise one position must be left.
    circular : bool
        Whether offsets are taken modulo the size.

    Returns
    -------
    float64 array, (offsets, size)
        For each offset the weight of each position in its plane.
    """
    pooled = np.eye(size)
    for windows, normalize_edges in chain:
        pooled = windows.weights(normalize_edges) @ pooled
    pairs = pooled.T @ pooled if traced else np.outer(pooled.sum(0), pooled.sum(0))
    offsets = axis_offsets(size, circular)
    weights = np.zeros((len(offsets), size))
    for row, offset in enumerate(offsets):
        if circular:
            weights[row] = pairs[np.arange(size), (np.arange(size) + offset) % size]
        else:
            diagonal = np.diagonal(pairs, offset)
            weights[row, : len(diagonal)] = diagonal
    return weights
