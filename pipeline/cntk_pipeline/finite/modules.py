"""The layers of finite networks as modules of torch. Images are ``(n, channels, H, W)``, vectors ``(n, channels)``."""

import contextlib
import itertools
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.nn import functional

from cntk_pipeline.errors import DataError
from cntk_pipeline.finite.absent import Here

Function = Callable[[torch.Tensor], torch.Tensor]


class Weighted(nn.Module):
    """A module with weights, by their names: parameters where they are trained, buffers where they are fixed."""

    def __init__(self, weights: dict[str, torch.Tensor], trained: bool) -> None:
        super().__init__()
        self._trained, self._names = trained, tuple(weights)
        for name, values in weights.items():
            if trained:
                self.register_parameter(name, nn.Parameter(values))
            else:
                self.register_buffer(name, values)

    def held(self, name: str) -> torch.Tensor:
        """Return weights by name."""
        return self.get_parameter(name) if self._trained else self.get_buffer(name)

    def count(self) -> int:
        """Count its own weights: not those of modules in it, and not its constants."""
        return sum(self.held(name).numel() for name in self._names)


class Affine(Weighted):
    """``scale W x + b_scale b`` of vectors.

    Parameters
    ----------
    weight, bias : torch.Tensor
        Gaussians, (outputs, inputs) and (outputs,); in the NTK parameterization of deviation 1.
    scale, b_scale : float
        What multiplies them; in the NTK parameterization ``w_std / sqrt(inputs)`` and ``b_std``.
    """

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor, *, scale: float, b_scale: float, trained: bool
    ) -> None:
        super().__init__({"weight": weight, "bias": bias}, trained)
        self.scale, self.b_scale = scale, b_scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * functional.linear(x, self.weight) + self.b_scale * self.bias


