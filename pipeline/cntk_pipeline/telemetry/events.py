"""The events of a run: each is a JSON line in the run directory, and a plain line for people.

Events go through the standard library's logging, by the loggers ``cntk_pipeline.driver`` and
``cntk_pipeline.worker``. So Dask's own warnings land in the same files, and a user's logging configuration gets all.
"""

import contextlib
import json
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from cntk_pipeline.errors import PipelineError
from cntk_pipeline.resources import BatchJob
from cntk_pipeline.storage import Appender, StorePath
from cntk_pipeline.tasks import Receipt, Task
from cntk_pipeline.telemetry.redaction import redact

_DRIVER, _WORKER = "cntk_pipeline.driver", "cntk_pipeline.worker"

EVENTS: dict[str, tuple[str, int]] = {
    # Of a worker, about a tile.
    "began": (_WORKER, logging.INFO),
    "finished": (_WORKER, logging.INFO),
    "failed": (_WORKER, logging.WARNING),
    # Of the driver, about a tile.
    "retry": (_DRIVER, logging.WARNING),
    "backup": (_DRIVER, logging.WARNING),
    "gave_up": (_DRIVER, logging.ERROR),
    "quarantined": (_DRIVER, logging.ERROR),
    # Of the driver, about the run.
    "driver_started": (_DRIVER, logging.INFO),
    "stage_began": (_DRIVER, logging.INFO),
    "stage_ended": (_DRIVER, logging.INFO),
    "worker_joined": (_DRIVER, logging.INFO),
    "worker_lost": (_DRIVER, logging.WARNING),
    "workers_restarted": (_DRIVER, logging.WARNING),
    "workers_given_up": (_DRIVER, logging.ERROR),
    "stop_requested": (_DRIVER, logging.WARNING),
    "drained": (_DRIVER, logging.INFO),
    "driver_ended": (_DRIVER, logging.INFO),
}
"""All events, with their loggers and their levels."""

LIBRARY_LOGGER = "distributed"
"""The logger of Dask, whose warnings are kept beside the events."""


Details = Mapping[str, str | int | float]


@dataclass(frozen=True)
class Event:
    """An event of a run.

    Attributes
    ----------
    name : str
        One of `EVENTS`.
    task : Task, optional
        The tile of the event.
    error : str
        The class and the message of an error, without credentials.
    details : mapping of str to str, int or float
        Further values, by names with their units.
    run_path : str
        Of the event's run; "" where this process has only one.
    """

    name: str
    task: Task | None = None
    error: str = ""
    details: Details = field(default_factory=dict)
    run_path: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the event's own fields of its line in the log."""
        task = {} if self.task is None else {"stage": str(self.task.stage), "row": self.task.row, "col": self.task.col}
        error = {"error": self.error} if self.error else {}
        return {"event": self.name} | task | dict(self.details) | error

    def __str__(self) -> str:
        about = [] if self.task is None else [str(self.task)]
        for name, value in self.details.items():
            about.append(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}")
        text = self.name.replace("_", " ") + (f" {', '.join(about)}" if about else "")
        return f"{text}: {self.error}" if self.error else text


def emit(event: Event) -> None:
    """Emit an event to the logs of the run, and to all other handlers of logging."""
    logger, level = EVENTS[event.name]
    logging.getLogger(logger).log(level, "%s", event, extra={"cntk": event})


def describe_error(error: BaseException | None) -> str:
    """Return an error's class and message, without credentials."""
    return "" if error is None else redact(f"{type(error).__name__}: {error}")


def timing(receipt: Receipt) -> dict[str, float]:
    """Return the times and bytes of a receipt, as details of an event."""
    return {
        "seconds": round(receipt.seconds, 6),
        "read_seconds": round(receipt.read_seconds, 6),
        "compute_seconds": round(receipt.compute_seconds, 6),
        "write_seconds": round(receipt.write_seconds, 6),
        "bytes": receipt.written_bytes,
    }


def process_name() -> str:
    """Return a name of this process: its host and its id."""
    return f"{socket.gethostname()}-{os.getpid()}"


class RunLog(logging.Handler):
    """A handler that writes events, and the warnings of Dask, to this process's file in a run directory.

    Parameters
    ----------
    run_path : str
        Of its run; events of other runs are left out.
    folder : StorePath
        Of the file; made with the first line.
    fingerprint : str
        Of the run.
    job : BatchJob, optional
        The batch job that this process belongs to.
    """

    def __init__(self, run_path: str, folder: StorePath, fingerprint: str, job: BatchJob | None = None) -> None:
        super().__init__(logging.INFO)
        self.run_path, self._folder = run_path, folder
        of_job: Details = {} if job is None else job.details
        self._context: Details = {"run": fingerprint[:16], "worker": process_name(), **of_job}
        self._appender: Appender | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Append a line; a log must not end a run, so a line that cannot be written is left out."""
        event = getattr(record, "cntk", None)
        if event is None and record.levelno < logging.WARNING:
            return
        if event is not None and event.run_path not in ("", self.run_path):
            return
        said = {"event": "library", "logger": record.name} if event is None else event.to_json()
        if event is None:
            said["message"] = redact(record.getMessage())
            if record.exc_info and record.exc_info[1] is not None:
                said["error"] = describe_error(record.exc_info[1])
        line = {"time": round(record.created, 6), "level": record.levelname.lower()} | said | dict(self._context)
        with contextlib.suppress(OSError, PipelineError):
            if self._appender is None:
                self._appender = self._free_place().appender(durable=False)
            self._appender.append(json.dumps(line, default=str).encode() + b"\n")

    def _free_place(self) -> StorePath:
        """Return a free name for the file: this process, or an earlier one with its id, may have a file already."""
        place = self._folder / f"{process_name()}.jsonl"
        now = time.strftime("%Y%m%dT%H%M%S", time.gmtime())  # in the order of time, also when clocks are set back
        return place if not place.exists() else self._folder / f"{now}-{place.name}"

    def close(self) -> None:
        """Close the file."""
        if self._appender is not None:
            with contextlib.suppress(OSError, PipelineError):
                self._appender.close()
            self._appender = None
        super().close()


def listeners() -> list[logging.Handler]:
    """List the attached handlers, the oldest first."""
    return list(logging.getLogger("cntk_pipeline").handlers)


def attach(handler: logging.Handler) -> None:
    """Attach a handler to all events of this process, and to Dask's warnings."""
    package = logging.getLogger("cntk_pipeline")
    if package.level == logging.NOTSET:  # a level that the user chose stays
        package.setLevel(logging.INFO)
    for name in ("cntk_pipeline", LIBRARY_LOGGER):
        logging.getLogger(name).addHandler(handler)


def detach(handler: logging.Handler) -> None:
    """Detach a handler, and close it."""
    for name in ("cntk_pipeline", LIBRARY_LOGGER):
        logging.getLogger(name).removeHandler(handler)
    handler.close()


def close_logs() -> None:
    """Write and close the logs of this process; a process that goes on opens new ones."""
    for handler in listeners():
        if isinstance(handler, RunLog):
            detach(handler)


@contextlib.contextmanager
def attached(handler: logging.Handler) -> Iterator[None]:
    """Attach a handler to events for the length of a ``with`` block."""
    attach(handler)
    try:
        yield
    finally:
        detach(handler)
