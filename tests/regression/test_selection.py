import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.regressions import LAW, Regression, make_regression, regressions

from cntk_pipeline.errors import ConfigError, NotPositiveDefinite
from cntk_pipeline.regression import gp_posterior, learning_curve, leave_one_out, ridge_path

RIDGES = [1e-3, 0.1, 10.0]


@LAW
@given(regressions(least=2), st.sampled_from([0.0, 0.05, 3.0]), st.sampled_from(["relative", "absolute"]))
def test_leaving_one_out_is_refitting_without_it(r: Regression, ridge: float, mode: str) -> None:
    found = leave_one_out(r.train, r.y, ridge=ridge, ridge_mode=mode)  # type: ignore[arg-type]
    absolute = ridge * (np.trace(r.train) / len(r.y) if mode == "relative" else 1)
    for i in range(len(r.y)):
        rest = np.delete(np.arange(len(r.y)), i)
        refitted = gp_posterior(
            r.train[np.ix_(rest, rest)], r.y[rest], r.train[[i]][:, rest], ridge=absolute, ridge_mode="absolute"
        )
        np.testing.assert_allclose(found.predictions[[i]], refitted.mean, atol=1e-10)
    assert found.squared_error == pytest.approx(np.mean((found.predictions - r.y) ** 2))


def test_the_only_sample_is_predicted_to_be_zero() -> None:
    found = leave_one_out([[2.0]], [3.0], ridge=0.1)
    np.testing.assert_allclose(found.predictions, [[0.0]], atol=1e-14)
    assert found.squared_error == pytest.approx(9.0)


def test_accuracy_is_of_the_largest_column() -> None:
    # Two groups of equal samples; the last one is of class 2 among those of class 0.
    group = np.array([0, 1, 0, 1, 0, 0])
    kernel = (group[:, None] == group).astype(float)
    y = np.eye(3)[[0, 1, 0, 1, 0, 2]] - 1 / 3
    assert leave_one_out(kernel, y, ridge=0.1).accuracy == pytest.approx(5 / 6)


def test_accuracy_of_one_column_is_of_its_sign() -> None:
    group = np.array([0, 1, 0, 1, 0])
    kernel = (group[:, None] == group).astype(float)
    assert leave_one_out(kernel, [1, -1, 1, -1, 1], ridge=0.1).accuracy == 1.0
    assert leave_one_out(kernel, [1, -1, 1, -1, -9], ridge=0.1).accuracy == pytest.approx(2 / 5)


@LAW
@given(regressions(least=2), st.sampled_from(["relative", "absolute"]))
def test_a_ridge_path_is_leave_one_out_at_every_ridge(r: Regression, mode: str) -> None:
    path = ridge_path(r.train, r.y, RIDGES, mode)  # type: ignore[arg-type]
    each = [leave_one_out(r.train, r.y, ridge=ridge, ridge_mode=mode) for ridge in RIDGES]  # type: ignore[arg-type]
    np.testing.assert_allclose(path.squared_error, [one.squared_error for one in each], rtol=1e-9)
    np.testing.assert_allclose(path.accuracy, [one.accuracy for one in each])
    np.testing.assert_array_equal(path.ridges, RIDGES)
    scale = np.trace(r.train) / len(r.y) if mode == "relative" else 1
    np.testing.assert_allclose(path.absolute_ridges, np.array(RIDGES) * scale, rtol=1e-12)
    assert path.best == min(zip(path.squared_error, RIDGES, strict=True))[1]
    assert path.accuracy[RIDGES.index(path.most_accurate)] == path.accuracy.max()


def test_the_best_ridge_is_near_the_noise_that_was_added() -> None:
    r, rng = make_regression(0, 300, 1, 1), np.random.default_rng(0)
    clean = np.linalg.cholesky(r.train) @ rng.standard_normal((300, 20))
    path = ridge_path(r.train, clean + 1.0 * rng.standard_normal((300, 20)), [0.01, 0.1, 1.0, 10.0, 100.0], "absolute")
    assert path.best == 1.0


def test_of_equally_accurate_ridges_that_of_the_smaller_error_is_named() -> None:
    kernel = 0.1 * np.eye(3) + 1
    path = ridge_path(kernel, [1, 1, 1], [9, 0, 3], "absolute")
    np.testing.assert_array_equal(path.accuracy, [1, 1, 1])
    assert path.most_accurate == path.best == 0


