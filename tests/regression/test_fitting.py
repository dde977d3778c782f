import re
from fractions import Fraction
from typing import Any

import numpy as np
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.regressions import LAW, Regression, make_regression, regressions

from cntk_pipeline.errors import ConfigError, DataError, NotPositiveDefinite
from cntk_pipeline.regression import evidence, gp_posterior, learning_curve, leave_one_out, ridge_path
from cntk_pipeline.regression.centres import fit_centres
from cntk_pipeline.regression.factors import posterior_covariance, posterior_variance
from cntk_pipeline.regression.fitting import fit
from cntk_pipeline.regression.posterior import signal_variance


@LAW
@given(regressions(least=2), st.sampled_from([0.0, 0.05, 3.0]), st.sampled_from(["relative", "absolute"]))
def test_a_fit_is_the_posterior_and_leave_one_out(r: Regression, ridge: float, mode: str) -> None:
    fitted = fit(r.train, r.y, ridge=ridge, ridge_mode=mode)  # type: ignore[arg-type]
    posterior = gp_posterior(r.train, r.y, r.test_train, r.test, ridge=ridge, ridge_mode=mode)  # type: ignore[arg-type]
    np.testing.assert_allclose(r.test_train @ fitted.coefficients, posterior.mean, atol=1e-10)
    covariance = posterior_covariance(fitted.lower, r.test_train, r.test)
    np.testing.assert_allclose(covariance, posterior.covariance, atol=1e-10)
    variance = posterior_variance(fitted.lower, r.test_train, np.diag(r.test))
    np.testing.assert_allclose(variance, np.diag(covariance), atol=1e-10)
    left_out = leave_one_out(r.train, r.y, ridge=ridge, ridge_mode=mode)  # type: ignore[arg-type]
    np.testing.assert_allclose(fitted.leave_one_out, left_out.predictions, atol=1e-10)
    assert fitted.path is None


@LAW
@given(regressions(least=2))
def test_of_several_ridges_the_best_of_the_path_is_fitted(r: Regression) -> None:
    ridges = [3.0, 0.3, 0.03]
    fitted = fit(r.train, r.y, ridge=ridges)
    path = ridge_path(r.train, r.y, ridges)
    assert fitted.ridge == path.best
    np.testing.assert_allclose(fitted.path.squared_error, path.squared_error, rtol=1e-10)
    np.testing.assert_array_equal(fitted.coefficients, fit(r.train, r.y, ridge=path.best).coefficients)


def test_ridges_of_pandas_are_taken_in_their_order() -> None:
    ridges = pandas.Series([3.0, 0.3, 0.03]).sort_values()  # ridges[0] is 3, and the first one is 0.03
    r = make_regression(3, 8, 1, 1)
    path = ridge_path(r.train, r.y, ridges)
    plain = fit(r.train, r.y, ridge=ridges.to_list())
    for fitted in (fit(r.train, r.y, ridge=ridges), fit(r.train, r.y, auto=ridges)):
        assert fitted.path.ridges.tolist() == path.ridges.tolist() == [0.03, 0.3, 3.0]
        assert (fitted.ridge, fitted.absolute_ridge) == (plain.ridge, plain.absolute_ridge)
        np.testing.assert_allclose(fitted.path.squared_error, path.squared_error)
    centres = fit_centres(r.train, np.diag(r.train), r.y, ridge=ridges)
    assert centres.path.ridges.tolist() == [0.03, 0.3, 3.0]


