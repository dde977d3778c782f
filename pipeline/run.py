"""The whole run: load, lower, plan, compute the kernels, factor, solve, predict, report."""

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from pipeline import datasets, gram, lease
from pipeline.config import RunConfig
from pipeline.datasets import Dataset
from pipeline.driver import Driver, Job, Outcome, Progress
from pipeline.durable import Json, disk_full, is_disk_full
from pipeline.errors import ConfigError, CorruptTile, RunNotFound, StoreError
from pipeline.executors import EXECUTORS
from pipeline.inference import metrics, prediction_jobs
from pipeline.journal import Receipt, Task
from pipeline.kernels import Summary, lower, summary
from pipeline.plan import Plan, PlanInputs, make_plan, measure_pair_seconds
from pipeline.provenance import library_versions, provenance
from pipeline.rounds import Course, Tally, run_rounds
from pipeline.solvers import SOLVERS, Method, System, make_system, requested_solves
from pipeline.store import RunDirectory
from pipeline.tiling import choose_tile, clip_tile

REPAIRS = 3
"""How often a run goes back to compute tiles that turned out to be damaged."""


OnProgress = Callable[[Progress], None]


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
    """A workflow with its data: what the specification of a run is made of."""

    config: RunConfig
    data: Dataset
    digest: str
    readouts: tuple[gram.Readout, ...]


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
    digest = hashlib.sha256()
    for part in (chosen.train, chosen.test):
        digest.update(str((part.images.shape, part.images.dtype.str)).encode())
        digest.update(np.ascontiguousarray(part.images).tobytes())
        digest.update(part.labels.astype("<i8").tobytes())
    lower([(readout.network, readout.kind) for readout in readouts], chosen.train.images.shape[1:])
    return Loaded(config, chosen, digest.hexdigest(), readouts)


