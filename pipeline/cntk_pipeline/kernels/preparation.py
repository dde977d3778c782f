"""What duals need to know of images: the variances of every position, layer by layer, and what follows from them."""

import numpy as np

from cntk_pipeline.errors import NotAccurate, NotFinite
from cntk_pipeline.kernels.attention import mix_rows, pair_index
from cntk_pipeline.kernels.interpreter import transpose_lanes
from cntk_pipeline.kernels.lanes import LANES
from cntk_pipeline.kernels.machine import Block, Machine, aligned_zeros, plane_count
from cntk_pipeline.kernels.program import Array, Code, Operation, Stage
from cntk_pipeline.kernels.tables import Statistics
from cntk_pipeline.kernels.variances import BELOW, BEYOND, TINY, run_variances
from cntk_pipeline.kernels.weighing import Place, plane_function, statistics_function
from cntk_pipeline.layers import ClosedForm, Series
from cntk_pipeline.layers.presence import Gate
from cntk_pipeline.layers.rectifiers import AbsDifference


class Preparation:
    """Prepares images for a machine.

    Parameters
    ----------
    machine : Machine
        Its tensors and sums are overwritten.
    exact : Machine, optional
        A machine of the same program in float64, which prepares what lies behind differences of positions. The
        deviation of a difference is the root of what is left of a variance. In float32, half of its digits are too few:
        where neighbours are nearly equal, values were off by 2e-5.
    """

    def __init__(self, machine: Machine, exact: Machine | None = None) -> None:
        self._machine = machine
        self._exact = None if exact is None else Preparation(exact)
        self._refined = _behind_differences(machine)
        planes = max(map(plane_count, machine.program.stages))
        self._planes = aligned_zeros((planes,), np.dtype(np.float64))
        self._ring = aligned_zeros((machine.memory.ring.size,), np.dtype(np.float64))

    def group_statistics(self, x: Array, statistics_out: Array, rows: Array) -> None:
        """Compute the statistics of left images ``(n, C, H, W)``, image by image, into rows of ``(.., statistics)``."""
        for start in range(0, len(x), LANES):
            block = self.prepare(x[start : start + LANES])
            transpose_lanes(block.statistics, statistics_out, rows[start : start + LANES])

    def prepare(self, x: Array) -> Block:
        """Compute what duals need to know of up to 16 images ``(n, C, H, W)``."""
        pixels = aligned_zeros((int(np.prod(x.shape[1:])), LANES), self._machine.dtype)
        pixels[:, : len(x)] = x.reshape(len(x), -1).T
        block = Block(pixels, aligned_zeros((self._machine.statistics_size, LANES), self._machine.dtype), len(x))
        self._weigh_positions(block, x)
        self._machine.memory.tensors[:] = 0
        self._machine.memory.sums[:] = 0
        first = 0
        for s, stage in enumerate(self._machine.program.stages):
            last = first + len(stage.operations)
            if stage.knows_variances:
                self._run_stage_variances(s, stage, first, last, block)
            if len(stage.self_visits.offsets):
                self._machine.run_stage_of_self(block, s)
            first = last
        if self._exact is not None:
            block.statistics[self._refined] = self._exact.prepare(x).statistics[self._refined]
        return block

    def _weigh_positions(self, block: Block, x: Array) -> None:
        """Write how each gate weighs the positions of images, and which steps are there for recurrent layers."""
        for k, found in self._machine.layout.items():
            op = self._machine.operations[k]
            gate = Gate("present", op.present) if op.code is Code.RECUR and op.present is not None else op.gate
            if gate is not None:
                weights = gate.evaluate(x[:, -1] > 0, (found.height, found.width))
                last = found.start + (found.count - 1) * found.area
                block.statistics[last : last + found.area, : len(x)] = weights.reshape(len(x), -1).T

    def _run_stage_variances(self, s: int, stage: Stage, first: int, last: int, block: Block) -> None:
        """Compute the statistics of one stage, in pieces between which Python expands series."""
        weigh, statistics = self._variance_addresses(first, last)
        loaded = self._loaded_variances(first, last)
        place = np.zeros(len(Place), np.int64)
        row = self._machine.visits.stages[s]
        numbers = np.finfo(self._machine.dtype)
        begin, wrong = first, 0
        for k in range(first, last):
            op = self._machine.operations[k]
            if op.code is Code.ATTEND:
                wrong |= self._expand_attention(op, self._machine.layout[k], block, self._present(op, block))
            if k + 1 == last or isinstance(op.function, Series):
                wrong |= run_variances(
                    self._machine.tables,
                    row,
                    begin,
                    k + 1,
                    weigh,
                    statistics,
                    block.pixels.reshape(-1),
                    loaded,
                    np.ascontiguousarray(self._machine.memory.sums[:, 0]),
                    self._planes,
                    self._ring,
                    place,
                    float(numbers.max),
                    float(numbers.tiny),
                    block.count,
                    block.statistics.reshape(-1, LANES),
                )
                begin = k + 1
            if isinstance(op.function, Series):
                wrong |= self._expand_series(op.function, op, stage, self._machine.layout[k], block)
        _require_range(block.statistics[:, : block.count], self._inverse_deviations(first, last), stage, wrong)

    def _variance_addresses(self, first: int, last: int) -> tuple[Array, Array]:
        weigh, statistics = np.zeros((2, len(self._machine.operations)), np.int64)
        for k in range(first, last):
            op = self._machine.operations[k]
            if op.code is Code.WEIGH:
                weigh[k] = plane_function(None, op.is_plain_3x3, False, False, False, "float64").address
            if op.code in (Code.WEIGH, Code.RECUR) and isinstance(op.function, ClosedForm):
                statistics[k] = statistics_function(type(op.function), self._machine.dtype.name).address
        return weigh, statistics

    def _loaded_variances(self, first: int, last: int) -> Array:
        """Read from the tensors of the images with themselves the variances that a stage's LOADs begin with."""
        loads = [k for k in range(first, last) if self._machine.operations[k].code is Code.LOAD]
        size = max((op.grid.height * op.grid.width for op in self._machine.operations), default=1) * LANES
        loaded = np.zeros((last if loads else 0, size))
        for k in loads:
            slot = self._machine.operations[k].slot
            tensor = self._machine.program.tensors[slot]
            zero = (0, 0) if tensor.circular else (tensor.height - 1, tensor.width - 1)
            begin = (self._machine.tables.tensors[slot, 0] + tensor.starts[zero]) * LANES
            count = tensor.height * tensor.width * LANES
            loaded[k, :count] = self._machine.memory.tensors[begin : begin + count]
        return loaded

    def _expand_series(self, function: Series, op: Operation, stage: Stage, found: Statistics, block: Block) -> int:
        """Write a series' statistics, and the variances behind it into the target's plane; see `run_variances`."""
        width = (stage.width + 2 * stage.halo) * LANES
        height = stage.height + stage.halo
        plane = self._planes[op.target * height * width : (op.target + 1) * height * width].reshape(height, width)
        begin, end = stage.halo * LANES, (stage.halo + found.width) * LANES
        # Where the mean over positions is 0, rounding makes the variance behind a pooling negative.
        variance = np.maximum(plane[: found.height, begin:end].reshape(found.height, found.width, LANES), 0)
        rows = block.statistics[found.start : found.start + (2 + function.terms) * found.area]
        if op.code is Code.RECUR:
            last = block.statistics[found.start + (found.count - 1) * found.area :][: found.area]
            present = last.astype(np.float64).reshape(variance.shape) if op.present is not None else None
            scale, series, behind = _expand_steps(function, op, variance, present)
        else:
            scale, series, behind = _expand(function, variance)
        least = 1e-3 * TINY ** (1 / function.terms)  # of larger variances, no power of the series is lost
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused where it is read out
            largest = variance.max((0, 1))
            is_lost = (largest > 0) & (largest < least) & (behind.max((0, 1)) == 0)
            rows[: 2 * found.area].reshape(2, found.area, LANES)[:] = scale.reshape(found.area, LANES)
            rows[2 * found.area :] = series.reshape(-1, LANES)
        plane[: found.height, begin:end] = behind.reshape(found.height, -1)
        return BELOW if is_lost[: block.count].any() else 0

    def _present(self, op: Operation, block: Block) -> Array | None:
        """Tell which positions of images are there, (positions, lanes) bool; None where all are."""
        if op.present is None:
            return None
        height, width, _ = self._machine.program.input_shape
        of_input = block.pixels[-height * width :].T.reshape(LANES, height, width) > 0
        of_input[block.count :] = True  # a softmax over nothing is no number
        present: Array = op.present.select(of_input, (op.target_grid.height, op.target_grid.width))
        return present.reshape(LANES, -1).T

    def _expand_attention(self, op: Operation, found: Statistics, block: Block, present: Array | None) -> int:
        """Write the attention of images from their covariances with themselves; see `run_variances`."""
        if op.mixing is None:
            raise TypeError(f"{op} is no attention")
        index = pair_index(self._machine.program.tensors[op.keys])
        tensor = self._machine.memory.tensors.reshape(-1, LANES)[self._machine.tables.tensors[op.keys, 0] :]
        attention = mix_rows(op.scale * tensor[index].astype(np.float64), op.mixing, present)
        block.statistics[found.start : found.start + found.area] = attention.reshape(found.area, LANES)
        # No covariance behind it is larger than this: a softmax keeps the size of values, other functions do not.
        begin, size = self._machine.tables.tensors[op.other, :2]
        values = self._machine.memory.tensors.reshape(-1, LANES)[begin : begin + size].max(0).astype(np.float64)
        deviations, weights = np.sqrt(np.maximum(values, 0)), np.abs(attention).sum(1).max(0)
        is_there = (weights > 0) & (deviations > 0)
        is_below = is_there & (weights * deviations < float(np.finfo(self._machine.dtype).tiny) ** 0.5)
        return BELOW if is_below[: block.count].any() else 0

    def _inverse_deviations(self, first: int, last: int) -> list[slice]:
        """List where a stage's inverse deviations lie."""
        found = []
        for k in range(first, last):
            function = self._machine.operations[k].function
            if function is not None:
                begin = self._machine.layout[k].start
                found.append(slice(begin, begin + self._machine.layout[k].area))
        return found


