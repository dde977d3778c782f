"""Activations whose duals are power series."""

import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from twin.gaussian import PAIRS, dual, expectation, require_slope, variance_behind

from cntk_pipeline.errors import LayerError, NotAccurate
from cntk_pipeline.layers import Elementwise, Hermite, Polynomial
from cntk_pipeline.layers.series import FUNCTIONS

CUBIC = (0.3, -1.0, 0.5, 0.2)
SERIES = [Polynomial(CUBIC), Hermite(CUBIC), Hermite((0, 0, 0, 0, 1.0)), *(Elementwise(f, 128) for f in FUNCTIONS)]


def difference(function, x):
    """Approximate a derivative to 1e-12."""
    step = 1e-3
    near, far = (function(x + k * step) - function(x - k * step) for k in (1, 2))
    return (8 * near - far) / (12 * step)


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_a_polynomial_s_dual_is_the_quadrature(pair):
    expected = expectation(lambda x: np.polynomial.Polynomial(CUBIC)(x), *pair, nodes=8)
    assert dual(Polynomial(CUBIC), *pair)[0] == pytest.approx(expected, rel=1e-12, abs=1e-13)


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_polynomials_of_degree_zero_and_one_are_constants_and_the_identity(pair):
    np.testing.assert_allclose(dual(Polynomial((0, 1)), *pair), (pair[2], 1), rtol=1e-15)
    assert dual(Polynomial((3.0,)), *pair) == (9, 0)


def test_the_square_by_hand():
    # Isserlis: E[u^2 v^2] = a b + 2 c^2.
    assert dual(Polynomial((0, 0, 1)), 2.0, 3.0, 0.7) == pytest.approx((2 * 3 + 2 * 0.7**2, 4 * 0.7))


