"""A part of a kernel matrix that fits into a limit of bytes: the tiles that are read, and the images that are shown."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cntk_pipeline.errors import ConfigError
from cntk_pipeline.opened.tiles import Stored
from cntk_pipeline.solvers.systems import Bounds, unit_scale
from cntk_pipeline.storage import open_path
from cntk_pipeline.storage.tiled_array import Array

STRIP_ROWS = 256
"""Rows of a tile that are normalised at once: a whole tile in float64 is twice its size again."""


def take_evenly(values: Array, most: int) -> Array:
    """Take at most ``most`` values, at least one, evenly spaced and with the first and the last.

    Examples
    --------
    >>> import numpy as np
    >>> take_evenly(np.arange(10), 4), take_evenly(np.arange(3), 4)
    (array([0, 3, 6, 9]), array([0, 1, 2]))
    """
    places = np.linspace(0, len(values) - 1, max(1, min(most, len(values))))
    return values[np.unique(places.round().astype(int))]


@dataclass(frozen=True)
class Groups:
    """The training images in groups: classes, or equal parts by their target.

    Attributes
    ----------
    names : tuple of str
        Of the groups.
    said : str
        In words, the order in which images are shown.
    of : int64 array, (n,)
        The group of each image.
    order : array, (n,)
        Images are shown by rising values.
    """

    names: tuple[str, ...]
    said: str
    of: Array
    order: Array


@dataclass(frozen=True)
class TileSample:
    """Some pieces of the training images: the tiles among them are read.

    Attributes
    ----------
    kernel, variance : Stored
        The arrays.
    pieces : tuple of int
        Numbers of the pieces, rising.
    """

    kernel: Stored
    variance: Stored
    pieces: tuple[int, ...]

    @classmethod
    def within(cls, kernel: Stored, variance: Stored, limit_bytes: int) -> "TileSample":
        """Choose as many pieces as the limit allows, evenly spaced.

        Where not all are read, a piece whose diagonal tile is not computed yet is left out as long as there are others:
        without the variances of its images no correlation is known.

        Raises
        ------
        ConfigError
            If one tile is larger than the limit.
        """
        total, tile, small = kernel.cuts[0].pieces, kernel.chunk_bytes, variance.chunk_bytes
        count = total
        while count and count * (count + 1) // 2 * tile + count * small > limit_bytes:
            count -= 1
        if not count:
            raise ConfigError(
                f"a tile of {kernel.place} has {tile + small:,} bytes, and limit_bytes is {limit_bytes:,}: "
                f"give at least limit_bytes={tile + small}"
            )
        known = list(range(total))
        if count < total:
            path = open_path(kernel.place)
            known = [piece for piece in known if path.joinpath("c", f"{piece}", f"{piece}").exists()] or known
        return cls(kernel, variance, tuple(take_evenly(np.array(known), count).tolist()))

    @property
    def images(self) -> Array:
        """The images of the pieces, rising."""
        cut = self.kernel.cuts[0]
        return np.concatenate([np.arange(*cut.bounds(piece)) for piece in self.pieces])

    def variances(self) -> dict[int, Array]:
        """Read K(x, x) of the images of each piece; NaN where it is not computed yet."""
        return {piece: self.variance.tile((piece,)) for piece in self.pieces}

    def tiles(self) -> Iterator[tuple[int, int, Array]]:
        """Read the tiles on and below the diagonal, one at a time; NaN where they are not computed yet."""
        for row in self.pieces:
            for col in self.pieces:
                if col <= row:
                    yield row, col, self.kernel.tile((row, col))


def choose_rows(groups: Groups, images: Array, most: int) -> Array:
    """Choose at most ``most`` images, equally many of each group and evenly spaced in it, in the order of a picture."""
    ordered = images[np.lexsort((groups.order[images], groups.of[images]))]
    present, begins = np.unique(groups.of[ordered], return_index=True)
    each = max(1, most // len(present))
    chosen = [take_evenly(part, each) for part in np.split(ordered, begins[1:])]
    return take_evenly(np.concatenate(chosen), most)


@dataclass(frozen=True)
class Reading:
    """The values of a sample.

    Attributes
    ----------
    picture : float32 array, (m, m)
        The values among m chosen images; NaN where a tile is not computed yet.
    means : float64 array, (g, g)
        Over all pairs of different images in two groups; NaN where there are none.
    pairs : float64 array, (g, g)
        Their numbers; of one group each pair counts twice.
    normalised : bool
        Whether values are ``K(x, y) / sqrt(K(x, x) K(y, y))``; where no variance is computed yet they are the kernel
        itself.
    missing, tiles : int
        Number of tiles that are not computed yet, and of all tiles of the sample.
    """

    picture: Array
    means: Array
    pairs: Array
    normalised: bool
    missing: int
    tiles: int


def read_sample(sample: TileSample, groups: Groups, rows: Array) -> Reading:
    """Read the tiles of a sample, one at a time.

    Parameters
    ----------
    rows : array
        The images of the picture, among those of the sample.
    """
    cut, count = sample.kernel.cuts[0], len(groups.names)
    # A variance that is not computed yet is NaN, and stays so.
    scales = {
        piece: np.where(np.isnan(variances), np.nan, unit_scale(variances))
        for piece, variances in sample.variances().items()
    }
    normalised = any(np.isfinite(scale).any() for scale in scales.values())
    picture = np.full((len(rows), len(rows)), np.nan, np.float32)
    sums, pairs = np.zeros((count, count)), np.zeros((count, count))
    missing = tiles = 0
    for row, col, tile in sample.tiles():
        tiles += 1
        known = not normalised or (np.isfinite(scales[row]).all() and np.isfinite(scales[col]).all())
        if not known or np.isnan(tile).any():
            missing += 1
            continue
        (top, bottom), bounds = cut.bounds(row), cut.bounds(col)
        these, those = groups.of[top:bottom], groups.of[slice(*bounds)]
        added = np.zeros((count, count))
        for start in range(top, bottom, STRIP_ROWS):
            strip = slice(start - top, start - top + STRIP_ROWS)
            values = tile[strip] * scales[row][strip, None] * scales[col] if normalised else tile[strip]
            _paint(picture, rows, ((start, start + len(values)), bounds), values)
            added += group_sums(values, these[strip], those, count)
        number = np.outer(np.bincount(these, minlength=count), np.bincount(those, minlength=count)).astype(float)
        if row == col:  # a pair of an image with itself says nothing of its group
            own = np.diagonal(tile) * (scales[row] ** 2 if normalised else 1)
            np.subtract.at(added, (these, these), own)
            np.subtract.at(number, (these, these), 1)
        else:  # its mirror image above the diagonal
            added, number = added + added.T, number + number.T
        sums += added
        pairs += number
    means = np.where(pairs > 0, sums / np.maximum(pairs, 1), np.nan)
    return Reading(picture, means, pairs, normalised, missing, tiles)


def _paint(picture_out: Array, rows: Array, corner: tuple[Bounds, Bounds], values: Array) -> None:
    """Put the values of a tile, and their mirror images, where its images are in the picture."""
    (top, bottom), (left, right) = corner
    these, those = np.flatnonzero((rows >= top) & (rows < bottom)), np.flatnonzero((rows >= left) & (rows < right))
    part = values[np.ix_(rows[these] - top, rows[those] - left)]
    picture_out[np.ix_(these, those)] = part
    picture_out[np.ix_(those, these)] = part.T


def group_sums(values: Array, rows: Array, cols: Array, count: int) -> Array:
    """Add up a tile over pairs of groups, ``(count, count)`` float64.

    Parameters
    ----------
    values : array, (m, n)
    rows, cols : array
        The groups of its rows, (m,), and of its columns, (n,).
    count : int
        Of groups.
    """
    sums = np.zeros((count, count))
    row_order, col_order = np.argsort(rows, kind="stable"), np.argsort(cols, kind="stable")
    these, row_begins = np.unique(rows[row_order], return_index=True)
    those, col_begins = np.unique(cols[col_order], return_index=True)
    by_row = np.add.reduceat(values[row_order], row_begins, axis=0, dtype=np.float64)
    sums[np.ix_(these, those)] = np.add.reduceat(by_row[:, col_order], col_begins, axis=1)
    return sums
