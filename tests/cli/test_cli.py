import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from support.commands import Commands
from support.processes import wait_until

pytestmark = pytest.mark.slow

WORKFLOW = """
name = "small"
[data]
source = "digits"
train = 60
test = 40
[network]
preset = "cntk"
[readouts]
depths = [3]
poolings = ["flatten", "gap"]
[kernel]
tile = 16
[solve]
ridges = [1e-2]
[cluster]
kind = "serial"
"""


def cntk(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as scratch:
        return commands().run(*arguments, folder=cwd, scratch=Path(scratch))


def started_anew(*arguments: object, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cntk_pipeline.cli", *map(str, arguments)]
    given = environment() | variables
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240, env=given)


@functools.cache
def commands() -> Commands:
    return Commands(environment())


def environment() -> dict[str, str]:
    return os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[2] / "pipeline"),
        "COLUMNS": "120",
        "NO_COLOR": "1",
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shell")
    (folder / "small.toml").write_text(WORKFLOW)
    return folder


@pytest.fixture(scope="module")
def finished(folder: Path) -> subprocess.CompletedProcess[str]:
    return started_anew("run", "small.toml", "--store", "done", cwd=folder)


def test_a_run_ends_with_accuracies_and_where_it_lies(finished: subprocess.CompletedProcess[str]) -> None:
    assert finished.returncode == 0, finished.stderr
    assert "depth3-gap-ntk" in finished.stdout
    assert "%" in finished.stdout
    assert "the run lies in done" in finished.stdout
    assert finished.stderr == ""


def test_progress_is_plain_lines_where_the_output_is_no_terminal(finished: subprocess.CompletedProcess[str]) -> None:
    assert "kernel: 25/25 tiles" in finished.stdout
    assert "entries/s" in finished.stdout
    assert "\x1b" not in finished.stdout


@pytest.mark.usefixtures("finished")
def test_status_of_a_complete_run_is_0(folder: Path) -> None:
    result = cntk("status", "done", cwd=folder)
    assert result.returncode == 0
    assert "train" in result.stdout


@pytest.mark.usefixtures("finished")
def test_status_as_json_counts_tiles(folder: Path) -> None:
    record = json.loads(cntk("status", "done", "--json", cwd=folder).stdout)
    assert record["complete"] is True
    assert {stage["stage"]: stage["total"] for stage in record["stages"]}["train"] == 10


@pytest.mark.usefixtures("finished")
def test_inspect_shows_results_and_lines_that_open_the_arrays(folder: Path) -> None:
    result = cntk("inspect", "done", "--all", cwd=folder)
    assert result.returncode == 0
    assert "fingerprint" in result.stdout
    openers = [line.strip() for line in result.stdout.splitlines() if "open_" in line]
    assert len(openers) == 4
    opened = [f"print({line.partition('  #')[0]})" for line in openers]
    code = "\n".join(["import cntk_pipeline, zarr, xarray", *opened])
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize(("command", "said"), [("inspect", "depth3-gap"), ("status", "\ncomplete: every tile")])
def test_a_terminal_of_unknown_size_is_written_to(folder: Path, command: str, said: str) -> None:
    """Seen to fail with the size as it is said: "invalid width 0", and no line at all."""
    usual = started_anew(command, "done", cwd=folder, COLUMNS="80").stdout
    assert said in usual
    assert started_anew(command, "done", cwd=folder, COLUMNS="0", LINES="0").stdout == usual


@pytest.mark.usefixtures("finished")
def test_inspect_as_json_holds_accuracies(folder: Path) -> None:
    record = json.loads(cntk("inspect", "done", "--json", cwd=folder).stdout)
    assert len(record["solves"]) == 2
    assert all(0.5 < solve["accuracy"] <= 1 for solve in record["solves"])


@pytest.mark.usefixtures("finished")
def test_verify_of_a_whole_run_is_0(folder: Path) -> None:
    result = cntk("verify", "done", cwd=folder)
    assert (result.returncode, "0 are bad" in result.stdout) == (0, True)


def test_verify_of_a_damaged_run_is_3_and_resume_mends_it(folder: Path) -> None:
    assert cntk("run", "small.toml", "--store", "damaged", cwd=folder).returncode == 0
    chunk = folder / "damaged/kernel.zarr/depth3-gap-ntk/train/c/2/1"
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"\x00")
    result = cntk("verify", "damaged", cwd=folder)
    assert result.returncode == 3
    assert "train tile (2, 1) was damaged on disk: moved to quarantine" in result.stdout
    assert cntk("status", "damaged", cwd=folder).returncode == 3
    assert cntk("resume", "damaged", cwd=folder).returncode == 0
    assert cntk("verify", "damaged", cwd=folder).returncode == 0