class Convolution(Weighted):
    """A convolution of images, likewise.

    Parameters
    ----------
    weight, bias : torch.Tensor
        Gaussians, (outputs, inputs, height, width) and (outputs,).
    scale, b_scale : float
        What multiplies them; in the NTK parameterization ``w_std / sqrt(inputs height width)`` and ``b_std``.
    strides : (int, int)
        Down and right, in pixels.
    pads : (int, int, int, int)
        Pixels outside: left, right, above, below.
    circular : bool
        Whether the image is repeated outside, instead of zeros.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor,
        *,
        scale: float,
        b_scale: float,
        strides: tuple[int, int] = (1, 1),
        pads: tuple[int, int, int, int] = (0, 0, 0, 0),
        circular: bool = False,
        trained: bool,
    ) -> None:
        super().__init__({"weight": weight, "bias": bias}, trained)
        self.scale, self.b_scale, self._strides = scale, b_scale, strides
        self._pads, self._mode = pads, "circular" if circular else "constant"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (
            self.scale * functional.conv2d(self._padded(x), self.weight, stride=self._strides)
            + self.b_scale * (self.bias[:, None, None])
        )

    def windows(self, x: torch.Tensor) -> torch.Tensor:
        """Return the numbers of each window, (n, inputs height width, windows)."""
        return functional.unfold(self._padded(x), self.weight.shape[2:], stride=self._strides)

    def _padded(self, x: torch.Tensor) -> torch.Tensor:
        return functional.pad(x, self._pads, self._mode)


class Attention(Weighted):
    """One head of self-attention over the positions of an image, logits divided by the number of key channels.

    Parameters
    ----------
    weights : mapping of str to torch.Tensor
        Unit Gaussians by name: "query", "key", "value" and "out", (outputs, inputs) each, and "bias", (outputs,), of
        the output. The key equals the query at the beginning.
    scales : mapping of str to float
        Of query, key, value and out: deviations divided by the roots of their inputs.
    b_std : float
        The deviation of the bias.
    trained : bool
        Whether the weights are trained.
    here : Here, optional
        The positions, where some may be absent; these get no weight.
    """

    def __init__(
        self,
        weights: dict[str, torch.Tensor],
        scales: dict[str, float],
        *,
        b_std: float,
        trained: bool,
        here: Here | None,
    ) -> None:
        super().__init__(weights, trained)
        self._scales, self._b_std, self._here = scales, b_std, here

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        positions = x.flatten(2).mT
        query, key, value = (self._apply_weights(name, positions) for name in ("query", "key", "value"))
        attention = _attend("softmax", query @ key.mT / query.shape[-1], self._here)
        mixed = self._apply_weights("out", attention @ value) + self._b_std * self.bias
        return mixed.mT.reshape(x.shape[0], -1, *x.shape[2:])

    def _apply_weights(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return self._scales[name] * functional.linear(x, self.held(name))


MECHANISMS: dict[str, Function] = {
    "softmax": lambda logits: functional.softmax(logits, -1),
    "identity": lambda logits: logits,
    "abs": torch.abs,
    "relu": torch.relu,
}
"""What attention is of its logits, by the names of `Attend`."""


def _attend(mechanism: str, logits: torch.Tensor, here: Here | None) -> torch.Tensor:
    """Make attention of logits (n, positions, positions), in which absent positions have no weight."""
    if here is None:
        return MECHANISMS[mechanism](logits)
    present = here.flags(logits.device).flatten(1)[:, None]
    hidden = logits.masked_fill(~present, -torch.inf) if mechanism == "softmax" else logits
    return MECHANISMS[mechanism](hidden) * present


class Mixing(nn.Module):
    """Attention over the positions of an image without weights: logits are products of its channels, over their number.

    Parameters
    ----------
    keys : torch.nn.Module
        What queries and keys are of the input.
    mechanism : str
        Makes attention of logits that ``gain`` multiplies.
    plus_identity : bool
        Whether the input is added.
    here : Here, optional
        The positions, where some may be absent; these get no weight.
    """

    def __init__(
        self, keys: nn.Module, gain: float, mechanism: str, plus_identity: bool, here: Here | None = None
    ) -> None:
        super().__init__()
        self.keys, self._gain = keys, gain
        self._mechanism, self._plus_identity, self._here = mechanism, plus_identity, here

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        keys = self.keys(x).flatten(2).mT
        attention = _attend(self._mechanism, self._gain / keys.shape[-1] * (keys @ keys.mT), self._here)
        mixed = (attention @ x.flatten(2).mT).mT.reshape(x.shape)
        return x + mixed if self._plus_identity else mixed


class LinearHeads(Weighted):
    """Heads of one channel each, attention without a softmax: ``W_out`` of ``q_i sum_j k_j v_j``, head by head.

    Parameters
    ----------
    keys : torch.nn.Module
        What queries and keys are of the input.
    weights : mapping of str to torch.Tensor
        Unit Gaussians: query, key and value, (heads, inputs); out, (outputs, heads); bias, (outputs,).
    scales : mapping of str to float
        Of query, key, value and out: deviations divided by the roots of their inputs.
    here : Here, optional
        The positions, where some may be absent; these are left out of the sum.
    """

    def __init__(
        self,
        keys: nn.Module,
        weights: dict[str, torch.Tensor],
        scales: dict[str, float],
        *,
        b_std: float,
        trained: bool,
        here: Here | None,
    ) -> None:
        super().__init__(weights, trained)
        self.keys = keys
        self._scales, self._b_std, self._here = scales, b_std, here

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        keys, values = self.keys(x).flatten(2).mT, x.flatten(2).mT
        sources = {"query": keys, "key": keys, "value": values}
        q, k, v = (self._scales[name] * functional.linear(by, self.held(name)) for name, by in sources.items())
        held = k * v if self._here is None else k * v * self._here.flags(x.device).flatten(1)[:, :, None]
        heads = q * held.sum(-2, keepdim=True)
        mixed = self._scales["out"] * functional.linear(heads, self.held("out")) + self._b_std * self.held("bias")
        return mixed.mT.reshape(x.shape[0], -1, *x.shape[2:])


class Embedding(Weighted):
    """Adds vectors of the positions, the same for all images.

    Parameters
    ----------
    vectors : torch.Tensor
        Unit Gaussians, (positions, channels).
    root : torch.Tensor
        Of the covariance of two positions, (positions, positions).
    """

    def __init__(self, vectors: torch.Tensor, root: torch.Tensor, *, trained: bool) -> None:
        super().__init__({"vectors": vectors}, trained)
        self.register_buffer("root", root)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + (self.get_buffer("root") @ self.held("vectors")).mT.reshape(x.shape[1:])


class Pool(nn.Module):
    """Weigh the positions of each window: ``rows x columns^T``.

    Parameters
    ----------
    rows, columns : torch.Tensor
        Weights of the positions along each axis, (windows, positions).
    vector : bool
        Whether one window is left, which becomes a vector.
    """

    def __init__(self, rows: torch.Tensor, columns: torch.Tensor, vector: bool) -> None:
        super().__init__()
        self.register_buffer("rows", rows)
        self.register_buffer("columns", columns)
        self._vector = vector

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = self.rows @ x @ self.columns.mT
        return pooled.flatten(1) if self._vector else pooled


class MaxPool(nn.Module):
    """The largest of each window, channel by channel.

    Parameters
    ----------
    window, strides : (int, int)
        Height and width in pixels.
    pads : (int, int, int, int)
        Pixels outside: left, right, above, below; none of them is the largest.
    """

    def __init__(self, window: tuple[int, int], strides: tuple[int, int], pads: tuple[int, int, int, int]) -> None:
        super().__init__()
        self._window, self._strides, self._pads = window, strides, pads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.max_pool2d(functional.pad(x, self._pads, value=-torch.inf), self._window, self._strides)


class Maxout(nn.Module):
    """The larger one of each channel of the first half and its counterpart in the second."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, 1)
        return torch.maximum(first, second)


