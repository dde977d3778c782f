"""The progress that a driver shows on the cluster's pages: by stages, over phases.

Seen to fail: with totals of the tiles that were handed over, and with a phase that forgets the one before it.
"""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from support.problems import Recorder, owner_of, stop_after

from cntk_pipeline.clusters.serial import SerialExecutor
from cntk_pipeline.config import RunConfig
from cntk_pipeline.driver.board import Board
from cntk_pipeline.driver.driver import Driver, Progress
from cntk_pipeline.driver.rounds import Tally
from cntk_pipeline.errors import Interrupted
from cntk_pipeline.rundir.journal import Journal
from cntk_pipeline.rundir.owners import Job
from cntk_pipeline.tasks import Chunk, Receipt, Stage, Task
from cntk_pipeline.telemetry.progress import RunProgress, StageProgress
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.report import make_report


def receive(run_path: str, task: Task) -> Receipt:
    return Receipt(task, (Chunk("a", 100, 0, ""),))


def test_a_driver_counts_tiles_by_their_stages(tmp_path: Path) -> None:
    owner = owner_of(receive)
    tasks = [Task(Stage(kind), row, 0) for kind in ("train", "test") for row in range(4)]
    jobs = [Job(task, owner, 10, (number,), ()) for number, task in enumerate(tasks)]
    seen: list[Progress] = []
    driver = Driver(str(tmp_path), SerialExecutor(), Journal(tmp_path / "journal"), seen.append, threading.Event())
    driver.run(jobs, done=tasks[:3])
    assert seen[0].stages == (StageProgress("train", 3, 4), StageProgress("test", 0, 4))
    assert seen[-1].stages == (StageProgress("train", 4, 4, 100), StageProgress("test", 4, 4, 400))
    for each in seen:
        assert (sum(s.done for s in each.stages), sum(s.total for s in each.stages)) == (each.done, each.total)


def test_rounds_are_added_up_by_their_stages() -> None:
    seen: list[Progress] = []
    tally = Tally(seen.append)
    for done, count in ((1, 2), (0, 3), (3, 3)):  # a tile of the first round failed
        if done < 3:
            tally.begin_round(later=0, note="")
        stages = (StageProgress("iterate", done, count, done * 10),)
        tally.progress(Progress(done, count, 0, 0, 0, 0.0, 0, 0, stages=stages))
    assert [(each.done, each.total) for each in seen] == [(1, 2), (1, 4), (4, 4)]
    for each in seen:
        assert each.stages == (StageProgress("iterate", each.done, each.total, each.done * 10),)


def test_a_board_keeps_the_stages_of_earlier_phases_and_forecasts() -> None:
    now = iter(range(1000))
    board = Board("/run", clock=lambda: float(next(now)))
    assert board.moment() is None
    board.begin("kernel")
    assert board.moment() is None
    for done in range(11):
        stages = (StageProgress("train", done, 40),)
        board.progress(Progress(done, 40, done * 10, 400, done * 10, 0.0, 0, 0, stages=stages))
    kernel = board.moment()
    assert kernel == RunProgress("/run", "kernel", 10, 40, (StageProgress("train", 10, 40),), kernel.rate, kernel.left)  # type: ignore[union-attr]
    assert (kernel.rate, kernel.left) == ("1 tiles/s", "about 30 s left")
    for _ in range(10):
        assert board.moment().done == 10  # type: ignore[union-attr]
    assert board.moment().rate == "27.3 tiles/min"  # type: ignore[union-attr] # 10 tiles in 22 seconds: it stands still
    board.begin("solve")
    assert board.moment().stages == (StageProgress("train", 10, 40),)  # type: ignore[union-attr]
    mean = (StageProgress("mean", 1, 9),)
    board.progress(Progress(1, 9, 1, 9, 1, 0.0, 0, 0, note="iteration 3, residual 1e-05", stages=mean))
    solve = board.moment()
    assert solve.stages == (StageProgress("train", 10, 40), StageProgress("mean", 1, 9))  # type: ignore[union-attr]
    assert (solve.phase, solve.rate, solve.left) == ("solve", "", "iteration 3, residual 1e-05")  # type: ignore[union-attr]


@pytest.mark.usefixtures("no_waiting")
def test_a_run_shows_the_totals_of_its_status(
    small_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a second driver goes on: its tiles and those of the first one count together."""
    asked: list[Callable[[], RunProgress | None]] = []
    monkeypatch.setattr(SerialExecutor, "show", lambda self, progress: asked.append(progress))
    view, stop = stop_after(4)
    with pytest.raises(Interrupted):
        runs.start(small_config(), view, stop)
    part = asked[0]()
    assert part is not None
    assert 0 < part.done < part.total
    run = runs.start(small_config(), Recorder(), threading.Event())
    whole = asked[1]()
    assert whole is not None
    assert {(each.stage, each.done, each.total) for each in whole.stages} == {
        (stage.stage, stage.done, stage.total) for stage in make_report(run).stages
    }
    assert (whole.run, whole.phase) == (str(run.path), "solve")
