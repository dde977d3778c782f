"""Runs a program on a tile of pairs of images.

Memory is bounded whatever the tile: right images go through in blocks of one lane width, left images in groups that
fit into `GROUP_BYTES`, and what the duals need to know of them is computed on the way.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.errors import LayerError, NotFinite
from pipeline.kernels.attention import pair_index, softmax_rows
from pipeline.kernels.interpreter import Memory, run_group, transpose_lanes
from pipeline.kernels.lanes import LANES
from pipeline.kernels.program import Array, Code, Operation, Program, Stage
from pipeline.kernels.tables import Statistics, lay_out_statistics, make_tables, make_visit_tables
from pipeline.kernels.variances import run_variances
from pipeline.kernels.weighing import Place, attention_function, input_function, plane_function, statistics_function
from pipeline.layers import ClosedForm, Series

GROUP_BYTES = 16 * 2**20
"""Memory for what is known of a group of left images; the larger, the fewer times right images are prepared."""

NUMERICS_VERSION = 2
"""Raised by hand whenever the values change in any bit; a run directory of another version is refused."""

EQUAL, ITSELF = 1, 2
"""How much a pair of images is the same: their values, or one sample."""


@dataclass(frozen=True)
class _Block:
    """Up to 16 images with what duals need to know of them; empty lanes hold zeros.

    Attributes
    ----------
    pixels : (C H W, lanes).
    statistics : (statistics, lanes).
    count : images.
    """

    pixels: Array
    statistics: Array
    count: int


class Engine:
    """A program with the memory to run it: for one thread at a time.

    Parameters
    ----------
    program : what to compute for each pair.
    dtype : "float32" or "float64", of images, planes and results.
    flips : average each value with that of the right image flipped left to right: ``(K(x, z) + K(x, flip z)) / 2``,
        the kernel that training on all flips as well amounts to (Li et al. 2019, section 4).

    Raises
    ------
    LayerError
        If the dtype is another, or flips are asked for and the network tells left from right.
    """

    def __init__(self, program: Program, dtype: npt.DTypeLike = "float32", flips: bool = False) -> None:
        try:
            self.dtype = np.dtype(dtype)
        except TypeError:
            raise LayerError(f'kernels are computed in "float32" or "float64", got dtype={dtype!r}') from None
        if self.dtype.name not in ("float32", "float64"):
            raise LayerError(f'kernels are computed in "float32" or "float64", got dtype={dtype!r}')
        if flips and not program.mirrors:
            raise LayerError(
                "averaging over flips needs a network that does not tell left from right: use odd windows, and strides "
                "and poolings whose windows lie the same seen from either side"
            )
        self.program = program
        self.flips = flips
        self._operations = [op for stage in program.stages for op in stage.operations]
        self._layout = {found.operation: found for found in lay_out_statistics(program)}
        self._tables = make_tables(program, self.dtype)
        self._visits = make_visit_tables(program, of_self=False)
        self._self_visits = make_visit_tables(program, of_self=True)
        self._memory = _allocate(program, self.dtype)
        self._exact_planes = aligned_zeros((max(map(_plane_count, program.stages)),), np.dtype(np.float64))
        self._exact_ring = aligned_zeros((self._memory.ring.size,), np.dtype(np.float64))
        self._functions = self._addresses(by_lane=False)
        self._statistics_size = sum(found.count * found.area for found in self._layout.values())
        self._has_circular = any(stage.circular for stage in program.stages)
        self._ranges = self._raised_ranges()

    @property
    def group_size(self) -> int:
        """The number of left images that are prepared at once."""
        return group_size(self.program, self.dtype.itemsize)

    def evaluate(self, left: Array, right: Array | None = None) -> Array:
        """Evaluate all read-outs for all pairs.

        Equal images count as the same image, wherever they come from: their correlation is exactly 1. A pair's
        bits do not depend on the other images in the call. Only without ``right`` are there pairs of one sample
        with itself, for which `Dropout` uses one mask.

        Parameters
        ----------
        left, right : ``(n, H, W, C)`` or ``(n, features)``; without ``right``, ``left`` against itself.

        Returns
        -------
        (readouts, n_left, n_right) array of the engine's dtype.

        Raises
        ------
        LayerError
            If the images are not of the program's shape.
        NotFinite
            If a value is not finite, with the pair.
        """
        x = self._planar(left)
        z = x if right is None else self._planar(right)
        values = self._evaluate(x, z, symmetric=right is None, one_sample=right is None)
        if self.flips:
            flipped = self._evaluate(x, np.ascontiguousarray(z[..., ::-1]), symmetric=right is None, one_sample=False)
            values = (values + flipped) * values.dtype.type(0.5)
        _require_finite(values)
        return values

    def _evaluate(self, x: Array, z: Array, symmetric: bool, one_sample: bool) -> Array:
        """Evaluate all pairs of ``(n, C, H, W)``; where the result is ``symmetric``, the lower triangle, mirrored."""
        values = np.empty((self.program.readout_count, len(x), len(z)), self.dtype)
        x_keys, z_keys = _contents(x), _contents(z)
        size = self.group_size
        raised = aligned_zeros((self._right_size * LANES,), self.dtype)
        for top in range(0, len(x), size):
            group = x[top : top + size]
            statistics = self._group_statistics(group)
            pixels = np.ascontiguousarray(group.reshape(len(group), -1))
            stop = min(top + size, len(x)) if symmetric else len(z)
            for start in range(0, stop, LANES):
                block = self._prepare(z[start : start + LANES])
                count = min(LANES, len(z) - start)
                same = np.zeros((len(group), LANES), np.int8)
                same[:, :count] = EQUAL * (x_keys[top : top + size, None] == z_keys[start : start + count])
                if one_sample:
                    same[np.arange(top, top + len(group))[:, None] == np.arange(start, start + LANES)] = ITSELF
                first = max(0, start - top) if symmetric else 0
                readouts = np.zeros((len(group), self.program.readout_count, LANES))
                run_group(
                    self._tables,
                    self._visits,
                    self._functions,
                    (pixels, statistics),
                    1,
                    self._as_right(block),
                    raised,
                    self._ranges,
                    same,
                    first,
                    True,
                    self._memory,
                    readouts,
                )
                found = readouts[first:, :, :count].transpose(1, 0, 2)
                values[:, top + first : top + len(group), start : start + count] = found
        if symmetric:
            upper = np.triu_indices(len(x), 1)
            values[:, upper[0], upper[1]] = values[:, upper[1], upper[0]]
        return values

    def evaluate_pairs(self, left: Array, right: Array | None = None) -> Array:
        """Evaluate all read-outs for the pairs of each left image with the right one of the same number.

        Parameters
        ----------
        left, right : ``(n, H, W, C)`` or ``(n, features)``; without ``right``, each image with itself: the diagonal
            of `evaluate`.

        Returns
        -------
        (readouts, n) array of the engine's dtype.
        """
        x = self._planar(left)
        z = x if right is None else self._planar(right)
        if len(x) != len(z):
            raise LayerError(f"pairs need as many left images as right ones, got {len(x)} and {len(z)}")
        values = self._evaluate_pairs(x, z, right is None)
        if self.flips:
            flipped = self._evaluate_pairs(x, np.ascontiguousarray(z[..., ::-1]), False)
            values = (values + flipped) * values.dtype.type(0.5)
        _require_finite(values)
        return values

    def _evaluate_pairs(self, x: Array, z: Array, one_sample: bool) -> Array:
        values = np.empty((self.program.readout_count, len(x)), self.dtype)
        for start in range(0, len(x), LANES):
            a, b = x[start : start + LANES], z[start : start + LANES]
            block = self._prepare(a)
            same = np.full(LANES, ITSELF, np.int8)
            if not one_sample:
                same[:] = 0
                same[: len(a)] = EQUAL * (_contents(a) == _contents(b))
            readouts = self._run_lanes(block, block if one_sample else self._prepare(b), same, False)
            values[:, start : start + len(a)] = readouts[:, : len(a)]
        return values

    def _planar(self, images: Array) -> Array:
        """Check images and return them as ``(n, C, H, W)`` of the engine's dtype."""
        shape = images.shape[1:] if images.ndim == 4 else (1, 1, *images.shape[1:])
        if shape != self.program.input_shape:
            raise LayerError(
                f"expected images of shape {self.program.input_shape}, got an array of shape {images.shape}"
            )
        return np.ascontiguousarray(images.reshape(len(images), *shape).transpose(0, 3, 1, 2), self.dtype)

    def _addresses(self, by_lane: bool) -> Array:
        """Compile the loops that the program uses, or load them from disk."""
        addresses, dtype = np.zeros(len(self._operations), np.int64), self.dtype.name
        for k, op in enumerate(self._operations):
            if op.code is Code.WEIGH:
                kind = None if op.function is None else type(op.function)
                addresses[k] = plane_function(kind, op.is_plain_3x3, op.tangent, by_lane, dtype).address
            elif op.code is Code.INPUT:
                addresses[k] = input_function(by_lane, dtype).address
            elif op.code is Code.ATTEND:
                addresses[k] = attention_function(by_lane, dtype).address
        return addresses

    def _raised_ranges(self) -> Array:
        """List where right statistics hold inverse deviations; see `raise_lanes`."""
        rows = []
        for k, found in self._layout.items():
            op = self._operations[k]
            if isinstance(op.function, ClosedForm) and op.function.clipped >= 0:
                begin = found.right_start + op.function.clipped * found.right_area
                rows.append((begin, begin + found.right_area, ITSELF if op.masked else EQUAL))
        return np.array(rows, np.int64).reshape(-1, 3)

    @property
    def _right_size(self) -> int:
        return sum(found.count * found.right_area for found in self._layout.values())

    def _group_statistics(self, x: Array) -> Array:
        """Compute the statistics of left images ``(n, C, H, W)``, image by image: ``(n, statistics)``."""
        statistics = np.empty((len(x), self._statistics_size), self.dtype)
        for start in range(0, len(x), LANES):
            transpose_lanes(self._prepare(x[start : start + LANES]).statistics, statistics[start : start + LANES])
        return statistics

    def _prepare(self, x: Array) -> _Block:
        """Compute what duals need to know of up to 16 images ``(n, C, H, W)``."""
        pixels = aligned_zeros((int(np.prod(x.shape[1:])), LANES), self.dtype)
        pixels[:, : len(x)] = x.reshape(len(x), -1).T
        block = _Block(pixels, aligned_zeros((self._statistics_size, LANES), self.dtype), len(x))
        self._memory.tensors[:] = 0
        self._memory.sums[:] = 0
        first = 0
        for s, stage in enumerate(self.program.stages):
            last = first + len(stage.operations)
            if any(k in self._layout for k in range(first, last)):
                self._run_stage_variances(s, stage, first, last, block)
            if len(stage.self_visits.offsets):
                same = np.full(LANES, ITSELF, np.int8)
                self._run_lanes(block, block, same, True, s)
            first = last
        return block

    def _run_stage_variances(self, s: int, stage: Stage, first: int, last: int, block: _Block) -> None:
        """Compute the statistics of one stage, in pieces between which Python expands series."""
        weigh, statistics = self._variance_addresses(first, last)
        loaded = self._loaded_variances(first, last)
        place = np.zeros(len(Place), np.int64)
        row = self._visits.stages[s]
        begin = first
        for k in range(first, last):
            op = self._operations[k]
            if op.code is Code.ATTEND:
                self._expand_attention(op, self._layout[k], block)
            if k + 1 == last or isinstance(op.function, Series):
                run_variances(
                    self._tables,
                    row,
                    begin,
                    k + 1,
                    weigh,
                    statistics,
                    block.pixels.reshape(-1),
                    loaded,
                    np.ascontiguousarray(self._memory.sums[:, 0]),
                    self._exact_planes,
                    self._exact_ring,
                    place,
                    block.statistics.reshape(-1, LANES),
                )
                begin = k + 1
            if isinstance(op.function, Series):
                self._expand_series(op.function, op, stage, self._layout[k], block)
        _require_range(block.statistics[:, : block.count], self._clipped(first, last), stage)

    def _variance_addresses(self, first: int, last: int) -> tuple[Array, Array]:
        weigh, statistics = np.zeros((2, len(self._operations)), np.int64)
        for k in range(first, last):
            op = self._operations[k]
            if op.code is Code.WEIGH:
                weigh[k] = plane_function(None, op.is_plain_3x3, False, False, "float64").address
                if isinstance(op.function, ClosedForm):
                    statistics[k] = statistics_function(type(op.function), self.dtype.name).address
        return weigh, statistics

    def _loaded_variances(self, first: int, last: int) -> Array:
        """Read from the tensors of the images with themselves the variances that a stage's LOADs begin with."""
        loads = [k for k in range(first, last) if self._operations[k].code is Code.LOAD]
        size = max((op.grid.height * op.grid.width for op in self._operations), default=1) * LANES
        loaded = np.zeros((last if loads else 0, size))
        for k in loads:
            slot = self._operations[k].slot
            tensor = self.program.tensors[slot]
            zero = (0, 0) if tensor.circular else (tensor.height - 1, tensor.width - 1)
            begin = (self._tables.tensors[slot, 0] + tensor.starts[zero]) * LANES
            count = tensor.height * tensor.width * LANES
            loaded[k, :count] = self._memory.tensors[begin : begin + count]
        return loaded

    def _expand_series(self, function: Series, op: Operation, stage: Stage, found: Statistics, block: _Block) -> None:
        """Write a series' statistics, and the variances behind it into the target's plane."""
        width = (stage.width + 2 * stage.halo) * LANES
        height = stage.height + stage.halo
        plane = self._exact_planes[op.target * height * width : (op.target + 1) * height * width].reshape(height, width)
        begin, end = stage.halo * LANES, (stage.halo + found.width) * LANES
        variance = plane[: found.height, begin:end].reshape(found.height, found.width, LANES)
        scale, series = function.expand(variance)
        rows = block.statistics[found.start : found.start + found.count * found.area]
        rows[: found.area] = scale.reshape(found.area, LANES)
        rows[found.area :] = series.reshape(-1, LANES)
        powers = (variance * scale * scale) ** np.arange(function.terms).reshape(-1, 1, 1, 1)
        plane[: found.height, begin:end] = np.sum(series**2 * powers, axis=0).reshape(found.height, -1)

    def _expand_attention(self, op: Operation, found: Statistics, block: _Block) -> None:
        """Write the attention of images from their covariances with themselves."""
        index = pair_index(self.program.tensors[op.other])
        tensor = self._memory.tensors.reshape(-1, LANES)[self._tables.tensors[op.other, 0] :]
        attention = softmax_rows(op.scale * tensor[index].astype(np.float64))
        block.statistics[found.start : found.start + found.area] = attention.reshape(found.area, LANES)

    def _as_right(self, block: _Block) -> tuple[Array, Array, Array]:
        """Lay out pixels and statistics of right images; circular stages find theirs twice in each direction."""
        pixels = block.pixels.reshape(-1)
        if not self._has_circular:
            return pixels, pixels, block.statistics.reshape(-1)
        height, width, channels = self.program.input_shape
        twice = np.tile(block.pixels.reshape(channels, height, width, LANES), (1, 2, 2, 1))
        statistics = aligned_zeros((self._right_size, LANES), self.dtype)
        for found in self._layout.values():
            values = block.statistics[found.start : found.start + found.count * found.area]
            if found.circular:
                values = np.tile(values.reshape(found.count, found.height, found.width, LANES), (1, 2, 2, 1))
            size = found.count * found.right_area
            statistics[found.right_start : found.right_start + size] = values.reshape(size, LANES)
        return pixels, np.ascontiguousarray(twice).reshape(-1), statistics.reshape(-1)

    def _run_lanes(
        self, left: _Block, right: _Block, same: Array, of_self: bool, only_stage: int | None = None
    ) -> Array:
        """Run pairs of images lane by lane; return the read-outs ``(readouts, lanes)`` float64."""
        visits = self._self_visits if of_self else self._visits
        if only_stage is not None:
            visits = visits._replace(stages=visits.stages[only_stage : only_stage + 1])
        readouts = np.zeros((1, self.program.readout_count, LANES))
        run_group(
            self._tables,
            visits,
            self._addresses(by_lane=True),
            (left.pixels.reshape(1, -1), left.statistics.reshape(1, -1)),
            LANES,
            self._as_right(right),
            aligned_zeros((self._right_size * LANES,), self.dtype),
            self._ranges,
            same.reshape(1, -1),
            0,
            only_stage is None,
            self._memory,
            readouts,
        )
        return readouts[0]

    def _clipped(self, first: int, last: int) -> list[slice]:
        """List where a stage's inverse deviations lie."""
        found = []
        for k in range(first, last):
            function = self._operations[k].function
            if isinstance(function, ClosedForm) and function.clipped >= 0:
                begin = self._layout[k].start + function.clipped * self._layout[k].area
                found.append(slice(begin, begin + self._layout[k].area))
        return found


