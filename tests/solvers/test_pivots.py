"""Runs whose kernel chooses the centres itself: against the choice in memory, the dense solution, and interruptions."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.problems import TEST, TRAIN, Recorder, Stopper, chunks_of, flip_bit, whole_matrix
from support.restarts import forget
from support.systems import ONE

from cntk_pipeline.cli.plan import show_plan
from cntk_pipeline.cli.status import show_stages
from cntk_pipeline.config import RunConfig
from cntk_pipeline.datasets import one_hot_targets
from cntk_pipeline.datasets.unlabelled import Unlabelled
from cntk_pipeline.errors import ConfigError, Interrupted, NotPositiveDefinite, SpecificationMismatch, TilesFailed
from cntk_pipeline.estimators.kept import digests
from cntk_pipeline.estimators.question import KernelQuestion
from cntk_pipeline.estimators.run_memory import RunMemory
from cntk_pipeline.gram import pivots
from cntk_pipeline.layers import LAYERS, spelling
from cntk_pipeline.opened.new_images import like_of
from cntk_pipeline.opened.predict_on_cluster import Question, predict_images
from cntk_pipeline.opened.run import open_run
from cntk_pipeline.regression import choose_centres
from cntk_pipeline.regression.pivots import Block
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.report import make_report

pytestmark = pytest.mark.slow

SOLVE = {"solver": "centres", "centres": 37, "centre_choice": "rpcholesky", "centre_seed": 3, "ridges": [1e-3]}
FEW = SOLVE | {"centres": 21}  # ends within the second tile of 16

Run = Callable[..., RunDirectory]


@pytest.fixture
def chosen(run_small: Run) -> Run:
    def run(view: Recorder | None = None, **sections: Any) -> RunDirectory:
        return run_small(view, **(ONE | {"solve": SOLVE} | sections))

    return run


def kernel_of(run: RunDirectory, part: str = "train") -> np.ndarray:
    return whole_matrix(run, run.specification.readouts[0].name, part).astype(float)


def test_a_run_draws_what_is_drawn_in_memory_and_solves_on_it(
    chosen: Run, run_small: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inference = {"leave_one_out": True, "learning_curve": [5, 21], "posterior_variance": True}
    run = chosen(solve=FEW | {"unit_diagonal": True}, inference=inference)
    whole = run_small(**ONE, store={"path": str(tmp_path / "whole")})
    kernel, opened, report = kernel_of(whole), open_run(run.path), make_report(run)
    found = choose_centres(np.diagonal(kernel), lambda a, b: kernel[np.ix_(a, b)], 21, seed=3, width=16)
    rows = found.rows
    assert opened.centres is not None
    assert opened.centres.rows.tolist() == rows.tolist()
    np.testing.assert_allclose(opened.centres.trace_errors, found.trace_errors, atol=1e-12)
    left = kernel - kernel[:, rows] @ np.linalg.solve(kernel[np.ix_(rows, rows)], kernel[rows])
    assert opened.centres.trace_errors[-1] == pytest.approx(np.trace(left) / np.trace(kernel), rel=0, abs=1e-9)
    last = run.pivoting("residual_diagonal").read_region((1, 2), (0, TRAIN))[0]
    np.testing.assert_allclose(last, np.diagonal(left), atol=1e-12)

    # Only their columns are computed, and these are those of the whole kernel.
    np.testing.assert_allclose(np.asarray(opened.kernel(missing="raise")), kernel[:, rows], rtol=0, atol=1e-14)
    np.testing.assert_allclose(kernel_of(run, "test"), kernel_of(whole, "test")[:, rows], rtol=0, atol=1e-14)
    stages = {stage.stage: (stage.done, stage.total) for stage in report.stages}
    assert stages["train"] == stages["residual_diagonal"] == (6, 6)
    assert stages["pivots"] == stages["train_variance"] == (3, 3)

    # The solution is the dense subset of regressors, of the normalised kernel.
    test_variance = run.kernel(opened.readouts[0], "test_variance").read(0)
    scale, test_scale = 1 / np.sqrt(np.diagonal(kernel)), 1 / np.sqrt(test_variance)
    columns = (kernel * scale[:, None] * scale)[:, rows]
    corner = columns[rows]
    targets = one_hot_targets(np.asarray(run.inputs("train_labels")[:]), 3)
    alpha = np.linalg.solve(columns.T @ columns + 1e-3 * corner, columns.T @ targets)
    np.testing.assert_allclose(opened.coefficients(), alpha, rtol=0, atol=1e-8 * np.abs(alpha).max())
    means = (kernel_of(whole, "test")[:, rows] * test_scale[:, None] * scale[rows]) @ alpha
    np.testing.assert_allclose(opened.predictions(), means, rtol=0, atol=1e-10)
    assert opened.metrics[0].relative_residual < 1e-11
    images = np.asarray(np.load(run.workflow().data.path)["x_test"])  # type: ignore[arg-type]
    np.testing.assert_allclose(opened.decision_function(images, say=None), means, rtol=0, atol=1e-9)
    given = Unlabelled.of(images, "images", like_of(run))
    predicted = predict_images(run, given, Question(std=True), Recorder(), threading.Event())
    np.testing.assert_allclose(predicted.scores, opened.predictions(), rtol=0, atol=1e-12)
    low = columns @ np.linalg.solve(corner, columns.T)
    inner = low + 1e-3 * np.eye(TRAIN)
    away = np.arange(TRAIN) != 7
    left_out = low[7, away] @ np.linalg.solve(inner[np.ix_(away, away)], targets[away])
    np.testing.assert_allclose(opened.leave_one_out()["prediction"][7], left_out, atol=1e-10)

    # The names of everything.
    data = opened.to_xarray()
    assert data["train_kernel"].dims == ("readout", "train", "pivot")
    assert data["coefficients"].dims == ("readout", "ridge", "pivot", "class")
    assert data["pivot"].values.tolist() == rows.tolist()
    assert report.to_json()["centres"]["count"] == 21
    show_stages(report)
    assert f"21 centres, relative trace error {found.trace_errors[-1]:.2e}" in capsys.readouterr().out

    # As a memory of an estimator.
    network = spelling.read(run.specification.readouts[0].network, LAYERS)
    stored = run.inputs("train_images")[:]
    memory = RunMemory(Path(str(run.path)), KernelQuestion(network, dtype="float64"), stored.shape[1:])
    kept = memory.load("ntk", digests(stored, "float64"))
    assert all(kept.is_known[row].all() for row in rows if row not in (20, 30))  # which are the same image
    assert not kept.is_known.all()
    np.testing.assert_allclose(kept.values[kept.is_known], kernel[kept.is_known], atol=1e-14)


def test_the_choice_ends_by_the_tolerance_and_by_the_rank_and_arrays_are_as_small(
    chosen: Run, small_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    whole = chosen()  # two images are the same
    assert sorted({*range(TRAIN)} - {*whole.column_rows.tolist()}) in ([20], [30])  # type: ignore[union-attr]
    report = make_report(whole)
    assert report.complete
    assert report.centres is not None
    assert report.centres.trace_errors[-1] < 1e-12
    assert whole.column_cut.count == 36 == open_run(whole.path).kernel().shape[1]
    errors = report.centres.trace_errors
    tolerance = (errors[1] + errors[2]) / 2
    sections = {"solve": SOLVE | {"centres_tolerance": tolerance}, "inference": {"learning_curve": [5, 37]}}
    store = {"path": str(tmp_path / "ended")}
    ended = chosen(**sections, store=store)
    assert ended.column_rows.tolist() == whole.column_rows[:32].tolist()  # type: ignore[union-attr,index]
    opened = open_run(ended.path)
    assert opened.is_complete
    assert opened.kernel(part="test", missing="raise").shape == (TEST, 32)
    assert opened.coefficients().shape == (32, 3)
    assert RunDirectory(ended.path).kernel(opened.readouts[0], "train").shape == (TRAIN, 32)  # as any zarr reads it
    assert opened.learning_curve().summary.sizes == (5, 32)
    forget()
    view = Recorder()  # nothing is left to do
    runs.start(small_config(**(ONE | sections), store=store), view, threading.Event())
    assert view.stages == []


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["pivots", "residual_diagonal", "train"])
def test_a_run_that_is_stopped_and_damaged_within_the_choice_ends_with_the_same_bits(
    chosen: Run, small_config: Callable[..., RunConfig], tmp_path: Path, moment: str
) -> None:
    truth = chunks_of(Path(str(chosen(store={"path": str(tmp_path / "whole")}).path)))
    forget()

    def has_block(view: Stopper) -> bool:
        done = {stage.stage: stage.done for stage in view.moments[-1].stages}
        return done.get("residual_diagonal", 0) >= 3

    view = Stopper(has_block)
    config = small_config(**ONE, solve=SOLVE)
    with pytest.raises(Interrupted):
        runs.start(config, view, view.stop)
    forget()
    run = RunDirectory(config.store.path or "")
    assert not run.has_all_pivots
    path = {
        "pivots": run.pivoting("pivots").chunk_path(0),
        "residual_diagonal": run.pivoting("residual_diagonal").chunk_path(0, 1),
        "train": run.kernel(run.specification.readouts[0].name, "train").chunk_path(1, 0),
    }[moment]
    flip_bit(path)
    run = runs.start(config, Recorder(), threading.Event())
    assert make_report(run).complete
    assert chunks_of(Path(str(run.path))) == truth


def test_a_draw_that_comes_out_otherwise_than_before_is_refused(
    chosen: Run, small_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = chosen(solve=FEW)
    run.pivoting("pivots").chunk_path(1).unlink()
    forget()
    others = Block(np.zeros(0, np.int64), np.zeros((0, 0)))
    monkeypatch.setattr(pivots, "draw_block", lambda *_: others)
    with pytest.raises((TilesFailed, SpecificationMismatch), match=r"drawn anew here they are others.*another --store"):
        runs.start(small_config(**ONE, solve=FEW), Recorder(), threading.Event())


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"solve": {"centres": 38}}, r"solve\.centres = 38 of 37 training images: give at most 37"),
        ({"solve": {"centres_tolerance": 1.5}}, r"solve\.centres_tolerance: .*less than 1"),
        (
            {"solve": {"centre_choice": "random", "centres_tolerance": 0.1}},
            'centres_tolerance belongs to centre_choice = "rpcholesky"',
        ),
        (
            {
                "network": {
                    "preset": None,
                    "layers": [{"layer": name} for name in ("Flatten", "Dense", "Relu", "Dropout", "Dense")],
                },
                "readouts": {"depths": [], "poolings": [], "kinds": ["ntk"]},
            },
            r"rpcholesky.*there Dropout does not tell an image from an equal one",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    small_config: Callable[..., RunConfig], tmp_path: Path, sections: dict[str, Any], message: str
) -> None:
    config = small_config(**(ONE | sections | {"solve": SOLVE | sections.get("solve", {})}))
    with pytest.raises(ConfigError, match=message):
        runs.start(config, Recorder(), threading.Event())
    assert not (tmp_path / "run").exists()


def test_a_kernel_of_zeros_is_named(chosen: Run, tmp_path: Path) -> None:
    black = np.zeros((8, 6, 5, 1), np.float32)
    labels = np.array([0, 1] * 4)
    np.savez(tmp_path / "black.npz", x_train=black, y_train=labels, x_test=black[:2], y_test=labels[:2])
    data = {"path": str(tmp_path / "black.npz"), "standardize": False}
    with pytest.raises(NotPositiveDefinite, match=r"no centre can be drawn, since the kernel is zero everywhere"):
        chosen(data=data, solve=SOLVE | {"centres": 4})


def test_pivots_are_no_ground_to_grow_from(chosen: Run, small_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    old = chosen(solve=FEW)
    store = {"path": str(tmp_path / "grown"), "grow_from": str(old.path)}
    with pytest.raises(SpecificationMismatch, match=r"rpcholesky.* draws its centres among all training images"):
        runs.start(small_config(**ONE, solve=FEW, store=store), Recorder(), threading.Event())


def test_a_plan_counts_the_tasks_and_the_pairs_of_the_choice_and_says_that_no_pilot_estimates_the_loss(
    chosen: Run, small_config: Callable[..., RunConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    plan = runs.plan(small_config(**ONE, solve=FEW))
    stages = {stage.stage: stage for stage in make_report(chosen(solve=FEW)).stages}
    assert {stage.stage: stage.tasks for stage in plan.stages} == {kind: each.total for kind, each in stages.items()}
    for stage in plan.stages:
        if stage.stage != "normal_equations":
            assert stage.written_bytes == pytest.approx(stages[stage.stage].bytes, rel=0.3, abs=200), stage.stage
    assert plan.pairs == TRAIN * 21 + TRAIN + TEST * 21 + TEST
    show_plan(plan)
    assert "a pilot cannot estimate what is lost by 21 centres" in " ".join(capsys.readouterr().out.split())
