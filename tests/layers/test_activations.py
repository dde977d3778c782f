"""Activations: their shapes and what they refuse."""

import pytest

from pipeline.errors import LayerError
from pipeline.layers import Relu, Shape


@pytest.mark.parametrize("spatial", [(4, 5), None])
def test_an_activation_keeps_the_shape(spatial):
    assert Relu().output_shape(Shape(spatial, None)) == Shape(spatial, None)


@pytest.mark.parametrize("spatial", [(4, 5), None])
def test_an_activation_of_raw_inputs_is_refused(spatial):
    with pytest.raises(LayerError, match="Relu needs infinitely many channels: put a Conv or Dense layer before it"):
        Relu().output_shape(Shape(spatial, 3))
