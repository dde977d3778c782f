"""The stop of a driver: the first signal lets tiles in flight finish, and a stop that overruns ends the process.

Python runs a signal's handler only between two of its own steps, so never while a library is stuck in a call.
Therefore a separate thread, which the operating system informs of each signal, enforces the time limit of a stop. A
process that it ends leaves the run directory as a kill does: finished tiles are kept, and the next driver finds the
lease free.
"""

import contextlib
import math
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any

from cntk_pipeline.cli.entry import STOPPED
from cntk_pipeline.clusters.base import DRAIN_SECONDS
from cntk_pipeline.errors import Interrupted

OVERRUN_SECONDS = DRAIN_SECONDS + 180.0
"""Time limit of a stop: tiles in flight are waited for, workers are given back, and a batch job arranges the next one,
which a busy SLURM may delay. It is longer where tiles are waited for longer."""

AGAIN_SECONDS = 20.0
"""Time limit after a second Ctrl-C; one more ends the process at once."""

POLL_SECONDS = 1.0


@contextlib.contextmanager
def stop_on_signals(say: Callable[[str], None], drain_seconds: float) -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C or SIGTERM sets; a second Ctrl-C raises `Interrupted`; an overrun ends all.

    Ctrl-C and hang-ups stay ignored where they are, as shells have it for background commands and ``nohup``.

    Parameters
    ----------
    say : callable
        Shows a line to people.
    drain_seconds : float
        How long the driver waits for tiles in flight.
    """
    overrun = OVERRUN_SECONDS + max(drain_seconds - DRAIN_SECONDS, 0.0)
    stop, told = threading.Event(), False

    def first(number: int, _frame: Any) -> None:
        nonlocal told
        if number == signal.SIGTERM and told:  # a batch script sends it again and again
            return
        told = True
        if signal.SIGINT in heard:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    ignored = {number for number in (signal.SIGINT, signal.SIGHUP) if signal.getsignal(number) == signal.SIG_IGN}
    heard = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP} - ignored
    before = {number: signal.signal(number, first) for number in heard}
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    told_before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(reader, heard, stop, say, overrun), name="signals", daemon=True)
    watcher.start()
    try:
        yield stop
    except KeyboardInterrupt:
        raise Interrupted("ended at once; every finished tile is kept") from None
    finally:
        signal.set_wakeup_fd(told_before)
        os.close(writer)  # this ends the thread
        watcher.join()
        os.close(reader)
        for number, handler in before.items():
            # A handler in C, None here, cannot be set again by Python.
            usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, usual if handler is None else handler)


def _watch(
    reader: int, heard: Collection[int], stop: threading.Event, say: Callable[[str], None], overrun: float
) -> None:
    """Read the numbers of signals until their pipe is closed; end the process if a stop overruns."""
    deadline, again = math.inf, 0
    while True:
        ready, _, _ = select.select([reader], [], [], min(POLL_SECONDS, max(deadline - time.monotonic(), 0.0)))
        numbers = os.read(reader, 64) if ready else None
        if numbers == b"":
            return
        for number in numbers or b"":
            if number not in heard:
                continue
            if not stop.is_set():
                stop.set()
                again_ends = "; press Ctrl-C again to end at once" if signal.SIGINT in heard else ""
                say(f"stopping: tiles in flight are finished first{again_ends}")
            elif number == signal.SIGINT:
                again += 1
                deadline = min(deadline, time.monotonic() + (AGAIN_SECONDS if again == 1 else 0.0))
        if stop.is_set():  # also by a request in the run directory
            deadline = min(deadline, time.monotonic() + overrun)
        if time.monotonic() >= deadline:
            say("ended: what was under way did not stop in time; every finished tile is kept, `cntk resume` goes on")
            os._exit(STOPPED)
