"""What a run directory is summarised to."""

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from support.problems import Recorder

from cntk_pipeline.cli.status import state_lines
from cntk_pipeline.config import RunConfig
from cntk_pipeline.datasets import Contents
from cntk_pipeline.rundir import lease
from cntk_pipeline.workflow import handover
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.listing import list_runs
from cntk_pipeline.workflow.load import load
from cntk_pipeline.workflow.report import make_report, read_contents


def test_the_matrices_of_the_kernel_are_one_work(small_config: Callable[..., RunConfig]) -> None:
    """They are computed side by side: one alone may stand still for an hour while the others go on."""
    report = make_report(runs.start(small_config(), Recorder(), threading.Event()))
    assert report.complete
    silent = replace(report, lost_driver="node9:123", silent_seconds=9.0)
    assert not any("is silent" in line for line in state_lines(silent)), "as cntk watch has it"
    assert report.at_work is None
    totals = {stage.stage: stage.total for stage in report.stages}
    kernel = totals["train"] + totals["test"] + totals["variance"]
    half = tuple(replace(stage, done=0 if stage.stage == "train" else stage.done) for stage in report.stages)
    assert replace(report, stages=half).at_work == ("kernel", kernel - totals["train"], kernel)
    solve = sum(stage.total for stage in report.stages if stage.phase == "solve")
    unsolved = tuple(replace(stage, done=0 if stage.phase == "solve" else stage.done) for stage in report.stages)
    assert replace(report, stages=unsolved).at_work == ("solve", 0, solve)


def test_what_is_stored_is_counted_like_what_was_loaded(small_config: Callable[..., RunConfig]) -> None:
    run, _ = runs.begin_elsewhere(small_config(), Recorder(), None)
    assert read_contents(run) == Contents.of(load(small_config()).data)


def test_damaged_labels_are_not_counted(small_config: Callable[..., RunConfig]) -> None:
    """zarr would read zeros in the place of a chunk that is gone, and all images be of the first class."""
    run, _ = runs.begin_elsewhere(small_config(), Recorder(), None)
    chunk = run.inputs_path / "train_labels/c/0"
    content = chunk.read_bytes()
    chunk.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    assert read_contents(run) is None
    chunk.unlink()
    assert read_contents(run) is None


def test_a_driver_that_was_lost_with_its_node_is_not_at_work(
    small_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "WATCH_SECONDS", 0.0)
    run, _ = runs.begin_elsewhere(small_config(), Recorder(), None)
    record = run.lease_path / "000009.json"
    record.write_whole(json.dumps({"holder": "x", "host": "node9", "pid": 123, "counter": 7}).encode())
    assert make_report(run).driver == "node9:123"
    os.utime(str(record), (time.time() - 3 * 3600,) * 2)
    report = make_report(run)
    assert (report.driver, report.lost_driver) == (None, "node9:123")
    said = state_lines(report)
    assert "the driver node9:123 is silent, last heard of 3 h 00 min ago by this machine's clock" in said
    assert said[-1] == f"incomplete: cntk resume {run.path}"
    with monkeypatch.context() as patch:
        patch.setattr(lease, "_moves", lambda *_: pytest.fail("it was watched"))  # 3 s for each run of the list
        assert list_runs(str(run.path.parent)).runs[0].state == "incomplete"
    assert "is silent, last heard of 3 h 00 min ago" in handover.cancel(run.path)
