"""A Dask scheduler that somebody else runs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import distributed

from pipeline.config import ClusterConfig
from pipeline.errors import ConfigError, WorkersLost
from pipeline.executors.base import Executor
from pipeline.executors.dask import prepared


@contextmanager
def open_address(config: ClusterConfig, prepare: Callable[[], None]) -> Iterator[Executor]:
    """Connect to a scheduler; its workers need this package and the run directory under the same path.

    Raises
    ------
    ConfigError
        If no address is given.
    WorkersLost
        If the scheduler does not answer, or has no workers.
    """
    if not config.address and not config.scheduler_file:
        raise ConfigError('the "address" cluster needs cluster.address ("tcp://host:8786") or cluster.scheduler_file')
    where = config.address or config.scheduler_file
    try:
        client = distributed.Client(config.address, scheduler_file=config.scheduler_file)
    except (OSError, ValueError) as error:
        raise WorkersLost(f"no Dask scheduler answers at {where}: {error}. Start one, then `cntk resume`") from error
    with client:
        if not client.nthreads():
            raise WorkersLost(f"the scheduler at {where} has no workers: start some, then `cntk resume`")
        yield prepared(client, prepare, f"{len(client.nthreads())} workers of the scheduler at {where}")
