"""The whole run: load, lower, plan, compute the kernels, factor, solve, predict, report."""

import contextlib
import errno
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cntk_pipeline.clusters import WorkerMemory
from cntk_pipeline.clusters.table import cluster_of, cluster_of_new, current_job, require_extras
from cntk_pipeline.clusters.trust import Trusted, of_user, read_trusted, warnings, write_trusted
from cntk_pipeline.config import DEFAULT_ENGINE, ClusterConfig, RunConfig
from cntk_pipeline.config.loopback import is_loopback
from cntk_pipeline.driver.board import Board
from cntk_pipeline.driver.driver import Outcome
from cntk_pipeline.driver.observed import recording
from cntk_pipeline.driver.phases import Phases, View
from cntk_pipeline.driver.rounds import Course
from cntk_pipeline.driver.timing import PhaseClock
from cntk_pipeline.errors import ConfigError, CorruptTile, PipelineError, RunNotFound, SpecificationMismatch, StoreError
from cntk_pipeline.gram import tiles as gram
from cntk_pipeline.gram.engines import load_code, require_numerics
from cntk_pipeline.gram.pivots import pivot_jobs, pivot_rounds, pivots_group, trace_errors
from cntk_pipeline.graphs import NodeCounts
from cntk_pipeline.inference import (
    Capacity,
    add_remedies,
    choose_ridges,
    needs_test_kernel,
    requested_products,
    run_products,
)
from cntk_pipeline.rundir import growth, lease
from cntk_pipeline.rundir.code import UserCode, in_absolute_places
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.grids import Jobs
from cntk_pipeline.rundir.provenance import library_versions, provenance
from cntk_pipeline.rundir.submissions import clear_earlier, obeying_requests
from cntk_pipeline.rundir.verification import finished
from cntk_pipeline.solvers import (
    METRICS,
    System,
    computes_tiles,
    factor_tiles,
    forget_tiles,
    kept_tiles_of,
    make_system,
    method_of,
    metrics,
    open_system,
    prediction_jobs,
    requested_selections,
    requested_solves,
    reserve_buffers,
    solve_name,
    solver_of,
    with_factor_tile,
    with_older_tile,
)
from cntk_pipeline.storage import LocalPath, StorePath, open_path
from cntk_pipeline.storage.durable import store_explained
from cntk_pipeline.telemetry.events import Event, emit
from cntk_pipeline.telemetry.metrics import served as metrics_served
from cntk_pipeline.workflow.checkup import Checked, check, lines_of, mend
from cntk_pipeline.workflow.load import Loaded, load, mend_inputs, slots_of, specification_of, tile_of, write_inputs
from cntk_pipeline.workflow.plan import Plan, make_plan
from cntk_pipeline.workflow.preflight import needs_engine, require_cards, require_fitting_tasks
from cntk_pipeline.workflow.report import make_report, read_contents
from cntk_pipeline.workflow.wanted import INFERENCE, KERNEL, NESTED, SOLVE, find_wanted

if TYPE_CHECKING:
    from cntk_pipeline.kernels import NodeSummary, Summary

REPAIRS = 3
"""How often a run goes back to compute tiles that turned out to be damaged."""


@dataclass(frozen=True)
class Begun:
    """A run directory with its images and its workflow, held by this driver."""

    run: RunDirectory
    trusted: Trusted
    lease: lease.Lease

    @property
    def config(self) -> RunConfig:
        """Return the workflow."""
        return self.trusted.config


def plan(config: RunConfig) -> Plan:
    """Forecast a run; no run directory is made."""
    return forecast(load(config))


def forecast(loaded: Loaded) -> Plan:
    """Forecast a run as `plan` does, of data that are loaded."""
    path = run_path(loaded.config)
    require_cards(loaded.config)
    old = growth.find_source(loaded.config, path)
    # A bucket that is not there yet is no reason against a forecast.
    begun = path if isinstance(path, LocalPath) else None
    _require_images(loaded, begun)
    kept = factor_tiles(RunDirectory(begun)) if begun is not None and (begun / "run.json").exists() else ()
    plan = make_plan(loaded, tile_of(loaded, begun, old), kept, path.free_bytes())
    try:
        cluster_of(loaded.config.cluster).memory(loaded.config.cluster)
    except ConfigError as error:  # the plan says how much memory to give, so it is no refusal
        return replace(plan, warnings=(*plan.warnings, f"no run can begin with this [cluster]: {error}"))
    return plan


