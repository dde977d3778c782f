"""Networks by name."""

import inspect

import numpy as np
import pytest
from support.tape import lowered

from cntk_pipeline.errors import LayerError
from cntk_pipeline.layers import (
    Attend,
    AvgPool,
    Conv,
    Dense,
    Flatten,
    GlobalAvgPool,
    Layer,
    LayerNorm,
    LocalAvgPool,
    PositionalEmbedding,
    Relu,
    Rescale,
    Residual,
    Sequential,
    Shape,
    presets,
)
from cntk_pipeline.layers.presets import PRESETS
from cntk_pipeline.layers.spelling import spell

SMALLEST = {
    "cntk": 2, "fully_connected": 1, "myrtle": 5, "resnet": 8, "wide_resnet": 10,
    "cnn_gp": 1, "transformer": 1, "gntk": 1,
}  # fmt: skip
CIFAR = Shape((32, 32), 3)


def weighted_layers(layer: Layer) -> int:
    """Count convolutions and dense layers, those in shortcuts included."""
    return isinstance(layer, Conv | Dense) + sum(map(weighted_layers, layer.inner))


def test_the_cntk_has_one_convolution_less_than_its_depth():
    layers = presets.cntk(6).layers
    assert sum(isinstance(layer, Conv) for layer in layers) == sum(isinstance(layer, Relu) for layer in layers) == 5
    assert isinstance(layers[-1], Dense)


def test_without_pooling_every_layer_of_the_cntk_is_trained():
    conv = Conv(3, w_std=2**0.5)
    assert presets.cntk(3) == Sequential(
        Rescale("channels"), conv, Relu(), conv, Relu(), Rescale("pixels"), Flatten(), Dense()
    )


def test_with_pooling_the_ends_of_the_cntk_are_fixed():
    first, later = Conv(3, w_std=2**0.5, trained=False), Conv(3, w_std=2**0.5)
    assert presets.cntk(3, "gap") == Sequential(
        Rescale("channels"), first, Relu(), later, Relu(), GlobalAvgPool(), Dense(trained=False)
    )


@pytest.mark.parametrize(("pooling", "radius"), [("lap0", 0), ("lap4", 4), ("lap31", 31)])
def test_local_pooling_of_the_cntk_is_spelt_with_its_radius_and_shares_the_body_of_gap(pooling, radius):
    local = presets.cntk(3, pooling)
    assert local.layers[-3:] == (LocalAvgPool(radius), Flatten(), Dense(trained=False))
    assert local.layers[:-3] == presets.cntk(3, "gap").layers[:-2]


@pytest.mark.parametrize("pooling", ["flatten", "gap", "lap1"])
@pytest.mark.parametrize("trained_ends", [True, False])
def test_the_ends_of_the_cntk_can_be_chosen(pooling, trained_ends):
    layers = presets.cntk(4, pooling, trained_ends=trained_ends).layers
    assert [layer.trained for layer in layers if isinstance(layer, Conv | Dense)] == [
        trained_ends,
        True,
        True,
        trained_ends,
    ]


def test_the_fully_connected_network_counts_dense_layers():
    hidden = Dense(w_std=2**0.5, b_std=0.1)
    assert presets.fully_connected(3, b_std=0.1) == Sequential(
        Flatten(), hidden, Relu(), hidden, Relu(), Dense(w_std=1.0, b_std=0.1)
    )
    assert presets.fully_connected(1) == Sequential(Flatten(), Dense())


@pytest.mark.parametrize("depth", [1, 0, -2, 3.5])
def test_a_cntk_without_convolutions_is_refused(depth):
    with pytest.raises(LayerError, match=f"depth must be a whole number of at least 2, got {depth}"):
        presets.cntk(depth)


def test_a_fully_connected_network_without_layers_is_refused():
    with pytest.raises(LayerError, match="depth must be a whole number of at least 1, got 0"):
        presets.fully_connected(0)


