"""What a run is refused for before anything is computed."""

from functools import partial

from cntk_pipeline.clusters import WorkerMemory
from cntk_pipeline.clusters.memory import (
    Need,
    factor_task_bytes,
    inverse_task_bytes,
    iteration_task_bytes,
    kernel_task_bytes,
    require_iteration_memory,
    require_memory,
)
from cntk_pipeline.config import RunConfig
from cntk_pipeline.gram import tiles as gram
from cntk_pipeline.inference import require_trainable
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.solvers import Method


def require_fitting_tasks(run: RunDirectory, config: RunConfig, memory: WorkerMemory | None) -> None:
    """Refuse a run whose tasks the workers have no memory for; kernel tiles only where some are still to be computed.

    Parameters
    ----------
    run : with its specification and journal.
    config : what it is asked for.
    memory : of the workers; nothing is refused where it is not known.

    Raises
    ------
    ConfigError
        Naming the tile that would fit.
    """
    if memory is None:
        return
    specification, method = run.specification, Method.of(config.solve)
    known = {receipt.task for receipt in run.journal.receipts()}
    needs = []
    if any(job.task not in known for job in gram.kernel_jobs(run)):
        engine = gram.engine_of(run)
        task_bytes = partial(kernel_task_bytes, engine)
        needs.append(Need("kernel tile", "kernel.tile", specification["tile"], engine.lane_width, task_bytes))
    if method.factors:
        tile = method.choose_tile(run.train_cut.count, specification["tile"], config.solve.tile)
        leaves_out = config.inference.leave_one_out or config.solve.ridges == "auto"
        factor_bytes = inverse_task_bytes if leaves_out else factor_task_bytes
        needs.append(Need("factor tile", "solve.tile", tile, specification["tile"], factor_bytes))
    for need in needs:
        require_memory(memory, need)
    if method.iterates:
        train, classes = run.train_cut.count, len(specification["data"]["classes"])
        rank = 0 if method.factors else min(method.rank, train)
        require_iteration_memory(memory, partial(iteration_task_bytes, train, classes, specification["tile"]), rank)
    if config.inference.times:
        require_trainable(memory, run.train_cut.count, run.test_cut.count)
