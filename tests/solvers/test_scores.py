"""The scores of predictions, against scikit-learn, and of targets that are constant."""

from typing import Literal

import numpy as np
import pytest
from sklearn.metrics import r2_score

from cntk_pipeline.rundir.specification import DataSpecification
from cntk_pipeline.solvers.scores import Scores, score

ROWS = 11


def scored(targets: np.ndarray, predictions: np.ndarray, task: Literal["regression"] = "regression") -> Scores:
    names = tuple(f"target {k}" for k in range(targets.shape[1]))
    data = DataSpecification("", ROWS, len(targets), (5,), names, standardize=False, task=task)
    return score(data, targets, predictions)


def test_r2_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    targets = rng.standard_normal((ROWS, 3)) * [1.0, 1e-9, 1e9] + [0.0, 1e-8, 7.0]
    predictions = targets * (1 + 0.3 * rng.standard_normal((ROWS, 3)))
    found = scored(targets, predictions)
    assert found.r2_of_targets == pytest.approx(r2_score(targets, predictions, multioutput="raw_values"), rel=1e-12)
    assert found.r2 == pytest.approx(r2_score(targets, predictions), rel=1e-12)


@pytest.mark.parametrize(("value", "has_exact_mean"), [(0.1, False), (-1 / 3, False), (7.0, True), (0.0, True)])
def test_a_constant_target_has_an_r2_of_0_or_1(value: float, has_exact_mean: bool) -> None:
    """The mean of eleven times 0.1 is not 0.1, so that the squared deviations do not add up to 0."""
    targets = np.full((ROWS, 2), value)
    mean = targets.mean(axis=0)
    assert bool((mean == value).all()) == has_exact_mean
    for met in (targets, np.tile(mean, (ROWS, 1))):
        assert scored(targets, met).r2_of_targets == (1.0, 1.0)
    for missed in (targets + 0.001, targets + 1e-9):
        assert scored(targets, missed).r2_of_targets == (0.0, 0.0)


def test_a_constant_target_beside_another_leaves_the_mean_r2_between_0_and_1() -> None:
    y = np.arange(ROWS, dtype=float)
    targets = np.stack([y, np.full(ROWS, 0.1)], axis=1)
    assert scored(targets, targets).r2 == 1.0
    assert scored(targets, targets + np.array([0.0, 0.001])).r2 == 0.5