def group_size(program: Program, item_bytes: int) -> int:
    """Return the number of left images that are prepared at once: what `GROUP_BYTES` hold, in whole blocks."""
    image = sum(found.count * found.area for found in lay_out_statistics(program)) * item_bytes
    blocks = GROUP_BYTES // max(1, image * LANES)
    return LANES * int(min(max(blocks, 1), 64))


def working_bytes(program: Program, item_bytes: int) -> int:
    """Bytes that an engine holds beside the images and results it is given: planes, tensors, a group, its tables."""
    image = sum(found.count * found.right_area for found in lay_out_statistics(program)) * item_bytes
    images = (group_size(program, item_bytes) + 4 * LANES) * image
    planes = max(map(_plane_count, program.stages)) * (2 * item_bytes + 8)
    tensors = 2 * sum(tensor.size for tensor in program.tensors) * LANES * item_bytes
    marks = sum(v.marks.size + 2 * v.offsets.size * 8 for s in program.stages for v in (s.visits, s.self_visits))
    return images + planes + tensors + marks


def _plane_count(stage: Stage) -> int:
    """Count the elements of a stage's registers, S alone."""
    return stage.register_count * (stage.height + stage.halo) * (stage.width + 2 * stage.halo) * LANES


def _allocate(program: Program, dtype: np.dtype) -> Memory:
    """Make scratch memory that suffices for every stage."""
    operations = [op for stage in program.stages for op in stage.operations]
    rows = max((max(2, op.window[0]) for op in operations), default=2)
    columns = max(stage.width + 2 * stage.halo for stage in program.stages)
    positions = max(op.target_grid.height * op.target_grid.width if op.code is Code.ATTEND else 0 for op in operations)
    return Memory(
        planes=aligned_zeros((2 * max(map(_plane_count, program.stages)),), dtype),
        ring=aligned_zeros((2 * rows * columns * LANES,), dtype),
        buffer=aligned_zeros((max(columns, positions) * LANES,), dtype),
        tensors=aligned_zeros((2 * sum(tensor.size for tensor in program.tensors) * LANES,), dtype),
        sums=np.zeros((program.sum_count, 2, LANES)),
        place=np.zeros(len(Place), np.int64),
        lanes=aligned_zeros((LANES,), dtype),
    )


