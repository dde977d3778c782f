"""Regression on centres, against the dense subset of regressors and against the solver by Cholesky factors."""

import re
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.problems import TEST, TRAIN, Recorder, chunks_of, whole_matrix
from support.systems import ONE

from cntk_pipeline.cli.plan import show_plan
from cntk_pipeline.clusters import WorkerMemory
from cntk_pipeline.config import RunConfig
from cntk_pipeline.datasets import one_hot_targets
from cntk_pipeline.errors import ConfigError, NotPositiveDefinite, SpecificationMismatch, TilesFailed
from cntk_pipeline.estimators.kept import digests
from cntk_pipeline.estimators.question import KernelQuestion
from cntk_pipeline.estimators.run_memory import RunMemory
from cntk_pipeline.layers import LAYERS, spelling
from cntk_pipeline.opened.export import plan_export, write_export
from cntk_pipeline.opened.run import open_run
from cntk_pipeline.pages.sections import gather
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.solvers.centres import CentresNeed
from cntk_pipeline.solvers.forecast import SystemSize
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.report import make_report

pytestmark = pytest.mark.slow

CENTRES = 21  # ends within a tile of 16
SOLVE = {"solver": "centres", "centres": CENTRES, "ridges": [1e-3], "tile": 16}
SEED = 2  # draws one of two equal images
DROPOUT = {
    "network": {
        "preset": None,
        "layers": [{"layer": each} for each in ("Flatten", "Dense", "Relu", "Dropout", "Dense")],
    },
    "readouts": {"depths": [], "poolings": [], "kinds": ["ntk"]},
    "kernel": ONE["kernel"],
}
ALL = {"leave_one_out": True, "learning_curve": [5, CENTRES], "posterior_variance": True}


class Dense:
    """The subset of regressors by plain NumPy, from the stored kernel of a run."""

    def __init__(self, run: RunDirectory, count: int = CENTRES) -> None:
        solve, name = make_report(run).solves[0], run.specification.readouts[0].name
        self.columns = whole_matrix(run, name, "train").astype(float)[:, :count]
        self.test = whole_matrix(run, name, "test").astype(float)[:, :count]
        self.prior = run.kernel(name, "test_variance").read_region((0, TEST)).astype(float)
        self.targets = one_hot_targets(np.asarray(run.inputs("train_labels")[:]), len(run.specification.data.classes))
        self.ridge = float(solve.absolute_ridge or 0)
        self.low_rank = self.columns @ np.linalg.solve(self.columns[:count], self.columns.T)

    @property
    def alpha(self) -> np.ndarray:
        left = self.columns.T @ self.columns + self.ridge * self.columns[: self.columns.shape[1]]
        return np.linalg.solve(left, self.columns.T @ self.targets)

    @property
    def left_out(self) -> np.ndarray:
        """The prediction of each training image by the others, each time solved anew with fixed centres."""
        found = np.empty_like(self.targets)
        for row in range(len(found)):
            others = np.arange(len(found)) != row
            inner = self.low_rank[np.ix_(others, others)] + self.ridge * np.eye(others.sum())
            found[row] = self.low_rank[row, others] @ np.linalg.solve(inner, self.targets[others])
        return found

    @property
    def variance(self) -> np.ndarray:
        """That of a Gaussian process with the low-rank kernel between images, and the exact one of an image."""
        across = self.test @ np.linalg.solve(self.columns[: self.columns.shape[1]], self.columns.T)
        inner = self.low_rank + self.ridge * np.eye(len(self.low_rank))
        return np.asarray(self.prior - np.einsum("ij,ji->i", across, np.linalg.solve(inner, across.T)))


@pytest.fixture
def on_centres(run_small: Callable[..., RunDirectory]) -> Callable[..., RunDirectory]:
    def run(view: Recorder | None = None, **sections: Any) -> RunDirectory:
        return run_small(view, **(ONE | {"solve": SOLVE} | sections))

    return run


