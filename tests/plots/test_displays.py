"""Figures of a run, against its own arrays by NumPy and scikit-learn."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics
from support import pictured
from support.problems import SPECIFICATION, stop_at

from cntk_pipeline import plots
from cntk_pipeline.config import RunConfig
from cntk_pipeline.datasets.cifar10_layouts import CLASSES
from cntk_pipeline.errors import ConfigError, Interrupted, NotComputed
from cntk_pipeline.layers import presets, spelling
from cntk_pipeline.opened import OpenRun, open_run
from cntk_pipeline.opened.pictures import as_picture, read_samples
from cntk_pipeline.plots import DISPLAYS, Accuracy, ConfusionMatrix, Mistakes, Network, Reliability
from cntk_pipeline.plots.displays.network import LayerRow, repeated
from cntk_pipeline.plots.paper import ACCURACIES, paper_points
from cntk_pipeline.regression.probabilities import calibration_error
from cntk_pipeline.rundir.specification import ReadoutSpecification
from cntk_pipeline.workflow import run as runs

SYSTEM = ("depth4-gap-ntk", 1.0)


NOT_ASKED = {"learning_curve", "training", "deviation"}


@pytest.mark.parametrize("key", sorted(NOT_ASKED))
def test_a_figure_that_a_run_was_not_asked_for_says_what_to_add(pictured_run: OpenRun, key: str) -> None:
    with pytest.raises(ConfigError, match=r"was not asked for inference.*: add it to the workflow file"):
        DISPLAYS[key].from_run(pictured_run)


@pytest.mark.parametrize("key", sorted(DISPLAYS))
@pytest.mark.parametrize(("given", "told"), [("runs/x", "'runs/x'"), (Path("runs/x"), ".*Path.*"), (None, "None")])
def test_a_figure_of_what_is_no_open_run_says_how_to_open_one(key: str, given: object, told: str) -> None:
    path = "runs/name" if given is None else "runs/x"
    expected = rf'^expected an open run, got {told}: give cntk_pipeline\.open_run\("{path}"\)$'
    for draw in (getattr(plots, key), DISPLAYS[key].from_run):
        with pytest.raises(ConfigError, match=expected):
            draw(given)


@pytest.mark.parametrize("key", [key for key in DISPLAYS if key not in NOT_ASKED])
def test_each_figure_has_a_function_a_text_tables_and_numbers(pictured_run: OpenRun, key: str) -> None:
    display = DISPLAYS[key].from_run(pictured_run)
    assert display.key == key
    assert display.alt.endswith(".")
    figure = getattr(plots, key)(pictured_run)
    assert figure.axes
    assert figure.get_size_inches().tolist() == [6.4, display.height]
    json.dumps(display.to_json(), allow_nan=False)
    for shown in display.tables():
        assert {len(row) for row in shown.rows} == {len(shown.columns) + 1}


def test_the_best_system_is_that_of_the_best_leave_one_out(pictured_run: OpenRun) -> None:
    scores = {
        (row.readout, row.ridge): pictured_run.leave_one_out(row.readout, row.ridge).summary.accuracy
        for row in pictured_run.metrics
    }
    best = pictured_run.best
    assert scores[best.readout, best.ridge] == max(scores.values())
    by_tests = max(pictured_run.metrics, key=lambda row: row.accuracy)
    assert (best.readout, best.ridge) != (by_tests.readout, by_tests.ridge)  # so that this test can fail


def test_accuracies_are_those_of_the_run_over_depth(pictured_run: OpenRun) -> None:
    display = Accuracy.from_run(pictured_run)
    assert [(point.readout, point.ridge, point.score) for point in display.points] == [
        (row.readout, row.ridge, row.accuracy) for row in pictured_run.metrics
    ]
    assert {(point.depth, point.series) for point in display.points} == {
        (depth, name) for depth in (3, 4) for name in ("flatten-ntk", "gap-ntk")
    }
    axes = display.plot().axes[0]
    line = next(line for line in axes.lines if line.get_label() == "gap-ntk")
    expected = [max(p.score for p in display.points if (p.depth, p.series) == (depth, "gap-ntk")) for depth in (3, 4)]
    np.testing.assert_allclose(line.get_ydata(), 100 * np.array(expected))
    one = Accuracy.from_run(pictured_run, (3, "gap", "ntk"), 1.0)
    assert [(point.readout, point.ridge) for point in one.points] == [("depth3-gap-ntk", 1.0)]


def test_a_ridge_that_the_run_has_not_is_named(pictured_run: OpenRun) -> None:
    with pytest.raises(ConfigError, match=r"has no ridge 3: its workflow has 0.01, 1"):
        Accuracy.from_run(pictured_run, ridge=3)


@pytest.mark.parametrize(("train", "source"), [(2000, 2000), (20000, 50000)])
def test_the_papers_accuracies_belong_to_its_networks_on_its_images(train: int, source: int) -> None:
    networks = {
        "v": presets.cntk(6),
        "gap": presets.cntk(21, "gap"),
        "other": presets.cntk(6, "gap", trained_ends=True),
    }
    readouts = tuple(ReadoutSpecification(name, "ntk", spelling.spell(each)) for name, each in networks.items())
    readouts += (ReadoutSpecification("nngp", "nngp", readouts[0].network),)
    data = dataclasses.replace(SPECIFICATION.data, train=train, shape=(32, 32, 3), classes=CLASSES)
    found = paper_points(dataclasses.replace(SPECIFICATION, data=data, readouts=readouts, tile=500))
    assert [(point.readout, point.name, point.depth) for point in found] == [
        ("v", "CNTK-V", 6),
        ("gap", "CNTK-GAP", 21),
    ]
    assert [point.accuracy for point in found] == [
        pytest.approx(ACCURACIES["CNTK-V", source][2] / 100), pytest.approx(ACCURACIES["CNTK-GAP", source][4] / 100)
    ]  # fmt: skip
    digits = dataclasses.replace(data, classes=("a", "b"))
    assert paper_points(dataclasses.replace(SPECIFICATION, data=digits, readouts=readouts, tile=500)) == ()


def test_a_confusion_matrix_is_that_of_scikit_learn(pictured_run: OpenRun) -> None:
    display = ConfusionMatrix.from_run(pictured_run, *SYSTEM)
    labels, predicted = pictured_run.labels.test, pictured_run.predictions(*SYSTEM).argmax(1)
    np.testing.assert_array_equal(display.counts, sklearn.metrics.confusion_matrix(labels, predicted))
    np.testing.assert_allclose(display.accuracies, sklearn.metrics.recall_score(labels, predicted, average=None))
    rows = display.tables()[1].rows
    assert sum(int(row[2]) for row in rows) == np.count_nonzero(labels != predicted)
    texts = {text.get_text() for text in display.plot().axes[0].texts}
    assert texts == {str(count) for count in display.counts.flat if count}


def test_mistakes_are_the_largest_margins_and_their_neighbours_the_largest_correlations(pictured_run: OpenRun) -> None:
    display = Mistakes.from_run(pictured_run, *SYSTEM)
    labels, means = pictured_run.labels.test, pictured_run.predictions(*SYSTEM)
    margins = {
        k: row.max() - row[label]
        for k, (row, label) in enumerate(zip(means, labels, strict=True))
        if row.argmax() != label
    }
    assert display.wrong == len(margins) > 8
    assert [each.index for each in display.mistakes] == sorted(margins, key=lambda k: -margins[k])[:8]
    kernel, test, train = (
        np.asarray(pictured_run.kernel(SYSTEM[0], part), np.float64)
        for part in ("test", "test_variance", "train_variance")
    )
    correlations = kernel / np.sqrt(np.outer(test, train))
    data = pictured.picture_data()
    for mistake, samples in zip(display.mistakes, display.samples, strict=True):
        row = correlations[mistake.index]
        assert [near.index for near in mistake.neighbours] == np.argsort(-row)[:3].tolist()
        assert [near.correlation for near in mistake.neighbours] == pytest.approx(sorted(row)[::-1][:3])
        assert all(near.class_name == data["y_train"][near.index] for near in mistake.neighbours)
        assert mistake.true == data["y_test"][mistake.index]
        np.testing.assert_array_equal(as_picture(samples[0]), data["x_test"][mistake.index])
        np.testing.assert_array_equal(as_picture(samples[2]), data["x_train"][mistake.neighbours[1].index])


@pytest.mark.parametrize("part", ["test", "train_variance", "test_variance"])
def test_missing_tiles_of_a_kernel_do_not_drop_neighbours(pictured_run: OpenRun, part: str, tmp_path: Path) -> None:
    """Their values are NaN, so that an image would be no neighbour of any, and the page would not say so."""
    copy = open_run(shutil.copytree(str(pictured_run.path), tmp_path / "copy"))
    tiles = (tmp_path / "copy" / "kernel.zarr" / SYSTEM[0] / part / "c").rglob("*")
    next(path for path in tiles if path.is_file()).unlink()
    with pytest.raises(NotComputed, match=rf"tiles of depth4-gap-ntk/{part} are missing. .*`cntk resume"):
        Mistakes.from_run(copy, *SYSTEM)


def test_a_run_without_mistakes_says_so(tmp_path: Path) -> None:
    data = pictured.picture_data()
    data["x_test"], data["y_test"] = data["x_train"][:5], data["y_train"][:5]
    run = pictured.start(
        tmp_path / "run", data, readouts={"depths": [3], "poolings": ["flatten"]}, solve={"ridges": [1e-6]}
    )
    with pytest.raises(ConfigError, match="makes no mistake on 5 test images"):
        Mistakes.from_run(run)


def test_images_are_those_that_the_run_was_given(pictured_run: OpenRun) -> None:
    data = pictured.picture_data()
    samples = read_samples(pictured_run.directory, "train", [59, 0, 7])
    np.testing.assert_allclose(samples, data["x_train"][[59, 0, 7]] / 255, atol=1e-6)
    np.testing.assert_array_equal(as_picture(samples[1]), data["x_train"][0])


def test_pictures_of_any_range_and_channels_can_be_seen() -> None:
    ramp = np.linspace(-3, 5, 12).reshape(2, 3, 2)
    picture = as_picture(ramp)
    assert picture.shape == (2, 3, 3)
    assert picture.dtype == np.uint8
    assert (picture[0, 0, 0], picture[1, 2, 0]) == (12, 243)  # the mean of two of twelve even steps
    assert not as_picture(np.full((2, 2, 1), 7.0)).any()


def test_reliability_is_that_of_the_probabilities(pictured_run: OpenRun) -> None:
    display = Reliability.from_run(pictured_run, *SYSTEM)
    probabilities, labels = pictured_run.probabilities(*SYSTEM), pictured_run.labels.test
    np.testing.assert_allclose(
        probabilities, pictured_run.predict_proba(pictured.picture_data()["x_test"], *SYSTEM, say=None), atol=1e-6
    )
    np.testing.assert_array_equal(display.counts, np.histogram(probabilities.max(1), 15, (0, 1))[0])
    assert display.counts.sum() == len(labels)
    np.testing.assert_allclose(np.nansum(display.counts * display.confidence), probabilities.max(1).sum())
    np.testing.assert_allclose(np.nansum(display.counts * display.accuracy), np.sum(probabilities.argmax(1) == labels))
    gaps = np.nansum(display.counts * np.abs(display.accuracy - display.confidence)) / len(labels)
    assert display.error == pytest.approx(gaps) == pytest.approx(calibration_error(probabilities, labels))
    right = probabilities[np.arange(len(labels)), labels]
    assert display.negative_log_likelihood == pytest.approx(-np.log(right).mean())
    squares = np.square(probabilities - np.eye(probabilities.shape[1])[labels]).sum(1).mean()
    assert display.brier_score == pytest.approx(squares)
    assert f"Brier score {squares:.4f}" in display.tables()[0].title


def test_a_network_is_drawn_with_its_repetitions_counted(pictured_run: OpenRun) -> None:
    display = Network.from_run(pictured_run, (4, "gap", "ntk"))
    assert [row.layer for row in display.layers][-2:] == ["GlobalAvgPool()", "Dense(trained=False)"]
    assert sum(len(block.layers) * block.times for block in display.blocks) == len(display.layers)
    drawn = " ".join(text.get_text() for text in display.plot().axes[0].texts)
    assert "2 times" in drawn
    assert "Relu()" in drawn


def test_the_longest_repetition_wins() -> None:
    rows = [LayerRow(name, "s", 0, 0) for name in "xababab" + "cc"]
    assert [(block.layers, block.times) for block in repeated(rows)] == [
        (("x",), 1), (("a", "b"), 3), (("c",), 2)
    ]  # fmt: skip


def test_figures_of_an_unfinished_run_say_what_is_lacking(small_config: Callable[..., RunConfig]) -> None:
    config = small_config(readouts={"poolings": ["gap"], "kinds": ["ntk"]})
    view, stop = stop_at(2)
    with pytest.raises(Interrupted):
        runs.start(config, view, stop)
    run = open_run(str(config.store.path))
    for display in (Accuracy, ConfusionMatrix, Mistakes):
        with pytest.raises(NotComputed, match="no system is solved yet"):
            display.from_run(run)
    assert Network.from_run(run).layers
    with pytest.raises(NotComputed, match="no system is solved yet; `cntk status"):
        _ = run.best
