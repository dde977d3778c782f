"""Layers one after the other: the network that the doors of the package take."""

from dataclasses import dataclass

from cntk_pipeline.errors import LayerError
from cntk_pipeline.layers.base import Graph, Layer, Shape, require_layer


@dataclass(frozen=True, init=False)
class Sequential(Layer):
    """Apply layers in order.

    Examples
    --------
    >>> from cntk_pipeline.layers import Conv, Dense, Flatten, Relu, Sequential
    >>> network = Sequential(Conv(3, w_std=2**0.5), Relu(), Flatten(), Dense())
    >>> print(network.output_shape(Shape((32, 32), 3)))
    (inf,)
    """

    layers: tuple[Layer, ...]

    def __init__(self, *layers: Layer) -> None:
        for position, layer in enumerate(layers):
            require_layer(f"layer {position} of Sequential", layer)
        object.__setattr__(self, "layers", tuple(layers))

    @property
    def inner(self) -> tuple[Layer, ...]:
        return self.layers

    @property
    def renews(self) -> bool:
        return any(layer.renews for layer in self.layers)

    def output_shape(self, shape: Shape) -> Shape:
        for position, layer in enumerate(self.layers):
            try:
                shape = layer.output_shape(shape)
            except LayerError as error:
                raise LayerError(f"layer {position} ({type(layer).__name__}) on input {shape}: {error}") from None
        return shape

    def lower(self, graph: Graph, shape: Shape, source: int) -> int:
        for layer in self.layers:
            source = layer.lower(graph, shape, source)
            shape = layer.output_shape(shape)
        return source

    def flattened(self) -> tuple[Layer, ...]:
        """List the layers with nested sequences unpacked."""
        return tuple(
            inner
            for layer in self.layers
            for inner in (layer.flattened() if isinstance(layer, Sequential) else (layer,))
        )

    def __repr__(self) -> str:
        return f"Sequential({', '.join(map(repr, self.layers))})"
