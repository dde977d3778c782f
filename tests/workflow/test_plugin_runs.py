"""Runs that a function of the user's computes: the same bits by every command, and never without the user's word."""

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.problems import Recorder, Stopper, flip_bit, kernel_files, require_same, require_same_kernel
from typer.testing import CliRunner

import cntk_pipeline
from cntk_pipeline.cli import main as cli
from cntk_pipeline.clusters import trust
from cntk_pipeline.config import ClusterConfig, RunConfig
from cntk_pipeline.datasets.unlabelled import Unlabelled
from cntk_pipeline.errors import ConfigError, Interrupted, LayerError, NotTrusted, SpecificationMismatch
from cntk_pipeline.gram import tiles as gram
from cntk_pipeline.gram.engines import load_code
from cntk_pipeline.kernels import plugin_code
from cntk_pipeline.opened import open_run
from cntk_pipeline.opened.predict_on_cluster import PredictionQuestion, predict_images
from cntk_pipeline.plots.displays.network import Network as NetworkDisplay
from cntk_pipeline.rundir.code import UserCode
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.signature import KEY_VARIABLE
from cntk_pipeline.workflow import handover
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.report import make_report

pytestmark = pytest.mark.slow

Config = Callable[..., RunConfig]
Run = Callable[..., RunDirectory]

EXACT = (Path(__file__).parents[1] / "kernels" / "plugins" / "exact.py").read_text()
READOUTS = {"depths": [3], "poolings": ["gap"], "kinds": ["ntk", "nngp"]}

