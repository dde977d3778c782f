"""Logs that are followed: each line is read once, and what they tell of workers and events.

Seen to fail: with offsets that are not kept, with a line taken before its end, with a tile in flight on a dead worker
that another one had finished, and with the events of `EVENTS` renamed.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.storage import LocalPath
from cntk_pipeline.telemetry import log_tail
from cntk_pipeline.telemetry.activity import LATEST, Activity
from cntk_pipeline.telemetry.event_words import WORDS, words_of
from cntk_pipeline.telemetry.events import EVENTS
from cntk_pipeline.telemetry.log_tail import LogTail


def line(moment: float, event: str, worker: str = "node7-1", **fields: Any) -> dict[str, Any]:
    return {"time": moment, "event": event, "worker": worker, **fields}


def tile(moment: float, event: str, row: int, worker: str) -> dict[str, Any]:
    return line(moment, event, worker, stage="train", row=row, col=0)


def append(path: Path, *lines: dict[str, Any], end: str = "\n") -> None:
    with path.open("a") as file:
        file.write("".join(json.dumps(each) + "\n" for each in lines[:-1]) + json.dumps(lines[-1]) + end)


def test_each_line_of_a_run_is_read_once(run_small: Callable[..., RunDirectory]) -> None:
    run = run_small()
    tail, written = LogTail(run.path / "log"), []
    for path in Path(run.path / "log").glob("*.jsonl"):
        written += [json.loads(text) for text in path.read_text().splitlines()]
    assert list(tail.lines()) == written
    assert list(tail.lines()) == []


def test_a_line_is_read_when_it_is_whole(tmp_path: LocalPath) -> None:
    tail, log = LogTail(tmp_path), Path(tmp_path / "a.jsonl")
    append(log, line(1, "retry"), line(2, "backup"), end="")
    assert [each["time"] for each in tail.lines()] == [1]
    with log.open("a") as file:
        file.write("\n")
    assert [each["time"] for each in tail.lines()] == [2]


def test_only_what_is_new_is_read(tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch) -> None:
    tail, log = LogTail(tmp_path), Path(tmp_path / "a.jsonl")
    append(log, *(line(k, "retry") for k in range(1000)))
    assert len(list(tail.lines())) == 1000
    counts, read_from = [], LocalPath.read_from

    def counted(self: LocalPath, offset: int, limit: int | None = None) -> bytes:
        found = read_from(self, offset, limit)
        counts.append(len(found))
        return found

    monkeypatch.setattr(LocalPath, "read_from", counted)
    append(log, line(1000, "retry"))
    assert len(list(tail.lines())) == 1
    assert sum(counts) < 100


def test_long_logs_are_read_in_pieces_and_too_long_lines_left_out(
    tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_tail, "PIECE_BYTES", 200)
    log = Path(tmp_path / "a.jsonl")
    append(log, *(line(k, "retry") for k in range(50)), line(50, "retry", error="x" * 900), line(51, "retry"))
    assert [each["time"] for each in LogTail(tmp_path).lines()] == [*range(50), 51]


def test_damaged_lines_other_files_and_links_are_left_out(tmp_path: LocalPath) -> None:
    Path(tmp_path / "a.jsonl").write_text('{"time": 1\n[]\n\xff\n' + json.dumps(line(2, "retry")) + "\n")
    Path(tmp_path / "driver.log").write_text(json.dumps(line(3, "retry")) + "\n")
    Path(tmp_path / "b.jsonl").symlink_to(tmp_path / "driver.log")
    assert [each["time"] for each in LogTail(tmp_path).lines()] == [2]


def test_many_files_take_turns_also_while_all_of_them_grow(
    tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_tail, "FILES_AT_ONCE", 4)
    tail, found = LogTail(tmp_path), []
    for _ in range(3):
        for k in range(10):
            append(Path(tmp_path / f"{k}.jsonl"), line(k, "retry"))
        found.append({each["time"] for each in tail.lines()})
    assert [len(names) for names in found] == [4, 4, 4]
    assert set.union(*found) == set(range(10))


def test_a_file_that_another_one_replaced_is_read_from_its_beginning(tmp_path: LocalPath) -> None:
    tail, log = LogTail(tmp_path), Path(tmp_path / "a.jsonl")
    append(log, line(1, "retry"), line(2, "retry"))
    assert len(list(tail.lines())) == 2
    log.unlink()
    append(log, line(3, "retry"))
    assert [each["time"] for each in tail.lines()] == [3]


def test_workers_of_the_last_driver_have_their_tiles_in_flight() -> None:
    activity = Activity()
    activity.take([tile(1, "began", 0, "node7-8"), line(5, "driver_started")])  # a driver that was killed before
    activity.take([tile(6, "began", 1, "node7-9"), tile(6, "began", 2, "node8-4"), tile(7, "finished", 1, "node7-9")])
    activity.take([tile(7, "began", 3, "node7-9")])
    assert activity.in_flight == {"node7-9": 1, "node8-4": 1}
    activity.take([tile(8, "failed", 3, "node7-9")])
    assert activity.in_flight == {"node7-9": 0, "node8-4": 1}
    activity.take([line(9, "driver_ended")])
    assert activity.in_flight == {}


def test_a_tile_of_a_dead_worker_is_that_of_the_one_that_began_it_later() -> None:
    lines = [tile(6, "began", 1, "node7-9"), tile(60, "began", 1, "node8-4")]
    for order in (lines, lines[::-1]):  # logs are read file by file
        activity = Activity()
        activity.take([line(5, "driver_started"), *order])
        assert activity.in_flight == {"node7-9": 0, "node8-4": 1}
    activity.take([tile(100, "finished", 1, "node8-4")])
    assert activity.in_flight == {"node8-4": 0}  # nothing was heard of the dead one for a minute


def test_events_are_counted_and_the_latest_kept_in_the_order_of_time() -> None:
    activity = Activity()
    activity.take([line(k, "retry", attempt=k) for k in range(20, 0, -1)] + [tile(50, "finished", 1, "a-1")])
    assert activity.count("retry") == 20
    assert [each["attempt"] for each in activity.latest] == list(range(21 - LATEST, 21))


@pytest.mark.parametrize(
    "damaged",
    [
        *({}, {"time": "soon"}, {"event": 3}, {"worker": None}, {"time": None}),
        *({"time": moment} for moment in (1e20, 10**400, -1, float("inf"), float("nan"))),
    ],
)
def test_lines_that_are_no_events_are_left_out(damaged: dict[str, Any]) -> None:
    activity = Activity()
    activity.take([line(1, "retry") | damaged if damaged else {}])
    assert activity.latest == []


def test_every_event_has_words() -> None:
    assert WORDS.keys() == EVENTS.keys() | {"library"}


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (
            line(1, "retry", stage="factor:0123456789abcdef", row=3, col=2, error="OSError: [Errno 5]\nand more"),
            "factor tile (3, 2) is tried again: OSError: [Errno 5]",
        ),
        (
            line(1, "retry", stage="train", row=3, col=2, alone=True),
            "train tile (3, 2) is tried again alone, because its worker died",
        ),
        (line(1, "driver_started", executor="2 workers, dashboard http://x/cntk"), "a driver began: 2 workers"),
        (line(1, "driver_ended", error="Interrupted: stopped"), "the driver ended: Interrupted: stopped"),
        (line(1, "stage_ended", stage="kernel", seconds=40.851, done=39, total=39), "kernel ended after 40.9 s"),
        (line(1, "backup"), "? tile (?, ?) takes long"),
        (line(1, "of_a_later_version"), "of a later version"),
    ],
)
def test_an_event_is_told_in_a_line(event: dict[str, Any], text: str) -> None:
    said = words_of(event)
    assert said.startswith(text)
    assert "\n" not in said
