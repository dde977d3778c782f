"""Approximate inverses for conjugate gradients: of a low-rank approximation, of the diagonal, of a float32 factor.

The low-rank one is the randomised Nystroem preconditioner of Frangella, Tropp and Udell 2021 (SIAM J. Matrix Anal.
Appl. 44, 2023): with ``K Omega`` for a Gaussian ``Omega`` of ``rank`` columns, ``K ~ U diag(lambda) U^T``, and

    M^-1 = (lambda_last + ridge) U diag(1 / (lambda + ridge)) U^T + (1 - U U^T)

flattens the largest eigenvalues to the size of the last. ``K Omega`` is one pass over the kernel. A pivoted Cholesky
factorisation of the same rank would read a whole column of tiles for each of its pivots, one after the other.

Where a part of the kernel is computed again in each pass, that pass would compute every tile twice. ``Omega`` is then
made of ``rank`` columns of the identity, drawn at random, so that ``K Omega`` has ``n rank`` entries of the kernel
(Williams and Seeger 2001, NIPS 13; as a preconditioner: Cutajar, Osborne, Cunningham and Filippone 2016, ICML).
"""

from functools import partial

import numpy as np
import scipy

from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.owners import Job, Owner, Place
from cntk_pipeline.solvers.iteration import Precondition
from cntk_pipeline.solvers.options import iteration_options
from cntk_pipeline.solvers.states import spent_by_iterations
from cntk_pipeline.solvers.systems import System, factor_cut
from cntk_pipeline.solvers.work import Work, float64, open_work
from cntk_pipeline.storage.tiled_array import Array, ArraySpec
from cntk_pipeline.tasks import Receipt, Stage, Task

SEED = 20210721
"""The seed of Omega; the same on every worker and in every run."""


def sketch_arrays(run: RunDirectory, system: System) -> list[ArraySpec]:
    """List the arrays of a low-rank preconditioner; none where its rank is 0."""
    cut, rank = factor_cut(run, system), _rank(run, system)
    if not rank:
        return []
    return [
        ArraySpec("sketch", (cut.count, rank), (cut.size, rank), "float64", ("train", "rank")),
        ArraySpec("basis", (cut.count, rank), (cut.size, rank), "float64", ("train", "rank")),
        ArraySpec("eigenvalues", (rank,), (rank,), "float64", ("rank",)),
    ]


def sketch_jobs(run: RunDirectory, system: System, order: int) -> list[Job]:
    """List the tasks that make a low-rank preconditioner; none where its rank is 0."""
    cut, rank = factor_cut(run, system), _rank(run, system)
    if not rank:
        return []
    stage = Stage("sketch", solve=system.fingerprint)
    rows = [Task(stage, row, 0) for row in range(cut.pieces)]
    width = rank if iteration_options(system.method).by_columns else cut.count
    jobs = [Job(task, SKETCH, cut.length(task.row) * width, (order, 0, task.row)) for task in rows]
    basis = Task(Stage("basis", solve=system.fingerprint), 0, 0)
    return [*jobs, Job(basis, BASIS, cut.count * rank, (order, 0, cut.pieces), tuple(rows))]


