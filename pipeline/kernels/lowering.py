"""From networks to one program.

Networks are first written as a graph in which equal prefixes are one node, so that read-outs of several
depths, poolings and kinds cost one pass to the deepest. Then the offsets that each node must produce are
marked backwards from the read-outs, and each level of the graph becomes a stage.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pipeline.errors import LayerError
from pipeline.kernels.program import Array, Code, Operation, Program, Stage
from pipeline.layers import Conv, Dense, Flatten, GlobalAvgPool, Layer, Relu, Rescale, Sequential, Shape

KINDS = ("nngp", "ntk")


@dataclass(frozen=True)
class Node:
    """An intermediate result: an operation on another node. Equal nodes are the same result.

    ``level`` counts the reductions above it; ``everywhere`` tells a mean over all offsets from a trace.
    """

    code: Code
    source: int = -1
    level: int = 0
    window: tuple[int, int] = (1, 1)
    scale: float = 1.0
    bias: float = 0.0
    own: float = 0.0
    everywhere: bool = False

    @property
    def output_level(self) -> int:
        """The level of what reads this node."""
        return self.level + (self.code is Code.REDUCE)


@dataclass
class Graph:
    """Nodes in an order in which sources come first, without repetitions."""

    nodes: list[Node] = field(default_factory=list)
    index: dict[Node, int] = field(default_factory=dict)

    def add(self, node: Node) -> int:
        if node not in self.index:
            self.index[node] = len(self.nodes)
            self.nodes.append(node)
        return self.index[node]

    def append_layer(self, layer: Layer, shape: Shape, source: int) -> int:
        """Write ``layer``, which is fed ``source`` of the given shape, as nodes; return the last."""
        node = self.nodes[source]
        level = node.output_level
        match layer:
            case Rescale():
                factor = layer.factor(shape)
                if node.code is Code.INPUT:
                    return self.add(Node(Code.INPUT, scale=node.scale * factor))
                return self.add(Node(Code.LINEAR, source, level, scale=factor))
            case Conv() | Dense():
                window = layer.window if isinstance(layer, Conv) else (1, 1)
                scale = layer.w_std**2 / (window[0] * window[1])
                return self.add(Node(Code.LINEAR, source, level, window, scale, layer.b_std**2, float(layer.trained)))
            case Relu():
                return self.add(Node(Code.RELU, source, level))
            case Flatten() | GlobalAvgPool():
                if shape.spatial is None:
                    return source
                pixels = shape.spatial[0] * shape.spatial[1]
                everywhere = isinstance(layer, GlobalAvgPool)
                weight = 1 / pixels**2 if everywhere else 1 / pixels
                return self.add(Node(Code.REDUCE, source, level, scale=weight, everywhere=everywhere))
        raise LayerError(f"no lowering is known for the layer {layer!r}")


def lower(readouts: Sequence[tuple[Sequential, str]], input_shape: tuple[int, ...]) -> Program:
    """Lower networks to one program whose read-outs are theirs, in order.

    Parameters
    ----------
    readouts : pairs of a network and a kind, "nngp" or "ntk".
    input_shape : of one input, (H, W, C) or (features,).

    Raises
    ------
    LayerError
        If a network does not accept the shape, ends in an image, or a kind is unknown.
    """
    if not readouts:
        raise LayerError("a program needs at least one read-out, got none")
    graph = Graph()
    outputs: list[tuple[int, bool]] = []
    for network, kind in readouts:
        if kind not in KINDS:
            raise LayerError(f'a kernel is "nngp" or "ntk", got kind={kind!r}')
        outputs.append((_append_network(graph, network, input_shape), kind == "ntk"))
    size = (*input_shape[:2], input_shape[2]) if len(input_shape) == 3 else (1, 1, input_shape[0])
    tangent = _tangent_needed(graph, outputs)
    levels = max(node.output_level for node in graph.nodes) + 1
    reductions = [k for k, node in enumerate(graph.nodes) if node.code is Code.REDUCE]
    slots = {node: slot for slot, node in enumerate(reductions)}
    stages = tuple(
        _build_stage(graph, level, size[:2] if level == 0 else (1, 1), slots, outputs, tangent)
        for level in range(levels)
    )
    return Program(size, stages, len(slots), len(outputs))


def _append_network(graph: Graph, network: Sequential, input_shape: tuple[int, ...]) -> int:
    shape = Shape.of_inputs((1, *input_shape))
    end = network.output_shape(shape)
    if end.spatial is not None:
        raise LayerError(
            f"the network ends in images of shape {end}: end it with Flatten() or GlobalAvgPool(), then Dense()"
        )
    node = graph.add(Node(Code.INPUT, scale=1 / (shape.channels or 1)))
    for layer in network.flattened():
        node = graph.append_layer(layer, shape, node)
        shape = layer.output_shape(shape)
    return node


def _tangent_needed(graph: Graph, outputs: Sequence[tuple[int, bool]]) -> list[bool]:
    """Tell for each node whether an NTK read-out lies behind it."""
    needed = [False] * len(graph.nodes)
    for node, is_ntk in outputs:
        needed[node] |= is_ntk
    for k in reversed(range(len(graph.nodes))):
        if graph.nodes[k].source >= 0:
            needed[graph.nodes[k].source] |= needed[k]
    return needed


@dataclass(frozen=True)
class _Step:
    """An operation before registers are given out: which node it reads and which it makes (-1: none)."""

    operation: Operation
    reads: int
    makes: int


def _build_stage(
    graph: Graph,
    level: int,
    size: tuple[int, int],
    slots: dict[int, int],
    outputs: Sequence[tuple[int, bool]],
    tangent: Sequence[bool],
) -> Stage:
    steps = _schedule(graph, level, slots, outputs, tangent)
    rows, columns = np.meshgrid(np.arange(1 - size[0], size[0]), np.arange(1 - size[1], size[1]), indexing="ij")
    offsets = np.stack([rows.ravel(), columns.ravel()], 1)
    # (0, 0) first, so that a stage that needs nothing else can be cut to its first offset.
    offsets = offsets[np.argsort(np.any(offsets != 0, axis=1), kind="stable")]
    marks = _mark(graph, steps, len(offsets))
    used = marks.any(0)
    operations, register_count = _give_registers(steps)
    active = [k for k, op in enumerate(operations) if op.code in (Code.RELU, Code.LINEAR_RELU)]
    for activation, k in enumerate(active):
        operations[k] = replace(operations[k], activation=activation)
    return Stage(
        height=size[0],
        width=size[1],
        operations=tuple(operations),
        offsets=np.ascontiguousarray(offsets[used]),
        marks=np.ascontiguousarray(marks[:, used]),
        register_count=register_count,
        activation_count=len(active),
        halo=max((max(op.window) // 2 for op in operations), default=0),
    )


def _schedule(
    graph: Graph, level: int, slots: dict[int, int], outputs: Sequence[tuple[int, bool]], tangent: Sequence[bool]
) -> list[_Step]:
    """Order the operations of a level so that planes die early: what leaves the level follows its source at once."""
    steps: list[_Step] = []
    consumers: dict[int, list[int]] = {}
    for k, node in enumerate(graph.nodes):
        consumers.setdefault(node.source, []).append(k)
    read_out = {node for node, _ in outputs}
    swallowed: set[int] = set()

    def leave(k: int) -> None:
        for user in consumers.get(k, []):
            node = graph.nodes[user]
            if node.code is Code.REDUCE and node.level == level:
                op = Operation(Code.REDUCE, slot=slots[user], tangent=tangent[user], scale=node.scale)
                steps.append(_Step(op, k, -1))
        for position, (source, is_ntk) in enumerate(outputs):
            if source == k:
                steps.append(_Step(Operation(Code.OUTPUT, slot=position, tangent=is_ntk), k, -1))

    for k, node in enumerate(graph.nodes):
        if node.code is Code.REDUCE:
            if node.level + 1 == level:
                steps.append(_Step(Operation(Code.LOAD, slot=slots[k], tangent=tangent[k]), -1, k))
                leave(k)
            continue
        if node.level != level or k in swallowed:
            continue
        users = consumers.get(k, [])
        makes, code = k, node.code
        fusable = code is Code.LINEAR and k not in read_out and len(users) == 1
        if fusable and graph.nodes[users[0]].code is Code.RELU:
            makes, code = users[0], Code.LINEAR_RELU
            swallowed.add(makes)
        op = Operation(code, window=node.window, tangent=tangent[k], scale=node.scale, bias=node.bias, own=node.own)
        steps.append(_Step(op, node.source, makes))
        leave(makes)
    return steps


def _mark(graph: Graph, steps: Sequence[_Step], offset_count: int) -> Array:
    """Mark backwards at which offsets each step must run."""
    marks = np.zeros((len(steps), offset_count), bool)
    wanted: dict[int, Array] = {}
    slot_means = [node.everywhere for node in graph.nodes if node.code is Code.REDUCE]
    for position in reversed(range(len(steps))):
        step = steps[position]
        if step.operation.code is Code.OUTPUT:
            marks[position, 0] = True
        elif step.operation.code is Code.REDUCE:
            marks[position] = slot_means[step.operation.slot]
            marks[position, 0] = True
        else:
            marks[position] = wanted.get(step.makes, False)
        if step.reads >= 0:
            wanted[step.reads] = wanted.get(step.reads, False) | marks[position]
    return marks


def _give_registers(steps: Sequence[_Step]) -> tuple[list[Operation], int]:
    """Give planes to nodes; a plane is free again after its last reader."""
    last_reader = {step.reads: position for position, step in enumerate(steps)}
    free: list[int] = []
    home: dict[int, int] = {-1: -1}
    count = 0
    operations = []
    for position, step in enumerate(steps):
        source = home[step.reads]
        # The source is given back first: an operation may overwrite it, which halves the cache that planes need.
        if step.reads >= 0 and last_reader[step.reads] == position:
            free.append(source)
        target = -1
        if step.makes >= 0:
            if not free:
                free.append(count)
                count += 1
            target = home[step.makes] = free.pop()
        if step.makes >= 0 and step.makes not in last_reader:
            free.append(target)
        operations.append(replace(step.operation, source=source, target=target))
    return operations, count
