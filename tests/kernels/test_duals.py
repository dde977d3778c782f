"""The compiled elementary functions against NumPy in extended precision, and their polynomials against their fit."""

import math
from functools import cache

import numpy as np
import pytest
from support.tolerances import DTYPES, tolerance

from cntk_pipeline.kernels import duals, fit_duals
from cntk_pipeline.kernels.jit import jit
from cntk_pipeline.kernels.lanes import LANES, address, load, store
from cntk_pipeline.layers import elementary

FITS = [
    ("angle", "float32", duals._ANGLE_32, 1, 1.3e-7),
    ("angle", "float64", duals._ANGLE_64, 1, 8.6e-16),
    ("root", "float32", duals._ROOT_32, 1, 2.2e-7),
    ("root", "float64", duals._ROOT_64, 1, 1.4e-15),
    ("sine", "float32", duals._SINE_32, 0.25, 3.9e-7),
    ("sine", "float64", duals._SINE_64, 0.25, 1.3e-15),
]
EPS = {dtype: float(np.finfo(dtype).eps) for dtype in DTYPES}

by_dtype = pytest.mark.parametrize("dtype", DTYPES)


@cache
def compiled(function, results):
    """Compile a loop over 16 numbers a turn."""
    if results == 2:

        @jit
        def fill(x, out):
            for m in range(0, len(x), LANES):
                first, second = function(load(address(x, 0), m))
                store(address(out, 0), m, first)
                store(address(out, len(x)), m, second)

    else:

        @jit
        def fill(x, out):
            for m in range(0, len(x), LANES):
                store(address(out, 0), m, function(load(address(x, 0), m)))

    return fill


