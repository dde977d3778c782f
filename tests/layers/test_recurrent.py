"""Layers of sequences."""

import numpy as np
import pytest
from support.tape import lowered

from cntk_pipeline import kernel_matrix
from cntk_pipeline.errors import LayerError
from cntk_pipeline.layers import (
    Bidirectional,
    Dense,
    Erf,
    LastState,
    LayerNorm,
    Padded,
    Recurrent,
    Relu,
    Residual,
    Sequential,
    Shape,
    Windows,
)

SEQUENCE = Shape((1, 5), 3)
LAYER = Recurrent(Erf(), w_std=2.0, u_std=3.0, b_std=0.5)


def test_a_recurrent_layer_is_a_scan_of_variances():
    assert lowered(LAYER, SEQUENCE) == [("recur", 0, Erf(), 4.0, 9.0, 0.25, 1.0, False)]
    backward = Recurrent(Erf(), backward=True, trained=False)
    assert lowered(backward, SEQUENCE) == [("recur", 0, Erf(), 1.0, 1.0, 0.0, 0.0, True)]


def test_both_directions_are_averaged():
    forward, backward, *rest = lowered(Bidirectional(LAYER), SEQUENCE)
    assert (forward, backward[:2], backward[-1]) == (lowered(LAYER, SEQUENCE)[0], ("recur", 0), True)
    assert rest == [("add", 1, 2), ("rescale", 3, 0.5)]


@pytest.mark.parametrize(("backward", "kept"), [(False, 4), (True, 0)])
def test_the_last_state_is_a_window_of_one_step(backward, kept):
    columns = Windows(5, 1, 1, -kept, 1)
    assert columns.bounds(0) == (kept, kept + 1)
    assert lowered(LastState(backward), SEQUENCE) == [("pool", 0, Windows.single(1), columns, 1.0, False)]


def test_states_are_behind_the_activation_at_every_step():
    assert LAYER.output_shape(SEQUENCE) == Shape((1, 5), None, False, centred=True, alike=True)
    assert not Recurrent(Relu()).output_shape(SEQUENCE).centred
    assert Recurrent(LayerNorm()).output_shape(SEQUENCE).gaussian
    assert Bidirectional(Recurrent(LayerNorm())).output_shape(SEQUENCE) == Shape((1, 5), None, False, centred=True)
    assert Bidirectional(LAYER).output_shape(Shape((1, 1), 3)).alike  # of one step, which is first and last
    assert LastState().output_shape(LAYER.output_shape(SEQUENCE)) == Shape(None, None, False, centred=True, alike=True)


def test_an_activation_behind_states_is_refused():
    with pytest.raises(LayerError, match=r"layer 1 .*Relu needs Gaussian inputs: put a Conv or Dense layer between"):
        Sequential(LAYER, Relu()).output_shape(SEQUENCE)


def test_states_with_a_mean_are_no_branch_beside_an_input_with_one():
    rectified = Shape((1, 5), None, False, alike=True)
    with pytest.raises(LayerError, match="branch and shortcut are correlated, since both have a mean"):
        Residual(Recurrent(Relu())).output_shape(rectified)
    assert Residual(LAYER).output_shape(rectified).channels is None


@pytest.mark.parametrize("layer", [LAYER, Bidirectional(LAYER), LastState()])
@pytest.mark.parametrize("shape", [Shape((2, 5), 3), Shape(None, 3)])
def test_other_inputs_than_sequences_are_refused_with_what_to_write(layer, shape):
    with pytest.raises(
        LayerError, match=r"needs sequences, which are images of one row, \(1, T, C\), got .*x\[:, None\]"
    ):
        layer.output_shape(shape)


@pytest.mark.parametrize("layer", [LAYER, Bidirectional(LAYER), LastState(), Padded()])
def test_graphs_are_no_sequences_of_one_step(layer):
    # The last state of a graph was the sum of its nodes.
    with pytest.raises(LayerError, match=rf"{type(layer).__name__} needs sequences, .*got \(nodes, inf\)"):
        layer.output_shape(Shape((1, 1), None, is_graph=True))


def test_sequences_of_as_many_channels_as_steps_are_no_images_with_channels_first():
    x = np.random.default_rng(0).standard_normal((3, 8, 8))
    network = Sequential(LAYER, LastState(), Dense())
    np.testing.assert_array_equal(kernel_matrix(network, x[:, None]), kernel_matrix(network, x))


@pytest.mark.parametrize("activation", [Dense(), Sequential(Relu()), "tanh"])
def test_an_activation_that_is_no_function_of_positions_is_refused(activation):
    with pytest.raises(LayerError, match=r"the activation of Recurrent must be a function of each position, .*Erf\(\)"):
        Recurrent(activation)


def test_other_values_are_refused_by_name():
    for name in ("w_std", "u_std", "b_std"):
        with pytest.raises(LayerError, match=f"{name} must be a finite standard deviation >= 0, got -1"):
            Recurrent(Relu(), **{name: -1})
    with pytest.raises(LayerError, match="trained must be True or False, got 1"):
        Recurrent(Relu(), trained=1)
    for layer in (lambda: Recurrent(Relu(), backward=1), lambda: LastState(1)):
        with pytest.raises(LayerError, match="backward must be True or False, got 1"):
            layer()
    for layer in (Relu(), Recurrent(Relu(), backward=True)):
        with pytest.raises(LayerError, match="Bidirectional needs a Recurrent layer that runs forward, got"):
            Bidirectional(layer)


def test_a_width_is_refused_with_what_to_write():
    with pytest.raises(LayerError, match=r"what other libraries call SimpleRNN\(64\) or RNN\(8, 64\) is Recurrent"):
        Recurrent(Relu(), units=64)