class Pointwise(nn.Module):
    """A function of each number by itself, or of the channels of each position."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self._function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._function(x)


class Recurrence(Weighted):
    """The states of a recurrent layer at all steps, which are the columns of an image of one row.

    Parameters
    ----------
    weights : mapping of str to torch.Tensor
        Unit Gaussians, "recurrent" (units, units), "input" (units, inputs) and "bias" (units,).
    scales : mapping of str to float
        What multiplies them: deviations, those of weights divided by the roots of what they sum over.
    function : callable
        The activation, of ``(n, units)``.
    backward : bool
        From the last step to the first.
    here : Here, optional
        The steps, where some may be absent; states are 0 there.
    """

    def __init__(
        self,
        weights: dict[str, torch.Tensor],
        scales: dict[str, float],
        function: Function,
        *,
        backward: bool,
        trained: bool,
        here: Here | None,
    ) -> None:
        super().__init__(weights, trained)
        self._scales, self._function, self._backward, self._here = scales, function, backward, here

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = {name: scale * getattr(self, name) for name, scale in self._scales.items()}
        given = functional.linear(x[:, :, 0].mT, weights["input"], weights["bias"])  # (n, steps, units)
        present = None if self._here is None else self._here.flags(x.device)[:, 0]
        state, states, steps = torch.zeros_like(given[:, 0]), {}, range(given.shape[1])
        for step in reversed(steps) if self._backward else steps:
            state = self._function(given[:, step] + functional.linear(state, weights["recurrent"]))
            states[step] = state = state if present is None else state * present[:, step, None]
        return torch.stack([states[step] for step in steps], 2)[:, :, None]


class Sum(nn.Module):
    """The sum of a branch and a shortcut."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.branch, self.shortcut = branch, shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.branch(x) + self.shortcut(x)


class Product(nn.Module):
    """The product of a branch and a gate."""

    def __init__(self, branch: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.branch, self.gate = branch, gate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.branch(x) * self.gate(x)


class Concatenation(nn.Module):
    """The channels of two branches side by side.

    Parameters
    ----------
    scales : (float, float)
        Factors of both, which give them their shares whatever their widths are.
    """

    def __init__(self, first: nn.Module, second: nn.Module, scales: tuple[float, float]) -> None:
        super().__init__()
        self.first, self.second, self._scales = first, second, scales

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self._scales[0] * self.first(x), self._scales[1] * self.second(x)], 1)


class Repeated(nn.Module):
    """Blocks one after the other, to each of which the first input is added if ``inject``.

    Parameters
    ----------
    scales : list of float, optional
        Of the input and of what is behind each block, which lie side by side at the end; None keeps the last.
    """

    def __init__(self, blocks: list[nn.Module], inject: bool, scales: list[float] | None = None) -> None:
        super().__init__()
        self.blocks, self._inject, self._scales = nn.ModuleList(blocks), inject, scales

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = [x]
        for block in self.blocks:
            z = block(seen[-1])
            seen.append(z + x if self._inject else z)
        if self._scales is None:
            return seen[-1]
        return torch.cat([scale * z for scale, z in zip(self._scales, seen, strict=True)], 1)


def require_tensor(x: object) -> None:
    """Refuse what is no tensor of torch, such as an array of NumPy.

    Raises
    ------
    DataError
        With the remedy.
    """
    if not isinstance(x, torch.Tensor):
        raise DataError(f"the network takes a tensor of torch, got {type(x).__name__}: give torch.as_tensor(x)")


@contextlib.contextmanager
def told_dtypes(network: nn.Module, x: torch.Tensor) -> Iterator[None]:
    """Say of an error of torch that the tensor has another dtype than the network, where that is so.

    Some networks take both, so that the dtype is no reason by itself.

    Raises
    ------
    DataError
        With both dtypes.
    """
    try:
        yield
    except RuntimeError as error:
        numbers = itertools.chain(network.parameters(), network.buffers())
        dtype = next((each.dtype for each in numbers if each.is_floating_point()), x.dtype)
        if dtype == x.dtype:
            raise
        raise DataError(
            f"the network has weights of {dtype}, got a tensor of {x.dtype}: give x.to({dtype}), or build the network "
            "with another dtype"
        ) from error


class Network(nn.Module):
    """A whole network; takes and returns images as the kernels do, ``(n, H, W, channels)``.

    Parameters
    ----------
    body : torch.nn.Module
        Takes images ``(n, channels, H, W)``, or vectors.
    input_shape : tuple of int
        Of one input, (H, W, C) or (features,).
    sequences : bool
        Whether ``(n, T, C)`` are sequences, which are images of one row.
    """

    _input_shape: tuple[int, ...] | None = None  # of modules that an earlier version saved whole
    _sequences = False

    def __init__(self, body: nn.Module, input_shape: tuple[int, ...], sequences: bool) -> None:
        super().__init__()
        self.body, self._input_shape, self._sequences = body, input_shape, sequences

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        require_tensor(x)
        given = tuple(x.shape)
        if self._sequences and x.ndim == 3:
            x = x[:, None]
        # Of another shape, torch would take one image for many rows of channels.
        if self._input_shape is not None and tuple(x.shape[1:]) != self._input_shape:
            expected = ", ".join(map(str, self._input_shape))
            raise DataError(f"the network takes a batch of inputs, (n, {expected}), got an array of shape {given}")
        with told_dtypes(self, x):
            found = self.body(x.permute(0, 3, 1, 2) if x.ndim == 4 else x)
        return found.permute(0, 2, 3, 1) if found.ndim == 4 else found
