"""Layers with weights: their shapes and what they refuse."""

import pytest

from pipeline.errors import LayerError
from pipeline.layers import Conv, Dense, Rescale, Shape

IMAGE, VECTOR = Shape((4, 5), 3), Shape(None, 7)


def test_a_convolution_keeps_the_size_and_makes_the_width_infinite():
    assert Conv(3).output_shape(IMAGE) == Shape((4, 5), None)
    assert Conv((7, 2)).output_shape(Shape((4, 5), None)) == Shape((4, 5), None)


def test_one_number_means_a_square_window():
    assert Conv(3).window == (3, 3)
    assert Conv((2, 5)).window == (2, 5)


def test_a_dense_layer_acts_on_vectors_and_at_every_pixel():
    assert Dense().output_shape(VECTOR) == Shape(None, None)
    assert Dense().output_shape(IMAGE) == Shape((4, 5), None)


def test_a_convolution_of_vectors_is_refused():
    with pytest.raises(
        LayerError, match=r"Conv\(filter_shape=3.* needs images of shape \(H, W, C\), got vectors of shape \(7,\)"
    ):
        Conv(3).output_shape(VECTOR)


@pytest.mark.parametrize("layer", [Dense, lambda **values: Conv(3, **values)])
@pytest.mark.parametrize("name", ["w_std", "b_std"])
@pytest.mark.parametrize("value", [-0.1, float("inf"), float("nan"), "2"])
def test_impossible_standard_deviations_are_refused(layer, name, value):
    with pytest.raises(LayerError, match=rf"{name} must be a finite standard deviation >= 0, got {value!r}"):
        layer(**{name: value})


def test_a_trained_that_is_no_truth_value_is_refused():
    with pytest.raises(LayerError, match="trained must be True or False, got 'yes'"):
        Dense(trained="yes")


@pytest.mark.parametrize("filter_shape", [0, -3, (0, 3), (3, 0), 3.0, "3", None, True, (3,), (3, 3, 3), (3.5, 3)])
def test_empty_windows_are_refused(filter_shape):
    with pytest.raises(LayerError, match="filter_shape must be one or two whole numbers of at least 1, got"):
        Conv(filter_shape)


@pytest.mark.parametrize("strides", [2, (2, 1)])
def test_strides_are_refused_so_far(strides):
    with pytest.raises(LayerError, match=r"Conv supports strides=1 so far, got strides=[0-9(]"):
        Conv(3, strides=strides)
    assert Conv(3, strides=(1, 1)).output_shape(IMAGE) == Shape((4, 5), None)


def test_other_paddings_are_refused_so_far():
    with pytest.raises(LayerError, match="Conv supports padding=\"SAME\" so far, got padding='VALID'"):
        Conv(3, padding="VALID")


def test_rescaling_by_words_counts_input_values():
    assert Rescale("channels").factor(IMAGE) == 3
    assert Rescale("features").factor(IMAGE) == 4 * 5 * 3
    assert Rescale("channels").factor(VECTOR) == Rescale("features").factor(VECTOR) == 7
    assert Rescale(2.5).factor(Shape((4, 5), None)) == 2.5


def test_rescaling_changes_no_shape():
    assert Rescale("features").output_shape(IMAGE) == IMAGE
    assert Rescale(2.0).output_shape(VECTOR) == VECTOR


@pytest.mark.parametrize("word", ["channels", "features"])
def test_counting_values_of_an_infinitely_wide_input_is_refused(word):
    with pytest.raises(LayerError, match=rf"counts input {word}, but the input is infinitely wide: put it first"):
        Rescale(word).output_shape(Shape((4, 5), None))


@pytest.mark.parametrize("variance", [0, -1.0, float("inf"), float("nan")])
def test_impossible_factors_are_refused(variance):
    with pytest.raises(LayerError, match=f"Rescale needs a finite variance > 0, got {variance}"):
        Rescale(variance)


def test_unknown_words_are_refused():
    with pytest.raises(LayerError, match='Rescale takes a number, "channels" or "features", got \'pixels\''):
        Rescale("pixels")
