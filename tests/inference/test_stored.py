"""What is inferred from a run's factor, tile by tile, against dense NumPy."""

import json
import threading
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import pytest
from support.problems import TEST, TRAIN, Recorder, Stopper, flip_bit, whole_matrix

from cntk_pipeline import kernel_matrix
from cntk_pipeline.config import RunConfig
from cntk_pipeline.datasets import one_hot_targets
from cntk_pipeline.errors import ConfigError, Interrupted
from cntk_pipeline.layers import LAYERS, spelling
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.report import RunReport, SolveReport, make_report

pytestmark = pytest.mark.slow

Run = Callable[..., RunDirectory]
Config = Callable[..., RunConfig]

ONE = {"poolings": ["gap"], "kinds": ["nngp"]}
EVERYTHING = {"leave_one_out": True, "learning_curve": True, "variance": True, "spectrum": 3}


class Dense:
    """The same system in memory, from the stored kernel."""

    def __init__(self, run: RunDirectory, solve: SolveReport) -> None:
        self.ridge = solve.absolute_ridge or 0.0
        self.kernel = whole_matrix(run, solve.readout, "train").astype(float)
        self.test = whole_matrix(run, solve.readout, "test").astype(float)
        self.test_variance = run.kernel(solve.readout, "test_variance").read_region((0, TEST)).astype(float)
        self.targets = one_hot_targets(np.asarray(run.inputs("train_labels")[:]), 3)
        self.labels, self.test_labels = (np.asarray(run.inputs(f"{part}_labels")[:]) for part in ("train", "test"))

    def mean(self, rows: np.ndarray, test: np.ndarray) -> np.ndarray:
        """Train on some rows, predict for rows of a kernel."""
        kernel = self.kernel[np.ix_(rows, rows)] + self.ridge * np.eye(len(rows))
        return test[:, rows] @ np.linalg.solve(kernel, self.targets[rows])


def record_of(report: RunReport, product: str, solve: int = 0) -> dict:
    (found,) = [item.record for item in report.solves[solve].inferred if item.product == product]
    assert found is not None
    return json.loads(json.dumps(asdict(found)))


def array_of(run: RunDirectory, solve: str, product: str, part: str) -> np.ndarray:
    (path,) = (run.solve_path(solve) / "inference").glob(f"{product}*.zarr")
    array = run.inferred(solve, path.stem, part)
    return array.read_region(*((0, size) for size in array.shape))


@pytest.mark.parametrize("tile", [16, 32, 48])
def test_leave_one_out_is_what_refitting_without_each_image_predicts(run_small: Run, tile: int) -> None:
    run = run_small(solve={"tile": tile}, inference={"leave_one_out": True}, readouts=ONE)
    report = make_report(run)
    dense = Dense(run, report.solves[0])
    everyone = np.arange(TRAIN)
    refitted = np.concatenate([dense.mean(np.delete(everyone, i), dense.kernel[i : i + 1]) for i in everyone])
    prediction = array_of(run, report.solves[0].name, "leave_one_out", "prediction")
    np.testing.assert_allclose(prediction, refitted, rtol=1e-7, atol=1e-9)
    record = record_of(report, "leave_one_out")
    assert record["accuracy"] == np.mean(refitted.argmax(1) == dense.labels)
    assert record["squared_error"] == pytest.approx(np.mean((refitted - dense.targets) ** 2))


@pytest.mark.parametrize("slice_tiles", [0, 1, 6])
def test_the_diagonal_of_the_inverse_does_not_depend_on_the_slices(
    run_small: Run, monkeypatch: pytest.MonkeyPatch, slice_tiles: int
) -> None:
    monkeypatch.setattr("cntk_pipeline.inference.leave_one_out.SLICE_TILES", slice_tiles)  # 0: one column at a time
    run = run_small(solve={"tile": 16}, inference={"leave_one_out": True}, readouts=ONE)
    solve = make_report(run).solves[0]
    dense = Dense(run, solve)
    inverse = np.linalg.inv(dense.kernel + dense.ridge * np.eye(TRAIN))
    stored = array_of(run, solve.name, "leave_one_out", "inverse_diagonal")
    np.testing.assert_allclose(stored, np.diagonal(inverse), rtol=1e-9)


