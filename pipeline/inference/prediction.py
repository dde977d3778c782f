"""What a solved system says of images: the predictive mean, its accuracy, and how well the system was solved."""

import socket
from collections.abc import Callable

import numpy as np

from pipeline.arrays import Array
from pipeline.datasets import one_hot_targets
from pipeline.driver import Job
from pipeline.durable import Json
from pipeline.journal import Receipt, Task, timed
from pipeline.store import RunDirectory


def prediction_jobs(run: RunDirectory, solve: str, order: int) -> list[Job]:
    """List the tasks that turn a solve's coefficients into predictions and residuals."""
    train, test = run.train_cut, run.test_cut
    classes = len(run.specification["data"]["classes"])
    after = (Task(f"coefficients:{solve}", 0, 0),)
    last = 2**40  # behind the factorisation of the same system
    means = [
        Job(Task(f"mean:{solve}", row, 0), predict_rows, test.length(row) * classes, (order, last, row), after)
        for row in range(test.pieces)
    ]
    residuals = [
        Job(Task(f"residual:{solve}", row, 0), residual_rows, train.length(row) * classes, (order, last, row), after)
        for row in range(train.pieces)
    ]
    return means + residuals


def predict_rows(run_path: str, task: Task) -> Receipt:
    """Evaluate the predictive mean ``K(test, train) alpha`` for one block of test images."""
    run, alpha = _open(run_path, task)
    kernel = run.kernel(_record(run, task)["readout"], "test")
    columns = kernel.cut(1)

    def product() -> Array:
        return sum(
            kernel.read(task.row, col).astype(np.float64) @ alpha[slice(*columns.bounds(col))]
            for col in range(columns.pieces)
        )

    return _written(run, task, product)


def residual_rows(run_path: str, task: Task) -> Receipt:
    """Evaluate ``(K + ridge I) alpha - Y`` for one block of training images, from the stored kernel in float64."""
    run, alpha = _open(run_path, task)
    record = _record(run, task)
    kernel = run.kernel(record["readout"], "train")
    cut = kernel.cut(0)
    mine = slice(*cut.bounds(task.row))

    def product() -> Array:
        labels = np.asarray(run.inputs("train_labels")[mine])
        rest = record["absolute_ridge"] * alpha[mine] - one_hot_targets(labels, alpha.shape[1])
        for k in range(cut.pieces):
            tile = kernel.read(task.row, k) if k <= task.row else kernel.read(k, task.row).T
            rest += tile.astype(np.float64) @ alpha[slice(*cut.bounds(k))]
        return rest

    return _written(run, task, product)


def metrics(run: RunDirectory, solve: str) -> Json:
    """Summarise a finished solve: test accuracy, relative residual, extreme pivots.

    Returns
    -------
    ``accuracy`` in [0, 1]; ``relative_residual``, ``||(K + ridge I) alpha - Y|| / ||Y||`` in the Frobenius norm; and
    where a factor is stored ``smallest_pivot`` and ``largest_pivot``, of its diagonal.
    """
    mean = _all_rows(run, solve, "mean")
    test_labels, train_labels = np.asarray(run.inputs("test_labels")[:]), np.asarray(run.inputs("train_labels")[:])
    targets = one_hot_targets(train_labels, mean.shape[1])
    return {
        "accuracy": float(np.mean(mean.argmax(1) == test_labels)),
        "relative_residual": float(np.linalg.norm(_all_rows(run, solve, "residual")) / np.linalg.norm(targets)),
    } | _pivots(run, solve)


def _pivots(run: RunDirectory, solve: str) -> Json:
    if not run.has_factor(solve):
        return {}
    factor = run.solved(solve, "factor")
    pivots = np.concatenate([np.diagonal(factor.read(k, k)) for k in range(factor.cut(0).pieces)])
    return {"smallest_pivot": float(pivots.min()), "largest_pivot": float(pivots.max())}


def _open(run_path: str, task: Task) -> tuple[RunDirectory, Array]:
    run = RunDirectory(run_path)
    return run, run.solved(task.stage.partition(":")[2], "coefficients").read(0, 0)


def _record(run: RunDirectory, task: Task) -> Json:
    return run.read_record(f"solve/{task.stage.partition(':')[2]}/solve.json") or {}


def _written(run: RunDirectory, task: Task, product: Callable[[], Array]) -> Receipt:
    values, seconds = timed(product)
    array, index = run.arrays_of(task)[0]
    chunk, write_seconds = timed(lambda: array.write(index, values))
    return Receipt(task, (chunk,), 0.0, seconds, write_seconds, socket.gethostname())


def _all_rows(run: RunDirectory, solve: str, part: str) -> Array:
    array = run.solved(solve, part)
    return np.concatenate([array.read(row, 0) for row in range(array.cut(0).pieces)])
