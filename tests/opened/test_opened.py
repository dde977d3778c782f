"""A run as an object, against the kernel in memory, NumPy and what is stored."""

import pickle
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support import earlier_runs
from support.problems import TEST, TRAIN, Recorder, flip_bit, stopped, whole_matrix

import cntk_pipeline
from cntk_pipeline.config import RunConfig
from cntk_pipeline.datasets import one_hot_targets
from cntk_pipeline.errors import ConfigError, CorruptTile, NotComputed, RunNotFound, StoreError
from cntk_pipeline.gram.tiles import kernel_group
from cntk_pipeline.inference import RESULTS
from cntk_pipeline.layers import presets
from cntk_pipeline.opened import open_run
from cntk_pipeline.opened.tiles import Stored
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.workflow import run as runs

Run = Callable[..., RunDirectory]
Config = Callable[..., RunConfig]

EVERYTHING = {
    "leave_one_out": True,
    "learning_curve": [5, TRAIN],
    "posterior_variance": True,
    "posterior_covariance": True,
    "spectrum": 3,
    "ensemble": [1.0, 2.0],
    "evidence": True,
    "calibration": True,
}
ONE = {"poolings": ["gap"], "kinds": ["ntk"]}


def test_a_kernel_is_that_in_memory_and_symmetric(run_small: Run) -> None:
    directory = run_small(kernel={"dtype": "float64"})
    run = open_run(directory.path)
    images = np.asarray(directory.inputs("train_images")[:])
    expected = cntk_pipeline.kernel_matrix(presets.cntk(3, pooling="gap"), images, dtype="float64")
    lazy = run.kernel("depth3-gap-ntk")
    assert lazy.chunks == ((16, 16, 5), (16, 16, 5))
    np.testing.assert_array_equal(lazy.compute(scheduler="synchronous"), expected)
    np.testing.assert_array_equal(run.kernel((3, "gap", "ntk"), missing="raise")[20:, :4], expected[20:, :4])
    np.testing.assert_array_equal(run.kernel((np.int64(3), "gap", "ntk"))[20:, :4], expected[20:, :4])
    np.testing.assert_array_equal(run.kernel("depth3-gap-ntk", "train_variance"), np.diagonal(expected))
    np.testing.assert_array_equal(
        run.kernel("depth3-gap-ntk", "test"), whole_matrix(directory, "depth3-gap-ntk", "test")
    )


def test_a_kernel_of_the_test_images_is_asked_for_or_refused(run_small: Run, small_config: Config) -> None:
    run = open_run(run_small(readouts=ONE).path)
    for missing in ("nan", "raise"):
        with pytest.raises(
            ConfigError, match=r'"test_test"\) is .*: run it again with inference\.posterior_covariance = t'
        ):
            run.kernel(part="test_test", missing=missing)
    runs.start(small_config(readouts=ONE, inference={"posterior_covariance": True}), Recorder(), threading.Event())
    assert np.isfinite(run.kernel(part="test_test", missing="raise")).all()
    runs.start(small_config(readouts=ONE), Recorder(), threading.Event())  # its tiles stay
    assert np.isfinite(run.kernel(part="test_test")).all()


def test_predictions_and_coefficients_are_those_of_the_dense_system(run_small: Run) -> None:
    run = open_run(run_small(kernel={"dtype": "float64"}, readouts=ONE, solve={"ridges": [1e-2, 1.0]}).path)
    kernel, test = run.kernel().compute(), run.kernel(part="test").compute()
    targets = one_hot_targets(run.labels.train, 3)
    for ridge in (1e-2, 1.0):
        system = kernel + ridge * np.trace(kernel) / TRAIN * np.eye(TRAIN)
        np.testing.assert_allclose(run.coefficients(ridge=ridge), np.linalg.solve(system, targets), atol=1e-10)
        np.testing.assert_allclose(run.predictions(ridge=ridge), test @ np.linalg.solve(system, targets), atol=1e-10)
    scores = run.predictions("depth3-gap-ntk", 1.0)
    assert run.metrics[1].accuracy == np.mean(scores.argmax(1) == run.labels.test)
    assert (run.metrics[1].readout, run.metrics[1].ridge) == ("depth3-gap-ntk", 1.0)


