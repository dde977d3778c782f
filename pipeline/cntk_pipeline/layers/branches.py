"""Products of branches, branches side by side, and blocks that are repeated."""

from dataclasses import dataclass, field, replace
from functools import reduce

from cntk_pipeline.errors import LayerError
from cntk_pipeline.inputs import is_number, is_whole_number
from cntk_pipeline.layers.base import WHEN_CHANGED, Graph, Layer, Shape, require_branches

MOST_TIMES = 1000
"""Of `Repeat`: a thousand steps of a contraction by 0.96 leave less of its error than float64 holds."""


def _shape_behind(layer: Layer, shape: Shape, **branches: Layer) -> tuple[Shape, Shape]:
    """Infer the shapes behind two branches, which must agree in positions and in whether they are infinitely wide."""
    ends = []
    for name, branch in branches.items():
        try:
            ends.append(branch.output_shape(shape))
        except LayerError as error:
            raise LayerError(f"{name}: {error}") from None
    first, second = ends
    if (first.spatial, first.channels) != (second.spatial, second.channels):
        raise LayerError(
            f"{' and '.join(branches)} of {type(layer).__name__} must agree in shape, got {first} and {second}: "
            "put a Conv with equal strides into both"
        )
    return first, second


@dataclass(frozen=True)
class Product(Layer):
    """Multiply what two branches make of the same input, channel by channel: gates, GLU and SwiGLU (Shazeer 2020).

    One of the branches must have weights of its own on every way through it, so that the two are independent. And all
    channels of one of them must have one law: the mean of products is the product of means where one factor is the same
    in each channel. Behind a product, channels are not Gaussian: weights must follow before the next activation.

    Parameters
    ----------
    branch, gate : Layer
        Layers, or sequences of them, with outputs of one shape.
    """

    branch: Layer
    gate: Layer

    def __post_init__(self) -> None:
        require_branches(self, branch=self.branch, gate=self.gate)

    @property
    def inner(self) -> tuple[Layer, ...]:
        return self.branch, self.gate

    def output_shape(self, shape: Shape) -> Shape:
        branch, gate = _shape_behind(self, shape, branch=self.branch, gate=self.gate)
        if not (self.branch.renews or self.gate.renews):
            raise LayerError(
                "branch and gate of Product depend on each other, so that their covariances are no factors: put a Conv "
                "or Dense layer into one of them"
            )
        if not (branch.alike or gate.alike):
            raise LayerError(
                "branch and gate of Product both have channels of several laws (as behind Flatten, Concatenate, "
                "Bidirectional, or Repeat with jump), so that the mean of products is no product of means: end one of "
                "them in a Conv or Dense layer, or put Flatten behind the Product"
            )
        centred = branch.centred or gate.centred
        return replace(branch.plus(gate), gaussian=False, centred=centred)

    def lower(self, graph: Graph, shape: Shape, source: int) -> int:
        return graph.multiply(self.branch.lower(graph, shape, source), self.gate.lower(graph, shape, source))


@dataclass(frozen=True)
class Concatenate(Layer):
    """Lay the channels of two branches of the same input side by side.

    Covariances are means over channels, so that those of the branches are averaged. What comes out is a mixture of
    both, not Gaussian: put activations into the branches, and weights behind.

    Parameters
    ----------
    first, second : Layer
        Layers, or sequences of them, with outputs of one shape.
    share : float
        Of the channels that are the first branch's, between 0 and 1.
    """

    first: Layer
    second: Layer
    share: float = 0.5

    def __post_init__(self) -> None:
        require_branches(self, first=self.first, second=self.second)
        if not is_number(self.share) or not 0 < self.share < 1:
            raise LayerError(f"share must lie between 0 and 1, got {self.share!r}")

    @property
    def inner(self) -> tuple[Layer, ...]:
        return self.first, self.second

    def output_shape(self, shape: Shape) -> Shape:
        first, second = _shape_behind(self, shape, first=self.first, second=self.second)
        if first.channels is not None:
            raise LayerError("Concatenate needs infinitely many channels: put a Conv or Dense layer into both branches")
        both = first.plus(second)
        return replace(both, gaussian=False, alike=both.alike and self.first == self.second)

    def lower(self, graph: Graph, shape: Shape, source: int) -> int:
        first, second = (branch.lower(graph, shape, source) for branch in self.inner)
        return graph.add(graph.rescale(first, self.share), graph.rescale(second, 1 - self.share))


