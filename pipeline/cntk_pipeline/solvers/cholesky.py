"""Tiled left-looking Cholesky factorisation over the store, and the two triangular solves.

Tile (i, j) of the factor L reads rows i and j of L to the left of column j, accumulates in float64, and is
written once: no temporaries, and every task can be run again. Reads grow as n^3 / (3 tile), writes as n^2 / 2.
The targets are appended as one more block row, so that ``L^-1 Y`` costs nothing extra; the other solve is one
pass over L. (Left-looking out of core: D'Azevedo and Dongarra 2000, LAPACK working note 118.)

A tile can only be finished after the tile to its left, so slots would wait for one another. Next to the diagonal, where
the next column waits, a tile is therefore two tasks. The *bulk* sums the products with all but the last columns early
and keeps the sum aside; the *finish* does the rest. The order of the sums is the same, and so are the bits.
"""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal

import numpy as np
import scipy

from cntk_pipeline.clusters import release_slot
from cntk_pipeline.clusters.memory import Need, TileNeed
from cntk_pipeline.models import Json
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.owners import Chunks, Job, Owner, Place
from cntk_pipeline.rundir.twins import Twins
from cntk_pipeline.solvers.base import Solver
from cntk_pipeline.solvers.blas import BLOCK, factor_lower, solve_right, subtract_product, subtract_square
from cntk_pipeline.solvers.conjugate_gradient import (
    PRODUCT,
    STEP,
    iteration_jobs,
    iteration_need,
    iteration_rounds,
    scratch_group,
)
from cntk_pipeline.solvers.forecast import IterationForecast, SystemSize, forecast_streaming
from cntk_pipeline.solvers.options import DEFAULT_TOLERANCE, CholeskyOptions
from cntk_pipeline.solvers.states import Iterations, read_iterations
from cntk_pipeline.solvers.systems import (
    System,
    coefficients_places,
    coefficients_task,
    factor_cut,
    not_positive_definite,
    read_targets,
)
from cntk_pipeline.solvers.work import Work, float64, open_work
from cntk_pipeline.storage.tiled_array import Array, ArraySpec, Group, chunk_bytes
from cntk_pipeline.tasks import Receipt, Stage, StageForecast, Task
from cntk_pipeline.tiling import Cut, choose_factor_tile

SMALLEST_SPLIT_TILE = 512
"""Smaller tiles are not split: their product takes less than the 12 ms that a task costs beside its arithmetic."""


def factor_task_bytes(tile: int) -> int:
    """Return the bytes of a factor task: its tile, a product, four panels, two of them read ahead, and a written tile.

    The written tile belongs to the task before, which has given its slot away.
    """
    return 7 * tile * tile * 8


def factor_jobs(run: RunDirectory, system: System, order: int, slots: int) -> list[Job]:
    """List the tasks of a factorisation and of both solves.

    Parameters
    ----------
    run, system
        The system that is factored.
    order : int
        Ranks this system among others.
    slots : int
        Tasks that run at once; they decide which tiles are split.
    """
    classes = len(run.specification.data.classes)
    return list_factor_jobs(factor_cut(run, system), system.fingerprint, classes, order, slots)


def list_factor_jobs(cut: Cut, solve: str, classes: int, order: int = 0, slots: int = 1) -> list[Job]:
    """List the tasks as `factor_jobs` does, for a run that need not exist."""
    width, reach = finish_width(cut.pieces), split_reach(cut, slots)
    stage, bulks, jobs = Stage("factor", solve=solve), Stage("bulk", solve=solve), []
    for row in range(cut.pieces + 1):
        height = classes if row == cut.pieces else cut.length(row)
        for col in range(min(row + 1, cut.pieces)):
            factor = Task(stage, row, col)
            before = [Task(stage, row, col - 1)] if col else []
            if row > col:
                before.append(Task(stage, col, col))
            # Column by column; in a column the diagonal first, then the tiles that the next diagonal waits for.
            priority = (order, 3 * col + min(row - col, 2), row)
            if col > width and row < cut.pieces and row - col < reach:
                bulk = Task(bulks, row, col)
                ready = {Task(stage, line, col - width - 1) for line in (row, col)}
                jobs.append(Job(bulk, BULK, 0, priority, tuple(sorted(ready)), only_for=factor))
                before.append(bulk)
            jobs.append(Job(factor, FACTOR, height * cut.length(col), priority, tuple(before)))
    last = Task(stage, cut.pieces, cut.pieces - 1)
    coefficients = coefficients_task(solve)
    jobs.append(Job(coefficients, COEFFICIENTS, cut.count * classes, (order, 3 * cut.pieces, 0), (last,)))
    return jobs


