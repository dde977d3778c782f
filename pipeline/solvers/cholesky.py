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
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Generic, TypeVar

import numpy as np
import scipy.linalg

from pipeline.arrays import Array
from pipeline.datasets import one_hot_targets
from pipeline.driver import Job
from pipeline.errors import NotPositiveDefinite
from pipeline.executors import release_slot
from pipeline.journal import Receipt, Task, timed
from pipeline.solvers.blas import BLOCK, factor_lower, solve_right, subtract_product, subtract_square
from pipeline.solvers.systems import System, factor_cut, mean_diagonal, open_system
from pipeline.store import RunDirectory
from pipeline.tiling import Cut

READ_AHEAD = 2
"""Panels that are read while a product runs."""

BLOCK_ROWS_PER_SLOT = 8
"""With fewer block rows for a slot, slots would wait a third of the time and more (simulated), and tiles are split."""

SMALLEST_SPLIT_TILE = 512
"""Below, a product takes less than the 12 ms that a task costs beside its arithmetic."""

_T = TypeVar("_T")


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
    work = _open(run_path, task)
    tile = work.begin_tile()
    work.subtract_products(tile, range(task.col - finish_width(work.cut.pieces)))
    return work.write(tile)


def factor_tile(run_path: str, task: Task) -> Receipt:
    """Compute one tile of the factor, or of ``(L^-1 Y)^T`` in the block row below it.

    Raises
    ------
    NotPositiveDefinite
        With the global row, the pivot and a ridge to try.
    """
    work = _open(run_path, task)
    row, col = task.row, task.col
    aside = work.run.solved(work.system.fingerprint, "partial")
    # Where the bulk is gone, another process finished this tile meanwhile; once more from the start, it gives the same.
    summed = aside.chunk_path(row, col).exists()
    tile = aside.read(row, col).copy() if summed else work.begin_tile()
    work.subtract_products(tile, range(col - finish_width(work.cut.pieces) if summed else 0, col))
    if row == col:
        _require_positive(factor_lower(tile), tile, work)
    else:
        solve_right(_float64(work.run.solved(work.system.fingerprint, "factor").read_mapped(col, col)), tile)
    receipt = work.write(tile)
    aside.chunk_path(row, col).unlink(missing_ok=True)
    return receipt


@dataclass
class _Work:
    """One task at its tile: what it reads, and where its time goes."""

    run: RunDirectory
    system: System
    task: Task
    started: float = field(default_factory=time.perf_counter)
    waited: float = 0.0

    @property
    def cut(self) -> Cut:
        return factor_cut(self.run, self.system)

    def begin_tile(self) -> Array:
        """Return the tile before any product: of the kernel with its ridge, or of the targets."""
        row, col = self.task.row, self.task.col
        if row == self.cut.pieces:
            return np.ascontiguousarray(_targets(self.run, self.cut.bounds(col)).T)
        kernel = self.run.kernel(self.system.readout, "train")
        block = kernel.read_region(self.cut.bounds(row), self.cut.bounds(col), symmetric=row == col).astype(np.float64)
        if row == col:
            block[np.diag_indices(len(block))] += self.system.absolute_ridge
        return block

    def subtract_products(self, tile_out: Array, columns: range) -> None:
        """Subtract ``L_ik L_jk^T`` for some columns k, in order, from the tile (i, j)."""
        row, col = self.task.row, self.task.col
        factor, forward = (self.run.solved(self.system.fingerprint, part) for part in ("factor", "forward"))

        def read_panels(k: int) -> tuple[Array, Array]:
            mine = forward.read(0, k) if row == self.cut.pieces else factor.read_mapped(row, k)
            return _float64(mine), _float64(mine if row == col else factor.read_mapped(col, k))

        ahead = _ReadAhead(read_panels, columns)
        for left, right in ahead:
            if row == col:
                subtract_square(left, tile_out)
            else:
                subtract_product(left, right, tile_out)
        self.waited += ahead.waited

    def write(self, tile: Array) -> Receipt:
        """Write the tile where its task says, and make the receipt."""
        array, index = self.run.arrays_of(self.task)[0]
        computed = time.perf_counter() - self.started - self.waited
        release_slot()
        chunk, write_seconds = timed(lambda: array.write(index, tile))
        return Receipt(self.task, (chunk,), self.waited, computed, write_seconds, socket.gethostname())