def costliest_network(config: RunConfig) -> "tuple[str, Summary | NodeSummary]":
    """Lay out the network of the read-out that costs most, by name; nothing is computed or written.

    Raises
    ------
    ConfigError
        If the engine has no table of a network.
    """
    loaded = load(config)
    found = ((readout.name, loaded.engine.summary(number)) for number, readout in enumerate(loaded.readouts))
    summaries = {name: each for name, each in found if each is not None}
    if not summaries:
        raise ConfigError(
            f'the engine "{config.kernel.engine}" lays out no network: kernel.engine = "{DEFAULT_ENGINE}" does'
        )
    name = max(summaries, key=lambda name: summaries[name].entries)
    return name, summaries[name]


def run_path(config: RunConfig) -> StorePath:
    """Return the run directory of a workflow."""
    return open_path(config.store.path or f"runs/{config.name}")


def start(config: RunConfig, view: View, stop: threading.Event, *, verify: bool = False) -> RunDirectory:
    """Run a workflow to its end, or go on with it where its run directory has been begun.

    Parameters
    ----------
    config : the workflow.
    view : shows the progress.
    stop : set it to let tiles in flight finish, then `Interrupted` is raised.
    verify : read every finished chunk and compare its checksums first.

    Raises
    ------
    SpecificationMismatch
        If the run directory belongs to another specification, or has nothing in common with the run that it should
        grow from.
    RunLocked
        If another driver works on it.
    TilesFailed
        If tiles could not be computed, with the reasons; all others are kept.
    NotPositiveDefinite
        If a ridge was too small; the other systems are solved.
    NotConverged
        If conjugate gradients did not reach the residual asked for; the other systems are solved.
    """
    path = run_path(config)
    with _beginning(path) as has_begun:
        if not (path / "run.json").exists():  # otherwise nothing may be left to do, and no cluster be needed
            cluster_of(config.cluster).check(config.cluster)
        with _begun(config, view) as begun, _retracting(begun.run):
            has_begun.set()
            clear_earlier(begun.run)
            if not _is_done(begun.run, begun.config, view, verify):
                _execute(begun, view, stop, verify)
    return begun.run


def begin_elsewhere(
    config: RunConfig, view: View, memory: WorkerMemory | None, loaded: Loaded | None = None
) -> tuple[RunDirectory, Trusted]:
    """Begin a run directory with everything that a driver elsewhere needs to run it, its images included.

    Parameters
    ----------
    config : the workflow.
    view : shows the progress.
    memory : of the future workers; tiles that do not fit are refused. None where it is not known yet.
    loaded : the workflow with its data; None loads them.

    Raises
    ------
    SpecificationMismatch, RunLocked
        As in `start`.
    ConfigError
        If a tile does not fit into the memory.
    """
    with _beginning(run_path(config)) as has_begun, _begun(config, view, loaded) as begun, _retracting(begun.run):
        has_begun.set()
        clear_earlier(begun.run)
        require_fitting_tasks(begun.run, begun.config, memory)
    return begun.run, begun.trusted


def adopt(run: RunDirectory, trusted: Trusted, memory: WorkerMemory | None) -> None:
    """Make a run directory ready for a driver elsewhere, by a workflow that it is run with from now on.

    Raises
    ------
    RunNotFound, RunLocked, ConfigError
        As in `resume` and `begin_elsewhere`.
    """
    _load_code(run, trusted)
    require_cards(trusted.config, run)
    require_fitting_tasks(run, trusted.config, memory)
    with _held(run, None):
        write_trusted(run, trusted)
        clear_earlier(run)


def is_done(run: RunDirectory, view: View, *, verify: bool = False) -> bool:
    """Tell whether nothing of a run is left to do, by looking at every finished tile; bad ones go to quarantine.

    Parameters
    ----------
    view : as in `start`.
    verify : read every finished chunk and compare its checksums, also where it is clear that something is left to do.
    """
    if not verify and not _may_be_done(run, run.workflow()):
        return False
    with _held(run, view):
        return _is_whole(run, run.workflow(), view, verify)


