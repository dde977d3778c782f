"""Scikit-learn's own checks of an estimator, all of them."""

from collections.abc import Callable
from typing import Any

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from cntk_pipeline.estimators import KernelClassifier, KernelRegressor
from cntk_pipeline.layers import presets

NETWORK = presets.fully_connected(3, b_std=0.1)


@parametrize_with_checks([KernelClassifier(NETWORK), KernelRegressor(NETWORK)])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_scikit_learn_finds_no_fault(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)