def test_a_ridge_of_an_earlier_workflow_is_found(run_small: Run) -> None:
    run_small(readouts=ONE, solve={"ridges": [1e-2]})
    run = open_run(run_small(readouts=ONE, solve={"ridges": [1.0]}).path)
    assert not np.array_equal(run.predictions(ridge=1e-2), run.predictions())
    np.testing.assert_array_equal(run.predictions(), run.predictions(ridge=1.0))


def test_a_ridge_that_earlier_workflows_have_solved_in_several_ways_is_refused(run_small: Run) -> None:
    relative = {"ridges": [0.1]}
    ways = [relative, relative | {"ridge_mode": "absolute"}, relative | {"unit_diagonal": True}]
    found = [open_run(run_small(readouts=ONE, solve=way).path).predictions() for way in ways]
    for way, expected in zip(ways, found, strict=True):  # the last workflow's own comes first
        run = open_run(run_small(readouts=ONE, solve=way).path)
        np.testing.assert_array_equal(run.predictions(ridge=0.1), expected)
    run = open_run(run_small(readouts=ONE, solve={"ridges": [0.5]}).path)
    message = (
        r"solved 3 systems of depth3-gap-ntk with the ridge 0\.1: 0\.1 \(absolute\); 0\.1 \(relative\); "
        r"0\.1 \(relative, unit_diagonal = true\)\. Run the workflow again .* unit_diagonal and solver of one of them"
    )
    with pytest.raises(ConfigError, match=message):
        run.predictions(ridge=0.1)
    with pytest.raises(ConfigError, match=r"no ridge 0\.2 .*it has 0\.5 \(relative\), .*unit_diagonal = true\)"):
        run.predictions(ridge=0.2)


def test_an_earlier_system_of_another_solver_is_named(run_small: Run) -> None:
    for way in ({}, {"solver": "cg", "rank": 2, "max_iterations": 500}):
        run_small(readouts=ONE, solve={"ridges": [0.1]} | way)
    run = open_run(run_small(readouts=ONE, solve={"ridges": [0.5]}).path)
    with pytest.raises(ConfigError, match=r'0\.1 \(relative\); 0\.1 \(relative, solver = "cg", .*rank = 2.*\)\. Run'):
        run.coefficients(ridge=0.1)


def test_the_chosen_ridge_is_taken(run_small: Run) -> None:
    run = open_run(run_small(readouts=ONE, solve={"ridges": "auto"}).path)
    assert run.system().ridge == run.metrics[0].ridge
    dataset = run.to_xarray()
    assert dataset["ridge"].dims == ("readout",)
    np.testing.assert_array_equal(dataset["predictions"][0], run.predictions())


@pytest.mark.slow
def test_every_result_of_inference_is_read_by_its_key(run_small: Run) -> None:
    directory = run_small(readouts={"poolings": ["gap"]}, inference=EVERYTHING)
    run = open_run(directory.path)
    assert set(RESULTS) == set(EVERYTHING)
    assert set(RESULTS) <= set(dir(run))
    for key in RESULTS:
        found = getattr(run, key)("depth3-gap-ntk")
        assert found.summary is not None
        assert RESULTS[key].show([(found.label, found.summary)]).title in repr(found)
        assert all(np.isfinite(array.compute()).all() for array in found.arrays.values())
        assert f"inference.{key}" not in repr(found)
    covariance = run.posterior_covariance("depth3-gap-ntk")["covariance"].compute()
    np.testing.assert_array_equal(covariance, covariance.T)
    variance = run.posterior_variance("depth3-gap-ntk")["variance"]
    np.testing.assert_allclose(np.diagonal(covariance), variance, atol=1e-10)
    curve = run.learning_curve("depth3-gap-ntk")
    np.testing.assert_allclose(curve["mean"][-1], run.predictions("depth3-gap-ntk"), atol=1e-10)
    assert curve.summary.accuracy[-1] == run.metrics[0].accuracy
    assert curve.summary.sizes == (5, TRAIN)
    dataset = run.to_xarray()
    assert dataset["learning_curve_mean"].dims == ("readout", "ridge", "size", "test", "class")
    assert dataset["size"].values.tolist() == [5, TRAIN]
    assert dataset["ensemble_mean"].sizes["network"] == 1


