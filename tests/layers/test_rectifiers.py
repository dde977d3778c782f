"""Piecewise linear activations: their duals by hand."""

import math
from itertools import pairwise

import numpy as np
import pytest
from twin.gaussian import PAIRS, dual, variance_behind

from cntk_pipeline.errors import LayerError
from cntk_pipeline.layers import Abs, LeakyRelu, Maxout, Relu, Sign

RECTIFIERS = [Relu(), LeakyRelu(), LeakyRelu(0.3), LeakyRelu(-1.7), Abs()]


@pytest.mark.parametrize("layer", [*RECTIFIERS, Sign()], ids=repr)
@pytest.mark.parametrize("variance", [0.3, 1.0, 4.0])
def test_a_dual_at_correlation_one_is_the_variance_behind(layer, variance):
    assert dual(layer, variance, variance, variance)[0] == pytest.approx(variance_behind(layer, variance), rel=1e-12)


def test_variances_by_hand():
    assert variance_behind(Relu(), 3.0) == 1.5
    assert variance_behind(Abs(), 3.0) == 3
    assert variance_behind(LeakyRelu(0.5), 3.0) == pytest.approx(3 * (1 + 0.25) / 2)
    assert variance_behind(Sign(), 3.0) == pytest.approx(1)


def test_uncorrelated_positions_by_hand():
    # E max(u, 0) = sigma / sqrt(2 pi) and E |u| = sigma sqrt(2 / pi).
    assert dual(Relu(), 4.0, 9.0, 0.0)[0] == pytest.approx(2 * 3 / (2 * math.pi))
    assert dual(Abs(), 4.0, 9.0, 0.0)[0] == pytest.approx(2 * 3 * 2 / math.pi)
    assert dual(LeakyRelu(0.5), 4.0, 9.0, 0.0)[0] == pytest.approx(2 * 3 * 0.25 / (2 * math.pi))
    assert dual(Sign(), 4.0, 9.0, 0.0)[0] == pytest.approx(0, abs=1e-15)


def test_opposite_positions_by_hand():
    # max(u, 0) max(-u, 0) = 0, |u| |-u| = u^2, and leaky slopes meet: -slope u^2.
    assert dual(Relu(), 4.0, 9.0, -6.0)[0] == pytest.approx(0, abs=1e-15)
    assert dual(Abs(), 4.0, 9.0, -6.0)[0] == pytest.approx(6)
    assert dual(LeakyRelu(0.5), 4.0, 9.0, -6.0)[0] == pytest.approx(-0.5 * 6)
    assert dual(Sign(), 4.0, 9.0, -6.0)[0] == pytest.approx(-1)


@pytest.mark.parametrize("rho", [-1.0, -0.4, 0.0, 0.6, 1.0])
def test_sign_is_two_over_pi_times_the_arc_sine(rho):
    assert dual(Sign(), 4.0, 9.0, 6 * rho)[0] == pytest.approx(2 / math.pi * math.asin(rho), abs=1e-15)


@pytest.mark.parametrize(
    ("layer", "slope"), [(Relu(), 0.0), (Abs(), -1.0)], ids=["relu is slope 0", "the absolute value is slope -1"]
)
@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_leaky_relu_has_relu_and_the_absolute_value_among_it(layer, slope, pair):
    np.testing.assert_allclose(dual(layer, *pair), dual(LeakyRelu(slope), *pair), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_leaky_relu_of_slope_one_is_the_identity(pair):
    np.testing.assert_allclose(dual(LeakyRelu(1.0), *pair), (pair[2], 1), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("layer", RECTIFIERS, ids=repr)
@pytest.mark.parametrize("pair", [pair for pair in PAIRS if abs(pair[2]) < 0.8], ids=str)
def test_the_derivative_is_the_dual_s_slope(layer, pair):
    a, b, c = pair
    step = 1e-5
    slope = (dual(layer, a, b, c + step)[0] - dual(layer, a, b, c - step)[0]) / (2 * step)
    assert dual(layer, *pair)[1] == pytest.approx(slope, rel=1e-8, abs=1e-10)


@pytest.mark.parametrize("layer", RECTIFIERS, ids=repr)
def test_the_derivative_at_correlation_one_is_the_mean_square_slope(layer):
    negative = {"Relu": 0.0, "Abs": -1.0}.get(type(layer).__name__, getattr(layer, "negative_slope", 0.0))
    assert dual(layer, 2.0, 2.0, 2.0)[1] == pytest.approx((1 + negative**2) / 2)


@pytest.mark.parametrize("layer", [*RECTIFIERS, Sign()], ids=repr)
@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_a_dual_agrees_with_an_integral_over_the_angle(layer, pair):
    # In polar coordinates the angles, unlike a grid, meet the kinks at the ends of intervals only.
    a, b, c = pair
    rho = c / math.sqrt(a * b)
    functions = {"Relu": lambda x: np.maximum(x, 0), "Abs": np.abs, "Sign": np.sign}
    slope = getattr(layer, "negative_slope", 0.0)
    function = functions.get(type(layer).__name__, lambda x: np.where(x > 0, x, slope * x))
    turn = math.acos(np.clip(rho, -1, 1))
    edges = np.sort(np.array([-np.pi / 2, np.pi / 2, turn - np.pi / 2, turn + np.pi / 2, 1.5 * np.pi]))
    points, weights = np.polynomial.legendre.leggauss(40)
    total = 0.0
    for begin, end in pairwise(edges):
        angle = (begin + end) / 2 + (end - begin) / 2 * points
        values = function(np.cos(angle)) * function(np.cos(angle - turn))
        total += (end - begin) / 2 * float(weights @ values) / (2 * np.pi)
    radius = 1 if isinstance(layer, Sign) else 2 * math.sqrt(a * b)  # E r^2 = 2
    assert dual(layer, *pair)[0] == pytest.approx(radius * total, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("layer", [*RECTIFIERS, Sign()], ids=repr)
def test_what_is_always_zero_stays_zero_and_uncorrelated(layer):
    assert variance_behind(layer, 0.0) == 0
    assert dual(layer, 0.0, 2.0, 0.0)[0] == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("slope", [float("inf"), float("nan"), "0.1", None, 1j])
def test_an_impossible_slope_is_refused(slope):
    with pytest.raises(LayerError, match="negative_slope must be a finite number, got "):
        LeakyRelu(slope)


def test_there_is_no_ntk_behind_the_sign_alone():
    assert not Sign.has_ntk
    assert all(layer.has_ntk for layer in RECTIFIERS)


def test_maxout_is_relu_behind_weights_that_are_larger_by_the_root_of_two():
    rho = np.linspace(-1, 1, 21)
    known = [statistic for statistic in Maxout().statistics(3.0, ())]
    value, slope = Maxout().dual(3.0 * rho, known, known, ())
    behind = [statistic for statistic in Relu().statistics(6.0, ())]
    expected, expected_slope = Relu().dual(6.0 * rho, behind, behind, ())
    np.testing.assert_allclose(value, expected, rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(slope, 2 * expected_slope, rtol=1e-14)  # the chain rule brings the 2
    assert known[-1] == 3.0


@pytest.mark.parametrize("pieces", [1, 3, "2", None, 2.0])
def test_maxout_of_other_than_two_pieces_is_refused(pieces):
    with pytest.raises(
        LayerError, match=r"Maxout has a closed form for 2 pieces, got .*: put a Dense layer and another"
    ):
        Maxout(pieces)
