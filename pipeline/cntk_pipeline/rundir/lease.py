"""One driver at a time on a run directory.

A lease is a file with a number, ``lease/000007.json``; its holder created it, and the highest number counts.
Its holder raises a counter in its own file. Another driver takes over, by creating the next number, only after it has
seen the counter stand still for `PATIENCE_SECONDS` of its own time, or knows the holder's process on this host to be
dead, or is the same batch job started again: the batch system has given its former self up, which may go on where its
node was only cut off. No clocks are compared. The store must only ensure that of several creators one wins.
The lease saves work; safety does not rest on it, since tiles are deterministic and appear whole.
"""

import contextlib
import errno
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import ConfigDict, Field, with_config

from cntk_pipeline.errors import PipelineError, RunLocked, SpecificationMismatch, StoreError
from cntk_pipeline.models import STRICT, Count
from cntk_pipeline.resources import BatchJob
from cntk_pipeline.storage import StorePath
from cntk_pipeline.storage.records import RECORD_BYTES, Record, numbers
from cntk_pipeline.units import seconds_text, shell_word

RENEW_SECONDS, PATIENCE_SECONDS = 1.0, 8.0

QUIET_SECONDS, LOST_SECONDS, WATCH_SECONDS = 60.0, 86_400.0, 3.0
"""Ages of a lease between which `look` watches its counter, and how long; clocks never differ by more than a day."""

RUN_RECORD = "run.json"
"""The file that lies beside the lease as long as the run exists."""

_SUFFIX = ".json"

_LAST = 10**15 - 1
"""The highest number that `numbers` accepts as the number of a lease."""


@with_config(STRICT | ConfigDict(extra="ignore"))  # a driver of a later version is alive all the same
@dataclass(frozen=True)
class Holder:
    """The holder of a lease, as its file names it.

    Attributes
    ----------
    holder : str
        A unique name.
    host, pid
        Its process.
    processes : str
        The namespace of its process number, and the start of its machine; two containers or machines with one host name
        have different ones.
    counter : int
        Raised as long as it is alive.
    released : bool
        Whether it was given back.
    job, restarts
        The batch job that it runs in, and how often the job was started again.
    """

    holder: str = ""
    host: str = ""
    processes: str = ""
    pid: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    counter: int = 0
    released: bool = False
    job: str | None = None
    restarts: Count = 0


_HOLDER: Record[Holder] = Record(Holder, "it counts for nothing once it stands still")


@dataclass(frozen=True)
class Sighting:
    """The holder of a lease as others see it.

    Attributes
    ----------
    name : str
        "host:pid".
    silent_seconds : float or None
        Since it was last heard of, by the clocks of the store and of this machine; None where it is alive.
    """

    name: str
    silent_seconds: float | None

    @property
    def is_silent(self) -> bool:
        """Whether it was not heard of for long."""
        return self.silent_seconds is not None

    @property
    def silence(self) -> str:
        """A sentence of a silent one, "NAME is silent ...", with when it was last heard of."""
        ago = seconds_text(self.silent_seconds or 0.0)
        return f"{self.name} is silent, last heard of {ago} ago by this machine's clock"


@dataclass
class Lease:
    """A lease that this process holds.

    Attributes
    ----------
    lost : threading.Event
        Set when another driver took this one for dead and has taken over, when another run lies there by now, or when
        the store has refused to renew the lease for `PATIENCE_SECONDS`; it would refuse tiles as well.
    reason : PipelineError, optional
        The cause of the loss.
    """

    lost: threading.Event
    reason: PipelineError | None = None

    def require(self) -> None:
        """Raise `RunLocked`, `SpecificationMismatch` or `StoreError` where the lease is lost."""
        if self.lost.is_set() and self.reason is not None:
            raise self.reason


@contextlib.contextmanager
def hold(folder: StorePath, job: BatchJob | None = None) -> Iterator[Lease]:
    """Hold the lease in ``folder`` for the length of a ``with`` block.

    Parameters
    ----------
    folder : StorePath
        Of the leases of a run.
    job : BatchJob, optional
        The batch job of this process. Where its restarts are counted, it takes over at once from its former self.

    Raises
    ------
    RunLocked
        If another driver holds it and is alive.
    """
    record = _RunRecord.of(folder.parent / RUN_RECORD)
    identity = {
        "holder": uuid.uuid4().hex,
        "host": socket.gethostname(),
        "processes": _process_namespace(),
        "pid": os.getpid(),
    } | _restarted(job)
    number = _acquire(folder, identity)
    lease, released = Lease(threading.Event()), threading.Event()
    renewer = threading.Thread(target=_renew, args=(folder, number, identity, record, lease, released), daemon=True)
    renewer.start()
    try:
        yield lease
    finally:
        released.set()
        renewer.join()
        # Not deleted: numbers must not begin again while a frozen driver may still write its own.
        if not lease.lost.is_set():
            with contextlib.suppress(OSError, SpecificationMismatch):
                # A run that was refused has taken its record back. The file itself: no deleted folder is made again.
                if record.is_there() or _file(folder, number).is_file():
                    _write(folder, number, identity | {"released": True})


