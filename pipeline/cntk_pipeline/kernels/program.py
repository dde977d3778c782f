"""The lowered form of networks: what an interpreter does for a pair of images, on any device.

A program runs a pair through *stages*. Within a stage no operation mixes offsets (the difference of the two
positions), so a stage visits its offsets one by one and runs all its operations on that offset's plane while it sits
in cache. Registers hold planes; a register is a covariance plane S and, where a read-out needs it, a tangent plane T
(the NTK accumulated so far). Poolings do mix offsets, and end a stage: they add planes to a *tensor*, the covariances
of the pooled images, or, where one number per pair is left, to a *sum*.

Behind a convolution of stride s a plane of offset D belongs to the one of offset s D before it, so strides do not end
a stage; its deeper planes are visited at multiples of the stride alone. In *circular* stages offsets are taken modulo
the image's size, and every plane is whole.
"""

from dataclasses import dataclass, field
from enum import IntEnum, unique

import numpy as np

from cntk_pipeline.layers import Pointwise, Presence, Windows
from cntk_pipeline.layers.presence import Gate
from cntk_pipeline.layers.rectifiers import AbsDifference

Array = np.ndarray


@unique
class Code(IntEnum):
    """What one operation does; ``S, T`` are its source register's planes, primes mark its target's."""

    INPUT = 0
    """``S' = scale * sum_c x z``; ``T' = 0`` where something else than WEIGH reads it."""
    LOAD = 1
    """``S', T'`` = a plane of the tensor in ``slot``."""
    LOAD_SUM = 2
    """``S', T'`` = the sums in ``slot``, at each position."""
    WEIGH = 3
    """``S' = scale * window_sum(S) + bias``, ``T' = scale * window_sum(T) + own * S' + extra``; then ``function``."""
    APPLY = 10
    """A function alone, before it is fused into WEIGH."""
    ADD = 4
    """``S' = S1 + S2``, ``T' = T1 + T2``."""
    MULTIPLY = 11
    """``S' = S1 S2``, ``T' = T1 S2 + S1 T2``."""
    RECUR = 13
    """Along a row ``H = recurrence S'_before + scale S + bias`` with S' = ``function`` of H, and T' likewise."""
    GATE = 14
    """``S' = g_x(p) g_z(p') S``, T' likewise, with g of the positions of each input that are there; see `Gate`."""
    MASK = 5
    """At offset 0 of a sample with itself, ``S' = scale * S``, ``T' = scale * T``."""
    EMBED = 12
    """``S' = S + scale * correlation(offset)``, ``T' = T + own * scale * correlation(offset)``."""
    POOL = 6
    """``tensor += window sums of both positions of (S, T)``."""
    REDUCE = 7
    """``sum += scale * weighted sum of (S, T)``."""
    ATTEND = 8
    """Make the tensor in ``slot`` from the one in ``other``, mixing positions by the images' attention."""
    OUTPUT = 9
    """Read-out ``slot`` = S or, where ``tangent`` is set, T."""
    AGGREGATE = 15
    """``S' = A_x S A_z^T`` between the nodes of graphs, T' likewise; `node_program` alone."""


@dataclass(frozen=True)
class Grid:
    """The positions of a result.

    Attributes
    ----------
    height, width : int
        In pixels.
    step : (int, int)
        Offsets of the stage, in rows and columns, from one offset here to the next: the strides so far.
    """

    height: int
    width: int
    step: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class Mixing:
    """What the attention of an image is of its logits; see `Attend`."""

    mechanism: str = "softmax"
    plus_identity: bool = False


@dataclass(frozen=True)
class AxisTerms:
    """How a pooling adds planes up along one axis; see `pool_plane`.

    Attributes
    ----------
    bounds : int64 array, (offsets + 1,)
        The terms of an offset are those from its bound to the next, by pooled offset.
    terms : int64 array, (terms, 4)
        Index of the pooled offset, position there, first position here, the one behind the last.
    weights : float64 array, (terms,)
    pooled_count : int
        Pooled offsets.
    """

    bounds: Array
    terms: Array
    weights: Array
    pooled_count: int

    @property
    def couples(self) -> Array:
        """Which offsets here add to which pooled offsets, (offsets, pooled offsets) bool."""
        found = np.zeros((len(self.bounds) - 1, self.pooled_count), bool)
        found[np.repeat(np.arange(len(found)), np.diff(self.bounds)), self.terms[:, 0]] = True
        return found


