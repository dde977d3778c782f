"""From networks to one program.

Networks are first written as a graph in which equal prefixes are one node, so that read-outs of several
depths, poolings and kinds cost one pass to the deepest. Then the offsets that each node must produce are
marked backwards from the read-outs, and the nodes between two poolings become a stage.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cntk_pipeline.errors import LayerError
from cntk_pipeline.graphs import is_graph
from cntk_pipeline.kernels.graph import NetworkGraph, Node, StageKey
from cntk_pipeline.kernels.memory import cancels
from cntk_pipeline.kernels.points import find_points, measure
from cntk_pipeline.kernels.pooling import axis_offsets, pair_weights, pool_terms
from cntk_pipeline.kernels.program import Array, Code, Operation, Point, Program, Stage, Tensor, Visits
from cntk_pipeline.layers import Layer, Padded, Sequential, Shape, Windows
from cntk_pipeline.layers.kinds import KINDS as KINDS
from cntk_pipeline.layers.kinds import require_kind
from cntk_pipeline.layers.recurrent import compares_last_states

MOST_GROWTH = 16.0
"""By how much linear layers behind a pooling may enlarge covariances before somebody looks at the variances there.

Where what comes out is a normal number of the dtype, what they began with has lost no more than 4 of its 23 bits.
"""

_WEIGHTS = (Code.WEIGH, Code.RECUR)
"""What has weights of its own, and takes T of the images to be zero."""


def lower(readouts: Sequence[tuple[Layer, str]], input_shape: tuple[int, ...]) -> Program:
    """Lower networks to one program whose read-outs are theirs, in order.

    Parameters
    ----------
    readouts : sequence of (Layer, str)
        Pairs of a network and a kind, "nngp" or "ntk".
    input_shape : tuple of int
        Of one input, (H, W, C) or (features,).

    Raises
    ------
    LayerError
        If a network does not accept the shape, ends in an image, has no NTK where one is asked for, or a kind is
        unknown.
    """
    if not readouts:
        raise LayerError("a program needs at least one read-out, got none")
    if is_graph(input_shape):
        raise LayerError('graphs have no planes of offsets: take engine="cpu", which knows another way')
    graph, at_end = NetworkGraph(), compares_last_states(network for network, _ in readouts)
    outputs = [
        (append_network(graph, network, kind, input_shape, at_end)[-1].node, kind == "ntk")
        for network, kind in readouts
    ]
    return assemble(graph, outputs, input_shape)


def count_revisions(readouts: Sequence[tuple[Layer, str]], input_shape: tuple[int, ...], dtype: str) -> int:
    """Count by how much values are later than an engine's numerics version: how often more pairs became of float64."""
    if dtype != "float32":
        return 0
    return int(is_revised(readouts, input_shape)) + int(_has_cancelling_weights(readouts, input_shape))


def _has_cancelling_weights(readouts: Sequence[tuple[Layer, str]], input_shape: tuple[int, ...]) -> bool:
    """Tell whether planes are of float64 for `memory.cancels` alone; see `memory.planes_dtype`."""
    graph, of_ntk = NetworkGraph(), NetworkGraph()
    for network, kind in readouts:
        append_network(graph, network, kind, input_shape)
        if kind == "ntk":
            append_network(of_ntk, network, kind, input_shape)
    mixes = any(_mixes(graph, node) for node in graph.nodes)
    is_recurrent = any(node.code is Code.RECUR for node in graph.nodes)
    return mixes and not is_recurrent and any(node.code is Code.WEIGH and cancels(node) for node in of_ntk.nodes)


def _mixes(graph: NetworkGraph, node: Node) -> bool:
    """Tell whether the operation of a node averages over positions; see `Operation.mixes`."""
    if node.code is not Code.WEIGH or node.windows is None:
        return False
    grid = graph.nodes[node.sources[0]].grid
    return any(each.window > 1 for each in node.windows) and (grid.height, grid.width) != (1, 1)


def is_revised(readouts: Sequence[tuple[Layer, str]], input_shape: tuple[int, ...]) -> bool:
    """Tell whether values in float32 are later than the numerics version: of points, and of windows over one pixel."""
    graph = NetworkGraph()
    outputs = [append_network(graph, network, kind, input_shape)[-1].node for network, kind in readouts]
    if input_shape[:2] == (1, 1) or len(input_shape) == 1:
        return any(node.code is Code.WEIGH and node.windows is not None for node in graph.nodes)
    return bool(find_points(graph, outputs))


