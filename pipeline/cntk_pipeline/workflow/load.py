"""The beginning of a run: its workflow with the data, its specification, and its images in the store."""

import errno
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from cntk_pipeline import datasets
from cntk_pipeline.clusters.table import cluster_of, cluster_of_new, idle_options
from cntk_pipeline.config import RunConfig, SolveConfig
from cntk_pipeline.datasets import Contents, Dataset, Split, Standardization
from cntk_pipeline.datasets.selection import bring_first, draw
from cntk_pipeline.errors import ConfigError, DataError, PipelineError, StoreError
from cntk_pipeline.gram import tiles as gram
from cntk_pipeline.gram.engines import make_engine, read_engine
from cntk_pipeline.graphs import NodeCounts, count_nodes, is_graph
from cntk_pipeline.inference import require_options, require_results
from cntk_pipeline.kernels import Engine, PairCost, Question, is_untrained
from cntk_pipeline.layers.absent import takes_gaps, takes_padding
from cntk_pipeline.layers.normalization import find_dropout
from cntk_pipeline.layers.presets import PRESETS
from cntk_pipeline.rundir.directory import RunDirectory, holds_run
from cntk_pipeline.rundir.preprocessing import Preprocessing, find_preprocessing
from cntk_pipeline.rundir.specification import DataSpecification, EngineRecord, Specification
from cntk_pipeline.sequences import has_absent_pixels, has_absent_steps
from cntk_pipeline.solvers import centres_of, options_of
from cntk_pipeline.storage import StorePath
from cntk_pipeline.storage.tiled_array import Array
from cntk_pipeline.tiling import MOST_TILES, choose_tile, clip_tile, count_tiles
from cntk_pipeline.units import shell_word

SAMPLE = 32
"""Training images that an engine is checked and measured on; of graphs all are looked at."""


@dataclass(frozen=True)
class Loaded:
    """A workflow with its data: the source of a run's specification, and warnings about the data."""

    config: RunConfig
    data: Dataset
    digest: str
    readouts: tuple[gram.Readout, ...]
    standardize_first: int
    warnings: tuple[str, ...]

    @cached_property
    def engine_record(self) -> EngineRecord:
        """The engine by name, with its options; the user's code is imported where the workflow names some."""
        return read_engine(self.config.kernel)

    @cached_property
    def engine(self) -> Engine:
        """The engine of the read-outs."""
        asked = tuple((readout.network, readout.kind) for readout in self.readouts)
        kernel = self.config.kernel
        return make_engine(
            self.engine_record, Question(asked, self.data.train.images.shape[1:], kernel.dtype, kernel.flips)
        )

    @cached_property
    def described(self) -> DataSpecification:
        """The images, as a specification holds them."""
        config, data = self.config, self.data
        assert data.test is not None
        train = len(data.train.images)
        return DataSpecification(
            self.digest,
            train,
            len(data.test.images),
            data.train.images.shape[1:],
            tuple(data.classes),
            config.data.standardize,
            self.standardize_first if self.standardize_first < train else None,  # all images need no number
            config.data.shuffle,
            data.task,
            data.test.labels is not None,
            data.features,
        )

    @cached_property
    def contents(self) -> Contents:
        """The chosen images by class."""
        return Contents.of(self.data)

    @cached_property
    def _standardized(self) -> tuple[Dataset, Standardization | None]:
        """The data set as the kernel reads it, but for the dtype of what is not standardised, and the constants."""
        if not self.config.data.standardize:
            return self.data, None
        per: Literal["channel", "feature"] = "feature" if self.config.data.standardize == "per_feature" else "channel"
        return datasets.standardize(self.data, self.config.kernel.dtype, self.standardize_first, per)

    @property
    def preprocessing(self) -> Preprocessing:
        """The steps from an image of the source to an image of the run."""
        return Preprocessing.of(self.data.train.images, self._standardized[1])

    @property
    def sample(self) -> Array:
        """The training images that an engine is measured on: the first ones, or all graphs, since they differ."""
        images = self.stored[0].images
        return images if is_graph(images.shape[1:]) else images[:SAMPLE]

    @cached_property
    def cost(self) -> PairCost:
        """The cost of a pair; measured once, so that a forecast and the run behind it choose the same tile."""
        return self.engine.measure(self.sample)

    @cached_property
    def nodes(self) -> NodeCounts | None:
        """The nodes of the graphs; None where there are images or vectors."""
        train, test = (part.images for part in self.stored)
        return NodeCounts(count_nodes(train), count_nodes(test)) if is_graph(train.shape[1:]) else None

    @cached_property
    def stored(self) -> tuple[Split, Split]:
        """The training and the test part as they are stored: standardised, in the kernel's dtype; made once."""
        dtype, data = self.config.kernel.dtype, self._standardized[0]
        assert data.test is not None
        parts = (data.train, data.test)
        train, test = (replace(part, images=part.images.astype(dtype, copy=False)) for part in parts)
        return train, test


