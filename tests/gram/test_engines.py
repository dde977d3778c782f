"""Engines of workflows and runs: what a specification says of them, and what is refused."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.problems import Recorder, kernel_files, require_same_kernel, whole_matrix

from cntk_pipeline.cli.inspection import show_specification
from cntk_pipeline.cli.plan import show_plan
from cntk_pipeline.config import RunConfig, Section
from cntk_pipeline.errors import ConfigError, LayerError, SpecificationMismatch
from cntk_pipeline.gram import tiles as gram
from cntk_pipeline.kernels import ENGINES, NUMERICS_VERSION, CpuEngine
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.specification import EngineRecord
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.report import make_report

Config = Callable[..., RunConfig]
Run = Callable[..., RunDirectory]


class ScaledOptions(Section):
    scale: float = 2.0
    steps: int = 3


class Scaled(CpuEngine):
    """Kernels of "cpu" times a number: an engine with keys of its own."""

    numerics_version = 7
    options_type = ScaledOptions
    lane_width = 5
    plane_entries = None  # type: ignore[assignment]

    def evaluator(self) -> Any:
        evaluator, scale = super().evaluator(), self.options.scale  # type: ignore[union-attr]
        for name in ("evaluate", "evaluate_pairs"):
            whole = getattr(evaluator, name)
            setattr(evaluator, name, lambda *images, whole=whole, **more: np.float32(scale) * whole(*images, **more))
        return evaluator

    def summary(self, number: int) -> Any:
        return None


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(ENGINES, "scaled", Scaled)
    gram.forget_runs()
    yield
    gram.forget_runs()


def remove_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this an installation that does not have the engine."""
    monkeypatch.delitem(ENGINES, "scaled")
    gram.forget_runs()


# What a specification says.


def test_the_specification_of_the_default_engine_is_what_it_was(small_config: Config) -> None:
    run, _ = runs.begin_elsewhere(small_config(), Recorder(), None)
    assert list(run.specification.to_json()) == ["data", "readouts", "dtype", "flips", "tile", "numerics_version"]
    assert run.specification.numerics_version == NUMERICS_VERSION
    named, _ = runs.begin_elsewhere(small_config(kernel={"engine": "cpu"}), Recorder(), None)
    assert named.fingerprint == run.fingerprint == run.specification.fingerprint
    assert RunDirectory(run.path).specification.engine == EngineRecord("cpu", {})


@pytest.mark.usefixtures("scaled")
def test_another_engine_is_named_with_all_its_options_and_makes_another_run(small_config: Config) -> None:
    run, _ = runs.begin_elsewhere(small_config(kernel={"engine": "scaled", "scale": 3.0}), Recorder(), None)
    assert run.specification.to_json()["engine"] == {"name": "scaled", "options": {"scale": 3.0, "steps": 3}}
    assert RunDirectory(run.path).specification == run.specification
    assert run.specification.numerics_version == 7
    for kernel, line in (({"engine": "scaled"}, r"engine.options.scale: stored 3.0, wanted 2.0"), ({}, "engine: only")):
        with pytest.raises(SpecificationMismatch, match=rf"(?s)belongs to another specification.*  {line}"):
            runs.start(small_config(kernel=kernel), Recorder(), threading.Event())


@pytest.mark.usefixtures("scaled")
def test_a_run_is_computed_by_its_engine_and_resumed_by_it(run_small: Run, tmp_path: Path) -> None:
    run = run_small(kernel={"engine": "scaled", "tile": 15})
    assert make_report(run).complete
    plain = run_small(store={"path": str(tmp_path / "plain")})
    for part in ("train", "test"):
        mine, its = (whole_matrix(each, "depth3-gap-ntk", part) for each in (run, plain))
        np.testing.assert_array_equal(mine, 2 * its)
    lost = kernel_files(run)[0]
    before = lost.read_bytes()
    lost.unlink()
    gram.forget_runs()
    runs.resume(str(run.path), Recorder(), threading.Event())
    assert lost.read_bytes() == before


