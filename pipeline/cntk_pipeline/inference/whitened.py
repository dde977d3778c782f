"""The kernel of test and training images, whitened by the factor: ``V^T = K(test, train) L^-T``.

The test images are further block rows below the matrix, like the targets, but only where they are asked for.
V gives the predictions of every smaller training set, the posterior variance and the posterior covariance.
"""

from cntk_pipeline.inference.base import LAST, Product
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.owners import Job, Owner, Place
from cntk_pipeline.solvers import System, SystemSize
from cntk_pipeline.solvers.blas import solve_right, subtract_product
from cntk_pipeline.solvers.systems import factor_cut
from cntk_pipeline.solvers.work import float64, open_work
from cntk_pipeline.storage.tiled_array import Array, ArraySpec
from cntk_pipeline.tasks import Receipt, Stage, StageForecast, Task
from cntk_pipeline.tiling import Cut


def whitened_cut(run: RunDirectory, system: System) -> Cut:
    """Return how the test images are cut into blocks: like the training images in the factor."""
    test = run.specification.data.test
    return Cut(test, min(system.tile, test))


def whitened_product(run: RunDirectory, system: System, order: int) -> Product:
    """Describe the whitened kernel, ``8 n_test n`` bytes; ``n_test n^2`` operations."""
    rows, cols, stage = whitened_cut(run, system), factor_cut(run, system), Stage("whitened", solve=system.fingerprint)
    shape, tile = (rows.count, cols.count), (rows.size, cols.size)
    jobs = tuple(
        Job(
            Task(stage, row, col),
            WHITENED,
            rows.length(row) * cols.length(col),
            (order, LAST, col, row),
            (Task(stage, row, col - 1),) if col else (),
        )
        for row in range(rows.pieces)
        for col in range(cols.pieces)
    )
    array = ArraySpec("test", shape, tile, "float64", ("test", "train"))
    return Product(stage, WHITENED, (array,), jobs)


def whiten_tile(run_path: str, task: Task) -> Receipt:
    """Compute one tile of ``K(test, train) L^-T`` from the tiles to its left."""
    work = open_work(run_path, task)
    row, col = task.row, task.col
    whitened, factor = work.run.inferred(work.system.fingerprint, "whitened", "test"), work.solved("factor")
    tile = work.kernel.test(whitened.cut(0).bounds(row), work.cut.bounds(col))

    def read_panels(k: int) -> tuple[Array, Array]:
        return whitened.read_mapped(row, k), float64(factor.read_mapped(col, k))

    for left, right in work.ahead(read_panels, range(col)):
        subtract_product(left, right, tile)
    solve_right(float64(factor.read_mapped(col, col)), tile)
    return work.write(WHITENED, tile)


def _places(run: RunDirectory, task: Task) -> list[Place]:
    return [(run.inferred(task.stage.solve, "whitened", "test"), (task.row, task.col))]


WHITENED = Owner("whitened", whiten_tile, _places)


def count_test_blocks(size: SystemSize) -> int:
    """Count the blocks of test images of a system that need not exist."""
    return -(-size.test // min(size.tile, size.test))


def forecast_whitened(size: SystemSize) -> StageForecast:
    """Forecast the whitened kernel of one system."""
    tasks, numbers = size.cut.pieces * count_test_blocks(size), size.train * size.test
    seconds = float(numbers) * size.train / size.product_rate
    return StageForecast("whitened", tasks, 8 * numbers, seconds, size.cut.pieces)  # of a row, each waits for its left


def after_row(system: System, row: int, cols: Cut) -> tuple[Task, ...]:
    """Name the task after which a block row of the whitened kernel is whole."""
    return (Task(Stage("whitened", solve=system.fingerprint), row, cols.pieces - 1),)
