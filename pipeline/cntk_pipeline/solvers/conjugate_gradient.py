"""Preconditioned conjugate gradients over the stored tiles, an iteration a round.

A round is one pass over the kernel and one step. The kernel's lower triangle is cut into square blocks of tiles; a
product task reads the tiles of a block once and computes both ``K_ij p_j`` and ``K_ij^T p_i`` with them. S block rows
leave ``S n classes`` numbers of partial products; as many tasks of whole rows of tiles would leave some S / 4
times as many. The step task sums them in a fixed order, so that no result depends on the order of the workers.

Where only a part of the kernel is stored, a product task computes the other tiles of its block. A block is one tile
then, so that no task takes long; S is large, and the products of each block of rows are summed by a task of their own,
in the same order. On paper, 300,000 rows on 1,024 slots wait 13 of 222 seconds for a step that sums alone.

States are numbered. State k and the products of direction k make state k + 1; the last two states are kept, and the
products of the last. After the death of a driver, the next one goes on from the last state and its existing products.
(Hestenes and Stiefel 1952; for kernels of millions of images: Adlam et al. 2023, arXiv:2303.05420.)
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from cntk_pipeline.clusters.memory import IterationNeed, Need
from cntk_pipeline.errors import CorruptTile, NotConverged, NotFinite
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.owners import Job, Owner, Place
from cntk_pipeline.rundir.twins import Twins
from cntk_pipeline.solvers.base import Solver
from cntk_pipeline.solvers.forecast import IterationForecast, SystemSize, forecast_streaming
from cntk_pipeline.solvers.iteration import MARGIN, Indefinite, advance, begin
from cntk_pipeline.solvers.options import ConjugateGradientOptions, iteration_options
from cntk_pipeline.solvers.preconditioners import BASIS, SKETCH, open_preconditioner, sketch_arrays, sketch_jobs
from cntk_pipeline.solvers.states import (
    Iterations,
    read_iterations,
    read_measures,
    read_state,
    record_iterations,
    record_state,
    resume_point,
    spent_by_iterations,
    state_arrays,
    state_chunks,
    state_places,
)
from cntk_pipeline.solvers.systems import (
    System,
    SystemKernel,
    coefficients_places,
    coefficients_task,
    factor_cut,
    not_positive_definite,
    read_targets,
    round_up,
)
from cntk_pipeline.solvers.work import Work, open_work
from cntk_pipeline.storage.tiled_array import Array, Group
from cntk_pipeline.tasks import Receipt, Stage, StageForecast, Task
from cntk_pipeline.tiling import Cut, KeptTiles, Tile

STAGNATION = 0.5
"""A fresh start that leaves the true residual above this share of the one before has reached the rounding level."""

FLOOR_SPREAD = 3.0
"""Factor by which the rounding level of the residual differs between tolerances: fresh starts come at other steps."""


def iteration_rounds(run: RunDirectory, system: System, order: int, preparation: Sequence[Job]) -> Iterator[list[Job]]:
    """Yield the rounds of a solve from its present state; each must be done before the next is asked for.

    Parameters
    ----------
    order : int
        Ranks this system among others.
    preparation : sequence of Job
        The tasks that make the preconditioner.

    Raises
    ------
    NotConverged
        If the iterations allowed are used up, or rounding keeps the residual above the tolerance.
    """
    coefficients = [_coefficients_job(run, system, order)]
    iterations = read_iterations(run, system.fingerprint)
    if (iterations is None or iterations.finished) and _are_coefficients_there(run, system):
        # A factor stays, for runs that grow from this one; a damaged factor is computed again.
        lasting = preparation if iterations is not None and iteration_options(system.method).is_factored else []
        run.scratch_path(system.fingerprint).remove_tree()  # a driver may have ended before it did so
        yield [*lasting, *coefficients]
        return
    group = scratch_group(run, system)
    group.create()
    if SystemKernel(run, system).kept is not None:
        group.mend()  # a driver before may have stored the whole kernel, and had no array of sums
    iterations = resume_point(run, system)
    # If states exist, so does the preconditioner, unless it was damaged since.
    begun = iterations.last >= iterations.first
    ready = [job.task for job in preparation if job.only_for is None]
    start = [] if begun else [_step_job(run, system, order, iterations.first, ready)]
    yield [*preparation, *start]
    if not begun:
        iterations = record_state(run, system, replace(iterations, last=iterations.first))
    while not _converged(run, system, iterations):
        jobs = _pass_jobs(run, system, order, iterations.last)
        step = _step_job(run, system, order, iterations.last + 1, [job.task for job in jobs])
        yield [*jobs, step]
        iterations = record_state(run, system, replace(iterations, last=iterations.last + 1))
    yield coefficients
    record_iterations(run, system.fingerprint, replace(iterations, finished=True))


def scratch_group(run: RunDirectory, system: System) -> Group:
    """Describe the empty arrays that iterations need until they have converged."""
    arrays = state_arrays(run, system)
    if not iteration_options(system.method).is_factored:
        arrays += sketch_arrays(run, system)
    return Group(run.scratch_path(system.fingerprint), tuple(arrays), {"system": system.label})


def iteration_jobs(run: RunDirectory, system: System, preparation: Sequence[Job]) -> list[Job]:
    """List the jobs so far: of past iterations, of the iteration under way, and the last job of the solve."""
    iterations, coefficients = read_iterations(run, system.fingerprint), _coefficients_job(run, system, 0)
    if iterations is None and _are_coefficients_there(run, system):
        return [coefficients]
    iterations = iterations or Iterations(0, -1, False, ())
    jobs = list(preparation)
    under_way = 0 if iterations.finished else 1
    for number in range(iterations.first, iterations.last + 1 + under_way):
        jobs.append(_step_job(run, system, 0, number, []))
        if number > iterations.first:
            jobs += _pass_jobs(run, system, 0, number - 1)
    return [*jobs, coefficients]


def product_block(run_path: str, task: Task) -> Receipt:
    """Multiply a block of the kernel and its transpose with the direction of a state; ridge not included.

    Writes ``(2 tile, classes)``: the block's part for its rows, and below, off the diagonal, the part for its columns.
    """
    work = open_work(run_path, task)
    cut, tiles = work.cut, work.run.train_cut
    block_row, block_col = _block(task.col)
    direction = work.run.scratch(work.system.fingerprint, "direction").read(task.row, 0, 0)[0]
    product = np.zeros((2 * cut.size, direction.shape[1]))
    # The columns of a diagonal block are its rows, so its mirrored tiles add to the same rows.
    to_rows, to_cols = product[: cut.size], product[cut.size :] if block_row > block_col else product[: cut.size]
    for row in _pieces(tiles, cut.bounds(block_row)):
        for col in _pieces(tiles, cut.bounds(block_col)):
            if col > row:
                continue
            tile = work.kernel.train_tile(row, col)
            rows, cols = slice(*tiles.bounds(row)), slice(*tiles.bounds(col))
            to_rows[_moved(rows, -block_row * cut.size)] += tile @ direction[cols]
            if row > col:
                to_cols[_moved(cols, -block_col * cut.size)] += tile.T @ direction[rows]
    return work.write(PRODUCT, product[None, None])


def sum_products(run_path: str, task: Task) -> Receipt:
    """Sum what the products of a direction say of one block of rows, ``(rows, classes)``."""
    work = open_work(run_path, task)
    cut, products = work.cut, work.run.scratch(work.system.fingerprint, "products")
    mine = task.col
    total = np.zeros((cut.length(mine), products.shape[-1]))
    for other in range(cut.pieces):
        part = products.read(task.row, _number(max(mine, other), min(mine, other)), 0, 0)[0, 0]
        begin = 0 if other <= mine else cut.size
        total += part[begin : begin + len(total)]
    return work.write(SUM, total[None])


def take_step(run_path: str, task: Task) -> Receipt:
    """Make a state from the one before it and the products of its direction, or the first one from nothing.

    Raises
    ------
    NotPositiveDefinite
        If the kernel plus ridge is not positive definite along a direction.
    NotFinite
        If a residual is not finite.
    """
    work = open_work(run_path, task)
    run, system = work.run, work.system
    wanted = read_targets(run, (0, work.cut.count))
    precondition = open_preconditioner(work)
    iterations = read_iterations(run, system.fingerprint)
    assert iterations is not None, "the driver notes a start before its first task"
    if task.row == iterations.first:
        state = begin(wanted, precondition)
    else:
        before = read_state(run, system, task.row - 1)
        product = _summed_products(run, system, task.row - 1) + system.absolute_ridge * before.direction
        try:
            state = advance(before, product, wanted, precondition, iteration_options(system.method).tolerance)
        except Indefinite as found:
            seen = f"a direction p has p^T (K + ridge I) p / p^T p = {found.curvature:.3g}"
            raise not_positive_definite(work.kernel, seen, -1, found.curvature) from None
    if not np.all(np.isfinite(state.relative)):
        raise NotFinite(f"{system.label}: the residual of state {task.row} is not finite: {state.relative}")
    return work.write(STEP, *state_chunks(state))


def write_coefficients(run_path: str, task: Task) -> Receipt:
    """Write the solution of the last state as the coefficients of the system, ``(n, classes)``."""
    work = open_work(run_path, task)
    iterations = read_iterations(work.run, work.system.fingerprint)
    if iterations is None or iterations.finished:  # where the chunk is gone, the driver begins anew
        raise CorruptTile(f"{task} is damaged and its iterations are deleted: they are run again")
    return work.write(COEFFICIENTS, read_state(work.run, work.system, iterations.last).solution)


def residual_of_iterations(work: Work, piece: int) -> Array:
    """Return ``(K + ridge I) alpha - Y`` for one tile of rows, ``(rows, classes)``, where tiles are computed.

    The pass that has shown the convergence gave it. Where its state is deleted, the rows are computed again: the sums
    of a pass, in its order, so that the bits are the same.
    """
    run, system, tiles = work.run, work.system, work.run.train_cut
    bounds = tiles.bounds(piece)
    iterations = read_iterations(run, system.fingerprint)
    if iterations is not None and not iterations.finished:
        return -read_state(run, system, iterations.last).residual[slice(*bounds)]
    alpha, cut = work.solved("coefficients").read(0, 0), work.cut
    total = np.zeros((tiles.length(piece), alpha.shape[1]))
    for block in range(cut.pieces):
        part = np.zeros_like(total)
        for col in _pieces(tiles, cut.bounds(block)):
            part += work.kernel.train_tile(piece, col) @ alpha[slice(*tiles.bounds(col))]
        total += part
    product = total + system.absolute_ridge * alpha[slice(*bounds)]
    return -(read_targets(run, bounds) - product)


def _product_places(run: RunDirectory, task: Task) -> list[Place]:
    return [(run.scratch(task.stage.solve, "products"), (task.row, task.col, 0, 0))]


def _step_places(run: RunDirectory, task: Task) -> list[Place]:
    return state_places(run, task.stage.solve, task.row)


def _sum_places(run: RunDirectory, task: Task) -> list[Place]:
    return [(run.scratch(task.stage.solve, "sums"), (task.row, task.col, 0))]


PRODUCT = Owner("product", product_block, _product_places, spent_by_iterations)
SUM = Owner("sum", sum_products, _sum_places, spent_by_iterations)
STEP = Owner("step", take_step, _step_places, spent_by_iterations)
COEFFICIENTS = Owner("coefficients", write_coefficients, coefficients_places, twin=Twins.of_solution)


def _pass_jobs(run: RunDirectory, system: System, order: int, number: int) -> list[Job]:
    """List the tasks of a pass. Where tiles are computed, their products are many, and are summed by rows first."""
    products = _product_jobs(run, system, order, number)
    if SystemKernel(run, system).kept is None:
        return products
    cut, stage, classes = (
        factor_cut(run, system),
        Stage("sum", solve=system.fingerprint),
        run.specification.data.classes,
    )
    sums = []
    for row in range(cut.pieces):
        after = [products[_number(max(row, other), min(row, other))].task for other in range(cut.pieces)]
        entries = cut.length(row) * len(classes)
        sums.append(Job(Task(stage, number, row), SUM, entries, (order, 0, len(products) + row), tuple(after)))
    return [*products, *sums]


def _product_jobs(run: RunDirectory, system: System, order: int, number: int) -> list[Job]:
    cut, stage, jobs = factor_cut(run, system), Stage("product", solve=system.fingerprint), []
    tiles, kept = run.train_cut, SystemKernel(run, system).kept
    for block in range(cut.pieces * (cut.pieces + 1) // 2):
        row, col = _block(block)
        entries = cut.length(row) * cut.length(col) // (2 if row == col else 1)
        # Diagonal blocks fill the end; where tiles are computed, so do blocks whose tiles are all stored.
        cost = entries if kept is None or _computes(tiles, kept, cut.bounds(row), cut.bounds(col)) else 0
        jobs.append(Job(Task(stage, number, block), PRODUCT, entries, (order, -cost, block)))
    return jobs


def _computes(tiles: Cut, kept: KeptTiles, rows: tuple[int, int], cols: tuple[int, int]) -> bool:
    """Tell whether a block has tiles that are not stored."""
    return any(Tile(row, col) not in kept for row in _pieces(tiles, rows) for col in _pieces(tiles, cols))


def _step_job(run: RunDirectory, system: System, order: int, number: int, after: Sequence[Task]) -> Job:
    entries = run.train_cut.count * len(run.specification.data.classes)
    task = Task(Stage("step", solve=system.fingerprint), number, 0)
    return Job(task, STEP, entries, (order, 0, 0), tuple(after))


def _coefficients_job(run: RunDirectory, system: System, order: int) -> Job:
    entries = run.train_cut.count * len(run.specification.data.classes)
    return Job(coefficients_task(system.fingerprint), COEFFICIENTS, entries, (order, 0, 0))


def _converged(run: RunDirectory, system: System, iterations: Iterations) -> bool:
    """Tell whether the last state's true residual is small enough; raise where further iterations are useless."""
    method = iteration_options(system.method)
    relative, true, true_before, checked = read_measures(run, system, iterations.last)
    if checked[0] and np.all(true <= method.tolerance):
        return True
    reached = f"a relative residual of {relative.max():.1e} instead of {method.tolerance:.1e}"
    if checked[0] and iterations.count and true.max() > STAGNATION * true_before.max():
        enough = round_up(FLOOR_SPREAD * true.max())
        raise NotConverged(
            f"{system.label}: {iterations.count} iterations reached {reached}, and more do not help: float64 rounds "
            f"off the rest. Try a larger ridge, or solve.tolerance = {enough:.1e}; the kernel is kept"
        )
    # A product behind the last iteration allowed gives the true residual of a recursion that has converged.
    is_to_be_checked = not checked[0] and np.all(relative <= MARGIN * method.tolerance)
    if iterations.count >= method.max_iterations and not is_to_be_checked:
        better = "" if method.is_factored else f", or solve.rank above {method.rank}"
        raise NotConverged(
            f"{system.label}: {iterations.count} iterations reached {reached}. "
            f"Raise solve.max_iterations to go on from here; a larger ridge needs fewer{better}"
        )
    return False


