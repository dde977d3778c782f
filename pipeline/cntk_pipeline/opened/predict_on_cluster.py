"""Predictions for new images on the cluster of a run, kept in the run directory, resumable like the run itself."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from cntk_pipeline.clusters.table import cluster_of, current_job, require_devices
from cntk_pipeline.clusters.trust import Trusted, read_trusted
from cntk_pipeline.datasets.unlabelled import Unlabelled
from cntk_pipeline.driver.driver import Outcome
from cntk_pipeline.driver.phases import Phases, View, working
from cntk_pipeline.errors import CorruptTile, StoreError
from cntk_pipeline.gram import tiles as gram
from cntk_pipeline.gram.engines import load_code, uses_devices, versions_for
from cntk_pipeline.opened.columns import predicted_of
from cntk_pipeline.opened.deviations import deviation_factors, deviations_of
from cntk_pipeline.opened.new_images import NewImages
from cntk_pipeline.opened.predict_in_memory import cost_line, first_cost, require_engine, stored_coefficients
from cntk_pipeline.opened.systems import AskedReadout, find_readout, find_system
from cntk_pipeline.opened.tiles import Stored, require_whole
from cntk_pipeline.rundir import lease
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.owners import Job
from cntk_pipeline.rundir.predictions import ImagesRecord, PredictionDirectory
from cntk_pipeline.rundir.specification import DataSpecification
from cntk_pipeline.rundir.submissions import find_request, obeying_requests
from cntk_pipeline.solvers import System, forget_tiles
from cntk_pipeline.storage import open_path
from cntk_pipeline.storage.explanations import store_explained
from cntk_pipeline.storage.tiled_array import Array, TiledArray
from cntk_pipeline.units import shell_word
from cntk_pipeline.workflow import predictions as tasks
from cntk_pipeline.workflow.passes import prepare_worker
from cntk_pipeline.workflow.preflight import kernel_need

PASSES = 2
"""Passes at most: the first, and the one that computes damaged tiles of the predictions again."""


@dataclass(frozen=True)
class PredictionQuestion:
    """What is asked of new images.

    Attributes
    ----------
    readout : str or sequence, optional
        As in `find_readout`.
    ridge : float, optional
        As in `find_system`.
    std : bool
        Whether the posterior standard deviation is asked for too.
    trust : bool
        Whether the cluster settings of the run directory are followed and the code that it names is imported, even if
        another user wrote them.
    """

    readout: AskedReadout = None
    ridge: float | None = None
    std: bool = False
    trust: bool = False


@dataclass(frozen=True)
class Predictions:
    """The predictions of new images.

    Attributes
    ----------
    names : tuple of str
        Of the images: their files, or their row numbers.
    data : DataSpecification
        Of the run: its task and its classes.
    scores : array
        Predictive means, ``(n, classes)`` float64.
    std : array or None
        Posterior standard deviations in the unit of the targets, float64: ``(n,)``, of a regression ``(n, targets)``;
        None where they were not asked for. The kernel has the factor with which the training targets are most likely.
    """

    names: tuple[str, ...]
    data: DataSpecification
    scores: Array
    std: Array | None

    @property
    def predicted(self) -> Array:
        """The predictions, as `predicted_of` makes them of the means."""
        return predicted_of(self.data, self.scores)


def predict_images(
    run: RunDirectory, given: Unlabelled, question: PredictionQuestion, view: View, stop: threading.Event
) -> Predictions:
    """Predict new images, or read predictions that are there; the run itself is not changed.

    Parameters
    ----------
    run : RunDirectory
        With a solved system.
    given : Unlabelled
        The images, as the source of the run had them.
    question : PredictionQuestion
        The read-out, the ridge, and whether deviations are asked for.
    view : View
        Shows the progress.
    stop : threading.Event
        Set it to let tiles in flight finish, then `Interrupted` is raised; the same call goes on.

    Raises
    ------
    DataError
        If the images differ from those of the run in shape or kind of numbers, or are not finite.
    ConfigError
        If there is no such read-out or ridge, or no factor for deviations.
    NotComputed
        If the system is not solved yet.
    RunLocked
        If a driver works on the run.
    SpecificationMismatch
        If another version of the package computed the kernel.
    TilesFailed, WorkersLost, NotTrusted
        As of a run. A cluster that could not compute is refused as of a run too, with `ConfigError`.
    """
    system = find_system(run, find_readout(run, question.readout), question.ridge)
    require_whole(run, stored_coefficients(run, system), f"the solution of {system.label}")
    if question.std:
        tasks.require_factor(run, system)
    images = NewImages.of(run, given)
    for note in given.notes:
        view.say(f"warning: {note}")
    trusted = read_trusted(run, trust=question.trust)
    digest = images.digest()
    directory = _find(run, digest, system.readout)
    if directory is not None and _is_whole(directory, system, question):
        view.say("these images are predicted already: nothing is computed")
    else:
        if trusted.code is not None:
            load_code(run, trusted.code)
        engine = require_engine(run, system.readout)
        cluster = trusted.config.cluster
        require_devices(cluster, run.specification.engine.name, uses_devices=uses_devices(run))
        cluster_of(cluster).check(cluster)
        columns = run.column_cut.count
        pairs = len(images) * columns
        seconds = first_cost(engine, images[: engine.lane_width], pairs).seconds_left(pairs) or 0.0
        slots = cluster_of(cluster).slots(cluster)
        view.say(cost_line(len(images), columns, seconds / slots, slots))
        directory = _compute(run, digest, images, system, question, trusted, view, stop)
    return _read(run, directory, images, system, question)


def _find(run: RunDirectory, digest: str, readout: str) -> PredictionDirectory | None:
    try:
        return PredictionDirectory(run.path / "predictions" / digest / readout)
    except FileNotFoundError:
        return None


def _arrays(directory: PredictionDirectory, system: System, question: PredictionQuestion) -> list[Stored]:
    """Describe the asked results: the mean, and the variance where a deviation is asked for."""
    found = [Stored.of(tasks.mean_group(directory, system), "mean")]
    if question.std:
        found.append(Stored.of(tasks.variance_products(directory, system)[-1].group(directory), "variance"))
    return found


def _is_whole(directory: PredictionDirectory, system: System, question: PredictionQuestion) -> bool:
    """Tell whether all asked results are there, by their names; they are checked when they are read."""
    try:
        for stored in _arrays(directory, system, question):
            TiledArray(open_path(stored.place))
            done, total = stored.count()
            if done < total:
                return False
    except StoreError:  # a description is gone or damaged, and is written anew before anything is computed
        return False
    return True


def _compute(
    run: RunDirectory,
    digest: str,
    images: NewImages,
    system: System,
    question: PredictionQuestion,
    trusted: Trusted,
    view: View,
    stop: threading.Event,
) -> PredictionDirectory:
    """Store the images and compute what is asked for."""
    # What others see of the run's drivers stays: a request to one of them is not obeyed, and not deleted.
    earlier = find_request(run)
    with store_explained(run.path, None), lease.hold(run.lease_path, current_job()) as held:
        record = ImagesRecord(len(images), images.given.origin)
        directory = PredictionDirectory.begin(run, digest, system.readout, record)
        for path in tasks.mend(directory):
            view.say(f"{path} was gone or damaged: written anew")
        _store_images(directory, images, view)
        versions = versions_for(run.specification.engine)
        prepare = partial(prepare_worker, str(directory.path.absolute()), versions, trusted.code)
        with (
            obeying_requests(run, stop, view.say, earlier),
            working(directory, trusted.config.cluster, prepare, view, stop, held) as phases,
        ):
            memory = phases.executor.memory()
            if memory is not None:
                kernel_need(directory, memory).require(memory)
            tasks.kernel_group(directory).create()
            try:
                _run_phases(phases, run, system, question)
            finally:
                forget_tiles()
    return directory


def _run_phases(phases: Phases, run: RunDirectory, system: System, question: PredictionQuestion) -> None:
    """Compute phase by phase; where a tile turns out to be damaged, all are checked and bad ones computed again.

    Raises
    ------
    CorruptTile
        If a tile of the run itself is damaged.
    """
    directory = phases.run
    assert isinstance(directory, PredictionDirectory)

    def attempt(phases: Phases) -> Sequence[Outcome]:
        outcome = Outcome()
        for phase, jobs in _phases(directory, system, question):
            if not outcome.failed:
                outcome = phases.run_jobs(phase, jobs)
        return (outcome,)

    (outcome,) = phases.mending(PASSES, attempt)
    if outcome.damaged:
        raise CorruptTile(
            f"{outcome.damaged[0]}. `cntk resume --verify {shell_word(run.path)}` computes it again, then the same "
            "command goes on"
        )
    outcome.require()


def _phases(
    directory: PredictionDirectory, system: System, question: PredictionQuestion
) -> list[tuple[str, Sequence[Job]]]:
    tasks.mean_group(directory, system).create()
    found: list[tuple[str, Sequence[Job]]] = [
        ("kernel", tasks.kernel_jobs(directory, gram.node_counts(directory))),
        ("predict", tasks.mean_jobs(directory, system)),
    ]
    if question.std:
        for product in tasks.variance_products(directory, system):
            product.create(directory)
        found.append(("deviation", tasks.variance_jobs(directory, system)))
    return found


def _store_images(directory: PredictionDirectory, images: NewImages, view: View) -> None:
    """Store the images; where they are stored already, damaged parts are written anew."""
    if not directory.has_inputs():
        directory.stored_data.write({"test_images": images})
        return
    damaged = directory.stored_data.damaged()
    if damaged:
        directory.stored_data.write_again({"test_images": images})
        for path in damaged:
            view.say(f"{path} was gone or damaged: written anew from {directory.images.origin}")


def _read(
    run: RunDirectory, directory: PredictionDirectory, images: NewImages, system: System, question: PredictionQuestion
) -> Predictions:
    """Read the results, checked."""
    try:
        scores, *variances = (
            np.asarray(stored.lazy(whole=True).compute(scheduler="synchronous"))
            for stored in _arrays(directory, system, question)
        )
    except CorruptTile as error:
        raise CorruptTile(
            f"{error}. `cntk verify {shell_word(run.path)}`, then the same command computes it again"
        ) from None
    data = directory.specification.data
    std = deviations_of(variances[0], deviation_factors(run, system)) if variances else None
    return Predictions(tuple(images.given.names), data, scores, std)
