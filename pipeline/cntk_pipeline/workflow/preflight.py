"""Reasons to refuse a run before anything is computed."""

from cntk_pipeline.clusters import WorkerMemory
from cntk_pipeline.clusters.memory import Need, TileNeed
from cntk_pipeline.clusters.table import require_devices
from cntk_pipeline.config import RunConfig
from cntk_pipeline.errors import ConfigError
from cntk_pipeline.gram import tiles as gram
from cntk_pipeline.gram.engines import is_known, kernel_task_bytes
from cntk_pipeline.inference import RESULTS, asked_of, inverse_need, needs_test_kernel
from cntk_pipeline.kernels import find_engine
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.solvers import SystemSize, computes_tiles, method_of, options_of, solver_of, tile_of_solve


def lacks_pairs(run: RunDirectory, config: RunConfig) -> bool:
    """Tell whether pairs are left to compute, as far as receipts know; no chunk is looked at."""
    return computes_tiles(config.solve) or gram.is_missing_tiles(run, test_kernel=needs_test_kernel(config.inference))


def needs_engine(run: RunDirectory, config: RunConfig) -> bool:
    """Tell whether pairs may still be computed: tiles are not there, or solves compute those that are not stored."""
    return computes_tiles(config.solve) or not gram.is_whole(run, test_kernel=needs_test_kernel(config.inference))


def require_cards(config: RunConfig, run: RunDirectory | None = None) -> None:
    """Refuse a cluster whose workers' graphics cards are not those that the engine needs.

    Parameters
    ----------
    config : RunConfig
        A workflow.
    run : RunDirectory, optional
        Where it has been begun. Once no pair is left to be computed, what is left needs no card.

    Raises
    ------
    ConfigError
        As in `require_devices`.
    """
    engine = config.kernel.engine
    if run is not None and not is_known(run):
        return  # the stage of the kernel refuses it where tiles are missing
    try:
        require_devices(config.cluster, engine, uses_devices=find_engine(engine, "kernel.engine").uses_devices)
    except ConfigError:
        if run is None or needs_engine(run, config):
            raise


def require_fitting_tasks(run: RunDirectory, config: RunConfig, memory: WorkerMemory | None) -> None:
    """Refuse a run whose tasks the workers have no memory for; kernel tiles only where receipts of them are missing.

    Parameters
    ----------
    run : RunDirectory
        With its specification and journal.
    config : RunConfig
        Its workflow.
    memory : WorkerMemory or None
        Of the workers; nothing is refused where it is not known.

    Raises
    ------
    ConfigError
        If a task does not fit. The message names a tile that would.
    """
    if memory is None:
        return
    specification = run.specification
    needs: list[Need] = []
    if lacks_pairs(run, config):
        # A pass that computes a tile holds it in float64 too, as it is and normalised.
        needs.append(kernel_need(run, memory, 2 * 8 if computes_tiles(config.solve) else 0))
    solver, options, data = solver_of(method_of(config.solve)), options_of(config.solve), specification.data
    tile = tile_of_solve(config.solve, data.train, specification.tile)
    size = SystemSize(
        *(data.train, data.test, len(data.classes), specification.tile, tile, specification.dtype),
        centres=None if specification.centres is None else specification.centres.count,
    )
    needs += [need for key in asked_of(config.inference) for need in RESULTS[key].needs(size)]
    if config.solve.ridges == "auto" and config.solve.choose_by != "evidence":
        needs.append(inverse_need(size))
    for need in (*needs, *solver.needs(size, options)):
        need.require(memory)


def kernel_need(run: RunDirectory, memory: WorkerMemory, more_bytes: int = 0) -> Need:
    """Find the memory that a kernel tile needs.

    Parameters
    ----------
    run : RunDirectory
        With its specification and its images.
    memory : WorkerMemory
        Of the workers.
    more_bytes : int
        Held beside the tile, for each of its entries.

    Raises
    ------
    ConfigError
        If several tiles would share a graphics card.
    """
    engine = gram.engine_of(run)
    if engine.uses_devices and memory.slots > 1:
        raise ConfigError(
            f"a worker of this cluster computes {memory.slots} tiles at once, and has one graphics card: start it "
            "with one thread (dask worker --nthreads 1) and with a card of its own: docs/gpu.md"
        )
    nodes = gram.node_counts(run)

    def task_bytes(tile: int) -> int:
        return kernel_task_bytes(engine, tile, nodes) + more_bytes * tile**2

    return TileNeed("kernel tile", "kernel.tile", run.specification.tile, engine.lane_width, task_bytes)