on_each_cluster = pytest.mark.parametrize(
    "cluster", [{"kind": "serial"}, {"kind": "local", "workers": 1}], ids=["serial", "local"]
)
NEW = np.random.default_rng(3).standard_normal((21, 6, 5, 2)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of the user's with a plugin that leaves a file wherever it is imported."""
    place = Path(tmp_path) / "code"
    place.mkdir()
    (place / "own.py").write_text(
        f"from pathlib import Path\nPath({str(place / 'imported')!r}).touch()\n# {tmp_path}\n{EXACT}"
    )
    return place


@pytest.fixture
def plugin(folder: Path) -> dict[str, Any]:
    """The keys of ``[kernel]``."""
    return {"engine": "plugin", "plugin": "own:kernel", "plugin_folder": str(folder), "plugin_block": 16}


@pytest.fixture
def run(run_small: Run, plugin: dict[str, Any]) -> RunDirectory:
    return run_small(readouts=READOUTS, kernel=plugin)


@pytest.fixture
def elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return what makes this a process that has imported nothing."""

    def forget() -> None:
        monkeypatch.setattr(plugin_code, "_loaded", {})
        gram.forget_runs()
        (folder / "imported").unlink(missing_ok=True)

    return forget


@pytest.fixture
def another_user(elsewhere: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return what makes this the process of another user."""

    def become() -> None:
        elsewhere()
        monkeypatch.setenv(KEY_VARIABLE, str(tmp_path / "other-key"))

    return become


def resume(run: RunDirectory, **more: Any) -> Recorder:
    view = Recorder()
    runs.resume(str(run.path), view, threading.Event(), **more)
    return view


def cntk(*words: object) -> tuple[int, str]:
    """Run a command; return its exit code, and what it said or raised."""
    found = CliRunner().invoke(cli.app, [str(word) for word in words])
    return found.exit_code, found.output + str(found.exception or "")


# The same bits.


def test_the_exact_engine_through_a_plugin_has_the_same_bits_in_every_command(
    run: RunDirectory, run_small: Run, small_config: Config, plugin: dict[str, Any], tmp_path: Path
) -> None:
    plain = run_small(readouts=READOUTS, store={"path": str(tmp_path / "plain")})
    require_same(run, plain)
    lost, damaged, *_ = kernel_files(run)
    before = [path.read_bytes() for path in (lost, damaged)]
    lost.unlink()
    gram.forget_runs()
    resume(run)
    flip_bit(damaged)
    assert len(runs.verify(run.path).bad) == 1
    resume(run)
    assert [path.read_bytes() for path in (lost, damaged)] == before
    assert runs.verify(run.path).bad == ()
    found = predict_images(
        run, Unlabelled.of(NEW, "memory"), PredictionQuestion("depth3-gap-ntk"), Recorder(), threading.Event()
    )
    readout = (3, "gap", "ntk")
    np.testing.assert_array_equal(found.scores, open_run(plain.path).decision_function(NEW, readout, say=None))
    np.testing.assert_array_equal(found.scores, open_run(run.path).decision_function(NEW, readout, say=None))
    store = {"path": str(tmp_path / "grown"), "grow_from": str(run.path)}
    view = Recorder()
    more = READOUTS | {"depths": [3, 4]}
    grown = runs.start(small_config(readouts=more, kernel=plugin, store=store), view, threading.Event())
    assert any("6 more" in line for line in view.lines if line.startswith("taken over 0 of 6 tiles of train"))
    require_same_kernel(grown, run_small(readouts=more, store={"path": str(tmp_path / "more")}))


def test_workers_in_processes_of_their_own_import_the_plugin_themselves(
    run_small: Run, run: RunDirectory, plugin: dict[str, Any], tmp_path: Path
) -> None:
    cluster = {"kind": "local", "workers": 1}
    there = run_small(readouts=READOUTS, kernel=plugin, cluster=cluster, store={"path": str(tmp_path / "local")})
    require_same_kernel(there, run)


def test_in_python_a_run_takes_a_plugin_from_a_folder_below_the_current_one(
    folder: Path, small_npz: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: Callable[[], None], tmp_path: Path
) -> None:
    monkeypatch.chdir(folder.parent)
    tables = {
        "data": {"source": "npz", "path": str(small_npz)},
        "network": {"layers": []},
        "readouts": {"kinds": ["nngp"]},
        "kernel": {"engine": "plugin", "plugin": "linear:kernel", "plugin_folder": folder.name},
        "solve": {"ridges": [1.0]},
        "cluster": {"kind": "serial"},
    }
    (folder / "linear.py").write_text(
        "import numpy as np\ndef kernel(x, z, *, network, kind):\n    return np.einsum('iabc,jabc->ij', x, z)\n"
    )
    found = cntk_pipeline.run(tables, progress=False, store__path=str(tmp_path / "linear"))
    images = np.asarray(found.directory.inputs("train_images")[:]).reshape(37, -1).astype(float)
    np.testing.assert_allclose(found.kernel("nngp").compute(), images @ images.T, rtol=1e-4, atol=1e-4)
    monkeypatch.chdir("/")
    elsewhere()
    lost = kernel_files(found.directory)[0]
    lost.unlink()
    resume(found.directory)
    assert lost.exists()
    assert found.predict(NEW, say=None).shape == (21,)
    code, said = cntk("report", found.path)
    assert code == 0, said
    with pytest.raises(ConfigError, match="has no network to draw: the function linear:kernel computes its kernels"):
        NetworkDisplay.from_run(found)


def test_the_specification_names_the_function_and_its_digest_and_no_folder(run: RunDirectory, folder: Path) -> None:
    digest = plugin_code.load_function("own:kernel", str(folder))
    options = {"plugin": "own:kernel", "plugin_digest": digest, "plugin_block": 16}
    assert run.specification.to_json()["engine"] == {"name": "plugin", "options": options}


# Other source.


def test_other_source_is_refused_with_both_digests_and_what_to_do(
    run: RunDirectory, small_config: Config, plugin: dict[str, Any], folder: Path, elsewhere: Callable[[], None]
) -> None:
    then = run.specification.engine.options["plugin_digest"]
    kernel_files(run)[0].unlink()
    (folder / "own.py").write_text(f"from pathlib import Path\nPath({str(folder / 'imported')!r}).touch()\n" + EXACT)
    elsewhere()
    with pytest.raises(SpecificationMismatch, match=rf"(?s)the source of the plugin own:kernel .*expected is\s+{then}"):
        resume(run)
    assert not (folder / "imported").exists()
    now = plugin_code.load_function("own:kernel", str(folder))
    with pytest.raises(SpecificationMismatch, match=rf"(?s)has changed since .*{then} then,.*{now} now. Bring back"):
        runs.start(small_config(readouts=READOUTS, kernel=plugin), Recorder(), threading.Event())
    pinned = small_config(readouts=READOUTS, kernel=plugin | {"plugin_digest": then})
    with pytest.raises(SpecificationMismatch, match=rf"(?s){now}, expected is\s+{then}"):
        runs.plan(pinned)


def test_a_worker_without_the_code_or_with_other_code_computes_nothing(
    run: RunDirectory, folder: Path, elsewhere: Callable[[], None]
) -> None:
    allowed = trust.read_trusted(run).code
    kernel_files(run)[0].unlink()
    elsewhere()
    with pytest.raises(NotTrusted, match="which nobody has allowed this process to import"):
        gram.prepare_worker(str(run.path), {})
    source = folder / "own.py"
    source.rename(folder / "away.py")
    with pytest.raises(ConfigError, match=r"there is no file .*own.py on .*, on every machine that computes"):
        gram.prepare_worker(str(run.path), {}, allowed)
    source.write_text("raise SystemExit('imported')")
    with pytest.raises(SpecificationMismatch, match="the source of the plugin own:kernel"):
        gram.prepare_worker(str(run.path), {}, allowed)


@on_each_cluster
def test_a_stored_kernel_whose_solve_computes_its_tiles_again_goes_on_in_a_new_process(
    small_config: Config, plugin: dict[str, Any], elsewhere: Callable[[], None], cluster: dict[str, Any]
) -> None:
    solve = {"solver": "cg", "tile": 16, "rank": 5, "sketch": "columns"}
    given: dict[str, Any] = {"readouts": READOUTS | {"kinds": ["ntk"]}, "kernel": plugin}
    config = small_config(**given, solve=solve | {"ridges": [1e-2]})
    runs.start(config, Recorder(), threading.Event())
    later = small_config(**given, solve=solve | {"ridges": [1e-3], "kernel_bytes": 0})
    view = Stopper(lambda view: sum("iteration 2," in moment.note for moment in view.moments) > 1)
    with pytest.raises(Interrupted):
        runs.start(later, view, view.stop)
    elsewhere()
    run = runs.resume(config.store.path, Recorder(), threading.Event(), cluster=ClusterConfig(**cluster))
    assert make_report(run).complete


@on_each_cluster
def test_a_kernel_of_the_test_images_that_is_asked_for_later_is_computed_in_a_new_process(
    small_config: Config, plugin: dict[str, Any], elsewhere: Callable[[], None], cluster: dict[str, Any]
) -> None:
    """Seen to fail where the code was loaded only while tiles of the other matrices are missing."""
    given: dict[str, Any] = {"readouts": READOUTS | {"kinds": ["nngp"]}, "kernel": plugin}
    runs.start(small_config(**given), Recorder(), threading.Event())
    stop = threading.Event()
    stop.set()
    later = small_config(**given, inference={"posterior_covariance": True})
    with pytest.raises(Interrupted):
        runs.start(later, Recorder(), stop)
    elsewhere()
    run = runs.resume(later.store.path, Recorder(), threading.Event(), cluster=ClusterConfig(**cluster))
    assert make_report(run).complete


@on_each_cluster
def test_a_lost_tile_of_the_test_images_is_computed_in_a_new_process(
    small_config: Config, plugin: dict[str, Any], elsewhere: Callable[[], None], cluster: dict[str, Any]
) -> None:
    """Seen to fail where receipts alone told whether a worker needs the code."""
    given: dict[str, Any] = {"readouts": READOUTS | {"kinds": ["nngp"]}, "kernel": plugin}
    config = small_config(**given, inference={"posterior_covariance": True})
    path = Path(runs.start(config, Recorder(), threading.Event()).path)
    next(file for file in sorted((path / "test_kernel.zarr").rglob("0")) if file.is_file()).unlink()
    shutil.rmtree(path / "solve")
    elsewhere()
    run = runs.resume(config.store.path, Recorder(), threading.Event(), cluster=ClusterConfig(**cluster))
    assert make_report(run).complete


def test_a_specification_without_a_digest_loads_nothing(
    run: RunDirectory, folder: Path, elsewhere: Callable[[], None]
) -> None:
    elsewhere()
    with pytest.raises(SpecificationMismatch, match="which does not take these options here: String should match"):
        load_code(run, UserCode("own:kernel", "None", str(folder)))
    assert not (folder / "imported").exists()


def test_a_local_cluster_whose_workers_lack_the_code_says_so(
    run_small: Run, plugin: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = runs._execute

    def without(*given: Any) -> None:
        (folder / "own.py").unlink()  # the driver has imported it by now
        execute(*given)

    monkeypatch.setattr(runs, "_execute", without)
    with pytest.raises(Exception, match=r"the plugin own:kernel: there is no file .*own.py on "):
        run_small(readouts=READOUTS, kernel=plugin, cluster={"kind": "local", "workers": 1})


def test_a_function_that_fails_or_depends_on_the_tile_begins_no_run(
    small_config: Config, plugin: dict[str, Any], folder: Path
) -> None:
    config = small_config(readouts=READOUTS, kernel=plugin)
    for line, message in (
        ("return 1 / 0", "own:kernel failed: ZeroDivisionError"),
        ("return x[:, 0, 0, :1] @ z[:, 0, 0, :1].T + x.mean()", "a value must depend on its two images alone"),
    ):
        (folder / "own.py").write_text(f"def kernel(x, z, *, network, kind):\n    {line}\n")
        with pytest.raises(ConfigError, match=message):
            runs.start(config, Recorder(), threading.Event())
        with pytest.raises(ConfigError, match=message):
            runs.plan(config)
    with pytest.raises(LayerError, match="averages over no flips"):
        runs.plan(small_config(readouts=READOUTS, kernel=plugin | {"flips": True}))
    assert not Path(str(config.store.path)).exists()


# The user's word.


def test_looking_at_a_run_imports_nothing(
    run: RunDirectory, run_small: Run, folder: Path, another_user: Callable[[], None], tmp_path: Path
) -> None:
    plain = run_small(readouts=READOUTS, store={"path": str(tmp_path / "plain")})
    another_user()
    opened = open_run(run.path)
    assert opened.is_complete
    assert opened.kernel("depth3-gap-ntk").compute().shape == (37, 37)
    commands = (
        ("status", run.path),
        ("inspect", run.path, "--all"),
        ("list", run.path.parent),
        ("verify", run.path),
        ("export", run.path, "--out", tmp_path / "files"),
        ("report", run.path),
        ("compare", run.path, plain.path, "--out", tmp_path / "compared.html"),
        ("resume", run.path),  # nothing is left to do
    )
    for words in commands:
        code, said = cntk(*words)
        assert code == 0, (words, said)
    kernel_files(run)[0].unlink()
    assert cntk("status", run.path)[0] == 3
    assert not (folder / "imported").exists()


def test_damaged_images_are_mended_by_the_workflow_of_the_run_without_its_code(
    run: RunDirectory, folder: Path, elsewhere: Callable[[], None]
) -> None:
    # The solution goes too, so that the run is not complete; all tiles of the kernel are there.
    shutil.rmtree(Path(str(run.path), "solve"))
    images = Path(str(run.path), "inputs.zarr", "train_images", "c").rglob("*")
    chunk = next(path for path in images if path.is_file())
    chunk.unlink()
    record = Path(str(run.path), "workflow.json")
    workflow = json.loads(record.read_text())
    workflow["kernel"]["plugin"] = "this:function"  # no part of what is signed: the specification names the code
    record.write_text(json.dumps(workflow))
    elsewhere()
    resume(run)
    assert make_report(run).complete
    assert chunk.exists()
    assert not (folder / "imported").exists()
    shutil.rmtree(Path(str(run.path), "solve"))
    Path(str(run.path), "preprocessing.json").unlink()
    resume(run)
    assert open_run(run.path).is_complete


@pytest.mark.parametrize("word", ["resume", "cluster", "predict", "memory", "drive", "submit"])
def test_code_of_another_user_is_imported_by_the_users_word_alone(
    run: RunDirectory, folder: Path, another_user: Callable[[], None], tmp_path: Path, word: str
) -> None:
    kernel_files(run)[0].unlink()
    another_user()
    np.save(tmp_path / "new.npy", NEW)
    records = {path: path.read_bytes() for path in Path(str(run.path)).glob("*.json")}

    def attempt(trusted: bool) -> None:
        if word == "resume":
            resume(run, trust=trusted)
        elif word == "cluster":
            resume(run, cluster=ClusterConfig(kind="serial"), trust=trusted)
        elif word == "predict":
            question = PredictionQuestion("depth3-gap-ntk", trust=trusted)
            predict_images(run, Unlabelled.of(NEW, "memory"), question, Recorder(), threading.Event())
        elif word == "memory":
            open_run(run.path, trust=trusted).predict(NEW, "depth3-gap-ntk", say=None)
        elif word == "drive":
            told = trust.read_trusted(run, trust=True).digest if trusted else "0" * 64
            handover.drive(str(run.path), Recorder(), threading.Event(), told)
        else:
            handover.resubmit(str(run.path), Recorder(), ClusterConfig(kind="local", workers=1), trust=trusted)

    with pytest.raises(
        NotTrusted, match=r"(?s)computed by code beside this package|with what to import|what to import"
    ):
        attempt(trusted=False)
    assert not (folder / "imported").exists()
    assert {path: path.read_bytes() for path in records} == records
    if word != "submit":
        attempt(trusted=True)
        assert (folder / "imported").exists()


def test_the_refusal_names_the_function_its_folder_and_its_digest(
    run: RunDirectory, folder: Path, another_user: Callable[[], None]
) -> None:
    kernel_files(run)[0].unlink()
    another_user()
    digest = run.specification.engine.options["plugin_digest"]
    with pytest.raises(
        NotTrusted,
        match=rf'(?s)would import and call the function "own:kernel", in "{folder}", sha256 "{digest}".*'
        r"Allow it with the workflow itself \(cntk run FILE --store .*\), or, .* with --trust",
    ):
        resume(run)
    view = resume(run, trust=True)
    assert any("this would import and call the function" in line for line in view.lines)
    assert trust.read_trusted(run).code is not None  # signed by this user now


def test_another_folder_or_other_code_in_a_signed_run_ends_the_trust(
    run: RunDirectory, folder: Path, elsewhere: Callable[[], None]
) -> None:
    kernel_files(run)[0].unlink()
    told = trust.read_trusted(run).digest
    record = Path(str(run.path), "workflow.json")
    workflow = json.loads(record.read_text())
    hostile = folder.parent / "hostile"
    hostile.mkdir()
    (hostile / "own.py").write_bytes((folder / "own.py").read_bytes())
    workflow["kernel"]["plugin_folder"] = str(hostile)
    record.write_text(json.dumps(workflow))
    elsewhere()
    with pytest.raises(NotTrusted, match="is not signed by you"):
        resume(run)
    with pytest.raises(NotTrusted, match="somebody has changed since what to import"):
        handover.drive(str(run.path), Recorder(), threading.Event(), told)
    assert not (folder / "imported").exists()


def test_the_workflow_itself_is_the_users_word(
    run: RunDirectory, small_config: Config, plugin: dict[str, Any], folder: Path, another_user: Callable[[], None]
) -> None:
    lost = kernel_files(run)[0]
    lost.unlink()
    another_user()
    runs.start(small_config(readouts=READOUTS, kernel=plugin), Recorder(), threading.Event())
    assert lost.exists()
    assert (folder / "imported").exists()


def test_a_tile_that_is_damaged_while_only_the_solve_is_left_is_not_computed_without_a_word(
    run: RunDirectory, elsewhere: Callable[[], None]
) -> None:
    elsewhere()
    job = gram.kernel_jobs(run)[0]
    array, index = job.places(run)[0]
    array.chunk_path(*index).unlink()
    with pytest.raises(NotTrusted, match="which nobody has allowed this process to import"):
        gram.compute(str(run.path), job.task)


def test_a_run_directory_is_no_place_of_code(run: RunDirectory, folder: Path, tmp_path: Path) -> None:
    """A file called like the module in the run directory, and in the current one, is not imported by any command."""
    kernel_files(run)[0].unlink()
    for place in (Path(str(run.path)), tmp_path):
        (place / "own.py").write_text(f"from pathlib import Path\nPath({str(tmp_path / 'was-run')!r}).touch()\n")
    code = (
        "import threading\nfrom cntk_pipeline.workflow import run as runs\n"
        "from cntk_pipeline.cli.display import RunView\n"
        f"with RunView() as view: runs.resume({str(run.path)!r}, view, threading.Event())\n"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert said.returncode == 0, said.stderr
    assert not (tmp_path / "was-run").exists()
    assert kernel_files(run)
