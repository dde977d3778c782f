"""The posterior covariance of the test images, tile by tile, from the whitened kernel and K(test, test)."""

import numpy as np

from cntk_pipeline.inference.base import LAST, Asked, Found, Product, Result, Shown
from cntk_pipeline.inference.posterior_variance import VARIANCES, show_variances, summarise
from cntk_pipeline.inference.whitened import (
    after_row,
    count_test_blocks,
    forecast_whitened,
    whitened_cut,
    whitened_product,
)
from cntk_pipeline.models import Json
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.owners import Job, Owner, Place
from cntk_pipeline.solvers import System, SystemSize
from cntk_pipeline.solvers.blas import subtract_product
from cntk_pipeline.solvers.systems import factor_cut
from cntk_pipeline.solvers.work import open_work
from cntk_pipeline.storage.tiled_array import Array, ArraySpec
from cntk_pipeline.tasks import Receipt, Stage, StageForecast, Task
from cntk_pipeline.tiling import lower_tiles


def covariance_product(run: RunDirectory, system: System, order: int) -> Product:
    """Describe the posterior covariance of all test images, lower tiles; needs the whitened kernel V and K(test, test).

    ``K** - V^T V`` (Rasmussen and Williams 2006, equation 2.24): of the function, without the ridge as noise.
    ``n_test^2 n`` operations and ``4 n_test^2`` bytes.
    """
    rows, cols = whitened_cut(run, system), factor_cut(run, system)
    stage = Stage("posterior_covariance", solve=system.fingerprint)
    jobs = tuple(
        Job(
            Task(stage, tile.row, tile.col),
            POSTERIOR_COVARIANCE,
            rows.length(tile.row) * rows.length(tile.col),
            (order, LAST, cols.pieces, tile.row, tile.col),
            tuple({*after_row(system, tile.row, cols), *after_row(system, tile.col, cols)}),
        )
        for tile in lower_tiles(rows)
    )
    shape, size = (rows.count, rows.count), (rows.size, rows.size)
    array = ArraySpec("covariance", shape, size, "float64", ("test_row", "test"))
    return Product(
        stage,
        POSTERIOR_COVARIANCE,
        (array,),
        jobs,
        VARIANCES,
        lambda run: _summary(run, stage.solve),
        label=system.label,
    )


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
    if task.row == task.col:  # some processors round a product with its own transpose unevenly
        tile = np.tril(tile) + np.tril(tile, -1).T
    return work.write(POSTERIOR_COVARIANCE, tile)


def _places(run: RunDirectory, task: Task) -> list[Place]:
    return [(run.inferred(task.stage.solve, task.stage.name, "covariance"), (task.row, task.col))]


POSTERIOR_COVARIANCE = Owner("posterior_covariance", evaluate_covariance, _places)


def _summary(run: RunDirectory, solve: str) -> Json:
    """Summarise its diagonal, the variances."""
    array = run.inferred(solve, "posterior_covariance", "covariance")
    return summarise(np.concatenate([np.diagonal(array.read(k, k)) for k in range(array.cut(0).pieces)]))


class PosteriorCovarianceResult(Result):
    """The posterior covariance of all test images, for which K(test, test) is computed."""

    key = "posterior_covariance"
    earlier_keys = ("covariance",)
    owner = POSTERIOR_COVARIANCE
    record = VARIANCES
    needs_factor = True
    needs_test_kernel = True

    def of_system(self, run: RunDirectory, system: System, value: bool, order: int) -> list[Product]:
        return [whitened_product(run, system, order), covariance_product(run, system, order)]

    def forecast(self, asked: Asked, size: SystemSize) -> list[StageForecast]:
        pieces, seconds = count_test_blocks(size), float(size.train) * size.test**2 / size.product_rate
        own = StageForecast(self.key, pieces * (pieces + 1) // 2, 4 * size.test**2, seconds)
        return [forecast_whitened(size), own]

    def show(self, found: Found) -> Shown:
        return show_variances("diagonal of the posterior covariance", found)
