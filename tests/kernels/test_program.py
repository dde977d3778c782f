"""What programs say of themselves."""

import numpy as np

from cntk_pipeline.kernels import lower
from cntk_pipeline.kernels.program import AxisTerms, Grid, Operation
from cntk_pipeline.layers import AvgPool, Conv, Dropout, Flatten, GlobalAvgPool, Relu, Sequential, Windows


def of_windows(rows, columns):
    return Operation(3, windows=(rows, columns))


def test_plain_windows_are_3_x_3_around_every_pixel():
    plain = Windows.place(5, 3, 1, "SAME")
    assert of_windows(plain, plain).is_plain_3x3
    for other in (
        Windows.place(5, 3, 2, "SAME"),
        Windows.place(5, 3, 1, "VALID"),
        Windows.place(5, 3, 1, "CIRCULAR"),
        Windows.place(5, 5, 1, "SAME"),
    ):
        assert not of_windows(other, plain).is_plain_3x3
        assert not of_windows(plain, other).is_plain_3x3
    assert Operation(3).window == (1, 1)
    assert not Operation(3).is_plain_3x3


def test_couples_are_read_off_the_terms():
    terms = AxisTerms(np.array([0, 2, 2, 3]), np.array([[1, 0, 0, 1], [0, 0, 0, 2], [1, 0, 0, 1]]), np.ones(3), 2)
    np.testing.assert_array_equal(terms.couples, [[True, True], [False, False], [False, True]])


def test_areas_are_the_pairs_of_a_grid_at_each_offset():
    network = Sequential(Conv(3), Relu(), Conv(3, strides=2), Relu(), GlobalAvgPool())
    asked = [(network, "nngp"), (Sequential(*network.layers[:2], GlobalAvgPool()), "nngp")]
    stage = lower(asked, (3, 4, 1)).stages[0]
    areas = dict(zip(map(tuple, stage.visits.offsets.tolist()), stage.areas(Grid(3, 4)), strict=True))
    assert (areas[0, 0], areas[1, -1], areas[-2, 3]) == (12, 6, 1)
    assert sum(areas.values()) == 12 * 12
    strided = dict(zip(map(tuple, stage.visits.offsets.tolist()), stage.areas(Grid(2, 2, (2, 2))), strict=True))
    assert (strided[0, 0], strided[2, 0], strided[-2, 2]) == (4, 2, 1)


def test_only_a_mask_makes_a_sample_differ_from_its_copy():
    for layers, masked in (((), False), ((Dropout(0.5),), True), ((AvgPool(2), Dropout(0.5)), True)):
        assert lower([(Sequential(Conv(3), Relu(), *layers, Flatten()), "ntk")], (4, 4, 1)).is_masked == masked
    assert not lower([(Sequential(Conv(3), Dropout(0.0), Flatten()), "ntk")], (4, 4, 1)).is_masked
