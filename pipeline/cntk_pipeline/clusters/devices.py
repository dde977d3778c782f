"""Graphics cards of workers: each worker has one, and no other worker of its machine has it.

A worker is restarted by its nanny, with the nanny's environment, and so with the same card.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from cntk_pipeline.errors import ConfigError
from cntk_pipeline.resources import core_count

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""Variable that tells CUDA which cards a process may use: numbers, or names as ``GPU-...`` and ``MIG-...``."""


def visible_devices(count: int, environment: Mapping[str, str] = os.environ) -> list[str]:
    """Name the first ``count`` cards of this machine as CUDA takes them, of those that this process may use.

    Raises
    ------
    ConfigError
        If `VISIBLE` shows fewer.
    """
    if VISIBLE not in environment:
        return [str(number) for number in range(count)]
    shown: list[str] = []
    for name in (part.strip() for part in environment[VISIBLE].split(",")):
        if name in ("", "-1", *shown):  # CUDA reads no further
            break
        shown.append(name)
    if len(shown) < count:
        raise ConfigError(
            f"cluster.gpus_per_node = {count}, and {VISIBLE} = {environment[VISIBLE]!r} shows {len(shown)} cards of "
            "this machine: set it to all that may be used, or lower gpus_per_node"
        )
    return shown[:count]


def cores_of_worker(threads: int, gpus: int | None) -> int:
    """Count the cores by whose share of a machine's memory a worker is given its own.

    Parameters
    ----------
    threads : int
        Of the worker.
    gpus : int or None
        Cards of the machine, each of which has a worker: they share its cores; None for workers without cards.
    """
    return threads if gpus is None else max(threads, core_count() // gpus)


class NanniesWithDevices:
    """Makes Dask's nannies, each with one of the devices; called in the place of the class of nannies.

    Parameters
    ----------
    devices : sequence of str
        At least as many as nannies at once.
    """

    def __init__(self, devices: Sequence[str]) -> None:
        self._devices = tuple(devices)
        self._nannies: dict[str, Any] = {}

    def __call__(self, scheduler: str, **options: Any) -> Any:
        """Make a nanny with the options of Dask's, and with the first device that no other one has."""
        import distributed

        device = min(self._devices, key=self._is_taken)
        nanny = self._nannies[device] = distributed.Nanny(scheduler, env={VISIBLE: device}, **options)
        return nanny

    def _is_taken(self, device: str) -> bool:
        nanny = self._nannies.get(device)
        return nanny is not None and nanny.status.name not in ("closed", "failed")
