"""The draw of centres by the kernel itself, as tasks: randomly pivoted Cholesky, a column of tiles after the other.

``regression.pivots`` has the algorithm, and `pivots_group` describes the arrays. For each column of tiles, the task
"pivots" draws its training images by what the columns before it leave of the kernel's diagonal. Then the tiles of
"train" are computed for these images, and a task "residual_diagonal" for each row of tiles says what is left. The task
"pivots" behind the last column draws none, and ends the draw. With several read-outs, the first one draws for all.

A draw depends on the seed, the column and the stored kernel alone, so no worker and no interruption changes it.
"""

import socket
from collections.abc import Iterator

import numpy as np

from cntk_pipeline.errors import NotPositiveDefinite, SpecificationMismatch
from cntk_pipeline.gram.engines import require_numerics
from cntk_pipeline.gram.forecast import KernelSize
from cntk_pipeline.gram.tiles import TRAIN, TRAIN_VARIANCE, engines_once, list_kernel_jobs, open_once
from cntk_pipeline.regression.pivots import PROPOSALS, Rows, draw_block, features_of, residual_of, smallest_residual
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.owners import Job, Owner, Place
from cntk_pipeline.rundir.specification import CentreSpecification
from cntk_pipeline.storage.tiled_array import Array, ArraySpec, Group, digest, encode_chunk
from cntk_pipeline.tasks import Receipt, Stage, StageForecast, Task, timed
from cntk_pipeline.tiling import Cut


def pivots_group(run: RunDirectory) -> Group:
    """Describe the empty arrays of the draw.

    They are ``pivots``, the training images in the order of their draw, a chunk a column of tiles, filled up with -1;
    ``trace_error``, the sum of what is left of the diagonal before each column, divided by its sum; ``factor``, the
    Cholesky factor of the pivots' kernel; and ``residual_diagonal``, what is left of the diagonal behind each column.
    """
    cut, tile, train = run.specification.column_cut, run.specification.tile, run.specification.data.train
    drawn = (cut.pieces + 1) * tile
    return Group(
        run.pivots_path,
        (
            ArraySpec("pivots", (drawn,), (tile,), "int64", ("draw",)),
            ArraySpec("trace_error", (cut.pieces + 1,), (1,), "float64", ("block",)),
            ArraySpec("factor", (drawn, cut.count), (tile, cut.count), "float64", ("draw", "pivot")),
            ArraySpec("residual_diagonal", (cut.pieces, train), (1, tile), "float64", ("block", "train")),
        ),
        {"readout": _readout(run)},
    )


def draw_pivots(run_path: str, task: Task) -> Receipt:
    """Draw the training images of a column of tiles; none where the draw is over.

    Raises
    ------
    NotPositiveDefinite
        If the kernel is zero everywhere.
    SpecificationMismatch
        If the draw is another than the one of before whose chunk is gone, or another run lies there by now.
    """
    run, block = open_once(run_path), task.row
    require_numerics(run)
    centres = _centres(run)
    (variance, residual, before), read_seconds = timed(lambda: _read_state(run, block))
    if not variance.sum() > 0:
        raise NotPositiveDefinite(
            f"{_readout(run)}: no centre can be drawn, since the kernel is zero everywhere: its network trains no "
            "layer, or all images are black"
        )
    error = float(residual.sum() / variance.sum())
    known = np.concatenate([np.zeros(0, np.int64), *before])
    is_short = bool(before) and len(before[-1]) < run.specification.tile
    is_over = is_short or len(known) == centres.count or (centres.tolerance is not None and error <= centres.tolerance)
    width = 0 if is_over else min(run.specification.tile, centres.count - len(known))
    kept: dict[int, Array] = {}

    def residual_kernel(rows: Rows) -> Array:
        images = run.inputs("train_images")
        chosen = np.concatenate([images[row : row + 1] for row in rows.tolist()])
        kernel = np.asarray(engines_once(run_path, (0,)).evaluator().evaluate(chosen)[0], np.float64)
        features = features_of(_columns_of(run, rows, len(known)), _factors(run, before))
        kept.update(zip(rows.tolist(), features, strict=True))
        return np.asarray(kernel - features @ features.T)

    def draw() -> tuple[Array, Array]:
        smallest = smallest_residual(centres.count, run.specification.dtype) * variance
        drawn = draw_block(residual, smallest, width, (centres.seed or 0, block), residual_kernel)
        count = len(drawn.rows)
        pivots = np.full(run.specification.tile, -1, np.int64)
        pivots[:count] = drawn.rows
        factor = np.zeros((run.specification.tile, centres.count))
        if count:
            factor[:count, : len(known)] = [kept[row] for row in drawn.rows.tolist()]
            factor[:count, len(known) : len(known) + count] = drawn.factor
        return pivots, factor

    (pivots, factor), compute_seconds = timed(draw)
    _require_as_before(run, task, pivots)
    run.require_same()
    values = (pivots, np.array([error]), factor)
    chunks, write_seconds = timed(
        lambda: tuple(
            array.write(index, value) for (array, index), value in zip(_pivots_places(run, task), values, strict=True)
        )
    )
    return Receipt(task, chunks, read_seconds, compute_seconds, write_seconds, socket.gethostname())


def measure_residual(run_path: str, task: Task) -> Receipt:
    """Evaluate what all columns of tiles up to one leave of the diagonal, for one row of tiles."""
    run, (row, block) = open_once(run_path), (task.row, task.col)
    rows = run.train_cut.bounds(row)

    def read() -> tuple[list[Array], Array, Array]:
        before = _blocks(run, block + 1)
        every = np.arange(*rows)
        variance = run.kernel(_readout(run), "train_variance").read_region(rows).astype(np.float64)
        return before, variance, _columns_of(run, every, sum(map(len, before)))

    (before, variance, columns), read_seconds = timed(read)
    residual, compute_seconds = timed(
        lambda: residual_of(
            variance, features_of(columns, _factors(run, before)), np.concatenate(before), np.arange(*rows)
        )
    )
    run.require_same()
    ((array, index),) = _residual_places(run, task)
    chunk, write_seconds = timed(lambda: array.write(index, residual[None]))
    return Receipt(task, (chunk,), read_seconds, compute_seconds, write_seconds, socket.gethostname())


def trace_errors(run: RunDirectory) -> list[float]:
    """Read the relative trace error before the first column of tiles, and behind each, as far as they are known."""
    blocks = _known_blocks(run)
    return [float(run.pivoting("trace_error").read(block)[0]) for block in range(len(blocks))]


def pivot_rounds(run: RunDirectory) -> Iterator[list[Job]]:
    """Yield the jobs of the draw, a column of tiles at a time; `pivots_group` and the kernel's arrays exist."""
    jobs = list(list_kernel_jobs(run.train_cut, Cut(0, 1), run.specification.column_cut, symmetric=False))
    diagonal = [job for job in jobs if job.owner is TRAIN_VARIANCE]
    yield [*diagonal, _pivots_job(run, 0, diagonal)]
    for block in range(run.specification.column_cut.pieces):
        drawn = run.pivots_of(block)
        if drawn is None or not len(drawn):
            return
        tiles = [job for job in jobs if job.owner is TRAIN and job.task.col == block]
        residuals = [_residual_job(run, tile.task) for tile in tiles]
        yield [*tiles, *residuals, _pivots_job(run, block + 1, residuals)]


def pivot_jobs(run: RunDirectory) -> list[Job]:
    """List the jobs of the draw, tiles of the kernel aside: all that there may be until it is over."""
    if not run.specification.has_pivots:
        return []
    cut, rows = run.column_cut, range(run.train_cut.pieces)
    residuals = [
        [_residual_job(run, Task(Stage(TRAIN.kind), row, block)) for row in rows] for block in range(cut.pieces)
    ]
    pivots = [_pivots_job(run, block, residuals[block - 1] if block else []) for block in range(cut.pieces + 1)]
    return [*pivots, *(job for jobs in residuals for job in jobs)]


def forecast_pivots(size: KernelSize, pair_seconds: float, product_rate: float) -> list[StageForecast]:
    """Forecast the stages of the draw of all centres, tiles of the kernel aside.

    Parameters
    ----------
    size : KernelSize
        Of the kernel, with its centres.
    pair_seconds : float
        Of a pair of images on one core.
    product_rate : float
        Of float64 matrix products, floating-point operations a second and core.
    """
    train, tile, centres = size.train, size.tile, size.centres or 0
    rows, columns = Cut(train, tile), Cut(centres, tile)
    proposals = PROPOSALS * tile
    pairs = columns.pieces * proposals * (proposals + 1) // 2
    # Each row of tiles evaluates its features of all columns so far anew, which saves storing them.
    operations = sum(float(train) * min((block + 1) * tile, centres) ** 2 for block in range(columns.pieces))
    drawn = (columns.pieces + 1) * (8 * tile * (centres + 1) + 8)
    return [
        # A draw waits for the residuals of the columns before it, and these for the draw.
        StageForecast(PIVOTS.kind, columns.pieces + 1, drawn, pairs * pair_seconds, columns.pieces + 1),
        StageForecast(
            RESIDUAL_DIAGONAL.kind,
            columns.pieces * rows.pieces,
            columns.pieces * rows.pieces * 8 * tile,
            operations / product_rate,
            columns.pieces,
        ),
    ]


def _pivots_places(run: RunDirectory, task: Task) -> list[Place]:
    block = task.row
    return [
        (run.pivoting("pivots"), (block,)),
        (run.pivoting("trace_error"), (block,)),
        (run.pivoting("factor"), (block, 0)),
    ]


def _residual_places(run: RunDirectory, task: Task) -> list[Place]:
    return [(run.pivoting("residual_diagonal"), (task.col, task.row))]


PIVOTS = Owner("pivots", draw_pivots, _pivots_places)
RESIDUAL_DIAGONAL = Owner("residual_diagonal", measure_residual, _residual_places)
PIVOT_OWNERS = (PIVOTS, RESIDUAL_DIAGONAL)
"""The draws of centres by the kernel itself, and what each column of tiles leaves of the kernel's diagonal."""


def _pivots_job(run: RunDirectory, block: int, after: list[Job]) -> Job:
    task, proposals = Task(Stage(PIVOTS.kind), block, 0), PROPOSALS * run.specification.tile
    return Job(task, PIVOTS, proposals * (proposals + 1) // 2, (0, block, 0), tuple(job.task for job in after))


def _residual_job(run: RunDirectory, tile: Task) -> Job:
    task = Task(Stage(RESIDUAL_DIAGONAL.kind), tile.row, tile.col)
    return Job(task, RESIDUAL_DIAGONAL, run.train_cut.length(tile.row), (0, tile.row, tile.col), (tile,))


def _centres(run: RunDirectory) -> CentreSpecification:
    centres = run.specification.centres
    assert centres is not None
    return centres


def _readout(run: RunDirectory) -> str:
    return run.specification.readouts[0].name


def _known_blocks(run: RunDirectory) -> list[Array]:
    """Read the pivots of all columns of tiles that are drawn, and the empty end where it is there."""
    found: list[Array] = []
    while len(found) <= run.specification.column_cut.pieces and (block := run.pivots_of(len(found))) is not None:
        found.append(block)
    return found


def _blocks(run: RunDirectory, count: int) -> list[Array]:
    """Read the pivots of the first columns of tiles; `CorruptTile` where a chunk is gone or damaged."""
    return [found[found >= 0] for found in map(run.pivoting("pivots").read, range(count))]


def _read_state(run: RunDirectory, block: int) -> tuple[Array, Array, list[Array]]:
    """Read the kernel's diagonal, what is left of it before a column of tiles, and the pivots before it."""
    every = (0, run.specification.data.train)
    variance = run.kernel(_readout(run), "train_variance").read_region(every).astype(np.float64)
    if not block:
        return variance, variance, []
    return variance, run.pivoting("residual_diagonal").read_region((block - 1, block), every)[0], _blocks(run, block)


def _columns_of(run: RunDirectory, rows: Array, count: int) -> Array:
    """Read the first columns of the kernel for some training images, ``(rows, count)`` float64, each tile once."""
    array, cut, found = run.kernel(_readout(run), "train"), run.train_cut, np.empty((len(rows), count))
    for piece in np.unique(rows // cut.size).tolist() if count else []:
        begin, end = cut.bounds(piece)
        inside = (rows >= begin) & (rows < end)
        found[inside] = array.read_region((begin, end), (0, count))[rows[inside] - begin]
    return found


def _factors(run: RunDirectory, blocks: list[Array]) -> Iterator[tuple[Array, Array]]:
    """Read the factor of the pivots of some columns of tiles, as `features_of` takes it."""
    begin = 0
    for block, pivots in enumerate(blocks):
        rows, end = run.pivoting("factor").read(block, 0)[: len(pivots)], begin + len(pivots)
        yield rows[:, :begin], rows[:, begin:end]
        begin = end


def _require_as_before(run: RunDirectory, task: Task, pivots: Array) -> None:
    """Refuse a draw that differs from an earlier one of the same column: tiles are computed for the images of then."""
    payload, _ = encode_chunk(pivots, pivots.shape, pivots.dtype)
    earlier = {receipt.chunks[0].xxh3 for receipt in run.journal.receipts().all_of(task)}
    if earlier - {digest(payload)}:
        raise SpecificationMismatch(
            f"the pivots of column {task.row} of {run.path} are gone, and drawn anew here they are others, by another "
            "rounding than that of the machine of then; the tiles of that column are of the pivots of then. Bring back "
            f"{run.pivots_path} from a copy, or begin the run anew in another --store"
        )
