import itertools
import re
import threading
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
from support.problems import Recorder, scale_an_entry, whole_matrix
from support.processes import begun
from support.systems import plant_matrix, split_everything

from cntk_pipeline.config import RunConfig
from cntk_pipeline.datasets import one_hot_targets
from cntk_pipeline.errors import NotPositiveDefinite
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.solvers.cholesky import factor_tile, finish_width, list_factor_jobs
from cntk_pipeline.tasks import Stage, Task
from cntk_pipeline.tiling import Cut
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.report import make_report

pytestmark = pytest.mark.slow

Run = Callable[..., RunDirectory]


def dense_solution(run: RunDirectory, readout: str, ridge: float) -> tuple[np.ndarray, ...]:
    """Solve the same system in memory; returns L, alpha and the predictive mean."""
    kernel = whole_matrix(run, readout, "train").astype(float)
    targets = one_hot_targets(np.asarray(run.inputs("train_labels")[:]), 3)
    lower = np.linalg.cholesky(kernel + ridge * np.eye(len(kernel)))
    alpha = scipy.linalg.cho_solve((lower, True), targets)
    return lower, alpha, whole_matrix(run, readout, "test").astype(float) @ alpha


@pytest.mark.parametrize("tile", ["auto", 16, 32, 48])
def test_the_tiled_solve_equals_the_dense_one(run_small: Run, tile: str | int) -> None:
    run = run_small(solve={"ridges": [1e-2, 1e-1], "tile": tile})
    report = make_report(run)
    assert len(report.solves) == 8
    for solve in report.solves:
        lower, alpha, mean = dense_solution(run, solve.readout, solve.absolute_ridge or 0)
        factor = run.solved(solve.name, "factor")
        stored = np.tril(factor.read_region((0, 37), (0, 37), symmetric=True))
        np.testing.assert_allclose(stored, lower, rtol=1e-10, atol=1e-12 * lower.max())
        np.testing.assert_allclose(run.solved(solve.name, "coefficients").read(0, 0), alpha, rtol=1e-8)
        stored_mean = run.solved(solve.name, "mean").read_region((0, 11), (0, 3))
        np.testing.assert_allclose(stored_mean, mean, rtol=1e-8, atol=1e-12)
        accuracy = np.mean(mean.argmax(1) == run.inputs("test_labels")[:])
        assert solve.accuracy == pytest.approx(accuracy)
        assert solve.relative_residual is not None
        assert solve.relative_residual < 1e-12


def test_a_relative_ridge_is_a_multiple_of_the_mean_diagonal(run_small: Run) -> None:
    run = run_small(solve={"ridges": [0.5], "ridge_mode": "relative"})
    solve = make_report(run).solves[0]
    diagonal = np.diagonal(whole_matrix(run, solve.readout, "train").astype(float))
    assert solve.absolute_ridge == pytest.approx(0.5 * diagonal.mean(), rel=1e-6)


def test_an_absolute_ridge_is_taken_as_it_is(run_small: Run) -> None:
    run = run_small(solve={"ridges": [0.5], "ridge_mode": "absolute"})
    assert {solve.absolute_ridge for solve in make_report(run).solves} == {0.5}


def test_the_residual_is_of_the_stored_kernel(run_small: Run) -> None:
    run = run_small()
    solve = make_report(run).solves[0]
    kernel = whole_matrix(run, solve.readout, "train").astype(float) + (solve.absolute_ridge or 0) * np.eye(37)
    targets = one_hot_targets(np.asarray(run.inputs("train_labels")[:]), 3)
    residual = kernel @ run.solved(solve.name, "coefficients").read(0, 0) - targets
    stored = run.solved(solve.name, "residual").read_region((0, 37), (0, 3))
    np.testing.assert_allclose(stored, residual, atol=1e-12)


def test_a_new_ridge_reuses_the_kernel_and_the_other_solves(run_small: Run) -> None:
    run_small(solve={"ridges": [1e-2]})
    view = Recorder()
    run_small(view, solve={"ridges": [1e-2, 1e-3]})
    kernel, solve = (list(moments) for _, moments in itertools.groupby(view.moments, lambda moment: moment.total))
    assert kernel[-1].entries_now == 0  # no kernel tile was computed again
    assert kernel[0].done == kernel[0].total
    assert solve[0].done == solve[0].total / 2