@pytest.mark.parametrize("tile", [16, 48])
def test_a_run_on_centres_is_the_dense_subset_of_regressors(on_centres: Callable[..., RunDirectory], tile: int) -> None:
    run = on_centres(solve=SOLVE | {"tile": tile}, inference=ALL)
    dense, opened = Dense(run), open_run(run.path)
    np.testing.assert_allclose(opened.coefficients(), dense.alpha, rtol=0, atol=1e-9 * np.abs(dense.alpha).max())
    np.testing.assert_allclose(opened.predictions(), dense.test @ dense.alpha, rtol=0, atol=1e-11)
    np.testing.assert_allclose(opened.leave_one_out()["prediction"], dense.left_out, rtol=0, atol=1e-10)
    np.testing.assert_allclose(opened.posterior_variance()["variance"], dense.variance, rtol=0, atol=1e-9)
    curve = np.asarray(opened.learning_curve()["mean"])
    for means, count in zip(curve, (5, CENTRES), strict=True):
        of_few = Dense(run, count)
        np.testing.assert_allclose(means, of_few.test @ of_few.alpha, rtol=0, atol=1e-10)
    assert opened.metrics[0].relative_residual < 1e-11
    assert opened.is_complete


def test_the_kernel_of_a_run_on_centres_is_the_first_columns_of_the_whole_kernel(
    on_centres: Callable[..., RunDirectory], run_small: Callable[..., RunDirectory], tmp_path: Path
) -> None:
    run = on_centres()
    whole = run_small(**ONE, store={"path": str(tmp_path / "whole")})
    name = whole.specification.readouts[0].name
    for part in ("train", "test"):
        mine = np.asarray(open_run(run.path).kernel(part=part, missing="raise"))
        np.testing.assert_array_equal(mine, whole_matrix(whole, name, part)[:, :CENTRES])
        np.testing.assert_array_equal(mine, whole_matrix(run, name, part))
    for part, count in (("train_variance", TRAIN), ("test_variance", TEST)):
        np.testing.assert_array_equal(*(each.kernel(name, part).read_region((0, count)) for each in (run, whole)))
    stages = {stage.stage: (stage.done, stage.total) for stage in make_report(run).stages}
    assert stages["train"] == (5, 5)
    assert stages["train_variance"] == (1, 1)


@pytest.mark.parametrize(
    ("data", "solve", "network"),
    [
        ({}, {}, ONE),
        ({}, {"unit_diagonal": True}, ONE),
        ({"task": "regression"}, {}, ONE),
        ({}, {}, DROPOUT),
    ],
    ids=["plain", "unit_diagonal", "regression", "dropout"],
)
def test_with_all_images_as_centres_the_results_are_those_of_the_cholesky_solver(
    on_centres: Callable[..., RunDirectory],
    run_small: Callable[..., RunDirectory],
    tmp_path: Path,
    data: dict[str, Any],
    solve: dict[str, Any],
    network: dict[str, Any],
) -> None:
    inference = {key: value for key, value in ALL.items() if key != "learning_curve"}
    few = {"data": data | {"train": 30}, "inference": inference}  # the image behind them is equal to another
    run = open_run(on_centres(**few, **network, solve=SOLVE | solve | {"centres": 30}).path)
    more = {"solve": solve | {"ridges": [1e-3]}, "store": {"path": str(tmp_path / "other")}}
    other = open_run(run_small(**few, **network, **more).path)
    np.testing.assert_allclose(run.predictions(), other.predictions(), rtol=0, atol=1e-9)
    for key, part in (("leave_one_out", "prediction"), ("posterior_variance", "variance")):
        np.testing.assert_allclose(run.result(key)[part], other.result(key)[part], rtol=0, atol=1e-9)
    images = np.asarray(np.load(run.directory.workflow().data.path)["x_test"])
    mine, its = (each.decision_function(images, say=None) for each in (run, other))
    np.testing.assert_allclose(mine, its, rtol=0, atol=1e-9)