@pytest.mark.parametrize(
    ("depth", "blocks", "size"), [(5, (2, 1, 1), 5), (7, (2, 2, 2), 7), (10, (3, 3, 3), 10)], ids=str
)
def test_myrtle_pools_after_each_of_three_blocks(depth, blocks, size):
    network = presets.myrtle(depth)
    layers = iter(network.layers)
    for count in blocks:
        for _ in range(count):
            assert next(layers) == Conv(3, w_std=2**0.5)
            assert next(layers) == Relu()
        assert next(layers) == AvgPool(2)
    assert list(layers) == [GlobalAvgPool(), Dense()]
    assert weighted_layers(network) == size
    assert Sequential(*network.layers[:-2]).output_shape(CIFAR).spatial == (4, 4)


def test_the_smallest_resnet_by_hand():
    conv, down = Conv(3, w_std=2**0.5, b_std=0.1), Conv(3, strides=2, w_std=2**0.5, b_std=0.1)
    shortcut = Conv(1, strides=2, w_std=2**0.5, b_std=0.1)
    assert presets.resnet(8, b_std=0.1) == Sequential(
        conv,
        Residual(Sequential(Relu(), conv, Relu(), conv)),
        Residual(Sequential(Relu(), down, Relu(), conv), shortcut),
        Residual(Sequential(Relu(), down, Relu(), conv), shortcut),
        Relu(),
        GlobalAvgPool(),
        Dense(w_std=1.0, b_std=0.1),
    )


def test_the_smallest_wide_resnet_by_hand():
    conv, down = Conv(3), Conv(3, strides=2)
    assert presets.wide_resnet(10) == Sequential(
        conv,
        Residual(Sequential(Relu(), conv, Relu(), conv), conv),
        Residual(Sequential(Relu(), down, Relu(), conv), down),
        Residual(Sequential(Relu(), down, Relu(), conv), down),
        GlobalAvgPool(),
        Dense(),
    )


@pytest.mark.parametrize("depth", [8, 14, 20, 110])
def test_a_resnet_has_its_depth_of_layers_on_the_longest_path(depth):
    network = presets.resnet(depth)
    assert network.output_shape(CIFAR) == Shape(None, None, gaussian=True)
    assert Sequential(*network.layers[:-2]).output_shape(CIFAR).spatial == (8, 8)
    assert weighted_layers(network) == depth + 2  # two shortcuts


@pytest.mark.parametrize("depth", [10, 16, 28, 40])
def test_a_wide_resnet_counts_convolutions_and_those_of_shortcuts_too(depth):
    network = presets.wide_resnet(depth)
    assert weighted_layers(network) == depth + 1  # the dense layer
    assert network.output_shape(CIFAR) == Shape(None, None, gaussian=True)
    assert Sequential(*network.layers[:-2]).output_shape(CIFAR).spatial == (8, 8)


@pytest.mark.parametrize("build", [presets.resnet, presets.wide_resnet])
def test_blocks_of_equal_size_have_the_identity_as_their_shortcut(build):
    blocks = [
        layer for layer in build(22 if build is presets.wide_resnet else 20).layers if isinstance(layer, Residual)
    ]
    assert len(blocks) == 9
    changing = [position for position, block in enumerate(blocks) if isinstance(block.shortcut, Conv)]
    assert changing == ([0, 3, 6] if build is presets.wide_resnet else [3, 6])


@pytest.mark.parametrize("depth", [8, 20])
def test_residual_networks_fit_images_of_odd_size(depth):
    assert presets.resnet(depth).output_shape(Shape((7, 5), 1)).spatial is None


def test_the_convnet_gp_has_the_paper_s_variances():
    # var_w is that of a weight times the channels: the variance of a sum over 7 x 7 positions is 49 times as large.
    conv = Conv(7, w_std=(49 * 2.79) ** 0.5, b_std=7.86**0.5)
    assert presets.cnn_gp(3) == Sequential(
        conv, Relu(), conv, Relu(), Flatten(), Dense(w_std=2.79**0.5, b_std=7.86**0.5)
    )
    assert weighted_layers(presets.cnn_gp(8)) == 8


