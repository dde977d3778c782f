"""Cholesky as a solver: a factor in float64 solves by itself, one in float32 is a preconditioner."""

from collections.abc import Iterator

from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.solvers.base import Solver
from cntk_pipeline.solvers.cholesky import factor_jobs
from cntk_pipeline.solvers.conjugate_gradient import iteration_rounds, iteration_tasks
from cntk_pipeline.solvers.systems import System, factor_cut
from cntk_pipeline.tasks import Job, Task


class Cholesky(Solver):
    """One round where the factor is in float64; else conjugate gradients go on from the factor.

    Plain iterative refinement with the rounded factor multiplies the error by a number that may exceed 1; conjugate
    gradients with the same factor take the same two triangular solves an iteration and converge all the same.
    """

    def rounds(self, run: RunDirectory, system: System, order: int, slots: int) -> Iterator[list[Job]]:
        if system.method.iterates:
            yield from iteration_rounds(run, system, order, _factor_alone(run, system, order, slots))
        else:
            yield factor_jobs(run, system, order, slots)

    def tasks(self, run: RunDirectory, system: System) -> list[Task]:
        # Whether tiles are split is the driver's affair, and what it leaves is the same: counted are whole ones.
        if system.method.iterates:
            return iteration_tasks(run, system, _factor_alone(run, system, 0, 1))
        return [job.task for job in factor_jobs(run, system, 0, 1)]


def _factor_alone(run: RunDirectory, system: System, order: int, slots: int) -> list[Job]:
    """List the tasks of the factor without the targets' block row and the solves, which the iteration does itself."""
    stages = {f"factor:{system.fingerprint}", f"bulk:{system.fingerprint}"}
    pieces = factor_cut(run, system).pieces
    jobs = factor_jobs(run, system, order, slots)
    return [job for job in jobs if job.task.stage in stages and job.task.row < pieces]
