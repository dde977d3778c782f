"""Zarr arrays whose chunks are tiles, written whole, checked when read.

Chunks are written here, not through zarr, in the plain format of zarr's codecs ``bytes`` and ``crc32c``: aside,
fsynced, renamed. Any zarr reads them.
"""

import errno
import math
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import google_crc32c
import numpy as np
import xxhash
from pydantic import ConfigDict, with_config

from cntk_pipeline.errors import CorruptTile, ForeignFile, StoreError
from cntk_pipeline.models import Count, Positive
from cntk_pipeline.storage import StorePath
from cntk_pipeline.storage.records import Record
from cntk_pipeline.tasks import Chunk
from cntk_pipeline.tiling import Cut

CRC_BYTES = 4

REWRITTEN = "`cntk resume` and `cntk verify` write it anew"

GROUP_RECORD = "zarr.json"
"""The file that makes a folder a zarr group or array; a group's file is written last."""

MAPPED_BYTES = 640 * 2**20
"""Largest size of all mapped tiles of a process: two block rows of most factors. The system owns the pages."""

Array = np.ndarray


def chunk_bytes(tile: tuple[int, ...], dtype: str | np.dtype[Any]) -> int:
    """Count the bytes of a chunk on disk, its checksum included."""
    return math.prod(tile) * np.dtype(dtype).itemsize + CRC_BYTES


_ZARR = ConfigDict(strict=True)
"""Other keys are ignored: zarr.json holds more than this package reads."""


@with_config(_ZARR)
@dataclass(frozen=True)
class _Grid:
    chunk_shape: tuple[Positive, ...]


@with_config(_ZARR)
@dataclass(frozen=True)
class _ChunkGrid:
    name: Literal["regular"]
    configuration: _Grid


@with_config(_ZARR)
@dataclass(frozen=True)
class _Codec:
    name: str


