"""Networks as plain tables."""

import json
import tomllib
from pathlib import Path

import pytest

from cntk_pipeline import layers
from cntk_pipeline.errors import LayerError
from cntk_pipeline.layers import (
    LAYERS,
    Attend,
    AvgPool,
    Concatenate,
    Conv,
    Dense,
    Elementwise,
    Flatten,
    GlobalAvgPool,
    Identity,
    LayerNorm,
    Maxout,
    MaxPool,
    Polynomial,
    Product,
    Relu,
    Repeat,
    Residual,
    Sequential,
    presets,
    spelling,
)
from cntk_pipeline.layers.refused import PAGE, REFUSED

BLOCK = Residual(Sequential(Relu(), Conv(3, strides=2), Relu(), Conv(3)), Conv(1, strides=2))
NETWORKS = {
    "cntk": presets.cntk(4),
    "cntk lap": presets.cntk(3, "lap2"),
    "fully_connected": presets.fully_connected(3, b_std=0.1),
    "myrtle": presets.myrtle(5),
    "resnet": presets.resnet(8),
    "wide_resnet": presets.wide_resnet(10),
    "cnn_gp": presets.cnn_gp(3),
    "transformer": presets.transformer(1, position_std=0.5),
    "keys": Sequential(Attend(keys=Sequential(Dense(), Relu()), mechanism="abs"), Flatten()),
    "nested": Sequential(Conv(3), Residual(Sequential(BLOCK, Conv(3)), Residual(Dense(), Sequential())), Flatten()),
    "branches": Sequential(
        *[
            Conv(3),
            MaxPool((1, 2)),
            Dense(),
            Product(Sequential(Dense(), Relu()), Dense()),
            Dense(),
            Maxout(2),
            Dense(),
        ],
        *[Repeat(Sequential(Relu(), Dense()), 4, True), Concatenate(Relu(), Sequential(Dense(), Relu()), 0.25)],
        Flatten(),
    ),
    "values": Sequential(Conv((3, 5)), Polynomial((0, 1.5)), Dense(), Elementwise("tanh", 8), AvgPool(2, None)),
}


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_a_network_that_is_spelt_and_read_is_the_same(network):
    assert spelling.read(spelling.spell(network), LAYERS) == network


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_what_is_spelt_survives_json(network):
    tables = spelling.spell(network)
    assert json.loads(json.dumps(tables)) == tables


def test_nested_sequences_are_spelt_unpacked():
    tables = spelling.spell(Sequential(Sequential(Dense(w_std=2.0)), Flatten()))
    assert tables == [{"layer": "Dense", "w_std": 2.0, "b_std": 0.0, "trained": True}, {"layer": "Flatten"}]


def test_branches_are_lists_of_tables_unpacked_too():
    network = Residual(Sequential(Sequential(LayerNorm()), Polynomial((0, 1))))
    assert spelling.spell(network) == [
        {
            "layer": "Residual",
            "branch": [{"layer": "LayerNorm"}, {"layer": "Polynomial", "coefficients": [0.0, 1.0]}],
            "shortcut": [{"layer": "Identity"}],
        }
    ]


def test_a_sequence_of_one_layer_is_read_as_that_layer():
    network = Sequential(Residual(Sequential(Dense()), Sequential(Sequential(Conv(3)))))
    assert spelling.read(spelling.spell(network), LAYERS) == Sequential(Residual(Dense(), Conv(3)))


def test_workflow_files_nest_tables_and_may_leave_out_the_list_of_one():
    text = """
    layers = [
        {layer = "Conv", filter_shape = 3},
        {layer = "Residual", branch = [
            {layer = "Relu"},
            {layer = "Conv", filter_shape = [3, 3], strides = 2},
        ], shortcut = {layer = "Conv", filter_shape = 1, strides = 2}},
        {layer = "Residual", branch = {layer = "Residual", branch = [{layer = "Dense"}]}},
        {layer = "GlobalAvgPool"},
    ]
    """
    assert spelling.read(tomllib.loads(text)["layers"], LAYERS) == Sequential(
        Conv(3),
        Residual(Sequential(Relu(), Conv((3, 3), strides=2)), Conv(1, strides=2)),
        Residual(Residual(Dense(), Identity())),
        GlobalAvgPool(),
    )