def holder(folder: StorePath, *, watch: bool = True) -> str | None:
    """Name the process that holds the lease, as "host:pid"; None where there is none, or it is gone or silent.

    See `look` for ``watch``.
    """
    found = look(folder, watch=watch)
    return None if found is None or found.is_silent else found.name


def look(folder: StorePath, *, watch: bool = True) -> Sighting | None:
    """Look for the holder of a lease that was not given back; None where there is none, or its process is gone.

    A process elsewhere cannot be asked, and the number of one here may be another's by now. Where its file seems old,
    the counter in it is watched for `WATCH_SECONDS`. A look at many runs would take that long for each: without
    ``watch``, a holder elsewhere is then taken for silent, and one here for alive.
    """
    number = _highest(folder)
    seen = _read(folder, number) if number else None
    if seen is None or _is_free(seen):
        return None
    age = None if not watch and _is_here(seen) else _file(folder, number).age_seconds()
    # Two clocks that differ can only make this look superfluous, or call the dead alive for so long.
    if age is None or abs(age) < QUIET_SECONDS or (watch and age < LOST_SECONDS and _moves(folder, number, seen)):
        return Sighting(f"{seen.host}:{seen.pid}", None)
    return Sighting(f"{seen.host}:{seen.pid}", max(age, WATCH_SECONDS))


def _moves(folder: StorePath, number: int, seen: Holder) -> bool:
    """Tell whether the holder of a lease raises its counter."""
    deadline = time.monotonic() + WATCH_SECONDS
    while time.monotonic() < deadline:
        time.sleep(RENEW_SECONDS / 4)
        if _read(folder, number) != seen or _highest(folder) != number:
            return True
    return False


def _acquire(folder: StorePath, identity: dict[str, Any]) -> int:
    while True:
        highest = _highest(folder)
        if highest:
            _require_free(folder, highest, identity)
        number = highest + 1
        if number > _LAST:
            raise StoreError(f"{_file(folder, highest)} has a number that no lease comes to: delete that file")
        content = json.dumps(identity | {"counter": 0}).encode()
        if not _file(folder, number).create_whole(content):
            continue
        if _highest(folder) > number:  # the numbers seen were old: later ones were deleted meanwhile
            _file(folder, number).unlink(missing_ok=True)
            continue
        for older in numbers(folder, _SUFFIX):
            if older < number:
                with contextlib.suppress(StoreError):  # of a folder of that name; it counts no more
                    _file(folder, older).unlink(missing_ok=True)
        return number


def _require_free(folder: StorePath, number: int, identity: dict[str, Any]) -> None:
    """Return once a lease is given back or its holder is gone; raise `RunLocked` if neither happens."""
    seen = _read(folder, number)
    if _is_free(seen) or _is_former_self(seen, identity):
        return
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        time.sleep(RENEW_SECONDS / 2)
        now = _read(folder, number)
        if _is_free(now) or _highest(folder) != number:
            return
        if now is not None and seen is not None and now != seen:
            raise RunLocked(
                f"another driver works on {folder.parent}: process {now.pid} on {now.host}. "
                "Wait for it or stop it; nothing was changed"
            )
        seen = now


class _RunRecord:
    """The record of the run beside a lease, as a driver has found it: as long as it is there, so is the run."""

    def __init__(self, path: StorePath, version: tuple[Any, ...] | None, content: bytes) -> None:
        self._path, self._version, self._content = path, version, content

    @classmethod
    def of(cls, path: StorePath) -> "_RunRecord":
        """Look at the record of a run; what is no run has none, and none is asked for then."""
        return cls(path, path.version(), path.read_bytes(RECORD_BYTES)) if path.is_file() else cls(path, None, b"")

    def is_there(self) -> bool:
        """Tell whether the run is there.

        Raises
        ------
        SpecificationMismatch
            If another run lies in its place.
        """
        if self._version is None:
            return True
        found = self._path.version()
        if found is None:
            return False
        if found != self._version:  # it may have been brought back from a copy
            if self._path.read_bytes(RECORD_BYTES) != self._content:
                raise replaced(self._path.parent)
            self._version = found
        return True


