"""Measures how fast this machine does what the tasks of a factorisation consist of, with all its cores at work.

Others may use the machine, so that what needs no disk is timed in the processor time of its thread, and the best of
several turns counts. A disk is shared by all who write, so the writing of all cores at once is timed by the clock.
"""

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from cntk_pipeline.kernels import cost, lower
from cntk_pipeline.layers import presets
from cntk_pipeline.solvers.blas import factor_lower, reserve_buffers, solve_right, subtract_product, subtract_square
from cntk_pipeline.storage import open_path
from cntk_pipeline.storage.tiled_array import ArraySpec, Group, TiledArray

LARGEST_TILE = 2048
"""Larger products run at the same rate."""

TURNS = 3


@dataclass(frozen=True)
class Rates:
    """What one core does, with the others at work too.

    Attributes
    ----------
    product, square, solve, factor : float
        Floating-point operations a second of the four operations on a tile.
    check : float
        Bytes a second of mapping a tile that is in memory, and its checksum.
    write : float
        Bytes a second of writing a tile, with its digest and fsync.
    encode : float
        Bytes a second of a core that writes: of checksum, digest and copying to the system.
    """

    product: float
    square: float
    solve: float
    factor: float
    check: float
    write: float
    encode: float

    def at(self, product: float) -> "Rates":
        """Return the rates of a core whose product runs at another rate, and the other operations in proportion."""
        factor = product / self.product
        return replace(
            self,
            product=product,
            square=self.square * factor,
            solve=self.solve * factor,
            factor=self.factor * factor,
        )


@lru_cache
def measure_rates(size: int, cores: int = os.cpu_count() or 1) -> Rates:
    """Measure with tiles of ``size`` samples, at most `LARGEST_TILE`."""
    size = min(size, LARGEST_TILE)
    random = np.random.default_rng(0)
    a = random.standard_normal((size, size)) / size**0.5
    kernel = a @ a.T + np.eye(size)
    factor = np.linalg.cholesky(kernel)
    tiles = [np.empty((size, size)) for _ in range(cores)]

    def rate(operations: float, operation: Callable[[np.ndarray], object]) -> float:
        def run(tile: np.ndarray) -> float:
            tile[:] = kernel
            start = time.thread_time()
            operation(tile)
            return time.thread_time() - start

        return operations / _best_seconds(run, tiles)

    reserve_buffers()  # loads SciPy's BLAS, which a limit does not find before
    with threadpool_limits(1):
        product = rate(2 * size**3, lambda tile: subtract_product(a, a, tile))
        square = rate(size**3, lambda tile: subtract_square(a, tile))
        solve = rate(size**3, lambda tile: solve_right(factor, tile))
        factored = rate(size**3 / 3, factor_lower)
    return Rates(product, square, solve, factored, *_measure_store(a, cores))


def _measure_store(tile: np.ndarray, cores: int) -> tuple[float, float, float]:
    """Return the bytes a second at which a core checks tiles in memory, writes them by the clock, and by its time."""
    size = len(tile)
    with tempfile.TemporaryDirectory() as folder:
        group = open_path(folder) / "tiles.zarr"
        Group(group, (ArraySpec("tile", (size * cores, size), tile.shape, "float64", ("row", "column")),), {}).create()

        def write(row: int, timer: Callable[[], float] = time.perf_counter) -> float:
            array = TiledArray(group / "tile")
            start = timer()
            array.write((row, 0), tile)
            return timer() - start

        def encode(row: int) -> float:
            return write(row, time.thread_time)

        def check(row: int) -> float:
            array = TiledArray(group / "tile")
            array.write((row, 0), tile)  # a process checks each tile only once
            start = time.thread_time()
            array.read_mapped(row, 0)
            return time.thread_time() - start

        written, encoded, checked = (
            tile.nbytes / _best_seconds(action, range(cores)) for action in (write, encode, check)
        )
    return checked, written, encoded


def _best_seconds(action: Callable[[Any], float], subjects: Sequence[Any]) -> float:
    """Do something to all subjects at once, some times over; return the mean seconds of the best turn."""
    with ThreadPoolExecutor(len(subjects)) as pool:
        return min(float(np.mean(list(pool.map(action, subjects)))) for _ in range(TURNS))


def measure_pair(pooling: str) -> float:
    """Return the seconds of a pair of CIFAR-sized images on one core, for the preset `cntk` of depth 11."""
    sample = np.random.default_rng(1).standard_normal((32, 32, 32, 3)).astype(np.float32)
    program = lower([(presets.cntk(11, pooling), "ntk")], sample.shape[1:])
    return min(cost.measure_pair(program, "float32", False, sample).seconds for _ in range(TURNS))