def test_what_is_missing_is_nan_or_refused(small_config: Config) -> None:
    run = stopped(small_config(readouts=ONE), 2)
    kernel = run.kernel().compute()
    there = np.isfinite(kernel)
    assert there.any()
    assert not there.all()
    np.testing.assert_array_equal(there, there.T)
    with pytest.raises(NotComputed, match=r'kernel\("depth3-gap-ntk", "train"\) is not computed yet, 2 of 6 tiles are'):
        run.kernel(missing="raise")
    with pytest.raises(
        NotComputed, match=r"predictions of depth3-gap-ntk.*0 of 1 tiles are there. No driver is at work: `cntk resume"
    ):
        run.predictions()
    assert "kernel: 4 of 10 tiles; no driver is at work" in repr(run)
    dataset = run.to_xarray()
    assert np.isnan(dataset["predictions"]).all()
    assert dict(dataset["train_kernel"].sizes) == {"readout": 1, "train_row": TRAIN, "train": TRAIN}
    runs.resume(run.path, Recorder(), threading.Event())
    assert np.isfinite(run.kernel(missing="raise").compute()).all()
    assert run.is_complete


def test_a_run_without_a_workflow_is_not_complete(run_small: Callable[..., RunDirectory]) -> None:
    run = open_run(run_small(readouts=ONE).path)
    assert run.is_complete is True
    (run.path / "workflow.json").unlink()
    assert run.is_complete is False


def test_a_result_that_is_not_computed_says_how_far_it_is(small_config: Config) -> None:
    run = stopped(small_config(readouts=ONE, inference={"leave_one_out": True}), 2)
    with pytest.raises(NotComputed, match=r"leave_one_out of depth3-gap-ntk.* is not computed yet, 0 of 2 tiles"):
        run.leave_one_out()


def test_a_ridge_that_is_not_chosen_yet_is_named(small_config: Config) -> None:
    run = stopped(small_config(readouts=ONE, solve={"ridges": "auto"}), 2)
    with pytest.raises(NotComputed, match="the ridge of depth3-gap-ntk is not chosen yet"):
        run.predictions()
    assert "predictions" not in run.to_xarray()


def test_a_run_that_has_not_begun_is_shown(small_config: Config) -> None:
    run, _ = runs.begin_elsewhere(small_config(), Recorder(), None)
    (run.path / "workflow.json").unlink()
    assert "stopped before it began" in repr(open_run(run.path))


def test_matrices_are_data_variables(run_small: Run) -> None:
    """Opened by xarray itself, a matrix bears the name of its axis and lands among the coordinates."""
    run = open_run(run_small().path)
    dataset = run.to_xarray()
    assert {"train_kernel", "test_kernel", "predictions", "coefficients", "accuracy"} <= set(dataset.data_vars)
    assert set(dataset.coords) == {"readout", "ridge", "class", "train_label", "test_label"}
    mean = dataset.mean(("train_row", "train"))["train_kernel"].sel(readout="depth3-gap-ntk")
    assert float(mean) == pytest.approx(float(run.kernel("depth3-gap-ntk").mean()), rel=1e-5)
    np.testing.assert_array_equal(
        dataset["predictions"].sel(readout="depth3-gap-nngp", ridge=1e-2), run.predictions("depth3-gap-nngp")
    )
    assert dataset["accuracy"].shape == (4, 1)