def is_untrained(network: Layer, input_shape: tuple[int, ...]) -> bool:
    """Tell whether no layer of a network is trained, so that its NTK is zero for all inputs.

    Layers before the keys of attention alone do not count: no tangent passes from there.

    Raises
    ------
    LayerError
        If the network does not accept the shape, or has no NTK.
    """
    graph = NetworkGraph()
    waiting, seen = [append_network(graph, network, "ntk", input_shape)[-1].node], set[int]()
    while waiting:
        k = waiting.pop()
        node = graph.nodes[k]
        if node.own or node.extra:
            return False
        if k not in seen:
            seen.add(k)
            waiting += node.sources[:1] if node.code is Code.ATTEND else node.sources
    return True


@dataclass(frozen=True)
class Lowered:
    """What a layer became in a graph.

    Attributes
    ----------
    layer : Layer or None
        None for the input.
    shape : Shape
        Of its output.
    node : int
        Its result.
    made : range
        The nodes it added.
    """

    layer: Layer | None
    shape: Shape
    node: int
    made: range


def append_network(
    graph: NetworkGraph, network: Layer, kind: str, input_shape: tuple[int, ...], at_end: bool = False
) -> list[Lowered]:
    """Write a network as nodes, layer by layer; the last result is the network's.

    Parameters
    ----------
    at_end : bool
        Whether sequences of unequal lengths lie with their last steps below each other.

    Raises
    ------
    LayerError
        As `lower`.
    """
    require_kind(network, kind, input_shape)
    shape = Shape.of_inputs((1, *input_shape))
    before = len(graph.nodes)
    node = graph.add_input(shape.size, 1 / (shape.channels or 1))
    lowered = [Lowered(None, shape, node, range(before, len(graph.nodes)))]
    for layer in network.flattened() if isinstance(network, Sequential) else (network,):
        before = len(graph.nodes)
        behind = layer.output_shape(shape)
        if at_end and isinstance(layer, Padded) and behind.present is not None:
            present = replace(behind.present, at_end=True)
            behind, node = replace(behind, present=present), graph.pad(node, present)
        else:
            node = layer.lower(graph, shape, node)
        shape = behind
        lowered.append(Lowered(layer, shape, node, range(before, len(graph.nodes))))
    return lowered


def assemble(graph: NetworkGraph, outputs: Sequence[tuple[int, bool]], input_shape: tuple[int, ...]) -> Program:
    """Turn a graph into a program; ``outputs`` are its results and whether the NTK is asked for, not the NNGP."""
    size = (*input_shape[:2], input_shape[2]) if len(input_shape) == 3 else (1, 1, input_shape[0])
    program = _Assembly(graph, outputs).assemble(size)
    if size[:2] == (1, 1):
        return program
    found = find_points(graph, [node for node, _ in outputs])
    return replace(program, points=tuple(_point(graph, point, readouts, size) for point, readouts in found))


def _point(graph: NetworkGraph, point: int, readouts: tuple[int, ...], size: tuple[int, int, int]) -> Point:
    measuring, node = measure(graph, point)
    return Point(_Assembly(measuring, [(node, False)]).assemble(size), readouts)


@dataclass(frozen=True)
class _Step:
    """An operation before registers are given out: which nodes it reads and which it makes (-1: none)."""

    operation: Operation
    reads: tuple[int, ...]
    makes: int


