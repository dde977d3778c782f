"""Sequences: nesting, shapes, and errors that name the position."""

import numpy as np
import pytest
from support.tape import lowered

from cntk_pipeline.errors import LayerError
from cntk_pipeline.layers import (
    Attend,
    Bidirectional,
    Concatenate,
    Conv,
    Dense,
    Flatten,
    GlobalAvgPool,
    LayerNorm,
    LinearAttention,
    Product,
    Recurrent,
    Relu,
    Repeat,
    Residual,
    Sequential,
    Shape,
    presets,
)

IMAGE = Shape((4, 5), 3)


def test_shapes_pass_through_the_layers_in_order():
    assert Sequential(Conv(3), Relu()).output_shape(IMAGE) == Shape((4, 5), None, False, alike=True)
    assert Sequential(Conv(3, strides=2), Relu(), Conv(2, padding="VALID")).output_shape(IMAGE) == Shape(
        (1, 2), None, True
    )
    assert Sequential(Conv(3), Relu(), GlobalAvgPool(), Dense()).output_shape(IMAGE) == Shape(None, None, True)
    assert Sequential().output_shape(IMAGE) == IMAGE


def test_nested_sequences_unpack_in_order():
    nested = Sequential(Sequential(Conv(3), Sequential(Relu())), Sequential(), Flatten(), Sequential(Dense()))
    assert nested.flattened() == (Conv(3), Relu(), Flatten(), Dense())
    assert nested.output_shape(IMAGE) == Shape(None, None, True)
    assert nested.inner == nested.layers


def test_layers_are_lowered_in_order_each_on_the_shape_before_it():
    network = Sequential(Conv(3, strides=2), Sequential(Relu(), Flatten()), Flatten())
    names = [operation[:2] for operation in lowered(network, IMAGE)]
    assert names == [("weigh", 0), ("apply", 1), ("trace", 2)]
    assert lowered(network, IMAGE)[2] == ("trace", 2, 1 / 6)  # of 2 x 3 pixels, not 4 x 5
    assert lowered(Sequential(), IMAGE) == []


def test_two_activations_in_a_row_are_refused():
    with pytest.raises(LayerError, match=r"^layer 2 \(Relu\) on input \(4, 5, inf\): Relu needs Gaussian inputs"):
        Sequential(Conv(3), Relu(), Relu()).output_shape(IMAGE)
    with pytest.raises(LayerError, match=r"^layer 2 \(LayerNorm\) on input .*: LayerNorm needs inputs of mean 0"):
        Sequential(Conv(3), Relu(), LayerNorm()).output_shape(IMAGE)
    with pytest.raises(LayerError, match=r"^layer 3 \(Relu\) on input .*: Relu needs Gaussian inputs"):
        Sequential(Conv(3), Relu(), GlobalAvgPool(), Relu()).output_shape(IMAGE)


def test_sequences_compare_by_value_and_print_as_they_are_written():
    network = Sequential(Conv(3, w_std=2.0), Sequential(Relu()))
    assert network == Sequential(Conv(3, w_std=2.0), Sequential(Relu()))
    assert network != Sequential(Conv(3, w_std=2.0), Relu())
    assert hash(network) == hash(Sequential(*network.layers))
    assert eval(repr(network)) == network


@pytest.mark.parametrize("value", [Relu, 3, None, [Relu()]])
def test_what_is_no_layer_is_refused_with_its_position(value):
    with pytest.raises(LayerError, match="layer 1 of Sequential must be a layer, got "):
        Sequential(Conv(3), value)


def test_an_error_names_position_layer_and_input():
    with pytest.raises(LayerError, match=r"^layer 2 \(Conv\) on input \(inf,\): Conv\(.*needs images"):
        Sequential(Conv(3), Flatten(), Conv(3)).output_shape(IMAGE)
    with pytest.raises(LayerError, match=r"^layer 0 \(Relu\) on input \(4, 5, 3\): Relu needs infinitely many"):
        Sequential(Relu()).output_shape(IMAGE)


def test_an_error_inside_a_nested_sequence_names_both_positions():
    network = Sequential(Conv(3), Sequential(Relu(), Flatten(), GlobalAvgPool()))
    with pytest.raises(
        LayerError, match=r"^layer 1 \(Sequential\) on input .*: layer 2 \(GlobalAvgPool\) on input \(inf,\)"
    ):
        network.output_shape(IMAGE)


KINDS = [
    (lambda each: Sequential(each), "layer 0 of Sequential must be a layer"),
    (lambda each: Residual(each), "the branch of Residual must be a layer"),
    (lambda each: Residual(Relu(), each), "the shortcut of Residual must be a layer"),
    (lambda each: Product(Relu(), each), "the gate of Product must be a layer"),
    (lambda each: Concatenate(each, Relu()), "the first of Concatenate must be a layer"),
    (lambda each: Repeat(each, 2), "the block of Repeat must be a layer"),
    (lambda each: Attend(keys=each), "the keys of Attend must be a layer"),
    (lambda each: LinearAttention(keys=each), "the keys of LinearAttention must be a layer"),
    (lambda each: Recurrent(each), "the activation of Recurrent must be a function of each position"),
    (lambda each: Bidirectional(each), "Bidirectional needs a Recurrent layer"),
]


@pytest.mark.parametrize(("make", "told"), KINDS)
@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ([Relu(), Dense()], r"several layers: give Sequential\(\*layers\)"),
        (Relu, r"which is a class: make one, Relu\(\)"),
        (Conv, r"which is a class: make one, Conv\(\.\.\.\)"),
        (presets.cntk, r"which is a function: call it, cntk\(\.\.\.\)"),
    ],
)
def test_what_makes_a_layer_is_none_and_what_to_write_is_told(make, told, given, remedy):
    with pytest.raises(LayerError, match=rf"^{told}.*, got .*{remedy}$"):
        make(given)


def test_an_array_in_the_place_of_a_layer_is_not_written_out():
    with pytest.raises(LayerError, match=r"must be a layer, got <ndarray of shape \(90, 90\)>$"):
        Sequential(np.zeros((90, 90)))
