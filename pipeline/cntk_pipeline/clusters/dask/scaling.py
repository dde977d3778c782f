"""How many workers a cluster has: restores lost ones, follows the work between two bounds, and holds still when asked.

Not Dask's `adapt`: it guesses the work from what waits in the scheduler, where the driver keeps little, and with worker
lifetimes it has lost every worker of a cluster.
"""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

from cntk_pipeline.config import ClusterConfig
from cntk_pipeline.errors import ConfigError

RESTORE_SECONDS = 5.0
"""Nannies restart a worker sooner; whoever is away for longer is asked for again, at this interval."""

RELEASE_SECONDS = 30.0
"""Workers that have had nothing to do for so long are given back."""


class Scalable(ABC):
    """A cluster whose workers can be asked for and given back by name."""

    @abstractmethod
    def request(self, count: int) -> None:
        """Ask for so many workers in all, again for those that were lost; returns at once."""

    @abstractmethod
    def release(self, names: Sequence[str]) -> None:
        """Give workers back; returns at once."""


class Scaling:
    """Keeps a cluster at the size that its work asks for.

    Parameters
    ----------
    cluster : what is scaled; it has ``minimum`` workers.
    minimum, maximum : workers.
    threads : calls that a worker runs at once.
    clock : in seconds.
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
        """Compare the workers with the work, and ask for some or give some back.

        Parameters
        ----------
        calls : in flight.
        loads : calls of each worker that is there, by its name.
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
            # Only idle ones: a worker that is taken away costs the tile that it computes.
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
    """Return the smallest and the largest number of workers, where the table's ``workers`` means ``workers``.

    Raises
    ------
    ConfigError
        If the smallest is larger.
    """
    minimum = workers if config.minimum_workers is None else config.minimum_workers
    if minimum > workers:
        raise ConfigError(f"cluster.minimum_workers = {minimum} must be at most cluster.workers, here {workers}")
    return minimum, workers
