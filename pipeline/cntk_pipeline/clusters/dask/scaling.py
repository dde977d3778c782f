"""The number of workers of a cluster: lost ones are restored, and it follows the work between two bounds or is held.

Dask's `adapt` is not used: it guesses the work from calls that wait in the scheduler, where the driver keeps few, and
with worker lifetimes it has lost every worker of a cluster.
"""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

from cntk_pipeline.config import ClusterConfig
from cntk_pipeline.errors import ConfigError

RESTORE_SECONDS = 5.0
"""Interval at which missing workers are requested again; nannies restart a worker sooner."""

RELEASE_SECONDS = 30.0
"""Time without work after which workers are given back."""


class Scalable(ABC):
    """A cluster whose workers can be asked for and given back by name."""

    @abstractmethod
    def request(self, count: int) -> None:
        """Request so many workers in all, lost ones again; returns at once."""

    @abstractmethod
    def release(self, names: Sequence[str]) -> None:
        """Give workers back; returns at once."""


class Scaling:
    """A control that keeps a cluster at the size that its work needs.

    Parameters
    ----------
    cluster : Scalable
        The cluster to scale; it has ``minimum`` workers.
    minimum, maximum : int
        Numbers of workers.
    threads : int
        Calls that a worker runs at once.
    clock : callable
        In seconds.
    """

    def __init__(
        self,
        cluster: Scalable,
        minimum: int,
        maximum: int,
        threads: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster, self._minimum, self._maximum, self._threads = cluster, minimum, maximum, threads
        self._clock = clock
        self._holds = False
        self._restored = self._needed = clock()
        self.target = minimum

    def adapt(self) -> None:
        """Follow the work from here on."""
        self._holds = False

    def hold(self) -> None:
        """Keep all workers from here on."""
        self._holds = True
        self._grow(self._maximum)

    def follow(self, calls: int, loads: Mapping[str, int]) -> None:
        """Compare the workers with the work, and request workers or give some back.

        Parameters
        ----------
        calls : int
            Number of calls in flight.
        loads : mapping of str to int
            Number of calls of each present worker, by its name.
        """
        wanted = (
            self._maximum if self._holds else min(max(math.ceil(calls / self._threads), self._minimum), self._maximum)
        )
        now = self._clock()
        if wanted >= self.target:
            self._needed = now
        if wanted > self.target:
            self._grow(wanted)
        elif now - self._needed > RELEASE_SECONDS:
            # Only idle ones: a removed worker loses the tile that it computes.
            idle = sorted(name for name, load in loads.items() if not load)[: self.target - wanted]
            if idle:
                self.target -= len(idle)
                self._cluster.release(idle)
        if len(loads) >= self.target:
            self._restored = now
        elif now - self._restored > RESTORE_SECONDS:
            self._restored = now
            self._cluster.request(self.target)

    def _grow(self, count: int) -> None:
        if count > self.target:
            self.target = count
            self._restored = self._clock()
            self._cluster.request(count)


def bounds(config: ClusterConfig, workers: int) -> tuple[int, int]:
    """Return the smallest and the largest number of workers; ``workers`` stands for the table's value.

    Raises
    ------
    ConfigError
        If the smallest is larger.
    """
    minimum = workers if config.minimum_workers is None else config.minimum_workers
    if minimum > workers:
        raise ConfigError(f"cluster.minimum_workers = {minimum} must be at most cluster.workers, here {workers}")
    return minimum, workers