def split_reach(cut: Cut, slots: int) -> int:
    """Return how many tiles of a column, from the diagonal on, are two tasks.

    Those are one more than there are slots, so that each slot finds work that does not wait for the column before. More
    would only be written, synced and read once more: with 24 block rows on two slots, splitting all of them is as slow
    as splitting none (``benchmarks/simulate.py``).
    """
    return slots + 1 if slots > 1 and cut.size >= SMALLEST_SPLIT_TILE else 0


def finish_width(block_rows: int) -> int:
    """Return how many columns the finish of a split tile covers.

    ``sqrt(N / 3)`` of N block rows balances the two bounds on the speed-up, ``N (w + 1) / 3`` from the chain of
    finishes and ``N^2 / (9 w)`` from the tiles that wait for a column. The width depends on N alone, so that a finish
    knows the columns of an earlier driver's bulk.
    """
    return max(1, round(math.sqrt(block_rows / 3)))


def chain_operations(cut: Cut) -> float:
    """Count the operations of the longest chain of a factor, with which it ends on any number of slots.

    In each column the diagonal tile is finished, then the tile below it, for which the next diagonal tile waits.
    """
    width = finish_width(cut.pieces) if cut.size >= SMALLEST_SPLIT_TILE else cut.pieces
    lengths = [cut.length(col) for col in range(cut.pieces)]
    total = 0.0
    for col, breadth in enumerate(lengths):
        inner, height = min(col, width) * cut.size, lengths[col + 1] if col + 1 < cut.pieces else 0
        total += (inner + breadth / 3) * breadth**2 + (2 * inner + breadth) * breadth * height
    return total


def sum_bulk(run_path: str, task: Task) -> Receipt:
    """Sum the products of a tile with all but the last columns, and store the sum in float64."""
    work = open_work(run_path, task)
    tile = _begin_tile(work)
    _subtract_products(work, tile, range(task.col - finish_width(work.cut.pieces)))
    release_slot()  # while it is written, the next tile is computed; factor_task_bytes counts on it
    return work.write(BULK, tile)


def factor_tile(run_path: str, task: Task) -> Receipt:
    """Compute one tile of the factor, or of ``(L^-1 Y)^T`` in the block row below it.

    Raises
    ------
    NotPositiveDefinite
        If a pivot is not positive, or rounding alone, with its global row and value. A sufficient ridge depends on an
        eigenvalue; the driver has it computed.
    """
    work = open_work(run_path, task)
    row, col = task.row, task.col
    aside = work.solved("partial")
    # Where the bulk is gone, another process finished this tile meanwhile; a new start gives the same tile.
    summed = aside.chunk_path(row, col).exists()
    tile = aside.read(row, col).copy() if summed else _begin_tile(work)
    _subtract_products(work, tile, range(col - finish_width(work.cut.pieces) if summed else 0, col))
    if row == col:
        _require_positive(factor_lower(tile), tile, work)
        _require_significant(np.square(np.diagonal(tile)), work)
    else:
        solve_right(float64(work.solved("factor").read_mapped(col, col)), tile)
    release_slot()
    receipt = work.write(FACTOR, tile)
    aside.chunk_path(row, col).unlink(missing_ok=True)
    return receipt


def _begin_tile(work: Work) -> Array:
    """Return the tile before any product: of the kernel with its ridge, or of the targets."""
    row, col = work.task.row, work.task.col
    if row == work.cut.pieces:
        return np.ascontiguousarray(read_targets(work.run, work.cut.bounds(col)).T)
    block = work.kernel.train(work.cut.bounds(row), work.cut.bounds(col))
    if row == col:
        block[np.diag_indices(len(block))] += work.system.absolute_ridge
    return block


def _subtract_products(work: Work, tile_out: Array, columns: range) -> None:
    """Subtract ``L_ik L_jk^T`` for some columns k, in order, from the tile (i, j)."""
    row, col = work.task.row, work.task.col
    factor, forward = work.solved("factor"), work.solved("forward")

    def read_panels(k: int) -> tuple[Array, Array]:
        mine = forward.read(0, k) if row == work.cut.pieces else factor.read_mapped(row, k)
        return float64(mine), float64(mine if row == col else factor.read_mapped(col, k))

    for left, right in work.ahead(read_panels, columns):
        if row == col:
            subtract_square(left, tile_out)
        else:
            subtract_product(left, right, tile_out)


