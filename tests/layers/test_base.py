"""Shapes, and what all layers have in common."""

import dataclasses

import pytest

from pipeline.errors import LayerError
from pipeline.layers import LAYERS, Conv, Layer, Shape

MEMBERS = [Conv(3) if name == "Conv" else layer() for name, layer in LAYERS.items()]


def test_shapes_are_read_off_arrays_of_images_and_of_vectors():
    assert Shape.of_inputs((10, 32, 24, 3)) == Shape((32, 24), 3)
    assert Shape.of_inputs((10, 7)) == Shape(None, 7)


@pytest.mark.parametrize("shape", [(), (10,), (10, 32, 32), (1, 2, 3, 4, 5)])
def test_inputs_of_other_shapes_are_refused(shape):
    with pytest.raises(
        LayerError, match=r"expected inputs of shape \(n, H, W, C\) or \(n, features\), got .*add the missing axes"
    ):
        Shape.of_inputs(shape)


def test_shapes_print_infinite_width_as_inf():
    assert str(Shape((4, 5), None)) == "(4, 5, inf)"
    assert str(Shape((4, 5), 3)) == "(4, 5, 3)"
    assert str(Shape(None, 7)) == "(7,)"
    assert str(Shape(None, None)) == "(inf,)"


@pytest.mark.parametrize("layer", MEMBERS, ids=repr)
def test_every_layer_is_a_frozen_value(layer):
    assert isinstance(layer, Layer)
    assert layer == dataclasses.replace(layer)
    assert hash(layer) == hash(dataclasses.replace(layer))
    for field in dataclasses.fields(layer):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(layer, field.name, None)


@pytest.mark.parametrize("layer", MEMBERS, ids=repr)
def test_every_layer_prints_as_it_is_written(layer):
    assert eval(repr(layer), dict(LAYERS)) == layer


@pytest.mark.parametrize(("name", "layer"), LAYERS.items())
def test_the_table_names_layers_as_python_does(name, layer):
    assert layer.__name__ == name