def replaced(root: StorePath) -> SpecificationMismatch:
    """Make the error for a run directory that a process does not find any more where it was."""
    return SpecificationMismatch(
        f"{root} holds another run by now, or none: what was computed for the one before is not written"
    )


def _renew(
    folder: StorePath,
    number: int,
    identity: dict[str, Any],
    record: _RunRecord,
    lease: Lease,
    released: threading.Event,
) -> None:
    """Raise the counter until the lease is given back or lost; nothing is written where the run is gone."""
    counter, failing_since = 0, None
    while not released.wait(RENEW_SECONDS):
        counter += 1
        try:
            highest = _highest(folder)  # of another run, if that lies there by now
            is_there = record.is_there()
            if highest > number:
                lease.reason = RunLocked(
                    f"another driver has taken over {folder.parent}: this one was taken for dead, and stops; "
                    "every finished tile is kept"
                )
            elif not is_there:
                # Before it is written to: that would make its folder anew.
                raise FileNotFoundError(errno.ENOENT, "it is gone", str(folder.parent))
            else:
                _write(folder, number, identity | {"counter": counter})
            failing_since = None
        except SpecificationMismatch as error:
            lease.reason = error
        except OSError as error:
            # Neither a full disk nor a file server that is away for a while may end a run that only holds a lease.
            if _is_refusal(error):
                failing_since = failing_since or time.monotonic()
                if time.monotonic() - failing_since >= PATIENCE_SECONDS:
                    why = os.strerror(error.errno or errno.ENOENT)
                    lease.reason = StoreError(
                        error.errno,
                        f"the run directory {folder.parent} cannot be written any more: {why}. Every finished tile is "
                        f"kept: bring it back, then `cntk resume {shell_word(folder.parent)}`",
                    )
        if lease.reason is not None:
            lease.lost.set()
            return


def _is_refusal(error: OSError) -> bool:
    """Tell whether the store refuses to be written, or is gone: waiting will not help by itself."""
    gone = isinstance(error, FileNotFoundError)
    return gone or error.errno in (errno.ENOENT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR)


def _file(folder: StorePath, number: int) -> StorePath:
    return folder / f"{number:06d}{_SUFFIX}"


def _highest(folder: StorePath) -> int:
    return max(numbers(folder, _SUFFIX), default=0)


def _write(folder: StorePath, number: int, lease: dict[str, Any]) -> None:
    _file(folder, number).write_whole(json.dumps(lease).encode())


def _read(folder: StorePath, number: int) -> Holder | None:
    """Read a lease; None where it is gone or damaged, and counts for nothing."""
    try:
        return _HOLDER.find(_file(folder, number))
    except OSError:
        return None


def _is_free(lease: Holder | None) -> bool:
    """Tell whether a lease was given back, or its holder ran on this host and its process is gone."""
    if lease is None:
        return False
    if lease.released:
        return True
    if not _is_here(lease) or lease.pid is None:
        return False
    try:
        os.kill(lease.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _is_here(lease: Holder) -> bool:
    """Tell whether the process of a lease is of this machine, so that the machine knows whether it is gone."""
    return (lease.host, lease.processes) == (socket.gethostname(), _process_namespace())


def _restarted(job: BatchJob | None) -> dict[str, Any]:
    """Name a batch job and count its restarts; nothing where restarts are not counted."""
    return {} if job is None or job.restarts is None else {"job": job.name, "restarts": job.restarts}


def _is_former_self(lease: Holder | None, identity: dict[str, Any]) -> bool:
    """Tell whether the holder is the same batch job before it was started again."""
    same = lease is not None and lease.job is not None and lease.job == identity.get("job")
    return same and lease is not None and lease.restarts < identity["restarts"]


def _process_namespace() -> str:
    """Name the namespace of process numbers: containers may share a host's name, but not its processes.

    The first namespace has the same name on every machine, and machines may share a name too. So the number that Linux
    draws at each start of a machine follows where it can be read; a lease of an earlier version has none, and is of
    another machine.
    """
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return f"{namespace} {file.read().strip()}"
    except OSError:
        return namespace
