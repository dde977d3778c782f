"""Where windows lie: the rule of TensorFlow and JAX, by hand."""

import itertools

import numpy as np
import pytest

from cntk_pipeline.errors import LayerError
from cntk_pipeline.layers import Windows
from cntk_pipeline.layers.windows import PADDINGS, check_padding


@pytest.mark.parametrize(
    ("size", "window", "stride", "before", "count"),
    [
        (5, 3, 1, 1, 5),  # one outside at each end
        (5, 2, 1, 0, 5),  # an even window: the odd position is at the end
        (4, 4, 1, 1, 4),  # three outside: one before, two behind
        (6, 3, 2, 0, 3),  # one outside, behind: unlike PyTorch, which puts it before
        (5, 3, 2, 1, 3),  # strides that do not divide: last window starts at 3
        (7, 2, 3, 0, 3),  # the last window starts at 6 and reaches 7
        (5, 1, 3, 0, 2),  # strides beyond the window leave gaps
        (2, 5, 1, 2, 2),  # a window beyond the image
        (1, 3, 2, 1, 1),
    ],
)
def test_same_padding_reaches_outside_by_the_least_and_the_odd_position_is_at_the_end(
    size, window, stride, before, count
):
    assert Windows.place(size, window, stride, "SAME") == Windows(size, window, stride, before, count)


@pytest.mark.parametrize(
    ("size", "window", "stride", "count"), [(5, 3, 1, 3), (5, 5, 1, 1), (6, 3, 2, 2), (7, 2, 3, 2), (5, 1, 3, 2)]
)
def test_valid_padding_stays_inside(size, window, stride, count):
    assert Windows.place(size, window, stride, "VALID") == Windows(size, window, stride, 0, count)
    assert (count - 1) * stride + window <= size < count * stride + window


@pytest.mark.parametrize(("size", "window", "stride", "before", "count"), [(5, 3, 1, 1, 5), (6, 3, 2, 0, 3)])
def test_circular_padding_lays_windows_as_same_does(size, window, stride, before, count):
    assert Windows.place(size, window, stride, "CIRCULAR") == Windows(size, window, stride, before, count, True)


def test_a_window_that_does_not_fit_is_refused():
    with pytest.raises(LayerError, match="a window of 4 does not fit into 3 pixels: use padding SAME"):
        Windows.place(3, 4, 1, "VALID")


def test_a_circular_window_that_meets_itself_is_refused():
    assert Windows.place(3, 3, 1, "CIRCULAR").circular
    with pytest.raises(LayerError, match="a circular window of 4 meets itself on 3 pixels: use a smaller one"):
        Windows.place(3, 4, 1, "CIRCULAR")


def test_windows_are_cut_at_the_ends():
    windows = Windows.place(5, 4, 2, "SAME")  # windows start at -1, 1, 3
    assert [windows.bounds(k) for k in range(3)] == [(0, 3), (1, 5), (3, 5)]


def test_the_matrix_of_windows_holds_one_inside_them():
    expected = [[1, 1, 1, 0, 0], [0, 1, 1, 1, 1], [0, 0, 0, 1, 1]]
    np.testing.assert_array_equal(Windows.place(5, 4, 2, "SAME").weights(), expected)


def test_normalised_edges_divide_by_the_positions_inside():
    expected = [[1 / 3, 1 / 3, 1 / 3, 0, 0], [0, 1 / 4, 1 / 4, 1 / 4, 1 / 4], [0, 0, 0, 1 / 2, 1 / 2]]
    np.testing.assert_allclose(Windows.place(5, 4, 2, "SAME").weights(normalize_edges=True), expected)


@pytest.mark.parametrize("stride", range(1, 5))
def test_no_window_of_same_padding_lies_outside(stride):
    for size, window in itertools.product(range(1, 9), repeat=2):
        windows = Windows.place(size, window, stride, "SAME")
        assert windows.count == -(-size // stride), (size, window)
        assert (windows.weights().sum(axis=1) > 0).all(), (size, window)


def test_single_and_whole_windows_are_the_identity_and_a_row_of_ones():
    np.testing.assert_array_equal(Windows.single(3).weights(), np.eye(3))
    np.testing.assert_array_equal(Windows.whole(3).weights(), np.ones((1, 3)))


def test_unknown_paddings_are_refused():
    for padding in PADDINGS:
        check_padding(padding)
    with pytest.raises(LayerError, match="padding must be one of SAME, VALID, CIRCULAR, got 'same'"):
        check_padding("same")
    with pytest.raises(LayerError, match="padding must be one of SAME, VALID, got 'CIRCULAR'"):
        check_padding("CIRCULAR", ("SAME", "VALID"))