def solve_coefficients(run_path: str, task: Task) -> Receipt:
    """Solve ``L^T alpha = L^-1 Y`` in one pass over the factor, last block row first; alpha is ``(n, classes)``."""
    work = _open(run_path, task)
    cut = work.cut
    factor, forward = (work.run.solved(work.system.fingerprint, part) for part in ("factor", "forward"))
    alpha = np.concatenate([forward.read(0, col).T for col in range(cut.pieces)]).astype(np.float64)
    for row in reversed(range(cut.pieces)):
        mine = slice(*cut.bounds(row))
        corner = _float64(factor.read_mapped(row, row))
        alpha[mine] = scipy.linalg.solve_triangular(corner, alpha[mine], lower=True, trans="T", check_finite=False)
        ahead = _ReadAhead(partial(factor.read_mapped, row), range(row))
        for col, tile in enumerate(map(_float64, ahead)):
            alpha[slice(*cut.bounds(col))] -= tile.T @ alpha[mine]
        work.waited += ahead.waited
    return work.write(alpha)


def forget_tiles() -> None:
    """Unmap the tiles that this process has mapped: files that are mapped keep a disk busy."""
    _open_solve.cache_clear()


class _ReadAhead(Generic[_T]):
    """Iterates over what ``read`` returns for some indices; a thread reads the next ones meanwhile.

    Attributes
    ----------
    waited : seconds for which a read was waited for.
    """

    def __init__(self, read: Callable[[int], _T], indices: Iterable[int]) -> None:
        self._read, self._indices = read, list(indices)
        self.waited = 0.0

    def __iter__(self) -> Iterator[_T]:
        with ThreadPoolExecutor(1) as reader:
            pending: list[Future[_T]] = []
            for k in range(len(self._indices)):
                wanted = self._indices[k + len(pending) : k + READ_AHEAD + 1]
                pending += [reader.submit(self._read, index) for index in wanted]
                value, seconds = timed(pending.pop(0).result)
                self.waited += seconds
                yield value


def _open(run_path: str, task: Task) -> _Work:
    solve = task.stage.partition(":")[2]
    run, system = _open_solve(run_path, solve)
    run.log("began", task)
    return _Work(run, system, task)


@lru_cache(maxsize=16)
def _open_solve(run_path: str, solve: str) -> tuple[RunDirectory, System]:
    """Open a run and a system once per process, so that tiles mapped for one task serve the next."""
    run = RunDirectory(run_path)
    return run, open_system(run, solve)


def _float64(tile: Array) -> Array:
    return tile.astype(np.float64, copy=False)


def _targets(run: RunDirectory, bounds: tuple[int, int]) -> Array:
    """Return the targets of some training samples, ``(samples, classes)`` float64."""
    labels = np.asarray(run.inputs("train_labels")[bounds[0] : bounds[1]])
    return one_hot_targets(labels, len(run.specification["data"]["classes"]))


def _require_positive(k: int, block: Array, work: _Work) -> None:
    """Raise with the pivot where `factor_lower` stopped at row ``k`` of a diagonal tile."""
    if k < 0:
        return
    run, system = work.run, work.system
    begin = k - k % BLOCK
    corner = block[begin : k + 1, begin : k + 1]
    above = scipy.linalg.solve_triangular(
        np.linalg.cholesky(corner[:-1, :-1]), corner[-1, :-1], lower=True, check_finite=False
    )
    pivot, row = float(corner[-1, -1] - above @ above), work.cut.bounds(work.task.row)[0] + k
    scale = mean_diagonal(run, system.readout)
    if scale == 0:
        raise NotPositiveDefinite(
            f"{system.label}: the kernel is zero everywhere: its network trains no layer, or all images are black",
            row,
            0.0,
        )
    rounding = np.finfo(run.specification["dtype"]).eps * run.specification["data"]["train"] ** 0.5 * scale
    ridge = system.absolute_ridge + max(2 * abs(pivot), rounding)
    raise NotPositiveDefinite(
        f"{system.label}: the kernel plus ridge is not positive definite: pivot {pivot:.3g} at training row "
        f"{row}. Try a ridge of at least {ridge:.1e} absolute, {ridge / scale:.1e} relative to trace(K)/n; "
        "the kernel is kept",
        row,
        pivot,
    )
