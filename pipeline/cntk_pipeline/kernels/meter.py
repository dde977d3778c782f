"""How near two images are to parallel, position by position."""

from dataclasses import replace

import numpy as np

from cntk_pipeline.kernels.lanes import LANES
from cntk_pipeline.kernels.machine import Machine
from cntk_pipeline.kernels.points import Steepness
from cntk_pipeline.kernels.preparation import Preparation
from cntk_pipeline.kernels.program import Array, Operation, Point, Program


class Meter:
    """Measures distances of pairs at a point of a program: for one thread at a time.

    Parameters
    ----------
    point : Point
        Where it measures.
    dtype : dtype
        Of planes.

    Attributes
    ----------
    readouts : tuple of int
        Of the whole program, those behind the point.
    """

    def __init__(self, point: Point, dtype: np.dtype) -> None:
        self.readouts = point.readouts
        program = _in_dtype(point.program, dtype)
        self._machine = Machine(program, dtype)
        needs_exact = program.has_differences and dtype != np.float64
        self._preparation = Preparation(self._machine, Machine(program, np.dtype(np.float64)) if needs_exact else None)
        (place,) = (
            place
            for k, place in self._machine.layout.items()
            if isinstance(self._machine.operations[k].function, Steepness)
        )
        self._inverses = slice(place.start, place.start + place.area)
        gates = (p for k, p in self._machine.layout.items() if _is_plain(self._machine.operations[k]))
        # The one before the sum; those before windows come first.
        self._present = next((slice(p.start, p.start + p.area) for p in reversed(list(gates))), None)

    def prepare(self, images: Array) -> tuple[Array, Array]:
        """Return what is to be known of images ``(n, C, H, W)``: their numbers and their statistics, a row each."""
        images = images.astype(self._machine.dtype, copy=False)
        statistics = np.empty((len(images), self._machine.statistics_size), self._machine.dtype)
        self._preparation.group_statistics(images, statistics, np.arange(len(images)))
        return images.reshape(len(images), -1), statistics

    def distances(self, left: tuple[Array, Array], right: Array, same: Array) -> Array:
        """Measure pairs of prepared images with up to 16 others ``(n, C, H, W)``; ``same`` as of `Machine.run`.

        Returns
        -------
        float64 array, (left, lanes)
            From the rounding of a correlation to 1; 1 where no position is filled in both images.
        """
        block = self._preparation.prepare(right.astype(self._machine.dtype, copy=False))
        sums = self._machine.run(*left, block, same, 0)[:, 0]
        filled = left[1][:, self._inverses] > 0, block.statistics[self._inverses] > 0
        if self._present is not None:
            filled = filled[0] & (left[1][:, self._present] > 0), filled[1] & (block.statistics[self._present] > 0)
        counts = filled[0].astype(np.float64) @ filled[1].astype(np.float64)
        return np.where(counts > 0, np.square(counts / np.where(counts > 0, sums, 1)), 1.0)

    def distances_of_pairs(self, left: Array, right: Array) -> Array:
        """Measure images with the others of the same number, (n,) float64."""
        found = np.empty(len(left))
        for start in range(0, len(left), LANES):
            chosen = slice(start, start + LANES)
            same = np.zeros((len(left[chosen]), LANES), np.int8)
            found[chosen] = np.diagonal(self.distances(self.prepare(left[chosen]), right[chosen], same))
        return found


def _is_plain(op: Operation) -> bool:
    return op.gate is not None and op.gate.weights == "present"


def _in_dtype(program: Program, dtype: np.dtype) -> Program:
    """Give the measure the floor of a dtype."""
    exact = Steepness(float(np.finfo(dtype).eps))
    stages = (
        replace(
            stage,
            operations=tuple(
                replace(op, function=exact) if isinstance(op.function, Steepness) else op for op in stage.operations
            ),
        )
        for stage in program.stages
    )
    return replace(program, stages=tuple(stages))
