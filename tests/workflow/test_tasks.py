"""Runs of a regression, of several classes an image, and of test images without labels.

The right values come from scikit-learn: `KernelRidge` on the stored kernel, and its scores.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_linnerud
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics import accuracy_score, hamming_loss, mean_squared_error, r2_score
from support.problems import Recorder, whole_matrix

from cntk_pipeline import kernel_matrix
from cntk_pipeline.config import RunConfig
from cntk_pipeline.errors import ConfigError
from cntk_pipeline.layers import presets
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.report import RunReport, make_report, read_contents

pytestmark = pytest.mark.slow

Run = Callable[..., RunDirectory]
Config = Callable[..., RunConfig]
Save = Callable[..., dict[str, Any]]

RIDGE = 1e-2
NETWORK = {"network": {"preset": "fully_connected"}, "kernel": {"tile": 64, "dtype": "float64"}}
VECTORS: dict[str, Any] = NETWORK | {"readouts": {"depths": [2], "poolings": [], "kinds": ["ntk", "nngp"]}}


@pytest.fixture
def vectors(tmp_path: Path) -> Save:
    """Save arrays of vectors, and make the sections of a workflow of them."""

    def save(data: dict[str, Any] | None = None, **arrays: np.ndarray) -> dict[str, Any]:
        np.savez(tmp_path / "vectors.npz", **arrays)
        section = {"source": "npz", "path": str(tmp_path / "vectors.npz"), "standardize": "per_feature"}
        return VECTORS | {"data": section | (data or {}), "solve": {"ridges": [RIDGE]}}

    return save


def diabetes(count: int = 142) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    x, y = load_diabetes(return_X_y=True)
    x, y = x[: 300 + count], y[: 300 + count]
    arrays = {"x_train": x[:300], "y_train": y[:300] + 0.5, "x_test": x[300:], "y_test": y[300:] + 0.5}
    return arrays, arrays["y_train"], arrays["y_test"]


def stored(run: RunDirectory, solve: str, name: str) -> np.ndarray:
    array = run.solved(solve, name)
    return array.read_region(*((0, size) for size in array.shape))


def by_scikit_learn(run: RunDirectory, readout: str, ridge: float, y: np.ndarray) -> np.ndarray:
    """Predict by scikit-learn from the stored kernel: with centred targets, as `KernelRidge` has no constant."""
    train, test = (whole_matrix(run, readout, part) for part in ("train", "test"))
    fitted = KernelRidge(alpha=ridge, kernel="precomputed").fit(train, y - y.mean(axis=0))
    return fitted.predict(test) + y.mean(axis=0)


def products(report: RunReport, number: int = 0) -> dict[str, Any]:
    return {item.product: item.record for item in report.solves[number].inferred}


def test_a_regression_predicts_what_scikit_learn_does(run_small: Run, vectors: Save) -> None:
    arrays, y, y_test = diabetes()
    run = run_small(**vectors(**arrays))
    report = make_report(run)
    assert report.complete
    for solve in report.solves:
        expected = by_scikit_learn(run, solve.readout, solve.absolute_ridge or 0.0, y)
        found = stored(run, solve.name, "mean")[:, 0]
        np.testing.assert_allclose(found, expected, rtol=1e-8)
        assert solve.r2 == pytest.approx(r2_score(y_test, found), rel=1e-12)
        assert solve.squared_error == pytest.approx(mean_squared_error(y_test, found), rel=1e-12)
        assert solve.accuracy is None
        assert solve.r2 is not None
        assert solve.r2 > 0.3
    data = run.specification.data
    assert (data.task, data.classes) == ("regression", ("target",))
    assert runs.verify(run.path).bad == ()


def test_a_regression_on_the_stored_kernel_is_one_on_the_kernel_in_memory(run_small: Run, vectors: Save) -> None:
    arrays, y, _ = diabetes()
    run = run_small(**vectors(**arrays))
    both = np.concatenate([arrays["x_train"], arrays["x_test"]])
    scaled = (both - arrays["x_train"].mean(axis=0)) / arrays["x_train"].std(axis=0)
    kernel = kernel_matrix(presets.fully_connected(2), scaled, dtype="float64")
    ridge = RIDGE * np.trace(kernel[:300, :300]) / 300
    fitted = KernelRidge(alpha=ridge, kernel="precomputed").fit(kernel[:300, :300], y - y.mean())
    solve = next(each for each in make_report(run).solves if each.readout.endswith("ntk"))
    expected = fitted.predict(kernel[300:, :300]) + y.mean()
    np.testing.assert_allclose(stored(run, solve.name, "mean")[:, 0], expected, rtol=1e-8)


def test_each_target_of_several_has_its_r2(run_small: Run, vectors: Save) -> None:
    x, y = load_linnerud(return_X_y=True)
    run = run_small(**vectors({"train": 14}, x=x, y=y, targets=np.array(["weight", "waist", "pulse"])))
    solve = make_report(run).solves[0]
    found = stored(run, solve.name, "mean")
    np.testing.assert_allclose(
        found, by_scikit_learn(run, solve.readout, solve.absolute_ridge or 0.0, y[:14]), rtol=1e-8
    )
    assert solve.r2_of_targets == pytest.approx(r2_score(y[14:], found, multioutput="raw_values"), rel=1e-10)
    assert solve.r2 == pytest.approx(r2_score(y[14:], found), rel=1e-10)
    assert run.specification.data.classes == ("weight", "waist", "pulse")
    contents = read_contents(run)
    assert contents is not None
    assert contents.lines[0].endswith("3 targets of a regression (weight, waist, pulse)")
    assert contents.lines[1].startswith("weight: 154 to 247 in training, mean ")


ALL = {"leave_one_out": True, "learning_curve": [30, 300], "posterior_variance": True, "ensemble": ["inf", 2.0]}


def test_all_results_of_inference_are_in_the_units_of_the_targets(run_small: Run, vectors: Save) -> None:
    arrays, y, y_test = diabetes()
    run = run_small(**(vectors(**arrays) | {"inference": ALL}))
    report = make_report(run)
    solve, record = report.solves[0], products(report)
    kernel, test = (whole_matrix(run, solve.readout, part) for part in ("train", "test"))
    ridge = np.eye(300) * (solve.absolute_ridge or 0.0)

    left_out = np.empty(300)
    for i in range(300):
        others = np.delete(np.arange(300), i)
        alpha = np.linalg.solve((kernel + ridge)[np.ix_(others, others)], y[others] - y.mean())
        left_out[i] = kernel[i, others] @ alpha + y.mean()
    assert record["leave_one_out"].r2 == pytest.approx(r2_score(y, left_out), rel=1e-7)
    assert record["leave_one_out"].squared_error == pytest.approx(mean_squared_error(y, left_out), rel=1e-7)

    first = np.linalg.solve((kernel + ridge)[:30, :30], y[:30] - y.mean())
    expected = r2_score(y_test, test[:, :30] @ first + y.mean())
    assert record["learning_curve"].r2 == pytest.approx((expected, solve.r2), rel=1e-7)
    assert record["learning_curve"].accuracy is None

    (trained,) = report.trained
    without_ridge = np.linalg.solve(kernel, y - y.mean())
    assert solve.readout.endswith("ntk")
    assert trained.record.r2[0] == pytest.approx(r2_score(y_test, test @ without_ridge + y.mean()), rel=1e-4)
    assert trained.record.accuracy is None
    assert runs.verify(run.path).contradicted == ()


@pytest.mark.parametrize("way", ["eigenvalues", "factors"])
def test_the_ridge_of_a_regression_is_chosen_by_leave_one_out(
    run_small: Run, vectors: Save, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr("cntk_pipeline.inference.auto_ridge.in_memory", lambda *_: way == "eigenvalues")
    arrays, y, _ = diabetes()
    run = run_small(**(vectors(**arrays) | {"solve": {"ridges": "auto"}}))
    report = make_report(run)
    path = report.ridge_paths[0].record
    assert path is not None
    kernel = whole_matrix(run, report.ridge_paths[0].readout, "train")
    expected = []
    assert path.ridges == tuple(10.0**k for k in range(2, -8, -1))
    for ridge in path.absolute_ridges[:3]:
        inverse = np.linalg.inv(kernel + ridge * np.eye(300))
        left_out = y - (inverse @ (y - y.mean())) / np.diagonal(inverse)
        expected.append((r2_score(y, left_out), mean_squared_error(y, left_out)))
    assert path.r2 is not None
    np.testing.assert_allclose(list(zip(path.r2[:3], path.squared_error[:3], strict=True)), expected, rtol=1e-7)
    assert path.chosen == path.ridges[int(np.argmax(path.r2))]
    assert runs.verify(run.path).contradicted == ()


def several(count: int = 80) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((count, 6))
    return x, (x[:, :3] + 0.3 * rng.standard_normal((count, 3)) > [0.8, 0.0, -0.5]).astype(np.int64)


def test_several_classes_an_image_are_predicted_each_by_itself(run_small: Run, vectors: Save) -> None:
    x, y = several()
    names = np.array(["round", "red", "old"])
    run = run_small(**(vectors({"train": 60}, x=x, y=y, classes=names) | {"inference": {"leave_one_out": True}}))
    report = make_report(run)
    solve = report.solves[0]
    assert run.specification.data.task == "multilabel"
    found = stored(run, solve.name, "mean")
    expected = by_scikit_learn(run, solve.readout, solve.absolute_ridge or 0.0, y[:60].astype(float))
    np.testing.assert_allclose(found, expected, rtol=1e-8)
    answers = (found > 0.5).astype(int)
    assert solve.accuracy == pytest.approx(1 - hamming_loss(y[60:], answers))
    assert solve.exact_match == pytest.approx(accuracy_score(y[60:], answers))
    assert solve.accuracy is not None
    assert 0.8 < solve.accuracy < 1
    assert solve.r2 is None
    assert 0.8 < products(report)["leave_one_out"].accuracy < 1
    contents = read_contents(run)
    assert contents is not None
    assert contents.lines[0].endswith("3 classes, several an image")


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_test_images_without_labels_are_predicted_without_scores(run_small: Run, vectors: Save, task: str) -> None:
    x, y = several()
    known = {"x_train": x[:60], "y_train": y[:60, 1]}
    sections = vectors({"task": task}, **known, x_test=x[60:])
    run = run_small(**(sections | {"inference": {"ensemble": ["inf"], "posterior_variance": True}}))
    report = make_report(run)
    assert report.complete
    assert not run.specification.data.has_test_labels
    assert not (run.inputs_path / "test_labels").exists()
    for solve in report.solves:
        assert (solve.accuracy, solve.r2, solve.squared_error) == (None, None, None)
    predictions = stored(run, report.solves[0].name, "mean")
    labelled = run_small(**(vectors({"task": task}, **known, x_test=x[60:], y_test=y[60:, 1]) | elsewhere(run)))
    np.testing.assert_array_equal(predictions, stored(labelled, make_report(labelled).solves[0].name, "mean"))
    assert runs.verify(run.path).bad == ()
    contents = read_contents(run)
    assert contents is not None
    assert contents.lines[0].endswith("the test images have no labels")


def elsewhere(run: RunDirectory) -> dict[str, Any]:
    return {"store": {"path": f"{run.path}-other"}}


def test_a_learning_curve_needs_labels_of_the_test_images(small_config: Config, vectors: Save) -> None:
    x, y = several()
    sections = vectors(x_train=x[:60], y_train=y[:60, 0], x_test=x[60:])
    config = small_config(**(sections | {"inference": {"learning_curve": True}}))
    with pytest.raises(ConfigError, match=r"inference.learning_curve compares predictions with labels .*leave it out"):
        runs.plan(config)
    assert not Path(str(config.store.path)).exists()


def test_a_grown_regression_is_that_of_a_run_from_scratch(run_small: Run, vectors: Save) -> None:
    arrays, y, _ = diabetes()
    few = vectors({"standardize": False, "train": 192}, **arrays)
    old = run_small(**few)
    more = few | {"data": few["data"] | {"train": 300}}
    view = Recorder()
    grown = run_small(view, **(more | {"store": {"path": f"{old.path}-more", "grow_from": str(old.path)}}))
    scratch = run_small(**(more | {"store": {"path": f"{old.path}-scratch"}}))
    assert any(line.startswith("taken over 6 of ") for line in view.lines)
    for mine, its in zip(make_report(grown).solves, make_report(scratch).solves, strict=True):
        np.testing.assert_array_equal(stored(grown, mine.name, "mean"), stored(scratch, its.name, "mean"))
        expected = by_scikit_learn(grown, mine.readout, mine.absolute_ridge or 0.0, y)
        np.testing.assert_allclose(stored(grown, mine.name, "mean")[:, 0], expected, rtol=1e-8)


def test_a_grown_regression_with_one_absolute_ridge_solves_anew_as_the_mean_is_another(
    run_small: Run, vectors: Save
) -> None:
    """The factor is kept, since the ridge is the same; the targets are not, since their mean is another."""
    arrays, y, _ = diabetes()
    few = vectors({"standardize": False, "train": 192}, **arrays) | {
        "solve": {"ridges": [1.0], "ridge_mode": "absolute"}
    }
    old = run_small(**few)
    more = few | {"data": few["data"] | {"train": 300}}
    view = Recorder()
    grown = run_small(view, **(more | {"store": {"path": f"{old.path}-more", "grow_from": str(old.path)}}))
    assert any(line.startswith("taken over ") and line.endswith(" of factor") for line in view.lines)
    solve = make_report(grown).solves[0]
    expected = by_scikit_learn(grown, solve.readout, 1.0, y)
    np.testing.assert_allclose(stored(grown, solve.name, "mean")[:, 0], expected, rtol=1e-8)


def test_conjugate_gradients_solve_a_regression(run_small: Run, vectors: Save) -> None:
    arrays, y, _ = diabetes()
    run = run_small(**(vectors(**arrays) | {"solve": {"solver": "cg", "ridges": [0.1], "tolerance": 1e-12}}))
    solve = make_report(run).solves[0]
    expected = by_scikit_learn(run, solve.readout, solve.absolute_ridge or 0.0, y)
    np.testing.assert_allclose(stored(run, solve.name, "mean")[:, 0], expected, rtol=1e-8)


def test_damaged_targets_are_found_and_written_anew(run_small: Run, vectors: Save) -> None:
    arrays, _, _ = diabetes()
    sections = vectors(**arrays)
    run = run_small(**sections)
    for name in ("train_targets/c/0/0", "target_mean/c/0"):
        chunk = Path(str(run.inputs_path / name))
        whole = chunk.read_bytes()
        chunk.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
        assert [path.name for path in runs.verify(run.path).lost] == [chunk.name]
        run_small(**sections)
        assert chunk.read_bytes() == whole
