"""Pairs of images on a device; what they need besides is computed on the CPU, as the CPU's engine does.

The CPU prepares the statistics of each image, and computes the pairs that planes of float32 are not exact enough for.
Such pairs are few, and have the bits that the engine "cpu" gives them.
"""

from typing import Protocol

import numpy as np

from cntk_pipeline.errors import DeviceLost
from cntk_pipeline.kernels.arithmetic import Group
from cntk_pipeline.kernels.base import mirror_lower
from cntk_pipeline.kernels.cuda.buffers import launch_size
from cntk_pipeline.kernels.cuda.device import errors_of_driver
from cntk_pipeline.kernels.cuda.layout import Layout
from cntk_pipeline.kernels.cuda.packing import Packed, pack_left, pack_right
from cntk_pipeline.kernels.evaluator import CpuEvaluator, contents
from cntk_pipeline.kernels.lanes import LANES
from cntk_pipeline.kernels.machine import EQUAL, ITSELF
from cntk_pipeline.kernels.program import Array, Program


class Launcher(Protocol):
    """Runs the kernel of a program on something."""

    layout: Layout

    def run(self, left: Packed, right: Packed, pairs: Array) -> Array:
        """Run pairs, ``(n, 3)`` integers: left, right, how much the same; return ``(n, readouts)`` float64."""
        ...


class CudaEvaluator(CpuEvaluator):
    """A program on a device: for one thread at a time.

    Parameters
    ----------
    program, dtype, flips : as of `CpuEvaluator`.
    launcher : of the program's kernel.

    Raises
    ------
    DeviceLost
        By its methods, if the device fails: most errors of CUDA leave a process that can do nothing more on it.
    """

    def __init__(self, program: Program, dtype: str, flips: bool, launcher: Launcher) -> None:
        super().__init__(program, dtype, flips)
        self._launcher = launcher
        self._size = launch_size(program, launcher.layout)

    def _evaluate(self, x: Array, z: Array, first: tuple[int, int], symmetric: bool, one_sample: bool) -> Array:
        """Evaluate all pairs of ``(n, C, H, W)``; where the result is ``symmetric``, the lower triangle, mirrored."""
        values = np.empty((self.program.readout_count, len(x), len(z)), self.dtype)
        x_keys, z_keys = contents(x), contents(z)
        for start in range(0, len(z), self._size):
            cols = np.arange(start, min(start + self._size, len(z)))
            for top in range(start if symmetric else 0, len(x), self._size):
                rows = np.arange(top, min(top + self._size, len(x)))
                same = (EQUAL * (x_keys[rows][:, None] == z_keys[cols])).astype(np.int8)
                if one_sample:
                    same[rows[:, None] == cols] = ITSELF
                wanted = rows[:, None] >= cols if symmetric else np.ones(same.shape, bool)
                row_at, col_at = np.nonzero(wanted)
                found = self._run(x[rows], z[cols], same, (row_at, col_at), (first[0] + top, first[1] + start))
                values[:, rows[row_at], cols[col_at]] = found
        if symmetric:
            mirror_lower(values)
        return values

    def _evaluate_pairs(self, x: Array, z: Array, first: tuple[int, int], one_sample: bool) -> Array:
        values = np.empty((self.program.readout_count, len(x)), self.dtype)
        for start in range(0, len(x), LANES):
            a, b = x[start : start + LANES], z[start : start + LANES]
            own = np.arange(len(a))
            same = np.zeros((len(a), len(a)), np.int8)
            same[own, own] = ITSELF if one_sample else EQUAL * (contents(a) == contents(b))
            values[:, start : start + len(a)] = self._run(a, b, same, (own, own), (first[0] + start, first[1] + start))
        return values

    def _run(self, x: Array, z: Array, same: Array, where: tuple[Array, Array], corner: tuple[int, int]) -> Array:
        """Run pairs of some images, given by their rows and columns: ``(readouts, pairs)``."""
        planes, layout = self.planes, self._launcher.layout
        group = Group(planes, x)
        near = np.zeros((self.program.readout_count, *same.shape), bool)
        right_statistics = np.empty((len(z), planes.machine.statistics_size), planes.dtype)
        for k in range(0, len(z), LANES):
            block = planes.prepare(z[k : k + LANES])
            lanes = slice(k, k + block.count)
            right_statistics[lanes] = block.statistics[:, : block.count].T
            same_lanes = np.zeros((len(x), LANES), np.int8)
            same_lanes[:, : block.count] = same[:, lanes]
            near[:, :, lanes] = group.find_near(slice(None), z[lanes], block, same_lanes)[:, :, : block.count]
        left = pack_left(layout, x, group.statistics(slice(None)).T)
        right = pack_right(layout, z, right_statistics)
        try:
            found = self._launcher.run(left, right, np.stack([*where, same[where]], axis=1)).T
        except errors_of_driver() as error:
            raise DeviceLost(f"the graphics card of this process failed, and is lost to it: {error}") from error
        with np.errstate(over="ignore"):  # what is not finite is refused where it is returned
            values = found.astype(self.dtype)
        for number in np.flatnonzero(near[:, where[0], where[1]].any(0)):
            row, col = int(where[0][number]), int(where[1][number])
            place = corner[0] + row, corner[1] + col
            pair = x[row : row + 1], z[col : col + 1]
            values[:, number] = super()._evaluate_pairs(*pair, place, one_sample=bool(same[row, col] == ITSELF))[:, 0]
        return values
