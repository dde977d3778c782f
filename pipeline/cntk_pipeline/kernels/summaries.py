"""Networks as tables: shapes, and what a pair of images costs, before it is computed."""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from cntk_pipeline.graphs import is_graph
from cntk_pipeline.kernels.graph import NetworkGraph
from cntk_pipeline.kernels.lowering import Lowered, append_network, assemble
from cntk_pipeline.kernels.memory import working_bytes
from cntk_pipeline.kernels.node_program import count_operations
from cntk_pipeline.kernels.program import Code
from cntk_pipeline.layers import Layer, Sequential, Shape
from cntk_pipeline.layers.reading import read_shape
from cntk_pipeline.layers.recurrent import compares_last_states


@dataclass(frozen=True)
class SummaryRow:
    """One layer of a network.

    Attributes
    ----------
    layer : str
        As it is written, without what is left at its default.
    shape : Shape
        Of its output.
    offsets : int
        How many differences of positions it is computed at.
    entries : int
        Plane entries per pair: positions at those offsets, over all weights and activations. An activation is counted
        with the weights before it.
    """

    layer: str
    shape: Shape
    offsets: int
    entries: int


@dataclass(frozen=True)
class Summary:
    """What a network is, and what a pair of images costs; prints as a table.

    Attributes
    ----------
    rows : tuple of SummaryRow
        The input, and a row a layer.
    stages : int
        What is computed between two poolings, one after the other.
    entries : int
        Plane entries per pair: what the time of a pair is proportional to, without `mixing_products`.
    memory_bytes : int
        That an evaluator holds in float32, beside images and results.
    mixing_products : int
        Products per pair by which `Attend` and `SelfAttention` mix positions. They are no plane entries: 2 N^3 of N
        positions, and as many again of an NTK.
    """

    rows: tuple[SummaryRow, ...]
    stages: int
    entries: int
    memory_bytes: int
    mixing_products: int = 0

    def __str__(self) -> str:
        counts = {
            "offsets": [row.offsets for row in self.rows],
            "entries a pair": [row.entries for row in self.rows],
        }
        total = (
            f"{self.entries:,} plane entries a pair in {self.stages} stages, "
            f"{self.memory_bytes / 2**20:,.0f} MiB a thread"
        )
        if self.mixing_products:
            total += f"\nattention is not counted: mixing positions takes {self.mixing_products:,} products more a pair"
        return _print(self.rows, counts, total)

    __repr__ = __str__


@dataclass(frozen=True)
class NodeSummary:
    """What a network on graphs is, and what a pair of graphs costs; prints as a table.

    Attributes
    ----------
    rows : tuple of SummaryRow
        The input, and a row a layer. There are no offsets, and entries are operations on every pair of nodes.
    entries : int
        Operations in all: the time of a pair of graphs is about proportional to them and to both numbers of nodes.
    """

    rows: tuple[SummaryRow, ...]
    entries: int

    def __str__(self) -> str:
        counts = {"operations a pair of nodes": [row.entries for row in self.rows]}
        return _print(self.rows, counts, f"{self.entries} operations on every pair of nodes of two graphs")

    __repr__ = __str__


def _print(rows: Sequence[SummaryRow], counts: Mapping[str, Sequence[int]], total: str) -> str:
    """Print layers as a table with columns of counts, in which 0 is left out, and lines below it."""
    table = Table(box=None, pad_edge=False)
    for name, justify in (("", "right"), ("layer", "left"), ("output", "left"), *((name, "right") for name in counts)):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for position, row in enumerate(rows, -1):
        shown = (f"{column[position + 1]:,}" if column[position + 1] else "" for column in counts.values())
        table.add_row(str(position) if position >= 0 else "", row.layer, str(row.shape), *shown)
    console = Console(file=io.StringIO(), width=110, color_system=None, highlight=False, force_jupyter=False)
    console.print(table)
    console.print(total)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in lines)