def resume(
    path: str | Path | StorePath,
    view: View,
    stop: threading.Event,
    *,
    verify: bool = False,
    cluster: ClusterConfig | None = None,
    trust: bool = False,
    told: str | None = None,
) -> RunDirectory:
    """Go on with a run directory, by the workflow it was last run with; its data set is not needed any more.

    Where nothing is left to do, no cluster is connected to, even if the directory names one.

    Parameters
    ----------
    path : of the run directory.
    view, stop, verify : as in `start`.
    cluster : where to run from now on; None means the last cluster of the run, if this user wrote its settings.
    trust : accept the cluster settings in the directory, and the code that it names, even if another user wrote them.
    told : the digest of the cluster settings that the submitter gave to this driver; None where a user started the
        driver. A submitted driver also obeys requests to stop that were made before it began.

    Raises
    ------
    RunNotFound
        If there is no run, or it stopped before its data were stored.
    NotTrusted
        If somebody else wrote the cluster settings, and they could do harm; or the run names code to import.
    ConfigError
        If that code is not on this machine.
    SpecificationMismatch
        If its source has changed since the run was begun.
    """
    run = RunDirectory(path)
    with _held(run, view) as held:
        contents = read_contents(run)
        for line in () if contents is None else contents.lines:
            view.say(line)
        config = run.workflow()
        if _is_done(run, config, view, verify):
            clear_earlier(run)
            return run
        if cluster is None:
            with config.named_in_errors():
                cluster_of(config.cluster)  # anybody may have edited the file
        else:
            cluster_of_new(cluster)
        trusted = read_trusted(run, cluster=cluster, trust=trust, told=told)
        for line in trusted.shown:
            view.say(line)
        _load_code(run, trusted)
        require_cards(trusted.config, run)
        cluster_of(trusted.config.cluster).check(trusted.config.cluster)
        if cluster is not None or trust:
            write_trusted(run, trusted)
        if told is None:
            clear_earlier(run)
            for line in warnings(trusted):
                view.say(f"warning: {line}")
        as_before = "" if cluster is not None else ", as it was last run"
        view.say(f'going on with the cluster of kind "{trusted.config.cluster.kind}"{as_before}')
        _execute(Begun(run, trusted, held), view, stop, verify)
    return run


_MENDED_BY = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of your share of the disk",
    errno.EFBIG: "lift the limit on the size of files (ulimit -f unlimited)",
}
"""Remedies for errors of the operating system, where the error itself does not suggest one."""


@contextlib.contextmanager
def _beginning(path: StorePath) -> Iterator[threading.Event]:
    """Ask to start again where the store failed before the images were in it: `cntk resume` could not go on then.

    Yields an event, to be set as soon as the images are stored.

    Raises
    ------
    StoreError
        Instead of an error of the operating system.
    """
    has_begun = threading.Event()
    try:
        yield has_begun
    except OSError as error:
        # Other errors of the package already name the fault of the place.
        is_plain = not isinstance(error, PipelineError) or error.errno in (*_MENDED_BY, errno.EROFS, errno.EACCES)
        if not is_plain or error.errno is None or has_begun.is_set() or _holds_images(path):
            raise
        mend = _MENDED_BY.get(error.errno, "mend that or give another --store")
        raise StoreError(
            error.errno,
            f"the run directory {path} could not be begun: {os.strerror(error.errno)}. Nothing is computed yet: "
            f"{mend}, then the same command again (`cntk resume` has nothing to go on with)",
        ) from error


def _holds_images(path: StorePath) -> bool:
    try:
        return RunDirectory(path).has_inputs()
    except RunNotFound:
        return False


@contextlib.contextmanager
def _begun(config: RunConfig, view: View, loaded: Loaded | None = None) -> Iterator[Begun]:
    """Hold the lease of a run directory that has its specification, its workflow and its images."""
    require_extras(config.cluster)
    if loaded is None:
        view.say(f'loading the data set "{config.data.source}"')
        loaded = load(config)
    path = run_path(config)
    _require_images(loaded, path)
    require_cards(config, RunDirectory(path) if (path / "run.json").exists() else None)
    old = growth.find_source(config, path)
    specification = specification_of(loaded, tile_of(loaded, path, old))
    common = None if old is None else growth.compare(old, specification, *loaded.stored, NESTED)
    with store_explained(path):
        run = RunDirectory.create(path, specification, provenance())
    for line in loaded.contents.lines:
        view.say(line)
    for line in loaded.warnings:
        view.say(f"warning: {line}")
    with store_explained(path), lease.hold(run.lease_path, current_job()) as held:
        if common is not None:
            growth.begin(run, common, view.say)
        _mend(run, config, view)
        trusted = of_user(run, in_absolute_places(_with_factor_tile(config, run)))
        write_trusted(run, trusted)
        for line in warnings(trusted):
            view.say(f"warning: {line}")
        if not run.has_inputs():
            write_inputs(run, loaded)
        del loaded  # not needed while the run computes, and as large as the data set
        yield Begun(run, trusted, held)


