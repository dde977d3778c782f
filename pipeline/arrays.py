"""Zarr arrays whose chunks are tiles, written whole, checked when read.

Chunks are written here, not through zarr, in the plain format of zarr's codecs ``bytes`` and ``crc32c``: aside,
fsynced, renamed. Any zarr reads them.
"""

import errno
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
import xxhash
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec

from pipeline.errors import CorruptTile, StoreError, StoreUnavailable
from pipeline.journal import Chunk
from pipeline.storage import StorePath
from pipeline.tiling import Cut

CRC_BYTES = 4

GROUP_RECORD = "zarr.json"
"""What zarr knows a group, or an array, by; a group's is written last."""

MAPPED_BYTES = 640 * 2**20
"""Bytes of tiles that a process keeps mapped at most, two block rows of most factors. The system owns the pages."""

Array = np.ndarray


@dataclass(frozen=True)
class ArraySpec:
    """A tiled array to create.

    Attributes
    ----------
    name : path inside its zarr group.
    shape, tile : samples along each axis, and of one chunk.
    dtype : of the values; the fill value is NaN, so that a missing tile poisons what reads it.
    dimensions : names of the axes.
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
    path : of the array's directory.

    Raises
    ------
    StoreError
        If there is no array, or it was not written by this package.
    """

    def __init__(self, path: StorePath) -> None:
        self.path = path
        try:
            meta = json.loads((path / "zarr.json").read_text())
            self.shape: tuple[int, ...] = tuple(meta["shape"])
            self.tile: tuple[int, ...] = tuple(meta["chunk_grid"]["configuration"]["chunk_shape"])
            self.dtype = np.dtype(meta["data_type"])
            codecs = [codec["name"] for codec in meta["codecs"]]
        except StoreUnavailable:
            raise
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{path} holds no readable zarr array ({error}): restore its zarr.json") from error
        if self.dtype.kind not in "fiu":
            raise StoreError(f"{path} holds values of type {self.dtype}, expected numbers: it is not this package's")
        if codecs != ["bytes", "crc32c"]:
            raise StoreError(f"{path} has the codecs {codecs}, expected bytes and crc32c: it is not this package's")

    def cut(self, axis: int) -> Cut:
        """Return how an axis is cut into tiles."""
        return Cut(self.shape[axis], self.tile[axis])

    def chunk_path(self, *index: int) -> StorePath:
        """Return where a chunk lies; the key is made of integers only."""
        return self.path.joinpath("c", *(str(int(k)) for k in index))

    @property
    def chunk_bytes(self) -> int:
        """Bytes of one chunk on disk."""
        return int(np.prod(self.tile)) * self.dtype.itemsize + CRC_BYTES

    def write(self, index: tuple[int, ...], values: Array) -> Chunk:
        """Write a tile so that it is there whole or not at all, and survives a power cut.

        Parameters
        ----------
        index : of the tile along each axis.
        values : of the tile's shape, ragged at the far edges; cast to the array's dtype.

        Raises
        ------
        StoreError
            If the array is gone, and with it perhaps the disk that held the run: the tile would lie elsewhere.
        """
        if not (self.path / GROUP_RECORD).is_file():
            raise StoreError(errno.ENOENT, f"the array {self.path} is gone: bring the run directory back, then resume")
        payload, checksum = encode_chunk(values, self.tile, self.dtype)
        self.chunk_path(*index).write_whole(payload, checksum)
        digest = xxhash.xxh3_128_hexdigest(payload)
        return Chunk(self.path.name, len(payload) + CRC_BYTES, int.from_bytes(checksum, "little"), digest)

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
        """Read a tile without copying it where the store can: a read-only view of the file, whose pages all share.

        The tiles read last stay mapped, and a process checks each only once, also where it maps it again. For readers
        that need the same tiles again and again; chunks are replaced and never changed, so a mapped one stays as it is.

        Raises
        ------
        CorruptTile
            As of `read`.
        """
        path = self.chunk_path(*index)
        known, kept = _MAPPED.take(path)
        try:
            found = path.mapped(known)
        except FileNotFoundError:
            raise self._missing(path) from None
        if found is None:
            return kept
        version, content = found
        payload = content[:-CRC_BYTES] if _MAPPED.is_checked(path, version) else self._checked(content, path)
        values = self._shaped(payload, index)
        _MAPPED.keep(path, version, values)
        return values

    def read_region(self, *bounds: tuple[int, int], symmetric: bool = False) -> Array:
        """Read a rectangle of samples from the tiles that hold it.

        Parameters
        ----------
        bounds : first sample and one past the last, an axis each.
        symmetric : read what lies in a tile above the diagonal from its mirror image below.
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

    def describe(self, index: tuple[int, ...]) -> Chunk:
        """Check a chunk on disk and describe it as `write` would have."""
        path = self.chunk_path(*index)
        payload = self._checked(self._content(path), path)
        if not np.all(np.isfinite(self._shaped(payload, index))):
            raise CorruptTile(f"{path} holds values that are not finite")
        digest = xxhash.xxh3_128_hexdigest(payload.data)
        return Chunk(self.path.name, self.chunk_bytes, google_crc32c.value(payload), digest)

    def checksum(self, index: tuple[int, ...]) -> int:
        """Read the checksum that a chunk carries, and nothing else of it.

        Raises
        ------
        CorruptTile
            If the chunk is missing.
        """
        path = self.chunk_path(*index)
        try:
            return int.from_bytes(path.read_from(self.chunk_bytes - CRC_BYTES, CRC_BYTES), "little")
        except FileNotFoundError:
            raise self._missing(path) from None

    def _content(self, path: StorePath) -> Array:
        try:
            return np.frombuffer(path.read_bytes(), np.uint8)
        except FileNotFoundError:
            raise self._missing(path) from None

    def _missing(self, path: StorePath) -> CorruptTile:
        return CorruptTile(f"{path} is missing: it was not computed, or was deleted")

    def _checked(self, content: Array, path: StorePath) -> Array:
        """Return the bytes of the values, if the checksum behind them says so."""
        if len(content) != self.chunk_bytes:
            raise CorruptTile(f"{path} has {len(content)} bytes, expected {self.chunk_bytes}: it was cut short")
        payload, stored = content[:-CRC_BYTES], int.from_bytes(content[-CRC_BYTES:].tobytes(), "little")
        if google_crc32c.value(payload) != stored:
            raise CorruptTile(f"{path} does not match its checksum: its bits have changed since it was written")
        return payload

    def _shaped(self, payload: Array, index: tuple[int, ...]) -> Array:
        """Return the bytes as values, without the padding of ragged tiles.

        What a bucket answers lies at any address. NumPy multiplies what is not aligned in another way: a few times
        slower, and with other last bits.
        """
        values = np.require(payload.view(self.dtype), requirements=["ALIGNED"]).reshape(self.tile)
        return values[tuple(slice(0, self.cut(axis).length(k)) for axis, k in enumerate(index))]


def create_arrays(group_path: StorePath, specs: Sequence[ArraySpec], attributes: Mapping[str, Any]) -> None:
    """Create a zarr group with tiled arrays, all at once; nothing happens where it exists already."""
    if is_made(group_path):
        return
    metadata = zarr_metadata(specs, attributes)
    group_path.make_whole(((name, (content,)) for name, content in metadata.items()), GROUP_RECORD)


def is_made(group_path: StorePath) -> bool:
    """Tell whether a zarr group is there with all its arrays."""
    return (group_path / GROUP_RECORD).is_file()


def zarr_metadata(specs: Sequence[ArraySpec], attributes: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the files that make a zarr group with empty arrays, by their names in it; zarr itself writes them."""
    memory: dict[str, Any] = {}
    store = zarr.storage.MemoryStore(memory)
    zarr.create_group(store, attributes=dict(attributes))
    for spec in specs:
        zarr.create_array(
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
    return {name: content.to_bytes() for name, content in memory.items()}


def encode_chunk(values: Array, tile: tuple[int, ...], dtype: np.dtype) -> tuple[memoryview, bytes]:
    """Return the two parts of a chunk, its values and their checksum; what a ragged tile lacks is filled up."""
    padded = np.ascontiguousarray(values, dtype)
    if values.shape != tile:
        padded = np.full(tile, np.nan if dtype.kind == "f" else 0, dtype)
        padded[tuple(slice(0, size) for size in values.shape)] = values
    payload = padded.reshape(-1).view(np.uint8).data.toreadonly()
    crc = google_crc32c.value(np.frombuffer(payload, np.uint8))
    return payload, crc.to_bytes(CRC_BYTES, "little")


class _MappedTiles:
    """The tiles that this process read last without copying them, and which ones it has checked."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._tiles: dict[StorePath, tuple[tuple[Any, ...], Array]] = {}
        self._bytes = 0
        self._checked: dict[StorePath, tuple[Any, ...]] = {}
        self._lock = threading.Lock()

    def take(self, path: StorePath) -> tuple[tuple[Any, ...] | None, Array]:
        """Return the version that is kept of a tile and its values, and keep it longest now; None and none of it."""
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
        """Keep a tile that was checked, and let go of those taken longest ago."""
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
        """Let go of all tiles: files that are mapped keep a disk busy."""
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
