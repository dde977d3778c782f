"""The whole run: load, lower, plan, compute the kernels, factor, solve, predict, report."""

import contextlib
import errno
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cntk_pipeline.clusters import WorkerMemory
from cntk_pipeline.clusters.table import cluster_of, cluster_of_new, current_job, require_extras
from cntk_pipeline.clusters.trust import Trusted, of_user, read_trusted, warnings, write_trusted
from cntk_pipeline.config import DEFAULT_ENGINE, ClusterConfig, RunConfig
from cntk_pipeline.driver.phases import View, working
from cntk_pipeline.errors import ConfigError, PipelineError, RunNotFound, SpecificationMismatch, StoreError
from cntk_pipeline.gram import tiles as gram
from cntk_pipeline.gram.engines import load_code, other_versions, require_numerics, versions_for
from cntk_pipeline.inference import needs_test_kernel
from cntk_pipeline.rundir import growth, lease
from cntk_pipeline.rundir.code import in_absolute_places
from cntk_pipeline.rundir.directory import RunDirectory, holds_run
from cntk_pipeline.rundir.provenance import provenance
from cntk_pipeline.rundir.submissions import clear_earlier, obeying_requests
from cntk_pipeline.rundir.verification import finished
from cntk_pipeline.solvers import (
    computes_tiles,
    factor_tiles,
    forget_tiles,
    requested_solves,
    solve_name,
    with_factor_tile,
    with_older_tile,
)
from cntk_pipeline.storage import LocalPath, StorePath, open_path
from cntk_pipeline.storage.explanations import store_explained
from cntk_pipeline.workflow.checkup import Checked, check, lines_of, mend
from cntk_pipeline.workflow.load import Loaded, load, slots_of, specification_of, tile_of, write_inputs
from cntk_pipeline.workflow.passes import check_inputs, compute, prepare_worker
from cntk_pipeline.workflow.plan import Plan, make_plan
from cntk_pipeline.workflow.preflight import lacks_pairs, needs_engine, require_cards, require_fitting_tasks
from cntk_pipeline.workflow.report import make_report, read_contents
from cntk_pipeline.workflow.wanted import KERNEL, NESTED, find_wanted

