"""The ReLU dual activation against closed forms by hand, and its polynomials against their fit."""

import numpy as np
import pytest
from numba import njit

from pipeline.kernels import duals, fit_duals
from pipeline.kernels.duals import relu_duals
from tests.tolerances import DTYPES, tolerance

FITS = [
    ("float32", 6, duals._ANGLE_32, duals._ROOT_32, 1.3e-7, 2.2e-7),
    ("float64", 16, duals._ANGLE_64, duals._ROOT_64, 8.6e-16, 1.4e-15),
]


@njit
def fill_duals(rho, k0_out, k1_out):
    for m in range(rho.shape[0]):
        k0_out[m], k1_out[m] = relu_duals(rho[m])


def evaluate(rho, dtype):
    rho = np.atleast_1d(np.asarray(rho, dtype))
    k0, k1 = np.full_like(rho, np.nan), np.full_like(rho, np.nan)
    fill_duals(rho, k0, k1)
    return k0, k1


@pytest.mark.parametrize("dtype", DTYPES)
def test_at_correlation_one_the_duals_are_exactly_one(dtype):
    k0, k1 = evaluate(1, dtype)
    assert k0 == 1
    assert k1 == 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_at_correlation_minus_one_the_duals_are_exactly_zero(dtype):
    k0, k1 = evaluate(-1, dtype)
    assert k0 == 0
    assert k1 == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_at_correlation_zero_half_the_neurons_meet(zero, dtype):
    k0, k1 = evaluate(zero, dtype)
    assert k0 == pytest.approx(1 / 2, rel=tolerance(dtype).dual)
    assert k1 == pytest.approx(1 / np.pi, rel=tolerance(dtype).dual)


@pytest.mark.parametrize("dtype", DTYPES)
def test_at_sixty_degrees_two_thirds_of_the_neurons_meet(dtype):
    k0, k1 = evaluate([0.5, -0.5], dtype)
    np.testing.assert_allclose(k0, [2 / 3, 1 / 3], rtol=tolerance(dtype).dual)
    root = np.sqrt(3) / (2 * np.pi)
    np.testing.assert_allclose(k1, [1 / 3 + root, root - 1 / 6], rtol=0, atol=tolerance(dtype).dual)


@pytest.mark.parametrize("dtype", DTYPES)
def test_correlations_beyond_one_by_rounding_are_clipped(dtype):
    k0, k1 = evaluate([1 + 1e-6, 1.01, -1 - 1e-6, -1.01], dtype)
    np.testing.assert_array_equal(k0, [1, 1, 0, 0])
    np.testing.assert_array_equal(k1, [1, 1, 0, 0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_duals_are_those_of_the_arc_cosine(dtype):
    # A grid in the angle: as fine near correlations of +-1 as anywhere.
    rho = np.cos(np.linspace(0, np.pi, 20_001)).astype(dtype)
    exact = rho.astype(np.longdouble)
    theta = np.arccos(exact)
    k0, k1 = evaluate(rho, dtype)
    np.testing.assert_allclose(k0, 1 - theta / np.pi, rtol=0, atol=tolerance(dtype).dual)
    np.testing.assert_allclose(
        k1, (exact * (np.pi - theta) + np.sqrt(1 - exact**2)) / np.pi, rtol=0, atol=tolerance(dtype).dual
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_duals_stay_within_their_range_and_grow(dtype):
    rho = np.linspace(-1, 1, 10_001).astype(dtype)
    slack = tolerance(dtype).dual
    for dual in evaluate(rho, dtype):
        assert dual.min() >= -slack
        assert dual.max() <= 1
        assert np.diff(dual).min() > -slack


def test_outside_jitted_code_the_duals_say_so():
    with pytest.raises(TypeError, match="inside jitted code only"):
        relu_duals(0.5)


@pytest.mark.parametrize(("dtype", "degree", "angle", "root", "angle_error", "root_error"), FITS)
def test_the_fit_reproduces_the_constants(dtype, degree, angle, root, angle_error, root_error):
    for function, constants in ((fit_duals.angle, angle), (fit_duals.root, root)):
        fitted = fit_duals.chebyshev_fit(function, degree).astype(np.float64)
        assert len(constants) == degree + 1
        # Extended precision differs between processors; the last digits of the highest powers with it.
        np.testing.assert_allclose(np.array(constants, np.float64), fitted, rtol=1e-7 if dtype == "float32" else 1e-9)


@pytest.mark.parametrize(("dtype", "degree", "angle", "root", "angle_error", "root_error"), FITS)
def test_the_constants_reach_the_errors_that_are_claimed(dtype, degree, angle, root, angle_error, root_error):
    # Evaluated in float64; rounding the coefficients to float32 costs the tenth that is allowed here.
    for function, constants, claimed in ((fit_duals.angle, angle, angle_error), (fit_duals.root, root, root_error)):
        assert fit_duals.largest_error(function, np.array(constants, np.float64), np.float64) < 1.1 * claimed
