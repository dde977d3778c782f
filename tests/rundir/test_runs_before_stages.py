"""Runs that the version before stages had owners has written are opened, verified, gone on with and grown, bit for bit.

``earlier/before_stages.tar.xz`` holds five finished runs of that version, and the same five stopped on the way. Seen to
fail where a stage's chunks were named in another order, and where an option was written into a solve's name.
"""

import json
import tarfile
import threading
from pathlib import Path

import pytest
from support.earlier_runs import chunks
from support.problems import Recorder

from cntk_pipeline.config import parse_config
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.report import make_report

NAMES = ("factored", "rounded", "grown", "iterated", "chosen")


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpack the runs, and tell those that grow where the older one lies now."""
    folder = tmp_path_factory.mktemp("before-stages")
    with tarfile.open(Path(__file__).parents[1] / "earlier" / "before_stages.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    for name in ("grown", "grown-half"):
        growth = json.loads((folder / name / "growth.json").read_text())
        (folder / name / "growth.json").write_text(json.dumps(growth | {"path": str(folder / "factored")}))
    return folder


def results(run: Path) -> dict[str, bytes]:
    """Read the chunks of a run that are no intermediate ones."""
    found = chunks(run)
    return {name: found[name] for name in found if "work.zarr" not in name and "partial" not in name}


@pytest.mark.parametrize("name", NAMES)
def test_a_finished_run_is_whole(earlier: Path, name: str) -> None:
    before = results(earlier / name)
    found = runs.verify(earlier / name)
    assert (found.bad, found.unneeded, found.contradicted, found.lost, found.mended) == ((), (), (), (), ())
    assert found.whole > 15
    report = make_report(RunDirectory(earlier / name))
    assert report.complete
    view = Recorder()
    runs.resume(earlier / name, view, threading.Event())
    assert view.lines[-1] == "nothing is left to do: every tile and every result is there"
    assert results(earlier / name) == before


@pytest.mark.parametrize("name", NAMES)
def test_a_run_that_was_stopped_ends_with_the_same_bits(earlier: Path, name: str) -> None:
    half = earlier / f"{name}-half"
    assert not make_report(RunDirectory(half)).complete
    finished = len(list(RunDirectory(half).journal.receipts()))
    run = runs.resume(half, Recorder(), threading.Event(), trust=True)
    assert make_report(run).complete
    assert results(half) == results(earlier / name)
    records = [path.relative_to(half) for path in half.rglob("*.json") if path.name in ("metrics.json", "zarr.json")]
    assert len(records) > 10
    for record in records:
        assert json.loads((half / record).read_text()) == json.loads((earlier / name / record).read_text()), record
    assert finished  # what the earlier version had computed is not computed again
    assert len({receipt.task for receipt in run.journal.receipts() if not receipt.adopted}) >= finished


def test_a_run_grows_from_an_earlier_one_as_the_earlier_version_did(earlier: Path, tmp_path: Path) -> None:
    table = json.loads((earlier / "grown" / "workflow.json").read_text())
    table.pop("signature", None)
    store = {"path": str(tmp_path / "new"), "grow_from": str(earlier / "factored")}
    config = parse_config(table | {"store": store}, "the workflow of the earlier run")
    view = Recorder()
    run = runs.start(config, view, threading.Event())
    assert any(line.startswith("taken over") for line in view.lines)
    assert results(tmp_path / "new") == results(earlier / "grown")
    assert run.fingerprint == RunDirectory(earlier / "grown").fingerprint
