"""The arrays of a run as Dask arrays: a chunk is a tile, read and checked when it is needed."""

import math
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import dask.array
import numpy as np

from cntk_pipeline.errors import ConfigError, CorruptTile, NotComputed, StoreError
from cntk_pipeline.rundir import lease
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.solvers import kept_tiles_of
from cntk_pipeline.storage import open_path
from cntk_pipeline.storage.tiled_array import GROUP_RECORD, Array, ArraySpec, Group, TiledArray, chunk_bytes
from cntk_pipeline.tiling import Cut
from cntk_pipeline.units import shell_word

ROW = "_row"
"""The end of the name of an axis that has the same samples as the axis behind it: only lower tiles are stored then."""

RUN_DEPTH = 12
"""Folders above an array among which the run directory is looked for; more than any layout has."""


@dataclass(frozen=True)
class Stored:
    """An array of a run, whose tiles need not be there yet.

    Attributes
    ----------
    place : str
        Of the array, as `open_path` takes it.
    spec : ArraySpec
        Its description.
    """

    place: str
    spec: ArraySpec

    @classmethod
    def of(cls, group: Group, name: str) -> "Stored":
        """Describe an array of a group by its name in it."""
        spec = next(spec for spec in group.arrays if spec.name == name)
        return cls(str((group.path / name).absolute()), spec)

    @property
    def is_symmetric(self) -> bool:
        """Whether only tiles on and below the diagonal are stored, since those above it are their mirror images.

        The last two axes have the same samples then, or the second those of the first that are centres.
        """
        names = self.spec.dimensions[-2:]
        return len(names) == 2 and (names[0] == f"{names[1]}{ROW}" or names == ("train", "centre"))

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """How each axis is cut into tiles."""
        return tuple(Cut(*sizes) for sizes in zip(self.spec.shape, self.spec.tile, strict=True))

    @property
    def chunk_bytes(self) -> int:
        """The bytes of one tile on disk."""
        return chunk_bytes(self.spec.tile, self.spec.dtype)

    @property
    def read_bytes(self) -> int:
        """The bytes that are read for all values: tiles above the diagonal are read again, from below."""
        return math.prod(cut.pieces for cut in self.cuts) * self.chunk_bytes

    def indices(self) -> Iterator[tuple[int, ...]]:
        """List the tiles that a whole array has on disk."""
        for index in np.ndindex(*(cut.pieces for cut in self.cuts)):
            if not (self.is_symmetric and index[-2] < index[-1]):
                yield index

    def count(self) -> tuple[int, int]:
        """Count the tiles on disk, and the tiles of the whole array."""
        there = (open_path(self.place) / "c").listing()
        wanted = ["/".join(map(str, index)) for index in self.indices()]
        return sum(name in there for name in wanted), len(wanted)

    def tile(self, block_id: tuple[int, ...], *, whole: bool = False) -> Array:
        """Read a tile; NaN where it is not computed yet.

        Parameters
        ----------
        block_id : tuple of int
            Its position among the tiles.
        whole : bool
            All tiles were there before: a tile that is not is an error.

        Raises
        ------
        CorruptTile
            If it is damaged, or gone with ``whole``.
        StoreError
            If this process does not see the run, or centres were drawn to their end meanwhile, which are fewer.
        """
        mirrored = self.is_symmetric and block_id[-2] < block_id[-1]
        index = (*block_id[:-2], block_id[-1], block_id[-2]) if mirrored else block_id
        path = open_path(self.place)
        if not (path / GROUP_RECORD).is_file():
            return self._missing(block_id, whole)
        array = TiledArray(path)
        try:
            values = array.read(*index)
        except CorruptTile:
            if array.chunk_path(*index).exists():
                raise
            return self._missing(block_id, whole)
        # The last of the centres may end within a tile, and its mirror image has more columns.
        values = values.swapaxes(-1, -2)[..., : self.cuts[-1].length(block_id[-1])] if mirrored else values
        if values.shape != self._shape(block_id):
            raise StoreError(
                f"{self.place}: tile {block_id} has the shape {values.shape}, and had {self._shape(block_id)} when the "
                "array was opened: the draw of the centres has ended meanwhile, ask for the array again"
            )
        return values

    def _shape(self, block_id: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(cut.length(piece) for cut, piece in zip(self.cuts, block_id, strict=True))

    def _missing(self, block_id: tuple[int, ...], whole: bool) -> Array:
        if whole:
            raise CorruptTile(f"{self.place}: tile {block_id} was there and is gone, or this process does not see it")
        if not self._sees_run():
            raise StoreError(
                f"{self.place}: there is no run here any more, or this process does not see its folder: open the run "
                "where it is now, by a path that all processes have"
            )
        return np.full(self._shape(block_id), np.nan, self.spec.dtype)

    def _sees_run(self) -> bool:
        above = open_path(self.place)
        for _ in range(RUN_DEPTH):
            above = above.parent
            if (above / lease.RUN_RECORD).is_file():
                return True
        return False

    def lazy(self, *, whole: bool = False) -> Any:
        """Return the array as a Dask array, symmetric where only lower tiles are stored.

        Missing tiles are NaN; with ``whole`` they are errors, see `tile`.
        """
        chunks = tuple(tuple(cut.length(piece) for piece in range(cut.pieces)) for cut in self.cuts)
        # A name of its own each time: a run that goes on has other values under the same path later.
        return dask.array.map_blocks(
            self.tile,
            whole=whole,
            chunks=chunks,
            dtype=self.spec.dtype,
            meta=np.empty((0,) * len(chunks), self.spec.dtype),
            name=f"{self.spec.name.replace('/', '-')}-{uuid.uuid4().hex}",
        )


def require_whole(run: RunDirectory, stored: Stored, what: str) -> None:
    """Refuse an array of which tiles are missing.

    Raises
    ------
    NotComputed
        With how far it is, and what to do.
    """
    there, total = stored.count()
    if there < total:
        raise NotComputed(
            f"{run.path}: {what} is not computed yet, {there} of {total} tiles are there. {next_step(run)}"
        )


def require_stored_kernel(run: RunDirectory, stored: Stored, what: str) -> None:
    """Refuse K(train, train) of a run whose workflow has a part of it stored, unless all tiles are there anyway.

    Raises
    ------
    ConfigError
        With the remedy.
    """
    kept = kept_tiles_of(run, run.workflow().solve) if run.has_workflow() else None
    if kept is None or kept.count == kept.total:
        return
    there, total = stored.count()
    if there < total:
        raise ConfigError(
            f"{run.path}: {what} needs the whole kernel of the training images, and solve.kernel_bytes has a part "
            f"stored, {there} of {total} tiles: leave the key out of the workflow and run it again, which computes the "
            "others and stores them"
        )


def next_step(run: RunDirectory) -> str:
    """Say what to do where a part of a run is not computed yet."""
    driver = lease.holder(run.lease_path)
    if driver is not None:
        watch = f"cntk status --watch {shell_word(run.path)}"
        return f"The driver {driver} is at work: ask again later, or watch it with `{watch}`"
    return f"No driver is at work: `cntk resume {shell_word(run.path)}` goes on"


def read_whole(run: RunDirectory, stored: Stored, what: str) -> Array:
    """Read a whole array into memory.

    Raises
    ------
    NotComputed
        If a tile is not computed yet.
    CorruptTile
        If a tile is damaged.
    """
    try:
        require_whole(run, stored, what)
        return np.asarray(stored.lazy(whole=True).compute(scheduler="threads"))
    except CorruptTile as error:
        raise CorruptTile(f"{error}. `cntk resume --verify {shell_word(run.path)}` computes it again") from None