def test_plan_forecasts_without_writing(folder: Path) -> None:
    result = cntk("plan", "small.toml", "--set", "store.path='planned'", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "60 training and 40 test images" in result.stdout
    assert "memory per worker" in result.stdout
    record = json.loads(cntk("plan", "small.toml", "--json", cwd=folder).stdout)
    assert (record["pairs"], record["tile"]) == (60 * 61 // 2 + 60 * 40 + 40, 16)
    (folder / "three.toml").write_text('[cluster]\nkind = "local"\nworkers = 3\n')
    record = json.loads(cntk("plan", "small.toml", "--cluster", "three.toml", "--json", cwd=folder).stdout)
    assert record["slots"] == 3
    assert not (folder / "planned").exists()
    assert not (folder / "runs").exists()


@pytest.fixture(scope="module")
def sorted_rows(folder: Path) -> list[str]:
    """Write 300 digits sorted by class, and give the options that make the small workflow train on the first 240."""
    digits = load_digits()
    rows = np.concatenate([np.flatnonzero(digits.target == digit)[:30] for digit in range(10)])
    np.savez(folder / "sorted.npz", x_train=digits.images[rows].astype(np.float32), y_train=digits.target[rows])
    values = ["data.source='npz'", "data.path='sorted.npz'", "data.train=240", "data.test=60"]
    return [option for value in [*values, "readouts.poolings=['flatten']"] for option in ("--set", value)]


def test_rows_sorted_by_class_never_end_in_a_number_without_a_word(folder: Path, sorted_rows: list[str]) -> None:
    told = "warning: 2 of 10 classes have no training images: 8, 9; all 60 test images of them will count as wrong."
    run = cntk("run", "small.toml", "--store", "sorted", *sorted_rows, cwd=folder)
    assert run.returncode == 0, run.stderr
    assert " 0.00%" in run.stdout
    assert "240 training and 60 test images of 8 x 8 pixels in 1 channel, 10 classes" in run.stdout
    assert "test images by class: 0: 0, 1: 0, 2: 0, 3: 0, 4: 0, 5: 0, 6: 0, 7: 0, 8: 30, 9: 30" in run.stdout
    assert told in run.stdout.partition("computing on")[0]
    assert told in run.stdout.partition(" 0.00%")[2]  # a long log lies between
    shown = cntk("inspect", "--all", "sorted", cwd=folder).stdout
    assert told in shown
    assert "training images by class: 0: 30," in shown
    contents = json.loads(cntk("inspect", "--json", "sorted", cwd=folder).stdout)["contents"]
    assert contents["warnings"][0].startswith(told.removeprefix("warning: "))
    assert contents["classes"][8] == {"name": "8", "train": 0, "test": 30}


def test_a_plan_says_what_was_loaded_too(folder: Path, sorted_rows: list[str]) -> None:
    shown = cntk("plan", "small.toml", *sorted_rows, cwd=folder).stdout
    assert "training images by class: 0: 30," in shown
    assert "warning: 2 of 10 classes have no training images: 8, 9" in shown
    record = json.loads(cntk("plan", "small.toml", "--json", *sorted_rows, cwd=folder).stdout)
    assert record["contents"]["classes"][8] == {"name": "8", "train": 0, "test": 30}
    assert record["contents"]["shape"] == [8, 8, 1]
    assert record["warnings"][0].startswith("2 of 10 classes have no training images: 8, 9")


def test_network_shows_the_costliest_network_with_its_shapes(folder: Path) -> None:
    result = cntk("network", "small.toml", "--set", "readouts.depths=[3, 5]", cwd=folder)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("depth5-gap-")
    assert sum("Conv(3, w_std=1.414" in line for line in lines) == 4
    assert "plane entries a pair in 2 stages" in lines[-1]


def test_network_says_of_cards_what_they_compute_and_by_which_layer_they_refuse(folder: Path) -> None:
    cards = ["--set", 'kernel.engine="cuda"', "--set", "cluster.gpus_per_node=1"]
    result = cntk("network", "small.toml", *cards, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "plane entries a pair" in result.stdout
    (folder / "wide.toml").write_text(
        '[data]\nsource = "digits"\ntrain = 40\ntest = 40\n'
        '[[network.layers]]\nlayer = "Conv"\nfilter_shape = [7, 7]\n[[network.layers]]\nlayer = "Relu"\n'
        '[[network.layers]]\nlayer = "GlobalAvgPool"\n[[network.layers]]\nlayer = "Dense"\n'
    )
    assert cntk("network", "wide.toml", cwd=folder).returncode == 0
    refused = cntk("network", "wide.toml", *cards, cwd=folder)
    assert refused.returncode == 2
    said = " ".join(refused.stderr.split())
    assert 'the engine "cuda" cannot compute layer 0, Conv((7, 7)' in said
    assert 'Take engine = "cpu", or another layer' in said


def test_a_grown_run_says_what_it_took_over_and_is_resumed_without_its_source(folder: Path) -> None:
    fixed = ["--set", "data.standardize=false", "--set", "solve.tile=16"]
    assert cntk("run", "small.toml", "--store", "few", "--set", "data.train=40", *fixed, cwd=folder).returncode == 0
    result = cntk("run", "small.toml", "--store", "more", "--from", "few", *fixed, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "40 training and 40 test images, 32 and 0 are the same here in whole tiles of 16" in result.stdout
    assert "taken over 3 of 10 tiles of train" in result.stdout
    assert "ridge 0.01 (relative) is now" in result.stdout
    (folder / "few").rename(folder / "gone")
    assert cntk("resume", "more", cwd=folder).returncode == 0
    assert f"grown     from {folder / 'few'}" in cntk("inspect", "--all", "more", cwd=folder).stdout


@pytest.mark.usefixtures("finished")
def test_a_plan_foretells_the_tiles_of_the_run(folder: Path) -> None:
    planned = json.loads(cntk("plan", "small.toml", "--json", cwd=folder).stdout)
    status = json.loads(cntk("status", "done", "--json", cwd=folder).stdout)
    assert sum(stage["tasks"] for stage in planned["stages"]) == sum(stage["total"] for stage in status["stages"])


@pytest.fixture(scope="module")
def iterated(folder: Path) -> subprocess.CompletedProcess[str]:
    return cntk("run", "small.toml", "--store", "iterated", "--set", "solve.solver='cg'", cwd=folder)


def test_a_run_by_conjugate_gradients_shows_how_far_it_is(
    folder: Path, iterated: subprocess.CompletedProcess[str]
) -> None:
    assert iterated.returncode == 0, iterated.stderr
    assert "%" in iterated.stdout
    record = json.loads(cntk("inspect", "iterated", "--json", cwd=folder).stdout)
    assert record["complete"] is True
    assert len(record["solves"]) == 2
    assert all(solve["iterations"] > 1 and solve["relative_residual"] <= 1e-10 for solve in record["solves"])
    assert "0 are bad" in cntk("verify", "iterated", cwd=folder).stdout


@pytest.mark.usefixtures("iterated")
def test_a_plan_foretells_the_tasks_around_and_in_an_iteration(folder: Path) -> None:
    method = ["--set", "solve.solver='cg'"]
    shown = cntk("plan", "small.toml", *method, cwd=folder).stdout
    assert "each iteration of conjugate gradients: 4 tasks, 20.6 kB of kernel read" in shown
    planned = json.loads(cntk("plan", "small.toml", "--json", *method, cwd=folder).stdout)
    solves = json.loads(cntk("inspect", "iterated", "--json", cwd=folder).stdout)["solves"]
    iterations = sum(solve["iterations"] for solve in solves)
    stages = json.loads(cntk("status", "iterated", "--json", cwd=folder).stdout)["stages"]
    tasks = sum(stage["tasks"] for stage in planned["stages"])
    a_system = planned["iteration"]["tasks"] // len(solves)
    assert tasks + iterations * a_system == sum(stage["total"] for stage in stages)
    chunks = list((folder / "iterated/kernel.zarr").glob("*/train/c/*/*"))
    assert planned["iteration"]["read_bytes"] == sum(chunk.stat().st_size for chunk in chunks)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "absent.toml"], 2, "cannot read the workflow file"),
        (["run", "small.toml", "--set", "kernel.dtyp=1"], 2, "did you mean 'dtype'?"),
        (["run", "small.toml", "--set", "network.preset=resnett"], 2, "unknown preset 'resnett'"),
        (["resume", "nowhere"], 2, "holds no run"),
        (["status", "nowhere"], 2, "holds no run"),
        (["frobnicate"], 2, "No such command"),
        (["run"], 2, "Missing argument"),
        (["run", "small.toml", "--store", "done", "--set", "readouts.depths=[4]"], 1, "depth3-gap-ntk: only stored"),
        (["run", "small.toml", "--set", "solve={solver='cg', max_iterations=1, rank=0}"], 1, "solve.max_iterations"),
        (["run", "small.toml", "--set", "data.source=npz", "--set", "data.path=gone.npz"], 2, "gone.npz"),
    ],
)
@pytest.mark.usefixtures("finished")
def test_what_is_wrong_is_said_on_stderr_with_its_exit_code(
    folder: Path, arguments: list[str], code: int, message: str
) -> None:
    result = cntk(*arguments, cwd=folder)
    assert (result.returncode, message in result.stderr) == (code, True), result.stderr
    assert "Traceback" not in result.stderr