def evaluate(function, x, dtype, results=1):
    x = np.atleast_1d(np.asarray(x, dtype))
    whole = np.resize(x, -(-len(x) // LANES) * LANES)
    out = np.full((results, len(whole)), np.nan, dtype)
    compiled(function, results)(whole, out)
    return out[:, : len(x)]


@cache
def compiled_of_two(function):
    """Compile the same of two numbers."""

    @jit
    def fill(x, y, out):
        for m in range(0, len(x), LANES):
            store(address(out, 0), m, function(load(address(x, 0), m), load(address(y, 0), m)))

    return fill


def evaluate_of_two(function, x, y, dtype):
    whole = [np.resize(np.asarray(v, dtype), -(-len(x) // LANES) * LANES) for v in (x, y)]
    out = np.full(len(whole[0]), np.nan, dtype)
    compiled_of_two(function)(*whole, out)
    return out[: len(x)]


def arc_sine(x, dtype):
    """Evaluate the arc sine with what is left of 1, rounded once."""
    rest = np.maximum(1 - x.astype(np.longdouble) ** 2, 0)
    return evaluate_of_two(elementary.arc_sine, x, rest, dtype)


def arc_cosine_halves(rho, dtype):
    return evaluate(elementary.arc_cosine_halves, rho, dtype, 2)


def grid(dtype, low=-1.0, high=1.0, count=100_001):
    return np.linspace(low, high, count).astype(dtype)


def angular_grid(dtype, count=50_001):
    """As fine near correlations of +-1 as anywhere."""
    return np.cos(np.linspace(0, np.pi, count)).astype(dtype)


def tiny(dtype):
    """Numbers of both signs from near the smallest to 1."""
    positive = np.geomspace(np.finfo(dtype).tiny, 1, 5_001).astype(dtype)
    return np.concatenate([positive, -positive])


@by_dtype
def test_at_correlation_one_the_duals_are_exactly_half(dtype):
    np.testing.assert_array_equal(arc_cosine_halves([1, 1 + 1e-6, 1.01, 50], dtype), 0.5)


@by_dtype
def test_at_correlation_minus_one_the_duals_are_exactly_zero(dtype):
    np.testing.assert_array_equal(arc_cosine_halves([-1, -1 - 1e-6, -1.01, -50], dtype), 0)


@by_dtype
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_at_correlation_zero_half_the_neurons_meet(zero, dtype):
    half_k0, half_k1 = arc_cosine_halves(zero, dtype)
    assert half_k0 == pytest.approx(1 / 4, rel=tolerance(dtype).dual)
    assert half_k1 == pytest.approx(1 / (2 * np.pi), rel=tolerance(dtype).dual)


@by_dtype
def test_at_sixty_degrees_two_thirds_of_the_neurons_meet(dtype):
    half_k0, half_k1 = arc_cosine_halves([0.5, -0.5], dtype)
    np.testing.assert_allclose(half_k0, [1 / 3, 1 / 6], rtol=tolerance(dtype).dual)
    root = np.sqrt(3) / (4 * np.pi)
    np.testing.assert_allclose(half_k1, [1 / 6 + root, root - 1 / 12], rtol=0, atol=tolerance(dtype).dual)


@by_dtype
def test_the_duals_are_those_of_the_arc_cosine(dtype):
    rho = np.concatenate([angular_grid(dtype), grid(dtype), tiny(dtype)])
    exact = rho.astype(np.longdouble)
    angle = np.arccos(-exact)
    half_k0, half_k1 = arc_cosine_halves(rho, dtype)
    pi = fit_duals.PI
    # Near rho = -1 both vanish: k0 like a root, of which the rounding of 1 - |rho| leaves few digits.
    np.testing.assert_allclose(half_k0, angle / (2 * pi), rtol=0, atol=2 * EPS[dtype])
    np.testing.assert_allclose(half_k1, (exact * angle + np.sqrt(1 - exact**2)) / (2 * pi), rtol=0, atol=2 * EPS[dtype])


@by_dtype
def test_the_duals_are_those_that_numpy_computes(dtype):
    rho = np.concatenate([angular_grid(dtype), [1 + 1e-5, -1 - 1e-5]]).astype(dtype)
    # In extended precision: in float64, NumPy's root of 1 - rho^2 is the less exact of the two.
    expected = elementary.arc_cosine_halves(rho.astype(np.longdouble))
    np.testing.assert_allclose(arc_cosine_halves(rho, dtype), expected, rtol=0, atol=2 * EPS[dtype])


@by_dtype
def test_the_duals_stay_within_their_range_and_grow(dtype):
    for dual in arc_cosine_halves(grid(dtype), dtype):
        assert dual.min() >= -EPS[dtype]
        assert dual.max() <= 0.5
        assert np.diff(dual).min() > -2 * EPS[dtype]


@pytest.mark.slow
@by_dtype
def test_the_arc_sine_is_that_of_numpy_to_a_few_roundings_of_any_size(dtype):
    x = np.concatenate([grid(dtype), angular_grid(dtype), tiny(dtype)])
    expected = np.arcsin(x.astype(np.longdouble))
    np.testing.assert_allclose(arc_sine(x, dtype), expected, rtol=4 * EPS[dtype], atol=0)


@by_dtype
def test_the_arc_sine_near_one_is_as_exact_as_what_is_left_of_one(dtype):
    # q is 1 to the last bit, and the angle that is missing at a quarter turn the root of 1 - q^2.
    rest = np.geomspace(np.finfo(dtype).tiny, EPS[dtype] / 4, 1_000).astype(dtype)
    found = evaluate_of_two(elementary.arc_sine, np.ones_like(rest), rest, dtype)
    expected = np.pi / 2 - np.sqrt(rest.astype(np.longdouble))
    np.testing.assert_allclose(found, expected, rtol=EPS[dtype], atol=0)


@by_dtype
def test_the_arc_sine_of_one_is_a_quarter_turn_and_that_of_zero_is_zero(dtype):
    quarter = np.dtype(dtype).type(np.pi / 2)
    x = [1, -1, 1 + 1e-6, -1.5, 0, 0.5, -0.5]
    expected = [quarter, -quarter, quarter, -quarter, 0, np.pi / 6, -np.pi / 6]
    found = arc_sine(np.array(x, dtype), dtype)
    np.testing.assert_array_equal(found[:5], np.array(expected[:5], dtype))
    np.testing.assert_allclose(found[5:], expected[5:], rtol=2 * EPS[dtype])


@pytest.mark.slow
@by_dtype
def test_the_exponential_is_that_of_numpy_to_a_few_roundings(dtype):
    # As far as neither the result nor its neighbours are denormal or infinite.
    low, high = {"float32": (-87.0, 88.7), "float64": (-708.0, 709.7)}[dtype]
    x = np.concatenate([grid(dtype, low, high), grid(dtype, -2, 2), tiny(dtype)])
    expected = np.exp(x.astype(np.longdouble))
    np.testing.assert_allclose(evaluate(elementary.exponential, x, dtype)[0], expected, rtol=3 * EPS[dtype], atol=0)


@by_dtype
def test_the_exponential_overflows_to_infinity_and_underflows_to_next_to_nothing(dtype):
    one_too_many = {"float32": 88.73, "float64": 709.79}[dtype]
    large = evaluate(elementary.exponential, [one_too_many, 1e3, 1e30, np.inf], dtype)[0]
    np.testing.assert_array_equal(large, np.inf)
    small = evaluate(elementary.exponential, [-1e3, -1e30, -np.inf], dtype)[0]
    assert np.all((small >= 0) & (small < 10 * np.finfo(dtype).tiny))
    # Exact where it must be, and no number stays none.
    np.testing.assert_array_equal(evaluate(elementary.exponential, [0.0, -0.0, np.nan], dtype)[0], [1, 1, np.nan])


@pytest.mark.slow
@by_dtype
def test_the_exponential_less_one_is_that_of_numpy_to_a_few_roundings_of_any_size(dtype):
    low = {"float32": -87.0, "float64": -708.0}[dtype]
    x = np.concatenate([grid(dtype, low, 0), grid(dtype, -2, 2), tiny(dtype)])
    expected = np.expm1(x.astype(np.longdouble))
    found = evaluate(elementary.exponential_less_one, x, dtype)[0]
    np.testing.assert_allclose(found, expected, rtol=3 * EPS[dtype], atol=0)
    far = evaluate(elementary.exponential_less_one, [-1e4, -np.inf, 0.0, np.nan], dtype)[0]
    np.testing.assert_array_equal(far, [-1, -1, 0, np.nan])


@by_dtype
def test_signs_are_dropped_and_given(dtype):
    x, sign = grid(dtype, -3, 3, 101), grid(dtype, 1, -1, 101)
    np.testing.assert_array_equal(evaluate(elementary.absolute, x, dtype)[0], np.abs(x))
    np.testing.assert_array_equal(evaluate_of_two(elementary.with_sign, x, sign, dtype), np.copysign(x, sign))


@by_dtype
def test_the_inverse_root_is_zero_where_there_is_no_root(dtype):
    x = np.array([0.0, -0.0, -1e-30, -4, -np.inf, 4, 0.25, np.inf], dtype)
    found = evaluate(elementary.inverse_root, x, dtype)[0]
    np.testing.assert_array_equal(found, [0, 0, 0, 0, 0, 0.5, 2, 0])
    np.testing.assert_array_equal(found, elementary.inverse_root(x))


@by_dtype
def test_roots_are_correctly_rounded(dtype):
    x = np.abs(tiny(dtype))
    np.testing.assert_array_equal(evaluate(elementary.square_root, x, dtype)[0], elementary.square_root(x))
    np.testing.assert_array_equal(evaluate(elementary.inverse_root, x, dtype)[0], 1 / np.sqrt(x))


@by_dtype
def test_correlations_beyond_one_are_clipped_and_others_kept(dtype):
    x = np.concatenate([grid(dtype, -1.1, 1.1, 1_001), tiny(dtype), np.array([np.inf, -np.inf], dtype)])
    np.testing.assert_array_equal(evaluate(elementary.clip_correlation, x, dtype)[0], elementary.clip_correlation(x))


@pytest.mark.parametrize(("name", "dtype", "constants", "end", "claimed"), FITS)
def test_the_fit_reproduces_the_constants(name, dtype, constants, end, claimed):
    fitted = fit_duals.chebyshev_fit(getattr(fit_duals, name), end, len(constants) - 1).astype(np.float64)
    # Extended precision differs between processors; the last digits of the highest powers with it.
    np.testing.assert_allclose(np.array(constants, np.float64), fitted, rtol=1e-7)


@pytest.mark.parametrize(("name", "dtype", "constants", "end", "claimed"), FITS[:4])
def test_the_constants_reach_the_errors_that_are_claimed(name, dtype, constants, end, claimed):
    # That of the sine is what the arc sine above reaches: its power series takes seconds here.
    # Evaluated in float64; rounding the coefficients to float32 costs the tenth that is allowed here.
    error = fit_duals.largest_error(getattr(fit_duals, name), end, np.array(constants, np.float64), np.float64)
    assert error < 1.1 * claimed


def test_the_functions_to_be_fitted_are_what_they_say():
    a = np.linspace(0, 1, 1_001)[:-1]
    np.testing.assert_allclose(fit_duals.angle(a), np.arccos(a) / (2 * np.pi * np.sqrt(1 - a)), rtol=1e-12)
    np.testing.assert_allclose(fit_duals.root(a), np.sqrt(1 - a * a) / (2 * np.pi * np.sqrt(1 - a)), rtol=1e-12)
    t = np.linspace(0.01, 0.25, 1_001)
    np.testing.assert_allclose(fit_duals.sine(t), (np.arcsin(np.sqrt(t)) - np.sqrt(t)) / t**1.5, rtol=1e-11)


def test_taylor_s_series_of_the_exponential_needs_no_more_terms():
    # exp(r) on |r| <= ln(2) / 2: the first term left out, relative to a rounding.
    r = math.log(2) / 2
    assert r**8 / math.factorial(8) < EPS["float32"] / 20
    assert r**14 / math.factorial(14) < EPS["float64"] / 20
