import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.linalg import LinearOperator
from support.regressions import LAW, Regression, make_regression, regressions

from cntk_pipeline.errors import ConfigError, NotPositiveDefinite
from cntk_pipeline.regression import gp_posterior, gradient_flow, maximal_learning_rate
from cntk_pipeline.regression.dynamics import learned_inverse


def integrated(train: np.ndarray, test_train: np.ndarray, y: np.ndarray, time: float) -> np.ndarray:
    """Solve df/dt = -[K; K*] (f - y) / (n c), f(0) = 0, as one linear system; K may be singular."""
    joint = np.concatenate([train, test_train]) / y.size
    total, n, c = len(joint), len(train), y.shape[1]
    system = np.zeros((total + c, total + c))
    system[:total, :n] = -joint
    system[:total, total:] = joint @ y
    return scipy.linalg.expm(time * system)[:total, total:]


@LAW
@given(regressions(), st.floats(0, 30), st.sampled_from([1.0, 0.25]))
def test_the_flow_is_the_integral_of_its_equation(r: Regression, t: float, rate: float) -> None:
    flow = gradient_flow(r.train, r.y, r.test_train, t, learning_rate=rate)
    expected = integrated(r.train, r.test_train, r.y, t * rate)
    np.testing.assert_allclose(flow.train_mean, expected[: len(r.y)], atol=1e-10)
    np.testing.assert_allclose(flow.mean, expected[len(r.y) :], atol=1e-10)
    assert flow.covariance is None


def test_small_steps_of_gradient_descent_follow_the_flow() -> None:
    r = make_regression(1, 6, 3, 2)
    train, test = np.zeros_like(r.y), np.zeros_like(r.y_test)
    for _ in range(20_000):
        gradient = (train - r.y) / r.y.size  # of half the mean square, by the outputs
        test -= 1e-3 * r.test_train @ gradient
        train -= 1e-3 * r.train @ gradient
    flow = gradient_flow(r.train, r.y, r.test_train, 20_000, learning_rate=1e-3)
    np.testing.assert_allclose(flow.train_mean, train, atol=1e-3)
    np.testing.assert_allclose(flow.mean, test, atol=1e-3)


