"""A factor stored in float32, and conjugate gradients from there to the residual that was asked for."""

from collections.abc import Callable

import numpy as np
import pytest
from problems import TRAIN
from systems import ONE, begun, plant, plant_matrix, require_dense_solution

from pipeline.errors import NotPositiveDefinite
from pipeline.report import make_report
from pipeline.store import RunDirectory

Run = Callable[..., RunDirectory]

FLOAT32 = {"factor_dtype": "float32", "tile": 16}


@pytest.mark.parametrize("condition", [1e1, 1e6])
def test_a_float32_factor_and_a_few_iterations_reach_the_stated_residual(run_small: Run, condition: float) -> None:
    kernel = plant(run_small(**ONE, solve={"ridges": [1e3]}), np.geomspace(1 / condition, 1, TRAIN))
    run = run_small(**ONE, solve=FLOAT32 | {"ridges": [0.0]})
    solve = make_report(run).solves[0]
    require_dense_solution(run, solve, bound=1e-9 * condition)
    assert 2 <= (solve.iterations or 0) <= 12
    factor = run.solved(solve.name, "factor")
    assert factor.dtype == np.float32
    lower = np.tril(factor.read_region((0, TRAIN), (0, TRAIN), symmetric=True))
    np.testing.assert_allclose(lower @ lower.T.astype(float), kernel, rtol=0, atol=3e-7)
    assert solve.smallest_pivot == pytest.approx(np.diagonal(lower).min())
    assert make_report(run).complete


def test_products_of_a_float32_factor_are_in_float64(run_small: Run) -> None:
    # Integers that float32 holds, whose products it does not; the powers of two on the diagonal divide them exactly.
    run = run_small(**ONE, solve={"ridges": [1e3]})
    lower = np.tril(np.random.default_rng(3).integers(-65535, 65536, (TRAIN, TRAIN)).astype(float), -1)
    lower += 2.0**20 * np.eye(TRAIN)
    plant_matrix(run, lower @ lower.T)
    run = run_small(**ONE, solve=FLOAT32 | {"ridges": [0.0]})
    factor = run.solved(make_report(run).solves[0].name, "factor")
    np.testing.assert_array_equal(np.tril(factor.read_region((0, TRAIN), (0, TRAIN), symmetric=True)), lower)


def test_a_float64_factor_needs_no_iterations(run_small: Run) -> None:
    run = run_small(**ONE, solve={"factor_dtype": "float64", "tile": 16})
    assert make_report(run).solves[0].iterations is None
    assert (begun(run, "product"), begun(run, "step")) == (0, 0)


def test_a_float32_factor_of_an_indefinite_kernel_names_the_row(run_small: Run) -> None:
    plant(run_small(**ONE, solve={"ridges": [1e3]}), np.array([-1e-2, *np.geomspace(1e-1, 1, TRAIN - 1)]))
    with pytest.raises(NotPositiveDefinite, match=r"pivot -.* at training row \d+\. The smallest eigenvalue") as caught:
        run_small(**ONE, solve=FLOAT32 | {"ridges": [0.0]})
    assert caught.value.row >= 0


@pytest.mark.parametrize("solve", [{"solver": "cg", "rank": 64}, {"factor_dtype": "float32"}])
def test_a_pooled_kernel_of_digits_with_a_small_ridge_is_solved(run_small: Run, solve: dict[str, object]) -> None:
    run = run_small(
        data={"source": "digits", "path": None, "train": 250, "test": 11},
        readouts={"depths": [3], "poolings": ["gap"], "kinds": ["ntk"]},
        kernel={"tile": 128},
        solve=solve | {"ridges": [1e-6]},
    )
    found = make_report(run).solves[0]
    assert (found.relative_residual or 1) <= 1e-10
    assert (found.iterations or 0) < 60
