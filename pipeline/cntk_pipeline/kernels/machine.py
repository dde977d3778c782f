"""A program with the memory to run it, and what it needs to know of images."""

from dataclasses import dataclass

import numpy as np

from cntk_pipeline.kernels.interpreter import Memory, run_group
from cntk_pipeline.kernels.lanes import LANES
from cntk_pipeline.kernels.program import Array, Code, Program, Stage
from cntk_pipeline.kernels.recurrence import recurrence_function
from cntk_pipeline.kernels.tables import VisitTables, lay_out_statistics, make_tables, make_visit_tables
from cntk_pipeline.kernels.weighing import Place, attention_function, input_function, plane_function

EQUAL, ITSELF = 1, 2
"""How much a pair of images is the same: their values, or one sample."""


@dataclass(frozen=True)
class Block:
    """Up to 16 images with what duals need to know of them; empty lanes hold zeros.

    Attributes
    ----------
    pixels : array, (C H W, lanes)
    statistics : array, (statistics, lanes)
    count : int
        Images.
    """

    pixels: Array
    statistics: Array
    count: int


class Machine:
    """The tables, the loops and the scratch memory of a program: for one thread at a time.

    Attributes
    ----------
    program : Program
        What to compute for each pair.
    dtype : dtype
        Of images, planes and results.
    operations : list of Operation
        Of all stages, in order.
    layout : mapping of int to Statistics
        Where the statistics of an operation lie, by its index.
    statistics_size : int
        Numbers that are known of an image.
    tables : Tables
        The program's numbers.
    visits : VisitTables
        Those of its stages.
    memory : Memory
        Scratch; behind `run_lanes` it holds what the images' tensors and sums came to.
    """

    def __init__(self, program: Program, dtype: np.dtype) -> None:
        self.program = program
        self.dtype = dtype
        self.operations = [op for stage in program.stages for op in stage.operations]
        self.layout = {found.operation: found for found in lay_out_statistics(program)}
        self.statistics_size = sum(found.count * found.area for found in self.layout.values())
        self.tables = make_tables(program, dtype)
        self.visits = make_visit_tables(program, of_self=False)
        self.memory = _allocate(program, dtype)
        self._self_visits = make_visit_tables(program, of_self=True)
        self._functions = self._addresses(by_lane=False)
        self._right_size = sum(found.count * found.right_area for found in self.layout.values())
        self._raised = aligned_zeros((self._right_size * LANES,), dtype)
        self._has_circular = any(stage.circular for stage in program.stages)
        self._ranges = self._raised_ranges()

    def run(self, pixels: Array, statistics: Array, right: Block, same: Array, first: int) -> Array:
        """Run a group of left images against a block of right ones.

        Parameters
        ----------
        pixels : array, (n, C H W)
            Of the left images.
        statistics : array, (n, statistics)
            Likewise.
        same : int8 array, (n, lanes)
            `EQUAL`, `ITSELF` or 0.
        first : int
            Left images before this one are skipped.

        Returns
        -------
        float64 array, (n, readouts, lanes)
        """
        readouts = np.zeros((len(pixels), self.program.readout_count, LANES))
        run_group(
            self.tables,
            self.visits,
            self._functions,
            (pixels, statistics),
            1,
            self._as_right(right),
            self._raised,
            self._ranges,
            same,
            first,
            True,
            self.memory,
            readouts,
        )
        return readouts

    def run_lanes(self, left: Block, right: Block, same: Array) -> Array:
        """Run pairs of images lane by lane; return the read-outs ``(readouts, lanes)`` float64."""
        return self._run_lanes(left, right, same, self.visits, fresh=True)

    def run_stage_of_self(self, block: Block, stage: int) -> None:
        """Run one stage for images with themselves, as far as later stages need their variances; see `memory`."""
        visits = self._self_visits._replace(stages=self._self_visits.stages[stage : stage + 1])
        self._run_lanes(block, block, np.full(LANES, ITSELF, np.int8), visits, fresh=False)

    def _run_lanes(self, left: Block, right: Block, same: Array, visits: VisitTables, fresh: bool) -> Array:
        readouts = np.zeros((1, self.program.readout_count, LANES))
        run_group(
            self.tables,
            visits,
            self._addresses(by_lane=True),
            (left.pixels.reshape(1, -1), left.statistics.reshape(1, -1)),
            LANES,
            self._as_right(right),
            self._raised,
            self._ranges,
            same.reshape(1, -1),
            0,
            fresh,
            self.memory,
            readouts,
        )
        return readouts[0]

    def _addresses(self, by_lane: bool) -> Array:
        """Compile the loops that the program uses, or load them from disk."""
        addresses, dtype = np.zeros(len(self.operations), np.int64), self.dtype.name
        for k, op in enumerate(self.operations):
            if op.code is Code.WEIGH:
                kind = None if op.function is None else type(op.function)
                addresses[k] = plane_function(
                    kind, op.is_plain_3x3, op.tangent, op.begins, by_lane, dtype, op.extra != 0
                ).address
            elif op.code is Code.RECUR and op.function is not None:
                addresses[k] = recurrence_function(
                    type(op.function), op.tangent, op.begins, op.backward, by_lane, dtype, op.present is not None
                ).address
            elif op.code is Code.INPUT:
                addresses[k] = input_function(op.tangent, by_lane, dtype).address
            elif op.code is Code.ATTEND:
                addresses[k] = attention_function(by_lane, dtype).address
        return addresses

    def _raised_ranges(self) -> Array:
        """List where right statistics hold inverse deviations; see `run_group`."""
        rows = []
        for k, found in self.layout.items():
            op = self.operations[k]
            if op.function is not None:
                begin = found.right_start
                rows.append((begin, begin + found.right_area, ITSELF if op.masked else EQUAL))
        return np.array(rows, np.int64).reshape(-1, 3)

    def _as_right(self, block: Block) -> tuple[Array, Array, Array]:
        """Lay out pixels and statistics of right images; circular stages find theirs twice in each direction."""
        pixels = block.pixels.reshape(-1)
        if not self._has_circular:
            return pixels, pixels, block.statistics.reshape(-1)
        height, width, channels = self.program.input_shape
        twice = np.tile(block.pixels.reshape(channels, height, width, LANES), (1, 2, 2, 1))
        statistics = aligned_zeros((self._right_size, LANES), self.dtype)
        for found in self.layout.values():
            values = block.statistics[found.start : found.start + found.count * found.area]
            if found.circular:
                values = np.tile(values.reshape(found.count, found.height, found.width, LANES), (1, 2, 2, 1))
            size = found.count * found.right_area
            statistics[found.right_start : found.right_start + size] = values.reshape(size, LANES)
        return pixels, np.ascontiguousarray(twice).reshape(-1), statistics.reshape(-1)


