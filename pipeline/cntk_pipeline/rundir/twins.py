"""The twins of tasks: tasks of an older run that wrote the same chunks as tasks of the run that grows from it.

Each owner of a stage says by `Owner.twin` where a task of it has one. It asks a `Twins`, which compares the two runs.
"""

from cntk_pipeline.models import Json
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.growth import Growth, same_readouts
from cntk_pipeline.rundir.specification import BESIDE_THE_RESULT
from cntk_pipeline.tasks import Stage, Task
from cntk_pipeline.tiling import Cut

_BESIDE_THE_SYSTEM = ("kernel", "readout", "ridge", "ridge_mode", "mean_diagonal", *BESIDE_THE_RESULT)
"""Parts of a solve's record that may differ between equal systems of two runs; the absolute ridge is not among them."""


class Twins:
    """Compares a run with the older run that it grows from: networks, systems, images, and labels of the training part.

    The labels of the test part are not compared, so a stage that reads them has no twins.

    Parameters
    ----------
    run, old : RunDirectory
        Both runs.
    growth : Growth
        Their common part.

    Attributes
    ----------
    run, old, growth
        As given.
    readouts : mapping of str to str
        The name in the older run of each read-out that both have, by its name in the run.
    solves : mapping of str to str
        The name in the older run of each solve of the same system, images and labels aside, by its name in the run.
    """

    def __init__(self, run: RunDirectory, old: RunDirectory, growth: Growth) -> None:
        self.run, self.old, self.growth = run, old, growth
        self.readouts = same_readouts(old.specification, run.specification)
        records = run.solves()
        its = {name: _system_of(record, record["readout"]) for name, record in old.solves().items()}
        mine = {name: _system_of(record, self.readouts.get(record["readout"])) for name, record in records.items()}
        self.solves = {solve: name for solve, system in mine.items() for name in its if its[name] == system}
        self._tiles = {solve: int(records[solve]["tile"]) for solve in self.solves}
        self._leading = {
            tile: (self.leading_rows(tile, growth.train), self.leading_rows(tile, growth.targets))
            for tile in set(self._tiles.values())
        }

    def has_same_column(self, col: int) -> bool:
        """Tell whether a column of kernel tiles is of the same images; the last of the centres end within a tile."""
        its, mine = self.old.column_cut, self.run.column_cut
        return col in self.growth.train and col < its.pieces and its.bounds(col) == mine.bounds(col)

    def of_solution(self, task: Task) -> Task | None:
        """Find the twin of a task that all training images and labels go into; None where one of them differs."""
        solve = task.stage.solve
        if solve not in self.solves or self.old.train_cut.count != self.run.train_cut.count:
            return None
        tile = self._tiles[solve]
        is_same = self._leading[tile][1] == Cut(self.run.train_cut.count, tile).pieces
        return self._in_twin_solve(task, task.row) if is_same else None

    def of_block_row(self, task: Task) -> Task | None:
        """Find the twin of a tile of a triangular factor, below which the targets are one more block row.

        The leading block of a factor is the factor of the leading block: a tile is the same where the images of its
        block row and of all before it are. The targets of a block column ask for the same labels too.
        """
        solve = task.stage.solve
        if solve not in self.solves:
            return None
        tile = self._tiles[solve]
        rows, rows_with_targets = self._leading[tile]
        if task.row < Cut(self.run.train_cut.count, tile).pieces:
            return self._in_twin_solve(task, task.row) if task.row < rows else None
        return (
            self._in_twin_solve(task, Cut(self.old.train_cut.count, tile).pieces)
            if task.col < rows_with_targets
            else None
        )

    def leading_rows(self, tile: int, blocks: tuple[int, ...]) -> int:
        """Count the leading block rows that have one length in both runs and come from these kernel blocks.

        Parameters
        ----------
        tile : int
            Training images of a block row.
        blocks : tuple of int
            Numbers of blocks of training images, a kernel tile's edge each.
        """
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

    def _in_twin_solve(self, task: Task, row: int) -> Task:
        stage = task.stage
        return Task(Stage(stage.kind, stage.parameters, self.solves[stage.solve]), row, task.col)


def _system_of(record: Json, readout: str | None) -> Json:
    """Return the part of a solve's record that equal solves share, images and labels aside."""
    return {name: value for name, value in record.items() if name not in _BESIDE_THE_SYSTEM} | {"readout": readout}