def _expand(function: Series, variance: Array) -> tuple[Array, Array, Array]:
    """Expand a series at variances ``(height, width, lanes)``; return the variances behind it besides."""
    scale, series = function.expand(variance)
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused where it is read out
        powers = (variance * scale * scale) ** np.arange(function.terms).reshape(-1, 1, 1, 1)
        return scale, series, np.sum(series**2 * powers, axis=0)


def _expand_steps(
    function: Series, op: Operation, variance: Array, present: Array | None
) -> tuple[Array, Array, Array]:
    """Do the same step by step: to the variance of a step comes what the step before it hands on.

    ``present`` is 1 at the steps that are there, of the shape of ``variance``; None means all.
    """
    numbers = range(variance.shape[1])
    expanded: list[tuple[Array, Array, Array]] = []
    for j in reversed(numbers) if op.backward else numbers:
        before = expanded[-1][2] if expanded else 0.0
        scale, series, behind = _expand(function, variance[:, j : j + 1] + op.recurrence * before)
        expanded.append((scale, series, behind if present is None else behind * present[:, j : j + 1]))
    if op.backward:
        expanded.reverse()
    scale, series, behind = (np.concatenate(parts, axis=-2) for parts in zip(*expanded, strict=True))
    return scale, series, behind


def _behind_differences(machine: Machine) -> Array:
    """Tell which statistics are of a difference of positions, or behind one, (statistics,) bool.

    The others stay those of the planes' dtype, so that the bits of a read-out do not depend on which others there are.
    """
    behind = np.zeros(machine.statistics_size, np.bool_)
    found: dict[int, bool] = {}
    passed: dict[tuple[bool, int], bool] = {}
    for k, op in enumerate(machine.operations):
        is_sum = op.code in (Code.LOAD_SUM, Code.REDUCE)
        is_behind = found.get(op.source, False) or isinstance(op.function, AbsDifference)
        if op.code in (Code.ADD, Code.MULTIPLY):
            is_behind |= found.get(op.other, False)
        elif op.code in (Code.LOAD, Code.LOAD_SUM):
            is_behind = passed.get((is_sum, op.slot), False)
        elif op.code is Code.INPUT:
            is_behind = False
        elif op.code is Code.ATTEND:
            is_behind = passed.get((False, op.other), False) or passed.get((False, op.keys), False)
        if op.code in (Code.POOL, Code.REDUCE, Code.ATTEND):
            passed[is_sum, op.slot] = is_behind
        if op.target >= 0:
            found[op.target] = is_behind
        if k in machine.layout:
            place = machine.layout[k]
            behind[place.start : place.start + place.count * place.area] = is_behind
    return behind


