"""Runs a program on a tile of pairs of graphs, in float64 whatever the dtype of the results."""

import numpy as np
import numpy.typing as npt

from cntk_pipeline.errors import LayerError, NotAccurate, NotFinite
from cntk_pipeline.graphs import Graphs, unpack
from cntk_pipeline.kernels.base import Evaluator, is_all_small, mirror_lower, read_dtype, require_finite, require_scale
from cntk_pipeline.kernels.lanes import LANES
from cntk_pipeline.kernels.node_loops import (
    SLOT_GROUP,
    Left,
    NodeMemory,
    Passes,
    Right,
    gather_statistics,
    know_graphs,
    lay_out,
    run_block,
    run_self,
)
from cntk_pipeline.kernels.node_program import NodeEntry, NodeProgram
from cntk_pipeline.kernels.program import Array
from cntk_pipeline.kernels.variances import TINY
from cntk_pipeline.kernels.weighing import Place
from cntk_pipeline.layers import Series

CACHE_BYTES = 2**19
"""Of registers that a pass walks through: right graphs are taken together up to here, one at least."""

MOST_SLOTS = 8
"""Neighbours of a node that are added up by all columns together, most of which have fewer in a social graph."""

MOST_COLUMNS = 512
"""Of a pass: more gain nothing, and with a triangle they cost."""