@pytest.mark.usefixtures("scaled")
def test_plan_and_inspect_say_what_computes(
    small_config: Config, run_small: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    forecast = runs.plan(small_config(kernel={"engine": "scaled", "tile": "auto"}))
    assert (forecast.engine.name, forecast.numerics_version, forecast.plane_entries) == ("scaled", 7, None)
    assert forecast.tile % 5 == 0
    show_plan(forecast)
    said = capsys.readouterr().out
    assert "4 read-outs in one pass of the engine scaled (scale = 2.0, steps = 3), numerics version 7:" in said
    assert "plane entries" not in said
    report = make_report(run_small(kernel={"engine": "scaled"}))
    show_specification(report)
    assert "engine    scaled (scale = 2.0, steps = 3), numerics version 7\n" in capsys.readouterr().out
    found = json.loads(json.dumps(report.to_json()))
    assert found["engine"] == {"name": "scaled", "options": {"scale": 2.0, "steps": 3}}
    assert found["numerics_version"] == 7


# What is refused, before anything is written.


@pytest.mark.usefixtures("scaled")
@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ({"engine": "cpuu"}, r"unknown kernel.engine 'cpuu': did you mean 'cpu'\? \(known are cpu, .*, scaled\)"),
        ({"dtyp": "float64"}, r"unknown key kernel.dtyp: did you mean 'dtype'\?"),
        ({"scale": 2.0}, r"unknown key kernel.scale: known are dtype, flips, tile, engine"),
        ({"engine": "scaled", "scal": 2.0}, r"unknown key kernel.scal: did you mean 'scale'\?"),
        ({"engine": "scaled", "tille": 2}, r"unknown key kernel.tille: did you mean 'tile'\?"),
        ({"engine": "scaled", "scale": "2"}, r"kernel.scale: Input should be a valid number \(got '2'\)"),
    ],
)
def test_an_engine_or_a_key_that_means_nothing_is_refused_before_anything_is_written(
    small_config: Config, kernel: dict[str, object], message: str
) -> None:
    config = small_config(kernel=kernel)
    for command in (
        runs.plan,
        runs.costliest_network,
        lambda config: runs.start(config, Recorder(), threading.Event()),
    ):
        with pytest.raises(ConfigError, match=message):
            command(config)
    assert not Path(str(config.store.path)).exists()


def test_what_the_engine_cannot_compute_is_refused_before_anything_is_written(small_config: Config) -> None:
    network = {"preset": None, "layers": [{"layer": "Conv", "filter_shape": [1, 2]}, {"layer": "Flatten"}]}
    config = small_config(kernel={"flips": True}, network=network, readouts={"depths": [], "poolings": []})
    with pytest.raises(LayerError, match="averaging over flips needs a network that does not tell left from right"):
        runs.start(config, Recorder(), threading.Event())
    assert not Path(str(config.store.path)).exists()


@pytest.mark.usefixtures("scaled")
def test_an_engine_without_a_table_of_networks_says_which_has_one(small_config: Config) -> None:
    with pytest.raises(ConfigError, match=r'the engine "scaled" lays out no network: kernel.engine = "cpu" does'):
        runs.costliest_network(small_config(kernel={"engine": "scaled"}))
    assert runs.costliest_network(small_config())[1].entries > 0


# Runs of engines and versions that are not here.