@dataclass(frozen=True)
class Operation:
    """One instruction of a stage.

    Attributes
    ----------
    code : Code
        What to do.
    source, other, target : int
        Registers; -1 where there is none. Of ATTEND, ``other`` is the tensor of the values.
    keys : int
        Of ATTEND, the tensor whose covariances of an image with itself are the logits; -1 elsewhere.
    slot : int
        Tensor of LOAD, POOL and ATTEND, sum of LOAD_SUM and REDUCE, read-out of OUTPUT; -1 elsewhere.
    tangent : bool
        Whether T is needed from here on.
    grid, target_grid : Grid
        Positions of the source and of the target.
    windows : (Windows, Windows), optional
        Of rows and of columns, for WEIGH.
    function : Pointwise, optional
        The activation of WEIGH, or None; that of RECUR.
    terms : (AxisTerms, AxisTerms), optional
        Of rows and of columns, for POOL.
    weights : tuple of array, optional
        Of rows and of columns for REDUCE, each (offsets, positions) float64; for EMBED the correlation alone, (row
        offsets, column offsets).
    mixing : Mixing, optional
        Of ATTEND, how logits become attention.
    begins : bool
        Whether T of the source is zero and not written: WEIGH or RECUR of the images themselves.
    masked : bool
        Whether a MASK lies before, so that equal images are no longer the same.
    present : Presence, optional
        Of INPUT, RECUR and ATTEND, which positions are there, where some may be absent.
    gate : Gate, optional
        Of GATE, how they are weighed.
    node : int
        The number of the graph's node that it begins with; -1 for LOAD and OUTPUT.
    scale, bias, own, extra : float
        See `Code`; ``own`` is 1 where the layer's own weights are trained in the NTK parameterisation, and ``extra`` 0.
        Of ATTEND, ``scale`` is the factor of the logits.
    recurrence, backward
        Of RECUR: the variance of the weights between steps, and whether the last step comes first.
    """

    code: Code
    source: int = -1
    other: int = -1
    keys: int = -1
    target: int = -1
    slot: int = -1
    tangent: bool = True
    grid: Grid = Grid(1, 1)
    target_grid: Grid = Grid(1, 1)
    windows: tuple[Windows, Windows] | None = None
    function: Pointwise | None = None
    terms: tuple[AxisTerms, AxisTerms] | None = field(default=None, compare=False)
    weights: tuple[Array, ...] | None = field(default=None, compare=False)
    mixing: Mixing | None = None
    begins: bool = False
    masked: bool = False
    present: Presence | None = None
    gate: Gate | None = None
    node: int = field(default=-1, compare=False)
    scale: float = 1.0
    bias: float = 0.0
    own: float = 0.0
    extra: float = 0.0
    recurrence: float = 0.0
    backward: bool = False

    @property
    def window(self) -> tuple[int, int]:
        """Height and width of the window in pixels."""
        return (1, 1) if self.windows is None else (self.windows[0].window, self.windows[1].window)

    @property
    def mixes(self) -> bool:
        """Whether it averages over positions, so that roundings of float32 average out as well."""
        return self.window != (1, 1) and (self.grid.height, self.grid.width) != (1, 1)

    @property
    def is_circular(self) -> bool:
        """Whether windows reach around the image."""
        return self.windows is not None and self.windows[0].circular

    @property
    def is_plain_3x3(self) -> bool:
        """Whether windows are 3 x 3 around every pixel, zeros outside: the case with a loop of its own."""
        return self.windows is not None and all(
            w.window == 3 and w.stride == 1 and w.before == 1 and w.count == w.size and not w.circular
            for w in self.windows
        )


@dataclass(frozen=True)
class Visits:
    """Which operations run at which offsets.

    Attributes
    ----------
    offsets : int64 array, (k, 2)
        The offsets (row, column) to visit, (0, 0) first where it is among them.
    marks : bool array, (operations, k)
    """

    offsets: Array
    marks: Array