@pytest.mark.parametrize("factor", [1e160, 1e-170])
def test_targets_whose_squares_leave_float64_are_refused_where_squares_are_needed(factor: float) -> None:
    r = make_regression(3, 8, 2, 2)
    y = r.y * factor
    message = r"y: expected targets whose squares float64 can hold, .* got .*; give .* divided by [1-9]e"
    for compute in (
        lambda: fit(r.train, y),
        lambda: fit_centres(r.train, np.diag(r.train), y, ridge=0.1),
        lambda: leave_one_out(r.train, y, ridge=0.1),
        lambda: ridge_path(r.train, y, [0.1]),
        lambda: evidence(r.train, y, ridge=0.1),
        lambda: learning_curve(r.train, y, r.test_train, np.ones((2, 2)), [8], ridge=0.1),
    ):
        with pytest.raises(DataError, match=message):
            compute()
    far = np.full((2, 2), factor)
    if factor > 1:
        with pytest.raises(DataError, match="y_test_or_labels: expected targets whose squares"):
            learning_curve(r.train, r.y, r.test_train, far, [8], ridge=0.1)
    else:  # beside targets of another size small ones are as good as 0
        assert learning_curve(r.train, r.y, r.test_train, far, [8], ridge=0.1).squared_error > 0
        assert leave_one_out(r.train, np.concatenate([r.y, y], 1), ridge=0.1).squared_error > 0
    # Means are linear in the targets, and need no squares.
    posterior = gp_posterior(r.train, y, r.test_train, ridge=0.1).mean
    np.testing.assert_allclose(posterior / factor, gp_posterior(r.train, r.y, r.test_train, ridge=0.1).mean, rtol=1e-9)
    np.testing.assert_array_equal(fit(r.train, y, ridge=0.1).coefficients.shape, y.shape)


def test_ridges_that_leave_the_kernel_indefinite_are_no_candidates() -> None:
    kernel = np.ones((3, 3)) - 0.05 * np.eye(3)  # eigenvalues -0.05, -0.05, 2.95
    fitted = fit(kernel, [1.0, 2.0, 3.0])
    assert fitted.path is not None
    assert fitted.path.ridges.tolist() == [1.0, 0.1]
    with pytest.raises(NotPositiveDefinite, match=r"any of the ridges 0\.01, 0, relative; its smallest .* -0\.05"):
        fit(kernel, [1.0, 2.0, 3.0], ridge=[0.01, 0.0])


def test_the_factor_of_the_kernel_is_that_of_the_largest_likelihood() -> None:
    r = make_regression(3, 8, 1, 1)
    fitted = fit(r.train, r.y, ridge=0.1)
    system = r.train + fitted.absolute_ridge * np.eye(8)

    def likelihood(factor: float) -> float:
        _, logdet = np.linalg.slogdet(factor * system)
        return float(-0.5 * (r.y.T @ np.linalg.solve(factor * system, r.y)).item() - 0.5 * logdet)

    factor = float(signal_variance(r.y, fitted.coefficients)[0])
    assert likelihood(factor) > max(likelihood(0.999 * factor), likelihood(1.001 * factor))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ridge": []}, r"the list of ridges is empty"),
        ({"ridge": "best"}, r"a number of at least 0, a list of such, or 'auto', got 'best'"),
        ({"ridge_mode": "absolute"}, r"ridge='auto' chooses among relative ridges: leave ridge_mode='absolute' out"),
        ({"ridge": -1.0}, r"a ridge must be a finite number of at least 0, got -1"),
        ({"ridge": [1.0, float("nan")]}, r"a ridge must be a finite number of at least 0, got nan"),
        *[
            ({"ridge": each}, rf"a number of at least 0, a list of such, or 'auto', got {re.escape(repr(each))}")
            for each in (None, {0.1}, 1j, [[0.1, 1]], {0.1: 1}, np.array("1"))
        ],
        ({"ridge": [0.1, None]}, r"a ridge must be a finite number of at least 0, got None"),
        ({"ridge": ["a"]}, r"a ridge must be a finite number of at least 0, got 'a'"),
        ({"ridge": [[0.1], [1, 2]]}, r"a ridge must be a finite number of at least 0, got \[0\.1\]"),
    ],
)
def test_a_wrong_ridge_is_named(arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fit(np.eye(2), [1.0, 2.0], **arguments)
    with pytest.raises(ConfigError, match=message):
        fit_centres(np.eye(2), np.ones(2), np.array([[1.0], [2.0]]), **arguments)


@pytest.mark.parametrize("ridge", [np.float32(0.5), np.array(0.5), Fraction(1, 2), [np.array(0.5)], np.array([0.5])])
def test_a_ridge_may_be_any_real_number(ridge: Any) -> None:
    plain = fit(np.eye(2), [1.0, 2.0], ridge=0.5)
    given = fit(np.eye(2), [1.0, 2.0], ridge=ridge)
    assert (given.ridge, given.absolute_ridge) == (plain.ridge, plain.absolute_ridge) == (0.5, 0.5)
    np.testing.assert_array_equal(given.coefficients, plain.coefficients)
