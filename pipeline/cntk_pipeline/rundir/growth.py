"""Growing a run: the common part of a new run and an older one.

A run directory never changes what it is of, so more images or more read-outs make a new one. The bits of a pair depend
on its two images, its network, the engine, the dtype and flips alone: a tile whose images are the same in both runs is
the same tile, and `rundir.takeover` takes it over instead of computing it.
"""

from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from pydantic import with_config

from cntk_pipeline.config import RunConfig
from cntk_pipeline.datasets import Split, target_mean
from cntk_pipeline.errors import ConfigError, SpecificationMismatch, StoreError
from cntk_pipeline.models import STRICT, Count, Positive
from cntk_pipeline.rundir import lease
from cntk_pipeline.rundir.directory import RunDirectory, holds_run
from cntk_pipeline.rundir.specification import Specification, differences, is_as_sealed, sealed
from cntk_pipeline.storage import StorePath, open_path
from cntk_pipeline.storage.records import Record
from cntk_pipeline.storage.tiled_array import Array
from cntk_pipeline.tiling import Cut


@with_config(STRICT)
@dataclass(frozen=True)
class Growth:
    """The common part of a run and the older one that it grows from: the record growth.json.

    Attributes
    ----------
    path : str
        Of the older run, absolute.
    fingerprint : str
        Of its specification.
    train, test : tuple of int
        Numbers of the blocks of images, a kernel tile's edge each, that are the same in the same place.
    targets : tuple of int
        Numbers of the training blocks whose labels are the same as well.
    factor_tile : int or None
        The largest tile of the older run's factors; None where it has none.
    checksum : str, optional
        A digest of the other fields, since a tile of other images would not show; None in older runs.
    """

    path: str
    fingerprint: str
    train: tuple[Count, ...]
    test: tuple[Count, ...]
    targets: tuple[Count, ...]
    factor_tile: Positive | None
    checksum: str | None = None

    @classmethod
    def of(cls, run: RunDirectory) -> "Growth | None":
        """Read the record of a run; None where it does not grow from another.

        Raises
        ------
        StoreError
            If it is damaged or was edited.
        """
        found = run.read_record(_FILE, _GROWTH)
        if found is not None and found.checksum is not None and not is_as_sealed(asdict(found)):
            raise StoreError(f"{run.path / _FILE} was edited: it is not what its checksum is of: {_REMEDY}")
        return found

    def write(self, run: RunDirectory) -> None:
        """Write the record of a run."""
        run.write_record(_FILE, sealed(asdict(self)))


_FILE = "growth.json"
_REMEDY = "delete it: what is not taken over yet is computed"
_GROWTH: Record[Growth] = Record(Growth, _REMEDY)


def find_source(config: RunConfig, path: StorePath) -> RunDirectory | None:
    """Open the older run that a workflow grows from; None where there is none, or the two were compared before.

    Raises
    ------
    ConfigError
        If it is the run directory itself.
    RunNotFound
        If there is no run.
    """
    if config.store.grow_from is None:
        return None
    source = open_path(config.store.grow_from).absolute()
    if source == path.absolute():
        raise ConfigError(f"store.grow_from is the run directory {path} itself: a grown run is a new one, name another")
    known = Growth.of(RunDirectory(path)) if holds_run(path) else None
    return None if known is not None and known.path == str(source) else RunDirectory(source)


def compare(
    old: RunDirectory, specification: Specification, train: Split, test: Split, nested: Collection[str]
) -> Growth:
    """Find the common part of a new run and an older one, from their specifications and their images.

    Parameters
    ----------
    old : RunDirectory
        The older run.
    specification : Specification
        Of the new run.
    train, test : Split
        Its images as they will be stored, and its labels.
    nested : collection of str
        The kinds of the stages whose `Owner.is_nested`.

    Raises
    ------
    SpecificationMismatch
        If there is nothing to take over, with the reason.
    """
    if old.specification.has_pivots or specification.has_pivots:
        raise _nothing(
            old,
            [
                'centre_choice = "rpcholesky" draws its centres among all training images, by the kernel: columns of '
                "two runs are of other images"
            ],
        )
    lines = _kernel_differences(old.specification, specification)
    if lines:
        raise _nothing(old, lines)
    stages = old.journal.receipts().stages()
    if not stages:
        raise _nothing(old, ["none of its tiles is finished yet"])
    tile = specification.tile
    blocks = _same_blocks(old.inputs("train_images"), train.images, tile)
    if not blocks:
        raise _nothing(old, [_why_no_block(old, specification, train.images)])
    labels = (
        _same_blocks(old.stored_data.labels("train"), train.known_labels, tile)
        if _same_labels(old, train, specification)
        else ()
    )
    factored = {stage.solve for stage in stages if stage.kind in nested}
    factor_tiles = [record["tile"] for solve, record in old.solves().items() if solve in factored]
    return Growth(
        path=str(old.path.absolute()),
        fingerprint=old.fingerprint,
        train=blocks,
        test=_same_blocks(old.inputs("test_images"), test.images, tile),
        targets=tuple(block for block in blocks if block in labels),
        factor_tile=max(factor_tiles, default=None),
    )


def _same_labels(old: RunDirectory, train: Split, specification: Specification) -> bool:
    """Tell whether equal labels are equal targets of the regression: with the same classes, and the same mean."""
    its, mine = old.specification.data, specification.data
    if (its.task, its.classes) != (mine.task, mine.classes):
        return False
    if mine.task == "classification":
        return True
    return np.array_equal(old.inputs("target_mean")[:], target_mean(train.known_labels))


