"""Takes over finished tiles from the older run that a run grows from.

Chunks are replaced and never written in place, so a link shares them safely; where the two runs lie on different
devices they are copied. The older run is only read. The leading block of a Cholesky factor is the factor of the
leading block: with the same ridge, its whole block rows are taken over like tiles of the kernel.
"""

import itertools
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from cntk_pipeline.errors import RunNotFound
from cntk_pipeline.models import Json
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.grids import Jobs
from cntk_pipeline.rundir.growth import Growth, same_readouts
from cntk_pipeline.rundir.owners import Job
from cntk_pipeline.storage import StorePath
from cntk_pipeline.tasks import Chunk, Receipt, Stage, Task
from cntk_pipeline.tiling import Cut

_KERNEL_STAGES = ("train", "test", "variance", "train_variance")
_SOLUTION_STAGES = ("centre_factor", "normal_factor", "coefficients", "mean", "residual")

_STAGES = (*_KERNEL_STAGES, "factor", *_SOLUTION_STAGES)
"""Stages whose tiles may be the same in two runs. Tiles of iterations and inference are not taken over."""

_BESIDE_THE_SYSTEM = ("kernel", "readout", "ridge", "ridge_mode", "mean_diagonal", "max_iterations")
"""Parts of a solve's record that may differ between equal systems of two runs; the absolute ridge is not among them."""


def take_over(run: RunDirectory, source: str, jobs: Sequence[Job], say: Callable[[str], None]) -> None:
    """Link chunks of some jobs from the older run, and write receipts of the jobs that are whole then.

    A task with a receipt here is left alone, also where its chunks are gone: they were damaged, and the older run may
    share the damage. A chunk that is here already is left alone too; without a receipt it is read before it is
    trusted. So this may be stopped anywhere and done again.

    Parameters
    ----------
    run : nothing happens where it does not grow from ``source``.
    source : the older run, as `clusters.trust` found that it may be followed.
    jobs : of any stages, some of which are never taken over; the arrays of their solves exist.
    say : receives a line for each stage that was taken over.
    """
    of_kind = {kind: mine for kind, mine in Jobs(jobs).by_kind().items() if kind in _STAGES}
    growth = Growth.of(run) if of_kind else None
    if growth is None or growth.path != source:
        return
    receipts, every = run.journal.receipts(), Jobs(*of_kind.values())
    here, stages_here = receipts.tasks, receipts.stages()
    grids = [grid for grid in every.grids if grid.count_in(here)[0] < len(grid)]
    listed = sorted((job for job in every.listed if job.task not in here), key=lambda job: job.task)
    old = _open_source(growth, say) if grids or listed else None
    if old is None:
        return
    older = _Source(run, old, growth)
    whole: Counter[str] = Counter()
    partly: Counter[str] = Counter()
    missing = itertools.chain((job for grid in grids for job in grid if job.task not in here), listed)
    for (stage, _), row in itertools.groupby(missing, key=lambda job: (job.task.stage, job.task.row)):
        linked, partial_count = _link(older, row)
        if linked:
            run.journal.append(linked)
        whole[stage.kind] += len(linked)
        partly[stage.kind] += partial_count
    begun = {stage.kind for stage in stages_here}
    for kind, mine in of_kind.items():
        more = f", and {older.shared} of {partly[kind]} more" if partly[kind] else ""
        if whole[kind] or more or kind not in begun:
            say(f"taken over {whole[kind]} of {len(mine)} tiles of {kind}{more}")
    for line in older.why_factors_are_new({job.task.stage for job in listed} - stages_here):
        say(line)


@dataclass(frozen=True)
class _Origin:
    """A chunk of the older run, and its path."""

    path: StorePath
    chunk: Chunk

    def link(self, target: StorePath) -> bool:
        """Link the chunk to a new place; False where the older run has lost it meanwhile."""
        try:
            if self.path.size() != self.chunk.bytes:
                return False
            self.path.share_with(target)
        except FileNotFoundError:
            return False
        return True


