"""What a run directory is summarised to."""

import threading
from collections.abc import Callable
from dataclasses import replace

from support.problems import Recorder

from cntk_pipeline.config import RunConfig
from cntk_pipeline.datasets import Contents
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.load import load
from cntk_pipeline.workflow.report import make_report, read_contents


def test_the_matrices_of_the_kernel_are_one_work(small_config: Callable[..., RunConfig]) -> None:
    """They are computed side by side: one alone may stand still for an hour while the others go on."""
    report = make_report(runs.start(small_config(), Recorder(), threading.Event()))
    assert report.complete
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
