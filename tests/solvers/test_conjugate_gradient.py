"""Conjugate gradients through the whole system: streamed products, states on disk, resume."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.problems import TRAIN, Recorder, Stopper, flip_bit
from support.processes import begun
from support.systems import ONE, plant, require_dense_solution

from cntk_pipeline.config import RunConfig
from cntk_pipeline.errors import Interrupted, NotConverged, NotPositiveDefinite
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.solvers.states import read_iterations
from cntk_pipeline.storage.local import LocalPath
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.report import make_report

pytestmark = pytest.mark.slow

Run = Callable[..., RunDirectory]
Config = Callable[..., RunConfig]

CG = {"solver": "cg", "tile": 16, "rank": 5, "ridges": [1e-2]}
WELL = {"solver": "cg", "ridges": [1e3]}
"""Three passes, for tests that need the kernel only."""


@pytest.mark.parametrize(("tile", "rank"), [("auto", 30), (16, 5), (32, 0), (16, 256)])
def test_the_streamed_solve_equals_the_dense_one(run_small: Run, tile: str | int, rank: int) -> None:
    run = run_small(**ONE, solve=CG | {"tile": tile, "rank": rank})
    report = make_report(run)
    require_dense_solution(run, report.solves[0])
    assert report.complete
    assert report.solves[0].smallest_pivot is None


def test_systems_side_by_side_are_each_solved(run_small: Run) -> None:
    run = run_small(solve={"solver": "cg", "ridges": [1e-1, 1], "rank": 10}, kernel={"dtype": "float64"})
    report = make_report(run)
    assert len(report.solves) == 8
    for solve in report.solves:
        require_dense_solution(run, solve)
    assert len({solve.iterations for solve in report.solves}) > 1


def test_one_training_image_is_solved(run_small: Run) -> None:
    run = run_small(**ONE, solve=CG, data={"train": 1})
    require_dense_solution(run, make_report(run).solves[0])


@pytest.mark.parametrize("rank", [0, 7])
def test_a_unit_diagonal_is_regressed_on_and_a_black_image_keeps_its_row_of_zeros(run_small: Run, rank: int) -> None:
    sections = {**ONE, "data": {"standardize": False}}
    run = run_small(**sections, solve=CG | {"rank": rank, "unit_diagonal": True})
    solve = make_report(run).solves[0]
    assert solve.absolute_ridge == pytest.approx(1e-2 * (TRAIN - 1) / TRAIN)
    found = run.solved(solve.name, "coefficients").read(0, 0)
    again = run_small(**sections, solve={"ridges": [1e-2], "unit_diagonal": True})
    wanted = again.solved(make_report(again).solves[0].name, "coefficients").read(0, 0)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-7 * np.abs(wanted).max())
    assert (solve.relative_residual or 1) <= 1e-10


def test_slots_that_would_split_a_factor_change_no_bit(
    run_small: Run, small_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = run_small(**ONE, solve=CG, store={"path": str(small_config().store.path) + "-few"})
    monkeypatch.setattr("cntk_pipeline.solvers.cholesky.SMALLEST_SPLIT_TILE", 1)
    monkeypatch.setattr("cntk_pipeline.clusters.serial.SerialExecutor.slots", 4)
    run = run_small(**ONE, solve=CG)
    assert len(begun(run, "bulk")) == len(begun(run, "factor")) == 0
    name = make_report(run).solves[0].name
    np.testing.assert_array_equal(*(each.solved(name, "coefficients").read(0, 0) for each in (run, few)))


def test_an_ill_conditioned_kernel_reaches_the_stated_residual(run_small: Run) -> None:
    plant(run_small(**ONE, solve=WELL), np.geomspace(1e-6, 1, TRAIN))
    run = run_small(**ONE, solve=CG | {"ridges": [0.0], "rank": 20})
    solve = make_report(run).solves[0]
    require_dense_solution(run, solve, bound=1e-2)
    assert (solve.relative_residual or 1) <= 1e-10


def test_the_preconditioner_saves_iterations(run_small: Run) -> None:
    plant(run_small(**ONE, solve=WELL), np.concatenate([np.full(30, 1e-2), np.geomspace(1, 1e4, 7)]))
    counts = {}
    for rank in (0, 14):
        run = run_small(**ONE, solve=WELL | {"ridges": [1e-6], "ridge_mode": "absolute", "rank": rank})
        counts[rank] = make_report(run).solves[0].iterations or 0
    assert counts[14] <= 10
    assert counts[0] > 2 * counts[14]


def test_a_kernel_that_is_not_positive_definite_is_named_with_a_ridge_that_is_enough(run_small: Run) -> None:
    plant(run_small(**ONE, solve=WELL), np.array([-1e-3, *np.geomspace(1e-2, 1, TRAIN - 1)]))
    message = (
        r"ridge 0 \(relative\): the kernel plus ridge is not positive definite: a direction p has .* = -0\.\d+\. "
        r"The smallest eigenvalue of the kernel is -1\.00e-03"
    )
    with pytest.raises(NotPositiveDefinite, match=message) as caught:
        run_small(**ONE, solve=CG | {"ridges": [0.0]})
    assert caught.value.row == -1
    assert -1e-3 <= caught.value.pivot < 0
    suggested = float(str(caught.value).split("at least ")[1].split(" absolute")[0])
    run = run_small(**ONE, solve=CG | {"ridges": [suggested], "ridge_mode": "absolute"})
    assert make_report(run).complete


def test_a_kernel_that_is_zero_says_why(run_small: Run, black: dict) -> None:
    for rank in (0, 5):
        with pytest.raises(NotPositiveDefinite, match="its network trains no layer, or all images are black"):
            run_small(**ONE, data=black, solve=CG | {"rank": rank, "ridges": [0.0]})


def test_too_few_iterations_are_an_error_with_the_way_on_and_more_go_on_from_there(run_small: Run) -> None:
    few = CG | {"rank": 0, "max_iterations": 4}
    message = (
        r"4 iterations reached a relative residual of .* instead of 1\.0e-10\. Raise solve.max_iterations to go on"
    )
    with pytest.raises(NotConverged, match=message + r".* or solve\.rank above 0"):
        run_small(**ONE, solve=few)
    run = run_small(**ONE, solve=few | {"max_iterations": 500})
    solve = make_report(run).solves[0]
    require_dense_solution(run, solve)
    assert len(begun(run, "product")) == 6 * (solve.iterations or 0)


def test_a_recursion_that_converges_with_the_last_iteration_allowed_is_checked(run_small: Run) -> None:
    path = run_small(**ONE, solve=CG).path
    needed = make_report(RunDirectory(path)).solves[0].iterations
    again = run_small(**ONE, solve=CG | {"max_iterations": needed - 1}, store={"path": f"{path}-few"})
    assert make_report(again).complete
    with pytest.raises(NotConverged, match=r"Raise solve\.max_iterations"):
        run_small(**ONE, solve=CG | {"max_iterations": needed - 2}, store={"path": f"{path}-fewer"})


def test_what_a_driver_has_left_of_finished_iterations_is_deleted(
    run_small: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(LocalPath, "remove_tree", lambda _path: None)  # it ends between its record and this
        run = run_small(**ONE, solve=CG)
    left = run.scratch_path(make_report(run).solves[0].name)
    assert left.exists()
    run_small(**ONE, solve=CG | {"ridges": [*CG["ridges"], 10.0]})
    assert not left.exists()


def test_a_tolerance_below_rounding_is_an_error_with_one_to_ask_for(run_small: Run) -> None:
    plant(run_small(**ONE, solve=WELL), np.geomspace(1e-8, 1, TRAIN))
    asked = WELL | {"ridges": [0.0], "rank": TRAIN, "tolerance": 1e-14}
    with pytest.raises(
        NotConverged, match=r"more do not help: float64 rounds off the rest.*solve.tolerance = "
    ) as error:
        run_small(**ONE, solve=asked)
    enough = float(str(error.value).split("solve.tolerance = ")[1].split(";")[0])
    assert enough < 1e-6
    assert make_report(run_small(**ONE, solve=asked | {"tolerance": enough})).complete


def test_a_system_that_does_not_converge_leaves_the_others(run_small: Run) -> None:
    some = CG | {"ridges": [1e-9, 1e3], "max_iterations": 5}
    with pytest.raises(NotConverged, match="ridge 1e-09"):
        run_small(**ONE, solve=some)
    run = run_small(**ONE, solve=some | {"ridges": [1e3]})
    assert make_report(run).solves[0].accuracy is not None


def test_a_solve_stopped_in_the_middle_of_an_iteration_computes_only_the_rest(
    run_small: Run, small_config: Config
) -> None:
    path = str(small_config().store.path)
    undisturbed = run_small(**ONE, solve=CG, store={"path": path + "-undisturbed"})
    view = Stopper(lambda view: sum("iteration 3," in moment.note for moment in view.moments) > 3)
    with pytest.raises(Interrupted):
        runs.start(small_config(**ONE, solve=CG), view, view.stop)
    halfway = make_report(RunDirectory(path))
    assert not halfway.complete
    assert halfway.solves[0].iterations == 2
    assert 0 < (halfway.solves[0].iteration_residual or 0) < 1
    products = len(begun(RunDirectory(path), "product"))
    assert 12 < products < 18, "the stop was not in the middle of the third iteration"
    run = runs.resume(path, Recorder(), threading.Event())
    assert len(begun(run)) == len(begun(undisturbed))
    name = make_report(run).solves[0].name
    np.testing.assert_array_equal(
        run.solved(name, "coefficients").read(0, 0), undisturbed.solved(name, "coefficients").read(0, 0)
    )
    assert make_report(run).complete


def stopped_run(small_config: Config, iteration: int) -> Path:
    view = Stopper(lambda view: sum(f"iteration {iteration + 1}," in moment.note for moment in view.moments) > 3)
    with pytest.raises(Interrupted):
        runs.start(small_config(**ONE, solve=CG), view, view.stop)
    return Path(str(small_config().store.path))


@pytest.mark.parametrize(("damaged", "repeated"), [(1, 1), (2, 5)])
def test_a_damaged_state_costs_one_iteration_and_both_cost_all(
    run_small: Run, small_config: Config, damaged: int, repeated: int
) -> None:
    undisturbed = run_small(**ONE, solve=CG, store={"path": str(small_config().store.path) + "-undisturbed"})
    path = stopped_run(small_config, 5)
    name = make_report(RunDirectory(path)).solves[0].name
    run = RunDirectory(path)
    iterations = read_iterations(run, name)
    assert iterations is not None
    for number in range(iterations.last, iterations.last - damaged, -1):
        chunk = run.scratch(name, "vectors").chunk_path(number, 0, 0, 0)
        flip_bit(chunk)
    before = len(begun(run, "step"))
    run = runs.resume(path, Recorder(), threading.Event())
    total, steps = make_report(undisturbed).solves[0].iterations or 0, len(begun(run, "step"))
    assert steps - before == total - iterations.count + repeated + (damaged == 2)
    np.testing.assert_array_equal(
        run.solved(name, "coefficients").read(0, 0), undisturbed.solved(name, "coefficients").read(0, 0)
    )
    assert make_report(run).complete


def test_damaged_products_and_preconditioners_are_computed_again(run_small: Run, small_config: Config) -> None:
    path = stopped_run(small_config, 3)
    run = RunDirectory(path)
    name = make_report(run).solves[0].name
    products = sorted((run.scratch_path(name) / "products" / "c").rglob("0"))
    for chunk in [run.scratch(name, "basis").chunk_path(1, 0), *(path for path in products if path.is_file())]:
        flip_bit(chunk)
    view = Recorder()
    run = runs.resume(path, view, threading.Event())
    require_dense_solution(run, make_report(run).solves[0])
    assert any(line.startswith("basis:") and "computed again" in line for line in view.lines)


def test_what_iterations_left_is_deleted_at_the_end_and_verify_does_not_miss_it(run_small: Run) -> None:
    run = run_small(**ONE, solve=CG)
    name = make_report(run).solves[0].name
    assert not run.scratch_path(name).exists()
    found = runs.verify(run.path)
    count, quarantined = found.whole, found.bad
    assert quarantined == ()
    assert count < len(begun(run))
    total = len(begun(run))
    assert len(begun(run_small(**ONE, solve=CG))) == total


def test_no_more_than_two_states_and_one_pass_lie_on_disk(run_small: Run, small_config: Config) -> None:
    run = RunDirectory(stopped_run(small_config, 6))
    name = make_report(run).solves[0].name
    kept = {part: len(list((run.scratch_path(name) / part / "c").iterdir())) for part in ("vectors", "products")}
    assert kept == {"vectors": 2, "products": 1}


def test_coefficients_that_are_damaged_later_are_solved_for_again(run_small: Run) -> None:
    run = run_small(**ONE, solve=CG)
    name = make_report(run).solves[0].name
    chunk = run.solved(name, "coefficients").chunk_path(0, 0)
    before = run.solved(name, "coefficients").read(0, 0).copy()
    flip_bit(chunk)
    assert [str(task.stage) for task in runs.verify(run.path).bad] == [f"coefficients:{name}"]
    assert not make_report(run).complete
    again = runs.resume(run.path, Recorder(), threading.Event())
    np.testing.assert_array_equal(again.solved(name, "coefficients").read(0, 0), before)
    assert make_report(again).complete


def test_coefficients_cut_short_are_noticed_by_a_plain_resume(run_small: Run) -> None:
    run = run_small(**ONE, solve=CG)
    name = make_report(run).solves[0].name
    chunk = run.solved(name, "coefficients").chunk_path(0, 0)
    chunk.write_bytes(chunk.read_bytes()[:-1])
    assert make_report(runs.resume(run.path, Recorder(), threading.Event())).complete


def test_progress_never_ends_before_the_solve_and_says_how_far_it_is(run_small: Run) -> None:
    view = Recorder()
    run_small(view, **ONE, solve=CG)
    solving = [moment for moment in view.moments if moment.total != 6 + 3 + 1]
    assert [moment.done == moment.total for moment in solving].index(True) == len(solving) - 1
    residuals = [moment.note.rpartition(" ")[2] for moment in solving if "residual" in moment.note]
    assert float(residuals[-1]) < float(residuals[0])
