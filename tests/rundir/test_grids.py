import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cntk_pipeline.gram.tiles import list_kernel_jobs
from cntk_pipeline.graphs import NodeCounts
from cntk_pipeline.rundir.grids import Jobs
from cntk_pipeline.rundir.owners import Job
from cntk_pipeline.rundir.sets import TaskSet
from cntk_pipeline.tasks import Stage, Task
from cntk_pipeline.tiling import Cut

Listed = list[tuple[str, int, int, int]]

counts = st.integers(1, 40)


def listed_one_by_one(train: Cut, test: Cut, columns: Cut, nodes: NodeCounts, symmetric: bool) -> Listed:
    """List all tiles with their pairs, counted sample by sample."""

    def pieces(cut: Cut, part: np.ndarray) -> list[tuple[range, list[int]]]:
        return [(range(*cut.bounds(k)), part[slice(*cut.bounds(k))].tolist()) for k in range(cut.pieces)]

    def product(rows: tuple[range, list[int]], cols: tuple[range, list[int]], triangle: bool = False) -> int:
        pairs_of = itertools.product(zip(*rows, strict=True), zip(*cols, strict=True))
        return sum(a * b for (i, a), (j, b) in pairs_of if not triangle or j <= i)

    def alone(piece: tuple[range, list[int]]) -> int:
        return sum(weight * weight for weight in piece[1])

    rows, tests, cols = pieces(train, nodes.train), pieces(test, nodes.test), pieces(columns, nodes.train)
    found: Listed = []
    for i, row in enumerate(rows):
        for j, col in enumerate(cols):
            if symmetric and j == i:  # the whole tile, also where the centres end within it
                found.append(("train", i, j, product(row, row, triangle=True)))
            elif not symmetric or j < i:
                found.append(("train", i, j, product(row, col)))
    found += [("test", i, j, product(row, col)) for i, row in enumerate(tests) for j, col in enumerate(cols)]
    found += [("variance", i, 0, alone(row)) for i, row in enumerate(tests)]
    behind = len(cols) if symmetric else 0
    return found + [("train_variance", i, 0, alone(row)) for i, row in enumerate(rows) if i >= behind]


def plain(jobs: list[Job] | Jobs) -> Listed:
    return [(job.task.stage.kind, job.task.row, job.task.col, job.entries) for job in jobs]


def weights_of(count: int, draw: st.DataObject) -> np.ndarray:
    return np.array(draw.draw(st.lists(st.integers(1, 9), min_size=count, max_size=count)), np.int64)


@given(train=counts, test=st.integers(0, 12), centres=counts, size=st.integers(1, 9), data=st.data())
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("of_graphs", [True, False])
def test_a_grid_has_the_jobs_that_a_list_of_all_tiles_has(
    train: int, test: int, centres: int, size: int, data: st.DataObject, symmetric: bool, of_graphs: bool
) -> None:
    cuts = Cut(train, size), Cut(test, size), Cut(min(centres, train), size)
    ones = NodeCounts(np.ones(train, np.int64), np.ones(test, np.int64))
    nodes = NodeCounts(weights_of(train, data), weights_of(test, data)) if of_graphs else ones
    expected = listed_one_by_one(*cuts, nodes, symmetric)
    jobs = list_kernel_jobs(*cuts, nodes if of_graphs else None, symmetric=symmetric)
    assert plain(jobs) == expected
    assert len(jobs) == len(expected)
    assert plain([jobs[k] for k in range(len(jobs))]) == expected
    assert plain(jobs[::-1]) == expected[::-1]
    assert sum(grid.total_entries() for grid in jobs.grids) == sum(entries for *_, entries in expected)


@given(train=counts, size=st.integers(1, 9), data=st.data())
def test_missing_jobs_come_longest_first_and_those_of_equals_in_their_order(
    train: int, size: int, data: st.DataObject
) -> None:
    jobs = list_kernel_jobs(Cut(train, size), Cut(3, size))
    done = [job for job in jobs if data.draw(st.booleans())]
    there = TaskSet(job.task for job in done)
    for grid in jobs.grids:
        left = [job for job in grid if job.task not in there]
        assert list(grid.missing(there)) == sorted(left, key=lambda job: job.priority)
        mine = [job for job in done if job.task.stage == grid.stage]
        assert grid.count_in(there) == (len(mine), sum(job.entries for job in mine))


def test_tasks_and_entries_are_plain_integers_as_a_journal_writes_them() -> None:
    jobs = list_kernel_jobs(Cut(10, 4), Cut(3, 4))
    for job in (*jobs, *jobs.grids[0].missing(TaskSet()), jobs[-1]):
        assert {type(value) for value in (job.task.row, job.task.col, job.entries, *job.priority)} == {int}


def test_jobs_are_grouped_by_kind_and_stay_grids() -> None:
    jobs = list_kernel_jobs(Cut(10, 4), Cut(3, 4))
    more = [Job(Task(Stage(kind), k, 0), jobs[0].owner, 1) for k, kind in enumerate(("factor", "mean", "factor"))]
    both = jobs + more
    assert [part for part in both.parts[:-1]] == jobs.grids
    assert both.listed == more
    assert {kind: len(mine) for kind, mine in both.by_kind().items()} == {
        "train": 6,
        "test": 3,
        "variance": 1,
        "factor": 2,
        "mean": 1,
    }
    with pytest.raises(IndexError, match=f"there are {len(both)} jobs, got number {len(both)}"):
        both[len(both)]
    with pytest.raises(IndexError, match="there are 6 tiles of train, got number 6"):
        jobs.grids[0][6]
