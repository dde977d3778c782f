"""The kernel-matrix stage: train against train, test against train, and each test image with itself."""

import itertools
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from cntk_pipeline.config import KernelConfig, NetworkConfig, ReadoutsConfig
from cntk_pipeline.errors import ConfigError, CorruptTile, LayerError, NotAccurate, NotFinite
from cntk_pipeline.gram.engines import is_known, load_code, open_engine, require_numerics, uses_devices
from cntk_pipeline.gram.networks import layer_count, require_depth, require_option_types, require_size, require_types
from cntk_pipeline.graphs import NodeCounts, count_nodes, is_graph, piece_sums
from cntk_pipeline.kernels import Engine, Question
from cntk_pipeline.layers import LAYERS, Sequential, spelling
from cntk_pipeline.layers.presets import PRESETS
from cntk_pipeline.rundir.code import UserCode
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.grids import JobGrid, Jobs
from cntk_pipeline.rundir.owners import Chunks, Owner, Place
from cntk_pipeline.rundir.predictions import open_directory
from cntk_pipeline.rundir.provenance import library_versions
from cntk_pipeline.rundir.specification import (
    CentreSpecification,
    DataSpecification,
    EngineRecord,
    ReadoutSpecification,
    Specification,
)
from cntk_pipeline.rundir.twins import Twins
from cntk_pipeline.storage.tiled_array import Array, ArraySpec, Group, TiledArray
from cntk_pipeline.tasks import Chunk, Receipt, Stage, Task, timed
from cntk_pipeline.tiling import Cut, KeptTiles, Tile

_LAYOUT_NOTE = "train holds the tiles on and below the diagonal, the others stay NaN; diagonal tiles are whole"
_PIVOTS_NOTE = "column j of train and test is of training image pivots[j] of pivots.zarr; all tiles are there"


@dataclass(frozen=True)
class Readout:
    """One kernel of the pass: a name for the store, a network, and "ntk" or "nngp"."""

    name: str
    network: Sequential
    kind: Literal["ntk", "nngp"]


def readouts_of(network: NetworkConfig, readouts: ReadoutsConfig) -> tuple[Readout, ...]:
    """Build the read-outs that a workflow asks for.

    Raises
    ------
    ConfigError
        If the preset, an option, a pooling or a layer is unknown, or depths are missing or out of place.
    """
    if network.layers is not None:
        if readouts.depths or readouts.poolings:
            raise ConfigError("readouts.depths and readouts.poolings belong to a preset, not to explicit layers")
        require_types(network.layers, LAYERS)
        try:
            built = spelling.read(network.layers, LAYERS)
        except LayerError as error:
            raise ConfigError(str(error)) from error
        require_size(layer_count(built), "the network and its branches")
        return tuple(Readout(kind, built, kind) for kind in readouts.kinds)
    if network.preset not in PRESETS:
        raise ConfigError(f"unknown preset {network.preset!r}{spelling.nearest(network.preset, list(PRESETS))}")
    preset = PRESETS[network.preset]
    for option in network.options:
        if option not in preset.options:
            raise ConfigError(
                f"preset {network.preset} has no option {option!r}{spelling.nearest(option, preset.options)}"
            )
    require_option_types(preset, network.options)
    if not readouts.depths:
        raise ConfigError(f"readouts.depths is empty: preset {network.preset} needs at least one depth")
    if readouts.poolings and not preset.poolings:
        raise ConfigError(f"preset {network.preset} has no poolings: leave readouts.poolings empty")
    poolings: Sequence[str | None] = readouts.poolings or preset.poolings[:1] or [None]
    built_readouts, layers = [], 0
    for depth, pooling, kind in itertools.product(readouts.depths, poolings, readouts.kinds):
        require_depth(depth)
        given = {} if pooling is None else {"pooling": pooling}
        try:
            member = preset.build(depth, **given, **network.options)
        except (LayerError, TypeError) as error:
            raise ConfigError(f"preset {network.preset} with depth {depth}: {error}") from error
        name = "-".join(part for part in (f"depth{depth}", pooling, kind) if part)
        built_readouts.append(Readout(name, member, kind))
        layers += layer_count(member)
        require_size(layers, f"the read-outs down to {name}")
    names = [readout.name for readout in built_readouts]
    if len(set(names)) < len(names):
        raise ConfigError(f"readouts repeat: {names}")
    return tuple(built_readouts)


