"""Calibrated probabilities of a run, against the estimators and scikit-learn."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
from support.problems import Recorder, flip_bit

import cntk_pipeline
from cntk_pipeline.config import RunConfig
from cntk_pipeline.errors import ConfigError
from cntk_pipeline.estimators import KernelClassifier
from cntk_pipeline.opened import OpenRun
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.report import make_report

pytestmark = pytest.mark.slow

Run = Callable[..., RunDirectory]
Config = Callable[..., RunConfig]

ONE = {"poolings": ["gap"], "kinds": ["nngp"]}
ASKED = {"calibration": True}
VECTORS = {
    "network": {"preset": "fully_connected"},
    "readouts": {"depths": [2]},
    "cluster": {"kind": "serial"},
    "kernel": {"dtype": "float64"},
    "solve": {"ridges": [0.1]},
    "inference": ASKED,
}
X = np.random.default_rng(0).standard_normal((40, 4))


def run_vectors(path: Path, y: np.ndarray, test: int = 10, **overrides: Any) -> OpenRun:
    data = {"x_train": X[test:], "y_train": y[test:], "x_test": X[:test], "y_test": y[:test]}
    return cntk_pipeline.run(VECTORS, data=data, store__path=path, progress=False, **overrides)


def test_a_run_has_the_probabilities_of_the_estimator(tmp_path: Path) -> None:
    y = (X[:, 0] + 0.5 * X[:, 1] ** 2 > 0.3).astype(int)
    run = run_vectors(tmp_path / "run", y)
    estimator = KernelClassifier("precomputed", ridge=0.1).fit(np.asarray(run.kernel()), y[10:])
    record = run.calibration().summary
    assert record.softmax_scale == pytest.approx(estimator.probabilities_.scale, rel=1e-5)
    chances = estimator.predict_proba(np.asarray(run.kernel(part="test")))
    np.testing.assert_allclose(run.probabilities(), chances, rtol=1e-5)
    np.testing.assert_array_equal(run.predict_proba(X[:10], say=None), run.probabilities())
    test = sklearn.metrics.log_loss(y[:10], chances)
    assert record.test.negative_log_likelihood == pytest.approx(test, rel=1e-5)
    (row,) = run.metrics
    assert row.negative_log_likelihood == record.test.negative_log_likelihood
    assert row.brier_score == pytest.approx(2 * sklearn.metrics.brier_score_loss(y[:10], chances[:, 1]), rel=1e-5)
    assert row.calibration_error == record.test.calibration_error
    left_out = estimator.probabilities_.of(estimator.leave_one_out_)
    assert record.left_out.negative_log_likelihood == pytest.approx(
        sklearn.metrics.log_loss(y[10:], left_out), rel=1e-5
    )
    assert "temperature" in repr(run.calibration())


def test_a_class_of_one_image_has_probabilities_too(tmp_path: Path) -> None:
    y = (X[:, 0] > 0).astype(int)
    y[20] = 2
    run = run_vectors(tmp_path / "run", y)
    chances = run.probabilities()
    assert chances.shape == (10, 3)
    np.testing.assert_allclose(chances.sum(1), 1.0)
    assert np.isfinite(run.calibration().summary.left_out.negative_log_likelihood)


def test_a_single_training_image_is_sure_of_nothing(tmp_path: Path) -> None:
    data = {"x_train": X[:1], "y_train": [0], "x_test": X[1:6], "y_test": [0, 1, 0, 1, 1]}
    run = cntk_pipeline.run(VECTORS, data=data, store__path=tmp_path / "run", progress=False)
    record = run.calibration().summary
    assert record.softmax_scale == pytest.approx(1e-4)
    np.testing.assert_allclose(run.probabilities(), 0.5, atol=1e-4)
    assert record.test.negative_log_likelihood == pytest.approx(np.log(2), rel=1e-3)
    assert "1e+04" in repr(run.calibration())  # the temperature


def chunks(run: RunDirectory) -> dict[str, bytes]:
    folder = run.path / "solve"
    paths = [*folder.glob("*/inference/calibration.json"), *folder.glob("*/inference/calibration.zarr/*/c/*")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_a_damaged_calibration_is_computed_again_to_the_same_bits(run_small: Run) -> None:
    run = run_small(readouts=ONE, inference=ASKED)
    before = chunks(run)
    assert len(before) == 2
    stages = {stage.stage for stage in make_report(run).stages}
    assert {"leave_one_out", "calibration"} <= stages
    (path,) = run.path.glob("solve/*/inference/calibration.zarr/softmax_scale/c/0")
    flip_bit(path)
    assert [task.stage.kind for task in runs.verify(run.path).bad] == ["calibration"]
    assert chunks(runs.resume(run.path, Recorder(), threading.Event())) == before


def test_the_bits_are_those_of_the_fit_without_a_product(run_small: Run, tmp_path: Path) -> None:
    sections = {"readouts": ONE, "solve": {"tile": 16}}
    two = {"kind": "local", "workers": 2, "threads_per_worker": 1}
    run = run_small(**sections, inference=ASKED)
    other = run_small(**sections, inference={"leave_one_out": True}, cluster=two, store={"path": str(tmp_path / "two")})
    np.testing.assert_array_equal(OpenRun(run).probabilities(), OpenRun(other).probabilities())


@pytest.mark.parametrize("y", [X[:, 0], np.zeros(40, int), (X[:, :2] > 0).astype(int)])
def test_data_without_classes_are_refused_by_name(tmp_path: Path, y: np.ndarray) -> None:
    with pytest.raises(ConfigError, match=r"inference.calibration needs a classification with one class an image"):
        run_vectors(tmp_path / "run", y)
    assert not (tmp_path / "run").exists()


def test_probabilities_need_no_factor_that_is_not_there(small_config: Config) -> None:
    config = small_config(solve={"solver": "cg"}, inference=ASKED)
    with pytest.raises(ConfigError, match=r"inference.calibration needs the factor of the solve"):
        runs.load(config)