@pytest.mark.filterwarnings("error")
@LAW
@given(regressions())
@pytest.mark.parametrize("t", [None, np.inf, 1e9, 1e300, 1.7e308])
def test_at_the_end_it_is_regression_without_a_ridge(t: float | None, r: Regression) -> None:
    flow = gradient_flow(r.train, r.y, r.test_train, t)
    np.testing.assert_allclose(flow.mean, gp_posterior(r.train, r.y, r.test_train).mean, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(flow.train_mean, r.y, rtol=1e-10, atol=1e-10)


@LAW
@given(regressions())
def test_at_time_zero_nothing_is_learned(r: Regression) -> None:
    flow = gradient_flow(r.train, r.y, r.test_train, 0)
    np.testing.assert_array_equal(flow.mean, np.zeros_like(r.y_test))
    np.testing.assert_array_equal(flow.train_mean, np.zeros_like(r.y))


@pytest.mark.slow
@LAW
@given(regressions(), st.floats(1e-3, 1e3), st.floats(1.0, 10.0))
def test_the_training_error_falls(r: Regression, t: float, factor: float) -> None:
    first, second = (gradient_flow(r.train, r.y, r.train, time) for time in (t, factor * t))
    assert np.linalg.norm(second.train_mean - r.y) <= np.linalg.norm(first.train_mean - r.y) + 1e-12
    np.testing.assert_allclose(first.mean, first.train_mean, atol=1e-10)  # the training samples as test samples


def test_a_large_rate_and_a_large_time_overflow_into_the_end() -> None:
    flow = gradient_flow(np.eye(2), [1.0, 2.0], np.eye(2), 1e300, learning_rate=1e300)
    np.testing.assert_array_equal(flow.mean, [[1.0], [2.0]])


def test_a_singular_kernel_flows_while_time_is_finite() -> None:
    # Samples 0 and 1 are equal with different targets: they approach the mean of both.
    kernel = np.array([[1.0, 1.0, 0.2], [1.0, 1.0, 0.2], [0.2, 0.2, 1.0]])
    y = np.array([[1.0], [3.0], [-1.0]])
    for t in (1.0, 30.0, 1e4):
        flow = gradient_flow(kernel, y, kernel[:1], t)
        np.testing.assert_allclose(flow.train_mean, integrated(kernel, kernel[:1], y, t)[:3], atol=1e-10)
        np.testing.assert_allclose(flow.mean, flow.train_mean[:1], atol=1e-10)
    np.testing.assert_allclose(flow.train_mean, [[2], [2], [-1]], atol=1e-10)


def test_a_singular_kernel_has_no_end() -> None:
    kernel = np.ones((2, 2))
    for t in (None, np.inf):
        with pytest.raises(NotPositiveDefinite, match=r"k_train plus a ridge of 0 is not positive definite"):
            gradient_flow(kernel, [1, 2], kernel, t)
    with pytest.raises(NotPositiveDefinite, match=r"k_train is singular to rounding.*take a t below 3e-06 times"):
        gradient_flow(kernel, [1, 2], kernel, 5e19)
    assert gradient_flow(kernel, [1, 2], kernel, 3e-6 * 5e19).mean == pytest.approx(1.5, rel=1e-2)


def test_what_is_to_be_added_for_a_long_flow_is_enough() -> None:
    kernel = np.ones((2, 2))
    with pytest.raises(NotPositiveDefinite, match=r"or add at least .* to the diagonal") as caught:
        gradient_flow(kernel, [1, 2], kernel, 1e25)
    ridge = float(str(caught.value).split("add at least ")[1].split()[0])
    gradient_flow(kernel + ridge * np.eye(2), [1, 2], kernel, 1e25)


def test_rounding_of_float32_below_zero_is_taken_for_zero() -> None:
    rng = np.random.default_rng(5)
    features = rng.standard_normal((30, 4))
    rounded = (features @ features.T).astype(np.float32)
    assert np.linalg.eigvalsh(rounded.astype(float))[0] < -1e-8
    y = features[:, :1]
    flow = gradient_flow(rounded, y, rounded, 1e3)
    assert np.abs(flow.train_mean).max() < 2 * np.abs(y).max()
    with pytest.raises(NotPositiveDefinite, match=r"If it was computed in float32, pass it in float32"):
        gradient_flow(rounded.astype(float), y, rounded, 1e3)


def test_a_direction_below_zero_by_rounding_is_neither_learned_nor_blown_up() -> None:
    kernel = np.diag([1.0, -1e-6]).astype(np.float32)
    flow = gradient_flow(kernel, [1.0, 1.0], kernel, 1e6)  # lambda t / n is -0.5
    np.testing.assert_allclose(flow.train_mean, [[1.0], [0.0]], atol=1e-12)
    with pytest.raises(NotPositiveDefinite, match="k_train is singular to rounding, its smallest eigenvalue is -1e-06"):
        gradient_flow(kernel, [1.0, 1.0], kernel, 1e7)


@pytest.mark.parametrize("t", [-1e-3, np.nan, -np.inf, "1", [1.0], 1j, True])
def test_a_time_is_at_least_zero(t: float) -> None:
    with pytest.raises(ConfigError, match=r"t must be a time of at least 0, or None for the end of training, got"):
        gradient_flow(np.eye(2), [1, 2], np.eye(2), t)


@pytest.mark.parametrize("rate", [0.0, -1.0, np.inf, np.nan, "1", None, True])
def test_a_learning_rate_is_positive_and_finite(rate: float) -> None:
    with pytest.raises(ConfigError, match="learning_rate must be a finite number above 0, got"):
        gradient_flow(np.eye(2), [1, 2], np.eye(2), 1.0, learning_rate=rate)


@LAW
@given(st.floats(-320, 300), st.floats(0, 300))
def test_what_is_learned_is_accurate_at_every_scale(exponent: float, time_exponent: float) -> None:
    eigenvalue, time = 10.0**exponent, 10.0**time_exponent
    (value,) = learned_inverse(np.array([eigenvalue]), time)
    logarithm = exponent + time_exponent
    if logarithm < -9:
        assert value == pytest.approx(time, rel=1e-9)
    elif logarithm > 2:
        assert value == pytest.approx(1 / eigenvalue, rel=1e-12)
    else:
        assert value == pytest.approx(-np.expm1(-eigenvalue * time) / eigenvalue, rel=1e-9)
    assert learned_inverse(np.zeros(1), time)[0] == time


def final_error(kernel: np.ndarray, y: np.ndarray, rate: float, steps: int) -> float:
    outputs = np.zeros_like(y)
    for _ in range(steps):
        outputs = outputs - rate * kernel @ (outputs - y) / y.size
    return float(np.linalg.norm(outputs - y))


@pytest.mark.parametrize(("n", "c"), [(1, 1), (5, 3), (40, 2)])
def test_gradient_descent_is_stable_below_the_maximal_rate_and_diverges_above(n: int, c: int) -> None:
    r = make_regression(7, n, 1, c)
    rate = maximal_learning_rate(r.train, c)
    start = float(np.linalg.norm(r.y))
    assert final_error(r.train, r.y, 0.99 * rate, 3000) < 0.5 * start
    assert final_error(r.train, r.y, 1.01 * rate, 3000) > 1e6 * start


def test_a_function_that_multiplies_has_a_maximal_rate() -> None:
    kernel = make_regression(7, 40, 1, 1).train
    operator = LinearOperator(kernel.shape, matvec=lambda vector: kernel @ vector)
    assert maximal_learning_rate(operator, 3) == pytest.approx(maximal_learning_rate(kernel, 3), rel=1e-12)


def test_a_maximal_rate_needs_columns_and_a_positive_eigenvalue() -> None:
    for outputs in (0, -1, 1.5, True, np.True_):
        with pytest.raises(ConfigError, match="outputs must be a positive integer, the columns of the targets, got"):
            maximal_learning_rate(np.eye(2), outputs)  # type: ignore[arg-type]
    for kernel in (np.zeros((2, 2)), -np.eye(2)):
        with pytest.raises(NotPositiveDefinite, match=r"largest eigenvalue of k_train is .* trains a layer"):
            maximal_learning_rate(kernel, 1)
