"""Sums of branches."""

from dataclasses import dataclass

from cntk_pipeline.errors import LayerError
from cntk_pipeline.layers.base import Graph, Layer, Shape, require_branches


@dataclass(frozen=True)
class Identity(Layer):
    """Change nothing."""

    def output_shape(self, shape: Shape) -> Shape:
        return shape

    def lower(self, graph: Graph, shape: Shape, source: int) -> int:
        return source


@dataclass(frozen=True)
class Residual(Layer):
    """Add what a branch and a shortcut make of the same input (He et al. 2016).

    Their covariances add up only if the two are uncorrelated: weights of its own on every way through one of them, and
    mean 0 behind one of them. A last layer with weights of its own in one of them ensures both.

    Parameters
    ----------
    branch, shortcut : Layer
        Layers, or sequences of them, with outputs of one shape.
    """

    branch: Layer
    shortcut: Layer = Identity()

    def __post_init__(self) -> None:
        require_branches(self, branch=self.branch, shortcut=self.shortcut)

    @property
    def inner(self) -> tuple[Layer, ...]:
        return self.branch, self.shortcut

    def output_shape(self, shape: Shape) -> Shape:
        ends = []
        for name, layer in (("branch", self.branch), ("shortcut", self.shortcut)):
            try:
                ends.append(layer.output_shape(shape))
            except LayerError as error:
                raise LayerError(f"{name}: {error}") from None
        branch, shortcut = ends
        if (branch.spatial, branch.channels) != (shortcut.spatial, shortcut.channels):
            raise LayerError(
                f"branch and shortcut must agree in shape, got {branch} and {shortcut}: "
                "put a Conv with the branch's strides into the shortcut"
            )
        is_renewed = any(layer.renews for layer in self.inner)
        if not is_renewed or not (branch.centred or shortcut.centred):
            raise LayerError(
                f"branch and shortcut are correlated{', since both have a mean' if is_renewed else ''}, so that their "
                "covariances do not add up: end one of them in a Conv or Dense layer"
            )
        return branch.plus(shortcut)

    def lower(self, graph: Graph, shape: Shape, source: int) -> int:
        return graph.add(self.branch.lower(graph, shape, source), self.shortcut.lower(graph, shape, source))
