"""The cost of solving a system, before anything is computed."""

import time
from dataclasses import dataclass

import google_crc32c
import numpy as np

from cntk_pipeline.storage.tiled_array import chunk_bytes
from cntk_pipeline.tiling import Cut, KeptTiles


@dataclass(frozen=True)
class IterationForecast:
    """One iteration on one system. The number of iterations depends on the eigenvalues and is not known beforehand.

    Attributes
    ----------
    tasks : int
        Products, and the step after them.
    read_bytes : int
        Of the stored lower tiles of the kernel, each read once.
    product_seconds : float
        Core-seconds of all products, on any number of slots, and of the tiles that are computed.
    step_seconds : float
        Of the step, on one slot.
    """

    tasks: int
    read_bytes: int
    product_seconds: float
    step_seconds: float


@dataclass(frozen=True)
class SystemSize:
    """The size of a system, from which its cost follows.

    Attributes
    ----------
    train, test, classes : int
        Of the data set.
    kernel_tile, tile : int
        Samples along the edge of a tile of the kernel, and of a tile or block of the solver.
    dtype : str
        Of the kernel.
    product_rate : float
        Of float64 matrix products, floating-point operations a second and core; 0 where it is not measured because only
        memory is forecast.
    centres : int, optional
        Columns of the kernel, where they are not all training images.
    kept : KeptTiles, optional
        The tiles of K(train, train) that are stored, while each pass computes the others; None where all are.
    pair_seconds : float
        Of a pair that a pass computes, on one core; of several read-outs it is the time of all, since what one of them
        takes alone is not measured.
    """

    train: int
    test: int
    classes: int
    kernel_tile: int
    tile: int
    dtype: str
    product_rate: float = 0.0
    centres: int | None = None
    kept: KeptTiles | None = None
    pair_seconds: float = 0.0

    @property
    def computed_seconds(self) -> float:
        """Core-seconds of the tiles that each pass computes."""
        if self.kept is None:
            return 0.0
        pairs = self.train * (self.train + 1) / 2
        return pairs * (1 - self.kept.count / self.kept.total) * self.pair_seconds

    @property
    def columns(self) -> int:
        """The number of columns of the kernel."""
        return self.train if self.centres is None else self.centres

    @property
    def cut(self) -> Cut:
        """How the training images are cut for the solver."""
        return Cut(self.train, self.tile)

    @property
    def triangle(self) -> int:
        """The number of the solver's tiles on and below the diagonal."""
        return self.cut.pieces * (self.cut.pieces + 1) // 2


@dataclass(frozen=True)
class StreamRate:
    """The cost of streaming on one core, measured here.

    Attributes
    ----------
    byte_seconds : float
        Time to read a byte from the page cache and check it. A slower disk sets the pace itself: divide the bytes of an
        iteration by the disk's rate for all workers together.
    entry_seconds : float
        Time of a kernel entry in both products of an iteration.
    """

    byte_seconds: float
    entry_seconds: float


_SIDE = 768
"""Edge of the measured tile: with its copies it outgrows a core's own caches, and a turn takes milliseconds."""


def measure_stream(dtype: str, classes: int) -> StreamRate:
    """Measure both times on one thread, the best of a few turns."""
    tile, direction = np.ones((_SIDE, _SIDE), dtype), np.ones((_SIDE, classes))
    payload = tile.tobytes()
    read, multiply = [], []
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        for _ in range(4):
            start = time.perf_counter()
            content = bytearray(payload)  # a copy, as in reading a cached file
            google_crc32c.value(bytes(content))
            between = time.perf_counter()
            promoted = tile.astype(np.float64)
            _ = promoted @ direction, promoted.T @ direction
            read.append(between - start)
            multiply.append(time.perf_counter() - between)
    return StreamRate(min(read) / len(payload), min(multiply) / _SIDE**2)


def forecast_streaming(size: SystemSize, factor_dtype: str | None, rank: int) -> IterationForecast:
    """Forecast an iteration of conjugate gradients, preconditioned by a factor of a dtype or to a given rank."""
    tiles, blocks = Cut(size.train, size.kernel_tile).pieces, size.triangle
    stored = tiles * (tiles + 1) // 2 if size.kept is None else size.kept.count
    kernel_bytes = stored * chunk_bytes((size.kernel_tile, size.kernel_tile), size.dtype)
    partial_bytes = 2 * blocks * size.tile * size.classes * 8
    rate = measure_stream(size.dtype, size.classes)
    streamed = size.train * (size.train + 1) / 2 * rate.entry_seconds
    if factor_dtype is not None:
        # Two triangular solves, each a pass over the factor.
        triangle = size.train**2 * np.dtype(factor_dtype).itemsize
        applied = triangle * rate.byte_seconds + 2 * streamed
    else:
        applied = size.train * rank * (8 * rate.byte_seconds + 4 * size.classes / size.product_rate)
    return IterationForecast(
        blocks + 1,
        kernel_bytes,
        kernel_bytes * rate.byte_seconds + streamed + size.computed_seconds,
        partial_bytes * rate.byte_seconds + applied,
    )