@pytest.mark.usefixtures("scaled")
def test_a_run_of_an_engine_that_is_not_here_is_looked_at_and_gets_no_tile(
    run_small: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_small(kernel={"engine": "scaled"})
    remove_engine(monkeypatch)
    assert make_report(RunDirectory(run.path)).complete
    assert runs.verify(run.path).bad == ()
    runs.resume(str(run.path), Recorder(), threading.Event())  # nothing is left
    kernel_files(run)[0].unlink()
    before = kernel_files(run)
    assert not make_report(RunDirectory(run.path)).complete
    message = (
        r"holds a kernel of the engine 'scaled', of which tiles are missing, and this cntk knows cpu, cuda, empirical, "
        r"plugin\. Finish it with an installation that has the engine, or compute it anew with another kernel.engine"
    )
    with pytest.raises(SpecificationMismatch, match=message):
        runs.resume(str(run.path), Recorder(), threading.Event())
    with pytest.raises(SpecificationMismatch, match=message):
        gram.prepare_worker(str(run.path), {})
    assert kernel_files(run) == before


@pytest.mark.usefixtures("scaled")
def test_systems_of_a_whole_kernel_are_solved_without_its_engine(
    run_small: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_small(kernel={"engine": "scaled"})
    remove_engine(monkeypatch)
    (metrics,) = list(Path(str(run.path), "solve").glob("*/metrics.json"))[:1]
    coefficients = next(path for path in metrics.parent.rglob("coefficients/c/*/*") if path.is_file())
    before = coefficients.read_bytes()
    metrics.unlink()
    coefficients.unlink()
    runs.resume(str(run.path), Recorder(), threading.Event())
    assert coefficients.read_bytes() == before
    assert make_report(RunDirectory(run.path)).complete


@pytest.mark.usefixtures("scaled")
def test_a_run_of_another_numerics_version_of_its_engine_gets_no_tile(
    run_small: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_small(kernel={"engine": "scaled"})
    kernel_files(run)[0].unlink()
    monkeypatch.setattr(Scaled, "numerics_version", 8)
    with pytest.raises(SpecificationMismatch, match=r"holds a kernel of numerics version 7, .* computes version 8"):
        runs.resume(str(run.path), Recorder(), threading.Event())


def test_a_network_of_which_more_pairs_are_of_float64_than_before_has_a_later_version(
    run_small: Run, small_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ({"layer": "Conv", "filter_shape": 1}, {"layer": "LayerNorm"}, {"layer": "Flatten"}, {"layer": "Dense"})
    network = {"preset": None, "layers": list(names)}
    changes = {"network": network, "readouts": {"depths": [], "poolings": []}}
    exact, _ = runs.begin_elsewhere(small_config(**changes, kernel={"dtype": "float64"}), Recorder(), None)
    assert exact.specification.numerics_version == NUMERICS_VERSION
    run = run_small(**changes, store={"path": str(exact.path) + "-single"})
    assert run.specification.numerics_version == NUMERICS_VERSION + 1
    assert runs.plan(small_config(**changes)).numerics_version == NUMERICS_VERSION + 1
    kernel_files(run)[0].unlink()
    monkeypatch.setattr(CpuEngine, "numerics_version", NUMERICS_VERSION - 1)
    with pytest.raises(SpecificationMismatch, match=r"holds a kernel of numerics version 4, .* computes version 3"):
        runs.resume(str(run.path), Recorder(), threading.Event())


@pytest.mark.usefixtures("scaled")
def test_options_that_an_engine_does_not_know_any_more_are_refused(
    run_small: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_small(kernel={"engine": "scaled"})
    kernel_files(run)[0].unlink()
    monkeypatch.setattr(Scaled, "options_type", None)
    gram.forget_runs()
    message = r"by the engine scaled \(scale = 2.0, steps = 3\), which does not take these options here: .*Extra"
    with pytest.raises(SpecificationMismatch, match=message):
        runs.resume(str(run.path), Recorder(), threading.Event())


@pytest.mark.usefixtures("scaled")
@pytest.mark.parametrize(
    ("kernel", "lines"),
    [
        ({"engine": "scaled"}, r"engine.name: stored 'cpu', wanted 'scaled'"),
        ({"engine": "scaled", "scale": 1.0}, r"engine.options.scale: only wanted"),
    ],
)
def test_nothing_is_taken_over_from_a_run_of_another_engine(
    run_small: Run, small_config: Config, tmp_path: Path, kernel: dict[str, object], lines: str
) -> None:
    old = run_small()
    config = small_config(kernel=kernel, store={"path": str(tmp_path / "new"), "grow_from": str(old.path)})
    with pytest.raises(SpecificationMismatch, match=rf"(?s)can be taken over:.*{lines}"):
        runs.start(config, Recorder(), threading.Event())
    assert not (tmp_path / "new" / "kernel.zarr").exists()


@pytest.mark.usefixtures("scaled")
def test_a_run_grows_from_one_of_the_same_engine_and_options_alone(
    run_small: Run, small_config: Config, tmp_path: Path
) -> None:
    old = run_small(kernel={"engine": "scaled"})
    store = {"path": str(tmp_path / "new"), "grow_from": str(old.path)}
    with pytest.raises(SpecificationMismatch, match=r"engine.options.scale: stored 2.0, wanted 3.0"):
        runs.start(small_config(kernel={"engine": "scaled", "scale": 3.0}, store=store), Recorder(), threading.Event())
    view = Recorder()
    grown = runs.start(small_config(kernel={"engine": "scaled"}, store=store), view, threading.Event())
    assert any(line.startswith("taken over 6 of 6 tiles of train") for line in view.lines)
    require_same_kernel(grown, old)
