"""The figure of the posterior deviation, against the posterior by hand."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest
from support.figures import RIDGE, TEST, dense, drawn, legend_of, numbers, pictures, run_of
from support.problems import flip_bit, stopped

from cntk_pipeline.config import RunConfig
from cntk_pipeline.datasets import one_hot_targets
from cntk_pipeline.errors import ConfigError, NotComputed
from cntk_pipeline.opened import OpenRun, open_run
from cntk_pipeline.plots import Deviation, deviation
from cntk_pipeline.plots.displays.deviation import wilson
from cntk_pipeline.workflow import run as runs

ASKED = {"inference": {"posterior_variance": True}}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> OpenRun:
    return run_of(tmp_path_factory.mktemp("classes"), pictures(), **ASKED)


@pytest.fixture(scope="module")
def regression(tmp_path_factory: pytest.TempPathFactory) -> OpenRun:
    return run_of(tmp_path_factory.mktemp("numbers"), numbers(2), data={"task": "regression"}, **ASKED)


def posterior(run: OpenRun, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Evaluate means, variances, the factor of each column, and the absolute ridge by hand."""
    kernel, test = dense(run, "depth2-ntk"), dense(run, "depth2-ntk", "test")
    ridge = RIDGE * np.trace(kernel) / len(kernel)
    inverse = np.linalg.inv(kernel + ridge * np.eye(len(kernel)))
    prior = np.asarray(run.kernel("depth2-ntk", "test_variance"), float)
    variances = prior - np.einsum("ij,jk,ik->i", test, inverse, test)
    return test @ inverse @ targets, variances, np.diagonal(targets.T @ inverse @ targets) / len(kernel), ridge


