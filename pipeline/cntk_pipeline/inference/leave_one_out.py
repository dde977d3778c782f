"""Leave-one-out predictions of a solved system, from its existing factor."""

import numpy as np

from cntk_pipeline.clusters.memory import Need, TileNeed
from cntk_pipeline.errors import NotFinite
from cntk_pipeline.inference.base import AGAIN, LAST, Asked, Found, Product, Result, Shown
from cntk_pipeline.models import Json
from cntk_pipeline.regression.arguments import SMALLEST_REST
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.owners import Job, Owner, Place
from cntk_pipeline.solvers import System, SystemSize
from cntk_pipeline.solvers.blas import solve_right, subtract_product
from cntk_pipeline.solvers.nystroem import read_features, whiten
from cntk_pipeline.solvers.scores import Scores, score, score_columns, score_texts
from cntk_pipeline.solvers.systems import factor_cut, read_targets, with_target_mean
from cntk_pipeline.solvers.work import Work, float64, open_work
from cntk_pipeline.storage.records import Record
from cntk_pipeline.storage.tiled_array import Array, ArraySpec
from cntk_pipeline.tasks import Receipt, Stage, StageForecast, Task

SLICE_TILES = 6
"""Memory of the columns of the inverse that are computed at once, in tiles of the factor."""

_RECORD: Record[Scores] = Record(Scores, AGAIN)


def inverse_task_bytes(tile: int) -> int:
    """Return the bytes of a leave-one-out task: a slice of the inverse of six tiles' size, four tiles of the factor."""
    return 10 * tile * tile * 8


def inverse_need(size: SystemSize) -> TileNeed:
    """Return the memory of the leave-one-out tasks of a system."""
    return TileNeed("factor tile", "solve.tile", size.tile, size.kernel_tile, inverse_task_bytes)


def leave_one_out_product(run: RunDirectory, system: System, order: int) -> Product:
    """Describe the prediction of each training image from all others.

    ``y_i - alpha_i / [(K + r I)^-1]_ii`` (Rasmussen and Williams 2006, equation 5.12). The diagonal of the inverse
    takes ``n^3 / 3`` operations in all, as many as the factor; only its n numbers are kept. A ridge r that was given
    relative to trace(K) / n is computed from the whole matrix. So is the mean of the targets of a regression, which the
    left-out image is part of.

    With centres it is ``y_i - (y_i - f_i) / (1 - h_i)`` with the leverage ``h_i = |v_i|^2`` of `nystroem`, in
    ``2 n m^2`` operations. A centre that is left out loses its target and stays a centre.
    """
    cut, stage = factor_cut(run, system), Stage("leave_one_out", solve=system.fingerprint)
    classes, axis = len(run.specification.data.classes), run.specification.data.column_axis
    arrays = (
        ArraySpec(_first_array(run), (cut.count,), (cut.size,), "float64", ("train",)),
        ArraySpec("prediction", (cut.count, classes), (cut.size, classes), "float64", ("train", axis)),
    )
    jobs = tuple(
        # The first block column is the longest, so it begins first.
        Job(Task(stage, col, 0), LEAVE_ONE_OUT, _entries(run, *cut.bounds(col)), (order, LAST, col))
        for col in range(cut.pieces)
    )
    return Product(
        stage, LEAVE_ONE_OUT, arrays, jobs, _RECORD, lambda run: _summary(run, stage.solve), label=system.label
    )


