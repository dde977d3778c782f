"""Layers that turn an image into a vector."""

from dataclasses import dataclass

from pipeline.layers.base import Layer, Shape, require_image


@dataclass(frozen=True)
class Flatten(Layer):
    """Lay all pixels side by side as features. Only covariances of equal positions survive; vectors pass unchanged."""

    def output_shape(self, shape: Shape) -> Shape:
        if shape.spatial is None or shape.channels is None:
            return Shape(None, shape.channels)
        return Shape(None, shape.channels * shape.spatial[0] * shape.spatial[1])


@dataclass(frozen=True)
class GlobalAvgPool(Layer):
    """Average over all pixels. The covariance is the mean over all pairs of positions."""

    def output_shape(self, shape: Shape) -> Shape:
        require_image(self, shape)
        return Shape(None, shape.channels)
