"""The report of a run as a page: whole, self-contained, escaped, and sensible for any run."""

import html
import json
import re
import sys
import threading
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from support import earlier_runs, pictured
from support.problems import Recorder, flip_bit, stop_at
from typer.testing import CliRunner

from cntk_pipeline.cli import main as cli
from cntk_pipeline.config import RunConfig, load_config
from cntk_pipeline.errors import ConfigError, Interrupted
from cntk_pipeline.opened import OpenRun, open_run
from cntk_pipeline.pages import Page, make_report_page, write_page
from cntk_pipeline.plots import DISPLAYS
from cntk_pipeline.storage import open_path
from cntk_pipeline.workflow import run as runs

LARGEST_BYTES = 5e6

SCRIPT = "<script>alert(1)</script>"


class Reader(HTMLParser):
    """Reads a page: its tags with their attributes, and the text of its headings and table cells."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        self._open.append(tag)

    def handle_data(self, data: str) -> None:
        if self._open and data.strip():
            self.words.append((self._open[-1], data.strip()))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def said(self, tag: str) -> list[str]:
        return [word for name, word in self.words if name == tag]


def sections_of(page: Page) -> list[str]:
    return [str(each["id"]) for each in Reader(page.html).all("section")]


def require_sound(page: Page) -> Reader:
    """Hold what is true of every page."""
    reader = Reader(page.html)
    assert len(page.html) < LARGEST_BYTES
    json.dumps(page.numbers, allow_nan=False)
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    for attributes in reader.all("a"):
        assert str(attributes["href"]).removeprefix("#") in ids
    for attributes in reader.all("img"):
        assert str(attributes["src"]).startswith("data:image/svg+xml,")
        assert attributes["alt"]
    assert not {tag for tag, _ in reader.tags} & {"link", "iframe", "object", "embed"}
    assert "url(" not in page.html.partition("<body>")[0]
    shown = set(page.numbers["sections"]) | set(page.numbers["lacking"])
    assert set(DISPLAYS) <= shown
    return reader


def test_a_report_has_its_sections_in_order_and_every_number_in_json(pictured_run: OpenRun) -> None:
    page = make_report_page(pictured_run)
    reader = require_sound(page)
    expected = [key for key in DISPLAYS if key in page.numbers["sections"]]
    assert {"accuracy", "confusion_matrix", "mistakes", "reliability", "network", "timeline"} <= set(expected)
    lacking = ["lacking"] if page.numbers["lacking"] else []
    assert sections_of(page) == [*expected, "stages", *lacking, "provenance"]
    best = pictured_run.best
    assert page.numbers["status"]["complete"] is True
    assert page.numbers["sections"]["confusion_matrix"]["system"] == best.label
    cells = reader.said("td")
    for row in pictured_run.metrics:
        assert f"{100 * row.accuracy:.2f}%" in cells
    assert [point["score"] for point in page.numbers["sections"]["accuracy"]["points"]] == [
        row.accuracy for row in pictured_run.metrics
    ]


def test_what_the_training_images_chose_stands_in_the_page(tmp_path: Path) -> None:
    asked = {"leave_one_out": False, "evidence": True, "calibration": True}
    solve = {"ridges": "auto", "choose_by": "evidence"}
    readouts = {"depths": [3], "poolings": ["gap"]}
    run = pictured.start(tmp_path / "run", readouts=readouts, solve=solve, inference=asked)
    page = make_report_page(run)
    assert f"The training images choose depth3-gap-ntk with ridge {run.best.ridge:g}, by evidence." in page.html
    assert {"evidence", "calibration"} <= set(sections_of(page))
    reader = require_sound(page)
    said = reader.said("td")
    assert "log evidence" in reader.said("th")
    record = run.calibration().summary
    assert f"{record.test.brier_score:.4f}" in said
    assert f"{run.evidence().summary.best_log_evidence:.6g}" in said
    ((label, numbers),) = page.numbers["sections"]["calibration"].items()
    assert label == run.best.label
    assert numbers["test"]["calibration_error"] == run.metrics[0].calibration_error
    assert page.numbers["status"]["best"] == run.best.fingerprint
    for words in (["inspect"], ["inspect", "--all"]):
        done = CliRunner().invoke(cli.app, [*words, str(run.path)])
        assert f"chosen by evidence: depth3-gap-ntk, ridge {run.best.ridge:g} (relative)" in done.output


def test_the_workflow_of_a_report_can_be_run(pictured_run: OpenRun, tmp_path: Path) -> None:
    (text,) = re.findall(r"<pre[^>]*><code>(.*?)</code>", make_report_page(pictured_run).html, re.DOTALL)
    (tmp_path / "copied.toml").write_text(html.unescape(text))
    assert load_config(tmp_path / "copied.toml", []) == pictured_run.directory.workflow()


def test_the_same_run_gives_the_same_page(pictured_run: OpenRun) -> None:
    assert make_report_page(pictured_run).html == make_report_page(pictured_run).html


def test_names_from_data_and_logs_are_escaped(tmp_path: Path) -> None:
    data = pictured.picture_data((SCRIPT, '"><img src=x onerror=alert(2)>', "</style>'&amp;"))
    run = pictured.start(tmp_path / "run", data, readouts={"depths": [3]})
    log = next(path for path in (run.path / "log").children() if b"finished" in path.read_bytes())
    text = log.read_bytes().decode()
    worker = json.loads(text.splitlines()[0])["worker"]
    log.write_whole(text.replace(f'"{worker}"', json.dumps(SCRIPT)).encode())
    page = make_report_page(run)
    reader = require_sound(page)
    assert not [attributes for attributes in reader.all("img") if "onerror" in attributes]
    assert len(reader.all("script")) == 1  # the page's own
    assert SCRIPT in reader.said("th")  # as text: a class, and a worker
    pictures = "".join(unquote(str(each["src"])) for each in reader.all("img"))
    assert "<script" not in pictures
    assert "alert(1)" in pictures


RNG = np.random.default_rng(5)


def labelled(count: int, classes: int, shape: tuple[int, ...] = (6, 6, 1)) -> dict[str, Any]:
    images = RNG.standard_normal((count + 12, *shape)).astype(np.float32)
    labels = np.arange(count + 12) % classes
    return {"x_train": images[:count], "y_train": labels[:count], "x_test": images[count:], "y_test": labels[count:]}


VECTORS = {"network": {"preset": "fully_connected"}, "readouts": {"depths": [2], "poolings": [], "kinds": ["ntk"]}}
ONE = {"readouts": {"depths": [3], "poolings": ["flatten"]}, "solve": {"ridges": [0.1]}}


def without_test_labels() -> dict[str, Any]:
    return {key: value for key, value in labelled(30, 3).items() if key != "y_test"}


def regression() -> dict[str, Any]:
    x = RNG.standard_normal((40, 3))
    y = x @ [1.0, 2.0, -1.0]
    return {"x_train": x[:30], "y_train": y[:30], "x_test": x[30:], "y_test": y[30:]}


def several_labels() -> dict[str, Any]:
    x = RNG.standard_normal((40, 3))
    y = (x > 0).astype(int)
    return {"x_train": x[:30], "y_train": y[:30], "x_test": x[30:], "y_test": y[30:]}


NEED_CLASSES = {"confusion_matrix", "mistakes", "reliability"}

ODD: dict[str, tuple[Callable[[], dict[str, Any]], dict[str, Any], set[str], set[str]]] = {
    "no test labels": (without_test_labels, ONE, {"network", "timeline"}, {"accuracy", "confusion_matrix", "mistakes"}),
    "one class": (lambda: labelled(20, 1), ONE, {"network", "timeline"}, {"accuracy", *NEED_CLASSES}),
    "1,000 classes": (lambda: labelled(1000, 1000), ONE, {"accuracy", "confusion_matrix", "mistakes"}, set()),
    "2 images": (lambda: labelled(2, 2), ONE, {"accuracy", "confusion_matrix"}, set()),
    "vectors": (lambda: labelled(30, 3, (5,)), VECTORS, {"accuracy", "confusion_matrix", "mistakes"}, set()),
    "regression": (regression, VECTORS, {"accuracy", "network"}, {"confusion_matrix", "mistakes", "reliability"}),
    "several labels": (several_labels, VECTORS | {"data": {"task": "multilabel"}}, {"accuracy"}, {"confusion_matrix"}),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_each_run_makes_a_sensible_page(name: str, tmp_path: Path) -> None:
    make, sections, shown, lacking = ODD[name]
    run = pictured.start(tmp_path / "run", make(), **({"kernel": {"tile": 256}} | sections))
    page = make_report_page(run)
    require_sound(page)
    assert shown <= set(page.numbers["sections"])
    assert lacking <= set(page.numbers["lacking"])
    for reason in page.numbers["lacking"].values():
        assert "Traceback" not in reason
        assert str(run.path) not in reason
    if name == "one class":
        for key in NEED_CLASSES:
            assert "has one class: " in page.numbers["lacking"][key]


def test_an_unfinished_run_shows_what_is_there(small_config: Callable[..., RunConfig]) -> None:
    config = small_config(readouts={"poolings": ["gap"], "kinds": ["ntk"]})
    view, stop = stop_at(2)
    with pytest.raises(Interrupted):
        runs.start(config, view, stop)
    page = make_report_page(open_run(str(config.store.path)))
    reader = require_sound(page)
    assert "Not complete" in reader.said("strong")
    assert f"cntk resume {config.store.path}" in reader.said("code")
    assert {"network", "timeline"} <= set(page.numbers["sections"])
    assert "no system is solved yet" in page.numbers["lacking"]["accuracy"]
    stages = {stage["stage"]: stage["done"] for stage in page.numbers["status"]["stages"]}
    assert stages["train"] + stages["test"] + stages["variance"] > 0


def test_a_run_of_an_earlier_version_has_a_report(tmp_path: Path) -> None:
    earlier_runs.unpack(tmp_path)
    places = [path.parent for path in tmp_path.glob("*/run.json")]
    assert len(places) == len(earlier_runs.NAMES)
    for place in places:
        require_sound(make_report_page(open_run(place)))


def test_a_damaged_image_costs_its_section_only(tmp_path: Path) -> None:
    run = pictured.start(tmp_path / "run", **ONE)
    for path in (tmp_path / "run" / "inputs.zarr" / "test_images" / "c").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-1] + b"x")
    page = make_report_page(run)
    require_sound(page)
    assert "restore inputs.zarr" in page.numbers["lacking"]["mistakes"]
    assert "confusion_matrix" in page.numbers["sections"]


def test_a_damaged_tile_costs_its_sections_only(tmp_path: Path) -> None:
    run = pictured.start(tmp_path / "run", **ONE)
    (tile,) = (tmp_path / "run").glob("solve/*/factor.zarr/mean/c/0/0")
    flip_bit(tile)
    page = make_report_page(run)
    require_sound(page)
    lacking = page.numbers["lacking"]
    assert {"confusion_matrix", "mistakes", "reliability"} <= set(lacking)
    for key in ("confusion_matrix", "mistakes", "reliability"):
        assert "does not match its checksum" in lacking[key]
        assert lacking[key].count(f"`cntk resume --verify {run.path}` computes it again") == 1
    assert {"accuracy", "kernel_matrix", "timeline"} <= set(page.numbers["sections"])


def test_left_out_predictions_that_are_gone_cost_their_section_only(tmp_path: Path) -> None:
    run = pictured.start(tmp_path / "run", **ONE)
    (tile,) = (tmp_path / "run").glob("solve/*/inference/leave_one_out.zarr/prediction/c/0/0")
    tile.unlink()
    page = make_report_page(run)
    require_sound(page)
    assert f"No driver is at work: `cntk resume {run.path}` goes on" in page.numbers["lacking"]["reliability"]
    assert "mistakes" in page.numbers["sections"]
    runs.resume(run.path, Recorder(), threading.Event())  # as the page says
    assert tile.is_file()
    assert "reliability" not in make_report_page(open_run(run.path)).numbers["lacking"]


def test_the_command_writes_the_page_and_its_numbers(pictured_run: OpenRun, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    done = CliRunner().invoke(cli.app, ["report", str(pictured_run.path), "--out", str(out)])
    assert done.exit_code == 0, done.exception
    assert str(out) in done.output.replace("\n", "")
    assert json.loads(out.with_suffix(".json").read_text()) == make_report_page(pictured_run).numbers
    require_sound(Page(out.read_text(), json.loads(out.with_suffix(".json").read_text())))


def test_by_default_a_report_lies_in_its_run_and_harms_nothing(tmp_path: Path) -> None:
    run = pictured.start(tmp_path / "run", **ONE)
    assert CliRunner().invoke(cli.app, ["report", str(run.path)]).exit_code == 0
    assert (tmp_path / "run" / "report.html").is_file()
    assert CliRunner().invoke(cli.app, ["verify", str(run.path)]).exit_code == 0
    again = pictured.start(tmp_path / "run", **ONE)
    assert again.is_complete
    assert (tmp_path / "run" / "report.html").is_file()


def test_a_page_with_another_ending_is_refused_before_anything_is_read(pictured_run: OpenRun, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli.app, ["report", str(pictured_run.path), "--out", str(tmp_path / "page.pdf")])
    assert done.exit_code != 0
    assert re.search(r"page.pdf: expected a file that ends in .html", str(done.exception))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["run", "workflow", "growth", "Run", "mine"])
def test_no_page_replaces_a_file_of_a_run(pictured_run: OpenRun, name: str) -> None:
    before = {path.name: path.read_bytes() for path in Path(str(pictured_run.path)).iterdir() if path.is_file()}
    out = pictured_run.path / f"{name}.html"
    done = CliRunner().invoke(cli.app, ["report", str(pictured_run.path), "--out", str(out)])
    assert isinstance(done.exception, ConfigError)
    expected = rf"{name}.html: the page's numbers, {name}.json, could replace a file of the run .* report.html or"
    assert re.search(expected, str(done.exception))
    with pytest.raises(ConfigError, match=expected):
        write_page(Page("", {}), out)
    assert {path.name: path.read_bytes() for path in Path(str(pictured_run.path)).iterdir() if path.is_file()} == before


def test_numbers_replace_those_of_an_older_page_only(tmp_path: Path) -> None:
    theirs = tmp_path / "package.json"
    theirs.write_text("mine")
    with pytest.raises(ConfigError, match=r"would replace .*package.json, which belongs to no page: move that file"):
        write_page(Page("", {}), open_path(tmp_path / "package.html"))
    assert theirs.read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["package.json"]
    for number in (1, 2):
        write_page(Page(f"page {number}", {"number": number}), open_path(tmp_path / "page.html"))
        assert (tmp_path / "page.html").read_text() == f"page {number}"
        assert json.loads((tmp_path / "page.json").read_text()) == {"number": number}


def test_a_run_in_a_bucket_has_a_report(small_config: Callable[..., RunConfig], bucket: str) -> None:
    place = f"s3://{bucket}/reported"
    config = small_config(readouts={"poolings": ["gap"], "kinds": ["ntk"]}, store={"path": place})
    page = make_report_page(OpenRun(runs.start(config, Recorder(), threading.Event())))
    require_sound(page)
    write_page(page, open_path(place) / "report.html")
    assert (open_path(place) / "report.html").read_bytes().decode() == page.html
    assert (open_path(place) / "report.json").is_file()


def test_without_a_package_the_extra_is_named(pictured_run: OpenRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tomli_w", None)
    with pytest.raises(ConfigError, match=r"a report needs tomli-w: pip install"):
        make_report_page(pictured_run)


def test_the_documentation_names_each_section_and_each_figure() -> None:
    docs = Path(__file__).parents[2] / "docs"
    rows = re.findall(r"^\| ([^|]+) \|", (docs / "report.md").read_text(), re.MULTILINE)
    assert [row for row in rows if row in {display.title for display in DISPLAYS.values()}] == [
        display.title for display in DISPLAYS.values()
    ]
    assert re.findall(r"^\| `(\w+)` \|", (docs / "plots.md").read_text(), re.MULTILINE) == list(DISPLAYS)
