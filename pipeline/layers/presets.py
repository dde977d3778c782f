"""Networks by name, each with its source."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.errors import LayerError
from pipeline.layers.base import Layer
from pipeline.layers.linear import Conv, Dense, Rescale
from pipeline.layers.pooling import Flatten, GlobalAvgPool, LocalAvgPool
from pipeline.layers.rectifiers import Relu
from pipeline.layers.sequential import Sequential

SQRT_2 = 2**0.5


def cntk(depth: int, pooling: str = "flatten", trained_ends: bool | None = None) -> Sequential:
    """Build the convolutional network of Arora et al. 2019 (arXiv:1904.11955), with the original code's values.

    ``depth - 1`` convolutions of 3 x 3 with ReLU after each, then a linear read-out. The original code sums over
    input channels, and without pooling over positions too, where the NTK parameterisation divides; `Rescale`
    makes the values equal. Read-outs of all depths and poolings with equal ``trained_ends`` share one pass.

    Parameters
    ----------
    depth : number of convolutions plus one; the paper uses 3, 4, 6, 11, 21.
    pooling : "flatten" (CNTK-V), "gap" (CNTK-GAP), or "lap4" for local average pooling with radius 4 and likewise
        with any other (Li et al. 2019, arXiv:1911.00809).
    trained_ends : whether the first convolution and the last layer are trained. None is the paper's choice:
        trained for "flatten", fixed for "gap" (its appendix H); and fixed for local pooling, which thus shares
        the pass of "gap".

    Raises
    ------
    LayerError
        If depth is below 2 or the pooling is unknown.
    """
    if not isinstance(depth, int) or depth < 2:
        raise LayerError(f"cntk counts convolutions plus one: depth must be a whole number >= 2, got {depth!r}")
    heads = _cntk_head(pooling)
    flat = pooling == "flatten"
    trained = flat if trained_ends is None else trained_ends
    body: list[Layer] = []
    for position in range(depth - 1):
        body += [Conv(3, w_std=SQRT_2, trained=trained or position > 0), Relu()]
    return Sequential(Rescale("channels"), *body, *heads, Dense(trained=trained))


def _cntk_head(pooling: str) -> tuple[Layer, ...]:
    if pooling == "flatten":
        return Rescale("pixels"), Flatten()
    if pooling == "gap":
        return (GlobalAvgPool(),)
    if isinstance(pooling, str) and re.fullmatch("lap[0-9]{1,4}", pooling):
        return LocalAvgPool(int(pooling[3:])), Flatten()
    raise LayerError(
        f'cntk knows pooling "flatten", "gap", and "lap4" or likewise with another radius, got {pooling!r}'
    )


def fully_connected(depth: int, w_std: float = SQRT_2, b_std: float = 0.0) -> Sequential:
    """Build a ReLU network of dense layers, all trained (Jacot et al. 2018, arXiv:1806.07572; Lee et al. 2019).

    Parameters
    ----------
    depth : number of dense layers, the linear read-out included; images are flattened first.
    w_std, b_std : of the hidden layers; the read-out has w_std 1 and the same b_std.

    Raises
    ------
    LayerError
        If depth is below 1.
    """
    if not isinstance(depth, int) or depth < 1:
        raise LayerError(f"fully_connected counts dense layers: depth must be a whole number >= 1, got {depth!r}")
    body: list[Layer] = []
    for _ in range(depth - 1):
        body += [Dense(w_std, b_std), Relu()]
    return Sequential(Flatten(), *body, Dense(1.0, b_std))


@dataclass(frozen=True)
class Preset:
    """A family of networks in the table of presets.

    Attributes
    ----------
    build : makes a member; its first argument is the depth.
    options : names of further arguments that a workflow file may give.
    poolings : values of the argument ``pooling``; empty where the family has none.
    """

    build: Callable[..., Sequential]
    options: tuple[str, ...]
    poolings: tuple[str, ...] = ()


PRESETS = {
    "cntk": Preset(cntk, ("trained_ends",), ("flatten", "gap")),
    "fully_connected": Preset(fully_connected, ("w_std", "b_std")),
}
