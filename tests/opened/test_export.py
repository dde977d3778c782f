"""What is exported is what the run holds, whole and symmetric; what is not there is refused by name."""

import csv
import json
import os
import re
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from support.problems import TEST, TRAIN, flip_bit, stop_at, whole_matrix
from typer.testing import CliRunner

from cntk_pipeline.cli import main as cli
from cntk_pipeline.config import RunConfig
from cntk_pipeline.errors import ConfigError, CorruptTile, Interrupted, NotComputed, StoreError
from cntk_pipeline.opened import open_run
from cntk_pipeline.opened.export import folder_beside, plan_export, require_folder, write_export
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.storage import open_path
from cntk_pipeline.workflow import run as runs

Run = Callable[..., RunDirectory]
Config = Callable[..., RunConfig]


def cntk(*arguments: object) -> Any:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def test_ridges_that_agree_in_six_digits_have_files_of_their_own(run_small: Run, tmp_path: Path) -> None:
    ridges = [0.1, 0.10000001]
    run = open_run(run_small(readouts={"poolings": ["gap"], "kinds": ["ntk"]}, solve={"ridges": [*ridges, 1.0]}).path)
    assert cntk("export", run.path, "--no-kernels", "--out", tmp_path / "out").exit_code == 0
    for name, ridge in (("0.1", 0.1), ("0.10000001", 0.10000001), ("1", 1.0)):
        with np.load(tmp_path / f"out/predictions-depth3-gap-ntk-ridge{name}.npz") as found:
            np.testing.assert_array_equal(found["scores"], run.predictions(ridge=ridge))


