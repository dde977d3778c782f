"""Tiled left-looking Cholesky factorisation over the store, and the two triangular solves.

Tile (i, j) of the factor L reads rows i and j of L to the left of column j, accumulates in float64, and is
written once: no temporaries, and every task can be run again. Reads grow as n^3 / (3 tile), writes as n^2 / 2.
The targets ride along as one more block row, so that ``L^-1 Y`` costs nothing extra; the other solve is one
pass over L. (Left-looking out of core: D'Azevedo and Dongarra 2000, LAPACK working note 118.)

A tile can only be finished when the one to its left is, so many slots would wait for one another. Where there are more
than one for eight block rows, a tile is two tasks: the *bulk* of its products, all but those with the last columns, is
summed early and kept aside, the *finish* does the rest. The order of the sums is the same, and so are the bits.
"""

import math
from functools import partial

import numpy as np
import scipy.linalg

from cntk_pipeline.clusters import release_slot
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.solvers.blas import BLOCK, factor_lower, solve_right, subtract_product, subtract_square
from cntk_pipeline.solvers.systems import System, factor_cut, not_positive_definite, read_targets
from cntk_pipeline.solvers.work import Work, float64, open_work
from cntk_pipeline.storage.tiled_array import Array
from cntk_pipeline.tasks import Job, Receipt, Task
from cntk_pipeline.tiling import Cut

BLOCK_ROWS_PER_SLOT = 8
"""With fewer block rows for a slot, slots would wait a third of the time and more (simulated), and tiles are split."""

SMALLEST_SPLIT_TILE = 512
"""Below, a product takes less than the 12 ms that a task costs beside its arithmetic."""


def factor_jobs(run: RunDirectory, system: System, order: int, slots: int = 1) -> list[Job]:
    """List the tasks of a factorisation and of both solves.

    Parameters
    ----------
    run, system : what is factored.
    order : ranks this system among others.
    slots : tasks that run at once; they decide whether tiles are split.
    """
    classes = len(run.specification["data"]["classes"])
    return list_factor_jobs(factor_cut(run, system), system.fingerprint, classes, order, slots)


def list_factor_jobs(cut: Cut, solve: str, classes: int, order: int = 0, slots: int = 1) -> list[Job]:
    """List the tasks as `factor_jobs` does, for a run that need not exist."""
    width = finish_width(cut.pieces) if are_tiles_split(cut, slots) else cut.pieces
    jobs = []
    for row in range(cut.pieces + 1):
        height = classes if row == cut.pieces else cut.length(row)
        for col in range(min(row + 1, cut.pieces)):
            factor = Task(f"factor:{solve}", row, col)
            before = [Task(factor.stage, row, col - 1)] if col else []
            if row > col:
                before.append(Task(factor.stage, col, col))
            # Column by column; in a column the diagonal first, then what the next diagonal waits for.
            priority = (order, 3 * col + min(row - col, 2), row)
            if col > width and row < cut.pieces:
                bulk = Task(f"bulk:{solve}", row, col)
                ready = {Task(factor.stage, line, col - width - 1) for line in (row, col)}
                jobs.append(Job(bulk, sum_bulk, 0, priority, tuple(sorted(ready)), only_for=factor))
                before.append(bulk)
            jobs.append(Job(factor, factor_tile, height * cut.length(col), priority, tuple(before)))
    last = Task(f"factor:{solve}", cut.pieces, cut.pieces - 1)
    coefficients = Task(f"coefficients:{solve}", 0, 0)
    jobs.append(Job(coefficients, solve_coefficients, cut.count * classes, (order, 3 * cut.pieces, 0), (last,)))
    return jobs


def are_tiles_split(cut: Cut, slots: int) -> bool:
    """Return whether slots are so many that a tile is two tasks."""
    return slots > 1 and BLOCK_ROWS_PER_SLOT * slots > cut.pieces and cut.size >= SMALLEST_SPLIT_TILE


def finish_width(block_rows: int) -> int:
    """Return how many columns the finish of a split tile covers.

    ``sqrt(N / 3)`` of N block rows balances the two bounds on the speed-up, ``N (w + 1) / 3`` from the chain of
    finishes and ``N^2 / (9 w)`` from what waits for a column. It depends on nothing else, so that a finish knows what
    a bulk of an earlier driver covered.
    """
    return max(1, round(math.sqrt(block_rows / 3)))


def sum_bulk(run_path: str, task: Task) -> Receipt:
    """Sum the products of a tile with all but the last columns, and keep the sum aside in float64."""
    work = open_work(run_path, task)
    tile = _begin_tile(work)
    _subtract_products(work, tile, range(task.col - finish_width(work.cut.pieces)))
    release_slot()  # while it is written, the next tile is computed; factor_task_bytes counts on it
    return work.write(tile)


def factor_tile(run_path: str, task: Task) -> Receipt:
    """Compute one tile of the factor, or of ``(L^-1 Y)^T`` in the block row below it.

    Raises
    ------
    NotPositiveDefinite
        With the global row and the pivot; a ridge that passes takes an eigenvalue, which the driver asks for.
    """
    work = open_work(run_path, task)
    row, col = task.row, task.col
    aside = work.solved("partial")
    # Where the bulk is gone, another process finished this tile meanwhile; once more from the start, it gives the same.
    summed = aside.chunk_path(row, col).exists()
    tile = aside.read(row, col).copy() if summed else _begin_tile(work)
    _subtract_products(work, tile, range(col - finish_width(work.cut.pieces) if summed else 0, col))
    if row == col:
        _require_positive(factor_lower(tile), tile, work)
    else:
        solve_right(float64(work.solved("factor").read_mapped(col, col)), tile)
    release_slot()
    receipt = work.write(tile)
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
    return work.write(alpha)


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