def _are_coefficients_there(run: RunDirectory, system: System) -> bool:
    """Tell whether coefficients exist; without iterations of this run, they were taken over from another."""
    solve = system.fingerprint
    return run.has_solved(solve, "coefficients") and run.solved(solve, "coefficients").chunk_path(0, 0).exists()


def _summed_products(run: RunDirectory, system: System, number: int) -> Array:
    """Sum the contributions of all blocks, block after block; or read the sums, which have the same order."""
    cut = factor_cut(run, system)
    if SystemKernel(run, system).kept is not None:
        sums = run.scratch(system.fingerprint, "sums")
        return np.concatenate([sums.read(number, row, 0)[0] for row in range(cut.pieces)])
    products = run.scratch(system.fingerprint, "products")
    total = np.zeros((cut.count, products.shape[-1]))
    for block in range(products.shape[1]):
        row, col = _block(block)
        part = products.read(number, block, 0, 0)[0, 0]
        total[slice(*cut.bounds(row))] += part[: cut.length(row)]
        if row > col:
            total[slice(*cut.bounds(col))] += part[cut.size : cut.size + cut.length(col)]
    return total


def _number(row: int, col: int) -> int:
    """Return the number of a block on or below the diagonal, counted along the rows."""
    return row * (row + 1) // 2 + col


