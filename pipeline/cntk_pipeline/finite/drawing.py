"""What a layer of a finite network is made of: the source of weights, its place, and its weights."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from cntk_pipeline.finite.absent import Here, Inputs
from cntk_pipeline.finite.nodes import Batch
from cntk_pipeline.layers import Conv, Dense, Shape
from cntk_pipeline.layers.linear import read_fan_in


@dataclass(frozen=True)
class Draw:
    """The source of weights.

    Attributes
    ----------
    rng : numpy.random.Generator or None
        Draws them; None makes tensors that have a shape and no values.
    dtype : str
        Of the tensors.
    """

    rng: np.random.Generator | None
    dtype: str

    def normal(self, *shape: int) -> torch.Tensor:
        """Draw unit Gaussians."""
        if self.rng is None:
            return torch.empty(shape, device="meta")
        # Drawn in float64 for both dtypes, so that both have the same network.
        return self.constant(self.rng.standard_normal(shape))

    def constant(self, values: np.ndarray) -> torch.Tensor:
        """Make a tensor of given numbers."""
        return torch.tensor(values, dtype=getattr(torch, self.dtype))


@dataclass(frozen=True)
class Place:
    """Where a layer stands.

    Attributes
    ----------
    shape : Shape
        Of its input in the algebra.
    channels : int
        Of its input in the finite network.
    width : int
        Channels that layers with weights make.
    batch : Batch, optional
        Of graphs, those that the network is given; None where its inputs are images or vectors.
    inputs : Inputs, optional
        Those that the network is given, where they may have absent positions.
    """

    shape: Shape
    channels: int
    width: int
    batch: Batch | None = None
    inputs: Inputs | None = None

    @property
    def here(self) -> Here | None:
        """The positions, where some may be absent."""
        if self.inputs is None or self.shape.present is None:
            return None
        return Here(self.inputs, self.shape.present, self.shape.size)


Built = tuple[nn.Module, int]
"""A module, and the channels of its output."""


@dataclass(frozen=True)
class Drawn:
    """Weights and biases, and what multiplies them in the forward pass.

    In the NTK parameterization they have deviation 1. In the standard one they have their own deviations, and a layer
    of ``fan_in`` channels is not scaled at all. Another width is scaled, so that
    derivatives are those at ``fan_in`` channels.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    scale: float
    b_scale: float

    @classmethod
    def draw(cls, layer: Conv | Dense, place: Place, window: tuple[int, ...], draw: Draw) -> "Drawn":
        w_std, b_std = layer.w_std / math.sqrt(place.channels * math.prod(window)), layer.b_std
        scale, b_scale = w_std, b_std
        if layer.parameterization == "standard":
            scale, b_scale = math.sqrt(read_fan_in(layer, place.shape) / place.channels), float(b_std > 0)
        if layer.rate > 0:
            scale, b_scale = math.sqrt(layer.rate) * scale, math.sqrt(layer.rate) * b_scale
        weight = draw.normal(place.width, place.channels, *window) * (w_std / scale if scale else 1.0)
        bias = draw.normal(place.width) * (b_std / b_scale if b_scale else 1.0)
        return cls(weight, bias, scale, b_scale)