class _Source:
    """A map from chunks that tasks of the newer run would write to the same chunks of the older one.

    Parameters
    ----------
    run, old : both runs.
    growth : their common part.
    """

    def __init__(self, run: RunDirectory, old: RunDirectory, growth: Growth) -> None:
        self.run, self.old, self.growth = run, old, growth
        self._receipts = old.journal.receipts()
        self._readouts = same_readouts(old.specification, run.specification)
        self._solves, self._old_solves = run.solves(), old.solves()
        its = {name: _system_of(record, record["readout"]) for name, record in self._old_solves.items()}
        mine = {name: _system_of(rec, self._readouts.get(rec["readout"])) for name, rec in self._solves.items()}
        self._twins = {solve: name for solve, system in mine.items() for name in its if its[name] == system}
        tiles = {self._solves[solve]["tile"] for solve in self._twins}
        self._leading = {tile: (self._rows(tile, growth.train), self._rows(tile, growth.targets)) for tile in tiles}

    @property
    def shared(self) -> str:
        """Say how many read-outs both runs have."""
        return f"{len(self._readouts)} of {len(self.run.specification.readouts)} read-outs"

    def origins(self, job: Job) -> list[_Origin | None]:
        """Find the chunks of the older run that equal a job's own, in the order of `Owner.places`."""
        task, kind, solve = job.task, job.task.stage.kind, job.task.stage.solve
        twin = self._kernel_twin(task) if kind in _KERNEL_STAGES else self._solve_twin(task)
        receipt = None if twin is None else self._receipts.get(twin)
        places = job.places(self.run)
        if twin is None or receipt is None:
            return [None] * len(places)
        its = job.owner.places(self.old, twin)
        if len(receipt.chunks) != len(its):  # then it is damaged
            return [None] * len(places)
        found = {
            array.path: _Origin(array.chunk_path(*index), chunk)
            for (array, index), chunk in zip(its, receipt.chunks, strict=True)
        }
        if kind not in _KERNEL_STAGES:
            return [found.get(self.old.solved(self._twins[solve], array.path.name).path) for array, _ in places]
        names = [(self._readouts.get(array.path.parent.name), array.path.name) for array, _ in places]
        return [None if name is None else found.get(self.old.kernel(name, part).path) for name, part in names]

    def _kernel_twin(self, task: Task) -> Task | None:
        kind, row, col = task.stage.kind, task.row, task.col
        its, mine = self.old.column_cut, self.run.column_cut
        if kind == "train_variance":  # where the older run has more columns, the diagonal is part of a tile there
            there = Task(Stage("train"), row, row) if row < its.pieces else task
            return there if row in self.growth.train else None
        same = row in (self.growth.train if kind == "train" else self.growth.test)
        if kind != "variance":  # the last of the centres end within a tile
            same = same and col in self.growth.train and col < its.pieces and its.bounds(col) == mine.bounds(col)
        return task if same else None

    def _solve_twin(self, task: Task) -> Task | None:
        kind, solve = task.stage.kind, task.stage.solve
        if solve not in self._twins:
            return None
        stage, tile = Stage(kind, solve=self._twins[solve]), self._solves[solve]["tile"]
        its, mine = self.old.train_cut.count, self.run.train_cut.count
        last = Cut(mine, tile).pieces
        rows, rows_with_targets = self._leading[tile]
        if kind == "factor" and task.row == last:  # the targets are the block row below the factor
            return Task(stage, Cut(its, tile).pieces, task.col) if task.col < rows_with_targets else None
        same = kind == "factor" and task.row < rows
        if kind in _SOLUTION_STAGES:  # all training images and labels go into it
            same = its == mine and rows_with_targets == last and (kind != "mean" or task.row in self.growth.test)
        return Task(stage, task.row, task.col) if same else None

    def _rows(self, tile: int, blocks: Sequence[int]) -> int:
        """Count the leading block rows of a factor with one length in both runs and come from these kernel blocks."""
        old, new = Cut(self.old.train_cut.count, tile), Cut(self.run.train_cut.count, tile)
        pieces, per_row = self.run.train_cut.pieces, tile // self.run.train_cut.size
        count = 0
        while (
            count < min(old.pieces, new.pieces)
            and old.bounds(count) == new.bounds(count)
            and set(range(count * per_row, min((count + 1) * per_row, pieces))) <= set(blocks)
        ):
            count += 1
        return count

    def why_factors_are_new(self, stages: Iterable[Stage]) -> list[str]:
        """List reasons why factors of the older run are not kept: another absolute ridge, or another tile."""
        lines: list[str] = []
        factored = {stage.solve for stage in self._receipts.stages() if stage.kind == "factor"}
        for solve in sorted(stage.solve for stage in stages if stage.kind == "factor"):
            mine = self._solves[solve]
            for its in (self._old_solves[name] for name in sorted(factored) if solve not in self._twins):
                asked = _asked_of(its, its["readout"]) == _asked_of(mine, self._readouts.get(mine["readout"]))
                if asked and self._rows(its["tile"], self.growth.train):
                    lines.append(f"{mine['readout']}: {_why_new(its, mine)}")
        others = f" (likewise {len(lines) - 1} more)" if len(lines) > 1 else ""
        return [line + others for line in lines[:1]]


