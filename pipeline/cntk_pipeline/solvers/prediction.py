"""Predictions of a solved system: the predictive mean, its scores, and the residual of the system."""

from dataclasses import dataclass

import numpy as np
from pydantic import with_config

from cntk_pipeline.models import STRICT, Fraction, Json, NotNegative
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.owners import Job, Owner, Place
from cntk_pipeline.rundir.specification import AGAIN
from cntk_pipeline.rundir.twins import Twins
from cntk_pipeline.solvers.conjugate_gradient import residual_of_iterations
from cntk_pipeline.solvers.forecast import SystemSize
from cntk_pipeline.solvers.nystroem import relative_residual, residual_of_centres
from cntk_pipeline.solvers.scores import score
from cntk_pipeline.solvers.systems import coefficients_task, open_system, read_targets, with_target_mean
from cntk_pipeline.solvers.work import open_work
from cntk_pipeline.storage.records import Record
from cntk_pipeline.storage.tiled_array import Array, ArraySpec
from cntk_pipeline.tasks import Receipt, Stage, StageForecast, Task


@with_config(STRICT)
@dataclass(frozen=True)
class MetricsRecord:
    """The results of a solve: the record metrics.json; pivots are None where no factor is stored.

    The scores are of the test images, as in `Scores`; all are None where the test images have no labels. A
    classification has its accuracy alone. ``relative_residual`` is ``||(K + ridge I) alpha - Y|| / ||Y||``.
    """

    accuracy: Fraction | None
    relative_residual: NotNegative
    smallest_pivot: float | None = None
    largest_pivot: float | None = None
    squared_error: NotNegative | None = None
    exact_match: Fraction | None = None
    r2: float | None = None
    r2_of_targets: tuple[float, ...] | None = None


METRICS: Record[MetricsRecord] = Record(MetricsRecord, AGAIN)

LAST = 2**40
"""In a priority: behind the solve of the same system."""


def prediction_jobs(run: RunDirectory, solve: str, order: int) -> list[Job]:
    """List the tasks that turn a solve's coefficients into predictions and residuals."""
    train, test = run.train_cut, run.test_cut
    classes = len(run.specification.data.classes)
    after, stages = (coefficients_task(solve),), [Stage(kind, solve=solve) for kind in ("mean", "residual")]
    means = [
        Job(Task(stages[0], row, 0), MEAN, test.length(row) * classes, (order, LAST, row), after)
        for row in range(test.pieces)
    ]
    residuals = [
        Job(Task(stages[1], row, 0), RESIDUAL, train.length(row) * classes, (order, LAST, row), after)
        for row in range(train.pieces)
    ]
    return means + residuals


def predict_rows(run_path: str, task: Task) -> Receipt:
    """Evaluate the predictive mean ``K(test, train) alpha``, plus the targets' mean, for one block of test images.

    With centres, only they are columns.
    """
    work = open_work(run_path, task)
    alpha, rows, columns = work.solved("coefficients").read(0, 0), work.run.test_cut, work.run.column_cut
    mean = sum(
        work.kernel.test(rows.bounds(task.row), columns.bounds(col)) @ alpha[slice(*columns.bounds(col))]
        for col in range(columns.pieces)
    )
    return work.write(MEAN, with_target_mean(work.run, np.asarray(mean)))


def residual_rows(run_path: str, task: Task) -> Receipt:
    """Evaluate ``(K + ridge I) alpha - Y`` for one block of training images, from the stored kernel in float64.

    With centres, it is their share in `relative_residual`. Where a part of the kernel is stored, it is that of the last
    pass.
    """
    work = open_work(run_path, task)
    if work.kernel.kept is not None:
        return work.write(RESIDUAL, residual_of_iterations(work, task.row))
    if work.run.specification.centres is not None:
        return work.write(RESIDUAL, residual_of_centres(work.run, work.system, work.run.train_cut.bounds(task.row)))
    alpha, cut = work.solved("coefficients").read(0, 0), work.run.train_cut
    mine = slice(*cut.bounds(task.row))
    rest = work.system.absolute_ridge * alpha[mine] - read_targets(work.run, cut.bounds(task.row))
    for k in range(cut.pieces):
        rest += work.kernel.train(cut.bounds(task.row), cut.bounds(k)) @ alpha[slice(*cut.bounds(k))]
    return work.write(RESIDUAL, rest)


