"""The posterior variance of the test images, from the whitened kernel."""

from dataclasses import dataclass

import numpy as np
from pydantic import with_config

from cntk_pipeline.inference.base import AGAIN, LAST, Asked, Found, Product, Result, Shown
from cntk_pipeline.inference.whitened import (
    after_row,
    count_test_blocks,
    forecast_whitened,
    whitened_cut,
    whitened_product,
)
from cntk_pipeline.models import STRICT, Json
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.owners import Job, Owner, Place
from cntk_pipeline.solvers import System, SystemSize
from cntk_pipeline.solvers.nystroem import read_features, whiten
from cntk_pipeline.solvers.systems import factor_cut
from cntk_pipeline.solvers.work import open_work
from cntk_pipeline.storage.records import Record
from cntk_pipeline.storage.tiled_array import Array, ArraySpec
from cntk_pipeline.tasks import Receipt, Stage, StageForecast, Task


@with_config(STRICT)
@dataclass(frozen=True)
class VarianceRecord:
    """The posterior variances of the test images, summarised."""

    smallest: float
    mean: float
    largest: float


VARIANCES: Record[VarianceRecord] = Record(VarianceRecord, AGAIN)


def variance_product(run: RunDirectory, system: System, order: int) -> Product:
    """Describe the posterior variance of each test image; it needs the whitened kernel V.

    ``k(x, x) - sum V^2`` (Rasmussen and Williams 2006, equation 2.26): of the function, without the ridge as noise.

    With centres it is an approximation, and needs no whitened kernel: ``k(x, x) - |b|^2 + ridge |v|^2`` with b and v of
    `nystroem` (the deterministic training conditional, Quinonero-Candela and Rasmussen 2005, equation 20b). The first
    difference is what the centres do not know of the image.
    """
    rows, cols = whitened_cut(run, system), factor_cut(run, system)
    stage = Stage("posterior_variance", solve=system.fingerprint)
    jobs = tuple(
        Job(
            Task(stage, row, 0),
            POSTERIOR_VARIANCE,
            rows.length(row),
            (order, LAST, cols.pieces, row),
            after_row(system, row, cols) if run.specification.centres is None else (),
        )
        for row in range(rows.pieces)
    )
    array = ArraySpec("variance", (rows.count,), (rows.size,), "float64", ("test",))
    return Product(
        stage, POSTERIOR_VARIANCE, (array,), jobs, VARIANCES, lambda run: _summary(run, stage.solve), label=system.label
    )


def variance_products(run: RunDirectory, system: System, order: int) -> list[Product]:
    """List the posterior variance of each test image, and before it the product that it needs."""
    needed = [whitened_product(run, system, order)] if run.specification.centres is None else []
    return [*needed, variance_product(run, system, order)]


def evaluate_variance(run_path: str, task: Task) -> Receipt:
    """Evaluate the posterior variance of a block of test images."""
    work = open_work(run_path, task)
    if work.run.specification.centres is not None:
        bounds = whitened_cut(work.run, work.system).bounds(task.row)
        features = read_features(work.run, work.system, "test", bounds)
        seen, left = (np.einsum("ij,ij->i", x, x) for x in (features, whiten(work.run, work.system, features)))
        variance = work.kernel.variance("test", bounds) - seen + work.system.absolute_ridge * left
        return work.write(POSTERIOR_VARIANCE, variance)
    whitened = work.run.inferred(work.system.fingerprint, "whitened", "test")
    variance = work.kernel.variance("test", whitened.cut(0).bounds(task.row))
    for v in work.ahead(lambda k: whitened.read(task.row, k), range(work.cut.pieces)):
        variance -= np.einsum("ij,ij->i", v, v)
    return work.write(POSTERIOR_VARIANCE, variance)


def _places(run: RunDirectory, task: Task) -> list[Place]:
    return [(run.inferred(task.stage.solve, task.stage.name, "variance"), (task.row,))]


POSTERIOR_VARIANCE = Owner("posterior_variance", evaluate_variance, _places)


def _summary(run: RunDirectory, solve: str) -> Json:
    return summarise(run.inferred(solve, "posterior_variance", "variance").read_all())


def summarise(values: Array) -> Json:
    """Make the `VarianceRecord` of the variances of all test images."""
    return {"smallest": float(values.min()), "mean": float(values.mean()), "largest": float(values.max())}


class PosteriorVarianceResult(Result):
    """The posterior variance of each test image."""

    key = "posterior_variance"
    earlier_keys = ("variance",)
    owner = POSTERIOR_VARIANCE
    record = VARIANCES
    needs_factor = True
    knows_centres = True

    def of_system(self, run: RunDirectory, system: System, value: bool, order: int) -> list[Product]:
        return variance_products(run, system, order)

    def forecast(self, asked: Asked, size: SystemSize) -> list[StageForecast]:
        if size.centres is not None:
            seconds = 2.0 * size.test * size.columns**2 / size.product_rate
            return [StageForecast(self.key, count_test_blocks(size), 8 * size.test, seconds)]
        seconds = 2.0 * size.train * size.test / size.product_rate
        return [forecast_whitened(size), StageForecast(self.key, count_test_blocks(size), 8 * size.test, seconds)]

    def show(self, found: Found) -> Shown:
        return show_variances("posterior variance of a test image", found)


def show_variances(title: str, found: Found) -> Shown:
    """Lay out smallest, mean and largest of some variances."""
    rows = [(name, *(f"{value:.4g}" for value in (rec.smallest, rec.mean, rec.largest))) for name, rec in found]
    return Shown(title, ("smallest", "mean", "largest"), tuple(rows))