def _block(number: int) -> tuple[int, int]:
    """Return row and column of a block, counted along the rows of the lower triangle."""
    row = (math.isqrt(8 * number + 1) - 1) // 2
    return row, number - row * (row + 1) // 2


def _pieces(tiles: Cut, bounds: tuple[int, int]) -> range:
    return range(bounds[0] // tiles.size, -(-bounds[1] // tiles.size))


def _moved(rows: slice, by: int) -> slice:
    return slice(rows.start + by, rows.stop + by)


BASIS_OPERATIONS = 10
"""Operations for an orthonormal basis, in units of n rank^2: a product, a singular value decomposition, and smaller."""


class ConjugateGradient(Solver):
    """Conjugate gradients with a low-rank or diagonal preconditioner."""

    options = ConjugateGradientOptions
    owners = (SKETCH, BASIS, PRODUCT, SUM, STEP, COEFFICIENTS)

    def kernel_bytes(self, options: ConjugateGradientOptions) -> int | None:
        return None if options.kernel_bytes is None else int(options.kernel_bytes)

    def scratch_groups(self, run: RunDirectory, system: System) -> list[Group]:
        return [scratch_group(run, system)]

    def rounds(self, run: RunDirectory, system: System, order: int, slots: int) -> Iterator[list[Job]]:
        return iteration_rounds(run, system, order, sketch_jobs(run, system, order))

    def jobs(self, run: RunDirectory, system: System) -> list[Job]:
        return iteration_jobs(run, system, sketch_jobs(run, system, 0))

    def iterations(self, run: RunDirectory, system: System) -> Iterations | None:
        return read_iterations(run, system.fingerprint)

    def forecast(self, size: SystemSize, options: ConjugateGradientOptions) -> list[StageForecast]:
        rank, rate = min(options.rank, size.train), size.product_rate
        sketching = 2.0 * size.train**2 * rank / rate
        if options.sketch == "columns":  # stored columns are read, which the rate of a disk decides
            sketching = 0.0 if size.kept is None else size.train * rank * size.pair_seconds
        making = [
            StageForecast("sketch", size.cut.pieces, 0, sketching),
            StageForecast("basis", 1, 0, BASIS_OPERATIONS * size.train * rank**2 / rate),
        ]
        kept = size.train * size.classes * 8
        sums = [] if size.kept is None else [StageForecast("sum", size.cut.pieces, 0, 0.0)]
        last = [*sums, StageForecast("step", 1, 0, 0.0), StageForecast("coefficients", 1, kept, 0.0)]
        return [*making, *last] if rank else last

    def forecast_iteration(self, size: SystemSize, options: ConjugateGradientOptions) -> IterationForecast:
        return forecast_streaming(size, None, min(options.rank, size.train))

    def needs(self, size: SystemSize, options: ConjugateGradientOptions) -> list[Need]:
        return [iteration_need(size, min(options.rank, size.train))]


def iteration_need(size: SystemSize, rank: int) -> IterationNeed:
    """Return the memory of the largest task of conjugate gradients, by the rank of the preconditioner.

    The step holds two states of four vectors and some copies, and the basis in pieces and joined. Making the basis
    takes the sketch, its image and a decomposition. A product takes a kernel tile as stored and in float64.
    """
    vectors = 16 * size.train * size.classes * 8
    tiles = 3 * size.kernel_tile**2 * 8
    return IterationNeed(rank, lambda chosen: vectors + 4 * size.train * chosen * 8 + tiles)