def _require_images(loaded: Loaded, path: StorePath | None) -> None:
    """Refuse flips of vectors, which change nothing, unless an earlier version has begun the run with them.

    Raises
    ------
    ConfigError
        With the shape.
    """
    shape = loaded.data.train.images.shape[1:]
    if not loaded.config.kernel.flips or len(shape) != 1 or (path is not None and (path / "run.json").exists()):
        return
    raise ConfigError(
        f"{loaded.data.name}: kernel.flips = true averages over images flipped left to right, and these are vectors of "
        f"shape {shape}: leave kernel.flips out, or give images (n, H, W, C)"
    )


def _with_factor_tile(config: RunConfig, run: RunDirectory) -> RunConfig:
    """Set a factor tile of "auto" to that of the older run that is grown from, or to what suits the cluster."""
    solve = with_older_tile(config.solve, run)
    solve = with_factor_tile(solve, run.train_cut, slots_of(config), factor_tiles(run))
    return config.model_copy(update={"solve": solve})


@contextlib.contextmanager
def _held(run: RunDirectory, view: View | None) -> Iterator[lease.Lease]:
    """Hold the lease of a run directory that was begun before, with its images; mend the descriptions of its arrays."""
    config = run.workflow()  # raises RunNotFound where a driver stopped before it wrote one
    with store_explained(run.path), lease.hold(run.lease_path, current_job()) as held:
        _mend(run, config, view)
        if not run.has_inputs():
            raise RunNotFound(f"{run.path} stopped before its images were stored: start it again with `cntk run`")
        yield held


def _sweep(run: RunDirectory, view: View) -> None:
    swept = run.sweep()
    if swept:
        view.say(f"swept {swept} half-written files of an earlier driver")


def _mend(run: RunDirectory, config: RunConfig, view: View | None) -> None:
    for path in mend(run, config):
        if view is not None:
            view.say(f"{path} was gone or damaged: written anew")


def _may_be_done(run: RunDirectory, config: RunConfig) -> bool:
    """Tell, by file names alone, whether every result is there; while one is missing, no array is listed."""
    solves = [solve_name(specification) for specification in requested_solves(run, config)]
    return all((run.solve_path(name) / "metrics.json").is_file() for name in solves)


def _is_done(run: RunDirectory, config: RunConfig, view: View, verify: bool) -> bool:
    """Tell whether every result is there and no finished tile is bad, before anything is started or connected to."""
    return _may_be_done(run, config) and _is_whole(run, config, view, verify)


def _is_whole(run: RunDirectory, config: RunConfig, view: View, verify: bool) -> bool:
    if verify:
        found = check(run, config)
        for line in lines_of(found):
            view.say(line)
        is_done = not found.needs_resume and make_report(run).complete
    else:
        if not make_report(run).complete:
            return False
        _, bad = finished(run, find_wanted(run, config).jobs())
        for task in bad:
            view.say(f"{task} was damaged on disk: moved to quarantine, computed again")
        is_done = not bad
    run.journal.close()
    if is_done:
        _sweep(run, view)
        view.say("nothing is left to do: every tile and every result is there")
    return is_done


def verify(path: str | Path | StorePath) -> Checked:
    """Read all finished tiles and records and compare checksums; move bad ones to quarantine."""
    run = RunDirectory(path)
    config = run.workflow()
    with store_explained(run.path, "verify"), lease.hold(run.lease_path, current_job()):
        found = check(run, config)
    run.journal.close()
    return found


