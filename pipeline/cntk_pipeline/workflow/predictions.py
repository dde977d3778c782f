"""The tasks that predict new images, and how far those in a run directory are."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from cntk_pipeline.errors import ConfigError
from cntk_pipeline.gram import tiles as gram
from cntk_pipeline.graphs import NodeCounts
from cntk_pipeline.inference import Product
from cntk_pipeline.inference.posterior_variance import variance_products as variance_products_of
from cntk_pipeline.inference.requested import EXACT_FACTOR
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.grids import Jobs
from cntk_pipeline.rundir.owners import Job
from cntk_pipeline.rundir.predictions import PredictionDirectory, find_predictions
from cntk_pipeline.rundir.verification import finished, with_arrays
from cntk_pipeline.solvers import MEAN, System, open_system, prediction_jobs, solver_of, system_group
from cntk_pipeline.storage import StorePath
from cntk_pipeline.storage.tiled_array import Group, is_made


def kernel_group(directory: PredictionDirectory) -> Group:
    """Describe the empty K(new, train) and the variances of the new images."""
    group = gram.kernel_group(directory)
    mine = tuple(
        spec
        for spec in group.arrays
        if spec.name in (f"{directory.readout}/test", f"{directory.readout}/test_variance")
    )
    return replace(group, arrays=mine)


def kernel_jobs(directory: PredictionDirectory, nodes: NodeCounts | None = None) -> Jobs:
    """List the tiles of K(new, train), and the variances of the new images; ``nodes`` as of `gram.kernel_jobs`."""
    return Jobs(
        *(grid for grid in gram.kernel_jobs(directory, nodes).grids if grid.owner in (gram.TEST, gram.VARIANCE))
    )


def mean_group(directory: PredictionDirectory, system: System) -> Group:
    """Describe the empty predictive mean of a system."""
    group = system_group(directory, system, {})
    return replace(group, arrays=tuple(spec for spec in group.arrays if spec.name == "mean"))


def mean_jobs(directory: PredictionDirectory, system: System) -> list[Job]:
    """List the blocks of the predictive mean of a solved system; they wait for no task but those of the kernel."""
    jobs = prediction_jobs(directory, system.fingerprint, 0)
    return [replace(job, after=()) for job in jobs if job.owner is MEAN]


def variance_jobs(directory: PredictionDirectory, system: System) -> list[Job]:
    """List the tasks of the posterior variance of the new images, and of the whitened kernel that it needs."""
    return [job for product in variance_products(directory, system) for job in product.jobs]


def variance_products(directory: PredictionDirectory, system: System) -> list[Product]:
    """Describe the posterior variance of the new images, behind the whitened kernel where it needs that."""
    return variance_products_of(directory, system, 0)


def require_factor(run: RunDirectory, system: System) -> None:
    """Refuse a posterior variance where the solve has kept no exact factor.

    Raises
    ------
    ConfigError
        If there is none.
    """
    solver = solver_of(system.method)
    if run.specification.centres is not None:
        if not system.absolute_ridge:
            raise ConfigError(
                f"the standard deviation with centres needs a ridge, and {system.label} has none: give solve.ridges a "
                "number above 0 and run the workflow again; the kernel is kept"
            )
        return
    options = solver.options.model_validate(system.method.options)
    if not (solver.has_exact_factor(options) and run.has_solved(system.fingerprint, "factor")):
        raise ConfigError(
            f"the standard deviation needs the factor of the solve, which {system.label} has not: {EXACT_FACTOR}, and "
            "run the workflow again; the kernel is kept"
        )


@dataclass(frozen=True)
class PredictionReport:
    """How far the predictions of a read-out for some new images are.

    Attributes
    ----------
    origin : str
        The file or folder that the images came from.
    images : int
        Their number.
    readout : str
        Name of the kernel.
    done, total : int
        Tiles.
    """

    origin: str
    images: int
    readout: str
    done: int
    total: int


def begun_jobs(directory: PredictionDirectory) -> Jobs:
    """List the tasks of all predictions of some images that were begun."""
    jobs = kernel_jobs(directory)
    for solve in directory.solves_begun():
        if directory.solve_record(solve) is None:
            continue
        system = open_system(directory, solve)
        jobs += mean_jobs(directory, system)
        if is_made(directory.inferred_path(solve, variance_products(directory, system)[0].stage.name)):
            jobs += variance_jobs(directory, system)
    return jobs


def mend(directory: PredictionDirectory) -> list[StorePath]:
    """Write anew the descriptions of arrays that are gone or damaged; return them.

    Called with the lease held.
    """
    return [path for group in _groups(directory) if group.path.exists() for path in group.mend()]


def _groups(directory: PredictionDirectory) -> Iterator[Group]:
    """List the groups of arrays of some predictions; not all need be begun."""
    yield directory.stored_data.group()
    yield kernel_group(directory)
    for solve in directory.solves_begun():
        if directory.solve_record(solve) is not None:
            system = open_system(directory, solve)
            yield mean_group(directory, system)
            yield from (product.group(directory) for product in variance_products(directory, system))


def report_predictions(run: RunDirectory) -> Iterator[PredictionReport]:
    """Tell how far the predictions in a run directory are, by their receipts; nothing is changed."""
    for directory in find_predictions(run):
        jobs, known = begun_jobs(directory), directory.journal.receipts().tasks
        done = sum(job.task in known for job in jobs)
        yield PredictionReport(directory.images.origin, directory.images.count, directory.readout, done, len(jobs))


def check_predictions(run: RunDirectory) -> Iterator[tuple[int, str, list[StorePath]]]:
    """Read all finished tiles of predictions and compare checksums; bad ones are moved to quarantine.

    Descriptions of arrays that are gone or damaged are written anew.

    Called with the lease held.

    Yields
    ------
    iterator of (int, str, list of StorePath)
        The number of whole tiles of each directory, a line that says what was damaged, "" where nothing was, and the
        descriptions of arrays that were written anew.
    """
    for directory in find_predictions(run):
        mended = mend(directory)
        lost = directory.stored_data.damaged()
        damaged = list(map(str, run.set_aside(lost)))
        if not lost:
            directory.stored_data.pin()
        done, bad = finished(directory, with_arrays(directory, begun_jobs(directory)), verify=True)
        directory.journal.close()
        damaged += map(str, bad)
        more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        line = f"{damaged[0]}{more} of the predictions for {directory.images.origin}" if damaged else ""
        yield len(done), line, mended
