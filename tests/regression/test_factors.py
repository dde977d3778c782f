import re

import numpy as np
import pytest
from hypothesis import given
from support.regressions import LAW, Regression, make_regression, regressions

from cntk_pipeline.errors import NotPositiveDefinite
from cntk_pipeline.regression.arguments import TrainKernel, as_train_kernel
from cntk_pipeline.regression.factors import (
    cholesky,
    definite_basis,
    eigenbasis,
    expect_semidefinite,
    inverse_diagonal,
    solve,
)


def indefinite(n: int, dtype: str) -> TrainKernel:
    """A kernel whose smallest eigenvalue is far below what rounding explains."""
    matrix = make_regression(n, n, 1, 1).train
    return as_train_kernel((matrix - 1.5 * np.linalg.eigvalsh(matrix)[0] * np.eye(n)).astype(dtype))


def singular(n: int, dtype: str) -> TrainKernel:
    rng = np.random.default_rng(n)
    features = rng.standard_normal((n, n // 2))
    return as_train_kernel((features @ features.T).astype(dtype))


@LAW
@given(regressions())
def test_the_factor_solves_and_inverts(r: Regression) -> None:
    system = r.train + 0.2 * np.eye(len(r.y))
    lower = cholesky(as_train_kernel(r.train), 0.2)
    np.testing.assert_allclose(lower @ lower.T, system, atol=1e-13)
    np.testing.assert_allclose(system @ solve(lower, r.y), r.y, atol=1e-11)
    np.testing.assert_allclose(inverse_diagonal(lower), np.diagonal(np.linalg.inv(system)), rtol=1e-10)


def test_a_failed_factorisation_names_the_row_and_the_pivot() -> None:
    matrix = np.eye(5)
    matrix[3, 1] = matrix[1, 3] = 2.0  # the pivot of row 3 is 1 - 4
    with pytest.raises(NotPositiveDefinite, match=r"k_train plus a ridge of 0.5 .* pivot -1\.17 at row 3") as caught:
        cholesky(as_train_kernel(matrix), 0.5)
    assert caught.value.row == 3
    assert caught.value.pivot == pytest.approx(1.5 - 4 / 1.5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("make", [indefinite, singular])
@pytest.mark.parametrize("n", [2, 7, 60])
def test_the_suggested_ridge_is_enough_as_it_is_printed(make: type[TrainKernel], n: int, dtype: str) -> None:
    kernel = make(n, dtype)  # type: ignore[call-arg, arg-type]
    smallest = float(np.linalg.eigvalsh(kernel.values)[0])
    short = max(0.0, -0.9 * smallest) if make is indefinite else 0.0  # type: ignore[comparison-overlap]
    for refuse in (cholesky, definite_basis):
        try:
            refuse(kernel, short)
        except NotPositiveDefinite as error:
            found = re.search(r"at least (\S+) absolute, (\S+) relative", str(error))
            assert found
            for ridge in (float(found[1]), float(found[2]) * kernel.mean_diagonal):
                cholesky(kernel, ridge)
                definite_basis(kernel, ridge)
        else:
            assert smallest > 0, "rounding alone made it definite"


@pytest.mark.parametrize("scale", [1.0, 1e-30])
@pytest.mark.parametrize("seed", range(40))
def test_a_repeated_sample_is_refused_whatever_rounding_makes_of_its_pivot(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((60, 80))
    rows = np.concatenate([rows, rows[: 1 + seed % 4]]) * scale ** rng.uniform(size=60 + 1 + seed % 4)[:, None]
    kernel = as_train_kernel(rows @ rows.T)
    with pytest.raises(NotPositiveDefinite, match=r"k_train plus a ridge of 0 is not positive definite: pivot"):
        cholesky(kernel, 0.0)


def test_samples_of_very_unequal_size_are_no_repeated_ones() -> None:
    sizes = np.array([1.0, 1e-12, 1e-5])
    matrix = (0.5 + 0.5 * np.eye(3)) * np.outer(sizes, sizes)
    np.testing.assert_allclose(cholesky(as_train_kernel(matrix), 0.0), np.linalg.cholesky(matrix), rtol=1e-12)


def test_a_kernel_of_zeros_says_why() -> None:
    zeros = as_train_kernel(np.zeros((3, 3)), "ntk.train")
    with pytest.raises(NotPositiveDefinite, match=r"ntk\.train is zero everywhere: its network trains no layer"):
        cholesky(zeros, 0.0)
    with pytest.raises(NotPositiveDefinite, match=r"its smallest eigenvalue is 0\. ntk\.train is zero everywhere"):
        definite_basis(zeros, 0.0)


def test_no_relative_ridge_is_suggested_where_the_trace_is_not_positive() -> None:
    with pytest.raises(NotPositiveDefinite, match=r"at least 1\.1e\+00 absolute$"):
        cholesky(as_train_kernel(-np.eye(2)), 0.0)


def test_eigenvalues_negative_beyond_rounding_are_refused() -> None:
    matrix = np.diag([1.0, -1e-5, 1.0])
    kernel = as_train_kernel(matrix)
    with pytest.raises(
        NotPositiveDefinite, match=r"k_train is no kernel: its smallest eigenvalue is -1e-05.*no less than -5\.0e-15"
    ) as caught:
        expect_semidefinite(kernel, eigenbasis(kernel))
    assert caught.value.pivot == pytest.approx(-1e-5)
    rounded = as_train_kernel(np.diag([1.0, -1e-6, 1.0]).astype(np.float32))
    expect_semidefinite(rounded, eigenbasis(rounded))
