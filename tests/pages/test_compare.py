"""Runs side by side."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from support import pictured
from support.figures import drawn
from support.problems import flip_bit
from typer.testing import CliRunner

from cntk_pipeline.cli import main as cli
from cntk_pipeline.errors import ConfigError
from cntk_pipeline.opened import OpenRun
from cntk_pipeline.pages import make_comparison, make_report_page
from cntk_pipeline.plots.comparison import Compared, Comparison, have_equal_tests, mcnemar
from cntk_pipeline.plots.displays.accuracy import Point
from cntk_pipeline.workflow.report import make_report

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


@pytest.mark.parametrize(("runs", "readouts"), [(2, 1), (10, 1), (10, 4)])
def test_the_names_of_many_runs_leave_room_for_their_scores(runs: int, readouts: int) -> None:
    points = tuple(Point(f"depth{k}-gap-ntk", k, "gap-ntk", 0.1, "relative", 0.5, None) for k in range(readouts))
    names = [f"runs/with-a-long-name-{k}" for k in range(runs)]
    figure = drawn(Comparison("accuracy", tuple(Compared(name, 100, points) for name in names)))
    (legend,), (axes,) = figure.legends, figure.axes
    box, (width, height) = legend.get_window_extent(), figure.bbox.size
    assert len(legend.get_texts()) == runs
    shown = {(bars[0].get_color(), bars[0].get_marker()) for bars in axes.containers}
    assert len(shown) == runs
    assert 0 <= box.x0 < box.x1 <= width
    assert 0 <= box.y0 < box.y1 <= height
    assert axes.get_window_extent().y1 <= box.y0
    assert axes.get_window_extent().height >= max(28 * readouts, 8 * runs)


@pytest.mark.parametrize("way", ["eigenvalues", "factors"])
def test_the_costs_have_every_tile_that_a_run_computed(
    pictured_run: OpenRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Also those of ridges that were tried and not taken; none that was taken over from another run."""
    monkeypatch.setattr("cntk_pipeline.inference.auto_ridge.in_memory", lambda *_: way == "eigenvalues")
    old = pictured.start(tmp_path / "old", **ONE)
    grown = pictured.start(
        tmp_path / "new", readouts=ONE["readouts"], solve={"ridges": "auto"}, store={"grow_from": str(old.path)}
    )
    receipts = list(grown.directory.journal.receipts())
    own = [each for each in receipts if not each.adopted]
    kernel = sum(each.seconds for each in own if each.task.stage.kind in ("train", "test", "variance"))
    assert 0 < len(own) < len(receipts)
    costs = make_comparison([old, grown]).numbers["sections"]["costs"]["new"]
    assert costs["core_seconds"] == pytest.approx(sum(each.seconds for each in own))
    assert costs["kernel_core_seconds"] == pytest.approx(kernel, abs=1e-12)
    assert costs["written_bytes"] == sum(each.written_bytes for each in own)
    tried = [timing for timing in make_report(grown.directory).timings if timing.stage.startswith("ridge ")]
    assert costs["core_seconds"] > sum(timing.core_seconds for timing in tried) > 0
    page = make_report_page(grown)
    assert "tiles a second" not in page.html
    stages = page.html.partition('id="stages"')[2]
    (row,) = re.findall(r"<tr[^>]*>\s*<th[^>]*>ridge_path</th>.*?</tr>", stages, re.DOTALL)
    assert ("by phase below" in row) == (way == "factors")


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
