"""Kernel regression on m centres among the n training images, for which n m entries of the kernel suffice.

The prediction is ``k(z)^T alpha`` over the centres alone. With the features B of all training images, as in
`nystroem`, the coefficients solve

    (B^T B + ridge I) beta = B^T Y,    alpha = L^-T beta,

the subset of regressors (Quinonero-Candela and Rasmussen 2005): kernel regression with ``B B^T`` instead of the kernel.
With all images as centres it is kernel regression itself. A task for each block of rows writes its part of ``B^T B``
and ``B^T Y``; one task sums the parts in a fixed tree, so that no bit depends on the workers, and factors the sum.
Matrices of m x m are held in memory.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy

from cntk_pipeline.clusters import WorkerMemory
from cntk_pipeline.clusters.memory import Need, share_bytes
from cntk_pipeline.errors import ConfigError, NotPositiveDefinite
from cntk_pipeline.models import Json
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.owners import Chunks, Job, Owner, Place
from cntk_pipeline.rundir.specification import CentreSpecification
from cntk_pipeline.rundir.twins import Twins
from cntk_pipeline.solvers.base import Solver
from cntk_pipeline.solvers.blas import factor_lower
from cntk_pipeline.solvers.forecast import SystemSize
from cntk_pipeline.solvers.nystroem import read_features
from cntk_pipeline.solvers.options import CentresOptions
from cntk_pipeline.solvers.systems import (
    System,
    coefficients_places,
    coefficients_task,
    factor_cut,
    not_positive_definite,
    read_targets,
    round_up,
)
from cntk_pipeline.solvers.work import Work, open_work
from cntk_pipeline.storage.tiled_array import Array, ArraySpec, Group, TiledArray
from cntk_pipeline.tasks import Receipt, Stage, StageForecast, Task

_EPS = float(np.finfo(np.float64).eps)


def factor_centres(run_path: str, task: Task) -> Receipt:
    """Factor the kernel of the centres, plus jitter where it is asked for.

    Raises
    ------
    NotPositiveDefinite
        If a centre is a combination of those before it, up to rounding: one more centre that is the same image, or an
        image of norm zero. The message names the centre and a sufficient jitter.
    """
    work = open_work(run_path, task)
    kernel = work.kernel.centres()
    factor = kernel.copy()
    factor[np.diag_indices(len(factor))] += _options(work.system).centre_jitter * np.diagonal(kernel).mean()
    stopped = factor_lower(factor)
    pivots, floor = np.diagonal(factor) ** 2, len(kernel) * _EPS * np.diagonal(kernel)
    vanished = np.flatnonzero((pivots <= floor)[: stopped if stopped >= 0 else None])
    if stopped >= 0 or len(vanished):
        raise _dependent(work, kernel, int(vanished[0]) if len(vanished) else stopped)
    return work.write(CENTRE_FACTOR, factor)


def sum_products(run_path: str, task: Task) -> Receipt:
    """Evaluate ``B_i^T B_i`` and ``B_i^T Y_i`` for a block of training images, side by side."""
    work = open_work(run_path, task)
    rows = work.cut.bounds(task.row)
    features = read_features(work.run, work.system, "train", rows)
    targets = read_targets(work.run, rows)
    return work.write(NORMAL_EQUATIONS, np.hstack([features.T @ features, features.T @ targets])[None])


def factor_normal_equations(run_path: str, task: Task) -> Receipt:
    """Sum the parts of all blocks, and factor ``B^T B + ridge I``; the targets ride along as ``(M^-1 B^T Y)^T``.

    Raises
    ------
    NotPositiveDefinite
        If the sum plus ridge is not positive definite up to rounding.
    """
    work = open_work(run_path, task)
    parts = work.run.scratch(work.system.fingerprint, "normal_equations")
    total = _sum_in_tree(parts, 0, parts.shape[0])
    count = total.shape[1] - len(work.run.specification.data.classes)
    factor = np.ascontiguousarray(total[:, :count])
    factor[np.diag_indices(count)] += work.system.absolute_ridge
    stopped = factor_lower(factor)
    if stopped >= 0:
        raise not_positive_definite(work.kernel, f"with the first {stopped + 1} centres; give a larger ridge", -1, 0.0)
    forward = scipy.linalg.solve_triangular(factor, total[:, count:], lower=True, check_finite=False)
    return work.write(NORMAL_FACTOR, factor, np.ascontiguousarray(forward.T))


def solve_coefficients(run_path: str, task: Task) -> Receipt:
    """Solve ``M^T beta = M^-1 B^T Y`` and ``L^T alpha = beta``; alpha is ``(m, classes)``."""
    work = open_work(run_path, task)
    alpha = work.solved("forward").read(0, 0).T
    for part in ("normal_factor", "centre_factor"):
        lower = work.solved(part).read(0, 0)
        alpha = scipy.linalg.solve_triangular(lower, alpha, lower=True, trans="T", check_finite=False)
    return work.write(COEFFICIENTS, alpha)


def _sum_in_tree(parts: TiledArray, begin: int, end: int) -> Array:
    """Sum parts by halves: the order is that of the blocks alone, and a logarithm of the parts is held at once."""
    if end - begin == 1:
        return parts.read(begin, 0, 0)[0].copy()
    middle = (begin + end) // 2
    total = _sum_in_tree(parts, begin, middle)
    total += _sum_in_tree(parts, middle, end)
    return total


def _dependent(work: Work, kernel: Array, row: int) -> NotPositiveDefinite:
    """Make the error of a centre that adds nothing to the centres before it."""
    diagonal, rows = np.diagonal(kernel), work.run.column_rows
    if not diagonal.any():
        return NotPositiveDefinite(
            f"{work.system.label}: the kernel of the centres is zero everywhere: its network trains no layer, or they "
            "are images without any pixel; take others (solve.centre_choice)",
            row,
            0.0,
        )
    image = row if rows is None else rows[row]
    same = np.flatnonzero((kernel[row, :row] == diagonal[row]) & (diagonal[:row] == diagonal[row]))
    if diagonal[row] == 0:
        reason = "its kernel with itself is zero: an image without any pixel"
    elif len(same):
        reason = f"it is the same image as centre {same[0]}"
    else:
        reason = "it is a combination of the centres before it, up to rounding"
    smallest = float(scipy.linalg.eigvalsh(kernel, subset_by_index=(0, 0))[0])
    short = max(-smallest, 0.0) + len(kernel) * _EPS * float(diagonal.max())
    enough = round_up(2.0 * short / float(diagonal.mean()))
    return NotPositiveDefinite(
        f"{work.system.label}: expected centres that differ, and centre {row} (training image {image} of the run) adds "
        f"nothing: {reason}. Leave that image out, take other centres (solve.centre_choice, solve.centre_seed), or "
        f"give solve.centre_jitter = {enough:.1e}, which changes all results by a little",
        row,
        0.0,
    )


def _solved_places(*parts: str) -> Any:
    """Make the function that lists the chunk of each of some arrays of a solve, each of one chunk."""

    def places(run: RunDirectory, task: Task) -> list[Place]:
        return [(run.solved(task.stage.solve, part), (0, 0)) for part in parts]

    return places


def _part_places(run: RunDirectory, task: Task) -> list[Place]:
    return [(run.scratch(task.stage.solve, "normal_equations"), (task.row, 0, 0))]


def _spent_parts(run: RunDirectory, tasks: Sequence[Task], chunks: Chunks) -> set[Task]:
    """Pick the parts of a sum that is there: it is all that is read later."""
    summed = {
        solve
        for solve in {task.stage.solve for task in tasks}
        if run.has_solved(solve, "normal_factor")
        and None not in [chunks.size(*place) for place in NORMAL_FACTOR.places(run, _normal_factor_task(solve))]
    }
    return {task for task in tasks if task.stage.solve in summed}


CENTRE_FACTOR = Owner("centre_factor", factor_centres, _solved_places("centre_factor"), twin=Twins.of_solution)
NORMAL_EQUATIONS = Owner("normal_equations", sum_products, _part_places, _spent_parts)
NORMAL_FACTOR = Owner(
    "normal_factor",
    factor_normal_equations,
    _solved_places("normal_factor", "forward"),
    twin=Twins.of_solution,
)
COEFFICIENTS = Owner("coefficients", solve_coefficients, coefficients_places, twin=Twins.of_solution)


def _normal_factor_task(solve: str) -> Task:
    return Task(Stage("normal_factor", solve=solve), 0, 0)


@dataclass(frozen=True)
class CentresNeed:
    """The memory of the largest task on centres.

    Attributes
    ----------
    size : SystemSize
        Of the system, with its centres.
    """

    size: SystemSize

    @property
    def bytes(self) -> int:
        """Bytes that one task holds: of products, a block's features twice; of the sum, a tree of parts."""
        return self._bytes_of(self.size.columns)

    def _bytes_of(self, count: int) -> int:
        square, parts = 8 * count * (count + self.size.classes), self.size.cut.pieces
        return max(3 * 8 * min(self.size.tile, self.size.train) * count + 4 * square, (4 + parts.bit_length()) * square)

    def require(self, memory: WorkerMemory) -> None:
        """Refuse centres that do not fit beside the other tasks of a worker.

        Raises
        ------
        ConfigError
            If they do not fit, with the need, the limit, and the largest number that fits.
        """
        share, count = share_bytes(memory), self.size.columns
        if self.bytes <= share:
            return
        low, high = 0, count
        while low < high - 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._bytes_of(middle) <= share else (low, middle)
        advice = f"set solve.centres = {low} at most, or give" if low else "give"
        raise ConfigError(
            f"{count} centres hold {self.bytes / 1e6:,.0f} MB in a task, and of a worker's {memory.bytes / 1e6:,.0f} "
            f"MB each of {memory.slots} tasks at once may hold {max(share, 0) / 1e6:,.0f} MB: {advice} workers more "
            "memory (cluster.memory_limit) or fewer threads"
        )


