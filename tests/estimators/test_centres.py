"""Estimators on centres, against the dense subset of regressors and against those with the whole kernel."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_digits

from cntk_pipeline import kernel_matrix
from cntk_pipeline.datasets import one_hot_targets
from cntk_pipeline.errors import NotPositiveDefinite
from cntk_pipeline.estimators import KernelClassifier, KernelRegressor
from cntk_pipeline.layers import Dense, Dropout, Relu, Sequential, presets
from cntk_pipeline.regression import choose_centres
from cntk_pipeline.regression.centres import fit_centres

NETWORK = presets.fully_connected(3, b_std=0.1)
DIGITS, LABELS = load_digits(return_X_y=True)
X, Y = load_diabetes(return_X_y=True)
X, Y = X * 20, np.column_stack([Y, np.sqrt(Y)]) / 50
COUNT, CENTRES = 60, 15


def low_rank(x: np.ndarray, count: int = COUNT) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The kernel that the centres stand for, of all samples: low-rank; the exact one; the columns."""
    kernel = kernel_matrix(NETWORK, x, dtype="float64")
    columns = kernel[:, :CENTRES]
    return columns @ np.linalg.solve(kernel[:CENTRES, :CENTRES], columns.T), kernel, columns


@pytest.mark.parametrize("ridge", [1e-2, [10.0, 1e-1, 1e-2, 1e-3]])
def test_a_regressor_on_centres_is_a_gaussian_process_of_their_low_rank_kernel(ridge: Any) -> None:
    x, y = X[:80], Y[:80]
    model = KernelRegressor(NETWORK, ridge=ridge, dtype="float64", n_centres=CENTRES).fit(x[:COUNT], y[:COUNT])
    rank, kernel, _ = low_rank(x)
    train, cross = rank[:COUNT, :COUNT], rank[COUNT:, :COUNT]
    absolute = model.ridge_ * np.trace(kernel[:COUNT, :COUNT]) / COUNT
    inner, centred = train + absolute * np.eye(COUNT), y[:COUNT] - y[:COUNT].mean(axis=0)
    mean, std = model.predict(x[COUNT:], return_std=True)
    np.testing.assert_allclose(mean, cross @ np.linalg.solve(inner, centred) + y[:COUNT].mean(axis=0), atol=1e-9)
    factor = np.einsum("ij,ij->j", centred, np.linalg.solve(inner, centred)) / COUNT
    covariance = kernel[COUNT:, COUNT:] - cross @ np.linalg.solve(inner, cross.T)
    np.testing.assert_allclose(std, np.sqrt(np.multiply.outer(np.diagonal(covariance), factor)), rtol=1e-7)
    _, found = model.predict(x[COUNT:], return_cov=True)
    np.testing.assert_allclose(found, np.multiply.outer(covariance, factor), atol=1e-9)
    left_out = np.empty_like(centred)
    for row in range(COUNT):
        rest = np.arange(COUNT) != row
        left_out[row] = train[row, rest] @ np.linalg.solve(inner[np.ix_(rest, rest)], centred[rest])
    np.testing.assert_allclose(model.leave_one_out_, left_out + y[:COUNT].mean(axis=0), atol=1e-9)
    if model.ridge_path_ is not None:
        errors = [KernelRegressor(NETWORK, ridge=r, dtype="float64", n_centres=CENTRES) for r in ridge]
        squares = [np.square(each.fit(x[:COUNT], y[:COUNT]).leave_one_out_ - y[:COUNT]).mean() for each in errors]
        np.testing.assert_allclose(model.ridge_path_.squared_error, squares, rtol=1e-9)
        assert model.ridge_ == ridge[int(np.argmin(squares))]


def test_with_all_samples_as_centres_a_classifier_is_the_one_without() -> None:
    x, y = DIGITS[:90] / 16, LABELS[:90]
    whole, centred = (
        KernelClassifier(NETWORK, ridge=1e-3, dtype="float64", n_centres=count).fit(x[:60], y[:60])
        for count in (None, 60)
    )
    np.testing.assert_allclose(centred.decision_function(x[60:]), whole.decision_function(x[60:]), atol=1e-8)
    np.testing.assert_allclose(centred.leave_one_out_, whole.leave_one_out_, atol=1e-8)
    np.testing.assert_allclose(centred.predict_proba(x[60:]), whole.predict_proba(x[60:]), atol=1e-6)


