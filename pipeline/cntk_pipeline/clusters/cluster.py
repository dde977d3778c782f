"""A kind of cluster, as one value: the rest of the package needs nothing else."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from cntk_pipeline.clusters.base import DRAIN_SECONDS, Executor, WorkerMemory
from cntk_pipeline.clusters.extras import Extra
from cntk_pipeline.clusters.local.submitter import BACKGROUND
from cntk_pipeline.clusters.options import ClusterOptions, NoOptions
from cntk_pipeline.clusters.submitter import Submitter
from cntk_pipeline.config import ClusterConfig
from cntk_pipeline.resources import worker_count


class Opener(Protocol):
    """A function that opens a cluster of one kind."""

    def __call__(
        self, config: ClusterConfig, prepare: Callable[[], None], stop: threading.Event | None = None
    ) -> AbstractContextManager[Executor]:
        """Open the cluster.

        Parameters
        ----------
        config : ClusterConfig
            The ``[cluster]`` table.
        prepare : callable
            Called in each process that computes, before its first tile.
        stop : threading.Event, optional
            Ends the wait for workers with `Interrupted`.
        """


def slots_of_workers(config: ClusterConfig) -> int:
    """Count the tiles that the workers compute at once. If their number is not given, this machine counts."""
    threads = config.threads_per_worker
    return worker_count(config.workers or config.gpus_per_node, threads) * threads


def unknown_memory(config: ClusterConfig) -> WorkerMemory | None:
    """Return None: the executor will find the memory of its workers."""
    return None


def unknown_machines(config: ClusterConfig) -> int | None:
    """Return None: a batch system chooses the machines."""
    return None


def refuse_nothing(config: ClusterConfig) -> None:
    """Accept every table."""


def usual_drain(config: ClusterConfig) -> float:
    """Return the usual wait of a driver that is to stop."""
    return DRAIN_SECONDS


@dataclass(frozen=True)
class Cluster:
    """A kind of cluster.

    Attributes
    ----------
    executor : Opener
        Starts or reaches a cluster, and yields its executor.
    deed : str
        The effects of computing on it, in words that continue "this would". They are shown before a table of another
        writer is followed.
    preparation : str
        What happens before the first tile, for people.
    options : subclass of ClusterOptions
        Its own keys of ``[cluster]``, each with a default.
    submitter : Submitter
        Hands drivers to it; by default they run in the background of this machine.
    extra : Extra, optional
        The extra of the package that it needs.
    slots : callable
        Counts the tiles that a table's cluster computes at once, for the forecast of a run.
    memory : callable
        Returns the memory of a table's workers before they exist; None where only the worker will know.
    computes_here : bool
        Whether it computes in processes of this machine, and connects to nothing else. Then a table of another writer
        is followed, if it has only harmless keys: `clusters.trust`.
    harmless_options : frozenset of str
        Its own keys that anybody may set.
    gives_devices : bool
        Whether it starts workers, and gives each of them a graphics card of its own.
    machines : callable
        Counts the machines of a table's workers; None where a batch system chooses them.
    drain_seconds : callable
        How long a driver that is to stop waits for tiles that have begun.
    check : callable
        Refuses, with `ConfigError`, a table that a driver in this process could not compute on, before it begins a run;
        it may read files that the table names, and waits for nothing. A driver elsewhere has `Submitter.check`.
    """

    executor: Opener
    deed: str
    preparation: str = "starting workers, which compile the kernels or load them from the cache"
    options: type[ClusterOptions] = NoOptions
    submitter: Submitter = BACKGROUND
    extra: Extra | None = None
    slots: Callable[[ClusterConfig], int] = slots_of_workers
    memory: Callable[[ClusterConfig], WorkerMemory | None] = unknown_memory
    computes_here: bool = False
    harmless_options: frozenset[str] = frozenset()
    gives_devices: bool = True
    machines: Callable[[ClusterConfig], int | None] = unknown_machines
    drain_seconds: Callable[[ClusterConfig], float] = usual_drain
    check: Callable[[ClusterConfig], object] = refuse_nothing