def prepare_worker(run_path: str, versions: dict[str, str], code: UserCode | None, computes: bool = False) -> None:
    """Prepare a process that computes tiles; parameters and errors as in `gram.prepare_worker`, `reserve_buffers`."""
    forget_tiles()  # an earlier driver's solves may have had other options beside the result
    reserve_buffers()
    gram.prepare_worker(run_path, versions, code, computes)


def _require_numerics(run: RunDirectory) -> None:
    """Refuse to go on with a kernel of another engine or version, before anything is started or set aside."""
    try:
        require_numerics(run)
    except SpecificationMismatch:
        stages = make_report(run).stages
        computes = computes_tiles(run.workflow().solve)
        if any((computes or stage.phase == KERNEL) and stage.done < stage.total for stage in stages):
            raise


def _load_code(run: RunDirectory, trusted: Trusted) -> None:
    """Import the user's code that computes a run, where pairs are left; errors as of `gram.engines.load_code`."""
    if trusted.code is not None and needs_engine(run, trusted.config):
        load_code(run, trusted.code)


def _mend_inputs(run: RunDirectory, config: RunConfig, verify: bool) -> list[StorePath]:
    """Check all chunks of the data set if pairs may still be computed from it; otherwise only look for lost ones."""
    computes = computes_tiles(config.solve) or gram.is_missing_tiles(run)
    if verify or computes or run.stored_data.lost():
        return mend_inputs(run, config)
    return []


def _execute(begun: Begun, view: View, stop: threading.Event, verify: bool) -> None:
    run, config = begun.run, begun.config
    _require_numerics(run)
    for path in _mend_inputs(run, config, verify):
        view.say(f"{path} was gone or damaged: written anew from the data set")
    _sweep(run, view)
    run.journal.compact()
    view.say(cluster_of(config.cluster).preparation)
    computes = computes_tiles(config.solve)
    prepare = partial(prepare_worker, str(run.path.absolute()), library_versions(), begun.trusted.code, computes)
    with (
        recording(run),
        obeying_requests(run, stop, view.say),
        metrics_served(config.cluster.metrics) as metrics_address,
        cluster_of(config.cluster).executor(config.cluster, prepare, stop) as executor,
        executor.watched(),
    ):
        view.say(f"computing on {executor.describe()}")
        for line in (*executor.warnings, *run.path.shortcomings()):
            view.say(f"warning: {line}")
        emit(Event("driver_started", details={"executor": executor.describe(), "slots": executor.slots}))
        if metrics_address is not None:
            view.say(f"metrics of the driver at {metrics_address}")
            if not is_loopback((config.cluster.metrics or "").rpartition(":")[0]):
                view.say("warning: all who reach this host can read cluster.metrics; 127.0.0.1 keeps them to it")
        require_fitting_tasks(run, config, executor.memory())
        nodes = gram.node_counts(run)
        gram.kernel_group(run).create()
        clock = PhaseClock(run, lambda: executor.slots)
        board = Board.shown_by(executor, str(run.path))
        phases = Phases(run, executor, view, clock, board, stop, verify, begun.lease, begun.trusted.source)
        try:
            _compute(phases, config, nodes)
        finally:
            clock.end()
            forget_tiles()  # an executor may have computed in this process
            run.journal.close()


def _compute(phases: Phases, config: RunConfig, nodes: NodeCounts | None) -> None:
    """Compute what is left; where a tile is found damaged, check all and begin again, `REPAIRS` times at most."""
    for _ in range(REPAIRS):
        outcomes = _pass(phases, config, nodes)
        damaged = [error for outcome in outcomes for error in outcome.damaged]
        if not damaged:
            break
        phases = phases.checking_all(damaged[0])
    for outcome in outcomes:
        outcome.require()


def _pass(phases: Phases, config: RunConfig, nodes: NodeCounts | None) -> list[Outcome]:
    """Go once through all phases, and return what came of those that may meet damaged tiles."""
    run, test_kernel_jobs = phases.run, Jobs()
    if needs_test_kernel(config.inference):
        gram.test_group(run).create()
        test_kernel_jobs = gram.test_kernel_jobs(run, nodes)
    phases.executor.adapt()
    centres = _draw_centres(phases, config)
    if centres.failed:
        return [centres]
    kernel_jobs = gram.kernel_jobs(run, nodes, kept_tiles_of(run, config.solve))
    phases.run_jobs(KERNEL, kernel_jobs + test_kernel_jobs).require()
    phases.executor.hold(phases.stop)
    return [centres, _choose_ridges(phases, config), _solve(phases, config), _infer(phases, config)]


