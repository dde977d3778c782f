"""A kind of cluster: all that the rest of the package knows of it, in one value."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from cntk_pipeline.clusters.base import Executor, WorkerMemory
from cntk_pipeline.clusters.extras import Extra
from cntk_pipeline.clusters.local.submitter import BACKGROUND
from cntk_pipeline.clusters.options import ClusterOptions, NoOptions
from cntk_pipeline.clusters.submitter import Submitter
from cntk_pipeline.config import ClusterConfig
from cntk_pipeline.resources import worker_count


class Opener(Protocol):
    """Opens a cluster of one kind."""

    def __call__(
        self, config: ClusterConfig, prepare: Callable[[], None], stop: threading.Event | None = None
    ) -> AbstractContextManager[Executor]:
        """Open it.

        Parameters
        ----------
        config : the ``[cluster]`` table.
        prepare : to be called in each process that computes, before its first tile.
        stop : ends the wait for workers with `Interrupted`.
        """


def slots_of_workers(config: ClusterConfig) -> int:
    """Count the tiles that the workers compute at once. Without their number, cores of this machine count."""
    threads = config.threads_per_worker
    return worker_count(config.workers, threads) * threads


def unknown_memory(config: ClusterConfig) -> WorkerMemory | None:
    """Leave it to the executor to find out what memory its workers have."""
    return None


@dataclass(frozen=True)
class Cluster:
    """A kind of cluster.

    Attributes
    ----------
    executor : starts or reaches a cluster, and yields its executor.
    deed : what computing on it does, in words that follow on "this would". They are shown before a table that somebody
        else wrote is followed.
    options : the keys of ``[cluster]`` that are its own, each with a default.
    submitter : hands drivers to it; by default they run in the background of this machine.
    extra : what has to be installed for it.
    slots : counts the tiles that a table's cluster computes at once, for the forecast of a run.
    memory : says what a worker of a table will have, before there is one; None where only the worker will know.
    computes_here : whether it computes in processes of this machine, and connects to nothing else. Then a table that
        somebody else wrote is followed, as long as it holds nothing but harmless keys: `clusters.trust`.
    harmless_options : its own keys that anybody may set.
    """

    executor: Opener
    deed: str
    options: type[ClusterOptions] = NoOptions
    submitter: Submitter = BACKGROUND
    extra: Extra | None = None
    slots: Callable[[ClusterConfig], int] = slots_of_workers
    memory: Callable[[ClusterConfig], WorkerMemory | None] = unknown_memory
    computes_here: bool = False
    harmless_options: frozenset[str] = frozenset()
