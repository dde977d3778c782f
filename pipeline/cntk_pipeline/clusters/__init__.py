"""Where tiles are computed.

``EXECUTORS`` is the door of this room: for each kind of cluster a function that takes its configuration, the
preparation of a worker, and an event that ends the wait for workers with `Interrupted`, and yields an `Executor`.
"""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from cntk_pipeline.clusters.address import open_address
from cntk_pipeline.clusters.base import Completion, Executor, WorkerMemory
from cntk_pipeline.clusters.dask.on_worker import release_slot
from cntk_pipeline.clusters.kubernetes.executor import open_kubernetes
from cntk_pipeline.clusters.local.executor import open_local
from cntk_pipeline.clusters.serial import open_serial
from cntk_pipeline.clusters.slurm.executor import open_slurm
from cntk_pipeline.clusters.ssh.executor import open_ssh
from cntk_pipeline.config import ClusterConfig


class Opener(Protocol):
    """Opens one kind of cluster."""

    def __call__(
        self, config: ClusterConfig, prepare: Callable[[], None], stop: threading.Event | None = None
    ) -> AbstractContextManager[Executor]:
        """Open it."""


EXECUTORS: dict[str, Opener] = {
    "serial": open_serial,
    "local": open_local,
    "address": open_address,
    "slurm": open_slurm,
    "ssh": open_ssh,
    "kubernetes": open_kubernetes,
}

__all__ = ["EXECUTORS", "Completion", "Executor", "WorkerMemory", "release_slot"]
