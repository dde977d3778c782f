"""Layers that average, sum or join positions: their shapes, what they ask of covariances, and what they refuse."""

import numpy as np
import pytest
from support.tape import lowered

from cntk_pipeline.errors import LayerError
from cntk_pipeline.layers import (
    AvgPool,
    Flatten,
    GlobalAvgPool,
    GlobalSumPool,
    LocalAvgPool,
    MaxPool,
    Shape,
    SumPool,
    Windows,
)
from cntk_pipeline.layers.rectifiers import AbsDifference

IMAGE = Shape((4, 5), None, gaussian=True)
LOCAL = [AvgPool(2), SumPool(2), LocalAvgPool(1), MaxPool((1, 2))]
GLOBAL = [GlobalAvgPool(), GlobalSumPool()]


def test_flattening_lays_the_pixels_side_by_side():
    assert Flatten().output_shape(Shape((4, 5), 3)) == Shape(None, 60)
    assert Flatten().output_shape(IMAGE) == Shape(None, None, False, centred=True)
    assert Flatten().output_shape(Shape((1, 1), None, True)) == Shape(None, None, True)


def test_flattening_is_a_mean_over_equal_positions():
    assert lowered(Flatten(), IMAGE) == [("trace", 0, 1 / 20)]


@pytest.mark.parametrize("channels", [7, None])
def test_flattening_leaves_vectors_alone(channels):
    assert Flatten().output_shape(Shape(None, channels)) == Shape(None, channels)
    assert lowered(Flatten(), Shape(None, channels)) == []


@pytest.mark.parametrize("layer", GLOBAL, ids=repr)
@pytest.mark.parametrize("channels", [3, None])
def test_global_pooling_keeps_the_channels(layer, channels):
    assert layer.output_shape(Shape((4, 5), channels)) == Shape(None, channels)
    assert layer.output_shape(IMAGE) == Shape(None, None, True)


def test_global_pooling_averages_or_sums_over_all_pairs():
    rows, columns = Windows.whole(4), Windows.whole(5)
    assert lowered(GlobalAvgPool(), IMAGE) == [("pool", 0, rows, columns, 1 / 400, False)]
    assert lowered(GlobalSumPool(), IMAGE) == [("pool", 0, rows, columns, 1.0, False)]


@pytest.mark.parametrize("layer", [*LOCAL, *GLOBAL], ids=repr)
def test_pooling_of_vectors_is_refused(layer):
    with pytest.raises(
        LayerError,
        match=rf"{type(layer).__name__}\(.*\) needs images of shape \(H, W, C\), got vectors of shape \(inf,\)",
    ):
        layer.output_shape(Shape(None, None))


@pytest.mark.parametrize("kind", [AvgPool, SumPool])
def test_strides_of_a_pooling_are_its_window_unless_given(kind):
    assert kind(2).output_shape(IMAGE) == Shape((2, 2), None, True)
    assert kind((2, 3)).output_shape(IMAGE) == Shape((2, 1), None, True)
    assert kind(2, 1).output_shape(IMAGE) == Shape((3, 4), None, True)
    assert kind(2, padding="SAME").output_shape(IMAGE) == Shape((2, 3), None, True)


def test_average_pooling_divides_both_positions_by_the_window():
    rows, columns = Windows(4, 2, 2, 0, 2), Windows(5, 3, 3, 0, 1)
    assert lowered(AvgPool((2, 3)), IMAGE) == [("pool", 0, rows, columns, 1 / 36, False)]
    assert lowered(AvgPool((2, 3), normalize_edges=True), IMAGE) == [("pool", 0, rows, columns, 1.0, True)]
    assert lowered(SumPool((2, 3)), IMAGE) == [("pool", 0, rows, columns, 1.0, False)]


def test_local_pooling_looks_as_far_in_all_directions():
    rows, columns = Windows(4, 5, 1, 2, 4), Windows(5, 5, 1, 2, 5)
    assert lowered(LocalAvgPool(2), IMAGE) == [("pool", 0, rows, columns, 1 / 625, False)]
    assert lowered(LocalAvgPool(2, normalize_edges=True), IMAGE) == [("pool", 0, rows, columns, 1.0, True)]
    assert LocalAvgPool(2).output_shape(IMAGE) == IMAGE