def test_groups_are_tenths_by_deviation(run: OpenRun) -> None:
    means, variances, factors, _ = posterior(run, one_hot_targets(run.labels.train, 3))
    deviations, right = np.sqrt(variances * factors.mean()), means.argmax(1) == run.labels.test
    display = Deviation.from_run(run)
    order = np.argsort(deviations)
    assert [group.images for group in display.groups] == [TEST // 10] * 10
    for group, rows in zip(display.groups, order.reshape(10, -1), strict=True):
        assert group.deviation == pytest.approx(deviations[rows].mean())
        assert group.score == right[rows].mean()
        interval = binomtest(int(right[rows].sum()), len(rows)).proportion_ci(method="wilson")
        assert (group.low, group.high) == pytest.approx((interval.low, interval.high), abs=1e-4)
    assert 0 < right.mean() < 1


@pytest.mark.parametrize(("right", "count"), [(0, 1), (1, 1), (3, 7), (300, 1000)])
def test_the_interval_is_that_of_wilson(right: int, count: int) -> None:
    expected = binomtest(right, count).proportion_ci(method="wilson")
    assert wilson(right / count, count) == pytest.approx((expected.low, expected.high), abs=1e-4)


def test_each_group_has_a_point_with_its_interval(run: OpenRun) -> None:
    display = Deviation.from_run(run)
    (axes,) = drawn(display).axes
    (points, _, (bars,)) = axes.containers[0]
    assert list(points.get_ydata()) == pytest.approx([100 * group.score for group in display.groups])
    ends = [segment[:, 1] for segment in bars.get_segments()]
    assert np.allclose(ends, [(100 * (group.low or 0), 100 * (group.high or 0)) for group in display.groups])
    assert [float(text.get_text()) for text in axes.get_xticklabels()] == pytest.approx(
        [group.deviation for group in display.groups], rel=5e-3
    )
    (table,) = display.tables()
    assert table.rows[0][3] == f"{100 * display.groups[0].score:.2f}%"
    assert len(deviation(run).axes[0].containers) == 1


def test_a_regression_counts_errors_within_deviations(regression: OpenRun) -> None:
    labels, spread = regression.labels, regression.labels.train.std(axis=0)
    centre = labels.train.mean(axis=0)
    means, variances, factors, ridge = posterior(regression, labels.train - centre)
    errors = np.abs(means + centre - labels.test)
    display = Deviation.from_run(regression)
    for k, target in enumerate(display.targets):
        for noise, inside in ((0.0, target.inside), (ridge, target.inside_with_noise)):
            deviations = np.sqrt((variances + noise) * factors[k])
            assert inside == tuple(np.mean(errors[:, k] <= times * deviations) for times in (1, 2))
        order = np.argsort(variances)
        np.testing.assert_allclose(target.errors, (errors[:, k] / spread[k])[order])
        np.testing.assert_allclose(target.deviations, np.sqrt(variances * factors[k])[order] / spread[k])
    rows = np.array_split(np.argsort(variances), 10)[-1]
    assert display.groups[-1].score == pytest.approx(np.sqrt(np.mean((errors[rows] / spread) ** 2)))
    assert display.groups[-1].low is None
    assert display.unit == "in standard deviations of each target"


def test_a_regression_is_drawn_with_its_deviations(regression: OpenRun) -> None:
    display = Deviation.from_run(regression)
    figure = drawn(display)
    (axes,) = figure.axes
    assert legend_of(figure) == [
        *regression.classes, "error of one deviation", "error of two deviations", "root mean squared error of a group",
    ]  # fmt: skip
    one, two = axes.lines[2:4]
    assert list(one.get_ydata()) == list(one.get_xdata())
    assert list(two.get_ydata()) == [2 * x for x in two.get_xdata()]
    shares, groups = display.tables()
    assert shares.rows[-1] == ("a Gaussian", "68.3%", "95.5%", "68.3%", "95.5%")
    assert len(groups.rows) == 10


def test_one_target_keeps_its_unit(tmp_path: Path) -> None:
    run = run_of(tmp_path, numbers(1), data={"task": "regression"}, **ASKED)
    display = Deviation.from_run(run)
    errors = np.abs(run.predictions() - run.labels.test)[:, 0]
    assert sorted(display.targets[0].errors) == pytest.approx(sorted(errors))
    assert display.unit == "in the unit of the target"


def test_a_constant_target_keeps_its_unit_too(tmp_path: Path) -> None:
    """The deviation of eleven times 0.1 is 1e-17, not 0: no unit to measure errors in."""
    data = numbers(2)
    for part in ("y_train", "y_test"):
        data[part] = data[part].copy()
        data[part][:, 1] = 0.1
    data["y_test"][:, 1] = 0.3
    display = Deviation.from_run(run_of(tmp_path, data, data={"task": "regression"}, **ASKED))
    assert data["y_train"].std(axis=0)[1] > 0
    assert display.targets[1].errors == pytest.approx(0.2, rel=1e-12)


def test_many_targets_share_the_points() -> None:
    """A figure has some hundred points, whatever the data."""
    from cntk_pipeline.plots.displays.deviation import POINTS
    from cntk_pipeline.plots.tile_sample import take_evenly

    assert len(take_evenly(np.arange(10_000), POINTS // 6)) == POINTS // 6


def test_an_unfinished_run_says_so(small_config: Callable[..., RunConfig]) -> None:
    unfinished = stopped(small_config(**ASKED), 2)
    with pytest.raises(NotComputed, match="no system is solved yet"):
        Deviation.from_run(unfinished)
    with pytest.raises(NotComputed, match=r"posterior_variance of depth3-gap-ntk.* is not computed yet"):
        Deviation.from_run(unfinished, "depth3-gap-ntk")


def test_a_run_that_was_not_asked_says_what_to_add(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"was not asked for inference.posterior_variance: add it to the workflow"):
        Deviation.from_run(run_of(tmp_path, pictures()))


@pytest.mark.parametrize("name", ["run", "regression"])
def test_variances_in_quarantine_are_not_computed_yet(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """They would be NaN, and no error lies within NaN; the record of their mean is still there."""
    whole: OpenRun = request.getfixturevalue(name)
    copy = open_run(shutil.copytree(str(whole.path), tmp_path / "copy"))
    flip_bit(max((tmp_path / "copy").glob("solve/*/inference/posterior_variance.zarr/variance/c/*")))
    assert [task.stage.kind for task in runs.verify(copy.path).bad] == ["posterior_variance"]
    with pytest.raises(NotComputed, match=r"posterior_variance of depth2-ntk.* not computed yet, .*`cntk resume"):
        Deviation.from_run(copy)
