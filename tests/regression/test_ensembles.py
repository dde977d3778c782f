import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st
from support.regressions import LAW, Regression, blocks, make_regression, regressions

from cntk_pipeline.errors import ConfigError, NotFinite, NotPositiveDefinite
from cntk_pipeline.regression import Blocks, Predictive, ensemble, gp_posterior, gradient_flow

TIMES = [0, 0.7, 25.0, 1e12, None]


def trained(r: Regression, t: float | None) -> Predictive:
    n = len(r.y)
    return ensemble(Blocks(*blocks(r.nngp, n)), blocks(r.ntk, n), r.y, t)


@LAW
@given(regressions(), st.floats(0, 50))
def test_the_ensemble_is_that_of_dense_matrices(r: Regression, t: float) -> None:
    n = len(r.y)
    (train, cross, test), (ntk_train, ntk_cross, _) = blocks(r.nngp, n), blocks(r.ntk, n)
    response = ntk_cross @ np.linalg.inv(ntk_train) @ (np.eye(n) - scipy.linalg.expm(-t * ntk_train / r.y.size))
    answer = trained(r, t)
    np.testing.assert_allclose(answer.mean, response @ r.y, atol=1e-10)
    expected = test + response @ train @ response.T - response @ cross.T - cross @ response.T
    np.testing.assert_allclose(answer.covariance, expected, atol=1e-10)


@pytest.mark.parametrize("t", [3.0, None])
def test_random_starts_that_are_trained_have_this_mean_and_covariance(t: float | None) -> None:
    # Draw outputs of networks at their start, train each on its own, and look at the sample.
    r, draws = make_regression(11, 4, 2, 1), 200_000
    starts = np.linalg.cholesky(r.nngp) @ np.random.default_rng(0).standard_normal((6, draws))
    residuals = r.y - starts[:4]
    if t is None:
        ends = starts[4:] + gp_posterior(r.train, residuals, r.test_train).mean
    else:  # the flow divides by the number of columns, of which each network has one
        ends = starts[4:] + gradient_flow(r.train, residuals, r.test_train, t * draws).mean
    answer = trained(r, t)
    np.testing.assert_allclose(ends.mean(1, keepdims=True), answer.mean, atol=5 * draws**-0.5)
    np.testing.assert_allclose(np.cov(ends), answer.covariance, atol=10 * draws**-0.5)


@LAW
@given(regressions())
def test_before_training_it_is_the_prior(r: Regression) -> None:
    answer = trained(r, 0)
    np.testing.assert_array_equal(answer.mean, np.zeros_like(r.y_test))
    np.testing.assert_array_equal(answer.covariance, blocks(r.nngp, len(r.y))[2])


@LAW
@given(regressions())
def test_at_the_end_the_mean_is_regression_with_the_ntk(r: Regression) -> None:
    expected = gp_posterior(r.train, r.y, r.test_train).mean
    for t in (None, np.inf, 1e12):
        np.testing.assert_allclose(trained(r, t).mean, expected, rtol=1e-9, atol=1e-10)


@LAW
@given(regressions())
def test_training_the_last_layer_only_ends_in_the_posterior_of_the_nngp(r: Regression) -> None:
    nngp = Blocks(*blocks(r.nngp, len(r.y)))
    answer, posterior = ensemble(nngp, nngp, r.y, None), gp_posterior(nngp.train, r.y, nngp.test_train, nngp.test)
    np.testing.assert_allclose(answer.mean, posterior.mean, atol=1e-10)
    np.testing.assert_allclose(answer.covariance, posterior.covariance, atol=1e-10)


@LAW
@given(regressions(), st.floats(0, 1e3))
def test_the_mean_is_the_flow_from_zero(r: Regression, t: float) -> None:
    flow = gradient_flow(r.train, r.y, r.test_train, t)
    np.testing.assert_allclose(trained(r, t).mean, flow.mean, atol=1e-11)


@LAW
@given(regressions(), st.sampled_from(TIMES))
def test_the_covariance_is_positive_semidefinite(r: Regression, t: float | None) -> None:
    covariance = trained(r, t).covariance
    assert covariance is not None
    np.testing.assert_array_equal(covariance, covariance.T)
    assert np.linalg.eigvalsh(covariance).min() > -1e-11


@LAW
@given(regressions())
def test_on_the_training_samples_nothing_is_uncertain_at_the_end(r: Regression) -> None:
    (nngp, *_), (ntk, *_) = blocks(r.nngp, len(r.y)), blocks(r.ntk, len(r.y))
    answer = ensemble((nngp, nngp, nngp), (ntk, ntk, None), r.y, None)
    np.testing.assert_allclose(answer.mean, r.y, atol=1e-10)
    np.testing.assert_allclose(answer.covariance, np.zeros_like(nngp), atol=1e-10)


def test_blocks_and_tuples_say_the_same_and_the_test_block_of_the_ntk_is_not_read() -> None:
    r = make_regression(3, 5, 2, 2)
    nngp, ntk = blocks(r.nngp, 5), blocks(r.ntk, 5)
    first = ensemble(nngp, ntk, r.y, 2.0)
    second = ensemble(Blocks(*nngp), Blocks(ntk[0], ntk[1]), r.y, 2.0)
    np.testing.assert_array_equal(first.covariance, second.covariance)


def test_without_the_test_block_of_the_nngp_there_is_no_covariance() -> None:
    r = make_regression(3, 5, 2, 2)
    answer = ensemble(Blocks(*blocks(r.nngp, 5)[:2]), blocks(r.ntk, 5), r.y, 2.0)
    assert answer.covariance is None


def test_a_singular_nngp_needs_no_ridge() -> None:
    r = make_regression(3, 5, 2, 2)
    answer = ensemble((np.ones((5, 5)), np.ones((2, 5)), np.ones((2, 2))), blocks(r.ntk, 5), r.y, None)
    assert np.isfinite(answer.mean).all()


def test_complaints_name_the_block() -> None:
    r = make_regression(3, 5, 2, 2)
    nngp, ntk = blocks(r.nngp, 5), blocks(r.ntk, 5)
    with pytest.raises(ConfigError, match=r"nngp must be Blocks\(train, test_train, test\) or a tuple of these three"):
        ensemble(nngp[:2], ntk, r.y, 1.0)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"same samples: nngp\.test_train is \(2, 5\), ntk\.test_train \(1, 5\)"):
        ensemble(nngp, (ntk[0], ntk[1][:1], None), r.y, 1.0)
    with pytest.raises(ConfigError, match=r"ntk\.test_train must be \(n_test, 5\), as ntk\.train has 5 samples"):
        ensemble(nngp, (ntk[0], ntk[1].T, None), r.y, 1.0)
    with pytest.raises(NotFinite, match=r"nngp\.train\[0, 0\] is nan"):
        ensemble((nngp[0] * np.nan, *nngp[1:]), ntk, r.y, 1.0)
    with pytest.raises(NotPositiveDefinite, match=r"ntk\.train plus a ridge of 0 is not positive definite"):
        ensemble(nngp, (np.ones((5, 5)), ntk[1], None), r.y, None)
    with pytest.raises(NotPositiveDefinite, match=r"ntk\.train is no kernel"):
        ensemble(nngp, (ntk[0] - np.eye(5), ntk[1], None), r.y, 1.0)
    with pytest.raises(ConfigError, match=r"y must be \(5,\) or \(5, c\), as ntk\.train has 5 samples"):
        ensemble(nngp, ntk, r.y[:4], 1.0)