def specify(
    data: DataSpecification,
    readouts: Sequence[Readout],
    kernel: KernelConfig,
    engine: EngineRecord,
    tile: int,
    centres: CentreSpecification | None = None,
) -> Specification:
    """Write down everything that the values and the layout of the matrices depend on."""
    from cntk_pipeline.kernels import find_engine

    networks = tuple((each.network, each.kind) for each in readouts)
    question = Question(networks, data.shape, kernel.dtype, kernel.flips)
    return Specification(
        data,
        tuple(ReadoutSpecification(each.name, each.kind, spelling.spell(each.network)) for each in readouts),
        kernel.dtype,
        kernel.flips,
        tile,
        find_engine(engine.name).version_for(question),
        engine,
        centres,
    )


def kernel_group(run: RunDirectory) -> Group:
    """Describe the empty matrices of all read-outs: chunks are tiles, axes are named, nothing is filled."""
    train, test, columns = run.train_cut, run.test_cut, run.column_cut
    dtype, axis = run.specification.dtype, run.specification.column_axis
    rows_axis = "train_row" if axis == "train" else "train"
    specs = []
    for readout in run.specification.readouts:
        for part, sizes, axes in (
            ("train", (train, columns), (rows_axis, axis)),
            ("test", (test, columns), ("test", axis)),
            ("train_variance", (train,), ("train",)),
            ("test_variance", (test,), ("test",)),
        ):
            shape, tile = tuple(cut.count for cut in sizes), tuple(cut.size for cut in sizes)
            specs.append(ArraySpec(f"{readout.name}/{part}", shape, tile, dtype, axes))
    note = _PIVOTS_NOTE if run.specification.has_pivots else _LAYOUT_NOTE
    return Group(run.kernel_path, tuple(specs), {"specification": run.specification.to_json(), "layout": note})


def node_counts(run: RunDirectory) -> NodeCounts | None:
    """Count the nodes of the graphs of a run, all of which are read; None where there are images or vectors."""
    if not is_graph(run.specification.data.shape):
        return None
    parts: list[Array] = []
    for part, cut in (("train", run.train_cut), ("test", run.test_cut)):
        pieces = [count_nodes(_images(run, part, cut.bounds(piece))) for piece in range(cut.pieces)]
        parts.append(np.concatenate(pieces) if pieces else np.zeros(0, np.int64))
    return NodeCounts(*parts)


def kernel_jobs(run: RunDirectory, nodes: NodeCounts | None = None, kept: KeptTiles | None = None) -> Jobs:
    """List all tiles of the kernel matrices; longest first, since short ones fill the gaps at the end.

    Parameters
    ----------
    nodes : NodeCounts, optional
        Of graphs, where their tiles are to be computed: a job's entries are pairs of nodes then. Not so where the
        kernel itself draws its columns, whose graphs are known one column of tiles after the other.
    kept : KeptTiles, optional
        The tiles of K(train, train) that are stored; None for all.
    """
    symmetric = not run.specification.has_pivots
    counts = nodes if symmetric else None
    jobs = list_kernel_jobs(run.train_cut, run.test_cut, run.column_cut, counts, symmetric=symmetric)
    if kept is None:
        return jobs
    # Where a part is stored, tiles are large and few.
    stored = [job for job in jobs if job.owner is TRAIN and Tile(job.task.row, job.task.col) in kept]
    return Jobs(stored, *(grid for grid in jobs.grids if grid.owner is not TRAIN))