def test_wrong_names_are_refused_with_the_nearest(run_small: Run) -> None:
    run = open_run(run_small(solve={"ridges": [1e-2, 1.0]}).path)
    with pytest.raises(ConfigError, match="no read-out 'depth3-gap': did you mean 'depth3-gap-ntk'"):
        run.kernel("depth3-gap")
    with pytest.raises(ConfigError, match="has 4 read-outs, name one of them"):
        run.kernel()
    with pytest.raises(ConfigError, match="a kernel has no part 'tset': did you mean 'test'"):
        run.kernel("depth3-gap-ntk", "tset")
    with pytest.raises(ConfigError, match='missing is "nan" or "raise", got \'zero\''):
        run.kernel("depth3-gap-ntk", missing="zero")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"several ridges, give one of them: 0.01 \(relative\), 1 \(relative\)"):
        run.predictions("depth3-gap-ntk")
    with pytest.raises(ConfigError, match=r"no ridge 0.1 of depth3-gap-ntk: it has 0.01 \(relative\)"):
        run.predictions("depth3-gap-ntk", 0.1)
    with pytest.raises(ConfigError, match=r"ridge must be one of the numbers in solve\.ridges, .* got 'auto'"):
        run.predictions("depth3-gap-ntk", "auto")  # type: ignore[arg-type]
    with pytest.raises(
        ConfigError, match=r"by its name, .* got 0\.01; a ridge and a part are given by name, as ridge="
    ):
        run.predictions(0.01)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"by its name, .* got 2;"):
        run.kernel(2)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"was not asked for inference\.spectrum: add it to the workflow"):
        run.spectrum("depth3-gap-ntk", 1.0)
    with pytest.raises(ConfigError, match="no result 'leave_one' of inference: did you mean 'leave_one_out'"):
        run.result("leave_one", "depth3-gap-ntk", 1.0)
    with pytest.raises(AttributeError, match="a run has no 'predicitons': did you mean 'predictions'"):
        run.predicitons  # noqa: B018
    with pytest.raises(AttributeError, match=r"a run has no 'accuracy': known are .*metrics") as caught:
        run.accuracy  # noqa: B018
    assert " _" not in str(caught.value)  # no internals


@pytest.mark.parametrize("path", [None, 3, np.zeros((99, 99))])
def test_what_is_no_path_is_refused(path: object) -> None:
    with pytest.raises(ConfigError, match=r"expected the path of a run directory, .* got (None|3|<ndarray of shape)"):
        open_run(path)  # type: ignore[arg-type]


def test_no_run_and_another_version_are_refused(run_small: Run, tmp_path: Path) -> None:
    with pytest.raises(RunNotFound, match="holds no run"):
        open_run(tmp_path / "nowhere")
    directory = run_small(readouts=ONE)
    record = Path(str(directory.path)) / "run.json"
    record.write_text(record.read_text().replace('"format_version": 2', '"format_version": 3'))
    with pytest.raises(StoreError, match="has format version 3, this cntk knows 2: use the version that wrote it"):
        open_run(directory.path)


def test_a_damaged_tile_is_never_shown_as_missing(run_small: Run) -> None:
    directory = run_small(readouts=ONE)
    flip_bit(directory.kernel("depth3-gap-ntk", "train").chunk_path(1, 0))
    kernel = open_run(directory.path).kernel()
    with pytest.raises(CorruptTile, match="does not match its checksum"):
        kernel.compute()
    solve = next(iter(directory.solves()))
    flip_bit(directory.solved(solve, "mean").chunk_path(0, 0))
    with pytest.raises(CorruptTile, match=r"`cntk resume --verify .*` computes it again"):
        open_run(directory.path).predictions()


def test_people_see_text_and_html(run_small: Run) -> None:
    run = open_run(run_small().path)
    assert f"OpenRun {run.path}: complete" in repr(run)
    assert "37 training and 11 test images of 6 x 5 pixels in 2 channels, 3 classes" in repr(run)
    assert run._repr_html_().count("<tr>") == 1 + len(run.metrics) == 5
    assert "<td" in run.metrics._repr_html_()
    assert run.metrics.to_pandas()["accuracy"].tolist() == [row.accuracy for row in run.metrics]
    assert len(run.metrics[1:]) == 3
    assert repr(cntk_pipeline.open_run(run.path)) == repr(run)


