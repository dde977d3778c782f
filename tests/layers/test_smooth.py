"""Smooth activations: their duals against quadrature and by hand."""

import math

import numpy as np
import pytest
from twin.gaussian import PAIRS, dual, expectation, require_slope, variance_behind

from cntk_pipeline.errors import LayerError
from cntk_pipeline.layers import Cos, Elementwise, Erf, Exp, Gaussian, Gelu, Rbf, Sin

_erf = np.vectorize(math.erf)
FUNCTIONS = {
    Erf(): _erf,
    Gelu(): lambda x: x * (0.5 + 0.5 * _erf(x / math.sqrt(2))),
    Sin(): np.sin,
    Cos(): np.cos,
    Gaussian(): lambda x: np.exp(-(x**2)),
    Rbf(0.7): lambda x: math.sqrt(2) * np.sin(math.sqrt(1.4) * x + math.pi / 4),
    Exp(): np.exp,
}
SMOOTH = pytest.mark.parametrize(("layer", "function"), FUNCTIONS.items(), ids=map(repr, FUNCTIONS))


@SMOOTH
@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_a_dual_is_the_two_dimensional_quadrature(layer, function, pair):
    assert dual(layer, *pair)[0] == pytest.approx(expectation(function, *pair), rel=1e-9, abs=1e-9)


@SMOOTH
@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_the_derivative_is_the_dual_s_slope(layer, function, pair):
    require_slope(layer, *pair)


@SMOOTH
@pytest.mark.parametrize("variance", [0.0, 0.3, 1.0, 4.0])
def test_a_dual_at_correlation_one_is_the_variance_behind(layer, function, variance):
    assert dual(layer, variance, variance, variance)[0] == pytest.approx(variance_behind(layer, variance), rel=1e-12)


@SMOOTH
@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_the_series_of_the_same_function_agrees(layer, function, pair):
    np.testing.assert_allclose(dual(Elementwise(function, 128), *pair), dual(layer, *pair), rtol=1e-5, atol=1e-6)


def test_erf_of_equal_positions_by_hand():
    # Williams 1997, equation 11, at a = b = c = 1/2: arcsin(1 / 2) = pi / 6.
    assert variance_behind(Erf(), 0.5) == pytest.approx(1 / 3)


def test_sine_and_cosine_square_to_one():
    assert variance_behind(Sin(), 1.3) + variance_behind(Cos(), 1.3) == pytest.approx(1)


def test_rbf_is_the_gaussian_kernel():
    assert dual(Rbf(0.7), 1.0, 2.0, 0.4)[0] == pytest.approx(math.exp(-0.7 * (1 + 2 - 2 * 0.4)))
    assert variance_behind(Rbf(0.7), 5.0) == 1


def test_the_exponential_by_hand():
    assert dual(Exp(), 1.0, 2.0, 0.4)[0] == pytest.approx(math.exp((1 + 2 + 2 * 0.4) / 2))


def test_gelu_without_variance_is_half_the_identity():
    # x Phi(x) is x / 2 near 0: of equal positions of a tiny variance a quarter remains.
    assert dual(Gelu(), 0.0, 0.0, 0.0) == (0, 0.25)
    assert variance_behind(Gelu(), 1e-9) == pytest.approx(0.25e-9)


@pytest.mark.parametrize("gamma", [0, -1.0, float("inf"), float("nan"), "1"])
def test_an_impossible_gamma_is_refused(gamma):
    with pytest.raises(LayerError, match="Rbf needs a finite gamma > 0, got "):
        Rbf(gamma)