def test_fields_that_are_left_out_take_their_defaults_and_lists_are_tuples():
    tables = [{"layer": "Conv", "filter_shape": [3, 5], "strides": [1, 1]}, {"layer": "Relu"}]
    assert spelling.read(tables, LAYERS) == Sequential(Conv((3, 5), strides=(1, 1)), Relu())


def test_an_unknown_layer_is_refused_with_the_nearest():
    with pytest.raises(LayerError, match=r"^network.layers\[1\]: unknown layer 'Rely': did you mean 'Relu'\?"):
        spelling.read([{"layer": "Dense"}, {"layer": "Rely"}], LAYERS)
    with pytest.raises(LayerError, match=r"^network.layers\[0\]: unknown layer \['Relu'\]"):
        spelling.read([{"layer": ["Relu"]}], LAYERS)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("BatchNorm", r"would depend on the batches that both inputs are in: take LayerNorm\(\)"),
        ("GRU", "gates over all times has no closed form, and no NTK"),
        ("LSTM", "gates over all times has no closed form, and no NTK"),
        ("MaxPool2d", r"more than two correlated Gaussians .* MaxPool\(\(1, 2\)\), Dense\(\), MaxPool\(\(2, 1\)\)"),
        ("MultiheadAttention", r"finitely many heads is random: take SelfAttention\(\), Attend\(\) or LinearAtt"),
    ],
)
def test_a_layer_of_other_libraries_is_refused_with_the_reason_and_the_page(name, reason):
    message = f"there is no layer {name}, since .*{reason}.*docs/networks.md#layers-that-are-refused says more"
    with pytest.raises(LayerError, match=rf"^network.layers\[1\].branch: {message}"):
        spelling.read([{"layer": "Dense"}, {"layer": "Residual", "branch": {"layer": name}}], LAYERS)
    with pytest.raises(LayerError, match=f"^{message}"):
        getattr(layers, name)


def test_the_names_of_refused_layers_are_of_no_layer_and_others_are_unknown_as_ever():
    assert not REFUSED.keys() & LAYERS.keys()
    assert not hasattr(layers, "Convolve")
    page, _, section = PAGE.partition("#")
    text = (Path(__file__).parents[2] / page).read_text()
    assert f"## {section.replace('-', ' ').capitalize()}\n" in text
    with pytest.raises(LayerError, match=f"MaxPool is exact for two positions.* {PAGE} says more"):
        layers.MaxPool((2, 2))


@pytest.mark.parametrize("table", [{}, {"w_std": 1.0}, "Relu", 3, [{"layer": "Relu"}]])
def test_what_names_no_layer_is_refused(table):
    with pytest.raises(LayerError, match=r'^network.layers\[0\]: name the layer, like \{layer = "Relu"\}, got '):
        spelling.read([table], LAYERS)


def test_an_unknown_field_is_refused_with_the_nearest():
    with pytest.raises(LayerError, match=r"^network.layers\[0\]: Dense has no field 'w_sd': did you mean 'w_std'\?"):
        spelling.read([{"layer": "Dense", "w_sd": 1.0}], LAYERS)


@pytest.mark.parametrize(("layer", "key"), [("Dense", "units"), ("Dense", "width"), ("Conv", "filters")])
def test_a_width_is_refused_with_the_reason(layer, key):
    with pytest.raises(
        LayerError, match=rf"^network.layers\[0\]: {layer} has no field '{key}'.* infinite and not given"
    ):
        spelling.read([{"layer": layer, key: 64}], LAYERS)


