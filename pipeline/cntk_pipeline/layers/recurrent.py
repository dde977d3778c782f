"""Layers of sequences. A sequence of T steps is an image of one row, ``(1, T, C)``; its columns are the steps."""

from dataclasses import KW_ONLY, dataclass, replace
from typing import ClassVar

import numpy as np

from cntk_pipeline.errors import LayerError
from cntk_pipeline.layers.base import Graph, Layer, Shape
from cntk_pipeline.layers.linear import require_deviation, require_trained
from cntk_pipeline.layers.pointwise import Pointwise
from cntk_pipeline.layers.sequential import Sequential
from cntk_pipeline.layers.windows import Windows


def _require_sequence(layer: Layer, shape: Shape) -> int:
    """Return the number of steps, or say that ``layer`` needs sequences."""
    if shape.spatial is None or shape.spatial[0] != 1:
        raise LayerError(
            f"{type(layer).__name__} needs sequences, which are images of one row, (1, T, C), got {shape}: give arrays "
            '(n, T, C) as x[:, None], and those of files with data.layout = "sequences"; put no Flatten or pooling of '
            "all steps before it"
        )
    return shape.spatial[1]


@dataclass(frozen=True)
class Recurrent(Layer):
    """A simple recurrent layer, infinitely wide: its states at all steps.

    ``h_t = w_std W s_(t-1) + u_std U x_t + b_std b`` and ``s_t = activation(h_t)``, from ``s_0 = 0`` on, with W, U and
    b the same at every step; divisions by the roots of fan-ins are left out here. Its kernels are those of Alemohammad
    et al. 2021 (arXiv:2006.10246). That weights are shared by all steps changes nothing in the limit.

    Parameters
    ----------
    activation : a function of each position, such as ``Erf()``. Everything else is given by name.
    w_std : standard deviation of the weights from a state to the next.
    u_std : standard deviation of the weights of the input.
    b_std : standard deviation of the biases.
    backward : run from the last step to the first.
    trained : False fixes the layer's own weights and biases at their initial values.
    """

    spelt_elsewhere: ClassVar[str] = (
        "The number of units is infinite and not given: what other libraries call SimpleRNN(64) or RNN(8, 64) is "
        'Recurrent(Elementwise("tanh")), and GRU or LSTM have no closed form'
    )

    activation: Layer
    _: KW_ONLY
    w_std: float = 1.0
    u_std: float = 1.0
    b_std: float = 0.0
    backward: bool = False
    trained: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.activation, Pointwise):
            raise LayerError(
                f"the activation of Recurrent must be a function of each position, such as Erf(), got "
                f"{self.activation!r}"
            )
        for name in ("w_std", "u_std", "b_std"):
            require_deviation(name, getattr(self, name))
        require_trained(self.trained)
        _require_direction(self.backward)

    @property
    def inner(self) -> tuple[Layer, ...]:
        return (self.activation,)

    @property
    def renews(self) -> bool:
        return True

    def output_shape(self, shape: Shape) -> Shape:
        _require_sequence(self, shape)
        return self.activation.output_shape(shape.behind_weights(shape.spatial))

    def lower(self, graph: Graph, shape: Shape, source: int) -> int:
        assert isinstance(self.activation, Pointwise)
        variances = self.w_std**2, self.u_std**2, self.b_std**2
        return graph.recur(source, self.activation, *variances, float(self.trained), self.backward, shape.padded)