def test_lazy_arrays_travel_to_other_processes(run_small: Run) -> None:
    run = open_run(run_small(readouts=ONE).path)
    again = pickle.loads(pickle.dumps(run.kernel()))
    np.testing.assert_array_equal(again.compute(scheduler="synchronous"), run.kernel())


def test_a_run_opened_by_a_relative_path_stays_the_same_run(
    run_small: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Path(str(run_small(readouts=ONE).path))
    monkeypatch.chdir(place.parent)
    run = open_run(place.name)
    expected = run.kernel().compute()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert run.is_complete
    for each in (run, pickle.loads(pickle.dumps(run))):
        np.testing.assert_array_equal(each.kernel().compute(), expected)


def test_what_vanishes_after_a_kernel_was_asked_for_is_no_nan(run_small: Run) -> None:
    run = open_run(run_small(readouts=ONE).path)
    lazy, strict = run.kernel(), run.kernel(missing="raise")
    place = Path(str(run.path))
    run.directory.kernel("depth3-gap-ntk", "train").chunk_path(1, 0).unlink()
    assert np.isnan(lazy.compute()).any()
    with pytest.raises(CorruptTile, match=r"train: tile \(\d, \d\) was there and is gone, or this process does not"):
        strict.compute()
    place.rename(place.with_name("moved"))
    with pytest.raises(StoreError, match="there is no run here any more, or this process does not see its folder"):
        lazy.compute()
    with pytest.raises(CorruptTile, match="was there and is gone"):
        strict.compute()


def test_a_result_whose_arrays_are_deleted_is_not_computed(run_small: Run) -> None:
    run = open_run(run_small(readouts=ONE, inference={"leave_one_out": True}).path)
    found = run.leave_one_out()["prediction"]
    (folder,) = Path(str(run.path)).glob("solve/*/inference/leave_one_out.zarr/prediction/c")
    folder.rename(folder.with_name("gone"))
    with pytest.raises(CorruptTile, match="was there and is gone"):
        found.compute()
    for ask in (run.leave_one_out, run.probabilities):
        with pytest.raises(NotComputed, match=r"leave_one_out of depth3-gap-ntk.* is not computed yet, \d of \d tiles"):
            ask()


def test_a_tile_of_another_shape_than_the_array_had_is_refused(run_small: Run) -> None:
    """As where centres that the kernel draws have ended meanwhile, before the number that was asked for."""
    run = open_run(run_small(readouts=ONE).path)
    stored = Stored.of(kernel_group(run.directory), "depth3-gap-ntk/train")
    longer = replace(stored, spec=replace(stored.spec, shape=(TRAIN, TRAIN + 1)))
    with pytest.raises(StoreError, match=r"has the shape \(5, 5\), and had \(5, 6\) .* ask for the array again"):
        longer.lazy().compute(scheduler="synchronous")


@pytest.mark.slow
@pytest.mark.parametrize("name", earlier_runs.NAMES)
def test_runs_of_earlier_versions_open(tmp_path: Path, name: str) -> None:
    earlier_runs.unpack(tmp_path)
    run = open_run(tmp_path / name)
    said = earlier_runs.said_of(tmp_path, name)
    assert [row.accuracy for row in run.metrics] == [solve["accuracy"] for solve in said["solves"]]
    for row in run.metrics:
        scores = run.predictions(row.readout, row.ridge)
        assert np.mean(scores.argmax(1) == run.labels.test) == row.accuracy
        kernel = run.kernel(row.readout, missing="raise").compute()
        np.testing.assert_array_equal(kernel, whole_matrix(run.directory, row.readout, "train"))
    assert "train_kernel" in run.to_xarray().data_vars


@pytest.mark.slow
def test_a_run_in_a_bucket_opens(bucket: str, small_config: Config) -> None:
    directory = runs.start(
        small_config(readouts=ONE, store={"path": f"s3://{bucket}/opened"}), Recorder(), threading.Event()
    )
    run = open_run(f"s3://{bucket}/opened")
    np.testing.assert_array_equal(run.kernel(), whole_matrix(directory, "depth3-gap-ntk", "train"))
    assert run.predictions().shape == (TEST, 3)