def test_random_centres_are_stored_first_and_drawn_by_the_seed(
    on_centres: Callable[..., RunDirectory], tmp_path: Path
) -> None:
    plain = on_centres(store={"path": str(tmp_path / "plain")})
    drawn = on_centres(solve=SOLVE | {"centre_choice": "random", "centre_seed": SEED})
    source, stored = (np.asarray(run.inputs("train_images")[:]) for run in (plain, drawn))
    order = np.random.RandomState(SEED).permutation(TRAIN)[:CENTRES]
    order = np.concatenate([order, np.setdiff1d(np.arange(TRAIN), order)])
    np.testing.assert_allclose(stored, source[order], atol=1e-12)
    np.testing.assert_array_equal(drawn.labels("train"), plain.labels("train")[order])
    dense = Dense(drawn)
    np.testing.assert_allclose(open_run(drawn.path).predictions(), dense.test @ dense.alpha, rtol=0, atol=1e-11)
    assert drawn.specification.centres is not None
    assert drawn.specification.centres.seed == SEED


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"solve": {"centres": 38}}, r"solve\.centres = 38 of 37 training images: give at most 37"),
        (
            {"solve": {"centres": 31}},
            r"the training rows 20 and 30, counted from 0, are the same image.*solve\.centre_j",
        ),
        ({"solve": {"centres": 0}}, r"solve\.centres: .*greater than or equal to 1"),
        ({"solve": {"centre_seed": 1}}, 'centre_seed belongs to centre_choice = "random" or "rpcholesky"'),
        ({"solve": {"centre_choice": "best"}}, r"solve\.centre_choice: .*'first', 'random' or 'rpcholesky'"),
        ({"solve": {"rank": 3}}, r'solve\.rank belongs to solver = "cg", not to "centres": leave it out'),
        ({"solve": {"ridges": "auto"}}, r'solve\.ridges = "auto" compares the leave-one-out of factors'),
        ({"inference": {"spectrum": 3}}, r"inference\.spectrum needs the kernel of all training images.*\"cholesky\""),
        ({"inference": {"posterior_covariance": True}}, r"inference\.posterior_covariance needs the kernel of all"),
        ({"inference": {"ensemble": {"times": [1.0]}}}, r"inference\.ensemble"),
        ({"inference": {"learning_curve": [30]}}, r"learning_curve asks for 30 .* there are 21.*numbers of centres"),
    ],
)
def test_what_centres_cannot_do_is_refused_before_anything_is_written(
    small_config: Callable[..., RunConfig], tmp_path: Path, sections: dict[str, Any], message: str
) -> None:
    config = small_config(**ONE, solve=SOLVE | sections.get("solve", {}), inference=sections.get("inference", {}))
    with pytest.raises(ConfigError, match=message):
        runs.start(config, Recorder(), threading.Event())
    assert not (tmp_path / "run").exists()


def test_equal_centres_are_named_by_the_solve_and_the_jitter_that_it_names_is_enough(
    on_centres: Callable[..., RunDirectory], small_npz: Path, tmp_path: Path
) -> None:
    with np.load(small_npz) as stored:
        arrays = dict(stored)
    arrays["x_train"][9] = arrays["x_train"][3][:, ::-1]  # its mirror image: with flips, the kernel has equal rows
    np.savez(tmp_path / "mirrored.npz", **arrays)
    sections = {"data": {"path": str(tmp_path / "mirrored.npz")}, "kernel": ONE["kernel"] | {"flips": True}}
    with pytest.raises(NotPositiveDefinite, match=r"centre 9 .* the same image as centre 3.*centre_jitter") as caught:
        on_centres(**sections)
    (jitter,) = re.findall(r"centre_jitter = (\S+),", str(caught.value))
    jittered = on_centres(**sections, solve=SOLVE | {"centre_jitter": float(jitter)})
    assert make_report(jittered).complete


