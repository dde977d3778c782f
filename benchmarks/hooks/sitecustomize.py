"""Logs the time a process spends in numba: Python imports this by itself where its folder is on ``PYTHONPATH``.

Every outermost compilation and every outermost load from numba's cache becomes a line of JSON in the folder that
``NUMBA_LOG`` names, in a file of the process: ``kind``, ``seconds``, and the ``function``. Lines are written at once,
since worker processes may be ended from outside. Used by `startup.py`; no part of the package.
"""

import json
import os
import threading
import time
from pathlib import Path

START = time.perf_counter()
from numba.core import caching, event  # noqa: E402  its import is measured too

IMPORT_SECONDS = time.perf_counter() - START
LOG = Path(os.environ["NUMBA_LOG"]) / f"{os.getpid()}.jsonl"
NESTING = threading.local()  # loads happen inside compilations, and compilations inside each other


def enter() -> None:
    """Begin a compilation or a load in this thread."""
    if not getattr(NESTING, "depth", 0):
        NESTING.depth, NESTING.start = 0, time.perf_counter()
    NESTING.depth += 1


def leave(kind: str, function: str) -> None:
    """End it; log it where it is the outermost."""
    NESTING.depth -= 1
    if not NESTING.depth:
        write(kind, time.perf_counter() - NESTING.start, function)


def write(kind: str, seconds: float, function: str) -> None:
    """Append a line."""
    with LOG.open("a") as file:
        file.write(json.dumps({"kind": kind, "seconds": seconds, "function": function}) + "\n")


class Compilations(event.Listener):
    """Hears of compilations."""

    def on_start(self, event: event.Event) -> None:
        enter()

    def on_end(self, event: event.Event) -> None:
        leave("compile", event.data["dispatcher"].py_func.__qualname__)


def timed_load(cache: caching.Cache, *arguments: object) -> object:
    """Load from the cache, timed; a miss costs a look into the index."""
    enter()
    try:
        return load(cache, *arguments)
    finally:
        leave("load", cache._py_func.__qualname__)


load = caching.Cache.load_overload
caching.Cache.load_overload = timed_load
event.register("numba:compile", Compilations())
write("import", IMPORT_SECONDS, "numba")
