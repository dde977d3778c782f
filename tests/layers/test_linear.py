"""Layers with weights: their shapes, what they ask of covariances, and what they refuse."""

import sys
from dataclasses import replace
from functools import partial

import pytest
from support.tape import lowered

from cntk_pipeline.errors import LayerError
from cntk_pipeline.layers import Conv, Dense, Rescale, Shape, Windows

IMAGE, VECTOR = Shape((4, 5), 3), Shape(None, 7)


def gaussian(spatial):
    return Shape(spatial, None, gaussian=True)


def test_a_convolution_keeps_the_size_and_makes_the_width_infinite():
    assert Conv(3).output_shape(IMAGE) == gaussian((4, 5))
    assert Conv((7, 2)).output_shape(Shape((4, 5), None)) == gaussian((4, 5))
    assert Conv(3).output_shape(gaussian((4, 5))) == gaussian((4, 5))


def test_one_number_means_a_square_window():
    assert Conv(3).window == (3, 3)
    assert Conv((2, 5)).window == (2, 5)


def test_a_dense_layer_acts_on_vectors_and_at_every_pixel():
    assert Dense().output_shape(VECTOR) == gaussian(None)
    assert Dense().output_shape(IMAGE) == gaussian((4, 5))


def test_a_convolution_of_vectors_is_refused():
    with pytest.raises(
        LayerError, match=r"Conv\(filter_shape=3.* needs images of shape \(H, W, C\), got vectors of shape \(7,\)"
    ):
        Conv(3).output_shape(VECTOR)


@pytest.mark.parametrize("layer", [Dense, lambda **values: Conv(3, **values)])
@pytest.mark.parametrize("name", ["w_std", "b_std"])
@pytest.mark.parametrize("value", [-0.1, float("inf"), float("nan"), "2", True])
def test_impossible_standard_deviations_are_refused(layer, name, value):
    with pytest.raises(LayerError, match=rf"{name} must be a finite standard deviation >= 0, got {value!r}"):
        layer(**{name: value})


@pytest.mark.parametrize("value", [1e200, 1e154, 10**200])
def test_standard_deviations_whose_squares_are_no_numbers_are_refused(value):
    with pytest.raises(LayerError, match=r"b_std must be below 1e\+154, or its square is no number of float64; got 1"):
        Dense(b_std=value)
    assert Dense(w_std=1e153).w_std ** 2 < float("inf")


@pytest.mark.parametrize("value", [1e-200, 1e-154])
def test_standard_deviations_whose_squares_have_lost_digits_are_refused(value):
    with pytest.raises(LayerError, match=r"w_std must be 0 or at least 1e-153, or its square has lost digits; got 1e-"):
        Dense(w_std=value)
    assert Dense(w_std=1e-153).w_std ** 2 > sys.float_info.min


@pytest.mark.parametrize("make", [lambda: Rescale(True), lambda: Dense(rate=True)])
def test_truth_values_are_no_numbers(make):
    with pytest.raises(LayerError, match=r"finite .*, got True"):
        make()


def test_a_trained_that_is_no_truth_value_is_refused():
    with pytest.raises(LayerError, match="trained must be True or False, got 'yes'"):
        Dense(trained="yes")


@pytest.mark.parametrize("filter_shape", [0, -3, (0, 3), (3, 0), 3.0, "3", None, True, (3,), (3, 3, 3), (3.5, 3)])
def test_empty_windows_are_refused(filter_shape):
    with pytest.raises(LayerError, match="filter_shape must be one or two whole numbers of at least 1, got"):
        Conv(filter_shape)


@pytest.mark.parametrize("strides", [0, -1, 1.5, (2, 0), None])
def test_strides_that_stand_still_are_refused(strides):
    with pytest.raises(LayerError, match="strides must be one or two whole numbers of at least 1, got"):
        Conv(3, strides=strides)


def test_an_unknown_padding_is_refused():
    with pytest.raises(LayerError, match="padding must be one of SAME, VALID, CIRCULAR, got 'same'"):
        Conv(3, padding="same")


@pytest.mark.parametrize(
    ("layer", "spatial"),
    [
        (Conv(3, strides=2), (2, 3)),
        (Conv(3, strides=(1, 3)), (4, 2)),
        (Conv(3, padding="VALID"), (2, 3)),
        (Conv((2, 3), strides=(3, 2), padding="VALID"), (1, 2)),
        (Conv(3, padding="CIRCULAR"), (4, 5)),
        (Conv((4, 5), strides=2, padding="CIRCULAR"), (2, 3)),
    ],
    ids=repr,
)
def test_strides_and_padding_change_the_size(layer, spatial):
    assert layer.output_shape(IMAGE) == gaussian(spatial)


def test_a_window_that_does_not_fit_is_refused():
    with pytest.raises(LayerError, match="a window of 5 does not fit into 4 pixels: use padding SAME"):
        Conv(5, padding="VALID").output_shape(IMAGE)
    with pytest.raises(LayerError, match="a circular window of 6 meets itself on 5 pixels"):
        Conv((1, 6), padding="CIRCULAR").output_shape(IMAGE)