def _places(run: RunDirectory, task: Task) -> list[Place]:
    return [(run.solved(task.stage.solve, task.stage.kind), (task.row, 0))]


def _mean_twin(twins: Twins, task: Task) -> Task | None:
    return twins.of_solution(task) if task.row in twins.growth.test else None


MEAN = Owner("mean", predict_rows, _places, twin=_mean_twin)
RESIDUAL = Owner("residual", residual_rows, _places, twin=Twins.of_solution)


def residual_array(run: RunDirectory) -> ArraySpec:
    """Describe the array of the residuals: a row a training image; with centres, a row a centre in each block."""
    data, tile, classes = run.specification.data, run.specification.tile, len(run.specification.data.classes)
    if run.specification.centres is None:
        shape, chunk, axis = (data.train, classes), (tile, classes), "train"
    else:
        count = run.column_cut.count
        shape, chunk, axis = (run.train_cut.pieces * count, classes), (count, classes), "block_and_centre"
    return ArraySpec("residual", shape, chunk, "float64", (axis, data.column_axis))


def metrics(run: RunDirectory, solve: str) -> Json:
    """Summarise a finished solve: scores of the test images, relative residual, extreme pivots.

    Returns
    -------
    Json
        The scores as `MetricsRecord` has them; ``relative_residual``, ``||(K + ridge I) alpha - Y|| / ||Y||`` in the
        Frobenius norm, or that of `nystroem.relative_residual`; and, where a factor is stored, ``smallest_pivot`` and
        ``largest_pivot`` of its diagonal.
    """
    if run.specification.centres is not None:
        relative = {"relative_residual": relative_residual(run, open_system(run, solve))}
        return _scores(run, solve) | relative | _pivots(run, solve, "centre_factor")
    targets = read_targets(run, (0, run.train_cut.count))
    residual = np.linalg.norm(_all_rows(run, solve, "residual"))
    relative = {"relative_residual": float(residual / (np.linalg.norm(targets) or 1.0))}
    return _scores(run, solve) | relative | _pivots(run, solve, "factor")


def _scores(run: RunDirectory, solve: str) -> Json:
    labels, data = run.labels("test"), run.specification.data
    if labels is None:
        return {"accuracy": None}
    scores = score(data, labels, _all_rows(run, solve, "mean"))
    return {"accuracy": scores.accuracy} if data.task == "classification" else scores.to_json()


def _pivots(run: RunDirectory, solve: str, part: str) -> Json:
    if not run.has_solved(solve, part):
        return {}
    pivots = read_pivots(run, solve, part)
    return {"smallest_pivot": float(pivots.min()), "largest_pivot": float(pivots.max())}


def read_pivots(run: RunDirectory, solve: str, part: str) -> Array:
    """Read the diagonal of a factor, ``(n,)``, one diagonal tile after the other; ``part`` names the factor."""
    factor = run.solved(solve, part)
    # A view would keep its tile in memory until all are read.
    return np.concatenate([np.diagonal(factor.read(k, k)).astype(np.float64) for k in range(factor.cut(0).pieces)])


def _all_rows(run: RunDirectory, solve: str, part: str) -> Array:
    array = run.solved(solve, part)
    return np.concatenate([array.read(row, 0) for row in range(array.cut(0).pieces)])


def forecast_predictions(size: SystemSize) -> list[StageForecast]:
    """Forecast the predictions and the residuals of one system."""
    rate, tile = size.product_rate, size.kernel_tile
    rows = ((MEAN.kind, size.test, 1), (RESIDUAL.kind, size.train, 1 if size.centres is None else 2))
    found = []
    for kind, count, passes in rows:
        pieces = -(-count // tile)
        written = 8 * size.classes * (count if passes == 1 else pieces * size.columns)
        seconds = 2.0 * passes * count * size.columns * size.classes / rate
        found.append(StageForecast(kind, pieces, written, seconds))
    return found
