"""The timeline of a run, from its logs and from logs written by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.figures import drawn

from cntk_pipeline.errors import ConfigError
from cntk_pipeline.opened import OpenRun
from cntk_pipeline.plots import Timeline
from cntk_pipeline.storage import LocalPath
from cntk_pipeline.telemetry.tile_log import read_tile_log


def write_log(folder: Path, worker: str, *lines: dict[str, Any] | str) -> None:
    folder.mkdir(exist_ok=True)
    texts = (line if isinstance(line, str) else json.dumps(line | {"worker": worker}) for line in lines)
    (folder / f"{worker}.jsonl").write_text("".join(f"{text}\n" for text in texts))


def tile(begin: float, seconds: float, stage: str = "train", row: int = 0) -> list[dict[str, Any]]:
    where = {"stage": stage, "row": row, "col": 0}
    return [
        {"time": begin, "event": "began"} | where,
        {"time": begin + 1.5 * seconds, "event": "finished", "seconds": seconds, "bytes": 10} | where,
    ]


@pytest.fixture
def run_with_logs(pictured_run: OpenRun, tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch) -> OpenRun:
    """The run, with logs of another folder."""
    run = OpenRun(pictured_run.directory)
    monkeypatch.setattr(OpenRun, "path", property(lambda _: tmp_path))
    return run


def test_the_timeline_of_a_run_has_each_tile_that_it_computed(pictured_run: OpenRun) -> None:
    display = Timeline.from_run(pictured_run)
    receipts = [each for each in pictured_run.directory.journal.receipts() if not each.adopted]
    assert len(display.worker) == len(receipts)
    assert display.seconds.sum() == pytest.approx(sum(each.seconds for each in receipts), abs=1e-3)
    assert display.bytes.sum() == sum(each.written_bytes for each in receipts)
    assert sorted(display.stages) == sorted({each.task.stage.kind for each in receipts})
    assert 0 < display.busy_share <= 1
    rows = display.tables()[0].rows
    assert sum(int(row[1]) for row in rows) == len(receipts)


def test_begins_are_those_of_the_log_and_overlapping_tiles_count_once(run_with_logs: OpenRun, tmp_path: Path) -> None:
    write_log(tmp_path / "log", "a-1", *tile(100, 10), *tile(105, 10, row=1), *tile(120, 2, "factor:0123456789abcdef"))
    write_log(tmp_path / "log", "b-2", *tile(102, 20))
    display = Timeline.from_run(run_with_logs)
    assert display.workers == ("a-1", "b-2")
    assert display.stages == ("train", "factor")
    assert display.begin.tolist() == [0, 2, 5, 20]
    assert display.length == 22
    assert display.busy_seconds.tolist() == [17, 20]  # 100 to 115 and 120 to 122
    assert display.busy_share == pytest.approx(37 / 44)


def test_pauses_without_any_work_are_left_out_and_named(run_with_logs: OpenRun, tmp_path: Path) -> None:
    write_log(tmp_path / "log", "a-1", *tile(95, 3), *tile(100, 10), *tile(171, 10), *tile(5000, 10))
    display = Timeline.from_run(run_with_logs)
    assert display.begin.tolist() == [0, 5, 15, 25]  # two seconds without work are no pause
    assert display.pauses == ((15, 61), (25, 4819))
    assert display.length == 35
    assert "without pauses" in display.plot().axes[0].get_xlabel()


def test_stragglers_took_three_times_the_median_of_their_stage(run_with_logs: OpenRun, tmp_path: Path) -> None:
    times = [2.0, 2.0, 2.0, 5.0, 7.0]
    lines = [line for k, seconds in enumerate(times) for line in tile(100 + 10 * k, seconds, row=k)]
    write_log(tmp_path / "log", "a-1", *lines, *tile(150, 7, "test"))
    display = Timeline.from_run(run_with_logs)
    assert display.stragglers.tolist() == [4]
    assert display.tables()[0].rows[0][6] == "1"


def test_a_damaged_log_loses_its_line_only(tmp_path: LocalPath) -> None:
    write_log(tmp_path / "log", "a-1", *tile(100, 1), "{broken", "[1]", '{"event": "finished"}', *tile(102, 1), '{"cut')
    (tmp_path / "log" / "a-1.jsonl").open("ab").write(b'\xff\xfe"event"')
    log = read_tile_log(tmp_path / "log")
    assert [span.begin for span in log.spans] == [100, 102]
    assert log.counts["finished"] == 3


def test_a_long_log_is_read_in_pieces(tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cntk_pipeline.telemetry.log_tail.PIECE_BYTES", 200)
    write_log(tmp_path / "log", "a-1", *(line for k in range(9) for line in tile(100 + k, 1, row=k)))
    assert [span.begin for span in read_tile_log(tmp_path / "log").spans] == [100 + k for k in range(9)]


@pytest.mark.parametrize("workers", [1, 8])
def test_the_legend_of_many_stages_lies_in_the_figure(run_with_logs: OpenRun, tmp_path: Path, workers: int) -> None:
    stages = [f"posterior_stage_{k}" for k in range(14)]
    for worker in range(workers):
        lines = [line for k, stage in enumerate(stages) for line in tile(100 + k, 1, stage)]
        write_log(tmp_path / "log", f"a-{worker}", *lines)
    figure = drawn(Timeline.from_run(run_with_logs))
    (legend,), (axes,) = figure.legends, figure.axes
    box, (width, height) = legend.get_window_extent(), figure.bbox.size
    assert [text.get_text() for text in legend.get_texts()] == stages
    assert len({tuple(bars.get_facecolor()[0]) for bars in axes.collections}) == len(stages)
    assert 0 <= box.x0 < box.x1 <= width
    assert 0 <= box.y0 < box.y1 <= height
    assert axes.get_window_extent().y1 <= box.y0
    assert axes.get_window_extent().height >= 25 * workers


def test_a_run_without_logs_says_so(run_with_logs: OpenRun) -> None:
    with pytest.raises(ConfigError, match="has no logs of workers"):
        Timeline.from_run(run_with_logs)


def test_many_tiles_are_drawn_as_pixels(
    run_with_logs: OpenRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_log(tmp_path / "log", "a-1", *tile(100, 1), *tile(101, 1, row=1))
    display = Timeline.from_run(run_with_logs)
    assert not any(bars.get_rasterized() for bars in display.plot().axes[0].collections)
    monkeypatch.setattr("cntk_pipeline.plots.displays.timeline.DENSE_SPANS", 1)
    assert all(bars.get_rasterized() for bars in display.plot().axes[0].collections)


def test_a_clock_that_was_set_back_gives_no_negative_time(run_with_logs: OpenRun, tmp_path: Path) -> None:
    write_log(tmp_path / "log", "a-1", *tile(100, 10), *tile(90, 3, row=1))
    display = Timeline.from_run(run_with_logs)
    assert np.all(display.begin >= 0)
    assert display.busy_seconds.tolist() == [13]


def test_troubles_are_counted_in_words(run_with_logs: OpenRun, tmp_path: Path) -> None:
    write_log(tmp_path / "log", "a-1", *tile(100, 1))
    write_log(
        tmp_path / "log", "driver-2", *[{"time": 101.0, "event": "retry"}] * 3, {"time": 102.0, "event": "backup"}
    )
    display = Timeline.from_run(run_with_logs)
    assert display.events == {"retry": 3, "backup": 1, "quarantined": 0, "worker_lost": 0}
    assert display.tables()[-1].rows == (
        ("a tile was tried again", "3"), ("a silent tile was given to a second worker", "1")
    )  # fmt: skip
