"""The tasks, systems and products that the workflow of a run asks for, done or not.

Run, resume, status, verify and report all ask here, so that they agree on the remaining work.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from cntk_pipeline.config import RunConfig
from cntk_pipeline.gram.pivots import PIVOT_OWNERS, pivot_jobs
from cntk_pipeline.gram.tiles import KERNEL_OWNERS, kernel_jobs, test_kernel_jobs
from cntk_pipeline.inference import RIDGE_PATH, Product, needs_test_kernel, owners, requested_products, run_products
from cntk_pipeline.models import Json
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.grids import Jobs
from cntk_pipeline.rundir.owners import Job, Owner
from cntk_pipeline.solvers import (
    MEAN,
    RESIDUAL,
    SOLVERS,
    System,
    kept_tiles_of,
    method_of,
    planned_system,
    prediction_jobs,
    requested_selections,
    requested_solves,
    solver_of,
)

KERNEL, SOLVE, INFERENCE = "kernel", "solve", "inference"
"""The phases of a run, in order: each computes its stages side by side, and begins when the phase before has ended."""

OWNERS: dict[str, Owner] = {
    owner.kind: owner
    for owner in (
        *KERNEL_OWNERS,
        *PIVOT_OWNERS,
        RIDGE_PATH,
        # The coefficients end every solve.
        *sorted(
            (each for solver in SOLVERS.values() for each in solver.owners),
            key=lambda each: each.kind == "coefficients",
        ),
        MEAN,
        RESIDUAL,
        *owners(),
    )
}
"""The owners of all stages by their kind, in the order in which a plan and a status show them."""

NESTED = frozenset(kind for kind, owner in OWNERS.items() if owner.is_nested)
"""The kinds of the stages whose leading block rows a larger run may take over."""


@dataclass(frozen=True)
class WantedSolve:
    """One ridge of one read-out: its system, its jobs, and its results of inference."""

    system: System
    jobs: tuple[Job, ...]
    products: tuple[Product, ...]

    @property
    def name(self) -> str:
        """The name of its directory."""
        return self.system.fingerprint


@dataclass(frozen=True)
class WantedStage:
    """All jobs of one kind of stage.

    Attributes
    ----------
    phase : str
        `KERNEL`, `SOLVE` or `INFERENCE`.
    kind : str
        Of the stages.
    jobs : Jobs
        Of all systems.
    """

    phase: str
    kind: str
    jobs: Jobs


@dataclass(frozen=True)
class Wanted:
    """All tasks, systems and products that a workflow asks for, as far as they are known yet.

    Attributes
    ----------
    kernel : Jobs
        Tiles of the kernel matrices, and the draw of centres where the kernel itself draws them.
    selections : tuple of Json
        Choices of a ridge.
    solves : tuple of WantedSolve
        Systems; none of a read-out whose ridge is not chosen yet.
    run_products : tuple of Product
        Products that belong to no system.
    """

    kernel: Jobs
    selections: tuple[Json, ...]
    solves: tuple[WantedSolve, ...]
    run_products: tuple[Product, ...]

    @property
    def products(self) -> Iterator[Product]:
        """Everything that is to be inferred."""
        for solve in self.solves:
            yield from solve.products
        yield from self.run_products

    def stages(self) -> list[WantedStage]:
        """Group the jobs by the kind of their stage, in the order of `OWNERS`."""
        phases = (
            (KERNEL, self.kernel),
            (SOLVE, Jobs(*(solve.jobs for solve in self.solves))),
            (INFERENCE, Jobs(*(product.jobs for product in self.products))),
        )
        found = []
        for phase, jobs in phases:
            by_kind = jobs.by_kind()
            found += [WantedStage(phase, kind, by_kind[kind]) for kind in OWNERS if kind in by_kind]
        return found

    def jobs(self) -> Jobs:
        """List all jobs."""
        return Jobs(*(stage.jobs for stage in self.stages()))


def find_wanted(run: RunDirectory, config: RunConfig) -> Wanted:
    """List all that a workflow asks for. Reads small records only, and works beside a running driver.

    Raises
    ------
    ConfigError
        If it asks for what is not known or does not fit, with the place of the workflow.
    """
    with config.named_in_errors():
        return _find(run, config)


def _find(run: RunDirectory, config: RunConfig) -> Wanted:
    kernel = kernel_jobs(run, kept=kept_tiles_of(run, config.solve)) + pivot_jobs(run)
    if needs_test_kernel(config.inference):
        kernel += test_kernel_jobs(run, None)
    method, solves = method_of(config.solve), []
    for order, specification in enumerate(requested_solves(run, config)):
        system = planned_system(specification, method)
        jobs = [*solver_of(method).jobs(run, system), *prediction_jobs(run, system.fingerprint, order)]
        products = requested_products(run, system, config.inference, order)
        solves.append(WantedSolve(system, tuple(jobs), tuple(products)))
    selections, of_run = requested_selections(run, config), run_products(run, config.inference)
    return Wanted(kernel, tuple(selections), tuple(solves), tuple(of_run))
