import json
from dataclasses import replace
from pathlib import Path

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rundir.test_receipts import STAGES, receipts

from cntk_pipeline.errors import StoreError
from cntk_pipeline.rundir import journal as journals
from cntk_pipeline.rundir import packed
from cntk_pipeline.rundir.journal import Journal
from cntk_pipeline.rundir.packed import pack, unpack
from cntk_pipeline.rundir.receipts import Receipts
from cntk_pipeline.storage import open_path
from cntk_pipeline.storage.local import LocalPath
from cntk_pipeline.tasks import Chunk, Receipt, Task

ONE = Receipt(Task(STAGES[0], 0, 0), (Chunk("train", 1028, 77, "ab" * 16),), 0.1, 2.0, 0.3, "node7")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "RECEIPTS_A_BLOCK", 3)
    monkeypatch.setattr(packed, "_LINE_BYTES", 64)
    monkeypatch.setattr(journals, "PACKED_SEGMENTS", 2)


def some(count: int) -> list[Receipt]:
    return [replace(ONE, task=Task(STAGES[k % 2], k // 3, k % 3)) for k in range(count)]


def all_of(found: Receipts) -> list[Receipt]:
    return [receipt for stage in STAGES for receipt in found if receipt.task.stage == stage]


def read_back(folder: Path, content: bytes) -> Receipts:
    path = open_path(folder) / "000001.packed"
    path.write_whole(content)
    found = Receipts()
    unpack(path, len(content), found)
    return found


def written(folder: Path, *segments: list[Receipt]) -> Journal:
    """Write a journal of some segments, and return it closed."""
    for segment in segments:
        journal = Journal(open_path(folder))
        journal.append(segment)
        journal.close()
    return journal


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@given(given_ones=st.lists(receipts, max_size=12))
def test_packed_receipts_come_back_as_they_were(
    given_ones: list[Receipt], tmp_path_factory: pytest.TempPathFactory
) -> None:
    found = Receipts()
    for receipt in given_ones:
        found.add(receipt)
    again = read_back(tmp_path_factory.mktemp("packed"), b"".join(pack(found)))
    assert all_of(again) == all_of(found)
    assert {task: again.get(task) for task in again.tasks} == {task: found.get(task) for task in found.tasks}


def test_a_packed_journal_is_one_file_with_the_same_receipts_and_goes_on_behind_it(tmp_path: Path) -> None:
    journal = written(tmp_path, some(5), [ONE, *some(9)])
    before, reader = all_of(Journal(open_path(tmp_path)).receipts()), Journal(open_path(tmp_path))
    reader.receipts()
    journal.compact()
    assert names(tmp_path) == ["000003.packed"]
    for each in (journal, reader, Journal(open_path(tmp_path))):
        assert all_of(each.receipts()) == before
    more = replace(ONE, host="node8")
    journal.append([more])
    assert names(tmp_path) == ["000003.packed", "000004.jsonl"]
    for each in (journal, reader, Journal(open_path(tmp_path))):
        assert len(each.receipts()) == len(before) + 1
        assert each.receipts().get(ONE.task) == more
    journal.close()


def test_a_journal_of_few_lines_stays_as_it_is(tmp_path: Path) -> None:
    journal = written(tmp_path, some(5))
    journal.compact()
    Journal(open_path(tmp_path / "none")).compact()
    assert names(tmp_path) == ["000001.jsonl"]


def test_a_driver_that_ends_before_it_deletes_the_lines_leaves_no_receipt_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = written(tmp_path, some(5), some(7))
    before = all_of(journal.receipts())
    with monkeypatch.context() as patch:
        patch.setattr(LocalPath, "unlink", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            journal.compact()
    assert names(tmp_path) == ["000001.jsonl", "000002.jsonl", "000003.packed"]
    assert all_of(Journal(open_path(tmp_path)).receipts()) == before
    for number in (4, 5):
        written(tmp_path, some(number))
    again = Journal(open_path(tmp_path))
    again.compact()
    assert names(tmp_path) == ["000006.packed"]
    assert len(again.receipts()) == len(before) + 9


def test_lines_stay_where_the_packed_file_does_not_hold_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = written(tmp_path, some(5), some(7))
    before = all_of(journal.receipts())
    monkeypatch.setattr(journals, "pack", lambda found: list(pack(found))[:-1])
    journal.compact()
    assert names(tmp_path) == ["000001.jsonl", "000002.jsonl"]
    assert all_of(journal.receipts()) == before


def test_foreign_files_beside_the_journal_are_left_alone(tmp_path: Path) -> None:
    journal = written(tmp_path, some(5), some(7))
    for name in ("notes.jsonl.bak", "1.txt", "old.packed"):
        (tmp_path / name).write_text("mine")
    journal.compact()
    assert names(tmp_path) == ["000003.packed", "1.txt", "notes.jsonl.bak", "old.packed"]


def test_a_flipped_bit_loses_receipts_and_makes_none(tmp_path: Path) -> None:
    found = Receipts()
    for receipt in some(9):
        found.add(receipt)
    content = b"".join(pack(found))
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        left = all_of(read_back(tmp_path, bytes(flipped)))
        assert len(left) < 9
        assert set(left) < set(some(9))


def test_a_file_that_is_cut_keeps_its_whole_blocks(tmp_path: Path) -> None:
    found = Receipts()
    for receipt in some(9):
        found.add(receipt)
    content = b"".join(pack(found))
    counts = [len(read_back(tmp_path, content[:end])) for end in range(len(content))]
    assert counts == sorted(counts)
    assert set(counts) == {0, 3, 5, 8}


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        (
            "format_version",
            2,
            r"000001\.packed, the block at byte 0, is damaged \(format_version: .*move that file away",
        ),
        ("names", (), r"the block at byte 0, has values that no receipt has: move that file away"),
        ("chunks", 0, r"the block at byte 0, has values that no receipt has"),
    ],
)
def test_a_block_of_another_version_or_of_impossible_values_is_named(
    tmp_path: Path, field: str, value: object, said: str
) -> None:
    found = Receipts()
    found.add(ONE)
    line, _, content = b"".join(pack(found)).partition(b"\n")
    head = json.loads(line.rpartition(b"\t")[0])
    length = packed.RECEIPT.itemsize + (packed.CHUNK.itemsize if field != "chunks" else 0)
    head |= {field: value, "crc32c": google_crc32c.value(content[:length])}
    text = json.dumps(head).encode()
    with pytest.raises(StoreError, match=said):
        read_back(tmp_path, text + b"\t%08x\n" % google_crc32c.value(text) + content[:length])
