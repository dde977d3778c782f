"""The algebra that users write networks in.

``LAYERS`` is the door of this room: the layers by name, as workflow files and run directories spell them.
"""

from pipeline.layers import presets
from pipeline.layers.activations import Relu
from pipeline.layers.base import Layer, Shape
from pipeline.layers.linear import Conv, Dense, Rescale
from pipeline.layers.pooling import Flatten, GlobalAvgPool
from pipeline.layers.sequential import Sequential

LAYERS: dict[str, type[Layer]] = {
    "Conv": Conv,
    "Dense": Dense,
    "Relu": Relu,
    "Flatten": Flatten,
    "GlobalAvgPool": GlobalAvgPool,
    "Rescale": Rescale,
}

__all__ = [
    "LAYERS",
    "Conv",
    "Dense",
    "Flatten",
    "GlobalAvgPool",
    "Layer",
    "Relu",
    "Rescale",
    "Sequential",
    "Shape",
    "presets",
]
