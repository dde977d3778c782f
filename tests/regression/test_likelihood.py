import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, PairwiseKernel
from support.regressions import LAW, make_regression

from cntk_pipeline.errors import ConfigError, NotPositiveDefinite
from cntk_pipeline.regression import Evidence, evidence


def by_scikit_learn(kernel: np.ndarray, y: np.ndarray, ridge: float, scale: float = 1.0) -> float:
    """Evaluate the log marginal likelihood of scikit-learn, whose kernel is a product of feature vectors."""
    values, vectors = np.linalg.eigh(kernel)
    features = vectors * np.sqrt(np.clip(values, 0, None))
    process = GaussianProcessRegressor(
        ConstantKernel(scale, "fixed") * PairwiseKernel(gamma=1.0, gamma_bounds="fixed", metric="linear"),
        alpha=scale * ridge,
        optimizer=None,
    )
    return float(process.fit(features, y).log_marginal_likelihood_value_)


@pytest.mark.parametrize(("ridge", "mode"), [(0.05, "absolute"), (0.05, "relative"), (1e-4, "relative")])
@pytest.mark.parametrize("columns", [1, 3])
def test_the_evidence_is_the_log_marginal_likelihood_of_scikit_learn(ridge: float, mode: str, columns: int) -> None:
    problem = make_regression(3, 20, 2, columns)
    absolute = ridge * (np.trace(problem.train) / 20 if mode == "relative" else 1.0)
    found = evidence(problem.train, problem.y, ridge=ridge, ridge_mode=mode)
    assert found.at() == pytest.approx(by_scikit_learn(problem.train, problem.y, absolute), rel=1e-10)
    scaled = by_scikit_learn(problem.train, problem.y, absolute, found.scale)
    assert found.at(found.scale) == pytest.approx(scaled, rel=1e-10)
    alone = [by_scikit_learn(problem.train, y, absolute, s) for y, s in zip(problem.y.T, found.scales, strict=True)]
    assert found.at(found.scales) == pytest.approx(sum(alone), rel=1e-10)


@LAW
@given(st.integers(0, 10_000), st.floats(0.2, 5.0))
def test_no_other_factor_is_as_likely_and_none_of_the_kernel_matters(seed: int, factor: float) -> None:
    problem = make_regression(seed, 12, 2, 2)
    found = evidence(problem.train, problem.y, ridge=1e-2)
    assert found.at(found.scales) >= found.at(found.scale) >= found.at(found.scale * factor) - 1e-9
    again = evidence(factor * problem.train, problem.y, ridge=1e-2)
    assert again.at(again.scales) == pytest.approx(found.at(found.scales), rel=1e-9)
    np.testing.assert_allclose(again.scales, found.scales / factor, rtol=1e-9)


def test_the_determinant_is_that_of_numpy() -> None:
    problem = make_regression(5, 15, 2, 1)
    found = evidence(problem.train, problem.y, ridge=0.3, ridge_mode="absolute")
    assert found.log_determinant == pytest.approx(np.linalg.slogdet(problem.train + 0.3 * np.eye(15))[1], rel=1e-12)


@pytest.mark.parametrize("rest", [0.0, 2e-16])  # the factorisation stops at the first, and passes the second
def test_a_kernel_that_is_singular_up_to_rounding_is_refused(rest: float) -> None:
    kernel = np.ones((2, 2)) + np.diag([0.0, rest])
    with pytest.raises(NotPositiveDefinite, match=r"(?i)k_train.*(at row 1|at training row 1).*ridge"):
        evidence(kernel, [1.0, 2.0])


def test_a_factor_must_be_positive() -> None:
    silent = Evidence(2, 0.0, np.zeros(1))  # of targets that are zero
    with pytest.raises(ConfigError, match=r"factor of a kernel must be a positive number, got 0\.0"):
        silent.at(silent.scale)
    with pytest.raises(ConfigError, match="scales must hold real numbers, got dtype <U1"):
        silent.at("1")


@pytest.mark.parametrize(("columns", "scales"), [(1, [1.0, 1, 1]), (3, [1.0]), (3, [1.0, 1]), (3, [[1.0, 1, 1]])])
def test_factors_that_are_not_one_for_each_column_are_refused(columns: int, scales: list) -> None:
    found = Evidence(2, 0.0, np.ones(columns))
    with pytest.raises(ConfigError, match=rf"scales must be one number, or {columns}, one for each column .*got an"):
        found.at(scales)
