"""The whole run: load, lower, plan, compute the kernels, factor, solve, predict, report."""

import contextlib
import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from pipeline import datasets, gram, growth, lease
from pipeline.config import RunConfig
from pipeline.datasets import Dataset, Split
from pipeline.driver import Driver, Job, Outcome, Progress
from pipeline.durable import Json, disk_full, is_disk_full
from pipeline.errors import ConfigError, CorruptTile, RunNotFound, StoreError
from pipeline.executors import EXECUTORS, Executor, WorkerMemory
from pipeline.inference import (
    Means,
    add_remedies,
    choose_ridge,
    metrics,
    prediction_jobs,
    requested_products,
    requested_trainings,
    require_both_kinds,
    require_sizes,
    require_trainable,
    training_product,
    write_training,
)
from pipeline.journal import Task
from pipeline.kernels import Summary, lower, summary
from pipeline.memory import Need, factor_task_bytes, inverse_task_bytes, kernel_task_bytes, require_memory
from pipeline.plan import Plan, PlanInputs, make_plan, measure_pair_seconds
from pipeline.provenance import library_versions, provenance
from pipeline.solvers import (
    SOLVERS,
    forget_tiles,
    make_system,
    open_system,
    requested_selections,
    requested_solves,
    solve_name,
)
from pipeline.store import RunDirectory, is_temporary
from pipeline.takeover import take_over
from pipeline.tiling import LANE_WIDTH, choose_factor_tile, choose_tile, clip_tile

REPAIRS = 3
"""How often a run goes back to compute tiles that turned out to be damaged."""


class View(Protocol):
    """Whoever shows a run to people."""

    def say(self, text: str) -> None:
        """Show a line."""

    def begin(self, stage: str) -> None:
        """Show that a stage begins."""

    def progress(self, progress: Progress) -> None:
        """Show how far the stage is."""


@dataclass(frozen=True)
class Loaded:
    """A workflow with its data: what the specification of a run is made of, and what is odd about it."""

    config: RunConfig
    data: Dataset
    digest: str
    readouts: tuple[gram.Readout, ...]
    standardize_first: int
    warnings: tuple[str, ...]


def load(config: RunConfig) -> Loaded:
    """Load and select the data, and build the read-outs, without writing anything.

    Raises
    ------
    ConfigError, DataError, DataNotFound, LayerError
        Whatever is wrong with the workflow, its data, or how they fit.
    """
    if config.cluster.kind not in EXECUTORS:
        raise ConfigError(f"unknown cluster.kind {config.cluster.kind!r}: known are {', '.join(EXECUTORS)}")
    readouts = gram.readouts_of(config.network, config.readouts)
    whole = datasets.load(config.data.source, config.data.path)
    chosen = datasets.select(whole, config.data.train, config.data.test, config.data.train_blocks)
    assert chosen.test is not None
    if config.inference.times:
        require_both_kinds(config.readouts.kinds)
    if isinstance(config.inference.learning_curve, list):
        require_sizes(config.inference.learning_curve, len(chosen.train))
    first = datasets.row_count(
        config.data.standardize_first, len(chosen.train.images), "standardize_first", chosen.name
    )
    digest = hashlib.sha256()
    for part in (chosen.train, chosen.test):
        digest.update(str((part.images.shape, part.images.dtype.str)).encode())
        digest.update(np.ascontiguousarray(part.images).tobytes())
        digest.update(part.labels.astype("<i8").tobytes())
    lower([(readout.network, readout.kind) for readout in readouts], chosen.train.images.shape[1:])
    ridges = [] if config.solve.ridges == "auto" else config.solve.ridges
    warnings = datasets.warnings_of(chosen, ridges, config.kernel.flips)
    return Loaded(config, chosen, digest.hexdigest(), readouts, first, warnings)