def plan(config: RunConfig) -> Plan:
    """Forecast a run; nothing is written."""
    loaded = load(config)
    assert loaded.data.test is not None
    sample, _ = _prepared_arrays(loaded, slice(0, 32))
    tiles = (config.kernel.tile, config.solve.tile)
    return make_plan(
        PlanInputs(
            readouts=loaded.readouts,
            dtype=config.kernel.dtype,
            flips=config.kernel.flips,
            train=len(loaded.data.train.images),
            test=len(loaded.data.test.images),
            classes=len(loaded.data.classes),
            ridge_count=len(config.solve.ridges),
            tile=None if tiles[0] == "auto" else tiles[0],
            factor_tile=None if tiles[1] == "auto" else tiles[1],
            slots=slots_of(config),
            sample=sample,
            method=Method.of(config.solve),
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
        If the run directory belongs to another specification.
    RunLocked
        If another driver works on it.
    TilesFailed
        If tiles could not be computed, with the reasons; all others are kept.
    NotPositiveDefinite
        If a ridge was too small; the other systems are solved.
    NotConverged
        If conjugate gradients did not reach the residual asked for; the other systems are solved.
    """
    loaded = load(config)
    path = run_path(config)
    specification = _specification(loaded, path)
    with _full_disk_explained(path):
        run = RunDirectory.create(path, specification, provenance())
    with _full_disk_explained(path), lease.hold(run.lease_path):
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
        tasks = sorted({receipt.task for receipt in run.journal.receipts()})
        spent = run.spent(tasks)
        done, quarantined = run.finished([task for task in tasks if task not in spent], verify=True)
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


def _specification(loaded: Loaded, path: Path) -> Json:
    config, data = loaded.config, loaded.data
    assert data.test is not None
    train, test = len(data.train.images), len(data.test.images)
    if config.kernel.tile != "auto":
        tile = clip_tile(config.kernel.tile, train, test)
    elif (path / "run.json").exists():
        tile = RunDirectory(path).specification["tile"]  # what was chosen once stays
    else:
        sample, _ = _prepared_arrays(loaded, slice(0, 32))
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
    return {"data": described} | gram.kernel_specification(
        loaded.readouts, config.kernel.dtype, config.kernel.flips, tile
    )


def _prepared_arrays(loaded: Loaded, rows: slice) -> tuple[np.ndarray, np.ndarray]:
    """Return standardised training and test images; ``rows`` picks some."""
    dtype = loaded.config.kernel.dtype
    if loaded.config.data.standardize:
        data, _ = datasets.standardize(loaded.data, dtype)
    else:
        data = loaded.data
    assert data.test is not None
    return data.train.images[rows].astype(dtype), data.test.images[rows].astype(dtype)


def _write_inputs(run: RunDirectory, loaded: Loaded) -> None:
    train, test = _prepared_arrays(loaded, slice(None))
    assert loaded.data.test is not None
    run.write_inputs(
        {
            "train_images": train,
            "train_labels": loaded.data.train.labels,
            "test_images": test,
            "test_labels": loaded.data.test.labels,
        },
        {"data": run.specification["data"]},
    )


def _execute(run: RunDirectory, config: RunConfig, view: View, stop: threading.Event, verify: bool) -> None:
    swept = run.sweep()
    if swept:
        view.say(f"swept {swept} half-written files of an earlier driver")
    gram.create_kernel_arrays(run)
    prepare = partial(gram.prepare, str(run.path.resolve()), library_versions())
    with EXECUTORS[config.cluster.kind](config.cluster, prepare) as executor:
        view.say(f"computing on {executor.describe()}")

        def drive(on_progress: OnProgress) -> Driver:
            return Driver(str(run.path.resolve()), executor, run.journal, on_progress, stop)

        try:
            for _ in range(REPAIRS):
                _run_jobs(run, drive(view.progress), view, "kernel", gram.kernel_jobs(run), verify).require()
                outcome = _solve(run, config, drive, view, verify)
                damaged = [error for error in outcome.failed.values() if isinstance(error, CorruptTile)]
                if not damaged:
                    break
                view.say(f"damaged tile: {damaged[0]}; checking all tiles and computing bad ones again")
                verify = True
            outcome.require()
        finally:
            run.journal.close()


def _solve(
    run: RunDirectory, config: RunConfig, drive: Callable[[OnProgress], Driver], view: View, verify: bool
) -> Outcome:
    method = Method.of(config.solve)
    systems = [make_system(run, specification, method) for specification in requested_solves(run, config)]
    courses = [_course(run, system, order) for order, system in enumerate(systems)]
    tally = Tally(view.progress)
    driver = drive(tally.progress)

    def run_jobs(jobs: Sequence[Job]) -> Outcome:
        return driver.run(jobs, _look_up(run, view, jobs, verify))

    view.begin("solve")
    outcome, solved = run_rounds(courses, run_jobs, tally, lambda: _convergence(run, systems))
    for name in solved:
        if run.read_record(f"solve/{name}/metrics.json") is None:
            run.write_record(f"solve/{name}/metrics.json", metrics(run, name))
    return outcome


def _course(run: RunDirectory, system: System, order: int) -> Course:
    predictions = prediction_jobs(run, system.fingerprint, order)
    rounds = SOLVERS[system.method.solver].rounds(run, system, order)
    return Course(system.fingerprint, rounds, Task(f"coefficients:{system.fingerprint}", 0, 0), predictions)


def _convergence(run: RunDirectory, systems: Sequence[System]) -> str:
    """Say how far the slowest of the systems that iterate is; nothing where none does."""
    far = [run.iterations(system.fingerprint) for system in systems]
    open_ones = [iterations for iterations in far if iterations and iterations.residuals and not iterations.finished]
    if not open_ones:
        return ""
    worst = max(open_ones, key=lambda iterations: iterations.residuals[-1])
    return f"iteration {worst.count + 1}, residual {worst.residuals[-1]:.1e}"


def _run_jobs(run: RunDirectory, driver: Driver, view: View, stage: str, jobs: Sequence[Job], verify: bool) -> Outcome:
    done = _look_up(run, view, jobs, verify)
    view.begin(stage)
    return driver.run(jobs, done)


def _look_up(run: RunDirectory, view: View, jobs: Sequence[Job], verify: bool) -> dict[Task, Receipt]:
    """Find out which jobs are done, and say which of them turned out to be damaged."""
    done, quarantined = run.finished([job.task for job in jobs], verify=verify)
    for task in quarantined:
        view.say(f"{task} was damaged on disk: moved to quarantine, computed again")
    return done