def test_a_second_run_is_refused_and_ctrl_c_drains_the_first_and_says_how_to_resume(folder: Path) -> None:
    command = [sys.executable, "-m", "cntk_pipeline.cli", "run", "small.toml", "--store", "stopped"]
    command += ["--set", "readouts.depths=[12]", "--set", "data.train=400", "--set", 'cluster.kind="local"']
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
    )
    journal = folder / "stopped" / "journal"
    wait_until(lambda: any(journal.glob("*.jsonl")), "the journal of the first run")
    second = cntk("resume", "stopped", cwd=folder)
    assert (second.returncode, "another driver works on stopped" in second.stderr) == (1, True)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: driver and workers get it
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert "tiles in flight are finished first" in stderr
    assert "cntk resume stopped" in stderr
    assert "Traceback" not in stderr
    assert cntk("status", "stopped", cwd=folder).returncode == 3
    assert cntk("verify", "stopped", cwd=folder).returncode == 0


def test_the_demo_is_a_shipped_workflow(folder: Path) -> None:
    result = started_anew("demo", "--store", "demo", "--set", "data.train=40", "--set", "data.test=20", cwd=folder)
    assert result.returncode == 0, result.stderr
    shipped = tomllib.loads((Path(__file__).parents[2] / "workflows/digits.toml").read_text())
    record = json.loads(cntk("inspect", "demo", "--json", cwd=folder).stdout)
    combinations = len(shipped["readouts"]["depths"]) * len(shipped["readouts"]["poolings"])
    assert len(record["readouts"]) == combinations
    # Its last line is the place of its report; tables of many rows are named only.
    assert "demo/report.html (" in "".join(result.stdout.split("report: ")[-1].splitlines())
    assert (folder / "demo" / "report.html").read_text().count("<section") > 8
    assert "rows, which `cntk inspect --all` shows" in result.stdout
    assert result.stdout.count("\n") < 45