def plan(config: RunConfig) -> Plan:
    """Forecast a run; nothing is written."""
    loaded = load(config)
    assert loaded.data.test is not None
    sample = _prepared(loaded)[0].images[:32]
    old = growth.find_source(config, run_path(config))
    tiles = (config.kernel.tile, config.solve.tile)
    if old is not None and config.kernel.tile == "auto":
        tiles = (old.specification["tile"], config.solve.tile)
    return make_plan(
        PlanInputs(
            readouts=loaded.readouts,
            dtype=config.kernel.dtype,
            flips=config.kernel.flips,
            train=len(loaded.data.train.images),
            test=len(loaded.data.test.images),
            classes=len(loaded.data.classes),
            solve=config.solve,
            inference=config.inference,
            tile=None if tiles[0] == "auto" else tiles[0],
            factor_tile=None if tiles[1] == "auto" else tiles[1],
            slots=slots_of(config),
            sample=sample,
        )
    )


def costliest_network(config: RunConfig) -> tuple[str, Summary]:
    """Lay out the network of the read-out that costs most, by name; nothing is computed or written."""
    loaded = load(config)
    shape = loaded.data.train.images.shape[1:]
    summaries = {readout.name: summary(readout.network, shape, kind=readout.kind) for readout in loaded.readouts}
    name = max(summaries, key=lambda name: summaries[name].entries)
    return name, summaries[name]


def slots_of(config: RunConfig) -> int:
    """Count the tiles that a workflow's own cluster computes at once; an existing scheduler counts as this machine."""
    if config.cluster.kind == "serial":
        return 1
    return (config.cluster.workers or os.cpu_count() or 1) * config.cluster.threads_per_worker


def run_path(config: RunConfig) -> Path:
    """Return the run directory of a workflow."""
    path = config.store.path or f"runs/{config.name}"
    if "://" in path:
        raise ConfigError(f"store.path must be a local directory so far, got {path!r}")
    return Path(path)


def start(config: RunConfig, view: View, stop: threading.Event, *, verify: bool = False) -> RunDirectory:
    """Run a workflow to its end, or go on with it where its run directory has been begun.

    Parameters
    ----------
    config : the workflow.
    view : is shown what happens.
    stop : set it to let tiles in flight finish, then `Interrupted` is raised.
    verify : read every finished chunk and compare its checksums first.

    Raises
    ------
    SpecificationMismatch
        If the run directory belongs to another specification, or nothing of the run that it should grow from is the
        same.
    RunLocked
        If another driver works on it.
    TilesFailed
        If tiles could not be computed, with the reasons; all others are kept.
    NotPositiveDefinite
        If a ridge was too small; the other systems are solved.
    """
    loaded = load(config)
    path = run_path(config)
    old = growth.find_source(config, path)
    specification = _specification(loaded, path, old)
    common = None if old is None else growth.compare(old, specification, *_prepared(loaded))
    with _full_disk_explained(path):
        run = RunDirectory.create(path, specification, provenance())
    for line in loaded.warnings:
        view.say(f"warning: {line}")
    with _full_disk_explained(path), lease.hold(run.lease_path):
        if common is not None:
            growth.begin(run, common, view.say)
        config = growth.with_factor_tile(config, run)
        run.write_record("workflow.json", config.model_dump(mode="json"))
        if not (run.path / "inputs.zarr").exists():
            _write_inputs(run, loaded)
        _execute(run, config, view, stop, verify)
    return run


def resume(path: str | Path, view: View, stop: threading.Event, *, verify: bool = False) -> RunDirectory:
    """Go on with a run directory, by the workflow it was last run with; its data set is not needed any more.

    Raises
    ------
    RunNotFound
        If there is no run, or it stopped before its data were stored.
    """
    run = RunDirectory(path)
    config = run.workflow()
    with _full_disk_explained(run.path), lease.hold(run.lease_path):
        if not (run.path / "inputs.zarr").exists():
            raise RunNotFound(f"{path} stopped before its images were stored: start it again with `cntk run`")
        _execute(run, config, view, stop, verify)
    return run


def verify(path: str | Path) -> tuple[int, list[Task]]:
    """Read every finished chunk of a run and compare its checksums; move bad ones to quarantine.

    Returns
    -------
    count : of whole tiles.
    quarantined : tiles to compute again.
    """
    run = RunDirectory(path)
    with lease.hold(run.lease_path):
        tasks = sorted({receipt.task for receipt in run.journal.receipts() if not is_temporary(receipt.task)})
        done, quarantined = run.finished(tasks, verify=True)
    run.journal.close()
    return len(done), quarantined