def test_the_convnet_gp_s_options():
    network = presets.cnn_gp(2, "gap", filter_shape=(3, 2), var_w=1.0, var_b=0.0)
    assert network == Sequential(Conv((3, 2), w_std=6**0.5), Relu(), GlobalAvgPool(), Dense())


def test_the_last_filter_of_the_convnet_gp_is_a_convolution_of_the_image_s_size():
    flat, whole = (
        Sequential(Flatten(), Dense(w_std=2.0, b_std=0.5)),
        Sequential(Conv((4, 5), padding="VALID", w_std=2.0, b_std=0.5)),
    )
    shape = Shape((4, 5), 1)
    (_, _, mean), (weigh, *_) = lowered(flat, shape)[0], lowered(whole, shape)
    assert lowered(flat, shape)[1][4:] == (4.0, 0.25, 1.0)
    assert weigh[4:] == (4.0 * mean, 0.25, 1.0)


def test_a_block_of_the_transformer_has_attention_and_two_layers_between_norms():
    weights = Dense(w_std=2.0, b_std=0.1)
    rest = [Attend(plus_identity=True), LayerNorm(), Residual(Sequential(weights, Relu(), weights)), LayerNorm()]
    tokens = Conv((2, 4), strides=(2, 4), padding="VALID", w_std=2.0, b_std=0.1)
    network = presets.transformer(2, patch=(2, 4), position_std=0.5, w_std=2.0, b_std=0.1)
    embedded = [tokens, PositionalEmbedding(w_std=0.5)]
    assert network == Sequential(*embedded, *rest, weights, *rest, GlobalAvgPool(), Dense(b_std=0.1))
    assert presets.transformer(1, "flatten").layers[0] == Conv(4, strides=4, padding="VALID")
    assert PositionalEmbedding() not in presets.transformer(1).layers


@pytest.mark.parametrize("depth", [0, 1.0, None])
def test_a_transformer_without_blocks_is_refused(depth):
    with pytest.raises(
        LayerError, match=f"transformer counts blocks: depth must be a whole number of at least 1, got {depth}"
    ):
        presets.transformer(depth)


@pytest.mark.parametrize("depth", [6, 0, None, "5"])
def test_a_myrtle_of_another_depth_is_refused_with_those_there_are(depth):
    with pytest.raises(LayerError, match=f"myrtle: depth must be one of 5, 7, 10, got {depth!r}"):
        presets.myrtle(depth)


@pytest.mark.parametrize("depth", [2, 9, 18, -4, 8.0, None])
def test_a_resnet_of_another_depth_is_refused_with_those_there_are(depth):
    with pytest.raises(
        LayerError, match=rf"resnet: depth must be 6 n \+ 2, one of 8, 14, 20, 26, \.\.\., got {depth!r}"
    ):
        presets.resnet(depth)


@pytest.mark.parametrize("depth", [4, 8, 27])
def test_a_wide_resnet_of_another_depth_is_refused_with_those_there_are(depth):
    with pytest.raises(
        LayerError, match=rf"wide_resnet: depth must be 6 n \+ 4, one of 10, 16, 22, 28, \.\.\., got {depth}"
    ):
        presets.wide_resnet(depth)


@pytest.mark.parametrize("depth", [0, -1, 2.0])
def test_a_convnet_gp_without_layers_is_refused(depth):
    with pytest.raises(
        LayerError, match=f"cnn_gp counts convolutions: depth must be a whole number of at least 1, got {depth}"
    ):
        presets.cnn_gp(depth)


