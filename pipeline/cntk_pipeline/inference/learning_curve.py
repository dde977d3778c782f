"""The learning curve: the predictions of every smaller training set, from the one factor.

The leading block of a Cholesky factor is the factor of the leading block, and so with ``z = L^-1 Y`` and
``V = L^-1 K(train, test)``: the first m training images alone predict ``V[:m]^T z[:m]``.
"""

import itertools
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, with_config

from cntk_pipeline.errors import ConfigError, StoreError
from cntk_pipeline.inference.base import (
    AGAIN,
    LAST,
    Asked,
    Found,
    Product,
    Result,
    Shown,
    digest_of,
    require_one_length,
)
from cntk_pipeline.inference.whitened import (
    after_row,
    count_test_blocks,
    forecast_whitened,
    whitened_cut,
    whitened_product,
)
from cntk_pipeline.models import STRICT, Fraction, Json, NotNegative, Positive
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.owners import Job, Owner, Place
from cntk_pipeline.solvers import System, SystemSize
from cntk_pipeline.solvers.nystroem import read_features, whiten
from cntk_pipeline.solvers.scores import Scoring, score_columns, score_lists, score_texts, scores_of
from cntk_pipeline.solvers.systems import factor_cut, with_target_mean
from cntk_pipeline.solvers.work import Work, open_work
from cntk_pipeline.storage.records import Record
from cntk_pipeline.storage.tiled_array import Array, ArraySpec
from cntk_pipeline.tasks import Receipt, Stage, StageForecast, Task
from cntk_pipeline.tiling import Cut

DEFAULT_SIZES, SMALLEST_SIZE = 10, 10


@with_config(STRICT)
@dataclass(frozen=True)
class LearningCurveRecord:
    """The test results of the first training images, or of the first centres, for some sizes.

    ``counted`` says which of the two.
    """

    sizes: tuple[Positive, ...]
    absolute_ridge: float
    accuracy: tuple[Fraction, ...] | None
    squared_error: tuple[NotNegative, ...]
    exact_match: tuple[Fraction, ...] | None = None
    r2: tuple[float, ...] | None = None
    counted: Literal["training images", "centres"] = "training images"

    def __post_init__(self) -> None:
        require_one_length(self.sizes, self.accuracy, self.squared_error, self.exact_match, self.r2)


_RECORD: Record[LearningCurveRecord] = Record(LearningCurveRecord, AGAIN)


def default_sizes(count: int) -> list[int]:
    """Choose training-set sizes: about ten, evenly spaced on a logarithmic axis, from 10 to all.

    Examples
    --------
    >>> default_sizes(50000)
    [10, 26, 66, 171, 441, 1135, 2924, 7533, 19408, 50000]
    """
    smallest = min(SMALLEST_SIZE, count)
    return sorted({round(size) for size in np.geomspace(smallest, count, DEFAULT_SIZES).tolist()})


def require_sizes(sizes: Sequence[int], count: int) -> None:
    """Refuse training-set sizes above the number of training images.

    Raises
    ------
    ConfigError
        If a size is too large. The message has the size and the number of training images.
    """
    if max(sizes) > count:
        raise ConfigError(
            f"inference.learning_curve asks for {max(sizes)} training images and there are {count}: name fewer, or "
            'write true for a choice of sizes; with solver = "centres" its sizes are numbers of centres'
        )


def learning_curve_product(run: RunDirectory, system: System, sizes: Sequence[int], order: int) -> Product:
    """Describe the test results of the first m training images, for some sizes m; needs the whitened kernel.

    The full system's ridge is used at every size, also where it was given relative to trace(K) / n; likewise the mean
    of all training targets of a regression.

    With centres it is a curve over their number: all training images are used at every size, with the first m centres.
    """
    cols, rows = factor_cut(run, system), whitened_cut(run, system)
    classes, axis = len(run.specification.data.classes), run.specification.data.column_axis
    stage = Stage("learning_curve", digest_of(list(sizes)), system.fingerprint)
    shape, tile = (len(sizes), rows.count, classes), (len(sizes), rows.size, classes)
    array = ArraySpec("mean", shape, tile, "float64", ("size", "test", axis))
    jobs = tuple(
        Job(
            Task(stage, row, 0),
            LEARNING_CURVE,
            len(sizes) * rows.length(row) * classes,
            (order, LAST, cols.pieces, row),
            after_row(system, row, cols) if run.specification.centres is None else (),
        )
        for row in range(rows.pieces)
    )
    parameters = {"sizes": list(sizes)}
    return Product(
        stage,
        LEARNING_CURVE,
        (array,),
        jobs,
        _RECORD,
        lambda run: _summary(run, system, stage, sizes),
        parameters,
        system.label,
    )


