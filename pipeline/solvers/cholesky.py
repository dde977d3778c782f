"""Tiled left-looking Cholesky factorisation over the store, and the two triangular solves.

Tile (i, j) of the factor L reads rows i and j of L to the left of column j, accumulates in float64, and is
written once: no temporaries, and every task can be run again. Reads grow as n^3 / (3 tile), writes as n^2 / 2.
The targets ride along as one more block row, so that ``L^-1 Y`` costs nothing extra; the other solve is one
pass over L. (Left-looking out of core: D'Azevedo and Dongarra 2000, LAPACK working note 118.)
"""

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np
import scipy.linalg

from pipeline.arrays import Array
from pipeline.driver import Job
from pipeline.journal import Receipt, Task, timed
from pipeline.solvers.systems import System, factor_cut, not_positive_definite, open_system, targets
from pipeline.store import RunDirectory

_T = TypeVar("_T")


def factor_jobs(run: RunDirectory, system: System, order: int) -> list[Job]:
    """List the tasks of a factorisation and of both solves; ``order`` ranks this system among others."""
    stage = f"factor:{system.fingerprint}"
    cut = factor_cut(run, system)
    classes = len(run.specification["data"]["classes"])
    jobs = []
    for row in range(cut.pieces + 1):
        height = classes if row == cut.pieces else cut.length(row)
        for col in range(min(row + 1, cut.pieces)):
            before = [Task(stage, row, col - 1)] if col else []
            if row > col:
                before.append(Task(stage, col, col))
            # Column by column; in a column the diagonal first, then what the next diagonal waits for.
            priority = (order, 3 * col + min(row - col, 2), row)
            jobs.append(Job(Task(stage, row, col), factor_tile, height * cut.length(col), priority, tuple(before)))
    last = Task(stage, cut.pieces, cut.pieces - 1)
    solve = Task(f"coefficients:{system.fingerprint}", 0, 0)
    jobs.append(Job(solve, solve_coefficients, cut.count * classes, (order, 3 * cut.pieces, 0), (last,)))
    return jobs


def factor_tile(run_path: str, task: Task) -> Receipt:
    """Compute one tile of the factor, or of ``(L^-1 Y)^T`` in the block row below it.

    Raises
    ------
    NotPositiveDefinite
        With the global row, the pivot and a ridge to try.
    """
    run = RunDirectory(run_path)
    system = open_system(run, task.stage.partition(":")[2])
    cut = factor_cut(run, system)
    row, col = task.row, task.col
    factor, forward = run.solved(system.fingerprint, "factor"), run.solved(system.fingerprint, "forward")
    is_target = row == cut.pieces

    def read_pair(k: int) -> tuple[Array, Array]:
        left = forward.read(0, k) if is_target else _float64(factor.read(row, k))
        return left, (left if row == col else _float64(factor.read(col, k)))

    def accumulate() -> Array:
        tile = targets(run, cut.bounds(col)).T if is_target else _kernel_block(run, system, row, col)
        for left, right in _prefetched(read_pair, col):
            tile -= left @ right.T
        return tile

    tile, accumulate_seconds = timed(accumulate)
    if row == col:
        tile, finish_seconds = timed(lambda: _factor_diagonal(tile, run, system, cut.bounds(row)[0]))
    else:
        diagonal = _float64(factor.read(col, col))
        tile, finish_seconds = timed(
            lambda: scipy.linalg.solve_triangular(diagonal, tile.T, lower=True, check_finite=False).T
        )
    array, index = run.arrays_of(task)[0]
    chunk, write_seconds = timed(lambda: array.write(index, tile))
    # Panels are read while products run, so that reading has no time of its own.
    return Receipt(task, (chunk,), 0.0, accumulate_seconds + finish_seconds, write_seconds, socket.gethostname())


def solve_coefficients(run_path: str, task: Task) -> Receipt:
    """Solve ``L^T alpha = L^-1 Y`` in one pass over the factor, last block row first; alpha is ``(n, classes)``."""
    run = RunDirectory(run_path)
    system = open_system(run, task.stage.partition(":")[2])
    cut = factor_cut(run, system)
    factor, forward = run.solved(system.fingerprint, "factor"), run.solved(system.fingerprint, "forward")

    def substitute() -> Array:
        alpha = np.concatenate([forward.read(0, col).T for col in range(cut.pieces)])
        for row in reversed(range(cut.pieces)):
            mine = slice(*cut.bounds(row))
            alpha[mine] = scipy.linalg.solve_triangular(
                factor.read(row, row), alpha[mine], lower=True, trans="T", check_finite=False
            )
            for col, tile in enumerate(_prefetched(partial(factor.read, row), row)):
                alpha[slice(*cut.bounds(col))] -= tile.T @ alpha[mine]
        return alpha

    alpha, seconds = timed(substitute)
    array, index = run.arrays_of(task)[0]
    chunk, write_seconds = timed(lambda: array.write(index, alpha))
    return Receipt(task, (chunk,), 0.0, seconds, write_seconds, socket.gethostname())


def _prefetched(read: Callable[[int], _T], count: int) -> Iterator[_T]:
    """Yield ``read(0)`` to ``read(count - 1)``, each read while its predecessor is used."""
    with ThreadPoolExecutor(1) as reader:
        following = [reader.submit(read, k) for k in range(min(count, 1))]
        for k in range(count):
            current = following.pop().result()
            following += [reader.submit(read, j) for j in range(k + 1, min(count, k + 2))]
            yield current


def _float64(tile: Array) -> Array:
    """Promote a tile of a factor stored in float32: float32 products would cost digits that no ridge gives back."""
    return tile.astype(np.float64, copy=False)


def _kernel_block(run: RunDirectory, system: System, row: int, col: int) -> Array:
    """Read a block of the kernel in float64, the ridge on its diagonal."""
    cut = factor_cut(run, system)
    kernel = run.kernel(system.readout, "train")
    block = kernel.read_region(cut.bounds(row), cut.bounds(col), symmetric=row == col).astype(np.float64)
    if row == col:
        block[np.diag_indices(len(block))] += system.absolute_ridge
    return block


def _factor_diagonal(block: Array, run: RunDirectory, system: System, first_row: int) -> Array:
    lower, info = scipy.linalg.lapack.dpotrf(block, lower=1, clean=1, overwrite_a=0)
    if info == 0:
        return lower
    # LAPACK stops at the first pivot <= 0 and leaves the rows above factored.
    k = info - 1
    above = scipy.linalg.solve_triangular(lower[:k, :k], block[:k, k], lower=True, check_finite=False)
    pivot = float(block[k, k] - above @ above)
    found = f"pivot {pivot:.3g} at training row {first_row + k}"
    raise not_positive_definite(run, system, found, first_row + k, pivot)
