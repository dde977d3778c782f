"""The functions that duals are written in."""

import numpy as np
import pytest

from cntk_pipeline.layers.elementary import (
    absolute,
    arc_cosine_halves,
    arc_sine,
    clip_correlation,
    exponential,
    exponential_less_one,
    inverse_root,
    square_root,
    with_sign,
)


def test_the_inverse_root_of_nothing_is_nothing():
    np.testing.assert_array_equal(inverse_root(np.array([4.0, 0.0, -1e-9])), [0.5, 0.0, 0.0])
    assert inverse_root(0.0) == 0


def test_roots_and_exponentials_are_numpy_s():
    assert square_root(9.0) == 3
    np.testing.assert_array_equal(exponential(np.array([0.0, 1.0])), [1, np.e])


def test_correlations_beyond_one_are_cut():
    np.testing.assert_array_equal(clip_correlation(np.array([1 + 1e-9, -2.0, 0.3])), [1, -1, 0.3])


def test_the_arc_sine_takes_what_is_left_of_one_as_it_is_told():
    # 1 - q^2 = 1e-20 is lost in q, which is 1 here, and moves the angle by 1e-10.
    assert arc_sine(1.0, 0.0) == np.pi / 2
    assert np.pi / 2 - arc_sine(1.0, 1e-20) == pytest.approx(1e-10, rel=1e-5)
    assert arc_sine(-0.5, 0.75) == pytest.approx(-np.pi / 6)


def test_an_exponential_less_one_keeps_the_digits_of_a_small_argument():
    assert exponential_less_one(-1e-20) == -1e-20
    assert exponential_less_one(1.0) == pytest.approx(np.e - 1)


def test_signs_are_dropped_and_given():
    np.testing.assert_array_equal(absolute(np.array([-2.0, 3.0])), [2, 3])
    np.testing.assert_array_equal(with_sign(np.array([2.0, 3.0]), np.array([-0.1, 5.0])), [-2, 3])


def test_half_arc_cosine_kernels_at_correlations_one_zero_and_minus_one():
    k0, k1 = arc_cosine_halves(np.array([1.0, 0.0, -1.0]))
    np.testing.assert_allclose(k0, [0.5, 0.25, 0.0], atol=1e-15)
    np.testing.assert_allclose(k1, [0.5, 1 / (2 * np.pi), 0.0], atol=1e-15)


def test_beyond_one_by_rounding_half_arc_cosine_kernels_stay_at_their_ends():
    assert arc_cosine_halves(1 + 1e-9) == arc_cosine_halves(1.0)
    assert arc_cosine_halves(-1 - 1e-9) == arc_cosine_halves(-1.0)
