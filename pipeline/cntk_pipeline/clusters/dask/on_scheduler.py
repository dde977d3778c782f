"""Code in Dask's scheduler: it counts the workers, passes the progress on to its page, and forgets what has ended."""

from dataclasses import dataclass
from typing import Any

import dask.utils
import distributed

from cntk_pipeline.clusters.dask.progress_page import NAME
from cntk_pipeline.telemetry.progress import RunProgress


@dataclass(frozen=True)
class WorkerState:
    """The scheduler's record of a worker: its name, threads, memory limit in bytes (0 for none), calls.

    ``unheard`` holds the keys of its calls if it has given no sign of life for `UNHEARD_SECONDS`.
    """

    name: str
    threads: int
    memory_bytes: int
    calls: int
    unheard: tuple[tuple[Any, ...], ...]


def worker_states(
    unheard_seconds: float, shown: tuple[str, RunProgress] | None, dask_scheduler: Any
) -> list[tuple[str, int, int, int, tuple[Any, ...]]]:
    """List the fields of each worker's `WorkerState`; runs in the scheduler, and makes it forget ended calls.

    The progress that a client has ``shown`` goes to the page of progress.
    """
    _forget_ended(dask_scheduler)
    if shown is not None:
        dask_scheduler.plugins[NAME].show(*shown)
    latest = distributed.metrics.time() - unheard_seconds
    return [
        (
            str(w.name),
            int(w.nthreads),
            int(w.memory_limit or 0),
            len(w.processing),
            tuple(task.key for task in w.processing) if w.last_seen < latest else (),
        )
        for w in dask_scheduler.workers.values()
    ]


def _forget_ended(dask_scheduler: Any) -> None:
    """Keep the memory of Dask's scheduler from growing with each call.

    It keeps the split names of the last 100,000 tasks, half a kilobyte each, and a note of every call of
    `Client.submit`, a quarter of a kilobyte each.
    """
    dask.utils.key_split.cache_clear()
    spans = dask_scheduler.extensions.get("spans")  # a scheduler of somebody else may lack it
    for span in spans.spans.values() if spans else ():
        if span.metadata is not None:
            submitted = span.metadata["collections"]
            submitted[:] = [one for one in submitted if one != {"type": "Future"}]
