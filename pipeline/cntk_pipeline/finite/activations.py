"""The activations of the algebra as functions of torch's tensors."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from cntk_pipeline import layers
from cntk_pipeline.errors import LayerError
from cntk_pipeline.finite.modules import Function

EPSILON = 1e-12
"""What `LayerNorm` adds to a variance in the kernel."""

ELEMENTWISE: dict[str, Function] = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "silu": functional.silu,
    "softplus": functional.softplus,
}
"""The functions that `Elementwise` knows by name."""


def _leaky(layer: layers.LeakyRelu) -> Function:
    return lambda x: torch.where(x > 0, x, layer.negative_slope * x)


def _rbf(layer: layers.Rbf) -> Function:
    frequency = math.sqrt(2 * layer.gamma)
    return lambda x: math.sqrt(2) * torch.sin(frequency * x + math.pi / 4)


def _polynomial(layer: layers.Polynomial) -> Function:
    def evaluate(x: torch.Tensor) -> torch.Tensor:
        total = torch.zeros_like(x)
        for coefficient in reversed(layer.coefficients):
            total = total * x + coefficient
        return total

    return evaluate


def _hermite(layer: layers.Hermite) -> Function:
    def evaluate(x: torch.Tensor) -> torch.Tensor:
        # sqrt(n + 1) h_(n + 1) = x h_n - sqrt(n) h_(n - 1), for h_n = He_n / sqrt(n!).
        total, before, here = torch.zeros_like(x), torch.zeros_like(x), torch.ones_like(x)
        for n, coefficient in enumerate(layer.coefficients):
            total = total + coefficient * here
            before, here = here, (x * here - math.sqrt(n) * before) / math.sqrt(n + 1)
        return total

    return evaluate


def _elementwise(layer: layers.Elementwise) -> Function:
    if not isinstance(layer.function, str):
        raise LayerError(
            f"{layer} has a function of NumPy arrays, which torch cannot differentiate: name one of "
            f"{', '.join(ELEMENTWISE)}, or take another activation"
        )
    return ELEMENTWISE[layer.function]


def _layer_norm(layer: layers.LayerNorm) -> Function:
    def evaluate(x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(1, keepdim=True)
        return centred / torch.sqrt((centred * centred).mean(1, keepdim=True) + EPSILON)

    return evaluate


ACTIVATIONS: dict[type[layers.Layer], Callable[[Any], Function]] = {
    layers.Relu: lambda layer: torch.relu,
    layers.LeakyRelu: _leaky,
    layers.Abs: lambda layer: torch.abs,
    layers.Sign: lambda layer: torch.sign,
    layers.Erf: lambda layer: torch.erf,
    layers.Gelu: lambda layer: functional.gelu,
    layers.Sin: lambda layer: torch.sin,
    layers.Cos: lambda layer: torch.cos,
    layers.Rbf: _rbf,
    layers.Exp: lambda layer: torch.exp,
    layers.Gaussian: lambda layer: lambda x: torch.exp(-x * x),
    layers.Polynomial: _polynomial,
    layers.Hermite: _hermite,
    layers.Elementwise: _elementwise,
    layers.LayerNorm: _layer_norm,
}
"""For each layer that is a function of positions, what makes the function."""
