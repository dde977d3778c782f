"""The data set of a run in the run directory: images, labels or targets, and digests of their chunks."""

import errno
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
from pydantic import ConfigDict, with_config

from cntk_pipeline.errors import CorruptTile, StoreError
from cntk_pipeline.graphs import is_graph
from cntk_pipeline.rundir.specification import DataSpecification
from cntk_pipeline.storage import StorePath
from cntk_pipeline.storage.records import Record
from cntk_pipeline.storage.tiled_array import (
    GROUP_RECORD,
    Array,
    ArraySpec,
    Group,
    InputArray,
    TiledArray,
    digest,
    encode_chunk,
    is_made,
)
from cntk_pipeline.tiling import Cut

InputName = Literal[
    "train_images", "train_labels", "train_targets", "test_images", "test_labels", "test_targets", "target_mean"
]

CHUNK_BYTES = 2**22
"""Largest size of a chunk; a chunk of one image may be larger."""


@with_config(ConfigDict(strict=True))
@dataclass(frozen=True)
class _Attributes:
    digests: dict[str, list[str]]


@with_config(ConfigDict(strict=True))
@dataclass(frozen=True)
class _GroupRecord:
    """The zarr.json of the group; runs of earlier versions have no digests."""

    attributes: _Attributes


_GROUP: Record[_GroupRecord] = Record(_GroupRecord, "`cntk verify` writes it anew")


def input_names(data: DataSpecification) -> tuple[InputName, ...]:
    """List the arrays of a data set: labels are class numbers, targets are columns of numbers, with their mean."""
    if data.task == "classification":
        known: tuple[InputName, ...] = ("test_labels",) if data.has_test_labels else ()
        return "train_images", "train_labels", "test_images", *known
    known = ("test_targets",) if data.has_test_labels else ()
    return "train_images", "train_targets", "test_images", *known, "target_mean"