def test_a_singular_kernel_without_ridge_names_the_row_and_suggests_a_ridge(run_small: Run) -> None:
    # Rows 20 and 30 are the same image, so the pivot of row 30 is 0 up to rounding; row 4 is all black.
    with pytest.raises(NotPositiveDefinite, match=r"pivot .* at training row 4\. The smallest eigenvalue") as caught:
        run_small(solve={"ridges": [0.0]}, data={"standardize": False}, readouts={"poolings": ["flatten"]})
    assert caught.value.row == 4
    assert caught.value.pivot <= 0


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e6])
def test_a_pivot_that_is_rounding_is_refused_though_it_is_positive(run_small: Run, scale: float) -> None:
    only = {"readouts": {"poolings": ["flatten"], "kinds": ["ntk"]}, "kernel": {"dtype": "float64"}}
    run = run_small(solve={"ridges": [1.0]}, **only)
    kernel = np.eye(37)
    kernel[20, 30] = kernel[30, 20] = 1 - 4e-16  # one image twice, and the last digits of its values differ
    plant_matrix(run, scale * kernel)
    assert np.linalg.cholesky(scale * kernel)[30, 30] > 0
    message = r"pivot \S+ at training row 30, where rounding makes 8\.2e\S+\. The smallest eigenvalue"
    with pytest.raises(NotPositiveDefinite, match=message) as caught:
        run_small(solve={"ridges": [0.0]}, **only)
    assert caught.value.row == 30
    suggested = float(re.findall(r"(\S+) absolute", str(caught.value))[0])
    assert make_report(run_small(solve={"ridges": [suggested], "ridge_mode": "absolute"}, **only)).complete


def test_the_suggested_ridge_is_enough_for_a_kernel_that_is_singular(run_small: Run) -> None:
    sections = {"data": {"standardize": False}, "readouts": {"poolings": ["gap"], "kinds": ["nngp"]}}
    with pytest.raises(NotPositiveDefinite) as caught:
        run_small(solve={"ridges": [0.0]}, **sections)
    suggested = float(re.findall(r"(\S+) absolute", str(caught.value))[0])
    run = run_small(solve={"ridges": [suggested], "ridge_mode": "absolute"}, **sections)
    assert make_report(run).complete


@pytest.mark.parametrize("dense_samples", [4096, 0])
def test_the_suggested_ridge_is_enough_and_half_of_it_is_not(
    run_small: Run, monkeypatch: pytest.MonkeyPatch, dense_samples: int
) -> None:
    monkeypatch.setattr("cntk_pipeline.inference.spectrum.DENSE_SAMPLES", dense_samples)  # 0: by Lanczos
    sections = {"readouts": {"poolings": ["gap"], "kinds": ["nngp"]}}
    run = run_small(solve={"ridges": [9.0]}, **sections)
    scale_an_entry(run, "depth3-gap-nngp", 0.3)
    message = r"at training row 19. The smallest eigenvalue of the kernel is -.*: take a ridge of at least \S+ absolute"
    with pytest.raises(NotPositiveDefinite, match=message) as caught:
        run_small(solve={"ridges": [0.0]}, **sections)
    for mode in ("absolute", "relative"):
        suggested = float(re.findall(rf"(\S+) {mode}", str(caught.value))[0])
        run = run_small(solve={"ridges": [suggested], "ridge_mode": mode}, **sections)
        assert make_report(run).complete
        with pytest.raises(NotPositiveDefinite):
            run_small(solve={"ridges": [suggested / 2], "ridge_mode": mode}, **sections)


def test_a_kernel_that_is_zero_says_why(run_small: Run, black: dict) -> None:
    with pytest.raises(NotPositiveDefinite, match="its network trains no layer, or all images are black"):
        run_small(data=black, readouts={"poolings": ["gap"], "kinds": ["ntk"]})


