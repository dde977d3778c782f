"""What all workers of SLURM share: their settings, the folder that nodes see, certificates, and the wait for them."""

import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask.config
import distributed

from cntk_pipeline.clusters.base import require_no_stop
from cntk_pipeline.clusters.dask.certificates import Certificates
from cntk_pipeline.clusters.dask.executor import count_workers
from cntk_pipeline.clusters.dask.settings import SETTINGS
from cntk_pipeline.config import ClusterConfig
from cntk_pipeline.errors import ConfigError, WorkersLost

LOOPBACK = "127.0.0.1:0"
"""Address of the workers' own dashboards and metrics."""

INHERITED = "DASK_INTERNAL_INHERIT_CONFIG"
"""Variable in which Dask's processes find the settings of their parent."""

FIRST_WORKER_SECONDS, ALL_WORKERS_SECONDS = 300.0, 60.0
"""Times of waiting for workers: starting Python on a cold parallel file system takes minutes."""


@contextmanager
def folder_of_nodes() -> Iterator[Path]:
    """Make a private folder in this user's home, which all nodes see; delete it at the end.

    Raises
    ------
    ConfigError
        If there is no home, or no folder can be made there.
    """
    # Not in the run directory, which colleagues may read, and which may be a bucket.
    try:
        home = Path.home()
    except RuntimeError as error:
        raise ConfigError(
            "this user has no home for the certificates and logs of the cluster: set HOME to a folder of your own that "
            "all nodes see"
        ) from error
    folder = home / ".cache" / "cntk" / f"slurm-{os.environ.get('SLURM_JOB_ID', 'jobs')}-{uuid.uuid4().hex[:8]}"
    try:
        try:
            folder.mkdir(mode=0o700, parents=True)
        except OSError as error:
            raise ConfigError(
                f"cannot make {folder} for the certificates and logs of the cluster: {error.strerror}. HOME must be a "
                "folder of your own that all nodes see"
            ) from error
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def certificates_of(config: ClusterConfig) -> Iterator[Certificates | None]:
    """Make the certificates of this job's cluster where all its nodes see them; delete them at its end."""
    if not config.tls:
        yield None
        return
    with folder_of_nodes() as folder:
        yield Certificates.create(folder, lifetime=None)


def wait_for_workers(
    client: distributed.Client, count: int, given_up: Callable[[], bool], stop: threading.Event | None, lost: str
) -> None:
    """Wait long for the first worker and less long for all: workers that come later are accepted too.

    Parameters
    ----------
    client : Client
        Of the cluster.
    count : int
        The number of workers to wait for.
    given_up : callable
        Tells that no worker will come any more.
    stop : threading.Event or None
        Set to end the wait.
    lost : str
        The message where there is no worker at the end.

    Raises
    ------
    WorkersLost
        If there is no worker at the end.
    """
    began = time.monotonic()
    while (here := count_workers(client)) < count:
        require_no_stop(stop)
        waited, some = time.monotonic() - began, here > 0
        if waited > (ALL_WORKERS_SECONDS if some else FIRST_WORKER_SECONDS) or (given_up() and not some):
            break
        time.sleep(0.1)
    if count_workers(client) == 0:
        raise WorkersLost(lost)


def inherited_settings() -> str:
    """Write the Dask settings of workers: this package's own, never the user's, which may hold secrets."""
    # Workers that leave in good order log lost connections at length; their messages on memory have another logger.
    levels = {"distributed": "warning", "distributed.nanny": "critical", "distributed.worker": "error"}
    levels |= {f"{name}.memory": "warning" for name in ("distributed.nanny", "distributed.worker")}
    settings: dict[str, Any] = {"logging": levels}
    dask.config.set(SETTINGS, config=settings)
    return str(dask.config.serialize(settings))
