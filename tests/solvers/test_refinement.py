"""A factor stored in float32, and conjugate gradients from there to the residual that was asked for."""

import threading
from collections.abc import Callable

import numpy as np
import pytest
from support.problems import TRAIN, Recorder
from support.processes import begun
from support.systems import ONE, plant, plant_matrix, require_dense_solution, split_everything

from cntk_pipeline.config import RunConfig
from cntk_pipeline.errors import NotPositiveDefinite
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.report import make_report

pytestmark = pytest.mark.slow

Run = Callable[..., RunDirectory]
Config = Callable[..., RunConfig]

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
    assert (len(begun(run, "product")), len(begun(run, "step"))) == (0, 0)


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


def results(run: RunDirectory) -> tuple[np.ndarray, np.ndarray]:
    name = make_report(run).solves[0].name
    factor = run.solved(name, "factor").read_region((0, TRAIN), (0, TRAIN), symmetric=True)
    return factor, run.solved(name, "coefficients").read(0, 0)


SPLIT = {"readouts": ONE["readouts"], "kernel": {"tile": 5}, "solve": {"factor_dtype": "float32", "tile": 5}}


def test_split_tiles_of_a_float32_factor_have_the_same_bits_and_leave_nothing_behind(
    run_small: Run, small_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_small(**SPLIT, store={"path": str(small_config().store.path) + "-whole"})
    split_everything(monkeypatch)
    run = run_small(**SPLIT)
    assert len(begun(whole, "bulk")) == 0
    # Of 8 block rows, a finish covers 2 columns; on 2 slots, 3 tiles of a column are split.
    assert len(begun(run, "bulk")) == sum(min(row - 2, 3) for row in range(3, 8))
    for mine, its in zip(results(run), results(whole), strict=True):
        np.testing.assert_array_equal(mine, its)
    solve = make_report(run).solves[0]
    assert list(run.solve_path(solve.name).glob("factor.zarr/partial/c/*/*")) == []
    assert make_report(run).complete
    assert runs.verify(run.path).bad == ()


def test_a_float32_factor_with_split_tiles_is_repaired_and_its_coefficients_are_solved_for_again(
    run_small: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    split_everything(monkeypatch)
    run = run_small(**SPLIT)
    name, before = make_report(run).solves[0].name, results(run)
    bulks, factors = len(begun(run, "bulk")), len(begun(run, "factor"))
    run.solved(name, "factor").chunk_path(6, 4).unlink()
    run.solved(name, "coefficients").chunk_path(0, 0).unlink()
    view = Recorder()
    resumed = runs.resume(run.path, view, threading.Event())
    assert (len(begun(resumed, "bulk")), len(begun(resumed, "factor"))) == (bulks + 1, factors + 1)
    damaged = {line.split(":")[0] for line in view.lines if "damaged" in line}
    assert damaged == {"factor", "coefficients"}
    for mine, its in zip(results(resumed), before, strict=True):
        np.testing.assert_array_equal(mine, its)
    assert make_report(resumed).complete
