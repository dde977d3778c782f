import tracemalloc
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from cntk_pipeline.rundir.receipts import Receipts
from cntk_pipeline.tasks import Chunk, Receipt, Stage, Task

STAGES = (Stage("train"), Stage("factor", solve="0" * 16))

tasks = st.builds(Task, st.sampled_from(STAGES), st.integers(0, 2), st.sampled_from((0, 1, 2**31 - 1)))
digests = st.one_of(
    st.binary(min_size=16, max_size=16).map(bytes.hex), st.sampled_from(("", "ab", "AB" * 16, "é" * 32))
)
chunks = st.builds(
    Chunk, st.sampled_from(("train", "test")), st.integers(0, 2**63 - 1), st.integers(0, 2**32 - 1), digests
)
seconds = st.floats(-1, 1e12)
hosts = st.sampled_from(("", "node7"))
receipts = st.builds(
    Receipt, tasks, st.lists(chunks, max_size=3).map(tuple), seconds, seconds, seconds, hosts, st.booleans()
)


@given(some=st.lists(receipts, max_size=12))
def test_receipts_come_back_as_they_were_and_the_newest_counts(some: list[Receipt]) -> None:
    found = Receipts()
    for number, receipt in enumerate(some, start=1):
        found.add(receipt)
        newest = {each.task: each for each in some[:number]}
        assert {task: found.get(task) for task in newest} == newest
        assert all(
            found.claims_of(task) == [(chunk.bytes, chunk.crc32c) for chunk in receipt.chunks]
            for task, receipt in newest.items()
        )
    assert len(found) == len(some)
    assert set(found.tasks) == {receipt.task for receipt in some}
    assert found.stages() == {receipt.task.stage for receipt in some}
    for stage in STAGES:
        mine = [receipt for receipt in some if receipt.task.stage == stage]
        assert [receipt for receipt in found if receipt.task.stage == stage] == mine
        for task in {receipt.task for receipt in mine}:
            assert found.all_of(task) == [receipt for receipt in mine if receipt.task == task]


def test_a_task_without_a_receipt_has_none() -> None:
    found = Receipts()
    found.add(Receipt(Task(STAGES[0], 0, 0), ()))
    for task in (Task(STAGES[0], 0, 1), Task(STAGES[0], 1, 0), Task(STAGES[1], 0, 0)):
        assert (found.get(task), found.claims_of(task), found.all_of(task)) == (None, None, [])


def test_a_receipt_of_one_chunk_takes_some_eighty_bytes() -> None:
    count, found = 20_000, Receipts()
    receipt = Receipt(Task(STAGES[0], 0, 0), (Chunk("train", 1028, 77, "ab" * 16),), 0.1, 2.0, 0.3, "node7")
    tracemalloc.start()
    for k in range(count):
        found.add(replace(receipt, task=Task(STAGES[0], k // 100, k % 100)))
    found.get(Task(STAGES[0], 5, 5))
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken / count < 110