@pytest.mark.parametrize("choice", ["first", "random"])
def test_a_centre_is_one_sample_with_itself_where_dropout_tells_it_from_an_equal_one(choice: Any) -> None:
    network = Sequential(Dense(), Relu(), Dropout(0.5), Dense())
    x, y = X[:30].repeat(2, axis=0), Y[:60]  # of two equal samples each is one with itself alone
    whole, centred = (
        KernelRegressor(network, ridge=0.1, dtype="float64", n_centres=count, centre_choice=choice).fit(x, y)
        for count in (None, 60)
    )
    np.testing.assert_allclose(centred.leave_one_out_, whole.leave_one_out_, atol=1e-9)
    found, expected = (model.predict(X[25:40], return_std=True) for model in (centred, whole))
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("choice", ["random", "rpcholesky"])
def test_chosen_centres_are_those_of_the_kernel_and_the_regression_is_on_them(choice: str) -> None:
    x, y = X[:80], Y[:80]
    options: dict[str, Any] = {"n_centres": CENTRES, "centre_choice": choice, "centre_seed": 5}
    model = KernelRegressor(NETWORK, ridge=1e-2, dtype="float64", **options).fit(x[:COUNT], y[:COUNT])
    kernel = kernel_matrix(NETWORK, x, dtype="float64")
    train = kernel[:COUNT, :COUNT]
    rows = np.random.RandomState(5).permutation(COUNT)[:CENTRES]
    if choice == "rpcholesky":
        rows = choose_centres(np.diagonal(train), lambda a, b: train[np.ix_(a, b)], CENTRES, seed=5).rows
    np.testing.assert_array_equal(model.X_fit_, x[rows])
    columns, corner = train[:, rows], train[np.ix_(rows, rows)]
    absolute, centred = 1e-2 * np.trace(train) / COUNT, y[:COUNT] - y[:COUNT].mean(axis=0)
    alpha = np.linalg.solve(columns.T @ columns + absolute * corner, columns.T @ centred)
    mean = kernel[COUNT:, rows] @ alpha + y[:COUNT].mean(axis=0)
    np.testing.assert_allclose(model.predict(x[COUNT:]), mean, rtol=0, atol=1e-7)


def test_the_tolerance_ends_the_choice_of_an_estimator() -> None:
    x, y = DIGITS[:60] / 16, LABELS[:60]
    options: dict[str, Any] = {"n_centres": 60, "centre_choice": "rpcholesky", "ridge": 1e-3, "dtype": "float64"}
    few = KernelClassifier(NETWORK, centres_tolerance=0.05, **options).fit(x, y)
    train = kernel_matrix(NETWORK, x, dtype="float64")
    found = choose_centres(np.diagonal(train), lambda a, b: train[np.ix_(a, b)], 60, tolerance=0.05)
    assert found.trace_errors[-1] <= 0.05 < found.trace_errors[-2]
    np.testing.assert_array_equal(few.X_fit_, x[found.rows])


def test_equal_centres_do_no_harm_and_a_kernel_of_zeros_is_named() -> None:
    x, y = DIGITS[:40] / 16, one_hot_targets(LABELS[:40], 10)
    kernel = kernel_matrix(NETWORK, np.concatenate([x[:1], x]), dtype="float64")[:, :CENTRES]
    once, twice = kernel[1:, 1:], kernel
    found = fit_centres(twice, np.ones(41), np.concatenate([y[:1], y]), ridge=1e-3)
    # The first sample counts twice on both sides; as a centre it counts once.
    again = np.concatenate([once, once[:1]])
    expected = fit_centres(again, np.ones(41), np.concatenate([y, y[:1]]), ridge=1e-3)
    np.testing.assert_allclose(twice @ found.coefficients, kernel[:, 1:] @ expected.coefficients, atol=1e-8)
    with pytest.raises(NotPositiveDefinite, match="the kernel of the centres is zero"):
        fit_centres(np.zeros((4, 2)), np.ones(4), np.ones((4, 1)))
    with pytest.raises(NotPositiveDefinite, match=r"leave-one-out on 3 centres is undefined.*larger ridge"):
        fit_centres(np.eye(3), np.ones(3), np.ones((3, 1)), ridge=0.0)


def test_centres_that_do_not_reach_the_targets_have_no_deviation_without_a_ridge() -> None:
    x, y = X[:20], Y[:20]
    model = KernelRegressor(NETWORK, ridge=0.0, dtype="float64", n_centres=3).fit(x, y)
    assert np.isinf(model.signal_variance_).all()
    for asked in ({"return_std": True}, {"return_cov": True}):
        with pytest.raises(ValueError, match=r"no deviations with ridge=0 and 3 centres: .*Give a ridge above 0"):
            model.predict(x, **asked)
    assert np.isfinite(model.predict(x)).all()


