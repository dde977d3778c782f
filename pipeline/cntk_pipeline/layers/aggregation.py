"""Layers that let the nodes of a graph see their neighbours."""

from dataclasses import KW_ONLY, dataclass

from cntk_pipeline.errors import LayerError
from cntk_pipeline.inputs import short_repr
from cntk_pipeline.layers.arguments import require_truth
from cntk_pipeline.layers.base import Graph, Layer, Shape
from cntk_pipeline.layers.linear import require_deviation
from cntk_pipeline.layers.windows import Windows

SCALINGS = ("sum", "degree")


def _require_graph(layer: "Aggregate | GraphConv", shape: Shape) -> None:
    if not shape.is_graph:
        raise LayerError(
            f"{layer} needs graphs, got an input of shape {shape}: make arrays of graphs by cntk_pipeline.graphs.pack, "
            "and put it before the layer that joins all nodes"
        )


def _require_scaling(scaling: object) -> None:
    if scaling not in SCALINGS:
        raise LayerError(f"scaling must be one of {', '.join(SCALINGS)}, got {short_repr(scaling)}")


@dataclass(frozen=True)
class Aggregate(Layer):
    """Sum each node of a graph and its neighbours, without weights (Du et al. 2019, arXiv:1905.13192).

    With A the adjacency matrix plus 1 on the diagonal, ``S' = A_x S A_z^T``, and likewise T.

    Parameters
    ----------
    scaling : str
        "sum"; or "degree" for the mean, the sum divided by the number of terms.
    """

    scaling: str = "sum"

    def __post_init__(self) -> None:
        _require_scaling(self.scaling)

    def output_shape(self, shape: Shape) -> Shape:
        _require_graph(self, shape)
        return shape

    def lower(self, graph: Graph, shape: Shape, source: int) -> int:
        return graph.aggregate(source, self.scaling == "degree")


@dataclass(frozen=True)
class GraphConv(Layer):
    """A graph convolution: `Aggregate`, then weights and biases at every node, as of `Dense`.

    Parameters
    ----------
    scaling : str
        Of `Aggregate`.
    w_std, b_std, trained
        Of `Dense`. For its other arguments write `Aggregate` and `Dense` one after the other.
    """

    scaling: str = "sum"
    _: KW_ONLY
    w_std: float = 1.0
    b_std: float = 0.0
    trained: bool = True

    def __post_init__(self) -> None:
        _require_scaling(self.scaling)
        require_deviation("w_std", self.w_std)
        require_deviation("b_std", self.b_std)
        require_truth("trained", self.trained)

    @property
    def renews(self) -> bool:
        return True

    def output_shape(self, shape: Shape) -> Shape:
        _require_graph(self, shape)
        return shape.behind_weights(shape.spatial)

    def lower(self, graph: Graph, shape: Shape, source: int) -> int:
        rows, columns = (Windows.single(size) for size in shape.size)
        mixed = graph.aggregate(source, self.scaling == "degree")
        return graph.weigh(mixed, rows, columns, self.w_std**2, self.b_std**2, float(self.trained))
