from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
from support.problems import whole_matrix

from cntk_pipeline.inference.spectrum import SpectrumRecord, eigenvalues, lanczos, multiply, remedy, rounding_of
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.solvers.work import open_work
from cntk_pipeline.tasks import Stage, Task
from cntk_pipeline.workflow.report import make_report

Run = Callable[..., RunDirectory]


def test_lanczos_finds_all_eigenvalues_of_a_small_matrix() -> None:
    matrix = np.random.default_rng(1).standard_normal((12, 12))
    matrix = matrix + matrix.T
    values, residuals = lanczos(lambda vector: matrix @ vector, 12, 96)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(matrix), atol=1e-12)
    assert residuals.max() < 1e-10


def whole_eigenvalues(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a matrix of whole numbers below 2^53, ``H diag(d) H^T``, and its eigenvalues ``n d``, which are exact."""
    hadamard = scipy.linalg.hadamard(n).astype(float)
    numbers = np.random.default_rng(0).integers(0, 2**20, n).astype(float)
    numbers[0] = 0
    return (hadamard * numbers) @ hadamard.T, np.sort(n * numbers)


@pytest.mark.parametrize("way", ["dense", "lanczos"])
def test_eigenvalues_are_as_near_as_their_bounds_say(way: str) -> None:
    matrix, exact = whole_eigenvalues(512)
    if way == "dense":
        values, bounds = eigenvalues(matrix)
    else:
        values, bounds = lanczos(lambda vector: matrix @ vector, 512, 512)
    errors = np.abs(values - exact)
    assert errors.max() > 2 * np.finfo(float).eps * exact[-1]  # a unit of the largest would be too small a bound
    assert (errors <= bounds).all()
    assert bounds.max() < 1e-12 * exact[-1]


def test_lanczos_begins_anew_where_its_space_is_exhausted() -> None:
    values, residuals = lanczos(lambda vector: 3 * vector, 50, 96)
    np.testing.assert_allclose(values, np.full(50, 3.0))
    assert residuals.max() < 1e-12
    values, residuals = lanczos(lambda vector: 0 * vector, 500, 20)
    assert values.tolist() == residuals.tolist() == [0.0] * 20


@pytest.mark.parametrize("rank", [1, 4, 8, 30])
@pytest.mark.parametrize("rest", [0.0, 0.25])
def test_lanczos_finds_both_ends_of_a_kernel_of_low_rank(rank: int, rest: float) -> None:
    """The first vector reaches as many eigenvalues as there are different ones, fewer than both ends together."""
    n, ends = 5000, 10
    numbers = np.full(n, rest)
    numbers[:rank] += 4.0 * n / rank * np.linspace(0.5, 1.5, rank) if rank > 1 else 4.0 * n
    basis = np.linalg.qr(np.random.default_rng(2).standard_normal((n, rank)))[0]
    values, residuals = lanczos(
        lambda vector: basis @ ((numbers[:rank] - rest) * (basis.T @ vector)) + rest * vector, n, 96
    )
    true = np.sort(numbers)
    np.testing.assert_allclose(values[-ends:], true[-ends:], atol=1e-9)
    np.testing.assert_allclose(values[:ends], true[:ends], atol=1e-9)
    bound = 1e-9 + rounding_of(true, n)
    assert residuals[-ends:].max() < bound
    assert residuals[:ends].max() < bound


def test_an_eigenvalue_lies_within_its_residual_also_before_lanczos_has_converged() -> None:
    exact = np.linspace(-1, 9, 300)
    values, residuals = lanczos(lambda vector: exact * vector, 300, 20)
    assert len(values) == 20
    assert residuals.max() > 1e-2
    assert (np.abs(values[:, None] - exact).min(1) <= residuals + 1e-12).all()


@pytest.mark.parametrize("unit_diagonal", [False, True])
def test_a_pass_over_the_tiles_is_a_product_with_the_kernel(run_small: Run, unit_diagonal: bool) -> None:
    run = run_small(solve={"unit_diagonal": unit_diagonal})
    solve = make_report(run).solves[0]
    work = open_work(str(run.path), Task(Stage("spectrum", "1", solve=solve.name), 0, 0))
    vector = np.random.default_rng(0).standard_normal(37)
    kernel = whole_matrix(run, solve.readout, "train").astype(float)
    if unit_diagonal:
        kernel /= np.sqrt(np.outer(np.diagonal(kernel), np.diagonal(kernel)))
    np.testing.assert_allclose(multiply(work, vector), kernel @ vector, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("smallest", [-3.14e-5, -9.99e-3, 0.0])
def test_a_remedy_is_rounded_up(smallest: float) -> None:
    text = remedy(SpectrumRecord((1.0,), (0.0,), (smallest,), (1e-9,), None), 2.0, 100)
    absolute, relative = (float(text.split(f" {mode}")[0].split()[-1]) for mode in ("absolute", "relative"))
    assert absolute >= 1e-9 - smallest
    assert 2 * relative >= 1e-9 - smallest
    assert absolute < 1.2 * (1.1e-9 - smallest)