@contextlib.contextmanager
def _full_disk_explained(path: Path) -> Iterator[None]:
    """Turn the driver's own "no space left" into the error that says what to do."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error) and not isinstance(error, StoreError):
            raise disk_full(path) from error
        raise


def _specification(loaded: Loaded, path: Path, old: RunDirectory | None = None) -> Json:
    config, data = loaded.config, loaded.data
    assert data.test is not None
    train, test = len(data.train.images), len(data.test.images)
    if config.kernel.tile != "auto":
        tile = clip_tile(config.kernel.tile, train, test)
    elif (path / "run.json").exists():
        tile = RunDirectory(path).specification["tile"]  # what was chosen once stays
    elif old is not None:
        tile = old.specification["tile"]
    else:
        sample = _prepared(loaded)[0].images[:32]
        program = lower([(r.network, r.kind) for r in loaded.readouts], sample.shape[1:])
        seconds = measure_pair_seconds(program, config.kernel.dtype, config.kernel.flips, sample)
        tile = choose_tile(train, test, seconds, slots_of(config))
    described: Json = {
        "digest": loaded.digest,
        "train": train,
        "test": test,
        "shape": list(data.train.images.shape[1:]),
        "classes": list(data.classes),
        "standardize": config.data.standardize,
    }
    if loaded.standardize_first < train:  # all images are what leaving it out means
        described["standardize_first"] = loaded.standardize_first
    return {"data": described} | gram.kernel_specification(
        loaded.readouts, config.kernel.dtype, config.kernel.flips, tile
    )


def _prepared(loaded: Loaded) -> tuple[Split, Split]:
    """Return the training and the test part as they are stored: standardised, in the kernel's dtype."""
    dtype, data = loaded.config.kernel.dtype, loaded.data
    if loaded.config.data.standardize:
        data, _ = datasets.standardize(data, dtype, loaded.standardize_first)
    assert data.test is not None
    train, test = (Split(part.images.astype(dtype, copy=False), part.labels) for part in (data.train, data.test))
    return train, test


def _write_inputs(run: RunDirectory, loaded: Loaded) -> None:
    train, test = _prepared(loaded)
    run.write_inputs(
        {
            "train_images": train.images,
            "train_labels": train.labels,
            "test_images": test.images,
            "test_labels": test.labels,
        },
        {"data": run.specification["data"]},
    )


def _execute(run: RunDirectory, config: RunConfig, view: View, stop: threading.Event, verify: bool) -> None:
    swept = run.sweep()
    if swept:
        view.say(f"swept {swept} half-written files of an earlier driver")
    prepare = partial(gram.prepare, str(run.path.resolve()), library_versions())
    with EXECUTORS[config.cluster.kind](config.cluster, prepare) as executor:
        view.say(f"computing on {executor.describe()}")
        _require_memory(run, config, executor)
        gram.create_kernel_arrays(run)
        driver = Driver(str(run.path.resolve()), executor, run.journal, view.progress, stop)
        try:
            for _ in range(REPAIRS):
                kernel_jobs = gram.kernel_jobs(run)
                if config.inference.covariance:
                    gram.create_test_arrays(run)
                    kernel_jobs += gram.test_kernel_jobs(run)
                _run_jobs(run, driver, view, "kernel", kernel_jobs, verify).require()
                chosen = _choose_ridges(run, config, driver, view, verify, executor.memory())
                outcome = _solve(run, config, driver, view, verify)
                inferred = _infer(run, config, driver, view, verify)
                failed = [*chosen.failed.values(), *outcome.failed.values(), *inferred.failed.values()]
                damaged = [error for error in failed if isinstance(error, CorruptTile)]
                if not damaged:
                    break
                view.say(f"damaged tile: {damaged[0]}; checking all tiles and computing bad ones again")
                verify = True
            chosen.require()
            outcome.require()
            inferred.require()
        finally:
            forget_tiles()  # an executor may have computed in this process
            run.journal.close()


