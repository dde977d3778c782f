"""What all functions of single positions have in common."""

from dataclasses import replace

import pytest
from support.tape import lowered

from cntk_pipeline.errors import LayerError
from cntk_pipeline.layers import Dropout, Elementwise, Erf, LayerNorm, Relu, Shape

POINTWISE = [Relu(), Erf(), Elementwise("tanh"), LayerNorm()]
everywhere = pytest.mark.parametrize("spatial", [(4, 5), None])


@everywhere
@pytest.mark.parametrize("layer", POINTWISE, ids=repr)
def test_a_pointwise_layer_keeps_size_and_width(layer, spatial):
    shape = Shape(spatial, None, gaussian=True)
    behind = shape if isinstance(layer, LayerNorm) else replace(shape, gaussian=False, centred=layer != Relu())
    assert layer.output_shape(shape) == behind
    assert lowered(layer, shape) == [("apply", 0, layer)]


@everywhere
@pytest.mark.parametrize("layer", [*POINTWISE, Dropout()], ids=repr)
def test_a_pointwise_layer_of_raw_inputs_is_refused(layer, spatial):
    name = type(layer).__name__
    with pytest.raises(LayerError, match=f"{name} needs infinitely many channels: put a Conv or Dense layer before it"):
        layer.output_shape(Shape(spatial, 3))


@pytest.mark.parametrize("layer", POINTWISE[:-1], ids=repr)
@pytest.mark.parametrize("before", [Relu(), Dropout()], ids=repr)
def test_a_pointwise_layer_of_what_is_not_gaussian_is_refused(layer, before):
    shape = before.output_shape(Shape(None, None, gaussian=True))
    with pytest.raises(
        LayerError,
        match=f"{type(layer).__name__} needs Gaussian inputs: put a Conv or Dense layer between it and the activation",
    ):
        layer.output_shape(shape)
