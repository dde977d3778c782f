"""Arguments that other libraries take: refused with what to write instead, never read as something else."""

import copy
import pickle

import pytest

from cntk_pipeline.errors import LayerError
from cntk_pipeline.layers import Conv, Dense, Dropout, Flatten, Relu, SelfAttention, Sequential, presets


@pytest.mark.parametrize("values", [(512,), (512, 1.5), (512, 1.5, 0.1), (1.5,), (512, "relu")])
def test_a_dense_layer_takes_no_width(values):
    with pytest.raises(LayerError, match=r"got Dense\(\d.*Dense\(512\) is Dense\(\), and .* Dense\(w_std=a, b_std=b\)"):
        Dense(*values)


@pytest.mark.parametrize(
    "values", [(64, (3, 3)), (64, 3), (64, (3, 3), (2, 2)), (64, (3, 3), (2, 2), "VALID", 1.0, 0.1), (3, 64, 3)]
)
def test_a_convolution_takes_no_channels(values):
    with pytest.raises(
        LayerError, match=r"got Conv\(.*\): too many .*Conv\(64, \(3, 3\)\) is Conv\(\(3, 3\)\), and stax"
    ):
        Conv(*values)


def test_a_convolution_whose_filter_is_named_takes_no_channels_either():
    with pytest.raises(
        LayerError, match=r"got Conv\(64, filter_shape=\(3, 3\)\): multiple values .* is Conv\(\(3, 3\)\)"
    ):
        Conv(64, filter_shape=(3, 3))


def test_attention_takes_no_channels():
    with pytest.raises(LayerError, match=r"stax\.GlobalSelfAttention\(.*\) is SelfAttention\(\)"):
        SelfAttention(64, 8)


@pytest.mark.parametrize(("name", "meant"), [("W_std", "w_std"), ("bstd", "b_std"), ("trainable", "trained")])
def test_an_unknown_name_is_refused_with_the_nearest(name, meant):
    with pytest.raises(LayerError, match=rf"unexpected keyword argument '{name}', did you mean '{meant}'\?"):
        Dense(**{name: 1.0})


def test_layers_without_widths_say_what_they_take():
    with pytest.raises(LayerError, match=r"^expected Relu\(\), got Relu\(0\.1\): too many positional arguments\.$"):
        Relu(0.1)
    with pytest.raises(
        LayerError, match=r"^expected Dropout\(rate=0.5\), got Dropout\(0\.9, mode='train'\): got an unexp"
    ):
        Dropout(0.9, mode="train")


@pytest.mark.parametrize("name", sorted(presets.PRESETS))
def test_presets_take_no_width(name):
    build = presets.PRESETS[name].build
    pooling = ("gap",) if presets.PRESETS[name].poolings else ()
    with pytest.raises(LayerError, match=rf"got {name}\(5, .*512\): too many .* All widths are infinite and not given"):
        build(5, *pooling, 512)


def test_a_factor_of_the_width_is_no_pooling():
    with pytest.raises(
        LayerError, match=r"wide_resnet knows pooling .* got 10\. All widths are infinite and not given"
    ):
        presets.wide_resnet(28, 10)


def test_layers_are_copied_and_pickled_as_before():
    network = Sequential(Conv((3, 2), strides=2, w_std=1.5), Relu(), Flatten(), Dense(b_std=0.1))
    assert pickle.loads(pickle.dumps(network)) == copy.deepcopy(network) == network
