"""The network of a read-out: its layers as a table, and as a drawing in which repeated layers are shown once."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from cntk_pipeline.errors import ConfigError
from cntk_pipeline.graphs import is_graph
from cntk_pipeline.inference import Shown
from cntk_pipeline.kernels import summary
from cntk_pipeline.layers import LAYERS, spelling
from cntk_pipeline.opened import OpenRun
from cntk_pipeline.opened.systems import AskedReadout, find_readout
from cntk_pipeline.plots.base import Display, counted
from cntk_pipeline.plots.style import COLOURS, INK, MUTED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACROSS = 4
"""Number of blocks in a row of the drawing."""

LONGEST_PERIOD = 6
"""Largest number of layers that are looked for as a repeated group."""

_LETTERS = 22
"""Letters in a line of a block."""

_COLOURS = {"Conv": 0, "Dense": 0, "GlobalAvgPool": 2, "AvgPool": 2, "LocalAvgPool": 2, "Flatten": 2, "Rescale": None}
"""Positions in `COLOURS` of layers by name; others, the activations, have their own."""


@dataclass(frozen=True)
class LayerRow:
    """A layer.

    Attributes
    ----------
    layer : str
        As text.
    shape : str
        Of its output.
    offsets : int
        How many differences of positions it is computed at.
    entries : int
        Numbers a pair of images costs; of graphs, operations on each pair of nodes.
    """

    layer: str
    shape: str
    offsets: int
    entries: int


@dataclass(frozen=True)
class Block:
    """Layers that follow each other, some times.

    Attributes
    ----------
    layers : tuple of str
        As texts.
    shape : str
        Of the output.
    times : int
        How often they are repeated.
    """

    layers: tuple[str, ...]
    shape: str
    times: int


@dataclass(frozen=True)
class Network(Display):
    """The layers of a network.

    Attributes
    ----------
    readout : str
        Its name.
    kind : str
        "ntk" or "nngp".
    layers : tuple of LayerRow
        The input and the layers.
    blocks : tuple of Block
        The same with repetitions counted.
    entries : int
        Numbers that a pair of images costs; of graphs, operations on each pair of nodes.
    of_graphs : bool
        Whether the inputs are graphs, whose positions have no offsets.
    """

    readout: str
    kind: str
    layers: tuple[LayerRow, ...]
    blocks: tuple[Block, ...]
    entries: int
    of_graphs: bool = False

    key = "network"
    title = "Network"

    @classmethod
    def from_run(cls, run: OpenRun, readout: AskedReadout = None, ridge: float | None = None) -> Self:
        """Read the network of a read-out, by default of the last one, which is the deepest; see `Display.from_run`."""
        specification = run.directory.specification
        code = specification.engine.code
        if code is not None:  # which need not look at the layers of the workflow
            raise ConfigError(f"{run.path} has no network to draw: the function {code} computes its kernels")
        name = specification.readouts[-1].name if readout is None else find_readout(run.directory, readout)
        said = next(each for each in specification.readouts if each.name == name)
        found = summary(spelling.read(said.network, LAYERS), specification.data.shape, kind=said.kind)
        rows = tuple(LayerRow(row.layer, str(row.shape), row.offsets, row.entries) for row in found.rows)
        return cls(name, said.kind, rows, repeated(rows), found.entries, is_graph(specification.data.shape))

    @property
    def alt(self) -> str:
        return (
            f"The network of {self.readout}, {counted(len(self.layers) - 1, 'layer')}, from {self.layers[0].shape} to "
            f"{self.layers[-1].shape}; {self._cost}."
        )

    @property
    def _cost(self) -> str:
        if self.of_graphs:
            return f"each pair of nodes of two graphs costs {counted(self.entries, 'operation')}"
        return f"a pair of images costs {self.entries:,} numbers"

    @property
    def height(self) -> float:
        return 0.2 + 1.15 * -(-len(self.blocks) // ACROSS)

    def draw(self, figure: "Figure") -> None:
        from matplotlib.patches import FancyBboxPatch

        figure.set_layout_engine("none")
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        rows = -(-len(self.blocks) // ACROSS)
        axes.set_xlim(-0.08, ACROSS)
        axes.set_ylim(rows - 0.02, -0.18)
        axes.axis("off")
        for position, block in enumerate(self.blocks):
            x, y = position % ACROSS, position // ACROSS
            colour = _colour(block)
            axes.add_patch(
                FancyBboxPatch((x, y), 0.82, 0.62, boxstyle="round,pad=0.03", facecolor=colour, alpha=0.18, linewidth=0)
            )
            axes.add_patch(
                FancyBboxPatch((x, y), 0.82, 0.62, boxstyle="round,pad=0.03", facecolor="none", edgecolor=colour)
            )
            axes.text(x + 0.41, y + 0.31, _text_of(block), ha="center", va="center", fontsize=8, linespacing=1.3)
            axes.text(x + 0.41, y + 0.77, block.shape, ha="center", va="center", fontsize=7.5, color=MUTED)
            if block.times > 1:
                axes.text(
                    x + 0.82, y - 0.09, f"{block.times} times", ha="right", va="center", fontsize=9, weight="bold"
                )
            if position + 1 < len(self.blocks) and x + 1 < ACROSS:
                axes.annotate(
                    "", (x + 0.97, y + 0.31), (x + 0.85, y + 0.31), arrowprops={"arrowstyle": "->", "color": INK}
                )

    def tables(self) -> tuple[Shown, ...]:
        named = [
            ("input" if k == 0 else str(k), row.layer if k else "", row.shape) for k, row in enumerate(self.layers)
        ]
        entries = [_count(row.entries) for row in self.layers]
        if self.of_graphs:
            title = f"{self.readout}: {counted(self.entries, 'operation')} a pair of nodes"
            of_nodes = tuple((*name, count) for name, count in zip(named, entries, strict=True))
            return (Shown(title, ("layer", "output", "operations a pair of nodes"), of_nodes, first="position"),)
        offsets = [_count(row.offsets) for row in self.layers]
        rows = tuple((*name, *counts) for name, *counts in zip(named, offsets, entries, strict=True))
        title = f"{self.readout}: {self.entries:,} numbers a pair"
        return (Shown(title, ("layer", "output", "offsets", "entries a pair"), rows, first="position"),)


def _count(number: int) -> str:
    return f"{number:,}" if number else ""


def repeated(rows: Sequence[LayerRow]) -> tuple[Block, ...]:
    """Count repetitions: groups of layers with the same text and output that follow each other.

    At each layer the group that covers most layers wins; of equals, the shorter one.
    """
    found, k = [], 0
    while k < len(rows):
        best, times = 1, 1
        for period in range(1, LONGEST_PERIOD + 1):
            count = 1
            while rows[k : k + period] == rows[k + count * period : k + (count + 1) * period]:
                count += 1
            if count > 1 and count * period > best * times:
                best, times = period, count
        group = rows[k : k + best]
        found.append(Block(tuple(row.layer for row in group), group[-1].shape, times))
        k += best * times
    return _joined(found)


def _joined(blocks: Sequence[Block]) -> tuple[Block, ...]:
    """Join an activation to the layer before it, where neither is repeated."""
    found: list[Block] = []
    for block in blocks:
        before = found[-1] if found else None
        alone = block.times == 1 and len(block.layers) == 1
        if before is not None and alone and before.times == 1 and len(before.layers) == 1 and _joins(before, block):
            found[-1] = Block(before.layers + block.layers, block.shape, 1)
        else:
            found.append(block)
    return tuple(found)


def _joins(before: Block, block: Block) -> bool:
    return _name(before.layers[0]) in ("Conv", "Dense") and _name(block.layers[0]) not in _COLOURS


def _name(layer: str) -> str:
    return layer.partition("(")[0]


def _colour(block: Block) -> str:
    name = _name(block.layers[0])
    if name == "input":
        return MUTED
    place = _COLOURS.get(name, 1)
    return MUTED if place is None else COLOURS[place]


def _text_of(block: Block) -> str:
    lines = [line for layer in block.layers for line in textwrap.wrap(layer, _LETTERS)]
    return "\n".join(lines if len(lines) <= 5 else [*lines[:4], "…"])
