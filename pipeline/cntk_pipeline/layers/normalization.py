"""Layers that change what the channels of a position are as a whole."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from cntk_pipeline.errors import LayerError
from cntk_pipeline.inputs import is_number, short_repr
from cntk_pipeline.layers.base import Graph, Layer, Shape, require_wide
from cntk_pipeline.layers.elementary import clip_correlation, inverse_root, square_root
from cntk_pipeline.layers.pointwise import ClosedForm

_EPSILON = 1e-12


@dataclass(frozen=True)
class LayerNorm(ClosedForm):
    """Normalise the channels of each position to variance 1.

    Their mean must be 0, as behind weights, a product with these, or an odd activation; all channels are divided by one
    number, so that what was Gaussian still is.
    """

    statistic_count: ClassVar[int] = 3

    def output_shape(self, shape: Shape) -> Shape:
        require_wide(self, shape)
        if not shape.centred:
            raise LayerError(
                "LayerNorm needs inputs of mean 0: put a Conv or Dense layer between it and the activation before it"
            )
        return shape

    @staticmethod
    def statistics(variance: Any, constants: Any) -> tuple[Any, ...]:
        inverse = inverse_root(variance + _EPSILON)
        deviation = square_root(variance) * inverse
        return inverse_root(variance), deviation, inverse, deviation * deviation

    @staticmethod
    def dual(covariance: Any, x: Any, z: Any, constants: Any) -> tuple[Any, Any]:
        rho = clip_correlation(covariance * (x[0] * z[0]))
        return rho * (x[1] * z[1]), 0.0 * covariance + x[2] * z[2]


@dataclass(frozen=True)
class Dropout(Layer):
    """Set values to zero at random and divide the others by the share that is kept, as in training.

    Masks are independent for each sample and position: only the covariance of a position of a sample with itself
    changes. Two samples with equal images have masks of their own.

    Parameters
    ----------
    rate : float
        The share that is dropped, 0 <= rate < 1.
    """

    rate: float = 0.5

    def __post_init__(self) -> None:
        if not is_number(self.rate) or not 0 <= self.rate < 1:
            raise LayerError(f"Dropout needs the share that is dropped, 0 <= rate < 1, got {short_repr(self.rate)}")

    def output_shape(self, shape: Shape) -> Shape:
        require_wide(self, shape)
        return replace(shape, gaussian=False)

    def lower(self, graph: Graph, shape: Shape, source: int) -> int:
        return graph.mask(source, 1 / (1 - self.rate)) if self.rate else source


def find_dropout(network: Layer) -> Dropout | None:
    """Find the first layer of a network that draws masks; None where there is none."""
    return next((layer for layer in network.walk() if isinstance(layer, Dropout) and layer.rate), None)