def list_kernel_jobs(
    train: Cut, test: Cut, columns: Cut | None = None, nodes: NodeCounts | None = None, *, symmetric: bool = True
) -> Jobs:
    """List the tasks as `kernel_jobs` does, for a run that need not exist; ``columns`` are the training images.

    Columns that are not those of the leading images are not ``symmetric``: all their tiles are computed.
    """
    columns = columns or train
    train_nodes, test_nodes = (None, None) if nodes is None else (nodes.train, nodes.test)
    rows, tests = _Weights.of(train, train_nodes), _Weights.of(test, test_nodes)
    widths = _Weights.of(columns, None if train_nodes is None else train_nodes[: columns.count]).sums
    one = np.ones(1, np.int64)
    matrix = (
        JobGrid(TRAIN, rows.sums, widths, rows.triangles, lower=True)
        if symmetric
        else JobGrid(TRAIN, rows.sums, widths)
    )
    # The rows above have tiles on the diagonal.
    behind = JobGrid(TRAIN_VARIANCE, rows.alone, one, first_row=columns.pieces if symmetric else 0)
    return Jobs(matrix, JobGrid(TEST, tests.sums, widths), JobGrid(VARIANCE, tests.alone, one), behind)


@dataclass(frozen=True)
class _Weights:
    """The entries that pieces of a cut stand for: numbers of images, or of graphs their nodes, as these cost.

    Attributes
    ----------
    sums : int64 array, (pieces,)
        Of all that are in a piece.
    alone : int64 array, (pieces,)
        The pairs of each with itself.
    triangles : int64 array, (pieces,)
        The pairs on and below the diagonal of a piece with itself.
    """

    sums: Array
    alone: Array
    triangles: Array

    @classmethod
    def of(cls, cut: Cut, nodes: Array | None) -> "_Weights":
        if nodes is None:
            sums = np.array([cut.length(piece) for piece in range(cut.pieces)], np.int64)
            return cls(sums, sums, sums * (sums + 1) // 2)
        sums, alone = piece_sums(nodes, cut.size), piece_sums(nodes**2, cut.size)
        return cls(sums, alone, (sums**2 + alone) // 2)


def test_group(run: RunDirectory) -> Group:
    """Describe the empty K(test, test) of all read-outs, beside the run's other matrices; its specification stays."""
    cut, dtype = run.test_cut, run.specification.dtype
    specs = [
        ArraySpec(readout.name, (cut.count,) * 2, (cut.size,) * 2, dtype, ("test_row", "test"))
        for readout in run.specification.readouts
    ]
    note = "the tiles on and below the diagonal, the others stay NaN"
    return Group(run.test_kernel_path, tuple(specs), {"layout": note})


def test_kernel_jobs(run: RunDirectory, nodes: NodeCounts | None) -> Jobs:
    """List all tiles of K(test, test), on and below the diagonal; ``nodes`` as of `kernel_jobs`."""
    weights = _Weights.of(run.test_cut, None if nodes is None or run.specification.has_pivots else nodes.test)
    return Jobs(JobGrid(TEST_TEST, weights.sums, weights.sums, weights.triangles, lower=True))


def engine_of(run: RunDirectory, numbers: tuple[int, ...] | None = None) -> Engine:
    """Put read-outs of a run, by number or all, to its engine, once per process; errors as of `open_engine`."""
    path, all_of_them = str(run.path.absolute()), tuple(range(len(run.specification.readouts)))
    if open_once(path).fingerprint != run.fingerprint:
        forget_runs()
    return engines_once(path, all_of_them if numbers is None else numbers)


def forget_runs() -> None:
    """Forget the runs that this process has open: another one may have lain at the path of the next."""
    open_once.cache_clear()
    _pivot_images.cache_clear()
    engines_once.cache_clear()


def compute(run_path: str, task: Task) -> Receipt:
    """Compute one tile of every read-out and write it: the body of a worker.

    What lies there without a receipt, after a crash or taken over from another run, is read and kept where it is whole;
    only the other read-outs are computed.

    Raises
    ------
    NotFinite
        If a value is not finite; nothing is written then.
    SpecificationMismatch
        If another run lies there by now; nothing is written either.
    """
    run = open_once(run_path)
    places = _places(run, task)
    # The variances follow all matrices, as in `_places`: place k belongs to read-out k % count.
    count = len(run.specification.readouts)
    found, found_seconds = timed(lambda: [_chunk_on_disk(array, index) for array, index in places])
    missing = tuple(number for number in range(count) if None in found[number::count])
    values, read_seconds, compute_seconds = _evaluate(run_path, task, missing)
    on_diagonal = _is_on_diagonal(run, task)
    width = run.column_cut.length(task.col) if on_diagonal else None  # the last of the centres end within a tile
    if run.specification.has_pivots and task.stage.kind in ("train", "test"):
        values = [_filled_up(value, run.specification.tile) for value in values]
    parts = iter([*(v[..., :width] for v in values)] + ([np.diagonal(v) for v in values] if on_diagonal else []))

    def write() -> tuple[Chunk, ...]:
        run.require_same()
        return tuple(
            array.write(index, next(parts)) if k % count in missing else chunk
            for k, ((array, index), chunk) in enumerate(zip(places, found, strict=True))
        )

    chunks, write_seconds = timed(write)
    return Receipt(task, chunks, found_seconds + read_seconds, compute_seconds, write_seconds, socket.gethostname())


def compute_train_tile(run: RunDirectory, readout: str, tile: Tile) -> Array:
    """Compute a tile of K(train, train) of one read-out and write nothing.

    Parameters
    ----------
    tile : Tile
        On or below the diagonal.

    Returns
    -------
    array, (rows, columns)
        Of the run's dtype, with the bits that `compute` writes.

    Raises
    ------
    SpecificationMismatch
        If this installation computes other bits than those of the run.
    NotFinite
        If a value is not finite.
    """
    task = Task(Stage(TRAIN.kind), tile.row, tile.col)
    values, _, _ = _evaluate(str(run.path.absolute()), task, (_number_of(run, readout),))
    return values[0]


def compute_train_pairs(run: RunDirectory, readout: str, later: Array, earlier: Array) -> Array:
    """Compute the kernel of some training images with some that come before all of them, and write nothing.

    Parameters
    ----------
    later, earlier : array
        Numbers of training images, rising, ``(m,)`` and ``(k,)``.

    Returns
    -------
    array, (m, k)
        Of the run's dtype, with the bits that `compute` writes: the later image of a pair is on the left.

    Raises
    ------
    SpecificationMismatch, NotAccurate, NotFinite
        As in `compute_train_tile`.
    """
    require_numerics(run)
    evaluator = engine_of(run, (_number_of(run, readout),)).evaluator()
    try:
        return evaluator.evaluate(_train_images(run, later), _train_images(run, earlier))[0]
    except (NotAccurate, NotFinite) as error:
        places = "it is counted among some training images, of which the first are"
        raise type(error)(f"{error} ({places} {later[0]} and {earlier[0]})") from None


def _train_images(run: RunDirectory, samples: Array) -> Array:
    """Read some training images, those of one tile at once."""
    cut, images = run.train_cut, run.inputs("train_images")
    pieces = samples // cut.size
    return np.concatenate(
        [
            images[slice(*cut.bounds(piece))][samples[pieces == piece] - piece * cut.size]
            for piece in np.unique(pieces).tolist()
        ]
    )


def _number_of(run: RunDirectory, readout: str) -> int:
    return [each.name for each in run.specification.readouts].index(readout)


def _is_on_diagonal(run: RunDirectory, task: Task) -> bool:
    """Tell whether a tile is of images with themselves, so that it holds their variances."""
    return task.stage.kind == "train" and task.row == task.col and not run.specification.has_pivots


def _filled_up(values: Array, width: int) -> Array:
    """Fill a tile up with columns of zeros: when pivots end within it is known only after it is computed."""
    return np.pad(values, ((0, 0), (0, width - values.shape[1])))


def _places(run: RunDirectory, task: Task) -> list[Place]:
    """List the chunks of a tile: a matrix a read-out, and behind them all the diagonals of a tile on the diagonal."""
    names = [readout.name for readout in run.specification.readouts]
    kind, square, line = task.stage.kind, (task.row, task.col), (task.row,)
    if kind == "variance":
        return [(run.kernel(name, "test_variance"), line) for name in names]
    if kind == "train_variance":
        return [(run.kernel(name, kind), line) for name in names]
    places: list[Place] = [(run.kernel(name, kind), square) for name in names]
    if _is_on_diagonal(run, task):
        places += [(run.kernel(name, "train_variance"), line) for name in names]
    return places


def _train_twin(twins: Twins, task: Task) -> Task | None:
    return task if task.row in twins.growth.train and twins.has_same_column(task.col) else None


def _test_twin(twins: Twins, task: Task) -> Task | None:
    return task if task.row in twins.growth.test and twins.has_same_column(task.col) else None


def _variance_twin(twins: Twins, task: Task) -> Task | None:
    return task if task.row in twins.growth.test else None


def _train_variance_twin(twins: Twins, task: Task) -> Task | None:
    row = task.row
    if row not in twins.growth.train:
        return None
    # Where the older run has more columns, the diagonal is a part of a tile there.
    return Task(Stage(TRAIN.kind), row, row) if row < twins.old.column_cut.pieces else task


TRAIN = Owner("train", compute, _places, twin=_train_twin)
TEST = Owner("test", compute, _places, twin=_test_twin)
VARIANCE = Owner("variance", compute, _places, twin=_variance_twin)
TRAIN_VARIANCE = Owner("train_variance", compute, _places, twin=_train_variance_twin)
TEST_TEST = Owner("test_test", compute, _places)
KERNEL_OWNERS = (TRAIN, TEST, VARIANCE, TRAIN_VARIANCE, TEST_TEST)
"""The matrices K(train, train), K(test, train) and K(test, test), and the variances K(x, x) of the test images; with
centres also those of the training images that have no tile on the diagonal."""


def _evaluate(run_path: str, task: Task, numbers: tuple[int, ...]) -> tuple[Sequence[Array], float, float]:
    """Evaluate a tile of some read-outs, by number; return also the seconds of reading and of computing."""
    if not numbers:
        return (), 0.0, 0.0
    run = open_once(run_path)
    require_numerics(run)
    train, test = run.train_cut, run.test_cut
    rows = train if task.stage.kind in ("train", "train_variance") else test
    row_bounds = rows.bounds(task.row)
    row_images, read_seconds = timed(lambda: _images(run, "train" if rows is train else "test", row_bounds))
    corner = (row_bounds[0], row_bounds[0])
    evaluator = engines_once(run_path, numbers).evaluator()
    if task.stage.kind in ("variance", "train_variance"):
        values, compute_seconds = timed(lambda: evaluator.evaluate_pairs(row_images, first=corner))
    elif _is_on_diagonal(run, task) or (task.stage.kind == "test_test" and task.row == task.col):
        values, compute_seconds = timed(lambda: evaluator.evaluate(row_images, first=corner))
    else:
        of_test = task.stage.kind == "test_test"
        col_bounds = (test if of_test else run.column_cut).bounds(task.col)
        col_images, seconds = timed(
            lambda: _images(run, "test", col_bounds) if of_test else _column_images(run, run_path, col_bounds)
        )
        read_seconds += seconds
        corner = (row_bounds[0], col_bounds[0])
        values, compute_seconds = timed(lambda: evaluator.evaluate(row_images, col_images, first=corner))
    return list(values), read_seconds, compute_seconds


def _chunk_on_disk(array: TiledArray, index: tuple[int, ...]) -> Chunk | None:
    """Describe a chunk that is there and whole; None where it must be computed."""
    try:
        return array.describe(index)
    except CorruptTile:
        return None


def prepare_worker(
    run_path: str,
    versions: dict[str, str],
    code: UserCode | None = None,
    computes: bool = False,
    test_kernel: bool = False,
) -> None:
    """Prepare a worker process: compare versions, compile or load the engine, and let it test itself on two images.

    The process may have served an earlier driver, and forgets its runs.

    Parameters
    ----------
    run_path : str
        Of the run directory.
    versions : mapping of str to str
        Of the driver's libraries.
    code : UserCode, optional
        The user's own code that the driver may import, and so this process; None for none.
    computes : bool
        Whether the engine is needed with a whole kernel too, as where solves compute tiles that are not stored.
    test_kernel : bool
        Whether K(test, test) belongs to the whole kernel.

    Raises
    ------
    ConfigError
        If the worker runs other versions than the driver, or computes other numbers, or has not the user's code.
    SpecificationMismatch
        If it does not know the engine of the run, of which tiles are missing; or has other code.
    NotTrusted
        If the run needs code that it may not import.
    """
    here = library_versions(versions.keys() - library_versions().keys())
    differing = {name: (versions[name], here.get(name)) for name in versions if here.get(name) != versions[name]}
    if differing:
        raise ConfigError(
            "worker and driver differ in "
            + ", ".join(f"{name} (driver {there}, worker {mine})" for name, (there, mine) in differing.items())
            + ": install the same versions on both"
        )
    forget_runs()
    run = open_once(run_path)
    needs_more = not is_known(run) or run.specification.engine.code is not None or uses_devices(run)
    if needs_more and not computes and is_whole(run, test_kernel=test_kernel):
        return  # what is left needs no engine
    if code is not None:
        load_code(run, code)
    engine_of(run).test(first_images(run))


def first_images(run: RunDirectory) -> Array:
    """Read the training images by which each worker tests its engine."""
    return _images(run, "train", (0, min(2, run.specification.data.train)))


def is_missing_tiles(run: RunDirectory, *, test_kernel: bool) -> bool:
    """Tell whether tiles of the kernel have no receipt; no chunk is looked at. ``test_kernel`` as of `is_whole`."""
    return _is_missing(run, _all_jobs(run, test_kernel))


def _all_jobs(run: RunDirectory, test_kernel: bool) -> Jobs:
    return kernel_jobs(run) + (test_kernel_jobs(run, None) if test_kernel else Jobs())


def _is_missing(run: RunDirectory, jobs: Jobs) -> bool:
    known = run.journal.receipts().tasks
    return any(grid.count_in(known)[0] < len(grid) for grid in jobs.grids)


def is_whole(run: RunDirectory, *, test_kernel: bool = False) -> bool:
    """Tell whether all tiles of the kernel are there: their receipts, and their chunks, which are listed.

    Parameters
    ----------
    test_kernel : bool
        Whether those of K(test, test) must be there too.
    """
    if run.specification.has_pivots and not run.has_all_pivots:
        return False
    jobs = _all_jobs(run, test_kernel)
    if _is_missing(run, jobs):
        return False
    chunks = Chunks(len(jobs))
    return all(chunks.size(array, index) == array.chunk_bytes for job in jobs for array, index in job.places(run))


@lru_cache(maxsize=4)
def open_once(run_path: str) -> RunDirectory:
    """Open a run once per process."""
    return open_directory(run_path)


@lru_cache(maxsize=8)
def engines_once(run_path: str, numbers: tuple[int, ...]) -> Engine:
    """Put some read-outs, by number, to the engine of a run, once per process."""
    return open_engine(open_once(run_path), numbers)


def _column_images(run: RunDirectory, run_path: str, columns: tuple[int, int]) -> Array:
    """Read the images of some columns of the kernel; those of pivots lie apart, and are kept for the next tile."""
    rows = run.column_rows
    if rows is None:
        return run.column_images(columns)
    if len(rows) <= columns[0]:
        raise CorruptTile(f"{run.pivots_path}: the pivots of column {columns[0]} are damaged, or gone")
    return _pivot_images(run_path, columns, tuple(rows[slice(*columns)].tolist()))


@lru_cache(maxsize=2)
def _pivot_images(run_path: str, columns: tuple[int, int], _rows: tuple[int, ...]) -> Array:
    return open_once(run_path).column_images(columns)


def _images(run: RunDirectory, part: str, bounds: tuple[int, int]) -> Array:
    return run.inputs("train_images" if part == "train" else "test_images")[slice(*bounds)]
