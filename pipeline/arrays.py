"""Zarr arrays whose chunks are tiles, written whole, checked when read.

Chunks are written here, not through zarr, in the plain format of zarr's codecs ``bytes`` and ``crc32c``: aside,
fsynced, renamed. Any zarr reads them.
"""

import json
import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import xxhash
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec

from pipeline.durable import rename_into_place, write_durably
from pipeline.errors import CorruptTile, StoreError
from pipeline.journal import Chunk
from pipeline.tiling import Cut

CRC_BYTES = 4

MAPPED_BYTES = 640 * 2**20
"""Bytes of an array's tiles that a process keeps mapped, two block rows of most factors. The system owns the pages."""

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

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mapped: dict[tuple[int, ...], tuple[tuple[int, int], Array]] = {}
        self._checked_once: dict[tuple[int, ...], tuple[int, int]] = {}
        self._lock = threading.Lock()
        try:
            meta = json.loads((path / "zarr.json").read_text())
            self.shape: tuple[int, ...] = tuple(meta["shape"])
            self.tile: tuple[int, ...] = tuple(meta["chunk_grid"]["configuration"]["chunk_shape"])
            self.dtype = np.dtype(meta["data_type"])
            codecs = [codec["name"] for codec in meta["codecs"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{path} holds no readable zarr array ({error}): restore its zarr.json") from error
        if codecs != ["bytes", "crc32c"]:
            raise StoreError(f"{path} has the codecs {codecs}, expected bytes and crc32c: it is not this package's")

    def cut(self, axis: int) -> Cut:
        """Return how an axis is cut into tiles."""
        return Cut(self.shape[axis], self.tile[axis])

    def chunk_path(self, *index: int) -> Path:
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
        """
        padded = np.ascontiguousarray(values, self.dtype)
        if values.shape != self.tile:
            padded = np.full(self.tile, np.nan, self.dtype)
            padded[tuple(slice(0, size) for size in values.shape)] = values
        payload = padded.reshape(-1).view(np.uint8).data.toreadonly()
        crc = google_crc32c.value(np.frombuffer(payload, np.uint8))
        digest = xxhash.xxh3_128_hexdigest(payload)
        write_durably(self.chunk_path(*index), payload, crc.to_bytes(CRC_BYTES, "little"))
        return Chunk(str(self.path.name), len(payload) + CRC_BYTES, crc, digest)

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
        """Read a tile without copying it: a read-only view of the file, whose pages all processes share.

        The tiles mapped last, `MAPPED_BYTES` of them, stay mapped; a process checks each only once, also where it maps
        it again. For readers that need the same tiles again and again; chunks are replaced by renaming, so a mapped one
        never changes.

        Raises
        ------
        CorruptTile
            As of `read`.
        """
        path = self.chunk_path(*index)
        try:
            status = path.stat()
            if status.st_size != self.chunk_bytes:
                return self.read(*index)  # an empty file cannot be mapped; reading says what is wrong
            identity = (status.st_ino, status.st_mtime_ns)
            with self._lock:
                known, values = self._mapped.pop(index, (None, None))
                if values is not None and known == identity:
                    self._mapped[index] = identity, values
                    return values
            content = np.memmap(path, np.uint8, "r")
        except FileNotFoundError:
            return self.read(*index)
        payload = content.view(np.ndarray)
        checked = self._checked_once.get(index) == identity
        values = self._shaped(payload[:-CRC_BYTES] if checked else self._checked(payload, path), index)
        with self._lock:
            self._mapped[index], self._checked_once[index] = (identity, values), identity
            while len(self._mapped) > max(2, MAPPED_BYTES // self.chunk_bytes):
                self._mapped.pop(next(iter(self._mapped)))
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
        return Chunk(str(self.path.name), self.chunk_bytes, google_crc32c.value(payload), digest)

    def _content(self, path: Path) -> Array:
        try:
            return np.frombuffer(path.read_bytes(), np.uint8)
        except FileNotFoundError:
            raise CorruptTile(f"{path} is missing: it was not computed, or was deleted") from None

    def _checked(self, content: Array, path: Path) -> Array:
        """Return the bytes of the values, if the checksum behind them says so."""
        if len(content) != self.chunk_bytes:
            raise CorruptTile(f"{path} has {len(content)} bytes, expected {self.chunk_bytes}: it was cut short")
        payload, stored = content[:-CRC_BYTES], int.from_bytes(content[-CRC_BYTES:].tobytes(), "little")
        if google_crc32c.value(payload) != stored:
            raise CorruptTile(f"{path} does not match its checksum: its bits have changed since it was written")
        return payload

    def _shaped(self, payload: Array, index: tuple[int, ...]) -> Array:
        """Return the bytes as values, without the padding of ragged tiles."""
        values = payload.view(self.dtype).reshape(self.tile)
        return values[tuple(slice(0, self.cut(axis).length(k)) for axis, k in enumerate(index))]


def create_arrays(group_path: Path, specs: Sequence[ArraySpec], attributes: Mapping[str, Any]) -> None:
    """Create a zarr group with tiled arrays, all at once; nothing happens where it exists already."""
    if group_path.exists():
        return
    aside = group_path.with_name(f"{group_path.name}.{uuid.uuid4().hex}.partial")
    zarr.create_group(aside, attributes=dict(attributes))
    for spec in specs:
        zarr.create_array(
            aside,
            name=spec.name,
            shape=spec.shape,
            chunks=spec.tile,
            dtype=spec.dtype,
            fill_value=float("nan"),
            serializer=BytesCodec(endian="little"),
            compressors=[Crc32cCodec()],
            filters=None,
            dimension_names=spec.dimensions,
            config={"write_empty_chunks": True},
        )
    rename_into_place(aside, group_path)
