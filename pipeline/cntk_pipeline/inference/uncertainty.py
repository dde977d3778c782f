"""The posterior variance of the test images, from the whitened kernel."""

import numpy as np

from cntk_pipeline.inference.products import LAST, Product
from cntk_pipeline.inference.whitened import after_row, whitened_cut
from cntk_pipeline.models import Json
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.solvers import System
from cntk_pipeline.solvers.systems import factor_cut
from cntk_pipeline.solvers.work import open_work
from cntk_pipeline.storage.tiled_array import ArraySpec
from cntk_pipeline.tasks import Job, Receipt, Task


def variance_product(run: RunDirectory, system: System, order: int) -> Product:
    """Ask for the posterior variance of each test image; needs the whitened kernel V.

    ``k(x, x) - sum V^2`` (Rasmussen and Williams 2006, equation 2.26): of the function, without the ridge as noise.
    """
    rows, cols, solve = whitened_cut(run, system), factor_cut(run, system), system.fingerprint
    jobs = tuple(
        Job(
            Task(f"posterior_variance:{solve}", row, 0),
            evaluate_variance,
            rows.length(row),
            (order, LAST, cols.pieces, row),
            after_row(system, row, cols),
        )
        for row in range(rows.pieces)
    )
    array = ArraySpec("variance", (rows.count,), (rows.size,), "float64", ("test",))
    return Product(solve, "posterior_variance", (array,), jobs, lambda run: _summary(run, solve))


def evaluate_variance(run_path: str, task: Task) -> Receipt:
    """Evaluate the posterior variance of a block of test images."""
    work = open_work(run_path, task)
    whitened = work.run.inferred(work.system.fingerprint, "whitened", "test")
    variance = work.kernel.variance("test", whitened.cut(0).bounds(task.row))
    for v in work.ahead(lambda k: whitened.read(task.row, k), range(work.cut.pieces)):
        variance -= np.einsum("ij,ij->i", v, v)
    return work.write(variance)


def _summary(run: RunDirectory, solve: str) -> Json:
    variance = run.inferred(solve, "posterior_variance", "variance")
    values = variance.read_region((0, variance.shape[0]))
    return {"smallest": float(values.min()), "mean": float(values.mean()), "largest": float(values.max())}