class _Assembly:
    """The second half of lowering: from a graph of nodes to stages."""

    def __init__(self, graph: NetworkGraph, outputs: Sequence[tuple[int, bool]]) -> None:
        self.nodes = graph.nodes
        self.outputs = outputs
        self.used = self._spread(outputs_wanted=[True for _ in outputs])
        self.tangent = self._spread(outputs_wanted=[is_ntk for _, is_ntk in outputs])
        self.readers: dict[int, list[int]] = {k: [] for k in range(len(self.nodes))}
        for k, node in enumerate(self.nodes):
            for source in node.sources:
                if self.used[k]:
                    self.readers[source].append(k)
        kept = [k for k in range(len(self.nodes)) if self.used[k]]
        self.sums = {k: s for s, k in enumerate(k for k in kept if self.nodes[k].code is Code.REDUCE)}
        leaving = (Code.POOL, Code.ATTEND)
        self.tensors = {k: s for s, k in enumerate(k for k in kept if self.nodes[k].code in leaving)}

    def _spread(self, outputs_wanted: Sequence[bool]) -> list[bool]:
        """Tell for each node whether a wanted read-out lies behind it."""
        wanted = [False] * len(self.nodes)
        for (node, _), is_wanted in zip(self.outputs, outputs_wanted, strict=True):
            wanted[node] |= is_wanted
        for k in reversed(range(len(self.nodes))):
            for source in self.nodes[k].sources:
                wanted[source] |= wanted[k]
        return wanted

    def assemble(self, input_shape: tuple[int, int, int]) -> Program:
        """Build the stages, from the last to the first: what a stage must produce is what later ones load."""
        kept = [node for node, used in zip(self.nodes, self.used, strict=True) if used]
        keys = sorted({node.stage for node in kept} | {node.result for node in kept})
        steps = {key: self._schedule(key) for key in keys}
        wanted: dict[int, Array] = {}
        self_wanted: dict[int, Array] = {}
        visits: dict[StageKey, tuple[Visits, Visits]] = {}
        needed = self._need_variances(steps)
        for key in reversed(keys):
            if key in needed and key.level > 0:
                self._want_variances(key, steps[key], self_wanted)
            # What an image with itself passes on must run in this order: its own stage's loads come from here too.
            self_visits = self._visit(key, steps[key], self_wanted, readouts=False)
            visits[key] = (self._visit(key, steps[key], wanted, readouts=True), self_visits)
        stages = tuple(self._stage(key, steps[key], *visits[key], key in needed) for key in keys)
        # What is for keys alone is there for an image with itself, and not for a pair.
        nowhere = {k: _no_offsets(self.nodes[k].result) for k in self.tensors}
        tensors = tuple(self._tensor(k, wanted.get(k, no) | self_wanted.get(k, no)) for k, no in nowhere.items())
        mirrors = all(columns.is_symmetric for node in kept for columns in _column_windows(node))
        mirrors &= all(node.code is not Code.RECUR and node.present is None for node in kept)
        return Program(input_shape, stages, tensors, len(self.sums), len(self.outputs), mirrors)

    def _schedule(self, key: StageKey) -> list[_Step]:
        """Order the operations of a stage so that planes die early: what leaves it follows its source at once."""
        steps: list[_Step] = []
        swallowed: set[int] = set()
        read_out = {node for node, _ in self.outputs}

        def leave(k: int) -> None:
            for reader in self.readers[k]:
                if self.nodes[reader].code in (Code.REDUCE, Code.POOL):
                    steps.append(_Step(self._operation(reader), (k,), -1))
            for position, (source, is_ntk) in enumerate(self.outputs):
                if source == k:
                    grid = self.nodes[k].grid
                    steps.append(_Step(Operation(Code.OUTPUT, slot=position, tangent=is_ntk, grid=grid), (k,), -1))

        for k, node in enumerate(self.nodes):
            if not self.used[k] or k in swallowed:
                continue
            if node.code in (Code.POOL, Code.REDUCE, Code.ATTEND):
                if node.code is Code.ATTEND and node.stage == key:
                    steps.append(_Step(self._operation(k), (), -1))
                if node.result == key:
                    steps.append(_Step(self._load(k), (), k))
                    leave(k)
                continue
            if node.stage != key:
                continue
            operation, makes = self._operation(k), k
            readers = self.readers[k]
            if node.code is Code.WEIGH and k not in read_out and len(readers) == 1:
                reader = self.nodes[readers[0]]
                if reader.code is Code.APPLY:
                    makes = readers[0]
                    operation = replace(operation, function=reader.function)
                    swallowed.add(makes)
            steps.append(_Step(operation, node.sources, makes))
            leave(makes)
        return steps

    def _needs_tangent(self, k: int) -> bool:
        """Tell whether a node must write T: that of the images is zero, which weights that read it know."""
        if self.nodes[k].code is Code.INPUT and all(self.nodes[r].code in _WEIGHTS for r in self.readers[k]):
            return False
        return self.tangent[k]

    def _operation(self, k: int) -> Operation:
        """Write a node as an operation without registers."""
        node = self.nodes[k]
        operation = Operation(
            Code.WEIGH if node.code is Code.APPLY else node.code,
            tangent=self._needs_tangent(k),
            begins=node.code in _WEIGHTS and self.nodes[node.sources[0]].code is Code.INPUT,
            grid=self.nodes[node.sources[0]].grid if node.sources else node.grid,
            target_grid=node.grid,
            windows=node.windows if node.code is Code.WEIGH else None,
            function=node.function,
            masked=node.masked,
            present=node.present if node.code in (Code.INPUT, Code.RECUR, Code.ATTEND) else None,
            gate=node.gate,
            node=k,
            scale=node.scale,
            bias=node.bias,
            own=node.own,
            extra=node.extra,
            recurrence=node.recurrence,
            backward=node.backward,
        )
        circular = node.stage.circular
        if node.code is Code.POOL and node.windows is not None:
            rows, columns = (
                pool_terms(windows, node.normalize_edges, circular, node.result.circular) for windows in node.windows
            )
            return replace(operation, slot=self.tensors[k], terms=(rows, columns))
        if node.code is Code.REDUCE:
            sizes = (operation.grid.height, operation.grid.width)
            chains = (
                [(rows, edges) for rows, _, edges in node.chain],
                [(cols, edges) for _, cols, edges in node.chain],
            )
            rows_weights, column_weights = (
                pair_weights(chain, size, node.traced, circular) for chain, size in zip(chains, sizes, strict=True)
            )
            return replace(operation, slot=self.sums[k], weights=(rows_weights, column_weights))
        if node.code is Code.ATTEND:
            values, keys = self.tensors[node.sources[0]], self.tensors[node.sources[-1]]
            return replace(operation, slot=self.tensors[k], other=values, keys=keys, mixing=node.mixing)
        if node.correlation is not None:
            return replace(operation, weights=(node.correlation.table(node.grid.height, node.grid.width),))
        return operation

    def _load(self, k: int) -> Operation:
        """Read what an earlier stage passes on."""
        node = self.nodes[k]
        if node.code is Code.REDUCE:
            grid = node.grid
            return Operation(Code.LOAD_SUM, slot=self.sums[k], tangent=self.tangent[k], grid=grid, target_grid=grid)
        return Operation(
            Code.LOAD, slot=self.tensors[k], tangent=self.tangent[k], grid=node.grid, target_grid=node.grid
        )

    def _need_variances(self, steps: dict[StageKey, list[_Step]]) -> set[StageKey]:
        """List the stages in which the variances of images must be known.

        Activations and attention ask for them. Elsewhere they tell whether an image still has a size: at once where it
        begins, behind poolings for the price of the pair of the image with itself. So there only where products, or
        weights that enlarge, may hide that it had none.
        """
        needed, others, growth = set(), set(), 1.0
        for key, found in steps.items():
            operations = [step.operation for step in found]
            if key.level == 0 or any(op.function or op.code is Code.ATTEND for op in operations):
                needed.add(key)
                continue
            others.add(key)
            for op in operations:
                if op.code is Code.WEIGH:
                    growth *= max(1.0, op.scale * op.window[0] * op.window[1])
                elif op.code is Code.MULTIPLY:
                    growth = np.inf
        return needed | others if growth > MOST_GROWTH else needed

    def _want_variances(self, key: StageKey, steps: Sequence[_Step], wanted: dict[int, Array]) -> None:
        """Ask for an image's covariances with itself that the statistics of a stage begin with."""
        tensor_nodes = list(self.tensors)
        for step in steps:
            if step.operation.code in (Code.LOAD, Code.LOAD_SUM):
                at_zero = _no_offsets(key)
                at_zero[_zero_index(key)] = True
                wanted[step.makes] = wanted.get(step.makes, _no_offsets(key)) | at_zero
            elif step.operation.code is Code.ATTEND:
                wanted[tensor_nodes[step.operation.keys]] = ~_no_offsets(key)

    def _visit(self, key: StageKey, steps: Sequence[_Step], wanted: dict[int, Array], readouts: bool) -> Visits:
        """Mark backwards at which offsets each step must run; add to ``wanted`` what it must find loaded.

        ``wanted`` maps nodes to offsets, (row offsets, column offsets) bool of the node's stage.
        """
        marks = np.zeros((len(steps), *_no_offsets(key).shape), bool)
        by_tensor, by_sum = list(self.tensors), list(self.sums)
        for position in reversed(range(len(steps))):
            step, mark = steps[position], marks[position]
            op = step.operation
            if op.code is Code.OUTPUT:
                mark[_zero_index(key)] = readouts
            elif op.code is Code.REDUCE and op.weights is not None:
                if np.any(wanted.get(by_sum[op.slot], False)):
                    used = [np.any(weights != 0, axis=1) for weights in op.weights]
                    mark |= _at_stage(np.outer(*used), op, key)
            elif op.code is Code.POOL and op.terms is not None:
                pooled = wanted.get(by_tensor[op.slot])
                if pooled is not None:
                    rows, columns = (terms.couples.astype(np.int64) for terms in op.terms)
                    mark |= _at_stage(rows @ pooled @ columns.T > 0, op, key)
            elif op.code is Code.ATTEND:
                mark[_zero_index(key)] = np.any(wanted.get(by_tensor[op.slot], False))
                if np.any(mark):
                    wanted[by_tensor[op.other]] = ~_no_offsets(key)
            else:
                mark |= wanted.get(step.makes, False)
            for read in step.reads:
                wanted[read] = wanted.get(read, _no_offsets(key)) | mark
        offsets = _offsets(key)
        flat = marks.reshape(len(steps), -1)
        order = np.argsort(np.any(offsets != 0, axis=1), kind="stable")
        order = order[flat[:, order].any(0)]
        return Visits(np.ascontiguousarray(offsets[order]), np.ascontiguousarray(flat[:, order]))

    def _stage(
        self, key: StageKey, steps: Sequence[_Step], visits: Visits, self_visits: Visits, knows_variances: bool
    ) -> Stage:
        operations, register_count = _give_registers(steps)
        halo = max((_halo(op) for op in operations), default=0)
        return Stage(
            *(key.height, key.width, key.circular),
            tuple(operations),
            visits,
            self_visits,
            register_count,
            halo,
            knows_variances,
        )

    def _tensor(self, k: int, wanted: Array) -> Tensor:
        """Lay out the planes of a tensor's offsets one behind the other."""
        key = self.nodes[k].result
        starts = np.full(wanted.shape, -1, np.int64)
        heights, widths = (
            np.array([size if key.circular else size - abs(offset) for offset in axis_offsets(size, key.circular)])
            for size in (key.height, key.width)
        )
        sizes = np.outer(heights, widths)[wanted]
        starts[wanted] = np.cumsum(sizes) - sizes
        return Tensor(starts, widths, int(sizes.sum()), key.height, key.width, key.circular)


