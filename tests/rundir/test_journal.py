import os
from pathlib import Path

import pytest

from cntk_pipeline.errors import StoreError
from cntk_pipeline.rundir.journal import Journal, from_line, to_line
from cntk_pipeline.tasks import Chunk, Receipt, Stage, Task


def receipt(row: int, col: int = 0) -> Receipt:
    return Receipt(Task(Stage("train"), row, col), (Chunk("train", 1028, 77, "ab"),), 0.1, 2.0, 0.3, "host")


def test_a_receipt_survives_the_round_trip_through_its_line() -> None:
    assert from_line(to_line(receipt(3, 2))) == receipt(3, 2)


def test_a_torn_line_is_no_receipt() -> None:
    line = to_line(receipt(3))
    assert [from_line(line[:cut]) for cut in range(1, len(line))] == [None] * (len(line) - 1)


def test_a_flipped_bit_is_no_receipt() -> None:
    line = bytearray(to_line(receipt(3)))
    line[10] ^= 1
    assert from_line(bytes(line)) is None


def test_whole_lines_are_read_and_the_torn_last_one_is_dropped(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    journal.append([receipt(0), receipt(1)])
    journal.append([receipt(2)])
    journal.close()
    segment = next((tmp_path / "journal").iterdir())
    segment.write_bytes(segment.read_bytes()[:-5])
    assert [r.task.row for r in Journal(tmp_path / "journal").receipts()] == [0, 1]


def test_two_journals_never_share_a_segment(tmp_path: Path) -> None:
    first, second = Journal(tmp_path), Journal(tmp_path)
    first.append([receipt(0)])
    second.append([receipt(1)])
    first.append([receipt(2)])
    assert len(list(tmp_path.iterdir())) == 2
    assert sorted(r.task.row for r in first.receipts()) == [0, 1, 2]
    first.close()
    second.close()


def test_an_unwritable_journal_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("a file where the folder should be")
    with pytest.raises(StoreError, match=r"journal cannot be read or written: Not a directory.*finished is kept"):
        Journal(tmp_path / "journal").append([receipt(0)])


def test_a_receipt_is_on_disk_when_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    journal = Journal(tmp_path)
    journal.append([receipt(0)])
    assert len(synced) == 2  # the line, and the name of the new segment
    journal.append([receipt(1)])
    assert len(synced) == 3
    journal.close()


def test_a_journal_read_again_reads_what_was_added_and_a_line_once_it_is_whole(tmp_path: Path) -> None:
    reader, writer = Journal(tmp_path), Journal(tmp_path)
    writer.append([receipt(0)])
    assert [r.task.row for r in reader.receipts()] == [0]
    line = to_line(receipt(1))
    segment = next(tmp_path.iterdir())
    with open(segment, "ab") as file:
        file.write(line[:20])
        file.flush()
        assert [r.task.row for r in reader.receipts()] == [0]
        file.write(line[20:])
    assert [r.task.row for r in reader.receipts()] == [0, 1]
    writer.append([receipt(2)])
    writer.close()
    assert [r.task.row for r in reader.receipts()] == [0, 1, 2]


def test_a_segment_in_the_place_of_one_that_was_deleted_is_read_anew(tmp_path: Path) -> None:
    reader = Journal(tmp_path)
    for row in (0, 7):
        writer = Journal(tmp_path)
        writer.append([receipt(row)])
        writer.close()
        assert [r.task.row for r in reader.receipts()] == [row]
        next(tmp_path.iterdir()).unlink()
