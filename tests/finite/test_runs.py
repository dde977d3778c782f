"""Runs whose tiles the engine of finite networks computes: through the same driver, store and solve."""

import threading
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from support.problems import Recorder, kernel_files, require_same_kernel, whole_matrix

from cntk_pipeline import kernel_matrix
from cntk_pipeline.config import RunConfig
from cntk_pipeline.errors import ConfigError, LayerError, SpecificationMismatch
from cntk_pipeline.finite import empirical as finite
from cntk_pipeline.finite import empirical_kernel
from cntk_pipeline.gram import tiles as gram
from cntk_pipeline.kernels import ENGINES, Question
from cntk_pipeline.layers import Dense, Dropout, Relu, Sequential, presets
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.report import make_report

pytestmark = pytest.mark.slow

Config = Callable[..., RunConfig]
Run = Callable[..., RunDirectory]

KERNEL = {"engine": "empirical", "width": 8, "seed": 3, "draws": 2, "dtype": "float64"}


READOUTS = {"depths": [3], "poolings": ["gap"], "kinds": ["ntk", "nngp"]}


def test_a_run_holds_the_kernels_of_the_networks_that_its_specification_names(run_small: Run) -> None:
    run = run_small(readouts=READOUTS, kernel=KERNEL)
    assert make_report(run).complete
    options = {"width": 8, "seed": 3, "draws": 2}
    assert run.specification.to_json()["engine"] == {"name": "empirical", "options": options}
    train, test = (np.asarray(run.inputs(f"{part}_images")[:]) for part in ("train", "test"))
    for kind in ("ntk", "nngp"):
        for part, (x, z) in (("train", (train, None)), ("test", (test, train))):
            expected = empirical_kernel(presets.cntk(3, "gap"), x, z, kind=kind, width=8, seed=3, draws=2)
            np.testing.assert_array_equal(whole_matrix(run, f"depth3-gap-{kind}", part), expected)


def test_bits_do_not_depend_on_tiles_and_lost_tiles_come_back(run_small: Run, tmp_path: Path) -> None:
    run = run_small(readouts=READOUTS, kernel=KERNEL)
    require_same_kernel(
        run_small(readouts=READOUTS, kernel=KERNEL | {"tile": 7}, store={"path": str(tmp_path / "other")}), run
    )
    lost = kernel_files(run)[3]
    before = lost.read_bytes()
    lost.unlink()
    gram.forget_runs()
    runs.resume(str(run.path), Recorder(), threading.Event())
    assert lost.read_bytes() == before
    assert runs.verify(run.path).bad == ()


def test_a_run_names_its_torch_and_going_on_with_another_one_is_said(run_small: Run, tmp_path: Path) -> None:
    run = run_small(readouts=READOUTS, kernel=KERNEL)
    assert run.provenance.versions["torch"] == version("torch")
    assert "torch" not in run_small(store={"path": str(tmp_path / "exact")}).provenance.versions
    record = Path(str(run.path), "run.json")
    record.write_text(record.read_text().replace(f'"torch": "{version("torch")}"', '"torch": "0.1"'))
    whole, lacking = Recorder(), Recorder()
    runs.resume(str(run.path), whole, threading.Event())  # no value is left to compute
    kernel_files(run)[3].unlink()
    gram.forget_runs()
    runs.resume(str(run.path), lacking, threading.Event())
    said = f"the run began with torch 0.1, here is {version('torch')}: new tiles may differ in last bits"
    assert [sum(said in line for line in each.lines) for each in (whole, lacking)] == [0, 1]
    with pytest.raises(ConfigError, match=r"differ in torch \(driver 0.1, worker "):
        gram.prepare_worker(str(run.path), {"torch": "0.1"})


def test_a_run_grows_from_one_of_the_same_networks_alone(run_small: Run, small_config: Config, tmp_path: Path) -> None:
    old = run_small(readouts=READOUTS, kernel=KERNEL)
    store = {"path": str(tmp_path / "new"), "grow_from": str(old.path)}
    with pytest.raises(SpecificationMismatch, match=r"engine.options.seed: stored 3, wanted 4"):
        runs.start(
            small_config(readouts=READOUTS, kernel=KERNEL | {"seed": 4}, store=store), Recorder(), threading.Event()
        )
    view = Recorder()
    grown = runs.start(small_config(readouts=READOUTS, kernel=KERNEL, store=store), view, threading.Event())
    assert any(line.startswith("taken over 6 of 6 tiles of train") for line in view.lines)
    require_same_kernel(grown, old)


