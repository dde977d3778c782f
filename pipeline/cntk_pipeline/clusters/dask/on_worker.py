"""Code in Dask's workers: their preparation, and calls that send their results to the driver."""

import logging
import os
import pickle
import time
import traceback
import uuid
from collections.abc import Callable
from typing import Any

import distributed
from distributed.diagnostics.plugin import WorkerPlugin

from cntk_pipeline.clusters.dask.clock import keep_steady
from cntk_pipeline.errors import DeviceLost, NotPrepared
from cntk_pipeline.storage.tiled_array import MAPPED_BYTES, limit_mapped_tiles
from cntk_pipeline.telemetry.events import close_logs

REFUSAL_SECONDS = 10.0
"""Time that an unprepared worker holds a call before it refuses it: other workers take the next calls meanwhile."""

DEVICE_LOST = 74
"""Exit code of a worker whose graphics card failed: that of an error of a device (EX_IOERR)."""

DEEPEST_TRACEBACK = 100
"""Largest depth of a traceback that is sent: Dask pickles tracebacks frame within frame."""


class Preparation(WorkerPlugin):  # type: ignore[misc]
    """The preparation of every worker for one driver, also of late joiners; an unprepared worker computes no tile.

    Dask itself lets a late joiner take calls in any case, and only logs why its preparation failed.
    """

    idempotent = False

    def __init__(self, prepare: Callable[[], None]) -> None:
        self.name = f"cntk-{uuid.uuid4().hex}"  # another driver on the same scheduler has another name
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
    """Run a call on a worker and send its result to the subscriber of ``topic``.

    A lost graphics card ends the worker, so that its nanny starts another one and the call is tried again.

    Raises
    ------
    NotPrepared
        If the worker came late and could not be prepared; another worker may be.
    """
    worker = distributed.get_worker()
    problem = worker.plugins[topic].problem if topic in worker.plugins else "it is not prepared"
    if problem:
        time.sleep(REFUSAL_SECONDS)
        raise NotPrepared(f"the worker {worker.address} takes no tile: {problem}")
    try:
        result = function(*arguments)
    except DeviceLost as error:
        logging.getLogger("distributed.worker").critical("the worker %s ends: %s", worker.address, error)
        close_logs()  # the event that tells of the error may wait to be sent
        os._exit(DEVICE_LOST)
    except Exception as error:
        failed = sendable(error)
    else:
        worker.log_event(topic, pickle.dumps((key, result)))
        return
    raise failed  # here, where it takes no other error with it as its context


def sendable(error: Exception) -> Exception:
    """Return an error that reaches the driver: an error that cannot be unpickled there would be lost.

    Its traceback is sent along, and must not be as deep as that of an endless recursion.
    """
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    if sum(1 for _ in traceback.walk_tb(error.__traceback__)) > DEEPEST_TRACEBACK:
        return error.with_traceback(None)
    return error
