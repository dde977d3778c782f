"""Layers that say which positions of the inputs may be absent; each is the first of a network."""

from dataclasses import dataclass, replace

from cntk_pipeline.errors import LayerError
from cntk_pipeline.layers.base import Graph, Layer, Shape, require_image, require_sequence
from cntk_pipeline.layers.presence import Presence
from cntk_pipeline.layers.sequential import Sequential

NEEDS_PADDED = (
    "a sequence has absent steps, which hold NaN, and a network that does not take them: put Padded() first in each "
    "network, or cut all sequences to one length"
)
NEEDS_MASKED = (
    "an image has absent pixels, which hold NaN in all channels, and a network that does not take them: put Masked() "
    "first in each network, or fill the pixels in"
)


@dataclass(frozen=True)
class Padded(Layer):
    """Take sequences of unequal lengths; the first layer of a network.

    Steps of the input that hold NaN in all channels are absent; they lie behind those that are present, as
    `sequences.pad` lays them. An absent step adds nothing anywhere: a state there is 0, windows of convolutions find
    zeros, attention gives it no weight, and means are over a sequence's own steps. A kernel value depends on the two
    sequences alone, whatever the array's number of steps.
    """

    def output_shape(self, shape: Shape) -> Shape:
        require_sequence(self, shape)
        _require_inputs(self, shape)
        return replace(shape, present=Presence(anywhere=False))

    def lower(self, graph: Graph, shape: Shape, source: int) -> int:
        return graph.pad(source, Presence(anywhere=False))


@dataclass(frozen=True)
class Masked(Layer):
    """Take images some of whose pixels are absent; the first layer of a network.

    Pixels of the input that hold NaN in all channels are absent: behind the edges of an image that is smaller than the
    others, or in a region that is cut out. An absent pixel is like one outside the image. It adds nothing anywhere:
    windows of convolutions and poolings find a zero, attention gives it no weight, and means are over an image's own
    pixels. A position behind a window is there where the middle of the window is; of an even window, the position
    before the middle.
    """

    def output_shape(self, shape: Shape) -> Shape:
        require_image(self, shape)
        _require_inputs(self, shape)
        return replace(shape, present=Presence(anywhere=True))

    def lower(self, graph: Graph, shape: Shape, source: int) -> int:
        return graph.pad(source, Presence(anywhere=True))


def takes_padding(network: Layer) -> bool:
    """Tell whether a network takes inputs with absent positions.

    Raises
    ------
    LayerError
        If it has a `Padded` or `Masked` that is not its first layer.
    """
    found = [layer for layer in network.walk() if isinstance(layer, Padded | Masked)]
    steps = network.flattened() if isinstance(network, Sequential) else (network,)
    is_first = bool(steps) and isinstance(steps[0], Padded | Masked)
    if len(found) > is_first:
        name = type(found[-1]).__name__
        raise LayerError(f"{name} says what the inputs are, and is the first layer of the whole network: put it first")
    return is_first


def takes_gaps(network: Layer) -> bool:
    """Tell whether a network takes inputs with absent positions anywhere: images; raises as `takes_padding`."""
    return takes_padding(network) and any(isinstance(layer, Masked) for layer in network.walk())


def _require_inputs(layer: Layer, shape: Shape) -> None:
    if shape.channels is None:
        raise LayerError(f"{type(layer).__name__} needs the inputs themselves: put it first")
