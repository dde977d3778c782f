"""The fit of a power law, against exact laws, NumPy's polyfit and SciPy's curve_fit."""

import numpy as np
import pytest
from scipy.optimize import curve_fit

from cntk_pipeline.plots.power_law import PowerLaw, fit_power_law

SIZES = [10, 22, 46, 100, 215, 464, 1000]


def fitted(sizes: list[int], errors: np.ndarray, deviations: np.ndarray | None = None) -> PowerLaw:
    law = fit_power_law(sizes, errors.tolist(), None if deviations is None else deviations.tolist())
    assert law is not None
    return law


@pytest.mark.parametrize(("factor", "exponent"), [(0.8, 0.35), (3.0, 1.2), (0.2, -0.1)])
def test_an_exact_power_law_is_found_without_a_floor(factor: float, exponent: float) -> None:
    law = fitted(SIZES, factor * np.array(SIZES, float) ** -exponent)
    assert (law.factor, law.exponent) == pytest.approx((factor, exponent), rel=1e-10)
    assert law.exponent_error < 1e-8
    assert law.floor == 0
    assert law.sizes == tuple(SIZES)


@pytest.mark.parametrize("deviation", [None, 0.02])
def test_an_exact_power_law_with_a_floor_is_found(deviation: float | None) -> None:
    errors = 2.0 * np.array(SIZES, float) ** -0.9 + 0.05
    law = fitted(SIZES, errors, None if deviation is None else np.full(len(SIZES), deviation))
    assert (law.factor, law.exponent, law.floor) == pytest.approx((2.0, 0.9, 0.05), rel=1e-5)
    np.testing.assert_allclose(law.at(np.array(SIZES)), errors, rtol=1e-6)


def test_five_sizes_are_too_few_for_a_floor() -> None:
    law = fitted(SIZES[:5], 2.0 * np.array(SIZES[:5], float) ** -0.9 + 0.05)
    assert law.floor == 0
    assert law.exponent_error > 0.01


def test_no_law_is_fitted_to_three_sizes() -> None:
    assert fit_power_law([10, 20, 40], [0.3, 0.2, 0.1], None) is None
    assert fit_power_law([], [], None) is None


def test_exponent_and_standard_error_are_those_of_polyfit() -> None:
    rng = np.random.default_rng(0)
    errors = 0.9 * np.array(SIZES, float) ** -0.4 * np.exp(0.1 * rng.standard_normal(len(SIZES)))
    line, covariance = np.polyfit(np.log(SIZES), np.log(errors), 1, cov=True)
    law = fitted(SIZES, errors)
    assert law.floor == 0
    assert law.exponent == pytest.approx(-line[0])
    # `polyfit` divides the squares by the number of points minus that of parameters, too.
    assert law.exponent_error == pytest.approx(np.sqrt(covariance[0, 0]))


@pytest.mark.parametrize(("noise", "grows"), [(0.5, False), (4.0, True)])
def test_points_count_by_their_deviations(noise: float, grows: bool) -> None:
    """The standard error is that of the deviations, and of the residuals where these are larger."""
    rng = np.random.default_rng(1)
    deviations = np.linspace(0.02, 0.2, len(SIZES))
    errors = 0.9 * np.array(SIZES, float) ** -0.4 * np.exp(noise * deviations * rng.standard_normal(len(SIZES)))
    line, known = np.polyfit(np.log(SIZES), np.log(errors), 1, w=1 / deviations, cov="unscaled")
    _, scaled = np.polyfit(np.log(SIZES), np.log(errors), 1, w=1 / deviations, cov=True)
    law = fitted(SIZES, errors, deviations)
    assert law.floor == 0
    assert law.exponent == pytest.approx(-line[0])
    assert law.exponent_error == pytest.approx(np.sqrt((scaled if grows else known)[0, 0]))
    assert (scaled[0, 0] > known[0, 0]) == grows


def test_three_parameters_are_those_of_curve_fit() -> None:
    rng = np.random.default_rng(2)
    errors = (2.0 * np.array(SIZES, float) ** -0.9 + 0.05) * np.exp(0.03 * rng.standard_normal(len(SIZES)))
    best, covariance = curve_fit(
        lambda m, intercept, exponent, floor: np.log(np.exp(intercept) * m**-exponent + floor),
        SIZES, np.log(errors), (0.5, 0.8, 0.03),
    )  # fmt: skip
    law = fitted(SIZES, errors)
    assert (law.exponent, law.floor) == pytest.approx((best[1], best[2]), rel=1e-3)
    assert law.exponent_error == pytest.approx(np.sqrt(covariance[1, 1]), rel=1e-2)


def test_a_law_is_written_with_its_floor() -> None:
    assert str(PowerLaw(0.8, 0.35, 0.01, 0.0, (10, 1000))) == "0.8 m^-0.350"
    assert str(PowerLaw(0.8, -0.1, 0.01, 0.05, (10, 1000))) == "0.8 m^0.100 + 0.05"
