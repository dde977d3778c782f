"""Sequences: nesting, shapes, and errors that name the position."""

import pytest

from pipeline.errors import LayerError
from pipeline.layers import Conv, Dense, Flatten, GlobalAvgPool, Relu, Sequential, Shape

IMAGE = Shape((4, 5), 3)


def test_shapes_pass_through_the_layers_in_order():
    assert Sequential(Conv(3), Relu()).output_shape(IMAGE) == Shape((4, 5), None)
    assert Sequential(Conv(3), Relu(), GlobalAvgPool(), Dense()).output_shape(IMAGE) == Shape(None, None)
    assert Sequential().output_shape(IMAGE) == IMAGE


def test_nested_sequences_unpack_in_order():
    nested = Sequential(Sequential(Conv(3), Sequential(Relu())), Sequential(), Flatten(), Sequential(Dense()))
    assert nested.flattened() == (Conv(3), Relu(), Flatten(), Dense())
    assert nested.output_shape(IMAGE) == Shape(None, None)


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