@dataclass(frozen=True)
class Repeat(Layer):
    """Apply a block some times, with weights of its own each time.

    With weights on every way through the block, tied weights have the same kernel, with ``inject`` and ``jump`` too. A
    block with a skip connection of its input has another one then, since its summands are correlated.

    With ``inject`` the input of the first time is added each time: ``z' = block(z) + x``, from ``z = x`` on. As the
    times grow, this is a deep equilibrium network (Bai et al. 2019; its NTK: Feng and Kolter 2023, arXiv:2310.14062).

    With ``jump`` the input and what is behind each block lie side by side at the end: jumping knowledge (Xu et al.
    2018, arXiv:1806.03536). Their covariances add up, as behind read-outs with weights of their own.

    Parameters
    ----------
    block : Layer
        A layer, or a sequence of them, whose output has the shape of its input.
    times : int
        A whole number of at least 1. A block that shrinks differences by a factor c has come to within ``c^times`` of
        its limit.
    inject : bool
        Add the input behind each block, which must have weights on every way through it. One of the two must have mean
        0: the block ends in weights, or these lie directly before the first time.
    jump : bool
        Join the input and the outputs of all blocks at the end. Weights must follow before the next activation.
    """

    block: Layer
    times: int
    inject: bool = False
    jump: bool = field(default=False, metadata=WHEN_CHANGED)

    def __post_init__(self) -> None:
        require_branches(self, block=self.block)
        if not is_whole_number(self.times) or not 1 <= self.times <= MOST_TIMES:
            raise LayerError(f"times must be a whole number from 1 to {MOST_TIMES}, got {self.times!r}")
        if not isinstance(self.inject, bool):
            raise LayerError(f"inject must be True or False, got {self.inject!r}")
        if not isinstance(self.jump, bool):
            raise LayerError(f"jump must be True or False, got {self.jump!r}")

    @property
    def inner(self) -> tuple[Layer, ...]:
        return (self.block,)

    @property
    def renews(self) -> bool:
        return super().renews and not (self.inject or self.jump)

    def output_shape(self, shape: Shape) -> Shape:
        if self.inject and not self.block.renews:
            raise LayerError(
                "Repeat adds its input to a block that depends on it, so that their covariances do not add up: end the "
                "block in a Conv or Dense layer, or leave inject out"
            )
        shapes = self._shapes(shape)
        if not self.jump:
            return shapes[-1]
        if shape.channels is not None:
            raise LayerError("Repeat with jump needs infinitely many channels: put a Conv or Dense layer before it")
        return replace(reduce(Shape.plus, shapes), gaussian=False, alike=False)

    def lower(self, graph: Graph, shape: Shape, source: int) -> int:
        node = joined = source
        for before in self._shapes(shape)[:-1]:
            node = self.block.lower(graph, before, node)
            node = graph.add(node, source) if self.inject else node
            joined = graph.add(joined, node) if self.jump else node
        return joined

    def _shapes(self, shape: Shape) -> list[Shape]:
        """List the shapes before each block, and behind the last."""
        shapes = [shape]
        for turn in range(self.times):
            try:
                behind = self.block.output_shape(shapes[-1])
            except LayerError as error:
                raise LayerError(f"block, time {turn + 1}: {error}") from None
            if (behind.spatial, behind.channels) != (shape.spatial, shape.channels):
                raise LayerError(
                    f"the block of Repeat must keep the shape, got {behind} from {shape}: use strides of 1, padding "
                    "SAME, and a Conv or Dense layer before the Repeat"
                )
            if self.inject and not (behind.centred or shape.centred):
                raise LayerError(
                    "Repeat adds its input to what the block makes, and both have a mean, so that their covariances do "
                    "not add up: end the block in a Conv or Dense layer, put one before the Repeat, or leave inject out"
                )
            shapes.append(behind.plus(shape) if self.inject else behind)
        return shapes
