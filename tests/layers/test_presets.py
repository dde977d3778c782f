"""Networks by name."""

import pytest

from pipeline.errors import LayerError
from pipeline.layers import Conv, Dense, Flatten, GlobalAvgPool, Relu, Rescale, Sequential, Shape, presets
from pipeline.layers.presets import PRESETS


def test_the_cntk_has_one_convolution_less_than_its_depth():
    layers = presets.cntk(6).layers
    assert sum(isinstance(layer, Conv) for layer in layers) == sum(isinstance(layer, Relu) for layer in layers) == 5
    assert isinstance(layers[-1], Dense)


def test_without_pooling_every_layer_of_the_cntk_is_trained():
    conv = Conv(3, w_std=2**0.5)
    assert presets.cntk(3) == Sequential(Rescale("features"), conv, Relu(), conv, Relu(), Flatten(), Dense())


def test_with_pooling_the_ends_of_the_cntk_are_fixed():
    first, later = Conv(3, w_std=2**0.5, trained=False), Conv(3, w_std=2**0.5)
    assert presets.cntk(3, "gap") == Sequential(
        Rescale("channels"), first, Relu(), later, Relu(), GlobalAvgPool(), Dense(trained=False)
    )


@pytest.mark.parametrize("pooling", ["flatten", "gap"])
@pytest.mark.parametrize("trained_ends", [True, False])
def test_the_ends_of_the_cntk_can_be_chosen(pooling, trained_ends):
    layers = presets.cntk(4, pooling, trained_ends).layers
    assert [layer.trained for layer in layers if isinstance(layer, Conv | Dense)] == [
        trained_ends,
        True,
        True,
        trained_ends,
    ]


def test_the_fully_connected_network_counts_dense_layers():
    hidden = Dense(2**0.5, 0.1)
    assert presets.fully_connected(3, b_std=0.1) == Sequential(
        Flatten(), hidden, Relu(), hidden, Relu(), Dense(1.0, 0.1)
    )
    assert presets.fully_connected(1) == Sequential(Flatten(), Dense())


@pytest.mark.parametrize("depth", [1, 0, -2, 3.5])
def test_a_cntk_without_convolutions_is_refused(depth):
    with pytest.raises(LayerError, match=f"depth must be a whole number >= 2, got {depth}"):
        presets.cntk(depth)


def test_a_fully_connected_network_without_layers_is_refused():
    with pytest.raises(LayerError, match="depth must be a whole number >= 1, got 0"):
        presets.fully_connected(0)


@pytest.mark.parametrize("pooling", ["max", "v", None])
def test_an_unknown_pooling_is_refused(pooling):
    with pytest.raises(LayerError, match=f'cntk knows pooling "flatten" and "gap", got {pooling!r}'):
        presets.cntk(3, pooling)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_every_preset_builds_a_vector_network_from_a_depth_and_each_pooling(preset):
    for choice in [{"pooling": pooling} for pooling in preset.poolings] or [{}]:
        assert preset.build(3, **choice).output_shape(Shape((4, 4), 3)) == Shape(None, None)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_the_options_of_a_preset_are_arguments_of_its_builder(preset):
    preset.build(3, **{option: True if option == "trained_ends" else 1.0 for option in preset.options})
