"""A clock without jumps for Dask, in all processes that it runs in.

Dask and its base, tornado, measure time by the time of day. A connection that has just sent something sends nothing
more until 2 ms later; if the time of day is set back by an hour in between, until an hour later. Actions that they
repeat every half second, among them signs of life, stop likewise. Tornado allows for another clock, but has no setting.
"""

import sys
import time

import distributed.metrics
from tornado.ioloop import IOLoop

_AHEAD_SECONDS = time.time() - time.monotonic()
"""Time of day minus steady clock at the start of this process, so that times before and after `keep_steady` agree."""


def steady_time() -> float:
    """Return the time of day without changes of the clock since this process began, in seconds since 1970."""
    return time.monotonic() + _AHEAD_SECONDS


def keep_steady() -> None:
    """Make Dask and tornado measure all times of this process by `steady_time`; it may be called again."""
    IOLoop.time = lambda self: steady_time()  # type: ignore[method-assign]
    replaced = distributed.metrics.time
    for name, module in list(sys.modules.items()):
        # Each of Dask's modules has imported the function under its own name; modules imported later get the new one.
        if name.partition(".")[0] == "distributed" and vars(module).get("time") is replaced:
            vars(module)["time"] = steady_time
