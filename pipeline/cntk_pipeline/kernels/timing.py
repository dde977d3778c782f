"""What a pair of images costs by the clock, whatever computes it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from cntk_pipeline.kernels.program import Array

SAMPLE_SECONDS = 0.3
"""How long to measure."""

LARGEST_SAMPLE = 256
"""Right images of the largest measured tile."""

SEED = 7_042_991
"""Draws the right images."""

CLOCK_SECONDS = 0.1
"""What takes longer is measured by the time that the core spent on it."""


@dataclass(frozen=True)
class PairCost:
    """What a pair of images costs.

    Attributes
    ----------
    seconds : float
        On one core.
    share : float
        Of the pair's work that was computed to find out; 0 where the seconds are counted, not measured.
    """

    seconds: float
    share: float


def time_call(call: Callable[[], object]) -> float:
    """Time a call on one core, in seconds."""
    start, used = time.perf_counter(), time.thread_time()
    call()
    passed, used = time.perf_counter() - start, time.thread_time() - used
    # The core's own time leaves out what other programs took of it; some systems count it in steps of 16 ms.
    return used if passed > CLOCK_SECONDS else passed


def time_by_clock(call: Callable[[], object]) -> float:
    """Time a call by the clock, in seconds: of what a device computes, the core's own time is only the wait."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def time_pairs(
    evaluate: Callable[[Array, Array], Array],
    sample: Array,
    rows_at_most: int,
    lane_width: int,
    time_one: Callable[[Callable[[], object]], float] = time_call,
) -> float:
    """Time a pair, after compilation, in the fastest of tiles that grow as long as the time allows.

    Parameters
    ----------
    evaluate : callable
        Takes left and right images, and computes the values of all pairs.
    sample : array
        Standardised images, left ones; repeated as often as needed.
    rows_at_most : int
        Left images of the largest tile.
    lane_width : int
        Right images of the smallest one.
    time_one : callable
        Times a call in seconds.
    """
    # An image and its copy may be computed in float64, as few pairs of a run are: right images are others. Their seed
    # is no usual one, since people try the program with random images: copies of those cost four times as much.
    other = np.random.default_rng(SEED).standard_normal((LARGEST_SAMPLE, *sample.shape[1:]))
    other *= max(np.nanstd(sample), 1e-3)

    def tile(size: int) -> Array:
        return sample[np.arange(size) % len(sample)]

    other[np.isnan(tile(LARGEST_SAMPLE))] = np.nan  # what is absent in the left ones

    evaluate(sample[:1], other[:1])  # compiles
    rows, columns, best = 1, min(lane_width, LARGEST_SAMPLE), float("inf")
    began = time.perf_counter()
    while True:
        left, right = tile(rows), other[:columns]
        best = min(best, time_one(partial(evaluate, left, right)) / (rows * columns))
        if time.perf_counter() - began > SAMPLE_SECONDS:
            return best
        rows, columns = (2 * rows, columns) if rows < rows_at_most else (rows, min(2 * columns, LARGEST_SAMPLE))
