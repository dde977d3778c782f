"""What the workflow of a run asks for: every task, system and product, whatever of it is done.

Run, resume, status, verify and report all ask here, so that they agree on what is left to do.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from cntk_pipeline.config import RunConfig
from cntk_pipeline.gram.tiles import kernel_jobs, test_kernel_jobs
from cntk_pipeline.inference import (
    Product,
    Training,
    prediction_jobs,
    requested_products,
    requested_trainings,
    training_product,
)
from cntk_pipeline.models import Json
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.solvers import (
    SOLVERS,
    Method,
    System,
    planned_system,
    requested_selections,
    requested_solves,
    solve_name,
)
from cntk_pipeline.tasks import Task

KERNEL_STAGES = ("train", "test", "variance", "test_test")
"""What a run computes side by side and calls the kernel; the last only where a covariance is asked for."""


@dataclass(frozen=True)
class WantedSolve:
    """One ridge of one read-out: what it is of, its tasks, and what is to be inferred from it."""

    specification: Json
    system: System
    tasks: tuple[Task, ...]
    products: tuple[Product, ...]

    @property
    def name(self) -> str:
        """The name of its directory."""
        return self.system.fingerprint


@dataclass(frozen=True)
class Wanted:
    """All that a workflow asks of a run directory, as far as it is known yet.

    Attributes
    ----------
    kernel : tiles of the kernel matrices.
    selections : choices of a ridge.
    solves : systems; none of a read-out whose ridge is not chosen yet.
    trainings : networks in training, each with its product.
    """

    kernel: tuple[Task, ...]
    selections: tuple[Json, ...]
    solves: tuple[WantedSolve, ...]
    trainings: tuple[tuple[Training, Product], ...]

    @property
    def products(self) -> Iterator[Product]:
        """Everything that is to be inferred."""
        for solve in self.solves:
            yield from solve.products
        for _, product in self.trainings:
            yield product

    def stages(self) -> dict[str, list[Task]]:
        """List the tasks by the stages that a report shows, those without a task aside."""
        stages = {name: [task for task in self.kernel if task.stage == name] for name in KERNEL_STAGES}
        stages["solve"] = [task for solve in self.solves for task in solve.tasks]
        stages["inference"] = [job.task for product in self.products for job in product.jobs]
        optional = ("test_test", "inference")
        return {name: tasks for name, tasks in stages.items() if tasks or name not in optional}

    def tasks(self) -> list[Task]:
        """List all tasks."""
        return [task for tasks in self.stages().values() for task in tasks]


def find_wanted(run: RunDirectory, config: RunConfig) -> Wanted:
    """List what a workflow asks for. Reads small records only, and works beside a running driver."""
    kernel = [job.task for job in kernel_jobs(run)]
    if config.inference.covariance:
        kernel += [job.task for job in test_kernel_jobs(run)]
    method = Method.of(config.solve)
    solves = []
    for order, specification in enumerate(requested_solves(run, config)):
        system = planned_system(specification, method)
        tasks = SOLVERS[method.solver].tasks(run, system)
        tasks += [job.task for job in prediction_jobs(run, solve_name(specification), order)]
        products = requested_products(run, system, config.inference, order)
        solves.append(WantedSolve(specification, system, tuple(tasks), tuple(products)))
    trainings = [(training, training_product(run, training)) for training in requested_trainings(run, config)]
    return Wanted(tuple(kernel), tuple(requested_selections(run, config)), tuple(solves), tuple(trainings))