def test_the_signal_is_right_where_centres_reach_the_targets_and_the_ridge_is_tiny() -> None:
    x, rng = X[:60] - X[:60].mean(axis=0), np.random.default_rng(0)
    y = x @ rng.standard_normal(10)  # linear, so that 12 centres of a linear network reach it
    options: dict[str, Any] = {"network": Sequential(Dense()), "dtype": "float64"}
    expected = KernelRegressor(ridge=1e-9, **options).fit(x, y).signal_variance_
    for ridge in (1e-12, 1e-14, 1e-16, 0.0):
        model = KernelRegressor(ridge=ridge, n_centres=12, **options).fit(x, y)
        assert model.signal_variance_ == pytest.approx(expected, rel=1e-5)
        assert np.isfinite(model.predict(x[:2], return_std=True)[1]).all()
    hidden = KernelRegressor(ridge=1e-40, n_centres=12, **options).fit(x, y)
    assert np.isnan(hidden.signal_variance_)
    with pytest.raises(ValueError, match=r"no deviations with ridge=1e-40 and 12 centres: rounding hides .*a ridge ab"):
        hidden.predict(x, return_std=True)


def test_ridges_of_any_type_of_number_are_chosen_among_centres() -> None:
    model = KernelRegressor(NETWORK, ridge=[Fraction(1, 3), np.float32(0.1)], n_centres=4).fit(X[:20], Y[:20])
    assert model.ridge_ in (1 / 3, float(np.float32(0.1)))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_centres": 0}, ValueError, "n_centres must be from 1 to the 20 samples of the fit, got 0"),
        ({"n_centres": 21}, ValueError, "from 1 to the 20 samples"),
        ({"n_centres": 2.5}, TypeError, "n_centres must be a whole number or None, got 2.5"),
        (
            {"centre_choice": "best"},
            ValueError,
            "centre_choice must be one of 'first', 'random', 'rpcholesky', got 'best'",
        ),
        ({"centre_choice": np.array(["first", "random"])}, ValueError, "centre_choice must be one of .*, got array"),
        ({"n_centres": 3, "centre_seed": -1}, ValueError, r"centre_seed must be a whole number from 0 to .*, got -1"),
        (
            {"n_centres": 3, "centres_tolerance": 0.1},
            ValueError,
            "belongs to centre_choice='rpcholesky', got .*'first'",
        ),
        (
            {"n_centres": 3, "centre_choice": "rpcholesky", "centres_tolerance": 2},
            ValueError,
            "centres_tolerance must be a number between 0 and 1, or None, got 2",
        ),
        (
            {
                "n_centres": 3,
                "centre_choice": "rpcholesky",
                "network": Sequential(Dense(), Relu(), Dropout(0.9), Dense()),
            },
            ValueError,
            "Dropout tells no sample from an equal one",
        ),
        ({"n_centres": 3, "network": "precomputed"}, ValueError, "n_centres=3 saves kernel values, and with network="),
    ],
)
def test_a_number_of_centres_that_does_not_fit_is_refused(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    model = KernelClassifier(**({"network": NETWORK} | options))
    with pytest.raises(error, match=message):
        model.fit(DIGITS[:20], LABELS[:20])


def test_centres_are_drawn_by_a_network_whose_dropout_drops_nothing() -> None:
    """Seen to fail where each Dropout was refused, whatever its rate."""
    asked: dict[str, Any] = {"n_centres": 4, "centre_choice": "rpcholesky"}
    plain, idle = Sequential(Dense(), Relu(), Dense()), Sequential(Dense(), Relu(), Dropout(0.0), Dense())
    one, other = (KernelClassifier(network, **asked).fit(DIGITS[:20], LABELS[:20]) for network in (plain, idle))
    np.testing.assert_array_equal(one.decision_function(DIGITS[20:30]), other.decision_function(DIGITS[20:30]))


@pytest.mark.parametrize(("samples", "centres"), [(4, 2), (6, 3), (12, 4), (40, 8)])
def test_targets_that_centres_reach_are_never_said_to_be_out_of_their_reach(samples: int, centres: int) -> None:
    for seed in range(30):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((samples, 3))
        kernel = np.exp(-np.square(x[:, None] - x[None]).sum(-1) / 2)
        columns = kernel[:, :centres]
        given: dict[str, Any] = {"diagonal": np.diag(kernel), "y": columns @ rng.standard_normal((centres, 1))}
        expected = fit_centres(columns, **given, ridge=1e-9, ridge_mode="absolute").signal_variance
        for ridge in (0.0, 1e-30):
            found = fit_centres(columns, **given, ridge=ridge, ridge_mode="absolute").signal_variance
            if ridge:  # so small that only rounding is left
                assert np.isnan(found).all()
            else:
                assert found == pytest.approx(expected, rel=0.02)
