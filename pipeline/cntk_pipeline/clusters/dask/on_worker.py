"""What runs in Dask's workers: their preparation, and calls that send their results to whoever asked."""

import contextlib
import pickle
import time
import traceback
import uuid
from collections.abc import Callable
from typing import Any

import distributed
from distributed.diagnostics.plugin import WorkerPlugin

from cntk_pipeline.clusters.dask.clock import keep_steady
from cntk_pipeline.storage.tiled_array import MAPPED_BYTES, limit_mapped_tiles
from cntk_pipeline.telemetry.events import close_logs

REFUSAL_SECONDS = 10.0
"""How long a worker that is not prepared sits on a call before it refuses it: others take the next ones meanwhile."""

DEEPEST_TRACEBACK = 100
"""Dask pickles tracebacks frame within frame."""


class Preparation(WorkerPlugin):  # type: ignore[misc]
    """Prepares every worker for one driver, late joiners too: a worker that fails to prepare computes no tile of it.

    Dask lets a late joiner take calls all the same, and only logs why it could not be prepared.
    """

    idempotent = False

    def __init__(self, prepare: Callable[[], None]) -> None:
        self.name = f"cntk-{uuid.uuid4().hex}"  # of this driver: another one on the same scheduler has its own
        self.prepare = prepare
        self.problem = "it is not prepared yet"

    def setup(self, worker: Any) -> None:
        """Run the preparation inside the worker."""
        keep_steady()
        try:
            limit_mapped_tiles(int(worker.memory_manager.memory_limit or MAPPED_BYTES * 4))
            self.prepare()
        except Exception as error:
            self.problem = f"{type(error).__name__}: {error}"
            raise
        self.problem = ""

    def teardown(self, worker: Any) -> None:
        """Close the logs before the worker ends: where a log is an object, lines wait to be sent."""
        close_logs()


def send_result(topic: str, key: tuple[Any, ...], function: Callable[..., Any], *arguments: Any) -> None:
    """Run a call on a worker and send its result to whoever subscribed to ``topic``.

    Raises
    ------
    ConnectionError
        If the worker came late and could not be prepared: another one may be.
    """
    worker = distributed.get_worker()
    problem = worker.plugins[topic].problem if topic in worker.plugins else "it is not prepared"
    if problem:
        time.sleep(REFUSAL_SECONDS)
        raise ConnectionError(f"the worker {worker.address} takes no tile: {problem}")
    try:
        result = function(*arguments)
    except Exception as error:
        failed = sendable(error)
    else:
        worker.log_event(topic, pickle.dumps((key, result)))
        return
    raise failed  # here, where it takes no other error with it as its context


def sendable(error: Exception) -> Exception:
    """Return an error that comes through to the driver: of one that cannot be unpickled there, it would hear nothing.

    A traceback is sent along, which must not be as deep as one of too deep a recursion.
    """
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    if sum(1 for _ in traceback.walk_tb(error.__traceback__)) > DEEPEST_TRACEBACK:
        return error.with_traceback(None)
    return error


def release_slot() -> None:
    """Let the worker begin its next call while this one only waits for the disk; nothing happens outside of Dask.

    An fsync of a tile takes as long as its checksums and more, and needs no core.
    """
    with contextlib.suppress(ValueError):  # no worker runs this thread
        distributed.secede()