@pytest.mark.parametrize("name", ["var_w", "var_b"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), "1", True])
def test_impossible_variances_are_refused(name, value):
    with pytest.raises(LayerError, match=f"cnn_gp needs a finite {name} >= 0, got {value!r}"):
        presets.cnn_gp(3, **{name: value})


def test_a_filter_that_is_none_is_refused():
    with pytest.raises(LayerError, match="filter_shape must be one or two whole numbers of at least 1, got '7'"):
        presets.cnn_gp(3, filter_shape="7")


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if "flatten" in preset.poolings])
@pytest.mark.parametrize("pooling", ["max", "v", None, "lap", "lap-1", "lap1.5", "lap4x", "Lap4", "lapN"])
def test_an_unknown_pooling_is_refused(name, pooling):
    message = f'{name} knows pooling "flatten", "gap", and "lap4" or likewise with another radius, got {pooling!r}'
    with pytest.raises(LayerError, match=message):
        PRESETS[name].build(SMALLEST[name], pooling)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"depth": 0}, "gntk: depth must be a whole number of at least 1, got 0"),
        ({"depth": 1, "dense_layers": 1.5}, "gntk: dense_layers must be a whole number of at least 1, got 1.5"),
        ({"depth": 1, "pooling": "gap"}, 'gntk knows pooling "sum" and "mean", got \'gap\''),
        ({"depth": 1, "scaling": "max"}, "scaling must be one of sum, degree, got 'max'"),
    ],
)
def test_what_the_network_of_graphs_does_not_know_is_refused(arguments, told):
    with pytest.raises(LayerError, match=told):
        presets.gntk(**arguments)


@pytest.mark.parametrize(("name", "preset"), PRESETS.items(), ids=PRESETS)
def test_every_preset_builds_a_vector_network_from_a_depth_and_each_pooling(name, preset):
    for choice in [{"pooling": pooling.replace("N", "2")} for pooling in preset.poolings] or [{}]:
        inputs = Shape((1, 1), 3, is_graph=True) if name == "gntk" else Shape((8, 8), 3)
        shape = preset.build(SMALLEST[name], **choice).output_shape(inputs)
        assert (shape.spatial, shape.channels, shape.gaussian) == (None, None, True)


@pytest.mark.parametrize(("name", "preset"), PRESETS.items(), ids=PRESETS)
def test_the_first_pooling_of_a_preset_is_its_default(name, preset):
    if preset.poolings:
        assert preset.build(SMALLEST[name]) == preset.build(SMALLEST[name], pooling=preset.poolings[0])


@pytest.mark.parametrize(("name", "preset"), PRESETS.items(), ids=PRESETS)
def test_the_options_of_a_preset_are_arguments_of_its_builder(name, preset):
    parameters = inspect.signature(preset.build).parameters
    assert list(parameters) == ["depth", *(["pooling"] if preset.poolings else []), *preset.options]
    preset.build(SMALLEST[name], **{option: parameters[option].default for option in preset.options})


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_depth_may_be_a_number_of_numpy(name):
    network = PRESETS[name].build(np.int64(SMALLEST[name]))
    assert spell(network) == spell(PRESETS[name].build(SMALLEST[name]))


@pytest.mark.parametrize("name", list(PRESETS))
@pytest.mark.parametrize("depth", [[5], True, "3", np.float64(5)])
def test_a_depth_that_is_no_whole_number_is_refused(name, depth):
    with pytest.raises(LayerError, match="depth must be"):
        PRESETS[name].build(depth)


def test_variances_of_a_convnet_gp_may_be_numbers_of_numpy():
    rounded = float(np.float32(2.79))
    assert presets.cnn_gp(2, var_w=np.float32(2.79), var_b=np.int64(1)) == presets.cnn_gp(2, var_w=rounded, var_b=1)


def test_a_jump_that_is_no_truth_value_is_refused():
    with pytest.raises(LayerError, match="gntk: jump must be True or False, got 'no'"):
        presets.gntk(2, jump="no")
