"""Runs at the edges: each figure is drawn, or refused with the reason."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.figures import drawn, run_of

from cntk_pipeline.errors import ConfigError
from cntk_pipeline.opened import OpenRun
from cntk_pipeline.plots import DISPLAYS

pytestmark = pytest.mark.slow

KEYS = ("learning_curve", "ridge_path", "training", "deviation", "kernel_matrix", "spectrum")

EVERYTHING: dict[str, Any] = {
    "readouts": {"kinds": ["ntk", "nngp"]},
    "inference": {
        "leave_one_out": True, "learning_curve": True, "posterior_variance": True, "ensemble": [1.0, "inf"],
        "spectrum": True,
    },
}  # fmt: skip


def require(run: OpenRun, refused: dict[str, str]) -> None:
    """Draw every figure, and hold those that are refused to their reasons."""
    for key in KEYS:
        if key in refused:
            with pytest.raises(ConfigError, match=refused[key]):
                DISPLAYS[key].from_run(run)
        else:
            drawn(DISPLAYS[key].from_run(run))


def vectors(count: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((count, 4))


def test_one_class(tmp_path: Path) -> None:
    labels = np.zeros(20, int)
    data = {"x_train": vectors(20), "y_train": labels, "x_test": vectors(30)[20:], "y_test": labels[:10]}
    refused = {"learning_curve": "has one class, or one test image", "deviation": "has one class: no prediction is"}
    require(run_of(tmp_path, data, **EVERYTHING), refused)


def test_one_class_chooses_a_ridge(tmp_path: Path) -> None:
    data = {"x_train": vectors(20), "y_train": np.zeros(20, int), "x_test": vectors(30)[20:]}
    run = run_of(tmp_path, data, solve={"ridges": "auto"})
    display = DISPLAYS["ridge_path"].from_run(run)
    (axes,) = drawn(display).axes
    assert axes.get_yscale() == "linear"


def test_two_images(tmp_path: Path) -> None:
    data = {"x_train": vectors(2), "y_train": np.array([0, 1]), "x_test": vectors(4)[2:], "y_test": np.array([0, 1])}
    require(run_of(tmp_path, data, **EVERYTHING), {})


def test_one_training_image_and_one_test_image(tmp_path: Path) -> None:
    data = {"x_train": vectors(1), "y_train": np.array([[0.5]]), "x_test": vectors(2)[1:], "y_test": np.array([[0.7]])}
    run = run_of(tmp_path, data, data={"task": "regression"}, **EVERYTHING)
    require(run, {"learning_curve": "has one class, or one test image"})


def test_without_labels_of_test_images(tmp_path: Path) -> None:
    data = {"x_train": vectors(20), "y_train": np.arange(20) % 2, "x_test": vectors(30)[20:]}
    asked = {key: value for key, value in EVERYTHING["inference"].items() if key != "learning_curve"}
    run = run_of(tmp_path, data, readouts=EVERYTHING["readouts"], inference=asked)
    refused = {"learning_curve": "was not asked for inference.learning_curve", "deviation": "has no labels of test"}
    require(run, refused)


def test_several_classes_an_image(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 2, (50, 4))
    data = {"x_train": vectors(30), "y_train": labels[:30], "x_test": vectors(50)[30:], "y_test": labels[30:]}
    run = run_of(tmp_path, data, data={"task": "multilabel"}, **EVERYTHING)
    require(run, {})
    right = (run.predictions("depth2-ntk") > 0.5) == (labels[30:] > 0.5)
    display = DISPLAYS["deviation"].from_run(run, "depth2-ntk")
    assert np.mean([group["score"] for group in display.to_json()["groups"]]) == pytest.approx(right.mean())


def test_a_thousand_classes(tmp_path: Path) -> None:
    labels = np.arange(1000)
    x = vectors(2000)
    data = {"x_train": x[:1000], "y_train": labels, "x_test": x[:1000] + 0.01 * x[1000:], "y_test": labels}
    sections = {"kernel": {"tile": 128}, "inference": {"learning_curve": [500, 1000], "posterior_variance": True}}
    run = run_of(tmp_path, data, solve={"ridges": "auto"}, **sections)
    require(run, {"training": "was not asked for inference.ensemble"})
    display = DISPLAYS["kernel_matrix"].from_run(run)
    assert len(display.tables()[1].rows) == 10
    assert display.tables()[1].title == "groups most alike"


def test_classes_of_hostile_names_are_shown_as_they_are(tmp_path: Path) -> None:
    names = np.array(["$x^2$", "<script>alert(1)</script>", "a" * 300])
    data = {
        "x_train": vectors(30), "y_train": names[np.arange(30) % 3], "x_test": vectors(40)[30:],
        "y_test": names[np.arange(10) % 3],
    }  # fmt: skip
    run = run_of(tmp_path, data, **EVERYTHING)
    require(run, {})
    axes = drawn(DISPLAYS["kernel_matrix"].from_run(run)).axes[0]
    texts = [text.get_text() for text in axes.get_yticklabels()]
    assert not any(text.get_parse_math() for text in axes.get_yticklabels())
    assert sorted(texts) == ["$x^2$", "<script>alert(1)<…", "a" * 17 + "…"]
