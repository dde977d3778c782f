"""Keeps Dask by a clock that never jumps, in the processes that it runs in.

Dask and tornado, which it stands on, measure time by the time of day. A connection that has just sent something sends
nothing more until 2 ms later: where the time of day is set back by an hour in between, until an hour later. What they
do every half second, signs of life among it, stops likewise. Tornado allows for another clock, and has no setting.
"""

import sys
import time

import distributed.metrics
from tornado.ioloop import IOLoop

_AHEAD_SECONDS = time.time() - time.monotonic()
"""What the time of day was ahead when this process began: what is measured before and after `keep_steady` agrees."""


def steady_time() -> float:
    """Return the time of day as it would be had nobody set it since this process began, in seconds since 1970."""
    return time.monotonic() + _AHEAD_SECONDS


def keep_steady() -> None:
    """Let all that Dask and tornado measure in this process be measured by `steady_time`; it may be called again."""
    IOLoop.time = lambda self: steady_time()  # type: ignore[method-assign]
    replaced = distributed.metrics.time
    for name, module in list(sys.modules.items()):
        # Each of Dask's modules has taken the function under its own name; those imported later take the new one.
        if name.partition(".")[0] == "distributed" and vars(module).get("time") is replaced:
            vars(module)["time"] = steady_time