def begin(run: RunDirectory, growth: Growth, say: Callable[[str], None]) -> None:
    """Record the older run that a run grows from, and report their common part."""
    growth.write(run)
    old = RunDirectory(growth.path)
    kept = [sum(map(cut.length, same)) for cut, same in ((run.train_cut, growth.train), (run.test_cut, growth.test))]
    say(
        f"growing from {old.path}: of its {old.train_cut.count} training and {old.test_cut.count} test images, "
        f"{kept[0]} and {kept[1]} are the same here in whole tiles of {run.train_cut.size}"
    )
    working = lease.holder(old.lease_path)
    if working:
        say(f"a driver works on {old.path} ({working}): what it finishes after this is not taken over")


def same_readouts(stored: Specification, wanted: Specification) -> dict[str, str]:
    """Map names of read-outs of the wanted specification to names of the stored one, by equal network and kind."""
    return {
        mine.name: its.name
        for mine in wanted.readouts
        for its in stored.readouts
        if (mine.kind, mine.network) == (its.kind, its.network)
    }


def _kernel_differences(stored: Specification, wanted: Specification) -> list[str]:
    """List the differences of two specifications that change every kernel value or every tile, the images aside."""
    lines, its, mine = [], stored.to_json(), wanted.to_json()
    lines += differences(asdict(stored.engine), asdict(wanted.engine), "engine")
    for key in ("dtype", "flips", "numerics_version", "tile"):
        lines += differences(its[key], mine[key], key)
    if stored.tile != wanted.tile:
        lines[-1] += ' (kernel.tile = "auto" follows the older run)'
    lines += differences(its["data"]["shape"], mine["data"]["shape"], "data.shape")
    if not same_readouts(stored, wanted):
        lines += differences(its["readouts"], mine["readouts"], "readouts")
    return lines


def _same_blocks(stored: Any, wanted: Array, tile: int) -> tuple[int, ...]:
    """List the blocks of ``tile`` samples that are equal bit for bit; where one ends earlier, it has fewer bytes."""
    old, new = Cut(stored.shape[0], tile), Cut(len(wanted), tile)
    return tuple(
        block
        for block in range(min(old.pieces, new.pieces))
        if np.asarray(stored[slice(*old.bounds(block))]).tobytes() == wanted[slice(*new.bounds(block))].tobytes()
    )


def _why_no_block(old: RunDirectory, specification: Specification, images: Array) -> str:
    data, tile = old.specification.data, specification.tile
    count = min(tile, data.train, len(images))
    its, mine = np.asarray(old.inputs("train_images")[:count]), images[:count]
    if its.tobytes() == mine.tobytes():
        return f"the first training images are the same, but in one of the runs they are fewer than a tile of {tile}"
    centres = [part.centres for part in (old.specification, specification)]
    if any(each is not None and each.choice == "random" for each in centres):
        return (
            'the training images differ in every tile; centre_choice = "random" draws among all training images, and '
            'stores the drawn ones first: a run that is to grow takes data.shuffle with "first" on a fixed order'
        )
    orders = ["none" if part.shuffle is None else part.shuffle for part in (data, specification.data)]
    if orders[0] != orders[1]:
        return f"the training images differ in every tile; data.shuffle was {orders[0]} there and is {orders[1]} here"
    ways = [part.standardize for part in (data, specification.data)]
    if ways[0] != ways[1] and all(ways) and _equal_up_to_scale(its, mine, its.shape[-1]):
        way = str(ways[0]).lower() if isinstance(ways[0], bool) else f'"{ways[0]}"'
        return f"the training images are the same, but standardised otherwise: data.standardize = {way} keeps them"
    measured, measured_here = (
        part.standardize and (part.standardize_first or part.train) for part in (data, specification.data)
    )
    channels = its.shape[-1] if its.ndim == 4 or ways[0] == "per_feature" else 1
    if measured == measured_here or not _equal_up_to_scale(its, mine, channels):
        more = "" if orders[0] == "none" else "; data.shuffle orders a data set of more rows anew"
        return (
            f"the training images differ in every tile: keep the older run's, in their order, and append others{more}"
        )
    if not measured:
        return "the training images are the same, but not standardised there: data.standardize = false keeps them"
    return (
        f"the training images are the same, but standardised there by the mean and deviation of the first {measured}: "
        f"data.standardize_first = {measured} keeps them"
    )


def _equal_up_to_scale(a: Array, b: Array, channels: int) -> bool:
    """Tell whether images differ only by a shift and a positive factor for each channel."""

    def scaled(images: Array) -> Array:
        rows = images.reshape(-1, channels).astype(np.float64)
        rows -= rows.mean(axis=0)
        deviation = rows.std(axis=0)
        return rows / np.where(deviation > 0, deviation, 1.0)

    return bool(np.allclose(scaled(a), scaled(b), atol=1e-4))


def _nothing(old: RunDirectory, lines: list[str]) -> SpecificationMismatch:
    return SpecificationMismatch(
        f"nothing of {old.path} can be taken over:\n"
        + "\n".join(f"  {line.strip()}" for line in lines)
        + "\nMake the workflow agree with the older run, or leave out store.grow_from to compute everything."
    )
