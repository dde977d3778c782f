"""The cutting of a matrix into tiles, and the choice of their size."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

LANE_WIDTH = 16
"""Tiles are multiples of this many samples: the engine "cpu" computes right images in blocks of 16."""

SHORTEST_SECONDS, LONGEST_SECONDS = 0.5, 60.0
"""Bounds of a tile's predicted time: below, Dask's millisecond per task matters; above, a lost worker costs minutes."""

LEAST_BLOCKS = 10
"""Blocks of columns at least in which the kernel itself draws centres: each block learns from those before it."""

TASKS_PER_SLOT = 12
"""Number of tiles of a stage for each slot, so that the last tiles do not leave other slots idle."""

LARGEST_SHARE = 1 / 4
"""Of what a slot computes: a tile that took longer than the others together would keep them waiting."""

MOST_TILES = 10**7
"""Largest number of tiles of a kernel. A driver that resumes knows each of them, and lists those that are not done."""


@dataclass(frozen=True, order=True)
class Tile:
    """The tile at ``row``, ``col``, counted in tiles."""

    row: int
    col: int


@dataclass(frozen=True)
class Cut:
    """``count`` samples cut into pieces of ``size``, the last one ragged.

    Examples
    --------
    >>> cut = Cut(10, 4)
    >>> cut.pieces, cut.bounds(2)
    (3, (8, 10))
    """

    count: int
    size: int

    @property
    def pieces(self) -> int:
        """The number of pieces."""
        return -(-self.count // self.size)

    def bounds(self, piece: int) -> tuple[int, int]:
        """Return the first sample of a piece and one past its last."""
        return piece * self.size, min((piece + 1) * self.size, self.count)

    def length(self, piece: int) -> int:
        """Count the samples of a piece."""
        start, stop = self.bounds(piece)
        return stop - start


@dataclass(frozen=True)
class KeptTiles:
    """The tiles of a symmetric matrix that a store keeps, where others are computed each time they are needed.

    The tiles on the diagonal are always kept: they hold the variances. Of the others, the first ones are, row by row.
    So the choice depends on nothing but the number of tiles that there is room for.

    Attributes
    ----------
    pieces : int
        Of the rows of the matrix.
    room : int
        Number of tiles that there is room for, those on the diagonal included.
    """

    pieces: int
    room: int

    @classmethod
    def within(cls, room_bytes: int, pieces: int, tile_bytes: int) -> "KeptTiles":
        """Choose as many tiles as there is room for."""
        return cls(pieces, room_bytes // tile_bytes)

    def __contains__(self, tile: Tile) -> bool:
        row, col = max(tile.row, tile.col), min(tile.row, tile.col)  # a tile above the diagonal is read from below
        return row == col or row * (row - 1) // 2 + col < self.room - self.pieces

    @property
    def count(self) -> int:
        """The number of kept tiles on and below the diagonal."""
        return min(max(self.room, self.pieces), self.total)

    @property
    def total(self) -> int:
        """The number of tiles on and below the diagonal."""
        return self.pieces * (self.pieces + 1) // 2


def lower_tiles(cut: Cut) -> Iterator[Tile]:
    """List the tiles on and below the diagonal, row by row.

    Examples
    --------
    >>> [(tile.row, tile.col) for tile in lower_tiles(Cut(8, 4))]
    [(0, 0), (1, 0), (1, 1)]
    """
    return (Tile(row, col) for row in range(cut.pieces) for col in range(row + 1))


def total_pairs(train: int, test: int, centres: int | None = None, *, symmetric: bool = True) -> int:
    """Count the pairs of a run: the train triangle, test against train, and each test image with itself.

    With centres, the triangle ends at their column, and each training image behind them meets itself too. The last of
    them may end within a tile on the diagonal; the pairs behind them in that tile are not counted.

    Where the columns are not those of the leading images (not ``symmetric``), all their pairs are computed, and each
    training image meets itself once more.
    """
    columns = train if centres is None else centres
    if not symmetric:
        return train * columns + train + test * columns + test
    behind = train - columns
    return columns * (columns + 1) // 2 + behind * (columns + 1) + test * columns + test


def count_tiles(train: int, test: int, tile: int, centres: int | None = None) -> int:
    """Count the tiles of a kernel: of the train triangle or the columns of its centres, and of the test part."""
    rows, test_rows = Cut(train, tile).pieces, Cut(test, tile).pieces
    if centres is None:
        return rows * (rows + 1) // 2 + test_rows * rows
    return (rows + test_rows) * Cut(centres, tile).pieces


def clip_tile(tile: int, train: int, test: int, lane_width: int = LANE_WIDTH) -> int:
    """Cut a tile down to the data, rounded up to whole lanes, so that a chunk is not mostly padding."""
    largest = -(-max(train, test) // lane_width) * lane_width
    return min(tile, largest)


def choose_tile(
    train: int,
    test: int,
    pair_seconds: float,
    slots: int,
    lane_width: int = LANE_WIDTH,
    *,
    least_pairs: int = 1,
    centres: int | None = None,
    costliest: Callable[[int], float] | None = None,
    widest: int | None = None,
) -> int:
    """Choose the kernel's tile size in samples from what a pair costs.

    It is the largest size that leaves `TASKS_PER_SLOT` tiles to each slot, with a tile's time inside its bounds, unless
    these are more than `MOST_TILES`.

    Parameters
    ----------
    train, test : int
        Numbers of images.
    pair_seconds : float
        Measured or predicted time of one pair on one core.
    slots : int
        Tiles computed at once.
    lane_width : int
        Of the engine; tiles are multiples of it.
    least_pairs : int
        That a tile should have for the engine, also where this leaves fewer tiles to each slot.
    centres : int, optional
        Columns of the kernel, where they are not all training images.
    costliest : callable, optional
        The cost of the costliest tile of a size in pairs, where pairs differ: it keeps the longest time too, and is no
        more than `LARGEST_SHARE` of what a slot computes.
    widest : int, optional
        The largest useful tile there; ``centres`` by default.
    """
    of_slot = total_pairs(train, test, centres) * pair_seconds / max(slots, 1)
    share = of_slot / TASKS_PER_SLOT
    seconds = min(max(share, SHORTEST_SECONDS), LONGEST_SECONDS)
    side = math.sqrt(max(seconds / pair_seconds, least_pairs))
    tile = max(lane_width, int(side) // lane_width * lane_width)
    longest = min(max(of_slot * LARGEST_SHARE, SHORTEST_SECONDS), LONGEST_SECONDS)
    while costliest and tile > lane_width and costliest(tile) * pair_seconds > longest:
        tile -= lane_width
    while count_tiles(train, test, tile, centres) > MOST_TILES:
        tile += lane_width
    # A tile that is wider than the columns of the centres would be mostly padding.
    widest = centres if widest is None else widest
    return clip_tile(tile, train, test, lane_width) if widest is None else clip_tile(tile, widest, 0, lane_width)


def block_width(centres: int) -> int:
    """Choose the number of columns of a block, of the centres that the kernel itself draws."""
    return max(1, centres // LEAST_BLOCKS)


FACTOR_PIECES, SMALLEST_FACTOR_TILE, LARGEST_FACTOR_TILE = 24, 1024, 2048

PIECES_OF_SLOTS, MOST_SHARED_PIECES, SMALLEST_SHARED_TILE = 6, 100, 768
"""Of a factor on many slots. With N block rows, the chain of its columns allows a speed-up of ``N^1.5 / 5`` (see
`solvers.cholesky.finish_width`), which is s for ``3 s^(2/3)`` block rows; twice as many leave room. More than 100 read
more than a store of 10 GB/s gives, and smaller tiles take as long beside their arithmetic as within it."""

LEAST_SHARED_ROWS = 16 * SMALLEST_SHARED_TILE
"""Factors of fewer samples take seconds with any tile, so the number of slots changes nothing in them."""


def choose_factor_tile(train: int, kernel_tile: int, wanted: int | None = None, slots: int = 1) -> int:
    """Choose the factor's tile size, a multiple of the kernel's: about 24 block rows of 1,024 to 2,048 samples.

    A larger tile does more arithmetic for its bytes: 12,288 rows take 7.6 s in tiles of 1,024 and 8.9 s in tiles of
    512, because of the cost of tasks beside their arithmetic; 2,048 in float64 is 32 MB a tile, some 230 MB a task.

    Parameters
    ----------
    train : int
        Number of samples.
    kernel_tile : int
        Samples along the edge of a tile of the kernel.
    wanted : int, optional
        A size that is only rounded to whole kernel tiles.
    slots : int
        Tiles computed at once. Many would wait for one another with few block rows, so there are at least
        ``6 slots^(2/3)``, up to 100, where samples are many: ``benchmarks/simulate.py``.
    """
    if wanted is not None:
        return max(1, round(wanted / kernel_tile)) * kernel_tile
    size = min(max(train // FACTOR_PIECES, SMALLEST_FACTOR_TILE), LARGEST_FACTOR_TILE)
    count = min(max(size // kernel_tile, 1), -(-train // kernel_tile))
    if train >= LEAST_SHARED_ROWS:
        shared = max(train / min(PIECES_OF_SLOTS * slots ** (2 / 3), MOST_SHARED_PIECES), SMALLEST_SHARED_TILE)
        count = max(1, min(count, round(shared / kernel_tile)))
    return count * kernel_tile


PRODUCT_PIECES, SMALLEST_PRODUCT_TILE, LARGEST_PRODUCT_TILE = 16, 2048, 8192


def choose_product_tile(train: int, kernel_tile: int, wanted: int | None) -> int:
    """Choose the edge of the kernel's blocks that conjugate gradients multiply at a time, a multiple of its tile.

    About 16 block rows, 136 tasks an iteration, for any number of workers: sums over blocks must not depend on
    them. Below 2,048 samples a task would be shorter than its 12 ms of overhead; 8,192 are 256 MB in float32. A
    ``wanted`` size is only rounded to whole kernel tiles.
    """
    if wanted is not None:
        return max(1, round(wanted / kernel_tile)) * kernel_tile
    size = min(max(train // PRODUCT_PIECES, SMALLEST_PRODUCT_TILE), LARGEST_PRODUCT_TILE)
    return min(max(size // kernel_tile, 1), -(-train // kernel_tile)) * kernel_tile