def test_a_missing_field_is_refused_with_its_position():
    with pytest.raises(LayerError, match=r"^network.layers\[0\]: Conv needs filter_shape$"):
        spelling.read([{"layer": "Conv"}], LAYERS)


def test_no_names_at_all_are_said_so():
    assert spelling.nearest("w_std", []) == ": known are none"


@pytest.mark.parametrize("value", ["3 by 3", [3, 3, 3], None, [{"layer": "Relu"}]])
def test_a_value_of_another_type_is_refused_with_its_field(value):
    with pytest.raises(LayerError, match=r"^network.layers\[1\]: Conv: filter_shape must be"):
        spelling.read([{"layer": "Relu"}, {"layer": "Conv", "filter_shape": value}], LAYERS)


def test_a_value_out_of_range_is_refused_with_its_position_and_the_layer_s_reason():
    with pytest.raises(
        LayerError, match=r"^network.layers\[0\]: Dense: w_std must be a finite standard deviation >= 0"
    ):
        spelling.read([{"layer": "Dense", "w_std": -1.0}], LAYERS)


@pytest.mark.parametrize(
    ("branch", "message"),
    [
        ([{"layer": "Relu"}, {"layer": "Rellu"}], r"\.branch\[1\]: unknown layer 'Rellu': did you mean 'Relu'\?"),
        ({"layer": "Rellu"}, r"\.branch: unknown layer 'Rellu': did you mean 'Relu'\?"),
        ([{"layer": "Conv", "filter": 3}], r"\.branch\[0\]: Conv has no field 'filter': did you mean 'filter_shape'\?"),
        ([{"layer": "Conv"}], r"\.branch\[0\]: Conv needs filter_shape"),
        ([{"layer": "Dense", "b_std": "x"}], r"\.branch\[0\]: Dense: b_std must be"),
        (["Relu"], r"\.branch\[0\]: name the layer, like \{layer = \"Relu\"\}, got 'Relu'"),
        ("Relu", r"\.branch: expected layers, like \[\{layer = \"Relu\"\}\], got 'Relu'"),
        ([{"layer": "Residual", "branch": [{"layer": "R"}]}], r"\.branch\[0\]\.branch\[0\]: unknown layer 'R'"),
    ],
)
def test_an_error_in_a_branch_names_the_whole_path(branch, message):
    tables = [{"layer": "Conv", "filter_shape": 3}, {"layer": "Residual", "branch": branch}]
    with pytest.raises(LayerError, match=r"^network\.layers\[1\]" + message):
        spelling.read(tables, LAYERS)


def test_a_residual_needs_a_branch():
    with pytest.raises(LayerError, match=r"^network.layers\[0\]: Residual needs branch$"):
        spelling.read([{"layer": "Residual"}], LAYERS)


def test_a_python_function_cannot_be_spelt():
    network = Sequential(Dense(), Residual(Sequential(Elementwise(abs), Dense())))
    with pytest.raises(
        LayerError,
        match=r"Elementwise\(function=<built-in function abs>.* cannot be written into a file, since it holds a Python "
        r"function: add the function to cntk_pipeline.layers.series.FUNCTIONS on all machines and give its name",
    ):
        spelling.spell(network)


def test_fields_that_came_later_are_spelt_where_they_are_changed():
    # Specifications of runs from before have not got them, and keep their fingerprints.
    assert spelling.spell(Dense()) == [{"layer": "Dense", "w_std": 1.0, "b_std": 0.0, "trained": True}]
    changed = Sequential(Dense(rate=0.5), Conv(3, parameterization="standard", fan_in=64))
    first, second = spelling.spell(changed)
    assert first == {"layer": "Dense", "w_std": 1.0, "b_std": 0.0, "trained": True, "rate": 0.5}
    assert (second["parameterization"], second["fan_in"], "rate" in second) == ("standard", 64, False)
    assert spelling.read([first, second], LAYERS) == changed
