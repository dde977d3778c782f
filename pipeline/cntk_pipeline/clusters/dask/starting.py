"""Explanations why a cluster on this machine does not start, in a line with the setting or limit to change."""

import contextlib
import errno
import logging
import resource
import socket
import threading
from collections.abc import Iterator

from cntk_pipeline.clusters.base import require_no_stop
from cntk_pipeline.config import ClusterConfig
from cntk_pipeline.errors import ConfigError, PipelineError, WorkersLost

_UNBOUND = (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES, errno.EAFNOSUPPORT)
"""Errors of binding an address."""


@contextlib.contextmanager
def start_explained(config: ClusterConfig, stop: threading.Event | None) -> Iterator[None]:
    """Turn Dask's errors at the start of workers ("Nanny failed to start") into errors that name the cause.

    Raises
    ------
    Interrupted
        If ``stop`` is set: then this was the cause.
    ConfigError
        If the dashboard cannot listen at its address.
    WorkersLost
        If a limit of the system, or the end of a worker, prevented the start.
    """
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # it logs the same error as pages of traceback
    try:
        yield
    except PipelineError:
        raise
    except Exception as error:  # of any library below Dask
        require_no_stop(stop)
        raise _explain(error, config) from error


def _explain(error: Exception, config: ClusterConfig) -> PipelineError:
    found = causes(error)
    numbers = {cause.errno for cause in found if isinstance(cause, OSError)}
    said = f"{type(found[-1]).__name__}: {found[-1]}"
    if any(isinstance(cause, socket.gaierror) for cause in found) or numbers & set(_UNBOUND):
        return ConfigError(
            f"cluster.dashboard = {config.dashboard!r}: nothing can listen there ({found[-1]}); "
            'give an address of this machine, or leave it at "127.0.0.1:0"'
        )
    if numbers & {errno.EMFILE, errno.ENFILE}:
        return WorkersLost(
            f"the workers could not be started: too many open files, and {_limit('n')} of them are allowed "
            "(ulimit -n): raise that, or take fewer workers (cluster.workers)"
        )
    if errno.ENOMEM in numbers:
        return WorkersLost(
            f"the workers could not be started: no memory is to be had for another process ({said}): lift the limit on "
            "it (ulimit -v unlimited), or take fewer workers (cluster.workers)"
        )
    if errno.EAGAIN in numbers or any("can't start new thread" in str(cause) for cause in found):
        return WorkersLost(
            f"the workers could not be started: no further process or thread is to be had ({said}), and {_limit('u')} "
            "are allowed (ulimit -u, or the limit of a container): raise that, or take fewer workers (cluster.workers)"
        )
    return WorkersLost(
        f"a worker ended while it started ({said}). Where it was killed, workers are given too little memory "
        f"(cluster.memory_limit, here {config.memory_limit!r}) or the machine has too little for so many "
        f"(cluster.workers); limits are {_limit('n')} open files (ulimit -n) and {_limit('u')} processes (ulimit -u)"
    )


def causes(error: BaseException) -> list[BaseException]:
    """List an error and its causes, the first cause last; Dask does not always raise "from" the cause."""
    found: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and all(following is not known for known in found):
        found.append(following)
        following = following.__cause__ or following.__context__
    return found


def _limit(letter: str) -> str:
    """Write a limit of this process as ``ulimit`` does."""
    soft, _ = resource.getrlimit({"n": resource.RLIMIT_NOFILE, "u": resource.RLIMIT_NPROC}[letter])
    return "unlimited" if soft == resource.RLIM_INFINITY else str(soft)
