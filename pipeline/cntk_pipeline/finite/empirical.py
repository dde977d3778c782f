"""Empirical kernels: of finite networks, by what they compute and how that changes with their weights.

A kernel value is a product of two rows of numbers, one of each input. The row of the NNGP holds the outputs of a
network, that of the NTK the derivatives of the outputs by all parameters.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cntk_pipeline.errors import ConfigError, DataError, LayerError, NotFinite
from cntk_pipeline.finite.building import DTYPES, build, require_torch
from cntk_pipeline.finite.calling import outputs_of, require_no_draws, require_steady, torch_by_itself
from cntk_pipeline.inputs import as_array, instead_of_numbers, short_repr
from cntk_pipeline.layers import Dense, Layer, Sequential
from cntk_pipeline.layers.arguments import require_count
from cntk_pipeline.layers.kinds import KINDS, require_kind
from cntk_pipeline.layers.normalization import find_dropout
from cntk_pipeline.layers.reading import require_inputs

if TYPE_CHECKING:
    from torch import nn

Array = np.ndarray

BLOCK_BYTES = 2**27
"""Of the rows that are held at once; rows of more images are computed again."""

CHUNK = 8192
"""Numbers that a product adds up at once: OpenBLAS divides more than 10,000 among threads, which changes bits."""


@dataclass(frozen=True)
class Draws:
    """Finite networks that differ in their seed alone.

    Attributes
    ----------
    network, width, input_shape, seed, dtype
        As of `finite.build`.
    kind : str
        "nngp" or "ntk".
    count : int
        Networks.

    Raises
    ------
    LayerError
        If a number is none, or the network has no empirical kernel of this kind.
    """

    network: Layer
    kind: str
    width: int
    input_shape: tuple[int, ...]
    seed: int = 0
    count: int = 1
    dtype: str = "float64"

    def __post_init__(self) -> None:
        require_kind(self.network, self.kind, self.input_shape)
        require_count("width", self.width)
        require_count("draws", self.count)
        require_count("seed", self.seed, 0)
        if self.dtype not in DTYPES:
            raise LayerError(f'finite networks are of dtype "float32" or "float64", got dtype={short_repr(self.dtype)}')
        _require_no_dropout(self.network)

    @property
    def outputs(self) -> int | None:
        """The outputs of a network; None is the width.

        The NTK is the same in expectation for each output, and one output costs one pass backwards. The NNGP is a
        mean over outputs, so it takes as many as there are channels.
        """
        return 1 if self.kind == "ntk" and self.ends_in_dense else None

    @property
    def ends_in_dense(self) -> bool:
        """Whether the last layer has weights, and as many outputs as are asked for."""
        steps = self.network.flattened() if isinstance(self.network, Sequential) else (self.network,)
        return bool(steps) and isinstance(steps[-1], Dense)

    def modules(self) -> "Iterator[nn.Module]":
        """Build one network after the other: the same ones each time."""
        for draw in range(self.count):
            seed = (self.seed, draw)
            yield build(self.network, self.width, self.input_shape, outputs=self.outputs, seed=seed, dtype=self.dtype)


@dataclass
class Products:
    """The mean over networks of the products of rows.

    A value depends on its two inputs alone, bit for bit: the row of an input is computed by itself, by one thread, and
    a product adds the same numbers in the same order wherever a pair lies.

    Attributes
    ----------
    modules : callable
        Makes the networks, the same ones each time.
    kind : str
        "nngp" or "ntk".
    block_bytes : int
        Of the rows that are held at once, if two of them are not more.
    stopped : bool
        Makes a computation of another thread return soon, with numbers that mean nothing.
    """

    modules: "Callable[[], Iterator[nn.Module]]"
    kind: str
    block_bytes: int = BLOCK_BYTES
    stopped: bool = field(default=False, init=False)

    def of_all(self, left: Array, right: Array | None = None) -> Array:
        """Evaluate all pairs, (n_left, n_right) float64; without ``right`` those of ``left`` with itself."""
        return self._mean(lambda row, held: self._all(row, held, left, right), left[0])

    def of_pairs(self, left: Array, right: Array | None = None) -> Array:
        """Evaluate the pairs of each left input with the right one of the same number, (n,) float64."""
        others = left if right is None else right

        def evaluate(row: Callable[[Array], Array], held: int) -> Array:
            pairs = [] if self.stopped else zip(left, others, strict=True)
            return np.array([_multiply(row(x)[None], row(z)[None]).item() for x, z in pairs])

        return self._mean(evaluate, left[0])

    def _mean(self, evaluate: Callable[[Callable[[Array], Array], int], Array], first: Array) -> Array:
        total, count = np.zeros(()), 0
        with torch_by_itself():
            for module in self.modules():
                if self.stopped and count:
                    break
                row = _ROWS[self.kind](module)
                held = max(1, self.block_bytes // max(2 * row(first).nbytes, 1))
                total, count = total + evaluate(row, held), count + 1
        return total / count

    def _all(self, row: Callable[[Array], Array], held: int, left: Array, right: Array | None) -> Array:
        others = left if right is None else right
        values = np.zeros((len(left), len(others)))
        for top in range(0, len(left), held):
            rows = np.stack([row(x) for x in left[top : top + held]])
            stop = len(others) if right is not None else top + 1
            for start in range(0, stop, held):
                if self.stopped:
                    return values
                same = right is None and start == top
                columns = rows if same else np.stack([row(z) for z in others[start : start + held]])
                block = _multiply(rows, columns)
                values[top : top + held, start : start + held] = block
                if right is None:
                    values[start : start + held, top : top + held] = block.T
        return values


def empirical_kernel(
    network: "Layer | nn.Module",
    x: Array,
    z: Array | None = None,
    *,
    kind: str = "ntk",
    width: int | None = None,
    seed: int = 0,
    draws: int = 1,
    dtype: str = "float64",
    block_bytes: int = BLOCK_BYTES,
) -> Array:
    """Evaluate the kernel of finite networks, or of one module of torch.

    The NNGP is ``f(x) f(z)^T / outputs``, the NTK ``J(x) J(z)^T`` with J the derivatives of one output by all
    parameters that are trained; both are means over the draws. A module of several outputs has the mean of their NTKs.

    Parameters
    ----------
    network : Layer or torch.nn.Module
        A network of the algebra that ends in a vector; or a module with weights of its own, which takes a batch of
        inputs of the shape that is given, and is used as it is: call its ``eval()`` first where it has dropout or batch
        normalisation. It gets one input after the other, as numbers of its parameters' dtype; a module with an
        ``nn.Embedding`` gets whole numbers as they are.
    x, z : array
        Inputs, ``(n, H, W, C)`` or ``(n, features)``, for a module of any shape; None for ``z`` means ``x``.
    kind : str
        "ntk" or "nngp".
    width : int, optional
        Channels of each layer with weights.
    seed, draws : int
        Of the networks, and how many of them.
    dtype : str
        "float32" or "float64", of the networks; that of a module is its own.
    block_bytes : int
        Of the derivatives that are held at once, at least those of two inputs. A smaller number costs time.

    Returns
    -------
    float64 array, (n_x, n_z)

    Raises
    ------
    LayerError
        If the network is none or has no such kernel; if width, draws or block_bytes is no whole number of at least 1;
        if a module draws random numbers, takes statistics of a batch, changes as it is called, returns something else
        than one tensor of real numbers, or has frozen parameters alone where its NTK is asked for.
    DataError
        If inputs do not agree, or are no real numbers; for a network also if they are not finite, but for absent
        positions.
    ConfigError
        If torch is not installed, or a module is given a width, a seed, draws or a dtype.
    NotFinite
        If a value is not finite, with its inputs.

    Examples
    --------
    >>> import numpy as np
    >>> from cntk_pipeline.finite import empirical_kernel
    >>> from cntk_pipeline.layers import presets
    >>> x = np.eye(3)
    >>> k = empirical_kernel(presets.fully_connected(2), x, width=1024, draws=8)
    >>> bool(np.all(abs(k - np.where(np.eye(3) > 0, 2 / 3, 1 / (3 * np.pi))) < 0.05))
    True
    """
    require_torch()
    import torch

    if kind not in KINDS:
        raise LayerError(f'a kernel is "nngp" or "ntk", got kind={short_repr(kind)}')
    require_count("block_bytes", block_bytes)
    modules: Callable[[], Iterator[Any]]
    left, right = as_array("x", x), None if z is None else as_array("z", z)
    if left.size == 0 or (right is not None and (right.size == 0 or right.shape[1:] != left.shape[1:])):
        got = left.shape if right is None else f"{left.shape} and {right.shape}"
        raise DataError(f"x and z must hold at least one input each, all of one shape, got {got}")
    for name, given in (("x", left), ("z", right)):
        if given is not None and given.dtype.kind not in "biuf":
            raise DataError(f"{name} must hold real numbers, {instead_of_numbers(name, given)}")
    if isinstance(network, Layer):
        left = require_inputs("x", left, [network])
        right = None if right is None else require_inputs("z", right, [network])
        if width is None:
            raise LayerError("an empirical kernel needs the width of its finite networks, such as width=512")
        modules = Draws(network, kind, width, left.shape[1:], seed, draws, dtype).modules
    elif not isinstance(network, torch.nn.Module):
        raise LayerError(
            f"network must be a layer of cntk_pipeline.layers or a module of torch, got {short_repr(network)}"
        )
    elif (width, seed, draws, dtype) != (None, 0, 1, "float64"):
        raise ConfigError(
            "a module of torch has a width, weights and a dtype of its own: leave out width, seed, draws and dtype"
        )
    else:
        require_steady(network)
        _require_trained(network, kind)
        require_no_draws(network, left[0])
        modules = lambda: iter([network])  # noqa: E731 - a generator of one
    with np.errstate(over="ignore", invalid="ignore"):  # refused below
        values = Products(modules, kind, block_bytes).of_all(left, right)
    require_finite(values, network)
    return values


def require_finite(values: Array, network: "Layer | nn.Module") -> None:
    """Refuse values (..., n, n) of which one is not finite.

    Raises
    ------
    NotFinite
        With the numbers of its inputs.
    """
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        place = tuple(bad[0])
        cause = "the inputs or the network's w_std, b_std are out of range"
        if not isinstance(network, Layer):
            cause = "what the module computes of them, or a derivative of it, is not finite"
        raise NotFinite(f"the kernel is {values[place]} for inputs {int(place[-2])} and {int(place[-1])}: {cause}")


def _multiply(left: Array, right: Array) -> Array:
    """Multiply all pairs of rows, each pair by itself: products of whole matrices differ by their shapes in bits."""
    values = np.zeros((len(left), len(right)))
    for begin in range(0, left.shape[1], CHUNK):
        a, b = (rows[:, begin : begin + CHUNK].astype(np.float64) for rows in (left, right))
        values += np.vecdot(a[:, None], b[None])
    return values


def _output_row(module: "nn.Module") -> Callable[[Array], Array]:
    import torch

    def row(image: Array) -> Array:
        with torch.no_grad():
            outputs = outputs_of(module, image)
        return np.asarray(outputs.numpy()) / np.sqrt(len(outputs))

    return row


def _tangent_row(module: "nn.Module") -> Callable[[Array], Array]:
    import torch

    parameters = [each for each in module.parameters() if each.requires_grad]

    def row(image: Array) -> Array:
        outputs = outputs_of(module, image)
        if not outputs.requires_grad:
            return np.zeros(1)  # nothing is trained
        found = []
        for output in outputs:
            slopes = torch.autograd.grad(output, parameters, retain_graph=True, materialize_grads=True)
            found += [each.to_dense().reshape(-1) for each in slopes]  # of an embedding they may be sparse
        return np.asarray(torch.cat(found).numpy()) / np.sqrt(len(outputs))

    return row


_ROWS = {"nngp": _output_row, "ntk": _tangent_row}


def _require_trained(module: "nn.Module", kind: str) -> None:
    """Refuse the NTK of a module whose parameters are all frozen: it is zero everywhere."""
    if kind == "ntk" and not any(each.requires_grad for each in module.parameters()) and list(module.parameters()):
        raise LayerError(
            'no parameter of the module is trained, so that its NTK is zero everywhere: give kind="nngp", or call '
            "the module's requires_grad_() first"
        )


def _require_no_dropout(network: Layer) -> None:
    dropout = find_dropout(network)
    if dropout is not None:
        raise LayerError(
            f"{dropout} draws a mask for each sample, so that a finite network has no kernel of two inputs alone: "
            "leave it out, or take the exact kernel"
        )