def summary(network: Layer, input_shape: tuple[int, ...], *, kind: str = "ntk") -> Summary | NodeSummary:
    """Lay out a network for inputs of a shape, without computing anything.

    Plane entries do not count the mixing of positions by `Attend` and `SelfAttention`. A line below the table says how
    many products it takes.

    Parameters
    ----------
    network : Layer
        A layer, or a `Sequential` of layers, that ends in a vector.
    input_shape : tuple of int
        Of one input, (H, W, C), (features,), or (1, 1, rows, features) of a packed graph; where the network takes
        sequences also (T, C), which is (1, T, C).
    kind : str
        "ntk" or "nngp".

    Returns
    -------
    Summary or NodeSummary
        `NodeSummary` of graphs, whose time depends on their numbers of nodes, else `Summary`.

    Raises
    ------
    LayerError
        If the network is none, does not accept the shape, or has no such kernel; or it is no shape of one input.

    Examples
    --------
    >>> from cntk_pipeline import summary
    >>> from cntk_pipeline.layers import presets
    >>> network = presets.cntk(3, "gap", trained_ends=True)
    >>> print(summary(network, (8, 8, 3)))
       layer                 output       offsets  entries a pair
       input                 (8, 8, 3)
    0  Rescale('channels')   (8, 8, 3)        225
    1  Conv(3, w_std=1.414)  (8, 8, inf)      225           4,096
    2  Relu()                (8, 8, inf)
    3  Conv(3, w_std=1.414)  (8, 8, inf)      225           4,096
    4  Relu()                (8, 8, inf)
    5  GlobalAvgPool()       (inf,)           225
    6  Dense()               (inf,)             1               1
    8,193 plane entries a pair in 2 stages, 6 MiB a thread
    """
    input_shape = read_shape(network, input_shape)
    if is_graph(input_shape):
        counted = count_operations(network, kind, input_shape)
        of_nodes = tuple(SummaryRow(_name(step), step.shape, 0, count) for step, count in counted)
        return NodeSummary(of_nodes, sum(row.entries for row in of_nodes))
    graph = NetworkGraph()
    lowered = append_network(graph, network, kind, input_shape, compares_last_states([network]))
    program = assemble(graph, [(lowered[-1].node, kind == "ntk")], input_shape)
    owner = {node: position for position, step in enumerate(lowered) for node in step.made}
    offsets, entries, products = [0] * len(lowered), [0] * len(lowered), 0
    for stage in program.stages:
        for op, marks in zip(stage.operations, stage.visits.marks, strict=True):
            if op.node >= 0:
                position = owner[op.node]
                offsets[position] = max(offsets[position], int(marks.sum()))
                if op.code in (Code.WEIGH, Code.RECUR):
                    entries[position] += int(marks @ stage.areas(op.target_grid))
            if op.code is Code.ATTEND:
                positions = op.target_grid.height * op.target_grid.width
                products += 2 * positions**3 * (1 + op.tangent)
    rows = tuple(SummaryRow(_name(step), step.shape, offsets[k], entries[k]) for k, step in enumerate(lowered))
    return Summary(rows, len(program.stages), program.plane_entries, working_bytes(program, 4), products)


def _name(step: Lowered) -> str:
    return "input" if step.layer is None else describe(step.layer)


def describe(layer: Layer) -> str:
    """Write a layer without what is left at its default: ``Conv(3, w_std=1.414)``."""
    if isinstance(layer, Sequential):
        return ", ".join(map(describe, layer.layers))
    parts = [" | ".join(map(describe, layer.inner))] if layer.inner else []
    for position, field in enumerate(dataclasses.fields(layer)):  # type: ignore[arg-type]
        value = getattr(layer, field.name)
        if value != field.default and not isinstance(value, Layer):
            text = f"{value:.4g}" if isinstance(value, float) else repr(value)
            parts.append(text if position == 0 and not field.kw_only else f"{field.name}={text}")
    return f"{type(layer).__name__}({', '.join(parts)})"