@dataclass(frozen=True)
class LastState(Layer):
    """Keep the last step of a sequence alone: behind a `Recurrent` layer, the state that has seen every step.

    Of sequences of unequal lengths that is the last present step of each.

    Parameters
    ----------
    backward : keep the first step, which is the last one of a layer that runs backward.
    """

    backward: bool = False

    def __post_init__(self) -> None:
        _require_direction(self.backward)

    def output_shape(self, shape: Shape) -> Shape:
        _require_sequence(self, shape)
        return shape.with_spatial(None)

    def lower(self, graph: Graph, shape: Shape, source: int) -> int:
        steps = _require_sequence(self, shape)
        if shape.padded and not self.backward:
            return graph.pool(graph.gate(source, "last"), Windows.single(1), Windows.whole(steps))
        if shape.padded:  # the first step of each is there
            source = graph.gate(source, "present")
        kept = 0 if self.backward else steps - 1
        return graph.pool(source, Windows.single(1), Windows(steps, 1, 1, -kept, 1))


@dataclass(frozen=True)
class Bidirectional(Layer):
    """Lay the states of two recurrent layers side by side, at each step: one runs forward, its twin backward.

    Each has weights of its own, and half of the channels. What follows sees both at equal steps. The last states of
    both directions are two steps: ``Concatenate(Sequential(r, LastState()), Sequential(b, LastState(backward=True)))``
    of a layer r and its twin b.

    Parameters
    ----------
    recurrent : a `Recurrent` layer that runs forward.
    """

    recurrent: Layer

    def __post_init__(self) -> None:
        if not isinstance(self.recurrent, Recurrent) or self.recurrent.backward:
            raise LayerError(f"Bidirectional needs a Recurrent layer that runs forward, got {self.recurrent!r}")

    @property
    def directions(self) -> tuple[Recurrent, Recurrent]:
        """The layer that runs forward, and the one that runs backward."""
        assert isinstance(self.recurrent, Recurrent)
        return self.recurrent, replace(self.recurrent, backward=True)

    @property
    def inner(self) -> tuple[Layer, ...]:
        return (self.recurrent,)

    def output_shape(self, shape: Shape) -> Shape:
        _require_sequence(self, shape)
        return replace(self.recurrent.output_shape(shape), gaussian=False)

    def lower(self, graph: Graph, shape: Shape, source: int) -> int:
        forward, backward = (each.lower(graph, shape, source) for each in self.directions)
        return graph.rescale(graph.add(forward, backward), 0.5)


@dataclass(frozen=True)
class Padded(Layer):
    """Take sequences of unequal lengths; the first layer of a network.

    Steps of the input that hold NaN in all channels are absent; they lie behind those that are present, as
    `sequences.pad` lays them. An absent step adds nothing anywhere: a state there is 0, windows of convolutions find
    zeros, attention gives it no weight, and means are over a sequence's own steps. A kernel value is that of the two
    sequences alone, whatever the array's number of steps.
    """

    def output_shape(self, shape: Shape) -> Shape:
        _require_sequence(self, shape)
        if shape.channels is None:
            raise LayerError("Padded needs the inputs themselves: put it first")
        return replace(shape, padded=True)

    def lower(self, graph: Graph, shape: Shape, source: int) -> int:
        return graph.pad(source)


def takes_padding(network: Layer) -> bool:
    """Tell whether a network takes sequences of unequal lengths.

    Raises
    ------
    LayerError
        If it has a `Padded` that is not its first layer.
    """
    count = sum(isinstance(layer, Padded) for layer in network.walk())
    steps = network.flattened() if isinstance(network, Sequential) else (network,)
    is_first = bool(steps) and isinstance(steps[0], Padded)
    if count > is_first:
        raise LayerError("Padded says what the inputs are, and is the first layer of the whole network: put it first")
    return is_first


def read_sequences(network: Layer, inputs: np.ndarray) -> np.ndarray:
    """Lay sequences ``(n, T, C)`` as images of one row, if ``network`` has a layer of sequences; other inputs stay."""
    is_sequential = any(isinstance(layer, Recurrent | Bidirectional | LastState | Padded) for layer in network.walk())
    return inputs[:, None] if inputs.ndim == 3 and is_sequential else inputs


def _require_direction(value: object) -> None:
    if not isinstance(value, bool):
        raise LayerError(f"backward must be True or False, got {value!r}")