def _why_new(its: Json, mine: Json) -> str:
    if its["absolute_ridge"] == mine["absolute_ridge"]:
        return (
            f"factor tiles of {its['tile']} are now {mine['tile']}: factor computed anew; "
            f"solve.tile = {its['tile']} keeps it"
        )
    return (
        f"ridge {mine['ridge']:g} (relative) is now {mine['absolute_ridge']:.6g} absolute, was "
        f"{its['absolute_ridge']:.6g}: factor computed anew; "
        f'ridge_mode = "absolute" with {its["absolute_ridge"]!r} keeps it'
    )


def _link(source: _Source, row: Iterable[Job]) -> tuple[list[Receipt], int]:
    """Link the chunks of some jobs; return receipts of whole jobs, and the number of partly linked ones."""
    receipts, folders, partial_count = [], set(), 0
    for job in row:
        places, chunks = job.places(source.run), []
        for (array, index), origin in zip(places, source.origins(job), strict=True):
            target = array.chunk_path(*index)
            if origin is not None and not target.exists() and origin.link(target):
                chunks.append(origin.chunk)
                folders.add(target.parent)
        if len(chunks) == len(places):
            receipts.append(Receipt(job.task, tuple(chunks), host=socket.gethostname(), adopted=True))
        elif chunks:
            partial_count += 1
    for folder in folders:  # a receipt follows its data
        folder.sync()
    return receipts, partial_count


def _open_source(growth: Growth, say: Callable[[str], None]) -> RunDirectory | None:
    try:
        old = RunDirectory(growth.path)
    except RunNotFound:
        say(f"{growth.path} is gone: what was not taken over from it is computed")
        return None
    if old.fingerprint != growth.fingerprint:
        say(f"{growth.path} holds another run by now: what was not taken over from it is computed")
        return None
    return old


def _system_of(record: Json, readout: str | None) -> Json:
    """Return the part of a solve's record that equal solves share, images and labels aside."""
    return {name: value for name, value in record.items() if name not in _BESIDE_THE_SYSTEM} | {"readout": readout}


def _asked_of(record: Json, readout: str | None) -> Json:
    """Return the part of a solve's record that the workflow sets, without values from the images or the chosen tile."""
    came_out = ("kernel", "tile", "absolute_ridge", "mean_diagonal", "max_iterations")
    return {name: value for name, value in record.items() if name not in came_out} | {"readout": readout}
