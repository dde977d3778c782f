"""The figure of leave-one-out over the ridge, against images that are truly left out."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import r2_score
from support.figures import dense, drawn, legend_of, numbers, pictures, run_of, ticks_of
from support.problems import stopped

from cntk_pipeline.config import RunConfig
from cntk_pipeline.datasets import one_hot_targets
from cntk_pipeline.errors import ConfigError, NotComputed
from cntk_pipeline.opened import OpenRun
from cntk_pipeline.plots import RidgePath, ridge_path
from cntk_pipeline.plots.displays.ridge_path import LeftOut, ReadoutPath
from cntk_pipeline.plots.scores import score_heights

CANDIDATES = tuple(float(f"1e{power}") for power in range(-7, 1))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> OpenRun:
    sections = {"readouts": {"depths": [2, 3]}, "solve": {"ridges": "auto"}}
    return run_of(tmp_path_factory.mktemp("auto"), pictures(), **sections)


def left_out(kernel: np.ndarray, targets: np.ndarray, ridge: float) -> np.ndarray:
    """Predict each image by a system without it; a relative ridge is that of all images."""
    predictions, absolute = np.empty_like(targets), ridge * np.trace(kernel) / len(kernel)
    for image in range(len(kernel)):
        rest = np.delete(np.arange(len(kernel)), image)
        system = kernel[np.ix_(rest, rest)] + absolute * np.eye(len(rest))
        predictions[image] = kernel[image, rest] @ np.linalg.solve(system, targets[rest])
    return predictions


def test_the_path_is_that_of_images_left_out(run: OpenRun) -> None:
    display = RidgePath.from_run(run)
    targets = one_hot_targets(run.labels.train, 3)
    assert [path.readout for path in display.paths] == ["depth2-ntk", "depth3-ntk"]
    for path in display.paths:
        assert path.ridges == CANDIDATES
        found = [left_out(dense(run, path.readout), targets, ridge) for ridge in CANDIDATES]
        errors = [np.mean((each - targets) ** 2) for each in found]
        assert path.squared_errors == pytest.approx(errors)
        assert path.scores == pytest.approx([np.mean(each.argmax(1) == run.labels.train) for each in found])
        assert path.chosen == CANDIDATES[int(np.argmin(errors))]


def test_each_system_stands_beside_its_test_images(run: OpenRun) -> None:
    display = RidgePath.from_run(run, "depth3-ntk")
    (system,), (path,) = display.systems, display.paths
    assert system.test_score == np.mean(run.predictions("depth3-ntk").argmax(1) == run.labels.test)
    assert path.chosen is not None
    at = path.ridges.index(path.chosen)
    assert (system.squared_error, system.score) == (path.squared_errors[at], path.scores[at])
    table = display.tables()[0]
    assert table.columns == ("accuracy", "accuracy, test images", "squared error")
    assert table.rows[0][1:3] == (f"{100 * (system.score or 0):.2f}%", f"{100 * system.test_score:.2f}%")


def test_the_chosen_ridge_has_a_ring(run: OpenRun) -> None:
    display = RidgePath.from_run(run)
    figure = drawn(display)
    errors, scores = figure.axes
    assert (errors.get_ylabel(), scores.get_ylabel()) == ("squared error", "accuracy (%)")
    assert scores.get_xlabel() == "ridge, relative to trace(K)/n"
    assert legend_of(figure) == ["depth2-ntk", "depth3-ntk", "chosen ridge"]
    for axes, values in (
        (errors, [path.squared_errors for path in display.paths]),
        (scores, [score_heights("accuracy", path.scores) for path in display.paths]),
    ):
        *lines, rings = axes.lines
        assert [tuple(line.get_xdata()) for line in lines] == [CANDIDATES, CANDIDATES]
        assert list(rings.get_xdata()) == [path.chosen for path in display.paths]
        least = [each[path.ridges.index(path.chosen)] for path, each in zip(display.paths, values, strict=True)]
        assert list(rings.get_ydata()) == least
    assert ticks_of(scores, "x")[1e-5] == "1e-5"
    assert [row[-1] for row in display.tables()[1].rows].count("chosen") == 2
    assert len(ridge_path(run, "depth2-ntk").axes[0].lines) == 2


def test_ridges_of_a_list_make_a_path_too(tmp_path: Path) -> None:
    sections = {"solve": {"ridges": [1.0, 0.0, 1e-2]}, "inference": {"leave_one_out": True}}
    run = run_of(tmp_path, numbers(1), data={"task": "regression"}, **sections)
    display = RidgePath.from_run(run)
    (path,) = display.paths
    assert (path.ridges, path.chosen, display.score) == ((0.0, 1e-2, 1.0), None, "R2")
    mean = run.labels.train.mean(axis=0)
    found = [mean + left_out(dense(run, "depth2-ntk"), run.labels.train - mean, ridge) for ridge in path.ridges]
    assert path.scores == pytest.approx([r2_score(run.labels.train, each) for each in found])
    assert path.squared_errors == pytest.approx([np.mean((each - run.labels.train) ** 2) for each in found])
    assert len(display.systems) == 3
    assert display.tables()[0].columns[-1] == "squared error, test images"
    figure = drawn(display)
    assert ticks_of(figure.axes[1], "x") == {1e-3: "0", 0.01: "0.01", 0.1: "0.1", 1.0: "1"}
    assert legend_of(figure) == ["depth2-ntk"]


def test_one_ridge_is_drawn_beside_the_test_images(tmp_path: Path) -> None:
    run = run_of(tmp_path, pictures(), readouts={"depths": [2, 3]}, inference={"leave_one_out": True})
    display = RidgePath.from_run(run)
    assert display.paths == ()
    (axes,) = drawn(display).axes
    left, test = axes.lines
    assert (left.get_label(), test.get_label()) == ("leave-one-out", "test images")
    assert list(left.get_xdata()) == [100 * run.leave_one_out(name).summary.accuracy for name in run.readouts]
    assert list(test.get_xdata()) == [100 * row.accuracy for row in run.metrics]
    assert [text.get_text() for text in axes.get_yticklabels()] == [system.system for system in display.systems]


def test_a_ridge_without_a_definite_kernel_is_a_gap() -> None:
    path = ReadoutPath("a", (1e-3, 1e-2, 1e-1), (None, 0.2, 0.3), (None, 0.9, 0.8), 1e-2)
    display = RidgePath("accuracy", "relative", (path,), (LeftOut("a", 0.2, 0.9, None, None),))
    line = drawn(display).axes[0].lines[0]
    assert np.isnan(line.get_ydata()[0])
    assert display.tables()[1].rows[0][1:] == ("0.001", "not positive definite", "", "")
    assert display.tables()[0].rows[0][2] == "none"


def test_an_unfinished_run_says_so(small_config: Callable[..., RunConfig]) -> None:
    unfinished = stopped(small_config(solve={"ridges": "auto"}), 2)
    with pytest.raises(NotComputed, match=r"leave-one-out is not computed yet. No driver is at work: `cntk resume"):
        RidgePath.from_run(unfinished)


def test_a_run_that_was_not_asked_says_what_to_add(tmp_path: Path) -> None:
    run = run_of(tmp_path, pictures())
    with pytest.raises(ConfigError, match='was not asked for leave-one-out: write ridges = "auto" under'):
        RidgePath.from_run(run)
