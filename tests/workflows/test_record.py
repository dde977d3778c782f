"""The table of accuracies that is kept of a run: counted again from predictions and labels."""

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cntk_pipeline
from cntk_pipeline.datasets import load

SCRIPT = Path(__file__).parents[2] / "workflows" / "record.py"


def _run(path: Path, curve: object = True, **solve: object) -> cntk_pipeline.OpenRun:
    digits = load("digits").train
    return cntk_pipeline.run(
        {
            "network": {"preset": "cntk"},
            "readouts": {"depths": [2], "poolings": ["flatten"]},
            "solve": {"ridges": [1e-2], **solve},
            "inference": {"leave_one_out": True, "learning_curve": curve},
            "cluster": {"kind": "serial"},
        },
        data={"x_train": digits.images[:160], "y_train": digits.labels[:160]},
        data__train=100,
        store__path=str(path),
        progress=False,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> cntk_pipeline.OpenRun:
    return _run(tmp_path_factory.mktemp("record") / "run")


def _record(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, timeout=120)


def test_the_table_counts_right_images(run: cntk_pipeline.OpenRun, tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    done = _record(str(run.path), "--cut", "20", "--out", str(file))
    assert done.returncode == 0, done.stderr
    with file.open() as lines:
        table = list(csv.DictReader(lines))
    assert run.labels.test is not None
    right = np.argmax(run.predictions(), axis=1) == run.labels.test
    left_out = np.argmax(np.asarray(run.leave_one_out()["prediction"]), axis=1) == run.labels.train
    expected = {"test": right, "test before 20": right[:20], "test from 20": right[20:], "left out": left_out}
    whole = {row["images"]: row for row in table if row["training_images"] == "100"}
    assert whole.keys() == expected.keys()
    for images, values in expected.items():
        assert float(whole[images]["accuracy"]) == pytest.approx(values.mean(), rel=1e-5)
        assert int(whole[images]["count"]) == len(values)
        error = np.sqrt(values.var() / len(values))
        assert float(whole[images]["standard_error"]) == pytest.approx(error, rel=1e-5)
    smaller = [int(row["training_images"]) for row in table if row["training_images"] != "100"]
    assert smaller == list(run.learning_curve().summary.sizes[:-1])
    assert [row["columns"] for row in table] == [row["training_images"] for row in table]


def test_centres_are_columns_and_no_training_images(tmp_path: Path) -> None:
    run = _run(tmp_path / "run", solver="centres", centres=40)
    done = _record(str(run.path))
    table = list(csv.DictReader(done.stdout.splitlines()))
    assert {row["training_images"] for row in table} == {"100"}
    sizes = [int(row["columns"]) for row in table if row["images"] == "test"]
    assert sorted(sizes) == list(run.learning_curve().summary.sizes)
    assert max(sizes) == 40


def test_a_curve_that_ends_before_the_whole_has_all_its_sizes(tmp_path: Path) -> None:
    run = _run(tmp_path / "run", [20, 50])
    table = list(csv.DictReader(_record(str(run.path)).stdout.splitlines()))
    tested = {int(row["training_images"]): float(row["accuracy"]) for row in table if row["images"] == "test"}
    curve = run.learning_curve().summary
    assert tested == pytest.approx(dict(zip(curve.sizes, curve.accuracy, strict=True)) | {100: run.metrics[0].accuracy})
    assert len(table) == 4


def test_a_table_keeps_the_read_outs_of_other_runs(run: cntk_pipeline.OpenRun, tmp_path: Path) -> None:
    file, other = tmp_path / "table.csv", "depth9-flatten-ntk,0,test,10000,50000,50000,0.6533,0.004759"
    assert _record(str(run.path), "--out", str(file)).returncode == 0
    own = file.read_text().splitlines()
    file.write_text("\n".join([own[0], other, own[1].replace("0.01", "0.5"), ""]))
    assert _record(str(run.path), "--out", str(file)).returncode == 0
    assert file.read_text().splitlines() == [*own, other]  # of the run's read-out no old row stays


def test_a_run_that_is_not_complete_has_no_table(tmp_path: Path) -> None:
    run, file = _run(tmp_path / "run", False), tmp_path / "table.csv"
    file.write_text("kept")
    for record in (run.path / "solve").rglob("leave_one_out*"):
        shutil.rmtree(record) if record.is_dir() else record.unlink()
    assert not cntk_pipeline.open_run(run.path).is_complete
    done = _record(str(run.path), "--out", str(file))
    assert (done.returncode, file.read_text()) == (1, "kept")
    assert "is not complete, so that rows would be missing: cntk resume it first" in done.stderr


def test_a_cut_outside_of_the_test_images_is_refused(run: cntk_pipeline.OpenRun) -> None:
    done = _record(str(run.path), "--cut", "60")
    assert (done.returncode, done.stdout) == (1, "")
    assert "--cut lies between 0 and the 60 test images, got 60" in done.stderr


def test_a_run_that_is_not_there_is_refused(tmp_path: Path) -> None:
    done = _record(str(tmp_path / "none"))
    assert done.returncode == 1
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr
