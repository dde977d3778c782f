import sys

from hypothesis import given
from hypothesis import strategies as st

from cntk_pipeline.rundir.sets import PAGE, NumberSets, TaskSet
from cntk_pipeline.tasks import Stage, Task

TRAIN, TEST = Stage("train"), Stage("test", solve="0" * 16)

tasks = st.builds(
    Task,
    st.sampled_from((TRAIN, TEST)),
    st.integers(0, 3),
    st.one_of(st.integers(0, 20), st.sampled_from((PAGE - 1, PAGE, 3 * PAGE + 5, 2**31 - 1))),
)


@given(first=st.lists(tasks), second=st.lists(tasks), out=st.lists(tasks))
def test_a_set_of_bits_is_a_set(first: list[Task], second: list[Task], out: list[Task]) -> None:
    found, expected = TaskSet(first), set(first)
    for task in out:
        found.discard(task)
        expected.discard(task)
    assert (set(found), len(found)) == (expected, len(expected))
    found |= TaskSet(second)
    expected |= set(second)
    assert (set(found), len(found)) == (expected, len(expected))
    assert [task in found for task in first + second + out] == [task in expected for task in first + second + out]
    assert set(found.of_stages({TRAIN})) == {task for task in expected if task.stage == TRAIN}
    assert len(found.of_stages({TRAIN})) == sum(task.stage == TRAIN for task in expected)


@given(before=st.lists(tasks), cols=st.lists(st.integers(0, 3 * PAGE)), row=st.integers(0, 3))
def test_some_tasks_of_a_row_are_added_as_one_after_the_other(before: list[Task], cols: list[int], row: int) -> None:
    found, expected = TaskSet(before), set(before) | {Task(TRAIN, row, col) for col in cols}
    found.add_row(TRAIN, row, cols)
    assert (set(found), len(found)) == (expected, len(expected))


@given(chosen=st.lists(tasks), row=st.integers(0, 3), length=st.integers(0, 2 * PAGE))
def test_the_mask_of_a_row_says_which_of_its_first_tiles_are_there(chosen: list[Task], row: int, length: int) -> None:
    cols = {task.col for task in chosen if (task.stage, task.row) == (TRAIN, row)}
    assert TaskSet(chosen).mask(TRAIN, row, length).tolist() == [col in cols for col in range(length)]


def test_a_set_that_is_added_to_another_stays_as_it_is() -> None:
    first, second = TaskSet([Task(TRAIN, 0, 0)]), TaskSet([Task(TRAIN, 0, 1)])
    first |= second
    first.add(Task(TRAIN, 0, 2))
    copy = first.of_stages({TRAIN})
    copy.add(Task(TRAIN, 0, 3))
    assert (len(second), len(first), len(copy)) == (1, 3, 4)


def test_a_number_costs_a_bit_and_one_far_out_no_more_than_a_page() -> None:
    sets = NumberSets()
    for number in range(100_000):
        sets.add("row", number)
    sets.add("row", 2**31 - 1)
    assert sum(map(sys.getsizeof, sets._pages.values())) < 100_000 / 8 * 1.5 + PAGE / 8
