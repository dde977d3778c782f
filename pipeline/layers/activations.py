"""Pointwise non-linearities."""

from dataclasses import dataclass

from pipeline.errors import LayerError
from pipeline.layers.base import Layer, Shape


@dataclass(frozen=True)
class Relu(Layer):
    """``max(x, 0)``; halves the variance. Its dual is the arc-cosine kernel of order 1 (Cho and Saul 2009)."""

    def output_shape(self, shape: Shape) -> Shape:
        if shape.channels is not None:
            raise LayerError("Relu needs infinitely many channels: put a Conv or Dense layer before it")
        return shape
