"""The figure of a learning curve, against the predictions of smaller systems by hand."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import r2_score
from support.figures import RIDGE, dense, drawn, legend_of, numbers, pictures, run_of, ticks_of
from support.problems import stopped

from cntk_pipeline.config import RunConfig
from cntk_pipeline.datasets import one_hot_targets
from cntk_pipeline.errors import ConfigError, NotComputed
from cntk_pipeline.opened import OpenRun
from cntk_pipeline.plots import LearningCurve, learning_curve
from cntk_pipeline.plots.displays.learning_curve import Curve

SIZES = [1, 9, 14, 20, 28, 41]  # one image is no better than a guess


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> OpenRun:
    folder = tmp_path_factory.mktemp("curve")
    sections = {"readouts": {"depths": [2, 3]}, "inference": {"learning_curve": SIZES}}
    return run_of(folder, pictures(), **sections)


def means_of(run: OpenRun, readout: str, size: int, targets: np.ndarray) -> np.ndarray:
    """Solve the system of the first images, with the absolute ridge of all."""
    kernel, test = dense(run, readout), dense(run, readout, "test")
    ridge = RIDGE * np.trace(kernel) / len(kernel)
    return test[:, :size] @ np.linalg.solve(kernel[:size, :size] + ridge * np.eye(size), targets[:size])


def test_errors_are_those_of_the_first_training_images(run: OpenRun) -> None:
    display = LearningCurve.from_run(run)
    assert [curve.system.split(",")[0] for curve in display.curves] == ["depth2-ntk", "depth3-ntk"]
    targets = one_hot_targets(run.labels.train, 3)
    for curve in display.curves:
        means = [means_of(run, curve.system.split(",")[0], size, targets) for size in SIZES]
        assert curve.sizes == tuple(SIZES)
        assert curve.errors == pytest.approx([np.mean(mean.argmax(1) != run.labels.test) for mean in means])


def test_the_law_is_fitted_to_binomial_shares_below_those_of_guessing(run: OpenRun) -> None:
    display = LearningCurve.from_run(run, "depth3-ntk")
    (curve,) = display.curves
    labels = run.labels.test
    assert labels is not None
    assert display.guess == 1 - max(np.mean(labels == label) for label in range(3))
    below = np.array(curve.errors) <= 0.9 * display.guess
    assert not below[0]
    sizes, errors = np.array(SIZES)[below], np.array(curve.errors)[below]
    weights = np.sqrt(errors * len(labels) / (1 - errors))
    assert curve.law is not None
    assert curve.law.sizes == tuple(sizes)
    assert curve.law.exponent == pytest.approx(-np.polyfit(np.log(sizes), np.log(errors), 1, w=weights)[0])


def test_each_system_has_its_points_and_its_law(run: OpenRun) -> None:
    figure = drawn(LearningCurve.from_run(run))
    (axes,) = figure.axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("training images", "error on test images (%)")
    display = LearningCurve.from_run(run)
    points = [line for line in axes.lines if line.get_marker() != "None"]
    assert [tuple(line.get_ydata()) for line in points] == [curve.errors for curve in display.curves]
    laws = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert len(laws) == sum(curve.law is not None for curve in display.curves) > 0
    assert [text.split(":")[0] for text in legend_of(figure)] == [curve.system for curve in display.curves]
    assert all(float(text) == pytest.approx(100 * place) for place, text in ticks_of(axes, "y").items())
    assert len(learning_curve(run, "depth2-ntk").axes[0].lines) < len(axes.lines)


def test_tables_have_every_size_and_every_law(run: OpenRun) -> None:
    display = LearningCurve.from_run(run)
    laws, errors = display.tables()
    assert len(errors.rows) == 2 * len(SIZES)
    assert errors.rows[-1][1:] == ("41", f"{100 * display.curves[1].errors[-1]:.2f}%")
    law = display.curves[0].law
    assert law is not None
    assert laws.rows[0][1] == f"{-law.exponent:.3f} ± {law.exponent_error:.3f}"


@pytest.mark.parametrize(("of", "said"), [("training images", "11 images"), ("centres", "11 centres")])
def test_the_text_names_the_largest_size_that_was_asked_for(of: str, said: str) -> None:
    """It need not be all training images, and with centres it is none of them."""
    curves = (Curve("a", (5, 11), (0.6, 0.3), None), Curve("b", (5, 11), (0.5, 0.4), None))
    display = LearningCurve("error", 0.9, curves, of)
    assert f"The smallest with {said} is 30.00%, of a; with 5 " in display.alt
    assert "all images" not in display.alt


def test_an_error_of_zero_is_in_the_table_only() -> None:
    display = LearningCurve("error", 0.9, (Curve("a", (10, 20, 40), (0.2, 0.1, 0.0), None),))
    (line,) = drawn(display).axes[0].lines
    assert list(line.get_xdata()) == [10, 20]
    assert display.tables()[1].rows[-1] == ("a", "40", "0.00%")
    assert display.tables()[0].rows[0][1] == "none"


def test_no_error_at_all_is_drawn_empty() -> None:
    drawn(LearningCurve("error", 0.5, (Curve("a", (10, 20), (0.0, 0.0), None),)))


def test_six_systems_of_many_are_drawn() -> None:
    curves = tuple(Curve(f"s{k}", (10, 20), (0.5, 0.4 - 0.01 * k), None) for k in range(9))
    display = LearningCurve("error", 0.9, curves)
    assert legend_of(drawn(display)) == ["s3", "s4", "s5", "s6", "s7", "s8"]
    assert len(display.tables()[0].rows) == 9


def test_a_regression_has_one_minus_r2(tmp_path: Path) -> None:
    run = run_of(tmp_path, numbers(2), data={"task": "regression"}, inference={"learning_curve": [15, 30, 60]})
    display = LearningCurve.from_run(run)
    mean = run.labels.train.mean(axis=0)
    expected = [
        1 - r2_score(run.labels.test, mean + means_of(run, "depth2-ntk", size, run.labels.train - mean))
        for size in (15, 30, 60)
    ]
    assert display.curves[0].errors == pytest.approx(expected)
    assert display.curves[0].law is None
    assert drawn(display).axes[0].get_ylabel() == "1 - R2 on test images"
    assert not re.search("%", display.alt)


def test_a_run_without_a_curve_says_so(
    run_small: Callable[..., object], small_config: Callable[..., RunConfig]
) -> None:
    unfinished = stopped(small_config(inference={"learning_curve": [5, 37]}), 2)
    with pytest.raises(NotComputed, match=r"inference.learning_curve is not computed yet. No driver is at work: `cntk"):
        LearningCurve.from_run(unfinished)


def test_a_run_that_was_not_asked_says_what_to_add(run: OpenRun) -> None:
    with pytest.raises(ConfigError, match=r"has no ridge 0.5: its workflow has 0.01"):
        LearningCurve.from_run(run, ridge=0.5)