@with_config(_ZARR)
@dataclass(frozen=True)
class _ArrayRecord:
    """The zarr.json of an array."""

    shape: tuple[Count, ...]
    data_type: Literal["float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
    fill_value: Literal["NaN"] | float
    chunk_grid: _ChunkGrid
    codecs: tuple[_Codec, ...]

    def __post_init__(self) -> None:
        tile = self.chunk_grid.configuration.chunk_shape
        if len(self.shape) != len(tile) or not tile:
            raise ValueError(f"an array of shape {self.shape} has no chunks of {tile}")


_ARRAY: Record[_ArrayRecord] = Record(_ArrayRecord, REWRITTEN)
_ANY: Record[dict[str, Any]] = Record(dict[str, Any], REWRITTEN)


@dataclass(frozen=True)
class ArraySpec:
    """A tiled array to create.

    Attributes
    ----------
    name : str
        Path inside its zarr group.
    shape, tile : tuple of int
        Samples along each axis, and of one chunk.
    dtype : str
        Of the values; the fill value is NaN, so that a missing tile shows up in every result.
    dimensions : tuple of str
        Names of the axes.
    """

    name: str
    shape: tuple[int, ...]
    tile: tuple[int, ...]
    dtype: str
    dimensions: tuple[str, ...]


class TiledArray:
    """A zarr array whose chunks are read and written whole, with checksums.

    Parameters
    ----------
    path : StorePath
        Of the array's directory.

    Raises
    ------
    StoreError
        If there is no array, or it was not written by this package.
    """

    def __init__(self, path: StorePath) -> None:
        self.path = path
        try:
            meta = _ARRAY.read(path / GROUP_RECORD)
        except FileNotFoundError:
            raise StoreError(errno.ENOENT, f"{path} holds no array, its {GROUP_RECORD} is gone: {REWRITTEN}") from None
        self.shape = meta.shape
        self.tile = meta.chunk_grid.configuration.chunk_shape
        self.dtype = np.dtype(meta.data_type)
        codecs = [codec.name for codec in meta.codecs]
        if codecs != ["bytes", "crc32c"]:
            raise StoreError(f"{path} has the codecs {codecs}, expected bytes and crc32c: it is not this package's")
        if (meta.fill_value == "NaN") != (self.dtype.kind == "f"):
            raise StoreError(
                f"{path}/{GROUP_RECORD} is damaged: an array of {self.dtype} is not filled up with {meta.fill_value}: "
                f"{REWRITTEN}"
            )

    def cut(self, axis: int) -> Cut:
        """Return how an axis is cut into tiles."""
        return Cut(self.shape[axis], self.tile[axis])

    def chunk_path(self, *index: int) -> StorePath:
        """Return the path of a chunk; the key consists of integers only."""
        return self.path.joinpath("c", *(str(int(k)) for k in index))

    @property
    def chunk_bytes(self) -> int:
        """The bytes of one chunk on disk."""
        return chunk_bytes(self.tile, self.dtype)

    def write(self, index: tuple[int, ...], values: Array) -> Chunk:
        """Write a tile so that it is there whole or not at all, and survives a power cut.

        Parameters
        ----------
        index : tuple of int
            Of the tile along each axis.
        values : array
            Of the tile's shape, ragged at the far edges; cast to the array's dtype.

        Raises
        ------
        StoreError
            If the array is gone; with an unmounted disk, for example, the tile would be written elsewhere.
        """
        if not (self.path / GROUP_RECORD).is_file():
            raise StoreError(errno.ENOENT, f"the array {self.path} is gone: bring the run directory back, then resume")
        payload, checksum = encode_chunk(values, self.tile, self.dtype)
        self.chunk_path(*index).write_whole(payload, checksum)
        written = len(payload) + CRC_BYTES
        return Chunk(self.path.name, written, int.from_bytes(checksum, "little"), digest(payload))

    def read(self, *index: int) -> Array:
        """Read a tile and check it; ragged tiles come without their padding.

        Raises
        ------
        CorruptTile
            If the chunk is missing, of the wrong size, or does not match its checksum.
        """
        path = self.chunk_path(*index)
        return self._shaped(self._checked(self._content(path), path), index)

    def read_mapped(self, *index: int) -> Array:
        """Read a tile without a copy where the store can: a read-only view of the file; processes share its pages.

        The tiles read last stay mapped, and a process checks each only once, even if it maps it again. For readers that
        need the same tiles again and again. Chunks are replaced and never changed, so a mapped chunk keeps its values.

        Raises
        ------
        CorruptTile
            As in `read`.
        """
        path = self.chunk_path(*index)
        known, kept = _MAPPED.take(path)
        try:
            found = path.mapped(known, self.chunk_bytes)
        except FileNotFoundError:
            raise self._missing(path) from None
        except ForeignFile as error:
            raise CorruptTile(str(error)) from None
        if found is None:
            return kept
        version, content = found
        payload = content[:-CRC_BYTES] if _MAPPED.is_checked(path, version) else self._checked(content, path)
        values = self._shaped(payload, index)
        _MAPPED.keep(path, version, values)
        return values

    def read_all(self) -> Array:
        """Read all tiles of an array that is small; errors as in `read`."""
        return self.read_region(*((0, size) for size in self.shape))

    def read_region(self, *bounds: tuple[int, int], symmetric: bool = False) -> Array:
        """Read a rectangle of samples from the tiles that hold it.

        Parameters
        ----------
        *bounds : (int, int)
            The first sample and one past the last, for each axis.
        symmetric : bool
            Read tiles above the diagonal from their mirror images below.
        """
        values = np.empty(tuple(stop - start for start, stop in bounds), self.dtype)
        pieces = [range(start // t, -(-stop // t)) for (start, stop), t in zip(bounds, self.tile, strict=True)]
        for index in np.ndindex(*(len(p) for p in pieces)):
            tile = tuple(p[k] for p, k in zip(pieces, index, strict=True))
            mirrored = symmetric and tile[0] < tile[1]
            source = self.read(tile[1], tile[0]).T if mirrored else self.read(*tile)
            into, out_of = [], []
            for axis, ((start, stop), k) in enumerate(zip(bounds, tile, strict=True)):
                low, high = self.cut(axis).bounds(k)
                into.append(slice(max(low, start) - start, min(high, stop) - start))
                out_of.append(slice(max(low, start) - low, min(high, stop) - low))
            values[tuple(into)] = source[tuple(out_of)]
        return values

    def describe(self, index: tuple[int, ...], nan: bool = False) -> Chunk:
        """Check a chunk on disk and describe it as `write` does; with ``nan`` some of its values may be NaN."""
        path = self.chunk_path(*index)
        payload = self._checked(self._content(path), path)
        values = self._shaped(payload, index)
        if not np.all(np.isfinite(values) | (nan & np.isnan(values))):
            raise CorruptTile(f"{path} holds values that are not finite")
        return Chunk(self.path.name, self.chunk_bytes, google_crc32c.value(payload), digest(payload.data))

    def checksums(self, indices: Sequence[tuple[int, ...]]) -> list[int | None]:
        """Read only the checksums of some chunks; None where a chunk is missing, or is no file."""
        names = ["/".join(("c", *map(str, index))) for index in indices]
        found = self.path.read_each(names, self.chunk_bytes - CRC_BYTES, CRC_BYTES)
        return [None if content is None else int.from_bytes(content, "little") for content in found]

    def _content(self, path: StorePath) -> Array:
        try:
            return np.frombuffer(path.read_bytes(self.chunk_bytes), np.uint8)
        except FileNotFoundError:
            raise self._missing(path) from None
        except ForeignFile as error:
            raise CorruptTile(str(error)) from None

    def _missing(self, path: StorePath) -> CorruptTile:
        return CorruptTile(f"{path} is missing: it was not computed, or was deleted")

    def _checked(self, content: Array, path: StorePath) -> Array:
        """Return the bytes of the values, if they match the checksum behind them."""
        if len(content) != self.chunk_bytes:
            raise CorruptTile(f"{path} has {len(content)} bytes, expected {self.chunk_bytes}: it was cut short")
        payload, stored = content[:-CRC_BYTES], int.from_bytes(content[-CRC_BYTES:].tobytes(), "little")
        if google_crc32c.value(payload) != stored:
            raise CorruptTile(f"{path} does not match its checksum: its bits have changed since it was written")
        return payload

    def _shaped(self, payload: Array, index: tuple[int, ...]) -> Array:
        """Return the bytes as values, without the padding of ragged tiles.

        The bytes of a bucket's answer may lie at any address. NumPy multiplies unaligned values in another way: a few
        times slower, and with other last bits.
        """
        values = np.require(payload.view(self.dtype), requirements=["ALIGNED"]).reshape(self.tile)
        return values[tuple(slice(0, self.cut(axis).length(k)) for axis, k in enumerate(index))]


class InputArray:
    """An array of the data set, read by its rows. It cannot be computed again, and errors for its damage say so.

    Parameters
    ----------
    path : StorePath
        Of the array's directory.
    shape, kind
        The required shape, and the required `numpy.dtype.kind`.

    Raises
    ------
    StoreError
        If there is no array, or it has another shape or kind.
    """

    def __init__(self, path: StorePath, shape: tuple[int, ...], kind: str) -> None:
        self._array = TiledArray(path)
        self.shape, self.dtype = self._array.shape, self._array.dtype
        if self.shape != shape or self.dtype.kind not in kind:
            raise StoreError(
                f"{path} has the shape {self.shape} and the type {self.dtype}, and the run is of {shape}: restore "
                "inputs.zarr from a copy"
            )

    def __getitem__(self, rows: slice) -> Array:
        start, stop, _ = rows.indices(self.shape[0])
        try:
            return self._array.read_region((start, max(start, stop)), *((0, size) for size in self.shape[1:]))
        except CorruptTile as error:
            raise StoreError(f"{error}. It is of the data set: restore inputs.zarr from a copy") from None


@dataclass(frozen=True)
class Group:
    """A description of a zarr group of tiled arrays, to create the group and to mend it.

    Attributes
    ----------
    path : StorePath
        Of the group.
    arrays : tuple of ArraySpec
        In it.
    attributes : mapping of str to object
        Of the group; an existing group may have more.
    """

    path: StorePath
    arrays: tuple[ArraySpec, ...]
    attributes: Mapping[str, Any]

    def files(self) -> dict[str, bytes]:
        """Return the metadata files of the group, by their names in it."""
        return zarr_metadata(self.arrays, self.attributes)

    def create(self) -> None:
        """Create it, all at once; nothing happens where it exists already."""
        if not is_made(self.path):
            self.path.make_whole(((name, (content,)) for name, content in self.files().items()), GROUP_RECORD)

    def mend(self) -> list[StorePath]:
        """Write metadata files anew that are gone or wrong; return them."""
        mended = []
        for name, content in self.files().items():
            if not _says(self.path / name, _ANY.parse(content, name)):
                (self.path / name).write_whole(content)
                mended.append(self.path / name)
        return mended


def _says(path: StorePath, expected: dict[str, Any]) -> bool:
    """Tell whether a zarr.json has the expected values; it may have more keys, from other versions of zarr."""
    try:
        return _is_within(expected, _ANY.read(path))
    except (FileNotFoundError, StoreError):
        return False


def _is_within(expected: Any, found: Any) -> bool:
    """Tell whether two values are equal; a found table may have more keys than the expected one."""
    if isinstance(expected, dict) and isinstance(found, dict):
        return all(key in found and _is_within(value, found[key]) for key, value in expected.items())
    return bool(expected == found)


def is_made(group_path: StorePath) -> bool:
    """Tell whether a zarr group exists with all its arrays."""
    return (group_path / GROUP_RECORD).is_file()


def zarr_metadata(specs: Sequence[ArraySpec], attributes: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the files that make a zarr group with empty arrays, by their names in it; zarr itself writes them."""
    # In an event loop of this call alone: zarr's own loop, in a thread, ends with a page of traceback where a busy
    # machine does not let it close within half a second.
    import asyncio

    memory: dict[str, Any] = {}
    with ThreadPoolExecutor(1) as threads:
        threads.submit(asyncio.run, _write_metadata(memory, specs, attributes)).result()
    return {name: content.to_bytes() for name, content in memory.items()}


async def _write_metadata(memory: dict[str, Any], specs: Sequence[ArraySpec], attributes: Mapping[str, Any]) -> None:
    # Only new arrays need zarr, whose import takes longer than reading the state of a run.
    import zarr.api.asynchronous
    from zarr.codecs import BytesCodec, Crc32cCodec

    store = zarr.storage.MemoryStore(memory)
    await zarr.api.asynchronous.create_group(store=store, attributes=dict(attributes))
    for spec in specs:
        await zarr.api.asynchronous.create_array(
            store,
            name=spec.name,
            shape=spec.shape,
            chunks=spec.tile,
            dtype=spec.dtype,
            fill_value=float("nan") if np.dtype(spec.dtype).kind == "f" else 0,
            serializer=BytesCodec(endian="little"),
            compressors=[Crc32cCodec()],
            filters=None,
            dimension_names=spec.dimensions,
            config={"write_empty_chunks": True},
        )


def digest(payload: memoryview) -> str:
    """Digest the values of a chunk, without its checksum."""
    return xxhash.xxh3_128_hexdigest(payload)


def encode_chunk(values: Array, tile: tuple[int, ...], dtype: np.dtype) -> tuple[memoryview, bytes]:
    """Return the two parts of a chunk, its values and their checksum; a ragged tile is padded."""
    padded = np.ascontiguousarray(values, dtype)
    if values.shape != tile:
        padded = np.full(tile, np.nan if dtype.kind == "f" else 0, dtype)
        padded[tuple(slice(0, size) for size in values.shape)] = values
    payload = padded.reshape(-1).view(np.uint8).data.toreadonly()
    crc = google_crc32c.value(np.frombuffer(payload, np.uint8))
    return payload, crc.to_bytes(CRC_BYTES, "little")


class _MappedTiles:
    """The mapped tiles that this process read last, and the tiles that it has checked."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._tiles: dict[StorePath, tuple[tuple[Any, ...], Array]] = {}
        self._bytes = 0
        self._checked: dict[StorePath, tuple[Any, ...]] = {}
        self._lock = threading.Lock()

    def take(self, path: StorePath) -> tuple[tuple[Any, ...] | None, Array]:
        """Return the kept version of a tile and its values, and mark it as used last; None and no values if none is."""
        with self._lock:
            kept = self._tiles.pop(path, None)
            if kept is None:
                return None, np.empty(0)
            self._tiles[path] = kept
            return kept

    def is_checked(self, path: StorePath, version: tuple[Any, ...]) -> bool:
        """Tell whether this process has compared this version of a tile with its checksum."""
        return self._checked.get(path) == version

    def keep(self, path: StorePath, version: tuple[Any, ...], values: Array) -> None:
        """Keep a tile that was checked, and drop the tiles taken longest ago."""
        with self._lock:
            self._checked[path] = version
            if path in self._tiles:
                self._bytes -= self._tiles.pop(path)[1].nbytes
            self._bytes += values.nbytes
            self._tiles[path] = version, values
            while self._bytes > self.limit_bytes and len(self._tiles) > 2:
                _, oldest = self._tiles.pop(next(iter(self._tiles)))
                self._bytes -= oldest.nbytes

    def forget(self) -> None:
        """Drop all tiles: mapped files keep a disk busy."""
        with self._lock:
            self._tiles.clear()
            self._bytes = 0


_MAPPED = _MappedTiles(MAPPED_BYTES)


def limit_mapped_tiles(memory_bytes: int) -> None:
    """Let this process keep no more tiles than a quarter of its memory: Dask counts mapped pages as a worker's own."""
    _MAPPED.limit_bytes = min(MAPPED_BYTES, memory_bytes // 4)


def forget_mapped_tiles() -> None:
    """Unmap the tiles that this process has mapped."""
    _MAPPED.forget()