def load(config: RunConfig) -> Loaded:
    """Load and select the data, and build the read-outs, without writing anything.

    Parameters
    ----------
    config : RunConfig
        The user's own: code that it names is imported.

    Raises
    ------
    ConfigError, DataError, DataNotFound, LayerError
        If the workflow or its data are wrong, or do not fit each other.
    """
    cluster_of_new(config.cluster)
    read_engine(config.kernel)  # before the data are read, which may take long
    loaded = load_data(config)
    engine = loaded.engine  # refuses what it cannot compute
    if loaded.engine_record.code is not None:
        engine.check(loaded.stored[0].images[:SAMPLE])
    else:
        _require_training(loaded)
    return loaded


def _require_training(loaded: Loaded) -> None:
    """Refuse an NTK of which no layer is trained: it is zero everywhere, which the solve would see after all its pairs.

    A run of an earlier version may have such a read-out beside others, and opens and resumes as before.
    """
    shape = loaded.data.train.images.shape[1:]
    for readout in loaded.readouts:
        if readout.kind == "ntk" and is_untrained(readout.network, shape):
            preset = loaded.config.network.preset
            remedy = (
                "leave trained = false out of a layer (those of the keys of Attend add nothing)"
                if preset is None
                else "take another depth"
            )
            if preset is not None and "trained_ends" in PRESETS[preset].options:
                remedy += ", give network.options.trained_ends = true"
            raise ConfigError(
                f"{readout.name}: none of its layers is trained, so that its NTK is zero everywhere: {remedy}, or ask "
                'for readouts.kinds = ["nngp"]'
            )


def load_data(config: RunConfig) -> Loaded:
    """Load as `load` does, of a workflow that anybody may have written: no code that it names is imported."""
    keys = config.data.options | {"path": config.data.path, "task": config.data.task}
    loader = datasets.make_loader(config.data.source, keys)
    require_options(config)
    readouts = gram.readouts_of(config.network, config.readouts)
    whole = loader.load()
    if config.data.shuffle is not None:
        whole = datasets.shuffle(whole, config.data.shuffle)
    chosen = datasets.select(whole, config.data.train, config.data.test, config.data.train_blocks)
    chosen, columns = _with_centres(config, chosen)
    _require_places(config, readouts)
    _require_results(config, chosen, columns, readouts)
    _require_inputs(config, chosen, readouts)
    first = datasets.row_count(
        config.data.standardize_first, len(chosen.train.images), "standardize_first", chosen.name
    )
    return Loaded(config, chosen, _digest(chosen), readouts, first, _warnings(config, whole, chosen))


def _require_inputs(config: RunConfig, data: Dataset, readouts: Sequence[gram.Readout]) -> None:
    """Refuse inputs that the networks do not take: standardised graphs, absent steps, absent pixels."""
    assert data.test is not None
    if is_graph(data.train.images.shape[1:]) and config.data.standardize:
        raise ConfigError(f"{data.name}: graphs are not standardised: set data.standardize = false")
    is_padded = any(has_absent_steps(part.images) for part in (data.train, data.test))
    if is_padded and not all(takes_padding(readout.network) for readout in readouts):
        raise ConfigError(
            f"{data.name}: some sequences have absent steps, which hold NaN, and the network does not take them: put "
            '{layer = "Padded"} first in network.layers, or cut all sequences to one length'
        )
    if not all(takes_gaps(readout.network) for readout in readouts):
        _require_pixels(data)


def _digest(data: Dataset) -> str:
    """Return the sha256 of the images and labels of both parts, with their shapes and types."""
    assert data.test is not None
    digest = hashlib.sha256()
    for part in (data.train, data.test):
        digest.update(str((part.images.shape, part.images.dtype.str)).encode())
        digest.update(np.ascontiguousarray(part.images).tobytes())
        if part.labels is not None:
            digest.update(part.labels.astype("<i8" if data.task == "classification" else "<f8").tobytes())
    return digest.hexdigest()


