"""From a network of the algebra to the finite network of a width: one translation a layer, in the table `BUILDERS`."""

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cntk_pipeline.errors import ConfigError, LayerError
from cntk_pipeline.inputs import short_repr
from cntk_pipeline.layers import Layer
from cntk_pipeline.layers.arguments import require_count

if TYPE_CHECKING:
    from torch import nn

DTYPES = ("float32", "float64")


def build(
    network: Layer,
    width: int,
    input_shape: tuple[int, ...],
    *,
    outputs: int | None = None,
    seed: "int | tuple[int, ...] | None" = None,
    dtype: str = "float64",
) -> "nn.Module":
    """Build the finite network of a network of the algebra, in the NTK parameterisation.

    All weights are unit Gaussians, which NumPy draws. The forward pass multiplies weights by ``w_std / sqrt(fan_in)``
    and biases by ``b_std``. Weights of layers with ``trained=False`` are buffers.

    Parameters
    ----------
    network : Layer
        A layer, or a `Sequential` of layers.
    width : int
        Channels that each layer with weights makes.
    input_shape : tuple of int
        Of one input, (H, W, C) or (features,); where the network takes sequences also (T, C), which is (1, T, C). The
        module takes a batch of such inputs.
    outputs : int, optional
        Channels of the last layer, which must be `Dense` then; None is the width.
    seed : int or tuple of int, optional
        Of the weights, a whole number of at least 0 or several; None draws others each time.
    dtype : str
        "float32" or "float64", of the weights; both have the same ones, up to rounding.

    Raises
    ------
    LayerError
        If the network is none or does not accept the shape, a layer has no finite counterpart, with its place, or an
        argument is not what it must be.
    ConfigError
        If torch is not installed.

    Examples
    --------
    >>> import torch
    >>> from cntk_pipeline import finite
    >>> from cntk_pipeline.layers import presets
    >>> network = finite.build(presets.cntk(3), 64, (8, 8, 1), outputs=10, seed=0)
    >>> network(torch.zeros(5, 8, 8, 1, dtype=torch.float64)).shape
    torch.Size([5, 10])
    """
    require_torch()
    from cntk_pipeline.finite.builders import build_network
    from cntk_pipeline.finite.drawing import Draw

    if dtype not in DTYPES:
        raise LayerError(f'finite networks are of dtype "float32" or "float64", got dtype={short_repr(dtype)}')
    several = seed if isinstance(seed, tuple | list) else () if seed is None else (seed,)
    for number in several:
        require_count("seed", number, 0)
    return build_network(network, width, input_shape, outputs, Draw(np.random.default_rng(seed), dtype))[0]


def count_weights(
    network: Layer, width: int, input_shape: tuple[int, ...], *, outputs: int | None = None
) -> tuple[int, int]:
    """Count the weights of a finite network without drawing them: all of them, and those that are trained.

    Parameters
    ----------
    network, width, input_shape, outputs
        As of `build`.

    Raises
    ------
    LayerError, ConfigError
        As of `build`.

    Examples
    --------
    >>> from cntk_pipeline.finite import count_weights
    >>> from cntk_pipeline.layers import Dense, Relu, Sequential
    >>> count_weights(Sequential(Dense(), Relu(), Dense(trained=False)), 64, (10,), outputs=1)
    (769, 704)
    """
    counts = count_numbers(network, width, input_shape, outputs)
    return counts.weights, counts.trained


@dataclass(frozen=True)
class Counts:
    """How many numbers a finite network has.

    Attributes
    ----------
    weights, trained : int
        All weights, and those that are trained.
    outputs : int
        Channels of its output.
    """

    weights: int
    trained: int
    outputs: int


def count_numbers(network: Layer, width: int, input_shape: tuple[int, ...], outputs: int | None) -> Counts:
    """Count the numbers of a finite network; see `count_weights`."""
    require_torch()
    from cntk_pipeline.finite.builders import build_network
    from cntk_pipeline.finite.drawing import Draw
    from cntk_pipeline.finite.modules import Weighted

    module, channels = build_network(network, width, input_shape, outputs, Draw(None, "float64"))
    weights = sum(each.count() for each in module.modules() if isinstance(each, Weighted))
    return Counts(weights, sum(each.numel() for each in module.parameters()), channels)


def require_torch() -> None:
    """Refuse finite networks where torch is not installed.

    Raises
    ------
    ConfigError
        With the command that installs it.
    """
    if importlib.util.find_spec("torch") is None:
        raise ConfigError("finite networks need torch: pip install 'cntk-pipeline[finite]'")