@pytest.mark.parametrize("rho", [-1.0, -0.3, 0.0, 0.6, 1.0])
def test_hermite_at_variance_one_is_the_series_of_squared_coefficients(rho):
    expected = sum(value**2 * rho**n for n, value in enumerate(CUBIC))
    assert dual(Hermite(CUBIC), 1.0, 1.0, rho)[0] == pytest.approx(expected)


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_hermite_polynomials_are_polynomials(pair):
    # He_2(x) / sqrt(2) = (x^2 - 1) / sqrt(2)
    power = (-1 / math.sqrt(2), 0, 1 / math.sqrt(2))
    np.testing.assert_allclose(dual(Hermite((0, 0, 1)), *pair), dual(Polynomial(power), *pair), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_hermite_at_other_variances_is_the_quadrature(pair):
    scaled = [value / math.sqrt(math.factorial(n)) for n, value in enumerate(CUBIC)]
    expected = expectation(np.polynomial.HermiteE(scaled), *pair, nodes=8)
    assert dual(Hermite(CUBIC), *pair)[0] == pytest.approx(expected, rel=1e-12, abs=1e-13)


def test_many_hermite_terms_lose_no_digits():
    coefficients = tuple(0.9**n for n in range(128))
    expected = sum(0.81**n * 0.7**n for n in range(128))
    assert dual(Hermite(coefficients), 1.0, 1.0, 0.7)[0] == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_a_function_s_dual_is_the_two_dimensional_quadrature(name, pair):
    expected = expectation(FUNCTIONS[name], *pair)
    assert dual(Elementwise(name, 128), *pair)[0] == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_the_error_falls_with_the_nodes():
    # The poles of tanh lie at distance pi / 2: the error falls geometrically in the square root of the nodes.
    exact = expectation(np.tanh, 0.05, 0.05, 0.015)
    errors = [abs(dual(Elementwise("tanh", nodes), 0.05, 0.05, 0.015)[0] - exact) for nodes in (8, 10, 12, 14)]
    assert all(later < earlier / 3 for earlier, later in pairwise(errors))
    assert errors[0] < 1e-8


@pytest.mark.parametrize("variance", [5.0, 156.0, 15_625.0])
def test_a_quadrature_that_has_not_converged_is_refused(variance):
    with pytest.raises(
        NotAccurate, match=r"nodes=64\) is not accurate at a variance of .* Take more nodes \(up to 256\)"
    ):
        Elementwise("tanh").expand(np.array([0.5, variance]))


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("nodes", [16, 64, 256])
def test_what_a_quadrature_accepts_is_accurate(name, nodes):
    # Of values and slopes at correlation 1, E phi^2 and E phi'^2, by integrals that know nothing of it.
    layer, function = Elementwise(name, nodes), FUNCTIONS[name]
    accepted = []
    for variance in 2.0 ** np.arange(-8, 9):
        try:
            layer.expand(np.array([variance]))
        except NotAccurate:
            continue
        accepted.append(variance)
        deviation = math.sqrt(variance)
        for of, found in zip((function, partial(difference, function)), dual(layer, *[variance] * 3), strict=True):
            grid = np.linspace(-12, 12, 40_001)
            weights = np.exp(-(grid**2) / 2) / math.sqrt(2 * math.pi) * (grid[1] - grid[0])
            assert found == pytest.approx(float(weights @ of(deviation * grid) ** 2), rel=1.1e-5)
    assert accepted[0] == 2.0**-8
    assert accepted[-1] < 2.0**8  # and what is too steep is refused
    assert accepted == [2.0**k for k in range(-8, -8 + len(accepted))]


def test_a_function_with_a_kink_is_refused():
    with pytest.raises(NotAccurate, match="or an activation with a closed form"):
        Elementwise(lambda x: np.maximum(x, 0), 128).expand(np.ones(1))


@pytest.mark.parametrize("layer", SERIES, ids=repr)
@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_the_derivative_is_the_dual_s_slope(layer, pair):
    require_slope(layer, *pair)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_the_derivative_is_the_dual_of_the_derivative(name, pair):
    # By Price 1958; the derivative of the function itself by a difference.
    function, step = FUNCTIONS[name], 1e-5
    expected = expectation(lambda x: (function(x + step) - function(x - step)) / (2 * step), *pair)
    assert dual(Elementwise(name, 128), *pair)[1] == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_functions_by_name_are_what_they_are_called():
    x = np.array([-30.0, -1.0, 0.0, 2.0, 700.0])
    with np.errstate(over="ignore"):
        sigmoid = 1 / (1 + np.exp(-x))
    np.testing.assert_allclose(FUNCTIONS["sigmoid"](x), sigmoid, atol=1e-15)
    np.testing.assert_allclose(FUNCTIONS["silu"](x), x * sigmoid, atol=1e-13)
    np.testing.assert_allclose(FUNCTIONS["softplus"](x[:4]), np.log1p(np.exp(x[:4])), rtol=1e-12)
    assert FUNCTIONS["tanh"](0.5) == math.tanh(0.5)


@pytest.mark.parametrize("name", ["tanh", "silu"])
def test_a_position_without_variance_has_no_covariance(name):
    assert dual(Elementwise(name), 0.0, 1.0, 0.0)[0] == pytest.approx(0, abs=1e-9)
    assert variance_behind(Elementwise(name), 0.0) == pytest.approx(0, abs=1e-9)
    # The slope there is that of the function at 0, squared.
    slope = {"tanh": 1, "silu": 0.5}[name]
    assert dual(Elementwise(name), 0.0, 0.0, 0.0)[1] == pytest.approx(slope**2, rel=1e-9)


def test_expansions_keep_the_shape_of_the_variances():
    variance = np.linspace(0.1, 1, 6).reshape(2, 3)
    for layer in SERIES:
        scale, series = layer.expand(variance)
        assert scale.shape == (2, 3)
        assert series.shape == (layer.terms, 2, 3)
        np.testing.assert_allclose(series[:, 1, 2], layer.expand(variance[1, 2:])[1][:, 0], rtol=1e-12, atol=1e-14)


def test_the_largest_number_of_nodes_is_accurate():
    layer = Elementwise(lambda x: np.polynomial.Polynomial(CUBIC)(x), 256)
    assert dual(layer, 0.7, 1.3, 0.5)[0] == pytest.approx(dual(Polynomial(CUBIC), 0.7, 1.3, 0.5)[0], rel=1e-10)


@pytest.mark.parametrize("layer", [Polynomial, Hermite])
def test_coefficients_may_be_a_list_and_are_kept_as_floats(layer):
    assert layer([1, 2]) == layer((1.0, 2.0))
    assert layer([1, 2]).terms == 2


@pytest.mark.parametrize("layer", [Polynomial, Hermite])
@pytest.mark.parametrize("value", [(), [], 3.0, "tanh", None])
def test_what_is_no_list_of_coefficients_is_refused(layer, value):
    with pytest.raises(LayerError, match=f"{layer.__name__} needs a list of coefficients, constant term first,"):
        layer(value)


@pytest.mark.parametrize("layer", [Polynomial, Hermite])
@pytest.mark.parametrize("value", [float("inf"), float("nan"), "1", None])
def test_a_coefficient_that_is_no_number_is_refused(layer, value):
    with pytest.raises(LayerError, match=f"{layer.__name__} needs finite coefficients, got {value!r}"):
        layer((1.0, value))


@pytest.mark.parametrize("layer", [Polynomial, Hermite])
def test_more_coefficients_than_factorials_are_refused(layer):
    assert np.isfinite(dual(layer((0.1,) * 128), 0.5, 0.5, 0.2)).all()
    with pytest.raises(LayerError, match=f"{layer.__name__} takes at most 128 coefficients, got 129"):
        layer((0.1,) * 129)


def test_an_unknown_function_is_refused():
    with pytest.raises(LayerError, match="Elementwise knows tanh, sigmoid, silu, softplus by name, got 'tan'"):
        Elementwise("tan")
    with pytest.raises(LayerError, match="Elementwise needs a function of NumPy arrays or its name, got 3"):
        Elementwise(3)


def test_a_function_that_cannot_be_hashed_is_refused():
    with pytest.raises(LayerError, match=r"Elementwise needs a function that can be hashed, .*wrap it, as in lambda x"):
        Elementwise(np.polynomial.Polynomial([0, 1]))


@pytest.mark.parametrize("nodes", [0, 257, 3.0, True, None])
def test_an_impossible_number_of_nodes_is_refused(nodes):
    with pytest.raises(LayerError, match=f"Elementwise needs 1 to 256 nodes, got {nodes}"):
        Elementwise("tanh", nodes)


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda x: np.exp(1j * x), "must return real numbers, but returned an array of dtype complex128"),
        (lambda x: np.full(x.shape, "1"), "must return real numbers, but returned an array of dtype <U1"),
        (math.tanh, r"must take NumPy arrays .* raised TypeError.*numpy\.vectorize\(function, otypes=\[float\]\)"),
        (lambda x: x if x > 0 else 0, "must take NumPy arrays .* raised ValueError"),
    ],
)
def test_a_function_that_is_none_of_real_arrays_is_refused(function, told):
    with pytest.raises(LayerError, match=f"^Elementwise: the function {told}"):
        Elementwise(function, 8).expand(np.ones(2))


def test_a_function_of_single_numbers_may_be_wrapped():
    expected = Elementwise("tanh", 8).expand(np.full(2, 0.01))
    for wrapped in (np.vectorize(math.tanh, otypes=[float]), np.frompyfunc(math.tanh, 1, 1)):
        np.testing.assert_allclose(Elementwise(wrapped, 8).expand(np.full(2, 0.01))[1], expected[1], atol=1e-15)


def test_a_function_that_loses_the_shape_is_refused():
    layer = Elementwise(lambda x: x.sum(axis=0), 8)
    with pytest.raises(
        LayerError, match=r"the function must keep the shape of its argument, \(8, 1\), but returned \(1,\)"
    ):
        layer.expand(np.ones(2))