def leave_out(run_path: str, task: Task) -> Receipt:
    """Compute a block of the diagonal of ``(L L^T)^-1`` and of the leave-one-out predictions."""
    work = open_work(run_path, task)
    begin, end = work.cut.bounds(task.row)
    if work.run.specification.centres is not None:
        return _leave_out_of_centres(work, begin, end)
    width = max(1, SLICE_TILES * work.cut.size**2 // (work.cut.count - begin))
    diagonal = np.concatenate(
        [_column_squares(work, task.row, low, min(low + width, end)) for low in range(begin, end, width)]
    )
    alpha = work.solved("coefficients").read(0, 0)[begin:end]
    prediction = read_targets(work.run, (begin, end)) - alpha / diagonal[:, None]
    return work.write(LEAVE_ONE_OUT, diagonal, with_target_mean(work.run, prediction))


def _leave_out_of_centres(work: Work, begin: int, end: int) -> Receipt:
    """Compute a block of the leverages and of the leave-one-out predictions of a system on centres."""
    whitened = whiten(work.run, work.system, read_features(work.run, work.system, "train", (begin, end)))
    leverage = np.einsum("ij,ij->i", whitened, whitened)
    closest = int(leverage.argmax())
    if 1.0 - leverage[closest] <= SMALLEST_REST:
        raise NotFinite(
            f"{work.system.label}: expected leverages below 1 for leave-one-out, and training image {begin + closest} "
            f"has {leverage[closest]:.17g}: nothing predicts it but itself. Give a larger ridge, or fewer centres"
        )
    targets = read_targets(work.run, (begin, end))
    fitted = whitened @ work.solved("forward").read(0, 0).T
    prediction = targets - (targets - fitted) / (1.0 - leverage)[:, None]
    return work.write(LEAVE_ONE_OUT, leverage, with_target_mean(work.run, prediction))


def _first_array(run: RunDirectory) -> str:
    return "inverse_diagonal" if run.specification.centres is None else "leverage"


def _places(run: RunDirectory, task: Task) -> list[Place]:
    solve, name = task.stage.solve, task.stage.name
    return [
        (run.inferred(solve, name, _first_array(run)), (task.row,)),
        (run.inferred(solve, name, "prediction"), (task.row, 0)),
    ]


LEAVE_ONE_OUT = Owner("leave_one_out", leave_out, _places)


def _column_squares(work: Work, first: int, low: int, high: int) -> Array:
    """Sum the squares in columns ``low`` to ``high`` of ``L^-1``, which lie in block column ``first``.

    ``L X = E`` is solved downwards for these columns E of the identity, transposed, in one pass over the tiles from
    block row and block column ``first`` on.
    """
    cut, factor = work.cut, work.solved("factor")
    origin = cut.bounds(first)[0]
    x = np.zeros((high - low, cut.count - origin))
    x[np.arange(high - low), np.arange(low, high) - origin] = 1.0
    blocks = {row: x[:, cut.bounds(row)[0] - origin : cut.bounds(row)[1] - origin] for row in range(first, cut.pieces)}
    places = [(row, col) for row in range(first, cut.pieces) for col in range(first, row + 1)]
    tiles = work.ahead(lambda place: float64(factor.read_mapped(*place)), places)
    for (row, col), tile in zip(places, tiles, strict=True):
        if col < row:
            subtract_product(blocks[col], tile, blocks[row])
        else:
            solve_right(tile, blocks[row])
    return np.einsum("ij,ij->i", x, x)


def _entries(run: RunDirectory, begin: int, end: int) -> int:
    """Count the entries of ``L^-1`` in a block column, or the features; its time is nearly proportional to them."""
    width = run.train_cut.count - begin if run.specification.centres is None else run.column_cut.count
    return (end - begin) * width


def _summary(run: RunDirectory, solve: str) -> Json:
    prediction = run.inferred(solve, "leave_one_out", "prediction").read_all()
    labels = run.labels("train")
    assert labels is not None
    return score(run.specification.data, labels, prediction).to_json()


class LeaveOneOutResult(Result):
    """The prediction of each training image by all others. It costs as much as the factor."""

    key = "leave_one_out"
    owner = LEAVE_ONE_OUT
    record = _RECORD
    needs_factor = True
    knows_centres = True

    def of_system(self, run: RunDirectory, system: System, value: bool, order: int) -> list[Product]:
        return [leave_one_out_product(run, system, order)]

    def forecast(self, asked: Asked, size: SystemSize) -> list[StageForecast]:
        operations = size.train**3 / 3 if size.centres is None else 2.0 * size.train * size.columns**2
        written, seconds = 8 * size.train * (size.classes + 1), operations / size.product_rate
        return [StageForecast(self.key, size.cut.pieces, written, seconds)]

    def needs(self, size: SystemSize) -> list[Need]:
        return [inverse_need(size)] if size.centres is None else []  # else as much as a task of the solver

    def show(self, found: Found) -> Shown:
        columns = score_columns([record for _, record in found])
        rows = [(name, *score_texts(record, columns), f"{record.squared_error:.4g}") for name, record in found]
        return Shown("leave-one-out", (*columns, "squared error"), tuple(rows))
