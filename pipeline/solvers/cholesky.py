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
from pipeline.datasets import one_hot_targets
from pipeline.driver import Job
from pipeline.errors import NotPositiveDefinite
from pipeline.journal import Receipt, Task, timed
from pipeline.solvers.systems import System, factor_cut, mean_diagonal, open_system
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
        left = forward.read(0, k) if is_target else factor.read(row, k)
        return left, (left if row == col else factor.read(col, k))

    def accumulate() -> Array:
        tile = _targets(run, cut.bounds(col)).T if is_target else _kernel_block(run, system, row, col)
        for left, right in _prefetched(read_pair, col):
            tile -= left @ right.T
        return tile

    tile, accumulate_seconds = timed(accumulate)
    if row == col:
        tile, finish_seconds = timed(lambda: _factor_diagonal(tile, run, system, cut.bounds(row)[0]))
    else:
        diagonal = factor.read(col, col)
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


def _kernel_block(run: RunDirectory, system: System, row: int, col: int) -> Array:
    """Read a block of the kernel in float64, the ridge on its diagonal."""
    cut = factor_cut(run, system)
    kernel = run.kernel(system.readout, "train")
    block = kernel.read_region(cut.bounds(row), cut.bounds(col), symmetric=row == col).astype(np.float64)
    if row == col:
        block[np.diag_indices(len(block))] += system.absolute_ridge
    return block


def _targets(run: RunDirectory, bounds: tuple[int, int]) -> Array:
    """Return the targets of some training samples, ``(samples, classes)`` float64."""
    labels = np.asarray(run.inputs("train_labels")[bounds[0] : bounds[1]])
    return one_hot_targets(labels, len(run.specification["data"]["classes"]))


def _factor_diagonal(block: Array, run: RunDirectory, system: System, first_row: int) -> Array:
    lower, info = scipy.linalg.lapack.dpotrf(block, lower=1, clean=1, overwrite_a=0)
    if info == 0:
        return lower
    # LAPACK stops at the first pivot <= 0 and leaves the rows above factored.
    k = info - 1
    above = scipy.linalg.solve_triangular(lower[:k, :k], block[:k, k], lower=True, check_finite=False)
    pivot = float(block[k, k] - above @ above)
    scale = mean_diagonal(run, system.readout)
    if scale == 0:
        raise NotPositiveDefinite(
            f"{system.label}: the kernel is zero everywhere: its network trains no layer, or all images are black",
            first_row,
            0.0,
        )
    rounding = np.finfo(run.specification["dtype"]).eps * run.specification["data"]["train"] ** 0.5 * scale
    ridge = system.absolute_ridge + max(2 * abs(pivot), rounding)
    raise NotPositiveDefinite(
        f"{system.label}: the kernel plus ridge is not positive definite: pivot {pivot:.3g} at training row "
        f"{first_row + k}. Try a ridge of at least {ridge:.1e} absolute, {ridge / scale:.1e} relative to trace(K)/n; "
        "the kernel is kept",
        first_row + k,
        pivot,
    )
