"""What a layer is: a frozen value that knows which shape it turns into which."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from pipeline.errors import LayerError


@dataclass(frozen=True)
class Shape:
    """The shape of one example inside a network.

    Attributes
    ----------
    spatial : (height, width) in pixels, or None for a vector.
    channels : number of input channels or features; None once a layer with weights has made it infinite.
    """

    spatial: tuple[int, int] | None
    channels: int | None

    @classmethod
    def of_inputs(cls, shape: tuple[int, ...]) -> "Shape":
        """Read off the shape of an array of inputs, ``(n, H, W, C)`` or ``(n, features)``."""
        if len(shape) == 4:
            return cls((shape[1], shape[2]), shape[3])
        if len(shape) == 2:
            return cls(None, shape[1])
        raise LayerError(f"expected inputs of shape (n, H, W, C) or (n, features), got {shape}: add the missing axes")

    def __str__(self) -> str:
        width = "inf" if self.channels is None else str(self.channels)
        return f"({width},)" if self.spatial is None else f"({self.spatial[0]}, {self.spatial[1]}, {width})"


class Layer(ABC):
    """One step of a network. Subclasses are frozen dataclasses, final, and compare by value."""

    @abstractmethod
    def output_shape(self, shape: Shape) -> Shape:
        """Infer the output's shape; raise `LayerError` with the reason where the input's does not fit."""


def require_image(layer: Layer, shape: Shape) -> tuple[int, int]:
    """Return the spatial shape, or say that ``layer`` needs images."""
    if shape.spatial is None:
        raise LayerError(f"{layer} needs images of shape (H, W, C), got vectors of shape {shape}")
    return shape.spatial