@pytest.mark.parametrize("make", [AvgPool, LocalAvgPool])
def test_a_normalize_edges_that_is_no_truth_value_is_refused(make):
    with pytest.raises(LayerError, match="normalize_edges must be True or False, got 'no'"):
        make(1, normalize_edges="no")
    with pytest.raises(LayerError, match=r"normalize_edges must be True or False, got array\("):
        make(1, normalize_edges=np.array([True, False]))


def test_local_pooling_of_radius_zero_changes_nothing():
    rows, columns = Windows.single(4), Windows.single(5)
    assert lowered(LocalAvgPool(0), IMAGE) == [("pool", 0, rows, columns, 1.0, False)]


def test_a_maximum_is_a_mean_and_the_size_of_a_difference():
    rows = Windows.single(4)
    assert lowered(MaxPool((1, 2)), IMAGE) == [
        ("pool", 0, rows, Windows(5, 2, 2, 0, 2, part="like"), 2.0, False),
        ("pool", 0, rows, Windows(5, 2, 2, 0, 2, part="unlike"), -2.0, False),
        ("add", 1, 2),
        ("apply", 3, AbsDifference()),
        ("add", 1, 4),
    ]
    assert MaxPool((1, 2)).output_shape(IMAGE) == Shape((4, 2), None, False, alike=True)
    assert MaxPool((2, 1), 1, "SAME").output_shape(IMAGE) == Shape((4, 5), None, False, alike=True)


@pytest.mark.parametrize("window", [2, (2, 2), (1, 3), (1, 1), 3])
def test_a_maximum_of_other_than_two_positions_is_refused_with_what_is_exact(window):
    with pytest.raises(LayerError, match=r"exact for two positions, .* got .*MaxPool\(\(1, 2\)\), Dense\(\), MaxPool"):
        MaxPool(window)


def test_a_maximum_of_what_is_not_gaussian_is_refused():
    with pytest.raises(
        LayerError, match=r"MaxPool needs Gaussian inputs, .* one of three numbers: put a Conv or Dense"
    ):
        MaxPool((1, 2)).output_shape(Shape((4, 5), None, gaussian=False))
    with pytest.raises(LayerError, match="MaxPool needs infinitely many channels: put a Conv or Dense"):
        MaxPool((1, 2)).output_shape(Shape((4, 5), 3))


@pytest.mark.parametrize("kind", [AvgPool, SumPool])
def test_windows_strides_and_paddings_that_mean_nothing_are_refused(kind):
    with pytest.raises(LayerError, match="window_shape must be one or two whole numbers of at least 1, got 0"):
        kind(0)
    with pytest.raises(LayerError, match="strides must be one or two whole numbers of at least 1, got 0"):
        kind(2, 0)
    with pytest.raises(LayerError, match="padding must be one of SAME, VALID, got 'CIRCULAR'"):
        kind(2, padding="CIRCULAR")


def test_a_pooling_window_beyond_the_image_is_refused():
    with pytest.raises(LayerError, match="a window of 5 does not fit into 4 pixels: use padding SAME"):
        AvgPool(5).output_shape(IMAGE)


@pytest.mark.parametrize("radius", [-1, 1.0, True, "4", None])
def test_a_radius_that_is_no_number_of_pixels_is_refused(radius):
    with pytest.raises(LayerError, match=f"radius must be a whole number of pixels >= 0, got {radius!r}"):
        LocalAvgPool(radius)


@pytest.mark.parametrize("value", ["no", 2, None, [True]])
def test_normalize_edges_is_true_or_false(value):
    for kind, window in ((AvgPool, 2), (LocalAvgPool, 1)):
        with pytest.raises(LayerError, match=r"normalize_edges must be True or False, got"):
            kind(window, normalize_edges=value)
