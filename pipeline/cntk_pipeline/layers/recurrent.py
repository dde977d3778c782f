"""Layers of sequences. A sequence of T steps is an image of one row, ``(1, T, C)``; its columns are the steps."""

from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass, replace
from typing import ClassVar

import numpy as np

from cntk_pipeline.errors import LayerError
from cntk_pipeline.inputs import short_repr
from cntk_pipeline.layers.absent import Padded
from cntk_pipeline.layers.arguments import require_truth
from cntk_pipeline.layers.base import Graph, Layer, Shape, instead_of_layer, require_sequence
from cntk_pipeline.layers.branches import Concatenate, Product, Repeat
from cntk_pipeline.layers.linear import Conv, Dense, require_deviation
from cntk_pipeline.layers.pointwise import Pointwise
from cntk_pipeline.layers.residual import Identity, Residual
from cntk_pipeline.layers.sequential import Sequential
from cntk_pipeline.layers.windows import Windows


@dataclass(frozen=True)
class Recurrent(Layer):
    """A simple recurrent layer, infinitely wide: its states at all steps.

    ``h_t = w_std W s_(t-1) + u_std U x_t + b_std b`` and ``s_t = activation(h_t)``, from ``s_0 = 0`` on, with W, U and
    b the same at every step; divisions by the roots of fan-ins are left out here. Its kernels are those of Alemohammad
    et al. 2021 (arXiv:2006.10246). That weights are shared by all steps changes nothing in the limit.

    Parameters
    ----------
    activation : Layer
        A function of each position, such as ``Erf()``. Everything else is given by name.
    w_std : float
        Standard deviation of the weights from a state to the next.
    u_std : float
        Standard deviation of the weights of the input.
    b_std : float
        Standard deviation of the biases.
    backward : bool
        Run from the last step to the first.
    trained : bool
        False fixes the layer's own weights and biases at their initial values.
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
                "the activation of Recurrent must be a function of each position, such as Erf(), got "
                f"{short_repr(self.activation)}{instead_of_layer(self.activation)}"
            )
        for name in ("w_std", "u_std", "b_std"):
            require_deviation(name, getattr(self, name))
        require_truth("trained", self.trained)
        _require_direction(self.backward)

    @property
    def inner(self) -> tuple[Layer, ...]:
        return (self.activation,)

    @property
    def renews(self) -> bool:
        return True

    def output_shape(self, shape: Shape) -> Shape:
        require_sequence(self, shape)
        return self.activation.output_shape(shape.behind_weights(shape.spatial))

    def lower(self, graph: Graph, shape: Shape, source: int) -> int:
        assert isinstance(self.activation, Pointwise)
        variances = self.w_std**2, self.u_std**2, self.b_std**2
        return graph.recur(source, self.activation, *variances, float(self.trained), self.backward, shape.is_padded)


@dataclass(frozen=True)
class LastState(Layer):
    """Keep the last step of a sequence alone: behind a `Recurrent` layer, the state that has seen every step.

    Of sequences of unequal lengths that is the last present step of each.

    Parameters
    ----------
    backward : bool
        Keep the first step, which is the last one of a layer that runs backward.
    """

    backward: bool = False

    def __post_init__(self) -> None:
        _require_direction(self.backward)

    def output_shape(self, shape: Shape) -> Shape:
        require_sequence(self, shape)
        return shape.with_spatial(None)

    def lower(self, graph: Graph, shape: Shape, source: int) -> int:
        steps = require_sequence(self, shape)
        if shape.present is not None and not self.backward and not shape.present.at_end:
            return graph.pool(graph.gate(source, "last"), Windows.single(1), Windows.whole(steps))
        if shape.is_padded:  # the step that is kept is there in each
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
    recurrent : Layer
        A `Recurrent` layer that runs forward.
    """

    recurrent: Layer

    def __post_init__(self) -> None:
        if not isinstance(self.recurrent, Recurrent) or self.recurrent.backward:
            raise LayerError(
                f"Bidirectional needs a Recurrent layer that runs forward, got {short_repr(self.recurrent)}"
                f"{instead_of_layer(self.recurrent)}"
            )

    @property
    def directions(self) -> tuple[Recurrent, Recurrent]:
        """The layer that runs forward, and the one that runs backward."""
        assert isinstance(self.recurrent, Recurrent)
        return self.recurrent, replace(self.recurrent, backward=True)

    @property
    def inner(self) -> tuple[Layer, ...]:
        return (self.recurrent,)

    def output_shape(self, shape: Shape) -> Shape:
        steps = require_sequence(self, shape)
        return replace(self.recurrent.output_shape(shape), gaussian=False, alike=steps == 1)

    def lower(self, graph: Graph, shape: Shape, source: int) -> int:
        forward, backward = (each.lower(graph, shape, source) for each in self.directions)
        return graph.rescale(graph.add(forward, backward), 0.5)


AT_ANY_PLACE = (
    Bidirectional | Concatenate | Conv | Dense | Identity | Pointwise | Product | Recurrent | Repeat | Residual
)
"""Layers whose values do not depend, in any bit, on where in an array a sequence lies."""


def compares_last_states(networks: Iterable[Layer]) -> bool:
    """Tell whether networks of sequences look at last states alone.

    Sequences of unequal lengths then lie with their last steps below each other, so that one offset is enough.
    """
    return all(map(_ends_in_last_state, networks))


def _ends_in_last_state(network: Layer) -> bool:
    steps = network.flattened() if isinstance(network, Sequential) else (network,)
    inner = [layer for step in steps[1:] for layer in step.walk() if not isinstance(layer, Sequential)]
    states = [layer for layer in inner if isinstance(layer, LastState)]
    others = [layer for layer in inner if not isinstance(layer, LastState)]
    return (
        bool(steps and states)
        and isinstance(steps[0], Padded)
        and any(isinstance(layer, Recurrent) for layer in others)
        and all(isinstance(layer, AT_ANY_PLACE) for layer in others)
        and not any(state.backward for state in states)
    )


def read_sequences(network: Layer, inputs: np.ndarray) -> np.ndarray:
    """Lay sequences ``(n, T, C)`` as images of one row, if ``network`` has a layer of sequences; other inputs stay."""
    return inputs[:, None] if inputs.ndim == 3 and takes_sequences(network) else inputs


def takes_sequences(network: Layer) -> bool:
    """Tell whether a network has a layer of sequences, and so takes nothing else."""
    return any(isinstance(layer, Recurrent | Bidirectional | LastState | Padded) for layer in network.walk())


def _require_direction(value: object) -> None:
    if not isinstance(value, bool):
        raise LayerError(f"backward must be True or False, got {short_repr(value)}")