@pytest.mark.parametrize("trained", [True, False])
def test_a_convolution_is_a_mean_over_windows_and_a_bias(trained):
    layer = Conv((3, 2), strides=(2, 1), w_std=3.0, b_std=0.5, trained=trained)
    rows, columns = Windows(4, 3, 2, 0, 2), Windows(5, 2, 1, 0, 5)
    assert lowered(layer, IMAGE) == [("weigh", 0, rows, columns, 9 / 6, 0.25, float(trained))]


@pytest.mark.parametrize("shape", [IMAGE, VECTOR])
def test_a_dense_layer_leaves_positions_alone(shape):
    rows, columns = (Windows.single(size) for size in shape.size)
    assert lowered(Dense(w_std=3.0, b_std=0.5, trained=False), shape) == [("weigh", 0, rows, columns, 9.0, 0.25, 0.0)]


def test_rescaling_by_words_counts_channels_and_pixels():
    assert Rescale("channels").factor(IMAGE) == 3
    assert Rescale("channels").factor(VECTOR) == 7
    assert Rescale("pixels").factor(IMAGE) == Rescale("pixels").factor(Shape((4, 5), None)) == 20
    assert Rescale(2.5).factor(Shape((4, 5), None)) == 2.5
    assert lowered(Rescale("pixels"), IMAGE) == [("rescale", 0, 20.0)]


def test_rescaling_changes_no_shape():
    assert Rescale("channels").output_shape(IMAGE) == IMAGE
    assert Rescale(2.0).output_shape(gaussian(None)) == gaussian(None)


def test_counting_channels_of_an_infinitely_wide_input_is_refused():
    with pytest.raises(LayerError, match="counts input channels, but the input is infinitely wide: put it first"):
        Rescale("channels").output_shape(Shape((4, 5), None))


def test_counting_pixels_of_vectors_is_refused():
    with pytest.raises(
        LayerError, match=r"Rescale\(variance='pixels'\) needs images of shape \(H, W, C\), got vectors"
    ):
        Rescale("pixels").output_shape(VECTOR)


@pytest.mark.parametrize("variance", [0, -1.0, float("inf"), float("nan")])
def test_impossible_factors_are_refused(variance):
    with pytest.raises(LayerError, match=f"Rescale needs a finite variance > 0, got {variance}"):
        Rescale(variance)


def test_unknown_words_are_refused():
    with pytest.raises(LayerError, match='Rescale takes a number, "channels" or "pixels", got \'features\''):
        Rescale("features")


# Parameterisations.


def test_own_weights_count_by_the_inputs_in_the_standard_parameterization():
    # own = fan_in area / w_std^2, and a bias counts 1 whatever its deviation.
    rows, columns = Windows.place(4, 3, 1, "SAME"), Windows.place(5, 3, 1, "SAME")
    layer = Conv(3, w_std=2.0, b_std=0.5, parameterization="standard", fan_in=8)
    expected = ("weigh", 0, rows, columns, pytest.approx(4 / 9), 0.25, 18.0, 1 - 18 * 0.25)
    assert lowered(layer, Shape((4, 5), None)) == [expected]
    raw = Dense(w_std=2.0, parameterization="standard", rate=0.5)
    rows, columns = Windows.single(1), Windows.single(1)
    assert lowered(raw, Shape(None, 7)) == [("weigh", 0, rows, columns, 4.0, 0.0, 7 / 8)]
    assert lowered(replace(raw, trained=False), Shape(None, 7)) == [("weigh", 0, rows, columns, 4.0, 0.0, 0.0)]
    assert lowered(Dense(rate=0.3), Shape(None, 7)) == [("weigh", 0, rows, columns, 1.0, 0.0, 0.3)]


def test_an_infinitely_wide_input_needs_fan_in():
    with pytest.raises(LayerError, match=r"Dense needs fan_in in the standard parameterization, .* such as fan_in=512"):
        Dense(parameterization="standard").output_shape(Shape(None, None))
    with pytest.raises(LayerError, match="Conv needs fan_in in the standard parameterization"):
        Conv(3, parameterization="standard").output_shape(Shape((4, 5), None))


@pytest.mark.parametrize("make", [Dense, partial(Conv, 3)])
def test_parameterizations_that_mean_nothing_are_refused(make):
    with pytest.raises(LayerError, match="parameterization must be one of ntk, standard, got 'mup'"):
        make(parameterization="mup")
    with pytest.raises(LayerError, match="rate must be a finite factor >= 0, got -1"):
        make(rate=-1)
    with pytest.raises(LayerError, match="fan_in must be a number of input channels > 0, got 0"):
        make(parameterization="standard", fan_in=0)
    with pytest.raises(LayerError, match="fan_in changes nothing in the NTK parameterization: give param"):
        make(fan_in=64)
    with pytest.raises(LayerError, match="needs w_std > 0, got 0: leave"):
        make(parameterization="standard", w_std=0)