@contextlib.contextmanager
def _retracting(run: RunDirectory) -> Iterator[None]:
    """Take the specification back if the configuration is refused: another tile makes another specification."""
    try:
        yield
    except ConfigError:
        run.retract()  # only where nothing is computed yet
        raise


def _draw_centres(phases: Phases, config: RunConfig) -> Outcome:
    """Let the kernel itself draw the centres, and compute its columns, where the workflow asks for that."""
    run = phases.run
    if not run.specification.has_pivots:
        return Outcome()
    pivots_group(run).create()
    *_, last = pivot_jobs(run)
    course = Course("centres", pivot_rounds(run), last, ())
    outcome, _ = phases.run_courses(KERNEL, [course], lambda: _pivots_text(run))
    if not outcome.failed and not run.has_all_pivots:
        outcome.failed[last.task] = CorruptTile(f"{run.pivots_path}: a chunk of the pivots is damaged")
    if run.has_all_pivots:
        _mend(run, config, None)  # where there are fewer centres than there may be, all arrays become smaller
        run.forget_arrays()
    return outcome


def _pivots_text(run: RunDirectory) -> str:
    """Describe how far the draw of centres is, where it has begun."""
    try:
        errors = trace_errors(run)
    except CorruptTile:  # the task that reads it finds it too, and it is computed again
        errors = []
    return f"block {len(errors)}, relative trace error {errors[-1]:.1e} before it" if errors else ""


def _choose_ridges(phases: Phases, config: RunConfig) -> Outcome:
    """Choose a ridge for each read-out, where the workflow leaves that to leave-one-out."""
    capacity = Capacity(phases.executor.slots, phases.executor.memory())
    outcome = choose_ridges(phases.run, requested_selections(phases.run, config), capacity, phases.run_jobs)
    add_remedies(phases.run, outcome, phases.run_jobs)
    return outcome


def _solve(phases: Phases, config: RunConfig) -> Outcome:
    run, method = phases.run, method_of(config.solve)
    systems = [make_system(run, specification, method) for specification in requested_solves(run, config)]
    courses = [_course(phases, system, order) for order, system in enumerate(systems)]
    phases.take_over([course.solution for course in courses])  # before a course of many rounds begins
    outcome, solved = phases.run_courses(SOLVE, courses, lambda: _convergence(run, systems))
    for name in solved:
        if run.read_record(f"solve/{name}/metrics.json", METRICS) is None:
            run.write_record(f"solve/{name}/metrics.json", metrics(run, name))
    add_remedies(run, outcome, phases.run_jobs)
    return outcome


def _course(phases: Phases, system: System, order: int) -> Course:
    run, solver = phases.run, solver_of(system.method)
    *_, solution = solver.jobs(run, system)
    predictions = prediction_jobs(run, system.fingerprint, order)
    rounds = solver.rounds(run, system, order, phases.executor.slots)
    return Course(system.fingerprint, rounds, solution, predictions)


def _convergence(run: RunDirectory, systems: Sequence[System]) -> str:
    """Describe the progress of the slowest system that iterates; an empty text where none does."""
    far = [solver_of(system.method).iterations(run, system) for system in systems]
    open_ones = [iterations for iterations in far if iterations and iterations.residuals and not iterations.finished]
    if not open_ones:
        return ""
    worst = max(open_ones, key=lambda iterations: iterations.residuals[-1])
    return f"iteration {worst.count + 1}, residual {worst.residuals[-1]:.1e}"


def _infer(phases: Phases, config: RunConfig) -> Outcome:
    """Compute the results of inference for every system that is solved, and those that belong to no system."""
    run, products = phases.run, []
    for order, specification in enumerate(requested_solves(run, config)):
        system = open_system(run, solve_name(specification))
        if run.has_record(f"solve/{system.fingerprint}/metrics.json"):
            products += requested_products(run, system, config.inference, order)
    products += run_products(run, config.inference)
    if not products:
        return Outcome()
    for product in products:
        product.create(run)
    outcome = phases.run_jobs(INFERENCE, [job for product in products for job in product.jobs])
    for product in products:
        if all(job.task in outcome.done for job in product.jobs):
            product.finish(run)
    return outcome