def test_a_kernel_with_a_centre_of_zero_is_refused_by_its_name(
    on_centres: Callable[..., RunDirectory], small_npz: Path
) -> None:
    data = {"path": str(small_npz), "standardize": False}  # image 4 is all black
    with pytest.raises(NotPositiveDefinite, match=r"centre 4 .*adds nothing: its kernel with itself is zero"):
        on_centres(data=data)


def test_centres_whose_kernel_is_zero_say_why(
    on_centres: Callable[..., RunDirectory], small_npz: Path, tmp_path: Path
) -> None:
    with np.load(small_npz) as stored:
        arrays = dict(stored)
    arrays["x_train"][0] = 0
    np.savez(tmp_path / "black.npz", **arrays)
    with pytest.raises(NotPositiveDefinite, match=r"kernel of the centres is zero everywhere.* images without any"):
        on_centres(data={"path": str(tmp_path / "black.npz"), "standardize": False}, solve=SOLVE | {"centres": 1})


def test_leave_one_out_needs_leverages_below_one(on_centres: Callable[..., RunDirectory]) -> None:
    few = {"data": {"train": 30}, "solve": SOLVE | {"centres": 30, "ridges": [0.0]}}
    with pytest.raises(TilesFailed, match=r"NotFinite: .*expected leverages below 1 for leave-one-out.*larger ridge"):
        on_centres(**few, inference={"leave_one_out": True})


def test_a_run_on_centres_takes_no_other_solver_and_no_other_centres(
    on_centres: Callable[..., RunDirectory], small_config: Callable[..., RunConfig]
) -> None:
    on_centres()
    for solve in ({"ridges": [1e-3]}, SOLVE | {"centres": 20}):
        with pytest.raises(SpecificationMismatch, match=r"centres: only stored|centres\.count: stored 21, wanted 20"):
            runs.start(small_config(**ONE, solve=solve), Recorder(), threading.Event())