@pytest.mark.parametrize("tile", [8, 16, 48])
def test_the_learning_curve_is_what_refitting_with_the_first_images_predicts(run_small: Run, tile: int) -> None:
    sizes = [1, 7, 15, 16, 17, 32, 36, 37]
    kernel = {"tile": min(tile, 16)}
    run = run_small(kernel=kernel, solve={"tile": tile}, inference={"learning_curve": sizes}, readouts=ONE)
    report = make_report(run)
    dense = Dense(run, report.solves[0])
    refitted = np.stack([dense.mean(np.arange(size), dense.test) for size in sizes])
    means = array_of(run, report.solves[0].name, "learning_curve", "mean")
    np.testing.assert_allclose(means, refitted, rtol=1e-7, atol=1e-9)
    record = record_of(report, "learning_curve")
    assert record["sizes"] == sizes
    assert record["absolute_ridge"] == report.solves[0].absolute_ridge
    assert record["accuracy"] == pytest.approx(np.mean(refitted.argmax(2) == dense.test_labels, axis=1))
    expected = np.mean((refitted - one_hot_targets(dense.test_labels, 3)) ** 2, axis=(1, 2))
    assert record["squared_error"] == pytest.approx(expected)
    assert record["accuracy"][-1] == report.solves[0].accuracy


def test_other_sizes_reuse_the_whitened_kernel(run_small: Run) -> None:
    first = make_report(run_small(inference={"learning_curve": [5, 37]}, readouts=ONE))
    view = Recorder()
    second = make_report(run_small(view, inference={"learning_curve": [9, 37]}, readouts=ONE))
    assert view.moments[-1].entries_now == 2 * TEST * 3
    accuracies = [record_of(report, "learning_curve")["accuracy"][-1] for report in (first, second)]
    assert accuracies[0] == accuracies[1]


@pytest.mark.parametrize("tile", [8, 48])
def test_the_posterior_variance_is_that_of_a_gaussian_process(run_small: Run, tile: int) -> None:
    run = run_small(kernel={"tile": 8}, solve={"tile": tile}, inference={"variance": True}, readouts=ONE)
    report = make_report(run)
    dense = Dense(run, report.solves[0])
    explained = dense.test @ np.linalg.solve(dense.kernel + dense.ridge * np.eye(TRAIN), dense.test.T)
    expected = dense.test_variance - np.diagonal(explained)
    variance = array_of(run, report.solves[0].name, "posterior_variance", "variance")
    np.testing.assert_allclose(variance, expected, rtol=1e-8)
    record = record_of(report, "posterior_variance")
    assert record == pytest.approx({"smallest": expected.min(), "mean": expected.mean(), "largest": expected.max()})


@pytest.mark.parametrize("dense_samples", [4096, 0])
def test_the_spectrum_holds_both_ends_within_their_residuals(
    run_small: Run, monkeypatch: pytest.MonkeyPatch, dense_samples: int
) -> None:
    monkeypatch.setattr("cntk_pipeline.inference.spectrum.DENSE_SAMPLES", dense_samples)
    run = run_small(inference={"spectrum": 3}, readouts=ONE)
    report = make_report(run)
    record = record_of(report, "spectrum")
    expected = np.linalg.eigvalsh(Dense(run, report.solves[0]).kernel)
    np.testing.assert_allclose(record["largest"], expected[:-4:-1], rtol=1e-10)
    np.testing.assert_allclose(record["smallest"], expected[:3], rtol=1e-6, atol=1e-14)
    assert max(record["largest_residuals"]) < 1e-8
    assert record["maximal_learning_rate"] == pytest.approx(2 * TRAIN * 3 / expected[-1])


def test_sizes_beyond_the_training_set_are_refused_before_anything_is_written(small_config: Config) -> None:
    config = small_config(inference={"learning_curve": [5, 38]})
    with pytest.raises(ConfigError, match=r"learning_curve asks for 38 training images and there are 37: name fewer"):
        runs.load(config)


