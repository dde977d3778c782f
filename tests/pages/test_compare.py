"""Runs side by side."""

import json
from pathlib import Path

import numpy as np
import pytest
from support import pictured
from support.problems import flip_bit
from typer.testing import CliRunner

from cntk_pipeline.cli import main as cli
from cntk_pipeline.errors import ConfigError
from cntk_pipeline.opened import OpenRun
from cntk_pipeline.pages import make_comparison
from cntk_pipeline.plots.comparison import have_equal_tests, mcnemar

ONE = {"readouts": {"depths": [3], "poolings": ["flatten"]}, "solve": {"ridges": [0.5]}}


@pytest.fixture(scope="module")
def other_run(tmp_path_factory: pytest.TempPathFactory) -> OpenRun:
    """The same test images, another network, and fewer training images, so that they are standardised otherwise."""
    data = pictured.picture_data()
    data["x_train"], data["y_train"] = data["x_train"][:40], data["y_train"][:40]
    return pictured.start(tmp_path_factory.mktemp("other") / "other", data, **ONE)


def test_mcnemars_test_is_that_of_the_binomial_distribution() -> None:
    first = np.array([True] * 9 + [False] * 2 + [True] * 30 + [False] * 4)
    second = np.array([False] * 9 + [True] * 2 + [True] * 30 + [False] * 4)
    found = mcnemar(("a", "b"), first, second)
    assert (found.only_first, found.only_second) == (9, 2)
    assert found.p == pytest.approx(2 * (1 + 11 + 55) / 2**11)
    assert mcnemar(("a", "b"), first, first).p == 1


def test_runs_are_compared_by_keys_scores_tests_and_costs(pictured_run: OpenRun, other_run: OpenRun) -> None:
    assert not np.array_equal(
        pictured_run.directory.inputs("test_images")[:], other_run.directory.inputs("test_images")[:]
    )
    page = make_comparison([pictured_run, other_run])
    sections = page.numbers["sections"]
    assert page.numbers["lacking"] == {}
    assert sections["differences"]["solve.ridges"] == {"run": "[0.01, 1.0]", "other": "[0.5]"}
    assert "inference.leave_one_out" not in sections["differences"]
    assert "store.path" not in sections["differences"]
    assert [run["name"] for run in sections["scores"]["runs"]] == ["run", "other"]
    (pair,) = sections["mcnemar"]["pairs"]
    right = [
        run.predictions(run.best.readout, run.best.ridge).argmax(1) == run.labels.test
        for run in (pictured_run, other_run)
    ]
    assert pair["only_first"] - pair["only_second"] == right[0].sum() - right[1].sum()
    assert sections["costs"]["other"]["kernel_core_seconds"] > 0


def test_other_test_images_are_not_compared(pictured_run: OpenRun, tmp_path: Path) -> None:
    data = pictured.picture_data()
    data["x_test"] = data["x_test"].copy()
    data["x_test"][5, 2, 2, 1] ^= 64
    changed = pictured.start(tmp_path / "changed", data, **ONE)
    assert not have_equal_tests(pictured_run, changed)
    assert have_equal_tests(pictured_run, pictured_run)
    page = make_comparison([pictured_run, changed])
    assert "mcnemar" not in page.numbers["sections"]
    assert list(page.numbers["lacking"].values()) == ["their test images or labels differ"]


def test_a_regression_and_a_classification_share_only_keys_and_costs(pictured_run: OpenRun, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((40, 3))
    data = {"x_train": x[:30], "y_train": x[:30, 0], "x_test": x[30:], "y_test": x[30:, 0]}
    vectors = {"network": {"preset": "fully_connected"}, "readouts": {"depths": [2], "poolings": []}}
    page = make_comparison([pictured_run, pictured.start(tmp_path / "numbers", data, **vectors)])
    assert set(page.numbers["sections"]) == {"differences", "costs"}
    assert "compare runs of one task" in page.numbers["lacking"]["scores"]


def test_a_damaged_tile_costs_its_test_only(pictured_run: OpenRun, tmp_path: Path) -> None:
    damaged = pictured.start(tmp_path / "damaged", **ONE)
    (tile,) = (tmp_path / "damaged").glob("solve/*/factor.zarr/mean/c/0/0")
    flip_bit(tile)
    page = make_comparison([pictured_run, damaged])
    assert {"differences", "scores", "costs"} <= set(page.numbers["sections"])
    (reason,) = page.numbers["lacking"].values()
    assert "does not match its checksum" in reason
    assert f"`cntk resume --verify {damaged.path}` computes it again" in reason


def test_one_run_and_the_same_run_twice_are_refused(pictured_run: OpenRun) -> None:
    with pytest.raises(ConfigError, match="at least two runs, got 1"):
        make_comparison([pictured_run])
    with pytest.raises(ConfigError, match="a run is given twice"):
        make_comparison([pictured_run, pictured_run])


def test_the_command_writes_the_comparison(pictured_run: OpenRun, other_run: OpenRun, tmp_path: Path) -> None:
    out = tmp_path / "both.html"
    done = CliRunner().invoke(cli.app, ["compare", str(pictured_run.path), str(other_run.path), "--out", str(out)])
    assert done.exit_code == 0, done.exception
    assert json.loads(out.with_suffix(".json").read_text())["runs"] == {
        "run": str(pictured_run.path), "other": str(other_run.path)
    }  # fmt: skip
    assert "What differs" in out.read_text()


def test_a_comparison_replaces_no_file_of_a_run(pictured_run: OpenRun, other_run: OpenRun) -> None:
    before = (pictured_run.path / "run.json").read_bytes()
    out = pictured_run.path / "run.html"
    done = CliRunner().invoke(cli.app, ["compare", str(pictured_run.path), str(other_run.path), "--out", str(out)])
    assert "could replace a file of the run" in str(done.exception)
    assert (pictured_run.path / "run.json").read_bytes() == before
    assert not out.exists()