def plane_count(stage: Stage) -> int:
    """Count the elements of a stage's registers, S alone."""
    return stage.register_count * (stage.height + stage.halo) * (stage.width + 2 * stage.halo) * LANES


def _allocate(program: Program, dtype: np.dtype) -> Memory:
    """Make scratch memory that suffices for every stage."""
    operations = [op for stage in program.stages for op in stage.operations]
    rows = max((max(2, op.window[0]) for op in operations), default=2)
    columns = max(stage.width + 2 * stage.halo for stage in program.stages)
    positions = max(op.target_grid.height * op.target_grid.width if op.code is Code.ATTEND else 0 for op in operations)
    return Memory(
        planes=aligned_zeros((2 * max(map(plane_count, program.stages)),), dtype),
        ring=aligned_zeros((2 * rows * columns * LANES,), dtype),
        buffer=aligned_zeros((max(columns, positions) * LANES,), dtype),
        tensors=aligned_zeros((2 * sum(tensor.size for tensor in program.tensors) * LANES,), dtype),
        sums=np.zeros((program.sum_count, 2, LANES)),
        place=np.zeros(len(Place), np.int64),
        lanes=aligned_zeros((LANES,), dtype),
        stop=np.zeros(1, np.int64),
    )


def aligned_zeros(shape: tuple[int, ...], dtype: np.dtype) -> Array:
    """Allocate zeros at a multiple of 64 bytes, a cache line: lanes that straddle two lines load half as fast."""
    size_bytes = int(np.prod(shape)) * dtype.itemsize
    memory = np.zeros(size_bytes + 64, np.uint8)
    skip = -memory.ctypes.data % 64
    return memory[skip : skip + size_bytes].view(dtype).reshape(shape)
