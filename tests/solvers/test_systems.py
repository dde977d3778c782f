"""What names a solve, since run directories outlive versions of this package, and what it reads of the kernel."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.problems import TEST, TRAIN, Recorder, whole_matrix
from support.systems import ONE

from cntk_pipeline import tiling
from cntk_pipeline.config import RunConfig
from cntk_pipeline.datasets import one_hot_targets
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.solvers import Method, factor_tiles, open_system, requested_solves, solve_name, with_factor_tile
from cntk_pipeline.solvers.systems import SystemKernel
from cntk_pipeline.tiling import Cut
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.report import make_report

Run = Callable[..., RunDirectory]
Config = Callable[..., RunConfig]

NNGP = {"poolings": ["gap"], "kinds": ["nngp"]}


@pytest.fixture
def run(run_small: Run) -> RunDirectory:
    return run_small(**ONE, solve={"ridges": [0.5], "tile": 16})


def test_a_solve_by_cholesky_is_named_as_it_was_before_there_were_other_solvers(
    run: RunDirectory, small_config: Config
) -> None:
    before = {
        "kernel": run.fingerprint,
        "readout": "depth3-gap-ntk",
        "ridge": 0.5,
        "ridge_mode": "relative",
        "tile": 16,
        "targets": "one-hot minus 1 / classes",
    }
    for solve in ({}, {"solver": "cholesky"}, {"factor_dtype": "float64"}):
        config = small_config(**ONE, solve={"ridges": [0.5], "tile": 16} | solve)
        assert requested_solves(run, config) == [before]
    assert (run.path / "solve" / solve_name(before)).is_dir()
    assert solve_name({"kernel": "k", "ridge": 0.5}) == "163eebb999fed8f5"


def name_with(run: RunDirectory, config: RunConfig) -> str:
    return solve_name(requested_solves(run, config)[0])


def test_what_changes_a_result_changes_its_name_and_nothing_else_does(run: RunDirectory, small_config: Config) -> None:
    def named(**solve: object) -> str:
        return name_with(run, small_config(**ONE, solve={"ridges": [0.5], "tile": 16} | solve))

    different = [
        named(),
        named(factor_dtype="float32"),
        named(factor_dtype="float32", tolerance=1e-8),
        named(solver="cg"),
        named(solver="cg", tolerance=1e-8),
        named(solver="cg", rank=7),
    ]
    assert len(set(different)) == len(different)
    assert named(solver="cg") == named(solver="cg", max_iterations=7, rank=256, tolerance=1e-10)


@pytest.mark.slow
def test_a_system_is_read_back_as_it_was_made(run_small: Run) -> None:
    run = run_small(**ONE, solve={"solver": "cg", "rank": 3, "tolerance": 1e-7, "max_iterations": 77})
    system = open_system(run, make_report(run).solves[0].name)
    assert system.method == Method("cg", {"tolerance": 1e-7, "max_iterations": 77, "rank": 3})


@pytest.mark.slow
def test_a_unit_diagonal_solves_the_normalised_kernel(run_small: Run) -> None:
    plain = run_small(readouts=NNGP)
    stored = whole_matrix(plain, "depth3-gap-nngp", "train")
    inference = {"variance": True, "leave_one_out": True}
    run = run_small(readouts=NNGP, solve={"unit_diagonal": True, "tile": 16}, inference=inference)
    np.testing.assert_array_equal(whole_matrix(run, "depth3-gap-nngp", "train"), stored)
    train, test = stored.astype(float), whole_matrix(run, "depth3-gap-nngp", "test").astype(float)
    own = np.sqrt(np.diagonal(train))
    other = np.sqrt(run.kernel("depth3-gap-nngp", "test_variance").read_region((0, TEST)).astype(float))
    system = train / np.outer(own, own) + 1e-2 * np.eye(TRAIN)
    cross = test / np.outer(other, own)
    targets = one_hot_targets(np.asarray(run.inputs("train_labels")[:]), 3)
    report = make_report(run)
    (solve,) = report.solves
    assert solve.absolute_ridge == pytest.approx(1e-2)  # relative to a mean diagonal of one
    mean = run.solved(solve.name, "mean").read_region((0, TEST), (0, 3))
    np.testing.assert_allclose(mean, cross @ np.linalg.solve(system, targets), rtol=1e-8, atol=1e-12)
    assert solve.relative_residual is not None
    assert solve.relative_residual < 1e-12
    variance = run.inferred(solve.name, "posterior_variance", "variance").read_region((0, TEST))
    np.testing.assert_allclose(variance, 1 - np.einsum("ij,ji->i", cross, np.linalg.solve(system, cross.T)), rtol=1e-8)
    diagonal = run.inferred(solve.name, "leave_one_out", "inverse_diagonal").read_region((0, TRAIN))
    np.testing.assert_allclose(diagonal, np.diagonal(np.linalg.inv(system)), rtol=1e-9)


def test_a_unit_diagonal_is_a_solve_of_its_own_and_the_names_of_others_stay(run_small: Run) -> None:
    run = run_small(readouts=NNGP, solve={"unit_diagonal": False})
    (plain,) = make_report(run).solves
    named_by = {"kernel", "readout", "ridge", "ridge_mode", "tile", "targets"}
    assert set(run.solve_record(plain.name) or {}) == named_by | {
        "absolute_ridge",
        "mean_diagonal",
    }
    (unit,) = make_report(run_small(readouts=NNGP, solve={"unit_diagonal": True})).solves
    assert unit.name != plain.name


def test_a_black_image_keeps_its_row_of_zeros_under_a_unit_diagonal(run_small: Run) -> None:
    run = run_small(readouts=NNGP, data={"standardize": False}, solve={"unit_diagonal": True})
    system = open_system(run, make_report(run).solves[0].name)
    kernel = SystemKernel(run, system)
    values = kernel.train((0, TRAIN), (0, TRAIN))
    assert np.isfinite(values).all()
    assert not values[4].any()
    assert kernel.variance("train", (3, 6)).tolist() == [1, 0, 1]
    np.testing.assert_allclose(np.diagonal(values), np.arange(TRAIN) != 4, rtol=1e-6)
    assert kernel.mean_diagonal() == (TRAIN - 1) / TRAIN


def test_a_rectangle_is_read_across_tiles_and_above_the_diagonal(run_small: Run) -> None:
    run = run_small(readouts=NNGP)
    kernel = SystemKernel(run, open_system(run, make_report(run).solves[0].name))
    whole = whole_matrix(run, "depth3-gap-nngp", "train").astype(float)
    np.testing.assert_array_equal(kernel.train((3, 20), (10, 37)), whole[3:20, 10:37])


@pytest.mark.parametrize(
    ("solve", "slots", "kept", "tile"),
    [
        ({}, 2, (), "auto"),  # 2,048 as without slots
        ({}, 32, (), 1024),
        ({}, 32, (2048,), "auto"),  # of an earlier version
        ({}, 2, (1024,), 1024),
        ({}, 32, (512, 4096), 1024),  # which "auto" never means
        ({"tile": 512}, 32, (), 512),
        ({"solver": "cg"}, 32, (), "auto"),
    ],
)
def test_the_tile_of_a_factor_is_of_the_slots_that_its_run_begins_with(
    solve: dict[str, object], slots: int, kept: tuple[int, ...], tile: object, small_config: Config
) -> None:
    config = small_config(solve=solve).solve
    assert with_factor_tile(config, Cut(60_000, 128), slots, kept) == config.model_copy(update={"tile": tile})


def test_a_run_goes_on_with_the_tile_that_was_chosen_for_it(
    small_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(**ONE, store={"path": str(tmp_path / "before")})
    before = runs.start(config, Recorder(), threading.Event())
    # The small problem as if it were large, on a cluster as if it had many slots.
    for name, value in (("LEAST_SHARED_ROWS", 16), ("SMALLEST_SHARED_TILE", 16), ("PIECES_OF_SLOTS", 0.5)):
        monkeypatch.setattr(tiling, name, value)
    monkeypatch.setattr(runs, "slots_of", lambda _: 32)
    view = Recorder()
    runs.start(config, view, threading.Event())
    assert view.stages == []  # nothing is left to do: its factor is of the tile of then
    assert factor_tiles(before) == {48}
    assert before.workflow().solve.tile == "auto"
    run = runs.start(small_config(**ONE), Recorder(), threading.Event())
    runs.start(small_config(**ONE), view, threading.Event())
    assert view.stages == []
    monkeypatch.undo()
    assert factor_tiles(run) == {16} == {run.workflow().solve.tile}
    view = Recorder()
    assert make_report(runs.resume(run.path, view, threading.Event())).complete
    assert view.stages == []
    (mine, its) = (each.solved(name_with(each, each.workflow()), "coefficients").read(0, 0) for each in (run, before))
    np.testing.assert_allclose(mine, its, rtol=1e-9)
