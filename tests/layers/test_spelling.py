"""Networks as plain tables."""

import pytest

from pipeline.errors import LayerError
from pipeline.layers import LAYERS, Conv, Dense, Flatten, Relu, Sequential, presets, spelling


@pytest.mark.parametrize("network", [presets.cntk(4), presets.cntk(3, "gap"), presets.fully_connected(3, b_std=0.1)])
def test_a_network_that_is_spelt_and_read_is_the_same(network):
    assert spelling.read(spelling.spell(network), LAYERS) == network


def test_nested_sequences_are_spelt_unpacked():
    tables = spelling.spell(Sequential(Sequential(Dense(w_std=2.0)), Flatten()))
    assert tables == [{"layer": "Dense", "w_std": 2.0, "b_std": 0.0, "trained": True}, {"layer": "Flatten"}]


def test_fields_that_are_left_out_take_their_defaults_and_lists_are_tuples():
    tables = [{"layer": "Conv", "filter_shape": [3, 5], "strides": [1, 1]}, {"layer": "Relu"}]
    assert spelling.read(tables, LAYERS) == Sequential(Conv((3, 5), strides=(1, 1)), Relu())


def test_an_unknown_layer_is_refused_with_the_nearest():
    with pytest.raises(LayerError, match=r"network.layers\[1\]: unknown layer 'Rely': did you mean 'Relu'\?"):
        spelling.read([{"layer": "Dense"}, {"layer": "Rely"}], LAYERS)
    with pytest.raises(LayerError, match=r"network.layers\[0\]: name the layer, like layer = "):
        spelling.read([{}], LAYERS)


def test_an_unknown_field_is_refused_with_the_nearest():
    with pytest.raises(LayerError, match=r"network.layers\[0\]: Dense has no field 'w_sd': did you mean 'w_std'\?"):
        spelling.read([{"layer": "Dense", "w_sd": 1.0}], LAYERS)


def test_a_missing_field_is_refused_with_its_position():
    with pytest.raises(LayerError, match=r"network.layers\[0\]: .*filter_shape"):
        spelling.read([{"layer": "Conv"}], LAYERS)


def test_no_names_at_all_are_said_so():
    assert spelling.nearest("w_std", []) == ": known are none"


@pytest.mark.parametrize("value", ["3 by 3", [3, 3, 3], None])
def test_a_value_of_another_type_is_refused_with_its_field(value):
    with pytest.raises(LayerError, match=r"network.layers\[1\]: Conv: filter_shape must be"):
        spelling.read([{"layer": "Relu"}, {"layer": "Conv", "filter_shape": value}], LAYERS)


def test_a_value_out_of_range_is_refused_with_its_position_and_the_layer_s_reason():
    with pytest.raises(LayerError, match=r"network.layers\[0\]: .*w_std must be a finite standard deviation >= 0"):
        spelling.read([{"layer": "Dense", "w_std": -1.0}], LAYERS)
