"""Measures how fast this machine does what the tasks of a factorisation consist of, with all its cores at work.

Others may use the machine, so that what needs no disk is timed in the processor time of its thread, and the best of
several turns counts. A disk is shared by all who write, so the writing of all cores at once is timed by the clock.
"""

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from cntk_pipeline.kernels import cost, lower
from cntk_pipeline.layers import presets
from cntk_pipeline.solvers.blas import factor_lower, solve_right, subtract_product, subtract_square
from cntk_pipeline.storage import open_path
from cntk_pipeline.storage.tiled_array import ArraySpec, TiledArray, create_arrays

LARGEST_TILE = 2048
"""Larger products run at the same rate."""

TURNS = 3


@dataclass(frozen=True)
class Rates:
    """What one core does, with the others at work too.

    Attributes
    ----------
    product, square, solve, factor : floating-point operations a second of the four operations on a tile.
    check : bytes a second of reading a tile that is in memory, and its checksum.
    write : bytes a second of writing a tile, with its digest and fsync.
    """

    product: float
    square: float
    solve: float
    factor: float
    check: float
    write: float

    def at(self, product: float) -> "Rates":
        """Return the rates of a core whose product runs at another rate, and the other operations in proportion."""
        factor = product / self.product
        return Rates(product, self.square * factor, self.solve * factor, self.factor * factor, self.check, self.write)


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

    with threadpool_limits(1):
        product = rate(2 * size**3, lambda tile: subtract_product(a, a, tile))
        square = rate(size**3, lambda tile: subtract_square(a, tile))
        solve = rate(size**3, lambda tile: solve_right(factor, tile))
        factored = rate(size**3 / 3, factor_lower)
    check, write = _measure_store(a, cores)
    return Rates(product, square, solve, factored, check, write)


def _measure_store(tile: np.ndarray, cores: int) -> tuple[float, float]:
    """Return the bytes a second at which a core checks tiles in memory, and writes them."""
    size = len(tile)
    with tempfile.TemporaryDirectory() as folder:
        group = open_path(Path(folder) / "tiles.zarr")
        create_arrays(group, [ArraySpec("tile", (size * cores, size), tile.shape, "float64", ("row", "column"))], {})

        def write(row: int) -> float:
            array = TiledArray(group / "tile")
            start = time.perf_counter()
            array.write((row, 0), tile)
            return time.perf_counter() - start

        def check(row: int) -> float:
            array = TiledArray(group / "tile")
            start = time.thread_time()
            array.read(row, 0)  # a mapped tile is checked in the first turn only
            return time.thread_time() - start

        rates = [tile.nbytes / _best_seconds(action, range(cores)) for action in (write, check)]
    return rates[1], rates[0]


def _best_seconds(action: Callable[[Any], float], subjects: Sequence[Any]) -> float:
    """Do something to all subjects at once, some times over; return the mean seconds of the best turn."""
    with ThreadPoolExecutor(len(subjects)) as pool:
        return min(float(np.mean(list(pool.map(action, subjects)))) for _ in range(TURNS))


def measure_pair(pooling: str) -> float:
    """Return the seconds of a pair of CIFAR-sized images on one core, for the preset `cntk` of depth 11."""
    sample = np.random.default_rng(1).standard_normal((32, 32, 32, 3)).astype(np.float32)
    program = lower([(presets.cntk(11, pooling), "ntk")], sample.shape[1:])
    return min(cost.measure_pair(program, "float32", False, sample).seconds for _ in range(TURNS))