def _column_windows(node: Node) -> tuple[Windows, ...]:
    return (*(node.windows or ())[1:], *(columns for _, columns, _ in node.chain))


def _no_offsets(key: StageKey) -> Array:
    rows, columns = axis_offsets(key.height, key.circular), axis_offsets(key.width, key.circular)
    return np.zeros((len(rows), len(columns)), bool)


def _offsets(key: StageKey) -> Array:
    rows, columns = np.meshgrid(
        axis_offsets(key.height, key.circular), axis_offsets(key.width, key.circular), indexing="ij"
    )
    return np.stack([rows.ravel(), columns.ravel()], 1)


def _zero_index(key: StageKey) -> tuple[int, int]:
    return (0, 0) if key.circular else (key.height - 1, key.width - 1)


def _at_stage(used: Array, op: Operation, key: StageKey) -> Array:
    """Spread offsets of an operation's grid over those of its stage."""
    if op.grid.step == (1, 1) and used.shape == _no_offsets(key).shape:
        return used
    spread = _no_offsets(key)
    zero = _zero_index(key)
    rows = zero[0] + op.grid.step[0] * np.arange(1 - op.grid.height, op.grid.height)
    columns = zero[1] + op.grid.step[1] * np.arange(1 - op.grid.width, op.grid.width)
    spread[np.ix_(rows, columns)] = used
    return spread


