"""What solving a system will cost, before anything is computed."""

import time
from dataclasses import dataclass

import google_crc32c
import numpy as np
from threadpoolctl import threadpool_limits

from cntk_pipeline.clusters.memory import factor_task_bytes, iteration_task_bytes
from cntk_pipeline.solvers.systems import Method
from cntk_pipeline.storage.tiled_array import CRC_BYTES
from cntk_pipeline.tiling import Cut

BASIS_OPERATIONS = 10
"""Of an orthonormal basis, in units of n rank^2: a product, a singular value decomposition, and what surrounds them."""


@dataclass(frozen=True)
class IterationForecast:
    """One iteration of conjugate gradients on one system.

    Attributes
    ----------
    tasks : products, and the step that follows them.
    read_bytes : of the kernel's lower tiles, each read once.
    product_seconds : core-seconds of all products, on any number of slots.
    step_seconds : of the step, on one.
    """

    tasks: int
    read_bytes: int
    product_seconds: float
    step_seconds: float


@dataclass(frozen=True)
class SolveForecast:
    """Solving one system.

    Attributes
    ----------
    tasks, written_bytes, core_seconds : of all but iterations. Bytes are those that stay.
    memory_bytes : the largest need of a task.
    iteration : None where none run. How many it takes depends on the eigenvalues, so that nobody knows it beforehand.
    """

    tasks: int
    written_bytes: int
    core_seconds: float
    memory_bytes: int
    iteration: IterationForecast | None = None


@dataclass(frozen=True)
class SystemSize:
    """What a forecast depends on.

    Attributes
    ----------
    train, classes : of the data set.
    kernel_tile, tile : samples along the edge of a tile of the kernel, and of the factor or block.
    dtype : of the kernel.
    product_rate : of float64 matrix products, floating-point operations a second and core.
    """

    train: int
    classes: int
    kernel_tile: int
    tile: int
    dtype: str
    product_rate: float


def forecast_solve(size: SystemSize, method: Method) -> SolveForecast:
    """Add up what a system costs; measures how fast the kernel is streamed where it will be."""
    pieces = Cut(size.train, size.tile).pieces
    triangle = pieces * (pieces + 1) // 2
    iteration = _iteration(size, method, triangle) if method.iterates else None
    if not method.factors:
        rank = min(method.rank, size.train)
        tasks = (pieces + 1 if rank else 0) + 2  # and the first step, and the coefficients
        operations = 2.0 * size.train**2 * rank + BASIS_OPERATIONS * size.train * rank**2
        kept = size.train * size.classes * 8
        return SolveForecast(tasks, kept, operations / size.product_rate, _iteration_memory(size, rank), iteration)
    item = np.dtype(method.factor_dtype).itemsize
    written = triangle * (size.tile**2 * item + CRC_BYTES)
    operations = size.train**3 / 3 + 4 * size.train**2 * size.classes
    tasks = triangle + (2 if method.iterates else pieces + 1)
    memory = factor_task_bytes(size.tile)
    if method.iterates:
        memory = max(memory, _iteration_memory(size, 0))
    return SolveForecast(tasks, written, operations / size.product_rate, memory, iteration)


@dataclass(frozen=True)
class StreamRate:
    """What streaming costs one core, measured here.

    Attributes
    ----------
    byte_seconds : of taking a byte out of the page cache and checking it. A slower disk sets the pace itself: divide an
        iteration's bytes by what it delivers to all workers together.
    entry_seconds : of a kernel entry in both products of an iteration.
    """

    byte_seconds: float
    entry_seconds: float


def measure_stream(dtype: str, classes: int, side: int = 768) -> StreamRate:
    """Measure both on one thread, the best of a few turns."""
    tile, direction = np.ones((side, side), dtype), np.ones((side, classes))
    payload = tile.tobytes()
    read, multiply = [], []
    with threadpool_limits(1):
        for _ in range(4):
            start = time.perf_counter()
            content = bytearray(payload)  # what reading a cached file does: a copy
            google_crc32c.value(bytes(content))
            between = time.perf_counter()
            promoted = tile.astype(np.float64)
            _ = promoted @ direction, promoted.T @ direction
            read.append(between - start)
            multiply.append(time.perf_counter() - between)
    return StreamRate(min(read) / len(payload), min(multiply) / side**2)


def _iteration(size: SystemSize, method: Method, blocks: int) -> IterationForecast:
    tiles = Cut(size.train, size.kernel_tile).pieces
    kernel_bytes = tiles * (tiles + 1) // 2 * (size.kernel_tile**2 * np.dtype(size.dtype).itemsize + CRC_BYTES)
    partial_bytes = 2 * blocks * size.tile * size.classes * 8
    rate = measure_stream(size.dtype, size.classes)
    streamed = size.train * (size.train + 1) / 2 * rate.entry_seconds
    if method.factors:
        # Two triangular solves, each a pass over the factor.
        triangle = size.train**2 * np.dtype(method.factor_dtype).itemsize
        applied = triangle * rate.byte_seconds + 2 * streamed
    else:
        rank = min(method.rank, size.train)
        applied = size.train * rank * (8 * rate.byte_seconds + 4 * size.classes / size.product_rate)
    return IterationForecast(
        blocks + 1,
        kernel_bytes,
        kernel_bytes * rate.byte_seconds + streamed,
        partial_bytes * rate.byte_seconds + applied,
    )


def _iteration_memory(size: SystemSize, rank: int) -> int:
    return iteration_task_bytes(size.train, size.classes, size.kernel_tile, rank)
