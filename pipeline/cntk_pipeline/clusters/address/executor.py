"""A Dask scheduler that somebody else runs."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import distributed
import distributed.comm

from cntk_pipeline.clusters.address.access import client_security, require_encrypted, scheduler_address
from cntk_pipeline.clusters.base import Executor
from cntk_pipeline.clusters.dask.executor import ExecutorTraits, count_workers, prepared, quieten
from cntk_pipeline.clusters.dask.starting import causes
from cntk_pipeline.config import ClusterConfig
from cntk_pipeline.errors import ConfigError, WorkersLost


@contextmanager
def open_address(
    config: ClusterConfig, prepare: Callable[[], None], stop: threading.Event | None
) -> Iterator[Executor]:
    """Connect to a scheduler; its workers need this package and the run directory under the same path.

    Raises
    ------
    ConfigError
        If no address is given, or it is not encrypted, or its certificates are not named.
    WorkersLost
        If the scheduler does not answer, refuses the certificates, or has no workers.
    """
    where = scheduler_address(config)
    warnings = require_encrypted(where, config)
    security, of_the_key = client_security(where, config)
    quieten()
    _require_protocol(where)
    try:
        client = distributed.Client(where, security=security)
    except (OSError, ValueError) as error:
        if "CERTIFICATE_VERIFY_FAILED" in "".join(map(str, causes(error))):
            raise WorkersLost(
                f"the scheduler at {where} shows a certificate that is not good here: {causes(error)[-1]}. Start it "
                "with one of the authority in cluster.tls_ca_file that is, then `cntk resume`"
            ) from error
        raise WorkersLost(f"no Dask scheduler answers at {where}: {error}. Start one, then `cntk resume`") from error
    with client:
        count = count_workers(client)
        if not count:
            raise WorkersLost(f"the scheduler at {where} has no workers: start some, then `cntk resume`")
        label = f"{count} workers of the scheduler at {where}"
        yield prepared(client, prepare, ExecutorTraits(label, warnings=warnings + of_the_key))


def _require_protocol(address: str) -> None:
    """Refuse a protocol whose library is not installed; Dask knows its name all the same.

    Raises
    ------
    ConfigError
        If the library is missing, with the reason.
    """
    protocol = address.partition("://")[0]
    try:
        distributed.comm.registry.get_backend(protocol).get_connector()
    except Exception as error:  # any error of the library, or of Dask in its place
        library = "distributed-ucxx" if protocol == "ucx" else f"what Dask needs for {protocol}"
        raise ConfigError(
            f"the scheduler at {address} cannot be spoken to: install {library}, or take tls:// ({error})"
        ) from error