class NodeEvaluator(Evaluator):
    """A program with the memory to run it: for one thread at a time.

    Parameters
    ----------
    program : NodeProgram
        What to compute for each pair.
    dtype : DTypeLike
        "float32" or "float64", of results.
    """

    def __init__(self, program: NodeProgram, dtype: npt.DTypeLike = "float32") -> None:
        self.program, self.dtype = program, read_dtype(dtype)
        unit = program.params.copy()
        unit[:, [0, 1, 2, -1]] = 1, 0, 0, 0
        self._passes = Passes(program.codes, np.concatenate([program.params, unit]), program.addresses)
        self._place = np.zeros(len(Place), np.int64)
        self._lost = np.zeros(1, np.int64)
        self._stop = np.zeros(1, np.int8)
        self._registers = np.zeros(0)

    @property
    def is_masked(self) -> bool:
        return False

    def interrupt(self) -> None:
        """Make an `evaluate` of another thread return in a moment, with numbers that mean nothing; for good."""
        self._stop[0] = 1

    def evaluate(self, left: Array, right: Array | None = None, *, first: tuple[int, int] = (0, 0)) -> Array:
        """Evaluate all read-outs for all pairs of packed graphs; see `Evaluator.evaluate`."""
        x = self._know(unpack(left, first[0]), first[0])
        z = x if right is None else self._know(unpack(right, first[1]), first[1])
        found = np.empty((len(x.graphs), self.program.readout_count, len(z.graphs)))
        for begin, end in _blocks(z.graphs.sizes, self._columns_at_most(int(x.graphs.sizes.max()))):
            block = self._right(z, begin, end)
            top = begin if right is None else 0
            memory = self._memory(int(x.graphs.sizes[top:].max()), block.features.shape[1])
            triangle = begin if right is None else -1
            rows = (top, len(x.graphs))
            values = np.empty((len(x.graphs), self.program.readout_count, end - begin))
            run_block(self._passes, x.left, x.graphs.offsets, rows, block, triangle, self._stop, memory, values)
            found[top:, :, begin:end] = values[top:]
        with np.errstate(over="ignore"):  # refused below
            result = np.ascontiguousarray(found.transpose(1, 0, 2)).astype(self.dtype)
        if right is None:
            mirror_lower(result)
        require_finite(result, first)
        self._require_scale(result, x, z)
        return result

    def evaluate_pairs(self, left: Array, right: Array | None = None, *, first: tuple[int, int] = (0, 0)) -> Array:
        """Evaluate all read-outs for the pairs of graphs of the same number; see `Evaluator.evaluate_pairs`."""
        x = self._know(unpack(left, first[0]), first[0])
        z = x if right is None else self._know(unpack(right, first[1]), first[1])
        if len(x.graphs) != len(z.graphs):
            raise LayerError(f"pairs need as many left graphs as right ones, got {len(x.graphs)} and {len(z.graphs)}")
        with np.errstate(over="ignore"):
            result = self._run_pairs(x, z).astype(self.dtype)
        require_finite(result, first)
        self._require_scale(result, x, z)
        return result

    def _run_pairs(self, x: "_Known", z: "_Known") -> Array:
        """Evaluate the pairs of graphs of the same number, (readouts, n) float64."""
        values = np.empty((len(x.graphs), self.program.readout_count, 1))
        for k in range(len(x.graphs)):
            block = self._right(z, k, k + 1)
            memory = self._memory(int(x.graphs.sizes[k]), block.features.shape[1])
            run_block(self._passes, x.left, x.graphs.offsets, (k, k + 1), block, -1, self._stop, memory, values)
        return np.ascontiguousarray(values[:, :, 0].T)

    def _require_scale(self, values: Array, x: "_Known", z: "_Known") -> None:
        """Refuse kernels that are below the range of the dtype; what is small beside a graph with itself is right."""
        small = is_all_small(values)
        if small.any() and not self._stop[0]:
            left, right = (np.maximum(self._run_pairs(side, side), 0).max(1)[small] for side in (x, z))
            for a, b in zip(left, right, strict=True):
                require_scale(float(np.sqrt(a) * np.sqrt(b)), self.dtype)

    def _know(self, graphs: Graphs, first: int) -> "_Known":
        """Run each graph with itself: activations must know the variances of its nodes, and these must have a size."""
        known, nodes = self.program.statistic_count, int(graphs.offsets[-1])
        lefts = Left(graphs.features, graphs.starts, graphs.neighbours, np.zeros(known * nodes))
        found = _Known(graphs, lefts)
        self._lost[0], lost = 0, -1
        if any(isinstance(function, Series) for function in self.program.functions):
            for g in range(len(graphs)):
                self._run_self(found.graph(g), self._right(found, g, g + 1, gather=False))
                if self._lost[0]:
                    lost = g
                    break
        else:
            largest = int(graphs.sizes.max())
            memory = self._memory(largest, -(-largest // LANES) * LANES)
            values = np.empty((self.program.readout_count, 1))
            lost = know_graphs(self._passes, lefts, graphs.offsets, _slots(graphs.degrees), memory, values)
        if lost >= 0:
            raise NotAccurate(
                f"before or in a layer, the variances of graph {first + lost} are not 0 and below {TINY:.0e}, too "
                "small for float64: scale the features or raise w_std"
            )
        self._require_range(found, first)
        return found

    def _run_self(self, left: Left, right: Right) -> None:
        """Run all operations on a graph with itself, in pieces between which Python expands series."""
        memory = self._memory(len(left.features), right.features.shape[1])
        unused, begin, count = np.empty((self.program.readout_count, 1)), 0, len(self.program.codes)
        for p, function in enumerate(self.program.functions):
            if isinstance(function, Series) and self.program.codes[p, NodeEntry.COUNT]:
                run_self(self._passes, begin, p + 1, left, right, begin > 0, memory, unused)
                self._expand(p, function, left, right, memory)
                begin = p
        run_self(self._passes, begin, count, left, right, begin > 0, memory, unused)

    def _expand(self, p: int, function: Series, left: Left, right: Right, memory: NodeMemory) -> None:
        """Write what a series must know of a graph, from the variances behind the weights of operation p."""
        op, nodes, columns = self.program.codes[p], len(left.features), right.features.shape[1]
        rows = 1 if op[NodeEntry.JOINED] else nodes
        register = memory.registers[op[NodeEntry.TARGET], 0]
        variance = np.maximum(register[: rows * columns].reshape(rows, columns).diagonal(), 0)  # below 0 by rounding
        scale, series = function.expand(variance)
        first, count = op[NodeEntry.STATISTIC], op[NodeEntry.COUNT]
        values = np.concatenate([np.stack([scale, scale]), series])
        right.statistics[first : first + count, :rows] = values
        left.statistics[first * nodes : first * nodes + count * rows] = values.reshape(-1)

    def _require_range(self, known: "_Known", first: int) -> None:
        """Refuse standard deviations whose inverses' product overflows: the correlation would be wrong."""
        statistics, largest = known.left.statistics, TINY**-0.5
        if np.all(statistics <= largest):
            return
        for g in range(len(known.graphs)):
            left = known.graph(g)
            nodes = len(left.features)
            for op in self.program.codes[self.program.codes[:, NodeEntry.COUNT] > 0]:
                begin = op[NodeEntry.STATISTIC] * nodes
                inverses = left.statistics[begin : begin + (1 if op[NodeEntry.JOINED] else nodes)]
                if np.isnan(inverses).any():
                    raise NotFinite(
                        f"graph {first + g} has a standard deviation in a layer that is no number: scale the features "
                        "or w_std down"
                    )
                if not np.all(inverses <= largest):
                    raise NotAccurate(
                        f"graph {first + g} has a standard deviation below 1e-154 in a layer, too small for float64: "
                        "scale the features or raise w_std"
                    )

    def _right(self, known: "_Known", begin: int, end: int, gather: bool = True) -> Right:
        """Lay some graphs side by side as columns."""
        graphs = known.graphs
        first, last = (int(offset) for offset in graphs.offsets[[begin, end]])
        columns, degrees = -(-(last - first) // LANES) * LANES, graphs.degrees[first:last]
        slots = _slots(degrees)
        right = Right(
            np.empty((graphs.features.shape[1], columns)),
            np.empty(end - begin + 1, np.int64),
            np.empty((slots, columns), np.uint64),
            np.empty(columns, np.int64),
            np.empty(columns, np.int64),
            np.empty(int(degrees.sum()), np.int64),
            np.flatnonzero(degrees > slots),
            np.empty((self.program.statistic_count, columns)),
        )
        lay_out(known.left, graphs.offsets, begin, right)
        if gather:
            gather_statistics(self.program.codes, known.left, graphs.offsets, begin, right)
        return right

    def _columns_at_most(self, rows: int) -> int:
        row_bytes = 8 * rows * (self.program.register_count * (2 if self.program.has_tangent else 1))
        return min(CACHE_BYTES // row_bytes, MOST_COLUMNS)

    def _memory(self, rows: int, columns: int) -> NodeMemory:
        """Return registers of so many rows and columns; they are made anew where those there are too small."""
        count = self.program.register_count * (2 if self.program.has_tangent else 1)
        size = rows * columns
        if len(self._registers) < count * size:
            self._registers = np.zeros(count * size)
        registers = self._registers[: count * size].reshape(self.program.register_count, -1, size)
        return NodeMemory(registers, np.zeros(columns + 1), self._place, self._lost)


class _Known:
    """Graphs, and what activations must know of them."""

    def __init__(self, graphs: Graphs, left: Left) -> None:
        self.graphs, self.left = graphs, left

    def graph(self, number: int) -> Left:
        """Take one of them."""
        begin, end = self.graphs.offsets[number : number + 2]
        known = len(self.left.statistics) // len(self.left.features)
        statistics = self.left.statistics[known * begin : known * end]
        return Left(self.left.features[begin:end], self.left.starts[begin : end + 1], self.left.neighbours, statistics)


def _slots(degrees: Array) -> int:
    """Choose how many neighbours of each node are added up by all columns together."""
    return SLOT_GROUP if degrees.max() <= SLOT_GROUP else MOST_SLOTS


def _blocks(sizes: Array, columns: int) -> list[tuple[int, int]]:
    """Cut graphs into runs of at most so many nodes, of one graph at least."""
    bounds, begin, total = [], 0, 0
    for position, size in enumerate(sizes):
        if position > begin and total + size > columns:
            bounds.append((begin, position))
            begin, total = position, 0
        total += size
    return [*bounds, (begin, len(sizes))]