@dataclass(frozen=True)
class Stage:
    """Operations between two poolings.

    Attributes
    ----------
    height, width : int
        Of the images where the stage begins, in pixels.
    circular : bool
        Whether offsets are taken modulo the size.
    operations : tuple of Operation
        In order of execution.
    visits : Visits
        For pairs of images.
    self_visits : Visits
        For an image with itself, as far as later stages need its variances.
    register_count, halo : int
        What the interpreter allocates; ``halo`` is the rim of zeros in pixels.
    knows_variances : bool
        Whether the variances of images are computed, for activations or to see that they have a size.
    """

    height: int
    width: int
    circular: bool
    operations: tuple[Operation, ...]
    visits: Visits
    self_visits: Visits
    register_count: int
    halo: int
    knows_variances: bool

    def areas(self, grid: Grid) -> Array:
        """Count the pixels of a grid's plane at each visited offset, (k,) int64."""
        if self.circular:
            return np.full(len(self.visits.offsets), grid.height * grid.width)
        dy, dx = np.abs(self.visits.offsets // np.array(grid.step)).T
        return np.maximum(grid.height - dy, 0) * np.maximum(grid.width - dx, 0)

    @property
    def plane_entries(self) -> int:
        """Count the plane entries per pair that weights and activations visit; a fused pair counts once."""
        return sum(
            int(marks @ self.areas(op.target_grid))
            for op, marks in zip(self.operations, self.visits.marks, strict=True)
            if op.code in (Code.WEIGH, Code.RECUR)
        )


@dataclass(frozen=True)
class Tensor:
    """The covariances of pooled images, plane by plane of the offsets that are needed.

    Attributes
    ----------
    starts : int64 array, (row offsets, column offsets)
        Pixels from the tensor's first to an offset's plane; -1 for none.
    widths : int64 array, (column offsets,)
        Pixels in a row of a plane.
    size : int
        Pixels in all.
    height, width, circular
        Of the pooled images.
    """

    starts: Array
    widths: Array
    size: int
    height: int
    width: int
    circular: bool


@dataclass(frozen=True)
class Program:
    """What to compute for a pair of images.

    Attributes
    ----------
    input_shape : (int, int, int)
        (H, W, C) of the images; vectors are 1 x 1 images.
    stages : tuple of Stage
        From the images to the read-outs.
    tensors : tuple of Tensor
        What passes between stages, beside sums.
    sum_count, readout_count : int
        Numbers per pair that pass between stages, and that come out.
    mirrors : bool
        Whether values stay the same when both images are flipped left to right.
    points : tuple of Point
        Where positions are compared one by one.
    """

    input_shape: tuple[int, int, int]
    stages: tuple[Stage, ...]
    tensors: tuple[Tensor, ...]
    sum_count: int
    readout_count: int
    mirrors: bool
    points: "tuple[Point, ...]" = ()

    @property
    def plane_entries(self) -> int:
        """Count the plane entries per pair over all stages: what the time of a pair is proportional to."""
        return sum(stage.plane_entries for stage in self.stages)

    @property
    def has_differences(self) -> bool:
        """Whether an activation is of differences of positions, whose variances have lost digits."""
        return any(isinstance(op.function, AbsDifference) for stage in self.stages for op in stage.operations)

    @property
    def is_padded(self) -> bool:
        """Whether a network takes absent positions: images have one channel more, 1 at pixels that are there."""
        return any(self._inputs)

    @property
    def takes_padding(self) -> bool:
        """Whether every network does."""
        return bool(self._inputs) and all(self._inputs)

    @property
    def takes_gaps(self) -> bool:
        """Whether every network takes absent pixels anywhere."""
        return bool(self._inputs) and all(present is not None and present.anywhere for present in self._inputs)

    @property
    def lies_at_end(self) -> bool:
        """Whether sequences lie with their last steps below each other."""
        return any(present is not None and present.at_end for present in self._inputs)

    @property
    def _inputs(self) -> list[Presence | None]:
        return [op.present for stage in self.stages for op in stage.operations if op.code is Code.INPUT]

    @property
    def presences(self) -> set[tuple[Presence, tuple[int, int]]]:
        """List the positions of which some of each input must be there, and how many rows and columns they have."""
        found = set()
        for op in (op for stage in self.stages for op in stage.operations):
            present = op.gate.present if op.gate is not None and op.gate.windows is None else op.present
            if present is not None:
                found.add((present, (op.target_grid.height, op.target_grid.width)))
        return found

    @property
    def pixel_count(self) -> int:
        """Count the numbers of an image, with those that say which pixels are there."""
        height, width, channels = self.input_shape
        return height * width * (channels + self.is_padded)

    @property
    def is_masked(self) -> bool:
        """Whether a sample with itself differs from two samples with equal images."""
        return any(op.code is Code.MASK for stage in self.stages for op in stage.operations)


@dataclass(frozen=True)
class Point:
    """Where positions of two images are compared one by one; see `kernels.points`.

    Attributes
    ----------
    program : Program
        Its only read-out is the sum over positions of how steep a slope may be there.
    readouts : tuple of int
        Of the whole program, those behind the point.
    """

    program: Program
    readouts: tuple[int, ...]