def test_processes_of_several_workers_compute_the_same_bits(run_small: Run, tmp_path: Path) -> None:
    run = run_small(readouts=READOUTS, kernel=KERNEL)
    cluster = {"kind": "local", "workers": 2}
    require_same_kernel(
        run_small(readouts=READOUTS, kernel=KERNEL, cluster=cluster, store={"path": str(tmp_path / "local")}), run
    )


def test_a_kernel_in_memory_is_of_the_engine_and_its_defaults() -> None:
    x = np.random.default_rng(0).standard_normal((5, 6))
    found = kernel_matrix(presets.fully_connected(2), x, dtype="float64", engine="empirical")
    np.testing.assert_array_equal(found, empirical_kernel(presets.fully_connected(2), x, width=256))


def test_memory_holds_the_weights_and_two_rows_of_derivatives() -> None:
    def bytes_of(width: int) -> int:
        engine, network = ENGINES["empirical"], presets.fully_connected(3)
        options = engine.options_type.model_validate({"width": width})  # type: ignore[union-attr]
        return engine(Question(((network, "ntk"),), (10,), "float64"), options).working_bytes(16)

    # Of 8,192 channels there are 67 million weights in the middle: 16 bytes each, and four rows of 8.
    assert bytes_of(64) < 2**29
    assert 67e6 * 48 < bytes_of(8192) < 69e6 * 48 + 2**29


def test_memory_holds_the_derivatives_of_all_outputs_where_no_dense_layer_is_the_last() -> None:
    def bytes_of(dtype: str, kind: str) -> int:
        engine, network = ENGINES["empirical"], Sequential(Dense(), Relu(), Dense(), Relu())
        options = engine.options_type.model_validate({"width": 1024})  # type: ignore[union-attr]
        return engine(Question(((network, kind),), (64,), dtype), options).working_bytes(64)

    row = 1024 * (1024 * 64 + 1024 * 1024 + 2048)
    draws = finite.Draws(Sequential(Dense(), Relu(), Dense(), Relu()), "ntk", 16, (64,), dtype="float32")
    held = finite._tangent_row(next(draws.modules()))(np.ones(64))
    assert (held.size, held.itemsize) == (16 * (16 * 64 + 16 * 16 + 32), 8)  # whatever the dtype of the network
    assert 4 * 8 * row < bytes_of("float64", "ntk") < 4 * 8 * row + 2**29
    assert 3 * 8 * row < bytes_of("float32", "ntk") < 3 * 8 * row + 2**29
    assert bytes_of("float64", "nngp") < 2**29


@pytest.mark.parametrize(
    ("kernel", "error", "message"),
    [
        ({"width": 0}, ConfigError, r"kernel.width: Input should be greater than or equal to 1"),
        ({"widht": 8}, ConfigError, r"unknown key kernel.widht: did you mean 'width'\?"),
        ({"flips": True}, LayerError, 'the engine "empirical" averages over no flips: leave flips out'),
    ],
)
def test_what_the_engine_cannot_compute_is_refused_before_anything_is_written(
    small_config: Config, kernel: dict[str, object], error: type[Exception], message: str
) -> None:
    config = small_config(readouts=READOUTS, kernel=KERNEL | kernel)
    with pytest.raises(error, match=message):
        runs.start(config, Recorder(), threading.Event())
    assert not Path(str(config.store.path)).exists()


def test_networks_without_a_finite_counterpart_are_refused() -> None:
    masked = Sequential(Dense(), Relu(), Dropout(0.5), Dense())
    with pytest.raises(LayerError, match=r"Dropout\(rate=0.5\) draws a mask for each sample"):
        ENGINES["empirical"](Question(((masked, "ntk"),), (3,)))
    with pytest.raises(LayerError, match="an engine needs at least one read-out, got none"):
        ENGINES["empirical"](Question((), (3,)))
