import numpy as np
import pytest
from hypothesis import given
from support.regressions import LAW, Regression, make_regression, regressions

from cntk_pipeline.errors import ConfigError, NotPositiveDefinite
from cntk_pipeline.regression import gp_posterior


def absolute(regression: Regression, ridge: float, mode: str) -> float:
    return ridge * np.trace(regression.train) / len(regression.y) if mode == "relative" else ridge


@LAW
@given(regressions())
@pytest.mark.parametrize("mode", ["relative", "absolute"])
@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_the_posterior_is_that_of_a_dense_inverse(mode: str, ridge: float, r: Regression) -> None:
    posterior = gp_posterior(r.train, r.y, r.test_train, r.test, ridge=ridge, ridge_mode=mode)  # type: ignore[arg-type]
    inverse = np.linalg.inv(r.train + absolute(r, ridge, mode) * np.eye(len(r.y)))
    np.testing.assert_allclose(posterior.mean, r.test_train @ inverse @ r.y, rtol=1e-9, atol=1e-10)
    expected = r.test - r.test_train @ inverse @ r.test_train.T
    np.testing.assert_allclose(posterior.covariance, expected, rtol=1e-9, atol=1e-10)


@LAW
@given(regressions())
def test_the_covariance_is_positive_semidefinite(r: Regression) -> None:
    covariance = gp_posterior(r.train, r.y, r.test_train, r.test).covariance
    assert covariance is not None
    np.testing.assert_array_equal(covariance, covariance.T)
    assert np.linalg.eigvalsh(covariance).min() > -1e-12


@LAW
@given(regressions())
def test_without_a_ridge_the_training_samples_are_interpolated(r: Regression) -> None:
    posterior = gp_posterior(r.train, r.y, r.train, r.train)
    np.testing.assert_allclose(posterior.mean, r.y, atol=1e-10)
    np.testing.assert_allclose(posterior.covariance, np.zeros_like(r.train), atol=1e-10)


def test_without_the_test_kernel_there_is_no_covariance() -> None:
    r = make_regression(0, 5, 2, 2)
    posterior = gp_posterior(r.train, r.y, r.test_train)
    assert posterior.covariance is None
    np.testing.assert_array_equal(posterior.mean, gp_posterior(r.train, r.y, r.test_train, r.test).mean)


def test_targets_of_one_dimension_are_one_column() -> None:
    r = make_regression(1, 5, 2, 1)
    flat = gp_posterior(r.train, r.y[:, 0], r.test_train).mean
    assert flat.shape == (2, 1)
    np.testing.assert_array_equal(flat, gp_posterior(r.train, r.y, r.test_train).mean)


def test_one_training_sample_is_enough() -> None:
    posterior = gp_posterior([[2.0]], [3.0], [[1.0]], [[2.0]])
    np.testing.assert_allclose([posterior.mean, posterior.covariance], [[[1.5]], [[1.5]]])


def test_float32_kernels_are_computed_with_in_float64() -> None:
    r = make_regression(2, 9, 3, 2)
    narrow = [np.asarray(a, dtype=np.float32) for a in (r.train, r.test_train, r.test)]
    train, test_train, test = narrow
    posterior = gp_posterior(train, r.y, test_train, test)
    wide = gp_posterior(*(a.astype(float) for a in (train, r.y, test_train, test)))  # type: ignore[arg-type]
    assert posterior.mean.dtype == np.float64
    np.testing.assert_array_equal(posterior.mean, wide.mean)
    np.testing.assert_array_equal(posterior.covariance, wide.covariance)


def test_arguments_are_left_as_they_were() -> None:
    r = make_regression(3, 6, 2, 2)
    arguments = [a.copy() for a in (r.train, r.y, r.test_train, r.test)]
    gp_posterior(*arguments, ridge=0.1)
    for before, after in zip((r.train, r.y, r.test_train, r.test), arguments, strict=True):
        np.testing.assert_array_equal(before, after)


def test_equal_samples_need_a_ridge() -> None:
    kernel = np.ones((3, 3))
    with pytest.raises(NotPositiveDefinite, match=r"k_train plus a ridge of 0 .* pivot .* at row 1"):
        gp_posterior(kernel, [1, 2, 3], kernel)
    mean = gp_posterior(kernel, [1, 2, 3], kernel, ridge=1e-10).mean
    np.testing.assert_allclose(mean, 2.0, rtol=1e-5)


def test_a_test_kernel_of_another_size_is_refused() -> None:
    r = make_regression(4, 5, 3, 1)
    with pytest.raises(ConfigError, match=r"k_test must be \(3, 3\), as there are 3 test samples, got \(5, 5\)"):
        gp_posterior(r.train, r.y, r.test_train, r.train)