def predict_by_size(run_path: str, task: Task) -> Receipt:
    """Evaluate the predictive means of a block of test images for all sizes, ``(sizes, block, classes)``."""
    work = open_work(run_path, task)
    name, solve = task.stage.name, task.stage.solve
    sizes: Any = work.run.inferred_attributes(solve, name).get("sizes")
    if digest_of(sizes) != task.stage.parameters:
        where = work.run.inferred_path(solve, name)
        raise StoreError(f"{where}/zarr.json was edited: its sizes are not those of its name: restore it from a copy")
    panels, cut = _panels(work, task.row)
    mean = np.zeros((whitened_cut(work.run, work.system).length(task.row), len(work.run.specification.data.classes)))
    means = []
    for k, (v, z) in enumerate(panels):
        begin, end = cut.bounds(k)
        stops = [size - begin for size in sizes if begin < size <= end]
        for low, high in itertools.pairwise([0, *stops]):
            mean = mean + v[:, low:high] @ z[:, low:high].T
            means.append(mean)
        rest = slice(stops[-1] if stops else 0, None)
        mean = mean + v[:, rest] @ z[:, rest].T
    return work.write(LEARNING_CURVE, with_target_mean(work.run, np.stack(means)))


def _panels(work: Work, row: int) -> tuple[Iterable[tuple[Array, Array]], Cut]:
    """Return the pieces of the whitened kernel of a block of test images with those of ``L^-1 Y``, and their cut."""
    forward = work.solved("forward")
    if work.run.specification.centres is not None:
        bounds, count = whitened_cut(work.run, work.system).bounds(row), work.run.column_cut.count
        whitened = whiten(work.run, work.system, read_features(work.run, work.system, "test", bounds))
        return [(whitened, forward.read(0, 0))], Cut(count, count)
    stored = work.run.inferred(work.system.fingerprint, "whitened", "test")
    return work.ahead(lambda k: (stored.read(row, k), forward.read(0, k)), range(work.cut.pieces)), work.cut


def _places(run: RunDirectory, task: Task) -> list[Place]:
    return [(run.inferred(task.stage.solve, task.stage.name, "mean"), (0, task.row, 0))]


LEARNING_CURVE = Owner("learning_curve", predict_by_size, _places)


def _summary(run: RunDirectory, system: System, stage: Stage, sizes: Sequence[int]) -> Json:
    """Compare the means with the test labels, a block of test images at a time."""
    mean = run.inferred(stage.solve, stage.name, "mean")
    labels = run.labels("test")
    assert labels is not None
    by_size = [Scoring(run.specification.data, labels) for _ in sizes]
    for row in range(mean.cut(1).pieces):
        block = mean.read(0, row, 0)
        for scoring, predictions in zip(by_size, block, strict=True):
            scoring.add(slice(*mean.cut(1).bounds(row)), predictions)
    scores = [scoring.scores() for scoring in by_size]
    return {
        "sizes": list(sizes),
        "absolute_ridge": system.absolute_ridge,
        "squared_error": [each.squared_error for each in scores],
    } | (score_lists(scores) | ({"counted": "centres"} if run.specification.centres is not None else {}))


def _rising(value: bool | list[int]) -> bool | list[int]:
    if isinstance(value, list) and (not value or value[0] < 1 or sorted(set(value)) != value):
        raise ValueError(f"expected true, false, or rising sizes of at least 1, got {value}")
    return value


class LearningCurveResult(Result):
    """Test results of the first m training images: ``true`` for about ten sizes m, or a rising list."""

    key = "learning_curve"
    option = Annotated[bool | list[int], AfterValidator(_rising)]
    owner = LEARNING_CURVE
    record = _RECORD
    needs_factor = True
    needs_test_labels = True
    knows_centres = True

    def require(self, value: bool | list[int], train: int, kinds: Set[str]) -> None:
        if isinstance(value, list):
            require_sizes(value, train)

    def of_system(self, run: RunDirectory, system: System, value: bool | list[int], order: int) -> list[Product]:
        count = run.column_cut.count
        sizes = default_sizes(count) if isinstance(value, bool) else value
        if run.specification.has_pivots:  # which may be fewer in the end than the workflow allows
            sizes = sorted({min(size, count) for size in sizes})
        needed = [whitened_product(run, system, order)] if run.specification.centres is None else []
        return [*needed, learning_curve_product(run, system, sizes, order)]

    def forecast(self, asked: Asked, size: SystemSize) -> list[StageForecast]:
        value = asked[self.key]
        sizes = len(default_sizes(size.columns) if isinstance(value, bool) else value)
        numbers, seconds = size.test * size.classes, 2.0 * size.columns * size.test * size.classes / size.product_rate
        if size.centres is not None:
            seconds += 2.0 * size.test * size.columns**2 / size.product_rate
            return [StageForecast(self.key, count_test_blocks(size), 8 * sizes * numbers, seconds)]
        return [forecast_whitened(size), StageForecast(self.key, count_test_blocks(size), 8 * sizes * numbers, seconds)]

    def show(self, found: Found) -> Shown:
        scores = [(name, record, scores_of(record, len(record.sizes))) for name, record in found]
        shown = score_columns([each for _, _, several in scores for each in several])
        rows = [
            (name, str(size), *score_texts(each, shown), f"{error:.4g}", f"{record.absolute_ridge:.3g}")
            for name, record, several in scores
            for size, each, error in zip(record.sizes, several, record.squared_error, strict=True)
        ]
        counted = " or ".join(sorted({record.counted for _, record in found}, reverse=True))
        columns = (counted, *shown, "squared error", "absolute ridge")
        return Shown("learning curve (one absolute ridge, that of the full system)", columns, tuple(rows))
