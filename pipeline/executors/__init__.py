"""Where tiles are computed.

``EXECUTORS`` is the door of this room: for each kind of cluster a function that takes its configuration, the
preparation of a worker, and an event that ends the wait for workers with `Interrupted`, and yields an `Executor`.
"""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from pipeline.config import ClusterConfig
from pipeline.executors.address import open_address
from pipeline.executors.base import Completion, Executor, WorkerMemory
from pipeline.executors.kubernetes import open_kubernetes
from pipeline.executors.local import open_local
from pipeline.executors.on_worker import release_slot
from pipeline.executors.serial import open_serial
from pipeline.executors.slurm import open_slurm
from pipeline.executors.ssh import open_ssh


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
