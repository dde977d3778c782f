"""Layers that turn images into vectors: their shapes and what they refuse."""

import pytest

from pipeline.errors import LayerError
from pipeline.layers import Flatten, GlobalAvgPool, Shape


def test_flattening_lays_the_pixels_side_by_side():
    assert Flatten().output_shape(Shape((4, 5), 3)) == Shape(None, 60)
    assert Flatten().output_shape(Shape((4, 5), None)) == Shape(None, None)


@pytest.mark.parametrize("channels", [7, None])
def test_flattening_leaves_vectors_alone(channels):
    assert Flatten().output_shape(Shape(None, channels)) == Shape(None, channels)


@pytest.mark.parametrize("channels", [3, None])
def test_global_pooling_keeps_the_channels(channels):
    assert GlobalAvgPool().output_shape(Shape((4, 5), channels)) == Shape(None, channels)


def test_global_pooling_of_vectors_is_refused():
    with pytest.raises(
        LayerError, match=r"GlobalAvgPool\(\) needs images of shape \(H, W, C\), got vectors of shape \(inf,\)"
    ):
        GlobalAvgPool().output_shape(Shape(None, None))
