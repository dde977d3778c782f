"""Networks on graphs as a program: what is done to the covariances of all nodes of two graphs, step by step.

All pairs of nodes of two graphs depend on each other, so there are no planes of offsets as between images
(`kernels.program`): a register holds S and T of every node of one left graph with every node of some right graphs.
Behind the sum over nodes it holds a number for each pair of graphs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum, unique

import numpy as np

from cntk_pipeline.errors import LayerError
from cntk_pipeline.kernels.graph import NetworkGraph, Node
from cntk_pipeline.kernels.lowering import Lowered, append_network
from cntk_pipeline.kernels.program import Array, Code
from cntk_pipeline.kernels.weighing import CONSTANTS, plane_function, statistics_function
from cntk_pipeline.layers import ClosedForm, Layer, Pointwise, Series, Windows

COMPUTED = (Code.INPUT, Code.WEIGH, Code.APPLY, Code.ADD, Code.MULTIPLY, Code.AGGREGATE, Code.REDUCE)
DTYPE = "float64"
"""Of registers: nodes of two graphs that look alike are frequent, and float32 is too coarse for them."""


@unique
class NodeEntry(IntEnum):
    """The columns of an operation's numbers."""

    CODE = 0
    SOURCE = 1
    OTHER = 2
    TARGET = 3
    JOINED = 4
    """Whether the source is behind the sum over nodes."""
    AVERAGE = 5
    """Of AGGREGATE and REDUCE: whether sums are divided by the number of their terms."""
    STATISTIC = 6
    COUNT = 7
    """The first statistic of an activation among those of all that come before, and how many it has; else 0."""
    TERMS = 8
    SLOT = 9
    TANGENT = 10
    """Of OUTPUT."""
    BARE = 11
    """Of AGGREGATE: whether T of the source is 0."""


@dataclass(frozen=True, eq=False)
class NodeProgram:
    """What to compute for a pair of graphs.

    Attributes
    ----------
    functions : tuple of (Pointwise or None)
        The activation of each operation, or None.
    codes : int64 array, (operations, entries)
        See `NodeEntry`.
    params : float64 array, (operations, 7)
        Scale, bias, own, the activation's constants, and extra.
    addresses : int64 array, (operations, 3)
        Of the compiled loops: weights and activation, weights alone, statistics.
    register_count, readout_count : int
        Of the pass.
    statistic_count : int
        Of all activations together.
    has_tangent : bool
        Whether T is computed.
    """

    functions: tuple[Pointwise | None, ...]
    codes: Array
    params: Array
    addresses: Array
    register_count: int
    readout_count: int
    statistic_count: int
    has_tangent: bool


class NodeGraph(NetworkGraph):
    """Nodes of which sums over positions come before weights.

    Weights without biases may change places with sums. Behind them, they go together with the activation, or work on
    a number for each pair of graphs.
    """

    def aggregate(self, source: int, average: bool) -> int:
        weights, inner = self._split_weights(source, average)
        return self._weigh_again(weights, super().aggregate(inner, average))

    def pool(
        self, source: int, rows: Windows, columns: Windows, scale: float = 1.0, normalize_edges: bool = False
    ) -> int:
        weights, inner = self._split_weights(source, normalize_edges)
        return self._weigh_again(weights, super().pool(inner, rows, columns, scale, normalize_edges))

    def _split_weights(self, source: int, average: bool) -> tuple[list[int], int]:
        """Return the weights, last first, that may change places with sums or, with ``average``, means; and a source.

        The source is that of the first of them.
        """
        weights: list[int] = []
        while True:
            node = self.nodes[source]
            if node.code is not Code.WEIGH or not (average or node.bias == node.extra == 0):
                return weights, source
            weights.append(source)
            source = node.sources[0]

    def _weigh_again(self, weights: list[int], source: int) -> int:
        for k in reversed(weights):
            stage, grid = self.nodes[source].result, self.nodes[source].grid
            source = self.add_node(replace(self.nodes[k], sources=(source,), stage=stage, result=stage, grid=grid))
        return source


def lower_nodes(readouts: Sequence[tuple[Layer, str]], input_shape: tuple[int, ...]) -> NodeProgram:
    """Lower networks on graphs to one program whose read-outs are theirs, in order.

    Raises
    ------
    LayerError
        As `lowering.lower`, and of a layer that is not computed between nodes.
    """
    if not readouts:
        raise LayerError("a program needs at least one read-out, got none")
    graph = NodeGraph()
    outputs = []
    for network, kind in readouts:
        lowered = _append(graph, network, kind, input_shape)
        outputs.append((lowered[-1].node, kind == "ntk"))
    return _assemble(graph.nodes, outputs)


def count_operations(network: Layer, kind: str, input_shape: tuple[int, ...]) -> list[tuple[Lowered, int]]:
    """Count for the input and each layer how many operations work on every pair of nodes of two graphs.

    Weights are counted with the activation behind them, or with the sums that they change places with. What comes
    behind the sum over all nodes counts for nothing.

    Raises
    ------
    LayerError
        As of `lower_nodes`.
    """
    graph = NodeGraph()
    lowered = _append(graph, network, kind, input_shape)
    outputs = [(lowered[-1].node, kind == "ntk")]
    counts = [0] * len(lowered)
    owner = {node: position for position, step in enumerate(lowered) for node in step.made}
    codes = _assemble(graph.nodes, outputs).codes
    for step, code in zip(_schedule(graph.nodes, outputs), codes, strict=True):
        if step.makes < 0 or (code[NodeEntry.JOINED] and step.node.code is not Code.REDUCE):
            continue
        counts[owner[step.makes]] += 1
    return list(zip(lowered, counts, strict=True))