def test_inference_is_shown_in_tables_and_as_json(tmp_path: Path) -> None:
    inference = "leave_one_out = true\nlearning_curve = [20, 60]\nvariance = true\ncovariance = true\nspectrum = 2\n"
    text = WORKFLOW.replace("[readouts]", '[readouts]\nkinds = ["ntk", "nngp"]').replace(
        "ridges = [1e-2]", 'ridges = "auto"'
    )
    text = text.replace('"flatten", "gap"', '"flatten"')
    (tmp_path / "w.toml").write_text(f"{text}[inference]\n{inference}times = [1e3]\n")
    shown = cntk("run", "w.toml", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    for title in (
        "ridges by leave-one-out on the training images",
        "leave-one-out",
        "learning curve (one absolute ridge, that of the full system)",
        "posterior variance of a test image",
        "diagonal of the posterior covariance",
        "eigenvalues of the kernel",
        "trained ensemble",
    ):
        assert title in shown.stdout
    everything = cntk("inspect", "--all", "runs/small", cwd=tmp_path)
    assert everything.stdout.count(" chosen\n") == 2
    report = json.loads(cntk("inspect", "--json", "runs/small", cwd=tmp_path).stdout)
    assert report["complete"]
    inferred = {item["product"]: item["record"] for item in report["solves"][0]["inferred"]}
    assert inferred["learning_curve"]["accuracy"][-1] == report["solves"][0]["accuracy"]
    assert len(report["ridge_paths"]) == 2
    assert [path["network"] for path in report["trained"]] == ["depth3-flatten"]