def test_npz_holds_whole_kernels_predictions_and_labels(run_small: Run, tmp_path: Path) -> None:
    directory = run_small(solve={"ridges": [1e-2, 1.0]}, inference={"posterior_covariance": True})
    done = cntk("export", directory.path, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.exception
    run = open_run(directory.path)
    for name in run.readouts:
        with np.load(tmp_path / f"out/kernel-{name}.npz") as found:
            assert set(found) == {"train", "test", "train_variance", "test_variance", "test_test"}
            assert found["train"].dtype == np.float32
            for part in ("train", "test", "train_variance", "test_variance"):
                np.testing.assert_array_equal(found[part], whole_matrix(directory, name, part))
            np.testing.assert_array_equal(found["train"], found["train"].T)
            np.testing.assert_array_equal(found["test_test"], run.kernel(name, "test_test"))
        for ridge in (1e-2, 1.0):
            with np.load(tmp_path / f"out/predictions-{name}-ridge{ridge:g}.npz") as found:
                np.testing.assert_array_equal(found["scores"], run.predictions(name, ridge))
    with np.load(tmp_path / "out/labels.npz") as found:
        np.testing.assert_array_equal(found["train"], run.labels.train)
        np.testing.assert_array_equal(found["test"], run.labels.test)
        assert tuple(found["classes"]) == run.classes
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert [each["accuracy"] for each in metrics] == [row.accuracy for row in run.metrics]
    entries = TRAIN**2 + TEST * TRAIN + TRAIN + TEST + TEST**2
    assert f"about {4 * 4 * entries + 8 * 8 * TEST * 3:,} bytes are written" in done.output
    assert [file.name for file in tmp_path.iterdir() if "partial" in file.name] == []


@pytest.mark.parametrize("place", ["run", "run/", "."])
def test_without_a_folder_the_files_lie_beside_the_run(
    run_small: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    directory = run_small(readouts={"poolings": ["gap"], "kinds": ["ntk"]})
    inside = sorted(directory.path.rglob("*"))
    monkeypatch.chdir(directory.path if place == "." else tmp_path)
    for form in ("npz", "csv"):
        done = cntk("export", place, "--format", form)
        assert done.exit_code == 0, done.exception
        assert f"the files lie in {tmp_path / f'run-{form}'}" in done.output.replace("\n", "")
        assert (tmp_path / f"run-{form}/metrics.json").is_file()
    assert sorted(directory.path.rglob("*")) == inside
    again = cntk("export", place)
    assert isinstance(again.exception, ConfigError)
    assert f"--out {tmp_path / 'run-npz'}: there is something already; give a new or an empty folder" in str(
        again.exception
    )


def test_the_folder_of_a_run_in_a_bucket_lies_here() -> None:
    assert folder_beside(open_path("s3://bucket/runs/small"), "csv") == "small-csv"


def test_csv_holds_predictions_and_kernels_only_where_asked(run_small: Run, tmp_path: Path) -> None:
    directory = run_small()
    assert cntk("export", directory.path, "--out", tmp_path / "out", "--format", "csv").exit_code == 0
    assert not list((tmp_path / "out").glob("kernel-*"))
    run, name = open_run(directory.path), "depth3-gap-ntk"
    rows = list(csv.DictReader((tmp_path / f"out/predictions-{name}-ridge0.01.csv").open()))
    assert [[float(row[f"score_{each}"]) for each in run.classes] for row in rows] == run.predictions(name).tolist()
    assert [row["class"] for row in rows] == [run.classes[label] for label in run.labels.test]
    assert np.mean([row["class"] == row["predicted"] for row in rows]) == run.metrics[2].accuracy
    labels = list(csv.DictReader((tmp_path / "out/labels-train.csv").open()))
    assert [int(row["label"]) for row in labels] == run.labels.train.tolist()
    arguments = ("--out", tmp_path / "kernels", "--format", "csv", "--kernels", "--readout", name)
    assert cntk("export", directory.path, *arguments).exit_code == 0
    kernels = [file.name for file in sorted((tmp_path / "kernels").glob("kernel-*"))]
    assert kernels == [f"kernel-{name}-{part}.csv" for part in ("test", "test_variance", "train", "train_variance")]
    train = np.loadtxt(tmp_path / f"kernels/kernel-{name}-train.csv", np.float32, delimiter=",")
    np.testing.assert_array_equal(train, whole_matrix(directory, name, "train"))


def test_targets_with_names_of_other_columns_overwrite_none(run_small: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    columns = {"a": rng.standard_normal(12), "image": np.arange(12.0), "std_image": rng.standard_normal(12)}
    table = tmp_path / "table.csv"
    rows = zip(*(values.tolist() for values in columns.values()), strict=True)
    table.write_text("\n".join([",".join(columns), *(",".join(map(str, row)) for row in rows)]))
    data = {"source": "table", "path": str(table), "target": ["image", "std_image"], "train": 9, "test": 3}
    readouts, evidence = {"poolings": [], "kinds": ["ntk"]}, {"evidence": True}
    directory = run_small(data=data, network={"preset": "fully_connected"}, readouts=readouts, inference=evidence)
    run = open_run(directory.path)
    done = cntk("predict", directory.path, table, "--out", tmp_path / "new.csv", "--std")
    assert done.exit_code == 0, done.exception
    found = list(csv.DictReader((tmp_path / "new.csv").open()))
    assert list(found[0]) == ["image", "image_2", "std_image", "std_image_2", "std_std_image"]
    assert [row["image"] for row in found] == [str(row) for row in range(12)]
    assert [float(row["image_2"]) for row in found[9:]] == run.predictions()[:, 0].tolist()
    assert all(float(row["std_image_2"]) >= 0 for row in found)
    assert cntk("export", directory.path, "--out", tmp_path / "out", "--format", "csv").exit_code == 0
    labels = list(csv.DictReader((tmp_path / "out/labels-train.csv").open()))
    assert [(row["image"], float(row["image_2"])) for row in labels] == [(str(k), float(k)) for k in range(9)]
    predictions = list(csv.DictReader((tmp_path / "out/predictions-depth3-ntk-ridge0.01.csv").open()))
    assert list(predictions[0]) == ["image", "image_2", "std_image", "predicted_image", "predicted_std_image"]
    assert [row["image_2"] for row in predictions] == ["9.0", "10.0", "11.0"]


def test_unfinished_parts_are_refused_by_name(small_config: Config, tmp_path: Path) -> None:
    view, stop = stop_at(2)
    config = small_config(readouts={"poolings": ["gap"], "kinds": ["ntk"]})
    with pytest.raises(Interrupted):
        runs.start(config, view, stop)
    run = RunDirectory(str(config.store.path))
    message = (
        r"is not finished, these parts are missing: kernel depth3-gap-ntk/train \(2 of 6 tiles\), kernel .*"
        r"/test \(2 of 3 tiles\), .*"
        r"predictions of depth3-gap-ntk, ridge 0.01 \(relative\) \(0 of 1 tiles\). No driver is at work"
    )
    with pytest.raises(NotComputed, match=message):
        plan_export(run, (), "npz", kernels=True)
    refused = cntk("export", run.path, "--out", tmp_path / "out")
    assert isinstance(refused.exception, NotComputed)
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_and_a_full_disk_are_refused(
    run_small: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_small()
    plan = plan_export(run, ("depth3-gap-ntk",), "npz", kernels=True)
    with pytest.raises(ConfigError, match="there is something already; give a new or an empty folder"):
        require_folder(str(run.path), plan)
    with pytest.raises(ConfigError, match="expected a folder of this machine"):
        require_folder("s3://bucket/out", plan)

    class Usage(NamedTuple):
        free: int

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(plan.bytes - 1))
    with pytest.raises(StoreError, match=rf"{plan.bytes:,} bytes are to be written and {plan.bytes - 1:,} are free"):
        require_folder(str(tmp_path / "deep" / "out"), plan)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(plan.bytes))
    assert require_folder(str(tmp_path / "deep" / "out"), plan) == Path(tmp_path / "deep" / "out")
    wrong = cntk("export", run.path, "--out", tmp_path / "out", "--format", "xls")
    assert "--format is npz or csv, got 'xls'" in str(wrong.exception)
    assert "did you mean 'depth3-gap-ntk'" in str(
        cntk("export", run.path, "--out", tmp_path / "out", "--readout", "depth3-gap-nt").exception
    )


def test_an_empty_folder_is_filled_and_stays_the_same_one(
    run_small: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell may stand in it."""
    run, out = run_small(readouts={"poolings": ["gap"], "kinds": ["ntk"]}), tmp_path / "out"
    out.mkdir()
    before = out.stat().st_ino
    monkeypatch.chdir(out)
    done = cntk("export", run.path.absolute(), "--out", ".", "--no-kernels")
    assert done.exit_code == 0, done.exception
    assert out.stat().st_ino == before
    names = ["labels.npz", "metrics.json", "predictions-depth3-gap-ntk-ridge0.01.npz"]
    assert sorted(os.listdir(out)) == names
    plan = plan_export(run, (), "npz", kernels=False)
    with pytest.raises(StoreError, match="something has appeared there meanwhile"):
        write_export(run, plan, out, lambda _: None)
    assert sorted(os.listdir(out)) == names


def test_a_place_where_no_folder_can_lie_is_an_error_and_leaves_nothing(run_small: Run, tmp_path: Path) -> None:
    run = run_small(readouts={"poolings": ["gap"], "kinds": ["ntk"]})
    (tmp_path / "file").write_text("mine")
    for place, kind, said in [
        (tmp_path / "file/ex", ConfigError, f"{tmp_path / 'file'} is a file, in which no folder can lie"),
        (tmp_path / ("e" * 256), StoreError, "cannot be read or written: File name too long.*the same command again"),
        (Path("/proc/ex"), (ConfigError, StoreError), "/proc/ex"),
    ]:
        refused = cntk("export", run.path, "--out", place, "--no-kernels")
        assert isinstance(refused.exception, kind), refused.exception
        assert re.search(said, str(refused.exception))
    assert {file.name for file in tmp_path.iterdir()} == {"run", "file"}
    assert cntk("export", run.path, "--out", tmp_path / ("e" * 255), "--no-kernels").exit_code == 0


@pytest.mark.parametrize("form", ["npz", "csv"])
def test_a_limit_on_file_sizes_is_named_and_leaves_nothing(
    run_small: Run, tmp_path: Path, form: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # it would be cut to the limit
    run = run_small(readouts={"poolings": ["gap"], "kinds": ["ntk"]})
    plan = plan_export(run, (), form, kernels=True)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (0, 2048):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            with pytest.raises(StoreError, match=rf"larger than the {limit} bytes of `ulimit -f`.*same command"):
                write_export(run, plan, tmp_path / "out", lambda _: None)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert {file.name for file in tmp_path.iterdir()} == {"run"}


def test_a_damaged_tile_leaves_no_half_folder(run_small: Run, tmp_path: Path) -> None:
    run = run_small()
    flip_bit(run.kernel("depth3-gap-ntk", "train").chunk_path(2, 1))
    refused = cntk("export", run.path, "--out", tmp_path / "out")
    assert isinstance(refused.exception, CorruptTile)
    assert {file.name for file in tmp_path.iterdir()} == {"run"}