def _warnings(config: RunConfig, whole: Dataset, chosen: Dataset) -> tuple[str, ...]:
    """List what a user should know of the chosen data and of options that nothing looks at."""
    assert chosen.test is not None
    warnings = chosen.notes
    if whole.test is None and config.data.test is None:
        warnings += (
            f"{chosen.name} has no test part: the {len(chosen.test)} rows behind the {len(chosen.train)} training rows "
            "are tested on; give their number as data.test where that is meant",
        )
    warnings += Contents.of(chosen).warnings
    if config.data.standardize is True:
        warnings += datasets.uneven_features(chosen)
    ridges = [] if config.solve.ridges == "auto" else config.solve.ridges
    warnings += datasets.warnings_of(chosen, ridges, config.kernel.flips)
    idle = [f"cluster.{name}" for name in idle_options(config.cluster)]
    if idle:
        warnings += (f'a cluster of kind "{config.cluster.kind}" does not look at {", ".join(idle)}',)
    return warnings


def allows(loaded: Loaded, solve: SolveConfig) -> bool:
    """Tell whether the results of a workflow allow another ``[solve]``, and so do its networks."""
    config, centres = loaded.config.model_copy(update={"solve": solve}), centres_of(solve)
    try:
        require_options(config)
        _require_places(config, loaded.readouts)
        columns = len(loaded.data.train) if centres is None else centres.count
        _require_results(config, loaded.data, columns, loaded.readouts)
    except ConfigError:
        return False
    return True


def _require_results(config: RunConfig, data: Dataset, columns: int, readouts: Sequence[gram.Readout]) -> None:
    assert data.test is not None
    kinds = {readout.kind for readout in readouts}
    has_classes = data.task == "classification" and len(data.classes) > 1
    require_results(config.inference, columns, kinds, data.test.labels is not None, has_classes)


def _with_centres(config: RunConfig, data: Dataset) -> tuple[Dataset, int]:
    """Bring the centres of a workflow to the front of the training images, and count the columns of its kernel.

    Raises
    ------
    ConfigError
        If there are more centres than training images, or two centres are the same image, with their rows.
    """
    centres, train = centres_of(config.solve), len(data.train)
    if centres is None:
        return data, train
    if centres.count > train:
        raise ConfigError(
            f"solve.centres = {centres.count} of {train} training images: give at most {train}; with all of them, "
            'solver = "cholesky" computes the same pairs'
        )
    if centres.are_pivots:
        return data, centres.count  # drawn by the run: equal images are never drawn twice
    rows = np.arange(centres.count)
    if centres.seed is not None:
        rows = draw(train, centres.count, centres.seed)
        data = bring_first(data, rows)
    first: dict[bytes, int] = {}
    for row, image in zip(rows.tolist(), data.train.images[: centres.count], strict=True):
        other = first.setdefault(hashlib.sha256(np.ascontiguousarray(image).tobytes()).digest(), row)
        if other != row and not options_of(config.solve).centre_jitter:
            raise ConfigError(
                f"{data.name}: expected centres that differ, and the training rows {other} and {row}, counted from 0, "
                "are the same image: leave one of them out, take other centres (solve.centre_choice, "
                "solve.centre_seed), or give solve.centre_jitter, such as 1e-6"
            )
    return data, centres.count


def _require_pixels(dataset: Dataset) -> None:
    """Refuse images with absent pixels, of a network that does not take them."""
    for part, split in (("train", dataset.train), ("test", dataset.test)):
        if split is not None and split.images.shape[1] > 1 and has_absent_pixels(split.images):
            row, *pixel = map(int, np.argwhere(np.isnan(split.images))[0])
            raise DataError(
                f"{dataset.name}: {part} images: expected finite pixels, got nan in image {row} at (row, column, "
                f"channel) = ({', '.join(map(str, pixel))}); drop or repair that image, or put "
                '{layer = "Masked"} first in network.layers, which takes images with absent pixels'
            )


def _require_places(config: RunConfig, readouts: Sequence[gram.Readout]) -> None:
    """Refuse networks that know an image by its place, where the kernel chooses the images of its columns.

    Raises
    ------
    ConfigError
        If there is one.
    """
    centres = centres_of(config.solve)
    if centres is None or not centres.are_pivots:
        return
    for readout in readouts:
        if find_dropout(readout.network) is not None:
            raise ConfigError(
                f'{readout.name}: solve.centre_choice = "rpcholesky" computes columns in the order of their draw, and '
                "there Dropout does not tell an image from an equal one: take another centre_choice, or no Dropout"
            )


def slots_of(config: RunConfig) -> int:
    """Count the tiles that a workflow's own cluster computes at once; an existing scheduler counts as this machine."""
    return cluster_of(config.cluster).slots(config.cluster)


