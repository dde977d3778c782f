from typing import Any

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import sklearn.metrics

from cntk_pipeline.errors import ConfigError, NotFinite
from cntk_pipeline.regression.probabilities import (
    Probabilities,
    calibration_error,
    confidence_bins,
    fit_probabilities,
)


def drawn(scale: float, count: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Draw means, and labels by the softmax of ``scale`` times them."""
    rng = np.random.default_rng(1)
    means = rng.standard_normal((count, 3))
    chances = scipy.special.softmax(scale * means, axis=1)
    return means, (rng.random((count, 1)) > chances.cumsum(1)).sum(1)


@pytest.mark.parametrize("scale", [0.1, 1.0, 20.0])
def test_the_scale_that_labels_were_drawn_with_is_found(scale: float) -> None:
    means, labels = drawn(scale)
    probabilities = fit_probabilities(means, labels)
    assert probabilities.scale == pytest.approx(scale, rel=0.1)
    assert calibration_error(probabilities.of(means), labels) < 0.01
    assert calibration_error(scipy.special.softmax(5 * scale * means, axis=1), labels) > 0.02


def test_probabilities_add_up_to_one_and_keep_the_order() -> None:
    means, labels = drawn(2.0, 200)
    chances = fit_probabilities(means, labels).of(means)
    np.testing.assert_allclose(chances.sum(1), 1.0, rtol=1e-14)
    np.testing.assert_array_equal(chances.argsort(1), means.argsort(1))


def test_samples_that_are_all_right_are_not_certain() -> None:
    means = np.array([[1.0, 0.0], [0.0, 1.0]] * 10)
    chances = fit_probabilities(means, [0, 1] * 10).of(means)
    assert chances.max() == pytest.approx(1 - 1 / 44, abs=1e-4)  # the share of 20 labels that stays with them


ROUNDED = np.random.default_rng(0).standard_normal((40, 3))


@pytest.mark.parametrize(
    "means",
    [np.zeros((40, 3)), np.full((40, 3), 0.1), 1e-17 * ROUNDED, 1e-14 * ROUNDED, 0.1 + 1e-16 * ROUNDED, 1e-9 * ROUNDED],
)
@pytest.mark.parametrize("labels", [np.arange(40) % 3, ROUNDED.argmax(1)])
def test_means_that_are_equal_up_to_rounding_leave_all_probabilities_equal(
    means: np.ndarray, labels: np.ndarray
) -> None:
    probabilities = fit_probabilities(means, labels)
    assert probabilities.scale == pytest.approx(1e-4, rel=1e-2)
    np.testing.assert_allclose(probabilities.of([[1.0, 0.0, 0.0]]), 1 / 3, atol=1e-4)


@pytest.mark.parametrize("seed", range(6))
def test_noise_of_float32_leaves_all_probabilities_equal(seed: int) -> None:
    """Of many samples it has a best scale between the ends, with a gain of half a nat."""
    rng = np.random.default_rng(seed)
    means = 0.1 + 1e-7 * rng.standard_normal((4000, 10))
    assert fit_probabilities(means, rng.integers(10, size=4000)).scale == pytest.approx(1e-4, rel=0.1)


def test_a_single_left_out_sample_says_nothing() -> None:
    assert fit_probabilities([[0.0, 0.0]], [0]).scale == pytest.approx(1e-4, rel=1e-4)


def test_small_means_that_are_right_have_a_large_scale() -> None:
    means = 1e-6 * np.eye(2)[np.arange(40) % 2]
    assert fit_probabilities(means, np.arange(40) % 2).scale == pytest.approx(1e6, rel=1e-4)


def test_means_that_are_against_the_labels_have_the_smallest_scale() -> None:
    means = np.eye(2)[np.arange(40) % 2]
    assert fit_probabilities(means, (np.arange(40) + 1) % 2).scale == pytest.approx(1e-4, rel=1e-4)


def test_the_calibration_error_is_that_of_its_definition() -> None:
    chances = np.array([[0.95, 0.05], [0.94, 0.06], [0.38, 0.62], [0.45, 0.55]])
    # The first two share a bin, one is right; the others have a bin each, one right and one wrong.
    by_hand = (2 * abs(0.945 - 0.5) + abs(0.62 - 1) + abs(0.55 - 0)) / 4
    assert calibration_error(chances, [0, 1, 1, 0]) == pytest.approx(by_hand)


CHANCES = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])


@pytest.mark.parametrize("classes", [["a", "b"], [1, 2], [2, 1], [-0.5, 3.5], [False, True], ["1", "10"]])
def test_the_calibration_error_knows_classes_by_their_names(classes: list) -> None:
    labels = [classes[0], classes[1], classes[0]]  # all are right
    assert calibration_error(CHANCES, labels, classes=classes) == pytest.approx((0.1 + 0.2 + 0.4) / 3)
    counted = [found.tolist() for found in confidence_bins(CHANCES, labels, 2, classes=np.array(classes))]
    assert counted == [[0, 3], [0.0, pytest.approx(2.3)], [0.0, 3.0]]


@pytest.mark.parametrize(
    ("chances", "labels", "options", "error", "message"),
    [
        (CHANCES, ["a", "b", "a"], {}, ConfigError, r"labels must be 3 whole numbers .*got <U1 .*np\.searchsorted\("),
        (CHANCES, [1, 2, 1], {}, ConfigError, r"labels must be 3 whole numbers from 0 to 1, .*from 1 to 2\. Of other"),
        (CHANCES, [0], {}, ConfigError, r"labels must be 3 whole numbers .*of shape \(1,\)"),
        (CHANCES, np.eye(2)[[0, 1, 0]], {}, ConfigError, r"labels must be 3 whole numbers .*of shape \(3, 2\)"),
        (CHANCES, [0, 1, 0], {"bins": 0}, ConfigError, "bins must be a whole number of at least 1, got 0"),
        (CHANCES, [0, 1, 0], {"bins": True}, ConfigError, "bins must be a whole number of at least 1, got True"),
        (CHANCES * np.nan, [0, 1, 0], {}, NotFinite, r"probabilities\[0, 0\] is nan"),
        (CHANCES * 2, [0, 1, 0], {}, ConfigError, r"from 0 to 1, got 0\.2 to 1\.8: those of `predict_proba`"),
        (CHANCES[0], [0, 1], {}, ConfigError, r"probabilities must be \(n, c\), .*got \(2,\)"),
        (CHANCES, ["a", "c", "a"], {"classes": ["a", "b"]}, ConfigError, r"labels\[1\] is .*'c'.*none of the classes"),
        (CHANCES, ["a", "b"], {"classes": ["a", "b"]}, ConfigError, r"labels must be 3 of the classes, \(3,\), got"),
        (CHANCES, ["a"] * 3, {"classes": ["a", "a"]}, ConfigError, r"classes must be 2 different values.* with 1 diff"),
        (CHANCES, ["a"] * 3, {"classes": ["a", "b", "c"]}, ConfigError, r"classes must be 2 different values"),
    ],
)
def test_a_calibration_error_of_labels_that_are_no_columns_is_refused(
    chances: np.ndarray, labels: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        calibration_error(chances, labels, **options)


@pytest.mark.parametrize(
    ("means", "labels", "error", "message"),
    [
        (np.ones((2, 1)), [0, 0], ConfigError, r"a column for each of at least two classes, got \(2, 1\)"),
        (np.ones((2, 2)), [0, 2], ConfigError, r"labels must be 2 whole numbers from 0 to 1"),
        (np.ones((2, 2)), [0.0, 1.0], ConfigError, r"got float64 of shape \(2,\)"),
        (np.full((2, 2), np.nan), [0, 1], NotFinite, r"means\[0, 0\] is nan"),
    ],
)
def test_wrong_means_and_labels_are_named(means: np.ndarray, labels: list, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        fit_probabilities(means, labels)


def test_the_scale_is_the_one_of_a_descent_over_all_scales() -> None:
    means, labels = drawn(3.0, 500)
    smoothed = np.full(means.shape, 1 / (3 * 502))
    smoothed[np.arange(500), labels] += 501 / 502
    found = scipy.optimize.minimize(
        lambda scale: -np.sum(smoothed * scipy.special.log_softmax(scale * means, axis=1)), x0=[1.0], tol=1e-10
    )
    assert fit_probabilities(means, labels).scale == pytest.approx(found.x.item(), rel=1e-5)


def test_the_scores_of_probabilities_are_those_of_scikit_learn() -> None:
    means, labels = drawn(2.0, 300)
    probabilities = Probabilities(2.0)
    scores, chances = probabilities.scores(means, labels), probabilities.of(means)
    assert scores.negative_log_likelihood == pytest.approx(sklearn.metrics.log_loss(labels, chances), rel=1e-12)
    by_class = [sklearn.metrics.brier_score_loss(labels == k, chances[:, k]) for k in range(3)]
    assert scores.brier_score == pytest.approx(sum(by_class), rel=1e-12)
    assert scores.calibration_error == calibration_error(chances, labels)


def test_a_probability_that_rounds_to_zero_has_a_finite_logarithm() -> None:
    scores = Probabilities(1e6).scores([[1.0, 0.0]], [1])
    assert (scores.negative_log_likelihood, scores.brier_score) == (1e6, 2.0)