def test_new_images_are_predicted_with_their_deviations(
    on_centres: Callable[..., RunDirectory], small_npz: Path
) -> None:
    from cntk_pipeline.datasets.unlabelled import Unlabelled
    from cntk_pipeline.opened.new_images import like_of
    from cntk_pipeline.opened.predict_on_cluster import Question, predict_images

    run = on_centres(inference={"posterior_variance": True})
    with np.load(small_npz) as stored:
        images = stored["x_test"]
    opened, dense = open_run(run.path), Dense(run)
    given = Unlabelled.of(images, "images", like_of(run))
    found = predict_images(run, given, Question(std=True), Recorder(), threading.Event())
    np.testing.assert_allclose(found.scores, opened.predictions(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(opened.decision_function(images, say=None), opened.predictions(), rtol=0, atol=1e-10)
    inner = dense.low_rank + dense.ridge * np.eye(TRAIN)
    factor = np.einsum("ij,ij->j", dense.targets, np.linalg.solve(inner, dense.targets)).mean() / TRAIN
    np.testing.assert_allclose(found.std, np.sqrt(dense.variance * factor), rtol=1e-6)


def test_a_plan_counts_the_tasks_and_the_bytes_of_the_run_and_the_pairs_that_are_saved(
    on_centres: Callable[..., RunDirectory], small_config: Callable[..., RunConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    plan = runs.plan(small_config(**ONE, solve=SOLVE, inference=ALL))
    stages = {stage.stage: stage for stage in make_report(on_centres(inference=ALL)).stages}
    assert {stage.stage: stage.tasks for stage in plan.stages} == {kind: each.total for kind, each in stages.items()}
    stayed = {kind: each.bytes for kind, each in stages.items() if kind != "normal_equations"}
    for stage in plan.stages:
        if stage.stage in stayed:
            assert stage.written_bytes == pytest.approx(stayed[stage.stage], rel=0.3, abs=200), stage.stage
    saved = TRAIN - CENTRES
    assert plan.pairs == CENTRES * (CENTRES + 1) // 2 + saved * CENTRES + saved + TEST * CENTRES + TEST
    show_plan(plan)
    said = " ".join(capsys.readouterr().out.split())
    assert f"21 centres: {100 * plan.pairs / plan.all_pairs:.3g} % of the " in said
    assert "what is lost by 21 centres is not forecast" in said
    assert "the same share of centres, 56.8 %" in said


def test_the_bits_do_not_depend_on_the_workers(on_centres: Callable[..., RunDirectory], tmp_path: Path) -> None:
    sections = {
        "solve": SOLVE | {"centre_choice": "random", "centre_seed": SEED, "ridges": [1e-3, 1e-1]},
        "inference": ALL | {"evidence": True, "calibration": True},
    }
    found = []
    for workers in (1, 3):
        cluster = {"kind": "local", "workers": workers, "threads_per_worker": 1}
        found.append(on_centres(**sections, cluster=cluster, store={"path": str(tmp_path / str(workers))}))
    one, three = (chunks_of(run.path) for run in found)
    results = {path.stem.partition("-")[0] for path in found[0].path.glob("solve/*/inference/*.zarr")}
    assert results == {"leave_one_out", "learning_curve", "posterior_variance", "evidence", "calibration"}
    assert one == three


def test_too_many_centres_for_the_memory_are_refused_with_the_number_that_fits(
    small_config: Callable[..., RunConfig],
) -> None:
    size = SystemSize(60_000, 0, 10, 256, 4096, "float32", centres=20_000)
    need, memory = CentresNeed(size), WorkerMemory(8 * 10**9, 2)
    with pytest.raises(
        ConfigError, match=r"20000 centres hold 25,6\d\d MB .*set solve\.centres = (\d+) at most"
    ) as caught:
        need.require(memory)
    fits = int(re.findall(r"centres = (\d+)", str(caught.value))[0])
    CentresNeed(replace(size, centres=fits)).require(memory)
    with pytest.raises(ConfigError):
        CentresNeed(replace(size, centres=fits + 1)).require(memory)


def test_a_run_on_centres_is_opened_exported_and_reported_and_figures_of_the_whole_kernel_are_refused(
    on_centres: Callable[..., RunDirectory], tmp_path: Path
) -> None:
    few = {"solve": SOLVE | {"centres": 3}, "inference": {"learning_curve": [2, 3]}}  # so few make mistakes
    run = open_run(on_centres(**few).path)
    whole = whole_matrix(run.directory, run.readouts[0], "train")
    assert run.to_xarray()["train_kernel"].dims == ("readout", "train", "centre")
    np.testing.assert_array_equal(run.to_xarray()["train_kernel"][0], whole)
    assert run.to_xarray()["coefficients"].shape[2:] == (3, 3)
    write_export(run.directory, plan_export(run.directory, (), "npz", kernels=True), tmp_path / "out", lambda _: None)
    with np.load(tmp_path / "out" / f"kernel-{run.readouts[0]}.npz") as exported:
        np.testing.assert_array_equal(exported["train"], whole)
    sections, lacking = gather(run)
    assert {"learning_curve", "mistakes"} <= {section.key for section in sections}, lacking
    reasons = {each.key: each.reason for each in lacking}
    for key in ("spectrum", "kernel_matrix"):
        assert "has the kernel's columns of 3 centres" in reasons[key].replace("the run has", "has")
    (curve,) = (section for section in sections if section.key == "learning_curve")
    assert curve.tables[1].columns[0] == "centres"


def test_a_memory_of_a_run_on_centres_gives_the_values_that_it_has(on_centres: Callable[..., RunDirectory]) -> None:
    run = on_centres()
    images = np.asarray(run.inputs("train_images")[:])
    readout = run.specification.readouts[0]
    question = KernelQuestion(spelling.read(readout.network, LAYERS), dtype="float64")
    found = RunMemory(str(run.path), question, run.specification.data.shape).load("ntk", digests(images, "float64"))
    assert not found.is_known[CENTRES:, CENTRES:][:9, :9].any()  # behind them are images that equal a centre
    np.testing.assert_array_equal(found.values[:CENTRES, :CENTRES], whole_matrix(run, readout.name, "train")[:CENTRES])
