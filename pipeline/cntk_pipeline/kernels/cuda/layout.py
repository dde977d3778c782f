"""How a program's pairs lie on the threads of a block, and where in memory each finds what it reads."""

import math
from dataclasses import dataclass

import numpy as np

from cntk_pipeline.kernels.cuda.wrapping import wrap_visits
from cntk_pipeline.kernels.program import Code, Program, Stage
from cntk_pipeline.kernels.tables import Statistics, lay_out_statistics

SHARED_BYTES = 48 * 1024
"""What a block may have for its sums without asking for more."""


@dataclass(frozen=True)
class Place:
    """Where the statistics of an operation begin; those of a position lie side by side.

    Attributes
    ----------
    left, right : int
        Numbers from an image's first, of left images and of right ones, whose rows are there twice.
    known : Statistics
        Where the CPU's preparation has them.
    """

    left: int
    right: int
    known: Statistics


@dataclass(frozen=True)
class TensorPlace:
    """Where the tiles before a pooling and those behind it begin, S first and then T if it is needed."""

    sources: tuple[int, ...]
    targets: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """What the kernel of a program looks like.

    Attributes
    ----------
    dtype : dtype
        Of planes.
    warps : int
        Of a block.
    pair_lanes : int
        Threads of a pair: a power of two up to 128, or all of a block.
    slots : int
        Sums of a pair, S and T of each.
    statistics : mapping of int to Place
        By the number of the operation.
    left_size, right_size : int
        Statistics of a left and of a right image.
    tensors : mapping of int to TensorPlace
        By their slot.
    tensor_size : int
        Numbers of all tensors of a pair.
    """

    dtype: np.dtype
    warps: int
    pair_lanes: int
    slots: int
    statistics: dict[int, Place]
    left_size: int
    right_size: int
    tensors: dict[int, TensorPlace]
    tensor_size: int

    @property
    def pairs(self) -> int:
        """Pairs of a block."""
        return 32 * self.warps // self.pair_lanes

    @property
    def group(self) -> int:
        """Threads whose sums are added up by shuffles."""
        return min(32, self.pair_lanes)

    @property
    def pair_groups(self) -> int:
        """Groups of a pair."""
        return self.pair_lanes // self.group

    @property
    def sum_size(self) -> int:
        """Sums of a block, in numbers."""
        return max(1, self.slots) * 32 * self.warps // self.group


def lane_columns(stage: Stage) -> int:
    """Count the columns of a tile that a thread has: two that lie side by side where a warp has too few threads."""
    return -(-stage.width // 32)


def segment(stage: Stage) -> int:
    """Count the threads of a stage's tile: the least power of two that holds a row."""
    return 1 << (-(-stage.width // lane_columns(stage)) - 1).bit_length()


def lay_out(program: Program, dtype: np.dtype, warps: int | None = None) -> Layout:
    """Choose how a program runs.

    Parameters
    ----------
    warps : int, optional
        Of a block; without, as many as the registers of a multiprocessor hold.
    """
    slots = 2 * program.sum_count
    chosen = choose_warps(program, dtype) if warps is None else warps
    lanes = min(_pair_lanes(program), 32 * chosen)
    if lanes > 128:
        lanes = 32 * chosen
    while chosen > 1 and 8 * slots * 32 * chosen // min(32, lanes) > SHARED_BYTES:
        chosen = chosen // 2
        lanes = min(lanes, 32 * chosen)
    places, left, right = {}, 0, 0
    for found in lay_out_statistics(program):
        places[found.operation] = Place(left, right, found)
        left += _even(found.count * found.area)
        right += _even(2 * found.count * found.area)
    tensors, size = _place_tensors(program)
    return Layout(dtype, chosen, lanes, slots, places, left, right, tensors, size)


def choose_warps(program: Program, dtype: np.dtype) -> int:
    """Count the warps of a block for which the rows of all registers find room among 65,536, or else the fewest.

    A thread has at most 255 registers, so fewer warps would leave it no more: what finds no room, as of images of
    64 x 64, lies in the thread's own memory, which the nearest cache holds.
    """
    words = dtype.itemsize // 4
    rows = max(2 * stage.register_count * stage.height * lane_columns(stage) for stage in program.stages) * words
    return next((warps for warps, limit in ((16, 40), (12, 72), (8, 190)) if rows <= limit), 8)


def _pair_lanes(program: Program) -> int:
    """Count the threads that a pair can use, a power of two."""
    found = 1
    for stage in program.stages:
        tiles = len(wrap_visits(stage).numbers)
        found = max(found, segment(stage) << int(math.log2(max(tiles, 1))))
    return found


def _place_tensors(program: Program) -> tuple[dict[int, TensorPlace], int]:
    found: dict[int, TensorPlace] = {}
    size = 0
    for stage in program.stages:
        for op in stage.operations:
            if op.code is Code.POOL:
                tensor = program.tensors[op.slot]
                before, behind = (op.grid.height * op.grid.width) ** 2, (tensor.height * tensor.width) ** 2
                parts = 1 + op.tangent
                sources = tuple(size + part * before for part in range(parts))
                size += parts * before
                found[op.slot] = TensorPlace(sources, tuple(size + part * behind for part in range(parts)))
                size += parts * behind
    return found, size


def _even(count: int) -> int:
    """Round up to an even number: pairs of statistics are read at once."""
    return count + count % 2
