import json
import threading
from collections.abc import Callable

import pytest
from support.problems import SPECIFICATION, Recorder

from cntk_pipeline.config import RunConfig
from cntk_pipeline.driver import timing
from cntk_pipeline.driver.driver import Progress
from cntk_pipeline.driver.timing import PhaseClock, read_timings
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.tasks import Receipt, Stage, Task
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.report import make_report

TILE = Task(Stage("train"), 0, 0)


@pytest.fixture
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return RunDirectory.create(tmp_path_factory.mktemp("timing") / "run", SPECIFICATION, {})


class Day:
    """A stage's clock, seconds passing as told."""

    def __init__(self, run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.slots, self.done = 0.0, 2, 0
        monkeypatch.setattr(timing.time, "monotonic", lambda: self.now)
        self.clock = PhaseClock(run, lambda: self.slots)

    def tell(self, now: float, receipt: Receipt | None = None) -> None:
        self.now, self.done = now, self.done + (receipt is not None)
        self.clock.progress(Progress(self.done, 4, 0, 0, 0, now, 0, 0, receipt))


def test_slots_count_while_they_are_there(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    day = Day(run, monkeypatch)
    day.clock.begin("kernel")
    day.tell(0)
    day.tell(10, Receipt(TILE, (), 1.0, 7.0, 1.0))
    day.slots = 4
    day.tell(20, Receipt(TILE, (), 2.0, 30.0, 3.0))
    day.now = 25
    day.clock.begin("solve")
    (stage,) = read_timings(run)
    assert (stage.stage, stage.wall_seconds, stage.slot_seconds, stage.core_seconds) == ("kernel", 25, 80, 44)
    assert stage.efficiency == 0.55


def test_drivers_add_up_and_what_was_adopted_does_not_count(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        day = Day(run, monkeypatch)
        day.clock.begin("kernel")
        day.tell(0)
        day.tell(5, Receipt(TILE, (), 0.0, 8.0, 0.0))
        day.tell(10, Receipt(TILE, (), 0.0, 100.0, 0.0, adopted=True))
        day.clock.end()
    (stage,) = read_timings(run)
    assert (stage.wall_seconds, stage.slot_seconds, stage.core_seconds) == (20, 40, 16)


def test_a_stage_that_had_nothing_to_do_is_not_written_down(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    day = Day(run, monkeypatch)
    day.clock.begin("kernel")
    day.tell(0)
    day.clock.end()
    assert read_timings(run) == ()


def test_the_seconds_of_a_report_add_up(run_small: Callable[..., RunDirectory]) -> None:
    run = run_small()
    report = make_report(run)
    receipts = list(run.journal.receipts())
    assert sum(stage.seconds for stage in report.stages) == pytest.approx(sum(r.seconds for r in receipts))
    assert sum(stage.compute_seconds for stage in report.stages) == pytest.approx(
        sum(receipt.compute_seconds for receipt in receipts)
    )
    for stage in report.stages:
        assert stage.done > 0
        parts = stage.read_seconds + stage.compute_seconds + stage.write_seconds
        assert stage.seconds == pytest.approx(parts), stage.stage
    timings = {timing.stage: timing for timing in report.timings}
    kernel = sum(stage.seconds for stage in report.stages if stage.stage in ("train", "test", "variance"))
    assert timings["kernel"].core_seconds == pytest.approx(kernel)
    assert sum(timing.core_seconds for timing in report.timings) == pytest.approx(sum(r.seconds for r in receipts))
    for taken in report.timings:  # in one process no slot can do more than one tile at once
        assert 0 < taken.core_seconds <= taken.slot_seconds == taken.wall_seconds
        assert taken.efficiency == taken.core_seconds / taken.slot_seconds
    assert json.loads(json.dumps(report.to_json()))["timings"][0]["stage"] == "kernel"


@pytest.mark.slow
def test_a_resumed_run_keeps_what_its_stages_took(small_config: Callable[..., RunConfig]) -> None:
    first = runs.start(small_config(), Recorder(), threading.Event())
    before = read_timings(first)
    assert read_timings(runs.resume(first.path, Recorder(), threading.Event())) == before