def _halo(op: Operation) -> int:
    """The rim of pixels that an operation's windows reach into."""
    if op.windows is None or op.window == (1, 1):
        return 0
    columns = op.windows[1]
    behind = (columns.count - 1) * columns.stride - columns.before + columns.window - columns.size
    return max(columns.before, behind, int(op.is_plain_3x3))


def _give_registers(steps: Sequence[_Step]) -> tuple[list[Operation], int]:
    """Give planes to nodes; a plane is free again after its last reader."""
    last_reader = {read: position for position, step in enumerate(steps) for read in step.reads}
    free: list[int] = []
    home: dict[int, int] = {}
    count = 0
    operations = []
    for position, step in enumerate(steps):
        sources = [home[read] for read in step.reads]
        dying = {home[read] for read in step.reads if last_reader[read] == position}
        # Sources are given back first: an operation may overwrite one, which halves the cache that planes need.
        # Around a circle the last rows need the first again, so there they are given back later.
        if not step.operation.is_circular:
            free += sorted(dying)
        target = -1
        if step.makes >= 0:
            if not free:
                free.append(count)
                count += 1
            target = home[step.makes] = free.pop()
        if step.operation.is_circular:
            free += sorted(dying)
        if step.makes >= 0 and step.makes not in last_reader:
            free.append(target)
        op = step.operation
        other = sources[1] if len(sources) > 1 else op.other
        operations.append(replace(op, source=sources[0] if sources else -1, other=other, target=target))
    return operations, count
