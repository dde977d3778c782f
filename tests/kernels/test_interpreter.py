"""What the interpreter does beside running operations."""

import numpy as np
import pytest
from support.tolerances import DTYPES

from cntk_pipeline.kernels.interpreter import _offset, _raise_lanes, transpose_lanes
from cntk_pipeline.kernels.lanes import LANES
from cntk_pipeline.kernels.machine import EQUAL, ITSELF


@pytest.mark.parametrize("dtype", DTYPES)
def test_inverse_deviations_are_raised_in_the_lanes_of_equal_images(dtype):
    statistics = np.random.default_rng(0).standard_normal((10, LANES)).astype(dtype)
    same = np.zeros(LANES, np.int8)
    same[3], same[9] = EQUAL, ITSELF
    raised = np.zeros_like(statistics)
    # Pixels 2 to 4 of images that are equal, 7 to 8 of a sample with itself alone.
    _raise_lanes(statistics.ravel(), np.array([[2, 5, EQUAL], [7, 9, ITSELF]]), same, raised.ravel())
    factor = np.ones((10, LANES), dtype)
    factor[2:5, [3, 9]] = factor[7:9, 9] = 1 + 1 / 128
    np.testing.assert_array_equal(raised, statistics * factor)


@pytest.mark.parametrize("count", [1, 7, 16])
@pytest.mark.parametrize("pixels", [1, 16, 37])
def test_statistics_of_images_are_those_of_their_lanes(pixels, count):
    statistics = np.random.default_rng(0).standard_normal((pixels, LANES))
    found, rows = np.zeros((count + 3, pixels)), np.arange(count)[::-1] + 2
    transpose_lanes(statistics, found, rows)
    np.testing.assert_array_equal(found[rows], statistics.T[:count])
    assert not found[[0, 1, -1]].any()


@pytest.mark.parametrize("step", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 4])
def test_a_plane_holds_the_pairs_of_its_offset(step, size):
    for offset in range(1 - size, size):
        pixels, first, other, index = _offset(step, size, step * offset, False)
        pairs = [(p, p + offset) for p in range(size) if 0 <= p + offset < size]
        assert (pixels, (first, other), index) == (len(pairs), pairs[0], offset + size - 1)


def test_around_a_circle_a_plane_is_whole_and_begins_at_its_offset():
    assert [_offset(1, 4, offset, True) for offset in range(4)] == [(4, 0, offset, offset) for offset in range(4)]
