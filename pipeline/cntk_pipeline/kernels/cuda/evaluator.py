"""Pairs of images on a device; what they need besides is computed on the CPU, as the CPU's engine does.

The CPU prepares the statistics of each image, and computes the pairs that planes of float32 are not exact enough for.
Such pairs are few, and have the bits that the engine "cpu" gives them.
"""

from typing import Protocol

import numpy as np

from cntk_pipeline.errors import LayerError
from cntk_pipeline.kernels.arithmetic import Group
from cntk_pipeline.kernels.base import Evaluator, require_finite
from cntk_pipeline.kernels.cuda.layout import Layout
from cntk_pipeline.kernels.cuda.packing import Packed, pack_left, pack_right
from cntk_pipeline.kernels.evaluator import CpuEvaluator, contents
from cntk_pipeline.kernels.lanes import LANES
from cntk_pipeline.kernels.machine import EQUAL, ITSELF
from cntk_pipeline.kernels.program import Array, Program

LAUNCH_BYTES = 64 * 2**20
"""Memory for the left images of a launch; right ones take four times as much."""

MOST_IMAGES = 1024
"""Left or right images of a launch: a million pairs, a second of CNTK-V."""


class Launcher(Protocol):
    """Runs the kernel of a program on something."""

    layout: Layout

    def run(self, left: Packed, right: Packed, pairs: Array) -> Array:
        """Run pairs, ``(n, 3)`` integers: left, right, how much the same; return ``(n, readouts)`` float64."""
        ...


def launch_size(program: Program, layout: Layout) -> int:
    """Count the left, or right, images of a launch, in whole blocks."""
    image_bytes = (layout.left_size + int(np.prod(program.input_shape))) * layout.dtype.itemsize
    return LANES * max(1, min(LAUNCH_BYTES // image_bytes, MOST_IMAGES) // LANES)


class CudaEvaluator(Evaluator):
    """A program on a device: for one thread at a time.

    Parameters
    ----------
    program, dtype, flips : as of `CpuEvaluator`.
    launcher : of the program's kernel.
    """

    def __init__(self, program: Program, dtype: str, flips: bool, launcher: Launcher) -> None:
        self._cpu = CpuEvaluator(program, dtype, flips)
        self._exact = CpuEvaluator(program, dtype) if flips else self._cpu
        self._launcher = launcher
        self._size = launch_size(program, launcher.layout)

    @property
    def is_masked(self) -> bool:
        return self._cpu.is_masked

    def evaluate(self, left: Array, right: Array | None = None, *, first: tuple[int, int] = (0, 0)) -> Array:
        x = self._cpu.planar(left, first[0])
        z = x if right is None else self._cpu.planar(right, first[1])
        own = right is None
        values = self._evaluate(x, z, first, symmetric=own, one_sample=own)
        if self._cpu.flips:
            flipped = self._evaluate(x, np.ascontiguousarray(z[..., ::-1]), first, symmetric=own, one_sample=False)
            values = (values + flipped) * values.dtype.type(0.5)
        require_finite(values, first)
        return values

    def evaluate_pairs(self, left: Array, right: Array | None = None, *, first: tuple[int, int] = (0, 0)) -> Array:
        x = self._cpu.planar(left, first[0])
        z = x if right is None else self._cpu.planar(right, first[1])
        if len(x) != len(z):
            raise LayerError(f"pairs need as many left images as right ones, got {len(x)} and {len(z)}")
        values = self._evaluate_pairs(x, z, first, one_sample=right is None)
        if self._cpu.flips:
            flipped = self._evaluate_pairs(x, np.ascontiguousarray(z[..., ::-1]), first, one_sample=False)
            values = (values + flipped) * values.dtype.type(0.5)
        require_finite(values, first)
        return values

    def _evaluate(self, x: Array, z: Array, first: tuple[int, int], symmetric: bool, one_sample: bool) -> Array:
        """Evaluate all pairs of ``(n, C, H, W)``; where the result is ``symmetric``, the lower triangle, mirrored."""
        values = np.empty((self._cpu.program.readout_count, len(x), len(z)), self._cpu.dtype)
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
            upper = np.triu_indices(len(x), 1)
            values[:, upper[0], upper[1]] = values[:, upper[1], upper[0]]
        return values

    def _evaluate_pairs(self, x: Array, z: Array, first: tuple[int, int], one_sample: bool) -> Array:
        values = np.empty((self._cpu.program.readout_count, len(x)), self._cpu.dtype)
        for start in range(0, len(x), LANES):
            a, b = x[start : start + LANES], z[start : start + LANES]
            own = np.arange(len(a))
            same = np.zeros((len(a), len(a)), np.int8)
            same[own, own] = ITSELF if one_sample else EQUAL * (contents(a) == contents(b))
            values[:, start : start + len(a)] = self._run(a, b, same, (own, own), (first[0] + start, first[1] + start))
        return values

    def _run(self, x: Array, z: Array, same: Array, where: tuple[Array, Array], corner: tuple[int, int]) -> Array:
        """Run pairs of some images, given by their rows and columns: ``(readouts, pairs)``."""
        planes, layout = self._cpu.planes, self._launcher.layout
        group = Group(planes, x)
        near = np.zeros((self._cpu.program.readout_count, *same.shape), bool)
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
        found = self._launcher.run(left, right, np.stack([*where, same[where]], axis=1)).T
        with np.errstate(over="ignore"):  # what is not finite is refused where it is returned
            values = found.astype(self._cpu.dtype)
        for pair in np.flatnonzero(near[:, where[0], where[1]].any(0)):
            row, col = int(where[0][pair]), int(where[1][pair])
            other = None if same[row, col] == ITSELF else z[col : col + 1]
            values[:, pair] = self._run_exactly(x[row : row + 1], other, (corner[0] + row, corner[1] + col))
        return values

    def _run_exactly(self, x: Array, z: Array | None, place: tuple[int, int]) -> Array:
        """Compute one pair on the CPU, in float64 as far as it needs that."""
        given = [None if side is None else side.transpose(0, 2, 3, 1) for side in (x, z)]
        return self._exact.evaluate_pairs(given[0], given[1], first=place)[:, 0]  # type: ignore[arg-type]