def tile_of(loaded: Loaded, path: StorePath | None, old: RunDirectory | None) -> int:
    """Choose the edge of the kernel's tiles.

    Parameters
    ----------
    loaded : Loaded
        The workflow with its data.
    path : StorePath or None
        Of the run directory; the tile of a run that was begun there stays. None does not look for one.
    old : RunDirectory or None
        The older run that it grows from, whose tile it takes.

    Raises
    ------
    ConfigError
        If a given tile cuts the kernel into too many of them.
    """
    config, data, lanes = loaded.config, loaded.data, loaded.engine.lane_width
    assert data.test is not None
    train, test = len(data.train.images), len(data.test.images)
    centres = centres_of(config.solve)
    columns = None if centres is None else centres.count
    if config.kernel.tile != "auto":
        tile = clip_tile(config.kernel.tile, train, test, lanes)
        if (count := count_tiles(train, test, tile, columns)) > MOST_TILES:
            raise ConfigError(
                f"kernel.tile = {config.kernel.tile} cuts this kernel into {count:,} tiles, and a run has at most "
                f'{MOST_TILES:,}: give a larger one, or "auto"'
            )
        return tile
    if path is not None and holds_run(path):
        return RunDirectory(path).specification.tile
    if old is not None:
        return old.specification.tile
    return choose_tile(
        train,
        test,
        loaded.cost.seconds,
        slots_of(config),
        lanes,
        least_pairs=loaded.engine.least_pairs,
        centres=columns,
        costliest=None if loaded.nodes is None else loaded.nodes.costliest,
        widest=None if centres is None else centres.widest_tile,
    )


def specification_of(loaded: Loaded, tile: int) -> Specification:
    """Make the specification of a run with tiles of some edge."""
    config = loaded.config
    centres = centres_of(config.solve)
    return gram.specify(loaded.described, loaded.readouts, config.kernel, loaded.engine_record, tile, centres)


def write_inputs(run: RunDirectory, loaded: Loaded) -> None:
    """Store the images and labels of a run, and how they were made from those of the source."""
    loaded.preprocessing.write(run)
    run.stored_data.write(_arrays(loaded))


def read_preprocessing(run: RunDirectory) -> Preprocessing:
    """Read how the images of a run were made; a run of an earlier version has no record, then it is measured again.

    Raises
    ------
    StoreError
        If the record is damaged; or if there is none, and the data set of the workflow is not at hand or has changed.
        The message names the remedy.
    """
    found = find_preprocessing(run)
    if found is not None:
        return found
    what = f"{run.path} does not hold the mean and deviation of its images, since an earlier version of cntk began it"
    remedy = "Bring the data set back to where the workflow names it"
    try:
        loaded = load_data(run.workflow())
    except PipelineError as error:
        raise StoreError(errno.ENOENT, f"{what}, and its data set is not at hand: {error}. {remedy}") from error
    if loaded.described != run.specification.data:
        raise StoreError(errno.EIO, f"{what}, and the data set that the workflow names is another by now. {remedy}")
    return loaded.preprocessing


def mend_inputs(run: RunDirectory, config: RunConfig) -> list[StorePath]:
    """Look for damage in the stored data set, and write damaged chunks anew from the original data set.

    Returns
    -------
    list of StorePath
        The chunks that were written.

    Raises
    ------
    StoreError
        If the original data set is not at hand or has changed. The message names the damage and the remedy.
    """
    damaged = run.stored_data.damaged()
    if not damaged:
        return []
    more = f" and {len(damaged) - 1:,} more chunks of the data set are" if len(damaged) > 1 else " is"
    what = f"{damaged[0]}{more} gone or damaged"
    remedy = f"Restore {run.inputs_path} from a copy, then `cntk resume {shell_word(run.path)}`"
    try:
        loaded = load_data(config)
    except PipelineError as error:
        raise StoreError(errno.EIO, f"{what}, and cannot be written anew: {error}. {remedy}") from error
    if (loaded.described, config.kernel.dtype) != (run.specification.data, run.specification.dtype):
        raise StoreError(errno.EIO, f"{what}, and the data set that the workflow names is another by now. {remedy}")
    return run.stored_data.write_again(_arrays(loaded))


def _arrays(loaded: Loaded) -> dict[str, np.ndarray]:
    train, test = loaded.stored
    word = "labels" if loaded.data.task == "classification" else "targets"
    arrays = {"train_images": train.images, f"train_{word}": train.known_labels, "test_images": test.images}
    if test.labels is not None:
        arrays[f"test_{word}"] = test.labels
    if word == "targets":
        arrays["target_mean"] = datasets.target_mean(train.known_labels)
    return arrays