def sketch_rows(run_path: str, task: Task) -> Receipt:
    """Multiply one block row of the kernel by Omega: by Gaussian vectors, or by unit vectors, which picks columns.

    With Gaussian vectors, each tile off the diagonal is read by two block rows, while products read it once. But with
    so many columns the arithmetic takes longer than the reading, and there are no partial sums of ``rank`` columns to
    keep.
    """
    work = open_work(run_path, task)
    rank, tiles = _rank(work.run, work.system), work.run.train_cut
    start, stop = work.cut.bounds(task.row)
    if iteration_options(work.system.method).by_columns:
        columns = drawn_columns(tiles.count, rank)
        pieces = range(start // tiles.size, -(-stop // tiles.size))
        return work.write(SKETCH, np.concatenate([work.kernel.train_columns(piece, columns) for piece in pieces]))
    sketch = np.zeros((stop - start, rank))
    for col in range(tiles.pieces):
        random = random_rows(col, tiles.length(col), rank, tiles.count)
        for row in range(start // tiles.size, -(-stop // tiles.size)):
            low, high = tiles.bounds(row)
            sketch[low - start : high - start] += work.kernel.train_tile(row, col) @ random
    return work.write(SKETCH, sketch)


def make_basis(run_path: str, task: Task) -> Receipt:
    """Turn the sketch into orthonormal ``U`` and eigenvalues."""
    work = open_work(run_path, task)
    rank, cut, tiles = _rank(work.run, work.system), work.cut, work.run.train_cut
    sketch = _all_rows(work, "sketch")
    core = np.zeros((rank, rank))
    if iteration_options(work.system.method).by_columns:
        core = sketch[drawn_columns(cut.count, rank)]
    else:
        for col in range(tiles.pieces):
            random = random_rows(col, tiles.length(col), rank, tiles.count)
            core += random.T @ sketch[slice(*tiles.bounds(col))]
    basis, eigenvalues = low_rank(sketch, core)
    return work.write(BASIS, *(basis[slice(*cut.bounds(row))] for row in range(cut.pieces)), eigenvalues)


def low_rank(sketch: Array, core: Array) -> tuple[Array, Array]:
    """Approximate a positive semi-definite ``K`` by its products with some vectors.

    Directions with eigenvalues below the rounding level, negative ones among them, are left out: their columns of ``U``
    are zero. So the iteration, which knows the ridge, finds a kernel that is not positive definite; this does not.

    Parameters
    ----------
    sketch, core : array
        ``K Omega``, ``(n, rank)``, and ``Omega^T K Omega``.

    Returns
    -------
    (array, array)
        ``U``, ``(n, rank)`` with orthonormal columns, and ``lambda``, ``(rank,)``, largest first, of
        ``K ~ U diag(lambda) U^T``.
    """
    count, rank = sketch.shape
    values, vectors = scipy.linalg.eigh((core + core.T) / 2)
    kept = values > np.sqrt(count) * np.finfo(float).eps * np.abs(values).max()
    root = sketch @ (vectors[:, kept] / np.sqrt(values[kept]))
    basis, eigenvalues = np.zeros((count, rank)), np.zeros(rank)
    if kept.any():
        columns, singular, _ = scipy.linalg.svd(root, full_matrices=False, overwrite_a=True, check_finite=False)
        basis[:, : len(singular)], eigenvalues[: len(singular)] = columns, singular**2
        eigenvalues[len(singular) :] = singular[-1] ** 2
    return basis, eigenvalues


def _sketch_places(run: RunDirectory, task: Task) -> list[Place]:
    return [(run.scratch(task.stage.solve, "sketch"), (task.row, 0))]


def _basis_places(run: RunDirectory, task: Task) -> list[Place]:
    basis, eigenvalues = (run.scratch(task.stage.solve, part) for part in ("basis", "eigenvalues"))
    return [*((basis, (row, 0)) for row in range(basis.cut(0).pieces)), (eigenvalues, (0,))]


SKETCH = Owner("sketch", sketch_rows, _sketch_places, spent_by_iterations)
BASIS = Owner("basis", make_basis, _basis_places, spent_by_iterations)


def open_preconditioner(work: Work) -> Precondition:
    """Read the preconditioner of a task's system, so that it can be applied."""
    if iteration_options(work.system.method).is_factored:
        return partial(_apply_factor, work)
    if _rank(work.run, work.system):
        eigenvalues = work.run.scratch(work.system.fingerprint, "eigenvalues").read(0) + work.system.absolute_ridge
        if eigenvalues[0] > 0:
            return partial(apply_low_rank, _all_rows(work, "basis"), eigenvalues[-1] / eigenvalues)
    diagonal = work.kernel.variance("train", (0, work.cut.count)) + work.system.absolute_ridge
    # An image of variance zero without ridge has a row of zeros: the iteration names it.
    return partial(_divide, np.where(diagonal > 0, diagonal, 1.0)[:, None])


def _divide(diagonal: Array, residual: Array) -> Array:
    return residual / diagonal


def apply_low_rank(basis: Array, shrink: Array, residual: Array) -> Array:
    inside = basis.T @ residual
    return residual + basis @ (shrink[:, None] * inside - inside)


def _apply_factor(work: Work, residual: Array) -> Array:
    """Solve ``L L^T z = r`` in two passes over the stored factor, in float64."""
    cut, factor = work.cut, work.solved("factor")
    z = residual.copy()

    def solve_corner(row: int, transposed: int) -> None:
        mine, corner = slice(*cut.bounds(row)), float64(factor.read_mapped(row, row))
        z[mine] = scipy.linalg.solve_triangular(corner, z[mine], lower=True, trans=transposed, check_finite=False)

    for row in range(cut.pieces):
        mine = slice(*cut.bounds(row))
        for col, tile in enumerate(work.ahead(partial(factor.read_mapped, row), range(row))):
            z[mine] -= float64(tile) @ z[slice(*cut.bounds(col))]
        solve_corner(row, 0)
    for row in reversed(range(cut.pieces)):
        mine = slice(*cut.bounds(row))
        solve_corner(row, 1)
        for col, tile in enumerate(work.ahead(partial(factor.read_mapped, row), range(row))):
            z[slice(*cut.bounds(col))] -= float64(tile).T @ z[mine]
    return z


def _rank(run: RunDirectory, system: System) -> int:
    return min(iteration_options(system.method).rank, run.train_cut.count)


def random_rows(piece: int, length: int, rank: int, count: int) -> Array:
    """Return the rows of Omega that belong to one kernel tile; its columns have expected norm 1."""
    return np.random.default_rng([SEED, piece]).standard_normal((length, rank)) / np.sqrt(count)


def drawn_columns(count: int, rank: int) -> Array:
    """Draw the training images whose columns of the kernel are the sketch, rising."""
    return np.sort(np.random.default_rng(SEED).choice(count, rank, replace=False))


def _all_rows(work: Work, part: str) -> Array:
    array = work.run.scratch(work.system.fingerprint, part)
    return np.concatenate([array.read(row, 0) for row in range(array.cut(0).pieces)])
