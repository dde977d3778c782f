"""Empirical kernels of few inputs, each network by itself, added up layer by layer.

The tangent kernel is a sum over layers. That of a dense layer, ``scale W x + b_scale b``, is
``scale^2 (x . x') (d . d') + b_scale^2 (d . d')``, with d the derivatives of an output of the network by the output of
the layer. So one pass forwards and one backwards through all inputs give the kernel, and the derivatives by the weights
are never written down: at a width of 8,192 these are 67 million numbers for an input and a layer.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from cntk_pipeline.errors import LayerError
from cntk_pipeline.finite.building import build, require_torch
from cntk_pipeline.finite.calling import torch_by_itself
from cntk_pipeline.finite.empirical import Draws, require_finite
from cntk_pipeline.inputs import short_repr
from cntk_pipeline.layers import Layer
from cntk_pipeline.layers.kinds import KINDS
from cntk_pipeline.layers.reading import require_inputs

if TYPE_CHECKING:
    import torch
    from torch import nn

Array = np.ndarray


def empirical_kernels(
    network: Layer,
    x: Array,
    *,
    width: int,
    kinds: Sequence[str] = KINDS,
    seed: int = 0,
    draws: int = 1,
    dtype: str = "float64",
) -> Array:
    """Evaluate the kernels of finite networks, those of each network by itself.

    They are those of `empirical_kernel`, up to rounding, without the mean over draws. Both kinds are of the same
    networks. For up to some tens of inputs this is many times faster, as the derivatives by single weights are not
    needed; with more, the covariances of all positions of all inputs cost more than they save.

    Parameters
    ----------
    network : Layer
        A network of the algebra that ends in a vector.
    x : array
        Inputs, ``(n, H, W, C)`` or ``(n, features)``.
    width : int
        Channels of each layer with weights.
    kinds : sequence of str
        "ntk", "nngp" or both.
    seed, draws, dtype
        As of `empirical_kernel`.

    Returns
    -------
    float64 array, (draws, kinds, n, n)

    Raises
    ------
    LayerError
        If the network has no such kernel, no kind is asked for, or a number is not a whole number of at least 1.
    DataError
        If inputs are not finite real numbers, but for absent positions, or there is none.
    ConfigError
        If torch is not installed.
    NotFinite
        If a value is not finite, with its inputs.

    Examples
    --------
    >>> import numpy as np
    >>> from cntk_pipeline.finite import empirical_kernels
    >>> from cntk_pipeline.layers import presets
    >>> k = empirical_kernels(presets.fully_connected(2), np.eye(3), width=256, draws=100)
    >>> k.shape
    (100, 2, 3, 3)
    >>> bool(abs(k[:, KINDS.index("ntk"), 0, 0].mean() - 2 / 3) < 0.03)
    True
    """
    require_torch()
    inputs = require_inputs("x", x, [network])
    if isinstance(kinds, str):
        raise LayerError(f'kinds is a list, got {short_repr(kinds)}: write kinds=("{kinds}",)')
    if not kinds:
        raise LayerError('empirical kernels are of at least one kind, "nngp" or "ntk", got none')
    sets = [Draws(network, kind, width, inputs.shape[1:], seed, draws, dtype) for kind in kinds]
    # The first output of a network of many is the output of the network of one: NumPy draws its weights first.
    outputs = next((each.outputs for each in sets if each.kind == "nngp"), sets[0].outputs)
    found = np.empty((draws, len(kinds), len(inputs), len(inputs)))
    with torch_by_itself():
        for draw in range(draws):
            module = build(network, width, inputs.shape[1:], outputs=outputs, seed=(seed, draw), dtype=dtype)
            found[draw] = [_KERNELS[each.kind](module, inputs, dtype, each.ends_in_dense) for each in sets]
    require_finite(found, network)
    return found


def _output_kernel(module: "nn.Module", x: Array, dtype: str, ends_in_dense: bool) -> Array:
    import torch

    with torch.no_grad():
        outputs = module(torch.tensor(x, dtype=getattr(torch, dtype))).flatten(1).double()
    return np.asarray((outputs @ outputs.mT / outputs.shape[1]).numpy())


def _tangent_kernel(module: "nn.Module", x: Array, dtype: str, ends_in_dense: bool) -> Array:
    """Evaluate the NTK: of the first output where all have the same one in expectation, otherwise the mean of all."""
    import torch

    from cntk_pipeline.finite.modules import Affine, Convolution

    shares = {Affine: _dense_share, Convolution: _window_share}
    layers = [each for each in module.modules() if type(each) in shares and _is_trained(each)]
    held = {id(each) for layer in layers for each in layer.parameters()}
    others = [each for each in module.parameters() if id(each) not in held]
    with _recorded(layers) as seen:
        outputs = module(torch.tensor(x, dtype=getattr(torch, dtype))).flatten(1)
    total = torch.zeros(len(x), len(x), dtype=torch.float64)
    if not outputs.requires_grad:
        return np.asarray(total.numpy())  # nothing is trained
    count = 1 if ends_in_dense else outputs.shape[1]
    for output in range(count):
        slopes = _slopes(outputs[:, output].sum(), [after for _, after in seen])
        for layer, (before, _), slope in zip(layers, seen, slopes, strict=True):
            total += shares[type(layer)](layer, before.detach(), slope)
        if others:
            total += _parameter_share(outputs[:, output], others)
    return np.asarray((total / count).numpy())


_KERNELS: dict[str, Callable[["nn.Module", Array, str, bool], Array]] = {
    "nngp": _output_kernel,
    "ntk": _tangent_kernel,
}


def _is_trained(layer: "nn.Module") -> bool:
    return any(True for _ in layer.parameters())


@contextmanager
def _recorded(layers: "list[nn.Module]") -> "Iterator[list[tuple[torch.Tensor, torch.Tensor]]]":
    """Record the input and the output of each layer, each of which is passed once, in the order of ``layers``."""
    seen: list[Any] = [None] * len(layers)

    def record(position: int) -> Callable[[Any, Any, Any], None]:
        return lambda layer, arguments, after: seen.__setitem__(position, (arguments[0], after))

    hooks = [layer.register_forward_hook(record(position)) for position, layer in enumerate(layers)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _slopes(output: "torch.Tensor", by: "list[torch.Tensor]") -> "tuple[torch.Tensor, ...]":
    import torch

    return torch.autograd.grad(output, by, retain_graph=True, materialize_grads=True) if by else ()


def _dense_share(layer: Any, before: "torch.Tensor", slope: "torch.Tensor") -> "torch.Tensor":
    slopes = (slope @ slope.mT).double()
    return slopes * (layer.scale**2 * (before @ before.mT).double() + layer.b_scale**2)


def _window_share(layer: Any, before: "torch.Tensor", slope: "torch.Tensor") -> "torch.Tensor":
    """Sum over pairs of positions: a weight is used at each of them."""
    import torch

    windows, slopes = layer.windows(before).mT, slope.flatten(2).mT  # (n, positions, numbers)
    rows = []
    for window, own in zip(windows, slopes, strict=True):
        # An input against all: (n, positions, positions), the most that is held at once.
        products = (slopes @ own.mT) * (layer.scale**2 * (windows @ window.mT) + layer.b_scale**2)
        rows.append(products.double().sum((1, 2)))
    return torch.stack(rows)


def _parameter_share(outputs: "torch.Tensor", parameters: "list[nn.Parameter]") -> "torch.Tensor":
    """Multiply derivatives by the weights themselves, where a layer has no share of its own: attention."""
    import torch

    rows = [
        torch.cat([each.reshape(-1) for each in _slopes(output, parameters)]).double()  # type: ignore[arg-type]
        for output in outputs
    ]
    found = torch.stack(rows)
    return found @ found.mT