if TYPE_CHECKING:
    from cntk_pipeline.kernels import NodeSummary, Summary


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
    run = RunDirectory(begun) if begun is not None and holds_run(begun) else None
    kept, free_bytes = ((), path.free_bytes()) if run is None else (factor_tiles(run), None)
    found = make_plan(loaded, tile_of(loaded, begun, old), kept, free_bytes)
    try:
        cluster_of(loaded.config.cluster).memory(loaded.config.cluster)
    except ConfigError as error:  # the plan says how much memory to give, so it is no refusal
        return replace(found, warnings=(*found.warnings, f"no run can begin with this [cluster]: {error}"))
    return found


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
    config : RunConfig
        The workflow.
    view : View
        Shows the progress.
    stop : threading.Event
        Set it to let tiles in flight finish, then `Interrupted` is raised.
    verify : bool
        Read every finished chunk and compare its checksums first.

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
        if not holds_run(path):  # otherwise nothing may be left to do, and no cluster be needed
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
    config : RunConfig
        The workflow.
    view : View
        Shows the progress.
    memory : WorkerMemory or None
        Of the future workers; tiles that do not fit are refused. None where it is not known yet.
    loaded : Loaded, optional
        The workflow with its data; None loads them.

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
    view : View
        As in `start`.
    verify : bool
        Read every finished chunk and compare its checksums, also where it is clear that something is left to do.
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
    path : str, Path, or StorePath
        Of the run directory.
    view, stop, verify
        As in `start`.
    cluster : ClusterConfig, optional
        Where to run from now on; None means the last cluster of the run, if this user wrote its settings.
    trust : bool
        Accept the cluster settings in the directory, and the code that it names, even if another user wrote them.
    told : str, optional
        The digest of the cluster settings that the submitter gave to this driver; None where a user started the driver.
        A submitted driver also obeys requests to stop that were made before it began.

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
        remedy = _MENDED_BY.get(error.errno, "mend that or give another --store")
        raise StoreError(
            error.errno,
            f"the run directory {path} could not be begun: {os.strerror(error.errno)}. Nothing is computed yet: "
            f"{remedy}, then the same command again (`cntk resume` has nothing to go on with)",
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
    require_cards(config, RunDirectory(path) if holds_run(path) else None)
    old = growth.find_source(config, path)
    specification = specification_of(loaded, tile_of(loaded, path, old))
    common = None if old is None else growth.compare(old, specification, *loaded.stored, NESTED)
    with store_explained(path):
        run = RunDirectory.create(path, specification, provenance(versions_for(specification.engine)))
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
    if not loaded.config.kernel.flips or len(shape) != 1 or (path is not None and holds_run(path)):
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


def _require_numerics(run: RunDirectory) -> None:
    """Refuse to go on with a kernel of another engine or version, before anything is started or set aside."""
    try:
        require_numerics(run)
    except SpecificationMismatch:
        if _computes_pairs(run):
            raise


def _computes_pairs(run: RunDirectory) -> bool:
    """Tell whether what is left of a run takes values of the kernel that are not stored."""
    computes = computes_tiles(run.workflow().solve)
    return any((computes or stage.phase == KERNEL) and stage.done < stage.total for stage in make_report(run).stages)


def _say_other_versions(run: RunDirectory, view: View) -> None:
    """Warn where pairs are left, and a library that their bits depend on is another one than at the beginning."""
    differing = other_versions(run)
    if differing and _computes_pairs(run):
        for name, (before, here) in differing.items():
            view.say(f"warning: the run began with {name} {before}, here is {here}: new tiles may differ in last bits")


def _load_code(run: RunDirectory, trusted: Trusted) -> None:
    """Import the user's code that computes a run, where pairs are left; errors as of `gram.engines.load_code`."""
    if trusted.code is not None and needs_engine(run, trusted.config):
        load_code(run, trusted.code)


def _is_lacking_images(run: RunDirectory) -> bool:
    """Tell whether chunks of the data set are gone, or the first of them, which each worker reads, is damaged."""
    try:
        gram.first_images(run)
    except StoreError:
        return True
    return bool(run.stored_data.lost())


def _execute(begun: Begun, view: View, stop: threading.Event, verify: bool) -> None:
    run, config = begun.run, begun.config
    _require_numerics(run)
    _say_other_versions(run, view)
    # Where no pair is left to compute, the chunks of the data set are not all read. Those of the kernel are listed
    # once, by the first pass, which checks the data set where some of them are gone.
    is_checked = verify or lacks_pairs(run, config) or _is_lacking_images(run)
    if is_checked:
        check_inputs(run, config, view)
    _sweep(run, view)
    run.journal.compact()
    computes, test_kernel = computes_tiles(config.solve), needs_test_kernel(config.inference)
    versions = versions_for(run.specification.engine)
    prepare = partial(prepare_worker, str(run.path.absolute()), versions, begun.trusted.code, computes, test_kernel)
    source = begun.trusted.source
    with (
        obeying_requests(run, stop, view.say),
        working(run, config.cluster, prepare, view, stop, begun.lease, verify=verify, source=source) as phases,
    ):
        require_fitting_tasks(run, config, phases.executor.memory())
        gram.kernel_group(run).create()
        try:
            compute(phases, config, is_checked)
        finally:
            forget_tiles()  # an executor may have computed in this process


@contextlib.contextmanager
def _retracting(run: RunDirectory) -> Iterator[None]:
    """Take the specification back if the configuration is refused: another tile makes another specification."""
    try:
        yield
    except ConfigError:
        run.retract()  # only where nothing is computed yet
        raise
