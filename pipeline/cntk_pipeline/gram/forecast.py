"""The cost of the kernel matrices, before anything is computed."""

from dataclasses import dataclass

from cntk_pipeline.gram.tiles import TEST, TEST_TEST, TRAIN, TRAIN_VARIANCE, VARIANCE, list_kernel_jobs
from cntk_pipeline.storage.tiled_array import chunk_bytes
from cntk_pipeline.tasks import StageForecast
from cntk_pipeline.tiling import Cut, KeptTiles


@dataclass(frozen=True)
class KernelSize:
    """The size of the matrices of a run.

    Attributes
    ----------
    train, test : int
        Numbers of images.
    tile : int
        Samples along the edge of a tile.
    dtype : str
        Of the values.
    readouts : int
        Number of kernels in one pass.
    centres : int, optional
        Columns of the kernel, where they are not all training images.
    test_weight : float
        The cost of a test image divided by the cost of a training image; 1 except for graphs.
    symmetric : bool
        Whether these are the leading training images.
    kernel_bytes : int, optional
        Room for the stored tiles of K(train, train); None where all are stored.
    """

    train: int
    test: int
    tile: int
    dtype: str
    readouts: int
    centres: int | None = None
    test_weight: float = 1.0
    symmetric: bool = True
    kernel_bytes: int | None = None

    @property
    def chunk_bytes(self) -> int:
        """The bytes of a tile of one read-out on disk."""
        return chunk_bytes((self.tile, self.tile), self.dtype)

    @property
    def line_bytes(self) -> int:
        """The bytes of a chunk of variances of one read-out on disk."""
        return chunk_bytes((self.tile,), self.dtype)

    @property
    def kept(self) -> KeptTiles | None:
        """The tiles of K(train, train) that are stored; None where all are."""
        if self.kernel_bytes is None:
            return None
        return KeptTiles.within(self.kernel_bytes, Cut(self.train, self.tile).pieces, self.chunk_bytes * self.readouts)


def forecast_kernel(size: KernelSize, pair_seconds: float, *, test_kernel: bool) -> list[StageForecast]:
    """Forecast the stages of the kernel.

    Parameters
    ----------
    pair_seconds : float
        Of a pair of images on one core, all read-outs together.
    test_kernel : bool
        Whether K(test, test) is computed.
    """
    rows, columns = Cut(size.train, size.tile).pieces, Cut(size.test, size.tile).pieces
    chunk, line = size.chunk_bytes, size.line_bytes

    def triangle(kind: str, count: int, pieces: int, seconds: float) -> StageForecast:
        tiles = pieces * (pieces + 1) // 2
        return StageForecast(kind, tiles, tiles * chunk * size.readouts, count * (count + 1) / 2 * seconds)

    if size.centres is not None:
        return _forecast_columns(size, size.centres, pair_seconds)
    of_test = pair_seconds * size.test_weight, pair_seconds * size.test_weight**2
    train = triangle(TRAIN.kind, size.train, rows, pair_seconds)
    if size.kept is not None:
        share = size.kept.count / size.kept.total
        written = size.kept.count * chunk * size.readouts
        train = StageForecast(train.kind, size.kept.count, written, train.core_seconds * share)
    found = [
        StageForecast(train.kind, train.tasks, train.written_bytes + rows * line * size.readouts, train.core_seconds),
        StageForecast(
            TEST.kind, rows * columns, rows * columns * chunk * size.readouts, size.test * size.train * of_test[0]
        ),
        StageForecast(VARIANCE.kind, columns, columns * line * size.readouts, size.test * of_test[1]),
    ]
    return [*found, triangle(TEST_TEST.kind, size.test, columns, of_test[1])] if test_kernel else found


def _forecast_columns(size: KernelSize, centres: int, pair_seconds: float) -> list[StageForecast]:
    """Forecast the stages of a kernel of some columns, by its tasks."""
    cut, chunk, line = Cut(size.train, size.tile), size.chunk_bytes, size.line_bytes
    found = []
    jobs = list_kernel_jobs(cut, Cut(size.test, size.tile), Cut(centres, size.tile), symmetric=size.symmetric)
    for owner in (TRAIN, TEST, VARIANCE, TRAIN_VARIANCE):
        mine = [grid for grid in jobs.grids if grid.owner is owner]
        count = sum(map(len, mine))
        written = count * (chunk if owner in (TRAIN, TEST) else line)
        if owner is TRAIN and size.symmetric:
            written += min(cut.pieces, Cut(centres, size.tile).pieces) * line  # the diagonal
        weight = {TEST: size.test_weight, VARIANCE: size.test_weight**2}.get(owner, 1.0)
        seconds = sum(grid.total_entries() for grid in mine) * pair_seconds * weight
        # Where the kernel itself draws its centres, a block of columns waits for the draw after the block before it.
        chain = Cut(centres, size.tile).pieces if owner is TRAIN and not size.symmetric else 1
        found.append(StageForecast(owner.kind, count, written * size.readouts, seconds, chain))
    return found
