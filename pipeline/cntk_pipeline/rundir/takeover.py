"""Takes over finished tiles from the older run that a run grows from.

Chunks are replaced and never written in place, so a link shares them safely; where the two runs lie on different
devices they are copied. The older run is only read. The owner of each stage says by `Owner.twin` which task of the
older run wrote the same.
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
from cntk_pipeline.rundir.growth import Growth
from cntk_pipeline.rundir.owners import Job
from cntk_pipeline.rundir.specification import CAME_OUT
from cntk_pipeline.rundir.twins import Twins
from cntk_pipeline.storage import StorePath
from cntk_pipeline.tasks import Chunk, Receipt, Stage


def take_over(run: RunDirectory, source: str, jobs: Sequence[Job], say: Callable[[str], None]) -> None:
    """Link chunks of some jobs from the older run, and write receipts of the jobs that are whole then.

    A task with a receipt here is left alone, also where its chunks are gone: they were damaged, and the older run may
    share the damage. A chunk that is here already is left alone too; without a receipt it is read before it is
    trusted. So this may be stopped anywhere and done again.

    Parameters
    ----------
    run : RunDirectory
        Nothing happens where it does not grow from ``source``.
    source : str
        The older run, as `clusters.trust` found that it may be followed.
    jobs : sequence of Job
        Of any stages, some of which are never taken over; the arrays of their solves exist.
    say : callable
        Receives a line for each stage that was taken over.
    """
    of_twins = (grid for grid in Jobs(jobs).grids if grid.owner.twin is not None)
    every = Jobs(*of_twins, [job for job in Jobs(jobs).listed if job.owner.twin is not None])
    growth = Growth.of(run) if every else None
    if growth is None or growth.path != source:
        return
    receipts = run.journal.receipts()
    here, stages_here = receipts.tasks, receipts.stages()
    grids = [grid for grid in every.grids if grid.count_in(here)[0] < len(grid)]
    listed = sorted((job for job in every.listed if job.task not in here), key=lambda job: job.task)
    old = _open_source(growth, say) if grids or listed else None
    if old is None:
        return
    older = _Source(Twins(run, old, growth))
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
    for kind, mine in every.by_kind().items():
        more = f", and {older.shared} of {partly[kind]} more" if partly[kind] else ""
        if whole[kind] or more or kind not in begun:
            say(f"taken over {whole[kind]} of {len(mine)} tiles of {kind}{more}")
    nested = {job.task.stage for job in listed if job.owner.is_nested} - stages_here  # no grid is of a nested stage
    for line in older.why_nested_are_new(nested):
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
    """A map from chunks that tasks of the newer run would write to the same chunks of the older one."""

    def __init__(self, twins: Twins) -> None:
        self.twins = twins
        self._receipts = twins.old.journal.receipts()

    @property
    def shared(self) -> str:
        """Say how many read-outs both runs have."""
        return f"{len(self.twins.readouts)} of {len(self.twins.run.specification.readouts)} read-outs"

    def origins(self, job: Job) -> list[_Origin | None]:
        """Find the chunks of the older run that equal a job's own, in the order of `Owner.places`."""
        twin = None if job.owner.twin is None else job.owner.twin(self.twins, job.task)
        receipt = None if twin is None else self._receipts.get(twin)
        places = job.places(self.twins.run)
        if twin is None or receipt is None:
            return [None] * len(places)
        its = job.owner.places(self.twins.old, twin)
        if len(receipt.chunks) != len(its):  # then it is damaged
            return [None] * len(places)
        found = {
            (array.path.parent.name, array.path.name): _Origin(array.chunk_path(*index), chunk)
            for (array, index), chunk in zip(its, receipt.chunks, strict=True)
        }
        groups = ((array.path.parent.name, array.path.name) for array, _ in places)
        if job.task.stage.solve:  # the groups of two solves have the same names
            return [found.get(name) for name in groups]
        return [found.get((self.twins.readouts.get(readout, ""), part)) for readout, part in groups]

    def why_nested_are_new(self, stages: Iterable[Stage]) -> list[str]:
        """List reasons why tiles of nested stages are not kept: another absolute ridge, or another tile."""
        lines: list[str] = []
        old_solves, solves = self.twins.old.solves(), self.twins.run.solves()
        for stage in sorted(stages, key=lambda stage: stage.solve):
            mine, old_stages = solves[stage.solve], self._receipts.stages()
            recorded = {other.solve for other in old_stages if other.kind == stage.kind}
            kept = sorted(recorded & old_solves.keys())  # users may delete a folder of solves; its receipts stay
            for its in (old_solves[name] for name in kept if stage.solve not in self.twins.solves):
                asked = _asked_of(its, its["readout"]) == _asked_of(mine, self.twins.readouts.get(mine["readout"]))
                if asked and self.twins.leading_rows(its["tile"], self.twins.growth.train):
                    lines.append(f"{mine['readout']}: {_why_new(stage.kind, its, mine)}")
        others = f" (likewise {len(lines) - 1} more)" if len(lines) > 1 else ""
        return [line + others for line in lines[:1]]


def _why_new(kind: str, its: Json, mine: Json) -> str:
    if its["absolute_ridge"] == mine["absolute_ridge"]:
        return (
            f"{kind} tiles of {its['tile']} are now {mine['tile']}: {kind} computed anew; "
            f"solve.tile = {its['tile']} keeps it"
        )
    return (
        f"ridge {mine['ridge']:g} (relative) is now {mine['absolute_ridge']:.6g} absolute, was "
        f"{its['absolute_ridge']:.6g}: {kind} computed anew; "
        f'ridge_mode = "absolute" with {its["absolute_ridge"]!r} keeps it'
    )


def _link(source: _Source, row: Iterable[Job]) -> tuple[list[Receipt], int]:
    """Link the chunks of some jobs; return receipts of whole jobs, and the number of partly linked ones."""
    receipts, folders, partial_count = [], set(), 0
    for job in row:
        places, chunks = job.places(source.twins.run), []
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


def _asked_of(record: Json, readout: str | None) -> Json:
    """Return the part of a solve's record that the workflow sets, without values from the images or the chosen tile."""
    came_out = ("kernel", "tile", *CAME_OUT)
    return {name: value for name, value in record.items() if name not in came_out} | {"readout": readout}
