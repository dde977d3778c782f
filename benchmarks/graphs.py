"""Describes the tasks of a run for the simulation: the package's own lists, with what each task takes.

Kernel tiles are too many to list (124 million for CNTK-GAP on a million images), but few kinds occur: whole, ragged at
the end, half on the diagonal. They are counted by these.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from dealing import Group
from rates import Rates
from schedule import Graph, Phase, Span, Step

from cntk_pipeline.rundir.owners import Job
from cntk_pipeline.solvers.cholesky import finish_width, list_factor_jobs
from cntk_pipeline.storage.tiled_array import CRC_BYTES
from cntk_pipeline.tiling import Cut
from cntk_pipeline.workflow.plan import TASK_SECONDS

CLASSES, IMAGE_BYTES = 10, 32 * 32 * 3 * 4


@dataclass(frozen=True)
class FactorCosts:
    """What tasks of a factorisation take: the cut of the matrix, and the rates of a core.

    Attributes
    ----------
    peak : float
        Operations a second that count as ideal.
    """

    cut: Cut
    rates: Rates
    peak: float
    classes: int = CLASSES

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a tile of the factor on disk, ragged ones padded."""
        return self.cut.size**2 * 8 + CRC_BYTES

    def step(self, job: Job) -> Step:
        """Say what a task takes, from what it is called and what it waits for."""
        stage, row, col = job.task.stage.kind, job.task.row, job.task.col
        if stage == "coefficients":
            return self._coefficients()
        width = finish_width(self.cut.pieces)
        summed = stage == "factor" and any(other.stage.kind == "bulk" for other in job.after)
        columns = range(col - width if summed else 0, col - width if stage == "bulk" else col)
        height, breadth, inner = self._length(row), self.cut.length(col), len(columns) * self.cut.size
        rates, corner, targets = self.rates, row == col, row == self.cut.pieces
        operations = height * breadth * inner * (1 if corner else 2)
        seconds = operations / (rates.square if corner else rates.product)
        reads = [] if targets else [Span(row, columns.start, columns.stop)]
        if not corner:
            reads.append(Span(col, columns.start, columns.stop))
        if stage == "factor":
            finishing = breadth**3 / 3 if corner else height * breadth**2
            operations += finishing
            seconds += finishing / (rates.factor if corner else rates.solve)
            if not corner:
                reads.append(Span(col, col, col + 1))
        opened = self.chunk_bytes if summed else 4 * height * breadth
        if targets:
            opened = 8 * height * inner  # no kernel, but its own row so far
        written = 8 * height * self.cut.size if targets else self.chunk_bytes
        makes = Span(row, col, col + 1) if stage == "factor" and not targets else None
        return Step(
            operations / self.peak,
            Phase(opened, opened / rates.check),
            Phase(0.0, seconds + TASK_SECONDS + written / rates.encode),
            Phase(written, written / rates.write),
            tuple(span for span in reads if span.stop > span.start),
            makes,
            writes_in_slot=False,
        )

    def _length(self, row: int) -> int:
        return self.classes if row == self.cut.pieces else self.cut.length(row)

    def _coefficients(self) -> Step:
        count = self.cut.count
        operations, written = count**2 * self.classes, 8 * count * self.classes
        reads = tuple(Span(row, 0, row + 1) for row in reversed(range(self.cut.pieces)))
        seconds = operations / self.rates.product
        computing, writing = Phase(0.0, seconds + TASK_SECONDS), Phase(written, written / self.rates.write)
        return Step(operations / self.peak, Phase(), computing, writing, reads)


@lru_cache(maxsize=4)
def factor_graph(costs: FactorCosts, slots: int) -> Graph:
    """Build the graph of a factorisation and its solves from the package's own list of tasks, split for some slots."""
    jobs = list_factor_jobs(costs.cut, "0" * 16, costs.classes, slots=slots)
    number = {job.task: k for k, job in enumerate(jobs)}
    ranks = [0] * len(jobs)
    for rank, k in enumerate(sorted(range(len(jobs)), key=lambda k: (jobs[k].priority, jobs[k].task))):
        ranks[k] = rank
    releases: list[list[int]] = [[] for _ in jobs]
    for k, job in enumerate(jobs):
        for other in job.after:
            releases[number[other]].append(k)
    steps = [costs.step(job) for job in jobs]
    check_seconds = costs.chunk_bytes / costs.rates.check
    return Graph(steps, ranks, [len(job.after) for job in jobs], releases, costs.chunk_bytes, check_seconds)


def kernel_groups(train: Cut, test: Cut, pair_seconds: float, write: float) -> list[Group]:
    """Count the tiles of the kernel stage by what they take; ``write`` in bytes a second."""
    rows, columns = _lengths(train), _lengths(test)
    kinds: Counter[tuple[int, int, int]] = Counter()  # rows, columns and pairs of a tile
    for height, count in rows.items():
        kinds[height, height, height * (height + 1) // 2] += count
    # Below the diagonal lies every pair of two pieces; only the last one may be ragged.
    whole, last = divmod(train.count, train.size)
    kinds[train.size, train.size, train.size**2] += whole * (whole - 1) // 2
    if last:
        kinds[last, train.size, last * train.size] += whole
    for height, count in columns.items():
        for breadth, others in rows.items():
            kinds[height, breadth, height * breadth] += count * others
        kinds[height, 0, height] += count
    groups = []
    for (height, breadth, pairs), count in kinds.items():
        images = (height + breadth) * IMAGE_BYTES
        written = 4 * (train.size**2 if breadth else train.size) + CRC_BYTES
        seconds = pairs * pair_seconds
        step = Step(seconds, Phase(images), Phase(0.0, seconds + TASK_SECONDS), Phase(written, written / write))
        groups.append(Group(count, step))
    return [group for group in groups if group.count]


def fetch_once(groups: Sequence[Group], most_bytes: float) -> list[Group]:
    """Let the nodes' caches keep what was read: all tasks together fetch at most so many bytes, each its part."""
    asked = sum(group.count * group.step.opening.bytes for group in groups)
    part = min(1.0, most_bytes / asked)
    openings = (replace(group.step.opening, bytes=part * group.step.opening.bytes) for group in groups)
    return [
        replace(group, step=replace(group.step, opening=opening))
        for group, opening in zip(groups, openings, strict=True)
    ]


def _lengths(cut: Cut) -> Mapping[int, int]:
    """Count the pieces of a cut by their lengths."""
    whole, last = divmod(cut.count, cut.size)
    return {length: count for length, count in ((cut.size, whole), (last, 1)) if length and count}