def solve_coefficients(run_path: str, task: Task) -> Receipt:
    """Solve ``L^T alpha = L^-1 Y`` in one pass over the factor, last block row first; alpha is ``(n, classes)``."""
    work = open_work(run_path, task)
    cut = work.cut
    factor, forward = work.solved("factor"), work.solved("forward")
    alpha = np.concatenate([forward.read(0, col).T for col in range(cut.pieces)]).astype(np.float64)
    for row in reversed(range(cut.pieces)):
        mine = slice(*cut.bounds(row))
        corner = float64(factor.read_mapped(row, row))
        alpha[mine] = scipy.linalg.solve_triangular(corner, alpha[mine], lower=True, trans="T", check_finite=False)
        for col, tile in enumerate(work.ahead(partial(factor.read_mapped, row), range(row))):
            alpha[slice(*cut.bounds(col))] -= float64(tile).T @ alpha[mine]
    return work.write(COEFFICIENTS, alpha)


def _factor_places(run: RunDirectory, task: Task) -> list[Place]:
    solve, factor = task.stage.solve, run.solved(task.stage.solve, "factor")
    if task.row == factor.cut(0).pieces:  # the targets are one more block row
        return [(run.solved(solve, "forward"), (0, task.col))]
    return [(factor, (task.row, task.col))]


def _bulk_places(run: RunDirectory, task: Task) -> list[Place]:
    return [(run.solved(task.stage.solve, "partial"), (task.row, task.col))]


def _spent_bulks(run: RunDirectory, tasks: Sequence[Task], chunks: Chunks) -> set[Task]:
    """Pick the bulks that a finish has used, or that no finish waits for."""
    return {task for task in tasks if None in (chunks.size(*place) for place in _bulk_places(run, task))}


def release_factor(run: RunDirectory, solve: str) -> None:
    """Delete the tiles of a factor that is not needed any more; the coefficients and all results of inference stay."""
    run.write_record(f"solve/{solve}/released.json", {"released": "factor"})
    for part in ("factor", "partial"):
        (run.solved(solve, part).path / "c").remove_tree()


def _is_released(run: RunDirectory, task: Task) -> bool:
    return (run.solve_path(task.stage.solve) / "released.json").exists()


FACTOR = Owner("factor", factor_tile, _factor_places, is_released=_is_released, twin=Twins.of_block_row, is_nested=True)
BULK = Owner("bulk", sum_bulk, _bulk_places, _spent_bulks)
COEFFICIENTS = Owner("coefficients", solve_coefficients, coefficients_places, twin=Twins.of_solution)


def _require_positive(k: int, block: Array, work: Work) -> None:
    """Raise with the pivot where `factor_lower` stopped at row ``k`` of a diagonal tile."""
    if k < 0:
        return
    begin = k - k % BLOCK
    corner = block[begin : k + 1, begin : k + 1]
    above = scipy.linalg.solve_triangular(
        np.linalg.cholesky(corner[:-1, :-1]), corner[-1, :-1], lower=True, check_finite=False
    )
    pivot, row = float(corner[-1, -1] - above @ above), work.cut.bounds(work.task.row)[0] + k
    raise not_positive_definite(work.kernel, f"pivot {pivot:.3g} at training row {row}", row, pivot)


def _require_significant(pivots: Array, work: Work) -> None:
    """Raise where the pivots of a diagonal tile, ``(m,)``, are rounding: a solution would be noise times their inverse.

    Rounding makes n units in the last place of the diagonal (Higham 2002, theorem 10.3). No more than that of the mean
    diagonal is asked for, so that the ridge that the error names is enough.
    """
    kernel, count = work.kernel, work.run.train_cut.count
    begin, end = work.cut.bounds(work.task.row)
    unit = count * float(np.finfo(np.float64).eps)
    diagonal = kernel.variance("train", (begin, end)) + work.system.absolute_ridge
    if (pivots > unit * diagonal).all():
        return
    rounding = unit * np.minimum(diagonal, kernel.mean_diagonal())
    for k in np.flatnonzero(pivots <= rounding)[:1]:
        row, pivot = begin + int(k), float(pivots[k])
        found = f"pivot {pivot:.3g} at training row {row}, where rounding makes {rounding[k]:.1e}"
        raise not_positive_definite(kernel, found, row, pivot)


