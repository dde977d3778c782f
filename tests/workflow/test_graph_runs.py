"""Runs on graphs: planned, stopped, resumed, verified, predicted and reported as those on images are."""

import threading
import tomllib
from pathlib import Path

import numpy as np
import pytest
from sklearn.model_selection import cross_val_score
from support.graphs import draw_graphs
from support.problems import Recorder, flip_bit, stop_after, whole_matrix

from cntk_pipeline import kernel_matrix
from cntk_pipeline.config import RunConfig, parse_config
from cntk_pipeline.errors import ConfigError, DataError, Interrupted, LayerError
from cntk_pipeline.estimators import KernelClassifier
from cntk_pipeline.graphs import pack
from cntk_pipeline.layers import presets
from cntk_pipeline.opened import open_run
from cntk_pipeline.pages import make_report_page
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.report import make_report
from cntk_pipeline.workflow.starter import make_starter

pytestmark = pytest.mark.slow

GRAPHS = draw_graphs([int(size) for size in np.random.default_rng(0).integers(3, 30, 52)], features=3, seed=4)
LABELS = np.arange(52) % 2
PACKED = pack([a for a, _ in GRAPHS], [f + label for (_, f), label in zip(GRAPHS, LABELS, strict=True)])
NETWORK = presets.gntk(2)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    np.savez(tmp_path / "graphs.npz", x=PACKED, y=LABELS)
    return tmp_path / "graphs.npz"


def config_of(archive: Path, **changes: dict[str, object]) -> RunConfig:
    tables: dict[str, dict[str, object]] = {
        "data": {"source": "npz", "path": str(archive), "test": 12, "standardize": False},
        "network": {"preset": "gntk"},
        "readouts": {"depths": [1, 2], "kinds": ["ntk"]},
        "kernel": {"tile": 16, "dtype": "float64"},
        "solve": {"ridges": [1e-3]},
        "cluster": {"kind": "serial"},
        "store": {"path": str(archive.parent / "run")},
    }
    return parse_config(
        {"name": "graphs"} | {key: value | changes.get(key, {}) for key, value in tables.items()}, "test"
    )


def test_a_run_on_graphs_is_stopped_resumed_verified_and_mended(archive: Path) -> None:
    config = config_of(archive)
    view, stop = stop_after(3)
    with pytest.raises(Interrupted):
        runs.start(config, view, stop)
    path = config.store.path
    assert path is not None
    assert not make_report(RunDirectory(path)).complete
    run = runs.resume(path, Recorder(), threading.Event())
    assert make_report(run).complete
    for part, rows in (("train", slice(40)), ("test", slice(40, None))):
        expected = kernel_matrix(NETWORK, PACKED[rows], PACKED[:40], dtype="float64")
        kept = np.tril if part == "train" else np.asarray
        assert np.array_equal(kept(whole_matrix(run, "depth2-sum-ntk", part)), kept(expected))
    assert not runs.verify(path).needs_resume
    flip_bit(run.kernel("depth2-sum-ntk", "train").chunk_path(1, 0))
    flip_bit(run.inputs_path / "train_images" / "c" / "0" / "0" / "0" / "0" / "0")
    found = runs.verify(path)
    assert (len(found.bad), len(found.lost)) == (1, 1)
    mended = runs.resume(path, Recorder(), threading.Event())
    assert not runs.verify(path).needs_resume
    expected = kernel_matrix(NETWORK, PACKED[:40], dtype="float64")
    assert np.array_equal(np.tril(whole_matrix(mended, "depth2-sum-ntk", "train")), np.tril(expected))


def test_new_graphs_are_predicted_and_the_run_is_reported(archive: Path, tmp_path: Path) -> None:
    run = open_run(runs.start(config_of(archive), Recorder(), threading.Event()).path)
    scores = run.decision_function(PACKED[40:], readout="depth2-sum-ntk")
    np.testing.assert_array_equal(scores, run.predictions("depth2-sum-ntk"))
    assert "40 training and 12 test graphs" in str(make_report_page(run).html)
    broken = PACKED[40:].copy()
    broken[1] *= 0.5
    with pytest.raises(DataError, match="graph 1 is no packed graph"):
        run.decision_function(broken, readout="depth2-sum-ntk")


def test_a_plan_costs_what_graphs_cost(archive: Path) -> None:
    plan = runs.plan(config_of(archive, kernel={"tile": "auto"}))
    assert 1e-7 < plan.pair_seconds < 1e-2


def test_a_starter_of_graphs_is_a_workflow(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = tomllib.loads(make_starter(str(archive)).text)
    assert written["data"]["standardize"] is False
    assert written["network"] == {"preset": "gntk"}


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        ({"data": {"standardize": True}}, ConfigError, "graphs are not standardised: set data.standardize = false"),
        ({"kernel": {"flips": True}}, LayerError, "graphs have no left and right: leave flips out"),
        ({"kernel": {"engine": "cuda"}}, LayerError, "CudaEngine computes no kernels of graphs"),
        ({"network": {"preset": "cntk"}, "readouts": {"depths": [3]}}, LayerError, "needs images of shape"),
    ],
)
def test_what_graphs_do_not_have_is_refused_before_anything_is_written(
    archive: Path, changes: dict[str, dict[str, object]], error: type[Exception], told: str
) -> None:
    config = config_of(archive, **changes)
    with pytest.raises(error, match=told):
        runs.start(config, Recorder(), threading.Event())
    assert not (archive.parent / "run").exists()


def test_estimators_take_graphs() -> None:
    scores = cross_val_score(KernelClassifier(NETWORK, n_jobs=1), PACKED, LABELS, cv=4)
    assert scores.mean() > 0.9