class Rows(Protocol):
    """What is stored: an array, or images that are read some rows at a time."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of all rows."""

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the values."""

    def __getitem__(self, rows: slice, /) -> Array:
        """Return some rows."""


class StoredData:
    """Images and labels in a zarr group.

    Parameters
    ----------
    path : StorePath
        Of the group.
    data : DataSpecification
        Their part of the run's specification.
    dtype : str
        Of the images; they are stored as the kernel reads them.
    names : tuple of str, optional
        Of the arrays; new images have no labels and no training part.
    origin : str, optional
        Of new images, which the group has beside them; a run has the description of its data set there.
    """

    def __init__(
        self,
        path: StorePath,
        data: DataSpecification,
        dtype: str,
        names: tuple[InputName, ...] | None = None,
        origin: str | None = None,
    ) -> None:
        self.path, self.names = path, names or input_names(data)
        self._data, self._dtype = data, dtype
        self._attributes = {"data": data.to_json() if origin is None else {"origin": origin}}

    def is_made(self) -> bool:
        """Tell whether they are stored."""
        return is_made(self.path)

    def array(self, name: InputName) -> InputArray:
        """Open an array; `StoreError` where it is damaged, or not of the specification."""
        return InputArray(self.path / name, self._shape(name), "iu" if name.endswith("labels") else "f")

    def labels(self, part: Literal["train", "test"]) -> InputArray | None:
        """Open the class numbers or the targets of a part; None where they are not known."""
        found = [name for name in self.names if name in (f"{part}_labels", f"{part}_targets")]
        return self.array(found[0]) if found else None

    def write(self, arrays: Mapping[str, Rows]) -> None:
        """Store arrays, all at once; nothing happens where they are stored already."""
        if self.is_made():
            return
        specs = [_spec(name, values.shape, values.dtype) for name, values in arrays.items()]
        digests: dict[str, list[str]] = {spec.name: [] for spec in specs}

        def files() -> Iterator[tuple[str, tuple[bytes | memoryview, ...]]]:
            for spec in specs:
                for piece, part in _pieces(spec, arrays[spec.name]):
                    payload, checksum = encode_chunk(part, spec.tile, np.dtype(spec.dtype))
                    digests[spec.name].append(digest(payload))
                    yield f"{spec.name}/{_chunk_name(spec, piece)}", (payload, checksum)
            group = Group(self.path, tuple(specs), self._attributes | {"digests": digests})
            for name, content in group.files().items():
                yield name, (content,)

        self.path.make_whole(files(), GROUP_RECORD)

    def group(self) -> Group:
        """Describe the arrays by the specification, to mend their metadata; without digests."""
        specs = [_spec(name, self._shape(name), self._dtype_of(name)) for name in self.names]
        return Group(self.path, tuple(specs), self._attributes)

    def lost(self) -> list[StorePath]:
        """List chunks that are gone or of a wrong size: in their place zarr reads zeros, also as labels."""
        if not self.is_made():
            return [self.path / GROUP_RECORD]
        found = []
        for array in map(TiledArray, (self.path / name for name in self.names)):
            listing = (array.path / "c").listing()
            for index in _indices(array):
                listed = listing.get("/".join(map(str, index)))
                if listed is None or listed.bytes != array.chunk_bytes:
                    found.append(array.chunk_path(*index))
        return found

    def damaged(self) -> list[StorePath]:
        """List chunks that are gone or damaged: every chunk is read and compared with its checksum and its digest."""
        if not self.is_made():
            return [self.path / GROUP_RECORD]
        recorded = self._digests()
        return [
            path
            for name in self.names
            for piece, (path, found) in enumerate(self._look(name))
            if found is None or (name in recorded and [found] != recorded[name][piece : piece + 1])
        ]

    def pin(self) -> None:
        """Record the digests of whole chunks, where their record was lost, or an earlier version kept none."""
        if self.is_made() and not self._digests():
            digests = {name: [found for _, found in self._look(name)] for name in self.names}
            group = self.group()
            content = replace(group, attributes=dict(group.attributes) | {"digests": digests}).files()[GROUP_RECORD]
            (self.path / GROUP_RECORD).write_whole(content)

    def write_again(self, arrays: Mapping[str, Rows]) -> list[StorePath]:
        """Write damaged chunks anew, from the same data set; return them.

        Raises
        ------
        StoreError
            If whole chunks have other values: standardised on another machine, the same images may differ in their last
            bits, and tiles of both must not be mixed.
        """
        damaged = set(self.damaged())
        new: dict[StorePath, tuple[memoryview, bytes]] = {}
        digests = self._digests() if self.is_made() else {}
        for name in self.names:
            spec = _spec(name, arrays[name].shape, arrays[name].dtype)
            for (piece, part), (path, stored) in zip(_pieces(spec, arrays[name]), self._look(name), strict=True):
                payload, checksum = encode_chunk(part, spec.tile, np.dtype(spec.dtype))
                known = digests.get(name, [])[piece : piece + 1]
                if path in damaged:
                    new[path] = payload, checksum
                elif stored is not None:
                    known = [stored]
                if known not in ([], [digest(payload)]):
                    raise StoreError(
                        errno.EIO,
                        f"{path} cannot be written anew: standardised here, the images have other bits than those that "
                        "are stored. Restore inputs.zarr from a copy",
                    )
        for path, parts in new.items():
            path.write_whole(*parts)
        self.group().mend()
        return list(new)

    def _shape(self, name: InputName) -> tuple[int, ...]:
        part, _, what = name.partition("_")
        columns = len(self._data.classes)
        if name == "target_mean":
            return (columns,)
        count = self._data.train if part == "train" else self._data.test
        return (count, *{"images": self._data.shape, "labels": (), "targets": (columns,)}[what])

    def _dtype_of(self, name: InputName) -> np.dtype:
        if name.endswith("images"):
            return np.dtype(self._dtype)
        return np.dtype("int64" if name.endswith("labels") else "float64")

    def _look(self, name: InputName) -> Iterator[tuple[StorePath, str | None]]:
        """Read all chunks of an array; yield the path of each and the digest of its values, None if it is damaged."""
        array = TiledArray(self.path / name)
        for index in _indices(array):
            try:
                # Absent steps of sequences hold NaN.
                yield array.chunk_path(*index), array.describe(index, nan=name.endswith("images")).xxh3
            except CorruptTile:
                yield array.chunk_path(*index), None

    def _digests(self) -> dict[str, list[str]]:
        try:
            return _GROUP.read(self.path / GROUP_RECORD).attributes.digests
        except StoreError:
            return {}


def _spec(name: str, shape: tuple[int, ...], dtype: np.dtype) -> ArraySpec:
    row_bytes = int(np.prod(shape[1:])) * dtype.itemsize
    rows = max(1, min(shape[0], CHUNK_BYTES // max(row_bytes, 1)))
    axis = name.partition("_")[0]
    last = "target" if name.endswith("targets") else "feature"
    axes = (axis, "height", "width", "channel") if len(shape) == 4 else (axis, last)[: len(shape)]
    if is_graph(shape[1:]):
        axes = (axis, "first", "second", "row", "feature")
    return ArraySpec(name, shape, (rows, *shape[1:]), dtype.name, axes)


def _pieces(spec: ArraySpec, values: Rows) -> Iterator[tuple[int, Array]]:
    cut = Cut(spec.shape[0], spec.tile[0])
    return ((piece, values[slice(*cut.bounds(piece))]) for piece in range(cut.pieces))


def _chunk_name(spec: ArraySpec, piece: int) -> str:
    return f"c/{piece}" + "/0" * (len(spec.shape) - 1)


def _indices(array: TiledArray) -> Iterator[tuple[int, ...]]:
    return ((piece, *(0,) * (len(array.shape) - 1)) for piece in range(array.cut(0).pieces))
