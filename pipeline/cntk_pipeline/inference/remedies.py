"""The smallest sufficient ridge for a system that was not positive definite."""

from collections.abc import Callable, Sequence

from cntk_pipeline.driver.driver import Outcome
from cntk_pipeline.errors import NotPositiveDefinite
from cntk_pipeline.inference.spectrum import remedy, spectrum_product
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.owners import Job
from cntk_pipeline.solvers import open_system
from cntk_pipeline.solvers.systems import SystemKernel

RunJobs = Callable[[str, Sequence[Job]], Outcome]
"""Function that runs the jobs of a named stage that are not done."""


def add_remedies(run: RunDirectory, outcome: Outcome, run_jobs: RunJobs) -> None:
    """Add the smallest sufficient ridge to each `NotPositiveDefinite` of an outcome, from the eigenvalues.

    A pivot alone bounds the smallest eigenvalue from one side only. The eigenvalues are computed once for each kernel
    and kept; where this fails too, the error stays as it was.
    """
    known: dict[tuple[str, bool], str] = {}
    for task, error in outcome.failed.items():
        # With centres the kernel of all images is not there, and the solver has named a remedy.
        if not isinstance(error, NotPositiveDefinite) or run.specification.centres is not None:
            continue
        system = open_system(run, task.stage.solve)
        if SystemKernel(run, system).kept is not None:
            continue  # eigenvalues need the whole kernel
        mean_diagonal = SystemKernel(run, system).mean_diagonal()
        if mean_diagonal == 0:
            continue  # for a zero kernel no ridge helps
        kernel = system.readout, system.unit_diagonal
        if kernel not in known:
            product = spectrum_product(run, system, 1, 0)
            product.create(run)
            if run_jobs("ridge that would do", product.jobs).failed:
                continue
            product.finish(run)
            known[kernel] = remedy(product.read(run), mean_diagonal, run.train_cut.count)
        outcome.failed[task] = NotPositiveDefinite(f"{error}. {known[kernel]}", error.row, error.pivot)
