"""The posterior covariance of the test images, tile by tile, from the whitened kernel and K(test, test)."""

import numpy as np

from cntk_pipeline.inference.products import LAST, Product
from cntk_pipeline.inference.whitened import after_row, whitened_cut
from cntk_pipeline.models import Json
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.solvers import System
from cntk_pipeline.solvers.blas import subtract_product
from cntk_pipeline.solvers.systems import factor_cut
from cntk_pipeline.solvers.work import open_work
from cntk_pipeline.storage.tiled_array import Array, ArraySpec
from cntk_pipeline.tasks import Job, Receipt, Task
from cntk_pipeline.tiling import lower_tiles


def covariance_product(run: RunDirectory, system: System, order: int) -> Product:
    """Ask for the posterior covariance of all test images, lower tiles; needs the whitened kernel V and K(test, test).

    ``K** - V^T V`` (Rasmussen and Williams 2006, equation 2.24): of the function, without the ridge as noise.
    ``n_test^2 n`` operations and ``4 n_test^2`` bytes.
    """
    rows, cols, solve = whitened_cut(run, system), factor_cut(run, system), system.fingerprint
    jobs = tuple(
        Job(
            Task(f"posterior_covariance:{solve}", tile.row, tile.col),
            evaluate_covariance,
            rows.length(tile.row) * rows.length(tile.col),
            (order, LAST, cols.pieces, tile.row, tile.col),
            tuple({*after_row(system, tile.row, cols), *after_row(system, tile.col, cols)}),
        )
        for tile in lower_tiles(rows)
    )
    shape, size = (rows.count, rows.count), (rows.size, rows.size)
    array = ArraySpec("covariance", shape, size, "float64", ("test_row", "test"))
    return Product(solve, "posterior_covariance", (array,), jobs, lambda run: _summary(run, solve))


def evaluate_covariance(run_path: str, task: Task) -> Receipt:
    """Evaluate one tile of the posterior covariance."""
    work = open_work(run_path, task)
    whitened = work.run.inferred(work.system.fingerprint, "whitened", "test")
    rows = whitened.cut(0)
    tile = work.kernel.test_test(rows.bounds(task.row), rows.bounds(task.col))

    def read_panels(k: int) -> tuple[Array, Array]:
        left = whitened.read(task.row, k)
        return left, left if task.row == task.col else whitened.read(task.col, k)

    for left, right in work.ahead(read_panels, range(work.cut.pieces)):
        subtract_product(left, right, tile)
    return work.write(tile)


def _summary(run: RunDirectory, solve: str) -> Json:
    """Summarise its diagonal, the variances."""
    array = run.inferred(solve, "posterior_covariance", "covariance")
    values = np.concatenate([np.diagonal(array.read(k, k)) for k in range(array.cut(0).pieces)])
    return {"smallest": float(values.min()), "mean": float(values.mean()), "largest": float(values.max())}