class CentresSolver(Solver):
    """Regression on some of the training images, from their columns of the kernel."""

    options = CentresOptions
    owners = (CENTRE_FACTOR, NORMAL_EQUATIONS, NORMAL_FACTOR, COEFFICIENTS)

    def specification(self, options: CentresOptions) -> Json:
        """Return what the run's own specification, which has the centres, does not say."""
        return {"centres": options.centres} | (
            {"centre_jitter": options.centre_jitter} if options.centre_jitter else {}
        )

    def centres(self, options: CentresOptions) -> CentreSpecification:
        seed = None if options.centre_choice == "first" else options.centre_seed or 0
        return CentreSpecification(options.centres, options.centre_choice, seed, options.centres_tolerance)

    def arrays(self, run: RunDirectory, system: System) -> list[ArraySpec]:
        data, count = run.specification.data, run.column_cut.count
        square, axes, classes = (count, count), ("centre_row", "centre"), len(data.classes)
        return [
            ArraySpec("centre_factor", square, square, "float64", axes),
            ArraySpec("normal_factor", square, square, "float64", axes),
            ArraySpec("forward", (classes, count), (classes, count), "float64", (data.column_axis, "centre")),
        ]

    def scratch_groups(self, run: RunDirectory, system: System) -> list[Group]:
        count, pieces = run.column_cut.count, factor_cut(run, system).pieces
        shape = (count, count + len(run.specification.data.classes))
        axes = ("block", "centre", "centre_or_column")
        parts = ArraySpec("normal_equations", (pieces, *shape), (1, *shape), "float64", axes)
        return [Group(run.scratch_path(system.fingerprint), (parts,), {"system": system.label})]

    def rounds(self, run: RunDirectory, system: System, order: int, slots: int) -> Iterator[list[Job]]:
        for group in self.scratch_groups(run, system):
            group.create()
        yield self._list_jobs(run, system, order)
        run.scratch_path(system.fingerprint).remove_tree()

    def jobs(self, run: RunDirectory, system: System) -> list[Job]:
        return self._list_jobs(run, system, 0)

    def _list_jobs(self, run: RunDirectory, system: System, order: int) -> list[Job]:
        solve, cut, count = system.fingerprint, factor_cut(run, system), run.column_cut.count
        centres, total = Task(Stage("centre_factor", solve=solve), 0, 0), _normal_factor_task(solve)
        parts = [Task(Stage("normal_equations", solve=solve), row, 0) for row in range(cut.pieces)]
        return [
            Job(centres, CENTRE_FACTOR, count**2, (order, 0, 0)),
            *(
                Job(part, NORMAL_EQUATIONS, cut.length(part.row) * count, (order, 1, part.row), (centres,), total)
                for part in parts
            ),
            Job(total, NORMAL_FACTOR, count**2, (order, 2, 0), tuple(parts)),
            Job(coefficients_task(solve), COEFFICIENTS, count**2, (order, 3, 0), (total,)),
        ]

    def forecast(self, size: SystemSize, options: CentresOptions) -> list[StageForecast]:
        count, rate = float(size.columns), size.product_rate
        square, columns = 8 * size.columns**2, 8 * size.columns * size.classes
        return [
            StageForecast("centre_factor", 1, square, count**3 / 3 / rate),
            StageForecast("normal_equations", size.cut.pieces, 0, 2.0 * size.train * count**2 / rate),
            StageForecast("normal_factor", 1, square + columns, count**3 / 3 / rate),
            StageForecast("coefficients", 1, columns, 4.0 * count**2 * size.classes / rate),
        ]

    def needs(self, size: SystemSize, options: CentresOptions) -> list[Need]:
        return [CentresNeed(size)]


def _options(system: System) -> CentresOptions:
    return CentresOptions.model_validate(system.method.options)