def test_inference_is_resumed_tile_by_tile(run_small: Run, small_config: Config) -> None:
    run_small(readouts=ONE)

    def is_far_enough(view: Recorder) -> bool:
        return view.stages[-1] == "inference" and len(view.moments) > 5 and view.moments[-1].receipt is not None

    view = Stopper(is_far_enough)
    with pytest.raises(Interrupted):
        runs.start(small_config(inference=EVERYTHING, readouts=ONE), view, view.stop)
    path = str(small_config().store.path)
    halfway = [stage for stage in make_report(RunDirectory(path)).stages if stage.phase == "inference"]
    done, total = sum(stage.done for stage in halfway), sum(stage.total for stage in halfway)
    assert 0 < done < total
    view = Recorder()
    run = runs.resume(path, view, threading.Event())
    assert view.stages == ["kernel", "solve", "inference"]
    assert next(moment.done for moment in view.moments if moment.total == total) == done
    report = make_report(run)
    assert report.complete
    assert {item.record is None for solve in report.solves for item in solve.inferred} == {False}


@pytest.mark.parametrize("product", ["whitened", "leave_one_out", "learning_curve"])
def test_a_damaged_tile_of_inference_is_computed_again(run_small: Run, product: str) -> None:
    run = run_small(readouts=ONE, inference=EVERYTHING)
    folder = run.solve_path(make_report(run).solves[0].name) / "inference"
    chunk = next(path for path in sorted(folder.glob(f"{product}*.zarr/*/c/**/*")) if path.is_file())
    before = chunk.read_bytes()
    chunk.write_bytes(before[:8] + b"\x01" + before[9:])
    quarantined = runs.verify(run.path).bad
    assert [task.stage.kind for task in quarantined] == [product]
    again = runs.resume(run.path, Recorder(), threading.Event())
    assert make_report(again).complete
    assert chunk.read_bytes() == before


def test_a_damaged_factor_met_by_inference_is_repaired(run_small: Run) -> None:
    run = run_small(readouts=ONE, solve={"tile": 16})
    factor = run.solved(make_report(run).solves[0].name, "factor")
    chunk = factor.chunk_path(1, 0)
    flip_bit(chunk)
    view = Recorder()
    again = run_small(view, readouts=ONE, solve={"tile": 16}, inference={"leave_one_out": True})
    assert any("damaged tile" in line for line in view.lines)
    assert make_report(again).complete


@pytest.mark.parametrize("tile", [8, 48])  # 8 cuts the test images, too
def test_the_posterior_covariance_is_that_of_a_gaussian_process(run_small: Run, tile: int) -> None:
    run = run_small(kernel={"tile": 8}, solve={"tile": tile}, inference={"covariance": True, "variance": True})
    report = make_report(run)
    assert [stage.stage for stage in report.stages][:4] == ["train", "test", "variance", "test_test"]
    for number, solve in enumerate(report.solves):
        dense = Dense(run, solve)
        prior = whole_test_kernel(run, solve.readout)
        explained = dense.test @ np.linalg.solve(dense.kernel + dense.ridge * np.eye(TRAIN), dense.test.T)
        array = run.inferred(solve.name, "posterior_covariance", "covariance")
        covariance = array.read_region((0, TEST), (0, TEST), symmetric=True)
        np.testing.assert_allclose(np.tril(covariance), np.tril(prior - explained), rtol=1e-7, atol=1e-12)
        variance = record_of(report, "posterior_variance", number)
        assert record_of(report, "posterior_covariance", number) == pytest.approx(variance, rel=1e-9)


def whole_test_kernel(run: RunDirectory, readout: str) -> np.ndarray:
    return run.kernel(readout, "test_test").read_region((0, TEST), (0, TEST), symmetric=True).astype(float)


def test_the_kernel_of_the_test_images_is_that_of_the_engine(run_small: Run) -> None:
    run = run_small(kernel={"tile": 8}, inference={"covariance": True})
    for readout in run.specification.readouts:
        network = spelling.read(readout.network, LAYERS)
        expected = kernel_matrix(network, np.asarray(run.inputs("test_images")[:]), kind=readout.kind)
        np.testing.assert_array_equal(whole_test_kernel(run, readout.name), expected)


def test_a_covariance_that_is_asked_for_later_computes_nothing_else_again(run_small: Run) -> None:
    before = run_small(inference={"variance": True}, readouts=ONE)
    view = Recorder()
    after = run_small(view, inference={"variance": True, "covariance": True}, readouts=ONE)
    assert after.fingerprint == before.fingerprint
    now = {moment.total: moment.entries_now for moment in view.moments}
    kernel, solve, inference = now.values()
    assert (kernel, solve, inference) == (TEST * (TEST + 1) // 2, 0, TEST * TEST)