def test_a_ridge_path_refuses_what_leave_one_out_refuses() -> None:
    kernel, y = np.ones((4, 4)), [1.0, 2.0, 3.0, 4.0]
    with pytest.raises(NotPositiveDefinite, match="k_train plus a ridge of 0 is not positive definite: pivot"):
        leave_one_out(kernel, y, ridge=0.0)
    with pytest.raises(NotPositiveDefinite, match=r"k_train plus a ridge of 0 is not positive .* smallest eigenvalue"):
        ridge_path(kernel, y, [1.0, 0.0])
    with pytest.raises(ConfigError, match="ridges is empty: at least one was expected"):
        ridge_path(kernel, y, [])
    for wrong in ("auto", 0.1, np.array(0.1), [[0.1]]):
        with pytest.raises(ConfigError, match="ridges must be a list of numbers of at least 0, got"):
            ridge_path(kernel, y, wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="a ridge must be a finite number of at least 0, got -1"):
        ridge_path(kernel, y, [1.0, -1.0])


@LAW
@given(regressions(), st.sampled_from([0.0, 0.2]), st.sampled_from(["relative", "absolute"]))
def test_a_learning_curve_is_refitting_at_every_size(r: Regression, ridge: float, mode: str) -> None:
    n = len(r.y)
    curve = learning_curve(
        r.train,
        r.y,
        r.test_train,
        r.y_test,
        range(1, n + 1),
        ridge=ridge,
        ridge_mode=mode,  # type: ignore[arg-type]
    )
    assert curve.absolute_ridge == pytest.approx(ridge * (np.trace(r.train) / n if mode == "relative" else 1))
    assert curve.squared_error is not None
    for k in range(1, n + 1):
        refitted = gp_posterior(
            r.train[:k, :k], r.y[:k], r.test_train[:, :k], ridge=curve.absolute_ridge, ridge_mode="absolute"
        ).mean
        assert curve.squared_error[k - 1] == pytest.approx(np.mean((refitted - r.y_test) ** 2), rel=1e-9)
        if r.y.shape[1] > 1:
            assert curve.accuracy[k - 1] == np.mean(refitted.argmax(1) == r.y_test.argmax(1))
        else:
            assert curve.accuracy[k - 1] == np.mean((refitted > 0) == (r.y_test > 0))


def test_labels_and_targets_give_the_same_accuracy() -> None:
    r = make_regression(5, 30, 25, 3)
    labels = r.y_test.argmax(1)
    sizes = [3, 10, 30]
    by_labels = learning_curve(r.train, r.y, r.test_train, labels, sizes, ridge=0.1)
    by_targets = learning_curve(r.train, r.y, r.test_train, r.y_test, sizes, ridge=0.1)
    np.testing.assert_array_equal(by_labels.accuracy, by_targets.accuracy)
    assert len(set(by_labels.accuracy)) > 1
    assert by_labels.squared_error is None
    np.testing.assert_array_equal(by_labels.sizes, sizes)


def test_integers_are_targets_where_there_is_one_column() -> None:
    curve = learning_curve(np.eye(2), [1, -1], np.eye(2), np.array([1, -1]), [1, 2], ridge=0.0)
    np.testing.assert_array_equal(curve.accuracy, [1.0, 1.0])
    np.testing.assert_array_equal(curve.squared_error, [0.5, 0.0])


@pytest.mark.parametrize("sizes", [[], [0, 1], [2, 2], [3, 1], [1, 5], [1.5], [[1, 2]]])
def test_sizes_rise_and_are_of_the_kernel(sizes: list[int]) -> None:
    with pytest.raises(ConfigError, match="sizes must be rising integers from 1 to 4, as k_train has samples, got"):
        learning_curve(np.eye(4), np.eye(4), np.eye(4), [0, 1, 2, 3], sizes, ridge=0.0)


def test_what_is_neither_labels_nor_targets_is_refused() -> None:
    def curve(truth: object, y: object) -> None:
        learning_curve(np.eye(3), y, np.eye(3), truth, [1, 3], ridge=0.0)  # type: ignore[arg-type]

    for wrong in (3, -1):
        with pytest.raises(ConfigError, match=rf"labels in y_test_or_labels must be from 0 to 2, .*, got {wrong}"):
            curve([0, 1, wrong], np.eye(3))
    with pytest.raises(ConfigError, match=r"targets \(3, 3\) or integer labels \(3,\), got shape \(3,\) of float64"):
        curve([0.0, 1.0, 2.0], np.eye(3))
    with pytest.raises(ConfigError, match=r"targets \(3, 3\) or integer labels \(3,\), got shape \(2,\) of int64"):
        curve([0, 1], np.eye(3))
    with pytest.raises(ConfigError, match=r"targets \(3, 1\) or \(3,\), got shape \(3, 3\)"):
        curve(np.eye(3), [1, 2, 3])
