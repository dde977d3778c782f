"""The figure of training, against the eigenvectors of the kernel."""

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
from cntk_pipeline.plots import Training, training

TIMES = ["inf", 0, 100.0, 2.0]
BOTH = {"kinds": ["ntk", "nngp"]}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> OpenRun:
    sections = {"readouts": {"depths": [2, 3]} | BOTH, "inference": {"ensemble": TIMES}}
    return run_of(tmp_path_factory.mktemp("training"), pictures(), **sections)


def trained(run: OpenRun, network: str, time: float, targets: np.ndarray) -> tuple[np.ndarray, float]:
    """Follow gradient flow to a time: the mean, and the mean variance over random starts (Lee et al. 2019)."""
    ntk, start = dense(run, f"{network}-ntk"), dense(run, f"{network}-nngp")
    cross, start_cross = dense(run, f"{network}-ntk", "test"), dense(run, f"{network}-nngp", "test")
    values, vectors = np.linalg.eigh(ntk)
    moved = (1 - np.exp(-time * values / targets.size)) / values
    weights = cross @ (vectors * moved) @ vectors.T
    prior = np.asarray(run.kernel(f"{network}-nngp", "test_variance"), float)
    variance = prior + np.sum((weights @ start) * weights, axis=1) - 2 * np.sum(weights * start_cross, axis=1)
    return weights @ targets, float(variance.mean())


def test_scores_and_variances_are_those_of_gradient_flow(run: OpenRun) -> None:
    display = Training.from_run(run)
    targets = one_hot_targets(run.labels.train, 3)
    assert [each.network for each in display.ensembles] == ["depth2", "depth3"]
    for each in display.ensembles:
        assert each.times == ("0.0", "2.0", "100.0", "inf")
        found = [trained(run, each.network, float(time), targets) for time in each.times]
        assert each.scores == pytest.approx([np.mean(mean.argmax(1) == run.labels.test) for mean, _ in found])
        assert each.variances == pytest.approx([variance for _, variance in found])


def test_zero_and_the_end_have_their_places(run: OpenRun) -> None:
    figure = drawn(Training.from_run(run))
    scores, variances = figure.axes
    assert list(scores.lines[0].get_xdata()) == [0.2, 2.0, 100.0, 1000.0]
    assert ticks_of(variances, "x") | {0.2: "0", 1000.0: "end"} == ticks_of(variances, "x")
    assert (scores.get_ylabel(), variances.get_ylabel()) == ("accuracy on test images (%)", "mean variance")
    assert legend_of(figure) == ["depth2", "depth3"]
    table = Training.from_run(run).tables()[0]
    assert [row[1] for row in table.rows] == ["0", "2", "100", "end"] * 2
    assert "from time 0 to the end" in Training.from_run(run).alt


def test_a_readout_of_either_kind_names_its_network(run: OpenRun) -> None:
    for name in ("depth3-ntk", "depth3-nngp"):
        assert [each.network for each in Training.from_run(run, name).ensembles] == ["depth3"]
    assert len(training(run, "depth3-ntk").axes[0].lines) == 1


def test_the_end_alone_is_drawn(tmp_path: Path) -> None:
    data = numbers(2)
    run = run_of(tmp_path, data, data={"task": "regression"}, readouts=BOTH, inference={"ensemble": ["inf"]})
    display = Training.from_run(run)
    mean = run.labels.train.mean(axis=0)
    expected = mean + trained(run, "depth2", np.inf, run.labels.train - mean)[0]
    assert display.ensembles[0].scores == pytest.approx([r2_score(run.labels.test, expected)])
    assert ticks_of(drawn(display).axes[1], "x") == {10.0: "end"}


def test_without_labels_the_variance_is_drawn_alone(tmp_path: Path) -> None:
    data = {name: values for name, values in pictures().items() if name != "y_test"}
    run = run_of(tmp_path, data, readouts=BOTH, inference={"ensemble": [1.0, 1e6]})
    display = Training.from_run(run)
    assert display.ensembles[0].scores == (None, None)
    (axes,) = drawn(display).axes
    assert axes.get_ylabel() == "mean variance"
    assert "accuracy" not in display.alt


def test_an_unfinished_run_says_so(small_config: Callable[..., RunConfig]) -> None:
    unfinished = stopped(small_config(inference={"ensemble": [1.0]}), 2)
    with pytest.raises(NotComputed, match=r"inference.ensemble is not computed yet. No driver is at work"):
        Training.from_run(unfinished)


def test_a_run_that_was_not_asked_says_what_to_add(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"was not asked for inference.ensemble: add it to the workflow"):
        Training.from_run(run_of(tmp_path, pictures()))