def aligned_zeros(shape: tuple[int, ...], dtype: np.dtype) -> Array:
    """Allocate zeros at a multiple of 64 bytes, a cache line: lanes that straddle two lines load half as fast."""
    size_bytes = int(np.prod(shape)) * dtype.itemsize
    memory = np.zeros(size_bytes + 64, np.uint8)
    skip = -memory.ctypes.data % 64
    return memory[skip : skip + size_bytes].view(dtype).reshape(shape)


def _contents(x: Array) -> Array:
    """Give equal images equal keys: their bytes, as objects."""
    keys = np.empty(len(x), object)
    keys[:] = [image.tobytes() for image in x]
    return keys


def _require_range(statistics: Array, inverses: list[slice], stage: Stage) -> None:
    """Refuse standard deviations whose inverses' product overflows: the correlation would be wrong, not infinite."""
    smallest = np.finfo(statistics.dtype).tiny ** 0.5
    if any(np.any(statistics[place] > 1 / smallest) for place in inverses):
        raise NotFinite(
            f"an image has a standard deviation below {smallest:.0e} in a layer of {stage.height} x {stage.width}, "
            f"too small for {statistics.dtype}: scale the images or raise w_std, or use float64"
        )


def _require_finite(values: Array) -> None:
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        place = ", ".join(map(str, bad[0][1:]))
        raise NotFinite(
            f"read-out {bad[0][0]} is {values[tuple(bad[0])]} for pair ({place}) of this tile: "
            "the images or the network's w_std, b_std are out of range"
        )
