"""The lowered form of networks: plain arrays that an interpreter reads, on any device.

A program runs one pair of images through *stages*. Within a stage no operation mixes offsets (the difference
of the two positions), so a stage visits its offsets one by one and runs all its operations on that offset's
plane while it sits in cache. Registers hold planes; a register is a covariance plane S and, where a
read-out needs it, a tangent plane T (the NTK accumulated so far). *Slots* carry what a stage reduces to one
number per pair to the next stage, whose planes are 1 x 1.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

Array = np.ndarray


class Code(IntEnum):
    """What one operation does; ``S, T`` are its source register's planes, primes mark its target's."""

    INPUT = 0
    """``S' = scale * sum_c x z``, ``T' = 0``."""
    LOAD = 1
    """``S', T'`` = the pair of sums in ``slot``."""
    LINEAR = 2
    """``S' = scale * window_sum(S) + bias``, ``T' = scale * window_sum(T) + own * S'``."""
    RELU = 3
    """``S' = k1(rho) * gains``, ``T' = k0(rho) / 2 * T``."""
    LINEAR_RELU = 4
    """LINEAR, then RELU, row by row."""
    REDUCE = 5
    """``slot += scale * (sum of S, sum of T)``."""
    OUTPUT = 6
    """Read-out ``slot`` = S or, where ``tangent`` is set, T."""


@dataclass(frozen=True)
class Operation:
    """One instruction of a stage.

    Attributes
    ----------
    code : what to do.
    source, target : registers; -1 where there is none.
    activation : index of the stage's activation, which picks the standard deviations; -1 where there is none.
    window : filter height and width in pixels.
    slot : slot of LOAD and REDUCE, read-out of OUTPUT; -1 elsewhere.
    tangent : whether T is needed from here on.
    scale, bias, own : see `Code`; ``own`` is 1 where the layer's own weights are trained.
    """

    code: Code
    source: int = -1
    target: int = -1
    activation: int = -1
    window: tuple[int, int] = (1, 1)
    slot: int = -1
    tangent: bool = True
    scale: float = 1.0
    bias: float = 0.0
    own: float = 0.0


@dataclass(frozen=True)
class Stage:
    """Operations at one spatial size.

    Attributes
    ----------
    height, width : of the images here, in pixels.
    operations : in order of execution.
    offsets : (k, 2) int64, the offsets (row, column) to visit; the first is (0, 0).
    marks : (operations, k) bool, which operation runs at which offset.
    register_count, activation_count, halo : what the interpreter allocates; ``halo`` is the rim of zeros in pixels.
    """

    height: int
    width: int
    operations: tuple[Operation, ...]
    offsets: Array
    marks: Array
    register_count: int
    activation_count: int
    halo: int

    @property
    def codes(self) -> Array:
        """The integer half of the operations, (operations, 8) int64: the fields in order, tangent last."""
        rows = [
            (op.code, op.source, op.target, op.activation, *op.window, op.slot, op.tangent) for op in self.operations
        ]
        return np.array(rows, np.int64).reshape(-1, 8)

    @property
    def params(self) -> Array:
        """The real half of the operations, (operations, 3) float64: scale, bias, own."""
        return np.array([(op.scale, op.bias, op.own) for op in self.operations], np.float64).reshape(-1, 3)

    @property
    def plane_entries(self) -> int:
        """Count the plane entries per pair that linear layers and activations visit; a fused pair counts once."""
        areas = (self.height - np.abs(self.offsets[:, 0])) * (self.width - np.abs(self.offsets[:, 1]))
        heavy = np.array([op.code in (Code.LINEAR, Code.RELU, Code.LINEAR_RELU) for op in self.operations])
        return int(self.marks[heavy].sum(0) @ areas)


@dataclass(frozen=True)
class Program:
    """What to compute for a pair of images.

    Attributes
    ----------
    input_shape : (H, W, C) of the images; vectors are 1 x 1 images.
    stages : from the images to the read-outs.
    slot_count, readout_count : numbers per pair that pass between stages, and that come out.
    """

    input_shape: tuple[int, int, int]
    stages: tuple[Stage, ...]
    slot_count: int
    readout_count: int

    @property
    def plane_entries(self) -> int:
        """Count the plane entries per pair over all stages: what the time of a pair is proportional to."""
        return sum(stage.plane_entries for stage in self.stages)
