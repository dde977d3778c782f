"""Runs on graphs: planned, stopped, resumed, verified, predicted and reported as those on images are."""

import threading
import tomllib
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from sklearn.model_selection import cross_val_score
from support.figures import drawn
from support.graphs import draw_graphs
from support.problems import Recorder, flip_bit, stop_after, whole_matrix

from cntk_pipeline import kernel_matrix
from cntk_pipeline.clusters import WorkerMemory
from cntk_pipeline.clusters.memory import PROCESS_BYTES, USABLE
from cntk_pipeline.config import RunConfig, parse_config
from cntk_pipeline.errors import ConfigError, DataError, Interrupted, LayerError
from cntk_pipeline.estimators import KernelClassifier
from cntk_pipeline.gram import tiles as gram
from cntk_pipeline.gram.engines import kernel_task_bytes
from cntk_pipeline.graphs import NodeCounts, count_nodes, pack
from cntk_pipeline.kernels import Question
from cntk_pipeline.kernels.cpu import CpuEngine
from cntk_pipeline.layers import presets
from cntk_pipeline.opened import open_run
from cntk_pipeline.pages import make_report_page
from cntk_pipeline.plots import Network
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
        {"name": "graphs"} | {key: tables.get(key, {}) | changes.get(key, {}) for key in {**tables, **changes}}, "test"
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
    page = str(make_report_page(run).html)
    assert "40 training and 12 test graphs" in page
    display = Network.from_run(run)
    assert display.layers[0].shape == "(nodes, 3)"
    assert display.entries == sum(row.entries for row in display.layers) > 0
    assert f"each pair of nodes of two graphs costs {display.entries} operations." in display.alt
    assert display.alt in page
    (table,) = display.tables()
    assert table.columns == ("layer", "output", "operations a pair of nodes")
    assert {len(row) for row in table.rows} == {1 + len(table.columns)}
    drawn(display)
    told = r"expected graphs of 3 features .* got 3 in .*: pack them by .* with rows=\d+;"
    with pytest.raises(DataError, match=told):
        run.decision_function(PACKED[40:, :, :, :-5], readout="depth2-sum-ntk")
    with pytest.raises(DataError, match=r"got 2 in .*: features must be numbered as those of the run"):
        run.decision_function(PACKED[40:, ..., :2], readout="depth2-sum-ntk")
    broken = PACKED[40:].copy()
    broken[1] *= 0.5
    with pytest.raises(DataError, match="graph 1 is no packed graph"):
        run.decision_function(broken, readout="depth2-sum-ntk")


def test_a_tile_costs_the_pairs_of_nodes_that_it_has_and_the_costliest_is_the_first(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inference: dict[str, object] = {"posterior_covariance": True}
    config = config_of(archive, inference=inference)
    view, stop = stop_after(1)
    with pytest.raises(Interrupted):
        runs.start(config, view, stop)
    run = RunDirectory(str(config.store.path))
    nodes = gram.node_counts(run)
    assert nodes is not None
    sizes = np.array([len(features) for _, features in GRAPHS])
    products = np.outer(sizes, sizes)
    jobs = gram.kernel_jobs(run, nodes) + gram.test_kernel_jobs(run, nodes)
    for job in jobs:
        rows = slice(16 * job.task.row, min(16 * job.task.row + 16, 40))
        cols = slice(16 * job.task.col, min(16 * job.task.col + 16, 40))
        kind = job.task.stage.kind
        expected = {
            "train": lambda: np.tril(products[:40, :40])[rows, cols].sum(),  # noqa: B023
            "test": lambda: products[40:, cols].sum(),  # noqa: B023
            "variance": lambda: np.diagonal(products)[40:].sum(),
            "test_test": lambda: np.tril(products[40:, 40:]).sum(),
        }[kind]()
        assert (job.entries, job.priority[0]) == (expected, -expected)
    first = next(moment.receipt.task for moment in view.moments if moment.receipt)
    assert first == max(gram.kernel_jobs(run, nodes), key=lambda job: job.entries).task
    runs.resume(run.path, Recorder(), threading.Event())
    with monkeypatch.context() as patched:
        patched.setattr(gram, "count_nodes", None)  # nothing is left to hand out, and no graph is read
        runs.start(config_of(archive, inference=inference, solve={"ridges": [1e-2]}), Recorder(), threading.Event())
    run.kernel("depth2-sum-ntk", "train").chunk_path(2, 1).unlink()
    view = Recorder()
    runs.start(config_of(archive, inference=inference, solve={"ridges": [1e-1]}), view, threading.Event())
    assert view.moments[0].entries_total - view.moments[0].entries_done == products[32:40, 16:32].sum()


def test_a_tile_needs_the_memory_of_its_graphs_and_not_that_of_graphs_that_fill_the_rows(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(archive)
    networks = tuple((presets.gntk(depth), "ntk") for depth in (1, 2))
    engine = CpuEngine.ask(Question(networks, PACKED.shape[1:], "float64"))
    nodes = NodeCounts(count_nodes(PACKED[:40]), count_nodes(PACKED[40:]))
    assert nodes.largest == max(len(features) for _, features in GRAPHS) < PACKED.shape[3] / 1.5
    needed = kernel_task_bytes(engine, 16, nodes)
    assert needed < kernel_task_bytes(engine, 16)
    tracemalloc.start()
    engine.evaluator().evaluate(PACKED[:16], PACKED[16:32])
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert used < needed
    memory = [WorkerMemory(int((needed + 1000 * change + PROCESS_BYTES) / USABLE), 1) for change in (-1, 1)]
    monkeypatch.setattr("cntk_pipeline.clusters.serial.SerialExecutor.memory", lambda self: memory[0])
    with pytest.raises(ConfigError, match="a kernel tile of 16 samples holds"):
        runs.start(config, Recorder(), threading.Event())
    monkeypatch.setattr("cntk_pipeline.clusters.serial.SerialExecutor.memory", lambda self: memory[1])
    assert make_report(runs.start(config, Recorder(), threading.Event())).complete


def test_a_plan_costs_what_graphs_cost(archive: Path) -> None:
    plan = runs.plan(config_of(archive, kernel={"tile": "auto"}))
    assert 1e-7 < plan.pair_seconds < 1e-2


def test_a_measurement_is_of_a_mean_pair_of_all_graphs_however_they_are_sorted() -> None:
    drawn = draw_graphs([3] * 60 + [50] * 20, features=3)
    graphs = pack([a for a, _ in drawn], [f for _, f in drawn])
    engine = CpuEngine.ask(Question(((NETWORK, "ntk"),), graphs.shape[1:], "float64"))
    small_first, large_first = (engine.measure(each).seconds for each in (graphs, graphs[::-1]))
    assert 1 / 3 < small_first / large_first < 3  # of the first graphs alone it would be a hundred


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