def _append(graph: NodeGraph, network: Layer, kind: str, input_shape: tuple[int, ...]) -> list[Lowered]:
    lowered = append_network(graph, network, kind, input_shape)
    for step in lowered:
        if any(graph.nodes[node].code not in COMPUTED for node in step.made):
            raise LayerError(f"{step.layer} is not computed between the nodes of graphs: leave it out")
    return lowered


@dataclass(frozen=True)
class _Step:
    """An operation before registers are given out: which nodes it reads and which it makes (-1: none)."""

    node: Node
    reads: tuple[int, ...]
    makes: int
    slot: int = -1
    tangent: bool = False


def _assemble(nodes: Sequence[Node], outputs: Sequence[tuple[int, bool]]) -> NodeProgram:
    steps = _schedule(nodes, outputs)
    places, register_count = _give_registers(steps)
    joined: set[int] = set()
    bare: set[int] = set()
    codes, params = np.zeros((len(steps), len(NodeEntry)), np.int64), np.zeros((len(steps), 4 + CONSTANTS))
    addresses, statistic = np.zeros((len(steps), 3), np.int64), 0
    tangent = any(is_ntk for _, is_ntk in outputs)
    for row, param, address, step, place in zip(codes, params, addresses, steps, places, strict=True):
        node, function = step.node, step.node.function
        code = Code.OUTPUT if step.slot >= 0 else Code.WEIGH if node.code is Code.APPLY else node.code
        is_joined = any(read in joined for read in step.reads)
        if code is Code.REDUCE or is_joined:
            joined.add(step.makes)
        is_bare = code in (Code.INPUT, Code.AGGREGATE) and all(read in bare for read in step.reads)
        if is_bare:
            bare.add(step.makes)
        count = _statistic_count(function)
        average = node.normalize_edges if code is Code.AGGREGATE else any(edges for *_, edges in node.chain)
        terms = function.terms if isinstance(function, Series) else 0
        row[:] = (code, *place, is_joined, average, statistic, count, terms, step.slot, step.tangent, is_bare)
        constants = function.constants if isinstance(function, ClosedForm) else ()
        param[: 3 + len(constants)] = (node.scale, node.bias, node.own, *constants)
        param[-1] = node.extra
        if code is Code.WEIGH:
            loops = (None if function is None else type(function)), None
            address[:2] = [
                plane_function(f, False, tangent, False, False, DTYPE, node.extra != 0).address for f in loops
            ]
            if isinstance(function, ClosedForm):
                address[2] = statistics_function(type(function), DTYPE).address
        statistic += count
    functions = tuple(step.node.function for step in steps)
    return NodeProgram(functions, codes, params, addresses, register_count, len(outputs), statistic, tangent)


def _schedule(nodes: Sequence[Node], outputs: Sequence[tuple[int, bool]]) -> list[_Step]:
    """Order operations, with weights and the activation behind them as one; a read-out follows its node at once."""
    used = {node for node, _ in outputs}
    for k in reversed(range(len(nodes))):
        if k in used:
            used.update(nodes[k].sources)
    readers: dict[int, list[int]] = {k: [] for k in range(len(nodes))}
    for k in sorted(used):
        for source in nodes[k].sources:
            readers[source].append(k)
    read_out = {node for node, _ in outputs}
    steps: list[_Step] = []
    swallowed: set[int] = set()
    for k in sorted(used):
        node, makes = nodes[k], k
        if k in swallowed:
            continue
        if node.code is Code.WEIGH and k not in read_out and len(readers[k]) == 1:
            reader = readers[k][0]
            if nodes[reader].code is Code.APPLY:
                node, makes = replace(node, function=nodes[reader].function), reader
                swallowed.add(reader)
        steps.append(_Step(node, node.sources, makes))
        steps += [
            _Step(nodes[makes], (makes,), -1, slot, is_ntk)
            for slot, (source, is_ntk) in enumerate(outputs)
            if source == makes
        ]
    return steps


def _give_registers(steps: Sequence[_Step]) -> tuple[list[tuple[int, int, int]], int]:
    """Give registers to nodes: source, other and target of each step; a register is free again after its last reader.

    A step may write where it reads, but for AGGREGATE.
    """
    last_reader = {read: position for position, step in enumerate(steps) for read in step.reads}
    free: list[int] = []
    home: dict[int, int] = {}
    places, count = [], 0
    for position, step in enumerate(steps):
        sources = [home[read] for read in step.reads]
        dying = sorted({home[read] for read in step.reads if last_reader[read] == position})
        if step.node.code is not Code.AGGREGATE:
            free += dying
        target = -1
        if step.makes >= 0:
            if not free:
                free.append(count)
                count += 1
            target = home[step.makes] = free.pop()
        if step.node.code is Code.AGGREGATE:
            free += dying
        source, other = (*sources, -1, -1)[:2]
        places.append((source, other, target))
    return places, count


def _statistic_count(function: Pointwise | None) -> int:
    if isinstance(function, Series):
        return 2 + function.terms
    return function.statistic_count if isinstance(function, ClosedForm) else 0
