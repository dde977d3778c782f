"""The record of submissions in a run directory: all submissions, the end of the last one, and a request to stop."""

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import with_config

from cntk_pipeline.errors import SpecificationMismatch, StoreError, SubmissionFailed
from cntk_pipeline.models import STRICT, WORD, Word
from cntk_pipeline.rundir.directory import SIGNATURE, RunDirectory
from cntk_pipeline.rundir.signature import is_signed, sign
from cntk_pipeline.storage import LocalPath
from cntk_pipeline.storage.records import Record

STOP_REQUEST = "stop-requested"
"""A file of this name in a run directory asks its driver, wherever that runs, to drain."""

POLL_SECONDS = 1.0

Version: TypeAlias = tuple[Any, ...] | None
"""The version of a file, as `StorePath.version` returns it."""

_PURPOSE = "submission"
"""The purpose in signatures of submissions."""


@dataclass(frozen=True)
class Submission:
    """A driver that was handed to a cluster.

    Attributes
    ----------
    kind : str
        Of the cluster.
    job : str
        Its name in the cluster.
    host : str
        The host that submitted it.
    submitted : str
        Time of submission, as ISO 8601 with its time zone.
    place : str
        The run directory, as given to the driver.
    is_mine : bool
        Whether this user has submitted it, for this run directory; others are not asked about or ended.
    """

    kind: str
    job: str
    host: str
    submitted: str
    place: str = ""
    is_mine: bool = False

    def __str__(self) -> str:
        return f"{self.kind} {self.job}"


@with_config(STRICT)
@dataclass(frozen=True)
class Ending:
    """How the last submitted driver ended.

    Attributes
    ----------
    message : str
        Its error; empty where the run is complete.
    job : str or None
        The batch job it ran in, or None.
    ended : str
        Time of its end, as ISO 8601 with its time zone.
    """

    message: str
    job: str | None
    ended: str


@with_config(STRICT)
@dataclass(frozen=True)
class _Written:
    """A `Submission` as recorded, with the signature of its writer."""

    kind: Word
    job: Word
    host: str
    submitted: str
    place: str = ""
    signature: str = ""


_SUBMISSION: Record[_Written] = Record(_Written, "delete it, and later ones: only where drivers went is lost")
_ENDING: Record[Ending] = Record(Ending, "delete it: only how the last driver ended is forgotten")


def add_submission(run: RunDirectory, kind: str, job: str) -> Submission:
    """Record a submission.

    Raises
    ------
    SubmissionFailed
        If the name of the job could not be read back.
    """
    if not re.fullmatch(WORD, job):
        raise SubmissionFailed(
            f"the cluster {kind!r} named its job {job[:200]!r}, where a plain text of at most 200 characters was "
            "expected, so the run could not be told of it: end the job in the cluster itself"
        )
    record = {
        "kind": kind,
        "job": job,
        "host": socket.gethostname(),
        "submitted": now(),
        "place": str(run.path.absolute()),
    }
    signature = sign(_PURPOSE, *record.values())
    number = len(submissions(run)) + 1
    while not run.create_record(f"submissions/{number:06d}.json", record | {SIGNATURE: signature}):
        number += 1  # another command was first: its driver is not to be forgotten
    return Submission(**record, is_mine=bool(signature))


def submissions(run: RunDirectory) -> list[Submission]:
    """Read the submissions, oldest first, up to a name that a command has claimed and not written yet."""
    found: list[Submission] = []
    while (run.path / (name := f"submissions/{len(found) + 1:06d}.json")).size():
        written = run.read_record(name, _SUBMISSION)
        if written is None:  # deleted meanwhile
            break
        words = (written.kind, written.job, written.host, written.submitted, written.place)
        # A record that was copied with its run directory belongs to the driver of another one.
        is_mine = is_signed(written.signature, _PURPOSE, *words) and _is_here(run, written.place)
        found.append(Submission(*words, is_mine=is_mine))
    return found


def _is_here(run: RunDirectory, place: str) -> bool:
    """Tell whether a place is this run directory; the directory may have been renamed, or have another name here."""
    if place == str(run.path.absolute()):
        return True
    try:
        return isinstance(run.path, LocalPath) and Path(place).samefile(run.path)
    except (OSError, ValueError):
        return False


def write_ending(run: RunDirectory, message: str, job: str | None) -> None:
    """Record how a submitted driver ended, if the store can be written: a fault of the store may have ended it.

    Nothing is written where another run lies by now.
    """
    with contextlib.suppress(StoreError, SpecificationMismatch):
        run.write_record("ending.json", asdict(Ending(message, job, now())))


def clear_ending(run: RunDirectory) -> None:
    """Forget how an earlier driver ended: another one is on its way."""
    (run.path / "ending.json").unlink(missing_ok=True)


def read_ending(run: RunDirectory) -> Ending | None:
    """Read how the last submitted driver ended; None where none did."""
    return run.read_record("ending.json", _ENDING)


def request_stop(run: RunDirectory) -> None:
    """Ask the driver of a run to drain."""
    run.write_record(STOP_REQUEST, {"host": socket.gethostname(), "requested": now()})


def stop_requested(run: RunDirectory) -> bool:
    """Tell whether the driver was asked to drain."""
    return (run.path / STOP_REQUEST).is_file()


def find_request(run: RunDirectory) -> Version:
    """Return what tells a request to drain from all others; None where there is none."""
    request = run.path / STOP_REQUEST
    return request.version() if request.is_file() else None


def clear_earlier(run: RunDirectory) -> None:
    """Delete requests to earlier drivers, and the record of the last end: a user wants another driver."""
    (run.path / STOP_REQUEST).unlink(missing_ok=True)
    clear_ending(run)


@contextlib.contextmanager
def obeying_requests(
    run: RunDirectory, stop: threading.Event, say: Callable[[str], None], earlier: Version = None
) -> Iterator[None]:
    """Set ``stop`` within seconds of a request, and ``say`` so, for the length of a ``with`` block.

    Parameters
    ----------
    run : RunDirectory
        The run directory.
    stop : threading.Event
        The event.
    say : callable
        Gets a line.
    earlier : tuple, optional
        The request that is passed over, as `find_request` has found it; None for none.
    """
    ended = threading.Event()

    def poll() -> None:
        while not ended.wait(POLL_SECONDS):
            # A store that does not answer right now must not end the run.
            with contextlib.suppress(OSError):
                if find_request(run) not in (None, earlier):
                    stop.set()
                    say("asked to stop: tiles in flight are finished first")
                    return

    poller = threading.Thread(target=poll, name="stop-requests", daemon=True)
    poller.start()
    try:
        yield
    finally:
        ended.set()
        poller.join()


def now() -> str:
    """Return the time, for people: no decision rests on it."""
    return datetime.fromtimestamp(time.time()).astimezone().isoformat(timespec="seconds")