def test_other_systems_are_solved_where_one_is_singular(run_small: Run) -> None:
    sections = {"data": {"standardize": False}, "readouts": {"poolings": ["flatten"], "kinds": ["ntk"]}}
    with pytest.raises(NotPositiveDefinite):
        run_small(solve={"ridges": [0.0, 1e-2]}, **sections)
    run = run_small(solve={"ridges": [1e-2]}, **sections)
    assert make_report(run).solves[0].accuracy is not None


SPLIT = {"readouts": {"poolings": ["flatten"], "kinds": ["ntk"]}, "kernel": {"tile": 5}, "solve": {"tile": 5}}


def factor_values(run: RunDirectory) -> np.ndarray:
    return run.solved(make_report(run).solves[0].name, "factor").read_region((0, 37), (0, 37), symmetric=True)


def begun_tiles(run: RunDirectory, stage: str) -> list[tuple[int, int]]:
    return [(row, col) for _, row, col in begun(run, stage)]


def test_split_tiles_have_the_same_bits_and_leave_nothing_behind(
    run_small: Run, small_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_small(**SPLIT, store={"path": str(small_config().store.path) + "-whole"})
    assert begun_tiles(whole, "bulk") == []
    split_everything(monkeypatch)
    run = run_small(**SPLIT)
    # 8 block rows, of which the finish covers 2 columns; two slots split three tiles of a column.
    near = [(row, col) for row in range(8) for col in range(3, row + 1) if row - col < 3]
    assert sorted(begun_tiles(run, "bulk")) == near
    np.testing.assert_array_equal(factor_values(run), factor_values(whole))
    assert list(run.solve_path(make_report(run).solves[0].name).glob("factor.zarr/partial/c/*/*")) == []
    assert runs.verify(run.path).bad == ()


def test_a_finished_tile_needs_no_bulk_when_a_run_is_resumed(run_small: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    split_everything(monkeypatch)
    run = run_small(**SPLIT)
    solve = make_report(run).solves[0].name
    before, tasks = factor_values(run), (begun_tiles(run, "bulk"), begun_tiles(run, "factor"))
    run.solved(solve, "factor").chunk_path(6, 4).unlink()
    resumed = runs.resume(run.path, Recorder(), threading.Event())
    for stage, known in zip(("bulk", "factor"), tasks, strict=True):
        assert Counter(begun_tiles(resumed, stage)) - Counter(known) == {(6, 4): 1}
    np.testing.assert_array_equal(factor_values(resumed), before)


def test_a_finish_whose_bulk_is_gone_computes_the_tile_whole(run_small: Run) -> None:
    run = run_small(**SPLIT)
    task = Task(Stage("factor", solve=make_report(run).solves[0].name), 7, 6)
    before = factor_values(run)
    factor_tile(str(run.path), task)
    np.testing.assert_array_equal(factor_values(run), before)


@pytest.mark.parametrize(("pieces", "slots"), [(1, 4), (2, 4), (9, 2), (20, 64)])
def test_every_tile_waits_for_all_that_it_reads(pieces: int, slots: int) -> None:
    jobs = {job.task: job for job in list_factor_jobs(Cut(512 * pieces, 512), "0" * 16, 10, 0, slots)}
    width = finish_width(pieces)
    before: dict[Task, set[Task]] = {}
    while len(before) < len(jobs):
        ready = [task for task in jobs if task not in before and all(other in before for other in jobs[task].after)]
        assert ready
        before |= {task: set(jobs[task].after).union(*(before[other] for other in jobs[task].after)) for task in ready}
    for task in jobs:
        stage, solve = task.stage.kind, task.stage.solve
        if stage == "coefficients":
            assert len(before[task]) == len(jobs) - 1
            continue
        columns = range(task.col - width if stage == "bulk" else task.col)
        read = {Task(Stage("factor", solve=solve), row, k) for row in (task.row, task.col) for k in columns}
        assert read <= before[task]
        assert stage == "bulk" or task.row == task.col or Task(task.stage, task.col, task.col) in before[task]
    assert any(task.stage.kind == "bulk" for task in jobs) == (pieces > width + 1 and slots * 8 > pieces)
