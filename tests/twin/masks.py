"""The naive twin of images with absent pixels: a mask goes through the network beside the covariances.

The mask is that of `mask_constant` of neural-tangents, by the definitions of its documentation: behind a window a
position is masked where the middle of the window is, of an even window the position before the middle; behind branches
that are joined, where all of them are. Behind each layer, the covariances of masked positions become 0. Averages over
all positions count those that are not masked. Two things are other ones than there: `Flatten` divides by the positions
that are not masked, and ``normalize_edges`` counts those of a window that are not.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from cntk_pipeline import layers
from cntk_pipeline.layers import Layer, Sequential
from twin import reference
from twin.pairs import Array, Pairs
from twin.reference import place, two

MIXED = (layers.SelfAttention, layers.Attend, layers.LinearAttention)
"""Layers that see a set of positions, wherever they lie."""


@dataclass(frozen=True)
class Masked:
    """A pair of images somewhere in a network; ``x`` and ``z`` are (H, W) bool, True where a position is there."""

    pairs: Pairs
    x: Array
    z: Array

    def cleared(self) -> "Masked":
        """Make all covariances of positions that are not there 0."""
        x, z = self.x.astype(float), self.z.astype(float)
        outer = "hw,HW->hwHW"
        xz = np.einsum(outer, x, z)
        pairs = replace(
            self.pairs,
            xx=self.pairs.xx * np.einsum(outer, x, x),
            zz=self.pairs.zz * np.einsum(outer, z, z),
            xz=self.pairs.xz * xz,
            tangent=self.pairs.tangent * xz,
        )
        return replace(self, pairs=pairs)

    def divided(self, x: Array, z: Array) -> "Masked":
        """Divide positions by numbers of each image."""
        outer = "hw,HW->hwHW"
        x, z = np.maximum(x, 1), np.maximum(z, 1)
        xz = np.einsum(outer, x, z)
        pairs = replace(
            self.pairs,
            xx=self.pairs.xx / np.einsum(outer, x, x),
            zz=self.pairs.zz / np.einsum(outer, z, z),
            xz=self.pairs.xz / xz,
            tangent=self.pairs.tangent / xz,
        )
        return replace(self, pairs=pairs)


def windows_of(layer: Layer, size: tuple[int, int]) -> tuple[Array, Array]:
    """List the positions that the windows of a layer cover, of rows and of columns; ``size`` stands for outside."""
    if isinstance(layer, layers.LocalAvgPool):
        window, strides, padding = two(2 * layer.radius + 1), (1, 1), "SAME"
    elif isinstance(layer, layers.Conv):
        window, strides, padding = two(layer.filter_shape), two(layer.strides), layer.padding
    else:
        window, padding = two(layer.window_shape), layer.padding
        strides = window if layer.strides is None else two(layer.strides)
    rows, columns = (place(*axis, padding) for axis in zip(size, window, strides, strict=True))
    return rows, columns


def follow(state: Masked, layer: Layer) -> Masked:
    if isinstance(layer, layers.Masked):
        return state
    if isinstance(layer, Sequential):
        for inner in layer.layers:
            state = follow(state, inner)
        return state
    if isinstance(layer, layers.Repeat):
        return _repeated(state, layer)
    if isinstance(layer, layers.Residual):
        return joined(follow(state, layer.branch), follow(state, layer.shortcut), reference.added)
    if isinstance(layer, layers.Product):
        return joined(follow(state, layer.branch), follow(state, layer.gate), reference.multiplied)
    if isinstance(layer, layers.Concatenate):
        side_by_side = partial(reference.side_by_side, share=layer.share)
        return joined(follow(state, layer.first), follow(state, layer.second), side_by_side)
    if isinstance(layer, layers.Conv | layers.AvgPool | layers.SumPool | layers.LocalAvgPool):
        return _through_windows(state, layer)
    if isinstance(layer, layers.GlobalAvgPool | layers.GlobalSumPool | layers.Flatten):
        return _read_out(state, layer)
    if isinstance(layer, MIXED):
        return _among_those_that_are_there(state, layer)
    assert not layer.inner, f"the mask is not followed into the branches of {layer}"
    return replace(state, pairs=reference.step(state.pairs, layer)).cleared()


def joined(one: Masked, other: Masked, join: Callable[[Pairs, Pairs], Pairs]) -> Masked:
    """Join two branches: a position is there where it is in either."""
    return Masked(join(one.pairs, other.pairs), one.x | other.x, one.z | other.z)


def _repeated(state: Masked, layer: layers.Repeat) -> Masked:
    now = end = state
    for _ in range(layer.times):
        now = follow(now, layer.block)
        now = joined(now, state, reference.added) if layer.inject else now
        end = joined(end, now, reference.added)
    return end if layer.jump else now


def _through_windows(state: Masked, layer: Layer) -> Masked:
    rows, columns = windows_of(layer, state.pairs.size)
    counted = getattr(layer, "normalize_edges", False)
    if counted:
        window, strides = (len(rows[0]), len(columns[0])), getattr(layer, "strides", 1)
        summing = layers.SumPool(window, window if strides is None else strides, getattr(layer, "padding", "SAME"))
        pairs = reference.step(state.pairs, summing)
    else:
        pairs = reference.step(state.pairs, layer)
    middles = np.ix_(rows[:, (rows.shape[1] - 1) // 2], columns[:, (columns.shape[1] - 1) // 2])
    found = Masked(pairs, state.x[middles], state.z[middles])
    if counted:
        inside = [
            np.pad(flags, (0, 1)).astype(int)[rows[:, None, :, None], columns[None, :, None, :]].sum((2, 3))
            for flags in (state.x, state.z)
        ]
        found = found.divided(*inside)
    return found.cleared()


def _read_out(state: Masked, layer: Layer) -> Masked:
    x, z = (np.full(state.x.shape, float(flags.sum())) for flags in (state.x, state.z))
    if isinstance(layer, layers.GlobalAvgPool):
        state = state.divided(x, z)
    if isinstance(layer, layers.Flatten):
        state = state.divided(np.sqrt(x), np.sqrt(z))
        pairs = state.pairs.map_all(lambda v: np.einsum("...hwhw->...", v)[..., None, None, None, None])
    else:
        pairs = state.pairs.map_all(lambda v: v.sum((-4, -3, -2, -1), keepdims=True))
    one = np.ones((1, 1), bool)
    return Masked(pairs, one, one)


def _among_those_that_are_there(state: Masked, layer: Layer) -> Masked:
    """Lay the positions that are there in one row, and put them back."""
    pairs, shape = state.pairs, state.x.shape

    def row(values: Array, first: Array, second: Array) -> Array:
        return values[..., first, :, :][..., second][..., None, :, None, :]

    def back(values: Array, first: Array, second: Array) -> Array:
        values = values[..., 0, :, 0, :]
        found = np.zeros((*values.shape[:-2], first.size, second.size))
        found[..., *np.ix_(np.flatnonzero(first), np.flatnonzero(second))] = values
        return found.reshape(*values.shape[:-2], *shape, *shape)

    sides = {
        "xx": (state.x, state.x),
        "zz": (state.z, state.z),
        "xz": (state.x, state.z),
        "tangent": (state.x, state.z),
    }
    present = replace(pairs, **{name: row(getattr(pairs, name), *side) for name, side in sides.items()})
    after = reference.step(present, layer)
    return replace(state, pairs=replace(after, **{name: back(getattr(after, name), *s) for name, s in sides.items()}))


def evaluate_masked(network: Layer, left: Array, right: Array) -> tuple[Array, Array]:
    """Evaluate NNGP and NTK of images ``(n, H, W, C)`` whose absent pixels hold NaN, pair by pair."""
    found = np.empty((2, len(left), len(right)))
    for row, col in np.ndindex(found.shape[1:]):
        given = [np.asarray(v, np.float64) for v in (left[row], right[col])]
        flags = [~np.isnan(v).all(-1) for v in given]
        x, z = (np.nan_to_num(v) for v in given)

        def inner(a: Array, b: Array) -> Array:
            return (a[:, :, None, None] * b[None, None]).sum(-1)[None] / a.shape[-1]

        xz = inner(x, z)[None]
        raw = Pairs(inner(x, x), inner(z, z), xz, np.zeros_like(xz), np.array([[False]]), x.shape[-1])
        end = follow(Masked(raw, *flags), network).pairs
        found[:, row, col] = end.xz.item(), end.tangent.item()
    return found[0], found[1]