class Cholesky(Solver):
    """A solver by Cholesky factors: in float64 in one round, in float32 as the preconditioner of conjugate gradients.

    Plain iterative refinement with the rounded factor multiplies the error by a number that may exceed 1; conjugate
    gradients with the same factor take the same two triangular solves an iteration and converge all the same.
    """

    options = CholeskyOptions
    owners = (FACTOR, BULK, PRODUCT, STEP, COEFFICIENTS)

    def specification(self, options: CholeskyOptions) -> Json:
        """Return nothing for a factor in float64, so that solves of all versions keep their names."""
        if options.factor_dtype == "float64":
            return {}
        return {"tolerance": options.tolerance or DEFAULT_TOLERANCE, "factor_dtype": options.factor_dtype}

    def has_exact_factor(self, options: CholeskyOptions) -> bool:
        return options.factor_dtype == "float64"

    def choose_tile(self, train: int, kernel_tile: int, wanted: Literal["auto"] | int) -> int:
        return choose_factor_tile(train, kernel_tile, None if wanted == "auto" else wanted)

    def arrays(self, run: RunDirectory, system: System) -> list[ArraySpec]:
        tile, train = system.tile, run.specification.data.train
        data, dtype = run.specification.data, _options(system).factor_dtype
        classes = len(data.classes)
        return [
            ArraySpec("factor", (train, train), (tile, tile), dtype, ("train_row", "train")),
            ArraySpec("partial", (train, train), (tile, tile), "float64", ("train_row", "train")),
            ArraySpec("forward", (classes, train), (classes, tile), "float64", (data.column_axis, "train")),
        ]

    def scratch_groups(self, run: RunDirectory, system: System) -> list[Group]:
        return [scratch_group(run, system)] if _iterates(system) else []

    def rounds(self, run: RunDirectory, system: System, order: int, slots: int) -> Iterator[list[Job]]:
        if _iterates(system):
            yield from iteration_rounds(run, system, order, _factor_alone(run, system, order, slots))
        else:
            yield factor_jobs(run, system, order, slots)

    def jobs(self, run: RunDirectory, system: System) -> list[Job]:
        # Whole tiles are counted: split tiles, a choice of the driver, leave the same chunks.
        if _iterates(system):
            return iteration_jobs(run, system, _factor_alone(run, system, 0, 1))
        return factor_jobs(run, system, 0, 1)

    def iterations(self, run: RunDirectory, system: System) -> Iterations | None:
        return read_iterations(run, system.fingerprint)

    def forecast(self, size: SystemSize, options: CholeskyOptions) -> list[StageForecast]:
        triangle = size.triangle
        written = triangle * chunk_bytes((size.tile, size.tile), options.factor_dtype)
        solving = 4 * size.train**2 * size.classes / size.product_rate
        factoring = size.train**3 / 3 / size.product_rate
        kept = size.train * size.classes * 8
        chain = 2 * size.cut.pieces, chain_operations(size.cut) / size.product_rate
        if not self.has_exact_factor(options):
            return [
                StageForecast("factor", triangle, written, factoring, *chain),
                StageForecast("step", 1, 0, 0.0),
                StageForecast("coefficients", 1, kept, solving),
            ]
        tasks = triangle + size.cut.pieces
        factor = StageForecast("factor", tasks, written + kept, factoring + solving / 2, *chain)
        return [factor, StageForecast("coefficients", 1, kept, solving / 2)]

    def forecast_iteration(self, size: SystemSize, options: CholeskyOptions) -> IterationForecast | None:
        return None if self.has_exact_factor(options) else forecast_streaming(size, options.factor_dtype, 0)

    def needs(self, size: SystemSize, options: CholeskyOptions) -> list[Need]:
        needs: list[Need] = [TileNeed("factor tile", "solve.tile", size.tile, size.kernel_tile, factor_task_bytes)]
        return needs if self.has_exact_factor(options) else [*needs, iteration_need(size, 0)]


def _options(system: System) -> CholeskyOptions:
    return CholeskyOptions.model_validate(system.method.options)


def _iterates(system: System) -> bool:
    return _options(system).factor_dtype == "float32"


def _factor_alone(run: RunDirectory, system: System, order: int, slots: int) -> list[Job]:
    """List the tasks of the factor without the block row of the targets and the solves: the iteration does these."""
    pieces, kinds = factor_cut(run, system).pieces, (FACTOR.kind, BULK.kind)
    jobs = factor_jobs(run, system, order, slots)
    return [job for job in jobs if job.task.stage.kind in kinds and job.task.row < pieces]