def _require_memory(run: RunDirectory, config: RunConfig, executor: Executor) -> None:
    """Refuse tiles that the workers have no memory for, before anything is computed."""
    memory = executor.memory()
    if memory is None:
        return
    program, specification = gram.program_of(run), run.specification
    known = {receipt.task for receipt in run.journal.receipts()}
    needs = []
    if any(job.task not in known for job in gram.kernel_jobs(run)):
        task_bytes = partial(kernel_task_bytes, program, specification["dtype"])
        needs.append(Need("kernel tile", "kernel.tile", specification["tile"], LANE_WIDTH, task_bytes))
    wanted = None if config.solve.tile == "auto" else config.solve.tile
    tile = choose_factor_tile(run.train_cut.count, specification["tile"], wanted)
    leaves_out = config.inference.leave_one_out or config.solve.ridges == "auto"
    factor_bytes = inverse_task_bytes if leaves_out else factor_task_bytes
    needs.append(Need("factor tile", "solve.tile", tile, specification["tile"], factor_bytes))
    try:
        for need in needs:
            require_memory(memory, need)
        if config.inference.times:
            require_trainable(memory, run.train_cut.count, run.test_cut.count)
    except ConfigError:
        # Nothing is computed yet, and another tile is another specification.
        run.retract()
        gram.forget_runs()
        raise


def _choose_ridges(
    run: RunDirectory, config: RunConfig, driver: Driver, view: View, verify: bool, memory: WorkerMemory | None
) -> Outcome:
    """Choose a ridge for each read-out, where the workflow leaves that to leave-one-out."""
    outcome = Outcome({})
    run_jobs = partial(_run_jobs, run, driver, view, verify=verify)
    for selection in requested_selections(run, config):
        found = choose_ridge(run, selection, Means(driver.slots, memory), run_jobs)
        outcome.failed.update(found.failed)
    add_remedies(run, outcome, run_jobs)
    return outcome


def _solve(run: RunDirectory, config: RunConfig, driver: Driver, view: View, verify: bool) -> Outcome:
    jobs: list[Job] = []
    names = []
    for order, specification in enumerate(requested_solves(run, config)):
        system = make_system(run, specification)
        names.append(system.fingerprint)
        jobs += SOLVERS["cholesky"](run, system, order, driver.slots)
        jobs += prediction_jobs(run, system.fingerprint, order)
    outcome = _run_jobs(run, driver, view, "solve", jobs, verify)
    done = outcome.receipts
    for name in names:
        mine = [job.task for job in jobs if job.task.stage.endswith(name) and job.only_for is None]
        if all(task in done for task in mine) and run.read_record(f"solve/{name}/metrics.json") is None:
            run.write_record(f"solve/{name}/metrics.json", metrics(run, name))
    add_remedies(run, outcome, partial(_run_jobs, run, driver, view, verify=verify))
    return outcome


def _infer(run: RunDirectory, config: RunConfig, driver: Driver, view: View, verify: bool) -> Outcome:
    """Compute what the workflow asks of every system that is solved."""
    products = []
    for order, specification in enumerate(requested_solves(run, config)):
        system = open_system(run, solve_name(specification))
        if run.read_record(f"solve/{system.fingerprint}/metrics.json") is not None:
            products += requested_products(run, system, config.inference, order)
    for training in requested_trainings(run, config):
        write_training(run, training)
        products.append(training_product(run, training))
    if not products:
        return Outcome({})
    for product in products:
        product.create(run)
    jobs = [job for product in products for job in product.jobs]
    outcome = _run_jobs(run, driver, view, "inference", jobs, verify)
    for product in products:
        if all(job.task in outcome.receipts for job in product.jobs):
            product.finish(run)
    return outcome


def _run_jobs(run: RunDirectory, driver: Driver, view: View, stage: str, jobs: Sequence[Job], verify: bool) -> Outcome:
    lasting = [job.task for job in jobs if job.only_for is None]
    take_over(run, lasting, view.say)
    done, quarantined = run.finished(lasting, verify=verify)
    # What served only tasks that are done was deleted.
    serving = [job.task for job in jobs if job.only_for is not None and job.only_for not in done]
    served, damaged = run.finished(serving, verify=verify)
    done, quarantined = done | served, quarantined + damaged
    for task in quarantined:
        view.say(f"{task} was damaged on disk: moved to quarantine, computed again")
    view.begin(stage)
    return driver.run(jobs, done)