def _require_range(statistics: Array, inverses: list[slice], stage: Stage, wrong: int) -> None:
    """Refuse variances that overflow or lose their digits, and deviations whose inverses overflow.

    The correlation would be wrong, not infinite.

    Raises
    ------
    NotFinite, NotAccurate
        With the layer's size.
    """
    numbers = np.finfo(statistics.dtype)
    if wrong & BEYOND:
        raise NotFinite(
            f"an image has a variance above {numbers.max:.0e}, or a sum of them, before or in a layer of "
            f"{stage.height} x {stage.width}, too large for {statistics.dtype}: scale the images or w_std down"
            f"{_or_float64(statistics)}"
        )
    smallest = numbers.tiny**0.5
    if any(np.any(statistics[place] > 1 / smallest) for place in inverses):
        raise NotAccurate(
            f"an image has a standard deviation below {smallest:.0e} in a layer of {stage.height} x {stage.width}, "
            f"too small for {statistics.dtype}: scale the images or raise w_std{_or_float64(statistics)}"
        )
    if wrong & BELOW:
        raise NotAccurate(
            f"before or in a layer of {stage.height} x {stage.width}, the variances of an image, or what they are "
            f"multiplied by, are not 0 and below {numbers.tiny:.0e}, too small for {statistics.dtype}: scale the "
            f"images or raise w_std{_or_float64(statistics)}"
        )


def _or_float64(statistics: Array) -> str:
    return "" if statistics.dtype == np.float64 else ", or use float64"
