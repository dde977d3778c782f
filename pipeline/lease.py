"""One driver at a time on a run directory.

The holder raises a counter in ``lease.json``; another driver takes over only after it has seen the counter
stand still for `PATIENCE_SECONDS` of its own time, or knows the holder's process on this host to be dead. No
clocks are compared. The lease saves work; safety does not rest on it, since tiles are deterministic and
renamed into place whole.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import RunLocked

RENEW_SECONDS, PATIENCE_SECONDS = 1.0, 8.0


@contextlib.contextmanager
def hold(path: Path) -> Iterator[None]:
    """Hold the lease at ``path`` for the length of a ``with`` block.

    Raises
    ------
    RunLocked
        If another driver holds it and is alive.
    """
    identity = {"holder": uuid.uuid4().hex, "host": socket.gethostname(), "pid": os.getpid()}
    _acquire(path, identity)
    released = threading.Event()
    renewer = threading.Thread(target=_renew, args=(path, identity, released), daemon=True)
    renewer.start()
    try:
        yield
    finally:
        released.set()
        renewer.join()
        if _read(path).get("holder") == identity["holder"]:
            path.unlink(missing_ok=True)


def holder(path: Path) -> str | None:
    """Name the process that holds the lease, as "host:pid"; None where nobody does or its process is gone."""
    lease = _read(path)
    return None if not lease or _is_dead(lease) else f"{lease.get('host')}:{lease.get('pid')}"


def _acquire(path: Path, identity: dict[str, Any]) -> None:
    while True:
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            _evict(path)
            continue
        with os.fdopen(descriptor, "w") as file:
            json.dump(identity | {"counter": 0}, file)
        return


def _evict(path: Path) -> None:
    """Remove a lease whose holder is gone; raise `RunLocked` where it is not."""
    seen = _read(path)
    if not _is_dead(seen):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            time.sleep(RENEW_SECONDS / 2)
            if not path.exists():
                return
            now = _read(path)
            if now and seen and now != seen:
                raise RunLocked(
                    f"another driver works on {path.parent}: process {now.get('pid')} on {now.get('host')}. "
                    "Wait for it or stop it; nothing was changed"
                )
            seen = now
    # Renaming picks one winner among several that evict at once; a lease that is not the one seen goes back.
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, aside)
        if _read(aside).get("holder") != seen.get("holder"):
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)
        aside.unlink(missing_ok=True)


def _renew(path: Path, identity: dict[str, Any], released: threading.Event) -> None:
    counter = 0
    while not released.wait(RENEW_SECONDS):
        counter += 1
        aside = path.with_name(f"{path.name}.{identity['holder']}")
        # A full disk must not end a run that only holds a lease.
        with contextlib.suppress(OSError):
            aside.write_text(json.dumps(identity | {"counter": counter}))
            os.replace(aside, path)


def _read(path: Path) -> dict[str, Any]:
    try:
        lease = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return lease if isinstance(lease, dict) else {}


def _is_dead(lease: dict[str, Any]) -> bool:
    """Tell whether the holder ran on this host and its process is gone."""
    if lease.get("host") != socket.gethostname() or not isinstance(lease.get("pid"), int):
        return False
    try:
        os.kill(lease["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
