"""A program in one dtype: the memory to run it, the images it is run on, and which of these are too near for it."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cntk_pipeline.kernels.accuracy import Accuracy
from cntk_pipeline.kernels.lanes import LANES
from cntk_pipeline.kernels.machine import EQUAL, ITSELF, Block, Machine
from cntk_pipeline.kernels.meter import Meter
from cntk_pipeline.kernels.nearness import directions, find_near, find_near_to_themselves, shift
from cntk_pipeline.kernels.preparation import Preparation
from cntk_pipeline.kernels.program import Array, Program
from cntk_pipeline.layers import LayerNorm, Sign


@dataclass(frozen=True)
class Side:
    """Left or right images, with what tells which pairs are too near.

    Attributes
    ----------
    images : array, (n, C, H, W)
    directions : array
        Of the images; see `kernels.nearness.directions`.
    limits : array, (readouts, n)
        See `Arithmetic.limits`.
    """

    images: Array
    directions: Array
    limits: Array


class Arithmetic:
    """A program with planes of one dtype: for one thread at a time.

    Parameters
    ----------
    program : Program
        What to compute for each pair.
    dtype : dtype
        Of planes and statistics.
    """

    def __init__(self, program: Program, dtype: np.dtype) -> None:
        self.dtype = dtype
        self.machine = Machine(program, dtype)
        needs_exact = program.has_differences and dtype != np.float64
        self._preparation = Preparation(self.machine, Machine(program, np.dtype(np.float64)) if needs_exact else None)
        self._accuracy = Accuracy(program, self.machine.layout, float(np.finfo(dtype).eps))
        self._same_enough = np.where(self._accuracy.masked, ITSELF, EQUAL)
        self._meters = [Meter(point, dtype) for point in program.points]
        functions = [op.function for stage in program.stages for op in stage.operations]
        self.forgets_sizes = any(isinstance(function, Sign | LayerNorm) for function in functions)

    def prepare(self, images: Array) -> Block:
        """Compute what duals need to know of up to 16 right images ``(n, C, H, W)``."""
        return self._preparation.prepare(images.astype(self.dtype, copy=False))

    def prepare_group(self, images: Array, statistics_out: Array, rows: Array) -> None:
        """Compute the same of left images into rows of ``(n, statistics)``."""
        self._preparation.group_statistics(images.astype(self.dtype, copy=False), statistics_out, rows)

    def limits(self, statistics: Array) -> Array:
        """Evaluate `Accuracy.limits` of n images, given ``(statistics, n)``; in float64, mostly 0 at once."""
        if self.dtype == np.float64 and self._accuracy.are_all_accurate(statistics):
            return np.zeros((self.machine.program.readout_count, statistics.shape[1]))
        return self._accuracy.limits(statistics)

    def find_near(self, left: Side, right: Side, same: Array, measured: list[tuple[Array, Array]]) -> Array:
        """Find the pairs that planes of this dtype are not exact enough for.

        Between equal positions, the correlation of an image with itself is exact. Between others it is near to itself
        where a shift hardly changes it.

        Parameters
        ----------
        left, right : Side
            The n images, and up to 16.
        same : int8 array, (n, lanes)
            How much the pairs are the same.
        measured : list of (array, array)
            The left images, by `measure`.

        Returns
        -------
        bool array, (readouts, n, lanes)
        """
        count = len(right.images)
        near = np.zeros((len(left.limits), len(left.images), LANES), bool)
        near[:, :, :count] = find_near(left.directions, right.directions, left.limits.max(0), right.limits.max(0))
        if len(near) > 1 and near.any():
            for readout, (limits, others) in enumerate(zip(left.limits, right.limits, strict=True)):
                near[readout, :, :count] = find_near(left.directions, right.directions, limits, others)
        for meter, images in zip(self._meters, measured, strict=True):
            distances = meter.distances(images, right.images, same)[:, :count]
            for readout in meter.readouts:
                limits = np.maximum(left.limits[readout][:, None], right.limits[readout])
                near[readout, :, :count] |= distances < limits
        if not near.any():
            return near
        for readout, (limits, others) in enumerate(zip(left.limits, right.limits, strict=True)):
            known = same[:, :count] >= self._same_enough[readout]
            known &= near[readout, :, :count]
            if not self._accuracy.flat[readout] and known.any():
                rows = np.flatnonzero(known.any(1))
                known[rows] &= ~self._near_to_themselves(left.images[rows], limits[rows], readout)[:, None]
            near[readout, :, :count] &= ~known | (np.maximum(limits[:, None], others) > 1)
        return near

    def directions(self, images: Array) -> Array:
        """Evaluate `nearness.directions` of images, without what says which steps are there."""
        return directions(self.numbers(images))

    def numbers(self, images: Array) -> Array:
        """Return images ``(n, C, H, W)`` without the channel that says which steps are there."""
        return images[:, : self.machine.program.input_shape[2]]

    def measure(self, images: Array) -> list[tuple[Array, Array]]:
        """Compute what is to be known of left images at each point of the program."""
        return [meter.prepare(images) for meter in self._meters]

    def _near_to_themselves(self, images: Array, limits: Array, readout: int) -> Array:
        """Find the images that a shift hardly changes, as wholes or position by position: (n,) bool."""
        found = find_near_to_themselves(self.numbers(images), limits)
        for meter in self._meters:
            if readout in meter.readouts:
                found |= meter.distances_of_pairs(images, shift(images)) < limits
        return found

    def explain(self, statistics: Array) -> str:
        """Name the layer that makes an image, ``(statistics,)``, the least accurate, and its variance there."""
        return self._accuracy.explain(statistics)


class Group:
    """Left images of an arithmetic; what duals need to know of them is computed once, when first asked for.

    Parameters
    ----------
    arithmetic : Arithmetic
        Of the images' planes.
    images : array, (n, C, H, W)
    """

    def __init__(self, arithmetic: Arithmetic, images: Array) -> None:
        self.images = images
        self.arithmetic = arithmetic
        self._pixels = np.empty((len(images), images[0].size), arithmetic.dtype)
        self._statistics = np.empty((len(images), arithmetic.machine.statistics_size), arithmetic.dtype)
        self._limits = np.full((arithmetic.machine.program.readout_count, len(images)), np.nan)

    @cached_property
    def directions(self) -> Array:
        """Of all images; see `Arithmetic.directions`."""
        return self.arithmetic.directions(self.images)

    @cached_property
    def _measured(self) -> list[tuple[Array, Array]]:
        return self.arithmetic.measure(self.images)

    def find_near(self, rows: slice | Array, right: Array, block: Block, same: Array) -> Array:
        """Find the pairs of some of the images with a block that are too near: ``(readouts, rows, lanes)`` bool.

        Parameters
        ----------
        rows : slice or array
            Numbers of the images.
        right : array
            The images of the block.
        same : int8 array, (n, lanes)
            Of all images.
        """
        self._require(rows)
        limits, right_limits = self._limits[:, rows], self.arithmetic.limits(block.statistics[:, : block.count])
        if not (np.any(limits > 0) or np.any(right_limits > 0)):
            return np.zeros((*limits.shape, LANES), bool)
        left = Side(self.images[rows], self.directions[rows], limits)
        measured = [(pixels[rows], statistics[rows]) for pixels, statistics in self._measured]
        right_side = Side(right, self.arithmetic.directions(right), right_limits)
        return self.arithmetic.find_near(left, right_side, same[rows], measured)

    def run(self, rows: slice | Array, block: Block, same: Array) -> Array:
        """Run some of the images against a block of right ones: ``(rows, readouts, lanes)`` float64."""
        self._require(rows)
        return self.arithmetic.machine.run(self._pixels[rows], self._statistics[rows], block, same[rows], 0)

    def statistics(self, rows: slice | Array) -> Array:
        """Return what duals need to know of some of the images, ``(statistics, rows)``."""
        self._require(rows)
        return self._statistics[rows].T

    def _require(self, rows: slice | Array) -> None:
        numbers = np.arange(len(self.images))[rows]
        missing = numbers[np.isnan(self._limits[0, numbers])]
        if len(missing) == 0:
            return
        # As a slice where possible: neither images nor statistics, which are many times as large, are gathered.
        chosen = slice(missing[0], missing[-1] + 1) if missing[-1] - missing[0] + 1 == len(missing) else missing
        self._pixels[chosen] = self.images[chosen].reshape(len(missing), -1)
        self.arithmetic.prepare_group(self.images[chosen], self._statistics, missing)
        self._limits[:, chosen] = self.arithmetic.limits(self._statistics[chosen].T)
